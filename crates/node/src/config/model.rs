//! The checked configuration, as the daemon uses it.

use super::address::parse_vip;
use super::diagnostic::Diagnostics;
use cluster::{FailBack, NodeConf, Pnn, Timing, VipConf};
use serde::{Deserialize, Serialize};
use services::config::ServicesConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the daemons talk to each other unless the configuration says otherwise.
pub(crate) const DEFAULT_CONTROL_PORT: u16 = 4390;

/// Name of the storage service in health reports.
pub const STORAGE: &str = "storage";
/// Name of the SMB service in health reports.
pub const SAMBA: &str = "samba";
/// Name of the NFS service in health reports.
pub const NFS: &str = "nfs";

/// Name of CTDB's event scripts in health reports.
pub const EVENTS: &str = "events";

/// Everything that one node needs to know of the site. Made by [`load`](super::load).
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub me: Pnn,
    /// The nodes list, without removed nodes.
    pub nodes: BTreeMap<Pnn, NodeConf>,
    /// Removed nodes, whose numbers are not given to others, and those of their private addresses that no other node has; none
    /// where the configuration does not say what they were.
    pub removed: BTreeMap<Pnn, Option<Vec<IpAddr>>>,
    /// The public addresses.
    pub vips: BTreeMap<IpAddr, VipConf>,
    /// This node's own list, when it comes from a `public_addresses` file that may differ between the nodes. Then
    /// `vips` holds what this node knows: for nodes whose list is unknown, its own list (see [`Config::set_lists`]).
    pub own_list: Option<PublicList>,
    /// Time limits.
    pub timing: Timing,
    /// How returning nodes get addresses back.
    pub fail_back: FailBack,
    /// TCP port of the links and UDP port of the heartbeats, on every private address.
    pub control_port: u16,
    /// The cluster lock, if there is one.
    pub lock: Option<Lock>,
    /// The shared filesystem.
    pub storage: Storage,
    /// Of kind gluster: the volume's post-op delay is 0 for the time of planned moves.
    pub lift_post_op_delay: bool,
    /// Samba, the NFS server and when they count as failed.
    pub services: ServicesConfig,
    /// Samba's clustered databases, if they are wanted.
    pub databases: Option<DatabasePlaces>,
    /// The DNS server, if it is wanted.
    pub dns: Option<Dns>,
    /// Of what must be equal on all nodes.
    pub fingerprint: u64,
    /// What is doubtful in it.
    pub warnings: Diagnostics,
}

/// The public addresses that one node can host: prefix length and interface, by address.
pub type PublicList = BTreeMap<IpAddr, (u8, String)>;

/// Samba's clustered databases: where they are served, and what CTDB's own files say of them if those are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabasePlaces {
    /// The socket that Samba and the `ctdb` tool connect to.
    pub socket: PathBuf,
    /// The processors are kept from sleeping deeply while much comes from the peers.
    pub keep_awake: bool,
    /// Directories of volatile and persistent databases and of their state; none: `db` in the state directory.
    pub dirs: Option<[PathBuf; 3]>,
    /// CTDB's tunables that are not at their defaults.
    pub tunables: Vec<(String, u32)>,
    /// `leader capability`: may this node be the leader that clients are told of?
    pub leads: bool,
    /// `lmaster capability`: may this node be a location master?
    pub lmaster: bool,
    /// The cluster lock in CTDB's words, for `ctdb getreclock`; none: as it stands in [`Config::lock`].
    pub lock: Option<String>,
}

/// Where the cluster lock is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// Directory of the record files, and of the lock file `lock` unless there is a command.
    pub dir: PathBuf,
    /// CTDB's mutex helper: program and arguments, without the `!`.
    pub command: Option<String>,
}

/// The shared filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Storage {
    /// A GlusterFS volume, mounted by us where it is not.
    Gluster {
        /// Mount point.
        path: PathBuf,
        /// Name of the volume.
        volume: String,
        /// Who tells the volume's layout; `localhost` when every node runs glusterd.
        server: String,
        /// In place of the defaults that keep the mount coherent between nodes.
        mount_options: Option<Vec<String>>,
    },
    /// A directory that is there already: another cluster filesystem, or one machine's own for trials.
    Local {
        /// The directory.
        path: PathBuf,
        /// Keeps a lost node from writing; none: nobody does.
        evict_command: Option<String>,
    },
    /// No shared filesystem is watched.
    None,
}

