//! Databases: which there are, their records.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, connected, text};
use super::out::{Exit, FAILED, Out, Outcome, complain, say};
use super::tunables;
use ctdb::control::{DbMap, Opcode, db_flags};
use ctdb::node::{CURRENT, flags};
use ctdb::wire::{LtdbHeader, Reader, Writer, record_flags};
use ctdb_client::{Database, Error, Kind};
use std::ffi::OsString;

/// A database that is attached.
#[derive(Debug, Clone)]
pub(super) struct Db {
    pub(super) id: u32,
    pub(super) name: String,
    /// [`db_flags`].
    pub(super) flags: u8,
}

impl Db {
    /// All nodes have the same.
    pub(super) fn everywhere(&self) -> bool {
        self.flags & (db_flags::PERSISTENT | db_flags::REPLICATED) != 0
    }

    /// Opens its file here.
    pub(super) fn open(&self, ctx: &mut Context) -> Result<Database, Exit> {
        attach_named(ctx, &self.name, self.flags).inspect_err(|_| complain!("Failed to attach to DB {}", self.name))
    }
}

/// The database that an argument names, or whose number it is (`0x...`).
pub(super) fn find(ctx: &mut Context, arg: &OsString) -> Result<Db, Exit> {
    let arg = text(arg);
    let map = ctx.get(ctx.pnn, Opcode::GET_DBMAP, &[], DbMap::get).map_err(|_| FAILED)?;
    let by_id = arg.starts_with("0x").then(|| args::lenient_u32(&arg));
    for (id, flags) in map.0 {
        if by_id.is_some_and(|wanted| wanted != id) {
            continue;
        }
        let name = ctx.get_text(ctx.pnn, Opcode::GET_DBNAME, &id.to_ne_bytes()).map_err(|_| FAILED)?;
        let name = name.unwrap_or_default();
        if by_id.is_some() || name == arg {
            return Ok(Db { id, name, flags });
        }
    }
    complain!("No database matching '{arg}' found");
    Err(FAILED)
}

/// Attaches and opens; what fails is said as the original's library says it.
fn attach_named(ctx: &mut Context, name: &str, db: u8) -> Result<Database, Exit> {
    let kind = if db & db_flags::PERSISTENT != 0 {
        Kind::Persistent
    } else if db & db_flags::REPLICATED != 0 {
        Kind::Replicated
    } else {
        Kind::Volatile
    };
    let database = Database::attach(&mut ctx.client, name, kind).map_err(|error| match &error {
        Error::Refused { status, opcode, .. } if *opcode != Opcode::GETDBPATH && *opcode != Opcode::DB_OPEN_FLAGS => {
            complain!("attach: {name} failed to get db_id, ret={status}");
            Exit(*status)
        }
        Error::Tdb(_) => {
            complain!("attach: {name} tdb_wrap_open failed");
            complain!("{error}");
            FAILED
        }
        _ => Context::lost(&error),
    })?;
    let health = ctx.get_text(CURRENT, Opcode::DB_GET_HEALTH, &database.id.to_ne_bytes())?;
    if let Some(why) = health {
        complain!("attach: {name} database unhealthy ({why})");
    }
    for (flag, opcode) in [(db_flags::READONLY, Opcode::SET_DB_READONLY), (db_flags::STICKY, Opcode::SET_DB_STICKY)] {
        if db & flag != 0 {
            let nodes = connected(&ctx.nodes()?.0);
            ctx.ask_all(&nodes, opcode, &database.id.to_ne_bytes())
                .inspect_err(|_| complain!("attach: {name} set db flags {db:#010x} failed"))?;
        }
    }
    Ok(database)
}

pub(super) fn attach(ctx: &mut Context, args: &Args) -> Outcome {
    let (name, flags) = match args {
        [name] => (name, Some(0)),
        [name, kind] => (
            name,
            match kind.to_str() {
                Some("persistent") => Some(db_flags::PERSISTENT),
                Some("readonly") => Some(db_flags::READONLY),
                Some("sticky") => Some(db_flags::STICKY),
                Some("replicated") => Some(db_flags::REPLICATED),
                _ => None,
            },
        ),
        _ => return usage(&mut ctx.out, "attach"),
    };
    let Some(flags) = flags else { return usage(&mut ctx.out, "attach") };
    attach_named(ctx, &text(name), flags).map(drop)
}

