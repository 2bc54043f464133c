//! Asks an NFS server what a mounting client asks.
//!
//! NFSv3 (RFC 1813): NULL, then MNT of each export, GETATTR and FSSTAT of its root. NFSv4 (RFC 7530): NULL, then one
//! COMPOUND per export: PUTROOTFH, LOOKUP down to the export, GETATTR of its type and free space. Attributes come from the
//! server's cache; the free space is asked from the storage, on GlusterFS from each brick. A server that refuses minor version 0
//! has answered properly; its exports are then not looked at, for 4.1 would need a session per probe.
//! The grace period does not matter: none of these calls touches a lock.

use std::net::SocketAddr;
use std::time::Duration;

use super::rpc::{Connection, Procedure, port_of};
use super::xdr::{Reader, Writer, XdrError};
use super::{Peer, ProbeError};
use crate::config::NfsConfig;

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const STATUS: u32 = 100_024;
const RPCBIND_PORT: u16 = 111;

const MAX_FH3: usize = 64;
const MAX_TAG: usize = 1024;
const NF_DIR: u32 = 2;

const OP_GETATTR: u32 = 9;
const OP_LOOKUP: u32 = 15;
const OP_PUTROOTFH: u32 = 24;
/// Attribute 1, the type of the object.
const ATTR_TYPE: u32 = 1 << 1;
/// Attribute 42, the free space, in the bitmap's second word.
const ATTR_SPACE_AVAIL: u32 = 1 << (42 - 32);
const NFS3ERR_NOTSUPP: u32 = 10_004;
const NFS4ERR_MINOR_VERS_MISMATCH: u32 = 10_021;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsProbe {
    pub address: SocketAddr,
    /// 3, 4 or both.
    pub versions: Vec<u32>,
    /// Paths as clients mount them; `/` where none is given.
    pub exports: Vec<String>,
    /// Port of the MOUNT protocol; asked from rpcbind when not given.
    pub mount_port: Option<u16>,
    /// For each version together with all its exports.
    pub deadline: Duration,
}

impl NfsProbe {
    /// Of everything that this configuration has Ganesha serve.
    #[must_use]
    pub fn new(config: &NfsConfig, deadline: Duration) -> Self {
        Self {
            address: config.probe_address,
            versions: config.versions.clone(),
            exports: config.exports.clone(),
            mount_port: config.mount_port,
            deadline,
        }
    }

    /// Asks for everything; says what answered.
    pub async fn run(&self) -> Result<String, ProbeError> {
        let mut answered = Vec::new();
        for version in &self.versions {
            let peer = self.peer(if *version == 3 { "NFSv3" } else { "NFSv4" });
            let asked = async { if *version == 3 { self.version3(peer).await } else { self.version4(peer).await } };
            answered.push(peer.within(self.deadline, asked).await?);
        }
        Ok(answered.join(", "))
    }

    fn peer(&self, what: &'static str) -> Peer {
        Peer { what, address: self.address }
    }

    async fn version3(&self, peer: Peer) -> Result<String, ProbeError> {
        let nfs = |number| Procedure { program: NFS, version: 3, number };
        let mut server = Connection::open(peer).await?;
        server.call(nfs(0), &Writer::new()).await?;
        if self.exports.is_empty() {
            return Ok("NFSv3 answers".into());
        }
        let mountd = Peer { what: "MOUNT", address: self.mount_address().await? };
        let mut mount = Connection::open(mountd).await?;
        for export in &self.exports {
            let procedure = Procedure { program: MOUNT, version: 3, number: 1 };
            let answer = mount.call(procedure, &Writer::new().opaque(export.as_bytes())).await?;
            let handle = match mount_result(&answer) {
                Ok(Ok(handle)) => handle,
                Ok(Err(status)) => return Err(mountd.refused(format!("{export}: {}", status3(status)))),
                Err(error) => return Err(mountd.nonsense(error.to_string())),
            };
            let answer = server.call(nfs(1), &Writer::new().opaque(handle)).await?;
            match getattr3_result(&answer) {
                Ok((0, NF_DIR)) => {}
                Ok((0, kind)) => return Err(peer.refused(format!("{export} is no directory (type {kind})"))),
                Ok((status, _)) => return Err(peer.refused(format!("GETATTR {export}: {}", status3(status)))),
                Err(error) => return Err(peer.nonsense(error.to_string())),
            }
            let answer = server.call(nfs(18), &Writer::new().opaque(handle)).await?;
            match Reader::new(&answer).u32() {
                Ok(0 | NFS3ERR_NOTSUPP) => {}
                Ok(status) => return Err(peer.refused(format!("FSSTAT {export}: {}", status3(status)))),
                Err(error) => return Err(peer.nonsense(error.to_string())),
            }
        }
        Ok(format!("NFSv3 answers for {}", self.exports.join(" ")))
    }

