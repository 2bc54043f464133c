//! Real kernel clients: what a user's machine does while a server loses its power.

use super::Ctx;
use crate::site::{self, MOUNT, NFS_NAME, PASSWORD, SHARE, SMB_NAME, USER, VOLUME};
use crate::steadfast;
use crate::vm::Machine;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

const SLOW: Duration = Duration::from_secs(180);

/// A writer in the machine: numbered 4 KiB blocks through one open file, each written with O_SYNC.
fn writer(file: &str) -> String {
    format!(
        "i=0; while [ ! -e /tmp/stop ]; do printf '%04095d\\n' $i; i=$((i+1)); usleep 20000; done | dd of={file} bs=4096 iflag=fullblock oflag=sync 2>&1"
    )
}

/// Both mounts by name, a writer on each, the server behind each loses its power, one after the other.
pub(crate) fn power_off(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let begun = Instant::now();
    let mut vm = Machine::boot(lab, "192.168.122.50")?;
    ctx.figure(format!("virtual machine up in {:.1} s", begun.elapsed().as_secs_f64()));
    vm.run("for m in cifs nfsv3 nfsv4 nls_utf8 cmac ccm gcm sha512_generic aesni_intel; do modprobe $m; done; rpcbind; rpc.statd --no-notify; mkdir -p /mnt/smb /mnt/nfs", SLOW)?;
    vm.run(&format!("mount.cifs //{SMB_NAME}/{SHARE} /mnt/smb -o username={USER},password={PASSWORD},hard"), SLOW)?;
    vm.run(&format!("mount.nfs {NFS_NAME}:/{VOLUME} /mnt/nfs -o vers=3"), SLOW)?;
    let files = [
        ("SMB", "/mnt/smb/kernel-smb", format!("{SHARE}/kernel-smb")),
        ("NFS", "/mnt/nfs/nfs/kernel-nfs", "nfs/kernel-nfs".into()),
    ];
    let tickets = files.iter().map(|f| vm.start(&writer(f.1))).collect::<Result<Vec<_>>>()?;
    for (what, _, path) in &files {
        grows(ctx, path, 0, SLOW).with_context(|| format!("the {what} writer did not begin"))?;
    }
    let mounts = vm.run("cat /proc/mounts", SLOW)?;
    let mut cut = Vec::new();
    for (what, at) in [("NFS", " /mnt/nfs "), ("SMB", " /mnt/smb ")] {
        let line = mounts.lines().find(|l| l.contains(at)).with_context(|| format!("{at} is not mounted"))?;
        let address =
            line.split([',', ' ']).find_map(|o| o.strip_prefix("addr=")).context("no addr= in /proc/mounts")?;
        let on = lab.nodes_on()[0];
        let holder = steadfast::status(lab, on)?.holder(address).with_context(|| format!("nobody holds {address}"))?;
        lab.power_off(&site::name(holder))?;
        let begun = Instant::now();
        for (kind, _, path) in &files {
            let size = size(ctx, path)?;
            grows(ctx, path, size, Duration::from_secs(120)).with_context(|| format!("the {kind} writer is stuck"))?;
            ctx.figure(format!(
                "{} off (it served {what}): {kind} writes seen again after {:.1} s",
                site::name(holder),
                begun.elapsed().as_secs_f64()
            ));
        }
        cut.push(holder);
        // The next one only when this one's replicas are whole: both may hold the same files.
        steadfast::settle(lab)?;
    }
    vm.run("touch /tmp/stop", SLOW)?;
    for (ticket, (what, file, path)) in tickets.iter().zip(&files) {
        let (status, text) = vm.wait(ticket, SLOW)?;
        if status != 0 || text.to_lowercase().contains("error") {
            bail!("the {what} writer saw an error ({status}): {text}");
        }
        let blocks = size(ctx, path)? / 4096;
        let check = format!(
            "echo 3 >/proc/sys/vm/drop_caches; i=0; while [ $i -lt {blocks} ]; do printf '%04095d\\n' $i; i=$((i+1)); done | cmp - {file}"
        );
        vm.run(&check, SLOW).with_context(|| format!("the {what} writer's file is not what was written"))?;
        ctx.figure(format!("{what}: {blocks} blocks written through {} power cuts, all right", cut.len()));
    }
    let _ = vm.run("umount /mnt/smb; umount /mnt/nfs", Duration::from_secs(30));
    Ok(())
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
