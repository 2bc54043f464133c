//! The clients of a round, and what they tell at its end.

use super::history::{self, Hold, Increment};
use super::nfs_count::{Counters, Counts, Nfs};
use super::report::Report;
use super::smb::{self, ALONE, Notes, RANGE, STALL_US, Who, ZERO};
use crate::drill::spec;
use crate::lab::Lab;
use crate::probe::run::{Gap, Probe};
use crate::site::{CLIENT, MOUNT, SHARE, Storage, VOLUME};
use crate::smb::{Session, Sharing};
use ::drill::clients::BLOCK;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// To read a round's files back, on a machine that has other things to do.
const READING: Duration = Duration::from_secs(600);

/// What is falsified on purpose, to see that the checkers say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Planted {
    /// One SMB client counts without the lock
    Lawless,
    /// The counter is set back by one before it is read at the end
    LostIncrement,
    /// One byte of an acknowledged block of an SMB client is changed
    OldByte,
    /// The same, of an NFSv3 client
    OldNfsByte,
}

impl Planted {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Lawless => "lawless",
            Self::LostIncrement => "lost-increment",
            Self::OldByte => "old-byte",
            Self::OldNfsByte => "old-nfs-byte",
        }
    }
}

/// On every address an SMB client, an NFSv3 and an NFSv4 writer, and clients of both that count.
pub(super) struct Clients {
    tag: String,
    vips: Vec<String>,
    stop: Arc<AtomicBool>,
    smb: Vec<JoinHandle<Notes>>,
    nfs3: Vec<Probe>,
    nfs4: ::drill::Clients,
    nfs_counters: [Counters; 2],
    planted: Option<Planted>,
}

fn counter(tag: &str) -> String {
    format!("{tag}-counter")
}

fn own(tag: &str, i: usize) -> String {
    format!("{tag}-smb-{i}")
}

/// Who counts in which file. On GlusterFS, Ganesha's locks are not to be relied on between clients of different nodes
/// (`docs/nfs.md`): there two clients of each address, which is on one node at a time, have a file of their own.
fn counting(storage: Storage, tag: &str, nfs: Nfs, vips: &[String]) -> Vec<Counts> {
    let counts = |vip: &String, i: usize| Counts {
        server: vip.clone(),
        file: format!("nfs/{tag}-{}-counter-{i}", nfs.word().to_lowercase()),
    };
    match storage {
        Storage::Local => vips.iter().map(|vip| counts(vip, 0)).collect(),
        Storage::Gluster => vips.iter().enumerate().flat_map(|(i, vip)| [counts(vip, i), counts(vip, i)]).collect(),
    }
}

fn nfs_file(tag: &str, i: usize) -> String {
    format!("{tag}-nfs-{i}")
}

impl Clients {
    pub(super) fn start(lab: &Lab, tag: &str, planted: Option<Planted>) -> Result<Self> {
        let vips = lab.site.vips();
        let mut first = Session::locking(lab, &vips[0])?;
        let handle = first.create(&counter(tag), Sharing::All)?.handle()?;
        first.put(&handle, 0, ZERO)?.handle()?;
        let stop = Arc::new(AtomicBool::new(false));
        let nfs4 = spec(vips.iter().map(|v| v.parse()).collect::<Result<_, _>>()?, &["nfs4"], tag.to_owned());
        let command = lab.command(CLIENT, &["/usr/local/sbin/steadfast-lab", "probe", "drill"])?;
        let mut nfs4 = ::drill::Clients::start(command, &nfs4)?;
        let mut nfs3 = Vec::new();
        for (i, vip) in vips.iter().enumerate() {
            nfs3.push(Probe::nfs_writer(lab, &format!("nfs{i}"), vip, &format!("nfs/{}", nfs_file(tag, i)))?);
        }
        for probe in &nfs3 {
            probe.wait_ok(0, PATIENCE)?;
        }
        if let Some(why) = nfs4.wait(0, PATIENCE)? {
            bail!("{why}");
        }
        let counters = |nfs| Counters::start(lab, nfs, counting(lab.site.storage, tag, nfs, &vips));
        let nfs_counters = [counters(Nfs::V3)?, counters(Nfs::V4)?];
        let who = |(i, vip): (usize, &String)| Who {
            index: i,
            vip: vip.clone(),
            counter: counter(tag),
            alone: format!("{tag}-alone"),
            own: own(tag, i),
            lawless: i == 0 && planted == Some(Planted::Lawless),
        };
        let smb = vips.iter().enumerate().map(who).map(|who| smb::start(lab, who, &stop)).collect();
        Ok(Self { tag: tag.to_owned(), vips, stop, smb, nfs3, nfs4, nfs_counters, planted })
    }

    /// No client has an NFSv3 lock, or takes one, before [`Self::go`].
    pub(super) fn rest(&mut self) -> Result<()> {
        self.nfs3_counters().try_for_each(Counters::rest)
    }

    pub(super) fn go(&mut self) -> Result<()> {
        self.nfs3_counters().try_for_each(Counters::go)
    }

