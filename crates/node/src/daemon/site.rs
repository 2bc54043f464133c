//! The configuration in force, and a new one applied without a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use cluster::{Input, NodeConf, Pnn, Snapshot, View};
use net::fence::StoragePorts;
use net::{Command, HoldSpec, VipSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::check::Checks;
use super::facts::Facts;
use super::inbox::{Inbox, Item};
use super::lock::LockOrder;
use super::origin::{Origin, render};
use super::{databases, services, storage};
use crate::config::{Config, ListEdit, Machine, PublicList, Storage};
use crate::guard::Guard;
use crate::peer::Peers;

/// What the network worker needs.
pub(crate) fn network(config: &Config) -> Command {
    let vips = config.vips.iter().filter_map(|(addr, vip)| {
        let interface = vip.hosts.get(&config.me)?.clone();
        Some(VipSpec { addr: *addr, prefix_len: vip.prefix_len, interface })
    });
    let ports = fenced(config);
    Command::Configure {
        vips: vips.collect(),
        storage_ports: ports.storage,
        spared_ports: ports.spared,
        service_ports: config.services.ports().into_iter().map(|(_, port)| port).collect(),
        hold: Some(Box::new(hold(config))),
    }
}

/// What is shut between this node and dropped ones.
pub(crate) fn fenced(config: &Config) -> StoragePorts {
    StoragePorts { storage: storage_ports(&config.storage), spared: spared(config) }
}

/// Never storage, whatever the other end's port is.
fn spared(config: &Config) -> Vec<u16> {
    vec![22, config.control_port]
}

/// This node's storage clients towards every node's data ports.
fn hold(config: &Config) -> HoldSpec {
    HoldSpec {
        // A removed node may have bricks still.
        servers: (config.nodes.values().map(|node| &node.addresses).chain(config.removed.values().flatten()))
            .flatten()
            .copied()
            .collect(),
        ports: if evicts(config) { vec![net::hold::GLUSTERFS_DATA] } else { Vec::new() },
        spared: spared(config),
    }
}

/// The public addresses that this node may hold.
pub(crate) fn addresses(config: &Config) -> Vec<IpAddr> {
    config.vips.iter().filter(|(_, vip)| vip.hosts.contains_key(&config.me)).map(|(addr, _)| *addr).collect()
}

fn storage_ports(storage: &Storage) -> Vec<RangeInclusive<u16>> {
    match storage {
        Storage::Gluster { .. } => net::fence::GLUSTERFS_PORTS.to_vec(),
        Storage::Local { .. } | Storage::None => Vec::new(),
    }
}

/// Is there storage traffic between the nodes that can be cut?
pub(crate) fn evicts(config: &Config) -> bool {
    matches!(config.storage, Storage::Gluster { .. })
}

type Nodes = BTreeMap<Pnn, NodeConf>;

/// No member is taken off the list, and none loses an address: the others would miss it before it has given its public addresses
/// away, and could not shut its storage traffic out.
fn stays_listed(view: &View, old: &Nodes, new: &Nodes) -> Result<(), String> {
    for pnn in view.members.keys() {
        // Nothing is taken from one that this node has not listed so far.
        let Some(before) = old.get(pnn) else { continue };
        let name = &before.name;
        let lacks = match new.get(pnn) {
            None => "is not in the new configuration".to_owned(),
            Some(node) => {
                let lost = before.addresses.iter().filter(|address| !node.addresses.contains(address));
                let lost: Vec<String> = lost.map(ToString::to_string).collect();
                if lost.is_empty() {
                    continue;
                }
                format!("has {} no more in the new configuration", lost.join(", "))
            }
        };
        return Err(format!(
            "{name} is a member still, and {lacks}: stop it first (there: systemctl stop steadfast), or, if it does not answer, \
             switch it off; then reload. Until then the old configuration stays in force"
        ));
    }
    Ok(())
}

/// All that a new configuration reaches.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) origin: Origin,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) inbox: Inbox,
    pub(crate) guard: Guard,
    pub(crate) peers: Peers,
    pub(crate) facts: Facts,
    pub(crate) checks: Checks,
    pub(crate) orders: mpsc::UnboundedSender<LockOrder>,
    pub(crate) services: mpsc::Sender<services::Plan>,
    pub(crate) evicts: watch::Sender<bool>,
    pub(crate) config: watch::Sender<Arc<Config>>,
    pub(crate) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) storage: Option<(storage::Plan, JoinHandle<()>)>,
    /// What the others said of their own lists.
    pub(crate) lists: BTreeMap<Pnn, PublicList>,
}

