//! Single records: of volatile databases, of persistent ones in transactions, of files.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, status_of, text};
use super::databases::{Db, dump_data, dump_header, find};
use super::out::{EINVAL, Exit, FAILED, Out, Outcome, complain, say};
use ctdb::wire::LtdbHeader;
use ctdb_client::{Database, Error, GLock, Mode, Transaction};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use tdb::{Flags, Options, Store, Tdb};

/// How long the holder of a database's lock is given before it is looked at again, as by the original.
const AGAIN: Duration = Duration::from_secs(1);

/// A key or value: bytes as they are, or after `0x` in hexadecimal digits.
fn bytes(given: &[u8]) -> Result<Vec<u8>, Exit> {
    let Some(digits) = given.strip_prefix(b"0x") else { return Ok(given.to_vec()) };
    let shown = String::from_utf8_lossy(digits);
    if !digits.len().is_multiple_of(2) {
        complain!("Key ({shown}) contains odd number of hex digits");
        return Err(EINVAL);
    }
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = digits.chunks_exact(2).map(|pair| Some(digit(&pair[0])? << 4 | digit(&pair[1])?));
    pairs.collect::<Option<_>>().ok_or_else(|| {
        complain!("Invalid hex: {shown}");
        EINVAL
    })
}

fn key_arg(arg: &OsString) -> Result<Vec<u8>, Exit> {
    bytes(arg.as_bytes()).inspect_err(|_| complain!("Failed to parse key {}", text(arg)))
}

fn value_arg(arg: &OsString) -> Result<Vec<u8>, Exit> {
    bytes(arg.as_bytes()).inspect_err(|_| complain!("Failed to parse value {}", text(arg)))
}

/// A volatile database, by its argument.
fn volatile(ctx: &mut Context, arg: &OsString) -> Result<Database, Exit> {
    let db = find(ctx, arg)?;
    if db.everywhere() {
        complain!("DB {} is not a volatile database", db.name);
        return Err(FAILED);
    }
    db.open(ctx)
}

/// What went wrong with a record, and after it what the command says.
fn failed(error: &Error, says: std::fmt::Arguments<'_>) -> Exit {
    complain!("{error}");
    complain!("{says}");
    Exit(status_of(error))
}

pub(super) fn readkey(ctx: &mut Context, args: &Args) -> Outcome {
    let (db, key, copy) = match args {
        [db, key] => (db, key, false),
        [db, key, word] if word == "readonly" => (db, key, true),
        _ => return usage(&mut ctx.out, "readkey"),
    };
    let mut database = volatile(ctx, db)?;
    let shown = text(key);
    let key = key_arg(key)?;
    let held = if copy {
        database.fetch_copy_locked(&mut ctx.client, &key)
    } else {
        database.fetch_locked(&mut ctx.client, &key)
    };
    let held = held.map_err(|e| failed(&e, format_args!("Failed to read record for key {shown}")))?;
    ctx.out.print(format_args!("Data: size:{} ptr:[", held.data.len()))?;
    ctx.out.raw(printable(&held.data))?;
    say!(ctx.out, "]")?;
    database.unlock(&key).map_err(|e| failed(&e, format_args!("Failed to unlock record for key {shown}")))
}

/// Up to the first NUL, as C prints it.
fn printable(data: &[u8]) -> &[u8] {
    &data[..data.iter().position(|b| *b == 0).unwrap_or(data.len())]
}

pub(super) fn writekey(ctx: &mut Context, args: &Args) -> Outcome {
    let [db_arg, key_text, value] = args else { return usage(&mut ctx.out, "writekey") };
    let mut database = volatile(ctx, db_arg)?;
    let key = key_arg(key_text)?;
    let value = value_arg(value)?;
    let shown = text(key_text);
    let held = database.fetch_locked(&mut ctx.client, &key);
    let held = held.map_err(|e| failed(&e, format_args!("Failed to lock record for key {shown}")))?;
    let stored = if held.data == value { Ok(()) } else { database.store(&key, held.header, &value) };
    stored
        .and_then(|()| database.unlock(&key))
        .map_err(|e| failed(&e, format_args!("Failed to store record for key {shown}")))
}

pub(super) fn deletekey(ctx: &mut Context, args: &Args) -> Outcome {
    let [db, key_text] = args else { return usage(&mut ctx.out, "deletekey") };
    let mut database = volatile(ctx, db)?;
    let key = key_arg(key_text)?;
    let shown = text(key_text);
    let held = database.fetch_locked(&mut ctx.client, &key);
    let held = held.map_err(|e| failed(&e, format_args!("Failed to fetch record for key {shown}")))?;
    database
        .delete(&mut ctx.client, &key, held.header)
        .and_then(|()| database.unlock(&key))
        .map_err(|e| failed(&e, format_args!("Failed to delete record for key {shown}")))
}

