//! What this node's bricks have that their copies lack: why a server must not be taken down yet.
//!
//! GlusterFS keeps, on each brick, an index of what was written while another copy was away
//! (`.glusterfs/indices/xattrop`, what `gluster volume heal VOLUME statistics heal-count` counts): one name for each
//! file or directory whose other copies this brick holds to be old. So each node counts its own, with a listing of a
//! local directory, and asks glusterd for nothing. A brick's disk can hang as well as a mount: a helper process looks.
//!
//! What it does not do: heal, or find files in split brain among those that wait.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::helper::{Helper, HelperCommand, HelperError, serve};
use super::volume::Volume;

/// For one look at all bricks of a node.
const DEADLINE: Duration = Duration::from_secs(5);
/// Entries that are counted on one brick; more are as many.
const MOST: usize = 10_000;
/// Part of every warning of [`Waiting::warning`], by which [`holds_back`] knows them.
const MARK: &str = "to be healed, and";

/// What waits on this node's bricks of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Files and directories, not above 10,000 for each brick.
    pub entries: usize,
}

impl Waiting {
    /// Why `node`, whose bricks these are, should not go down; none if nothing waits. Counts are rounded down, so that
    /// the sentence changes seldom.
    pub fn warning(&self, volume: &Volume, node: &str) -> Option<String> {
        let (entries, wait) = match self.entries {
            0 => return None,
            1 => ("1 entry".to_owned(), "waits"),
            n => (format!("{} or more entries", round_down(n)), "wait"),
        };
        let name = &volume.name;
        let what = if volume.replica == 2 {
            format!(
                "{node} has the only good copy: lost before that, the old copy is written, and both are in split brain"
            )
        } else {
            format!("{node} has good copies that others lack: without it files may not be readable or writable")
        };
        Some(format!(
            "do not take {node} down: {entries} of volume {name} {wait} {MARK} {what} (gluster volume heal {name} info \
             lists them)"
        ))
    }
}

/// The warning among a node's own that says not to take it down.
pub fn holds_back(warnings: &[String]) -> Option<&str> {
    warnings.iter().map(String::as_str).find(|warning| warning.contains(MARK))
}

/// 1, 2, 5, 10, 20, 50...
fn round_down(n: usize) -> usize {
    let mut power = 1;
    while n / power >= 10 {
        power *= 10;
    }
    power * [5, 2, 1].into_iter().find(|step| n / power >= *step).unwrap_or(1)
}

/// Counts what waits on this node's bricks of one volume.
#[derive(Debug)]
pub struct Counter {
    helper: Helper,
    bricks: Vec<PathBuf>,
}

impl Counter {
    /// `own` are the names and addresses that this node goes by; none if it has no brick of the volume, or the volume
    /// keeps one copy only.
    pub fn new(volume: &Volume, own: &[String], command: &HelperCommand) -> Option<Self> {
        let ours = |host: &str| own.iter().any(|name| name.eq_ignore_ascii_case(host));
        let bricks: Vec<PathBuf> =
            volume.bricks.iter().filter(|brick| ours(&brick.host)).map(|brick| PathBuf::from(&brick.path)).collect();
        let copies = volume.replica > 1 || volume.redundancy > 0;
        (copies && !bricks.is_empty())
            .then(|| Self { helper: Helper::new(command, "heal-count", ["heal-count"]), bricks })
    }

