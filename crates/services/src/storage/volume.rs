//! What a GlusterFS volume is made of, read from glusterd, and what follows for eviction and the cluster lock.
//!
//! What it does not do: change a volume ([`post_op_delay`](super::post_op_delay) does, for a while), or look at the state of
//! its bricks and heals.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::coherence::{EAGER_LOCK, Setting, VOLUME_OPTIONS};

/// Most that `gluster` may print.
const MAX_OUTPUT: u64 = 4 << 20;

/// One volume as glusterd describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    /// `Distributed-Replicate`, `Replicate`, `Disperse`...
    pub kind: String,
    pub started: bool,
    /// Copies of a file, arbiters included; 1 without replication.
    pub replica: u32,
    /// Of those, how many hold names and attributes only.
    pub arbiters: u32,
    /// Redundancy of a dispersed volume; 0 for others.
    pub redundancy: u32,
    /// In the volume's order: each `replica` in a row are copies of each other.
    pub bricks: Vec<Brick>,
    /// Options that were set, by name. Defaults are not listed.
    pub options: BTreeMap<String, String>,
    /// What is in force, defaults of this version of GlusterFS included. Empty when glusterd did not tell.
    #[serde(default)]
    pub effective: BTreeMap<String, String>,
}

/// One brick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brick {
    pub host: String,
    pub path: String,
    pub arbiter: bool,
}

/// Why a volume could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("cannot run `gluster {command}`: {source}")]
    Spawn { command: String, source: std::io::Error },
    #[error("`gluster {command}` gave no answer within {after:?}; is glusterd running?")]
    Deadline { command: String, after: Duration },
    #[error("`gluster {command}`: {why}")]
    Failed { command: String, why: String },
    #[error("`gluster {command} --xml` printed something unexpected: {why}")]
    Unreadable { command: String, why: String },
    #[error("the volume is left as it is while glusterd has not settled with {}: a change now could upset a server that is starting", servers.join(", "))]
    Unsettled { servers: Vec<String> },
}

/// How much a piece of advice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Good to know.
    Note,
    /// Data or service is at risk when a server fails.
    Warning,
}

/// What follows from the volume's settings, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    pub weight: Weight,
    pub text: String,
    /// What to do about it; empty when nothing need be done.
    pub remedy: String,
}

impl Volume {
    /// Asks glusterd on this machine, twice; each question may take `deadline`.
    pub async fn read(volume: &str, deadline: Duration) -> Result<Self, VolumeError> {
        let mut read = Self::settings(volume, deadline).await?;
        match gluster(&["volume", "get", volume, "all"], deadline).await {
            Ok(text) => read.effective = parse_effective(&text),
            Err(error) => {
                tracing::warn!(volume, %error, "defaults of the volume are unknown; unset options count as unset")
            }
        }
        Ok(read)
    }

    /// The same without the options that were not set: one question.
    pub async fn settings(volume: &str, deadline: Duration) -> Result<Self, VolumeError> {
        Self::parse(volume, &gluster(&["volume", "info", volume], deadline).await?)
    }

    /// Reads what `gluster volume info VOLUME --xml` printed.
    pub fn parse(volume: &str, xml: &str) -> Result<Self, VolumeError> {
        let command = format!("volume info {volume}");
        let unreadable = |why: String| VolumeError::Unreadable { command: command.clone(), why };
        let document = document(&command, xml)?;
        let root = document.root_element();
        let named = |node: &Node<'_, '_>| node.has_tag_name("volume") && text(*node, "name") == Some(volume);
        let node = root.descendants().find(named);
        let node = node.ok_or_else(|| unreadable(format!("no volume {volume} in it")))?;
        let number = |tag: &str| -> Result<u32, VolumeError> {
            let value = text(node, tag).unwrap_or("0");
            value.parse().map_err(|_| unreadable(format!("{tag} is `{value}`")))
        };
        let bricks = node.descendants().filter(|node| node.has_tag_name("brick")).map(|brick| {
            let name = text(brick, "name").ok_or_else(|| unreadable("a brick without a name".to_owned()))?;
            let (host, path) = name.split_once(":/").ok_or_else(|| unreadable(format!("brick `{name}`")))?;
            let arbiter = text(brick, "isArbiter") == Some("1");
            Ok(Brick { host: host.to_owned(), path: format!("/{path}"), arbiter })
        });
        let options = node.descendants().filter(|node| node.has_tag_name("option")).filter_map(|option| {
            Some((text(option, "name")?.to_owned(), text(option, "value").unwrap_or_default().to_owned()))
        });
        Ok(Self {
            name: volume.to_owned(),
            kind: text(node, "typeStr").unwrap_or("unknown").to_owned(),
            started: text(node, "statusStr") == Some("Started"),
            replica: number("replicaCount")?.max(1),
            arbiters: number("arbiterCount")?,
            redundancy: number("redundancyCount")?,
            bricks: bricks.collect::<Result<_, _>>()?,
            options: options.collect(),
            effective: BTreeMap::new(),
        })
    }

