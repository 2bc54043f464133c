//! Counters, in the original's layout. What this server does not have (child processes, locks of a helper) stays 0.

use super::Now;
use crate::database::{Change, Message};
use crate::peer::Said;
use crate::wire::Writer;

/// Since the start, or since they were set back.
#[derive(Clone, Debug, Default)]
pub(super) struct Statistics {
    pub(super) client_sent: u32,
    pub(super) client_received: u32,
    pub(super) node_sent: u32,
    pub(super) node_received: u32,
    /// Of these, by [`Kind`].
    pub(super) kinds: [u32; KINDS],
    pub(super) client_calls: u32,
    pub(super) client_messages: u32,
    pub(super) client_controls: u32,
    pub(super) recoveries: u32,
    /// Of all databases, when the counters were set back: copies given, records whose copies were taken back.
    pub(super) delegations_before: (u64, u64),
    pub(super) since: Now,
}

/// The original's kinds of packets between nodes, in its order: an error is never said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Call,
    CallReply,
    Dmaster,
    DmasterReply,
    Message = 5,
    Control,
    ControlReply,
    Tunnel,
}

const KINDS: usize = Kind::Tunnel as usize + 1;

/// What the original would say to the same end. `ordered`: the sender is this node's leader; `leads`: this node is the
/// sender's.
fn kind(said: &Said, ordered: bool, leads: bool) -> Kind {
    match said {
        // Its recovery asks by controls, and moves records in messages.
        Said::Recovery(_) if ordered => Kind::Control,
        Said::Recovery(_) if leads => Kind::ControlReply,
        Said::Recovery(_) => Kind::Message,
        Said::Migration(under) => match under.what {
            Message::Want { .. } | Message::WantCopy { .. } => Kind::Call,
            Message::Yield { .. } | Message::Delegate { .. } => Kind::Dmaster,
            Message::Give { .. } => Kind::DmasterReply,
            Message::Copy { .. } => Kind::CallReply,
            Message::Emptied { .. } | Message::Purge { .. } | Message::Revoke { .. } => Kind::Control,
            Message::Purged { .. } | Message::Revoked { .. } => Kind::ControlReply,
        },
        Said::Commit(under) => match under.what {
            Change::Update { .. } => Kind::Control,
            Change::Updated { .. } => Kind::ControlReply,
        },
        Said::Message { .. }
        | Said::Harmless { .. }
        | Said::Round { .. }
        | Said::Role { .. }
        | Said::Lmaster { .. } => Kind::Message,
        Said::Tunnel { .. } => Kind::Tunnel,
        Said::ControlReply { .. } => Kind::ControlReply,
        Said::Control { .. }
        | Said::Traverse { .. }
        | Said::Traversed { .. }
        | Said::StopTraverse { .. }
        | Said::Recover { .. }
        | Said::Changed { .. } => Kind::Control,
    }
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
    /// Another node has said this; see [`kind`].
    pub(super) fn heard(&mut self, said: &Said, ordered: bool, leads: bool) {
        self.node_received += 1;
        self.kinds[kind(said, ordered, leads) as usize] += 1;
    }

    /// The 488 bytes of `ctdb_statistics`.
    pub(super) fn put(&self, current: Current, now: Now, out: &mut Writer) {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let start = out.written();
        out.u32(small(current.clients)).u32(0).u32(u32::from(current.recovering));
        out.u32(self.client_sent).u32(self.client_received).u32(self.node_sent).u32(self.node_received).u32(0).u32(0);
        for count in self.kinds {
            out.u32(count);
        }
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
    use crate::database::Under;
    use crate::recovery::{Generation, Word};

    #[test]
    fn what_nodes_say_counts_as_what_the_original_says_to_the_same_end() {
        let under = |what| Said::Migration(Under { generation: Generation::default(), db: 1, what });
        let key = || b"key".to_vec();
        let mut statistics = Statistics::default();
        let want = under(Message::Want { key: key() });
        let give = under(Message::Give { key: key(), rsn: 1, flags: 0, data: Vec::new() });
        let message = Said::Message { srvid: 1, data: Vec::new() };
        let control = Said::Control { id: 1, opcode: 0, srvid: 0, flags: 0, data: Vec::new() };
        let reply = Said::ControlReply { id: 1, status: 0, data: Vec::new(), error: String::new() };
        let tunnel = Said::Tunnel { id: 1, flags: 0, reqid: 1, data: Vec::new() };
        for said in [&want, &want, &give, &message, &control, &reply, &reply, &tunnel] {
            statistics.heard(said, false, false);
        }
        let order = Said::Recovery(Word::Hello { epoch: 1, masters: Vec::new() });
        statistics.heard(&order, true, false);
        statistics.heard(&order, false, true);
        let mut out = Writer::default();
        statistics.put(Current::default(), Now::default(), &mut out);
        let bytes = out.finish();
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        assert_eq!(word(24), 10, "all");
        let kinds: Vec<u32> = (0..9).map(|kind| word(36 + 4 * kind)).collect();
        assert_eq!(
            kinds,
            [2, 0, 0, 1, 0, 1, 2, 3, 1],
            "call, reply, dmaster, reply, error, message, control, reply, tunnel"
        );
    }

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
