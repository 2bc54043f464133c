//! NFS clients' locks over a planned move: the old server lives on (docs/nfs.md).
//!
//! The core is told by which addresses clients hold something; it has all members' Ganeshas in their grace periods before
//! such an address leaves, and this node's own let go afterwards.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use cluster::{Input, PROOF_WAIT, Pnn, RunId};
use net::connections::Connections;
use net::fence::StoragePorts;
use services::nfs_state::{self, Clients};
use services::probe::nfs::NfsProbe;
use services::{Answer, Ask, Grace, MoveGrace};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::nfs::{For, Lost, Nfs, read, root_of};
use super::nfs_ways::address_of;
use super::site;

/// What Ganesha has proved longer ago says nothing when something else is found to hang: twice the time of a proof.
const PROVED: Duration = Duration::from_secs(2);
/// The core waits for less; but locks that are let go of late are better than locks that stay.
const LET_GO: Duration = Duration::from_secs(5);

impl Nfs {
    /// Who is recorded here now.
    pub(super) fn keep(&mut self, found: Clients) {
        self.recorded = found;
        self.recent.saw(&self.recorded.nlm, Instant::now());
        self.ways.recorded(&self.recorded);
        self.say_locks();
    }

    /// Tells the core by which addresses clients hold something that is to outlive a planned move.
    pub(super) fn say_locks(&mut self) {
        let nfs = self.config.borrow().services.nfs.clone();
        let grace = self.in_use.grace && nfs.grace == Grace::WhenNeeded && nfs.grace_at_moves != MoveGrace::Never;
        let v4 = grace && nfs.grace_at_moves == MoveGrace::All;
        let held: BTreeSet<IpAddr> = self.held.keys().copied().collect();
        let news = (self.ways.used(&held, &self.recorded, v4), grace);
        if news != self.said {
            self.said.clone_from(&news);
            self.inbox.input(Input::NfsLocks { addresses: news.0, grace });
        }
    }

    /// An address by which clients of this node hold locks is to leave it. One grace period is enough for all addresses
    /// of a drain, while it goes on for long enough.
    pub(super) fn enter_for_move(&mut self, node: Pnn, (run, number): (RunId, u64)) {
        let clients = self.clients_of(node);
        let now = Instant::now();
        let period = self.setup.as_ref().map_or(Duration::ZERO, |setup| setup.period);
        let covers = |lost: &Lost| lost.entered && covered(&lost.clients, &clients) && lost.until > now + period / 2;
        let nodes = BTreeSet::from([node]);
        let new = if self.lost.get(&node).is_some_and(covers) { BTreeSet::new() } else { nodes.clone() };
        self.enter(For::Move { node, run, number }, nodes, &new);
    }

    /// An address has left this node by plan: Ganesha lets go of what came by it. Who that is is read anew, for a lock that
    /// was taken a moment ago would otherwise stay for ever.
    pub(super) fn let_go(&mut self, vip: IpAddr) {
        let nfs = self.config.borrow().services.nfs.clone();
        if !nfs.enabled || !self.in_use.let_go {
            self.inbox.input(Input::LetGo { vip, end: false, because: None });
            return;
        }
        // Without its grace period it would begin one for that; NFSv4's end with their leases.
        let me = self.config.borrow().me;
        let graced = self.lost.get(&me).is_some_and(|lost| lost.entered && lost.until > Instant::now());
        let (ways, root, server) = (self.ways.clone(), root_of(&self.setup), nfs.probe_address.ip());
        self.letting_go.spawn(async move {
            let mut clients = match read(root).await {
                Ok(clients) => ways.by(vip, &clients),
                Err(why) => return (vip, Clients::default(), Err(why)),
            };
            if !graced {
                clients.v4.clear();
            }
            let done = nfs_state::let_go(server, &clients, LET_GO).await;
            (vip, clients, done)
        });
    }

    /// An address is to leave: does Ganesha answer, and its storage through it, and the shared mount where smbd serves it?
    /// Nothing of this waits here.
    pub(super) fn prove(&self, number: u64) {
        let nfs = self.config.borrow().services.nfs.clone();
        let inbox = self.inbox.clone();
        if !self.in_use.end {
            inbox.input(Input::Proved { number, because: None });
            return;
        }
        let mount = self.ask(|answer| Ask::Prove(PROOF_WAIT, answer));
        self.proved.send_replace(None);
        let proved = self.proved.clone();
        tokio::spawn(async move {
            let server = async {
                if nfs.enabled {
                    NfsProbe::new(&nfs, PROOF_WAIT).run().await.map_err(|error| error.to_string())?;
                    proved.send_replace(Some(Instant::now()));
                }
                Ok::<(), String>(())
            };
            let because = tokio::try_join!(server, mount).err();
            inbox.input(Input::Proved { number, because });
        });
    }

