//! Who may lock and write while the servers are cut from each other, for each type of volume: GlusterFS alone, and with
//! the daemon. Prints the table of docs/storage.md and holds it against what is written here.

use super::Ctx;
use crate::lab::{Lab, Net};
use crate::probe::attempt::What;
use crate::probe::now_us;
use crate::site::{self, SHARE, VOLUME};
use crate::steadfast::{self, CONFIG};
use crate::{parts, sh, switch};
use anyhow::{Context, Result, bail};
use services::storage::coherence::{MOUNT_OPTIONS, VOLUME_OPTIONS};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// GlusterFS takes a server for gone after this many seconds (42 by default: too long for a test of 24 cuts).
const PING_TIMEOUT: u64 = 5;
/// How long an operation may take from the cut on: well over the above.
const WINDOW: Duration = Duration::from_secs(12);

/// A type of volume.
#[derive(Debug)]
struct Kind {
    volume: &'static str,
    title: &'static str,
    layout: &'static [&'static str],
    /// Nodes with a brick. The first two always keep copies of each other.
    bricks: &'static [usize],
    option: Option<[&'static str; 2]>,
    /// Who can do everything, by [`CUTS`]; the others can do nothing.
    plain: [&'static str; 3],
    with_daemon: [&'static str; 3],
}

/// All types.
const KINDS: [Kind; 4] = [
    Kind {
        volume: "pairs",
        title: "2x2",
        layout: &["replica", "2"],
        bricks: &[0, 1, 2, 3],
        option: None,
        plain: ["both"; 3],
        with_daemon: ["the three", "the three", "nobody"],
    },
    Kind {
        volume: "pairs-auto",
        title: "2x2, `cluster.quorum-type auto`",
        layout: &["replica", "2"],
        bricks: &[0, 1, 2, 3],
        option: Some(["cluster.quorum-type", "auto"]),
        plain: ["the one", "the three", "first half"],
        with_daemon: ["nobody", "the three", "first half"],
    },
    Kind {
        volume: "three",
        title: "3 copies",
        layout: &["replica", "3"],
        bricks: &[0, 1, 2],
        option: None,
        plain: ["the three", "the three", "first half"],
        with_daemon: ["the three", "the three", "first half"],
    },
    Kind {
        volume: "arbiter",
        title: "2 copies and an arbiter",
        layout: &["replica", "3", "arbiter", "1"],
        bricks: &[0, 1, 2],
        option: None,
        plain: ["the three", "the three", "first half"],
        with_daemon: ["the three", "the three", "first half"],
    },
];

/// A cut: the sides, and what the table calls them. Each side has one of the first two nodes.
#[derive(Debug)]
struct Cut {
    title: &'static str,
    sides: [&'static [usize]; 2],
    names: [&'static str; 2],
}

const CUTS: [Cut; 3] = [
    Cut { title: "first brick's server alone", sides: [&[0], &[1, 2, 3]], names: ["the one", "the three"] },
    Cut { title: "second brick's server alone", sides: [&[1], &[0, 2, 3]], names: ["the one", "the three"] },
    Cut { title: "two and two", sides: [&[0, 2], &[1, 3]], names: ["first half", "second half"] },
];

/// What became of one operation on one side.
#[derive(Debug, Clone)]
struct Done {
    ok: bool,
    text: String,
}

fn gluster(lab: &Lab, words: &[&str]) -> Result<String> {
    let all = [&["gluster", "--mode=script", "volume"], words].concat();
    lab.exec("gluster1", &all, Duration::from_secs(60))
}

fn create(lab: &Lab, kind: &Kind) -> Result<()> {
    let bricks: Vec<String> =
        kind.bricks.iter().map(|&n| format!("{}:/data/brick/{}", site::name(n), kind.volume)).collect();
    let mut words = vec!["create", kind.volume];
    words.extend(kind.layout);
    words.extend(bricks.iter().map(String::as_str));
    words.push("force");
    gluster(lab, &words)?;
    let seconds = PING_TIMEOUT.to_string();
    let mut words = vec!["set", kind.volume, "network.ping-timeout", &seconds];
    words.extend(VOLUME_OPTIONS.iter().flat_map(|s| [s.option, s.value]));
    words.extend(kind.option.iter().flatten());
    gluster(lab, &words)?;
    gluster(lab, &["start", kind.volume])?;
    Ok(())
}

fn mount_point(kind: &Kind) -> String {
    format!("/mnt/split/{}", kind.volume)
}

/// Ends a mount and the client behind it, with all that it still wanted to send.
fn unmount(lab: &Lab, node: usize, kind: &Kind) -> Result<()> {
    let at = mount_point(kind);
    let line = format!(
        "for p in $(pgrep -f 'glusterfs .*{at}$'); do kill -9 $p; done; \
         while mountpoint -q {at} || grep -q ' {at} ' /proc/mounts; do umount -l {at}; done; true"
    );
    lab.shell(&site::name(node), &line).map(drop)
}

/// A mount of this volume alone, on one node, connected to every brick.
fn mount(lab: &Lab, node: usize, kind: &Kind) -> Result<()> {
    unmount(lab, node, kind)?;
    let (host, at, options) = (site::name(node), mount_point(kind), MOUNT_OPTIONS.join(","));
    sh::wait_for(&format!("{} to be mounted on {host}", kind.volume), Duration::from_secs(60), || {
        let line = format!(
            "mkdir -p {at}; mountpoint -q {at} || mount -t glusterfs -o {options},log-level=WARNING localhost:/{} {at}; \
             mountpoint -q {at}",
            kind.volume
        );
        lab.shell(&host, &line)?;
        Ok((parts::bricks_connected(lab, &host, &at)? == kind.bricks.len()).then_some(()))
    })
}

/// A file for each operation on the first two bricks; the one that is to be created is not there.
fn prepare(lab: &Lab, kind: &Kind, directory: &str) -> Result<Vec<(What, String)>> {
    let at = format!("{}/{directory}", mount_point(kind));
    let names: Vec<String> = (0..24).map(|i| format!("f{i}")).collect();
    lab.shell("gluster1", &format!("mkdir {at}; cd {at}; touch {}", names.join(" ")))?;
    let here = lab.shell("gluster1", &format!("ls /data/brick/{}/{directory}", kind.volume))?;
    let files: Vec<(What, String)> =
        What::ALL.into_iter().zip(names.iter().filter(|n| here.lines().any(|l| l == *n)).cloned()).collect();
    if files.len() < What::ALL.len() {
        bail!("only {} of {} files are on the first brick of {}", files.len(), names.len(), kind.volume);
    }
    for (what, name) in &files {
        let line = match what {
            What::Create => format!("rm {at}/{name}"),
            _ => format!("head -c 8192 /dev/zero | tr '\\0' w >{at}/{name}; sync {at}/{name}"),
        };
        lab.shell("gluster1", &line)?;
    }
    Ok(files.into_iter().map(|(what, name)| (what, format!("{at}/{name}"))).collect())
}

/// Tries one operation on a node until the window is over.
fn attempt(lab: &Lab, node: usize, what: What, path: &str, side: usize, cut_us: u64) -> Result<Done> {
    let end = cut_us + WINDOW.as_micros() as u64;
    let (until, block) = (end.to_string(), side.to_string());
    let words = ["/usr/local/sbin/steadfast-lab", "probe", "attempt", "--what", what.word(), "--path", path];
    let words = [&words[..], &["--block", &block, "--until-us", &until]].concat();
    let done = lab.try_exec(&site::name(node), &words, WINDOW + Duration::from_secs(2))?;
    let line = done.stdout.lines().next().unwrap_or_default();
    let mut parts = line.splitn(4, ' ');
    let (verdict, ms) = (parts.next().unwrap_or_default(), parts.next().and_then(|p| p.parse::<u64>().ok()));
    let why = parts.nth(1).unwrap_or_default();
    Ok(match (verdict, ms) {
        ("OK", Some(ms)) if u128::from(ms) < WINDOW.as_millis() => {
            Done { ok: true, text: format!("{:.1} s", ms as f64 / 1000.0) }
        }
        ("OK" | "NO", Some(_)) => Done { ok: false, text: format!("fails ({why})") },
        _ if done.timed_out => Done { ok: false, text: "waits".into() },
        _ => bail!("the attempt to {} {path} said: {}", what.word(), done.text()),
    })
}

/// Entries of this directory in split brain, once GlusterFS has healed what it can.
fn in_split_brain(lab: &Lab, kind: &Kind, directory: &str) -> Result<usize> {
    let begun = Instant::now();
    let mut asked = Instant::now();
    sh::wait_for(&format!("{} to heal", kind.volume), Duration::from_secs(60), || {
        if asked.elapsed() > Duration::from_secs(3) {
            asked = Instant::now();
            // Refused while a brick is away: then it is asked again.
            let _ = gluster(lab, &["heal", kind.volume]);
        }
        let text = gluster(lab, &["heal", kind.volume, "info"])?;
        let connected = text.matches("Status: Connected").count() == kind.bricks.len();
        let open = text.lines().filter_map(|l| l.strip_prefix("Number of entries: ")).any(|n| n.trim() != "0");
        let split = gluster(lab, &["heal", kind.volume, "info", "split-brain"])?;
        let entries: BTreeSet<&str> = split.lines().filter(|l| l.starts_with(['/', '<'])).collect();
        // What is not in split brain heals soon; the rest never does.
        let settled = !open || !entries.is_empty() && begun.elapsed() > Duration::from_secs(10);
        let here = entries.iter().filter(|e| e.contains(directory)).count();
        Ok((connected && settled).then_some(here))
    })
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    kind: &'static Kind,
    cut: &'static Cut,
    /// For each operation, each side.
    done: Vec<[Done; 2]>,
    split_brain: usize,
}

impl Row {
    /// Who could: one word for each operation.
    fn who(&self) -> Vec<&'static str> {
        let word = |[a, b]: &[Done; 2]| match (a.ok, b.ok) {
            (true, true) => "both",
            (true, false) => self.cut.names[0],
            (false, true) => self.cut.names[1],
            (false, false) => "nobody",
        };
        self.done.iter().map(word).collect()
    }

    fn line(&self) -> String {
        let brain = if self.split_brain > 0 { "yes" } else { "no" };
        format!("| {} | {} | {} | {brain} |", self.kind.title, self.cut.title, self.who().join(" | "))
    }

    fn details(&self) -> String {
        let mut text = format!("{}, {}:", self.kind.title, self.cut.title);
        for (what, sides) in What::ALL.iter().zip(&self.done) {
            let [a, b] = sides;
            text += &format!(" {}: {} {}, {} {};", what.word(), self.cut.names[0], a.text, self.cut.names[1], b.text);
        }
        text + &format!(" {} in split brain", self.split_brain)
    }
}

/// Cuts the network once and tries everything on every volume at the same time; `mended` waits after it.
fn cut_once(
    lab: &Lab,
    kinds: &'static [Kind],
    cut: &'static Cut,
    mended: impl FnOnce() -> Result<()>,
) -> Result<Vec<Row>> {
    let nodes = cut.sides.map(|side| side[0]);
    for kind in kinds {
        parts::each(&nodes, |node| mount(lab, node, kind))?;
    }
    let directory = cut.title.replace([' ', '\''], "-");
    let mut files = Vec::new();
    for kind in kinds {
        files.push(prepare(lab, kind, &directory)?);
    }
    let groups = cut.sides.map(|side| side.iter().map(|&n| site::name(n)).collect());
    let at = now_us();
    switch::partition(lab, &groups, &[Net::Public])?;
    let said = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (k, list) in files.iter().enumerate() {
            for (w, (what, path)) in list.iter().enumerate() {
                for (side, &node) in nodes.iter().enumerate() {
                    let said = &said;
                    scope.spawn(move || {
                        let done = attempt(lab, node, *what, path, side, at);
                        if let Ok(mut said) = said.lock() {
                            said.push((k, w, side, done));
                        }
                    });
                }
            }
        }
    });
    switch::partition(lab, &[], &[])?;
    mended()?;
    let mut said = said.into_inner().map_err(|_| anyhow::anyhow!("an attempt panicked"))?;
    said.sort_by_key(|(k, w, side, _)| (*k, *w, *side));
    let mut all = said.into_iter().map(|(.., done)| done);
    let mut rows = Vec::new();
    for kind in kinds {
        let mut done = Vec::new();
        for _ in What::ALL {
            let mut next = || all.next().context("an attempt is missing")?;
            done.push([next()?, next()?]);
        }
        // Whatever a client still wants to send must not be taken for what happened in the split.
        parts::each(&nodes, |node| unmount(lab, node, kind))?;
        rows.push(Row { kind, cut, done, split_brain: in_split_brain(lab, kind, &directory)? });
    }
    Ok(rows)
}

fn stop_all(lab: &Lab) -> Result<()> {
    parts::each_node(lab, |node| {
        steadfast::stop(lab, node)?;
        // What a view on disk would still shut out.
        lab.shell(
            &site::name(node),
            "for t in fence hold; do nft delete table inet steadfast_$t 2>/dev/null || true; done",
        )
        .map(drop)
    })
}

/// Everything as it was: the volumes gone, the daemons on the site's own.
fn tidy(ctx: &Ctx<'_>, kinds: &'static [Kind]) -> Result<()> {
    let lab = ctx.lab;
    switch::partition(lab, &[], &[])?;
    let text = steadfast::config(&lab.site);
    parts::each_node(lab, |node| {
        if steadfast::daemon_runs(lab, node) {
            steadfast::stop(lab, node)?;
        }
        lab.write(&site::name(node), CONFIG, &text)?;
        for kind in kinds {
            unmount(lab, node, kind)?;
        }
        steadfast::start(lab, node)
    })?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90))?;
    for kind in kinds {
        gluster(lab, &["stop", kind.volume, "force"])?;
        gluster(lab, &["delete", kind.volume])?;
        // The next volume of that name is to be an empty one.
        parts::each_node(lab, |node| {
            lab.shell(&site::name(node), &format!("rm -rf /data/brick/{}", kind.volume)).map(drop)
        })?;
    }
    Ok(())
}

