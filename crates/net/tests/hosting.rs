//! Addresses under leases on a real kernel.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{LONG, ip, pair, vip, wait_for};
use net::address::Addresses;
use net::announce::SCHEDULE_MS;
use net::gate::Gate;
use net::{BootTime, Command, Event, LeaseKind, Parts, VipSpec, Worker, link, probe};

const V4: &str = "10.77.0.200";
const V6: &str = "fd77::200";

/// Echoes datagrams on an address for as long as the namespace lives.
fn echo(host: &common::Host, addr: &str) {
    let bind = (ip(addr), 7);
    host.run(move || {
        let socket = UdpSocket::bind(bind).unwrap();
        std::thread::spawn(move || {
            let mut buf = [0u8; 64];
            while let Ok((n, from)) = socket.recv_from(&mut buf) {
                socket.send_to(&buf[..n], from).ok();
            }
        });
    });
}

/// Asks an address all the time until it has been silent for `quiet`; when the last answered question was sent.
fn last_answered(addr: &str, quiet: Duration) -> BootTime {
    let bind = if addr.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(bind).unwrap();
    socket.connect((ip(addr), 7)).unwrap();
    // The kernel counts read time-outs in ticks of up to 10 ms: far too coarse here.
    socket.set_nonblocking(true).unwrap();
    let (mut last, mut asked) = (BootTime::default(), BootTime::default());
    let start = Instant::now();
    let mut buf = [0u8; 8];
    loop {
        let now = BootTime::now();
        if now.since(asked) > Duration::from_micros(500) {
            asked = now;
            socket.send(&now.0.to_ne_bytes()).ok();
        }
        while let Ok(8) = socket.recv(&mut buf) {
            last = BootTime(u64::from_ne_bytes(buf)).max(last);
        }
        if now.since(last) > quiet && start.elapsed() > quiet {
            return last;
        }
        std::thread::yield_now();
    }
}

/// Asks by ARP until `end`; when the last answered question was sent.
fn last_arp(addr: &'static str, end: BootTime) -> BootTime {
    let eth0 = link::find("eth0").unwrap();
    // Opening and closing a packet socket takes the kernel some 10 ms: several at once ask more often.
    let askers: Vec<_> = (0..6)
        .map(|_| {
            let eth0 = eth0.clone();
            std::thread::spawn(move || {
                let mut last = BootTime::default();
                while BootTime::now() < end {
                    let sent = BootTime::now();
                    if probe::duplicate(&eth0, ip(addr), Duration::from_millis(3)).unwrap().is_some() {
                        last = sent;
                    }
                }
                last
            })
        })
        .collect();
    askers.into_iter().map(|a| a.join().unwrap()).max().unwrap()
}

fn millis(later: BootTime, earlier: BootTime) -> f64 {
    (later.0 as f64 - earlier.0 as f64) / 1000.0
}

