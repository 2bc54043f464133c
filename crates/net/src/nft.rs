//! nf_tables messages: a typed builder for the few objects that gate, hold and fence need (linux/netfilter/nf_tables.h).
//!
//! A [`Batch`] is one transaction: the kernel applies all of it or nothing, and packets see the state before or after.

use std::net::IpAddr;
use std::time::Duration;

use crate::address;
use crate::error::Result;
use crate::socket::{NETLINK_NETFILTER, Socket};
use crate::wire::{self, Builder};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const SUBSYS: u16 = 10;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;

/// Before connection tracking and everything that a site configures.
const PRIORITY_RAW: i32 = -300;

/// A table: its family and name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6.
    Inet,
    Arp,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Arp => 3,
        }
    }
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Input,
    Output,
}

/// What a set's elements are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    V4,
    V6,
    /// A protocol after IP.
    Protocol,
    /// A TCP port, in network order.
    Port,
}

impl Key {
    fn len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// nft's number of the type, so that its listings can be read.
    fn nft_type(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    pub(crate) fn fits(self, addr: &IpAddr) -> bool {
        match self {
            Self::V4 => addr.is_ipv4(),
            Self::V6 => addr.is_ipv6(),
            Self::Protocol | Self::Port => false,
        }
    }
}

/// Which header an offset counts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Eq = 0,
    LessOrEqual = 3,
    GreaterOrEqual = 5,
}