/// A database that has transactions, by its argument.
fn transactional(ctx: &mut Context, arg: &OsString) -> Result<Db, Exit> {
    let db = find(ctx, arg)?;
    if !db.everywhere() {
        complain!("Transactions not supported on DB {}", db.name);
        return Err(FAILED);
    }
    Ok(db)
}

fn lock(ctx: &mut Context, db: &Db, mode: Mode) -> Result<GLock, Exit> {
    let deadline = ctx.deadline();
    GLock::lock(&mut ctx.client, db.id, mode, AGAIN, deadline)
        .map_err(|e| failed(&e, format_args!("Failed to start transaction on db {}", db.name)))
}

/// Runs `change` in a transaction and commits it; nothing of it is there if it fails.
fn transact(
    ctx: &mut Context,
    db: &Db,
    database: &mut Database,
    change: impl FnOnce(&mut Context, &mut Database, &mut Transaction) -> Outcome,
) -> Outcome {
    let lock = lock(ctx, db, Mode::Write)?;
    let mut transaction = Transaction::default();
    let outcome = change(ctx, database, &mut transaction).and_then(|()| {
        let done = transaction.commit(&mut ctx.client, database);
        done.map(drop).map_err(|e| failed(&e, format_args!("Failed to commit transaction on db {}", db.name)))
    });
    let unlocked = lock.unlock(&mut ctx.client).map_err(|e| Context::lost(&e));
    outcome.and(unlocked)
}

/// Puts a value into a transaction, unless it is there already.
fn put(
    ctx: &mut Context,
    database: &mut Database,
    transaction: &mut Transaction,
    key: &[u8],
    value: &[u8],
) -> Result<(), Error> {
    if transaction.get(database, key)? == value { Ok(()) } else { transaction.put(&ctx.client, database, key, value) }
}

pub(super) fn pfetch(ctx: &mut Context, args: &Args) -> Outcome {
    let ([db, key_text] | [db, key_text, _]) = args else { return usage(&mut ctx.out, "pfetch") };
    let db = transactional(ctx, db)?;
    let mut database = db.open(ctx)?;
    let key = key_arg(key_text)?;
    let lock = lock(ctx, &db, Mode::Read)?;
    let found = Transaction::default().get(&mut database, &key);
    let unlocked = lock.unlock(&mut ctx.client).map_err(|e| Context::lost(&e));
    let data = found.map_err(|e| failed(&e, format_args!("Failed to read record for key {}", text(key_text))))?;
    ctx.out.raw(printable(&data))?;
    say!(ctx.out)?;
    unlocked
}

pub(super) fn pstore(ctx: &mut Context, args: &Args) -> Outcome {
    let [db, key_text, value] = args else { return usage(&mut ctx.out, "pstore") };
    let db = transactional(ctx, db)?;
    let mut database = db.open(ctx)?;
    let key = key_arg(key_text)?;
    let value = value_arg(value)?;
    transact(ctx, &db, &mut database, |ctx, database, transaction| {
        put(ctx, database, transaction, &key, &value)
            .map_err(|e| failed(&e, format_args!("Failed to store record for key {}", text(key_text))))
    })
}

pub(super) fn pdelete(ctx: &mut Context, args: &Args) -> Outcome {
    let [db, key_text] = args else { return usage(&mut ctx.out, "pdelete") };
    let db = transactional(ctx, db)?;
    let mut database = db.open(ctx)?;
    let key = key_arg(key_text)?;
    transact(ctx, &db, &mut database, |ctx, database, transaction| {
        put(ctx, database, transaction, &key, &[])
            .map_err(|e| failed(&e, format_args!("Failed to delete record for key {}", text(key_text))))
    })
}