impl Storage {
    /// Mount point or directory.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Gluster { path, .. } | Self::Local { path, .. } => Some(path),
            Self::None => None,
        }
    }

    /// Are these the same files at the same place, whatever else is said of them?
    #[must_use]
    pub fn is_the_same(&self, other: &Self) -> bool {
        let volume = |storage: &Self| match storage {
            Self::Gluster { volume, .. } => Some(volume.clone()),
            Self::Local { .. } | Self::None => None,
        };
        self.path() == other.path() && volume(self) == volume(other)
    }
}

/// The DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dns {
    /// The zone, without a dot at its end, in lower case.
    pub zone: String,
    /// The service names.
    pub names: Vec<DnsName>,
    /// Seconds that answers may be remembered, from 1.
    pub ttl: u32,
    /// UDP and TCP port.
    pub port: u16,
    /// Addresses to answer on: this node's private ones and all public ones unless the file says otherwise.
    pub listen: Vec<IpAddr>,
    /// Names of the servers, for the NS records; those inside of the zone get public addresses.
    pub ns: Vec<String>,
    /// Mail address of who looks after the zone, as a domain name.
    pub contact: String,
    /// Answer for the service names without the zone too (`glusternfs.`).
    pub short_names: bool,
    /// Answers per second to one client network (IPv4 /24, IPv6 /56) before they are truncated; 0: no limit.
    pub rate_limit: u32,
    /// Networks without a limit: address and prefix length.
    pub rate_limit_exempt: Vec<(IpAddr, u8)>,
}

impl Dns {
    /// Sockets to open.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listen.iter().map(|address| SocketAddr::new(*address, self.port))
    }
}

/// A service name in the zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DnsName {
    /// Below the zone, in lower case.
    pub name: String,
    /// Its addresses; empty: all public addresses.
    pub vips: BTreeSet<IpAddr>,
    /// Service that must be healthy on the holder ([`SAMBA`] or [`NFS`]); none: all of them.
    pub service: Option<String>,
}

/// Nobody wants to wait a day before a reboot, whatever the TTL is.
const LONGEST_DRAIN_WAIT: Duration = Duration::from_secs(300);

/// A change of a node's own list of public addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListEdit {
    /// Address, length of its network's prefix, interface.
    Add(IpAddr, u32, String),
    /// It is hosted here no more.
    Remove(IpAddr),
}

impl Config {
    /// The core's part.
    #[must_use]
    pub fn core(&self) -> cluster::Config {
        cluster::Config {
            cluster: self.cluster.clone(),
            me: self.me,
            nodes: self.nodes.clone(),
            removed: self.removed.iter().filter_map(|(pnn, list)| Some((*pnn, list.clone()?))).collect(),
            vips: self.vips.clone(),
            databases: self.databases.is_some(),
            services: self.service_names(),
            timing: self.timing.clone(),
            fail_back: self.fail_back,
            drain_wait: self.drain_wait(),
            fingerprint: self.fingerprint,
        }
    }

    /// How long a drain waits: a resolver may have asked just before, and its client ask it just before it forgets.
    fn drain_wait(&self) -> Duration {
        let ttl = self.dns.as_ref().map_or(0, |dns| dns.ttl);
        Duration::from_secs(u64::from(ttl) * 2).min(LONGEST_DRAIN_WAIT)
    }

    /// This node's line of the nodes list.
    #[must_use]
    pub fn this_node(&self) -> &NodeConf {
        // `me` is a key of `nodes`: `load` makes no other configuration
        &self.nodes[&self.me]
    }

    /// The node of this name (capitals do not count).
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<Pnn> {
        self.nodes.iter().find(|(_, n)| n.name.eq_ignore_ascii_case(name)).map(|(pnn, _)| *pnn)
    }

