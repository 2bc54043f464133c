//! Whole databases: backed up, restored, wiped.

use super::admin::generation;
use super::commands::{Args, usage};
use super::context::{Context, active, text};
use super::databases::{Db, dump_record, find, local_records, step};
use super::out::{EINVAL, ENOMEM, Exit, FAILED, Out, Outcome, complain, say};
use super::time;
use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::wire::{LtdbHeader, Reader, Record, RecordBuffer, Writer};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of the file's format.
const VERSION: u64 = 3;
/// Bytes that its header has for the database's name.
const NAME_LEN: usize = 64;
const HEADER_LEN: usize = 5 * 8 + NAME_LEN;
/// A buffer of records is written when it has this many bytes.
const BUFFER_LEN: usize = 100 * 1000;
/// Bytes of a buffer before its records: database and number.
const BUFFER_HEAD: usize = 8;
/// Where records for a restored database are sent to.
const PUSH: u64 = 0xCE02 << 48;

/// What a backup begins with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Header {
    version: u64,
    /// Seconds since 1970.
    written: i64,
    flags: u64,
    buffers: u64,
    records: u64,
    name: String,
}

impl Header {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.version).u64(self.written.cast_unsigned()).u64(self.flags).u64(self.buffers).u64(self.records);
        let name = &self.name.as_bytes()[..self.name.len().min(NAME_LEN - 1)];
        out.raw(name).zeros(NAME_LEN - name.len());
        out.finish()
    }

    fn read(bytes: &[u8; HEADER_LEN]) -> Self {
        let word = |at: usize| bytes[8 * at..].first_chunk().copied().map_or(0, u64::from_ne_bytes);
        let name = &bytes[HEADER_LEN - NAME_LEN..];
        let end = name.iter().position(|b| *b == 0).unwrap_or(NAME_LEN - 1);
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        let written = word(1).cast_signed();
        Self { version: word(0), written, flags: word(2), buffers: word(3), records: word(4), name }
    }

    /// Opens a backup and reads its beginning.
    fn open(path: &OsString) -> Result<(File, Self), Exit> {
        let mut file = File::open(path).map_err(|e| {
            complain!("Failed to open file {} for reading", text(path));
            Exit::errno(&e)
        })?;
        let mut bytes = [0; HEADER_LEN];
        // A file that is too short has the version 0, or the wrong number of records.
        let mut there = 0;
        while there < HEADER_LEN {
            match file.read(&mut bytes[there..]) {
                Ok(0) => break,
                Ok(n) => there += n,
                Err(e) => {
                    complain!("Failed to read db header from file {}", text(path));
                    return Err(Exit::errno(&e));
                }
            }
        }
        let header = Self::read(&bytes);
        if header.version != VERSION {
            complain!("Wrong version of backup file, expected {VERSION}, got {}", header.version);
            return Err(EINVAL);
        }
        Ok((file, header))
    }
}

/// One buffer of records as a backup has it: database, number of records, bytes of the records (eight bytes), records.
fn write_buffer(file: &mut File, buffer: &RecordBuffer) -> std::io::Result<()> {
    let mut out = Writer::default();
    buffer.put(&mut out);
    let bytes = out.finish();
    let (head, records) = bytes.split_at(BUFFER_HEAD);
    file.write_all(head)?;
    file.write_all(&(records.len() as u64).to_ne_bytes())?;
    file.write_all(records)
}

/// A buffer, and its bytes as they travel.
fn read_buffer(file: &mut File) -> Result<(RecordBuffer, Vec<u8>), Exit> {
    let mut bytes = vec![0; BUFFER_HEAD];
    let mut len = [0; 8];
    file.read_exact(&mut bytes).and_then(|()| file.read_exact(&mut len)).map_err(|e| cut(&e))?;
    let len = u64::from_ne_bytes(len);
    // Read as it comes: a length that lies must not reserve memory.
    let there = file.take(len).read_to_end(&mut bytes).map_err(|e| cut(&e))?;
    if there as u64 != len {
        return Err(cut(&std::io::ErrorKind::UnexpectedEof.into()));
    }
    let buffer = RecordBuffer::get(&bytes).map_err(|error| {
        complain!("{error}");
        Exit(71)
    })?;
    Ok((buffer, bytes))
}

