//! The clients that watch a fault: on an address of the node that it hits, and on one of another node.

use crate::bench::Placement;
use crate::lab::Lab;
use crate::probe::now_us;
use crate::probe::run::{Probe, Seen};
use crate::site::{self, CLIENT, MOUNT, Storage};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Running clients. Both writers' files are on the victim's brick, so that the storage of both is hit.
#[derive(Debug)]
pub(crate) struct Streams {
    tcp_moved: Probe,
    nfs_moved: Probe,
    tcp_unmoved: Probe,
    nfs_unmoved: Probe,
    pub(crate) moved_vip: String,
    pub(crate) unmoved_vip: String,
    moved_file: String,
    unmoved_file: String,
}

/// What they saw.
#[derive(Debug)]
pub(crate) struct Saw {
    pub(crate) tcp_moved: Seen,
    pub(crate) nfs_moved: Seen,
    pub(crate) tcp_unmoved: Seen,
    pub(crate) nfs_unmoved: Seen,
}

impl Saw {
    pub(crate) fn all(&self) -> [(&'static str, &Seen); 4] {
        let [a, b, c, d] = crate::bench::PROBES;
        [(a, &self.tcp_moved), (b, &self.nfs_moved), (c, &self.tcp_unmoved), (d, &self.nfs_unmoved)]
    }
}

impl Streams {
    /// Starts them and leaves them alone for `warm`: connections that the nodes have not told each other of are
    /// tickled by nobody.
    pub(crate) fn start(lab: &Lab, placement: &Placement, victim: usize, tag: &str, warm: Duration) -> Result<Self> {
        let moved_vip = placement
            .of(victim)
            .with_context(|| format!("{} holds no address that could move", site::name(victim)))?
            .to_owned();
        let others = (0..lab.site.nodes).filter(|&n| n != victim);
        let unmoved_vip =
            others.filter_map(|n| placement.of(n)).next().context("no other node holds an address")?.to_owned();
        let [moved_file, unmoved_file] = files_on(lab, victim, tag)?.map(|n| format!("nfs/{n}"));
        let [a, b, c, d] = crate::bench::PROBES;
        let all = Self {
            tcp_moved: Probe::tcp(lab, a, &moved_vip)?,
            nfs_moved: Probe::nfs_writer(lab, b, &moved_vip, &moved_file)?,
            tcp_unmoved: Probe::tcp(lab, c, &unmoved_vip)?,
            nfs_unmoved: Probe::nfs_writer(lab, d, &unmoved_vip, &unmoved_file)?,
            moved_vip,
            unmoved_vip,
            moved_file,
            unmoved_file,
        };
        all.each(0, Duration::from_secs(90))?;
        let begun = now_us();
        std::thread::sleep(warm);
        all.each(begun, Duration::from_secs(10))?;
        Ok(all)
    }

    fn each(&self, since_us: u64, limit: Duration) -> Result<()> {
        let end = std::time::Instant::now() + limit;
        for probe in [&self.tcp_moved, &self.nfs_moved, &self.tcp_unmoved, &self.nfs_unmoved] {
            probe.wait_ok(since_us, end.saturating_duration_since(std::time::Instant::now()))?;
        }
        Ok(())
    }

    /// Waits until all succeed again after the fault at `since_us`.
    pub(crate) fn wait_ok(&self, since_us: u64, limit: Duration) -> Result<()> {
        // A success reported within the fault's own moment is none.
        self.each(since_us + 200_000, limit)
    }

    /// Ends them; what they saw, and what must now be there.
    pub(crate) fn stop(self) -> Result<(Saw, Written)> {
        let files = [(self.moved_file, self.unmoved_vip), (self.unmoved_file, self.moved_vip)];
        let saw = Saw {
            tcp_moved: self.tcp_moved.stop()?,
            nfs_moved: self.nfs_moved.stop()?,
            tcp_unmoved: self.tcp_unmoved.stop()?,
            nfs_unmoved: self.nfs_unmoved.stop()?,
        };
        let blocks = [&saw.nfs_moved, &saw.nfs_unmoved].map(|s| s.extra.first().cloned().unwrap_or_default());
        Ok((saw, Written { files, blocks }))
    }
}

/// Two files with the number of blocks that were acknowledged, and the addresses that they were not written through.
#[derive(Debug)]
pub(crate) struct Written {
    files: [(String, String); 2],
    blocks: [String; 2],
}

impl Written {
    /// Reads every acknowledged block back through the other address.
    pub(crate) fn read_back(&self, lab: &Lab) -> Result<()> {
        for ((file, through), blocks) in self.files.iter().zip(&self.blocks) {
            if blocks.parse::<u64>().unwrap_or(0) == 0 {
                bail!("nothing was written to {file}");
            }
            let words =
                ["steadfast-lab", "probe", "nfs-verify", "--server", through, "--path", file, "--blocks", blocks];
            lab.exec(CLIENT, &words, Duration::from_secs(120))?;
        }
        Ok(())
    }

    /// Removes both, by way of a node's mount.
    pub(crate) fn remove(&self, lab: &Lab, node: usize) -> Result<()> {
        let [(a, _), (b, _)] = &self.files;
        lab.shell(&site::name(node), &format!("cd {MOUNT} && rm -f {a} {b}")).map(drop)
    }
}

/// Two file names in the NFS directory whose data is on `node`'s brick (any two, where there are no bricks).
pub(crate) fn files_on(lab: &Lab, node: usize, tag: &str) -> Result<[String; 2]> {
    let host = site::name(node);
    if lab.site.storage == Storage::Local {
        return Ok([format!("{tag}-a"), format!("{tag}-b")]);
    }
    let names: Vec<String> = (0..16).map(|i| format!("{tag}-{i}")).collect();
    let list = names.join(" ");
    lab.shell(&host, &format!("cd {MOUNT}/nfs && rm -f {list} && touch {list} && chmod 666 {list}"))?;
    let brick = lab.shell(&host, "ls /data/brick/b/nfs")?;
    let mut here = names.into_iter().filter(|n| brick.lines().any(|l| l == n));
    match (here.next(), here.next()) {
        (Some(a), Some(b)) => Ok([a, b]),
        _ => bail!("fewer than two of sixteen files are on {host}'s brick"),
    }
}
