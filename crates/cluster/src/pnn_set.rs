//! A set of nodes without memory of its own: heartbeats carry one, and nothing may be allocated for those.

use crate::Pnn;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Nodes 0 to 63: a cluster has no more. Iterates in ascending order; serialized as a list of numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PnnSet(u64);

impl PnnSet {
    /// One more than the highest PNN that fits.
    pub const CAPACITY: usize = 64;

    /// 0 for what does not fit.
    fn bit(pnn: Pnn) -> u64 {
        1u64.checked_shl(pnn.0.into()).unwrap_or(0)
    }

    /// Adds a node. False if its PNN is 64 or more: it is left out.
    pub fn insert(&mut self, pnn: Pnn) -> bool {
        self.0 |= Self::bit(pnn);
        self.contains(pnn)
    }

    /// Is the node in it?
    #[must_use]
    pub fn contains(&self, pnn: Pnn) -> bool {
        self.0 & Self::bit(pnn) != 0
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.count_ones() as usize
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Pnn> + use<> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let next = left.trailing_zeros() as u16;
            // Takes the lowest one away; there is none when nothing is left.
            left &= left.checked_sub(1)?;
            Some(Pnn(next))
        })
    }

    /// Those that are here and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl FromIterator<Pnn> for PnnSet {
    /// Leaves out what does not fit.
    fn from_iter<I: IntoIterator<Item = Pnn>>(nodes: I) -> Self {
        let mut set = Self::default();
        for pnn in nodes {
            set.insert(pnn);
        }
        set
    }
}

impl<const N: usize> From<[Pnn; N]> for PnnSet {
    fn from(nodes: [Pnn; N]) -> Self {
        nodes.into_iter().collect()
    }
}

impl fmt::Debug for PnnSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for PnnSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for PnnSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Vec::<Pnn>::deserialize(d)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_of_the_nodes_that_fit(
            one in proptest::collection::vec(0u16..150, 0..80),
            other in proptest::collection::vec(0u16..150, 0..80),
        ) {
            let fits = |n: &[u16]| -> BTreeSet<Pnn> { n.iter().filter(|p| **p < 64).map(|p| Pnn(*p)).collect() };
            let set = |n: &[u16]| -> PnnSet { n.iter().map(|p| Pnn(*p)).collect() };
            let (a, b, first, second) = (fits(&one), fits(&other), set(&one), set(&other));
            prop_assert_eq!(first.iter().collect::<Vec<_>>(), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!((first.len(), first.is_empty()), (a.len(), a.is_empty()));
            prop_assert!((0..u16::MAX).all(|p| first.contains(Pnn(p)) == a.contains(&Pnn(p))));
            prop_assert_eq!(first.without(&second), a.difference(&b).copied().collect());
            let text = serde_json::to_string(&first).unwrap();
            prop_assert_eq!(serde_json::from_str::<PnnSet>(&text).unwrap(), first);
        }
    }
}