    /// An option's value as set; empty when it has its default.
    fn option(&self, name: &str) -> &str {
        self.options.get(name).map_or("", String::as_str)
    }

    /// Whether no write succeeds on less than a strict majority of the copies (or with the first, for pairs).
    pub fn has_client_quorum(&self) -> bool {
        match self.option("cluster.quorum-type") {
            "auto" => true,
            // Unset, GlusterFS acts as with `auto` from three copies on.
            "" => self.replica > 2,
            "fixed" => {
                let count = self.option("cluster.quorum-count").parse::<u32>().unwrap_or(0);
                count * 2 > self.replica
            }
            _ => false,
        }
    }

    /// Whether two halves of the servers can never both write: what a cluster lock on the volume needs to break
    /// ties, for else two halves of the volume are two filesystems with two locks.
    pub fn lock_may_break_ties(&self) -> Result<(), String> {
        if self.redundancy > 0 {
            return Ok(());
        }
        if self.replica >= 2 && self.has_client_quorum() {
            return Ok(());
        }
        Err(match self.replica {
            1 => format!(
                "volume {} keeps one copy of each file: a lock on it is lost with the server that has it",
                self.name
            ),
            n => format!(
                "volume {} keeps {n} copies without client quorum: cut in two, each half has a lock of its own",
                self.name
            ),
        })
    }

    /// Settings of coherence that the volume does not have, with the commands to set them. One copy of each file needs no
    /// locks of replication.
    pub fn missing_settings(&self) -> Vec<Setting> {
        let needed = |setting: &Setting| setting.option != EAGER_LOCK.option || self.replica > 1;
        let value = |option: &str| self.options.get(option).or_else(|| self.effective.get(option));
        let set = |setting: &Setting| value(setting.option).is_some_and(|value| same_value(value, setting.value));
        VOLUME_OPTIONS.into_iter().filter(|setting| needed(setting) && !set(setting)).collect()
    }

    /// What eviction and the lock can and cannot do with this volume. `nodes` are the names and addresses that
    /// the cluster's nodes go by; with none given, bricks elsewhere are not looked for.
    pub fn advice(&self, nodes: &[String]) -> Vec<Advice> {
        let mut advice = Vec::new();
        let mut say = |weight, text: String, remedy: &str| {
            advice.push(Advice { weight, text, remedy: remedy.replace("VOLUME", &self.name) });
        };
        if !self.started {
            say(Weight::Warning, format!("volume {} is not started", self.name), "gluster volume start VOLUME");
        }
        match (self.redundancy, self.replica, self.has_client_quorum()) {
            (1.., _, _) => say(
                Weight::Note,
                format!("volume {} is dispersed and survives {} lost bricks of each set", self.name, self.redundancy),
                "",
            ),
            (0, 0 | 1, _) => say(
                Weight::Warning,
                format!(
                    "volume {} keeps one copy of each file: when a server is lost its files are gone until it is back, \
                     and eviction only turns the wait into errors",
                    self.name
                ),
                "use a volume with three copies, or two and an arbiter: gluster volume add-brick VOLUME replica 3 arbiter 1 ...",
            ),
            (0, 2, true) => say(
                Weight::Warning,
                format!(
                    "volume {} keeps two copies with quorum `{}`: the files of a pair that loses {} brick cannot be \
                     locked, written, created or read until it is back, and look as if they were not there",
                    self.name,
                    self.option("cluster.quorum-type"),
                    if self.option("cluster.quorum-type") == "fixed" { "a" } else { "its first" }
                ),
                "add an arbiter to each pair: gluster volume add-brick VOLUME replica 3 arbiter 1 HOST:/PATH ...",
            ),
            (0, 2, false) => say(
                Weight::Warning,
                format!(
                    "volume {} keeps two copies without client quorum: cut in two, either side locks and writes, and files \
                     written on both are in split brain. Eviction and hold keep one side from it; that is safe only while \
                     the nodes of this cluster are the volume's only clients",
                    self.name
                ),
                "add an arbiter to each pair: gluster volume add-brick VOLUME replica 3 arbiter 1 HOST:/PATH ... \
                 (then gluster volume set VOLUME cluster.quorum-type auto)",
            ),
            (0, n, true) => {
                let arbiter = if self.arbiters > 0 { ", one of them an arbiter," } else { "" };
                say(
                    Weight::Note,
                    format!("volume {} keeps {n} copies{arbiter} with client quorum: eviction is safe", self.name),
                    "",
                );
            }
            (0, n, false) => say(
                Weight::Warning,
                format!(
                    "volume {} keeps {n} copies, but client quorum is off: two halves can both be written",
                    self.name
                ),
                "gluster volume set VOLUME cluster.quorum-type auto",
            ),
        }
        if let Err(why) = self.lock_may_break_ties() {
            say(
                Weight::Warning,
                format!("the cluster lock never breaks a tie: {why}"),
                "two servers that must outlive either need a witness, with an arbiter brick on it",
            );
        }
        if self.option("cluster.server-quorum-type") == "server" {
            say(
                Weight::Warning,
                format!(
                    "volume {} has server quorum: glusterd stops the bricks of a side with less than its ratio of peers, \
                     and service ends there whatever this cluster decides",
                    self.name
                ),
                "gluster volume reset VOLUME cluster.server-quorum-type (client quorum protects the data)",
            );
        }
        let elsewhere: Vec<&str> = self.bricks_elsewhere(nodes);
        if !elsewhere.is_empty() {
            say(
                Weight::Warning,
                format!(
                    "bricks of volume {} are on machines that are no nodes of this cluster ({}): nothing evicts a dead node \
                     there, and takeover waits for that node's own confirmation",
                    self.name,
                    elsewhere.join(", ")
                ),
                "run the agent on these machines, or make them nodes (witnesses without addresses)",
            );
        }
        for setting in self.missing_settings() {
            say(
                Weight::Warning,
                format!("{} is not {} on volume {}: {}", setting.option, setting.value, self.name, setting.because),
                &setting.command("VOLUME"),
            );
        }
        advice
    }

