//! From what is written to what is used: [`Spec`] to [`Config`], with every doubt about the contents collected.
//!
//! One module per section; each takes its part of the spec and the problems so far, and gives back what it could make
//! of it. A configuration comes out only when nobody found an error.

mod cluster;
mod dns;
mod nodes;
mod storage;
mod vips;

pub(super) use nodes::is_host_name;

use super::diagnostic::{Diagnostic, Diagnostics, Source};
use super::files::Files;
use super::machine::Machine;
use super::model::{Config, DEFAULT_CONTROL_PORT, DatabasePlaces};
use super::spec::Spec;
use ::cluster::Timing;
use services::config::ServicesConfig;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;

/// For whom the configuration is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// This machine is to serve by it: it must be one of the nodes and have the interfaces.
    Serve,
    /// Somebody wants to know whether it is right, perhaps on another machine.
    Inspect,
}

/// What the modules share.
struct Context<'a> {
    source: Arc<Source>,
    machine: &'a Machine,
    purpose: Purpose,
    /// Is this machine the node that `me` says? Only then do its interfaces count.
    is_node: bool,
    problems: &'a mut Diagnostics,
    files: &'a mut Files,
}

impl Context<'_> {
    fn error(
        &mut self,
        title: impl Into<String>,
        span: Range<usize>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::error(title).at(&self.source, span, label).help(help);
        self.problems.push(diagnostic);
    }

    fn warning(
        &mut self,
        title: impl Into<String>,
        span: Range<usize>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::warning(title).at(&self.source, span, label).help(help);
        self.problems.push(diagnostic);
    }

    /// A number within its range, else the default.
    fn number<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        value: Option<&Spanned<i64>>,
        least: i64,
        most: i64,
        default: T,
    ) -> T {
        let Some(value) = value else {
            return default;
        };
        if (least..=most).contains(value.get_ref())
            && let Ok(number) = T::try_from(*value.get_ref())
        {
            return number;
        }
        self.error(
            format!("`{key}` is out of range"),
            value.span(),
            format!("must be {least} to {most}"),
            format!("write a number from {least} to {most}, or remove the line for the default"),
        );
        default
    }

    /// Reads a file that the configuration names.
    fn named_file(&mut self, key: &str, path: &Spanned<std::path::PathBuf>) -> Option<Arc<Source>> {
        match self.files.read(path.get_ref()) {
            Ok(source) => Some(source),
            Err(error) => {
                let shown = path.get_ref().display();
                self.error(
                    format!("{shown} cannot be read: {error}"),
                    path.span(),
                    "",
                    format!("make the file readable for root on this node, or remove `{key}`"),
                );
                None
            }
        }
    }
}

/// Checks everything. `None` when there is an error among `problems`.
pub(super) fn check(
    path: &Path,
    source: &Arc<Source>,
    spec: Spec,
    machine: &Machine,
    purpose: Purpose,
    files: &mut Files,
    problems: &mut Diagnostics,
) -> Option<Config> {
    let mut context =
        Context { source: Arc::clone(source), machine, purpose, is_node: purpose == Purpose::Serve, problems, files };
    let section = spec.cluster.unwrap_or_default();
    let name = cluster::name(&mut context, section.name.as_ref());
    let lease = cluster::lease(&mut context, section.preset, section.lease_ms.as_ref());
    let interval =
        context.number("fail_back_interval_ms", section.fail_back_interval_ms.as_ref(), 0, 3_600_000, 2_000_u64);
    let fail_back = cluster::fail_back(&mut context, section.fail_back.as_ref(), section.fail_back_window.as_ref());
    let control_port = context.number("control_port", section.control_port.as_ref(), 1, 65_535, DEFAULT_CONTROL_PORT);
    let nodes = nodes::nodes(&mut context, &spec.node, section.nodes_file.as_ref());
    let me = nodes::me(&mut context, &nodes);
    let vips = vips::vips(&mut context, &spec.vip, section.public_addresses_file.as_ref(), &nodes, me);
    let storage = storage::storage(&mut context, spec.storage.as_ref());
    let lock = cluster::lock(&mut context, section.lock.as_ref(), section.lock_records.as_ref(), &storage);
    let services = services(&mut context, spec.samba, spec.nfs, spec.health, spec.events);
    let dns = dns::dns(&mut context, spec.dns.as_ref(), &nodes, me, &vips.all, &services);
    cluster::ports(&mut context, control_port, section.control_port.as_ref(), dns.as_ref());
    if spec.storage.is_none() && !context.problems.has_errors() {
        no_storage(&mut context);
    }
    if problems.has_errors() {
        return None;
    }
    let mut config = Config {
        path: path.to_path_buf(),
        cluster: name,
        me: me?,
        nodes: nodes.list,
        removed: nodes.removed,
        vips: vips.all,
        own_list: vips.own_list,
        timing: Timing {
            fail_back_interval: Duration::from_millis(interval),
            ..Timing::for_lease(Duration::from_millis(lease))
        },
        fail_back,
        control_port,
        lock,
        lift_post_op_delay: storage::lifts_post_op_delay(spec.storage.as_ref(), &storage, services.nfs.enabled),
        storage,
        databases: databases(&services),
        services,
        dns,
        fingerprint: 0,
        warnings: Diagnostics::default(),
    };
    config.fingerprint = config.compute_fingerprint();
    Some(config)
}

fn no_storage(context: &mut Context<'_>) {
    let diagnostic = Diagnostic::warning("there is no [storage] section")
        .at(&context.source, 0..0, "")
        .help(
            "add [storage] with kind, path and volume: without it the shared filesystem is neither mounted nor watched, and \
             a lost node is not evicted from it; write kind = \"none\" if that is what you want",
        );
    context.problems.push(diagnostic);
}

fn databases(services: &ServicesConfig) -> Option<DatabasePlaces> {
    let samba = &services.samba;
    (samba.enabled && samba.clustering).then(|| DatabasePlaces {
        socket: samba.ctdb_socket.clone(),
        keep_awake: samba.keep_awake,
        dirs: None,
        tunables: Vec::new(),
        leads: true,
        lmaster: true,
        lock: None,
    })
}

/// `[samba]`, `[nfs]`, `[health]` and `[events]`, by their own rules.
fn services(
    context: &mut Context<'_>,
    samba: Option<services::config::SambaConfig>,
    nfs: Option<services::config::NfsConfig>,
    health: Option<services::config::HealthConfig>,
    events: Option<services::config::EventsConfig>,
) -> ServicesConfig {
    let config = ServicesConfig {
        samba: samba.unwrap_or_default(),
        nfs: nfs.unwrap_or_default(),
        health: health.unwrap_or_default(),
        events: events.unwrap_or_default(),
        ..ServicesConfig::default()
    };
    for problem in config.check() {
        let span = place(&context.source.text, problem.section, problem.key);
        context.error(
            format!("`{}` in [{}]: {}", problem.key, problem.section, problem.problem),
            span,
            "",
            problem.remedy,
        );
    }
    config
}

/// Where a key of a section stands; the beginning of the file when it stands nowhere.
fn place(text: &str, section: &str, key: &str) -> Range<usize> {
    let Ok(table) = toml::de::DeTable::parse(text) else {
        return 0..0;
    };
    let Some(section) = table.get_ref().get(section) else {
        return 0..0;
    };
    section.get_ref().get(key).map_or_else(|| section.span(), Spanned::span)
}
