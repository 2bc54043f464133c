//! The lock helper's own side: holds the lock file and answers about it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Acquired, Exchange, Holder, Record, ofd, record};
use crate::storage::helper::serve;

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    Acquire,
    Release,
    NotHeld,
    Exchange { record: Value, peers: Vec<u32> },
    Read { peers: Vec<u32> },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    Acquired(Acquired),
    Released,
    NotHeld(Option<String>),
    Exchanged(Exchange),
}

/// `steadfast helper lock --dir DIR --node PNN`.
pub(in crate::storage) fn main(dir: &Path, pnn: u32) -> ExitCode {
    let mut server = Server { dir: dir.to_owned(), pnn, held: None };
    serve(|ask| server.answer(ask))
}

#[derive(Debug)]
struct Server {
    dir: PathBuf,
    pnn: u32,
    held: Option<Held>,
}

/// The open file that carries the lock; closing it frees it.
#[derive(Debug)]
struct Held {
    file: File,
    holder: Holder,
}

impl Server {
    fn answer(&mut self, ask: Ask) -> Result<Told, String> {
        match ask {
            Ask::Acquire => self.acquire().map(Told::Acquired),
            Ask::Release => self.release().map(|()| Told::Released),
            Ask::NotHeld => Ok(Told::NotHeld(self.not_held())),
            Ask::Exchange { record, peers } => {
                self.make_dir()?;
                record::write(&self.dir, self.pnn, &record)?;
                self.read(&peers).map(Told::Exchanged)
            }
            Ask::Read { peers } => self.read(&peers).map(Told::Exchanged),
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn make_dir(&self) -> Result<(), String> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|e| format!("cannot create {}: {e}", self.dir.display()))
    }

    fn open(&self, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).mode(0o600);
        options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(self.lock_path())
    }

    fn acquire(&mut self) -> Result<Acquired, String> {
        if self.held.is_some() {
            match self.not_held() {
                None => return Ok(Acquired::Held),
                Some(_) => self.held = None,
            }
        }
        self.make_dir()?;
        let failed = |e: io::Error| format!("cannot lock {}: {e}", self.lock_path().display());
        let file = self.open(true).map_err(failed)?;
        if !ofd::try_lock(&file).map_err(failed)? {
            return Ok(Acquired::Contended { by: note(&file) });
        }
        if let Some(why) = self.replaced(&file) {
            return Err(why);
        }
        let holder = Holder { pnn: self.pnn, id: random_id(), since: seconds_now() };
        let mut text = serde_json::to_vec(&holder).map_err(|e| e.to_string())?;
        text.resize(NOTE, b' ');
        // Fixed length, no truncation: a reader never finds the file empty.
        file.write_all_at(&text, 0).and_then(|()| file.sync_all()).map_err(failed)?;
        self.held = Some(Held { file, holder });
        Ok(Acquired::Held)
    }

    fn release(&mut self) -> Result<(), String> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        // Closing frees it too; asked for explicitly the answer says so.
        ofd::unlock(&held.file).map_err(|e| format!("cannot unlock {}: {e}", self.lock_path().display()))
    }

    /// fcntl keeps silent about a lock that the filesystem let go. Three things tell: the path leads to another
    /// file; nothing stands in the way of another open of ours; somebody else wrote his note.
    fn not_held(&self) -> Option<String> {
        let Some(held) = &self.held else {
            return Some("it was not acquired".to_owned());
        };
        if let Some(why) = self.replaced(&held.file) {
            return Some(why);
        }
        let other = match self.open(false) {
            Ok(file) => file,
            Err(error) => return Some(format!("cannot open {}: {error}", self.lock_path().display())),
        };
        match ofd::conflicting(&other) {
            Ok(true) => {}
            Ok(false) => return Some("the filesystem has let it go".to_owned()),
            Err(error) => return Some(format!("cannot ask for {}: {error}", self.lock_path().display())),
        }
        match note(&other) {
            Some(holder) if holder == held.holder => None,
            Some(holder) => Some(format!("{holder} has taken it meanwhile")),
            None => Some("its note was overwritten".to_owned()),
        }
    }

    fn replaced(&self, file: &File) -> Option<String> {
        let path = self.lock_path();
        match (file.metadata(), fs::symlink_metadata(&path)) {
            (Ok(held), Ok(named)) if (held.dev(), held.ino()) == (named.dev(), named.ino()) => None,
            (Ok(_), Ok(_)) => Some(format!("{} was replaced by another file", path.display())),
            (Err(error), _) | (_, Err(error)) => Some(format!("cannot stat {}: {error}", path.display())),
        }
    }

    fn read(&self, peers: &[u32]) -> Result<Exchange, String> {
        let mut pnns: Vec<u32> = peers.to_vec();
        pnns.push(self.pnn);
        let listed = fs::read_dir(&self.dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let listed = listed.map_err(|e| format!("cannot list {}: {e}", self.dir.display()))?;
        pnns.extend(listed.iter().filter_map(|entry| record::pnn_of(entry.file_name().to_str()?)));
        pnns.sort_unstable();
        pnns.dedup();
        let record = |pnn| Some(Record { pnn, content: record::read(&self.dir, pnn)? });
        let records = pnns.into_iter().filter_map(record).collect();
        Ok(Exchange { records, not_held: self.not_held() })
    }
}