#[test]
fn a_lease_that_is_not_renewed_silences_ip_and_arp_on_time() {
    let Some((a, b)) = pair() else { return };
    // A daemon that hangs after this: nobody is there to renew or remove anything.
    let until = a.run(|| {
        let mut gate = Gate::open().unwrap();
        let mut addresses = Addresses::open().unwrap();
        gate.install(&[ip(V4), ip(V6)], &[], &[], Duration::ZERO).unwrap();
        let eth0 = addresses.link("eth0").unwrap();
        let until = BootTime::now() + Duration::from_millis(1500);
        for v in [V4, V6] {
            addresses.set(&eth0, &vip(v), until.since(BootTime::now())).unwrap();
        }
        until
    });
    for v in [V4, V6] {
        echo(&a, v);
    }
    assert!(!b.try_sh(&format!("ping -c1 -W1 {V4}")).0, "managed and not leased, it answers");
    let until = until.max(a.run(|| {
        let mut gate = Gate::open().unwrap();
        let until = BootTime::now() + Duration::from_millis(1300);
        // The addresses' lifetime must outlast this lease for the gate alone to be seen.
        let mut addresses = Addresses::open().unwrap();
        let eth0 = addresses.link("eth0").unwrap();
        for v in [V4, V6] {
            addresses.set(&eth0, &vip(v), Duration::from_secs(5)).unwrap();
        }
        gate.renew(&[ip(V4), ip(V6)], until.since(BootTime::now())).unwrap();
        until
    }));
    b.sh(&format!("ping -c1 -W1 {V4} && ping -c1 -W1 {V6}"));
    let arp = b.run(move || last_arp(V4, until + Duration::from_millis(100)));
    println!("ARP: last answered question {:+.1} ms from the end of the lease", millis(arp, until));
    assert!(millis(arp, until) < 10.0, "ARP answered after the lease");
    assert!(millis(arp, until) > -250.0, "ARP silent long before the end of the lease");

    for v in [V4, V6] {
        let until = a.run(|| {
            let mut gate = Gate::open().unwrap();
            let until = BootTime::now() + Duration::from_millis(600);
            gate.renew(&[ip(V4), ip(V6)], until.since(BootTime::now())).unwrap();
            until
        });
        let last = b.run(move || last_answered(v, Duration::from_millis(300)));
        println!("{v}: last answered question {:+.1} ms from the end of the lease", millis(last, until));
        assert!(millis(last, until) < 10.0, "{v} answered after the lease");
        assert!(millis(last, until) > -250.0, "{v} silent long before the end of the lease");
    }
}

#[test]
fn a_lifetime_alone_ends_an_address_soon_after_the_lease() {
    let Some((a, _b)) = pair() else { return };
    for v in [V4, V6] {
        let (over, left) = a.run(move || {
            let mut addresses = Addresses::open().unwrap();
            let eth0 = addresses.link("eth0").unwrap();
            let until = BootTime::now() + Duration::from_millis(600);
            addresses.set(&eth0, &vip(v), until.since(BootTime::now())).unwrap();
            let there = |a: &mut Addresses| a.list().unwrap().into_iter().find(|x| x.addr == ip(v));
            let first = there(&mut addresses).expect("it was added");
            assert!(first.ours && first.valid == Some(1), "{first:?}");
            wait_for("the kernel to end it", || there(&mut addresses).is_none());
            (millis(BootTime::now(), until), addresses.list().unwrap().len())
        });
        println!("{v}: off the interface {over:+.0} ms from the end of a lease of 600 ms");
        assert!((0.0..1100.0).contains(&over), "{over}");
        assert!(left >= 4, "the node's own addresses are still there");
    }
}

#[test]
fn take_serve_release() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    site.renew(Duration::from_secs(60));
    for v in [V4, V6] {
        site.take(v);
        echo(&a, v);
        b.sh(&format!("ping -c1 -W2 {v}"));
        site.release(v);
        assert!(!a.has_address(v));
        assert!(!b.try_sh(&format!("ping -c1 -W1 {v}")).0, "{v} answers after its release");
        site.take(v);
        b.sh(&format!("ping -c1 -W2 {v}"));
    }
    site.send(Command::LeaseLost);
    for v in [V4, V6] {
        site.expect("released", |e| *e == Event::Released { addr: ip(v) });
        assert!(!a.has_address(v));
    }
    site.send(Command::Take { addr: ip(V4) });
    let refused = site.expect("refusal", |e| matches!(e, Event::TakeFailed { .. }));
    assert_eq!(refused, Event::TakeFailed { addr: ip(V4), why: "this node has no lease".to_owned() });
    drop(site);
    assert!(!a.sh("nft list tables").contains("steadfast"), "the gate is gone after a shutdown");
}