    async fn mount_address(&self) -> Result<SocketAddr, ProbeError> {
        let port = match self.mount_port {
            Some(port) => port,
            None => registered_port(self.address, MOUNT, 3).await?.ok_or_else(|| {
                self.peer("rpcbind")
                    .refused("MOUNT version 3 is not registered; was rpcbind started after the NFS server?")
            })?,
        };
        Ok(SocketAddr::new(self.address.ip(), port))
    }

    async fn version4(&self, peer: Peer) -> Result<String, ProbeError> {
        let nfs = |number| Procedure { program: NFS, version: 4, number };
        let mut server = Connection::open(peer).await?;
        server.call(nfs(0), &Writer::new()).await?;
        let root = ["/".to_owned()];
        for export in if self.exports.is_empty() { &root[..] } else { &self.exports[..] } {
            let (args, ops) = lookup_compound(export);
            let answer = server.call(nfs(1), &args).await?;
            match compound_result(&answer, ops) {
                Ok(Compound::Type(NF_DIR)) => {}
                Ok(Compound::Type(kind)) => {
                    return Err(peer.refused(format!("{export} is no directory (type {kind})")));
                }
                Ok(Compound::Failed(NFS4ERR_MINOR_VERS_MISMATCH)) => return Ok("NFSv4 answers".into()),
                Ok(Compound::Failed(status)) => {
                    return Err(peer.refused(format!("{export}: {}", status4(status))));
                }
                Err(error) => return Err(peer.nonsense(error.to_string())),
            }
        }
        Ok(format!("NFSv4 answers for {}", if self.exports.is_empty() { "/".into() } else { self.exports.join(" ") }))
    }
}

/// Whether rpc.statd answers, at the port that rpcbind knows.
pub async fn statd_answers(server: SocketAddr, deadline: Duration) -> Result<String, ProbeError> {
    let peer = rpcbind_of(server);
    let asked = async {
        let port = registered_port(server, STATUS, 1).await?;
        let port = port.ok_or_else(|| peer.refused("rpc.statd is not registered"))?;
        let statd = Peer { what: "rpc.statd", address: SocketAddr::new(server.ip(), port) };
        let procedure = Procedure { program: STATUS, version: 1, number: 0 };
        Connection::open(statd).await?.call(procedure, &Writer::new()).await
    };
    peer.within(deadline, asked).await.map(|_| "rpc.statd answers".into())
}

fn rpcbind_of(server: SocketAddr) -> Peer {
    Peer { what: "rpcbind", address: SocketAddr::new(server.ip(), RPCBIND_PORT) }
}

async fn registered_port(server: SocketAddr, program: u32, version: u32) -> Result<Option<u16>, ProbeError> {
    let mut rpcbind = Connection::open(rpcbind_of(server)).await?;
    port_of(&mut rpcbind, program, version).await
}

/// The file handle of an answer to MNT, or its status.
fn mount_result(answer: &[u8]) -> Result<Result<&[u8], u32>, XdrError> {
    let mut reader = Reader::new(answer);
    match reader.u32()? {
        0 => reader.opaque(MAX_FH3).map(Ok),
        status => Ok(Err(status)),
    }
}

/// Status and file type of an answer to GETATTR; the type is 0 when the status is not 0.
fn getattr3_result(answer: &[u8]) -> Result<(u32, u32), XdrError> {
    let mut reader = Reader::new(answer);
    match reader.u32()? {
        0 => {
            let kind = reader.u32()?;
            // the rest of fattr3 must be there: 80 bytes
            for _ in 0..20 {
                reader.u32()?;
            }
            Ok((0, kind))
        }
        status => Ok((status, 0)),
    }
}

