//! Judges what clients saw of locks that exclude each other, and of a counter that all of them add to under one of these.
//!
//! Pure code: what is recorded is given, what must not be is named. All times are of one clock, in microseconds. A client
//! says only what it knows: that it had a lock from the answer that granted it until it *sent* the last request that was
//! acknowledged under it. What a server does between is its own affair.

use std::collections::BTreeSet;

/// A violation of one kind is told so often; the rest is counted.
const TOLD: usize = 5;

/// A lock that its client had for itself alone, as far as the client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    /// What excludes whom: holds of different names have nothing to do with each other.
    pub(super) of: &'static str,
    pub(super) client: usize,
    pub(super) from_us: u64,
    pub(super) to_us: u64,
}

/// One increment as its client saw it. It read one less than `value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Increment {
    pub(super) client: usize,
    /// The lock was granted; the number was read later.
    pub(super) begun_us: u64,
    /// It was on stable storage, or the client gave up.
    pub(super) ended_us: u64,
    pub(super) value: u64,
    /// False: no answer came, so it is there or not.
    pub(super) known: bool,
}

/// A counter's whole history in order, for who looks for the reason of what is wrong: seconds since `began_us`.
pub(super) fn table(increments: &[Increment], began_us: u64) -> String {
    let seconds = |us: u64| us.saturating_sub(began_us) as f64 / 1e6;
    let mut sorted: Vec<&Increment> = increments.iter().collect();
    sorted.sort_by_key(|i| i.ended_us);
    let mut text = String::from("locked_s,written_s,client,value,acknowledged\n");
    for i in sorted {
        let (from, to) = (seconds(i.begun_us), seconds(i.ended_us));
        text.push_str(&format!("{from:.6},{to:.6},{},{},{}\n", i.client, i.value, i.known));
    }
    text
}

/// Everything of one kind, the first few in full.
fn told(mut all: Vec<String>) -> Vec<String> {
    if all.len() > TOLD {
        let more = all.len() - TOLD;
        all.truncate(TOLD);
        all.push(format!("and {more} more of this kind"));
    }
    all
}

/// Two that held one lock at one time.
///
/// A grant under which nothing was acknowledged proves nothing: its answer may have waited in the client's socket while the
/// server died and another one got the lock.
pub(super) fn two_owners(holds: &[Hold]) -> Vec<String> {
    let mut sorted: Vec<&Hold> = holds.iter().filter(|hold| hold.from_us < hold.to_us).collect();
    sorted.sort_by_key(|h| (h.of, h.from_us));
    let mut wrong = Vec::new();
    // The one of this lock that lasts longest so far.
    let mut longest: Option<&Hold> = None;
    for hold in sorted {
        match longest {
            Some(before) if before.of == hold.of => {
                if before.to_us > hold.from_us && before.client != hold.client {
                    wrong.push(format!(
                        "{}: client {} had it until {} at least, and client {} got it at {} ({} us earlier)",
                        hold.of,
                        before.client,
                        before.to_us,
                        hold.client,
                        hold.from_us,
                        before.to_us - hold.from_us
                    ));
                }
                if hold.to_us > before.to_us {
                    longest = Some(hold);
                }
            }
            _ => longest = Some(hold),
        }
    }
    told(wrong)
}

/// The largest number that was acknowledged by then.
fn acknowledged(by_end: &[(u64, u64)], until_us: u64) -> u64 {
    let n = by_end.partition_point(|(ended, _)| *ended < until_us);
    n.checked_sub(1).map_or(0, |i| by_end[i].1)
}

