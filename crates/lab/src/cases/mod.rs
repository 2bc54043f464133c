//! The laboratory tests: what is promised, seen from the clients, on the real parts.
//!
//! Cases of one site share a laboratory; each begins with the cluster whole ([`crate::steadfast::settle`]). A case
//! prints its figures; [`Ctx::bound`] fails it when a figure is out of its bounds. Bounds are about twice what
//! was measured, for a busy machine; the benchmark, not the tests, tells how fast it is.

mod chain_locks;
mod connections;
mod databases;
mod drill;
mod eviction;
mod faults;
mod files;
mod golden;
mod heals;
mod hold;
mod honest;
mod input;
mod late_writes;
mod links;
mod list;
mod locks;
mod many;
mod names;
mod nfs_locks;
pub(crate) mod outage;
mod partition;
mod planned;
mod returning;
mod samba;
mod scripts;
mod services;
mod smb_witness;
mod split;
mod state;
mod storage;
mod told;
mod torture;
mod trust;
mod upgrade;
mod vm;

use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::probe::arp::{Change, to_and_fro};
use crate::probe::run::Probe;
use crate::site::{self, Storage};
use crate::steadfast;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Claims to and fro within this time are two holders at once: both answer each of the watcher's questions (50 ms).
pub(crate) const SAME_TIME: Duration = Duration::from_millis(300);
/// Within this time they are moves that nobody wanted. Less than the 2 s between two addresses that go back: one that
/// leaves in the first moment may be the next.
const FLAP: Duration = Duration::from_millis(1900);

/// Sites on which cases run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Four nodes on one network, a shared directory, IPv4 and IPv6.
    Local,
    /// The reference site: GlusterFS 2x2, one network.
    Gluster,
    /// A shared directory, Samba with clustering.
    Samba,
    /// The same with the Samba of Debian 13.
    Next,
    /// A shared directory, and control on a network of its own.
    Nets,
    /// GlusterFS and control on a network of their own.
    Mesh,
    /// The reference site with virtual machines as clients.
    Vm,
}

impl Group {
    pub(crate) const ALL: [Self; 7] =
        [Self::Local, Self::Samba, Self::Next, Self::Nets, Self::Gluster, Self::Mesh, Self::Vm];

    pub(crate) fn storage(self) -> Storage {
        if matches!(self, Self::Local | Self::Samba | Self::Next | Self::Nets) {
            Storage::Local
        } else {
            Storage::Gluster
        }
    }

    /// Are the nodes' smbds one server? On the sites on GlusterFS as users have them, not on all: Samba without is served too.
    pub(crate) fn clustering(self) -> bool {
        !matches!(self, Self::Local | Self::Nets)
    }

    pub(crate) fn private_net(self) -> bool {
        matches!(self, Self::Nets | Self::Mesh)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Samba => "samba",
            Self::Next => "next",
            Self::Nets => "nets",
            Self::Gluster => "gluster",
            Self::Mesh => "mesh",
            Self::Vm => "vm",
        }
    }
}

type Run = fn(&Ctx<'_>) -> Result<()>;

/// One test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    /// Only with `--long`.
    pub(crate) long: bool,
    run: Run,
}

const fn case(group: Group, name: &'static str, run: Run) -> Case {
    Case { name, group, long: false, run }
}

const fn long(group: Group, name: &'static str, run: Run) -> Case {
    Case { name, group, long: true, run }
}

