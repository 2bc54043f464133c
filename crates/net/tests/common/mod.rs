//! Throw-away network namespaces for the tests: two hosts joined by a veth pair. Each host is a thread with a namespace
//! of its own; both vanish with the thread, however the test ends.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::IpAddr;
use std::process::Command as Process;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use net::{BootTime, Command, Event, VipSpec, Worker};

pub const LONG: Duration = Duration::from_secs(10);

type Start = fn(Box<dyn Fn(Event) + Send>) -> net::Result<Worker>;
type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it.
pub struct Host {
    jobs: Sender<Job>,
    tid: i32,
}

impl Host {
    fn new() -> Option<Self> {
        let (jobs, todo) = channel::<Job>();
        let (ready, made) = channel();
        std::thread::spawn(move || {
            // SAFETY: a new network namespace for this thread shares no memory or descriptors with anything.
            #[allow(unsafe_code)]
            let outcome = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
            ready.send(outcome.map(|()| rustix::thread::gettid().as_raw_nonzero().get())).ok();
            if outcome.is_ok() {
                todo.into_iter().for_each(|job| job());
            }
        });
        match made.recv().unwrap() {
            Ok(tid) => Some(Self { jobs, tid }),
            Err(e) => {
                eprintln!("SKIPPED: needs root to make network namespaces: {e}");
                None
            }
        }
    }

    /// Runs something in this namespace and waits for it.
    pub fn run<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> R {
        self.start(f).recv_timeout(Duration::from_secs(60)).expect("the host's thread panicked or hangs")
    }

    /// Runs something in this namespace; the result comes later.
    pub fn start<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> Receiver<R> {
        let (result, later) = channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            if let Ok(r) = outcome {
                result.send(r).ok();
            }
        };
        self.jobs.send(Box::new(job)).unwrap();
        later
    }

    /// Runs a shell line; its output, or a panic when it fails.
    pub fn sh(&self, line: &str) -> String {
        let (ok, text) = self.try_sh(line);
        assert!(ok, "{line}: {text}");
        text
    }

    pub fn try_sh(&self, line: &str) -> (bool, String) {
        let line = line.to_owned();
        self.run(move || {
            let out = Process::new("sh").arg("-c").arg(&line).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
            (out.status.success(), text)
        })
    }

    pub fn has_address(&self, addr: &str) -> bool {
        self.sh("ip -o address show dev eth0").contains(&format!(" {addr}/"))
    }

    /// A worker in this namespace and what it says.
    pub fn worker(&self) -> Site {
        self.worker_by(Worker::start)
    }

    pub fn worker_by(&self, start: Start) -> Site {
        self.run(move || {
            let (tell, events) = channel();
            let worker = start(Box::new(move |e| {
                tell.send(e).ok();
            }))
            .unwrap();
            Site { worker, events, seen: Vec::new() }
        })
    }
}

/// Two hosts, `eth0` to `eth0`: 10.77.0.1 and .2 /24, fd77::1 and ::2 /64, no client ports in the range of
/// GlusterFS bricks. None when not permitted.
pub fn pair() -> Option<(Host, Host)> {
    let (a, b) = (Host::new()?, Host::new()?);
    a.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", b.tid));
    for (host, n) in [(&a, 1), (&b, 2)] {
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_local_port_range=\"32768 49151\" && ip link set lo up \
             && ip link set eth0 up && ip addr add 10.77.0.{n}/24 dev eth0 && ip addr add fd77::{n}/64 dev eth0 nodad"
        ));
    }
    wait_for("carrier", || a.sh("ip -o link show eth0").contains("LOWER_UP"));
    Some((a, b))
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn vip(text: &str) -> VipSpec {
    let addr = ip(text);
    VipSpec { addr, prefix_len: if addr.is_ipv4() { 24 } else { 64 }, interface: "eth0".to_owned() }
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "waited {LONG:?} for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A worker under test.
pub struct Site {
    pub worker: Worker,
    pub events: Receiver<Event>,
    pub seen: Vec<Event>,
}

impl Site {
    pub fn send(&self, command: Command) {
        self.worker.send(command).unwrap();
    }

    pub fn configure(&mut self, vips: &[&str]) {
        self.send(Command::Configure {
            vips: vips.iter().map(|v| vip(v)).collect(),
            storage_ports: net::fence::GLUSTERFS_PORTS.to_vec(),
            spared_ports: vec![22, 4380],
            hold: None,
            service_ports: vec![445, 2049],
        });
        self.expect("lease kind", |e| matches!(e, Event::Lease { .. }));
    }

    pub fn renew(&self, rest: Duration) -> BootTime {
        let until = BootTime::now() + rest;
        self.send(Command::Renew { until });
        until
    }

    pub fn take(&mut self, addr: &str) {
        let addr = ip(addr);
        self.send(Command::Take { addr });
        self.expect("taken", |e| *e == Event::Taken { addr });
    }

    pub fn release(&mut self, addr: &str) {
        let addr = ip(addr);
        self.send(Command::Release { addr });
        self.expect("released", |e| *e == Event::Released { addr });
    }

    /// Waits for all of these events, in any order.
    pub fn expect_all(&mut self, mut wanted: Vec<Event>) {
        while !wanted.is_empty() {
            let found = self.expect(&format!("{wanted:?}"), |e| wanted.contains(e));
            wanted.retain(|w| *w != found);
        }
    }

    /// Waits for an event; those before it are kept in `seen`.
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let start = Instant::now();
        loop {
            let left = LONG.saturating_sub(start.elapsed());
            match self.events.recv_timeout(left) {
                Ok(e) if wanted(&e) => return e,
                Ok(e) => self.seen.push(e),
                Err(_) => panic!("no event: {what}; seen: {:?}", self.seen),
            }
        }
    }
}
