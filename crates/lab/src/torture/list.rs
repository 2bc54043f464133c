//! Which tests there are, as `smbtorture --list` names them, and how each is run.

use super::known::matches;
use crate::sh;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

/// Where a test's connections go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// From a client to one node.
    #[default]
    One,
    /// From a client, the first to one node, the second to another, and so on in turn (`--unclist`).
    Two,
    /// Nowhere by SMB: the program runs on a node, by the node's smb.conf.
    Local,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Two, Self::Local];

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::One => "one node",
            Self::Two => "two nodes",
            Self::Local => "on a node",
        }
    }
}

/// A test that is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Test {
    /// As it is shown: without the second half where the list says the name twice (`smb2.lock.async.async`).
    pub(crate) name: String,
    /// As the program takes it.
    pub(crate) full: String,
    pub(crate) kind: Kind,
}

/// SMB2 suites in which tests have more than one connection about the same files; not all of their tests have.
const SMB2_ON_TWO: &[&str] = &[
    "smb2.lock.*",
    "smb2.oplock.*",
    "smb2.lease.*",
    "smb2.sharemode.*",
    "smb2.deny.*",
    "smb2.notify.*",
    "smb2.durable-open.*",
    "smb2.durable-v2-open.*",
    "smb2.streams.*",
    "smb2.rename.*",
    "smb2.create.*",
    "smb2.delete-on-close-perms.*",
    "smb2.compound.*",
];

/// The same of SMB1: locks, oplocks, share modes, and what depends on them.
const SMB1_ON_TWO: &[&str] = &[
    "base.lock.*",
    "base.deny1",
    "base.deny2",
    "base.deny3",
    "base.denydos",
    "base.ntdeny1",
    "base.ntdeny2",
    "base.delete.*",
    "base.unlink",
    "base.open",
    "base.defer_open",
    "base.disconnect",
    "base.rename",
    "base.createx_*",
    "raw.lock.*",
    "raw.open.*",
    "raw.oplock.*",
    "raw.notify.*",
    "raw.unlink.*",
    "raw.rename.*",
    "raw.mux",
    "raw.streams.*",
];

/// Not run, as Samba's own selftest does not (`selftest/skip`), and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("smb2.hold-oplock", "no test: it keeps others out for ever"),
    ("smb2.hold-sharemode", "no test: it keeps others out for ever"),
    ("smb2.check-sharemode", "no test: it asks for what its options say"),
    ("smb2.set-sparse-ioctl", "no test: it does what its options say"),
    ("smb2.zero-data-ioctl", "no test: it does what its options say"),
    ("smb2.durable-open-disconnect.*", "no test: it leaves a durable handle behind"),
    ("smb2.scan.*", "no test: it prints what a server knows"),
    ("smb2.bench.*", "a benchmark"),
    ("smb2.create.bench-*", "a benchmark"),
    ("smb2.rename.rename_dir_bench", "a benchmark"),
    ("smb2.maxfid", "it opens 64k files to see how many can be"),
    ("smb2.timestamp_resolution.*", "for people: it fails by design with times this fine"),
    ("raw.open.open-multi", "for smbds without share modes"),
];

/// Run on a node though they speak SMB2: they need the daemon's socket, or the share's directory.
const SMB2_ON_A_NODE: &[&str] = &["smb2.lock.ctdb-delrec-deadlock", "smb2.samba3misc.localposixlock1"];

/// All tests, in the program's order: SMB2 on one node, on two, SMB1 on two, local.
pub(crate) fn all() -> Result<Vec<Test>> {
    let text = sh::run(Command::new("smbtorture").arg("--list"), Duration::from_secs(30))
        .context("scripts/install-needs smbtorture installs it")?;
    let tests = of(&text);
    if tests.is_empty() {
        bail!("`smbtorture --list` lists no test that is known here");
    }
    Ok(tests)
}

