//! The operator's drill finds what the other tests measure, and compares every byte.

use super::Ctx;
use crate::lab::Lab;
use crate::site::{self, PASSWORD, SHARE, USER, VOLUME};
use crate::{parts, steadfast, strings};
use ::drill::Fault;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What starts a daemon that was killed, where a machine has systemd.
const SYSTEMCTL: &str = "/usr/local/sbin/systemctl";

/// A stopped daemon: clients of its address stall for its lease, others do not, nothing is lost.
pub(crate) fn daemon_stopped(ctx: &Ctx<'_>) -> Result<()> {
    let report = crate::drill::run(ctx.lab, Fault::DaemonStopped, None, |_| {})?;
    for s in &report.streams {
        let (outage, _) = report.outages(s);
        let what = format!("{} to {}", s.protocol, s.vip);
        ensure!(s.ok > 20, "{what} did next to nothing: {} operations", s.ok);
        if matches!(s.protocol.as_str(), "nfs3" | "nfs4" | "smb") {
            ensure!(s.compared > 0, "{what}: nothing was read back");
        }
        ctx.bound(&what, outage, if report.is_moved(s) { 1000.0 } else { 400.0 })?;
    }
    let tcp = report.streams.iter().find(|s| s.protocol == "tcp" && report.is_moved(s));
    let seen = report.outages(tcp.context("no TCP client of the moved address")?).0;
    ensure!(seen > 250.0, "a stopped daemon costs a good part of a lease; the drill saw {seen:.0} ms");
    ensure!(report.is_clean(), "the drill found a fault:\n{}", report.table());
    let svg = report.svg();
    ensure!(svg.ends_with("</svg>\n") && svg.contains("daemon-stopped"), "no timeline");
    Ok(())
}

/// The `steadfast drill` of an administrator, from one node to another over a real ssh, with nothing said about how to
/// get there: each fault is made, seen by clients and taken back, and the report says so. `public-link-down` takes the
/// very network away that ssh uses.
pub(crate) fn over_ssh(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let operator = Operator::new(lab, 0)?;
    operator.reach(1)?;
    let there = site::name(1);
    let done = [(Fault::ServiceKilled, 1500.0), (Fault::DaemonStopped, 1000.0), (Fault::PublicLinkDown, 1000.0)]
        .into_iter()
        .try_for_each(|(fault, bound)| {
            let before = nfs_server(lab, &there)?;
            let report = operator.drill(fault, 1, &[])?;
            let tcp = report.streams.iter().find(|s| s.protocol == "tcp" && report.is_moved(s));
            let outage = report.outages(tcp.context("no TCP client of the moved address")?).0;
            ctx.bound(&format!("{fault} over ssh: tcp to the moved address"), outage, bound)?;
            // The NFS server is often back before a client's connecting has failed for long enough to count.
            let noticed =
                if fault == Fault::ServiceKilled { nfs_server(lab, &there)? != before } else { outage > 100.0 };
            ensure!(noticed, "{fault}: clients saw {outage:.0} ms and nothing was hit: was the fault made at all?");
            let left = lab.shell(&there, &format!("ls {} 2>/dev/null || true", ::drill::inflict::UNDO))?;
            ensure!(left.is_empty(), "{fault}: {left} is still there: the fault was not taken back");
            steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
        });
    let left = operator.leave(1);
    done.and(left)
}

/// What clients of the address of the node that is hit may see of a fault: the longest outage of ping, TCP and NFSv3, in ms.
type Bound = (Fault, f64);

/// Faults that a node makes itself come first: after a power cut it has no ssh any more. Measured, the longest of three runs on a
/// machine with a load of 40 to 60: killed 273, stopped 769, public link 172, private 273, service killed 355 (1272 when it moved), hung
/// 1436, drain 142, rejoin 103.
const FAULTS: [Bound; 10] = [
    (Fault::DaemonKilled, 400.0),
    (Fault::DaemonStopped, 1000.0),
    (Fault::PublicLinkDown, 350.0),
    (Fault::PrivateLinkDown, 600.0),
    // When it does not answer within 0.4 s its addresses move.
    (Fault::ServiceKilled, 1500.0),
    (Fault::ServiceHung, 3000.0),
    (Fault::Drain, 250.0),
    (Fault::PowerOff, 1000.0),
    (Fault::LeaderPowerOff, 1000.0),
    (Fault::Rejoin, 250.0),
];
/// Clients of other nodes, in ms. Measured: 112 at most, on a machine with a load of 40.
const OTHERS: f64 = 250.0;

