//! What waits for the core: a queue into which all sides put, none of them waiting, and a lane beside it for heartbeats
//! and grants, whose memory is there from the start: nothing is allocated for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, TrySendError};
use std::time::{Duration, Instant};

use cluster::{AdminReply, AdminRequest, Grant, Heartbeat, Input, Pnn};
use tokio::sync::oneshot;

/// Heartbeats and grants beyond this are dropped: they are out of date, and the next ones are better.
const DATAGRAMS: usize = 2048;
/// Messages beyond this are dropped; the peers send their state again every refresh.
const MESSAGES: usize = 32_768;

/// Something for the core's thread.
#[derive(Debug)]
pub(crate) enum Item {
    /// For the core as it is.
    Input(Input),
    /// A request with somebody who waits for its answer.
    Admin { request: AdminRequest, reply: oneshot::Sender<AdminReply> },
    /// From the network worker.
    Net(net::Event),
    /// Orders to the network worker from another thread, in line with the core's own.
    ToNet(net::Command),
}

/// What has the lane: small, and without memory of its own.
#[derive(Debug)]
enum Datagram {
    Heartbeat(Pnn, u8, Heartbeat),
    Grant(Pnn, Grant),
}

/// Puts things in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    queue: Sender<Item>,
    lane: SyncSender<Datagram>,
    /// Rung after each thing that was put in; one ring is enough for many.
    bell: SyncSender<()>,
    depth: Arc<AtomicUsize>,
}

/// Takes them out: what came over the lane first, all else in its order.
#[derive(Debug)]
pub(crate) struct Outlet {
    queue: Receiver<Item>,
    lane: Receiver<Datagram>,
    bell: Receiver<()>,
    depth: Arc<AtomicUsize>,
}

/// A new queue.
pub(crate) fn inbox() -> (Inbox, Outlet) {
    let (queue, queued) = mpsc::channel();
    let (lane, datagrams) = mpsc::sync_channel(DATAGRAMS);
    let (bell, rung) = mpsc::sync_channel(1);
    let depth = Arc::new(AtomicUsize::new(0));
    let inbox = Inbox { queue, lane, bell, depth: Arc::clone(&depth) };
    (inbox, Outlet { queue: queued, lane: datagrams, bell: rung, depth })
}

impl Inbox {
    /// Puts an input in; false if it was dropped, for the queue is too long. A core that has ended needs nothing.
    pub(crate) fn input(&self, input: Input) -> bool {
        let datagram = match input {
            Input::Heartbeat { from, net, heartbeat } => Datagram::Heartbeat(from, net, heartbeat),
            Input::Grant { from, grant } => Datagram::Grant(from, grant),
            Input::Message { .. } if self.depth.load(Ordering::Relaxed) >= MESSAGES => return false,
            input => {
                self.put(Item::Input(input));
                return true;
            }
        };
        let full = matches!(self.lane.try_send(datagram), Err(TrySendError::Full(_)));
        self.ring();
        !full
    }

    /// Puts anything in; false if the core has ended.
    pub(crate) fn put(&self, item: Item) -> bool {
        self.depth.fetch_add(1, Ordering::Relaxed);
        let there = self.queue.send(item).is_ok();
        self.ring();
        there
    }

    fn ring(&self) {
        // It rings already, or nobody is there any more.
        let _ = self.bell.try_send(());
    }

    /// Asks the core on behalf of an administrator.
    pub(crate) fn admin(&self, request: AdminRequest) -> oneshot::Receiver<AdminReply> {
        let (reply, answer) = oneshot::channel();
        self.put(Item::Admin { request, reply });
        answer
    }
}

/// Nobody can put anything in any more.
#[derive(Debug)]
pub(crate) struct Closed;