/// What must not be of a counter that began at 0: a number that two were told is theirs, an acknowledged one that somebody
/// who had the lock later did not see, one that nobody has written. `last` is what the file shows at the end.
pub(super) fn counter(increments: &[Increment], last: u64) -> Vec<String> {
    let mut known: Vec<&Increment> = increments.iter().filter(|i| i.known).collect();
    known.sort_by_key(|i| i.value);
    let twice = known.windows(2).filter(|pair| pair[0].value == pair[1].value).map(|pair| {
        let (a, b) = (pair[0].client, pair[1].client);
        format!("increment lost: clients {a} and {b} were both told that their {} is written", pair[0].value)
    });
    let mut wrong = told(twice.collect());

    // Ends in order, each with the largest number until then.
    let mut by_end: Vec<(u64, u64)> = known.iter().map(|i| (i.ended_us, i.value)).collect();
    by_end.sort_unstable();
    let mut largest = 0;
    for (_, value) in &mut by_end {
        largest = largest.max(*value);
        *value = largest;
    }
    let old = increments.iter().filter_map(|i| {
        let there = acknowledged(&by_end, i.begun_us);
        (i.value <= there).then(|| {
            format!(
                "acknowledged increment lost: client {} read {} at {}, after {there} was acknowledged",
                i.client,
                i.value.saturating_sub(1),
                i.begun_us
            )
        })
    });
    wrong.extend(told(old.collect()));
    if largest > last {
        wrong.push(format!("acknowledged increment lost: {largest} was acknowledged, and the counter shows {last}"));
    }

    let written: BTreeSet<u64> = increments.iter().map(|i| i.value).collect();
    let read = increments.iter().map(|i| (i.value.saturating_sub(1), Some(i.client))).chain([(last, None)]);
    let from_nowhere = read.filter(|(value, _)| *value > 0 && !written.contains(value)).map(|(value, client)| {
        let who = client.map_or_else(|| "the counter shows at the end".to_owned(), |c| format!("client {c} read"));
        format!("{who} {value}, which nobody has written")
    });
    wrong.extend(told(from_nowhere.collect()));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(client: usize, begun_us: u64, ended_us: u64, value: u64, known: bool) -> Increment {
        Increment { client, begun_us, ended_us, value, known }
    }

    fn hold(of: &'static str, client: usize, from_us: u64, to_us: u64) -> Hold {
        Hold { of, client, from_us, to_us }
    }

    #[test]
    fn a_good_history_with_unknown_ones_is_right() {
        let all = [one(0, 0, 5, 1, true), one(1, 6, 9, 2, false), one(0, 10, 20, 3, true)];
        assert_eq!(counter(&all, 3), Vec::<String>::new());
        // The unknown one was not done: another wrote the same number.
        let all = [one(0, 0, 5, 1, true), one(1, 6, 9, 2, false), one(0, 12, 20, 2, true)];
        assert_eq!(counter(&all, 2), Vec::<String>::new());
        // The last one is unknown: both ends are right.
        let all = [one(0, 0, 5, 1, true), one(1, 6, 9, 2, false)];
        assert_eq!(counter(&all, 2), Vec::<String>::new());
        assert_eq!(counter(&all, 1), Vec::<String>::new());
        assert_eq!(counter(&[], 0), Vec::<String>::new());
    }

    #[test]
    fn a_lost_acknowledged_increment_is_found() {
        // Two were told that 1 is theirs.
        let wrong = counter(&[one(0, 0, 5, 1, true), one(1, 2, 6, 1, true)], 1);
        assert!(wrong[0].contains("both told that their 1"), "{wrong:?}");
        // It is gone when the next one reads, though that one never learns what became of its own.
        let wrong = counter(&[one(0, 0, 5, 1, true), one(0, 6, 9, 2, true), one(1, 10, 15, 2, false)], 2);
        assert!(wrong[0].contains("client 1 read 1 at 10, after 2 was acknowledged"), "{wrong:?}");
        // It is gone at the end.
        let wrong = counter(&[one(0, 0, 5, 1, true), one(0, 6, 9, 2, true)], 1);
        assert!(wrong[0].contains("2 was acknowledged, and the counter shows 1"), "{wrong:?}");
    }

    #[test]
    fn a_number_from_nowhere_is_found() {
        let wrong = counter(&[one(0, 0, 5, 1, true), one(0, 6, 9, 3, true)], 3);
        assert_eq!(wrong, ["client 0 read 2, which nobody has written"]);
        let wrong = counter(&[one(0, 0, 5, 1, true)], 7);
        assert_eq!(wrong, ["the counter shows at the end 7, which nobody has written"]);
    }

    #[test]
    fn two_owners_of_one_lock_are_found() {
        let apart =
            [hold("range", 0, 0, 10), hold("range", 1, 10, 20), hold("file", 2, 5, 15), hold("range", 0, 25, 30)];
        assert_eq!(two_owners(&apart), Vec::<String>::new());
        let wrong = two_owners(&[hold("range", 0, 0, 10), hold("range", 1, 8, 20)]);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].contains("client 0 had it until 10") && wrong[0].contains("2 us earlier"), "{wrong:?}");
        // The answer came late, from a server that is no more.
        assert_eq!(two_owners(&[hold("range", 0, 0, 10), hold("range", 1, 8, 8)]), Vec::<String>::new());
        // A long one with a short one of the same client in between.
        let wrong = two_owners(&[hold("range", 0, 0, 100), hold("range", 0, 10, 20), hold("range", 1, 50, 60)]);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn many_of_one_kind_are_counted() {
        let all: Vec<Increment> = (0..50).map(|i| one(i, 0, 5, 1, true)).collect();
        let wrong = counter(&all, 1);
        assert_eq!(wrong.len(), TOLD + 1, "{wrong:?}");
        assert_eq!(wrong[TOLD], "and 44 more of this kind");
    }
}
