//! The gate: a public address speaks on this node only while it is in the leased set, and elements of that set end by
//! themselves when the node lease does.
//!
//! Table `inet steadfast` drops packets to (input) and from (output) a managed address that is not leased, and
//! neighbour discovery for it; table `arp steadfast` drops ARP that is sent in its name. Incoming ARP is not filtered:
//! announcements of another holder must update this node's own neighbour table, and an answer is stopped on its way
//! out. Packet sockets pass by the gate; who announces through them looks at the lease itself. Traffic *to* an address
//! hosted elsewhere passes.
//!
//! On the services' ports a managed address never says "connection refused": while a server is being started again, or
//! its address moves away, its clients go on asking instead of giving up for seconds.
//!
//! A renewal is one transaction: empty the leased sets, add what is held with the rest of the lease as time limit,
//! whether the old elements have expired meanwhile or not. The kernel counts the limit in its ticks (4 ms at 250 Hz).

use std::net::IpAddr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::hold::{Hold, HoldSpec};
use crate::nft::{self, Base, Batch, Expr, Family, Hook, Key, Table};
use crate::socket::Socket;

const INET: Table = Table { family: Family::Inet, name: "steadfast" };
const ARP: Table = Table { family: Family::Arp, name: "steadfast" };

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const TCP: u8 = 6;
const RST_ACK: u8 = 0x14;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// The gate's tables in this network namespace.
#[derive(Debug)]
pub struct Gate {
    socket: Socket,
    /// What the same transactions hold and let go of.
    hold: Option<Hold>,
}

/// Tells whether this kernel has what the gate needs, by making and removing a probe of it.
///
/// # Errors
/// What is missing and how to get it.
pub fn available() -> Result<()> {
    let probe = |family| {
        let table = Table { family, name: "steadfast_probe" };
        let mut socket = nft::open()?;
        let mut batch = Batch::new(&mut socket);
        batch.fresh_table(table);
        batch.set(table, "probe", Key::V4, true);
        batch.base_chain(table, "output", Hook::Output);
        batch.rule(table, "output", &[load_network(12, 4), Expr::In("probe"), Expr::Drop]);
        batch.no_table(table);
        batch.commit(&mut socket, "try nf_tables")
    };
    for (family, name) in [(Family::Inet, "inet"), (Family::Arp, "arp")] {
        probe(family).map_err(|e| Error::Unsupported {
            what: format!("end a public address with its lease to the millisecond (nf_tables, family {name})"),
            hint: format!("{e}; load or build nf_tables with inet and arp tables, or live with whole seconds"),
        })?;
    }
    Ok(())
}

impl Gate {
    /// Opens the way to the kernel; changes nothing yet.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: nft::open()?, hold: None })
    }

    /// What [`Self::install`] and the renewals hold besides, and on which ports something listens here.
    pub(crate) fn set_hold(&mut self, spec: HoldSpec, serving: Vec<u16>) {
        self.hold = Hold::new(spec);
        if let Some(hold) = &mut self.hold {
            hold.set_serving(serving);
        }
    }

    /// There is something that renewals hold or let go of, even without any address.
    pub(crate) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// Tells the hold on which ports something listens here: their answers pass.
    pub(crate) fn set_serving(&mut self, ports: Vec<u16>) -> Result<()> {
        let Some(hold) = &mut self.hold else { return Ok(()) };
        if !hold.set_serving(ports) {
            return Ok(());
        }
        let mut batch = Batch::new(&mut self.socket);
        hold.serve(&mut batch);
        batch.commit(&mut self.socket, "tell the hold which ports serve")
    }

    /// Builds the tables anew for these managed addresses, with these of them leased for `rest`; none refuses a
    /// connection to one of the service ports. One transaction:
    /// a leased address notices nothing.
    pub fn install(
        &mut self,
        managed: &[IpAddr],
        service_ports: &[u16],
        leased: &[IpAddr],
        rest: Duration,
    ) -> Result<()> {
        let mut batch = Batch::new(&mut self.socket);
        batch.fresh_table(INET);
        batch.fresh_table(ARP);
        for (table, managed_set, leased_set, key) in sets() {
            batch.set(table, managed_set, key, false);
            batch.set(table, leased_set, key, true);
            batch.elements(table, managed_set, &fitting(managed, key), None);
            batch.elements(table, leased_set, &fitting(leased, key), Some(rest));
        }
        inet_rules(&mut batch);
        no_refusals(&mut batch, service_ports);
        arp_rules(&mut batch);
        if let Some(hold) = &self.hold {
            hold.install(&mut batch, rest);
        }
        batch.commit(&mut self.socket, "install the gate")
    }

    /// Makes exactly these addresses speak, and lets go of the storage's clients, for `rest` from now; all others are silent when this returns.
    pub fn renew(&mut self, leased: &[IpAddr], rest: Duration) -> Result<()> {
        let mut batch = Batch::new(&mut self.socket);
        for (table, _, leased_set, key) in sets() {
            batch.flush(table, leased_set);
            batch.elements(table, leased_set, &fitting(leased, key), Some(rest));
        }
        if let Some(hold) = &self.hold {
            hold.renew(&mut batch, rest);
        }
        batch.commit(&mut self.socket, "renew the address leases")
    }

    /// Silences every public address, and the node's storage clients, at once.
    pub fn drop_now(&mut self) -> Result<()> {
        self.renew(&[], Duration::ZERO)
    }

    /// Removes the tables, whether they are there or not, but not the hold. Nothing is gated afterwards: only for addresses that are
    /// off the interfaces.
    pub fn remove(&mut self) -> Result<()> {
        let mut batch = Batch::new(&mut self.socket);
        batch.no_table(INET);
        batch.no_table(ARP);
        batch.commit(&mut self.socket, "remove the gate")
    }
}