impl Site {
    /// Reads the file again and applies it: all or, when it is refused, nothing.
    pub(crate) async fn reload(&mut self) -> Result<String, String> {
        let (origin, state_dir) = (self.origin.clone(), self.state_dir.clone());
        let work = tokio::task::spawn_blocking(move || {
            let config = origin.read(&state_dir)?;
            let text = origin.text();
            Ok::<_, String>((config, text))
        });
        let (new, text) = work.await.map_err(|e| format!("reading the configuration broke off: {e}"))??;
        let old = Arc::clone(&self.config.borrow());
        for (changed, what) in [
            (new.me != old.me, "this node's number"),
            (new.cluster != old.cluster, "the cluster's name"),
            (new.control_port != old.control_port, "control_port"),
            (new.timing != old.timing, "the lease"),
            // What serves from the old place would go on there, and its mount would stay.
            (!new.storage.is_the_same(&old.storage), "kind, path and volume of [storage]"),
            (
                databases::wanted(&new) != databases::wanted(&old),
                "[samba] clustering (and enabled and ctdb_socket with it)",
            ),
            (databases::keeps_awake(&new) != databases::keeps_awake(&old), "[samba] keep_awake"),
        ] {
            if changed {
                return Err(format!(
                    "{what} cannot change while the daemon runs: restart it (systemctl restart steadfast)"
                ));
            }
        }
        if let Some(view) = self.snapshots.borrow().as_ref().and_then(|s| s.view.clone()) {
            stays_listed(&view, &old.nodes, &new.nodes)?;
        }
        self.peers.reconfigure(new.nodes.clone(), text).map_err(|e| e.to_string())?;
        let mut new = new;
        new.set_lists(&self.lists);
        self.tell_list(&new);
        self.apply(new).await;
        let new = Arc::clone(&self.config.borrow());
        let warnings = new.warnings.0.len();
        let mut said =
            format!("{} is in force: {} nodes, {} addresses", new.path.display(), new.nodes.len(), new.vips.len());
        if warnings > 0 {
            said.push_str(&format!(", {warnings} warnings\n{}", render(&new.warnings)));
        }
        Ok(said)
    }

    /// Puts a configuration in force in every part.
    pub(crate) async fn apply(&mut self, new: Config) {
        let new = Arc::new(new);
        self.config.send_replace(Arc::clone(&new));
        self.evicts.send_replace(evicts(&new));
        self.guard.addresses(addresses(&new)).await;
        self.inbox.put(Item::ToNet(network(&new)));
        self.inbox.input(Input::Config(Box::new(new.core())));
        self.tell_warnings(&new);
        let names = new.service_names();
        self.facts.keep_services(|name| names.contains(name));
        self.checks.set_mount(new.storage.path().cloned());
        // Fails only when the daemon ends.
        let _ = self.services.send(services_plan(&new)).await;
        self.start_storage(&new);
    }

    /// Starts the task that looks at the storage's settings, if it is not running with these.
    pub(crate) fn start_storage(&mut self, config: &Config) {
        let plan = storage::Plan::new(config);
        if self.storage.as_ref().is_some_and(|(running, _)| *running == plan) {
            return;
        }
        if let Some((_, task)) = self.storage.take() {
            task.abort();
        }
        let task = storage::StorageTask {
            inbox: self.inbox.clone(),
            facts: self.facts.clone(),
            orders: self.orders.clone(),
            run_dir: self.run_dir.clone(),
            plan: plan.clone(),
            reads: watch::channel(None).0,
        };
        self.storage = Some((plan, tokio::spawn(task.run(self.snapshots.clone()))));
    }

    /// What is doubtful in the configuration stands as a warning.
    pub(crate) fn tell_warnings(&self, config: &Config) {
        let titles: Vec<&str> = config.warnings.0.iter().map(|d| d.title.as_str()).collect();
        for title in &titles {
            tracing::warn!("configuration: {title}");
        }
        self.inbox.input(Input::Warning { key: "config".to_owned(), text: titles.join("; ") });
    }
}

