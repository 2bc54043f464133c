//! What a host needs for a lock over NFSv3: the file, the lock, and an ear for servers that have begun anew (`SM_NOTIFY`).

use super::contest::TRY;
use super::now_us;
use anyhow::{Context, Result, bail};
use drill::clients::nfs3::{Client, JUKEBOX};
use drill::clients::nlm::{GRACE, GRANTED, Nlm};
use drill::clients::xdr::{Reader, Writer};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Of the laboratory's Ganesha.
const LOCK_MANAGER: u16 = 32803;
/// A server that takes no reclaims by then takes none.
const RECLAIM: Duration = Duration::from_secs(2);
const RPCBIND: u16 = 111;
const STATD: u32 = 100_024;
/// For a word of a server.
const LISTEN: Duration = Duration::from_millis(50);

/// rpcbind and rpc.statd of this host, as far as a server asks them: says which server has begun anew.
pub(super) struct Statd(UdpSocket);

impl Statd {
    pub(super) fn start() -> Result<Self> {
        let socket = UdpSocket::bind(("0.0.0.0", RPCBIND)).context("port 111 of this host is in use")?;
        socket.set_read_timeout(Some(LISTEN))?;
        Ok(Self(socket))
    }

    /// Answers what comes, for 50 ms; the address of a server that says it has begun anew.
    pub(super) fn notice(&self) -> Result<Option<IpAddr>> {
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

/// Takes the lock that nobody has, as soon as a server that has just begun ends its grace period.
pub(super) fn take(nlm: &mut Nlm) -> Result<()> {
    loop {
        match nlm.lock(false)? {
            GRANTED => return Ok(()),
            GRACE => std::thread::sleep(TRY),
            status => bail!("the lock cannot be had: NLM status {status}"),
        }
    }
}

/// Gives the lock back, as soon as the server lets go of anything.
pub(super) fn give_back(nlm: &mut Nlm) -> Result<()> {
    loop {
        match nlm.unlock()? {
            GRANTED => return Ok(()),
            GRACE => std::thread::sleep(TRY),
            status => bail!("UNLOCK: NLM status {status}"),
        }
    }
}

/// One client of NFSv3 with a file open, of which it may lock the beginning.
pub(super) struct Side {
    nfs: Client,
    file: Vec<u8>,
    pub(super) nlm: Nlm,
}

/// Takes the lock back from a server that has begun anew; false: it is refused.
pub(super) fn reclaim(nlm: &mut Nlm) -> Result<bool> {
    let until = now_us() + u64::try_from(RECLAIM.as_micros())?;
    loop {
        match nlm.lock(true)? {
            GRACE if now_us() < until => std::thread::sleep(TRY),
            status => return Ok(status == GRANTED),
        }
    }
}

impl Side {
    /// Opens (or makes) the file; its first `length` bytes are what is locked. `owner`: who asks, differing from all others.
    pub(super) fn open(
        server: IpAddr,
        export: &str,
        path: &str,
        owner: &str,
        length: u64,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))?;
        let (mut nfs, root) = Client::mount(server, export, Arc::clone(stop))?;
        let directory = nfs.walk(&root, directory)?;
        let file = nfs.create(&directory, name)?;
        let nlm = Nlm::new(server, LOCK_MANAGER, file.clone(), owner, length, Arc::clone(stop));
        Ok(Self { nfs, file, nlm })
    }

    /// To the file's beginning, on stable storage.
    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        loop {
            match self.nfs.write(&self.file, 0, text.as_bytes())? {
                0 => return Ok(()),
                JUKEBOX => std::thread::sleep(TRY),
                status => bail!("WRITE: NFS status {status}"),
            }
        }
    }

    /// From the file's beginning.
    pub(super) fn read(&mut self, length: u32) -> Result<Vec<u8>> {
        loop {
            match self.nfs.read(&self.file, 0, length)? {
                (0, data) => return Ok(data),
                (JUKEBOX, _) => std::thread::sleep(TRY),
                (status, _) => bail!("READ: NFS status {status}"),
            }
        }
    }

    /// The same lock of the same owner, over a connection of its own: whoever waits for an answer here can take it back there.
    pub(super) fn nlm_beside(&self, server: IpAddr, owner: &str, length: u64, stop: &Arc<AtomicBool>) -> Nlm {
        Nlm::new(server, LOCK_MANAGER, self.file.clone(), owner, length, Arc::clone(stop))
    }
}
