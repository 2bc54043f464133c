//! A worker that keeps addresses in mind and puts them on no interface: for several daemons on one machine that try a
//! cluster out (nodes on loopback addresses). It touches nothing of the kernel's and needs no privileges.
//!
//! It answers as the real one does and keeps the same rule: no address without a lease, none left when it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use super::leaving::TELL;
use super::{Message, QUEUE, Worker};
use crate::clock::BootTime;
use crate::command::{Command, Event, LeaseKind};
use crate::error::{Error, Result};

impl Worker {
    /// Starts one that only imagines addresses. `events` is called on its thread and must not block.
    ///
    /// # Errors
    /// No threads.
    pub fn imagined(events: Box<dyn Fn(Event) + Send>) -> Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE);
        let state = Imagined {
            events,
            interfaces: BTreeSet::new(),
            known: BTreeSet::new(),
            held: BTreeSet::new(),
            leaving: BTreeMap::new(),
            until: None,
        };
        let thread = std::thread::Builder::new()
            .name("net".to_owned())
            .spawn(move || state.run(&waiting))
            .map_err(|e| Error::io("starting the network worker", e))?;
        Ok(Self { queue, thread: Some(thread) })
    }
}

struct Imagined {
    events: Box<dyn Fn(Event) + Send>,
    /// Interfaces that were said to be up: once, for who tries the cluster out may say otherwise then.
    interfaces: BTreeSet<String>,
    /// Addresses that this node may ever hold.
    known: BTreeSet<IpAddr>,
    held: BTreeSet<IpAddr>,
    /// Those of `held` that are about to be released: who has to know is told, and waited for until then.
    leaving: BTreeMap<IpAddr, BootTime>,
    /// The node lease's end.
    until: Option<BootTime>,
}

