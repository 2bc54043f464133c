//! Locks of NFS clients over the loss of their server: nobody else gets one before its owner could take it back.
//!
//! On GlusterFS an NFSv3 lock that is held is kept from clients of other nodes (docs/nfs.md), so a real kernel holds one.
//! NFSv4's are tried for what the heir gives back, not for what it keeps from others.

use super::{Ctx, outage, planned, vip_of};
use crate::lab::Lab;
use crate::probe::now_us;
use crate::site::{CLIENT, MOUNT, VOLUME};
use crate::vm::Machine;
use crate::{sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The node that is lost, or that an address leaves; the one through which somebody else tries; and the one that the address
/// moves to. Each may be any.
const VICTIM: usize = 1;
const OTHER: usize = 2;
const HEIR: usize = 3;
/// The laboratory's grace period (10 s), what Ganesha takes to notice its end (it looks every 5 s), and what it takes to notice
/// the loss.
const GRACE: Duration = Duration::from_secs(17);
const LIMIT: Duration = Duration::from_secs(60);
/// With an emulated machine, on a busy one.
const PATIENCE: Duration = Duration::from_secs(180);

/// A lock that is held, and its rival; killed with this value.
struct Holding {
    child: Child,
    lines: Arc<Mutex<Vec<(char, u64)>>>,
    complaints: Arc<Mutex<Vec<String>>>,
    heard: Option<JoinHandle<()>>,
}

impl Holding {
    fn start(lab: &Lab, probe: &str, server: &str, other: &str, path: &str) -> Result<Self> {
        let words = ["/usr/local/sbin/steadfast-lab", "probe", probe, "--server", server, "--other", other];
        let mut command = lab.command(CLIENT, &[&words[..], &["--path", path]].concat())?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a probe")?;
        let out = child.stdout.take().context("no way to hear the probe")?;
        let (lines, complaints) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (to, complain) = (Arc::clone(&lines), Arc::clone(&complaints));
        let heard = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                match (line.chars().next(), line.get(2..).map(str::parse)) {
                    (Some(kind), Some(Ok(us))) => to.lock().unwrap_or_else(PoisonError::into_inner).push((kind, us)),
                    _ => complain.lock().unwrap_or_else(PoisonError::into_inner).push(line),
                }
            }
        });
        Ok(Self { child, lines, complaints, heard: Some(heard) })
    }

    /// When something of this kind was first said after `from`.
    fn first(&self, kind: char, from: u64) -> Option<u64> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|(k, us)| *k == kind && *us >= from).map(|(_, us)| *us)
    }

    /// Waits until one of these kinds is said after `from`.
    fn wait(&self, kinds: &str, from: u64, what: &str) -> Result<u64> {
        sh::wait_for(what, LIMIT, || {
            if let Some(why) = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).first() {
                bail!("{why}");
            }
            Ok(kinds.chars().filter_map(|kind| self.first(kind, from)).min())
        })
    }

    /// It was taken back in time after that, written under, and kept from others beyond the grace period.
    fn outlived(&self, ctx: &Ctx<'_>, what: &str, at: u64, most_ms: f64) -> Result<()> {
        // Who is not told goes on as if nothing had been, until somebody else has the lock.
        let back = self.wait("BLR", at, "the lock to be taken back, or to be lost")?;
        let lost = "LR".chars().any(|kind| self.first(kind, at).is_some());
        ctx.limit(&format!("locks that were lost by {what}"), f64::from(u8::from(lost)), 0.0, "")?;
        ctx.bound("the lock was taken back after", back.saturating_sub(at) as f64 / 1000.0, most_ms)?;
        self.wait("W", back, "something to be written under it")?;
        // Past the grace period it is the lock itself that keeps others out.
        std::thread::sleep(GRACE);
        let had = self.first('R', at).is_some();
        ctx.limit("times that somebody else had the lock", f64::from(u8::from(had)), 0.0, "")
    }

    /// Its owner gives it back, and somebody else has it then.
    fn free_after(self, ctx: &Ctx<'_>) -> Result<()> {
        let next = self.give_back()?.context("nobody could have the lock after its owner")?;
        ctx.bound("and somebody else had it after its owner within", next as f64 / 1000.0, 100.0)
    }

    /// Lets the holder give the lock back. When the rival had it then, if it did.
    fn give_back(mut self) -> Result<Option<u64>> {
        drop(self.child.stdin.take());
        let at = self.wait("U", 0, "the lock to be given back")?;
        sh::wait_for("the probe to end", LIMIT, || Ok(self.child.try_wait()?))?;
        if let Some(heard) = self.heard.take() {
            // It ends with the probe.
            let _ = heard.join();
        }
        Ok(self.first('R', at).map(|us| us - at))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        sh::kill_group(&mut self.child);
    }
}