/// A node's own list of public addresses, told to the others: CTDB's `public_addresses` files may differ.
pub(crate) const LISTS: u8 = 3;

/// What the links say to the site.
#[derive(Debug)]
pub(crate) enum Word {
    /// The link to this peer came up.
    Up(Pnn),
    /// A peer's own list.
    List(Pnn, Vec<u8>),
    /// A tool wants this node's own list changed.
    Own(ListEdit),
}

impl Site {
    /// Takes a word from the links.
    pub(crate) async fn hear(&mut self, word: Word) {
        let config = Arc::clone(&self.config.borrow());
        match word {
            Word::Up(peer) => {
                if let Some(Ok(bytes)) = config.own_list.as_ref().map(serde_json::to_vec) {
                    self.peers.send_bytes(peer, LISTS, &bytes);
                }
            }
            Word::List(peer, bytes) => match serde_json::from_slice::<PublicList>(&bytes) {
                Ok(list) => {
                    self.lists.insert(peer, list);
                    let mut new = Config::clone(&config);
                    if new.set_lists(&self.lists) {
                        self.apply(new).await;
                    }
                }
                Err(error) => tracing::warn!(node = peer.0, "an unreadable list of public addresses: {error}"),
            },
            Word::Own(edit) => match self.edit_list(Config::clone(&config), &edit).await {
                Ok(()) => {
                    tracing::info!("{edit:?}: this node's list of public addresses has changed until it is read again")
                }
                Err(why) => tracing::warn!("{edit:?}: this node's list of public addresses is not changed: {why}"),
            },
        }
    }

    async fn edit_list(&mut self, mut config: Config, edit: &ListEdit) -> Result<(), String> {
        if let ListEdit::Add(_, _, interface) = edit
            && !config.on_one_machine()
            && !Machine::probe(None).is_ok_and(|machine| machine.interfaces.contains(interface))
        {
            return Err(format!("this machine has no interface {interface}"));
        }
        config.edit_list(edit)?;
        config.set_lists(&self.lists);
        self.tell_list(&config);
        self.apply(config).await;
        Ok(())
    }

    fn tell_list(&self, config: &Config) {
        if let Some(Ok(bytes)) = config.own_list.as_ref().map(serde_json::to_vec) {
            for link in self.peers.links() {
                self.peers.send_bytes(link.peer, LISTS, &bytes);
            }
        }
    }
}

/// What the service manager runs with.
pub(crate) fn services_plan(config: &Config) -> services::Plan {
    services::Plan { services: config.services.clone(), storage: config.storage.clone(), pnn: u32::from(config.me.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Epoch, Incarnation, Member, NodeUid, Role, RunId};

    fn node(addresses: &[u8]) -> NodeConf {
        let addresses = addresses.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect();
        NodeConf { name: "gluster1".to_owned(), role: Role::Server, addresses }
    }

    fn nodes(list: &[(u16, &[u8])]) -> Nodes {
        list.iter().map(|(pnn, addresses)| (Pnn(*pnn), node(addresses))).collect()
    }

    #[test]
    fn a_member_keeps_its_entry_and_its_addresses() {
        let life = Incarnation { number: 0, id: 1 };
        let mut view = View::founding(life, Epoch(1), Pnn(0), NodeUid(1), String::new());
        view.members.insert(Pnn(1), Member { uid: NodeUid(2), run: RunId(1), since: Epoch(1) });
        let old = nodes(&[(0, &[1]), (1, &[2, 12]), (2, &[3])]);
        let refused = |new: &Nodes| stays_listed(&view, &old, new).expect_err("it is a member");
        assert!(refused(&nodes(&[(0, &[1]), (2, &[3])])).contains("is not in the new configuration: stop it first"));
        assert!(refused(&nodes(&[(0, &[1]), (1, &[12]), (2, &[3])])).contains("has 10.0.0.2 no more"));
        // Another address is no loss, nor is one who is no member.
        assert_eq!(stays_listed(&view, &old, &nodes(&[(1, &[4, 2, 12])])), Ok(()));
        // What was not listed before cannot be taken off: this is how it comes back, as a removed node with its addresses.
        assert_eq!(stays_listed(&view, &nodes(&[(0, &[1])]), &nodes(&[(0, &[1])])), Ok(()));
    }
}
