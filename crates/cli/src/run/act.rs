//! Commands that change something in the cluster.

use crate::args::Target;
use crate::client::{self, Client};
use crate::exit::Fail;
use crate::out;
use crate::run::drill::confirm;
use cluster::{AdminRequest, AdminState, LACKS, NodeState, NodeStatus, Pnn, Snapshot};
use node::admin::api::{Answer, Request};
use services::storage::heals;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waiting for the next address to be gone. A move takes tens of milliseconds; more is a reason to look.
const MOVES: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn set_state(socket: &Path, target: Target, state: AdminState) -> Result<(), Fail> {
    let (_, node) = named(socket, &target)?;
    change_state(socket, node, target.json.json, state, false, false)
}

pub(super) fn drain(socket: &Path, target: Target, now: bool, yes: bool, wait: bool) -> Result<(), Fail> {
    let (snapshot, node) = named(socket, &target)?;
    may_go_down(&snapshot, node, yes)?;
    change_state(socket, node, target.json.json, AdminState::Drained, now, wait)
}

pub(super) fn stop(socket: &Path, target: Target, yes: bool, wait: bool) -> Result<(), Fail> {
    let (snapshot, node) = named(socket, &target)?;
    may_go_down(&snapshot, node, yes)?;
    change_state(socket, node, target.json.json, AdminState::Stopped, false, wait)
}

fn named(socket: &Path, target: &Target) -> Result<(Snapshot, Pnn), Fail> {
    let snapshot = client::status(socket)?.snapshot;
    let node = match &target.node {
        Some(node) => find(&snapshot, node)?,
        None => snapshot.me,
    };
    Ok((snapshot, node))
}

/// Whoever drains or stops a node is about to take it down: says what must be healed first, and asks.
fn may_go_down(snapshot: &Snapshot, node: Pnn, yes: bool) -> Result<(), Fail> {
    let Some(n) = snapshot.nodes.get(&node) else { return Ok(()) };
    let Some(warning) = heals::holds_back(&n.warnings) else { return Ok(()) };
    eprintln!("{warning}");
    if yes { Ok(()) } else { confirm(&n.name) }
}

fn change_state(socket: &Path, node: Pnn, as_json: bool, state: AdminState, now: bool, wait: bool) -> Result<(), Fail> {
    let command = AdminRequest::SetState { node, state, now };
    let text = Client::ask(socket, &Request::Admin { command })?.all(|_| Ok(()))?;
    if wait {
        wait_until_empty(socket, node, state, !as_json)?;
    }
    out::sentence(&text, as_json)
}

/// So that whoever drains a node before working on it may begin when the command ends. `tells`: says on standard error
/// how far it is.
fn wait_until_empty(socket: &Path, node: Pnn, state: AdminState, tells: bool) -> Result<(), Fail> {
    let mut progress = Progress { tells, held: None, moved: Instant::now(), lingers: false, seen: false };
    loop {
        let snapshot = client::status(socket)?.snapshot;
        let held: BTreeMap<IpAddr, &str> = snapshot
            .vips
            .iter()
            .filter(|(_, vip)| vip.holder == Some(node))
            .map(|(address, vip)| (*address, vip.because.as_str()))
            .collect();
        progress.saw(&snapshot, node, &held);
        if held.is_empty() {
            return Ok(());
        }
        if progress.obeyed(&snapshot, node, state) == Some(false) {
            return Err(Fail::Other(format!(
                "the order was taken back while its addresses were moving; node {node} keeps {}",
                list(held.keys())
            )));
        }
        if progress.moved.elapsed() >= MOVES {
            let held: Vec<String> = held.iter().map(|(address, why)| format!("\n  {address}: {why}")).collect();
            return Err(Fail::Other(format!(
                "the order stands, but for {} s no address has left, and node {node} still holds:{}\nCan another node \
                 host them? See steadfast status",
                MOVES.as_secs(),
                held.concat()
            )));
        }
        sleep(LOOK);
    }
}

/// What has become of an order to give addresses away.
struct Progress {
    tells: bool,
    held: Option<BTreeSet<IpAddr>>,
    /// When the last address left, or the wait for DNS was over.
    moved: Instant,
    lingers: bool,
    /// The node has been in the wanted state.
    seen: bool,
}

impl Progress {
    fn saw(&mut self, snapshot: &Snapshot, node: Pnn, held: &BTreeMap<IpAddr, &str>) {
        let lingers = snapshot.nodes.get(&node).is_some_and(|n| n.lingers);
        if lingers && !self.lingers && self.tells {
            eprintln!("waiting until clients have forgotten what DNS told them; --now does not wait");
        }
        self.lingers = lingers;
        let now: BTreeSet<IpAddr> = held.keys().copied().collect();
        let before = self.held.replace(now.clone()).unwrap_or_else(|| now.clone());
        if lingers || before != now {
            self.moved = Instant::now();
        }
        for address in before.difference(&now).filter(|_| self.tells) {
            let name = |pnn: Pnn| snapshot.nodes.get(&pnn).map_or_else(|| format!("node {pnn}"), |n| n.name.clone());
            let to = snapshot.vips.get(address).and_then(|v| v.holder.or(v.target)).map_or_else(String::new, name);
            eprintln!("{address} has left for {to}; {} to go", now.len());
        }
    }

    /// Is the node in that state? Nothing before its new state has got around.
    fn obeyed(&mut self, snapshot: &Snapshot, node: Pnn, state: AdminState) -> Option<bool> {
        let is = snapshot.nodes.get(&node).map(|n| n.admin == state)?;
        self.seen |= is;
        self.seen.then_some(is)
    }
}