    /// An error when a brick cannot be read, or its disk does not answer within 5 s.
    pub async fn count(&mut self) -> Result<Waiting, HelperError> {
        let ask = Ask { bricks: self.bricks.clone() };
        let entries = self.helper.call(&ask, DEADLINE).await?;
        Ok(Waiting { entries })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    bricks: Vec<PathBuf>,
}

/// `steadfast helper heal-count`
pub(super) fn helper_main() -> ExitCode {
    serve(|ask: Ask| {
        let counts =
            ask.bricks.iter().map(|brick| entries(brick).map_err(|e| format!("brick {}: {e}", brick.display())));
        counts.sum::<Result<usize, String>>()
    })
}

fn entries(brick: &Path) -> io::Result<usize> {
    let index = match fs::read_dir(brick.join(".glusterfs/indices/xattrop")) {
        Ok(index) => index,
        // A brick that was never started has none; one that is not there at all is another matter.
        Err(error) if error.kind() == io::ErrorKind::NotFound && brick.is_dir() => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for entry in index {
        // The file that all the others are links to.
        if !entry?.file_name().as_encoded_bytes().starts_with(b"xattrop-") {
            count += 1;
        }
        if count == MOST {
            break;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(replica: u32, redundancy: u32) -> Volume {
        let xml = format!(
            "<cliOutput><opRet>0</opRet><volInfo><volumes><volume><name>v</name><statusStr>Started</statusStr>\
             <replicaCount>{replica}</replicaCount><redundancyCount>{redundancy}</redundancyCount><bricks>\
             <brick><name>g1:/b/1</name></brick><brick><name>10.0.0.2:/b/2</name></brick></bricks></volume></volumes>\
             </volInfo></cliOutput>"
        );
        Volume::parse("v", &xml).unwrap()
    }

    #[test]
    fn entries_of_an_index_are_counted_and_its_base_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(entries(dir.path()).unwrap(), 0, "a brick that was never started");
        let index = dir.path().join(".glusterfs/indices/xattrop");
        fs::create_dir_all(&index).unwrap();
        fs::write(index.join("xattrop-5ef7a4ba-5a52-4ff9-8e4c-4ebcd9cbe4ca"), "").unwrap();
        assert_eq!(entries(dir.path()).unwrap(), 0);
        for n in 0..3 {
            fs::write(index.join(format!("00000000-0000-0000-0000-00000000000{n}")), "").unwrap();
        }
        assert_eq!(entries(dir.path()).unwrap(), 3);
        assert!(entries(&dir.path().join("gone")).is_err());
    }

    #[test]
    fn only_nodes_with_bricks_of_a_volume_with_copies_count() {
        let command = HelperCommand::new("/bin/false");
        let bricks = |volume: &Volume, own: &str| {
            Counter::new(volume, &["x".to_owned(), own.to_owned()], &command).map(|counter| counter.bricks)
        };
        assert_eq!(bricks(&volume(2, 0), "G1"), Some(vec![PathBuf::from("/b/1")]));
        assert_eq!(bricks(&volume(2, 0), "10.0.0.2"), Some(vec![PathBuf::from("/b/2")]));
        assert_eq!(bricks(&volume(1, 1), "g1"), Some(vec![PathBuf::from("/b/1")]));
        assert_eq!(bricks(&volume(2, 0), "g3"), None);
        assert_eq!(bricks(&volume(1, 0), "g1"), None);
    }

    #[test]
    fn the_warning_says_what_is_true_of_the_volume() {
        let warning = |entries, replica| Waiting { entries }.warning(&volume(replica, 0), "g1");
        assert_eq!(warning(0, 2), None);
        let two = warning(1, 2).unwrap();
        assert!(
            two.starts_with("do not take g1 down: 1 entry of volume v ") && two.contains("only good copy"),
            "{two}"
        );
        let three = warning(73, 3).unwrap();
        assert!(three.contains("50 or more entries") && !three.contains("only good copy"), "{three}");
        assert_eq!(holds_back(&["other".to_owned(), two.clone()]), Some(two.as_str()));
        assert_eq!(holds_back(&["other".to_owned()]), None);
    }

    #[test]
    fn counts_are_rounded_down_to_one_two_and_five() {
        let rounded = [1, 2, 4, 5, 9, 10, 19, 20, 99, 100, 4999, 5000].map(round_down);
        assert_eq!(rounded, [1, 2, 2, 5, 5, 10, 10, 20, 50, 100, 2000, 5000]);
    }
}