/// An administrator's drill of every fault that a node with a shared directory can have, each with its timeline.
pub(crate) fn every_fault(ctx: &Ctx<'_>) -> Result<()> {
    let (begun, lab) = (Instant::now(), ctx.lab);
    let leader = steadfast::status(lab, 0)?.snapshot.leader.context("there is no leader")?;
    let [from, one, other] = ctx.but(leader)[..] else { bail!("there are not four nodes") };
    let operator = Operator::new(lab, from)?;
    operator.reach(one).and_then(|()| operator.reach(other))?;
    // In turn: the more often a node was lost, the longer it waits before it joins again.
    let mut in_turn = [one, other].into_iter().cycle();
    let done = FAULTS.iter().try_for_each(|bound| {
        let hit = if bound.0 == Fault::LeaderPowerOff { Some(leader) } else { in_turn.next() };
        one_fault(ctx, &operator, bound, OTHERS, hit.unwrap_or(one))
    });
    let left = operator.leave(one).and_then(|()| operator.leave(other));
    done.and(left)?;
    ctx.limit("all of them took", begun.elapsed().as_secs_f64(), 480.0, "s")
}

/// The process behind the mount of a GlusterFS volume is stopped: nothing that touches it gets an answer on that node.
pub(crate) fn mount_hung(ctx: &Ctx<'_>) -> Result<()> {
    let operator = Operator::new(ctx.lab, 0)?;
    operator.reach(1)?;
    let done = one_fault(ctx, &operator, &(Fault::MountHung, 3500.0), 500.0, 1);
    let left = operator.leave(1);
    done.and(left)
}

fn one_fault(ctx: &Ctx<'_>, operator: &Operator<'_>, (fault, moved): &Bound, others: f64, on: usize) -> Result<()> {
    let lab = ctx.lab;
    let timeline = format!("/root/{fault}.svg");
    // The private network may be what is cut.
    let via = format!("ssh -o BatchMode=yes -o ConnectTimeout=5 root@{}", lab.site.public(on));
    let more: &[&str] = if *fault == Fault::PrivateLinkDown { &["--via", &via] } else { &[] };
    let report = operator.drill(*fault, on, &[&["--svg", &timeline], more].concat())?;
    let mut protocols = BTreeSet::new();
    for s in &report.streams {
        let (outage, back) = report.outages(s);
        // The fault of a rejoin is its mending.
        let outage = if *fault == Fault::Rejoin { back } else { outage };
        let what = format!("{fault}, {} to {}", s.protocol, s.vip);
        ensure!(s.ok > 20, "{what} did next to nothing: {} operations", s.ok);
        ensure!(
            0.0 < s.p50_ms && s.p50_ms <= s.p99_ms && s.p99_ms <= s.max_ms,
            "{what}: half of its operations took {} ms, 99 of 100 {}, all {}",
            s.p50_ms,
            s.p99_ms,
            s.max_ms
        );
        ensure!(
            s.failed == 0 && s.wrong.is_none(),
            "{what}: {} failed: {:?}, {:?}",
            s.failed,
            s.first_failure,
            s.wrong
        );
        let writes = matches!(s.protocol.as_str(), "nfs3" | "nfs4" | "smb");
        ensure!(!writes || s.compared > 0, "{what}: nothing was read back");
        protocols.insert((s.protocol.clone(), report.is_moved(s)));
        // An NFSv4 client waits for a grace period, an SMB client connects anew: their times are told and not bounded.
        let bound = if report.is_moved(s) { *moved } else { others };
        if matches!(s.protocol.as_str(), "nfs4" | "smb") {
            ctx.figure(format!("{what}: {outage:.0} ms"));
        } else {
            ctx.bound(&what, outage, bound)?;
        }
    }
    ensure!(protocols.len() == 10, "{fault}: not every protocol was measured on both addresses: {protocols:?}");
    let text = lab.read(&site::name(operator.from), &timeline)?;
    let svg = roxmltree::Document::parse(&text).with_context(|| format!("the timeline of {fault} is no XML"))?;
    ensure!(
        svg.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")),
        "the timeline of {fault} is no SVG"
    );
    let words: BTreeSet<&str> = svg.descendants().filter_map(|n| n.text()).collect();
    for s in &report.streams {
        ensure!(words.contains(&*s.vip) && words.contains(&*s.protocol), "{} is not in the timeline of {fault}", s.vip);
    }
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
}

/// An administrator on a node, who reaches others by ssh and has a switch for their power.
struct Operator<'a> {
    lab: &'a Lab,
    from: usize,
}

const KNOWN_HOSTS: &str = "/root/.ssh/known_hosts";
/// What the switch is told by, on the administrator's node.
const POWER: [(&str, &str); 2] = [("--power-off", "/run/drill-power-off"), ("--power-on", "/run/drill-power-on")];

