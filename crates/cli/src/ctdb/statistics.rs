//! Counters of the daemon and of its databases.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, text};
use super::databases;
use super::out::{Out, Outcome, complain, say};
use super::time;
use ctdb::control::Opcode;
use ctdb::wire::VERSION;
use ctdb::wire::{Reader, WireError};

/// Bytes of one set of the daemon's counters.
const SIZE: usize = 488;
/// Classes of a histogram.
const BUCKETS: usize = 16;
/// Hot keys of a database.
const HOT_KEYS: usize = 10;

/// The daemon's counters and where each stands.
const FIELDS: [(&str, usize); 38] = [
    ("num_clients", 0),
    ("frozen", 4),
    ("recovering", 8),
    ("num_recoveries", 440),
    ("client_packets_sent", 12),
    ("client_packets_recv", 16),
    ("node_packets_sent", 20),
    ("node_packets_recv", 24),
    ("keepalive_packets_sent", 28),
    ("keepalive_packets_recv", 32),
    ("node.req_call", 36),
    ("node.reply_call", 40),
    ("node.req_dmaster", 44),
    ("node.reply_dmaster", 48),
    ("node.reply_error", 52),
    ("node.req_message", 56),
    ("node.req_control", 60),
    ("node.reply_control", 64),
    ("node.req_tunnel", 68),
    ("client.req_call", 72),
    ("client.req_message", 76),
    ("client.req_control", 80),
    ("client.req_tunnel", 84),
    ("timeouts.call", 88),
    ("timeouts.control", 92),
    ("timeouts.traverse", 96),
    ("locks.num_calls", 168),
    ("locks.num_current", 172),
    ("locks.num_pending", 176),
    ("locks.num_failed", 180),
    ("total_calls", 280),
    ("pending_calls", 284),
    ("childwrite_calls", 288),
    ("pending_childwrite_calls", 292),
    ("memory_used", 296),
    ("max_hop_count", 304),
    ("total_ro_delegations", 480),
    ("total_ro_revokes", 484),
];
/// A database's.
const DB_FIELDS: [(&str, usize); 6] = [
    ("db_ro_delegations", 144),
    ("db_ro_revokes", 148),
    ("locks.num_calls", 0),
    ("locks.num_current", 4),
    ("locks.num_pending", 8),
    ("locks.num_failed", 12),
];

/// How long something took.
struct Latency {
    count: i32,
    min: f64,
    max: f64,
    total: f64,
}

impl Latency {
    fn average(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total / f64::from(self.count) }
    }
}

/// Bytes of a C structure.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        // Whoever makes one has looked at the length.
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }
    fn u32(self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }
    fn i64(self, at: usize) -> i64 {
        i64::from_ne_bytes(self.array(at))
    }
    fn latency(self, at: usize) -> Latency {
        let double = |at| f64::from_ne_bytes(self.array(at));
        let count = self.u32(at).cast_signed();
        Latency { count, min: double(at + 8), max: double(at + 16), total: double(at + 24) }
    }
}

/// Counters one below the other, those of a group under its name.
fn counters(out: &mut Out, fields: Fields<'_>, table: &[(&str, usize)]) -> Outcome {
    let mut group = "";
    for (name, at) in table {
        let value = fields.u32(*at);
        match name.split_once('.') {
            Some((of, name)) => {
                if of != group {
                    group = of;
                    say!(out, " {of}")?;
                }
                say!(out, "     {name:<22}{value:>10}")?;
            }
            None => say!(out, " {name:<22}    {value:>10}")?,
        }
    }
    Ok(())
}

fn buckets(out: &mut Out, what: &str, fields: Fields<'_>, at: usize) -> Outcome {
    let counts: Vec<String> = (0..BUCKETS).map(|i| fields.u32(at + 4 * i).cast_signed().to_string()).collect();
    say!(out, " {what}: {}", counts.join(" "))
}

fn latency(out: &mut Out, what: &str, latency: &Latency) -> Outcome {
    let what = format!("{what:<19}MIN/AVG/MAX");
    let (min, average, max) = (latency.min, latency.average(), latency.max);
    say!(out, " {what:<30}     {min:.6}/{average:.6}/{max:.6} sec out of {}", latency.count)
}

fn print(ctx: &mut Context, bytes: &[u8], header: bool) -> Outcome {
    let fields = Fields(bytes);
    // Start stands before the current time.
    let (started, now) = (fields.i64(448), fields.i64(464));
    if ctx.options.machine {
        return print_machine(ctx, fields, started, now, header);
    }
    let out = &mut ctx.out;
    say!(out, "CTDB version {VERSION}")?;
    say!(out, "Current time of statistics  :                {}", time::stamp(now))?;
    say!(out, "Statistics collected since  : ({}) {}", time::span(now - started), time::stamp(started))?;
    counters(out, fields, &FIELDS)?;
    buckets(out, "hop_count_buckets", fields, 308)?;
    buckets(out, "lock_buckets", fields, 216)?;
    latency(out, "locks_latency", &fields.latency(184))?;
    latency(out, "reclock_ctdbd", &fields.latency(104))?;
    latency(out, "reclock_recd", &fields.latency(136))?;
    latency(out, "call_latency", &fields.latency(376))?;
    latency(out, "childwrite_latency", &fields.latency(408))
}

