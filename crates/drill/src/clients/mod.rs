//! The clients: one thread for each protocol and address.

pub mod nfs3;
mod nfs3_writer;
mod nfs4;
mod nfs4_lock;
mod nfs_status;
pub mod nlm;
mod ping;
mod record;
mod smb;
mod tcp;
pub mod xdr;

pub use nfs3_writer::{BLOCK, block};
pub use nfs4_lock::{Locker, Under};
pub use record::{Recorder, Stall, Stream};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the clients say that they live.
const ALIVE: Duration = Duration::from_millis(100);

/// Who does what, as it is given to the process that runs the clients.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// Addresses to use.
    pub vips: Vec<IpAddr>,
    /// Protocols to use: `ping`, `tcp`, `nfs3`, `nfs4`, `smb`.
    pub protocols: Vec<String>,
    /// TCP port that is connected to; 0: 2049 or 445, as there is NFS or SMB.
    pub port: u16,
    /// Export for NFS, `/vol1`.
    pub export: String,
    /// Directory below the export that may be written to.
    pub directory: String,
    /// SMB share.
    pub share: String,
    /// SMB user.
    pub user: String,
    /// SMB password.
    pub password: String,
    /// Prefix of the files' names, so that two drills do not meet.
    pub tag: String,
}

/// One line of the process that runs the clients.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What there is so far, without stalls that have not ended. Ten times a second.
    Alive(Vec<Stream>),
    /// The end: everything, compared.
    Done(Vec<Stream>),
}

/// A client's work: runs until the flag is set, then compares what it wrote.
type Work = Box<dyn FnOnce(&Recorder, &Arc<AtomicBool>) + Send>;

fn work(spec: &Spec, protocol: &str, vip: IpAddr) -> Option<(u64, Work)> {
    let spec = spec.clone();
    let file = format!("{}-{protocol}-{}", spec.tag, vip.to_string().replace([':', '.'], "-"));
    Some(match protocol {
        "ping" => (60, Box::new(move |r, stop| ping::run(vip, r, stop))),
        "tcp" => {
            let port = match (spec.port, spec.export.is_empty()) {
                (0, false) => 2049,
                (0, true) => 445,
                (port, _) => port,
            };
            (60, Box::new(move |r, stop| tcp::run((vip, port).into(), r, stop)))
        }
        "nfs3" => (100, Box::new(move |r, stop| nfs3_writer::run(&spec, vip, &file, r, stop))),
        "nfs4" => (100, Box::new(move |r, stop| nfs4::run(&spec, vip, &file, r, stop))),
        "smb" => (400, Box::new(move |r, stop| smb::run(&spec, vip, &file, r, stop))),
        _ => return None,
    })
}

/// Reads a [`Spec`] as one line of JSON, runs the clients until standard input closes; prints [`Line`]s. The body of the
/// process that a stage starts where clients are.
///
/// # Errors
/// There is no specification, or standard output cannot be written.
pub fn main() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let spec: Spec = serde_json::from_str(&line).context("standard input has no specification of the clients")?;
    let spec = &spec;
    let stop = Arc::new(AtomicBool::new(false));
    let mut running: Vec<(Recorder, JoinHandle<()>)> = Vec::new();
    for vip in &spec.vips {
        for protocol in &spec.protocols {
            let Some((threshold, work)) = work(spec, protocol, *vip) else {
                anyhow::bail!("'{protocol}' is no protocol of the drill; there are: ping, tcp, nfs3, nfs4, smb");
            };
            let recorder = Recorder::new(protocol, &vip.to_string(), threshold);
            let (mine, flag) = (recorder.clone(), Arc::clone(&stop));
            running.push((recorder, std::thread::spawn(move || work(&mine, &flag))));
        }
    }
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut byte = [0; 16];
        while matches!(std::io::stdin().read(&mut byte), Ok(n) if n > 0) {}
        flag.store(true, Ordering::Relaxed);
    });
    let mut out = std::io::stdout().lock();
    let mut say = |line: &Line| -> Result<()> {
        writeln!(out, "{}", serde_json::to_string(line)?)?;
        Ok(out.flush()?)
    };
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(ALIVE);
        say(&Line::Alive(running.iter().map(|(r, _)| r.stream(false)).collect()))?;
    }
    let ended: Vec<Stream> = running.iter().map(|(r, _)| r.stream(true)).collect();
    let mut streams = Vec::new();
    for ((recorder, thread), ended) in running.into_iter().zip(ended) {
        if thread.join().is_err() {
            recorder.wrong("the client ended by an error of its own");
        }
        let last = recorder.stream(false);
        streams.push(Stream { compared: last.compared, wrong: last.wrong, ..ended });
    }
    say(&Line::Done(streams))
}

/// Sleeps, unless it is to end.
fn pause(time: Duration, stop: &AtomicBool) {
    if !stop.load(Ordering::Relaxed) {
        std::thread::sleep(time);
    }
}
