//! The loop around the cluster core: one thread that owns it, feeds it and carries out what it says, in order.
//!
//! Nothing here waits for anything but the next input or the core's own next timeout; a carrier-out ([`Effects`])
//! must not block either.

use std::collections::HashMap;
use std::time::Duration;

use cluster::{AdminReply, Cluster, Input, Output, Time};
use tokio::sync::oneshot;

use super::inbox::{Item, Outlet};

/// A core that is due again at once, for ever, would burn a processor.
const SHORTEST: Duration = Duration::from_millis(1);

/// So many inputs that have come meanwhile are fed together at most: the consequences of each would be drawn anew.
const TOGETHER: usize = 256;

/// The state machine, as the loop sees it; [`Cluster`], or a scripted one in tests.
pub(crate) trait Machine {
    /// Takes all that is in `inputs`.
    fn handle_all(&mut self, now: Time, inputs: &mut Vec<Input>, out: &mut Vec<Output>);
    fn next_timeout(&self) -> Time;
}

impl Machine for Cluster {
    fn handle_all(&mut self, now: Time, inputs: &mut Vec<Input>, out: &mut Vec<Output>) {
        Self::handle_all(self, now, inputs.drain(..), out);
    }
    fn next_timeout(&self) -> Time {
        Self::next_timeout(self)
    }
}

/// Carries out what the core says. No method may block.
pub(crate) trait Effects {
    /// All outputs but `AdminDone` and `Stopped`.
    fn carry_out(&mut self, now: Time, output: Output);
    /// An event of the network worker; what it means to the core.
    fn net_event(&mut self, now: Time, event: net::Event) -> Option<Input>;
    /// An order to the network worker from outside of the core.
    fn to_net(&mut self, command: net::Command);
    /// When [`Effects::wake`] wants to be called, if at all.
    fn next_wake(&self) -> Option<Time>;
    /// It is time.
    fn wake(&mut self, now: Time);
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The core said that everything is released.
    Stopped,
    /// Nobody can say anything to the core any more.
    Deserted,
}

/// The loop and what it needs.
pub(crate) struct Core<M, E> {
    machine: M,
    effects: E,
    outlet: Outlet,
    clock: fn() -> Time,
    /// Kept from turn to turn: nothing is allocated for heartbeats.
    inputs: Vec<Input>,
    out: Vec<Output>,
    waiting: HashMap<u64, oneshot::Sender<AdminReply>>,
    tickets: u64,
}

impl<M, E> std::fmt::Debug for Core<M, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<M: Machine, E: Effects> Core<M, E> {
    pub(crate) fn new(machine: M, effects: E, outlet: Outlet, clock: fn() -> Time) -> Self {
        Self {
            machine,
            effects,
            outlet,
            clock,
            inputs: Vec::new(),
            out: Vec::new(),
            waiting: HashMap::new(),
            tickets: 0,
        }
    }

    /// Runs until the core has stopped; gives back what carried out its effects.
    pub(crate) fn run(mut self) -> (Ended, E) {
        loop {
            // Time first: after a stall the core must notice that before it believes what has queued up.
            let mut now = (self.clock)();
            if self.machine.next_timeout() <= now {
                self.inputs.push(Input::Tick);
                if self.feed(now) {
                    return (Ended::Stopped, self.effects);
                }
                now = (self.clock)();
            }
            if self.effects.next_wake().is_some_and(|at| at <= now) {
                self.effects.wake(now);
            }
            let due = self.machine.next_timeout();
            let due = self.effects.next_wake().map_or(due, |wake| wake.min(due));
            let Ok(mut next) = self.outlet.next(due.since(now).max(SHORTEST)) else {
                return (Ended::Deserted, self.effects);
            };
            let mut order = None;
            while let Some(item) = next {
                match item {
                    // In line with the core's own orders: those of the inputs before it go first.
                    Item::ToNet(command) => {
                        order = Some(command);
                        break;
                    }
                    item => {
                        let input = self.input(item);
                        self.inputs.extend(input);
                    }
                }
                if self.inputs.len() >= TOGETHER {
                    break;
                }
                // That nobody can say anything any more is found at the next turn.
                next = self.outlet.next(Duration::ZERO).unwrap_or(None);
            }
            if !self.inputs.is_empty() && self.feed((self.clock)()) {
                return (Ended::Stopped, self.effects);
            }
            if let Some(command) = order {
                self.effects.to_net(command);
            }
        }
    }

    fn input(&mut self, item: Item) -> Option<Input> {
        match item {
            Item::Input(input) => Some(input),
            Item::Net(event) => self.effects.net_event((self.clock)(), event),
            Item::ToNet(command) => {
                self.effects.to_net(command);
                None
            }
            Item::Admin { request, reply } => {
                // Who has stopped waiting needs no place.
                self.waiting.retain(|_, reply| !reply.is_closed());
                self.tickets += 1;
                self.waiting.insert(self.tickets, reply);
                Some(Input::Admin { ticket: self.tickets, request })
            }
        }
    }

