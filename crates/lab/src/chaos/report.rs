//! What came of it, for people and for programs.

use serde::Serialize;
use std::collections::BTreeMap;

/// Times of 2 s and more without a success.
#[derive(Debug, Default, Serialize)]
pub(super) struct Stalls {
    pub(super) times: u64,
    /// Of any length.
    pub(super) longest_ms: f64,
}

/// Errors in the servers' words.
#[derive(Debug, Default, Serialize)]
pub(super) struct Errors(BTreeMap<String, Times>);

/// How often, and when first and last, in microseconds of CLOCK_MONOTONIC.
#[derive(Debug, Serialize)]
struct Times {
    times: u64,
    first_us: u64,
    last_us: u64,
}

impl Errors {
    pub(super) fn add(&mut self, what: String, times: u64, at_us: u64) {
        let error = self.0.entry(what).or_insert(Times { times: 0, first_us: at_us, last_us: at_us });
        error.times += times;
        error.first_us = error.first_us.min(at_us);
        error.last_us = error.last_us.max(at_us);
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (what, error) in other.0 {
            self.add(what.clone(), error.times, error.first_us);
            self.add(what, 0, error.last_us);
        }
    }

    fn sum(&self) -> u64 {
        self.0.values().map(|e| e.times).sum()
    }
}

/// Everything that was seen.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) minutes: f64,
    /// When the faults began, and what CLOCK_MONOTONIC, in which times below are told, showed then.
    pub(super) began: String,
    pub(super) began_us: u64,
    /// What clients saw of counters that are wrong, for the logs' folder.
    #[serde(skip)]
    pub(super) histories: Vec<String>,
    pub(super) storage: &'static str,
    pub(super) rounds: u64,
    pub(super) steps: u64,
    /// Those that hit the server of a client that had a lock over NFSv3.
    pub(super) steps_under_lock: u64,
    /// Faults by kind.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// What could not be made: what it would hit was not there.
    pub(super) not_made: Vec<String>,
    /// Acknowledged operations by kind.
    pub(super) operations: BTreeMap<&'static str, u64>,
    /// Increments of which their client does not know whether they were done.
    pub(super) unknown_increments: u64,
    /// Connections that clients lost and made anew.
    pub(super) reconnects: u64,
    /// What servers said over connections that stood.
    pub(super) errors: Errors,
    /// Times without a success, by kind of client.
    pub(super) stalls: BTreeMap<&'static str, Stalls>,
    /// Those of NFS writers that took 10 s and more.
    pub(super) long_stalls: Vec<String>,
    pub(super) bytes_compared: u64,
    pub(super) arp_claims: u64,
    pub(super) holder_changes: u64,
    /// With all nodes mended: the longest time until every address was held, and until three nodes were members.
    pub(super) longest_until_held_s: f64,
    pub(super) longest_until_three_s: f64,
    /// What does not go on although everything is mended.
    pub(super) stuck: Vec<String>,
    /// What must not be.
    pub(super) violations: Vec<String>,
    /// What was done, with seconds since the beginning.
    pub(super) story: Vec<String>,
}

fn list<K: AsRef<str>>(map: &BTreeMap<K, u64>) -> String {
    map.iter().map(|(k, n)| format!("{} {n}", k.as_ref())).collect::<Vec<_>>().join(", ")
}

impl Report {
    pub(super) fn did(&mut self, what: &'static str, times: u64) {
        *self.operations.entry(what).or_default() += times;
    }

    pub(super) fn stall(&mut self, of: &'static str, times: u64, longest_ms: f64) {
        let stalls = self.stalls.entry(of).or_default();
        stalls.times += times;
        stalls.longest_ms = stalls.longest_ms.max(longest_ms);
    }

    /// A time without a success of a client, in microseconds of CLOCK_MONOTONIC.
    pub(super) fn stalled(&mut self, who: &str, from_us: u64, to_us: u64) {
        let (from, long) = (from_us.saturating_sub(self.began_us), to_us.saturating_sub(from_us));
        if long >= 10_000_000 {
            self.long_stalls.push(format!("{who}: {:.1} s, from {:.1} s on", long as f64 / 1e6, from as f64 / 1e6));
        }
    }

    pub(super) fn stuck(&mut self, what: String) {
        self.stuck.push(what);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.stuck.is_empty()
    }

    /// For people.
    pub(super) fn print(&self) {
        println!("seed {}, {} min in {} rounds, {} storage", self.seed, self.minutes, self.rounds, self.storage);
        let (faults, under_lock) = (self.faults.values().sum::<u64>(), self.steps_under_lock);
        println!(
            "faults: {faults} in {} steps, {under_lock} of them under an NFSv3 lock ({})",
            self.steps,
            list(&self.faults)
        );
        println!("operations: {}; {} increments unknown", list(&self.operations), self.unknown_increments);
        let stalls: Vec<String> = self
            .stalls
            .iter()
            .map(|(of, s)| format!("{of} {}, the longest {:.1} s", s.times, s.longest_ms / 1000.0))
            .collect();
        println!("stalls of 2 s and more: {}", stalls.join("; "));
        for stall in &self.long_stalls {
            println!("  {stall}");
        }
        println!("{} connections made anew; {} errors", self.reconnects, self.errors.sum());
        let since = |us: u64| us.saturating_sub(self.began_us) as f64 / 1e6;
        for (error, at) in &self.errors.0 {
            println!("  {} times, {:.1} to {:.1} s: {error}", at.times, since(at.first_us), since(at.last_us));
        }
        println!(
            "{} bytes compared, {} ARP claims, {} changes of a holder",
            self.bytes_compared, self.arp_claims, self.holder_changes
        );
        println!(
            "after mending: every address held within {:.1} s, three members within {:.1} s",
            self.longest_until_held_s, self.longest_until_three_s
        );
        for what in &self.not_made {
            println!("  not made: {what}");
        }
        println!("stuck: {}", self.stuck.len());
        for what in &self.stuck {
            println!("  {what}");
        }
        println!("violations: {}", self.violations.len());
        for what in &self.violations {
            println!("  {what}");
        }
    }
}
