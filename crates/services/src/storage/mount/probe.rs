//! The helpers that touch the mount for the daemon: one probes, one unmounts.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};

use crate::storage::helper::serve;

/// What a probe says when the path is no mount point (any more).
pub(super) const NOT_MOUNTED: &str = "not mounted";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProbeAsk {
    /// `major:minor` that the path must lead to: a probe must not write below a mount that is gone.
    pub(super) device: Option<String>,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Size of the filesystem and what of it ordinary users may still use, in bytes.
    pub total: u64,
    pub free: u64,
    /// How long statfs took, and writing, syncing and reading back.
    pub statfs: Duration,
    pub write: Duration,
    /// Set when the probe could read but not write for want of space or quota.
    pub full: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UnmountAsk {
    pub(super) path: PathBuf,
    pub(super) lazily: bool,
}

/// `steadfast helper mount-probe PATH --node PNN`
pub(in crate::storage) fn probe_main(path: &Path, pnn: u32) -> ExitCode {
    let mut count = 0u64;
    serve(|ask: ProbeAsk| {
        count += 1;
        probe(path, pnn, ask.device.as_deref(), count)
    })
}

/// `steadfast helper unmount`
pub(in crate::storage) fn unmount_main() -> ExitCode {
    serve(|ask: UnmountAsk| {
        let mut flags = UnmountFlags::NOFOLLOW;
        if ask.lazily {
            flags |= UnmountFlags::DETACH;
        }
        rustix::mount::unmount(&ask.path, flags).map_err(|e| format!("umount of {}: {e}", ask.path.display()))
    })
}

fn probe(path: &Path, pnn: u32, device: Option<&str>, count: u64) -> Result<Probed, String> {
    let failed = |doing: &str, e: io::Error| format!("{doing} {}: {}", path.display(), plain(&e));
    let root = fs::metadata(path).map_err(|e| failed("stat of", e))?;
    if !root.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    if let Some(device) = device {
        let found = format!("{}:{}", rustix::fs::major(root.dev()), rustix::fs::minor(root.dev()));
        if found != device {
            return Err(NOT_MOUNTED.to_owned());
        }
    }
    let started = Instant::now();
    let space = rustix::fs::statvfs(path).map_err(|e| failed("statfs of", e.into()))?;
    let statfs = started.elapsed();
    let started = Instant::now();
    let full = match write_and_read_back(path, pnn, count) {
        Ok(()) => None,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => Some(plain(&error)),
        Err(error) => return Err(failed("write on", error)),
    };
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    let (total, free) = (bytes(space.f_blocks), bytes(space.f_bavail));
    Ok(Probed { total, free, statfs, write: started.elapsed(), full })
}

fn write_and_read_back(path: &Path, pnn: u32, count: u64) -> io::Result<()> {
    let dir = path.join(".steadfast");
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let file = dir.join(format!("probe.{pnn}"));
    let nofollow = OFlags::NOFOLLOW.bits() as i32;
    let written = format!("{}-{count:020}\n", std::process::id());
    let mut options = OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nofollow).open(&file)?;
    out.write_all(written.as_bytes())?;
    out.sync_all()?;
    drop(out);
    let mut read = String::new();
    OpenOptions::new().read(true).custom_flags(nofollow).open(&file)?.take(1024).read_to_string(&mut read)?;
    if read != written {
        return Err(io::Error::other("what was written and synced does not read back"));
    }
    Ok(())
}

/// The system's text without `(os error N)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_directory_passes_and_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let probed = probe(dir.path(), 2, None, 1).unwrap();
        assert!(probed.total > 0 && probed.full.is_none());
        assert!(dir.path().join(".steadfast/probe.2").exists());
        let device = fs::metadata(dir.path()).unwrap().dev();
        let right = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        assert!(probe(dir.path(), 2, Some(&right), 2).is_ok());
        assert_eq!(probe(dir.path(), 2, Some("0:99999"), 3).unwrap_err(), NOT_MOUNTED);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(probe(&file, 2, None, 4).unwrap_err().contains("no directory"));
        let missing = probe(&dir.path().join("gone"), 2, None, 5).unwrap_err();
        assert!(missing.contains("gone: No such file or directory"), "{missing}");
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".steadfast")).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(".steadfast/probe.0")).unwrap();
        assert!(probe(dir.path(), 0, None, 1).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