fn print(ctx: &Ctx<'_>, rows: &[Row]) {
    for row in rows {
        ctx.figure(row.details());
    }
    ctx.figure("| volume | cut | lock | write | create | read | split brain |");
    ctx.figure("|---|---|---|---|---|---|---|");
    for row in rows {
        ctx.figure(row.line());
    }
}

/// What docs/storage.md says is what happened.
fn judge(rows: &[Row], expected: impl Fn(&Kind) -> [&'static str; 3]) -> Result<()> {
    for row in rows {
        let told = CUTS.iter().position(|c| c.title == row.cut.title).map(|n| expected(row.kind)[n]);
        let told = told.context("a cut that is not in the list")?;
        if row.who().iter().any(|w| *w != told) || (row.split_brain > 0) != (told == "both") {
            bail!("{told} should have been able to do everything, the others nothing: {}", row.details());
        }
    }
    Ok(())
}

/// GlusterFS by itself.
pub(crate) fn plain(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let work = || -> Result<Vec<Row>> {
        for kind in &KINDS {
            create(lab, kind)?;
        }
        stop_all(lab)?;
        let mut rows = Vec::new();
        for cut in &CUTS {
            rows.extend(cut_once(lab, &KINDS, cut, || Ok(()))?);
        }
        Ok(rows)
    };
    let rows = work();
    let tidied = tidy(ctx, &KINDS);
    let mut rows = rows?;
    rows.sort_by_key(|r| KINDS.iter().position(|k| k.title == r.kind.title));
    print(ctx, &rows);
    tidied?;
    judge(&rows, |kind| kind.plain)
}

/// The same with the daemon, each type being the volume that it mounts.
pub(crate) fn with_daemon(ctx: &Ctx<'_>) -> Result<()> {
    let mut rows = Vec::new();
    let mut failed = Ok(());
    for kind in KINDS.chunks(1) {
        match one_kind(ctx, kind) {
            Ok(more) => rows.extend(more),
            Err(e) => {
                failed = Err(e.context(kind[0].title));
                break;
            }
        }
    }
    let tidied = tidy(ctx, &[]);
    print(ctx, &rows);
    failed.and(tidied)?;
    judge(&rows, |kind| kind.with_daemon)
}

fn one_kind(ctx: &Ctx<'_>, kinds: &'static [Kind]) -> Result<Vec<Row>> {
    on_volume(ctx, kinds, |whole| {
        let mut rows = Vec::new();
        for cut in &CUTS {
            rows.extend(cut_once(ctx.lab, kinds, cut, whole)?);
        }
        Ok(rows)
    })
}

/// Runs `work` with daemons that mount a volume of another type, one with an arbiter.
pub(super) fn on_arbiter<T>(ctx: &Ctx<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    on_volume(ctx, &KINDS[3..], |_| work())
}

/// Waits until the volume of [`on_arbiter`] has nothing to heal: another of its bricks may be lost then.
pub(super) fn arbiter_healed(lab: &Lab) -> Result<()> {
    in_split_brain(lab, &KINDS[3], "").map(drop)
}

/// Runs `work` with daemons that mount this volume; it gets a way to wait until all is whole.
fn on_volume<T>(
    ctx: &Ctx<'_>,
    kinds: &'static [Kind],
    work: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<T>,
) -> Result<T> {
    let lab = ctx.lab;
    let kind = &kinds[0];
    create(lab, kind)?;
    let whole = || steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90)).map(drop);
    let done = (|| {
        mount(lab, 0, kind)?;
        let at = mount_point(kind);
        lab.shell("gluster1", &format!("mkdir {at}/{SHARE} {at}/nfs; chmod 777 {at}/{SHARE} {at}/nfs"))?;
        unmount(lab, 0, kind)?;
        stop_all(lab)?;
        let own = format!("volume = \"{VOLUME}\"");
        let text = steadfast::config(&lab.site).replace(&own, &format!("volume = \"{}\"", kind.volume));
        parts::each_node(lab, |node| {
            lab.write(&site::name(node), CONFIG, &text)?;
            steadfast::start(lab, node)
        })?;
        whole()?;
        work(&whole)
    })();
    let tidied = tidy(ctx, kinds);
    let done = done?;
    tidied.map(|()| done)
}
