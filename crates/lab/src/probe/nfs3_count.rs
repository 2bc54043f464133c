//! A lock over NFSv3 as a kernel's client has one: it goes on under it, whatever becomes of its server, until it is told
//! that a server has begun anew (`SM_NOTIFY`), and takes it back then.
//!
//! A host is known to the other servers a second after its first lock through one (docs/nfs.md), so each client has a lock of
//! its own besides, which it keeps, and takes the common one only when that is older.

use super::nfs_count::{Counted, Told, WIDTH};
use super::nfs3_lock::{Side, Statd, give_back, reclaim};
use super::{now_us, say};
use anyhow::{Result, bail};
use drill::clients::nlm::{DENIED, GRACE, GRANTED, Nlm};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

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

/// What a client has, and how to take it back: by a thread of its own, as a kernel does, for what the client itself does may wait
/// for that very server, and is done under a lock that somebody else has if the grace period is over by then.
struct Had {
    common: Nlm,
    held: bool,
    /// The common one was taken back just now: not all servers need know yet.
    taken_back: bool,
    kept: Nlm,
    /// The kept one was taken back, or refused, since it was last looked at.
    kept_anew: bool,
    /// How many of the server's words were heeded.
    heeded: u64,
}

impl Had {
    fn heed(&mut self, index: usize, heard: u64) -> Result<()> {
        self.heeded = heard;
        self.kept_anew = true;
        if self.held {
            self.held = reclaim(&mut self.common)?;
            self.taken_back = self.held;
            say(&format!("{index} {} {}", if self.held { 'B' } else { 'L' }, now_us()));
        }
        // Refused: it is taken anew before the next common one.
        reclaim(&mut self.kept).map(drop)
    }
}

/// Between two looks whether a server has begun anew.
const LOOK: Duration = Duration::from_millis(2);

/// Takes back what a client has whenever its server has begun anew, until nobody has use for it.
fn take_back(index: usize, had: &Weak<Mutex<Had>>, heard: &AtomicU64, told: &Told) {
    while let Some(had) = had.upgrade().filter(|_| !told.stop.load(Ordering::Relaxed)) {
        let now = heard.load(Ordering::Relaxed);
        let mut had = had.lock().unwrap_or_else(PoisonError::into_inner);
        if had.heeded != now
            && let Err(e) = had.heed(index, now)
        {
            say(&format!("{index} X RECLAIM: {}", format!("{e:#}").replace('\n', " ")));
        }
        drop(had);
        std::thread::sleep(LOOK);
    }
}

/// One client's two locks.
pub(super) struct Locks {
    common: Side,
    kept: Side,
    /// Since when it has the kept one from this server, and over which connection.
    since_us: u64,
    connection: u64,
    heard: Arc<AtomicU64>,
    had: Arc<Mutex<Had>>,
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
        let of_kept = format!("{owner}-kept");
        let length = WIDTH as u64;
        let open = |path: &str, owner: &str| Side::open(server, export, path, owner, length, &told.stop);
        let (common, kept) = (open(path, &owner)?, open(&format!("{path}-kept-{index}"), &of_kept)?);
        let had = Had {
            common: common.nlm_beside(server, &owner, length, &told.stop),
            held: false,
            taken_back: false,
            kept: kept.nlm_beside(server, &of_kept, length, &told.stop),
            kept_anew: true,
            heeded: heard.load(Ordering::Relaxed),
        };
        let had = Arc::new(Mutex::new(had));
        let (theirs, words, told) = (Arc::downgrade(&had), Arc::clone(&heard), told.clone());
        std::thread::spawn(move || take_back(index, &theirs, &words, &told));
        Ok(Self { common, kept, since_us: u64::MAX, connection: u64::MAX, heard, had })
    }

    /// What it has, when everything that its server has said is heeded.
    fn had(&self) -> MutexGuard<'_, Had> {
        loop {
            let had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
            if had.heeded == self.heard.load(Ordering::Relaxed) {
                return had;
            }
            drop(had);
            std::thread::sleep(LOOK);
        }
    }

    /// Has it the lock of its own, and do all servers know?
    fn is_known(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.had().kept_anew) {
            self.connection = u64::MAX;
        }
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
        if !self.is_known()? {
            return Ok(false);
        }
        let before = self.had().heeded;
        if !granted(self.common.nlm.lock(false)?)? {
            return Ok(false);
        }
        let same = {
            let mut had = self.had();
            (had.held, had.taken_back) = (had.heeded == before, false);
            had.held
        };
        if !same {
            // Given by a server that has begun anew since, or by the new one: nobody knows.
            give_back(&mut self.common.nlm)?;
        }
        Ok(same)
    }

    fn may_keep(&self) -> bool {
        !self.had().taken_back
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let text = self.common.read(WIDTH as u32)?;
        Ok(self.had().held.then_some(text))
    }

    fn write(&mut self, data: &[u8]) -> Result<bool> {
        self.common.write(&String::from_utf8_lossy(data))?;
        Ok(self.had().held)
    }

    fn unlock(&mut self) -> Result<()> {
        // Before it is given back, or it would be taken back after.
        self.had().held = false;
        give_back(&mut self.common.nlm)
    }
}