/// The lock's server loses its power: the client takes open file and lock back from the heir and goes on.
pub(crate) fn given_back(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let holding = Holding::start(
        lab,
        "nfs-hold",
        &vip_of(&status, VICTIM)?,
        &vip_of(&status, OTHER)?,
        &format!("nfs/held-{}", now_us()),
    )?;
    holding.wait("W", 0, "the lock to be held")?;
    known(ctx, VICTIM)?;
    ctx.watched(|| {
        let at = now_us();
        lab.power_off(&site::name(VICTIM))?;
        let ms = |us: u64| us.saturating_sub(at) as f64 / 1000.0;
        let back = holding.wait("BL", at, "the lock to be taken back, or to be lost")?;
        let lost = f64::from(u8::from(holding.first('L', at).is_some()));
        ctx.limit("locks that were lost with their server", lost, 0.0, "")?;
        ctx.bound("the lock was taken back from the heir after", ms(back), 3000.0)?;
        let wrote = holding.wait("W", back, "something to be written under it")?;
        ctx.bound("and written under after", ms(wrote), 3500.0)?;
        holding.give_back().map(drop)?;
        steadfast::wait_whole(lab, &lab.nodes_on(), LIMIT).map(drop)
    })?;
    outage::come_back(ctx, &[VICTIM])
}

/// An NFSv3 lock's address is moved by word, and back.
pub(crate) fn through_moves(ctx: &Ctx<'_>) -> Result<()> {
    moved_to_and_back(ctx, "nfs3-hold")
}

/// The same over NFSv4, with a grace period for its sake too.
pub(crate) fn nfs4_through_moves(ctx: &Ctx<'_>) -> Result<()> {
    planned::configured(ctx, "[nfs]\n", "[nfs]\ngrace_at_moves = \"all\"\n", || {
        steadfast::wait_whole(ctx.lab, &ctx.all(), LIMIT)?;
        moved_to_and_back(ctx, "nfs-hold")
    })?;
    steadfast::wait_whole(ctx.lab, &ctx.all(), LIMIT).map(drop)
}

/// The lock's owner takes it from each new server, nobody else has it meanwhile, and no old server keeps it.
fn moved_to_and_back(ctx: &Ctx<'_>, probe: &str) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let (vip, other) = (vip_of(&status, VICTIM)?, vip_of(&status, OTHER)?);
    let holding = Holding::start(lab, probe, &vip, &other, &format!("nfs/moved-{}", now_us()))?;
    holding.wait("W", 0, "the lock to be held")?;
    known(ctx, VICTIM)?;
    ctx.watched(|| {
        for to in [HEIR, VICTIM] {
            let at = now_us();
            lab.exec(&site::name(0), &["steadfast", "move-ip", &vip, &site::name(to)], LIMIT)?;
            holding.outlived(ctx, "a planned move", at, 400.0)?;
        }
        holding.free_after(ctx)
    })
}

/// The lock's Ganesha is killed, and begins anew where it was: the owner is told, and takes the lock back before anybody else who
/// comes by the same address can have it. (By other nodes one can: they have no grace period for that.)
pub(crate) fn outlives_its_ganesha(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vip = vip_of(&status, VICTIM)?;
    let holding = Holding::start(lab, "nfs3-hold", &vip, &vip, &format!("nfs/anew-{}", now_us()))?;
    holding.wait("W", 0, "the lock to be held")?;
    known(ctx, VICTIM)?;
    ctx.watched(|| {
        let at = now_us();
        lab.shell(&site::name(VICTIM), "kill -9 $(pgrep -o -x ganesha.nfsd)")?;
        holding.outlived(ctx, "the end of its Ganesha", at, 800.0)?;
        holding.free_after(ctx)
    })
}

