//! What an NFS server's status says, in words.

use std::fmt;

/// A status of NFSv3 (RFC 1813, 2.6) or NFSv4 (RFC 7530, 13.1), which share the common numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NfsStatus(pub(super) u32);

impl fmt::Display for NfsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            1 | 13 => {
                "permission denied: is the export, and --directory in it, open for writing to this machine's root?"
            }
            2 => "no such file or directory",
            5 => "input/output error: the server's log says more",
            17 => "there already",
            20 => "not a directory",
            28 => "no space left",
            30 => "read-only",
            69 => "over quota",
            70 => "stale file handle: the file is gone, or another server does not know it",
            10008 => "later, please",
            10013 => "grace period",
            _ => return write!(f, "NFS status {}", self.0),
        };
        write!(f, "NFS status {} ({words})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown() {
        assert!(NfsStatus(13).to_string().starts_with("NFS status 13 (permission denied"));
        assert_eq!(NfsStatus(10_022).to_string(), "NFS status 10022");
    }
}
