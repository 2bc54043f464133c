//! The stock `ctdb` tool asked the same questions of two clusters in the same state: what it prints and how it ends is
//! compared, command by command.
//!
//! [`steps`] is the list; [`normal`] takes out what must differ (times, numbers of processes, paths); [`rivals`] are the
//! clusters: Debian's ctdbd four times in a network namespace of its own, or the daemons of this laboratory.

mod normal;
mod rivals;
mod steps;

pub(crate) use rivals::{Daemons, Rival, Stock};

use anyhow::Result;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// One command's outcome, made comparable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<String>,
    pub(crate) err: Vec<String>,
}

/// Asks everything.
pub(crate) fn transcript(rival: &dyn Rival) -> Result<Vec<Outcome>> {
    rival.begin()?;
    let mut all = Vec::new();
    for step in steps::STEPS {
        let mut done = rival.ask(step.node, step.words, step.input)?;
        let asked = Instant::now();
        while step.words == ["status"] && !at_rest(&done.stdout) && asked.elapsed() < REST {
            std::thread::sleep(Duration::from_millis(200));
            done = rival.ask(step.node, step.words, step.input)?;
        }
        let lines = |text: &str| normal::lines(step, &rival.plain(text));
        let outcome = Outcome {
            command: step.command(),
            code: if done.timed_out { None } else { done.status.code() },
            out: lines(&done.stdout),
            err: lines(&done.stderr),
        };
        if step.compare {
            all.push(outcome);
        }
    }
    Ok(all)
}

/// An order to a node begins a recovery, which one cluster has done before the order returns and the other a second later.
/// One that takes longer is a difference.
const REST: Duration = Duration::from_secs(30);

/// Has everybody who takes part a place in the map, and nobody else? Of itself a node that was stopped says what it likes.
fn at_rest(status: &str) -> bool {
    let node = |line: &&str| line.starts_with("pnn:");
    let out = |line: &str| ["STOPPED", "BANNED", "DISCONNECTED"].iter().any(|word| line.contains(word));
    let active = status.lines().filter(node).filter(|line| !out(line)).count();
    let asked = status.lines().filter(node).find(|line| line.contains("THIS NODE"));
    asked.is_some_and(out) || status.contains(&format!("Size:{active}\n")) && status.contains("Recovery mode:NORMAL")
}

/// Commands that differ, each with both outcomes; none: all are the same.
pub(crate) fn differences(left: (&str, &[Outcome]), right: (&str, &[Outcome])) -> Vec<String> {
    left.1.iter().zip(right.1).filter(|(l, r)| l != r).map(|(l, r)| difference((left.0, l), (right.0, r))).collect()
}

fn difference((left_name, left): (&str, &Outcome), (right_name, right): (&str, &Outcome)) -> String {
    let mut text = left.command.clone();
    let word = |code: Option<i32>| code.map_or_else(|| "never ended".into(), |c| c.to_string());
    if left.code != right.code {
        let _ = write!(text, "\n  exit code: {left_name} {}, {right_name} {}", word(left.code), word(right.code));
    }
    for (stream, left, right) in [("", &left.out, &right.out), ("stderr ", &left.err, &right.err)] {
        for (sign, name, lines, other) in [("-", left_name, left, right), ("+", right_name, right, left)] {
            for line in lines.iter().filter(|l| !other.contains(l)) {
                let _ = write!(text, "\n  {sign} {name}: {stream}{line}");
            }
        }
        let same = |a: &[String], b: &[String]| a.iter().all(|l| b.contains(l));
        if left != right && same(left, right) && same(right, left) {
            let _ = write!(text, "\n  the same lines of {stream}output in another order, or not as often");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_node_is_waited_for() {
        let status = |size, mode, this| {
            let nodes = ["OK", "OK", "STOPPED|INACTIVE"];
            let nodes = nodes.iter().enumerate().map(|(n, flags)| {
                format!("pnn:{n} 192.168.122.10{n} {flags}{}\n", if n == this { " (THIS NODE)" } else { "" })
            });
            format!(
                "Number of nodes:3\n{}Generation:7\nSize:{size}\nRecovery mode:{mode}\nLeader:0\n",
                nodes.collect::<String>()
            )
        };
        assert!(at_rest(&status(2, "NORMAL (0)", 0)));
        assert!(!at_rest(&status(3, "NORMAL (0)", 0)), "the recovery is to come");
        assert!(!at_rest(&status(2, "RECOVERY (1)", 0)));
        assert!(at_rest(&status(3, "RECOVERY (1)", 2)), "its own word");
    }

    fn outcome(code: i32, out: &[&str]) -> Outcome {
        Outcome {
            command: "ctdb pnn".into(),
            code: Some(code),
            out: out.iter().map(|l| (*l).to_owned()).collect(),
            err: Vec::new(),
        }
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let left = [outcome(0, &["PNN:0", "x"])];
        assert!(differences(("a", &left), ("b", &left)).is_empty());
        assert!(differences(("a", &left), ("b", &[outcome(1, &["PNN:0", "x"])]))[0].contains("exit code: a 0, b 1"));
        let text = &differences(("a", &left), ("b", &[outcome(0, &["PNN:1", "x"])]))[0];
        assert!(text.contains("- a: PNN:0") && text.contains("+ b: PNN:1") && !text.contains(": x"), "{text}");
        assert!(differences(("a", &left), ("b", &[outcome(0, &["x", "PNN:0"])]))[0].contains("another order"));
    }
}
