//! `votes.json`: one header line (format, length and SHA-256 of the body), then the votes as JSON.
//!
//! Written whole to a temporary file, fsynced, renamed into place, directory fsynced: after a power cut or a
//! kill at any moment either the old or the new state is there. The checksum tells a disk that lies about fsync,
//! or a hand that edited the file, from a state to vote by.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cluster::Durable;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::dir::check_private;
use super::{StateDir, StateError, io_error};

/// Version of the file's layout.
pub(super) const FORMAT: u64 = 1;
/// No state is longer: a view of 64 nodes takes 16 KiB.
const MAX_LEN: u64 = 4 << 20;

const NAME: &str = "votes.json";
const TEMPORARY: &str = "votes.json.new";

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    steadfast_votes: u64,
    len: usize,
    sha256: String,
}

/// This node's votes on disk.
#[derive(Debug)]
pub struct StateStore {
    dir: StateDir,
    path: PathBuf,
}

impl StateStore {
    /// Opens the state directory; see [`StateDir::open`].
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StateError> {
        let dir = StateDir::open(dir)?;
        let path = dir.path().join(NAME);
        Ok(Self { dir, path })
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Reads the votes; `None` when there never were any.
    ///
    /// # Errors
    /// The file cannot be read, is exposed to others, is damaged, or is of a newer format.
    pub fn load(&self) -> Result<Option<Durable>, StateError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read the votes in", &self.path)(error)),
        };
        check_private(&self.path)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(MAX_LEN + 1)
            .read_to_end(&mut bytes)
            .map_err(io_error("read the votes in", &self.path))?;
        decode(&bytes).map(Some).map_err(|bad| bad.at(&self.path))
    }

    /// Writes the votes; on disk when this returns.
    ///
    /// # Errors
    /// The disk did not take it. The votes saved before are still there.
    pub fn save(&self, votes: &Durable) -> Result<(), StateError> {
        let bytes = encode(votes).map_err(io_error("encode the votes for", &self.path))?;
        let temporary = self.dir().join(TEMPORARY);
        let written = write_synced(&temporary, &bytes);
        if let Err(error) = written {
            // Room for the next attempt; the error that counts is the one above.
            let _ = fs::remove_file(&temporary);
            return Err(io_error("write", temporary)(error));
        }
        fs::rename(&temporary, &self.path).map_err(io_error("put the new votes in place at", &self.path))?;
        File::open(self.dir())
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("make the new votes permanent in", self.dir()))
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover of a killed daemon may have another mode or owner.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn encode(votes: &Durable) -> io::Result<Vec<u8>> {
    let mut body = serde_json::to_vec_pretty(votes)?;
    body.push(b'\n');
    let header = Header { steadfast_votes: FORMAT, len: body.len(), sha256: sha256(&body) };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.append(&mut body);
    Ok(bytes)
}

enum Bad {
    Damaged(String),
    Newer(u64),
}

