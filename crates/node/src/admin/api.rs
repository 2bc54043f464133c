//! The words of the admin socket: one JSON request line from the client, answer lines from the daemon.
//!
//! The daemon writes answers until [`Answer::Done`] or [`Answer::Failed`], which is always the last line; a follower
//! (`follow: true`) gets answers until it closes the connection. A request line is at most [`MAX_REQUEST`] bytes.
//! Unknown fields are ignored and absent ones have defaults, so that command and daemon of neighbouring versions
//! understand each other during an upgrade.

use cluster::{AdminRequest, Event, Pnn, ServiceHealth, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Where the socket is, unless the daemon was told otherwise. Mode 0600; only root's processes are served.
pub const SOCKET: &str = "/run/steadfast/admin.sock";

/// Longest request line in bytes, line end included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// Version of the running daemon: [`Answer::Done`] with it.
    Version,
    /// The state: one [`Answer::Status`], with `follow` another after every change (at most ten a second).
    Status {
        #[serde(default)]
        follow: bool,
    },
    /// The timeline: the last `last` events (0 = all that are kept), oldest first; with `follow` later ones too.
    Events {
        #[serde(default)]
        last: usize,
        #[serde(default)]
        follow: bool,
    },
    /// Something for the cluster core: [`Answer::Done`] with what was done, or [`Answer::Failed`] with why not.
    Admin { command: AdminRequest },
    /// The zone as plain text, as this node answers now: [`Answer::Text`].
    Zone,
    /// Coherence check of the shared mount between the members: [`Answer::Progress`] lines, then one
    /// [`Answer::Value`] with the report, its text as [`Answer::Text`], then the end (`Failed` if a property fails).
    CheckStorage {
        /// Increments per node in the counter test; `None` = the check's default.
        #[serde(default)]
        rounds: Option<u32>,
    },
    /// Read the configuration file again and apply it.
    Reload,
}

/// A line of the daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer", content = "with")]
pub enum Answer {
    /// The state of the cluster as this node sees it.
    Status(Box<Status>),
    /// A line of the timeline.
    Event(TimedEvent),
    /// Text to print as it is.
    Text { text: String },
    /// What is going on, for people who wait.
    Progress { text: String },
    /// A result for `--json`.
    Value { value: serde_json::Value },
    /// The end: it worked. A sentence, or empty.
    Done { text: String },
    /// The end: it did not. What, where, what now.
    Failed { text: String },
}

/// An event with the time of day, which the core does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedEvent {
    /// Milliseconds since 1970, by this node's clock when the event happened.
    pub unix_ms: i64,
    /// The event.
    pub event: Event,
}

/// What `status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster, as this node sees it.
    pub snapshot: Snapshot,
    /// This node in detail.
    pub local: Local,
    /// Milliseconds since 1970 when this was made.
    pub unix_ms: i64,
}

/// This node in detail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Local {
    /// Version of the daemon.
    pub version: String,
    /// Milliseconds since 1970 when the daemon started.
    pub started_unix_ms: i64,
    /// Services of this node, with the last lines of failing ones.
    pub services: BTreeMap<String, ServiceHealth>,
    /// The shared storage, if one is configured.
    pub storage: Option<Storage>,
    /// The DNS server, if one is configured.
    pub dns: Option<Dns>,
    /// Links to the peers.
    pub links: Vec<Link>,
    /// Where the log is: a command to read it, or a file.
    pub log: String,
    /// Configuration file in force.
    pub config_file: String,
}

/// The shared storage as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// `gluster`, `local`, ...
    pub kind: String,
    /// Where it is mounted.
    pub path: String,
    /// State of the mount.
    pub mount: ServiceHealth,
    /// What eviction cannot do with this storage, each with the remedy; empty when it can do everything.
    #[serde(default)]
    pub eviction_limits: Vec<String>,
    /// Option of the volume that is 0 for the time of planned moves, and will be put back; none: none is. The leader knows
    /// at once, the others within a minute.
    #[serde(default)]
    pub lifted: Option<String>,
}

/// The DNS server of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The zone.
    pub zone: String,
    /// Addresses that it answers on.
    pub listening: Vec<SocketAddr>,
    /// Addresses that it cannot answer on, and why.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// The link to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The peer.
    pub peer: Pnn,
    /// Is it up?
    pub up: bool,
    /// Why it is not.
    #[serde(default)]
    pub because: String,
}
