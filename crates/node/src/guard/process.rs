//! The guard's own process: waits for the end of its daemon, then takes its addresses away and says so.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use net::address::Addresses;
use net::gate::Gate;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{getppid, setpriority_process, setsid};

use super::order::{MAX_LINE, Order, SealedWord, next_line};

/// Datagrams get lost: each word is sent again after these pauses.
const AGAIN: [Duration; 3] = [Duration::from_millis(15), Duration::from_millis(60), Duration::from_millis(200)];
/// How long a daemon whose socket has ended may take to be gone, before nothing is said for it.
const DYING: Duration = Duration::from_secs(2);
const NICE: i32 = -15;

/// Runs the guard of the daemon with this pid: orders come by standard input, standard output is the lock file.
#[must_use]
pub fn run(daemon: u32) -> ExitCode {
    settle();
    let mut guard = match Watch::begin() {
        Ok(guard) => guard,
        Err(why) => {
            eprintln!("steadfast guard: cannot watch: {why}");
            return ExitCode::FAILURE;
        }
    };
    match guard.watch() {
        Ok(End::Goodbye) => ExitCode::SUCCESS,
        Ok(End::Silence) => guard.clean_up(daemon),
        Err(why) => {
            // A daemon that cannot be understood may be dead: what it left is taken away all the same.
            eprintln!("steadfast guard: {why}");
            guard.clean_up(daemon)
        }
    }
}

/// Leaves what a kill of the daemon's processes takes along, and stays in memory.
fn settle() {
    let told = |what: &str, error: &dyn std::fmt::Display| eprintln!("steadfast guard: {what}: {error}");
    if let Err(error) = setsid() {
        told("no session of its own", &error);
    }
    if let Err(error) = own_cgroup() {
        told("no cgroup of its own, a kill of the daemon's cgroup takes it along", &error);
    }
    // Only what is there: the guard has touched all it needs when it begins to watch.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        told("its memory cannot be locked", &error);
    }
    // Refused where it is not root; it then goes with the daemon's own.
    let _ = setpriority_process(None, NICE);
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Moves to a cgroup (version 2) that no service manager knows of.
fn own_cgroup() -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
    let root = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        })
        .next()
        .ok_or("there is no cgroup2 file system")?;
    let group = root.join("steadfast-guard");
    match fs::create_dir(&group) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(format!("{}: {error}", group.display()));
        }
        _ => {}
    }
    let procs = group.join("cgroup.procs");
    fs::write(&procs, "0").map_err(|error| format!("{}: {error}", procs.display()))
}

enum End {
    Goodbye,
    Silence,
}

struct Watch {
    orders: UnixStream,
    buffer: Vec<u8>,
    gate: Option<Gate>,
    addresses: Addresses,
    /// Every address that the daemon may have put anywhere.
    managed: Vec<IpAddr>,
    words: Vec<SealedWord>,
    sockets: Vec<(IpAddr, UdpSocket)>,
}

impl Watch {
    fn begin() -> Result<Self, String> {
        let input = rustix::stdio::stdin().try_clone_to_owned().map_err(|e| format!("standard input: {e}"))?;
        let mut watch = Self {
            orders: UnixStream::from(input),
            buffer: Vec::with_capacity(64 << 10),
            gate: Gate::open().ok(),
            addresses: Addresses::open().map_err(|e| e.to_string())?,
            managed: Vec::new(),
            words: Vec::new(),
            sockets: Vec::new(),
        };
        // A rehearsal: the code and the buffers that the end needs are in memory from here on, and stay there.
        watch.addresses.purge(&[]).map_err(|e| e.to_string())?;
        // Where nf_tables is missing there will be nothing to empty.
        let _ = net::gate::available();
        Ok(watch)
    }

    /// Follows the orders until there are no more.
    fn watch(&mut self) -> Result<End, String> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            match self.orders.read(&mut bytes) {
                Ok(0) => return Ok(End::Silence),
                Ok(n) => self.buffer.extend_from_slice(&bytes[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // A reset is the end too.
                Err(_) => return Ok(End::Silence),
            }
            while let Some(line) = next_line(&mut self.buffer) {
                let order = serde_json::from_slice(&line).map_err(|e| format!("an order that makes no sense: {e}"))?;
                match order {
                    Order::Goodbye => return Ok(End::Goodbye),
                    Order::Watch { addresses, words } => self.take(addresses, words),
                }
                // The daemon counts these to see that its guard does not hang; a dead one reads none.
                let _ = self.orders.write(b".");
            }
            if self.buffer.len() > MAX_LINE {
                return Err("an order without an end".into());
            }
        }
    }

    fn take(&mut self, addresses: Vec<IpAddr>, words: Vec<SealedWord>) {
        for addr in addresses {
            if !self.managed.contains(&addr) {
                self.managed.push(addr);
            }
        }
        for word in &words {
            if !self.sockets.iter().any(|(from, _)| *from == word.from)
                && let Some(socket) = open(word.from)
            {
                self.sockets.push((word.from, socket));
            }
        }
        self.words = words;
    }

    fn clean_up(&mut self, daemon: u32) -> ExitCode {
        let begun = Instant::now();
        let gone = || getppid().is_none_or(|pid| u32::try_from(pid.as_raw_nonzero().get()) != Ok(daemon));
        let mut dead = gone();
        let mut clean = self.sweep();
        // As long as any of its threads lives, it may take an address back.
        while !dead && begun.elapsed() < DYING {
            thread::sleep(Duration::from_millis(1));
            dead = gone();
            if dead {
                clean = self.sweep();
            }
        }
        if let Err(why) = clean {
            eprintln!("steadfast guard: addresses may be left on this node, until their lease ends: {why}");
            return ExitCode::FAILURE;
        }
        if !dead {
            eprintln!("steadfast guard: the daemon has left its guard but is not dead; nothing is said for it");
            return ExitCode::FAILURE;
        }
        let took = begun.elapsed();
        self.say();
        // The next daemon may start: this process touches no address any more.
        let _ = rustix::stdio::dup2_stdout(self.orders.as_fd());
        eprintln!(
            "steadfast guard: the daemon (pid {daemon}) is dead; {} addresses are off this node after {:.1} ms, {} words sent",
            self.managed.len(),
            took.as_secs_f64() * 1000.0,
            self.words.len()
        );
        for pause in AGAIN {
            thread::sleep(pause);
            self.say();
        }
        ExitCode::SUCCESS
    }

    /// Silences every address, then takes it off the interfaces.
    fn sweep(&mut self) -> Result<(), String> {
        if let Some(gate) = &mut self.gate {
            match gate.drop_now() {
                // There is no gate where nf_tables is missing; the addresses below are all there is.
                Ok(()) => {}
                Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {}
                Err(error) => eprintln!("steadfast guard: addresses are removed without being silenced: {error}"),
            }
        }
        self.addresses.purge(&self.managed).map(drop).map_err(|e| e.to_string())
    }

    fn say(&self) {
        for word in &self.words {
            let Some((_, socket)) = self.sockets.iter().find(|(from, _)| *from == word.from) else { continue };
            // Nobody is left to tell; the peers then wait for the lease.
            let _ = socket.send_to(&word.bytes, word.to);
        }
    }
}

fn open(from: IpAddr) -> Option<UdpSocket> {
    let any: IpAddr = if from.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = [from, any].into_iter().find_map(|addr| UdpSocket::bind(SocketAddr::new(addr, 0)).ok())?;
    // A full queue must not hold up the words to the others.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}