impl Bad {
    fn at(self, path: &Path) -> StateError {
        match self {
            Self::Damaged(why) => StateError::Corrupt { path: path.to_owned(), why },
            Self::Newer(format) => StateError::Newer { path: path.to_owned(), format },
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Durable, Bad> {
    let damaged = |why: &str| Bad::Damaged(why.to_owned());
    if bytes.is_empty() {
        return Err(damaged("the file is empty"));
    }
    if bytes.len() as u64 > MAX_LEN {
        return Err(damaged("the file is larger than 4 MiB"));
    }
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        return Err(damaged("the header line does not end"));
    };
    let header: Header =
        serde_json::from_slice(&bytes[..end]).map_err(|e| Bad::Damaged(format!("the header line: {e}")))?;
    if header.steadfast_votes > FORMAT {
        return Err(Bad::Newer(header.steadfast_votes));
    }
    if header.steadfast_votes < FORMAT {
        return Err(Bad::Damaged(format!("format {} never existed", header.steadfast_votes)));
    }
    let body = &bytes[end + 1..];
    if body.len() != header.len {
        return Err(Bad::Damaged(format!("{} bytes where {} were written", body.len(), header.len)));
    }
    if sha256(body) != header.sha256 {
        return Err(damaged("the checksum is wrong"));
    }
    serde_json::from_slice(body).map_err(|e| Bad::Damaged(e.to_string()))
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{AdminState, Ballot, Epoch, Incarnation, NodeUid, Pnn, View};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn votes(round: u64) -> Durable {
        let uid = NodeUid(0x1234_5678 << 90);
        let mut votes = Durable::blank(Pnn(3), uid);
        let life = Incarnation { number: 0, id: 7 };
        votes.view = Some(View::founding(life, Epoch(0), Pnn(3), uid, "init".into()));
        votes.promised = Ballot { round, uid };
        votes.admin = AdminState::Drained;
        votes
    }

    fn temp() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        (dir, path)
    }

    #[test]
    fn votes_come_back_as_saved_and_the_directory_is_private() {
        let (_keep, path) = temp();
        let store = StateStore::open(&path).unwrap();
        assert_eq!(store.load().unwrap(), None);
        for round in 0..3 {
            store.save(&votes(round)).unwrap();
            assert_eq!(store.load().unwrap(), Some(votes(round)));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_half_written_file_of_a_killed_daemon_is_ignored() {
        let (_keep, path) = temp();
        let store = StateStore::open(&path).unwrap();
        store.save(&votes(1)).unwrap();
        fs::write(path.join(TEMPORARY), &encode(&votes(2)).unwrap()[..40]).unwrap();
        drop(store);
        let store = StateStore::open(&path).unwrap();
        assert_eq!(store.load().unwrap(), Some(votes(1)));
        store.save(&votes(3)).unwrap();
        assert_eq!(store.load().unwrap(), Some(votes(3)));
    }

    #[test]
    fn every_damage_is_noticed_and_none_panics() {
        let good = encode(&votes(1)).unwrap();
        assert!(decode(&good).is_ok());
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            // A flipped bit in the header's own words can only make it unreadable or mismatched.
            assert!(decode(&bad).is_err(), "flip at {at}");
        }
        let (_keep, path) = temp();
        let store = StateStore::open(&path).unwrap();
        for garbage in [&b""[..], b"{}", b"\n\n", b"\xff\xfe\n\x00", &[b'x'; 5 << 20]] {
            fs::write(path.join(NAME), garbage).unwrap();
            fs::set_permissions(path.join(NAME), fs::Permissions::from_mode(0o600)).unwrap();
            let error = store.load().unwrap_err().to_string();
            assert!(error.contains("votes.json") && error.contains("steadfast join"), "{error}");
        }
        fs::write(path.join(NAME), b"{\"steadfast_votes\":99,\"len\":1,\"sha256\":\"\"}\nx").unwrap();
        assert!(matches!(store.load(), Err(StateError::Newer { format: 99, .. })));
    }

    #[test]
    fn a_second_daemon_is_refused_by_name() {
        let (_keep, path) = temp();
        let first = StateStore::open(&path).unwrap();
        let error = StateStore::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        StateStore::open(&path).unwrap();
    }

    #[test]
    fn a_directory_or_file_that_others_can_read_is_refused() {
        let (_keep, path) = temp();
        let store = StateStore::open(&path).unwrap();
        store.save(&votes(1)).unwrap();
        fs::set_permissions(path.join(NAME), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(store.load().unwrap_err().to_string().contains("mode 0644"));
        drop(store);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = StateStore::open(&path).unwrap_err().to_string();
        assert!(error.contains("chmod -R go="), "{error}");
    }

    /// On a disk of 64 KiB in a mount namespace of its own: this test runs itself again in there.
    #[test]
    fn a_full_disk_keeps_the_old_votes_and_says_so() {
        const INSIDE: &str = "STEADFAST_TEST_SMALL_DISK";
        if let Some(dir) = std::env::var_os(INSIDE) {
            let dir = PathBuf::from(dir);
            let store = StateStore::open(dir.join("state")).unwrap();
            store.save(&votes(1)).unwrap();
            let filler = fs::write(dir.join("filler"), vec![0; 1 << 20]);
            assert!(filler.is_err(), "the small disk is not small");
            let error = store.save(&votes(2)).unwrap_err().to_string();
            assert!(error.contains("No space left") && error.contains("votes.json"), "{error}");
            assert_eq!(store.load().unwrap(), Some(votes(1)));
            fs::remove_file(dir.join("filler")).unwrap();
            store.save(&votes(2)).unwrap();
            assert_eq!(store.load().unwrap(), Some(votes(2)));
            return;
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a mount namespace needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=64k,mode=700 none \"$1\" && exec \"$2\" --exact \"$3\" --nocapture";
        let out = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .arg("state::file::tests::a_full_disk_keeps_the_old_votes_and_says_so")
            .env(INSIDE, dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && text.contains("1 passed"), "{text}");
    }
}
