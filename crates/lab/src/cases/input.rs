//! Bad input: garbage on every port, a full disk, mistakes in the configuration.

use super::Ctx;
use crate::probe::run::Probe;
use crate::sh;
use crate::site::{self, CLIENT};
use crate::steadfast::{self, CONFIG, CONTROL_PORT, LOG, STATE_DIR};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Resident memory of a node's daemon in kB.
fn memory(ctx: &Ctx<'_>, node: usize) -> Result<u64> {
    let host = site::name(node);
    let pid = ctx.lab.service_pid(&host, "steadfast")?;
    let text = ctx.lab.exec(&host, &["grep", "VmRSS", &format!("/proc/{pid}/status")], Duration::from_secs(5))?;
    text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).context("no VmRSS")
}

/// Garbage on every port of a node and its VIP: same view, same daemon, no outage, no growth.
pub(crate) fn garbage(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let node = 1;
    let before = steadfast::status(lab, 0)?;
    let held = before.held_by(node);
    let vip = held.iter().find(|a| !a.contains(':')).context("the node holds no address")?;
    let pid = lab.service_pid(&site::name(node), "steadfast")?;
    let memory_before = memory(ctx, node)?;
    let tcp = Probe::tcp(lab, "tcp", vip)?;
    tcp.wait_ok(0, Duration::from_secs(10))?;
    let control = CONTROL_PORT.to_string();
    let own = lab.site.private(node);
    for target in [own.as_str(), vip.as_str()] {
        let said = lab.exec(
            CLIENT,
            &[
                "steadfast-lab",
                "probe",
                "garbage",
                "--target",
                target,
                "--tcp",
                &control,
                "--tcp",
                "53",
                "--udp",
                &control,
                "--udp",
                "53",
                "--rounds",
                "160",
            ],
            Duration::from_secs(120),
        )?;
        ctx.figure(said.trim().to_owned());
    }
    // The admin socket is root's, who makes mistakes too.
    let socket = "/run/steadfast/admin.sock";
    lab.shell(
        &site::name(node),
        &format!(
            "for i in 1 2 3 4 5 6; do
               head -c 100000 /dev/urandom | timeout 2 socat - UNIX-CONNECT:{socket} >/dev/null 2>&1 || true
               printf '{{\"request\":\"nonsense\"}}\\n' | timeout 2 socat - UNIX-CONNECT:{socket} >/dev/null 2>&1 || true
             done"
        ),
    )?;
    let seen = tcp.stop()?;
    if lab.service_pid(&site::name(node), "steadfast")? != pid || !steadfast::daemon_runs(lab, node) {
        bail!("the daemon did not survive: {}", steadfast::log_tail(lab, node, 20));
    }
    let after = steadfast::wait_whole(lab, &(0..lab.site.nodes).collect::<Vec<_>>(), Duration::from_secs(20))?;
    if after.epoch() != before.epoch() {
        bail!("garbage changed the view: epoch {} before, {} after", before.epoch(), after.epoch());
    }
    ctx.bound("tcp: longest gap meanwhile", seen.longest_ms(0), 500.0)?;
    let grown = memory(ctx, node)?.saturating_sub(memory_before);
    ctx.figure(format!("memory grew by {grown} kB from {memory_before} kB"));
    if grown > 20_000 {
        bail!("memory grew by {grown} kB");
    }
    Ok(())
}

/// The disk that holds the votes is full: said clearly, others serve, and it recovers when there is room.
pub(crate) fn disk_full(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let node = 3;
    let host = site::name(node);
    steadfast::stop(lab, node)?;
    lab.shell(
        &host,
        &format!(
            "rm -rf /tmp/state; cp -a {STATE_DIR} /tmp/state; mount -t tmpfs -o size=512k,mode=700 small {STATE_DIR}
             cp -a /tmp/state/. {STATE_DIR}/; dd if=/dev/zero of={STATE_DIR}/filler bs=1k count=4096 2>/dev/null || true"
        ),
    )?;
    let mark = lab.read(&host, LOG).map(|t| t.len()).unwrap_or(0);
    steadfast::start(lab, node)?;
    let others: Vec<usize> = (0..lab.site.nodes).filter(|&n| n != node).collect();
    steadfast::wait_whole(lab, &others, Duration::from_secs(30)).context("the others do not go on")?;
    // It writes when it is let in, which takes longer for a node that was dropped several times lately.
    let words = sh::wait_for("the log to name the full disk", Duration::from_secs(60), || {
        let text = lab.read(&host, LOG)?;
        let new = text.get(mark..).unwrap_or("");
        let line = new.lines().find(|l| l.contains(STATE_DIR) && (l.contains("No space") || l.contains("full")));
        Ok(line.map(str::to_owned))
    })?;
    ctx.figure(format!("the log says: {}", words.trim()));
    lab.shell(&host, &format!("rm {STATE_DIR}/filler"))?;
    if !steadfast::daemon_runs(lab, node) {
        steadfast::start(lab, node)?;
    }
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    let whole = steadfast::wait_whole(lab, &all, Duration::from_secs(60));
    steadfast::stop(lab, node)?;
    lab.shell(
        &host,
        &format!(
            "cp -a {STATE_DIR}/. /tmp/state/; umount {STATE_DIR}; cp -a /tmp/state/. {STATE_DIR}/; rm -rf /tmp/state"
        ),
    )?;
    steadfast::start(lab, node)?;
    whole.map(drop)
}

