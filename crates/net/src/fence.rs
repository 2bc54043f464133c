//! The fence: no storage traffic between this node and nodes that a view has dropped.
//!
//! Table `inet steadfast_fence` drops TCP to and from the evicted nodes' addresses when either end's port is a storage
//! port. It outlives the daemon on purpose; only [`Fence::set_evicted`] and [`Fence::remove`] change it. Packets of
//! ports that are spared pass: GlusterFS bricks listen from 49152 on, where other programs' client ports are as well,
//! and an evicted node must still reach the control link to be readmitted.
//!
//! A fence stops packets, not sockets: established connections hang until they are destroyed, see
//! [`crate::connections::kick`].

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::error::Result;
use crate::nft::{self, Base, Batch, Expr, Family, Hook, Key, Op, Table};
use crate::socket::Socket;

const TABLE: Table = Table { family: Family::Inet, name: "steadfast_fence" };
const TCP: u8 = 6;

/// glusterd, its RDMA twin's port, and the bricks.
pub const GLUSTERFS_PORTS: [RangeInclusive<u16>; 3] = [24007..=24007, 24008..=24008, 49152..=60999];

/// Which TCP connections are the storage's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoragePorts {
    /// Ports of the storage servers.
    pub storage: Vec<RangeInclusive<u16>>,
    /// A connection with one of these at either end is never the storage's.
    pub spared: Vec<u16>,
}

impl StoragePorts {
    /// A connection with these two ports is the storage's.
    pub fn covers(&self, local: u16, remote: u16) -> bool {
        let spared = |p| self.spared.contains(&p);
        (self.is_storage(local) || self.is_storage(remote)) && !spared(local) && !spared(remote)
    }

    /// A storage server may listen on this port.
    pub(crate) fn is_storage(&self, port: u16) -> bool {
        self.storage.iter().any(|r| r.contains(&port))
    }
}

/// The fence's table in this network namespace.
#[derive(Debug)]
pub struct Fence {
    socket: Socket,
    /// What the table was built for, since this was opened.
    built: Option<StoragePorts>,
}

impl Fence {
    /// Opens the way to the kernel; a fence that exists stays as it is.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: nft::open()?, built: None })
    }

    /// From now on exactly these addresses are shut out. One transaction, safe to repeat; works when the table was
    /// removed or is another version's.
    pub fn set_evicted(&mut self, addresses: &[IpAddr], ports: &StoragePorts) -> Result<()> {
        if self.built.as_ref() == Some(ports) {
            let mut batch = Batch::new(&mut self.socket);
            for (set, key) in SETS {
                batch.flush(TABLE, set);
                batch.elements(TABLE, set, &fitting(addresses, key), None);
            }
            // Refused when somebody removed the table meanwhile: then it is made anew.
            if batch.commit(&mut self.socket, "update the fence").is_ok() {
                return Ok(());
            }
        }
        self.built = None;
        let mut batch = Batch::new(&mut self.socket);
        batch.fresh_table(TABLE);
        for (set, key) in SETS {
            batch.set(TABLE, set, key, false);
            batch.elements(TABLE, set, &fitting(addresses, key), None);
        }
        batch.chain(TABLE, "storage");
        storage_rules(&mut batch, ports);
        for (chain, hook, v4, v6) in [("input", Hook::Input, 12, 8), ("output", Hook::Output, 16, 24)] {
            batch.base_chain(TABLE, chain, hook);
            for (proto, set, offset, len) in [(2, "evicted4", v4, 4), (10, "evicted6", v6, 16)] {
                let load = Expr::Load { base: Base::Network, offset, len };
                let rule = [Expr::NfProto(proto), load, Expr::In(set), Expr::L4Proto(TCP), Expr::Jump("storage")];
                batch.rule(TABLE, chain, &rule);
            }
        }
        batch.commit(&mut self.socket, "build the fence")?;
        self.built = Some(ports.clone());
        Ok(())
    }

    /// Takes the fence away, whether it is there or not.
    pub fn remove(&mut self) -> Result<()> {
        self.built = None;
        let mut batch = Batch::new(&mut self.socket);
        batch.no_table(TABLE);
        batch.commit(&mut self.socket, "remove the fence")
    }
}

const SETS: [(&str, Key); 2] = [("evicted4", Key::V4), ("evicted6", Key::V6)];

fn fitting(addresses: &[IpAddr], key: Key) -> Vec<IpAddr> {
    addresses.iter().filter(|a| key.fits(a)).copied().collect()
}

/// Spared ports return, storage ports drop; source and destination alike.
fn storage_rules(batch: &mut Batch, ports: &StoragePorts) {
    // TCP's source port is at 0, its destination port at 2.
    let load = |offset| Expr::Load { base: Base::Transport, offset, len: 2 };
    for port in &ports.spared {
        for offset in [0, 2] {
            let is = Expr::Cmp(Op::Eq, port.to_be_bytes().to_vec());
            batch.rule(TABLE, "storage", &[load(offset), is, Expr::Return]);
        }
    }
    for range in &ports.storage {
        for offset in [0, 2] {
            let from = Expr::Cmp(Op::GreaterOrEqual, range.start().to_be_bytes().to_vec());
            let to = Expr::Cmp(Op::LessOrEqual, range.end().to_be_bytes().to_vec());
            batch.rule(TABLE, "storage", &[load(offset), from, to, Expr::Drop]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spared_ports_win() {
        let ports = StoragePorts { storage: GLUSTERFS_PORTS.to_vec(), spared: vec![22, 4380] };
        assert!(ports.covers(1021, 49152));
        assert!(ports.covers(49153, 1021));
        assert!(ports.covers(24007, 1000));
        assert!(!ports.covers(50_000, 4380));
        assert!(!ports.covers(22, 50_000));
        assert!(!ports.covers(2049, 900));
    }
}
