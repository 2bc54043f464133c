//! What a run of a test left: its end, by the program's subunit stream, and why.

use super::Outcome;
use std::fmt::Write as _;

/// What the program prints, also into a failure's reason, when it has no connection at all.
const NOT_CONNECTED: &[&str] =
    &["Failed to connect to SMB2 share", "Establishing SMB2 connection failed", "Failed to open connection"];
/// What a failure's reason has when the connection was lost on the way.
const LOST: &[&str] =
    &["NT_STATUS_CONNECTION_RESET", "NT_STATUS_CONNECTION_DISCONNECTED", "NT_STATUS_CONNECTION_REFUSED"];
/// The reason of a test that gives none: then it has printed what it minds.
const UNEXPLAINED: &str = "Unknown error/failure.";
/// Of a reason, for one line.
const ENOUGH: usize = 200;

/// A run of a test.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    /// On how many nodes the test has opened its share.
    pub(crate) nodes: usize,
    /// All that the program printed.
    pub(crate) said: String,
}

impl Ran {
    /// In one line: why it failed or was left out, by its own word; else the last that it printed.
    pub(crate) fn why(&self) -> String {
        let given = reasons(&self.said).next().filter(|lines| !is_unexplained(lines));
        let reason = given.unwrap_or_else(|| {
            let last: Vec<&str> = self.said.lines().rev().take(3).collect();
            last.into_iter().rev().collect()
        });
        let mut line = String::new();
        for part in reason.iter().map(|l| l.trim()).filter(|l| !l.is_empty()) {
            let _ = write!(line, "{}{part}", if line.is_empty() { "" } else { " " });
        }
        if line.is_empty() { "without a word".into() } else { line.chars().take(ENOUGH).collect() }
    }
}

/// What stands in brackets after `failure: NAME [`, of all that did not pass.
fn reasons(said: &str) -> impl Iterator<Item = Vec<&str>> {
    let mut lines = said.lines();
    std::iter::from_fn(move || {
        lines
            .by_ref()
            .find(|l| ["failure: ", "error: ", "skip: "].iter().any(|word| l.starts_with(word)) && l.ends_with('['))?;
        Some(lines.by_ref().take_while(|l| *l != "]").collect())
    })
}

fn is_unexplained(reason: &[&str]) -> bool {
    reason.iter().any(|line| line.contains(UNEXPLAINED))
}

/// What the subunit stream says; one name may stand for several tests, and the worst counts. `comments` come beside it.
pub(super) fn verdict(said: &str, comments: &str) -> Outcome {
    let any = |words: &[&str]| said.lines().any(|l| words.iter().any(|w| l.starts_with(w)));
    let has = |text: &str, words: &[&str]| words.iter().any(|w| text.contains(w));
    if any(&["failure: ", "error: "]) {
        let printed = |words| has(said, words) || has(comments, words);
        let of_it =
            |reason: Vec<&str>| reason.iter().any(|line| has(line, LOST)) || (is_unexplained(&reason) && printed(LOST));
        let lost = printed(NOT_CONNECTED) || reasons(said).any(of_it);
        if lost { Outcome::Unconnected } else { Outcome::Fail }
    } else if any(&["success: "]) {
        Outcome::Pass
    } else if any(&["skip: "]) {
        Outcome::Skip
    } else {
        Outcome::Broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> String {
        format!("smbtorture 4.17\ntest: a\n{lines}\n")
    }

    #[test]
    fn the_worst_of_a_name_counts() {
        let of = |lines| verdict(&said(lines), "");
        assert_eq!(of("success: a"), Outcome::Pass);
        assert_eq!(of("success: a\nfailure: a [\nwhy\n]"), Outcome::Fail);
        assert_eq!(of("error: a [\nwhy\n]"), Outcome::Fail);
        assert_eq!(of("skip: a [\nwhy\n]"), Outcome::Skip);
        assert_eq!(of("success is not said"), Outcome::Broken);
    }

    #[test]
    fn without_a_connection_nothing_was_tested() {
        let of = |lines| verdict(&said(lines), "");
        assert_eq!(of("failure: a [\nEstablishing SMB2 connection failed\n\n]"), Outcome::Unconnected);
        assert_eq!(
            of("failure: a [\nx.c:1: Expression `torture_open_connection()' failed: Failed to open connection\n]"),
            Outcome::Unconnected
        );
        // By a comment beside a reason of the test's own.
        let comment = "Failed to connect to SMB2 share \\\\h\\s - NT_STATUS_LOGON_FAILURE";
        assert_eq!(verdict(&said("failure: a [\nx\n]"), comment), Outcome::Unconnected);
        assert_eq!(of("failure: a [\nstatus was NT_STATUS_CONNECTION_RESET\n]"), Outcome::Unconnected);
        let unexplained = said("failure: a [\nUnknown error/failure. Missing torture_fail() call?\n]");
        assert_eq!(verdict(&unexplained, "open: NT_STATUS_CONNECTION_RESET"), Outcome::Unconnected);
        assert_eq!(verdict(&unexplained, "open: NT_STATUS_ACCESS_DENIED"), Outcome::Fail);
        // What a test prints on its way is not why it fails; and who passes was connected.
        assert_eq!(of("NT_STATUS_CONNECTION_RESET\nfailure: a [\nwhy\n]"), Outcome::Fail);
        assert_eq!(of("Failed to open connection - NT_STATUS_ACCESS_DENIED\nsuccess: a"), Outcome::Pass);
    }

    #[test]
    fn the_first_reason_is_told_in_one_line() {
        let of = |lines| Ran { outcome: Outcome::Fail, seconds: 0.0, nodes: 1, said: said(lines) }.why();
        assert_eq!(of("success: a\nfailure: a [\nfirst\n  second\n]\nfailure: b [\nthird\n]"), "first second");
        assert_eq!(of("skip: a [\nleases are not supported\n]"), "leases are not supported");
        assert_eq!(of("cannot go on"), "smbtorture 4.17 test: a cannot go on");
        assert_eq!(of("failure: a [\nUnknown error/failure. Why?\n]\none\ntwo\nthree"), "one two three");
        assert_eq!(of(&format!("error: a [\n{}\n]", "long ".repeat(100))).len(), ENOUGH);
    }
}