#[test]
fn a_planned_release_waits_until_samba_is_told_and_the_end_of_a_lease_does_not() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    site.renew(Duration::from_secs(60));
    for v in [V4, V6] {
        site.take(v);
        let mut before = 0;
        // Told late, then never: it is silent and on its interface all the while.
        for tells in [true, false] {
            let start = Instant::now();
            site.send(Command::Release { addr: ip(v) });
            site.expect("releasing", |e| *e == Event::Releasing { addrs: vec![ip(v)] });
            if a.has_address(v) {
                before += 1;
            }
            if tells {
                site.send(Command::Told { addrs: vec![ip(v)] });
            }
            site.expect("released", |e| *e == Event::Released { addr: ip(v) });
            let took = start.elapsed();
            println!("{v}: released after {took:?}, told: {tells}");
            assert!(!a.has_address(v));
            assert!(tells || took >= net::TELL, "{took:?}");
            site.take(v);
            b.sh(&format!("ping -c1 -W2 {v}"));
        }
        // The look takes a process: with the bound of 20 ms it may come too late, but not twice.
        assert!(before > 0, "{v} had left when Samba was to be told");
        // Of a release that nobody is told of, a new order to take makes an end.
        site.send(Command::Release { addr: ip(v) });
        site.take(v);
        b.sh(&format!("ping -c1 -W2 {v}"));
    }
    let start = Instant::now();
    site.send(Command::LeaseLost);
    site.expect("released", |e| *e == Event::Released { addr: ip(V4) });
    site.expect("released", |e| *e == Event::Released { addr: ip(V6) });
    println!("both gone {:?} after the end of the lease", start.elapsed());
    assert!(start.elapsed() < net::TELL, "{:?}", start.elapsed());
    assert!(!site.seen.iter().any(|e| matches!(e, Event::ReleaseFailed { .. } | Event::StrayRemoved { .. })));
}

