//! A client over NFSv3 that writes what it is told, to the beginning of a file: one line of standard input after the other,
//! each until its server has it on stable storage. Says `W line time` for each.

use super::nfs3_lock::Side;
use super::{now_us, say};
use crate::args::NfsFile;
use anyhow::Result;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Writes until standard input closes.
pub(crate) fn main(file: &NfsFile) -> Result<i32> {
    let mut side = Side::open(file.server, &file.export, &file.path, "say", 0, &Arc::new(AtomicBool::new(false)))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        side.write(&format!("{line}\n"))?;
        say(&format!("W {line} {}", now_us()));
    }
    Ok(0)
}
