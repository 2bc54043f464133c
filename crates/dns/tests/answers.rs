//! What is answered to what, without a socket.

mod common;

use cluster::{Epoch, Health, Pnn, VipState};
use common::{conf, ip, snapshot, view, view_of};
use dns::{Answer, Code, Data, Kind, Owner, Question, Zone, ZoneView, answer, zone_text};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

fn ask(view: &ZoneView, name: &str, kind: Kind) -> Answer {
    answer(view, &Question { name, kind }, 0)
}

fn addresses(answer: &Answer) -> Vec<IpAddr> {
    let address = |record: &dns::Record| match record.data {
        Data::A(a) => Some(IpAddr::from(a)),
        Data::Aaaa(a) => Some(IpAddr::from(a)),
        _ => None,
    };
    answer.answers.iter().filter_map(address).collect()
}

fn last_bytes(answer: &Answer) -> BTreeSet<u8> {
    addresses(answer)
        .iter()
        .map(|a| match a {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        })
        .collect()
}

#[test]
fn both_names_give_all_addresses_with_ttl_1() {
    for name in ["glusternfs.storage.example", "glustercifs.storage.example", "glusternfs", "storage.example"] {
        let answer = ask(&view(), name, Kind::A);
        assert_eq!((answer.code, answer.authoritative), (Code::NoError, true), "{name}");
        assert_eq!(last_bytes(&answer), BTreeSet::from([1, 2, 3, 4]), "{name}");
        assert!(answer.answers.iter().all(|r| r.ttl == 1 && r.owner == Owner::Asked));
        assert!(answer.authority.is_empty());
        assert_eq!(addresses(&ask(&view(), name, Kind::Aaaa)), [ip("fd00::1")], "{name}");
    }
    let two = ask(&view(), "two.sub.storage.example", Kind::A);
    assert_eq!(last_bytes(&two), BTreeSet::from([1, 2]));
}

#[test]
fn answers_rotate() {
    let firsts: BTreeSet<IpAddr> = (0..4)
        .map(|turn| {
            let question = Question { name: "glusternfs", kind: Kind::A };
            addresses(&answer(&view(), &question, turn))[0]
        })
        .collect();
    assert_eq!(firsts.len(), 4);
}

#[test]
fn only_hosted_and_healthy_addresses_those_on_the_move_included() {
    let mut changed = snapshot();
    Arc::make_mut(changed.vips.get_mut(&ip("10.0.0.1")).expect("there")).healthy = false;
    let second = Arc::make_mut(changed.vips.get_mut(&ip("10.0.0.2")).expect("there"));
    (second.state, second.holder, second.target) = (VipState::Moving, None, Some(Pnn(3)));
    let third = Arc::make_mut(changed.vips.get_mut(&ip("10.0.0.3")).expect("there"));
    (third.state, third.holder, third.target) = (VipState::Unserved, None, None);
    assert_eq!(last_bytes(&ask(&view_of(&changed), "glustercifs", Kind::A)), BTreeSet::from([2, 4]));
}

#[test]
fn a_name_follows_the_health_of_its_own_service() {
    let mut changed = snapshot();
    let services = Arc::make_mut(&mut Arc::make_mut(changed.nodes.get_mut(&Pnn(1)).expect("there")).services);
    services.get_mut("nfs").expect("there").state = Health::Failed;
    assert_eq!(last_bytes(&ask(&view_of(&changed), "glusternfs", Kind::A)), BTreeSet::from([1, 3, 4]));
    assert_eq!(last_bytes(&ask(&view_of(&changed), "glustercifs", Kind::A)).len(), 4);
    for node in changed.nodes.values_mut() {
        let services = Arc::make_mut(&mut Arc::make_mut(node).services);
        services.get_mut("nfs").expect("there").state = Health::Failed;
    }
    assert_eq!(last_bytes(&ask(&view_of(&changed), "glusternfs", Kind::A)).len(), 4, "never NODATA because of health");
    assert_eq!(last_bytes(&ask(&view_of(&changed), "glusternfs", Kind::Aaaa)).len(), 1);
}

#[test]
fn without_a_lease_it_is_servfail_and_elsewhere_refused() {
    let mut changed = snapshot();
    changed.lease.valid = false;
    let view = view_of(&changed);
    for kind in [Kind::A, Kind::Soa, Kind::Ns, Kind::Other] {
        assert_eq!(ask(&view, "glusternfs.storage.example", kind).code, Code::ServFail);
        assert_eq!(ask(&view, "storage.example", kind).code, Code::ServFail);
        assert_eq!(ask(&view, "nosuch.storage.example", kind).code, Code::ServFail);
    }
    for name in ["", "example", "xstorage.example", "www.example.com", "storage.example.com", "storage"] {
        let answer = ask(&view, name, Kind::A);
        assert_eq!((answer.code, answer.authoritative), (Code::Refused, false), "{name:?}");
    }
    assert_eq!(ask(&Zone::new(conf()).empty(), "glusternfs", Kind::A).code, Code::ServFail);
}

