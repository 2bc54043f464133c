//! What hangs in a server when its address leaves must not land later, after what clients have written by the new one.

use super::{Ctx, vip_of};
use crate::lab::Lab;
use crate::probe::now_us;
use crate::site::{self, CLIENT, MOUNT, SHARE};
use crate::smb::{Session, Sharing};
use crate::{sh, steadfast};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const VICTIM: usize = 1;
const LIMIT: Duration = Duration::from_secs(30);
/// GlusterFS keeps its own lock of a file for a second after a write, and the server's would keep others out.
const UNLOCKED: Duration = Duration::from_millis(2500);
/// What glusterd and the bricks listen on: the node's own clients of the volume go there, others' do not come from there.
const STORAGE_PORTS: &str = "{ 24007, 49152-60999 }";

/// Somebody who writes one line after the other to the same place; killed with this value.
struct Writer {
    child: Child,
    to: Option<ChildStdin>,
    acknowledged: Receiver<String>,
}

impl Writer {
    fn start(lab: &Lab, server: &str, path: &str) -> Result<Self> {
        let words = ["/usr/local/sbin/steadfast-lab", "probe", "nfs3-say", "--server", server, "--path", path];
        let mut command = lab.command(CLIENT, &words)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a probe")?;
        let out = child.stdout.take().context("no way to hear the probe")?;
        let (heard, acknowledged) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // Nobody listens any more: the case is over.
                let _ = heard.send(line.split(' ').nth(1).unwrap_or_default().to_owned());
            }
        });
        let to = child.stdin.take();
        Ok(Self { child, to, acknowledged })
    }

    fn begin(&mut self, line: &str) -> Result<()> {
        let to = self.to.as_mut().context("the probe hears nothing")?;
        writeln!(to, "{line}").and_then(|()| to.flush()).context("the probe has ended")
    }

    /// Waits for the answer to this line; how long it took from `since` on, in ms.
    fn wait(&self, line: &str, since: Instant) -> Result<f64> {
        match self.acknowledged.recv_timeout(LIMIT) {
            Ok(said) if said == line => Ok(since.elapsed().as_secs_f64() * 1000.0),
            Ok(said) => bail!("the server acknowledged {said:?} and not {line:?}"),
            Err(_) => bail!("{line:?} was not acknowledged within {} s", LIMIT.as_secs()),
        }
    }

    fn write(&mut self, line: &str) -> Result<f64> {
        let begun = Instant::now();
        self.begin(line)?;
        self.wait(line, begun)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.to = None;
        sh::kill_group(&mut self.child);
    }
}

/// A node's own storage clients are cut off without a word, for as long as this value lives.
struct CutOff<'a> {
    lab: &'a Lab,
    host: String,
}

impl<'a> CutOff<'a> {
    fn new(lab: &'a Lab, node: usize) -> Result<Self> {
        let host = site::name(node);
        let rules = [
            "nft add table inet lab_cut".to_owned(),
            "nft add chain inet lab_cut out '{ type filter hook output priority 0; }'".to_owned(),
            format!("nft add rule inet lab_cut out tcp dport '{STORAGE_PORTS}' drop"),
        ];
        lab.shell(&host, &rules.join(" && "))?;
        Ok(Self { lab, host })
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.lab.shell(&self.host, "nft delete table inet lab_cut") {
            println!("      {} stays cut off from its storage: {error:#}", self.host);
        }
    }
}

/// The storage of one node does not answer while a client writes by way of it: the client goes on elsewhere, and what the
/// old server still had in hand does not land when its storage answers again.
pub(crate) fn does_not_land(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vip = vip_of(&status, VICTIM)?;
    let path = format!("nfs/late-{}", now_us());
    let mut writer = Writer::start(lab, &vip, &path)?;
    writer.write("first")?;
    std::thread::sleep(UNLOCKED);
    ctx.watched(|| {
        let cut = CutOff::new(lab, VICTIM)?;
        let begun = Instant::now();
        writer.begin("second")?;
        let took = writer.wait("second", begun)?;
        let heir = steadfast::status(lab, 0)?.holder(&vip);
        if heir == Some(VICTIM) {
            bail!("{vip} did not move: nothing could be shown");
        }
        ctx.figure(format!("written by way of {} after {took:.0} ms", heir.map_or_else(String::new, site::name)));
        writer.write("third")?;
        drop(cut);
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90)).map(drop)
    })?;
    all_have(ctx, &path, "third")
}

/// Every node has what was acknowledged last.
fn all_have(ctx: &Ctx<'_>, path: &str, last: &str) -> Result<()> {
    for node in ctx.all() {
        let host = site::name(node);
        let found = ctx.lab.shell(&host, &format!("timeout 30 cat {MOUNT}/{path}"))?;
        let found = found.trim_end();
        let lost = f64::from(u8::from(found != last));
        ctx.limit(&format!("acknowledged writes lost, as {host} has it ({found})"), lost, 0.0, "")?;
    }
    Ok(())
}

/// A client that comes to an address as soon as it answers, opens the file to be shared with all, and caches nothing.
fn come(lab: &Lab, server: &str, name: &str) -> Result<(Session, String)> {
    sh::wait_for("the file to be open elsewhere", LIMIT, || {
        let Ok(mut session) = Session::locking(lab, server) else { return Ok(None) };
        Ok(session.create(name, Sharing::All)?.handle().ok().map(|handle| (session, handle)))
    })
}

/// The same over SMB: smbd's write hangs in the client process of the node's mount, and outlives smbd.
pub(crate) fn does_not_land_over_smb(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vip = vip_of(&status, VICTIM)?;
    let name = format!("late-{}", now_us());
    let (mut old, handle) = come(lab, &vip, &name)?;
    old.put(&handle, 0, b"first.")?.handle()?;
    std::thread::sleep(UNLOCKED);
    ctx.watched(|| {
        let cut = CutOff::new(lab, VICTIM)?;
        let begun = Instant::now();
        old.begin_put(&handle, 0, b"second")?;
        old.lost().context("the write by way of the cut-off node")?;
        let lost = begun.elapsed();
        let (mut new, handle) = come(lab, &vip, &name)?;
        new.put(&handle, 0, b"third.")?.handle()?;
        let took = begun.elapsed();
        let heir = steadfast::status(lab, 0)?.holder(&vip);
        if heir == Some(VICTIM) {
            bail!("{vip} did not move: nothing could be shown");
        }
        ctx.figure(format!(
            "connection lost after {} ms, written anew by way of {} after {} ms",
            lost.as_millis(),
            heir.map_or_else(String::new, site::name),
            took.as_millis()
        ));
        drop(cut);
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90)).map(drop)
    })?;
    all_have(ctx, &format!("{SHARE}/{name}"), "third.")
}
