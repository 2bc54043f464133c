//! Probes: small clients that run on the client host and report every gap between two successes.
//!
//! A probe prints one line per event, times in microseconds of CLOCK_MONOTONIC (the same clock in all namespaces):
//!
//! ```text
//! A time ok errors who          alive: at most every 100 ms
//! G from to before after why    a gap above the probe's threshold
//! F text                        cannot even begin
//! N ok errors extra             last line, after its standard input was closed
//! ```

pub(crate) mod arp;
pub(crate) mod attempt;
pub(crate) mod chain_lock;
mod contest;
pub(crate) mod crowd;
pub(crate) mod databases;
pub(crate) mod garbage;
pub(crate) mod ident;
pub(crate) mod mount_writer;
mod nfs3_count;
pub(crate) mod nfs3_hold;
mod nfs3_lock;
pub(crate) mod nfs3_say;
pub(crate) mod nfs_count;
pub(crate) mod nfs_hold;
pub(crate) mod nfs_writer;
pub(crate) mod read_back;
pub(crate) mod run;
pub(crate) mod sweep;
pub(crate) mod tcp;
pub(crate) mod told;

pub(crate) use drill::now_us;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// True once whoever started the probe closed its standard input.
pub(crate) fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    std::thread::spawn(move || {
        let mut byte = [0u8; 16];
        while matches!(std::io::stdin().read(&mut byte), Ok(n) if n > 0) {}
        set.store(true, Ordering::Relaxed);
    });
    flag
}

/// Prints one line at once; a reader that is gone ends the probe.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Counts successes and finds the gaps between them.
#[derive(Debug)]
pub(crate) struct Gaps {
    threshold_us: u64,
    last: Option<u64>,
    last_said: u64,
    before: String,
    first_error: String,
    ok: u64,
    errors: u64,
}

impl Gaps {
    /// Gaps longer than `threshold_ms` milliseconds are reported.
    pub(crate) fn new(threshold_ms: u64) -> Self {
        Self {
            threshold_us: threshold_ms * 1000,
            last: None,
            last_said: 0,
            before: "-".into(),
            first_error: "-".into(),
            ok: 0,
            errors: 0,
        }
    }

    pub(crate) fn success(&mut self, who: &str) {
        let now = now_us();
        if let Some(last) = self.last
            && now - last > self.threshold_us
        {
            say(&format!("G {last} {now} {} {who} {}", self.before, self.first_error));
        }
        self.ok += 1;
        if now - self.last_said > 100_000 {
            say(&format!("A {now} {} {} {who}", self.ok, self.errors));
            self.last_said = now;
        }
        self.last = Some(now);
        if self.before != who {
            who.clone_into(&mut self.before);
        }
        if self.first_error != "-" {
            self.first_error = "-".into();
        }
    }

    pub(crate) fn failure(&mut self, why: &str) {
        self.errors += 1;
        if self.first_error == "-" {
            self.first_error = why.split_whitespace().collect::<Vec<_>>().join("_");
        }
    }

    /// A gap that is still open is reported as one that ended now.
    pub(crate) fn end(&self, extra: &str) {
        let now = now_us();
        if let Some(last) = self.last
            && now - last > self.threshold_us.max(1_000_000)
        {
            say(&format!("G {last} {now} {} NEVER {}", self.before, self.first_error));
        }
        say(&format!("N {} {} {extra}", self.ok, self.errors));
    }
}