/// Each mistake as (what it is, text to replace, replacement, words that the message must have).
const MISTAKES: &[(&str, &str, &str, &[&str])] = &[
    ("an unknown key", "[cluster]", "[cluster]\nnmae = \"x\"", &["nmae"]),
    ("a node listed twice", "192.168.122.101\"", "192.168.122.100\"", &["192.168.122.100"]),
    ("a VIP that is a node's address", "192.168.122.200/24", "192.168.122.102/24", &["192.168.122.102"]),
    ("a VIP listed twice", "192.168.122.201/24", "192.168.122.202/24", &["192.168.122.202"]),
    ("a missing interface", "interface = \"eth0\"", "interface = \"eth7\"", &["eth7"]),
    ("an address that is none", "192.168.122.203/24", "192.168.122.333/24", &["192.168.122.333"]),
    ("two prefix lengths in one network", "192.168.122.203/24", "192.168.122.203/16", &["192.168.122.203"]),
    ("a section that is none", "[dns]", "[dsn]", &["dsn"]),
    ("broken TOML", "[dns]", "[dns", &["TOML"]),
];

/// `steadfast config check` and the daemon refuse mistakes with file, line and what to write instead.
pub(crate) fn config_mistakes(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let host = site::name(0);
    let good = steadfast::config(&lab.site);
    let limit = Duration::from_secs(10);
    lab.exec(&host, &["steadfast", "config", "check", CONFIG], limit).context("the good file is refused")?;
    let file = "/tmp/mistake.toml";
    for (what, from, to, words) in MISTAKES {
        let bad = good.replacen(from, to, 1);
        if bad == good {
            bail!("the test's own mistake \"{what}\" changes nothing");
        }
        lab.write(&host, file, &bad)?;
        let done = lab.try_exec(&host, &["steadfast", "config", "check", file], limit)?;
        let text = done.text();
        if done.ok() {
            bail!("{what} is accepted");
        }
        for word in words.iter().copied().chain([file]) {
            if !text.contains(word) {
                bail!("{what}: the message does not name {word}:\n{text}");
            }
        }
        let line = bad.lines().position(|l| l.contains(to.lines().last().unwrap_or(to))).map_or(0, |n| n + 1);
        if line > 0 && !text.contains(&format!(":{line}")) && !text.contains(&format!("{line} |")) {
            bail!("{what}: the message does not give line {line}:\n{text}");
        }
    }
    // The daemon itself refuses as well, before it touches anything.
    let done = lab.try_exec(&host, &["steadfast", "daemon", "--config", file, "--state-dir", "/tmp/none"], limit)?;
    if done.ok() || done.timed_out || !done.text().contains(file) {
        bail!("the daemon does not refuse a broken file:\n{}", done.text());
    }
    ctx.figure(format!("{} mistakes refused with file and line", MISTAKES.len()));
    Ok(())
}

/// CTDB's own `nodes` and `public_addresses` files, as they are; a mistake in one is told with its file and line.
pub(crate) fn ctdb_files(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let host = site::name(0);
    let limit = Duration::from_secs(10);
    let (nodes, publics, file) = ("/tmp/nodes", "/tmp/public_addresses", "/tmp/ctdb.toml");
    let lines: Vec<String> = (0..lab.site.nodes).map(|n| lab.site.private(n)).collect();
    lab.write(&host, nodes, &format!("{}\n", lines.join("\n")))?;
    let vips = |bits: &str| -> String { lab.site.vips().iter().map(|v| format!("{v}/{bits} eth0\n")).collect() };
    lab.write(&host, publics, &vips("24"))?;
    let text = format!("[cluster]\nname = \"lab\"\nnodes_file = \"{nodes}\"\npublic_addresses_file = \"{publics}\"\n");
    lab.write(&host, file, &text)?;
    lab.exec(&host, &["steadfast", "config", "check", file], limit).context("CTDB's files are refused")?;
    let shown = lab.exec(&host, &["steadfast", "config", "show", file], limit)?;
    for address in lines.iter().chain(&lab.site.vips()) {
        if !shown.contains(address.as_str()) {
            bail!("{address} is not in `steadfast config show`:\n{shown}");
        }
    }
    lab.write(&host, publics, &vips("24").replacen("192.168.122.201/24", "192.168.122.201/240", 1))?;
    let done = lab.try_exec(&host, &["steadfast", "config", "check", file], limit)?;
    let text = done.text();
    if done.ok() || !text.contains(publics) || !(text.contains(":2") || text.contains("2 |")) {
        bail!("a mistake in line 2 of {publics} is not told:\n{text}");
    }
    ctx.figure(format!("{} nodes and {} addresses read from CTDB's files", lines.len(), lab.site.vips().len()));
    Ok(())
}
