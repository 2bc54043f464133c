//! The NFSv3 writer: one file, one block after the other, each on stable storage before the next, as an application
//! with O_SYNC on a hard mount.

use super::nfs_status::NfsStatus;
use super::nfs3::{Client, JUKEBOX};
use super::{Recorder, Spec, pause};
use crate::now_us;
use anyhow::{Context, Result};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of one write.
pub const BLOCK: usize = 4096;

/// Block `n` of file `name`: a xorshift stream, so that whoever knows both can check it.
#[must_use]
pub fn block(name: &str, n: u64) -> Vec<u8> {
    let mut x = name.bytes().fold(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15), |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    }) | 1;
    let mut out = Vec::with_capacity(BLOCK);
    while out.len() < BLOCK {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend(x.to_le_bytes());
    }
    out
}

pub(super) fn run(spec: &Spec, vip: IpAddr, name: &str, record: &Recorder, stop: &Arc<AtomicBool>) {
    match write(spec, vip, name, record, stop) {
        Ok(blocks) => match compare(spec, vip, name, blocks) {
            Ok(()) => record.compared(blocks * BLOCK as u64),
            Err(e) => record.wrong(format!("{e:#}")),
        },
        Err(e) => record.wrong(format!("{e:#}")),
    }
}

fn write(spec: &Spec, vip: IpAddr, name: &str, record: &Recorder, stop: &Arc<AtomicBool>) -> Result<u64> {
    let (mut client, root) = Client::mount(vip, &spec.export, Arc::clone(stop))?;
    let directory = client.walk(&root, &spec.directory)?;
    let file = client.create(&directory, name)?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = now_us();
        match client.write(&file, n * BLOCK as u64, &block(name, n)) {
            Ok(0) => {
                n += 1;
                record.ok(begun);
            }
            // No error for any application: the client waits and asks again.
            Ok(JUKEBOX) => pause(Duration::from_millis(100), stop),
            Ok(status) => record.failed(&NfsStatus(status).to_string()),
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(e) => record.failed(&format!("{e:#}")),
        }
        pause(Duration::from_millis(10), stop);
    }
    Ok(n)
}

/// Reads the first `blocks` blocks back, compares, and removes the file.
fn compare(spec: &Spec, vip: IpAddr, name: &str, blocks: u64) -> Result<()> {
    let (mut client, root) = Client::mount(vip, &spec.export, Arc::new(AtomicBool::new(false)))?;
    let directory = client.walk(&root, &spec.directory)?;
    let file = client.lookup(&directory, name)?.with_context(|| format!("{name} is not there"))?;
    let mut wrong = 0;
    for n in 0..blocks {
        let (status, data) = client.read(&file, n * BLOCK as u64, BLOCK as u32)?;
        wrong += u64::from(status != 0 || data != block(name, n));
    }
    anyhow::ensure!(wrong == 0, "{wrong} of {blocks} acknowledged blocks of {name} are not there or wrong");
    client.remove(&directory, name)
}
