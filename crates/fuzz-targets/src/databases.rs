//! CTDB's protocol, what servers say to each other, TDB files.

use ctdb::control::{
    DbMap, Iface, Ifaces, NodeMap, Opcode, PublicIpInfo, PublicIps, Request, TickleList, Uptime, VnnMap,
};
use ctdb::peer::Said;
use ctdb::wire::{Body, Connection, Frames, LtdbHeader, Packet, Reader, Record, RecordBuffer, SockAddr};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use tdb::{Flags, Options, Store, Tdb};

/// A client's stream.
pub fn ctdb_packet(bytes: &[u8]) {
    let mut frames = Frames::default();
    for piece in bytes.chunks(100) {
        frames.push(piece);
        while let Ok(Some(packet)) = frames.packet() {
            let Ok(packet) = Packet::decode(packet) else { continue };
            if let Body::Control(control) = &packet.body {
                let _ = Request::decode(Opcode(control.opcode), control.srvid, &control.data);
            }
            let again = Packet::decode(&packet.encode());
            assert_eq!(again.as_ref(), Ok(&packet), "not the same after a round");
        }
    }
}

/// What packets carry: the first byte says which structure.
pub fn ctdb_payload(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    let _understood = match which {
        0 => DbMap::get(rest).is_ok(),
        1 => NodeMap::get(rest).is_ok(),
        2 => VnnMap::get(rest).is_ok(),
        3 => Uptime::get(rest).is_ok(),
        4 => PublicIps::get(rest).is_ok(),
        5 => PublicIpInfo::get(rest).is_ok(),
        6 => Ifaces::get(rest).is_ok(),
        7 => TickleList::get(rest).is_ok(),
        8 => Iface::get(&mut Reader::new(rest)).is_ok(),
        9 => SockAddr::get(&mut Reader::new(rest)).is_ok(),
        10 => Connection::get(&mut Reader::new(rest)).is_ok(),
        11 => Record::get(&mut Reader::new(rest)).is_ok(),
        12 => RecordBuffer::get(rest).is_ok(),
        13 => LtdbHeader::split(rest).is_ok(),
        number => [0, 100].into_iter().all(|more| Request::decode(Opcode(u32::from(*number) + more), 0, rest).is_ok()),
    };
}

/// A word between the database servers of two nodes.
pub fn servers(bytes: &[u8]) {
    if let Ok(said) = Said::decode(bytes) {
        let again = Said::decode(&said.encode());
        assert_eq!(again.as_ref(), Ok(&said), "not the same after a round");
    }
}

/// A TDB file: opened, read, checked, then written to, which may find it corrupt but must end.
pub fn tdb_file(bytes: &[u8]) {
    // A file in memory has no path of its own but this.
    let Some(file) = in_memory(bytes) else { return };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for flags in [Flags::NO_LOCK, Flags::NO_LOCK | Flags::INCOMPATIBLE_HASH] {
        let read_only = Options { read_only: true, ..Options::new(flags) };
        if let Ok(mut db) = Tdb::open(&path, read_only) {
            let _ = db.check();
            let _ = db.fetch(b"key");
            let mut keys = Vec::new();
            let _ = db.traverse_read(|_, key, _| {
                keys.push(key.to_vec());
                Ok(if keys.len() < 50 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            });
            for key in keys {
                let _ = db.fetch(&key);
            }
        }
        if let Ok(mut db) = Tdb::open(&path, Options::new(flags)) {
            let _ = db.store(b"key", b"value", Store::Replace);
            let _ = db.append(b"key", &[7; 100]);
            let _ = db.delete(b"key");
            if db.begin().is_ok() {
                let _ = db.store(b"another", &[1; 300], Store::Replace);
                let _ = db.commit();
            }
            let _ = db.check();
            let _ = db.wipe();
        }
    }
}

fn in_memory(bytes: &[u8]) -> Option<File> {
    let mut file = File::from(memfd_create("fuzzed.tdb", MemfdFlags::CLOEXEC).ok()?);
    file.write_all(bytes).ok()?;
    Some(file)
}