    /// Feeds what has come; true when the core has stopped.
    fn feed(&mut self, now: Time) -> bool {
        let mut stopped = false;
        self.machine.handle_all(now, &mut self.inputs, &mut self.out);
        for output in self.out.drain(..) {
            match output {
                Output::Stopped => stopped = true,
                Output::AdminDone { ticket, reply } => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        // Who asked may have gone; the request was carried out all the same.
                        let _ = waiting.send(reply);
                    }
                }
                output => self.effects.carry_out(now, output),
            }
        }
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Inbox, inbox};
    use super::*;
    use cluster::{AdminRequest, Pnn};
    use std::net::IpAddr;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    /// Takes on link up, releases on link down, fails admin requests, stops when told; due every 20 ms.
    #[derive(Default)]
    struct Scripted {
        due: Time,
        ticks: u32,
        inbox: Option<Inbox>,
    }

    impl Machine for Scripted {
        fn handle_all(&mut self, now: Time, inputs: &mut Vec<Input>, out: &mut Vec<Output>) {
            for input in inputs.drain(..) {
                self.handle(now, input, out);
            }
        }
        fn next_timeout(&self) -> Time {
            self.due
        }
    }

    impl Scripted {
        fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
            self.due = now + Duration::from_millis(20);
            let because = String::new();
            match input {
                Input::Tick => {
                    self.ticks += 1;
                    if self.ticks == 3
                        && let Some(inbox) = &self.inbox
                    {
                        inbox.input(Input::Stop);
                    }
                }
                Input::Link { up: true, .. } => out.extend([
                    Output::LeaseLost,
                    Output::Take { vip: VIP, interface: "eth0".into(), prefix_len: 24, because },
                    Output::RenewLease { until: now },
                ]),
                Input::Released { vip } => out.push(Output::Release { vip, because }),
                Input::Admin { ticket, .. } => {
                    out.push(Output::AdminDone { ticket, reply: Err(format!("ticket {ticket}")) });
                }
                Input::Stop => out.extend([Output::Serve(false), Output::Stopped]),
                _ => {}
            }
        }
    }

    #[derive(Default)]
    struct Noted(Vec<String>);

    impl Effects for Noted {
        fn carry_out(&mut self, _: Time, output: Output) {
            let text = format!("{output:?}");
            self.0.push(text.split([' ', '(']).next().unwrap_or_default().to_owned());
        }
        fn net_event(&mut self, _: Time, event: net::Event) -> Option<Input> {
            match event {
                net::Event::Released { addr } => Some(Input::Released { vip: addr }),
                _ => None,
            }
        }
        fn to_net(&mut self, command: net::Command) {
            self.0.push(format!("{command:?}"));
        }
        fn next_wake(&self) -> Option<Time> {
            None
        }
        fn wake(&mut self, _: Time) {}
    }

    #[test]
    fn outputs_are_carried_out_in_order_and_stop_ends_the_loop() {
        let (inbox, outlet) = inbox();
        inbox.input(Input::Link { peer: Pnn(1), up: true });
        inbox.put(Item::Net(net::Event::Released { addr: VIP }));
        inbox.put(Item::ToNet(net::Command::LeaseLost));
        inbox.input(Input::Stop);
        inbox.put(Item::ToNet(net::Command::LeaseLost));
        inbox.input(Input::Link { peer: Pnn(1), up: true });
        let (ended, noted) = Core::new(Scripted::default(), Noted::default(), outlet, crate::clock::now).run();
        assert_eq!(ended, Ended::Stopped);
        assert_eq!(noted.0, ["LeaseLost", "Take", "RenewLease", "Release", "LeaseLost", "Serve"]);
    }

    #[test]
    fn ticks_come_in_time_without_any_input() {
        let (inbox, outlet) = inbox();
        let machine = Scripted { inbox: Some(inbox.clone()), ..Scripted::default() };
        let start = std::time::Instant::now();
        let (ended, _) = Core::new(machine, Noted::default(), outlet, crate::clock::now).run();
        assert_eq!(ended, Ended::Stopped);
        assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
    }

    #[test]
    fn each_administrator_gets_the_answer_to_the_own_request_and_ends_are_noticed() {
        let (inbox, outlet) = inbox();
        let request = AdminRequest::MoveIp { vip: VIP, to: Pnn(1) };
        let first = inbox.admin(request.clone());
        drop(inbox.admin(request.clone()));
        let third = inbox.admin(request);
        drop(inbox);
        let (ended, _) = Core::new(Scripted::default(), Noted::default(), outlet, crate::clock::now).run();
        assert_eq!(ended, Ended::Deserted);
        assert_eq!(first.blocking_recv().unwrap(), Err("ticket 1".into()));
        assert_eq!(third.blocking_recv().unwrap(), Err("ticket 3".into()));
    }
}
