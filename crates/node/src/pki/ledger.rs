//! The tokens that this node gave out: hashes, expiry, and who used them. On disk before anybody is told.

use super::dir::read;
use super::{PkiDir, PkiError, Token};
use crate::random;
use ring::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

const FILE: &str = "tokens.json";
const LOCK: &str = "tokens.lock";
/// More tokens than this at one time are a mistake in somebody's script.
const MAX_TOKENS: usize = 1000;

/// The list on disk.
#[derive(Clone, Debug)]
pub struct Ledger {
    dir: PkiDir,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    id: String,
    /// SHA-256 of the secret: whoever reads this file cannot use the token.
    secret_sha256: String,
    expires: u64,
    /// The only node that may use it.
    node: Option<String>,
    used_by: Option<String>,
}

impl Ledger {
    /// In this directory. Touches nothing.
    #[must_use]
    pub fn new(dir: PkiDir) -> Self {
        Self { dir }
    }

    /// Makes a token that is good for `life` from `now` (seconds since 1970), for `node` or for any node.
    ///
    /// # Errors
    /// This node has no CA key, or the disk did not take the token.
    pub fn issue(
        &self,
        addresses: Vec<SocketAddr>,
        node: Option<&str>,
        now: u64,
        life: Duration,
    ) -> Result<Token, PkiError> {
        self.dir.authority()?;
        let fingerprint = sha256(&self.dir.credentials()?.ca);
        let random = |e: std::io::Error| PkiError::Crypto { what: "make a secret", why: e.to_string() };
        let token = Token {
            id: random::bytes().map_err(random)?,
            secret: random::bytes().map_err(random)?,
            fingerprint,
            expires: now.saturating_add(life.as_secs()),
            addresses,
        };
        let _lock = self.lock()?;
        let mut entries = self.load()?;
        entries.retain(|e| e.expires >= now);
        if entries.len() >= MAX_TOKENS {
            return Err(PkiError::Crypto {
                what: "make another token",
                why: format!("{MAX_TOKENS} tokens of this node have not expired yet"),
            });
        }
        entries.push(Entry {
            id: hex(&token.id),
            secret_sha256: hex(&sha256(&token.secret)),
            expires: token.expires,
            node: node.map(str::to_owned),
            used_by: None,
        });
        self.save(&entries)?;
        Ok(token)
    }

    /// Uses up a token for the node `name`; afterwards, and after a crash, it is used.
    ///
    /// # Errors
    /// The inner one is for the joining node: why its token is no good. The outer: this node's disk.
    pub fn redeem(&self, id: &str, secret: &[u8], name: &str, now: u64) -> Result<Result<(), String>, PkiError> {
        let _lock = self.lock()?;
        let mut entries = self.load()?;
        let proof = hex(&sha256(secret));
        // Hashes of 128 random bits are compared: what the time of the comparison tells is of no use.
        let Some(entry) = entries.iter_mut().find(|e| e.id == id && e.secret_sha256 == proof) else {
            return Ok(Err(
                "this token is not known here (it may have expired): make a new one with `steadfast token`".into(),
            ));
        };
        if let Some(user) = &entry.used_by {
            return Ok(Err(format!("this token was already used by '{user}': make a new one with `steadfast token`")));
        }
        if entry.expires < now {
            let ago = now - entry.expires;
            return Ok(Err(format!("this token expired {ago} s ago: make a new one with `steadfast token`")));
        }
        if let Some(only) = entry.node.as_ref().filter(|only| *only != name) {
            return Ok(Err(format!("this token is for '{only}', not for '{name}'")));
        }
        entry.used_by = Some(name.to_owned());
        self.save(&entries)?;
        Ok(Ok(()))
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(FILE)
    }

    fn lock(&self) -> Result<File, PkiError> {
        let path = self.dir.path().join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(PkiError::io("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|e| PkiError::io("lock", &path)(e.into()))?;
        Ok(file)
    }

    fn load(&self) -> Result<Vec<Entry>, PkiError> {
        let path = self.path();
        let text = match read(&path) {
            Ok(text) => text,
            Err(PkiError::NoCluster { .. }) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        serde_json::from_str(&text).map_err(|e| PkiError::Crypto {
            what: "read the tokens given out",
            why: format!("{} is damaged ({e}): remove it, and make new tokens", path.display()),
        })
    }

    fn save(&self, entries: &[Entry]) -> Result<(), PkiError> {
        let bytes = serde_json::to_vec_pretty(entries).map_err(PkiError::crypto("write down the token"))?;
        self.dir.write(FILE, &bytes)
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `None` if it is not hex, or too long for any use here.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 128 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