fn list<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    addresses.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn move_ip(socket: &Path, vip: IpAddr, node: &str, as_json: bool) -> Result<(), Fail> {
    let snapshot = client::status(socket)?.snapshot;
    if !snapshot.vips.contains_key(&vip) {
        let known: Vec<String> = snapshot.vips.keys().map(ToString::to_string).collect();
        return Err(Fail::Other(format!("{vip} is no public address; there are: {}", known.join(", "))));
    }
    let to = find(&snapshot, node)?;
    admin(socket, AdminRequest::MoveIp { vip, to }, as_json)
}

pub(super) fn reload(socket: &Path, as_json: bool) -> Result<(), Fail> {
    let text = Client::ask(socket, &Request::Reload)?.all(|_| Ok(()))?;
    out::sentence(&text, as_json)
}

pub(super) fn check_storage(socket: &Path, rounds: Option<u32>, as_json: bool) -> Result<(), Fail> {
    Client::ask(socket, &Request::CheckStorage { rounds })?
        .all(|answer| match answer {
            Answer::Value { value } if as_json => out::json(&value),
            Answer::Text { text } if !as_json => out::line(text.trim_end()),
            Answer::Progress { text } => {
                eprintln!("{text}");
                Ok(())
            }
            _ => Ok(()),
        })
        .and_then(|text| if as_json { Ok(()) } else { out::sentence(&text, false) })
}

pub(super) fn force_view(socket: &Path, yes: bool, because: String, as_json: bool) -> Result<(), Fail> {
    let snapshot = client::status(socket)?.snapshot;
    let me = snapshot.nodes.get(&snapshot.me).map_or_else(|| format!("node {}", snapshot.me), |n| n.name.clone());
    eprintln!("{}", what_force_view_means(&snapshot, &me));
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Fail::Other("nothing was done: there is no terminal to ask on; --yes does it unasked".into()));
        }
        eprint!("To do it, type the cluster's name ({}): ", snapshot.cluster);
        let mut answer = String::new();
        std::io::stderr()
            .flush()
            .and_then(|()| std::io::stdin().read_line(&mut answer))
            .map_err(|e| Fail::Other(format!("nothing was done: cannot read the answer: {e}")))?;
        if answer.trim() != snapshot.cluster {
            return Err(Fail::Other("nothing was done".into()));
        }
    }
    admin(socket, AdminRequest::ForceView { because }, as_json)
}

/// What may be lost, and who must really be gone.
fn what_force_view_means(s: &Snapshot, me: &str) -> String {
    let votes = s.view.as_ref().map(|v| v.voters.clone()).unwrap_or_default();
    let voters: Vec<Pnn> = votes.keys().copied().collect();
    // One whose disk was lost is another by now, without a vote.
    let has_vote = |pnn: &Pnn, node: &NodeStatus| votes.get(pnn).is_some_and(|uid| node.uid.is_none_or(|u| u == *uid));
    let name = |pnn: &Pnn| s.nodes.get(pnn).map_or_else(|| format!("node {pnn}"), |n| n.name.clone());
    let others: Vec<String> = voters.iter().filter(|pnn| **pnn != s.me).map(name).collect();
    let heard: Vec<String> = s
        .nodes
        .iter()
        .filter(|(pnn, n)| **pnn != s.me && !matches!(n.state, NodeState::Down) && has_vote(pnn, n))
        .map(|(_, n)| n.name.clone())
        .collect();
    let warnings = s.nodes.get(&s.me).map(|n| n.warnings.as_slice()).unwrap_or_default();
    if let Some(why) = warnings.iter().find_map(|warning| warning.strip_prefix(LACKS)) {
        return format!(
            "force-view starts a new life of cluster {} in which {me} alone decides, until the others join it.\n\n\
             It is for the case that those who have all that was committed are gone for good{why}.\n\
             What Samba had committed there last, and {me} does not have, is lost: users, passwords, settings.\n\
             If one of them still serves somewhere out of reach, both will write: switch it off first.\n",
            s.cluster
        );
    }
    let mut text = format!(
        "force-view starts a new life of cluster {} in which {me} alone decides.\n\n\
         It is for the case that the other voters of the last view ({}) are gone for good: destroyed, or their disks \
         lost.\n\
         If one of them still serves somewhere out of reach, both will write: files on the shared storage and \
         databases can be damaged, and what was written there last may be lost.\n\
         Switch them off first. When they return they join the new life without their votes.\n",
        s.cluster,
        if others.is_empty() { "none".to_owned() } else { others.join(", ") },
    );
    if !heard.is_empty() {
        text.push_str(&format!(
            "\nWARNING: {} can be heard from here right now, and {} NOT gone.\n",
            heard.join(", "),
            if heard.len() == 1 { "is" } else { "are" }
        ));
    }
    text
}

fn admin(socket: &Path, command: AdminRequest, as_json: bool) -> Result<(), Fail> {
    let text = Client::ask(socket, &Request::Admin { command })?.all(|_| Ok(()))?;
    out::sentence(&text, as_json)
}

/// By name, or by number.
pub(super) fn find(s: &Snapshot, node: &str) -> Result<Pnn, Fail> {
    let by_name = s.nodes.iter().find(|(_, n)| n.name == node).map(|(pnn, _)| *pnn);
    let by_number = || node.parse().ok().map(Pnn).filter(|pnn| s.nodes.contains_key(pnn));
    by_name.or_else(by_number).ok_or_else(|| {
        let known: Vec<String> = s.nodes.iter().map(|(pnn, n)| format!("{} ({pnn})", n.name)).collect();
        Fail::Other(format!("'{node}' is no node of this cluster; there are: {}", known.join(", ")))
    })
}
