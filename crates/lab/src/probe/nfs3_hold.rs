//! A lock over NFSv3 and NLM that two clients want; the lines are [`super::contest`]'s.
//!
//! The holder hears of a server that has begun anew as a kernel does (`SM_NOTIFY`), and then reclaims. `L` is said when a
//! reclaim is refused, and only then: nobody tells an NFSv3 client that its lock is gone.

use super::contest::{self, LENGTH, Rival, TRY, WRITE};
use super::{now_us, say};
use crate::args::Contest;
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

impl Rival for Side {
    fn lock_once(&mut self) -> Result<bool> {
        Ok(self.nlm.lock(false)? == GRANTED)
    }
    fn unlock(&mut self) -> Result<()> {
        self.nlm.unlock().map(drop)
    }
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

/// Holds until standard input is closed.
pub(crate) fn main(contest: &Contest) -> Result<i32> {
    let statd = Statd::start()?;
    let stop = Arc::new(AtomicBool::new(false));
    let open = |server, owner| Side::open(server, &contest.export, &contest.path, owner, &stop);
    let mut holder = open(contest.server, "holder")?;
    let rival = open(contest.other, "rival")?;
    let status = holder.nlm.lock(false)?;
    ensure!(status == GRANTED, "the lock cannot be had: NLM status {status}");
    Ok(contest::run(|over| hold(&mut holder, contest.server, &statd, over), rival, &stop))
}
