//! The hold: this node's own storage clients send nothing while the node has no lease.
//!
//! Table `inet steadfast_hold` drops TCP to the data ports of the storage's servers, this node's own among them (over
//! `lo` too), unless the set `open` has its one element, whose time limit is the rest of the node lease. So it closes
//! by itself when the daemon is killed, stopped or starved. What a client wrote meanwhile waits in TCP and goes on when
//! the set is open again.
//!
//! These pass always:
//! - what this node's servers answer: packets from a port on which something here listens (read from the kernel,
//!   because a client of a brick may have any port), and all but data ports, such as glusterd's: it carries neither
//!   files nor locks;
//! - sockets of a process with the group [`PASSES`]: the client of the cluster lock's own mount;
//! - the spared ports.
//!
//! It outlives the daemon. [`remove`] takes it away when nothing of this node uses the storage any more.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::Result;
use crate::nft::{self, Base, Batch, Expr, Family, Hook, Key, Op, Table};
use crate::socket::Socket;

const TABLE: Table = Table { family: Family::Inet, name: "steadfast_hold" };
const TCP: u8 = 6;
const SETS: [(&str, Key, u8, u32, u32); 2] = [("servers4", Key::V4, 2, 16, 4), ("servers6", Key::V6, 10, 24, 16)];

/// The group whose sockets the hold lets pass. Beyond what people, idmap ranges and containers use; below 2^31, since
/// glusterfs hands its group to the kernel as a signed number, and then mounts nothing and says that all is well.
pub const PASSES: u32 = 2_100_024_007;
const _: () = assert!(PASSES <= i32::MAX as u32);

/// Where GlusterFS's bricks listen: the ports that carry files and locks.
pub const GLUSTERFS_DATA: RangeInclusive<u16> = 49152..=60999;

/// What is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldSpec {
    /// Addresses of the storage's servers.
    pub servers: Vec<IpAddr>,
    /// Their ports that carry files and locks; none: nothing is held.
    pub ports: Vec<RangeInclusive<u16>>,
    /// A connection with one of these at either end is never the storage's.
    pub spared: Vec<u16>,
}

/// The hold's part of the gate's transactions.
#[derive(Debug)]
pub(crate) struct Hold {
    spec: HoldSpec,
    /// Ports on which something listens here.
    serving: Vec<u16>,
}

impl Hold {
    /// None when there is nothing to be held.
    pub(crate) fn new(spec: HoldSpec) -> Option<Self> {
        (!spec.ports.is_empty()).then(|| Self { spec, serving: Vec::new() })
    }

    /// Takes the data ports on which something listens here out of all such ports; true when that is news.
    pub(crate) fn set_serving(&mut self, mut ports: Vec<u16>) -> bool {
        ports.retain(|p| self.spec.ports.iter().any(|r| r.contains(p)));
        ports.sort_unstable();
        ports.dedup();
        let changed = ports != self.serving;
        self.serving = ports;
        changed
    }

    /// Writes the set of ports on which something listens here.
    pub(crate) fn serve(&self, batch: &mut Batch) {
        batch.flush(TABLE, "serving");
        let ports: Vec<[u8; 2]> = self.serving.iter().map(|p| p.to_be_bytes()).collect();
        let ports: Vec<&[u8]> = ports.iter().map(<[u8; 2]>::as_slice).collect();
        batch.values(TABLE, "serving", &ports, None);
    }

    /// The table anew, open for `rest`.
    pub(crate) fn install(&self, batch: &mut Batch, rest: Duration) {
        batch.fresh_table(TABLE);
        batch.set(TABLE, "open", Key::Protocol, true);
        batch.set(TABLE, "serving", Key::Port, false);
        let loopback = ["127.0.0.1", "127.0.1.1", "::1"].into_iter().filter_map(|a| a.parse().ok());
        let mut servers: Vec<IpAddr> = self.spec.servers.iter().copied().chain(loopback).collect();
        servers.sort_unstable();
        servers.dedup();
        for (set, key, ..) in SETS {
            let fitting: Vec<IpAddr> = servers.iter().filter(|a| key.fits(a)).copied().collect();
            batch.set(TABLE, set, key, false);
            batch.elements(TABLE, set, &fitting, None);
        }
        batch.chain(TABLE, "client");
        self.client_rules(batch);
        batch.base_chain(TABLE, "output", Hook::Output);
        batch.rule(TABLE, "output", &[Expr::L4Proto(TCP), Expr::In("open"), Expr::Return]);
        for (set, _, proto, offset, len) in SETS {
            let load = Expr::Load { base: Base::Network, offset, len };
            let rule = [Expr::NfProto(proto), load, Expr::In(set), Expr::L4Proto(TCP), Expr::Jump("client")];
            batch.rule(TABLE, "output", &rule);
        }
        self.renew(batch, rest);
        self.serve(batch);
    }

    /// Spared ports, listeners and who passes return; what else goes to a data port drops.
    fn client_rules(&self, batch: &mut Batch) {
        // TCP's source port is at 0, its destination port at 2.
        let load = |offset| Expr::Load { base: Base::Transport, offset, len: 2 };
        for port in &self.spec.spared {
            for offset in [0, 2] {
                let is = Expr::Cmp(Op::Eq, port.to_be_bytes().to_vec());
                batch.rule(TABLE, "client", &[load(offset), is, Expr::Return]);
            }
        }
        batch.rule(TABLE, "client", &[load(0), Expr::In("serving"), Expr::Return]);
        batch.rule(TABLE, "client", &[Expr::Group(PASSES), Expr::Return]);
        for range in &self.spec.ports {
            let from = Expr::Cmp(Op::GreaterOrEqual, range.start().to_be_bytes().to_vec());
            let to = Expr::Cmp(Op::LessOrEqual, range.end().to_be_bytes().to_vec());
            batch.rule(TABLE, "client", &[load(2), from, to, Expr::Drop]);
        }
    }

    /// Open for `rest` from now; closed when that is nothing.
    pub(crate) fn renew(&self, batch: &mut Batch, rest: Duration) {
        batch.flush(TABLE, "open");
        if !rest.is_zero() {
            batch.values(TABLE, "open", &[&[TCP]], Some(rest));
        }
    }
}

/// Takes the hold away, whether it is there or not: only when nothing on this node uses the storage for the cluster.
///
/// # Errors
/// The kernel refuses; without nf_tables there is no hold and this is an error all the same.
pub fn remove() -> Result<()> {
    let mut socket: Socket = nft::open()?;
    let mut batch = Batch::new(&mut socket);
    batch.no_table(TABLE);
    batch.commit(&mut socket, "remove the hold")
}
