//! Nodes, location masters, times.

use crate::wire::{Reader, SockAddr, WireError, Writer};
use std::net::IpAddr;

/// One node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    pub pnn: u32,
    /// [`crate::node::flags`].
    pub flags: u32,
    /// Its private address; 0.0.0.0 for a deleted one.
    pub address: IpAddr,
    /// Port of the nodes among themselves.
    pub port: u16,
}

/// All nodes (`GET_NODEMAP`, `GET_NODES_FILE`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeMap(pub Vec<NodeEntry>);

const NODE_LEN: usize = 36;

impl NodeMap {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        for node in &self.0 {
            out.u32(node.pnn).u32(node.flags);
            SockAddr((node.address, node.port).into()).put(out);
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer nodes than announced, or an address of another family.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let count = counted(&mut r, NODE_LEN, "nodes")?;
        let node = |_| {
            let (pnn, flags) = (r.u32("node number")?, r.u32("node flags")?);
            let SockAddr(address) = SockAddr::get(&mut r)?;
            Ok(NodeEntry { pnn, flags, address: address.ip(), port: address.port() })
        };
        (0..count).map(node).collect::<Result<_, _>>().map(Self)
    }
}

/// A count of elements of `len` bytes that are all there.
pub(super) fn counted(r: &mut Reader<'_>, len: usize, what: &'static str) -> Result<usize, WireError> {
    let count = r.len(what)?;
    if count > r.left() / len {
        return Err(WireError::Short { what, offset: 4, needs: count.saturating_mul(len), left: r.left() });
    }
    Ok(count)
}

/// Which node is the location master of a key (`GETVNNMAP`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VnnMap {
    /// Grows, or rather changes, with each recovery.
    pub generation: u32,
    /// Node numbers; a key's hash picks one.
    pub map: Vec<u32>,
}

impl VnnMap {
    /// The location master of a key; none of an empty map.
    #[must_use]
    pub fn lmaster(&self, key: &[u8]) -> Option<u32> {
        let size = u32::try_from(self.map.len()).ok().filter(|n| *n > 0)?;
        self.map.get((crate::lookup3(key) % size) as usize).copied()
    }

    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(self.generation).u32(u32::try_from(self.map.len()).unwrap_or(u32::MAX));
        self.map.iter().for_each(|pnn| {
            out.u32(*pnn);
        });
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer numbers than announced.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let generation = r.u32("generation")?;
        let count = counted(&mut r, 4, "size of the map")?;
        let map = (0..count).map(|_| r.u32("location master")).collect::<Result<_, _>>()?;
        Ok(Self { generation, map })
    }
}

/// Four times of day (`UPTIME`): seconds and microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Uptime {
    pub now: (i64, i64),
    pub started: (i64, i64),
    pub recovery_began: (i64, i64),
    pub recovery_ended: (i64, i64),
}

impl Uptime {
    /// Writes its 64 bytes; newer Samba insists on exactly as many.
    pub fn put(&self, out: &mut Writer) {
        for (seconds, micros) in [self.now, self.started, self.recovery_began, self.recovery_ended] {
            out.raw(&seconds.to_ne_bytes()).raw(&micros.to_ne_bytes());
        }
    }

    /// Reads its 64 bytes.
    ///
    /// # Errors
    /// Fewer are there.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let mut time = || -> Result<(i64, i64), WireError> {
            Ok((r.u64("seconds")?.cast_signed(), r.u64("microseconds")?.cast_signed()))
        };
        Ok(Self { now: time()?, started: time()?, recovery_began: time()?, recovery_ended: time()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_survive_and_counts_that_lie_are_refused() {
        let nodes = NodeMap(vec![
            NodeEntry { pnn: 0, flags: 0, address: "10.0.0.1".parse().unwrap(), port: 4379 },
            NodeEntry { pnn: 1, flags: 0x10, address: "0.0.0.0".parse().unwrap(), port: 4379 },
        ]);
        let mut out = Writer::default();
        nodes.put(&mut out);
        let bytes = out.finish();
        assert_eq!(bytes.len(), 76, "as the original's answer for two nodes");
        assert_eq!(NodeMap::get(&bytes).unwrap(), nodes);
        assert!(NodeMap::get(&bytes[..75]).is_err());
        let mut lying = bytes;
        lying[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(NodeMap::get(&lying).is_err());
    }

    #[test]
    fn a_keys_location_master_follows_from_its_hash() {
        let map = VnnMap { generation: 7, map: vec![0, 2, 5] };
        assert_eq!(map.lmaster(b"key1"), Some([0, 2, 5][(0x1de0_df49_u32 % 3) as usize]));
        assert_eq!(VnnMap::default().lmaster(b"key1"), None);
        let mut out = Writer::default();
        map.put(&mut out);
        assert_eq!(VnnMap::get(&out.finish()).unwrap(), map);
    }
}