pub(super) fn ptrans(ctx: &mut Context, args: &Args) -> Outcome {
    let (db, file) = match args {
        [db] => (db, None),
        [db, file] => (db, Some(file)),
        _ => return usage(&mut ctx.out, "ptrans"),
    };
    let db = transactional(ctx, db)?;
    let input: Box<dyn BufRead> = match file {
        None => Box::new(std::io::stdin().lock()),
        Some(file) => Box::new(BufReader::new(File::open(file).map_err(|_| {
            complain!("Failed to open file {}", text(file));
            FAILED
        })?)),
    };
    let mut database = db.open(ctx)?;
    transact(ctx, &db, &mut database, |ctx, database, transaction| {
        for line in input.split(b'\n') {
            let line = line.map_err(|e| {
                complain!("Failed to read the input: {e}");
                Exit::errno(&e)
            })?;
            // A line that cannot be read is told and left out.
            if let Some((key, value)) = key_and_value(&line) {
                put(ctx, database, transaction, &key, &value)
                    .map_err(|e| failed(&e, format_args!("Failed to store record")))?;
            }
        }
        Ok(())
    })
}

/// `"key" "value"`.
fn key_and_value(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (key, rest) = quoted(line)?;
    let (value, _) = quoted(rest)?;
    (!key.is_empty()).then_some((key, value))
}

/// A quoted text, and what follows it.
fn quoted(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let shown = String::from_utf8_lossy(input);
    let start = input.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(input.len());
    let Some(inside) = input[start..].strip_prefix(b"\"") else {
        complain!("Unsupported input format in {shown}\n");
        return None;
    };
    let Some(end) = inside.iter().position(|b| *b == b'"') else {
        complain!("Unmatched \" in input {shown}\n");
        return None;
    };
    Some((bytes(&inside[..end]).ok()?, &inside[end + 1..]))
}

/// A TDB file, whoever uses it.
fn open_file(path: &OsString) -> Result<Tdb, Exit> {
    Tdb::open(path, Options::new(Flags(0))).map_err(|error| {
        complain!("Failed to open TDB file {}", text(path));
        if std::path::Path::new(path).exists() {
            complain!("{error}");
        }
        FAILED
    })
}

pub(super) fn tfetch(ctx: &mut Context, args: &Args) -> Outcome {
    let (file, key_text, to) = match args {
        [file, key] => (file, key, None),
        [file, key, to] => (file, key, Some(to)),
        _ => return usage(&mut ctx.out, "tfetch"),
    };
    let mut tdb = open_file(file)?;
    let key = key_arg(key_text)?;
    let found = tdb.fetch(&key).map_err(|error| {
        complain!("{error}");
        FAILED
    })?;
    let Some(value) = found else {
        complain!("No record for key {}", text(key_text));
        return Err(FAILED);
    };
    let Ok((header, data)) = LtdbHeader::split(&value) else {
        complain!("Invalid record for key {}", text(key_text));
        return Err(FAILED);
    };
    if let Some(to) = to {
        let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(to);
        match opened {
            Err(_) => complain!("Failed to open output file {}", text(to)),
            Ok(mut file) => {
                if file.write_all(&value).is_err() {
                    complain!("Failed to write record to file");
                }
            }
        }
    }
    dump(&mut ctx.out, header, data)
}

fn dump(out: &mut Out, header: LtdbHeader, data: &[u8]) -> Outcome {
    dump_header(out, header)?;
    dump_data(out, "data", data)
}

pub(super) fn tstore(ctx: &mut Context, args: &Args) -> Outcome {
    let (file, key_text, value, rest) = match args {
        [file, key, value, rest @ ..] if rest.len() <= 3 => (file, key, value, rest),
        _ => return usage(&mut ctx.out, "tstore"),
    };
    let mut tdb = open_file(file)?;
    let key = key_arg(key_text)?;
    let value = value_arg(value)?;
    let word = |at: usize| rest.get(at).map_or_else(|| "0".into(), |arg| text(arg));
    let header = LtdbHeader {
        rsn: args::lenient_u64(&word(0)),
        dmaster: args::atoi(&word(1)).cast_unsigned(),
        reserved: 0,
        flags: args::atoi(&word(2)).cast_unsigned(),
    };
    tdb.store(&key, &header.before(&value), Store::Replace).map(drop).map_err(|error| {
        complain!("{error}");
        complain!("Failed to write record {} to file {}", text(key_text), text(file));
        FAILED
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_transaction() {
        assert_eq!(key_and_value(b" \"a\"\t\"b c\""), Some((b"a".to_vec(), b"b c".to_vec())));
        assert_eq!(key_and_value(b"\"0x4142\" \"0x4344\" more"), Some((b"AB".to_vec(), b"CD".to_vec())));
        assert_eq!(key_and_value(b"\"a\" \"\""), Some((b"a".to_vec(), Vec::new())));
        for bad in [&b"a b"[..], b"\"a\"", b"\"a", b"", b"\"\" \"b\"", b"\"0x1\" \"b\""] {
            assert_eq!(key_and_value(bad), None);
        }
    }
}