/// All cases, in the order in which they run.
pub(crate) const CASES: &[Case] = &[
    case(Group::Local, "files-through-each-vip-and-name", files::through_each_vip_and_name),
    case(Group::Local, "names-give-hosted-addresses", files::names),
    case(Group::Local, "drain-without-a-failed-operation", planned::drain_local),
    case(Group::Local, "rejoin-stalls-nobody", planned::rejoin_local),
    case(Group::Local, "move-one-address", planned::move_ip),
    case(Group::Local, "nfs3-lock-through-planned-moves", nfs_locks::through_moves),
    case(Group::Local, "nfs3-lock-outlives-its-ganesha", nfs_locks::outlives_its_ganesha),
    long(Group::Local, "honest-nfs3-lock-of-a-ganesha-without-grace", honest::no_grace_for_a_ganesha),
    long(Group::Local, "nfs4-lock-through-planned-moves", nfs_locks::nfs4_through_moves),
    long(Group::Local, "honest-moves-without-grace", honest::no_grace_at_a_move),
    long(Group::Local, "honest-moves-without-letting-go", honest::no_letting_go),
    case(Group::Local, "daemon-ends-cleanly", planned::clean_stop),
    long(Group::Local, "upgrade-server-after-server", upgrade::server_after_server),
    case(Group::Local, "daemon-killed", faults::daemon_killed),
    case(Group::Local, "daemon-killed-with-its-guard", faults::daemon_and_guard_killed),
    case(Group::Local, "daemon-hung", faults::daemon_hung),
    case(Group::Local, "smbd-killed", services::smbd_killed),
    case(Group::Local, "ganesha-killed", services::ganesha_killed),
    case(Group::Local, "ganesha-slow-to-restart", services::ganesha_slow),
    case(Group::Local, "ganesha-hung", services::ganesha_hung),
    case(Group::Local, "public-interface-down", faults::interface_down),
    case(Group::Local, "power-off-ipv6", outage::ipv6),
    case(Group::Local, "power-off-while-a-client-waits", outage::waiting_client),
    long(Group::Local, "honest-without-announcements", honest::no_announcement),
    long(Group::Local, "honest-without-tickles", honest::no_tickle),
    long(Group::Local, "honest-without-guard", honest::no_guard),
    long(Group::Local, "honest-without-leases", honest::no_lease),
    long(Group::Local, "honest-without-exits", honest::no_exit),
    long(Group::Local, "honest-without-probes", honest::no_probe),
    long(Group::Local, "honest-smbtorture-without-clustering", torture::fail_without_clustering),
    case(Group::Local, "drill-daemon-stopped", drill::daemon_stopped),
    long(Group::Local, "drill-over-ssh", drill::over_ssh),
    case(Group::Local, "garbage-on-every-port", input::garbage),
    case(Group::Local, "state-disk-full", input::disk_full),
    case(Group::Local, "config-mistakes-refused", input::config_mistakes),
    case(Group::Local, "ctdb-files-accepted", input::ctdb_files),
    case(Group::Local, "votes-file-damaged", state::votes_damaged),
    long(Group::Local, "boot-clock-jumps", state::clock_jumps),
    case(Group::Local, "peer-of-another-ca", trust::another_ca),
    case(Group::Local, "names-through-a-power-off", names::power_off),
    long(Group::Local, "names-from-a-node-cut-off", names::cut_off),
    case(Group::Local, "reload-moves-no-address", list::a_key_changes),
    case(Group::Local, "service-added-moves-no-address", list::a_service_goes_and_comes),
    long(Group::Local, "nodes-list-changed", list::node_removed_and_added),
    case(Group::Local, "power-off-with-200-addresses", many::power_off),
    long(Group::Local, "honest-200-addresses-without-announcements", honest::no_announcements_of_many),
    case(Group::Local, "power-cut-everywhere", outage::power_cut_everywhere),
    case(Group::Samba, "samba-one-service", samba::one_service),
    case(Group::Samba, "samba-locks-between-nodes", locks::between_nodes),
    case(Group::Samba, "samba-outlives-a-node", samba::outlives_a_node),
    case(Group::Samba, "smbd-killed-with-a-chain-locked", chain_locks::smbd_killed),
    case(Group::Samba, "records-at-hand-need-no-daemon", databases::at_hand),
    case(Group::Samba, "databases-outlive-a-node", databases::outlive_a_node),
    case(Group::Samba, "databases-outlive-a-stopped-daemon", databases::outlive_a_stopped_daemon),
    long(Group::Samba, "event-scripts-told-and-not-waited-for", scripts::told_and_not_waited_for),
    long(Group::Samba, "samba-told-before-its-address-leaves", told::before_it_leaves),
    long(Group::Samba, "honest-without-telling-samba", honest::no_telling),
    case(Group::Samba, "databases-with-ten-thousand-clients", databases::ten_thousand_clients),
    long(Group::Samba, "connections-known-to-peers", connections::known_to_peers),
    long(Group::Samba, "honest-without-lists-of-connections", honest::no_lists),
    long(Group::Samba, "smbtorture-on-two-nodes", torture::pass_on_two_nodes),
    long(Group::Samba, "ctdb-tool-twice-on-stock", golden::stock_twice),
    long(Group::Samba, "ctdb-tool-golden", golden::beside_stock),
    long(Group::Next, "newer-samba-one-service", samba::one_newer_service),
    long(Group::Next, "newer-samba-locks-between-nodes", locks::between_nodes),
    long(Group::Next, "newer-samba-outlives-a-node", samba::outlives_a_node),
    long(Group::Next, "witness-clients-told-at-a-drain", smb_witness::told_at_a_drain),
    case(Group::Nets, "public-interface-down-beside-a-private-network", links::public),
    case(Group::Nets, "private-interface-down", links::private),
    long(Group::Nets, "honest-without-link-events", honest::no_link),
    long(Group::Nets, "honest-private-interface-without-announcements", honest::no_announcement_of_the_cut_off),
    long(Group::Nets, "drill-of-every-fault", drill::every_fault),
    case(Group::Gluster, "files-on-glusterfs", files::through_each_vip_and_name),
    case(Group::Gluster, "power-off-member", outage::member),
    case(Group::Gluster, "power-off-leader", outage::leader),
    case(Group::Gluster, "power-off-two-of-four", outage::two_of_four),
    case(Group::Gluster, "drain-on-glusterfs", planned::drain_gluster),
    case(Group::Gluster, "rejoin-on-glusterfs", planned::rejoin_gluster),
    long(Group::Gluster, "drain-with-the-volume-left-alone", planned::drain_left_alone),
    long(Group::Gluster, "rejoin-with-the-volume-left-alone", planned::rejoin_left_alone),
    long(Group::Gluster, "drain-with-eager-lock", planned::drain_with_eager_lock),
    long(Group::Gluster, "rejoin-with-eager-lock", planned::rejoin_with_eager_lock),
    long(Group::Gluster, "drain-on-glusterfs-leader-killed", planned::leader_killed_while_lifted),
    case(Group::Gluster, "ganesha-killed-on-glusterfs", services::ganesha_killed),
    case(Group::Gluster, "shared-mount-hangs", storage::mount_hangs),
    case(Group::Gluster, "late-write-does-not-land", late_writes::does_not_land),
    case(Group::Gluster, "late-smb-write-does-not-land", late_writes::does_not_land_over_smb),
    long(Group::Gluster, "honest-without-end", honest::no_end),
    long(Group::Gluster, "honest-mount-hang-without-probes", honest::no_probe_of_the_mount),
    long(Group::Gluster, "drill-mount-hung", drill::mount_hung),
    long(Group::Gluster, "honest-without-end-over-smb", honest::no_end_over_smb),
    case(Group::Gluster, "check-storage-passes", storage::check_passes),
    long(Group::Gluster, "hold-loses-nothing", hold::loses_nothing),
    long(Group::Gluster, "honest-without-hold", honest::no_hold),
    long(Group::Gluster, "honest-without-eviction", honest::no_eviction),
    long(Group::Gluster, "returning-daemon-cannot-write", returning::daemon_stopped),
    long(Group::Gluster, "returning-node-cannot-write", returning::cut_off),
    long(Group::Gluster, "returning-paused-cannot-write", returning::paused),
    long(Group::Gluster, "old-copies-are-not-read", returning::old_copies_are_not_read),
    long(Group::Gluster, "honest-with-eager-lock", honest::eager_lock),
    long(Group::Gluster, "returning-daemon-stalls-no-writer", returning::stalls_no_writer),
    long(Group::Gluster, "split-of-plain-volumes", split::plain),
    long(Group::Gluster, "split-with-the-daemon", split::with_daemon),
    long(Group::Gluster, "clean-stop-lets-go-of-the-storage", eviction::clean_stop),
    long(Group::Gluster, "lock-of-a-dead-holder", eviction::lock_of_a_dead_holder),
    long(Group::Gluster, "tie-broken-by-the-lock", eviction::tie_broken_by_the_lock),
    long(Group::Gluster, "fence-before-glusterd", returning::fence_before_glusterd),
    long(Group::Gluster, "power-off-again-and-again", outage::again_and_again),
    long(Group::Gluster, "heals-are-told", heals::are_told),
    long(Group::Gluster, "nfs4-lock-given-back-by-the-heir", nfs_locks::given_back),
    long(Group::Gluster, "honest-without-grace", honest::no_grace),
    long(Group::Gluster, "nfs3-lock-through-moves-on-glusterfs", nfs_locks::through_moves),
    case(Group::Gluster, "check-storage-fails-on-defaults", storage::check_fails),
    case(Group::Mesh, "partition-three-one", partition::three_one),
    case(Group::Mesh, "partition-two-two", partition::two_two),
    case(Group::Mesh, "one-mesh-link-cut", partition::one_link),
    long(Group::Mesh, "public-interface-down-under-a-writer", links::under_a_writer),
    long(Group::Mesh, "honest-without-anew", honest::no_anew),
    case(Group::Vm, "kernel-clients-through-a-power-off", vm::power_off),
    long(Group::Vm, "nfs3-lock-outlives-its-server", nfs_locks::of_a_kernel),
    long(Group::Vm, "honest-nfs3-without-grace", honest::no_grace_for_a_kernel),
];