/// Bytes of the note in the lock file.
const NOTE: usize = 256;

fn note(file: &File) -> Option<Holder> {
    let mut bytes = [0; NOTE];
    let n = file.read_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(bytes[..n].trim_ascii_end()).ok()
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random_id() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/uuid");
    kernel.map_or_else(
        // Two acquisitions of one node in the same nanosecond do not exist.
        |_| format!("{}-{:?}", std::process::id(), SystemTime::now()),
        |text| text.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn server(dir: &Path, pnn: u32) -> Server {
        Server { dir: dir.join("lock"), pnn, held: None }
    }

    #[test]
    fn one_holds_the_other_is_told_who_and_gets_it_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (server(dir.path(), 0), server(dir.path(), 1));
        assert_eq!(a.acquire().unwrap(), Acquired::Held);
        assert_eq!(a.acquire().unwrap(), Acquired::Held);
        let Acquired::Contended { by: Some(by) } = b.acquire().unwrap() else { panic!("two holders") };
        assert_eq!(by.pnn, 0);
        assert_eq!(a.not_held(), None);
        assert!(b.not_held().is_some());
        a.release().unwrap();
        assert_eq!(b.acquire().unwrap(), Acquired::Held);
        assert!(a.not_held().is_some());
    }

    #[test]
    fn a_lost_lock_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (server(dir.path(), 0), server(dir.path(), 1));
        a.acquire().unwrap();
        ofd::unlock(&a.held.as_ref().unwrap().file).unwrap();
        assert!(a.not_held().unwrap().contains("let it go"));
        b.acquire().unwrap();
        assert!(a.not_held().unwrap().contains("node 1 has taken it"));
        fs::remove_file(b.lock_path()).unwrap();
        assert!(b.not_held().is_some());
        a.acquire().unwrap();
        assert!(b.not_held().unwrap().contains("replaced"));
    }

    #[test]
    fn an_exchange_brings_every_record_and_says_whether_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (server(dir.path(), 0), server(dir.path(), 1));
        a.acquire().unwrap();
        let ask = |n| Ask::Exchange { record: json!(n), peers: vec![0, 1, 2] };
        let Told::Exchanged(first) = a.answer(ask(10)).unwrap() else { panic!() };
        assert_eq!(first.records, [Record { pnn: 0, content: Ok(json!(10)) }]);
        assert_eq!(first.not_held, None);
        fs::write(dir.path().join("lock/record.7"), "garbage").unwrap();
        let Told::Exchanged(second) = b.answer(ask(11)).unwrap() else { panic!() };
        assert_eq!(second.records[..2], [0, 1].map(|n| Record { pnn: n, content: Ok(json!(10 + n)) }));
        assert!(second.records[2].content.is_err() && second.records[2].pnn == 7);
        assert!(second.not_held.is_some());
    }
}
