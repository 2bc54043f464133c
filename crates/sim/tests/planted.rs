//! The simulator is tested too: each rule left out of the cores on purpose must be found within 10,000 seeds.
//!
//! ```text
//! cargo test --profile lab -p sim --features planted --test planted -- --ignored --nocapture
//! PLANTED=WipeForgets PLANTED_FIRST=539 cargo test …      # some of them, from a seed on
//! ```

use cluster::planted::{Planted as Cluster, plant as plant_cluster};
use ctdb::planted::{Planted as Ctdb, plant as plant_ctdb};
use sim::{Kind, MS, S, Setup, Task, World, has_databases, is_calm, run, settle};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const SEEDS: usize = 10_000;

#[derive(Clone, Copy, Debug)]
enum Bug {
    Cluster(Cluster),
    Ctdb(Ctdb),
}

const BUGS: &[Bug] = &[
    Bug::Cluster(Cluster::TakeBeforeRelease),
    Bug::Cluster(Cluster::ReleaseSaidEarly),
    Bug::Cluster(Cluster::VoteBeforeDisk),
    Bug::Cluster(Cluster::GrantsAfterAccept),
    Bug::Cluster(Cluster::AcceptBelowPromise),
    Bug::Cluster(Cluster::HalfIsEnough),
    Bug::Cluster(Cluster::LeaseByHalf),
    Bug::Cluster(Cluster::HigherRecordIgnored),
    Bug::Cluster(Cluster::OldLeaseNotAwaited),
    Bug::Cluster(Cluster::EvictionNotAwaited),
    Bug::Cluster(Cluster::RemovedNotEvicted),
    Bug::Cluster(Cluster::OldOrdersObeyed),
    Bug::Cluster(Cluster::AllLead),
    Bug::Cluster(Cluster::LeaseFromArrival),
    Bug::Cluster(Cluster::MovesTooMany),
    Bug::Cluster(Cluster::PinForgotten),
    Bug::Cluster(Cluster::OutOnOneWord),
    Bug::Cluster(Cluster::EverythingWaits),
    Bug::Cluster(Cluster::GraceNotAwaited),
    Bug::Cluster(Cluster::MoveGraceNotAwaited),
    Bug::Cluster(Cluster::LetGoNotAwaited),
    Bug::Cluster(Cluster::HungServerLivesOn),
    Bug::Cluster(Cluster::HungServerForgotten),
    Bug::Cluster(Cluster::ProofNotAwaited),
    Bug::Cluster(Cluster::LostCountsAsReleased),
    Bug::Cluster(Cluster::ProofOutlivesLease),
    Bug::Cluster(Cluster::StorageNotFreed),
    Bug::Cluster(Cluster::DesertedTooEarly),
    Bug::Cluster(Cluster::DesertedByOne),
    Bug::Cluster(Cluster::DesertedByHalf),
    Bug::Cluster(Cluster::DesertedByOldReport),
    Bug::Cluster(Cluster::RecoveryNotAwaited),
    Bug::Ctdb(Ctdb::DeadTooEarly),
    Bug::Ctdb(Ctdb::MemberForgotten),
    Bug::Ctdb(Ctdb::NewestNotPreferred),
    Bug::Ctdb(Ctdb::StaleCopiesKept),
    Bug::Ctdb(Ctdb::RsnNotRaised),
    Bug::Ctdb(Ctdb::EarlyCommit),
    Bug::Ctdb(Ctdb::ContentsDiffer),
    Bug::Ctdb(Ctdb::TraverseMissesMember),
    Bug::Ctdb(Ctdb::LostWordsForgotten),
    Bug::Ctdb(Ctdb::RevocationSkipped),
    Bug::Ctdb(Ctdb::CopiesOutliveRecovery),
    Bug::Ctdb(Ctdb::IdleHolds),
    Bug::Ctdb(Ctdb::HarmNotAwaited),
    Bug::Ctdb(Ctdb::ProcessesKept),
    Bug::Ctdb(Ctdb::MessageTwice),
    Bug::Ctdb(Ctdb::MessagesDropped),
    Bug::Ctdb(Ctdb::MessagesOvertake),
    Bug::Ctdb(Ctdb::AddressBeforeAnswer),
    Bug::Ctdb(Ctdb::AddressWhileBusy),
    Bug::Ctdb(Ctdb::WipeForgetsMember),
    Bug::Ctdb(Ctdb::WipeWritesNothing),
    Bug::Ctdb(Ctdb::RestoreNotUndone),
    Bug::Ctdb(Ctdb::DetachForgetsMember),
    Bug::Ctdb(Ctdb::DetachedComesBack),
];

