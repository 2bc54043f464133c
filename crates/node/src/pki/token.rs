//! The text that lets one node join: where, what to check, and a secret.

use super::{PkiError, text};
use ring::digest::{SHA256, digest};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

const PREFIX: &str = "sf1_";
const ID: usize = 8;
const SECRET: usize = 16;
const FINGERPRINT: usize = 32;
const CHECK: usize = 4;

/// A one-time token. Its text is a secret until it is used or has expired.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which token of the member that made it.
    pub id: [u8; ID],
    /// What proves that one has it.
    pub secret: [u8; SECRET],
    /// SHA-256 of the CA's certificate (DER): by this the joining node knows the cluster before it sends anything.
    pub fingerprint: [u8; FINGERPRINT],
    /// Seconds since 1970, by the clock of the member that made it, which alone decides.
    pub expires: u64,
    /// Where the member that made it answers; at least one.
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        for address in self.addresses.iter().take(255) {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        let check = digest(&SHA256, &bytes);
        bytes.extend_from_slice(&check.as_ref()[..CHECK]);
        write!(f, "{PREFIX}{}", text::encode(&bytes))
    }
}

impl std::str::FromStr for Token {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(PkiError::NoToken("it does not begin with sf1_"))?;
        let bytes = text::decode(body).ok_or(PkiError::NoToken("it holds characters that no token has"))?;
        let (bytes, check) = bytes.split_last_chunk::<CHECK>().ok_or(PkiError::NoToken("it is too short"))?;
        if digest(&SHA256, bytes).as_ref()[..CHECK] != *check {
            return Err(PkiError::NoToken("it is not complete, or was changed"));
        }
        let mut rest = bytes;
        let id = take(&mut rest)?;
        let secret = take(&mut rest)?;
        let fingerprint = take(&mut rest)?;
        let expires = u64::from_be_bytes(take(&mut rest)?);
        let mut addresses = Vec::new();
        while let Some((family, after)) = rest.split_first() {
            rest = after;
            let ip = match family {
                4 => IpAddr::from(take::<4>(&mut rest)?),
                6 => IpAddr::from(take::<16>(&mut rest)?),
                _ => return Err(PkiError::NoToken("it was made by another version")),
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(take(&mut rest)?)));
        }
        if addresses.is_empty() {
            return Err(PkiError::NoToken("it names no address"));
        }
        Ok(Self { id, secret, fingerprint, expires, addresses })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PkiError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(PkiError::NoToken("it is too short"))?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            id: [1; 8],
            secret: [2; 16],
            fingerprint: [3; 32],
            expires: 4,
            addresses: vec!["192.0.2.1:4390".parse().unwrap(), "[2001:db8::1]:4390".parse().unwrap()],
        }
    }

    #[test]
    fn the_text_is_read_back() {
        let text = token().to_string();
        assert_eq!(text.parse::<Token>().unwrap(), token());
        assert_eq!(format!("  {text}\n").parse::<Token>().unwrap(), token());
    }

    #[test]
    fn a_cut_or_changed_text_is_told_from_a_token() {
        let text = token().to_string();
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<Token>().is_err(), "cut at {cut}");
            let mut changed = text.clone().into_bytes();
            changed[cut] = if changed[cut] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(changed).unwrap().parse::<Token>().is_err(), "changed at {cut}");
        }
        let error = "hello".parse::<Token>().unwrap_err().to_string();
        assert!(error.contains("whole line"), "{error}");
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        assert!(!format!("{:?}", token()).contains("[2, 2"));
    }
}
