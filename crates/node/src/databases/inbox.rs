//! What waits for the databases' thread: put in by any thread. None waits, but those that bring large parts of files:
//! they do when too many of these are there, so that a file of any size costs bounded memory.

use crate::peer::{DataLink, DataSink};
use crate::sync::locked;
use ctdb::server::Input;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, read, write};
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Something for the thread.
#[derive(Debug)]
pub(crate) enum Item {
    /// For the core as it is.
    Input(Input),
    /// A data link to a peer, in place of an older one.
    Link(Box<DataLink>),
    /// This node is about to give these addresses up: tell the clients, then say that they have been told.
    Releasing(Vec<IpAddr>),
    /// End: close all clients, remove the socket.
    Stop,
}

/// Puts things in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Post(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None: nobody takes them any more.
    items: Mutex<Option<Items>>,
    /// There is room for parts of files, or nobody takes them any more.
    room: Condvar,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Items {
    urgent: Vec<Item>,
    parts: VecDeque<Item>,
}

/// Parts of files that wait at most; each is of some hundred KiB.
const PARTS: usize = 32;
/// Of these, taken at a time: clients' requests come between.
const PARTS_AT_ONCE: usize = 4;

impl Post {
    /// A new queue, in memory.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { items: Mutex::new(Some(Items::default())), room: Condvar::new(), wake })))
    }

    /// Puts an item in; false after [`Post::close`]: it is forgotten.
    pub(crate) fn put(&self, item: Item) -> bool {
        let first = {
            let mut items = locked(&self.0.items);
            let Some(items) = &mut *items else { return false };
            items.urgent.push(item);
            items.urgent.len() == 1
        };
        if first {
            self.wake();
        }
        true
    }

    /// Puts in a part of a file, when there is room for it: from threads that can wait only. These parts stay in order,
    /// and behind everything else. After [`Post::close`] it is forgotten.
    pub(crate) fn put_part(&self, item: Item) {
        let first = {
            let mut items = locked(&self.0.items);
            while items.as_ref().is_some_and(|items| items.parts.len() >= PARTS) {
                items = self.0.room.wait(items).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(items) = &mut *items else { return };
            items.parts.push_back(item);
            items.parts.len() == 1
        };
        if first {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Err(error) = write(&self.0.wake, &1u64.to_ne_bytes()) {
            // Not even possible when the counter is full: then it is readable.
            tracing::error!("the databases' thread cannot be woken: {error}");
        }
    }

    /// Nobody takes anything out any more: nothing is kept from now on.
    pub(crate) fn close(&self) {
        locked(&self.0.items).take();
        self.0.room.notify_all();
    }

    fn taken(&self) -> bool {
        locked(&self.0.items).is_some()
    }

    /// Becomes readable when something is put into the empty queue.
    pub(super) fn wakes(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    /// All that is there, with some parts of files if they can be used now; true if others are left. Only for the one
    /// thread that waits.
    pub(super) fn take(&self, with_parts: bool) -> (Vec<Item>, bool) {
        // First this, so that whatever is put in from now on wakes again.
        match read(&self.0.wake, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!("the databases' queue: {error}"),
        }
        let mut items = locked(&self.0.items);
        let Some(items) = &mut *items else { return (Vec::new(), false) };
        let mut all = std::mem::take(&mut items.urgent);
        if with_parts {
            let some = items.parts.len().min(PARTS_AT_ONCE);
            all.extend(items.parts.drain(..some));
            self.0.room.notify_all();
        }
        (all, !items.parts.is_empty())
    }
}

impl DataSink for Post {
    fn wanted(&self) -> bool {
        self.taken()
    }
    fn take(&self, link: DataLink) {
        self.put(Item::Link(Box::new(link)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[track_caller]
    fn until(mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn parts_of_files_wait_for_room_and_nothing_waits_for_them() {
        let post = Post::new().unwrap();
        let put = Arc::new(AtomicUsize::new(0));
        let (theirs, count) = (post.clone(), Arc::clone(&put));
        let thread = std::thread::spawn(move || {
            for _ in 0..100 {
                theirs.put_part(Item::Stop);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        until(|| put.load(Ordering::SeqCst) == PARTS);
        post.put(Item::Input(Input::Wake));
        let (items, left) = post.take(false);
        assert!(matches!(items[..], [Item::Input(Input::Wake)]) && left);
        let (items, left) = post.take(true);
        assert!(items.len() == PARTS_AT_ONCE && left);
        until(|| put.load(Ordering::SeqCst) == PARTS + PARTS_AT_ONCE);
        // Nobody takes them any more.
        post.close();
        thread.join().unwrap();
        assert!(post.take(true).0.is_empty());
    }
}
