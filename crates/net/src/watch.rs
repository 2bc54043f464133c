//! Watches configured interfaces and the node's addresses for changes that others make.
//!
//! The kernel's news (RTNLGRP_LINK, IPV4_IFADDR, IPV6_IFADDR) are hints: after any of them, after an overrun and every
//! 200 ms the state of the watched interfaces is asked for, since the kernel holds carrier news back for up to a second
//! when there are several.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::address::RTM_DELADDR;
use crate::error::{Error, Result};
use crate::link;
use crate::socket::{NETLINK_ROUTE, Socket};
use crate::wire;

const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const TICK: Duration = Duration::from_millis(200);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// An interface's first known state, or a change of it.
    Interface { name: String, up: bool },
    /// Addresses were removed (or news were lost): look.
    AddressesChanged,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Names to watch and what was last told about them.
    interfaces: Mutex<HashMap<String, Option<bool>>>,
}

/// The watching thread. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it; `tell` is called from its thread and must not block; false: not taken, tell again later.
    pub(crate) fn start(tell: impl Fn(News) -> bool + Send + 'static) -> Result<Self> {
        let fail = |e: rustix::io::Errno| Error::io("starting to watch interfaces", e);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(fail)?);
        let news = Socket::open_with_groups(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)?;
        let ask = Socket::open(NETLINK_ROUTE)?;
        let shared = Arc::new(Shared::default());
        let mut watcher = Watcher { shared: Arc::clone(&shared), wake: Arc::clone(&wake), news, ask, tell };
        let thread = std::thread::Builder::new()
            .name("net-watch".to_owned())
            .spawn(move || watcher.run())
            .map_err(|e| Error::io("starting to watch interfaces", e))?;
        Ok(Self { shared, wake, thread: Some(thread) })
    }

    /// Watches these interfaces, and tells the state of each once.
    pub(crate) fn interfaces(&self, names: impl Iterator<Item = String>) {
        let mut all = self.shared.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        *all = names.map(|n| (n, None)).collect();
        drop(all);
        self.wake();
    }

    fn wake(&self) {
        // Full means that it is awake already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watcher<F> {
    shared: Arc<Shared>,
    wake: Arc<OwnedFd>,
    news: Socket,
    ask: Socket,
    tell: F,
}

impl<F: Fn(News) -> bool> Watcher<F> {
    fn run(&mut self) {
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        let mut untold = false;
        let mut looked = Instant::now();
        while !self.shared.stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(&self.news, PollFlags::IN),
                PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&*self.wake), PollFlags::IN),
            ];
            // Interrupted or not: what is there is looked at below.
            let _ = poll(&mut fds, Some(&tick));
            let asked = fds[1].revents().contains(PollFlags::IN);
            if asked {
                let mut counter = [0u8; 8];
                let _ = rustix::io::read(&self.wake, &mut counter);
            }
            let (links, addresses) = self.read_news();
            if addresses || untold {
                untold = !(self.tell)(News::AddressesChanged);
            }
            if links || asked || looked.elapsed() >= TICK {
                looked = Instant::now();
                self.look();
            }
        }
    }

    /// Reads all that is waiting: (something about links, addresses removed).
    fn read_news(&mut self) -> (bool, bool) {
        let (mut links, mut addresses) = (false, false);
        // Bounded, so that a storm of news cannot keep us from looking.
        for _ in 0..1000 {
            match self.news.receive_news() {
                Ok(Some(bytes)) => {
                    for message in wire::messages(bytes).map_while(|m| m.ok()) {
                        links |= matches!(message.kind, RTM_NEWLINK | RTM_DELLINK);
                        addresses |= message.kind == RTM_DELADDR;
                    }
                }
                Ok(None) => break,
                // Overrun: something was lost, it may have been anything.
                Err(error) => {
                    tracing::debug!(%error, "network news lost, asking for the state instead");
                    return (true, true);
                }
            }
        }
        (links, addresses)
    }

    fn look(&mut self) {
        let names: Vec<(String, Option<bool>)> = {
            let all = self.shared.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(n, s)| (n.clone(), *s)).collect()
        };
        for (name, told) in names {
            let up = match link::find_with(&mut self.ask, &name) {
                Ok(link) => link.is_up(),
                Err(Error::NoInterface { .. }) => false,
                Err(error) => {
                    tracing::warn!(%name, %error, "state of the interface unknown");
                    continue;
                }
            };
            if told != Some(up) && (self.tell)(News::Interface { name: name.clone(), up }) {
                let mut all = self.shared.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = all.get_mut(&name) {
                    *state = Some(up);
                }
            }
        }
    }
}
