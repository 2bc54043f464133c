//! A small NFSv3 client over TCP (RFC 1813, 5531) that behaves as a kernel's hard mount does: one connection, a
//! request is sent again with the same xid on a new connection until it is answered, for ever. As with a kernel, the new
//! connection has the old one's port, and a refused one is tried again after 3 s.

use super::nfs_status::NfsStatus;
use super::xdr::{Reader, Writer};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) const NFS: (u32, u16) = (100_003, 2049);
const MOUNT: (u32, u16) = (100_005, 20048);
/// As a kernel's `timeo=600` over TCP: silence for so long makes a new connection.
const SILENCE: Duration = Duration::from_secs(60);
/// A kernel's pause after "connection refused".
const REFUSED: Duration = Duration::from_secs(3);
/// NFS3ERR_JUKEBOX: try again later.
pub const JUKEBOX: u32 = 10008;
const REPLY_LIMIT: usize = 4 << 20;

/// One mounted export.
#[derive(Debug)]
pub struct Client {
    server: SocketAddr,
    stream: Option<TcpStream>,
    /// Our end of the first connection.
    own: Option<SocketAddr>,
    xid: u32,
    stop: Arc<AtomicBool>,
    /// Why the connection was lost, last time.
    pub trouble: String,
    pub reconnects: u64,
}

/// Result of an NFS procedure: its status, and the rest of the reply.
pub type Answer = (u32, Vec<u8>);

impl Client {
    /// Mounts `export`; gives the client and the root's file handle.
    pub fn mount(server: IpAddr, export: &str, stop: Arc<AtomicBool>) -> Result<(Self, Vec<u8>)> {
        let mut args = Writer::default();
        args.opaque(export.as_bytes());
        let mut mountd = Self::new(SocketAddr::new(server, MOUNT.1), Arc::clone(&stop));
        let reply = mountd.call(MOUNT.0, 3, 1, &args.0)?;
        let mut reply = Reader(&reply);
        let status = reply.u32()?;
        if status != 0 {
            bail!("{server} refuses to mount {export}: MOUNT status {status}");
        }
        let root = reply.opaque()?.to_vec();
        Ok((Self::new(SocketAddr::new(server, NFS.1), stop), root))
    }

    pub(super) fn new(server: SocketAddr, stop: Arc<AtomicBool>) -> Self {
        let xid = u32::try_from(crate::now_us() & 0x7fff_ffff).unwrap_or(1);
        Self { server, stream: None, own: None, xid, stop, trouble: String::new(), reconnects: 0 }
    }

    /// Reads a name in a directory.
    pub fn lookup(&mut self, dir: &[u8], name: &str) -> Result<Option<Vec<u8>>> {
        let mut args = Writer::default();
        args.opaque(dir).opaque(name.as_bytes());
        let (status, rest) = self.nfs(3, &args.0)?;
        match status {
            0 => Ok(Some(Reader(&rest).opaque()?.to_vec())),
            2 => Ok(None),
            _ => bail!("LOOKUP {name}: {}", NfsStatus(status)),
        }
    }

    /// Walks `path` below `root`.
    pub fn walk(&mut self, root: &[u8], path: &str) -> Result<Vec<u8>> {
        let mut at = root.to_vec();
        for name in path.split('/').filter(|n| !n.is_empty()) {
            at = self.lookup(&at, name)?.with_context(|| format!("{path}: there is no {name}"))?;
        }
        Ok(at)
    }

    /// Creates a file, or opens the one that is there. JUKEBOX answers are waited out.
    pub fn create(&mut self, dir: &[u8], name: &str) -> Result<Vec<u8>> {
        if let Some(file) = self.lookup(dir, name)? {
            return Ok(file);
        }
        let mut args = Writer::default();
        args.opaque(dir).opaque(name.as_bytes());
        // UNCHECKED; mode 0666, no uid, gid or size, server's times.
        args.u32(0).u32(1).u32(0o666).u32(0).u32(0).u32(0).u32(0).u32(0);
        loop {
            let (status, rest) = self.nfs(8, &args.0)?;
            match status {
                0 => {
                    let mut rest = Reader(&rest);
                    if rest.u32()? != 0 {
                        return Ok(rest.opaque()?.to_vec());
                    }
                    return self.lookup(dir, name)?.context("the created file is not there");
                }
                JUKEBOX => self.pause(Duration::from_millis(100))?,
                _ => bail!("CREATE {name}: {}", NfsStatus(status)),
            }
        }
    }

    /// Writes with FILE_SYNC; the NFS status.
    pub fn write(&mut self, file: &[u8], offset: u64, data: &[u8]) -> Result<u32> {
        let mut args = Writer::default();
        args.opaque(file).u64(offset).u32(u32::try_from(data.len())?).u32(2).opaque(data);
        let (status, rest) = self.nfs(7, &args.0)?;
        if status == 0 {
            let mut rest = Reader(&rest);
            // wcc_data: size, mtime, ctime before (24 bytes), attributes after.
            rest.optional(24)?;
            rest.optional(84)?;
            let count = rest.u32()?;
            if count as usize != data.len() {
                bail!("WRITE took {count} of {} bytes", data.len());
            }
        }
        Ok(status)
    }

    /// Reads up to `len` bytes.
    pub fn read(&mut self, file: &[u8], offset: u64, len: u32) -> Result<(u32, Vec<u8>)> {
        let mut args = Writer::default();
        args.opaque(file).u64(offset).u32(len);
        let (status, rest) = self.nfs(6, &args.0)?;
        if status != 0 {
            return Ok((status, Vec::new()));
        }
        let mut rest = Reader(&rest);
        rest.optional(84)?;
        rest.u32()?;
        rest.u32()?;
        Ok((0, rest.opaque()?.to_vec()))
    }