#[test]
fn no_such_name_and_no_such_data_carry_the_soa() {
    let cases = [
        ("nosuch.storage.example", Kind::A, Code::NxDomain, "storage.example"),
        ("x.glusternfs.storage.example", Kind::A, Code::NxDomain, "storage.example"),
        ("glusternfs.storage.example", Kind::Other, Code::NoError, "storage.example"),
        ("glusternfs.storage.example", Kind::Ns, Code::NoError, "storage.example"),
        ("glusternfs.storage.example", Kind::Soa, Code::NoError, "storage.example"),
        ("two.sub.storage.example", Kind::Aaaa, Code::NoError, "storage.example"),
        ("sub.storage.example", Kind::A, Code::NoError, "storage.example"),
        ("x.glusternfs", Kind::A, Code::NxDomain, "glusternfs"),
        ("a\\046glusternfs.storage.example", Kind::A, Code::NxDomain, "storage.example"),
    ];
    for (name, kind, code, apex) in cases {
        let answer = ask(&view(), name, kind);
        assert_eq!((answer.code, answer.authoritative), (code, true), "{name} {kind:?}");
        assert!(answer.answers.is_empty());
        let [soa] = answer.authority.as_slice() else { panic!("{name}: {:?}", answer.authority) };
        assert_eq!((soa.owner.clone(), soa.ttl), (Owner::Name(apex.into()), 1));
        assert!(matches!(soa.data, Data::Soa { minimum: 1, .. }));
    }
}

#[test]
fn the_apex_has_soa_and_ns_with_addresses() {
    let soa = ask(&view(), "storage.example", Kind::Soa);
    assert!(
        matches!(&soa.answers[0].data, Data::Soa { server, serial, .. } if server == "ns1.storage.example" && *serial == 7 << 16)
    );
    let ns = ask(&view(), "storage.example", Kind::Ns);
    assert_eq!(ns.answers.len(), 2);
    // all public addresses, shared out between the two
    assert_eq!(ns.additional.len(), 5);
    assert_eq!(ask(&view(), "ns1.storage.example", Kind::A).code, Code::NoError);
    assert_eq!(ask(&view(), "glusternfs", Kind::Ns).answers.len(), 2, "a short name is a zone of its own");
    assert_eq!(ask(&view(), "storage.example", Kind::Any).answers.len(), 4);
    assert_eq!(ask(&view(), "storage.example", Kind::Transfer).code, Code::Refused);
}

#[test]
fn the_serial_is_the_epoch_then_a_counter() {
    let mut zone = Zone::new(conf());
    let mut now = snapshot();
    assert_eq!(zone.update(&now).expect("first").serial, 7 << 16);
    now.serial += 1;
    assert!(zone.update(&now).is_none(), "nothing of the zone changed");
    Arc::make_mut(now.vips.get_mut(&ip("10.0.0.1")).expect("there")).healthy = false;
    assert_eq!(zone.update(&now).expect("changed").serial, (7 << 16) + 1);
    now.lease.valid = false;
    let view = zone.update(&now).expect("no lease");
    assert_eq!((view.serial, view.serving), ((7 << 16) + 1, false));
    Arc::make_mut(now.view.as_mut().expect("a view")).epoch = Epoch(8);
    now.lease.valid = true;
    assert_eq!(zone.update(&now).expect("a new epoch").serial, 8 << 16);
}

#[test]
fn the_zone_as_text_passes_named_checkzone() {
    let text = zone_text(&view());
    assert!(text.contains("$ORIGIN storage.example.\n$TTL 1\n"), "{text}");
    assert!(text.contains("\nglusternfs IN A 10.0.0.4\n") && text.contains("\ntwo.sub IN A 10.0.0.2\n"), "{text}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &text).expect("written");
    let checked = std::process::Command::new("named-checkzone").arg("storage.example").arg(file.path()).output();
    match checked {
        Ok(output) => assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => println!("skipped: named-checkzone (bind9-utils): {error}"),
    }
}

proptest! {
    /// Whatever the health of the addresses, a service name answers: with the good ones, or with all.
    #[test]
    fn a_service_name_always_has_addresses(states in proptest::collection::vec((0..4_u8, any::<bool>(), any::<bool>()), 5), turn: usize) {
        let mut now = snapshot();
        for (vip, (state, healthy, held)) in now.vips.values_mut().zip(&states) {
            let vip = Arc::make_mut(vip);
            vip.state = [VipState::Held, VipState::Moving, VipState::Waiting, VipState::Unserved][usize::from(*state)];
            vip.healthy = *healthy;
            if !held {
                vip.holder = None;
            }
        }
        let view = view_of(&now);
        let question = Question { name: "glustercifs.storage.example", kind: Kind::A };
        let given: BTreeSet<IpAddr> = addresses(&answer(&view, &question, turn)).into_iter().collect();
        let good: BTreeSet<IpAddr> = now.vips.iter()
            .filter(|(a, v)| a.is_ipv4() && v.healthy && v.state != VipState::Unserved)
            .map(|(a, _)| *a).collect();
        if good.is_empty() {
            prop_assert_eq!(given.len(), 4);
        } else {
            prop_assert_eq!(given, good);
        }
    }

    /// No name makes it panic, and what is outside of the zone is refused.
    #[test]
    fn any_name_is_answered(name in "[a-z.\\\\0-9-]{0,40}", zone in any::<bool>(), turn: usize) {
        let name = if zone { format!("{name}.storage.example") } else { name };
        for kind in [Kind::A, Kind::Aaaa, Kind::Soa, Kind::Ns, Kind::Any, Kind::Transfer, Kind::Other] {
            let answer = answer(&view(), &Question { name: &name, kind }, turn);
            prop_assert_eq!(zone && answer.code == Code::Refused, zone && kind == Kind::Transfer);
        }
    }
}
