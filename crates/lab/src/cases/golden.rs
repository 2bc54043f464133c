//! Debian's `ctdb` asks this daemon what it asks Debian's ctdbd, in the same state.

use super::{Ctx, many};
use crate::golden::{Daemons, Outcome, Stock, differences, transcript};
use crate::site::{Storage, Subject};
use crate::{parts, steadfast};
use anyhow::{Result, bail};

/// What Debian's own daemons answer; a second cluster of them must answer the same, or the comparison means nothing.
fn of_stock(ctx: &Ctx<'_>, name: &str) -> Result<Vec<Outcome>> {
    parts::check_programs(Storage::Local, Subject::Ctdb)?;
    transcript(&Stock::start(ctx.lab.base.join(name))?)
}

fn judge(ctx: &Ctx<'_>, found: &[String], of: usize) -> Result<()> {
    let dir = crate::artifacts("lab-logs");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("ctdb-tool-golden.txt");
    std::fs::write(&file, found.join("\n\n") + "\n")?;
    ctx.figure(format!("{of} commands, {} answered differently", found.len()));
    if !found.is_empty() {
        bail!("the tool sees a difference in {} commands ({}):\n{}", found.len(), file.display(), found.join("\n"));
    }
    Ok(())
}

/// Two clusters of Debian's ctdbd: every difference is one that the comparison should have left out.
pub(crate) fn stock_twice(ctx: &Ctx<'_>) -> Result<()> {
    let (first, second) = (of_stock(ctx, "golden-1")?, of_stock(ctx, "golden-2")?);
    judge(ctx, &differences(("first", &first), ("second", &second)), first.len())
}

/// This laboratory's daemons beside Debian's.
pub(crate) fn beside_stock(ctx: &Ctx<'_>) -> Result<()> {
    let theirs = of_stock(ctx, "golden")?;
    let daemons = Daemons::new(ctx.lab)?;
    let config = steadfast::config(&ctx.lab.site);
    many::put(ctx, &format!("{config}\n[events]\nenabled = true\n"))?;
    let ours = transcript(&daemons);
    many::put(ctx, &config)?;
    let ours = ours?;
    judge(ctx, &differences(("ctdb", &theirs), ("steadfast", &ours)), theirs.len())
}
