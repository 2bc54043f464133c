//! The cluster lock and its records, for the core: one task that drives the helper which touches the filesystem.
//!
//! The lock is wanted in the background: tried every [`RETRY`] (sooner at first), looked after every [`RECHECK`] while
//! it is held. Exchanges of records go before both. Every call has a deadline in the helper's hands, so a hang costs one call.

use std::time::Duration;

use cluster::{Input, LockRecord, Pnn};
use services::storage::lock::{Acquired, ClusterLock, Exchange};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::inbox::Inbox;

/// Between two attempts to get the lock.
const RETRY: Duration = Duration::from_millis(1000);
/// The same for [`HURRY`] after it was first wanted: its last holder is being shut out of the storage just then, and the
/// lock is free a few milliseconds later.
const RETRY_SOON: Duration = Duration::from_millis(50);
const HURRY: Duration = Duration::from_secs(3);
/// Between two looks at a lock that is held.
const RECHECK: Duration = Duration::from_secs(2);
/// A call into the filesystem that takes longer is given up and its helper killed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

/// What the core (or a new configuration) orders.
#[derive(Debug)]
pub(crate) enum LockOrder {
    /// Get and keep the lock, or give it back.
    Want(bool),
    /// Write the own record, read all.
    Exchange { ticket: u64, record: Box<LockRecord> },
    /// Another lock, or none (with the reason), and the nodes whose records to look for.
    Use { lock: Option<Box<ClusterLock>>, none_because: String, peers: Vec<Pnn> },
    /// End the helpers, and this task.
    End,
}

/// The task.
#[derive(Debug)]
pub(crate) struct LockTask {
    inbox: Inbox,
    lock: Option<ClusterLock>,
    none_because: String,
    peers: Vec<u32>,
    wanted: bool,
    held: bool,
    /// What the core was told last.
    said: Option<(bool, String)>,
    next: Instant,
    /// When it was wanted, or another lock was to be used.
    since: Instant,
}

impl LockTask {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self {
            inbox,
            lock: None,
            none_because: "no cluster lock is configured".to_owned(),
            peers: Vec::new(),
            wanted: false,
            held: false,
            said: None,
            next: Instant::now(),
            since: Instant::now(),
        }
    }

    /// Runs until told to end or until nobody can give orders any more.
    pub(crate) async fn run(mut self, mut orders: UnboundedReceiver<LockOrder>) {
        loop {
            let order = tokio::select! {
                biased;
                order = orders.recv() => order,
                () = sleep_until(self.next), if self.wanted && self.lock.is_some() => {
                    self.look_after().await;
                    continue;
                }
            };
            match order {
                Some(LockOrder::Want(wanted)) => self.want(wanted).await,
                Some(LockOrder::Exchange { ticket, record }) => self.exchange(ticket, &record).await,
                Some(LockOrder::Use { lock, none_because, peers }) => {
                    self.stop().await;
                    self.lock = lock.map(|lock| *lock);
                    self.none_because = none_because;
                    self.peers = peers.into_iter().map(|p| u32::from(p.0)).collect();
                    self.next = Instant::now();
                    self.since = self.next;
                    if self.lock.is_none() && self.wanted {
                        self.say(false, self.none_because.clone());
                    }
                }
                Some(LockOrder::End) | None => return self.stop().await,
            }
        }
    }

    async fn want(&mut self, wanted: bool) {
        self.next = Instant::now();
        if wanted && !self.wanted {
            self.since = self.next;
        }
        self.wanted = wanted;
        let Some(lock) = &mut self.lock else {
            if wanted {
                self.say(false, self.none_because.clone());
            }
            return;
        };
        if !wanted && self.held {
            let because = match lock.release().await {
                Ok(()) => "given back".to_owned(),
                Err(error) => {
                    // Its helper's end frees it in any case.
                    lock.stop().await;
                    format!("given back the hard way: {error}")
                }
            };
            self.say(false, because);
        }
    }

    /// Tries to get the lock, or looks whether it is still held.
    async fn look_after(&mut self) {
        let Some(lock) = &mut self.lock else { return };
        let (held, because) = if self.held {
            match lock.not_held().await {
                Ok(None) => (true, String::new()),
                Ok(Some(why)) => (false, format!("lost: {why}")),
                Err(error) => (false, format!("lost: {error}")),
            }
        } else {
            match lock.acquire().await {
                Ok(Acquired::Held) => (true, "got it".to_owned()),
                Ok(Acquired::Contended { by: Some(holder) }) => (false, format!("{holder} holds it")),
                Ok(Acquired::Contended { by: None }) => (false, "somebody else holds it".to_owned()),
                Err(error) => (false, error.to_string()),
            }
        };
        if !(self.held && held) {
            self.say(held, because);
        }
        let now = Instant::now();
        self.next = now
            + match self.held {
                true => RECHECK,
                false if now.duration_since(self.since) < HURRY => RETRY_SOON,
                false => RETRY,
            };
    }

    async fn exchange(&mut self, ticket: u64, record: &LockRecord) {
        let Some(lock) = &mut self.lock else {
            let result = Err(self.none_because.clone());
            self.inbox.input(Input::Records { ticket, result });
            return;
        };
        let value = match serde_json::to_value(record) {
            Ok(value) => value,
            Err(error) => {
                let result = Err(format!("this node's record cannot be written as JSON: {error}"));
                self.inbox.input(Input::Records { ticket, result });
                return;
            }
        };
        let result = match lock.exchange(&value, &self.peers).await {
            Ok(exchange) => {
                if let (true, Some(why)) = (self.held, &exchange.not_held) {
                    self.say(false, format!("lost: {why}"));
                    self.next = Instant::now();
                }
                records(exchange)
            }
            Err(error) => {
                if self.held {
                    // The helper that held it may have been killed for this.
                    self.next = Instant::now();
                }
                Err(error.to_string())
            }
        };
        self.inbox.input(Input::Records { ticket, result });
    }

    fn say(&mut self, held: bool, because: String) {
        self.held = held;
        if self.said.as_ref() != Some(&(held, because.clone())) {
            self.said = Some((held, because.clone()));
            self.inbox.input(Input::Lock { held, because });
        }
    }

    async fn stop(&mut self) {
        if let Some(mut lock) = self.lock.take() {
            lock.stop().await;
        }
        if self.held {
            self.say(false, "given back: the configuration changed or the daemon ends".to_owned());
        }
    }
}

