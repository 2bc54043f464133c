//! What a node's bricks have that its partner lacks: told while it is so, and only then.

use super::Ctx;
use crate::site::{self, MOUNT};
use crate::{parts, sh, steadfast};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// The pair of the reference site's volume that the test is about: the first two.
const STAYS: usize = 0;
const LEAVES: usize = 1;
/// Files for each step; about half of them are on the pair.
const FILES: usize = 40;

/// What status on `asked` says of nodes that must not go down.
fn told(ctx: &Ctx<'_>, asked: usize) -> Result<Vec<(usize, String)>> {
    let status = steadfast::status(ctx.lab, asked)?;
    let mut all = Vec::new();
    for (node, n) in status.snapshot.nodes {
        all.extend(n.warnings.into_iter().filter(|w| w.contains("do not take")).map(|w| (node, w)));
    }
    Ok(all)
}

fn write_files(ctx: &Ctx<'_>, tag: &str) -> Result<()> {
    let line = format!("for i in $(seq {FILES}); do echo {tag} >{MOUNT}/nfs/heal-{tag}-$i; done");
    ctx.lab.shell(&site::name(3), &line).map(drop)
}

/// One of a pair is away while files are written: the other must not be taken down until they are healed, says the
/// status of another node, and drain asks. Nothing of the kind is said of a volume that is whole and written to.
pub(crate) fn are_told(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(15) {
        write_files(ctx, "whole")?;
        if let Some((node, warning)) = told(ctx, 3)?.first() {
            bail!("nothing is away, and {} says: {warning}", site::name(*node));
        }
    }
    let (stays, leaves) = (site::name(STAYS), site::name(LEAVES));
    lab.power_off(&leaves)?;
    steadfast::wait_whole(lab, &ctx.but(LEAVES), Duration::from_secs(60))?;
    write_files(ctx, "away")?;
    let written = Instant::now();
    let warning = sh::wait_for("the warning not to take the partner down", Duration::from_secs(60), || {
        let told = told(ctx, 3)?;
        Ok(told.into_iter().find_map(|(node, warning)| (node == STAYS).then_some(warning)))
    })?;
    ctx.figure(format!("told {:.1} s after the last write: {warning}", written.elapsed().as_secs_f64()));
    if !warning.contains("only good copy") {
        bail!(
            "the volume keeps two copies, and the warning does not say that {stays} has the only good one: {warning}"
        );
    }
    let drain = lab.try_exec(&site::name(3), &["steadfast", "drain", &stays], Duration::from_secs(60))?;
    if drain.ok() || !drain.stderr.contains("nothing was done") {
        bail!("drain of {stays} did not ask: {}", drain.text());
    }
    parts::boot(lab, LEAVES)?;
    steadfast::start(lab, LEAVES)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(120))?;
    parts::wait_healed(lab, Duration::from_secs(180))?;
    let healed = Instant::now();
    sh::wait_for("the warning to go when all is healed", Duration::from_secs(60), || {
        Ok(told(ctx, 3)?.is_empty().then_some(()))
    })
    .with_context(|| steadfast::status_text(lab, 3))?;
    ctx.figure(format!("gone {:.1} s after `heal info` shows nothing", healed.elapsed().as_secs_f64()));
    Ok(())
}
