//! The databases' thread, as a part of this daemon: what it starts from, and what it wants of the others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use cluster::{AdminRequest, AdminState, Pnn, Restraint, Snapshot};
use ctdb::server::{FileAnswer, Input, Server, Wish};
use ctdb::wire::Connection;
use net::ClientConnection;
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;

use super::handler::Reload;
use super::inbox::Inbox;
use super::site::Word;
use super::tickles::{self, News};
use crate::config::{Config, ListEdit};
use crate::databases::files::{Dirs, Files};
use crate::databases::picture::picture;
use crate::databases::{Databases, Item, LATENCY, Outside, Post, Served, now};

/// Standing warning.
const KEY: &str = "databases";

/// What the thread wants of the daemon.
struct Daemon {
    inbox: Inbox,
    wishes: mpsc::UnboundedSender<Wish>,
    tickles: tickles::Sender,
}

impl Outside for Daemon {
    fn wish(&self, wish: Wish) {
        // The task ends with the daemon only.
        let _ = self.wishes.send(wish);
    }

    fn told(&self, addrs: Vec<IpAddr>) {
        self.inbox.put(super::inbox::Item::ToNet(net::Command::Told { addrs }));
    }

    fn recovered(&self, view: u64) {
        self.inbox.input(cluster::Input::Recovered { view });
    }

    fn connection(&self, connection: Connection, told: bool) {
        let Connection { client, server: vip } = connection;
        // The task ends with the daemon only.
        let _ = self.tickles.send(News::Told { connection: ClientConnection { vip, client }, told });
    }

    fn warn(&self, text: String) {
        self.inbox.input(cluster::Input::Warning { key: KEY.to_owned(), text });
    }
}

/// Where the thread is to serve, if this configuration wants it.
pub(super) fn wanted(config: &Config) -> Option<&Path> {
    config.databases.as_ref().map(|databases| &*databases.socket)
}

/// Whether the processors are kept from sleeping deeply for it.
pub(super) fn keeps_awake(config: &Config) -> bool {
    config.databases.as_ref().is_some_and(|databases| databases.keep_awake)
}

/// Starts the thread, if the configuration wants it. Without it the daemon serves on, with a standing warning.
pub(super) fn start(
    post: &Post,
    config: &Config,
    state_dir: &Path,
    inbox: Inbox,
    wishes: mpsc::UnboundedSender<Wish>,
    tickles: tickles::Sender,
) -> Option<Databases> {
    let Some(places) = config.databases.clone() else {
        post.close();
        return None;
    };
    let me = u32::from(config.me.0);
    let [volatile, persistent, state] = places.dirs.unwrap_or_else(|| {
        // Samba's processes open the files by the paths that they are told, wherever they stand.
        let db = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned()).join("db");
        [db.join("volatile"), db.join("persistent"), db.join("state")]
    });
    let dirs = Dirs { volatile, persistent, state };
    let (tunables, leads, lmaster) = (places.tunables, places.leads, places.lmaster);
    let answers = post.clone();
    let make = move || {
        // Parts of files, and what comes in order with them, from threads that only do this.
        let part = |answer: &FileAnswer| matches!(answer, FileAnswer::Recovery { .. } | FileAnswer::Traversed { .. });
        let answer = Arc::new(move |db, answer| {
            let bulky = part(&answer);
            let item = Item::Input(Input::File { db, answer });
            if bulky {
                answers.put_part(item);
            } else {
                answers.put(item);
            }
        });
        let (files, found) = Files::new(dirs, me, answer).map_err(|error| error.to_string())?;
        let mut server = Server::new(me, getpid().as_raw_nonzero().get(), found, now());
        for (name, value) in &tunables {
            server.tune(name, *value);
        }
        server.limit_roles(leads, lmaster);
        Ok((server, files))
    };
    let daemon = Daemon { inbox: inbox.clone(), wishes, tickles };
    let served = Served { socket: places.socket, keep_awake: places.keep_awake.then(|| LATENCY.into()) };
    match Databases::start(post.clone(), served, make, daemon) {
        Ok(databases) => Some(databases),
        Err(error) => {
            let text = format!("Samba's databases are off: their thread cannot be started: {error}");
            tracing::error!("{text}");
            post.close();
            inbox.input(cluster::Input::Warning { key: KEY.to_owned(), text });
            None
        }
    }
}

/// Tells the thread what the cluster looks like, whenever that changes.
pub(super) async fn tell(
    post: Post,
    mut config: watch::Receiver<Arc<Config>>,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
) {
    let mut told = None;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let new = picture(&snapshot, &config.borrow_and_update());
            if told.as_ref() != Some(&new) {
                told = Some(new.clone());
                post.put(Item::Input(Input::Picture(Box::new(new))));
            }
        }
        // Both end with the daemon only.
        tokio::select! {
            Ok(()) = snapshots.changed() => {}
            Ok(()) = config.changed() => {}
            else => return,
        }
    }
}