    fn bricks_elsewhere(&self, nodes: &[String]) -> Vec<&str> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let known = |host: &str| nodes.iter().any(|node| node.eq_ignore_ascii_case(host));
        let mut hosts: Vec<&str> =
            self.bricks.iter().map(|brick| brick.host.as_str()).filter(|host| !known(host)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// The other hosts that keep copies of what `host` keeps: losing them too loses data from service.
    pub fn partners_of(&self, host: &str) -> Vec<&str> {
        let width = usize::try_from(self.replica).unwrap_or(1).max(1);
        let sets =
            self.bricks.chunks(width).filter(|set| set.iter().any(|brick| brick.host.eq_ignore_ascii_case(host)));
        let mut hosts: Vec<&str> = sets.flatten().map(|brick| brick.host.as_str()).collect();
        hosts.retain(|other| !other.eq_ignore_ascii_case(host));
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }
}

/// What `gluster ... --xml` printed, unless it says that it failed.
pub(super) fn document<'a>(command: &str, xml: &'a str) -> Result<Document<'a>, VolumeError> {
    let options = ParsingOptions { nodes_limit: 200_000, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options)
        .map_err(|e| VolumeError::Unreadable { command: command.to_owned(), why: e.to_string() })?;
    let root = document.root_element();
    if text(root, "opRet").is_some_and(|ret| ret != "0") {
        let why = text(root, "opErrstr").filter(|why| !why.is_empty()).unwrap_or("refused without a reason");
        return Err(VolumeError::Failed { command: command.to_owned(), why: why.to_owned() });
    }
    Ok(document)
}

/// Has glusterd change something.
pub(super) async fn change(words: &[&str], deadline: Duration) -> Result<(), VolumeError> {
    document(&words.join(" "), &gluster(words, deadline).await?).map(drop)
}

/// Runs `gluster --mode=script ... --xml`. What has not ended by the deadline is killed; glusterd may go on with it.
pub(super) async fn gluster(words: &[&str], deadline: Duration) -> Result<String, VolumeError> {
    let command = || words.join(" ");
    let mut child = Command::new("gluster")
        .arg("--mode=script")
        .args(words)
        .arg("--xml")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| VolumeError::Spawn { command: command(), source })?;
    let stdout = child.stdout.take();
    let reading = async {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
        }
        Ok::<_, std::io::Error>(output)
    };
    let output = timeout(deadline, reading)
        .await
        .map_err(|_| VolumeError::Deadline { command: command(), after: deadline })?
        .map_err(|source| VolumeError::Spawn { command: command(), source })?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// Reads what `gluster volume get VOLUME all --xml` printed; what makes no sense is left out.
fn parse_effective(xml: &str) -> BTreeMap<String, String> {
    let options = ParsingOptions { nodes_limit: 200_000, ..ParsingOptions::default() };
    let Ok(document) = Document::parse_with_options(xml, options) else { return BTreeMap::new() };
    let entry = |option: Node<'_, '_>| {
        // `on (DEFAULT)`
        let value = text(option, "Value")?;
        Some((text(option, "Option")?.to_owned(), value.trim_end_matches("(DEFAULT)").trim().to_owned()))
    };
    document.descendants().filter(|node| node.has_tag_name("Opt")).filter_map(entry).collect()
}

pub(super) fn text<'a>(node: Node<'a, '_>, tag: &str) -> Option<&'a str> {
    node.children().find(|child| child.has_tag_name(tag))?.text().map(str::trim)
}

/// GlusterFS takes several words for the same switch.
pub(super) fn same_value(a: &str, b: &str) -> bool {
    fn switch(value: &str) -> Option<bool> {
        match value.to_ascii_lowercase().as_str() {
            "on" | "yes" | "true" | "enable" | "1" => Some(true),
            "off" | "no" | "false" | "disable" | "0" => Some(false),
            _ => None,
        }
    }
    a == b || switch(a).is_some_and(|a| switch(b) == Some(a))
}

#[cfg(test)]
mod tests;