impl Imagined {
    fn run(mut self, waiting: &Receiver<Message>) {
        loop {
            let message = match self.leaving.values().copied().chain(self.until).min() {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => waiting.recv_timeout(until.since(BootTime::now())),
            };
            let now = BootTime::now();
            let over: Vec<IpAddr> =
                self.leaving.iter().filter(|(_, end)| **end <= now).map(|(addr, _)| *addr).collect();
            self.released(&over);
            // Before anything is done under a lease that has ended.
            if self.until.is_some_and(|until| until <= BootTime::now()) {
                (self.events)(Event::LeaseExpired);
                self.lease_lost();
            }
            match message {
                Ok(Message::Command(Command::Shutdown)) | Err(RecvTimeoutError::Disconnected) => {
                    return self.lease_lost();
                }
                Ok(Message::Command(command)) => self.obey(command),
                // Nobody watches the kernel or probes the network here.
                Ok(Message::News(_) | Message::Probed { .. }) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let events = &self.events;
        match command {
            Command::Configure { vips, hold, .. } => {
                let interfaces: BTreeSet<String> = vips.iter().map(|vip| vip.interface.clone()).collect();
                self.known = vips.into_iter().map(|vip| vip.addr).collect();
                let gone: Vec<IpAddr> = self.held.difference(&self.known).copied().collect();
                self.released(&gone);
                let events = &self.events;
                events(Event::Lease { kind: LeaseKind::Exact, why: String::new() });
                if hold.is_some() {
                    events(Event::Holds { error: None });
                }
                for name in interfaces {
                    if self.interfaces.insert(name.clone()) {
                        events(Event::Interface { name, up: true });
                    }
                }
            }
            Command::Take { addr } => events(match (self.known.contains(&addr), self.until) {
                (false, _) => {
                    Event::TakeFailed { addr, why: "it is none of the addresses that this node may host".to_owned() }
                }
                (true, None) => Event::TakeFailed { addr, why: "there is no node lease".to_owned() },
                (true, Some(_)) => {
                    self.held.insert(addr);
                    self.leaving.remove(&addr);
                    Event::Taken { addr }
                }
            }),
            Command::Release { addr } if self.held.contains(&addr) => {
                self.leaving.entry(addr).or_insert_with(|| BootTime::now() + TELL);
                events(Event::Releasing { addrs: vec![addr] });
            }
            Command::Release { addr } => events(Event::Released { addr }),
            Command::Told { addrs } => {
                let told: Vec<IpAddr> = addrs.into_iter().filter(|addr| self.leaving.contains_key(addr)).collect();
                self.released(&told);
            }
            Command::Renew { until } if until <= BootTime::now() => {
                events(Event::LeaseExpired);
                self.lease_lost();
            }
            Command::Renew { until } => self.until = Some(until),
            Command::LeaseLost => self.lease_lost(),
            Command::SetEvicted { epoch, .. } => events(Event::Evicted { epoch, sockets_destroyed: 0 }),
            Command::Kick { .. } => events(Event::Kicked { sockets_destroyed: 0 }),
            Command::FreeStorage { .. } => events(Event::StorageFreed { sockets_destroyed: 0 }),
            Command::Probe { addr } => events(Event::NoConflict { addr }),
            Command::ListConnections => events(Event::Connections { list: Vec::new() }),
            Command::Announce { .. }
            | Command::Clients { .. }
            | Command::Shut { .. }
            | Command::Reopen
            | Command::Shutdown => {}
        }
    }

    fn released(&mut self, addrs: &[IpAddr]) {
        for addr in addrs {
            self.leaving.remove(addr);
            self.held.remove(addr);
            (self.events)(Event::Released { addr: *addr });
        }
    }

    fn lease_lost(&mut self) {
        self.until = None;
        self.leaving.clear();
        for addr in std::mem::take(&mut self.held) {
            (self.events)(Event::Released { addr });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::VipSpec;
    use std::sync::mpsc;
    use std::time::Duration;

    const ADDR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn start() -> (Worker, Receiver<Event>) {
        let (sender, events) = mpsc::channel();
        let worker = Worker::imagined(Box::new(move |event| {
            let _ = sender.send(event);
        }))
        .unwrap();
        worker.send(configured()).unwrap();
        (worker, events)
    }

    fn configured() -> Command {
        Command::Configure {
            vips: vec![VipSpec { addr: ADDR, prefix_len: 24, interface: "eth9".to_owned() }],
            storage_ports: Vec::new(),
            spared_ports: Vec::new(),
            hold: None,
            service_ports: Vec::new(),
        }
    }

    fn next(events: &Receiver<Event>) -> Event {
        events.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn an_interface_is_said_to_be_up_once() {
        let (worker, events) = start();
        worker.send(configured()).unwrap();
        worker.send(Command::Probe { addr: ADDR }).unwrap();
        let lease = Event::Lease { kind: LeaseKind::Exact, why: String::new() };
        let up = Event::Interface { name: "eth9".to_owned(), up: true };
        let seen: Vec<_> = (0..4).map(|_| next(&events)).collect();
        assert_eq!(seen, [lease.clone(), up, lease, Event::NoConflict { addr: ADDR }]);
    }

    #[test]
    fn an_address_is_taken_under_a_lease_only_and_goes_with_it() {
        let (worker, events) = start();
        assert_eq!(next(&events), Event::Lease { kind: LeaseKind::Exact, why: String::new() });
        assert_eq!(next(&events), Event::Interface { name: "eth9".to_owned(), up: true });
        worker.send(Command::Take { addr: ADDR }).unwrap();
        assert_eq!(next(&events), Event::TakeFailed { addr: ADDR, why: "there is no node lease".to_owned() });
        let until = BootTime::now() + Duration::from_millis(100);
        worker.send(Command::Renew { until }).unwrap();
        worker.send(Command::Take { addr: ADDR }).unwrap();
        assert_eq!(next(&events), Event::Taken { addr: ADDR });
        // Nobody renews it.
        assert_eq!(next(&events), Event::LeaseExpired);
        assert!(BootTime::now() >= until);
        assert_eq!(next(&events), Event::Released { addr: ADDR });
    }

    #[test]
    fn a_release_waits_until_it_is_told_of_but_not_for_long() {
        let (worker, events) = start();
        worker.send(Command::Renew { until: BootTime::now() + Duration::from_secs(60) }).unwrap();
        for told in [true, false] {
            let begun = BootTime::now();
            worker.send(Command::Take { addr: ADDR }).unwrap();
            worker.send(Command::Release { addr: ADDR }).unwrap();
            while next(&events) != (Event::Releasing { addrs: vec![ADDR] }) {}
            if told {
                worker.send(Command::Told { addrs: vec![ADDR] }).unwrap();
            }
            assert_eq!(next(&events), Event::Released { addr: ADDR });
            assert!(told || BootTime::now().since(begun) >= TELL);
        }
        worker.send(Command::Release { addr: ADDR }).unwrap();
        assert_eq!(next(&events), Event::Released { addr: ADDR });
    }

    #[test]
    fn all_is_released_at_the_end_and_what_left_the_list_at_once() {
        let (worker, events) = start();
        let until = BootTime::now() + Duration::from_secs(60);
        worker.send(Command::Renew { until }).unwrap();
        worker.send(Command::Take { addr: ADDR }).unwrap();
        drop(worker);
        let rest: Vec<Event> = events.into_iter().skip(2).collect();
        assert_eq!(rest, [Event::Taken { addr: ADDR }, Event::Released { addr: ADDR }]);
    }
}
