//! Which records of a database the clients here fetch most often from other nodes.

/// Keys that are counted at a time; the most frequent of those are right, the others about.
const COUNTED: usize = 32;
/// Longest key that is kept.
const LONGEST: usize = 1024;

/// Counts fetches by key, in bounded memory: a new key takes the place, and the count, of the rarest one ("space saving",
/// Metwally et al. 2005). So a count is never too low, and a key that makes up more than a 32nd of all is always there.
#[derive(Debug, Default)]
pub(super) struct HotKeys(Vec<(Vec<u8>, u32)>);

impl HotKeys {
    /// Once more.
    pub(super) fn count(&mut self, key: &[u8]) {
        if key.len() > LONGEST {
            return;
        }
        if let Some((_, count)) = self.0.iter_mut().find(|(known, _)| known == key) {
            *count = count.saturating_add(1);
            return;
        }
        if self.0.len() < COUNTED {
            return self.0.push((key.to_vec(), 1));
        }
        if let Some((rarest, count)) = self.0.iter_mut().min_by_key(|(_, count)| *count) {
            *rarest = key.to_vec();
            *count = count.saturating_add(1);
        }
    }

    /// At most so many, the most frequent first.
    pub(super) fn top(&self, most: usize) -> Vec<(&[u8], u32)> {
        let mut all: Vec<_> = self.0.iter().map(|(key, count)| (key.as_slice(), *count)).collect();
        all.sort_unstable_by_key(|&(key, count)| (std::cmp::Reverse(count), key));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frequent_is_found_among_much_that_is_not() {
        let mut keys = HotKeys::default();
        for i in 0..3000u32 {
            keys.count(&i.to_ne_bytes());
            if i % 3 == 0 {
                keys.count(b"hottest");
            }
            if i % 10 == 0 {
                keys.count(b"hot");
            }
        }
        let top = keys.top(10);
        assert_eq!((top[0].0, top[1].0, top.len()), (&b"hottest"[..], &b"hot"[..], 10));
        // Not less than it was, and more by what a key that it replaced had at most.
        assert!((1000..1000 + 4300 / 32).contains(&top[0].1), "{}", top[0].1);
    }
}