pub(super) fn detach(ctx: &mut Context, args: &Args) -> Outcome {
    if args.is_empty() {
        return usage(&mut ctx.out, "detach");
    }
    if ctx.control(ctx.node, Opcode::GET_RECMODE, &[])?.status != 0 {
        complain!("Database cannot be detached when recovery is active");
        return Err(FAILED);
    }
    for node in ctx.nodes()?.0 {
        if node.flags & (flags::DISCONNECTED | flags::DELETED) != 0 {
            continue;
        }
        if node.flags & flags::INACTIVE != 0 {
            complain!("Database cannot be detached on inactive (stopped or banned) node {}", node.pnn);
            return Err(FAILED);
        }
        let open = tunables::value(ctx, node.pnn, "AllowClientDBAttach")
            .inspect_err(|_| complain!("Unable to get tunable AllowClientDBAttach from node {}", node.pnn))?;
        if open == 1 {
            complain!("Database access is still active on node {}. Set AllowclientDBAttach=0 on all nodes.", node.pnn);
            return Err(FAILED);
        }
    }
    let mut outcome = Ok(());
    for arg in args {
        let Ok(db) = find(ctx, arg) else { continue };
        if db.everywhere() {
            complain!("Only volatile databases can be detached");
            return Err(FAILED);
        }
        if let Err(exit) = ctx.ask(CURRENT, Opcode::DB_DETACH, &db.id.to_ne_bytes()) {
            complain!("Database {} detach failed", db.name);
            outcome = Err(exit);
        }
    }
    outcome
}

pub(super) fn getdbmap(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "getdbmap") };
    let map = ctx.get(ctx.node, Opcode::GET_DBMAP, &[], DbMap::get)?;
    let s = ctx.options.separator.clone();
    if ctx.options.machine {
        let columns = ["ID", "Name", "Path", "Persistent", "Sticky", "Unhealthy", "Readonly", "Replicated"];
        say!(ctx.out, "{s}{}{s}", columns.join(&s))?;
    } else {
        say!(ctx.out, "Number of databases:{}", map.0.len())?;
    }
    for (id, flags) in map.0 {
        let asked = id.to_ne_bytes();
        let name = ctx.get_text(ctx.node, Opcode::GET_DBNAME, &asked)?.unwrap_or_default();
        let path = ctx.get_text(ctx.node, Opcode::GETDBPATH, &asked)?.unwrap_or_default();
        let unhealthy = ctx.get_text(ctx.node, Opcode::DB_GET_HEALTH, &asked)?.is_some();
        let is = |flag: u8| flags & flag != 0;
        if ctx.options.machine {
            let [persistent, sticky, readonly, replicated] =
                [db_flags::PERSISTENT, db_flags::STICKY, db_flags::READONLY, db_flags::REPLICATED].map(is);
            let bits = [persistent, sticky, unhealthy, readonly, replicated].map(|bit| u8::from(bit).to_string());
            say!(ctx.out, "{s}0x{id:08X}{s}{name}{s}{path}{s}{}{s}", bits.join(&s))?;
            continue;
        }
        let words = [
            (is(db_flags::PERSISTENT), " PERSISTENT"),
            (is(db_flags::STICKY), " STICKY"),
            (is(db_flags::READONLY), " READONLY"),
            (is(db_flags::REPLICATED), " REPLICATED"),
            (unhealthy, " UNHEALTHY"),
        ];
        let words: String = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        say!(ctx.out, "dbid:{id:#010x} name:{name} path:{path}{words}")?;
    }
    Ok(())
}

pub(super) fn getdbstatus(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, "getdbstatus") };
    let db = find(ctx, arg)?;
    let path = ctx.get_text(ctx.node, Opcode::GETDBPATH, &db.id.to_ne_bytes())?.unwrap_or_default();
    let health = ctx.get_text(ctx.node, Opcode::DB_GET_HEALTH, &db.id.to_ne_bytes())?;
    let word = |flag: u8| if db.flags & flag != 0 { "yes" } else { "no" };
    say!(ctx.out, "dbid: {:#010x}\nname: {}\npath: {path}", db.id, db.name)?;
    say!(ctx.out, "PERSISTENT: {}\nREPLICATED: {}", word(db_flags::PERSISTENT), word(db_flags::REPLICATED))?;
    say!(ctx.out, "STICKY: {}\nREADONLY: {}", word(db_flags::STICKY), word(db_flags::READONLY))?;
    say!(ctx.out, "HEALTH: {}", health.as_deref().unwrap_or("OK"))
}

pub(super) fn getdbseqnum(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, "getdbseqnum") };
    let db = find(ctx, arg)?;
    // The number of the database in eight bytes.
    let asked = u64::from(db.id).to_ne_bytes();
    let read = |data: &[u8]| Reader::new(data).u64("sequence number");
    let number = ctx.get(ctx.node, Opcode::GET_DB_SEQNUM, &asked, read);
    let number = number.inspect_err(|_| complain!("Failed to get sequence number for DB {}", db.name))?;
    say!(ctx.out, "{number:#x}")
}

