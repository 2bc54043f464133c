//! The pid file: locked while its process lives, as CTDB's, so that one of either kind keeps the other out.

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Locked; removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// Writes this process's number.
    ///
    /// # Errors
    /// Another process has it, or it cannot be written.
    pub(super) fn take(path: &Path) -> Result<Self, String> {
        let failed = |what: &str, error: &io::Error| {
            format!("cannot {what} {}: {error}; its directory must be there and writable", path.display())
        };
        if let Some(dir) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .map_err(|e| failed("make the directory of", &e))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(|e| failed("open the pid file", &e))?;
        match lock(&file) {
            Ok(()) => {}
            Err(nix::errno::Errno::EACCES | nix::errno::Errno::EAGAIN) => {
                let mut text = String::new();
                // Only to name it.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                return Err(format!(
                    "another ctdbd{pid} runs with the same directory, {}: end it with `ctdb shutdown` first, or set \
                     CTDB_BASE to another one and CTDB_TEST_MODE to run several on one machine",
                    path.display()
                ));
            }
            Err(error) => return Err(failed("lock the pid file", &error.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| failed("write the pid file", &e))?;
        Ok(Self { path: path.to_owned(), _locked: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // While it is locked it is ours; left behind it is no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// The whole file, by this descriptor: CTDB's own lock is one of fcntl's too.
fn lock(file: &File) -> nix::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/ctdbd.pid");
        let first = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let why = PidFile::take(&path).unwrap_err();
        assert!(why.contains(&format!("(pid {})", std::process::id())), "{why}");
        drop(first);
        assert!(!path.exists());
        // One that a killed daemon left.
        fs::write(&path, "12345678\n").unwrap();
        PidFile::take(&path).unwrap();
    }
}