/// Table, managed set, leased set, what they hold.
fn sets() -> [(Table, &'static str, &'static str, Key); 3] {
    [
        (INET, "managed4", "leased4", Key::V4),
        (INET, "managed6", "leased6", Key::V6),
        (ARP, "managed4", "leased4", Key::V4),
    ]
}

fn fitting(addrs: &[IpAddr], key: Key) -> Vec<IpAddr> {
    addrs.iter().filter(|a| key.fits(a)).copied().collect()
}

fn load_network(offset: u32, len: u32) -> Expr {
    Expr::Load { base: Base::Network, offset, len }
}

fn inet_rules(batch: &mut Batch) {
    // (chain, hook, offset in the IPv4 header, offset in the IPv6 header, ICMPv6 type that names a target)
    for (chain, hook, v4, v6, icmp) in [
        ("input", Hook::Input, 16, 24, NEIGHBOUR_SOLICITATION),
        ("output", Hook::Output, 12, 8, NEIGHBOUR_ADVERTISEMENT),
    ] {
        batch.base_chain(INET, chain, hook);
        batch.rule(
            INET,
            chain,
            &[
                Expr::NfProto(NFPROTO_IPV4),
                load_network(v4, 4),
                Expr::In("managed4"),
                Expr::NotIn("leased4"),
                Expr::Drop,
            ],
        );
        batch.rule(
            INET,
            chain,
            &[
                Expr::NfProto(NFPROTO_IPV6),
                load_network(v6, 16),
                Expr::In("managed6"),
                Expr::NotIn("leased6"),
                Expr::Drop,
            ],
        );
        batch.rule(
            INET,
            chain,
            &[
                Expr::NfProto(NFPROTO_IPV6),
                Expr::L4Proto(ICMPV6),
                Expr::Load { base: Base::Transport, offset: 0, len: 1 },
                Expr::Cmp(nft::Op::Eq, vec![icmp]),
                Expr::Load { base: Base::Transport, offset: 8, len: 16 },
                Expr::In("managed6"),
                Expr::NotIn("leased6"),
                Expr::Drop,
            ],
        );
    }
}

/// No managed address answers a SYN to these ports with "connection refused". What other addresses send, such as what this
/// node's daemon says to the others, passes by all of these rules in one look.
fn no_refusals(batch: &mut Batch, service_ports: &[u16]) {
    let transport = |offset, len| Expr::Load { base: Base::Transport, offset, len };
    batch.chain(INET, "refusals");
    for port in service_ports {
        batch.rule(
            INET,
            "refusals",
            &[
                transport(0, 2),
                Expr::Cmp(nft::Op::Eq, port.to_be_bytes().to_vec()),
                // A refusal has RST and ACK, and 0 as its sequence number (RFC 9293, 3.10.7.1). The reset of a
                // connection, which a tickled client waits for, has the client's number instead.
                transport(13, 1),
                Expr::Cmp(nft::Op::Eq, vec![RST_ACK]),
                transport(4, 4),
                Expr::Cmp(nft::Op::Eq, vec![0; 4]),
                Expr::Drop,
            ],
        );
    }
    for (family, offset, len, managed) in [(NFPROTO_IPV4, 12, 4, "managed4"), (NFPROTO_IPV6, 8, 16, "managed6")] {
        let ours = [Expr::NfProto(family), load_network(offset, len), Expr::In(managed)];
        let refuses = [Expr::L4Proto(TCP), Expr::Jump("refusals")];
        batch.rule(INET, "output", &[&ours[..], &refuses].concat());
    }
}

fn arp_rules(batch: &mut Batch) {
    batch.base_chain(ARP, "output", Hook::Output);
    // The sender's protocol address of ARP for IPv4 over Ethernet (RFC 826).
    batch.rule(ARP, "output", &[load_network(14, 4), Expr::In("managed4"), Expr::NotIn("leased4"), Expr::Drop]);
}
