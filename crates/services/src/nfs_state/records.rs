//! Who is recorded: read from Ganesha's and rpc.statd's directories, and written where Ganesha reads a lost node's.
//!
//! Ganesha (`RecoveryBackend = fs`) makes a directory per NFSv4 client, named after the client's address and what the client
//! calls itself: `::ffff:10.0.0.9-(22:Linux NFSv4.1 client9)`. A name longer than 255 bytes goes on in a directory within.
//! rpc.statd has a file per host that holds NFSv3 locks; its line names the host as Ganesha gave it, by its address.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// More clients than this of either kind are not kept track of.
pub const MOST: usize = 4096;
/// Longest name of an NFSv4 client: what Ganesha compares (`PATH_MAX`) is longer than anything that clients send.
const LONGEST: usize = 1024;
/// All names together: several fit into one frame between nodes.
const ALL: usize = 512 * 1024;
/// Longest name of a directory; a longer client's name is cut there.
const SEGMENT: usize = 255;
/// Below a client's directory, a file with this in front records a delegation that was taken back.
const REVOKED: char = '\u{1}';
/// Ganesha's `RecoveryRoot`, when it is not set.
pub const ROOT: &str = "/var/lib/nfs/ganesha";
/// rpc.statd's directories: who is monitored, and who was before the last start and was not told yet.
pub const STATD: [&str; 2] = ["/var/lib/nfs/sm", "/var/lib/nfs/sm.bak"];

/// The clients that one node's NFS server could owe something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// NFSv4 clients, as Ganesha names them.
    pub v4: BTreeSet<String>,
    /// Hosts with NFSv3 locks: addresses, or names where `Nsm_Use_Caller_Name` is set.
    pub nlm: BTreeSet<String>,
    /// There are more, or some whose names make no sense.
    #[serde(default)]
    pub left_out: usize,
}

impl Clients {
    /// Nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.nlm.is_empty() && self.left_out == 0
    }

    /// Takes a list that came from elsewhere: what is too long, too much or makes no sense is left out.
    #[must_use]
    pub fn checked(self) -> Self {
        let mut kept = Self { left_out: self.left_out, ..Self::default() };
        let mut size = 0;
        self.v4.into_iter().for_each(|name| kept.add(name, true, &mut size));
        self.nlm.into_iter().for_each(|name| kept.add(name, false, &mut size));
        kept
    }

    /// Reads both kinds. Directories that are not there hold nobody.
    ///
    /// # Errors
    /// One cannot be read: who is recorded is not known.
    pub fn read(root: &Path, statd: &[PathBuf]) -> io::Result<Self> {
        let (mut found, mut size) = (Self::default(), 0);
        for dir in ["v4recov", "v4old"] {
            // By node when Ganesha's `Clustered` is set, which is its default; else the clients themselves.
            for entry in listed(&root.join(dir))? {
                if is_client(&entry) {
                    found.add(entry, true, &mut size);
                    continue;
                }
                let within = root.join(dir).join(&entry);
                let before = if entry.len() == SEGMENT { entry.as_str() } else { "" };
                found.read_v4(&within, before, &mut size)?;
            }
        }
        for dir in statd {
            for entry in listed(dir)? {
                // Gone again meanwhile.
                let Ok(line) = fs::read_to_string(dir.join(&entry)) else { continue };
                // Address, program, version and procedure of who asked, its cookie, then who is monitored, for whom.
                let name = line.split_whitespace().nth(5).unwrap_or(&entry);
                found.add(name.to_owned(), false, &mut size);
            }
        }
        Ok(found)
    }

    fn read_v4(&mut self, dir: &Path, before: &str, size: &mut usize) -> io::Result<()> {
        for entry in listed(dir)? {
            let name = format!("{before}{entry}");
            let goes_on = entry.len() == SEGMENT && !is_client(&name);
            if goes_on && name.len() < LONGEST {
                self.read_v4(&dir.join(&entry), &name, size)?;
            } else {
                self.add(name, true, size);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, v4: bool, size: &mut usize) {
        let set = if v4 { &mut self.v4 } else { &mut self.nlm };
        if set.contains(&name) {
            return;
        }
        let makes_sense = if v4 { is_client(&name) && segments(&name).is_some() } else { is_host(&name) };
        if !makes_sense || set.len() >= MOST || *size + name.len() > ALL {
            self.left_out += 1;
            return;
        }
        *size += name.len();
        set.insert(name);
    }

    /// Writes the NFSv4 clients where Ganesha reads those of an address that it takes over ([`super::grace`]); what an
    /// earlier loss left there is removed first.
    ///
    /// # Errors
    /// They could not all be written.
    pub fn write(&self, root: &Path, label: &str) -> io::Result<()> {
        let top = root.join(label);
        match fs::remove_dir_all(&top) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let dir = top.join("v4recov");
        fs::create_dir_all(&dir)?;
        for name in self.v4.iter().filter(|name| is_client(name)) {
            if let Some(segments) = segments(name) {
                fs::create_dir_all(segments.iter().fold(dir.clone(), |path, segment| path.join(segment)))?;
            }
        }
        Ok(())
    }
}

/// The names in a directory, but for delegations' records and what is no text.
fn listed(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // One directory holds no more than the clients of both kinds, each with a few delegations.
    let names = entries.take(16 * MOST).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with(REVOKED)).collect())
}

