//! The reference site: its names and addresses, and what may be varied.
//!
//! Everything that a file, a test or a printed command needs to know about the site comes from here. Nothing is
//! global: several laboratories with the same addresses run side by side, each in namespaces of its own.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    /// A distributed-replicated GlusterFS volume on the nodes' own bricks.
    Gluster,
    /// One directory of this machine, visible to every node: up in seconds.
    Local,
}

/// What turns the nodes into one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// This project's daemon.
    Steadfast,
    /// The same with its fast preset.
    SteadfastFast,
    /// Debian's CTDB, everything at its defaults.
    Ctdb,
    /// Debian's CTDB, as fast as it can be set.
    CtdbTuned,
    /// Nothing: the laboratory starts the services itself and places the VIPs once, to try the parts alone.
    Parts,
}

impl Subject {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Steadfast => "steadfast",
            Self::SteadfastFast => "steadfast-fast",
            Self::Ctdb => "ctdb",
            Self::CtdbTuned => "ctdb-tuned",
            Self::Parts => "parts",
        }
    }

    pub(crate) fn is_steadfast(self) -> bool {
        matches!(self, Self::Steadfast | Self::SteadfastFast)
    }

    pub(crate) fn is_ctdb(self) -> bool {
        matches!(self, Self::Ctdb | Self::CtdbTuned)
    }
}

/// One laboratory's shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Site {
    /// Names the laboratory on this machine.
    pub(crate) id: String,
    pub(crate) storage: Storage,
    /// How many nodes there are, 1 to 16.
    pub(crate) nodes: usize,
    /// A second network (eth1) that carries storage and control.
    pub(crate) private_net: bool,
    /// IPv6 addresses beside the IPv4 ones.
    pub(crate) ipv6: bool,
    pub(crate) subject: Subject,
    /// A word for `preset` in the daemon's file, where the subject does not say it.
    #[serde(default)]
    pub(crate) preset: Option<String>,
    /// Samba with `clustering = yes`: the nodes' smbds are one server. (Under CTDB always.)
    #[serde(default)]
    pub(crate) clustering: bool,
    /// GlusterFS keeps two copies and an arbiter, on the servers of the next pair, in place of two copies.
    #[serde(default)]
    pub(crate) arbiter: bool,
    /// The directory of another Debian, whose Samba is used.
    #[serde(default)]
    pub(crate) samba_root: Option<PathBuf>,
    /// Parts that every daemon is started without, to see that their absence shows.
    #[serde(default)]
    pub(crate) without: Option<String>,
    /// The `steadfast` program under test.
    pub(crate) steadfast: PathBuf,
}

pub(crate) const VOLUME: &str = "vol1";
pub(crate) const MOUNT: &str = "/mnt/glustervol";
pub(crate) const SHARE: &str = "share";
pub(crate) const USER: &str = "jpena";
/// Uid and gid of [`USER`]; over NFS everybody is this one, so that both protocols may use the same files.
pub(crate) const UID: u32 = 3001;
pub(crate) const PASSWORD: &str = "secret";
pub(crate) const ZONE: &str = "storage.example";
pub(crate) const NFS_NAME: &str = "glusternfs";
pub(crate) const SMB_NAME: &str = "glustercifs";
/// The always-on server in every node that answers with the node's name.
pub(crate) const IDENT_PORT: u16 = 7777;
pub(crate) const CLIENT: &str = "client";
/// A host that does nothing but watch ARP, so that its questions teach the client nothing.
pub(crate) const WATCHER: &str = "watcher";

impl Site {
    pub(crate) fn new(id: String, storage: Storage, nodes: usize, steadfast: PathBuf) -> Result<Self> {
        if !(1..=16).contains(&nodes) {
            bail!("--nodes {nodes}: a laboratory has 1 to 16 nodes");
        }
        if storage == Storage::Gluster && nodes != 1 && nodes != 3 && !nodes.is_multiple_of(2) {
            bail!("--nodes {nodes}: GlusterFS needs 1, 3 or an even number of nodes here (pairs of replicas)");
        }
        Ok(Self {
            id,
            storage,
            nodes,
            private_net: false,
            ipv6: false,
            subject: Subject::Steadfast,
            preset: None,
            clustering: false,
            arbiter: false,
            samba_root: None,
            without: None,
            steadfast,
        })
    }

