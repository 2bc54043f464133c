//! Bob Jenkins' lookup3 (`hashlittle`, initial value 0): names databases and finds a key's location master.

/// Hash of `bytes`.
#[must_use]
pub fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let (mut a, mut b, mut c) = (start, start, start);
    // The last block, also when it is a whole one, goes through the final mixing instead.
    let mut rest = bytes;
    while rest.len() > 12 {
        let (block, more) = rest.split_at(12);
        rest = more;
        a = a.wrapping_add(word(&block[..4]));
        b = b.wrapping_add(word(&block[4..8]));
        c = c.wrapping_add(word(&block[8..]));
        mix(&mut a, &mut b, &mut c);
    }
    if rest.is_empty() {
        return c;
    }
    a = a.wrapping_add(word(&rest[..rest.len().min(4)]));
    b = b.wrapping_add(word(rest.get(4..rest.len().min(8)).unwrap_or_default()));
    c = c.wrapping_add(word(rest.get(8..).unwrap_or_default()));
    finish(&mut a, &mut b, &mut c);
    c
}

/// The number that a database of this name goes by everywhere.
#[must_use]
pub fn database_id(name: &str) -> u32 {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    lookup3(&bytes)
}

/// Up to four bytes, the first the lowest.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    for bits in [(4, 6, 8), (16, 19, 4)] {
        *a = a.wrapping_sub(*c) ^ c.rotate_left(bits.0);
        *c = c.wrapping_add(*b);
        *b = b.wrapping_sub(*a) ^ a.rotate_left(bits.1);
        *a = a.wrapping_add(*c);
        *c = c.wrapping_sub(*b) ^ b.rotate_left(bits.2);
        *b = b.wrapping_add(*a);
    }
}

fn finish(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: u32, bits: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_hash_as_in_the_original() {
        assert_eq!(lookup3(b"key1"), 0x1de0_df49);
        assert_eq!(lookup3(b"key2"), 0x70b6_c153);
        assert_eq!(lookup3(b"keyabc\0"), 0xb535_48d0);
        assert_eq!(lookup3(b""), 0xdead_beef);
        // The author's own vector for a text of more than two blocks.
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn sambas_databases_have_the_numbers_that_samba_expects() {
        for (name, id) in [
            ("secrets.tdb", 0x7132_c184),
            ("registry.tdb", 0x6cf2_837d),
            ("passdb.tdb", 0x3ef1_9640),
            ("account_policy.tdb", 0x2ca2_51cf),
            ("group_mapping.tdb", 0xa141_3774),
            ("share_info.tdb", 0xc307_8fba),
            ("g_lock.tdb", 0x4d2a_432b),
            ("smbXsrv_version_global.tdb", 0x521b_7544),
            ("smbXsrv_client_global.tdb", 0x477d_2e20),
            ("smbXsrv_session_global.tdb", 0x6b06_a26d),
            ("smbXsrv_tcon_global.tdb", 0x68c1_2c2c),
            ("smbXsrv_open_global.tdb", 0x66f7_1b8c),
            ("brlock.tdb", 0x4e66_c2b2),
            ("locking.tdb", 0x7a19_d84d),
            ("leases.tdb", 0x0691_6e77),
        ] {
            assert_eq!(database_id(name), id, "{name}");
        }
    }
}