/// How a case ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) name: String,
    /// None: passed.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) figures: Vec<String>,
}

/// What a case works with.
#[derive(Debug)]
pub(crate) struct Ctx<'a> {
    pub(crate) lab: &'a Lab,
    figures: RefCell<Vec<String>>,
}

/// An IPv4 address that `node` holds.
fn vip_of(status: &steadfast::Status, node: usize) -> Result<String> {
    let held = status.held_by(node);
    held.into_iter().find(|a| !a.contains(':')).with_context(|| format!("{} holds no address", site::name(node)))
}

/// What was written to a node's log of the daemon since it was `mark` bytes long.
fn log_since(lab: &Lab, node: usize, mark: usize) -> Result<String> {
    let text = lab.read(&site::name(node), steadfast::LOG)?;
    Ok(text.get(mark..).unwrap_or_default().to_owned())
}

fn log_length(lab: &Lab, node: usize) -> usize {
    lab.read(&site::name(node), steadfast::LOG).map_or(0, |text| text.len())
}

impl Ctx<'_> {
    /// All nodes of the site.
    fn all(&self) -> Vec<usize> {
        (0..self.lab.site.nodes).collect()
    }

    /// All nodes but one.
    fn but(&self, node: usize) -> Vec<usize> {
        (0..self.lab.site.nodes).filter(|&n| n != node).collect()
    }

    /// Prints a figure that has no bound.
    pub(crate) fn figure(&self, text: impl Into<String>) {
        let text = text.into();
        println!("      {text}");
        self.figures.borrow_mut().push(text);
    }

    /// Prints a figure in milliseconds and fails when it is above `most`.
    pub(crate) fn bound(&self, what: &str, ms: f64, most: f64) -> Result<()> {
        self.limit(what, ms, most, "ms")
    }

    /// The same for what is no time.
    pub(crate) fn limit(&self, what: &str, value: f64, most: f64, unit: &str) -> Result<()> {
        let digits = usize::from(value < 10.0);
        self.figure(format!("{what}: {value:.digits$} {unit} (bound {most:.0} {unit})"));
        if value > most {
            bail!("{what}: {value:.digits$} {unit}, allowed are {most:.0} {unit}");
        }
        Ok(())
    }

    /// Runs `work` under the ARP watcher: two holders of a VIP fail it.
    pub(crate) fn watched<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.watching(work).map(|(done, _)| done)
    }

    /// The same; also how the holders changed.
    pub(crate) fn watching<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Change>)> {
        let watcher = Probe::arp(self.lab)?;
        watcher.wait_ok(0, Duration::from_secs(15))?;
        let done = work();
        let seen = watcher.stop()?;
        let double = to_and_fro(&seen.changes, SAME_TIME);
        let flaps = to_and_fro(&seen.changes, FLAP);
        self.figure(format!(
            "{} ARP claims seen, {} changes of a holder, {} double, {} to and fro",
            seen.ok,
            seen.changes.len(),
            double.len(),
            flaps.len() - double.len()
        ));
        let done = done?;
        if seen.ok == 0 {
            bail!("the ARP watcher saw no claim at all");
        }
        if !double.is_empty() {
            bail!("two holders of a VIP: {}", double.join("; "));
        }
        if !flaps.is_empty() {
            bail!("an address does not stay where it is put: {}", flaps.join("; "));
        }
        Ok((done, seen.changes))
    }
}