    /// The address of a client that counts under an NFSv3 lock now.
    pub(super) fn with_nfs3_lock(&self) -> Option<&str> {
        self.nfs_counters.iter().filter(|counters| counters.nfs == Nfs::V3).find_map(Counters::counts)
    }

    fn nfs3_counters(&mut self) -> impl Iterator<Item = &mut Counters> {
        self.nfs_counters.iter_mut().filter(|counters| counters.nfs == Nfs::V3)
    }

    /// Ends them, reads everything back through addresses that it was not written through, judges, and removes the files.
    pub(super) fn finish(self, lab: &Lab, report: &mut Report) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut holds, mut increments, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for (i, client) in self.smb.into_iter().enumerate() {
            let Ok(notes) = client.join() else {
                bail!("the thread of SMB client {i} has panicked");
            };
            blocks.push(notes.blocks);
            if notes.blocks == 0 || !notes.holds.iter().any(|h| h.of == ALONE) {
                report.stuck(format!("SMB client {i}: {} blocks, or never a file alone, in the round", notes.blocks));
            }
            tell(report, i, Kind::Smb, notes, &mut holds, &mut increments);
        }
        let mut counted = Vec::new();
        for counters in self.nfs_counters {
            let nfs = counters.nfs;
            let mut files: BTreeMap<String, (Vec<Hold>, Vec<Increment>)> = BTreeMap::new();
            match counters.stop() {
                Ok(all) => {
                    for (i, (file, notes)) in all.into_iter().enumerate() {
                        let [_, _, taken_back, lost] = nfs.kinds();
                        report.did(taken_back, notes.taken_back);
                        report.did(lost, notes.lost);
                        let (holds, increments) = files.entry(file).or_default();
                        tell(report, i, Kind::Nfs(nfs), notes, holds, increments);
                    }
                }
                Err(e) => report.stuck(format!("{e:#}")),
            }
            for (file, (holds, increments)) in files {
                report.did(nfs.kinds()[1], holds.len() as u64);
                report.violations.extend(history::two_owners(&holds));
                counted.push((nfs, file, increments));
            }
        }
        let mut nfs = Vec::new();
        for probe in self.nfs3 {
            nfs.push(tell_nfs3(report, probe)?);
        }
        match self.nfs4.stop(READING) {
            Ok(streams) => streams.into_iter().for_each(|stream| tell_nfs4(report, stream)),
            Err(e) => report.stuck(format!("the NFSv4 clients: {e:#}")),
        }
        for (what, of) in [("SMB locks", RANGE), ("SMB files opened alone", ALONE)] {
            report.did(what, holds.iter().filter(|h| h.of == of).count() as u64);
        }
        report.violations.extend(history::two_owners(&holds));
        plant(lab, &self.tag, self.planted)?;
        for i in 0..self.vips.len() {
            // Not the address that it was written through.
            let through = &self.vips[(i + 1) % self.vips.len()];
            read_back(lab, report, through, &format!("{SHARE}/{}", own(&self.tag, i)), blocks[i]);
            read_back(lab, report, through, &format!("nfs/{}", nfs_file(&self.tag, i)), nfs[i]);
        }
        let smb: Vec<u64> = self.vips.iter().map(|vip| smb_shows(lab, vip, &self.tag)).collect::<Result<_>>()?;
        let mut counters = vec![("SMB", smb, increments)];
        for (nfs, file, increments) in counted {
            let shown: Vec<u64> = self.vips.iter().map(|vip| nfs_shows(lab, vip, &file)).collect::<Result<_>>()?;
            counters.push((nfs.word(), shown, increments));
        }
        for (what, mut shown, increments) in counters {
            shown.dedup();
            match shown[..] {
                [last] => {
                    let wrong = history::counter(&increments, last);
                    if !wrong.is_empty() {
                        report.histories.push(history::table(&increments, report.began_us));
                    }
                    report.violations.extend(wrong.into_iter().map(|w| format!("{what} counter: {w}")));
                }
                _ => {
                    report.violations.push(format!("{what} counter: not the same through all addresses: {shown:?}"));
                }
            }
        }
        if report.violations.is_empty() {
            lab.shell("gluster1", &format!("cd {MOUNT} && rm -f {SHARE}/{0}-* nfs/{0}-*", self.tag))?;
        }
        Ok(())
    }
}

/// What the counter is, through an address.
fn smb_shows(lab: &Lab, vip: &str, tag: &str) -> Result<u64> {
    let mut session = Session::locking(lab, vip)?;
    let handle = session.create(&counter(tag), Sharing::All)?.handle()?;
    smb::number(&mut session, &handle)
}

/// As [`smb_shows`], of a counter of NFS clients.
fn nfs_shows(lab: &Lab, vip: &str, file: &str) -> Result<u64> {
    let url = format!("nfs://{vip}/{VOLUME}/{file}");
    let text = lab.exec(CLIENT, &["nfs-cat", &url], PATIENCE)?;
    text.trim().parse().with_context(|| format!("{url} holds {text}"))
}

/// Who counts.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Smb,
    Nfs(Nfs),
}