fn print_machine(ctx: &mut Context, fields: Fields<'_>, started: i64, now: i64, header: bool) -> Outcome {
    let s = ctx.options.separator.clone();
    let named =
        ["reclock_ctdbd_latency", "reclock_recd_latency", "call_latency", "lockwait_latency", "childwrite_latency"];
    if header {
        let mut names: Vec<String> =
            ["CTDB version", "Current time of statistics", "Statistics collected since"].map(str::to_owned).to_vec();
        names.extend(FIELDS.iter().map(|(name, _)| (*name).to_owned()));
        for latency in named {
            names.extend(["num", "min", "avg", "max"].map(|what| format!("{what}_{latency}")));
        }
        say!(ctx.out, "{}{s}", names.join(&s))?;
    }
    let mut values = vec![VERSION.to_string(), (now as u32).to_string(), (started as u32).to_string()];
    values.extend(FIELDS.iter().map(|(_, at)| fields.u32(*at).to_string()));
    for at in MACHINE_LATENCIES {
        let latency = fields.latency(at);
        values.push(latency.count.to_string());
        values.extend([latency.min, latency.average(), latency.max].map(|n| format!("{n:.6}")));
    }
    say!(ctx.out, "{}{s}", values.join(&s))
}

/// Those that are told to programs, in order.
const MACHINE_LATENCIES: [usize; 5] = [104, 136, 376, 184, 408];

fn whole(data: &[u8]) -> Result<Vec<u8>, WireError> {
    Reader::new(data).take(SIZE, "statistics").map(<[u8]>::to_vec)
}

pub(super) fn statistics(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "statistics") };
    let bytes = ctx.get(ctx.node, Opcode::STATISTICS, &[], whole)?;
    print(ctx, &bytes, true)
}

pub(super) fn statisticsreset(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "statisticsreset") };
    ctx.ask_node(Opcode::STATISTICS_RESET, &[]).map(drop)
}

pub(super) fn stats(ctx: &mut Context, args: &Args) -> Outcome {
    let count = match args {
        [] => 0,
        [count] => args::atoi(&text(count)),
        _ => return usage(&mut ctx.out, "stats"),
    };
    let sets = ctx.get(ctx.node, Opcode::GET_STAT_HISTORY, &[], |data| {
        let mut r = Reader::new(data);
        let count = r.len("number of statistics")?;
        r.u32("padding")?;
        (0..count).map(|_| r.take(SIZE, "statistics").map(<[u8]>::to_vec)).collect::<Result<Vec<_>, _>>()
    })?;
    let mut header = true;
    for (at, set) in sets.iter().enumerate() {
        if Fields(set).i64(448) == 0 {
            continue;
        }
        print(ctx, set, header)?;
        header = false;
        // One more than was asked for: so it is in the original.
        if count > 0 && i32::try_from(at) == Ok(count) {
            break;
        }
    }
    Ok(())
}

pub(super) fn dbstatistics(ctx: &mut Context, args: &Args) -> Outcome {
    let [name] = args else { return usage(&mut ctx.out, "dbstatistics") };
    let db = databases::find(ctx, name)?;
    let bytes = ctx.get(ctx.node, Opcode::GET_DB_STATISTICS, &db.id.to_ne_bytes(), |data| {
        Reader::new(data).take(224 + HOT_KEYS * 24, "statistics of a database").map(|_| data.to_vec())
    });
    let bytes = bytes.inspect_err(|_| complain!("Failed to get statistics for DB {}", db.name))?;
    let (fields, out) = (Fields(&bytes), &mut ctx.out);
    say!(out, "DB Statistics {}", db.name)?;
    counters(out, fields, &DB_FIELDS)?;
    buckets(out, "hop_count_buckets", fields, 152)?;
    buckets(out, "lock_buckets", fields, 48)?;
    latency(out, "locks_latency", &fields.latency(16))?;
    latency(out, "vacuum_latency", &fields.latency(112))?;
    let hot = (fields.u32(216) as usize).min(HOT_KEYS);
    say!(out, " Num Hot Keys:     {hot}")?;
    let mut keys = bytes.get(224 + HOT_KEYS * 24..).unwrap_or_default();
    for at in (0..hot).map(|i| 224 + 24 * i) {
        let len = usize::try_from(fields.i64(at + 16)).unwrap_or(usize::MAX).min(keys.len());
        let (key, rest) = keys.split_at(len);
        keys = rest;
        let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
        say!(out, "     Count:{} Key:{hex}", fields.u32(at).cast_signed())?;
    }
    Ok(())
}

pub(super) fn dumpmemory(ctx: &mut Context, _: &Args) -> Outcome {
    let mut data = ctx.ask_node(Opcode::DUMP_MEMORY, &[])?;
    // The original writes the end of the text with it.
    data.truncate(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    data.push(0);
    ctx.out.raw(&data)
}

pub(super) fn rddumpmemory(ctx: &mut Context, _: &Args) -> Outcome {
    let answer = ctx.next_srvid();
    ctx.client.register(answer).map_err(|e| Context::lost(&e))?;
    let mut request = ctdb::wire::Writer::default();
    request.u32(ctx.pnn).u32(0).u64(answer);
    let sent = ctx.client.send_message(ctx.node, ctdb::srvid::MEM_DUMP, &request.finish());
    sent.map_err(|e| Context::lost(&e))?;
    loop {
        // The command's time limit ends the wait.
        let deadline = ctx.deadline();
        if let Some(message) = ctx.answer_to(answer, deadline)? {
            return ctx.out.raw(&message.data);
        }
    }
}