/// Runs the cases of a group inside its laboratory, which it brings up first; the verdicts.
pub(crate) fn run_group(lab: &Lab, names: &[String]) -> Result<Vec<Verdict>> {
    let progress = Progress::new();
    parts::up(lab, &progress)?;
    steadfast::form(lab, &progress)?;
    progress.step("waiting for the cluster to be whole");
    steadfast::settle(lab)?;
    parts::wait_nfs_writable(lab)?;
    let mut verdicts = Vec::new();
    for case in CASES.iter().filter(|c| names.iter().any(|n| n == c.name)) {
        println!("test {} ...", case.name);
        let ctx = Ctx { lab, figures: RefCell::default() };
        let begun = Instant::now();
        let failure = steadfast::settle(lab).and_then(|_| (case.run)(&ctx)).err().map(|e| format!("{e:#}"));
        let seconds = begun.elapsed().as_secs_f64();
        match &failure {
            None => println!("test {} ok ({seconds:.1} s)", case.name),
            Some(why) => {
                println!("test {} FAILED ({seconds:.1} s)\n      {}", case.name, why.replace('\n', "\n      "));
                if let Some(dir) = keep_logs(lab, case.name) {
                    println!("      logs: {}", dir.display());
                }
            }
        }
        verdicts.push(Verdict { name: case.name.into(), failure, seconds, figures: ctx.figures.into_inner() });
    }
    Ok(verdicts)
}

/// The nodes' logs, below target/lab-logs; where they are.
pub(crate) fn keep_logs(lab: &Lab, name: &str) -> Option<PathBuf> {
    let dir = crate::artifacts("lab-logs").join(name);
    std::fs::create_dir_all(&dir).ok()?;
    for host in lab.site.names() {
        for (log, from) in [
            ("daemon", "var/log/steadfast.log"),
            ("ctdbd", "var/log/ctdb/log.ctdb"),
            ("ganesha", "var/log/ganesha/ganesha.log"),
            ("smbd", "var/log/samba/log.smbd"),
        ] {
            // A node that is off has its disk still; what cannot be read is not there.
            let _ = std::fs::copy(lab.disk(&host).join(from), dir.join(format!("{host}-{log}.log")));
        }
        for of in ["var/log/glusterfs", "var/log/glusterfs/bricks"] {
            let Ok(logs) = std::fs::read_dir(lab.disk(&host).join(of)) else { continue };
            for log in logs.flatten().filter(|log| log.path().extension().is_some_and(|ext| ext == "log")) {
                let _ = std::fs::copy(log.path(), dir.join(format!("{host}-{}", log.file_name().to_string_lossy())));
            }
        }
    }
    Some(dir)
}