/// Those whose name matches one of these words, `*` being any text; without words all.
pub(crate) fn chosen(words: &[String]) -> Result<Vec<Test>> {
    let mut tests = all()?;
    for word in words {
        if !tests.iter().any(|t| is(word, &t.name)) {
            bail!("smbtorture has no test {word}, or it is not run here: --list shows them");
        }
    }
    tests.retain(|t| words.is_empty() || words.iter().any(|word| is(word, &t.name)));
    Ok(tests)
}

/// One test.
pub(crate) fn find(tests: &[Test], name: &str, kind: Kind) -> Result<Test> {
    let found = tests.iter().find(|t| t.name == name && t.kind == kind);
    found.cloned().with_context(|| format!("smbtorture has no test {name} ({})", kind.words()))
}

/// A suite's name stands for all of its tests.
fn is(word: &str, name: &str) -> bool {
    matches(word, name) || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('.'))
}

fn of(text: &str) -> Vec<Test> {
    let any = |patterns: &[&str], name: &str| patterns.iter().any(|p| matches(p, name));
    let mut seen = BTreeSet::new();
    let (mut one, mut two, mut local) = (Vec::new(), Vec::new(), Vec::new());
    for full in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let name = short(full);
        if NOT_RUN.iter().any(|(pattern, _)| matches(pattern, name)) || !seen.insert(full) {
            continue;
        }
        let test = |kind| Test { name: name.to_owned(), full: full.to_owned(), kind };
        if full.starts_with("local.") || any(SMB2_ON_A_NODE, name) {
            local.push(test(Kind::Local));
            continue;
        }
        if full.starts_with("smb2.") {
            one.push(test(Kind::One));
        }
        if any(SMB2_ON_TWO, name) || any(SMB1_ON_TWO, name) {
            two.push(test(Kind::Two));
        }
    }
    one.into_iter().chain(two).chain(local).collect()
}

/// `smb2.lock.async` for `smb2.lock.async.async`.
fn short(full: &str) -> &str {
    let twice = full.match_indices('.').map(|(at, _)| (&full[..at], &full[at + 1..]));
    let of = |(first, last): &(&str, &str)| first.strip_suffix(*last).is_some_and(|rest| rest.ends_with('.'));
    let mut halves = twice.filter(of);
    halves.next().map_or(full, |(first, _)| first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_said_once() {
        assert_eq!(short("smb2.lock.async.async"), "smb2.lock.async");
        assert_eq!(short("smb2.connect.connect"), "smb2.connect");
        assert_eq!(short("raw.qfileinfo.ipc.qfileinfo.ipc"), "raw.qfileinfo.ipc");
        assert_eq!(short("local.ndr.a.b"), "local.ndr.a.b");
        assert_eq!(short("smb2.dosmode"), "smb2.dosmode");
    }

    #[test]
    fn each_test_has_its_place() {
        let text =
            "smb2.lock.async.async\nsmb2.lock.ctdb-delrec-deadlock.ctdb-delrec-deadlock\nsmb2.getinfo.complex.complex
smb2.hold-oplock.hold-oplock\nbase.deny1.deny1\nraw.read.read.read\nlocal.messaging.ping_speed.ping_speed\n";
        let tests: Vec<_> = of(text).into_iter().map(|t| (t.name, t.kind)).collect();
        let want = [
            ("smb2.lock.async", Kind::One),
            ("smb2.getinfo.complex", Kind::One),
            ("smb2.lock.async", Kind::Two),
            ("base.deny1", Kind::Two),
            ("smb2.lock.ctdb-delrec-deadlock", Kind::Local),
            ("local.messaging.ping_speed", Kind::Local),
        ];
        assert_eq!(tests, want.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn a_suite_is_all_of_its_tests() {
        assert!(is("smb2.lock", "smb2.lock.async") && is("smb2.lock", "smb2.lock"));
        assert!(!is("smb2.lock", "smb2.lockout.x") && is("smb2.*.async", "smb2.lock.async"));
    }
}
