//! The guard's process in a network namespace of its own, with a stand-in for the daemon.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

const WATCH: &str =
    r#"{"watch":{"addresses":["10.99.0.1"],"words":[{"from":"127.0.0.1","to":"127.0.0.1:9","bytes":[1]}]}}"#;

/// `$1` is the program, `$2` a directory. The stand-in is killed when all orders have been answered.
const SCRIPT: &str = r#"
ip link set lo up && ip address add 10.99.0.1/32 dev lo || exit 7
exec 3<&0
sh -c '"$1" helper guard $$ <&3 3<&- >>"$2/lock" 2>"$2/said" & exec sleep 100 3<&-' sh "$1" "$2" &
daemon=$!
for i in $(seq 300); do [ -e "$2/go" ] && break; sleep 0.1; done
kill -9 $daemon
for i in $(seq 300); do [ -e "$2/gone" ] && break; sleep 0.1; done
for i in $(seq 300); do grep -q addresses "$2/said" && break; [ -e "$2/goodbye" ] && sleep 0.5 && break; sleep 0.1; done
ip -o address show dev lo >"$2/left"
"#;

/// What the guard said and which addresses are left when the stand-in was killed after these orders.
fn after(orders: &[&str]) -> Option<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut script = Command::new("unshare")
        .args(["--net", "sh", "-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_steadfast")])
        .arg(dir.path())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .ok()?;
    for order in orders {
        ours.write_all(format!("{order}\n").as_bytes()).unwrap();
        if script.try_wait().unwrap().is_some() {
            break;
        }
        // Answered with one byte.
        let mut byte = [0];
        if !order.contains("goodbye") && std::io::Read::read_exact(&mut ours, &mut byte).is_err() {
            println!("skipped: no network namespace can be made here (needs root, unshare and ip)");
            return None;
        }
    }
    if orders.iter().any(|o| o.contains("goodbye")) {
        fs::write(dir.path().join("goodbye"), "").unwrap();
    }
    fs::write(dir.path().join("go"), "").unwrap();
    drop(ours);
    fs::write(dir.path().join("gone"), "").unwrap();
    assert!(script.wait().unwrap().success());
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    Some((read("said"), read("left")))
}

#[test]
fn a_dead_daemons_addresses_go_and_the_word_is_sent() {
    let Some((said, left)) = after(&[WATCH, WATCH]) else { return };
    println!("{said}");
    assert!(!left.contains("10.99.0.1"), "{left}\n{said}");
    assert!(said.contains("1 addresses are off this node") && said.contains("1 words sent"), "{said}");
}

#[test]
fn after_a_goodbye_nothing_is_touched() {
    let Some((said, left)) = after(&[WATCH, "\"goodbye\""]) else { return };
    assert!(left.contains("10.99.0.1"), "{left}\n{said}");
    assert!(!said.contains("off this node"), "{said}");
}