/// Carries out what administrators want through the databases' socket (`ctdb disable`, `ctdb moveip` and so on), as if
/// they had asked `steadfast`. The end of a ban is awaited here: after a daemon that ended first somebody must lift it.
pub(super) async fn carry_out(
    inbox: Inbox,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    (reload, words): (mpsc::Sender<Reload>, mpsc::UnboundedSender<Word>),
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) {
    let mut bans: BTreeMap<u32, AbortHandle> = BTreeMap::new();
    while let Some(wish) = wishes.recv().await {
        tracing::info!("asked for at the databases' socket: {wish:?}");
        let (node, state) = match wish {
            Wish::Disable(node) => (node, AdminState::Drained),
            Wish::Enable(node) | Wish::Continue(node) => (node, AdminState::Active),
            Wish::Stop(node) => (node, AdminState::Stopped),
            Wish::Ban(node, time) if time.is_zero() => (node, AdminState::Active),
            Wish::Ban(node, time) => {
                let (later, snapshots) = (inbox.clone(), snapshots.clone());
                let ban = tokio::spawn(async move {
                    sleep(time).await;
                    let still = |s: &Arc<Snapshot>| {
                        s.nodes.iter().any(|(pnn, n)| u32::from(pnn.0) == node && n.admin == AdminState::Banned)
                    };
                    if snapshots.borrow().as_ref().is_some_and(still) {
                        ask(&later, set(node, AdminState::Active));
                    }
                });
                if let Some(earlier) = bans.insert(node, ban.abort_handle()) {
                    earlier.abort();
                }
                ask(&inbox, set(node, AdminState::Banned));
                continue;
            }
            Wish::Move(vip, to) => {
                ask(&inbox, pnn(to).map(|to| AdminRequest::MoveIp { vip, to }));
                continue;
            }
            Wish::Add(address, prefix_len, interface) => {
                // It ends with the daemon only.
                let _ = words.send(Word::Own(ListEdit::Add(address, prefix_len, interface)));
                continue;
            }
            Wish::Remove(address) => {
                let _ = words.send(Word::Own(ListEdit::Remove(address)));
                continue;
            }
            Wish::Link(name, up) => {
                inbox.input(cluster::Input::Interface { name, up });
                continue;
            }
            Wish::Announce(addr) => {
                inbox.put(super::inbox::Item::ToNet(net::Command::Announce { addr }));
                continue;
            }
            Wish::Restrain { no_takeover, no_failback } => {
                inbox.input(cluster::Input::Restraint(Restraint { no_takeover, no_failback }));
                continue;
            }
            Wish::Reload => {
                let (reply, answer) = oneshot::channel();
                // Its failure is told by who carries it out.
                if reload.send(reply).await.is_ok() {
                    tokio::spawn(answer);
                }
                continue;
            }
            Wish::ShutDown => {
                if let Err(error) = kill_process(getpid(), Signal::TERM) {
                    tracing::error!("the daemon cannot end itself: {error}");
                }
                continue;
            }
        };
        if let Some(ban) = bans.remove(&node) {
            ban.abort();
        }
        ask(&inbox, set(node, state));
    }
}

fn pnn(node: u32) -> Result<Pnn, String> {
    u16::try_from(node).map(Pnn).map_err(|_| format!("there is no node {node}"))
}

fn set(node: u32, state: AdminState) -> Result<AdminRequest, String> {
    Ok(AdminRequest::SetState { node: pnn(node)?, state, now: true })
}

/// In order; the answers come when they come.
fn ask(inbox: &Inbox, request: Result<AdminRequest, String>) -> Option<JoinHandle<()>> {
    let answer = match request {
        Ok(request) => inbox.admin(request),
        Err(why) => {
            tracing::warn!("what was asked for at the databases' socket is not done: {why}");
            return None;
        }
    };
    Some(tokio::spawn(async move {
        match answer.await {
            Ok(Ok(text)) => tracing::info!("{text}, as asked for at the databases' socket"),
            Ok(Err(why)) => tracing::warn!("what was asked for at the databases' socket is not done: {why}"),
            // The daemon is ending.
            Err(_) => {}
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Item, inbox};
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn wishes_become_an_administrators_requests_in_their_order() {
        let (inbox, outlet) = inbox();
        let (wishes, wished) = mpsc::unbounded_channel();
        let (reload, mut reloads) = mpsc::channel(1);
        let (_snapshots, seen) = watch::channel(None);
        let vip = "10.0.0.9".parse().unwrap();
        for wish in [
            Wish::Disable(1),
            Wish::Enable(1),
            Wish::Stop(0),
            Wish::Disable(70_000),
            Wish::Continue(0),
            Wish::Ban(2, Duration::from_secs(3600)),
            Wish::Ban(2, Duration::ZERO),
            Wish::Reload,
            Wish::Remove(vip),
            Wish::Move(vip, 1),
            Wish::Announce(vip),
        ] {
            wishes.send(wish).unwrap();
        }
        drop(wishes);
        let (words, mut said) = mpsc::unbounded_channel();
        carry_out(inbox, seen, (reload, words), wished).await;
        assert!(matches!(said.try_recv(), Ok(Word::Own(ListEdit::Remove(address))) if address == vip));
        let mut asked = Vec::new();
        let next = loop {
            match outlet.next(Duration::ZERO) {
                Ok(Some(Item::Admin { request, .. })) => asked.push(request),
                other => break other,
            }
        };
        assert!(matches!(next, Ok(Some(Item::ToNet(net::Command::Announce { addr }))) if addr == vip));
        let set = |node, state| AdminRequest::SetState { node: Pnn(node), state, now: true };
        use AdminState::{Active, Banned, Drained, Stopped};
        let expected = [(1, Drained), (1, Active), (0, Stopped), (0, Active), (2, Banned), (2, Active)];
        let mut expected: Vec<_> = expected.map(|(node, state)| set(node, state)).into();
        expected.push(AdminRequest::MoveIp { vip, to: Pnn(1) });
        assert_eq!(asked, expected);
        assert!(reloads.recv().await.is_some());
    }
}
