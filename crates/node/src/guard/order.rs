//! What the daemon tells its guard: one JSON object per line. A line that the daemon's death cut off counts for nothing.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A line longer than this is no order of ours.
pub(super) const MAX_LINE: usize = 4 << 20;

/// An order to the guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// What to do when the daemon dies. Addresses that were named once stay on the list.
    Watch { addresses: Vec<IpAddr>, words: Vec<SealedWord> },
    /// The daemon ends in order and has released everything: there is nothing to do.
    Goodbye,
}

/// A datagram that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedWord {
    /// The own address to send it from.
    pub(crate) from: IpAddr,
    /// Whom to.
    pub(crate) to: SocketAddr,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Cuts complete lines out of what has been read so far.
pub(super) fn next_line(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.iter().position(|b| *b == b'\n')?;
    let mut line: Vec<u8> = buffer.drain(..=end).collect();
    line.pop();
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_or_not_at_all() {
        let mut buffer = b"one\ntwo\nthr".to_vec();
        assert_eq!(next_line(&mut buffer), Some(b"one".to_vec()));
        assert_eq!(next_line(&mut buffer), Some(b"two".to_vec()));
        assert_eq!(next_line(&mut buffer), None);
        buffer.extend_from_slice(b"ee\n");
        assert_eq!(next_line(&mut buffer), Some(b"three".to_vec()));
        assert!(buffer.is_empty());
    }
}