/// What must be in the objection: a checker that nothing else shows to fire is not shown by another one's objection.
fn objection(bug: Bug) -> &'static str {
    match bug {
        Bug::Cluster(
            Cluster::DesertedTooEarly | Cluster::DesertedByOne | Cluster::DesertedByHalf | Cluster::DesertedByOldReport,
        ) => "no clients are given up",
        Bug::Cluster(Cluster::LetGoNotAwaited) => "has not let go of its locks",
        Bug::Cluster(Cluster::HungServerLivesOn | Cluster::HungServerForgotten | Cluster::ProofNotAwaited) => {
            "is not ended"
        }
        Bug::Cluster(Cluster::LostCountsAsReleased | Cluster::ProofOutlivesLease) => "may yet carry out what was held",
        Bug::Cluster(Cluster::RecoveryNotAwaited) => "has all that was committed",
        Bug::Cluster(Cluster::PinForgotten) => "goes back from",
        Bug::Ctdb(Ctdb::AddressWhileBusy) => "reads that its address leaves",
        Bug::Ctdb(Ctdb::MessagesDropped) => "never hears message",
        _ => "",
    }
}

/// The first seed that finds it, with what objects.
fn find(bug: Bug) -> Option<(u64, String)> {
    let of_databases = match bug {
        Bug::Cluster(bug) => {
            plant_cluster(Some(bug));
            bug == Cluster::RecoveryNotAwaited
        }
        Bug::Ctdb(bug) => {
            plant_ctdb(Some(bug));
            true
        }
    };
    // Calm seeds take a while, and databases are of no use to what is not of theirs.
    let first = std::env::var("PLANTED_FIRST").ok().and_then(|f| f.parse().ok()).unwrap_or(1);
    let fitting = (first..).filter(|seed| has_databases(*seed) == of_databases && !is_calm(*seed));
    let found = fitting.take(SEEDS).find_map(|seed| {
        let outcome = run(&Task { seed, nodes: None, only: None, story: false });
        let what = outcome.violation.map(|v| format!("{}: {}", v.check, v.text))?;
        what.contains(objection(bug)).then_some((seed, what))
    });
    plant_cluster(None);
    plant_ctdb(None);
    found
}

