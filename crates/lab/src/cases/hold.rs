//! Nodes without a lease hold their own storage clients: what waits goes on when they have one again in time.

use super::{Ctx, returning::writer, vip_of};
use crate::drill::spec;
use crate::lab::Lab;
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::site;
use crate::smb::{Session, Sharing, hex};
use crate::steadfast;
use ::drill::clients::{BLOCK, block};
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Seconds of a lease. A hold begins when it is over: at most so long after the other daemons stopped, and 0.1 s less at least.
const LEASE: f64 = 0.6;
/// Seconds that a hold lasts. The first may end before it begins.
const HOLDS: [f64; 4] = [0.0, 0.6, 3.0, 10.0];

/// Three of four daemons are stopped: nobody has a lease, and nobody can be dropped. All is held; then it goes on, for a program
/// on the mount, for clients of NFS, of SMB through an address that comes and goes, and of SMB over one connection that stays.
pub(crate) fn loses_nothing(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let services = || lab.shell("gluster1", "pgrep -o -x smbd; pgrep -o -x ganesha.nfsd");
    for hold in HOLDS {
        let status = steadfast::settle(lab)?;
        let (epoch, vip, before) = (status.epoch(), vip_of(&status, 0)?, services()?);
        let mut clients = Clients::start(lab, &vip, hold)?;
        let at = now_us();
        for node in [1, 2, 3] {
            steadfast::signal(lab, node, "STOP")?;
        }
        std::thread::sleep(Duration::from_secs_f64(LEASE + hold));
        for node in [1, 2, 3] {
            steadfast::signal(lab, node, "CONT")?;
        }
        clients.go_on(now_us())?;
        let after = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
        ctx.figure(format!("a hold of {hold} s: epoch {epoch}, then {}", after.epoch()));
        let held = clients.end(ctx, at, &vip_of(&after, 1)?)?;
        let least = hold * 1000.0 - 50.0;
        if held < least {
            bail!("the mount's writer was not held: it waited {held:.0} ms, allowed are {least:.0} and more");
        }
        ensure!(before == services()?, "smbd or Ganesha was started again after a hold of {hold} s");
    }
    Ok(())
}

struct Clients {
    local: Probe,
    nfs: Probe,
    nfs_file: String,
    /// Through the address that is hosted there, which goes and comes.
    smb: ::drill::Clients,
    /// By the node's own address, which stays.
    session: Connection,
}

impl Clients {
    fn start(lab: &Lab, vip: &str, hold: f64) -> Result<Self> {
        let tag = format!("held-{}", (hold * 1000.0) as u64);
        let nfs_file = format!("nfs/{tag}-nfs");
        let words = ["/usr/local/sbin/steadfast-lab", "probe", "drill"];
        let spec = spec(vec![vip.parse()?], &["smb"], format!("{tag}-{}", now_us() / 1000));
        let mut all = Self {
            local: writer(lab, 0, &format!("nfs/{tag}"), "H")?,
            nfs: Probe::nfs_writer(lab, "nfs3", vip, &nfs_file)?,
            nfs_file,
            smb: ::drill::Clients::start(lab.command(site::CLIENT, &words)?, &spec)?,
            session: Connection::start(lab, &lab.site.public(0), &format!("{tag}-session")),
        };
        all.go_on(0)?;
        Ok(all)
    }

    /// Waits until all succeed after that.
    fn go_on(&mut self, since_us: u64) -> Result<()> {
        let patience = Duration::from_secs(60);
        for probe in [&self.local, &self.nfs] {
            probe.wait_ok(since_us, patience)?;
        }
        if let Some(why) = self.smb.wait(since_us, patience)? {
            bail!("SMB through the address: {why}");
        }
        self.session.wait_ok(since_us, patience)
    }

