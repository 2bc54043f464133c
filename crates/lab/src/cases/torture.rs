//! A few of Samba's own tests, of clients on two nodes of one share: what `scripts/smbtorture` runs in full, beside CTDB.

use super::{Ctx, vip_of};
use crate::steadfast;
use crate::torture::{self, Kind, Outcome, Ran, Stand, Test};
use anyhow::{Result, bail};
use std::time::Duration;

/// Locks, leases, oplocks, share modes, deny modes, durable handles, deletions, of SMB2 and of SMB1. Each asks one node for
/// what another's client holds: [`fail_without_clustering`] is the proof, for most tests of these suites have one connection.
const BETWEEN_NODES: [&str; 10] = [
    "smb2.lock.overlap",
    "smb2.lease.complex1",
    "smb2.lease.lock1",
    "smb2.oplock.batch1",
    "smb2.oplock.doc",
    "smb2.sharemode.sharemode-access",
    "smb2.deny.deny2",
    "smb2.durable-open.reopen2",
    "base.lock.LOCK1",
    "raw.oplock.exclusive5",
];
/// A node that knows nothing of the other's clients allows too much. One that denies has not been asked about them.
const DENIED: [&str; 2] = ["status was NT_STATUS_ACCESS_DENIED", "Incorrect status NT_STATUS_ACCESS_DENIED"];
/// With the daemon itself, as a client of its socket.
const WITH_THE_DAEMON: [&str; 1] = ["smb2.lock.ctdb-delrec-deadlock"];
/// The slowest, of leases, takes 7 s.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs them, each in a lane of its own.
fn run(ctx: &Ctx<'_>, tests: &[Test]) -> Result<Vec<Ran>> {
    let status = steadfast::status(ctx.lab, 0)?;
    let addresses = [0, 1].map(|node| vip_of(&status, node)).into_iter().collect::<Result<_>>()?;
    let stand = Stand::new(ctx.lab, addresses, tests.len(), false)?;
    let all: Result<Vec<_>> = std::thread::scope(|scope| {
        let under_way: Vec<_> = tests
            .iter()
            .enumerate()
            .map(|(lane, test)| {
                let stand = &stand;
                scope.spawn(move || stand.run(test, lane, LIMIT))
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_>>| match thread.join() {
            Ok(ran) => ran,
            Err(_) => bail!("a thread that ran a test has panicked"),
        };
        under_way.into_iter().map(join).collect()
    });
    stand.end()?;
    let all = all?;
    for (test, ran) in tests.iter().zip(&all) {
        let asked = if test.kind == Kind::Two { format!("{} nodes, ", ran.nodes) } else { String::new() };
        let why = if ran.outcome == Outcome::Pass { String::new() } else { format!(": {}", ran.why()) };
        ctx.figure(format!("{}: {} ({asked}{:.1} s){why}", test.name, ran.outcome, ran.seconds));
    }
    Ok(all)
}

fn named(names: &[&str], kind: Kind) -> Result<Vec<Test>> {
    let all = torture::all()?;
    names.iter().map(|name| torture::find(&all, name, kind)).collect()
}

/// Fails with what could not be tested at all, told apart from what ended otherwise than `wanted`.
fn judge(tests: &[Test], all: &[Ran], wanted: Outcome, otherwise: &str) -> Result<()> {
    let (mut untested, mut other) = (Vec::new(), Vec::new());
    for (test, ran) in tests.iter().zip(all) {
        let name = &test.name;
        match ran.outcome {
            Outcome::Timeout => untested.push(format!("{name}: not over after {} s", LIMIT.as_secs())),
            Outcome::Broken | Outcome::Unconnected | Outcome::Skip => {
                untested.push(format!("{name}: {}: {}", ran.outcome, ran.why()));
            }
            _ if test.kind == Kind::Two && ran.nodes < 2 => {
                untested.push(format!("{name}: {}, but it has asked {} of 2 nodes", ran.outcome, ran.nodes));
            }
            Outcome::Fail if wanted == Outcome::Fail && DENIED.iter().any(|words| ran.why().contains(words)) => {
                untested.push(format!("{name}: it was denied what it made: {}", ran.why()));
            }
            Outcome::Fail if wanted == Outcome::Pass => other.push(format!("{name}: {}", ran.why())),
            outcome if outcome != wanted => other.push(name.clone()),
            _ => {}
        }
    }
    let mut said = Vec::new();
    for (what, names) in [("these have tested nothing", untested), (otherwise, other)] {
        if !names.is_empty() {
            said.push(format!("of Samba's own tests {what}:\n  {}", names.join("\n  ")));
        }
    }
    if said.is_empty() { Ok(()) } else { bail!("{}", said.join("\n")) }
}

/// With one Samba of all nodes they pass.
pub(crate) fn pass_on_two_nodes(ctx: &Ctx<'_>) -> Result<()> {
    let tests = [named(&BETWEEN_NODES, Kind::Two)?, named(&WITH_THE_DAEMON, Kind::Local)?].concat();
    let all = run(ctx, &tests)?;
    judge(&tests, &all, Outcome::Pass, "these do not pass on two nodes")
}

/// With a Samba on each node for itself they fail: what they ask one of is known to the other only.
pub(crate) fn fail_without_clustering(ctx: &Ctx<'_>) -> Result<()> {
    let tests = named(&BETWEEN_NODES, Kind::Two)?;
    let all = run(ctx, &tests)?;
    judge(&tests, &all, Outcome::Fail, "these pass though nothing joins the nodes' smbds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kind: Kind, outcome: Outcome, nodes: usize, wanted: Outcome) -> String {
        judged_for(kind, outcome, nodes, wanted, "it is so")
    }

    fn judged_for(kind: Kind, outcome: Outcome, nodes: usize, wanted: Outcome, why: &str) -> String {
        let test = Test { name: "smb2.a".into(), full: "smb2.a.a".into(), kind };
        let said = format!("failure: smb2.a [\n{why}\n]");
        let ran = Ran { outcome, seconds: 1.0, nodes, said };
        judge(&[test], &[ran], wanted, "these are not as they should be").err().map_or(String::new(), |e| e.to_string())
    }

    #[test]
    fn what_tested_nothing_is_told_apart() {
        use Outcome::{Broken, Fail, Pass, Skip, Timeout, Unconnected};
        for wanted in [Pass, Fail] {
            assert_eq!(judged(Kind::Two, wanted, 2, wanted), "");
            for outcome in [Broken, Skip, Timeout, Unconnected] {
                let said = judged(Kind::Two, outcome, 2, wanted);
                assert!(said.contains("have tested nothing:\n  smb2.a: "), "{outcome}: {said}");
            }
            for (nodes, outcome) in [(0, wanted), (1, wanted), (1, Pass), (1, Fail)] {
                let said = judged(Kind::Two, outcome, nodes, wanted);
                assert!(
                    said.contains(&format!(
                        "tested nothing:\n  smb2.a: {outcome}, but it has asked {nodes} of 2 nodes"
                    )),
                    "{said}"
                );
            }
            // It asks none by SMB.
            assert_eq!(judged(Kind::Local, wanted, 0, wanted), "");
        }
        let denied = "x.c:1: status was NT_STATUS_ACCESS_DENIED, expected NT_STATUS_OK";
        assert!(judged_for(Kind::Two, Fail, 2, Fail, denied).contains("tested nothing:\n  smb2.a: it was denied"));
        assert!(judged_for(Kind::Two, Fail, 2, Pass, denied).contains("should be:\n  smb2.a: x.c:1"));
        let allowed = "x.c:1: status was NT_STATUS_OK, expected NT_STATUS_ACCESS_DENIED";
        assert_eq!(judged_for(Kind::Two, Fail, 2, Fail, allowed), "");
        assert!(judged(Kind::Two, Unconnected, 2, Fail).ends_with("no connection: it is so"));
        assert!(judged(Kind::Two, Fail, 2, Pass).ends_with("these are not as they should be:\n  smb2.a: it is so"));
        assert!(judged(Kind::Two, Pass, 2, Fail).ends_with("these are not as they should be:\n  smb2.a"));
    }
}
