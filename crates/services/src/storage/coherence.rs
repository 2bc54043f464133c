//! The settings that make a GlusterFS mount coherent between nodes: one place for the mount manager, the
//! checks, the laboratory and the documentation (docs/storage.md has the measurements behind each).
//!
//! By default GlusterFS answers reads, names and attributes from caches that other servers' writes do not
//! invalidate, and holds written data back. Samba on several servers then loses updates under correct locks.

use serde::Serialize;

/// Options of `mount -t glusterfs` for a mount that several servers write to.
pub const MOUNT_OPTIONS: [&str; 4] = [
    "direct-io-mode=enable",
    "attribute-timeout=0",
    "entry-timeout=0",
    "negative-timeout=0",
];

/// One option of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub option: &'static str,
    pub value: &'static str,
    /// What goes wrong between nodes without it.
    pub because: &'static str,
}

/// What `gluster volume set` must be told, once, on any server.
pub const VOLUME_OPTIONS: [Setting; 7] = [
    Setting {
        option: "performance.write-behind",
        value: "off",
        because: "written data waits in the writer's client, and other nodes read what was before",
    },
    Setting {
        option: "performance.read-ahead",
        value: "off",
        because: "data read ahead of time is served after others have changed it",
    },
    Setting {
        option: "performance.io-cache",
        value: "off",
        because: "cached data is served for up to a second after others have changed it",
    },
    Setting {
        option: "performance.quick-read",
        value: "off",
        because: "small files are served from a copy that is up to a second old",
    },
    Setting {
        option: "performance.stat-prefetch",
        value: "off",
        because: "sizes, times and modes are served from a copy that is up to a second old",
    },
    Setting {
        option: "performance.open-behind",
        value: "off",
        because: "files are not really opened before the first read, so a file deleted elsewhere cannot be read on",
    },
    Setting {
        option: "performance.readdir-ahead",
        value: "off",
        because: "directory listings are served from a copy that others' changes do not reach",
    },
];

/// The commands that set [`VOLUME_OPTIONS`] on a volume, one per line of a shell.
pub fn volume_commands(volume: &str) -> Vec<String> {
    VOLUME_OPTIONS
        .iter()
        .map(|setting| setting.command(volume))
        .collect()
}

impl Setting {
    /// `gluster volume set VOLUME OPTION VALUE`.
    pub fn command(&self, volume: &str) -> String {
        format!("gluster volume set {volume} {} {}", self.option, self.value)
    }
}

/// The options that a property needs: of the volume, and of the mount.
pub fn remedies(_property: super::check::Property) -> (Vec<&'static str>, Vec<&'static str>) {
    (
        VOLUME_OPTIONS.iter().map(|setting| setting.option).collect(),
        MOUNT_OPTIONS.to_vec(),
    )
}
