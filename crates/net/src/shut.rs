//! Ports of a service that are shut on public addresses for a while: the NFS server's, until it is in its grace period.
//!
//! Table `inet steadfast_shut` drops what comes to these addresses and ports; a client waits and sends again. The elements
//! end by themselves, should the daemon never say so. Addresses that this node serves already are not among them.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::Result;
use crate::nft::{self, Base, Batch, Expr, Family, Hook, Key, Op, Table};
use crate::socket::Socket;

const TABLE: Table = Table { family: Family::Inet, name: "steadfast_shut" };
const PROTOCOLS: [u8; 2] = [6, 17];

/// The table in this network namespace.
#[derive(Debug)]
pub struct Shut {
    socket: Socket,
}

impl Shut {
    /// Opens the way to the kernel; changes nothing yet.
    ///
    /// # Errors
    /// nf_tables cannot be reached.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: nft::open()? })
    }

    /// From now on, and `longest` at most, these TCP and UDP ports of these addresses are shut, and no others. One
    /// transaction, safe to repeat.
    ///
    /// # Errors
    /// The kernel refuses: nothing is changed.
    pub fn shut(&mut self, addresses: &[IpAddr], ports: &[u16], longest: Duration) -> Result<()> {
        let mut batch = Batch::new(&mut self.socket);
        batch.fresh_table(TABLE);
        batch.base_chain(TABLE, "input", Hook::Input);
        for (proto, set, key, offset, len) in [(2, "shut4", Key::V4, 16, 4), (10, "shut6", Key::V6, 24, 16)] {
            let fitting: Vec<IpAddr> = addresses.iter().filter(|a| key.fits(a)).copied().collect();
            batch.set(TABLE, set, key, true);
            batch.elements(TABLE, set, &fitting, Some(longest));
            for port in ports {
                for protocol in PROTOCOLS {
                    let rule = [
                        Expr::NfProto(proto),
                        Expr::Load { base: Base::Network, offset, len },
                        Expr::In(set),
                        Expr::L4Proto(protocol),
                        // Of both the destination's.
                        Expr::Load { base: Base::Transport, offset: 2, len: 2 },
                        Expr::Cmp(Op::Eq, port.to_be_bytes().to_vec()),
                        Expr::Drop,
                    ];
                    batch.rule(TABLE, "input", &rule);
                }
            }
        }
        batch.commit(&mut self.socket, "shut a service's ports")
    }

    /// Nothing is shut any more, whether it was or not.
    ///
    /// # Errors
    /// The kernel refuses: what is shut opens by itself.
    pub fn reopen(&mut self) -> Result<()> {
        let mut batch = Batch::new(&mut self.socket);
        batch.no_table(TABLE);
        batch.commit(&mut self.socket, "open a service's ports")
    }
}