impl Outlet {
    /// The next item, if one comes within `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Result<Option<Item>, Closed> {
        let until = Instant::now() + wait;
        loop {
            if let Some(item) = self.take()? {
                return Ok(Some(item));
            }
            let left = until.saturating_duration_since(Instant::now());
            // All that was put in before the ring is there after it; a closed bell is found by taking.
            if left.is_zero() || matches!(self.bell.recv_timeout(left), Err(RecvTimeoutError::Timeout)) {
                return self.take();
            }
        }
    }

    /// What is there already.
    fn take(&self) -> Result<Option<Item>, Closed> {
        match self.lane.try_recv() {
            Ok(Datagram::Heartbeat(from, net, heartbeat)) => {
                return Ok(Some(Item::Input(Input::Heartbeat { from, net, heartbeat })));
            }
            Ok(Datagram::Grant(from, grant)) => return Ok(Some(Item::Input(Input::Grant { from, grant }))),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        match self.queue.try_recv() {
            Ok(item) => {
                self.depth.fetch_sub(1, Ordering::Relaxed);
                Ok(Some(item))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{NodeUid, PnnSet, RunId, Time};
    use std::thread;

    fn heartbeat(sent: u64) -> Input {
        let heartbeat =
            Heartbeat { uid: NodeUid(1), run: RunId(1), view: None, sent: Time(sent), hears: PnnSet::default() };
        Input::Heartbeat { from: Pnn(1), net: 0, heartbeat }
    }

    fn sent(item: Item) -> u64 {
        match item {
            Item::Input(Input::Heartbeat { heartbeat, .. }) => heartbeat.sent.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn heartbeats_pass_what_waits_and_the_newest_are_dropped_when_there_are_too_many() {
        let (inbox, outlet) = inbox();
        assert!(inbox.input(Input::Stop));
        for n in 0..DATAGRAMS as u64 {
            assert!(inbox.input(heartbeat(n)));
        }
        assert!(!inbox.input(heartbeat(u64::MAX)), "one too many");
        assert!(inbox.input(Input::ServicesStopped), "others have room");
        for n in 0..DATAGRAMS as u64 {
            assert_eq!(sent(outlet.next(Duration::ZERO).unwrap().unwrap()), n);
        }
        let left = || outlet.next(Duration::ZERO).unwrap();
        assert!(matches!(left(), Some(Item::Input(Input::Stop))));
        assert!(matches!(left(), Some(Item::Input(Input::ServicesStopped))));
        assert!(left().is_none());
    }

    #[test]
    fn who_waits_is_woken_by_either_and_by_the_end_and_nothing_is_lost() {
        const MANY: u64 = 20_000;
        let (inbox, outlet) = inbox();
        let two = [inbox.clone(), inbox];
        let putting = two.map(|inbox| {
            thread::spawn(move || {
                for n in 0..MANY {
                    while !inbox.input(heartbeat(n)) {
                        thread::yield_now();
                    }
                    inbox.input(Input::Persisted { ticket: n });
                }
            })
        });
        let (mut beats, mut others) = (0, 0);
        let begun = Instant::now();
        while let Ok(item) = outlet.next(Duration::from_secs(60)) {
            match item {
                Some(Item::Input(Input::Heartbeat { .. })) => beats += 1,
                Some(Item::Input(Input::Persisted { .. })) => others += 1,
                other => panic!("{other:?} after {:?}", begun.elapsed()),
            }
        }
        assert_eq!((beats, others), (2 * MANY, 2 * MANY));
        for thread in putting {
            thread.join().unwrap();
        }
    }

    #[test]
    fn nothing_is_allocated_for_heartbeats() {
        let (inbox, outlet) = inbox();
        let there_and_back = || {
            let allocated = allocation_counter::measure(|| {
                for n in 0..1000 {
                    assert!(inbox.input(heartbeat(n)));
                    assert_eq!(sent(outlet.next(Duration::from_secs(1)).unwrap().unwrap()), n);
                    assert!(outlet.next(Duration::from_micros(1)).unwrap().is_none());
                }
            });
            allocated.count_total
        };
        there_and_back();
        assert_eq!(there_and_back(), 0);
    }
}