    pub(crate) fn base(&self) -> PathBuf {
        Path::new(crate::launch::REGISTRY).join(&self.id)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        (0..self.nodes).map(name).collect()
    }

    /// A node's own address on the clients' network.
    pub(crate) fn public(&self, node: usize) -> String {
        format!("192.168.122.{}", 100 + node)
    }

    /// A node's address between the nodes.
    pub(crate) fn private(&self, node: usize) -> String {
        if self.private_net { format!("10.99.0.{}", 100 + node) } else { self.public(node) }
    }

    /// The nodes that hold the same files, the one with their arbiter last where there is one: of each set all but one must be
    /// up.
    pub(crate) fn replica_sets(&self) -> Vec<Vec<usize>> {
        if self.nodes < 4 {
            return vec![(0..self.nodes).collect()];
        }
        let arbiter = |first: usize| self.arbiter.then_some((first + 2) % self.nodes);
        (0..self.nodes).step_by(2).map(|first| [first, first + 1].into_iter().chain(arbiter(first)).collect()).collect()
    }

    /// May both of these be out at one time, as far as GlusterFS is concerned?
    pub(crate) fn apart(&self, a: usize, b: usize) -> bool {
        self.storage == Storage::Local || !self.replica_sets().iter().any(|set| set.contains(&a) && set.contains(&b))
    }

    pub(crate) fn vips(&self) -> Vec<String> {
        (0..self.nodes).map(|i| format!("192.168.122.{}", 200 + i)).collect()
    }

    pub(crate) fn vips6(&self) -> Vec<String> {
        if self.ipv6 { (0..self.nodes).map(|i| format!("fd5f:122::{}", 200 + i)).collect() } else { Vec::new() }
    }

    /// Have the nodes' smbds one set of databases, so that users are added once, when they run?
    pub(crate) fn one_samba(&self) -> bool {
        self.subject.is_ctdb() || (self.subject.is_steadfast() && self.clustering)
    }

    /// The word for `preset` in the daemon's file.
    pub(crate) fn preset(&self) -> Option<&str> {
        if self.subject == Subject::SteadfastFast { Some("fast") } else { self.preset.as_deref() }
    }

    /// The hosts that are no nodes, with their last address byte.
    pub(crate) fn bystanders(&self) -> [(&'static str, u8); 2] {
        [(CLIENT, 10), (WATCHER, 11)]
    }

    /// Finds a node by its name, its number, or one of its addresses.
    pub(crate) fn node(&self, word: &str) -> Result<usize> {
        let found = (0..self.nodes)
            .find(|&i| word == name(i) || word == i.to_string() || word == self.public(i) || word == self.private(i));
        match found {
            Some(i) => Ok(i),
            None => bail!("no node is called {word}: there are {}", self.names().join(", ")),
        }
    }
}

/// `gluster1` for node 0.
pub(crate) fn name(node: usize) -> String {
    format!("gluster{}", node + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_set_of_copies_one_may_be_out() {
        let mut site = Site::new("t".into(), Storage::Gluster, 4, "/x".into()).unwrap();
        let apart = |site: &Site| -> Vec<(usize, usize)> {
            let pairs = (0..4).flat_map(|a| (a + 1..4).map(move |b| (a, b)));
            pairs.filter(|(a, b)| site.apart(*a, *b)).collect()
        };
        assert_eq!(site.replica_sets(), [[0, 1], [2, 3]]);
        assert_eq!(apart(&site), [(0, 2), (0, 3), (1, 2), (1, 3)]);
        site.arbiter = true;
        assert_eq!(site.replica_sets(), [[0, 1, 2], [2, 3, 0]], "each arbiter is on a server of the next pair");
        assert_eq!(apart(&site), [(1, 3)]);
        let three = Site::new("t".into(), Storage::Gluster, 3, "/x".into()).unwrap();
        assert_eq!(three.replica_sets(), [[0, 1, 2]]);
        let local = Site::new("t".into(), Storage::Local, 4, "/x".into()).unwrap();
        assert!(local.apart(0, 1));
    }
}
