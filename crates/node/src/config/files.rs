//! Reading the configuration files, also when they lie on a shared mount that hangs or is not there.
//!
//! Each file is read in a thread of its own with a deadline: `steadfast.toml` may be a symbolic link to the shared
//! mount, and a call into a hung mount never returns (the thread is then left behind; there is at most one per read).
//! What was read for a good configuration is kept in the state directory, all files in one bundle. When a file cannot
//! be read at the next start the bundle is used instead, with a warning; a file that is there but wrong is refused.

use super::diagnostic::Source;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Nobody's configuration is longer, in bytes.
const MOST: u64 = 1 << 20;
/// A local disk answers in milliseconds; a mount that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(3);
/// Name of the bundle in the state directory.
const BUNDLE: &str = "last-good-config.json";

/// Where texts come from, and what was read so far.
#[derive(Debug, Default)]
pub(super) struct Files {
    kept: Option<BTreeMap<PathBuf, String>>,
    read: BTreeMap<PathBuf, String>,
    unreadable: Option<(PathBuf, String)>,
}

/// All files of a configuration that was good.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    files: BTreeMap<PathBuf, String>,
}

impl Files {
    /// Reads the bundle that `keep` wrote. `None` when there is none (that can be used).
    pub(super) fn last_good(state_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(state_dir.join(BUNDLE)).ok()?;
        let bundle: Bundle = serde_json::from_str(&text).ok()?;
        Some(Self { kept: Some(bundle.files), ..Self::default() })
    }

    /// The text of a file.
    ///
    /// # Errors
    /// What the operating system says; `TimedOut` when it says nothing; `InvalidData` when it is no text or too long.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Arc<Source>> {
        let text = match &self.kept {
            Some(kept) => kept
                .get(path)
                .cloned()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no copy of it either")),
            None => read_in_time(path, DEADLINE, read_text),
        };
        let text = text.inspect_err(|error| {
            let absent = (path.to_path_buf(), error.to_string());
            self.unreadable.get_or_insert(absent);
        })?;
        self.read.insert(path.to_path_buf(), text.clone());
        Ok(Source::new(path, text))
    }

    /// The first file that could not be read, and why.
    pub(super) fn unreadable(&self) -> Option<&(PathBuf, String)> {
        self.unreadable.as_ref()
    }

    /// Keeps what was read, for a start without these files.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub(super) fn keep(self, state_dir: &Path) -> io::Result<()> {
        let place = state_dir.join(BUNDLE);
        let bundle = Bundle { files: self.read };
        let text = serde_json::to_string_pretty(&bundle).map_err(io::Error::other)?;
        if std::fs::read_to_string(&place).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let fresh = state_dir.join(format!("{BUNDLE}.new"));
        let mut file = std::fs::File::create(&fresh)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &place)
    }
}

/// Runs `read` in a thread that may hang.
fn read_in_time(path: &Path, deadline: Duration, read: fn(&Path) -> io::Result<String>) -> io::Result<String> {
    let (done, result) = mpsc::sync_channel(1);
    let place = path.to_path_buf();
    std::thread::Builder::new().name("read-config".into()).stack_size(256 * 1024).spawn(move || {
        // nobody listens any more when the deadline has passed
        let _ = done.send(read(&place));
    })?;
    result.recv_timeout(deadline).unwrap_or_else(|_| {
        let text = format!("no answer within {} s; does it lie on a mount that hangs?", deadline.as_secs_f32());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_hangs_ends_at_its_deadline() {
        let error = read_in_time(Path::new("/nowhere"), Duration::from_millis(20), |_| {
            loop {
                std::thread::park();
            }
        })
        .expect_err("it hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("steadfast.toml");
        std::fs::write(&path, b"a\nb\xff").expect("written");
        let error = read_text(&path).expect_err("no text");
        assert!(error.to_string().contains("line 2"), "{error}");
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).expect("written");
        assert!(read_text(&path).expect_err("too long").to_string().contains("1 MiB"));
        assert!(read_text(dir.path()).expect_err("a directory").to_string().contains("regular"));
        assert_eq!(read_text(Path::new("/dev/zero")).expect_err("a device").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_bundle_gives_back_what_was_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("steadfast.toml");
        std::fs::write(&path, "text").expect("written");
        let mut files = Files::default();
        files.read(&path).expect("there");
        files.keep(dir.path()).expect("kept");
        std::fs::remove_file(&path).expect("removed");
        let mut files = Files::last_good(dir.path()).expect("kept");
        assert_eq!(files.read(&path).expect("kept").text, "text");
        std::fs::write(dir.path().join(BUNDLE), "{\"fil").expect("written");
        assert!(Files::last_good(dir.path()).is_none(), "a torn bundle is no bundle");
    }
}
