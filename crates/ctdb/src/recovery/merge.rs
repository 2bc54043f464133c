//! Who holds a record after a recovery: decided by its location master, from what every member has of it.

use crate::planted::{Planted, planted};
use crate::wire::LtdbHeader;
use std::collections::BTreeMap;

/// What a member has of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its header.
    pub header: LtdbHeader,
    /// It has no data.
    pub empty: bool,
}

/// What becomes of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This member holds it, as before.
    Stays(u32),
    /// Its holder is lost or idle, or it was on its way. The newest copy is this member's; the location master holds it now.
    Fetched(u32),
    /// The newest copy is empty: it is forgotten, by all that have a copy. One that was left would pass for the newest in a
    /// later recovery. A holder's too: all files are stopped, so nobody has its lock, and whoever wants it asks again.
    Forgotten,
}

#[derive(Debug)]
struct Copies {
    newest: (u32, Claim),
    /// Members that take themselves for the holder. More than one is an error that recovery mends.
    holders: Vec<u32>,
    /// Members with a copy.
    members: Vec<u32>,
}

/// Copies of one database's records, of the keys of one location master.
#[derive(Debug, Default)]
pub struct Merge {
    keys: BTreeMap<Vec<u8>, Copies>,
}

/// What is decided for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The key.
    pub key: Vec<u8>,
    /// Who has it.
    pub verdict: Verdict,
    /// Members that take themselves for the holder and are not.
    pub demoted: Vec<u32>,
    /// Members that have a copy, the holder among them.
    pub copies: Vec<u32>,
}

/// The higher sequence number is newer. A holder counts up when it gets a record, so a tie is between copies of the
/// same content, or between a holder and a copy that it gave away before; the holder's may have changed since.
fn newer(a: (u32, Claim), b: (u32, Claim)) -> bool {
    let rank = |(from, claim): (u32, Claim)| {
        (claim.header.rsn, claim.header.dmaster == from, !claim.empty, std::cmp::Reverse(from))
    };
    rank(a) > rank(b) && !planted(Planted::NewestNotPreferred)
}

impl Merge {
    /// `from` has this of `key`.
    pub fn add(&mut self, from: u32, key: Vec<u8>, claim: Claim) {
        let new = || Copies { newest: (from, claim), holders: Vec::new(), members: Vec::new() };
        let copies = self.keys.entry(key).or_insert_with(new);
        if newer((from, claim), copies.newest) {
            copies.newest = (from, claim);
        }
        if claim.header.dmaster == from {
            copies.holders.push(from);
        }
        copies.members.push(from);
    }

    /// Number of different keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Decides about every key, in their order. Only these members may hold records; what another one holds goes to the
    /// location master.
    pub fn decide(self, masters: &[u32]) -> impl Iterator<Item = Decision> {
        self.keys.into_iter().map(|(key, copies)| {
            let (from, claim) = copies.newest;
            let may_hold = masters.contains(&from) || planted(Planted::IdleHolds);
            let verdict = if claim.empty {
                Verdict::Forgotten
            } else if claim.header.dmaster == from && may_hold {
                Verdict::Stays(from)
            } else {
                Verdict::Fetched(from)
            };
            let stays = |n: &u32| verdict == Verdict::Stays(*n);
            let demoted = copies.holders.into_iter().filter(|n| !stays(n)).collect();
            Decision { key, verdict, demoted, copies: copies.members }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(rsn: u64, dmaster: u32, empty: bool) -> Claim {
        Claim { header: LtdbHeader { rsn, dmaster, reserved: 0, flags: 0 }, empty }
    }

    fn decide(claims: &[(u32, Claim)]) -> Decision {
        let mut merge = Merge::default();
        for (from, claim) in claims {
            merge.add(*from, b"key".to_vec(), *claim);
        }
        merge.decide(&[0, 1, 2]).next().unwrap()
    }

    #[test]
    fn a_living_holder_keeps_its_record() {
        let seen = decide(&[(0, claim(3, 1, false)), (1, claim(5, 1, false)), (2, claim(4, 1, false))]);
        assert_eq!(seen.verdict, Verdict::Stays(1));
        assert!(seen.demoted.is_empty());
        assert_eq!(seen.copies, [0, 1, 2]);
    }

    #[test]
    fn an_empty_record_is_forgotten_by_all_whoever_holds_it() {
        let seen = decide(&[(0, claim(3, 2, false)), (1, claim(4, 2, false)), (2, claim(5, 2, true))]);
        assert_eq!((seen.verdict, seen.demoted, seen.copies), (Verdict::Forgotten, vec![2], vec![0, 1, 2]));
        let refilled = decide(&[(1, claim(4, 1, true)), (2, claim(5, 2, false))]);
        assert_eq!(refilled.verdict, Verdict::Stays(2), "an older empty copy says nothing");
    }

    #[test]
    fn a_lost_holders_record_is_taken_from_the_newest_copy() {
        assert_eq!(decide(&[(0, claim(3, 9, false)), (1, claim(5, 9, false))]).verdict, Verdict::Fetched(1));
        let on_its_way = [(0, claim(5, 2, false)), (1, claim(4, 0, false)), (2, claim(2, 0, false))];
        assert_eq!(decide(&on_its_way).verdict, Verdict::Fetched(0));
    }

    #[test]
    fn what_an_idle_member_holds_goes_to_the_location_master() {
        let decide = |empty| {
            let mut merge = Merge::default();
            merge.add(0, b"key".to_vec(), claim(4, 3, false));
            merge.add(3, b"key".to_vec(), claim(5, 3, empty));
            merge.decide(&[0, 1, 2]).next().unwrap()
        };
        let held = decide(false);
        assert_eq!((held.verdict, held.demoted), (Verdict::Fetched(3), vec![3]));
        let empty = decide(true);
        assert_eq!((empty.verdict, empty.copies), (Verdict::Forgotten, vec![0, 3]));
    }

    #[test]
    fn what_was_emptied_last_does_not_come_back() {
        assert_eq!(decide(&[(0, claim(6, 9, true)), (1, claim(5, 9, false))]).verdict, Verdict::Forgotten);
    }

    #[test]
    fn of_two_that_take_themselves_for_the_holder_the_newer_is() {
        let seen = decide(&[(1, claim(4, 1, false)), (2, claim(6, 2, false))]);
        assert_eq!((seen.verdict, seen.demoted), (Verdict::Stays(2), vec![1]));
        let seen = decide(&[(1, claim(4, 1, false)), (2, claim(6, 9, false))]);
        assert_eq!((seen.verdict, seen.demoted), (Verdict::Fetched(2), vec![1]));
        let tie = decide(&[(1, claim(4, 2, false)), (2, claim(4, 2, false))]);
        assert_eq!(tie.verdict, Verdict::Stays(2), "its own copy may have changed since");
    }
}
