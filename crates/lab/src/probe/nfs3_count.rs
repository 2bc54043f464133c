//! A lock over NFSv3 as a kernel's client has one: it goes on under it, whatever becomes of its server, until it is told
//! that a server has begun anew (`SM_NOTIFY`), and takes it back then.
//!
//! A host is known to the other servers a second after its first lock through one (docs/nfs.md), so each client has a lock of
//! its own besides, which it keeps, and takes the common one only when that is older.

use super::contest::TRY;
use super::nfs_count::{Counted, Told, WIDTH};
use super::nfs3_lock::{Side, Statd};
use super::{now_us, say};
use anyhow::{Result, bail};
use drill::clients::nlm::{DENIED, GRACE, GRANTED};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// By then all servers know that the host has locks, in microseconds.
const KNOWN_US: u64 = 2_000_000;

/// What servers say to this host.
pub(super) struct Hosts(Vec<Arc<AtomicU64>>);

impl Hosts {
    /// Counts for each of these servers how often it has begun anew.
    pub(super) fn listen(servers: &[IpAddr], told: &Told) -> Result<Self> {
        let statd = Statd::start()?;
        let heard: Vec<_> = servers.iter().map(|server| (*server, Arc::<AtomicU64>::default())).collect();
        let all = Self(heard.iter().map(|(_, times)| Arc::clone(times)).collect());
        let stop = Arc::clone(&told.stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match statd.notice() {
                    Ok(from) => heard.iter().filter(|(server, _)| Some(*server) == from).for_each(|(_, times)| {
                        times.fetch_add(1, Ordering::Relaxed);
                    }),
                    Err(e) => say(&format!("0 X a word from a server: {}", format!("{e:#}").replace('\n', " "))),
                }
            }
        });
        Ok(all)
    }

    pub(super) fn heard(&self, index: usize) -> Arc<AtomicU64> {
        Arc::clone(&self.0[index])
    }
}

/// One client's two locks.
pub(super) struct Locks {
    index: usize,
    common: Side,
    held: bool,
    kept: Side,
    /// Since when it has the kept one from this server, and over which connection.
    since_us: u64,
    connection: u64,
    heard: Arc<AtomicU64>,
    heeded: u64,
    /// The common one was taken back just now: not all servers need know yet.
    taken_back: bool,
}

impl Locks {
    pub(super) fn open(
        index: usize,
        server: IpAddr,
        export: &str,
        path: &str,
        heard: Arc<AtomicU64>,
        told: &Told,
    ) -> Result<Self> {
        let owner = format!("counter-{index}");
        let open = |path: &str, owner: &str| Side::open(server, export, path, owner, WIDTH as u64, &told.stop);
        let common = open(path, &owner)?;
        let kept = open(&format!("{path}-kept-{index}"), &format!("{owner}-kept"))?;
        let heeded = heard.load(Ordering::Relaxed);
        Ok(Self {
            index,
            common,
            held: false,
            kept,
            since_us: u64::MAX,
            connection: u64::MAX,
            heard,
            heeded,
            taken_back: false,
        })
    }

    /// Takes back what it has from a server that has begun anew.
    fn heed(&mut self) -> Result<()> {
        let heard = self.heard.load(Ordering::Relaxed);
        if heard == self.heeded {
            return Ok(());
        }
        self.heeded = heard;
        if self.held {
            self.held = self.common.reclaim()?;
            self.taken_back = self.held;
            say(&format!("{} {} {}", self.index, if self.held { 'B' } else { 'L' }, now_us()));
        }
        // Refused: it is taken anew before the next common one.
        self.connection = u64::MAX;
        self.kept.reclaim().map(drop)
    }

    /// Has it the lock of its own, and do all servers know?
    fn is_known(&mut self) -> Result<bool> {
        // What it has is granted once more.
        if !granted(self.kept.nlm.lock(false)?)? {
            return Ok(false);
        }
        // Over another connection it may be another server, which has given it just now.
        let connection = self.kept.nlm.reconnects();
        if self.connection != connection {
            (self.connection, self.since_us) = (connection, now_us());
        }
        Ok(now_us() > self.since_us.saturating_add(KNOWN_US))
    }
}

fn granted(status: u32) -> Result<bool> {
    match status {
        GRANTED => Ok(true),
        DENIED | GRACE => Ok(false),
        status => bail!("LOCK: NLM status {status}"),
    }
}

impl Counted for Locks {
    fn lock(&mut self) -> Result<bool> {
        self.heed()?;
        self.taken_back = false;
        self.held = self.is_known()? && granted(self.common.nlm.lock(false)?)?;
        Ok(self.held)
    }

    fn may_keep(&self) -> bool {
        !self.taken_back
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let text = self.common.read(WIDTH as u32)?;
        self.heed()?;
        Ok(self.held.then_some(text))
    }

    fn write(&mut self, data: &[u8]) -> Result<bool> {
        self.common.write(&String::from_utf8_lossy(data))?;
        self.heed()?;
        Ok(self.held)
    }

    fn unlock(&mut self) -> Result<()> {
        self.held = false;
        loop {
            match self.common.nlm.unlock()? {
                GRANTED => return Ok(()),
                GRACE => std::thread::sleep(TRY),
                status => bail!("UNLOCK: NLM status {status}"),
            }
        }
    }
}
