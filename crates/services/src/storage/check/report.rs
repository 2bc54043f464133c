//! What check-storage found, for programs (serde) and for people (Display).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::coherence;

/// What must hold between nodes that share a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    LockExclusive,
    LockHandover,
    WriteSeenOpen,
    WriteSeenNew,
    WriteSeenWhereMade,
    CreateSeen,
    RenameSeen,
    DeleteSeen,
    OpenSurvivesDelete,
    AttributesSeen,
    CounterExact,
}

impl Property {
    /// All of them, in the order they are tested.
    pub const ALL: [Self; 11] = [
        Self::LockExclusive,
        Self::LockHandover,
        Self::WriteSeenOpen,
        Self::WriteSeenNew,
        Self::WriteSeenWhereMade,
        Self::CreateSeen,
        Self::RenameSeen,
        Self::DeleteSeen,
        Self::OpenSurvivesDelete,
        Self::AttributesSeen,
        Self::CounterExact,
    ];

    /// What is tested, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::LockExclusive => "a lock is exclusive between nodes",
            Self::LockHandover => "a lock is handed over when it is let go",
            Self::WriteSeenOpen => "a write is seen by files already open elsewhere",
            Self::WriteSeenNew => "a write is seen by files opened afterwards elsewhere",
            Self::WriteSeenWhereMade => "a write is seen where the file is still open since it was made",
            Self::CreateSeen => "a new file is seen at once, and made by one node only",
            Self::RenameSeen => "a rename is seen at once",
            Self::DeleteSeen => "a deletion is seen at once",
            Self::OpenSurvivesDelete => "a file deleted elsewhere can be read on while open",
            Self::AttributesSeen => "size, mode and time are seen at once",
            Self::CounterExact => "a counter kept under a lock is exact",
        }
    }

    /// What users suffer where it does not hold.
    pub fn cost(self) -> &'static str {
        match self {
            Self::LockExclusive => {
                "two programs that lock correctly change the same data at once, and two nodes may both believe to \
                 hold the cluster lock: do not serve from this mount"
            }
            Self::LockHandover => "programs wait for locks that nobody holds; the cluster lock may not pass on",
            Self::WriteSeenOpen | Self::WriteSeenNew => {
                "clients of different servers read old data after a write, and saving over it loses updates"
            }
            Self::WriteSeenWhereMade => {
                "while a client has a file open that it made, other clients of its server read old data after a write \
                 through another server, and saving over it loses updates, also under locks"
            }
            Self::CreateSeen => "files saved through one server are missing through the others for seconds",
            Self::RenameSeen => {
                "programs that save by renaming (most office programs) leave other servers' clients with the old file"
            }
            Self::DeleteSeen => "deleted files still show and open through the other servers",
            Self::OpenSurvivesDelete => "programs fail in the middle of a file that another server's client deletes",
            Self::AttributesSeen => {
                "clients of other servers see old sizes and times: truncated reads, needless rebuilds, missed backups"
            }
            Self::CounterExact => {
                "updates are lost although every program locks correctly: databases and shared documents are damaged"
            }
        }
    }

    /// The commands and mount options that mend it on GlusterFS. `volume` is the name to show.
    pub fn remedies(self, volume: &str) -> Vec<String> {
        let (options, mount) = coherence::remedies(self);
        let volume_settings = coherence::VOLUME_OPTIONS.iter().filter(|setting| options.contains(&setting.option));
        let mut remedies: Vec<String> = volume_settings.map(|setting| setting.command(volume)).collect();
        if !mount.is_empty() {
            remedies.push(format!("mount with -o {}", mount.join(",")));
        }
        remedies
    }
}

/// Whether a property holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Holds,
    Fails,
    /// It could not be tested; the evidence says why.
    Unknown,
}

/// One property and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub property: Property,
    pub title: String,
    pub verdict: Verdict,
    /// Observations made, and those of them that were wrong.
    pub tried: u32,
    pub wrong: u32,
    /// Figures, and the first wrong observation.
    pub evidence: String,
    pub took: Duration,
    /// What it costs users; empty when it holds.
    pub cost: String,
    /// What mends it; empty when it holds.
    pub remedies: Vec<String>,
}

/// The result of check-storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    pub nodes: Vec<String>,
    pub findings: Vec<Finding>,
    pub took: Duration,
}

impl CheckReport {
    /// Whether every property holds.
    pub fn coherent(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict == Verdict::Holds)
    }

    /// One line for a standing warning; None when all is well.
    pub fn warning(&self) -> Option<String> {
        let titles = |verdict| {
            let of = self.findings.iter().filter(move |finding| finding.verdict == verdict);
            of.map(|finding| finding.title.as_str()).collect::<Vec<_>>().join("; ")
        };
        match (titles(Verdict::Fails), titles(Verdict::Unknown)) {
            (fails, _) if !fails.is_empty() => Some(format!(
                "the shared mount is not coherent between nodes, this does not hold: {fails} \
                 (`steadfast check-storage` says what to do)"
            )),
            (_, unknown) if !unknown.is_empty() => Some(format!("not tested on the shared mount: {unknown}")),
            _ => None,
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Shared mount between {} ({:.1} s)", self.nodes.join(", "), self.took.as_secs_f32())?;
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Holds => "ok     ",
                Verdict::Fails => "FAILS  ",
                Verdict::Unknown => "unknown",
            };
            writeln!(f, "{mark} {}: {}", finding.title, finding.evidence)?;
            if !finding.cost.is_empty() {
                writeln!(f, "        costs: {}", finding.cost)?;
            }
            for remedy in &finding.remedies {
                writeln!(f, "        mend:  {remedy}")?;
            }
        }
        let wrong = self.findings.iter().filter(|finding| finding.verdict != Verdict::Holds).count();
        match wrong {
            0 => write!(f, "The mount is coherent."),
            n => write!(f, "{n} of {} properties do not hold or could not be tested.", self.findings.len()),
        }
    }
}
