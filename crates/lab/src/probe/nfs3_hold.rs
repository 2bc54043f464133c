//! As `nfs_hold`, over NFSv3 and NLM: a lock that is held whatever happens to its server, and a rival who wants it.
//!
//! The holder hears of a server that has begun anew as a kernel does (`SM_NOTIFY`), and then reclaims. The lines are those of
//! `nfs_hold`; `L` is said when a reclaim is refused, and only then: nobody tells an NFSv3 client that its lock is gone.

use super::{now_us, say, stop_flag};
use anyhow::{Context, Result, bail, ensure};
use drill::clients::nfs3::{Client, JUKEBOX};
use drill::clients::nlm::{GRACE, GRANTED, Nlm};
use drill::clients::xdr::{Reader, Writer};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Of the laboratory's Ganesha.
const LOCK_MANAGER: u16 = 32803;
const LENGTH: u64 = 20;
const WRITE: Duration = Duration::from_millis(50);
const TRY: Duration = Duration::from_millis(20);
/// A server that takes no reclaims by then takes none.
const RECLAIM: Duration = Duration::from_secs(2);
const RPCBIND: u16 = 111;
const STATD: u32 = 100_024;

/// rpcbind and rpc.statd of this host, as far as a server asks them: says which server has begun anew.
struct Statd(UdpSocket);

impl Statd {
    fn start() -> Result<Self> {
        let socket = UdpSocket::bind(("0.0.0.0", RPCBIND)).context("port 111 of this host is in use")?;
        socket.set_read_timeout(Some(WRITE))?;
        Ok(Self(socket))
    }

    /// Answers what comes, for a while; the address of a server that says it has begun anew.
    fn notice(&self) -> Result<Option<IpAddr>> {
        let mut buffer = [0; 1500];
        let (length, from) = match self.0.recv_from(&mut buffer) {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let mut call = Reader(&buffer[..length]);
        let xid = call.u32()?;
        // A call, and the version of RPC.
        call.skip(8)?;
        let (program, _version, procedure) = (call.u32()?, call.u32()?, call.u32()?);
        self.answer(xid, from, program)?;
        Ok((program == STATD && procedure == 6).then(|| from.ip()))
    }

    fn answer(&self, xid: u32, to: SocketAddr, program: u32) -> Result<()> {
        let mut reply = Writer::default();
        // A reply; accepted; no verifier; done.
        reply.u32(xid).u32(1).u32(0).u32(0).u32(0).u32(0);
        if program != STATD {
            // Whatever is asked for is here.
            reply.u32(u32::from(RPCBIND));
        }
        self.0.send_to(&reply.0, to)?;
        Ok(())
    }
}

/// One client of NFSv3 with the file open.
struct Side {
    nfs: Client,
    file: Vec<u8>,
    nlm: Nlm,
}

impl Side {
    fn open(server: IpAddr, export: &str, path: &str, owner: &str, stop: &Arc<AtomicBool>) -> Result<Self> {
        let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))?;
        let (mut nfs, root) = Client::mount(server, export, Arc::clone(stop))?;
        let directory = nfs.walk(&root, directory)?;
        let file = nfs.create(&directory, name)?;
        let nlm = Nlm::new(server, LOCK_MANAGER, file.clone(), owner, LENGTH, Arc::clone(stop));
        Ok(Self { nfs, file, nlm })
    }

    fn write(&mut self, text: &str) -> Result<()> {
        loop {
            match self.nfs.write(&self.file, 0, text.as_bytes())? {
                0 => return Ok(()),
                JUKEBOX => std::thread::sleep(TRY),
                status => bail!("WRITE: NFS status {status}"),
            }
        }
    }
}

/// Tries for the lock until it has it, then gives it back.
fn rival(mut side: Side, stop: &AtomicBool) -> Result<()> {
    let mut said = 0;
    while !stop.load(Ordering::Relaxed) {
        if side.nlm.lock(false)? == GRANTED {
            say(&format!("R {}", now_us()));
            return side.nlm.unlock().map(drop);
        }
        if now_us() - said > 100_000 {
            said = now_us();
            say(&format!("D {said}"));
        }
        std::thread::sleep(TRY);
    }
    Ok(())
}

fn hold(side: &mut Side, server: IpAddr, statd: &Statd, over: &AtomicBool) -> Result<()> {
    let mut n = 0u64;
    while !over.load(Ordering::Relaxed) {
        // Takes the place of a pause between two writes.
        if statd.notice()? == Some(server) {
            let until = now_us() + u64::try_from(RECLAIM.as_micros())?;
            let status = loop {
                match side.nlm.lock(true)? {
                    GRACE if now_us() < until => std::thread::sleep(TRY),
                    status => break status,
                }
            };
            say(&format!("{} {}", if status == GRANTED { 'B' } else { 'L' }, now_us()));
        }
        n += 1;
        side.write(&format!("{n:020}"))?;
        say(&format!("W {}", now_us()));
    }
    side.nlm.unlock()?;
    say(&format!("U {}", now_us()));
    Ok(())
}

/// Holds through `server` until standard input is closed, while a rival tries through `other`.
pub(crate) fn main(server: IpAddr, other: IpAddr, export: &str, path: &str) -> Result<i32> {
    let statd = Statd::start()?;
    let never = Arc::new(AtomicBool::new(false));
    let mut holder = Side::open(server, export, path, "holder", &never)?;
    let tries = Side::open(other, export, path, "rival", &never)?;
    let status = holder.nlm.lock(false)?;
    ensure!(status == GRANTED, "the lock cannot be had: NLM status {status}");
    say(&format!("H {}", now_us()));
    let over = stop_flag();
    let end = Arc::clone(&never);
    let rival = std::thread::spawn(move || rival(tries, &end));
    if let Err(e) = hold(&mut holder, server, &statd, &over) {
        say(&format!("X holder: {}", format!("{e:#}").replace('\n', " ")));
    }
    let until = now_us() + 10_000_000;
    while !rival.is_finished() && now_us() < until {
        std::thread::sleep(TRY);
    }
    never.store(true, Ordering::Relaxed);
    if let Ok(Err(e)) = rival.join() {
        say(&format!("X rival: {}", format!("{e:#}").replace('\n', " ")));
    }
    Ok(0)
}