#[test]
#[ignore = "takes minutes: scripts/test --long"]
fn each_rule_left_out_is_found() {
    let only = std::env::var("PLANTED").unwrap_or_default();
    let bugs: Vec<Bug> = BUGS.iter().copied().filter(|bug| format!("{bug:?}").contains(&only)).collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match find(*bug) {
                        Some((seed, what)) => println!("{bug:?}: found by seed {seed}: {what}"),
                        None => {
                            println!("{bug:?}: NOT FOUND in {SEEDS} seeds");
                            missed.lock().expect("no panic").push(*bug);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().expect("no panic");
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

/// The first of a hundred tellings of a story that a checker objects to, with what it says.
fn told(story: impl Fn(u64) -> Option<String>, bug: Option<Cluster>) -> Option<(u64, String)> {
    plant_cluster(bug);
    let found = (1..=100).find_map(|seed| Some((seed, story(seed)?)));
    plant_cluster(None);
    found
}

/// A story to which nobody objects, but with this bug: then a checker does, in these words.
fn is_found(story: impl Fn(u64) -> Option<String>, bug: Cluster, says: &str) {
    assert_eq!(told(&story, None), None);
    let (seed, what) = told(&story, Some(bug)).unwrap_or_else(|| panic!("{bug:?} is not found"));
    assert!(what.contains(says), "{what}");
    println!("{bug:?}: found by story {seed}: {what}");
}

fn at_rest(seed: u64, setup: Setup) -> Option<World> {
    let mut world = World::new(seed, setup, false);
    world.power_on_all();
    settle(&mut world, 60 * S)?;
    Some(world)
}

fn objection_in(world: World) -> Option<String> {
    world.violation.map(|v| format!("{}: {}", v.check, v.text))
}

/// A voter whose grants keep the lease of a node that its leader does not reach is started anew just when that node is cut
/// off from everybody. What it granted before its start it does not know: it must say that it may have granted until then.
fn a_voter_is_started_anew(seed: u64) -> Option<String> {
    let mut world = at_rest(seed, Setup::plain(3))?;
    let leader = usize::from(world.newest_view()?.leader()?.0);
    let (voter, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    world.inflict(Kind::Cut { a: leader, b: lost, one_way: false, all: true }, 5 * S);
    world.run_for((200 + seed * 37 % 250) * MS);
    world.inflict(Kind::Kill { node: voter, guard: true }, 20 * MS);
    world.inflict(Kind::Isolate { node: lost, deaf: false }, 5 * S);
    world.run_for(4 * S);
    objection_in(world)
}

#[test]
fn a_voter_that_forgets_its_grants_is_found() {
    is_found(a_voter_is_started_anew, Cluster::GrantsForgotten, "which is no member, may still serve");
}

/// A service fails on a node that hears nobody, and works again before it hears of its address' move. Not the NFS server: after
/// that had failed nothing would go back for an even spread for a while, which nobody would take for to and fro.
fn a_deaf_nodes_service_fails(seed: u64) -> Option<String> {
    let mut world = at_rest(seed, Setup::plain(2))?;
    let leader = usize::from(world.newest_view()?.leader()?.0);
    world.inflict(Kind::Isolate { node: 1 - leader, deaf: true }, 6 * S);
    world.run_for((100 + seed * 37 % 200) * MS);
    world.inflict(Kind::Service { node: 1 - leader, name: "samba".into() }, S);
    world.run_for(12 * S);
    objection_in(world)
}

#[test]
fn an_order_that_is_carried_out_when_its_reason_is_gone_is_found() {
    is_found(a_deaf_nodes_service_fails, Cluster::NotReconsidered, "goes back from");
}

/// Of two nodes that hear nothing of each other for a while, one is stopped. It asks nobody for a proof, for nobody is there to
/// take its addresses; but it is heard again before its services have been stopped.
fn a_lonely_node_is_stopped(seed: u64) -> Option<String> {
    let mut world = at_rest(seed, Setup { lock: false, ..Setup::plain(2) })?;
    let node = (seed % 2) as usize;
    world.inflict(Kind::Isolate { node, deaf: false }, 550 * MS);
    world.run_for((450 + seed * 37 % 100) * MS);
    world.inflict(Kind::Stop { node }, 8 * S);
    world.run_for(9 * S);
    objection_in(world)
}

#[test]
fn what_a_stopped_daemon_lets_go_of_too_early_is_found() {
    is_found(a_lonely_node_is_stopped, Cluster::StopCountsAsReleased, "may yet carry out what was in hand");
}

/// A member's daemon is killed and started anew before anybody has missed it. One of the others has its first report by then, which
/// says of no clients, and one has not.
fn a_server_is_started_anew(seed: u64) -> Option<String> {
    let mut world = at_rest(seed, Setup { nfs_clients: (0..3).collect(), ..Setup::plain(3) })?;
    world.run_for(2 * S);
    let leader = usize::from(world.newest_view()?.leader()?.0);
    world.inflict(Kind::Kill { node: (leader + 1) % 3, guard: false }, (seed * 37 % 300) * MS);
    world.run_for(3 * S);
    objection_in(world)
}

#[test]
fn clients_that_are_forgotten_with_their_run_are_found() {
    is_found(a_server_is_started_anew, Cluster::ClientsOfLastRunForgotten, "is not in its grace period");
}

/// Where the clients of both nodes hold locks an address moves, and its new host is stopped while it takes it.
fn a_server_is_stopped_while_it_takes(seed: u64) -> Option<String> {
    let setup = Setup { nfs_clients: (0..2).collect(), nfs_locks: (0..2).collect(), ..Setup::plain(2) };
    let (vip, _) = setup.vips[0];
    let mut world = at_rest(seed, setup)?;
    let from = *world.answering(vip).first()?;
    let to = 1 - from;
    world.inflict(Kind::MoveIp { vip, to }, 0);
    for _ in 0..2_000 {
        if world.hosts[to].kernel.addresses.contains(&vip) {
            break;
        }
        world.run_for(MS);
    }
    world.inflict(Kind::Service { node: to, name: "samba".into() }, S);
    world.run_for(3 * S);
    objection_in(world)
}

#[test]
fn an_address_that_leaves_while_it_is_taken_is_found() {
    is_found(a_server_is_stopped_while_it_takes, Cluster::TakingLeavesAtOnce, "has asked nobody for a grace period");
}

/// Of two nodes whose clients hold locks, one has let an address go, and its daemon stands still before it can tell its NFS server
/// to let go of the locks. The other one can decide nothing meanwhile.
fn a_daemon_stands_still_before_it_lets_go(seed: u64) -> Option<String> {
    let setup = Setup { nfs_clients: (0..2).collect(), nfs_locks: (0..2).collect(), lock: false, ..Setup::plain(2) };
    let (vip, _) = setup.vips[0];
    let mut world = at_rest(seed, setup)?;
    let from = *world.answering(vip).first()?;
    world.inflict(Kind::MoveIp { vip, to: 1 - from }, 0);
    for _ in 0..2_000 {
        if !world.hosts[from].kernel.addresses.contains(&vip) {
            break;
        }
        world.run_for(MS);
    }
    world.run_for((seed * 37 % 110) * MS);
    world.inflict(Kind::Pause { node: from, between: true }, 2 * S);
    world.run_for(4 * S);
    objection_in(world)
}

#[test]
fn a_wait_that_is_over_before_it_began_is_found() {
    is_found(a_daemon_stands_still_before_it_lets_go, Cluster::WaitsWhileStanding, "has not let go of its locks");
}
