//! What waits for the databases' thread: put in by any thread, none of which waits.

use crate::peer::{DataLink, DataSink};
use crate::sync::locked;
use ctdb::server::Input;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, read, write};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

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
    items: Mutex<Option<Vec<Item>>>,
    wake: OwnedFd,
}

impl Post {
    /// A new queue, in memory.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { items: Mutex::new(Some(Vec::new())), wake })))
    }

    /// Puts an item in; false after [`Post::close`]: it is forgotten.
    pub(crate) fn put(&self, item: Item) -> bool {
        let first = {
            let mut items = locked(&self.0.items);
            let Some(items) = &mut *items else { return false };
            items.push(item);
            items.len() == 1
        };
        if first && let Err(error) = write(&self.0.wake, &1u64.to_ne_bytes()) {
            // Not even possible when the counter is full: then it is readable.
            tracing::error!("the databases' thread cannot be woken: {error}");
        }
        true
    }

    /// Nobody takes anything out any more: nothing is kept from now on.
    pub(crate) fn close(&self) {
        locked(&self.0.items).take();
    }

    fn taken(&self) -> bool {
        locked(&self.0.items).is_some()
    }

    /// Becomes readable when something is put into the empty queue.
    pub(super) fn wakes(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    /// All that is there. Only for the one thread that waits.
    pub(super) fn take(&self) -> Vec<Item> {
        // First this, so that whatever is put in from now on wakes again.
        match read(&self.0.wake, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!("the databases' queue: {error}"),
        }
        locked(&self.0.items).as_mut().map(std::mem::take).unwrap_or_default()
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