/// Is this a whole name of Ganesha's, `ADDRESS-(LENGTH:WHAT THE CLIENT CALLS ITSELF)`? As Ganesha looks at it.
fn is_client(name: &str) -> bool {
    let Some((_, rest)) = name.split_once('(') else { return false };
    let Some((length, own)) = rest.split_once(':') else { return false };
    let Some(own) = own.strip_suffix(')') else { return false };
    name.len() <= LONGEST && length.len() < 9 && length.parse() == Ok(own.len())
}

/// The directories that make up a name; none when it cannot be one.
fn segments(name: &str) -> Option<Vec<&str>> {
    if !name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'/') {
        return None;
    }
    let mut segments = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let (segment, after) = rest.split_at(rest.len().min(SEGMENT));
        if matches!(segment, "." | "..") {
            return None;
        }
        segments.push(segment);
        rest = after;
    }
    Some(segments)
}

/// An address or a host's name.
fn is_host(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%');
    !name.is_empty() && name.len() <= SEGMENT && !name.starts_with(['.', '-']) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(own: &str) -> String {
        format!("::ffff:10.0.0.9-({}:{own})", own.len())
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_is_written_for_the_heir_is_read_back_as_it_was_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let long = client(&"x".repeat(600));
        let clients = Clients { v4: set(&[&client("Linux NFSv4.1 a"), &long]), ..Clients::default() };
        clients.write(dir.path(), "steadfast-2").unwrap();
        let there = dir.path().join("steadfast-2");
        assert!(there.join("v4recov").join(&long[..255]).join(&long[255..510]).join(&long[510..]).is_dir());
        // As Ganesha has them, below its node's number.
        fs::create_dir_all(dir.path().join("v4recov")).unwrap();
        fs::rename(there.join("v4recov"), dir.path().join("v4recov/node0")).unwrap();
        fs::write(dir.path().join("v4recov/node0").join(client("Linux NFSv4.1 a")).join("\u{1}handle"), "").unwrap();
        let sm = dir.path().join("sm");
        fs::create_dir(&sm).unwrap();
        let line = "0100007f 000186b5 00000004 00000010 00000000000000000000000000000000 10.0.0.7 server1\n";
        fs::write(sm.join("10.0.0.7"), line).unwrap();
        let found = Clients::read(dir.path(), &[sm, dir.path().join("nothing")]).unwrap();
        assert_eq!(found, Clients { v4: clients.v4.clone(), nlm: set(&["10.0.0.7"]), left_out: 0 });
        // The next loss leaves nothing of this one.
        clients.write(dir.path(), "steadfast-2").unwrap();
        Clients::default().write(dir.path(), "steadfast-2").unwrap();
        assert_eq!(fs::read_dir(there.join("v4recov")).unwrap().count(), 0);
    }

    #[test]
    fn hostile_names_get_nowhere() {
        let bad = [
            "../../etc/passwd".to_owned(),
            client("a/../../../etc/cron.d/x"),
            client("new\nline"),
            "10.0.0.9-(3:four)".to_owned(),
            client(&"y".repeat(5000)),
            ".".to_owned(),
            String::new(),
        ];
        let given = Clients { v4: bad.iter().cloned().collect(), nlm: bad.iter().cloned().collect(), left_out: 0 };
        let kept = given.clone().checked();
        assert_eq!(kept, Clients { left_out: 2 * bad.len(), ..Clients::default() });
        assert!(!kept.is_empty(), "somebody is there, though it is not known who");
        let dir = tempfile::tempdir().unwrap();
        given.write(dir.path(), "steadfast-1").unwrap();
        // Even unchecked, nothing lies beside the directory that was asked for.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!dir.path().join("etc").exists());
    }

    #[test]
    fn too_many_are_counted_not_kept() {
        let many = (0..MOST + 10).map(|i| client(&format!("client {i}"))).collect();
        let kept = Clients { v4: many, ..Clients::default() }.checked();
        assert_eq!((kept.v4.len(), kept.left_out), (MOST, 10));
        let large = (0..2000).map(|i| client(&format!("{i:0>400}"))).collect();
        let kept = Clients { v4: large, ..Clients::default() }.checked();
        assert!(kept.v4.len() > 1000 && kept.left_out > 0, "{}", kept.v4.len());
    }
}