#[test]
fn a_lease_that_runs_out_drops_everything_by_itself() {
    let Some((a, _b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    site.renew(Duration::from_secs(60));
    site.take(V4);
    site.take(V6);
    let until = site.renew(Duration::from_millis(300));
    site.expect("expiry", |e| *e == Event::LeaseExpired);
    for v in [V4, V6] {
        site.expect("released", |e| *e == Event::Released { addr: ip(v) });
    }
    println!("all released {:+.1} ms from the end of the lease", millis(BootTime::now(), until));
    assert!(!a.has_address(V4) && !a.has_address(V6));
    // A renewal that comes too late is no lease.
    site.send(Command::Renew { until });
    site.send(Command::Take { addr: ip(V4) });
    site.expect("refusal", |e| matches!(e, Event::TakeFailed { .. }));
}

#[test]
fn renewals_keep_an_address_without_a_gap() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4]);
    site.renew(Duration::from_secs(60));
    site.take(V4);
    echo(&a, V4);
    let gap = b.start(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((ip(V4), 7)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while start.elapsed() < Duration::from_secs(3) {
            socket.send(b"x").unwrap();
            if socket.recv(&mut [0; 8]).is_ok() {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        longest
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        site.renew(Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(10));
    }
    let gap = gap.recv_timeout(LONG).unwrap();
    println!("longest gap between answers over ~300 renewals: {gap:?}");
    assert!(gap < Duration::from_millis(200), "{gap:?}");
    assert!(site.events.try_iter().all(|e| matches!(e, Event::Interface { .. })), "nothing was lost or failed");
}

#[test]
fn orders_that_cannot_be_done_harm_no_others() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    let nowhere = VipSpec { interface: "nowhere0".to_owned(), ..vip("10.77.0.210") };
    let absurd = VipSpec { prefix_len: 99, ..vip("10.77.0.211") };
    site.send(Command::Configure {
        vips: vec![nowhere.clone(), absurd.clone(), vip(V4), vip(V6)],
        storage_ports: Vec::new(),
        spared_ports: Vec::new(),
        hold: None,
        service_ports: Vec::new(),
    });
    let missing = Event::Interface { name: "nowhere0".to_owned(), up: false };
    site.expect_all(vec![missing, Event::Interface { name: "eth0".to_owned(), up: true }]);
    site.renew(Duration::from_secs(60));
    for (addr, says) in
        [(nowhere.addr, "nowhere0"), (absurd.addr, "at most 32 bits"), (ip("10.77.0.99"), "not in this node's list")]
    {
        site.send(Command::Take { addr });
        let event = site.expect("refusal", |e| matches!(e, Event::TakeFailed { .. }));
        assert!(matches!(&event, Event::TakeFailed { addr: a, why } if *a == addr && why.contains(says)), "{event:?}");
        site.send(Command::Release { addr });
        site.expect("released all the same", |e| *e == Event::Released { addr });
    }
    let start = Instant::now();
    site.take(V4);
    println!("a takeover takes {:?}", start.elapsed());
    site.take(V6);
    site.take(V6);
    b.sh(&format!("ping -c1 -W2 {V4} && ping -c1 -W2 {V6}"));
    // An address that leaves the configuration is released, the other stays.
    site.send(Command::Configure {
        vips: vec![vip(V6)],
        storage_ports: Vec::new(),
        spared_ports: Vec::new(),
        hold: None,
        service_ports: Vec::new(),
    });
    site.expect("released", |e| *e == Event::Released { addr: ip(V4) });
    site.expect("configured", |e| matches!(e, Event::Lease { .. }));
    assert!(!a.has_address(V4));
    b.sh(&format!("ping -c1 -W2 {V6}"));
}

#[test]
fn nothing_ordered_under_a_lost_lease_is_taken_under_the_next() {
    let Some((a, _b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    let until = BootTime::now() + Duration::from_secs(60);
    site.send(Command::Renew { until });
    // Something that keeps the worker busy, so that the rest is read together.
    site.configure(&[V4, V6]);
    for addr in [ip(V4), ip(V6)] {
        site.send(Command::Take { addr });
    }
    site.send(Command::LeaseLost);
    site.send(Command::Renew { until });
    let mut held = 0;
    for _ in 0..2 {
        let event = site.expect("an answer", |e| matches!(e, Event::Taken { .. } | Event::TakeFailed { .. }));
        held += usize::from(matches!(event, Event::Taken { .. }));
    }
    for _ in 0..held {
        site.expect("released", |e| matches!(e, Event::Released { .. }));
    }
    assert!(!a.has_address(V4) && !a.has_address(V6));
}

#[test]
fn removing_a_primary_address_takes_nothing_along() {
    let Some((a, _b)) = pair() else { return };
    a.sh("ip addr flush dev eth0 scope global && sysctl -qw net.ipv4.conf.eth0.promote_secondaries=0");
    let mut site = a.worker();
    site.configure(&[V4, "10.77.0.201", "10.77.0.202"]);
    site.renew(Duration::from_secs(60));
    site.take(V4);
    site.take("10.77.0.201");
    // The node's own comes after the VIPs: it is a secondary of the first.
    a.sh("ip addr add 10.77.0.1/24 dev eth0");
    site.take("10.77.0.202");
    assert!(
        a.sh("ip -4 -o addr show dev eth0").contains("10.77.0.1/24 scope global secondary"),
        "as this test assumes"
    );
    site.release(V4);
    site.release("10.77.0.201");
    assert!(a.has_address("10.77.0.1") && a.has_address("10.77.0.202"), "{}", a.sh("ip addr"));
    site.release("10.77.0.202");
    assert!(a.has_address("10.77.0.1"));
    assert!(a.sh("ip route").contains("10.77.0.0/24"), "{}", a.sh("ip route"));
}

#[test]
fn the_nodes_own_ipv6_route_gets_no_lifetime() {
    let Some((a, _b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V6]);
    site.renew(Duration::from_secs(2));
    site.take(V6);
    site.renew(Duration::from_secs(30));
    let route = a.sh("ip -6 route show fd77::/64");
    assert!(route.contains("fd77::/64") && !route.contains("expires"), "{route}");
    site.release(V6);
    let route = a.sh("ip -6 route show fd77::/64");
    assert!(route.contains("fd77::/64") && !route.contains("expires"), "{route}");
    // The other order: first the public address, whose route ends with it, then the node's own.
    a.sh("ip addr del fd77::1/64 dev eth0");
    site.take(V6);
    assert!(a.sh("ip -6 route show fd77::/64").contains("expires"));
    a.sh("ip addr add fd77::1/64 dev eth0 nodad");
    // Long enough that the lifetime is refreshed.
    site.renew(Duration::from_secs(90));
    site.release(V6);
    let route = a.sh("ip -6 route show fd77::/64");
    assert!(route.contains("fd77::/64") && !route.contains("expires"), "{route}");
}

#[test]
fn left_overs_are_removed_and_lost_addresses_come_back() {
    let Some((a, b)) = pair() else { return };
    a.sh(&format!("ip addr add {V4}/24 dev eth0; ip addr add {V6}/64 dev eth0 nodad"));
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    assert!(!a.has_address(V4) && !a.has_address(V6));
    site.renew(Duration::from_secs(60));
    for v in [V4, V6] {
        site.take(v);
        a.sh(&format!("ip addr del {v}/{} dev eth0", vip(v).prefix_len));
        site.expect("restored", |e| *e == Event::AddressLost { addr: ip(v), restored: true });
        b.sh(&format!("ping -c1 -W2 {v}"));
    }
    // A firewall that is reloaded takes the gate away; the next renewal brings it back.
    a.sh("nft flush ruleset");
    site.renew(Duration::from_secs(60));
    wait_for("the gate", || a.sh("nft list tables").contains("arp steadfast"));
    b.sh(&format!("ping -c1 -W2 {V4} && ping -c1 -W2 {V6}"));
}

#[test]
fn an_address_in_use_is_reported_with_its_holder() {
    let Some((a, b)) = pair() else { return };
    let mac = b.run(|| link::find("eth0").unwrap().mac.unwrap());
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    for v in [V4, V6] {
        b.sh(&format!("ip addr add {v}/{} dev eth0 nodad", vip(v).prefix_len));
        site.send(Command::Probe { addr: ip(v) });
        let start = Instant::now();
        site.expect("conflict", |e| *e == Event::Conflict { addr: ip(v), mac });
        println!("{v}: conflict found after {:?}", start.elapsed());
        b.sh(&format!("ip addr del {v}/{} dev eth0", vip(v).prefix_len));
        site.send(Command::Probe { addr: ip(v) });
        site.expect("no conflict", |e| *e == Event::NoConflict { addr: ip(v) });
    }
    site.send(Command::Probe { addr: ip("10.77.0.9") });
    site.expect("failure", |e| matches!(e, Event::ProbeFailed { .. }));
}

#[test]
fn neighbours_learn_at_once_where_an_address_went() {
    let Some((a, b)) = pair() else { return };
    let mac = a.run(|| link::find("eth0").unwrap().mac.unwrap()).to_string();
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    site.renew(Duration::from_secs(60));
    for v in [V4, V6] {
        // As if the address had been hosted elsewhere a moment ago.
        b.sh(&format!("ip neigh replace {v} lladdr 02:00:00:00:00:99 dev eth0 nud stale"));
        site.take(v);
        wait_for("the announcement", || b.sh(&format!("ip neigh show {v}")).contains(&mac));
    }
    // By word: after the last announcement of a takeover, which nobody could tell from it.
    std::thread::sleep(Duration::from_millis(SCHEDULE_MS[SCHEDULE_MS.len() - 1] + 500));
    for v in [V4, V6] {
        b.sh(&format!("ip neigh replace {v} lladdr 02:00:00:00:00:99 dev eth0 nud stale"));
        site.send(Command::Announce { addr: ip(v) });
        wait_for("the announcement", || b.sh(&format!("ip neigh show {v}")).contains(&mac));
    }
    // Passing by: the holder's announcement reaches a node that manages the address without holding it.
    site.release(V4);
    a.sh(&format!("ip neigh replace {V4} lladdr 02:00:00:00:00:99 dev eth0 nud stale"));
    let other = b.run(|| link::find("eth0").unwrap().mac.unwrap()).to_string();
    let mut second = b.worker();
    second.configure(&[V4]);
    second.renew(Duration::from_secs(60));
    second.take(V4);
    wait_for("the announcement", || a.sh(&format!("ip neigh show {V4}")).contains(&other));
}

#[test]
fn interfaces_are_watched() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    let state = |name: &str, up| Event::Interface { name: name.to_owned(), up };
    site.configure(&[V4]);
    let first = state("eth0", true);
    if !site.seen.contains(&first) {
        site.expect("first state", |e| *e == first);
    }
    let start = Instant::now();
    b.sh("ip link set eth0 down");
    site.expect("down", |e| *e == state("eth0", false));
    println!("carrier loss seen after {:?}, with the time of `ip`", start.elapsed());
    site.renew(Duration::from_secs(60));
    site.send(Command::Take { addr: ip(V4) });
    site.expect("refusal", |e| matches!(e, Event::TakeFailed { why, .. } if why.contains("eth0")));
    b.sh("ip link set eth0 up");
    site.expect("up", |e| *e == state("eth0", true));
    site.take(V4);
    a.sh("ip link del eth0");
    site.expect_all(vec![state("eth0", false), Event::AddressLost { addr: ip(V4), restored: false }]);
}

#[test]
fn without_a_gate_everything_still_works_in_whole_seconds() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker_by(|events| Worker::start_with(Parts { gate: false, ..Parts::default() }, events));
    site.send(Command::Configure {
        vips: vec![vip(V4), vip(V6)],
        storage_ports: Vec::new(),
        spared_ports: Vec::new(),
        hold: None,
        service_ports: Vec::new(),
    });
    let kind = site.expect("kind", |e| matches!(e, Event::Lease { .. }));
    assert!(matches!(kind, Event::Lease { kind: LeaseKind::WholeSeconds, .. }), "{kind:?}");
    site.renew(Duration::from_secs(60));
    for v in [V4, V6] {
        site.take(v);
        b.sh(&format!("ping -c1 -W2 {v}"));
        site.release(v);
        assert!(!a.has_address(v));
        site.take(v);
    }
    assert_eq!(a.sh("nft list tables"), "", "it keeps its hands off");
    site.renew(Duration::from_millis(200));
    site.expect_all(vec![Event::LeaseExpired, Event::Released { addr: ip(V4) }, Event::Released { addr: ip(V6) }]);
}

#[test]
fn four_renewed_addresses_cost_next_to_nothing() {
    let Some((a, _b)) = pair() else { return };
    let (renewal, refresh) = a.run(|| {
        let vips: Vec<_> = (200..204).map(|n| vip(&format!("10.77.0.{n}"))).collect();
        let addrs: Vec<_> = vips.iter().map(|v| v.addr).collect();
        let mut gate = Gate::open().unwrap();
        gate.install(&addrs, &[2049, 445], &[], Duration::ZERO).unwrap();
        let mut addresses = Addresses::open().unwrap();
        let eth0 = addresses.link("eth0").unwrap();
        let cpu = || {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
        };
        const N: u32 = 200;
        let (c0, t0) = (cpu(), Instant::now());
        for _ in 0..N {
            gate.renew(&addrs, Duration::from_millis(600)).unwrap();
        }
        let renewal = ((cpu() - c0) * 1e6 / f64::from(N), t0.elapsed() / N);
        let (c0, t0) = (cpu(), Instant::now());
        for _ in 0..N {
            for v in &vips {
                addresses.set(&eth0, v, Duration::from_millis(600)).unwrap();
            }
        }
        (renewal, ((cpu() - c0) * 1e6 / f64::from(N), t0.elapsed() / N))
    });
    let mut site = a.worker();
    let names: Vec<String> = (200..204).map(|n| format!("10.77.0.{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    site.configure(&names);
    site.renew(Duration::from_secs(1));
    names.iter().for_each(|v| site.take(v));
    let process = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
    };
    let (c0, t0) = (process(), Instant::now());
    for _ in 0..30 {
        site.renew(Duration::from_millis(600));
        std::thread::sleep(Duration::from_millis(100));
    }
    let share = (process() - c0) / t0.elapsed().as_secs_f64() * 100.0;
    println!("the worker at 10 renewals a second: {share:.2} % of a core (and what other tests use meanwhile)");
    println!("a renewal of 4 addresses: {:.0} us CPU, {:?} wall", renewal.0, renewal.1);
    println!("4 lifetimes: {:.0} us CPU, {:?} wall", refresh.0, refresh.1);
    println!("10 renewals and 2 refreshes a second: {:.3} % of a core", (renewal.0 * 10.0 + refresh.0 * 2.0) / 1e4);
    assert!(renewal.0 < 5_000.0, "a renewal costs {} us CPU", renewal.0);
}
