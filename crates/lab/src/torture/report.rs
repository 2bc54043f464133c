//! Counts, differences, and whether they are accepted.

use super::known::{self, Why};
use super::{Column, Kind, Outcome, Row};
use std::fmt::Write as _;

/// How many passed, did not, and did not apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    pass: usize,
    fail: usize,
    skip: usize,
}

impl Count {
    fn of<'a>(rows: impl Iterator<Item = &'a Row>, column: Column) -> Self {
        rows.filter_map(|r| r.verdict(column)).fold(Self::default(), |mut count, outcome| {
            match outcome {
                Outcome::Pass => count.pass += 1,
                Outcome::Skip => count.skip += 1,
                Outcome::Fail | Outcome::Timeout | Outcome::Broken | Outcome::Unconnected => count.fail += 1,
            }
            count
        })
    }

    fn text(self) -> String {
        format!("{} / {} / {}", self.pass, self.fail, self.skip)
    }
}

/// What the rows say.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) text: String,
    /// No test passes on CTDB alone without an accepted reason, and all were run on both.
    pub(super) good: bool,
}

/// A difference, as it is judged.
enum Judged {
    /// For a reason on the list; with its proof, where it has one.
    Known(Why),
    /// For a reason whose proof failed.
    Disproved(Why),
    /// It passes here and not on CTDB.
    Better,
    Red,
}

fn judge(row: &Row) -> Option<Judged> {
    if !row.differs() {
        return None;
    }
    let passes = |column| row.verdict(column) == Some(Outcome::Pass);
    Some(match known::why(&row.test, row.kind) {
        Some(why) if why.is_multi_channel() && passes(Column::MultiChannel) != passes(Column::Ctdb) => {
            Judged::Disproved(why)
        }
        Some(why) => Judged::Known(why),
        None if passes(Column::Steadfast) => Judged::Better,
        None => Judged::Red,
    })
}

/// Judges all rows. `rows` may be a part of all tests.
pub(super) fn report(rows: &[Row]) -> Report {
    let mut text = String::from("\npassed / failed / skipped                CTDB                Steadfast\n");
    for (name, kind, first) in [
        ("smb2.*", Kind::One, "smb2."),
        ("smb2.*", Kind::Two, "smb2."),
        ("base.*, raw.* (SMB1)", Kind::Two, ""),
        ("local.*", Kind::Local, "local."),
        ("smb2.*", Kind::Local, "smb2."),
    ] {
        let here = |r: &&Row| {
            r.kind == kind && if first.is_empty() { !r.test.starts_with("smb2.") } else { r.test.starts_with(first) }
        };
        let count = |column| Count::of(rows.iter().filter(here), column).text();
        if rows.iter().any(|r| here(&r)) {
            let what = format!("{name}, {}", kind.words());
            let _ = writeln!(text, "{what:<40} {:<19} {}", count(Column::Ctdb), count(Column::Steadfast));
        }
    }
    let all = |column| Count::of(rows.iter(), column).text();
    let _ = writeln!(text, "{:<40} {:<19} {}\n", "all", all(Column::Ctdb), all(Column::Steadfast));

    let (mut known, mut better, mut red) = (0, 0, 0);
    for (row, judged) in rows.iter().filter_map(|r| Some((r, judge(r)?))) {
        let why = match judged {
            Judged::Known(why) => {
                known += 1;
                why.0.to_owned()
            }
            Judged::Better => {
                better += 1;
                "passes here".into()
            }
            Judged::Disproved(why) => {
                red += 1;
                format!(
                    "*** not for the reason on the list: with that taken back it does not do as on CTDB ({})",
                    why.0
                )
            }
            Judged::Red => {
                red += 1;
                "*** passes on CTDB alone".into()
            }
        };
        let _ = writeln!(text, "{} ({}): {}: {why}", row.test, row.kind.words(), runs(row));
    }
    let unlike = |r: &&Row| !r.differs() && r.verdict(Column::Ctdb).is_some() && known::why(&r.test, r.kind).is_some();
    for row in rows.iter().filter(unlike).filter(|r| r.verdict(Column::Steadfast).is_some()) {
        let _ = writeln!(text, "{} ({}): on the list, and the same on both", row.test, row.kind.words());
    }
    let open = rows.iter().filter(|r| r.ctdb.is_empty() || r.steadfast.is_empty()).count();
    if open > 0 {
        let _ = writeln!(text, "{open} tests were not run on both: go on with --append");
    }
    let _ = writeln!(
        text,
        "{} tests, {} differ: {known} for a known reason, {better} pass on Steadfast alone, {red} pass on CTDB alone",
        rows.len(),
        known + better + red
    );
    Report { text, good: red == 0 && open == 0 }
}

/// `CTDB pass, Steadfast fail, then pass`.
fn runs(row: &Row) -> String {
    let said = |column| row.runs(column).iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
    let mut text = format!("CTDB {}, Steadfast {}", said(Column::Ctdb), said(Column::Steadfast));
    if !row.multi_channel.is_empty() {
        let _ = write!(text, ", with multi-channel {}", said(Column::MultiChannel));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Fail, Pass, Skip, Timeout};

    fn row(test: &str, ctdb: &[Outcome], steadfast: &[Outcome]) -> Row {
        Row { test: test.into(), ctdb: ctdb.into(), steadfast: steadfast.into(), ..Row::default() }
    }

    #[test]
    fn what_passes_on_ctdb_alone_is_red() {
        for (steadfast, good) in [
            (&[Pass][..], true),
            (&[Fail], false),
            (&[Fail, Fail], false),
            (&[Fail, Pass], true),
            (&[Skip], false),
            (&[], false),
        ] {
            let found = report(&[row("smb2.x.y", &[Pass], steadfast)]);
            assert_eq!(found.good, good, "{steadfast:?}: {}", found.text);
        }
        assert!(report(&[row("smb2.x.y", &[Fail], &[Timeout]), row("smb2.x.z", &[Fail, Fail], &[Pass, Pass])]).good);
    }

    #[test]
    fn a_reason_is_only_good_with_its_proof() {
        let name = "smb2.session.bind1";
        let mut row = row(name, &[Pass], &[Fail]);
        assert!(known::why(name, Kind::One).is_some_and(Why::is_multi_channel));
        assert!(!report(&[row.clone()]).good, "the proof is not there");
        row.multi_channel = vec![Fail];
        assert!(!report(&[row.clone()]).good);
        row.multi_channel = vec![Fail, Pass];
        assert!(report(&[row]).good);
    }

    #[test]
    fn every_test_is_counted_once() {
        let mut rows = vec![row("smb2.a", &[Pass], &[Fail]), row("smb2.b", &[Skip], &[Timeout])];
        rows.push(Row { kind: Kind::Two, ..row("base.c", &[Pass], &[Pass]) });
        let text = report(&rows).text;
        assert!(text.contains("smb2.*, one node                         1 / 0 / 1           0 / 2 / 0"), "{text}");
        assert!(text.contains("base.*, raw.* (SMB1), two nodes          1 / 0 / 0           1 / 0 / 0"), "{text}");
        assert!(text.contains("all                                      2 / 0 / 1           1 / 2 / 0"), "{text}");
    }
}