/// All records, or the first reason why not all can be believed.
fn records(exchange: Exchange) -> Result<Vec<LockRecord>, String> {
    exchange
        .records
        .into_iter()
        .map(|record| {
            let bad = |why: String| format!("the record of node {} beside the cluster lock: {why}", record.pnn);
            let value = record.content.map_err(bad)?;
            serde_json::from_value::<LockRecord>(value).map_err(|e| bad(e.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Item, Outlet, inbox};
    use super::*;
    use cluster::{Ballot, Epoch, Incarnation, NodeUid};
    use serde_json::json;
    use services::storage::lock::Record;
    use tokio::sync::mpsc;

    fn record(pnn: u16) -> LockRecord {
        let uid = NodeUid(u128::from(pnn) + 1);
        LockRecord {
            pnn: Pnn(pnn),
            uid,
            incarnation: Incarnation::default(),
            epoch: Epoch(4),
            ballot: Ballot { round: 1, uid },
            accepted: None,
        }
    }

    fn next(outlet: &Outlet) -> Input {
        match outlet.next(Duration::from_secs(10)).unwrap() {
            Some(Item::Input(input)) => input,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn without_a_lock_everything_is_answered_with_the_reason() {
        let (inbox, outlet) = inbox();
        let (orders, queue) = mpsc::unbounded_channel();
        orders.send(LockOrder::Want(true)).unwrap();
        orders.send(LockOrder::Want(true)).unwrap();
        orders.send(LockOrder::Exchange { ticket: 7, record: Box::new(record(0)) }).unwrap();
        orders.send(LockOrder::End).unwrap();
        LockTask::new(inbox).run(queue).await;
        assert!(matches!(next(&outlet), Input::Lock { held: false, because } if because.contains("no cluster lock")));
        assert!(
            matches!(next(&outlet), Input::Records { ticket: 7, result: Err(why) } if why.contains("no cluster lock"))
        );
        assert!(outlet.next(Duration::ZERO).is_err(), "told twice");
    }

    #[test]
    fn one_unreadable_record_is_a_no() {
        let good = |pnn: u16| Record { pnn: u32::from(pnn), content: Ok(serde_json::to_value(record(pnn)).unwrap()) };
        let all = Exchange { records: vec![good(0), good(1)], not_held: None };
        assert_eq!(records(all), Ok(vec![record(0), record(1)]));
        let torn = Record { pnn: 1, content: Err("checksum".into()) };
        let why = records(Exchange { records: vec![good(0), torn], not_held: None }).unwrap_err();
        assert!(why.contains("node 1") && why.contains("checksum"), "{why}");
        let foreign = Record { pnn: 2, content: Ok(json!({"pnn": "two"})) };
        assert!(records(Exchange { records: vec![foreign], not_held: None }).is_err());
    }
}