    /// Services whose failure makes a node unfit to host addresses.
    #[must_use]
    pub fn service_names(&self) -> BTreeSet<String> {
        let storage = !matches!(self.storage, Storage::None);
        let services = &self.services;
        let names = [
            (STORAGE, storage),
            (SAMBA, services.samba.enabled),
            (NFS, services.nfs.enabled),
            (EVENTS, services.events.enabled),
        ];
        names.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()).collect()
    }

    /// What the nodes said about their own `public_addresses` files: who can host what, and on which interface.
    /// Nodes that have said nothing are taken to have this node's list. Nothing happens when the addresses stand in
    /// `steadfast.toml`, which is the same for all. True when something changed.
    pub fn set_lists(&mut self, lists: &BTreeMap<Pnn, PublicList>) -> bool {
        let Some(own) = &self.own_list else {
            return false;
        };
        let mut vips: BTreeMap<IpAddr, VipConf> = BTreeMap::new();
        for (pnn, node) in &self.nodes {
            if node.role == cluster::Role::Witness {
                continue;
            }
            let list = if *pnn == self.me { own } else { lists.get(pnn).unwrap_or(own) };
            for (address, (prefix_len, interface)) in list {
                let vip =
                    vips.entry(*address).or_insert_with(|| VipConf { prefix_len: *prefix_len, hosts: BTreeMap::new() });
                vip.hosts.insert(*pnn, interface.clone());
            }
        }
        let changed = vips != self.vips;
        self.vips = vips;
        changed
    }

    /// Are all nodes on loopback addresses, a trial on one machine?
    #[must_use]
    pub fn on_one_machine(&self) -> bool {
        self.nodes.values().flat_map(|node| &node.addresses).all(IpAddr::is_loopback)
    }

    /// Adds an address to this node's own list, or takes one out of it. The other nodes' lists: [`Self::set_lists`].
    ///
    /// # Errors
    /// The addresses stand in `steadfast.toml`; or why this one cannot be added.
    pub fn edit_list(&mut self, edit: &ListEdit) -> Result<(), String> {
        let Some(list) = &mut self.own_list else {
            return Err("it has none of its own: the addresses are in steadfast.toml, the same for all nodes".into());
        };
        let (address, prefix_len, interface) = match edit {
            ListEdit::Remove(address) => {
                let was = list.remove(address);
                return was.map(drop).ok_or_else(|| format!("{address} is not in this node's list"));
            }
            ListEdit::Add(address, prefix_len, interface) => (*address, *prefix_len, interface),
        };
        let text = format!("{address}/{prefix_len}");
        let (_, prefix_len) = parse_vip(&text)
            .map_err(|wrong| format!("{text} cannot be a public address: {}; {}", wrong.label, wrong.help))?;
        if self.nodes.values().any(|node| node.addresses.contains(&address)) {
            return Err(format!("{address} is a node's own address"));
        }
        let known = self.vips.get(&address).map(|vip| vip.prefix_len);
        if let Some(other) = known.filter(|other| *other != prefix_len) {
            return Err(format!("{text} has another prefix length on other nodes: {other}"));
        }
        if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) {
            return Err(format!("{interface:?} cannot be an interface's name"));
        }
        list.insert(address, (prefix_len, interface.clone()));
        Ok(())
    }

    /// Of what must be equal on all nodes: not of paths, and not of lists that may differ.
    pub(super) fn compute_fingerprint(&self) -> u64 {
        let vips = if self.own_list.is_none() { Some(&self.vips) } else { None };
        let mut all = serde_json::json!({
            "cluster": self.cluster,
            "nodes": self.nodes,
            "removed": self.removed,
            "vips": vips,
            "timing": self.timing,
            "fail_back": self.fail_back,
            "control_port": self.control_port,
            "lock": self.lock,
            "storage": self.storage,
            "services": self.service_names(),
            "dns": self.dns.as_ref().map(|dns| (&dns.zone, &dns.names, dns.ttl, &dns.ns, &dns.contact)),
        });
        // One smbd that knows of nobody's locks spoils them all.
        if self.services.samba.clustering {
            all["clustering"] = true.into();
        }
        // Whoever leads does it or not.
        if self.lift_post_op_delay {
            all["lift_post_op_delay"] = true.into();
        }
        let text = all.to_string();
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}