    /// An address has left this node by plan, and Ganesha or the storage hangs: what hangs is ended, for what it has in hand
    /// would be carried out when the storage answers again, after what the clients write elsewhere. All locks end with it.
    /// One end does for all addresses that have left before it.
    pub(super) fn end(&mut self, vip: IpAddr) {
        if !self.in_use.end {
            self.inbox.input(Input::LetGo { vip, end: true, because: None });
            return;
        }
        self.ending_for.insert(vip);
        if self.ending.is_empty() {
            let proved = self.proved.borrow().is_some_and(|at| at.elapsed() < PROVED);
            let end = if proved {
                self.ask(|answer| Ask::End { nfs: false, answer })
            } else {
                self.ask(|answer| Ask::End { nfs: true, answer })
            };
            let ports = site::fenced(&self.config.borrow());
            self.ending.spawn(async move {
                // Also where only a part of it could be ended.
                let ended = end.await;
                ended.and(send_no_more(ports).await)
            });
        }
    }

    /// Asks the services' manager, and gives its answer.
    fn ask(&self, ask: fn(Answer) -> Ask) -> impl Future<Output = Result<(), String>> + use<> {
        let (answer, answered) = oneshot::channel();
        // Where nobody hears it any more, nobody answers.
        drop(self.asks.send(ask(answer)));
        async { answered.await.unwrap_or_else(|_| Err("the services are being stopped".to_owned())) }
    }

    /// What hung has ended, or cannot be made to.
    pub(super) fn has_ended(&mut self, done: &Result<(), String>) {
        for vip in std::mem::take(&mut self.ending_for) {
            if done.is_ok() {
                tracing::info!(addr = %vip, "what hung here when the address had left was ended");
            }
            self.inbox.input(Input::LetGo { vip, end: true, because: done.clone().err() });
            self.ways.let_go(vip);
        }
        self.say_locks();
    }

    /// Ganesha has let go of these clients, or of some of them. All NFSv3 locks of a client go, by whatever address they
    /// came: those of addresses that stay are to be reclaimed here.
    pub(super) fn has_let_go(&mut self, vip: IpAddr, clients: &Clients, done: Result<(), String>) {
        if !clients.is_empty() {
            tracing::info!(
                "NFS-Ganesha lets go of {} hosts with NFSv3 locks and {} NFSv4 clients that came by {vip}",
                clients.nlm.len(),
                clients.v4.len()
            );
        }
        self.inbox.input(Input::LetGo { vip, end: false, because: done.err() });
        self.ways.let_go(vip);
        let me = self.config.borrow().me;
        let until = self.lost.get(&me).filter(|lost| lost.entered).map(|lost| lost.until);
        self.say_locks();
        let Some(until) = until else { return };
        let stay: Vec<IpAddr> = self.held.keys().filter(|held| **held != vip).copied().collect();
        for client in &clients.nlm {
            for stays in &stay {
                if self.ways.may_use(address_of(client), *stays) {
                    self.tell_one(client.clone(), *stays, until);
                }
            }
        }
    }
}

/// A killed program's kernel sends on what the program has given to it: its connections to the storage are destroyed.
async fn send_no_more(ports: StoragePorts) -> Result<(), String> {
    let orphans = move || Connections::open()?.end_orphans(&ports);
    let failed =
        |error: &dyn Display| format!("what the ended programs gave to the network may still be sent: {error}");
    match tokio::task::spawn_blocking(orphans).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(n)) => {
            tracing::info!("{n} storage connections of what was ended were destroyed, with what they had to send");
            Ok(())
        }
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

/// Are these all among those that Ganesha knows already?
fn covered(known: &Clients, clients: &Clients) -> bool {
    clients.v4.is_subset(&known.v4) && clients.nlm.is_subset(&known.nlm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_covers_who_was_named_when_it_began() {
        let of =
            |names: &[&str]| Clients { nlm: names.iter().map(|n| (*n).to_owned()).collect(), ..Clients::default() };
        assert!(covered(&of(&["a", "b"]), &of(&["b"])) && covered(&of(&[]), &of(&[])));
        assert!(!covered(&of(&["a"]), &of(&["a", "b"])));
    }
}
