//! Counters, in the original's layout. What this server does not have (child processes, locks of a helper) stays 0.

use super::Now;
use crate::wire::Writer;

/// Since the start, or since they were set back.
#[derive(Clone, Debug, Default)]
pub(super) struct Statistics {
    pub(super) client_sent: u32,
    pub(super) client_received: u32,
    pub(super) node_sent: u32,
    pub(super) node_received: u32,
    pub(super) client_calls: u32,
    pub(super) client_messages: u32,
    pub(super) client_controls: u32,
    pub(super) recoveries: u32,
    /// Of all databases, when the counters were set back: copies given, records whose copies were taken back.
    pub(super) delegations_before: (u64, u64),
    pub(super) since: Now,
}

/// What is counted elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Current {
    pub(super) clients: usize,
    pub(super) recovering: bool,
    pub(super) pending_calls: usize,
    /// Of all databases, since the start: copies given, records whose copies were taken back.
    pub(super) delegations: (u64, u64),
}

/// Bytes of the structure.
pub(super) const LEN: usize = 488;

impl Statistics {
    /// The 488 bytes of `ctdb_statistics`.
    pub(super) fn put(&self, current: Current, now: Now, out: &mut Writer) {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let start = out.written();
        out.u32(small(current.clients)).u32(0).u32(u32::from(current.recovering));
        out.u32(self.client_sent).u32(self.client_received).u32(self.node_sent).u32(self.node_received).u32(0).u32(0);
        // Kinds of packets between nodes: this server's are its own.
        out.zeros(9 * 4);
        out.u32(self.client_calls).u32(self.client_messages).u32(self.client_controls).u32(0);
        out.zeros(280 - (out.written() - start));
        out.u32(self.client_calls).u32(small(current.pending_calls));
        out.zeros(440 - (out.written() - start));
        out.u32(self.recoveries).u32(0);
        for at in [self.since, now] {
            put_time(at, out);
        }
        let (given, revoked) = current.delegations;
        let (given_before, revoked_before) = self.delegations_before;
        out.u32(low(given - given_before)).u32(low(revoked - revoked_before));
        debug_assert_eq!(out.written() - start, LEN);
    }
}

/// As the original's counters: of 32 bits.
pub(super) fn low(count: u64) -> u32 {
    u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// Seconds and microseconds since 1970.
pub(super) fn time(at: Now) -> (i64, i64) {
    (i64::try_from(at.wall.as_secs()).unwrap_or(i64::MAX), i64::from(at.wall.subsec_micros()))
}

fn put_time(at: Now, out: &mut Writer) {
    let (seconds, micros) = time(at);
    out.u64(seconds.cast_unsigned()).u64(micros.cast_unsigned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_originals() {
        let statistics =
            Statistics { recoveries: 7, client_calls: 9, delegations_before: (1, 2), ..Statistics::default() };
        let mut out = Writer::default();
        statistics.put(Current { clients: 3, delegations: (6, 4), ..Current::default() }, Now::default(), &mut out);
        let bytes = out.finish();
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        assert_eq!(bytes.len(), LEN);
        assert_eq!((word(0), word(72), word(280), word(440)), (3, 9, 9, 7));
        assert_eq!((word(480), word(484)), (5, 2));
    }
}
