//! Where the configuration comes from: one file of our own, or CTDB's files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc as sync;
use std::thread;
use std::time::Duration;

use crate::config::{Config, CtdbFiles, CtdbPlaces, Diagnostics, Machine, load_or_last_good};

/// Reading the text for joiners may take this long: the file may lie on a mount that hangs.
const READ: Duration = Duration::from_secs(2);
/// Longest configuration text that joiners get, in bytes.
const MAX_TEXT: u64 = 512 << 10;

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `steadfast.toml`.
    File {
        /// The file.
        path: PathBuf,
        /// Which node of the list this is, when it cannot be told by its addresses.
        node: Option<String>,
    },
    /// CTDB's files.
    Ctdb {
        /// Where they are.
        places: CtdbPlaces,
        /// The address of this node.
        address: IpAddr,
    },
}

impl Origin {
    /// Reads the configuration of this machine.
    ///
    /// # Errors
    /// All its problems, rendered for people.
    pub(crate) fn read(&self, state_dir: &Path) -> Result<Config, String> {
        match self {
            Self::File { path, node } => read(path, node.as_deref(), state_dir),
            Self::Ctdb { places, address } => {
                let machine = machine(None)?;
                let files = CtdbFiles::read(places, &machine).map_err(|d| render(&d))?;
                files.setup(*address, &machine).map(|setup| setup.config).map_err(|d| render(&d))
            }
        }
    }

    /// The text for joining nodes that have none. CTDB's files lie on every node already.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::File { path, .. } => text(path),
            Self::Ctdb { .. } => None,
        }
    }
}

fn machine(node: Option<&str>) -> Result<Machine, String> {
    Machine::probe(node.map(str::to_owned))
        .map_err(|e| format!("cannot tell this machine's addresses and interfaces: {e}"))
}

/// Reads our own file.
///
/// # Errors
/// All its problems, rendered for people.
pub(crate) fn read(path: &Path, node: Option<&str>, state_dir: &Path) -> Result<Config, String> {
    let machine = machine(node)?;
    load_or_last_good(path, &machine, state_dir).map_err(|d| render(&d))
}

/// Without colours: it goes to logs and over the admin socket.
pub(crate) fn render(diagnostics: &Diagnostics) -> String {
    diagnostics.render(false)
}

/// The configuration file's text, for joining nodes that have none.
pub(crate) fn text(path: &Path) -> Option<String> {
    let (sender, text) = sync::channel();
    let path = path.to_owned();
    let reader = move || {
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= MAX_TEXT);
        // Too late or too large: joiners bring their own file then.
        let _ = sender.send(small.then(|| std::fs::read_to_string(&path).ok()).flatten());
    };
    thread::Builder::new().name("config".into()).spawn(reader).ok()?;
    text.recv_timeout(READ).ok().flatten()
}
