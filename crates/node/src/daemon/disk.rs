//! The thread that puts votes on disk.
//!
//! States that come while one is being written are merged: the newest is written, and every ticket up to it is
//! answered. A failure is answered to all of them with the disk's words; the core decides what to do about it.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use cluster::{Durable, Input};

use super::inbox::Inbox;

/// Where votes are written. The state store in the daemon; a test's own otherwise.
pub(crate) trait Votes: Send + 'static {
    /// On disk when this returns.
    fn save(&mut self, votes: &Durable) -> Result<(), String>;
}

impl Votes for crate::state::StateStore {
    fn save(&mut self, votes: &Durable) -> Result<(), String> {
        Self::save(self, votes).map_err(|e| e.to_string())
    }
}

/// A ticket and the state that it stands for.
pub(crate) type Write = (u64, Durable);

/// Starts the thread. It ends, and closes the store, when the sender is dropped.
pub(crate) fn start(mut votes: impl Votes, inbox: Inbox) -> io::Result<Sender<Write>> {
    let (writes, queue) = mpsc::channel::<Write>();
    thread::Builder::new().name("votes".into()).stack_size(256 << 10).spawn(move || {
        // A lease is not renewed under a view whose votes are not on disk yet.
        crate::priority::realtime();
        while let Ok((ticket, mut newest)) = queue.recv() {
            let mut tickets = vec![ticket];
            for (ticket, state) in queue.try_iter() {
                tickets.push(ticket);
                newest = state;
            }
            let result = votes.save(&newest);
            for ticket in tickets {
                inbox.input(match &result {
                    Ok(()) => Input::Persisted { ticket },
                    Err(error) => Input::PersistFailed { ticket, error: error.clone() },
                });
            }
        }
    })?;
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Item, Outlet, inbox};
    use super::*;
    use cluster::{Ballot, NodeUid, Pnn};
    use std::time::Duration;

    struct Scripted {
        begun: Sender<u64>,
        go_on: mpsc::Receiver<Result<(), String>>,
    }

    impl Votes for Scripted {
        fn save(&mut self, votes: &Durable) -> Result<(), String> {
            self.begun.send(votes.promised.round).map_err(|e| e.to_string())?;
            self.go_on.recv().map_err(|e| e.to_string())?
        }
    }

    fn state(round: u64) -> Durable {
        let uid = NodeUid(1);
        Durable { promised: Ballot { round, uid }, ..Durable::blank(Pnn(0), uid) }
    }

    fn answer(outlet: &Outlet) -> Result<u64, (u64, String)> {
        match outlet.next(Duration::from_secs(10)).unwrap() {
            Some(Item::Input(Input::Persisted { ticket })) => Ok(ticket),
            Some(Item::Input(Input::PersistFailed { ticket, error })) => Err((ticket, error)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_newest_state_is_written_once_and_every_ticket_is_answered() {
        let (inbox, outlet) = inbox();
        let (begun, saves) = mpsc::channel();
        let (finish, go_on) = mpsc::channel();
        let writes = start(Scripted { begun, go_on }, inbox).unwrap();
        writes.send((1, state(10))).unwrap();
        assert_eq!(saves.recv().unwrap(), 10);
        for n in 2..=5 {
            writes.send((n, state(n * 10))).unwrap();
        }
        assert!(outlet.next(Duration::ZERO).unwrap().is_none(), "answered before it is on disk");
        finish.send(Ok(())).unwrap();
        assert_eq!(answer(&outlet), Ok(1));
        assert_eq!(saves.recv().unwrap(), 50);
        finish.send(Err("No space left on device".into())).unwrap();
        for n in 2..=5 {
            assert_eq!(answer(&outlet), Err((n, "No space left on device".into())));
        }
    }
}