/// PUTROOTFH, a LOOKUP per part of the path, GETATTR(type, free space); with the operations in order.
fn lookup_compound(path: &str) -> (Writer, Vec<u32>) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX).saturating_add(2);
    // empty tag, minor version 0
    let mut args = Writer::new().opaque(b"").u32s(&[0, count, OP_PUTROOTFH]);
    let mut ops = vec![OP_PUTROOTFH];
    for part in parts {
        args = args.u32(OP_LOOKUP).opaque(part.as_bytes());
        ops.push(OP_LOOKUP);
    }
    ops.push(OP_GETATTR);
    (args.u32s(&[OP_GETATTR, 2, ATTR_TYPE, ATTR_SPACE_AVAIL]), ops)
}

#[derive(Debug, PartialEq, Eq)]
enum Compound {
    /// File type of the last object.
    Type(u32),
    Failed(u32),
}

fn compound_result(answer: &[u8], ops: Vec<u32>) -> Result<Compound, XdrError> {
    let mut reader = Reader::new(answer);
    let status = reader.u32()?;
    reader.opaque(MAX_TAG)?;
    let count = reader.u32()?;
    if status != 0 {
        return Ok(Compound::Failed(status));
    }
    if usize::try_from(count).ok() != Some(ops.len()) {
        return Err(XdrError::TooLong { claimed: count, allowed: ops.len() });
    }
    for op in ops {
        let (got, status) = (reader.u32()?, reader.u32()?);
        if got != op || status != 0 {
            return Ok(Compound::Failed(status));
        }
    }
    let _bitmap = reader.u32s(8)?;
    let attributes = reader.opaque(1024)?;
    Reader::new(attributes).u32().map(Compound::Type)
}

fn status3(status: u32) -> String {
    named(
        status,
        &[
            (1, "not permitted"),
            (2, "no such export"),
            (5, "I/O error"),
            (13, "access denied to this node; the export must allow it"),
            (20, "not a directory"),
            (70, "stale file handle"),
            (10_004, "not supported"),
            (10_006, "server fault"),
            (10_008, "try later"),
        ],
    )
}

fn status4(status: u32) -> String {
    named(
        status,
        &[
            (1, "not permitted"),
            (2, "no such export"),
            (5, "I/O error"),
            (13, "access denied to this node; the export must allow it"),
            (20, "not a directory"),
            (70, "stale file handle"),
            (10_006, "server fault"),
            (10_008, "try later (delay)"),
            (10_013, "in grace"),
            (10_016, "wrong security flavour; the export must allow sys for the probe"),
        ],
    )
}

fn named(status: u32, names: &[(u32, &str)]) -> String {
    match names.iter().find(|(number, _)| *number == status) {
        Some((_, name)) => format!("{name} (status {status})"),
        None => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Vec<u8> {
        // status, count of operations and their results, bitmap, type
        Writer::new()
            .u32(0)
            .opaque(b"")
            .u32s(&[3, OP_PUTROOTFH, 0, OP_LOOKUP, 0, OP_GETATTR, 0, 1, ATTR_TYPE])
            .opaque(&NF_DIR.to_be_bytes())
            .finish()
    }

    #[test]
    fn reads_a_compound() {
        let (_, ops) = lookup_compound("/vol1/");
        assert_eq!(ops, [OP_PUTROOTFH, OP_LOOKUP, OP_GETATTR]);
        assert_eq!(compound_result(&attributes(), ops.clone()), Ok(Compound::Type(NF_DIR)));
        let missing = Writer::new().u32(2).opaque(b"").u32s(&[2, OP_PUTROOTFH, 0, OP_LOOKUP, 2]).finish();
        assert_eq!(compound_result(&missing, ops), Ok(Compound::Failed(2)));
        assert_eq!(status4(2), "no such export (status 2)");
    }

    #[test]
    fn no_byte_string_panics() {
        let handle = Writer::new().u32(0).opaque(&[7; 40]).finish();
        assert_eq!(mount_result(&handle), Ok(Ok(&[7; 40][..])));
        let long = Writer::new().u32(0).opaque(&[7; 65]).finish();
        assert!(mount_result(&long).is_err());
        let (_, ops) = lookup_compound("/vol1");
        let whole = attributes();
        for len in 0..whole.len() {
            assert!(compound_result(&whole[..len], ops.clone()).is_err(), "{len} bytes are enough?");
            let _ = (mount_result(&handle[..len.min(handle.len())]), getattr3_result(&whole[..len]));
        }
        let mut seed = 1u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..seed % 97)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 28) as u8
                })
                .collect();
            seed = seed.wrapping_add(1);
            let _ = (mount_result(&bytes), getattr3_result(&bytes), compound_result(&bytes, ops.clone()));
        }
    }
}