impl<'a> Operator<'a> {
    fn new(lab: &'a Lab, from: usize) -> Result<Self> {
        ensure!(Path::new("/usr/sbin/sshd").exists(), "there is no sshd: run scripts/install-needs ssh");
        let here = site::name(from);
        let key = "mkdir -p -m 700 /root/.ssh && { [ -e /root/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519; }";
        lab.shell(&here, key)?;
        lab.write(&here, "/root/password", PASSWORD)?;
        Ok(Self { lab, from })
    }

    /// Lets the administrator in at a node, as a machine with systemd would.
    fn reach(&self, on: usize) -> Result<()> {
        let (lab, here, there) = (self.lab, site::name(self.from), site::name(on));
        lab.shell(&there, "mkdir -p -m 700 /root/.ssh /run/sshd && ssh-keygen -A")?;
        lab.write(&there, "/root/.ssh/authorized_keys", &lab.read(&here, "/root/.ssh/id_ed25519.pub")?)?;
        let key = lab.read(&there, "/etc/ssh/ssh_host_ed25519_key.pub")?;
        let known: String =
            BTreeSet::from([lab.site.public(on), lab.site.private(on)]).iter().map(|a| format!("{a} {key}")).collect();
        let others = lab.read(&here, KNOWN_HOSTS).unwrap_or_default();
        lab.write(&here, KNOWN_HOSTS, &(others + &known))?;
        let daemon =
            format!("exec steadfast daemon --config {} </dev/null >>{} 2>&1", steadfast::CONFIG, steadfast::LOG);
        let systemctl = format!(
            "#!/bin/sh\n[ \"$1\" = start ] && exec setsid -f sh -c 'echo $$ >/run/steadfast.pid; {daemon}'\nkill -0 $(cat /run/steadfast.pid)\n"
        );
        lab.write(&there, SYSTEMCTL, &systemctl)?;
        lab.shell(&there, &format!("chmod 755 {SYSTEMCTL}"))?;
        lab.service(&there, "sshd", &["/usr/sbin/sshd", "-D"])
    }

    /// Takes that away again. After a power cut there is no ssh to end.
    fn leave(&self, on: usize) -> Result<()> {
        self.lab.shell(&site::name(on), &format!("rm -f {SYSTEMCTL}; pkill -x sshd || true")).map(drop)
    }

    /// Runs it; the report that it prints as JSON, of which nothing is wrong.
    fn drill(&self, fault: Fault, on: usize, more: &[&str]) -> Result<::drill::Report> {
        let (there, export) = (site::name(on), format!("/{VOLUME}"));
        let mut words: Vec<String> = strings(&["steadfast", "drill", fault.word(), "--on", &there, "--yes", "--json"]);
        words.extend(strings(&["--export", &export, "--directory", "nfs"]));
        words.extend(strings(&["--share", SHARE, "--user", USER, "--password-file", "/root/password"]));
        if fault.cuts_power() {
            for (flag, file) in POWER {
                words.extend([flag.into(), format!("touch {file}; while [ -e {file} ]; do sleep 0.02; done")]);
            }
        }
        words.extend(strings(more));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let over = AtomicBool::new(false);
        let ran = std::thread::scope(|scope| {
            let switch = scope.spawn(|| self.switch(on, &over));
            let ran = self.lab.try_exec(&site::name(self.from), &words, Duration::from_secs(240));
            over.store(true, Ordering::Relaxed);
            let switched = switch.join().map_err(|_| anyhow!("the thread of the power switch has panicked"))?;
            switched.and(ran)
        })?;
        let report: ::drill::Report = serde_json::from_str(&ran.stdout)
            .with_context(|| format!("drill {fault} says no report: {}{}", ran.stdout, ran.stderr))?;
        ensure!(report.is_clean() && ran.ok(), "drill {fault}:\n{}\n{}", report.table(), ran.stderr);
        Ok(report)
    }

    /// Cuts and gives the power of a node when it is told to.
    fn switch(&self, on: usize, over: &AtomicBool) -> Result<()> {
        let (lab, here, there) = (self.lab, site::name(self.from), site::name(on));
        while !over.load(Ordering::Relaxed) {
            for (flag, file) in POWER {
                if lab.read(&here, file).is_err() {
                    continue;
                }
                let done = if flag == "--power-off" {
                    lab.power_off(&there)
                } else {
                    parts::boot(lab, on).and_then(|()| steadfast::start(lab, on))
                };
                lab.shell(&here, &format!("rm {file}"))?;
                done?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn nfs_server(lab: &Lab, host: &str) -> Result<String> {
    lab.shell(host, "pgrep -o -x ganesha.nfsd")
}
