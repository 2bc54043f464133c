//! What a client notes: times of operations, stalls, failures.

use crate::now_us;
use crate::stats::percentile;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// A time without a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Last success before it, in microseconds of CLOCK_MONOTONIC.
    pub from_us: u64,
    /// First success after it.
    pub to_us: u64,
    /// It had not ended when the client was.
    #[serde(default)]
    pub open: bool,
}

impl Stall {
    /// How long, in milliseconds.
    #[must_use]
    pub fn ms(self) -> f64 {
        (self.to_us - self.from_us) as f64 / 1000.0
    }
}

/// One client's story.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stream {
    /// `ping`, `tcp`, `nfs3`, `nfs4`, `smb`.
    pub protocol: String,
    /// The address that it used.
    pub vip: String,
    /// Operations that worked.
    pub ok: u64,
    /// Operations that an application would have seen fail.
    pub failed: u64,
    /// Median of an operation, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// The slowest, in milliseconds.
    pub max_ms: f64,
    /// Times without a success that are longer than the client's own rhythm.
    pub stalls: Vec<Stall>,
    /// Bytes that were acknowledged, read back at the end and compared.
    pub compared: u64,
    /// What is wrong with them, or why the client could not work.
    pub wrong: Option<String>,
    /// The first failure, in the client's words.
    pub first_failure: Option<String>,
    /// Last success, in microseconds of CLOCK_MONOTONIC.
    pub last_us: u64,
}

#[derive(Debug)]
struct Inner {
    stream: Stream,
    threshold_us: u64,
    times: Vec<f64>,
}

/// Written by one client, read by whoever watches it.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Inner>>);

impl Recorder {
    /// For a client whose successes are usually closer together than `threshold_ms`.
    #[must_use]
    pub fn new(protocol: &str, vip: &str, threshold_ms: u64) -> Self {
        let stream = Stream { protocol: protocol.to_owned(), vip: vip.to_owned(), ..Stream::default() };
        Self(Arc::new(Mutex::new(Inner { stream, threshold_us: threshold_ms * 1000, times: Vec::new() })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An operation that began at `begun_us` has worked.
    pub fn ok(&self, begun_us: u64) {
        let now = now_us();
        self.with(|inner| {
            let last = inner.stream.last_us;
            if last > 0 && now - last > inner.threshold_us {
                inner.stream.stalls.push(Stall { from_us: last, to_us: now, open: false });
            }
            inner.stream.last_us = now;
            inner.stream.ok += 1;
            inner.times.push((now - begun_us) as f64 / 1000.0);
        });
    }

    /// An operation has failed.
    pub fn failed(&self, why: &str) {
        self.with(|inner| {
            inner.stream.failed += 1;
            inner.stream.first_failure.get_or_insert_with(|| why.trim().to_owned());
        });
    }

    /// A trial that is repeated by itself (a ping, a connect) came to nothing: the stall tells it, it is no failure.
    pub fn missed(&self, why: &str) {
        self.with(|inner| {
            inner.stream.first_failure.get_or_insert_with(|| why.trim().to_owned());
        });
    }

    /// What it wrote was compared.
    pub fn compared(&self, bytes: u64) {
        self.with(|inner| inner.stream.compared += bytes);
    }

    /// It cannot work, or what it wrote is not there.
    pub fn wrong(&self, why: impl Into<String>) {
        let why = why.into();
        self.with(|inner| inner.stream.wrong.get_or_insert(why).clone());
    }

    /// The story so far; with `end` a stall that has not ended counts until now.
    #[must_use]
    pub fn stream(&self, end: bool) -> Stream {
        let now = now_us();
        self.with(|inner| {
            let mut stream = inner.stream.clone();
            (stream.p50_ms, stream.p99_ms) = (percentile(&inner.times, 50.0), percentile(&inner.times, 99.0));
            stream.max_ms = inner.times.iter().copied().fold(0.0, f64::max);
            if end && stream.last_us > 0 && now - stream.last_us > inner.threshold_us.max(1_000_000) {
                stream.stalls.push(Stall { from_us: stream.last_us, to_us: now, open: true });
            }
            stream
        })
    }
}