fn cut(error: &std::io::Error) -> Exit {
    complain!("The backup cannot be read to its end: {error}");
    Exit(error.raw_os_error().unwrap_or(5))
}

pub(super) fn backupdb(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg, path] = args else { return usage(&mut ctx.out, "backupdb") };
    let db = find(ctx, arg)?;
    let mut database = db.open(ctx)?;
    let opened = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = opened.map_err(|e| {
        complain!("Failed to open file {} for writing", text(path));
        Exit::errno(&e)
    })?;
    // An older backup there is overwritten, all of it: the header says how much is valid, and comes last.
    let no_header = |e: std::io::Error| {
        complain!("Failed to write header to file {}", text(path));
        Exit::errno(&e)
    };
    file.set_len(0).and_then(|()| file.write_all(&Header::default().to_bytes())).map_err(no_header)?;
    let records = local_records(&mut database).map_err(|error| {
        complain!("{error}");
        complain!("Failed to collect records from DB {}", db.name);
        FAILED
    })?;
    let written = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut header = Header {
        version: VERSION,
        written: i64::try_from(written).unwrap_or(i64::MAX),
        flags: db.flags.into(),
        name: db.name.clone(),
        ..Header::default()
    };
    let mut buffer = RecordBuffer { db: db.id, records: Vec::new() };
    let mut len = 0;
    let mut left = records.len();
    for (key, record, data) in records {
        let mut value = record.to_bytes();
        value.extend(data);
        let record = Record { reqid: 0, key, data: value };
        len += record.wire_len();
        buffer.records.push(record);
        left -= 1;
        if len + 8 >= BUFFER_LEN || left == 0 {
            write_buffer(&mut file, &buffer).map_err(|e| {
                complain!("Failed to write records to backup file");
                Exit::errno(&e)
            })?;
            header.buffers += 1;
            header.records += buffer.records.len() as u64;
            buffer.records.clear();
            len = 0;
        }
    }
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(&header.to_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(no_header)?;
    say!(ctx.out, "Database backed up to {}", text(path))
}

pub(super) fn dumpdbbackup(out: &mut Out, args: &Args) -> Outcome {
    let [path] = args else { return usage(out, "dumpbackup") };
    let (mut file, header) = Header::open(path)?;
    say!(out, "Dumping database {} from backup @ {}", header.name, time::short_stamp(header.written))?;
    let mut count = 0;
    for _ in 0..header.buffers {
        let (buffer, _) = read_buffer(&mut file).inspect_err(|_| complain!("Failed to read records"))?;
        for record in &buffer.records {
            let Ok((header, data)) = LtdbHeader::split(&record.data) else {
                complain!("Failed to dump records");
                return Err(Exit(71));
            };
            dump_record(out, &record.key, header, data)?;
            count += 1;
        }
    }
    say!(out, "Dumped {count} record(s)")
}

/// What the steps of a change of a whole database need.
struct Wipe {
    nodes: Vec<u32>,
    db: u32,
    /// Of the current generation: the databases are not recovered meanwhile, or the steps fail.
    transaction: u32,
}

impl Wipe {
    fn prepare(ctx: &mut Context, db: u32) -> Result<Self, Exit> {
        let nodes = ctx.nodes().map_err(|_| {
            complain!("Failed to get nodemap");
            ENOMEM
        })?;
        let transaction = generation(ctx).inspect_err(|_| complain!("Failed to get current generation"))?;
        let nodes = active(&nodes.0);
        if nodes.is_empty() {
            return Err(ENOMEM);
        }
        Ok(Self { nodes, db, transaction })
    }

