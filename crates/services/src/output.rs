//! The last lines that a service wrote, and file access that cannot hang the daemon.
//!
//! A service that we run ourselves writes into a file, not into a pipe: so it outlives the daemon, and
//! reading the end of it is all that is needed when the service fails. Log and configuration files may lie
//! on the shared mount, where any call can hang for ever: [`within`] gives up waiting.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most lines that are kept of a failing service.
pub const MAX_LINES: usize = 20;
/// Longest line that is kept, in bytes.
const MAX_LINE: usize = 400;
/// How much of the end of a file is read.
const TAIL: u64 = 64 * 1024;
/// Output files larger than this are emptied.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// How long a local file may take.
const FILE_DEADLINE: Duration = Duration::from_millis(500);

/// Runs `work` on a thread that may block, and waits for `deadline` at most. `None`: it did not return in time
/// (its thread is given up until it does).
pub async fn within<T: Send + 'static>(deadline: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::time::timeout(deadline, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// A file of which only what is written from now on is of interest.
#[derive(Debug, Clone)]
pub struct Watched {
    path: PathBuf,
    from: u64,
}

impl Watched {
    /// Remembers the present end of `path`; a file that is not there yet begins at 0.
    pub async fn from_here(path: &Path) -> Self {
        let path = path.to_path_buf();
        let ask = path.clone();
        let from = within(FILE_DEADLINE, move || ask.metadata().map_or(0, |meta| meta.len())).await;
        Self { path, from: from.unwrap_or(0) }
    }

    /// The last lines written since; where any holds one of the `severe` words, only such. Nothing when the
    /// file cannot be read or does not answer.
    pub async fn last_lines(&self, most: usize, severe: &[&str]) -> Vec<String> {
        let this = self.clone();
        let bytes = within(FILE_DEADLINE, move || read_tail(&this.path, this.from)).await;
        match bytes {
            Some(Ok(bytes)) => {
                let mut lines = lines_of(&bytes, usize::MAX);
                let is_severe = |line: &String| severe.iter().any(|word| line.contains(word));
                if lines.iter().any(is_severe) {
                    lines.retain(is_severe);
                }
                lines.drain(..lines.len().saturating_sub(most));
                lines
            }
            Some(Err(_)) | None => Vec::new(),
        }
    }
}

fn read_tail(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    // shorter than remembered: rotated or emptied, so all of it is new
    let from = if from > len { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(TAIL))))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `most` non-empty lines of `bytes`, cut to a bearable length, without control characters.
pub fn lines_of(bytes: &[u8], most: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .map(|line| {
            line.chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .take(MAX_LINE)
                .collect::<String>()
                .trim_end()
                .to_owned()
        })
        .filter(|line| !line.is_empty())
        .take(most)
        .collect();
    lines.reverse();
    lines
}

/// Empties an output file that has grown too large. Its writer appends, so that is safe at any moment.
pub fn bound(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(meta) if meta.len() > MAX_FILE => File::options().write(true).open(path)?.set_len(0),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_and_survives_garbage() {
        let mut bytes = b"old\n\n  \nfirst\nsecond \xff\x07\nlast without end".to_vec();
        assert_eq!(lines_of(&bytes, 2), ["second \u{fffd}", "last without end"]);
        bytes.extend(vec![b'x'; 100_000]);
        assert!(lines_of(&bytes, 5).iter().all(|line| line.len() <= MAX_LINE));
        assert!(lines_of(b"", 5).is_empty());
    }

    #[tokio::test]
    async fn only_what_is_new_is_shown_also_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let watched = Watched::from_here(&path).await;
        assert!(watched.last_lines(9, &[]).await.is_empty());
        std::fs::write(&path, "before\nafter\n").unwrap();
        assert_eq!(watched.last_lines(9, &[]).await, ["after"]);
        std::fs::write(&path, "CRIT 0\nx CRIT 1\ny CRIT 2\nchatter\n").unwrap();
        assert_eq!(watched.last_lines(9, &["CRIT", "FATAL"]).await, ["x CRIT 1", "y CRIT 2"]);
        assert_eq!(watched.last_lines(1, &["CRIT", "FATAL"]).await, ["y CRIT 2"]);
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(watched.last_lines(9, &[]).await, ["new"]);
        std::fs::remove_file(&path).unwrap();
        assert!(watched.last_lines(9, &[]).await.is_empty());
    }

    #[test]
    fn a_large_output_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        bound(&path).unwrap();
        std::fs::write(&path, "small").unwrap();
        bound(&path).unwrap();
        assert_eq!(path.metadata().unwrap().len(), 5);
        File::options().write(true).open(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
        bound(&path).unwrap();
        assert_eq!(path.metadata().unwrap().len(), 0);
    }
}