pub(super) fn setdbreadonly(ctx: &mut Context, args: &Args) -> Outcome {
    set_property(ctx, args, "setdbreadonly", "READONLY", Opcode::SET_DB_READONLY)
}

pub(super) fn setdbsticky(ctx: &mut Context, args: &Args) -> Outcome {
    set_property(ctx, args, "setdbsticky", "STICKY", Opcode::SET_DB_STICKY)
}

fn set_property(ctx: &mut Context, args: &Args, command: &str, what: &str, opcode: Opcode) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, command) };
    let db = find(ctx, arg)?;
    if db.everywhere() {
        complain!("{what} can be set only on volatile DB");
        return Err(FAILED);
    }
    let nodes = connected(&ctx.nodes()?.0);
    ctx.ask_all(&nodes, opcode, &db.id.to_ne_bytes()).map(drop)
}

/// Bytes with whatever is not printable, and quotes and backslashes, as two hexadecimal digits.
pub(super) fn dump_data(out: &mut Out, name: &str, data: &[u8]) -> Outcome {
    let mut shown = String::with_capacity(data.len());
    for byte in data {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') {
            shown.push(char::from(*byte));
        } else {
            shown.push_str(&format!("\\{byte:02X}"));
        }
    }
    say!(out, "{name}({}) = \"{shown}\"", data.len())
}

pub(super) fn dump_header(out: &mut Out, header: LtdbHeader) -> Outcome {
    let names = [
        (record_flags::MIGRATED_WITH_DATA, " MIGRATED_WITH_DATA"),
        (record_flags::VACUUM_MIGRATED, " VACUUM_MIGRATED"),
        (record_flags::AUTOMATIC, " AUTOMATIC"),
        (record_flags::HAVE_DELEGATIONS, " RO_HAVE_DELEGATIONS"),
        (record_flags::HAVE_READONLY, " RO_HAVE_READONLY"),
        (record_flags::REVOKING_READONLY, " RO_REVOKING_READONLY"),
        (record_flags::REVOKE_COMPLETE, " RO_REVOKE_COMPLETE"),
    ];
    let names: String = names.iter().filter(|(flag, _)| header.flags & flag != 0).map(|(_, name)| *name).collect();
    say!(out, "dmaster: {}", header.dmaster)?;
    say!(out, "rsn: {}", header.rsn)?;
    say!(out, "flags: {:#010x}{names}", header.flags)
}

pub(super) fn dump_record(out: &mut Out, key: &[u8], header: LtdbHeader, data: &[u8]) -> Outcome {
    dump_data(out, "key", key)?;
    dump_header(out, header)?;
    dump_data(out, "data", data)?;
    say!(out)
}

pub(super) fn catdb(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, "catdb") };
    let db = find(ctx, arg)?;
    let database = db.open(ctx)?;
    let srvid = ctx.next_srvid();
    let (mut count, mut outcome) = (0u64, Ok(()));
    let Context { client, out, .. } = ctx;
    let whole = database.traverse(client, srvid, |key, header, data| {
        count += 1;
        if outcome.is_ok() {
            outcome = dump_record(out, key, header, data);
        }
    });
    outcome?;
    say!(ctx.out, "Dumped {count} records")?;
    whole.map_err(|error| Context::lost(&error))
}

/// A record as it is in the file: key, header, data.
pub(super) type Local = (Vec<u8>, LtdbHeader, Vec<u8>);

/// All records of the file here, with their headers; what has none is left out.
pub(super) fn local_records(database: &mut Database) -> Result<Vec<Local>, tdb::Error> {
    let mut records = Vec::new();
    database.tdb.traverse_read(|_, key, value| {
        if let Ok((header, data)) = LtdbHeader::split(value) {
            records.push((key.to_vec(), header, data.to_vec()));
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(records)
}

pub(super) fn cattdb(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, "cattdb") };
    let db = find(ctx, arg)?;
    let mut database = db.open(ctx)?;
    let records = local_records(&mut database).map_err(|error| {
        complain!("{error}");
        FAILED
    })?;
    for (key, header, data) in &records {
        dump_record(&mut ctx.out, key, *header, data)?;
    }
    say!(ctx.out, "Dumped {} record(s)", records.len())
}

/// Orders all nodes to do one step on a database, under a transaction or without.
pub(super) fn step(ctx: &mut Context, nodes: &[u32], opcode: Opcode, db: u32, transaction: Option<u32>) -> Outcome {
    let mut order = Writer::default();
    order.u32(db);
    if let Some(transaction) = transaction {
        order.u32(transaction);
    }
    ctx.ask_all(nodes, opcode, &order.finish()).map(drop)
}
