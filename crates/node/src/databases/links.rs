//! The data links to the other nodes' servers, and which of them have something to be written.

use super::link::Link;
use crate::peer::DataLink;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::io;

/// The links that are up.
#[derive(Debug, Default)]
pub(super) struct Links {
    up: BTreeMap<u32, Link>,
    /// Those with something to be written that is not awaited yet.
    unwritten: Vec<u32>,
}

impl Links {
    /// A new one. There must be none to this peer.
    ///
    /// # Errors
    /// The poller does not take it.
    pub(super) fn insert(&mut self, link: DataLink, poll: &OwnedFd) -> io::Result<()> {
        let peer = u32::from(link.peer.0);
        let link = Link::new(link);
        watch(poll, peer, &link, false)?;
        self.up.insert(peer, link);
        Ok(())
    }

    /// True if there was one. It is taken from the poller by name: the peers hold the connection, too, until they notice,
    /// and meanwhile its end would wake this thread again and again.
    pub(super) fn remove(&mut self, peer: u32, poll: &OwnedFd) -> bool {
        self.unwritten.retain(|other| *other != peer);
        let Some(link) = self.up.remove(&peer) else { return false };
        if let Err(error) = epoll::delete(poll, &link) {
            tracing::error!(peer, "a data link that is over is still watched: {error}");
        }
        true
    }

    /// Bytes that the peers have not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.up.values().map(Link::waiting).max().unwrap_or(0)
    }

    /// Dropped if the link is down.
    pub(super) fn push(&mut self, to: u32, bytes: &[u8]) {
        let Some(link) = self.up.get_mut(&to) else { return };
        link.push(bytes);
        if !link.awaited {
            self.again(to);
        }
    }

    /// It can be written to.
    pub(super) fn again(&mut self, peer: u32) {
        if !self.unwritten.contains(&peer) {
            self.unwritten.push(peer);
        }
    }

    /// All that has come, in order, behind what is in `frames` already.
    ///
    /// # Errors
    /// The link is over; what came before is in `frames`.
    pub(super) fn read(&mut self, peer: u32, frames: &mut Vec<Vec<u8>>) -> Result<(), String> {
        self.up.get_mut(&peer).map_or(Ok(()), |link| link.read(frames))
    }

    /// Writes what can be written, and has the poller tell when there is room for the rest. Gives a link that is over,
    /// and why: to be called again then.
    pub(super) fn write(&mut self, poll: &OwnedFd) -> Option<(u32, String)> {
        while let Some(peer) = self.unwritten.pop() {
            let Some(link) = self.up.get_mut(&peer) else { continue };
            let written = link.write().and_then(|done| {
                if done == link.awaited {
                    link.awaited = !done;
                    watch(poll, peer, link, true).map_err(|error| error.to_string())?;
                }
                Ok(())
            });
            if let Err(ended) = written {
                return Some((peer, ended));
            }
        }
        None
    }
}

fn watch(poll: &OwnedFd, peer: u32, link: &Link, known: bool) -> io::Result<()> {
    let mut flags = epoll::EventFlags::IN;
    if link.awaited {
        flags |= epoll::EventFlags::OUT;
    }
    let data = epoll::EventData::new_u64(super::thread::LINKS + u64::from(peer));
    if known {
        epoll::modify(poll, link, data, flags)?
    } else {
        epoll::add(poll, link, data, flags)?
    }
    Ok(())
}
