//! The NFSv3 writer: one file, one block after the other, each on stable storage before the next.
//!
//! Block `n` is a function of the file's name and `n`, so that another program can check later that every
//! acknowledged block is there, whatever happened in between.

use super::{Gaps, say, stop_flag};
use crate::args::NfsFile;
use anyhow::{Context, Result, bail};
use drill::clients::nfs3::{Client, JUKEBOX};
use drill::clients::{BLOCK, block};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn split(path: &str) -> Result<(&str, &str)> {
    path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))
}

/// Writes until standard input closes. The last line tells how many blocks were acknowledged.
pub(crate) fn main(file: &NfsFile, interval: Duration) -> Result<i32> {
    let NfsFile { server, export, path } = file;
    let stop = stop_flag();
    let (directory, name) = split(path)?;
    let begin = || -> Result<(Client, Vec<u8>)> {
        let (mut client, root) = Client::mount(*server, export, Arc::clone(&stop))?;
        let directory = client.walk(&root, directory)?;
        let file = client.create(&directory, name)?;
        Ok((client, file))
    };
    let (mut client, file) = match begin() {
        Ok(found) => found,
        Err(e) => {
            say(&format!("F {e:#}"));
            return Ok(1);
        }
    };
    let mut gaps = Gaps::new(80);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        match client.write(&file, n * BLOCK as u64, &block(name, n)) {
            Ok(0) => {
                if !client.trouble.is_empty() {
                    let why = std::mem::take(&mut client.trouble);
                    say(&format!("R {why}"));
                }
                n += 1;
                gaps.success("-");
            }
            // Not an error for any application: the client waits and asks again.
            Ok(JUKEBOX) => std::thread::sleep(Duration::from_millis(100)),
            Ok(status) => gaps.failure(&format!("NFS status {status}")),
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(e) => gaps.failure(&format!("{e:#}")),
        }
        std::thread::sleep(interval);
    }
    gaps.end(&format!("{n} {}", client.reconnects));
    Ok(0)
}

/// Reads the first `blocks` blocks back and compares; prints what is wrong.
pub(crate) fn verify(file: &NfsFile, blocks: u64) -> Result<i32> {
    let NfsFile { server, export, path } = file;
    let stop = Arc::new(AtomicBool::new(false));
    let (directory, name) = split(path)?;
    let (mut client, root) = Client::mount(*server, export, stop)?;
    let directory = client.walk(&root, directory)?;
    let file = client.lookup(&directory, name)?.with_context(|| format!("{path} is not there"))?;
    let mut wrong = Vec::new();
    for n in 0..blocks {
        let (status, data) = client.read(&file, n * BLOCK as u64, BLOCK as u32)?;
        if status != 0 || data != block(name, n) {
            wrong.push(n);
        }
    }
    if !wrong.is_empty() {
        bail!("{path} by way of {server}: {} of {blocks} blocks are wrong, first {}", wrong.len(), wrong[0]);
    }
    println!("{path}: {blocks} blocks are right");
    Ok(0)
}