    /// Freezes and empties the database on all nodes, lets `fill` fill it, and thaws it. If anything fails a recovery
    /// makes all nodes' copies the same again.
    fn run(&self, ctx: &mut Context, fill: impl FnOnce(&mut Context) -> Outcome) -> Outcome {
        let plain = |ctx: &mut Context, opcode| step(ctx, &self.nodes, opcode, self.db, None);
        let within = |ctx: &mut Context, opcode| step(ctx, &self.nodes, opcode, self.db, Some(self.transaction));
        let all = (|| {
            plain(ctx, Opcode::DB_FREEZE)?;
            within(ctx, Opcode::DB_TRANSACTION_START)?;
            within(ctx, Opcode::WIPE_DATABASE)?;
            fill(ctx)?;
            plain(ctx, Opcode::DB_SET_HEALTHY)?;
            within(ctx, Opcode::DB_TRANSACTION_COMMIT)?;
            plain(ctx, Opcode::DB_THAW)
        })();
        if all.is_err() {
            // How the recovery ends is not this command's answer.
            let _ = ctx.ask(CURRENT, Opcode::SET_RECMODE, &1u32.to_ne_bytes());
        }
        all
    }
}

pub(super) fn wipedb(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, "wipedb") };
    let db = find(ctx, arg)?;
    db.open(ctx)?;
    Wipe::prepare(ctx, db.id)?.run(ctx, |_| Ok(()))?;
    say!(ctx.out, "Database {} wiped", db.name)
}

pub(super) fn restoredb(ctx: &mut Context, args: &Args) -> Outcome {
    let (path, name) = match args {
        [path] => (path, None),
        [path, name] => (path, Some(text(name).into_owned())),
        _ => return usage(&mut ctx.out, "restoredb"),
    };
    let (mut file, header) = Header::open(path)?;
    let name = name.unwrap_or_else(|| header.name.clone());
    say!(ctx.out, "Restoring database {name} from backup @ {}", time::short_stamp(header.written))?;
    let flags = (header.flags & 0xff) as u8;
    let db = Db { id: 0, name, flags };
    let id = db.open(ctx)?.id;
    let wipe = Wipe::prepare(ctx, id)?;
    wipe.run(ctx, |ctx| {
        let mut order = Writer::default();
        order.u32(id).u32(0).u64(PUSH);
        ctx.ask_all(&wipe.nodes, Opcode::DB_PUSH_START, &order.finish())?;
        for _ in 0..header.buffers {
            let (_, mut bytes) = read_buffer(&mut file)?;
            // The database may be another than the one that was backed up.
            if let Some(first) = bytes.first_chunk_mut() {
                *first = id.to_ne_bytes();
            }
            for node in &wipe.nodes {
                ctx.client.send_message(*node, PUSH, &bytes).map_err(|e| Context::lost(&e))?;
            }
        }
        let answers = ctx.ask_all(&wipe.nodes, Opcode::DB_PUSH_CONFIRM, &id.to_ne_bytes())?;
        for (node, answer) in wipe.nodes.iter().zip(answers) {
            let Ok(count) = Reader::new(&answer).u32("number of records") else {
                complain!("Invalid response from node {node}");
                return Err(Exit(71));
            };
            if u64::from(count) != header.records {
                complain!("Node {node} received {count} of {} records", header.records);
                return Err(FAILED);
            }
        }
        Ok(())
    })?;
    say!(ctx.out, "Database {} restored", db.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_survives() {
        let header = Header { version: 3, written: 1, flags: 1, buffers: 2, records: 700, name: "secrets.tdb".into() };
        let bytes = header.to_bytes();
        assert_eq!(Header::read(bytes[..].try_into().unwrap()), header);
        assert_eq!(bytes.len(), 104, "as the original's");
    }
}
