//! Real kernel clients: what a user's machine does while a server loses its power.

use super::Ctx;
use crate::site::{self, MOUNT, NFS_NAME, PASSWORD, SHARE, SMB_NAME, USER, VOLUME};
use crate::steadfast;
use crate::vm::Machine;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Mounts until NFS is served by the address that serves SMB: the name gives its addresses in turn.
const TRIES: usize = 8;
const BLOCK: u64 = 4096;

/// A writer in the machine: numbered 4 KiB blocks through one open file, each written with O_SYNC.
fn writer(file: &str) -> String {
    format!(
        "i=0; while [ ! -e /tmp/stop ]; do printf '%04095d\\n' $i; i=$((i+1)); usleep 20000; done | dd of={file} bs=4096 iflag=fullblock oflag=sync 2>&1"
    )
}

/// Both mounts by name, from one server if it can be had, a writer on each; that server loses its power.
pub(crate) fn power_off(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let begun = Instant::now();
    let mut vm = Machine::boot(lab, "192.168.122.50")?;
    ctx.figure(format!("virtual machine up in {:.1} s", begun.elapsed().as_secs_f64()));
    let done = client_of_two_mounts(ctx, &mut vm);
    done.with_context(|| format!("the machine's kernel said last:\n{}", kernel_log(&mut vm)))
}

fn client_of_two_mounts(ctx: &Ctx<'_>, vm: &mut Machine) -> Result<()> {
    let lab = ctx.lab;
    vm.run("for m in cifs nfsv3 nfsv4 nls_utf8 cmac ccm gcm sha512_generic aesni_intel; do modprobe $m; done; rpcbind; rpc.statd --no-notify; mkdir -p /mnt/smb /mnt/nfs", LIMIT)?;
    let begun = Instant::now();
    vm.run(&format!("mount.cifs //{SMB_NAME}/{SHARE} /mnt/smb -o username={USER},password={PASSWORD},hard"), LIMIT)?;
    let smb_from = server_of(vm, "/mnt/smb")?;
    let mut nfs_from = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            vm.run("umount /mnt/nfs", LIMIT)?;
        }
        vm.run(&format!("mount.nfs {NFS_NAME}:/{VOLUME} /mnt/nfs -o vers=3"), LIMIT)?;
        nfs_from = server_of(vm, "/mnt/nfs")?;
        if nfs_from == smb_from {
            break;
        }
    }
    ctx.figure(format!(
        "cifs from {smb_from}, nfs from {nfs_from}, by their names, in {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let files = [
        ("SMB", "/mnt/smb/kernel-smb", format!("{SHARE}/kernel-smb")),
        ("NFS", "/mnt/nfs/nfs/kernel-nfs", "nfs/kernel-nfs".into()),
    ];
    let tickets = files.iter().map(|f| vm.start(&writer(f.1))).collect::<Result<Vec<_>>>()?;
    for (what, _, path) in &files {
        grows(ctx, path, 50 * BLOCK, LIMIT).with_context(|| format!("the {what} writer did not begin"))?;
    }
    let victim = steadfast::status(lab, 0)?.holder(&smb_from).with_context(|| format!("nobody holds {smb_from}"))?;
    ctx.watched(|| {
        lab.power_off(&site::name(victim))?;
        let begun = Instant::now();
        for (what, _, path) in &files {
            // More than what may have been on its way when the power went.
            let more = size(ctx, path)? + 10 * BLOCK;
            grows(ctx, path, more, LIMIT).with_context(|| format!("the {what} writer is stuck"))?;
            let ms = begun.elapsed().as_secs_f64() * 1000.0;
            ctx.bound(&format!("{} off: {what}, ten more blocks written after", site::name(victim)), ms, 90_000.0)?;
        }
        steadfast::wait_whole(lab, &lab.nodes_on(), LIMIT).map(drop)
    })?;
    vm.run("touch /tmp/stop", LIMIT)?;
    for (ticket, (what, file, path)) in tickets.iter().zip(&files) {
        let (status, text) = vm.wait(ticket, LIMIT)?;
        if status != 0 || text.to_lowercase().contains("error") {
            bail!("the {what} writer saw an error ({status}): {text}");
        }
        let blocks = size(ctx, path)? / BLOCK;
        if blocks == 0 {
            bail!("the {what} writer's file is empty");
        }
        let check = format!(
            "echo 3 >/proc/sys/vm/drop_caches; i=0; while [ $i -lt {blocks} ]; do printf '%04095d\\n' $i; i=$((i+1)); done | cmp - {file}"
        );
        vm.run(&check, LIMIT).with_context(|| format!("the {what} writer's file is not what was written"))?;
        ctx.figure(format!("{what}: {blocks} blocks, each written with O_SYNC, read back as written"));
    }
    let log = kernel_log(vm);
    if let Some(line) = log.lines().find(|l| l.to_lowercase().contains("i/o error")) {
        bail!("the machine's kernel saw an I/O error: {line}");
    }
    // It may take its time when the lost server is not back yet, and nothing depends on it.
    let _ = vm.run("umount /mnt/smb; umount /mnt/nfs", Duration::from_secs(30));
    Ok(())
}

/// The address that a mount of the machine is served from.
fn server_of(vm: &mut Machine, mount: &str) -> Result<String> {
    let mounts = vm.run("cat /proc/mounts", LIMIT)?;
    let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(mount));
    let line = line.with_context(|| format!("{mount} is not mounted:\n{mounts}"))?;
    let address = line.split([',', ' ']).find_map(|o| o.strip_prefix("addr="));
    Ok(address.with_context(|| format!("no addr= in {line}"))?.to_owned())
}

fn kernel_log(vm: &mut Machine) -> String {
    vm.run("dmesg | tail -20", Duration::from_secs(20)).unwrap_or_else(|e| format!("{e:#}"))
}

/// Size of a file of the volume, on a node that is on.
fn size(ctx: &Ctx<'_>, path: &str) -> Result<u64> {
    let node = *ctx.lab.nodes_on().first().context("no node is on")?;
    let line = format!("timeout 30 stat -c %s {MOUNT}/{path} 2>/dev/null || echo 0");
    Ok(ctx.lab.shell(&site::name(node), &line)?.trim().parse().unwrap_or(0))
}

fn grows(ctx: &Ctx<'_>, path: &str, from: u64, limit: Duration) -> Result<()> {
    crate::sh::wait_for(&format!("{path} to grow"), limit, || Ok((size(ctx, path)? > from).then_some(())))
}