fn tell(
    report: &mut Report,
    i: usize,
    kind: Kind,
    notes: Notes,
    holds: &mut Vec<Hold>,
    increments: &mut Vec<Increment>,
) {
    let (what, counted) = match kind {
        Kind::Smb => ("SMB", "SMB increments"),
        Kind::Nfs(nfs) => (nfs.kinds()[1], nfs.kinds()[0]),
    };
    let known = notes.increments.iter().filter(|i| i.known).count() as u64;
    report.did(counted, known);
    report.unknown_increments += notes.increments.len() as u64 - known;
    if notes.blocks > 0 {
        report.did("SMB blocks", notes.blocks);
    }
    report.bytes_compared += notes.compared;
    report.reconnects += notes.reconnects;
    report.stall(what, notes.stalls, notes.longest_us as f64 / 1000.0);
    report.errors.merge(notes.errors);
    if known == 0 {
        report.stuck(format!("{what}: client {i} counted nothing in the whole round"));
    }
    report.violations.extend(notes.wrong);
    holds.extend(notes.holds);
    increments.extend(notes.increments);
}

/// The blocks that it had acknowledged.
fn tell_nfs3(report: &mut Report, probe: Probe) -> Result<u64> {
    let name = probe.name.clone();
    let seen = probe.stop()?;
    let long: Vec<f64> = seen.gaps.iter().map(Gap::ms).filter(|ms| *ms > STALL_US as f64 / 1000.0).collect();
    report.stall("NFSv3", long.len() as u64, seen.longest_ms(0));
    for gap in &seen.gaps {
        report.stalled(&format!("NFSv3 {name}"), gap.from_us, gap.to_us);
    }
    report.reconnects += seen.reconnects.len() as u64;
    for gap in seen.gaps.iter().filter(|g| seen.errors > 0 && g.why != "-") {
        report.errors.add(format!("NFSv3 writer: {}", gap.why.replace('_', " ")), 1, gap.to_us);
    }
    let blocks = seen.extra.first().and_then(|n| n.parse().ok()).with_context(|| format!("{name} does not end"))?;
    report.did("NFSv3 blocks", blocks);
    Ok(blocks)
}

fn tell_nfs4(report: &mut Report, stream: ::drill::clients::Stream) {
    let long: Vec<f64> = stream.stalls.iter().map(|s| s.ms()).filter(|ms| *ms > STALL_US as f64 / 1000.0).collect();
    report.did("NFSv4 blocks", stream.ok);
    report.bytes_compared += stream.compared;
    report.stall("NFSv4", long.len() as u64, stream.stalls.iter().map(|s| s.ms()).fold(0.0, f64::max));
    for stall in &stream.stalls {
        report.stalled(&format!("NFSv4 to {}", stream.vip), stall.from_us, stall.to_us);
    }
    if stream.failed > 0 {
        let why = stream.first_failure.unwrap_or_default();
        // It notes the first one's words, and no time.
        report.errors.add(format!("NFSv4 writer: {why}, and what followed"), stream.failed, stream.last_us);
    }
    if let Some(wrong) = stream.wrong {
        report.violations.push(format!("NFSv4 client of {}: {wrong}", stream.vip));
    }
}

/// Over NFS, whatever it was written over.
fn read_back(lab: &Lab, report: &mut Report, through: &str, file: &str, blocks: u64) {
    let n = blocks.to_string();
    let words = ["steadfast-lab", "probe", "nfs-verify", "--server", through, "--path", file, "--blocks", &n];
    match lab.exec(CLIENT, &words, READING) {
        Ok(_) => report.bytes_compared += blocks * BLOCK as u64,
        Err(e) => report.violations.push(format!("wrong bytes at the end: {e:#}")),
    }
}

/// Falsifies what is asked for, behind the servers' backs.
fn plant(lab: &Lab, tag: &str, planted: Option<Planted>) -> Result<()> {
    // The highest bit, so that it is another byte for certain.
    let byte = |file: String| {
        let read = format!("b=$(od -An -tu1 -j 5000 -N 1 {file} | tr -d ' ')");
        let write = format!("dd of={file} bs=1 seek=5000 conv=notrunc 2>/dev/null");
        format!("{read}; printf \"\\\\$(printf %03o $((b ^ 128)))\" | {write}")
    };
    let line = match planted {
        None | Some(Planted::Lawless) => return Ok(()),
        Some(Planted::LostIncrement) => {
            let file = format!("{SHARE}/{}", counter(tag));
            format!("n=$(sed 's/^0*//' {file}); printf %020d $((n - 1)) >{file}")
        }
        Some(Planted::OldByte) => byte(format!("{SHARE}/{}", own(tag, 1))),
        Some(Planted::OldNfsByte) => byte(format!("nfs/{}", nfs_file(tag, 1))),
    };
    lab.shell("gluster1", &format!("cd {MOUNT}; {line}")).map(drop)?;
    // Ganesha need not look again before what it has cached is old: nobody tells when that is.
    std::thread::sleep(Duration::from_secs(5));
    Ok(())
}
