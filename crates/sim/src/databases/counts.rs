//! How often each process has counted, as a record's data say it.

/// By process, in the order of their numbers. There are few: a short list is copied and compared faster than a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts(Vec<(u32, u64)>);

impl Counts {
    /// Of a record's data, as [`Counts::encode`] gave them.
    pub(super) fn decode(data: &[u8]) -> Self {
        let one = |c: &[u8]| {
            let (who, count) = c.split_at(4);
            Some((u32::from_ne_bytes(who.try_into().ok()?), u64::from_ne_bytes(count.try_into().ok()?)))
        };
        let mut counts = Vec::with_capacity(data.len() / 12);
        counts.extend(data.chunks_exact(12).filter_map(one));
        debug_assert!(counts.is_sorted_by_key(|(who, _)| who), "{counts:?}");
        Self(counts)
    }

    /// Appends them to a record's header.
    pub(super) fn encode(&self, value: &mut Vec<u8>) {
        value.reserve_exact(12 * self.0.len());
        for (who, count) in &self.0 {
            value.extend(who.to_ne_bytes());
            value.extend(count.to_ne_bytes());
        }
    }

    /// How often this process has counted.
    pub(super) fn of(&self, who: u32) -> u64 {
        self.find(who).map_or(0, |at| self.0[at].1)
    }

    /// It counts once more.
    pub(super) fn count(&mut self, who: u32) {
        match self.find(who) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (who, 1)),
        }
    }

    /// Nobody has counted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each process with its count.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().copied()
    }

    fn find(&self, who: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&who, |(process, _)| *process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_process_and_read_back() {
        let mut counts = Counts::default();
        for who in [7, 3, 7, 12, 3, 7] {
            counts.count(who);
        }
        assert_eq!([3, 7, 12, 4].map(|who| counts.of(who)), [2, 3, 1, 0]);
        assert!(counts.iter().is_sorted());
        let mut value = vec![0; 24];
        counts.encode(&mut value);
        assert_eq!(Counts::decode(&value[24..]), counts);
    }
}
