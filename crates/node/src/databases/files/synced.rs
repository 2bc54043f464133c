//! The note of the last recovery that a persistent database took part in to the end: one line in a file beside it.
//!
//! Written whole to a temporary file, fsynced, renamed, directory fsynced: after a power cut the old or the new note is
//! there. No note, or one that cannot be understood, is the oldest there is: then the other nodes' copies count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ctdb::recovery::Generation;

const WORDS: &str = "steadfast-synced 1";

/// A note's file.
#[derive(Debug)]
pub(super) struct Synced {
    path: PathBuf,
}

impl Synced {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What it says.
    pub(super) fn read(&self) -> Generation {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Generation::default(),
            Err(error) => {
                tracing::warn!("cannot read {}: {error}; this node's copy counts as the oldest", self.path.display());
                return Generation::default();
            }
        };
        parse(&text).unwrap_or_else(|| {
            tracing::warn!("{} is damaged; this node's copy counts as the oldest", self.path.display());
            Generation::default()
        })
    }

    /// Notes it; on disk when this returns.
    pub(super) fn write(&self, generation: Generation) -> Result<(), String> {
        if self.read() == generation {
            return Ok(());
        }
        let fresh = PathBuf::from(format!("{}.new", self.path.display()));
        let line = format!("{WORDS} {} {}\n", generation.epoch, generation.attempt);
        let written = write_synced(&fresh, line.as_bytes())
            .and_then(|()| fs::rename(&fresh, &self.path))
            .and_then(|()| self.sync_directory());
        written.map_err(|error| format!("cannot note the recovery in {}: {error}", self.path.display()))
    }

    /// Forgets it: the database is a new one, or gone.
    pub(super) fn forget(&self) -> Result<(), String> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other
                .and_then(|()| self.sync_directory())
                .map_err(|error| format!("cannot remove {}: {error}", self.path.display())),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A line that does not end was not written to the end: its number may lack digits.
fn parse(text: &str) -> Option<Generation> {
    let (epoch, attempt) = text.strip_prefix(WORDS)?.strip_prefix(' ')?.strip_suffix('\n')?.split_once(' ')?;
    Some(Generation { epoch: epoch.parse().ok()?, attempt: attempt.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.tdb.0.synced");
        let note = Synced::new(path.clone());
        assert_eq!(note.read(), Generation::default());
        let generation = Generation { epoch: 17, attempt: 12 };
        note.write(generation).unwrap();
        assert_eq!(Synced::new(path.clone()).read(), generation);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(note.read(), Generation::default(), "cut at {cut}");
        }
        note.write(generation).unwrap();
        note.forget().unwrap();
        assert_eq!(note.read(), Generation::default());
        note.forget().unwrap();
    }
}
