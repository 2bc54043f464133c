//! Samba hears of an address that is to move while it is still there.

use super::Ctx;
use crate::{sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const PROBE: [&str; 3] = ["/usr/local/sbin/steadfast-lab", "probe", "told"];
const ROUNDS: usize = 5;
/// Between moves; as in the other tests of planned moves.
const APART: Duration = Duration::from_millis(2500);

/// All addresses go off a node and come back, again and again: a client of its databases that listens as smbd does has
/// the news in its socket before the kernel says that the address is gone.
pub(crate) fn before_it_leaves(ctx: &Ctx<'_>) -> Result<()> {
    let (lab, node) = (ctx.lab, 1);
    let host = site::name(node);
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    let mut child = lab.command(&host, &PROBE)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().context("no way to hear the probe")?;
    let (line, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).take_while(|text| line.send(text.clone()).is_ok()).count()
    });
    let done = rounds(ctx, node, &all, &lines);
    sh::kill_group(&mut child);
    let (before, late) = done?;
    ctx.figure(format!("{before} addresses left after Samba was told of them, {late} too early"));
    if before + late == 0 {
        bail!("no address has left {host}");
    }
    if late > 0 {
        bail!("of {} addresses {late} left before Samba was told, allowed are 0", before + late);
    }
    Ok(())
}

fn rounds(ctx: &Ctx<'_>, node: usize, all: &[usize], lines: &Receiver<String>) -> Result<(usize, usize)> {
    let first = lines.recv_timeout(Duration::from_secs(30)).context("the probe says nothing")?;
    if first != "ready" {
        bail!("the probe says: {first}");
    }
    let (mut before, mut late) = (0, 0);
    for _ in 0..ROUNDS {
        let here = steadfast::status(ctx.lab, 0)?.held_by(node).len();
        let command = |word: &str| {
            let words = ["steadfast", word, &site::name(node)];
            ctx.lab.exec(&site::name(0), &words, Duration::from_secs(30)).map(drop)
        };
        command("drain")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut left = 0;
        while left < here {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(text) if text.starts_with("B ") => before += 1,
                Ok(text) if text.starts_with("L ") => late += 1,
                Ok(text) => bail!("the probe says: {text}"),
                Err(RecvTimeoutError::Timeout) => bail!("{left} of {here} addresses have left within 30 s"),
                Err(RecvTimeoutError::Disconnected) => bail!("the probe has ended"),
            }
            left += 1;
        }
        std::thread::sleep(APART);
        command("resume")?;
        steadfast::wait_whole(ctx.lab, all, Duration::from_secs(60))?;
    }
    Ok((before, late))
}
