//! `steadfast.toml` as it is written: the types that the file is read into, before anything is checked.
//!
//! Every value is optional and carries its place, so that one run can show all that is missing or wrong. What the
//! values mean is docs/configuration.md; what may stand there is decided in `check`.

use cluster::Role;
use serde::Deserialize;
use services::config::{EventsConfig, HealthConfig, NfsConfig, SambaConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) cluster: Option<ClusterSpec>,
    #[serde(default)]
    pub(super) node: Vec<Spanned<NodeSpec>>,
    #[serde(default)]
    pub(super) vip: Vec<Spanned<VipSpec>>,
    pub(super) storage: Option<Spanned<StorageSpec>>,
    pub(super) samba: Option<SambaConfig>,
    pub(super) nfs: Option<NfsConfig>,
    pub(super) health: Option<HealthConfig>,
    pub(super) events: Option<EventsConfig>,
    pub(super) dns: Option<Spanned<DnsSpec>>,
}

/// A choice between fast takeover and patience, under a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Preset {
    #[default]
    Normal,
    Fast,
}

impl Preset {
    /// The lease that it stands for, in milliseconds.
    pub(super) fn lease_ms(self) -> u64 {
        match self {
            Self::Normal => 600,
            Self::Fast => 250,
        }
    }
}

/// `[cluster]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterSpec {
    pub(super) name: Option<Spanned<String>>,
    pub(super) lock: Option<Spanned<String>>,
    pub(super) lock_records: Option<Spanned<PathBuf>>,
    pub(super) preset: Option<Preset>,
    pub(super) lease_ms: Option<Spanned<i64>>,
    pub(super) control_port: Option<Spanned<i64>>,
    pub(super) fail_back: Option<Spanned<FailBackWord>>,
    pub(super) fail_back_window: Option<Spanned<String>>,
    pub(super) fail_back_interval_ms: Option<Spanned<i64>>,
    pub(super) nodes_file: Option<Spanned<PathBuf>>,
    pub(super) public_addresses_file: Option<Spanned<PathBuf>>,
}

/// `fail_back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FailBackWord {
    Spread,
    Never,
    Window,
}

/// `[[node]]`; the place in the list is the PNN.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeSpec {
    pub(super) name: Option<Spanned<String>>,
    pub(super) addresses: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub(super) role: Role,
    /// Keeps the numbers of the nodes after it.
    #[serde(default)]
    pub(super) removed: bool,
}

/// `[[vip]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VipSpec {
    pub(super) address: Option<Spanned<String>>,
    pub(super) interface: Option<Spanned<String>>,
    /// Other names of the interface, by node.
    #[serde(default)]
    pub(super) interfaces: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) nodes: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Kind of the shared filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KindSpec {
    Gluster,
    Local,
    None,
}

/// `[storage]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageSpec {
    pub(super) kind: Option<Spanned<KindSpec>>,
    pub(super) path: Option<Spanned<PathBuf>>,
    pub(super) volume: Option<Spanned<String>>,
    pub(super) server: Option<Spanned<String>>,
    pub(super) mount_options: Option<Spanned<Vec<String>>>,
    pub(super) lift_post_op_delay: Option<Spanned<bool>>,
    pub(super) evict_command: Option<Spanned<String>>,
}

/// `[dns]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsSpec {
    pub(super) zone: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) names: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) name: Vec<Spanned<NameSpec>>,
    pub(super) ttl: Option<Spanned<i64>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) listen: Option<Vec<Spanned<String>>>,
    pub(super) ns: Option<Vec<Spanned<String>>>,
    pub(super) contact: Option<Spanned<String>>,
    pub(super) short_names: Option<bool>,
    pub(super) rate_limit: Option<Spanned<i64>>,
    pub(super) rate_limit_exempt: Option<Vec<Spanned<String>>>,
}

/// `[[dns.name]]`: a service name with its own addresses or service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameSpec {
    pub(super) name: Option<Spanned<String>>,
    pub(super) service: Option<Spanned<String>>,
    pub(super) vips: Option<Vec<Spanned<String>>>,
}