    /// Removes a file; one that is not there is no error.
    pub fn remove(&mut self, dir: &[u8], name: &str) -> Result<()> {
        let mut args = Writer::default();
        args.opaque(dir).opaque(name.as_bytes());
        match self.nfs(12, &args.0)?.0 {
            0 | 2 => Ok(()),
            status => bail!("REMOVE {name}: {}", NfsStatus(status)),
        }
    }

    fn nfs(&mut self, procedure: u32, args: &[u8]) -> Result<Answer> {
        let reply = self.call(NFS.0, 3, procedure, args)?;
        let mut reader = Reader(&reply);
        let status = reader.u32()?;
        // LOOKUP, READ, WRITE and CREATE results follow; on success the first item is what the callers expect.
        Ok((status, reader.0.to_vec()))
    }

    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("stopped");
        }
        std::thread::sleep(time);
        Ok(())
    }

    /// One RPC, sent until it is answered.
    pub(super) fn call(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Result<Vec<u8>> {
        self.xid = self.xid.wrapping_add(1);
        let mut message = Writer::default();
        message.u32(self.xid).u32(0).u32(2).u32(program).u32(version).u32(procedure);
        let mut credentials = Writer::default();
        credentials.u32(0).opaque(b"drill").u32(0).u32(0).u32(0);
        message.u32(1).opaque(&credentials.0).u32(0).u32(0);
        message.0.extend(args);
        let mut record = Writer::default();
        record.u32(0x8000_0000 | u32::try_from(message.0.len())?);
        record.0.extend(&message.0);
        loop {
            match self.exchange(&record.0) {
                Ok(reply) => return accepted(&reply),
                Err(e) => {
                    self.stream = None;
                    self.reconnects += 1;
                    self.trouble = format!("{e:#}");
                    let refused = e.downcast_ref::<std::io::Error>();
                    if refused.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
                        let until = std::time::Instant::now() + REFUSED;
                        while std::time::Instant::now() < until {
                            self.pause(Duration::from_millis(20))?;
                        }
                    }
                    self.pause(Duration::from_millis(5))?;
                }
            }
        }
    }

    fn exchange(&mut self, record: &[u8]) -> Result<Vec<u8>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(record)?;
        loop {
            let reply = read_record(&mut stream, &self.stop)?;
            // An answer to a former request may still arrive after a reconnect: not ours.
            if Reader(&reply).u32()? == self.xid {
                self.stream = Some(stream);
                return Ok(reply);
            }
        }
    }

    fn socket(&self) -> std::io::Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(self.server), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if let Some(own) = self.own {
            socket.bind(&own.into())?;
        }
        // Whatever becomes of this connection, its port is free for the next at once.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect_timeout(&self.server.into(), SILENCE)?;
        Ok(socket.into())
    }

    fn connect(&mut self) -> Result<TcpStream> {
        let stream = self.socket().or_else(|e| match e.kind() {
            // The kernel remembers the old connection still: another port then, as a kernel's mount does.
            std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable => {
                self.own = None;
                self.socket()
            }
            _ => Err(e),
        })?;
        self.own = Some(stream.local_addr()?);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(stream)
    }
}

/// Reads exactly; returns early when the probe is stopped or the server says nothing for a minute.
fn read_exact(stream: &mut TcpStream, into: &mut [u8], stop: &AtomicBool) -> Result<()> {
    let mut at = 0;
    let end = std::time::Instant::now() + SILENCE;
    while at < into.len() {
        match stream.read(&mut into[at..]) {
            Ok(0) => bail!("connection closed"),
            Ok(n) => at += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    bail!("stopped");
                }
                if std::time::Instant::now() > end {
                    bail!("no reply for {} s", SILENCE.as_secs());
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn read_record(stream: &mut TcpStream, stop: &AtomicBool) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut mark = [0u8; 4];
        read_exact(stream, &mut mark, stop)?;
        let mark = u32::from_be_bytes(mark);
        let len = (mark & 0x7fff_ffff) as usize;
        if all.len() + len > REPLY_LIMIT {
            bail!("a reply of more than {REPLY_LIMIT} bytes");
        }
        let from = all.len();
        all.resize(from + len, 0);
        read_exact(stream, &mut all[from..], stop)?;
        if mark & 0x8000_0000 != 0 {
            return Ok(all);
        }
    }
}

/// Checks the RPC header; the procedure's results.
fn accepted(reply: &[u8]) -> Result<Vec<u8>> {
    let mut r = Reader(reply);
    r.u32()?;
    if r.u32()? != 1 || r.u32()? != 0 {
        bail!("the server denies the call");
    }
    r.u32()?;
    r.opaque()?;
    match r.u32()? {
        0 => Ok(r.0.to_vec()),
        status => bail!("the server does not accept the call: RPC status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::xdr::Writer;
    use super::accepted;

    #[test]
    fn a_reply_is_told_from_garbage() {
        let mut w = Writer::default();
        w.u32(9).u32(1).u32(0).u32(0).opaque(b"").u32(0).u32(42);
        assert_eq!(accepted(&w.0).unwrap(), 42u32.to_be_bytes());
        assert!(accepted(&w.0[..10]).is_err());
        let mut denied = Writer::default();
        denied.u32(9).u32(1).u32(1).u32(0);
        assert!(accepted(&denied.0).is_err());
    }
}