/// One step of a rule; a rule ends at the first that does not hold.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    /// The packet is IPv4 (2) or IPv6 (10).
    NfProto(u8),
    /// The protocol after IP.
    L4Proto(u8),
    /// The packet's socket belongs to a process of this group; never true for a packet without one.
    Group(u32),
    /// Loads bytes of the packet.
    Load {
        base: Base,
        offset: u32,
        len: u32,
    },
    /// Compares what was loaded.
    Cmp(Op, Vec<u8>),
    /// What was loaded is in the set.
    In(&'static str),
    /// What was loaded is not in the set.
    NotIn(&'static str),
    Drop,
    Return,
    Jump(&'static str),
}

/// One transaction.
#[derive(Debug)]
pub(crate) struct Batch {
    b: Builder,
    first: u32,
    seq: u32,
}

impl Batch {
    /// Starts a transaction; `socket` will carry it.
    pub(crate) fn new(socket: &mut Socket) -> Self {
        let first = socket.next_seq();
        let mut b = Builder::default();
        frame(&mut b, NFNL_MSG_BATCH_BEGIN, first);
        Self { b, first, seq: first }
    }

    fn message(&mut self, table: Table, kind: u16, flags: u16, content: impl FnOnce(&mut Builder)) {
        self.seq = self.seq.wrapping_add(1);
        // Each asks for its acknowledgement: the last one's ends the exchange, refusals come before.
        self.b.begin(SUBSYS << 8 | kind, flags | wire::NLM_F_REQUEST | wire::NLM_F_ACK, self.seq);
        self.b.raw(&[table.family.number(), 0, 0, 0]);
        content(&mut self.b);
        self.b.end();
    }

    /// Makes the table anew: whatever it held is gone at the end of the transaction.
    pub(crate) fn fresh_table(&mut self, table: Table) {
        self.table(table);
        self.drop_table(table);
        self.table(table);
    }

    fn table(&mut self, table: Table) {
        self.message(table, NEWTABLE, wire::NLM_F_CREATE, |b| {
            b.attr_str(1, table.name);
        });
    }

    /// Removes a table that exists.
    fn drop_table(&mut self, table: Table) {
        self.message(table, DELTABLE, 0, |b| {
            b.attr_str(1, table.name);
        });
    }

    /// Removes the table whether it exists or not.
    pub(crate) fn no_table(&mut self, table: Table) {
        self.table(table);
        self.drop_table(table);
    }

    /// Adds a set; with `timeouts`, elements may carry a time limit.
    pub(crate) fn set(&mut self, table: Table, name: &str, key: Key, timeouts: bool) {
        let id = self.seq;
        self.message(table, NEWSET, wire::NLM_F_CREATE, |b| {
            b.attr_str(1, table.name)
                .attr_str(2, name)
                .attr_be32(3, if timeouts { 0x10 } else { 0 })
                .attr_be32(4, key.nft_type())
                .attr_be32(5, key.len())
                .attr_be32(10, id);
        });
    }

    /// Adds a chain at a hook that lets pass what no rule drops.
    pub(crate) fn base_chain(&mut self, table: Table, name: &str, hook: Hook) {
        let number = match (table.family, hook) {
            (Family::Inet, Hook::Input) => 1,
            (Family::Inet, Hook::Output) => 3,
            (Family::Arp, Hook::Input) => 0,
            (Family::Arp, Hook::Output) => 1,
        };
        self.message(table, NEWCHAIN, wire::NLM_F_CREATE, |b| {
            b.attr_str(1, table.name).attr_str(3, name).nest(4, |b| {
                b.attr_be32(1, number).attr(2, &PRIORITY_RAW.to_be_bytes());
            });
            // NF_ACCEPT
            b.attr_be32(5, 1).attr_str(7, "filter");
        });
    }

    /// Adds a chain that rules jump to.
    pub(crate) fn chain(&mut self, table: Table, name: &str) {
        self.message(table, NEWCHAIN, wire::NLM_F_CREATE, |b| {
            b.attr_str(1, table.name).attr_str(3, name);
        });
    }

    /// Appends a rule.
    pub(crate) fn rule(&mut self, table: Table, chain: &str, exprs: &[Expr]) {
        self.message(table, NEWRULE, wire::NLM_F_CREATE | wire::NLM_F_APPEND, |b| {
            b.attr_str(1, table.name).attr_str(2, chain).nest(4, |b| {
                for e in exprs {
                    expression(b, e);
                }
            });
        });
    }

    /// Empties a set.
    pub(crate) fn flush(&mut self, table: Table, set: &str) {
        self.message(table, DELSETELEM, 0, |b| {
            b.attr_str(1, table.name).attr_str(2, set);
        });
    }

    /// Adds elements, each for `timeout` (rounded down to milliseconds) where one is given.
    pub(crate) fn elements(&mut self, table: Table, set: &str, addrs: &[IpAddr], timeout: Option<Duration>) {
        let mut octets = Vec::with_capacity(addrs.len());
        for addr in addrs {
            address::bytes(*addr, |o| octets.push(o.to_vec()));
        }
        let values: Vec<&[u8]> = octets.iter().map(Vec::as_slice).collect();
        self.values(table, set, &values, timeout);
    }

    /// The same for elements of any kind, as the set's key has them.
    pub(crate) fn values(&mut self, table: Table, set: &str, values: &[&[u8]], timeout: Option<Duration>) {
        // One message's list must stay below 64 KiB.
        for chunk in values.chunks(1000) {
            self.message(table, NEWSETELEM, wire::NLM_F_CREATE, |b| {
                b.attr_str(1, table.name).attr_str(2, set).nest(3, |b| {
                    for value in chunk {
                        b.nest(LIST_ELEM, |b| {
                            b.nest(1, |b| {
                                b.attr(DATA_VALUE, value);
                            });
                            if let Some(timeout) = timeout {
                                let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
                                b.attr(4, &ms.to_be_bytes());
                            }
                        });
                    }
                });
            });
        }
    }

    /// Sends the transaction; Ok means that it is in force.
    pub(crate) fn commit(mut self, socket: &mut Socket, what: &str) -> Result<()> {
        let last = self.seq;
        if last == self.first {
            return Ok(());
        }
        frame(&mut self.b, NFNL_MSG_BATCH_END, last.wrapping_add(1));
        let outcome = socket.batch(what, self.b.bytes(), self.first, last);
        socket.skip_to(last.wrapping_add(1));
        outcome
    }
}

/// Opens a socket to nf_tables.
pub(crate) fn open() -> Result<Socket> {
    Socket::open(NETLINK_NETFILTER)
}

fn frame(b: &mut Builder, kind: u16, seq: u32) {
    // struct nfgenmsg: family, version, subsystem in network order.
    b.begin(kind, wire::NLM_F_REQUEST, seq).raw(&[0, 0, 0, 10]).end();
}

fn expression(b: &mut Builder, e: &Expr) {
    let mut named = |name: &str, data: &dyn Fn(&mut Builder)| {
        b.nest(LIST_ELEM, |b| {
            b.attr_str(1, name).nest(2, |b| data(b));
        });
    };
    let value = |b: &mut Builder, kind: u16, bytes: &[u8]| {
        b.nest(kind, |b| {
            b.attr(DATA_VALUE, bytes);
        });
    };
    let compare = |b: &mut Builder, op: Op, bytes: &[u8]| {
        b.attr_be32(1, REG_1).attr_be32(2, op as u32);
        value(b, 3, bytes);
    };
    let verdict = |b: &mut Builder, code: i32, chain: Option<&str>| {
        b.attr_be32(1, REG_VERDICT).nest(2, |b| {
            b.nest(DATA_VERDICT, |b| {
                b.attr(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    b.attr_str(2, chain);
                }
            });
        });
    };
    match e {
        Expr::NfProto(n) => {
            named("meta", &|b| {
                b.attr_be32(1, REG_1).attr_be32(2, 15);
            });
            named("cmp", &|b| compare(b, Op::Eq, &[*n]));
        }
        Expr::L4Proto(n) => {
            named("meta", &|b| {
                b.attr_be32(1, REG_1).attr_be32(2, 16);
            });
            named("cmp", &|b| compare(b, Op::Eq, &[*n]));
        }
        Expr::Group(gid) => {
            named("meta", &|b| {
                b.attr_be32(1, REG_1).attr_be32(2, 11);
            });
            named("cmp", &|b| compare(b, Op::Eq, &gid.to_ne_bytes()));
        }
        Expr::Load { base, offset, len } => named("payload", &|b| {
            b.attr_be32(1, REG_1).attr_be32(2, *base as u32).attr_be32(3, *offset).attr_be32(4, *len);
        }),
        Expr::Cmp(op, bytes) => named("cmp", &|b| compare(b, *op, bytes)),
        Expr::In(set) => named("lookup", &|b| {
            b.attr_str(1, set).attr_be32(2, REG_1);
        }),
        Expr::NotIn(set) => named("lookup", &|b| {
            b.attr_str(1, set).attr_be32(2, REG_1).attr_be32(5, 1);
        }),
        Expr::Drop => named("immediate", &|b| verdict(b, 0, None)),
        Expr::Return => named("immediate", &|b| verdict(b, -5, None)),
        Expr::Jump(chain) => named("immediate", &|b| verdict(b, -3, Some(chain))),
    }
}