/// The others know that this node has clients, and who.
fn known(ctx: &Ctx<'_>, node: usize) -> Result<()> {
    sh::wait_for("the others to know of the clients", LIMIT, || {
        Ok(steadfast::status(ctx.lab, OTHER)?.has_nfs_clients(node).then_some(()))
    })?;
    // The list travels beside the word that there is one.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// How much the kernel has written under its lock, as it lies on the volume.
fn wrote(ctx: &Ctx<'_>) -> Result<u64> {
    let line = format!("timeout 30 stat -c %s {MOUNT}/nfs/v3lock");
    Ok(ctx.lab.shell(&site::name(0), &line)?.trim().parse()?)
}

/// A kernel holds an NFSv3 lock through the victim, and tries for it through another node (to that mount it is a stranger).
fn kernel(held: &str, other: &str) -> String {
    let lines = [
        "for m in nfsv3 nfsv4; do modprobe $m; done; rpcbind; rpc.statd --no-notify; mkdir -p /mnt/a /mnt/b".to_owned(),
        format!(
            "mount.nfs {held}:/{VOLUME} /mnt/a -o vers=3 && mount.nfs {other}:/{VOLUME} /mnt/b -o vers=3 || exit 1"
        ),
        "exec 7>>/mnt/a/nfs/v3lock; flock -n 7 || exit 2".to_owned(),
        "flock -n /mnt/b/nfs/v3lock true && { echo the lock excludes nobody; exit 3; }; echo >/mnt/b/nfs/v3held"
            .to_owned(),
        "got=0; wrote=0; while [ ! -e /tmp/stop ]; do timeout 2 flock -n /mnt/b/nfs/v3lock true && got=$((got+1))"
            .to_owned(),
        "echo $wrote >&7 && wrote=$((wrote+1)); usleep 200000; done; exec 7>&-".to_owned(),
        "flock -w 20 /mnt/b/nfs/v3lock true && after=1; echo got $got wrote $wrote after $after".to_owned(),
    ];
    lines.join("; ").replace("do; ", "do ")
}

/// An NFSv3 lock's server loses its power: its client is told and takes the lock back, and nobody else has it meanwhile.
pub(crate) fn of_a_kernel(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let mut vm = Machine::boot(lab, "192.168.122.50")?;
    let ticket = vm.start(&kernel(&vip_of(&status, VICTIM)?, &vip_of(&status, OTHER)?))?;
    let there = format!("test -e {MOUNT}/nfs/v3held");
    sh::wait_for("the kernel to have its lock", PATIENCE, || {
        Ok(lab.shell(&site::name(0), &there).is_ok().then_some(()))
    })?;
    known(ctx, VICTIM)?;
    let mark = super::log_length(lab, OTHER);
    ctx.watched(|| {
        lab.power_off(&site::name(VICTIM))?;
        steadfast::wait_whole(lab, &lab.nodes_on(), LIMIT)?;
        let moved = wrote(ctx)?;
        // Past the grace period it is the lock itself that keeps others out.
        std::thread::sleep(GRACE);
        sh::wait_for("the lock's owner to write on", LIMIT, || Ok((wrote(ctx)? > moved).then_some(())))
    })?;
    vm.run("touch /tmp/stop", PATIENCE)?;
    let (status, said) = vm.wait(&ticket, PATIENCE)?;
    ctx.figure(format!("the kernel: {}", said.trim()));
    let word = |key: &str| {
        let words: Vec<&str> = said.split_whitespace().collect();
        words.windows(2).find(|w| w[0] == key).and_then(|w| w[1].parse::<f64>().ok())
    };
    let got = word("got").with_context(|| format!("the machine ended with {status}: {said}"))?;
    ctx.limit("times that somebody else had the lock meanwhile", got, 0.0, "")?;
    if status != 0 || word("after") != Some(1.0) {
        bail!("nobody could have the lock after its owner: {said}");
    }
    let log = super::log_since(lab, OTHER, mark)?;
    if !log.contains("may reclaim for") {
        bail!("{} did not enter its grace period:\n{log}", site::name(OTHER));
    }
    outage::come_back(ctx, &[VICTIM])
}