    /// Ends them and compares every byte, by way of another node; how long the mount's writer waited, in ms.
    fn end(self, ctx: &Ctx<'_>, at: u64, other: &str) -> Result<f64> {
        let lab = ctx.lab;
        let (local, nfs) = (self.local.stop()?, self.nfs.stop()?);
        let (written, longest) = self.session.end(lab, other)?;
        let smb = self.smb.stop(Duration::from_secs(60))?.pop().context("no SMB client")?;
        ctx.figure(format!(
            "longest waits: a writer on the mount {:.0} ms, NFSv3 {:.0}, SMB through the address {:.0}, over one connection {longest:.0}",
            local.longest_ms(at),
            nfs.longest_ms(at),
            smb.stalls.iter().filter(|s| s.to_us >= at).map(|s| s.ms()).fold(0.0, f64::max),
        ));
        if local.errors + nfs.errors > 0 {
            let why: Vec<&str> = local.gaps.iter().chain(&nfs.gaps).map(|g| g.why.as_str()).collect();
            bail!("{} writes on the mount and {} over NFS failed: {}", local.errors, nfs.errors, why.join(", "));
        }
        if smb.failed > 0 || smb.wrong.is_some() {
            bail!("SMB through the address: {} failed: {:?}, {:?}", smb.failed, smb.first_failure, smb.wrong);
        }
        ensure!(smb.compared > 0, "SMB through the address: nothing was compared");
        let blocks = nfs.extra.first().cloned().unwrap_or_default();
        let verify = ["--server", other, "--path", &self.nfs_file, "--blocks", &blocks];
        lab.exec(
            site::CLIENT,
            &[&["steadfast-lab", "probe", "nfs-verify"], &verify[..]].concat(),
            Duration::from_secs(60),
        )?;
        ctx.figure(format!("compared: {blocks} blocks of NFSv3, {} bytes and {written} blocks of SMB", smb.compared));
        Ok(local.longest_ms(at))
    }
}

/// A file over one SMB connection, a block after the other, each flushed before the next.
struct Connection {
    name: String,
    stop: Arc<AtomicBool>,
    last_us: Arc<AtomicU64>,
    thread: JoinHandle<Result<(u64, f64)>>,
}

impl Connection {
    fn start(lab: &Lab, server: &str, name: &str) -> Self {
        let (lab, server, file) = (lab.clone(), server.to_owned(), name.to_owned());
        let (stop, last_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, last) = (Arc::clone(&stop), Arc::clone(&last_us));
        let thread = std::thread::spawn(move || {
            let mut session = Session::locking(&lab, &server)?;
            let handle = session.create(&file, Sharing::All)?.handle()?;
            let (mut n, mut longest) = (0, 0);
            while !flag.load(Ordering::Relaxed) {
                let begun = now_us();
                session.put(&handle, n * BLOCK as u64, &block(&file, n))?.handle()?;
                let now = now_us();
                last.store(now, Ordering::Relaxed);
                (n, longest) = (n + 1, longest.max(now - begun));
                std::thread::sleep(Duration::from_millis(20));
            }
            session.close(&handle)?.handle()?;
            Ok((n, longest as f64 / 1000.0))
        });
        Self { name: name.to_owned(), stop, last_us, thread }
    }

    fn wait_ok(&self, since_us: u64, limit: Duration) -> Result<()> {
        crate::sh::wait_for("the SMB session to go on", limit, || {
            // What it says of its end is asked for there.
            let done = self.last_us.load(Ordering::Relaxed) > since_us || self.thread.is_finished();
            Ok(done.then_some(()))
        })
    }

    /// How many blocks there are, all of them right by way of `other`, and the longest wait for one in ms.
    fn end(self, lab: &Lab, other: &str) -> Result<(u64, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let told = self.thread.join().ok().context("the SMB session's thread has panicked")?;
        let (written, longest) = told.context("the SMB session")?;
        let mut session = Session::locking(lab, other)?;
        let handle = session.create(&self.name, Sharing::All)?.handle()?;
        for n in 0..written {
            let found = session.get(&handle, n * BLOCK as u64, BLOCK)?.handle()?;
            ensure!(
                found == hex(&block(&self.name, n)),
                "block {n} of {written} is not what was acknowledged over SMB"
            );
        }
        ensure!(written > 0, "nothing was written over SMB");
        Ok((written, longest))
    }
}
