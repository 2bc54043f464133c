//! The settings that make a GlusterFS mount coherent between nodes: one place for the mount manager, the
//! checks, the laboratory and the documentation. docs/storage.md has the measurements: each setting was left out
//! in turn, and the properties that broke are what its `because` says.
//!
//! By default GlusterFS answers reads, names and attributes from caches that other servers' writes do not
//! invalidate, and holds written data back. Samba on several servers then loses updates under correct locks.

use serde::Serialize;

use super::check::Property;

/// Options of `mount -t glusterfs` for a mount that several servers write to.
///
/// `negative-timeout` is 0 by default in GlusterFS 10 and is set for versions and sites where it is not. The price
/// of `direct-io-mode` is shared memory maps: mmap(2) with MAP_SHARED fails with ENODEV.
///
/// `auto-invalidation` is for the opens that `direct-io-mode` does not reach: those of a file that is still open on this
/// node since it was made (docs/storage.md, "Files that are open where they were made"). GlusterFS says that it is on
/// by default; its program passes "off" unless it is asked.
pub const MOUNT_OPTIONS: [&str; 5] =
    ["direct-io-mode=enable", "auto-invalidation=true", "attribute-timeout=0", "entry-timeout=0", "negative-timeout=0"];

/// One option of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub option: &'static str,
    pub value: &'static str,
    /// What goes wrong between nodes without it.
    pub because: &'static str,
}

/// What `gluster volume set` must be told, once, on any server.
pub const VOLUME_OPTIONS: [Setting; 8] = [
    Setting {
        option: "performance.write-behind",
        value: "off",
        because: "written data waits in the writer's client: other nodes read what was before, and counters under a lock lose updates",
    },
    Setting {
        option: "performance.read-ahead",
        value: "off",
        because: "data read ahead of time is served after others have changed it (off by default in GlusterFS 10)",
    },
    Setting {
        option: "performance.io-cache",
        value: "off",
        because: "data is served from a copy that others have changed, and counters under a lock lose updates (off by default in GlusterFS 10)",
    },
    Setting {
        option: "performance.quick-read",
        value: "off",
        because: "small files are served from a copy to whoever has them open while others write",
    },
    Setting {
        option: "performance.stat-prefetch",
        value: "off",
        because: "renamed and deleted files still show, and sizes, modes and times are served from a copy",
    },
    Setting {
        option: "performance.open-behind",
        value: "off",
        because: "a file is not really opened before its first read: deleted elsewhere it cannot be read on",
    },
    Setting {
        option: "performance.readdir-ahead",
        value: "off",
        because: "listings are read ahead of time (off by default in GlusterFS 10; no property broke with it on)",
    },
    EAGER_LOCK,
];

/// After a write the writer's node keeps GlusterFS's inner lock of the file for another second, and notes only when it lets go
/// which copies have missed the write. So while a file is written, nobody can tell that the copy of a server that was away is
/// old, and when that server is back it is read, by the writer too (docs/storage.md, "A server that is back"). Besides, writers
/// on other nodes wait for that second; for planned moves this is looked after
/// ([`post_op_delay`](super::post_op_delay)) where the administrator leaves it on, for off costs speed: writing in sequence takes
/// 2.5 times as long.
pub const EAGER_LOCK: Setting = Setting {
    option: "cluster.eager-lock",
    value: "off",
    because: "when a server comes back, files that are being written are read from its old copies for up to a second, and \
        what is written back from there is lost for good; and a node waits a second to write to a file that another node \
        has just written to",
};

/// The commands that set [`VOLUME_OPTIONS`] on a volume, one per line of a shell.
pub fn volume_commands(volume: &str) -> Vec<String> {
    VOLUME_OPTIONS.iter().map(|setting| setting.command(volume)).collect()
}

impl Setting {
    /// `gluster volume set VOLUME OPTION VALUE`.
    pub fn command(&self, volume: &str) -> String {
        format!("gluster volume set {volume} {} {}", self.option, self.value)
    }
}

/// What mends a property that does not hold: names in [`VOLUME_OPTIONS`], and options of the mount.
///
/// Taken from leaving out one at a time and seeing which properties broke (docs/storage.md).
pub fn remedies(property: Property) -> (&'static [&'static str], &'static [&'static str]) {
    match property {
        // Not a matter of caches: nothing that is set here breaks or mends locks.
        Property::LockExclusive | Property::LockHandover => (&[], &[]),
        Property::WriteSeenOpen | Property::WriteSeenNew => (
            &["performance.write-behind", "performance.quick-read", "performance.io-cache", "performance.read-ahead"],
            &["direct-io-mode=enable"],
        ),
        Property::WriteSeenWhereMade => (
            &["performance.write-behind", "performance.quick-read", "performance.io-cache"],
            &["direct-io-mode=enable", "auto-invalidation=true", "attribute-timeout=0"],
        ),
        Property::CreateSeen => {
            (&["performance.stat-prefetch", "performance.readdir-ahead"], &["entry-timeout=0", "negative-timeout=0"])
        }
        Property::RenameSeen => (&["performance.stat-prefetch"], &["entry-timeout=0"]),
        Property::DeleteSeen => (&["performance.stat-prefetch"], &["entry-timeout=0", "attribute-timeout=0"]),
        Property::OpenSurvivesDelete => (&["performance.open-behind"], &[]),
        Property::AttributesSeen => (&["performance.stat-prefetch"], &["attribute-timeout=0"]),
        Property::CounterExact => (&["performance.write-behind", "performance.io-cache"], &["direct-io-mode=enable"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_remedy_is_a_setting_of_ours() {
        for property in Property::ALL {
            let (options, mount) = remedies(property);
            assert!(options.iter().all(|o| VOLUME_OPTIONS.iter().any(|s| s.option == *o)), "{property:?}");
            assert!(mount.iter().all(|option| MOUNT_OPTIONS.contains(option)), "{property:?}");
        }
        assert!(volume_commands("vol1")[0].starts_with("gluster volume set vol1 performance."));
    }
}
