//! Files over both protocols, through every address and both names.

use super::Ctx;
use crate::sh;
use crate::site::{NFS_NAME, SHARE, SMB_NAME, VOLUME, ZONE};
use crate::{files, parts, steadfast};
use anyhow::{Result, bail};
use std::time::Duration;

/// Put and get over SMB and NFS through each VIP and both names; written through one, read through another, by the
/// other protocol.
pub(crate) fn through_each_vip_and_name(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let login = files::smb_login();
    let mut servers = lab.site.vips();
    servers.push("by-name".into());
    lab.client("cd /tmp; for n in 1 2; do head -c 1500000 /dev/urandom >file$n; done")?;
    let smb = |server: &str| {
        if server == "by-name" { SMB_NAME.to_owned() } else { server.to_owned() }
    };
    let nfs = |server: &str| {
        if server == "by-name" { NFS_NAME.to_owned() } else { server.to_owned() }
    };
    for (i, server) in servers.iter().enumerate() {
        let other = &servers[(i + 1) % servers.len()];
        let (to_smb, from_nfs) = (smb(server), nfs(other));
        lab.client(&format!("cd /tmp; smbclient -U {login} //{to_smb}/{SHARE} -c 'put file1 s{i}' >/dev/null 2>&1"))?;
        compare(ctx, &format!("nfs-cat nfs://{from_nfs}/{VOLUME}/{SHARE}/s{i} | cmp - /tmp/file1"))?;
        let (to_nfs, from_smb) = (nfs(server), smb(other));
        let name = parts::nfs_put(lab, &to_nfs, "/tmp/file2", &format!("{SHARE}/n{i}"))?;
        let name = name.trim_start_matches(SHARE).trim_start_matches('/');
        compare(
            ctx,
            &format!(
                "cd /tmp; smbclient -U {login} //{from_smb}/{SHARE} -c 'get {name} back' >/dev/null 2>&1; cmp back file2; rm back"
            ),
        )?;
    }
    ctx.figure(format!("{} servers, 1.5 MB each way over SMB and NFS, read back through the next one", servers.len()));
    lab.client(&format!("smbclient -U {login} //{SMB_NAME}/{SHARE} -c 'ls' | grep -q s0"))?;
    lab.client(&format!("nfs-ls nfs://{NFS_NAME}/{VOLUME}/{SHARE} | grep -q n0"))?;
    lab.client(&format!(
        "smbclient -U {login} //{SMB_NAME}/{SHARE} -c 'prompt off; mask \"\"; del s*; del n*' >/dev/null 2>&1"
    ))?;
    Ok(())
}

fn compare(ctx: &Ctx<'_>, line: &str) -> Result<()> {
    ctx.lab.client(line).map(drop)
}

/// Both names, at every node and VIP, over UDP and TCP: the hosted addresses, never more; and the negative answers.
pub(crate) fn names(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let site = &lab.site;
    let mut servers = site.vips();
    servers.extend((0..site.nodes).map(|n| site.public(n)));
    let mut expected = site.vips();
    expected.sort();
    for server in &servers {
        for name in [NFS_NAME, SMB_NAME] {
            for tcp in ["+notcp", "+tcp"] {
                let line = format!("dig {tcp} +time=2 +tries=2 +short @{server} {name}.{ZONE} A | sort");
                let got = lab.client(&line)?;
                let got: Vec<&str> = got.split_whitespace().collect();
                if got != expected {
                    bail!("{server} says {name} is {got:?}; hosted and healthy are {expected:?}");
                }
            }
        }
    }
    let vip = &site.vips()[0];
    let full = lab.client(&format!("dig +time=2 @{vip} {NFS_NAME}.{ZONE} A"))?;
    if !full.contains("flags: qr aa") {
        bail!("the answer is not authoritative:\n{full}");
    }
    for (question, status) in [("nobody A", "NXDOMAIN"), ("glusternfs TXT", "NOERROR")] {
        let (name, kind) = question.split_once(' ').unwrap_or((question, "A"));
        let text = lab.client(&format!("dig +time=2 @{vip} {name}.{ZONE} {kind}"))?;
        if !text.contains(&format!("status: {status}")) || !text.contains("SOA") || !text.contains("ANSWER: 0") {
            bail!("{question}: wanted {status} with the SOA and no answer, got:\n{text}");
        }
    }
    let elsewhere = lab.client(&format!("dig +time=2 @{vip} example.org A"))?;
    if !elsewhere.contains("status: REFUSED") {
        bail!("a foreign name is not refused:\n{elsewhere}");
    }
    let first = lab.client(&format!(
        "for i in 1 2 3 4 5 6 7 8; do dig +short @{vip} {NFS_NAME}.{ZONE} A | head -1; done | sort -u | wc -l"
    ))?;
    if first.trim().parse::<usize>().unwrap_or(0) < 2 && site.nodes > 1 {
        bail!("answers are not rotated: always the same address first");
    }
    // A drained node's address is given out by its new holder only; the set stays whole.
    sh::wait_for("the cluster to be whole", Duration::from_secs(30), || {
        Ok(steadfast::status(lab, 0)?.not_whole(&lab.nodes_on()).is_none().then_some(()))
    })?;
    ctx.figure(format!("{} servers asked for 2 names over UDP and TCP", servers.len()));
    Ok(())
}
