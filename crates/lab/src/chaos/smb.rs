//! An SMB client that goes on through everything: it counts in a file of all clients, under a lock; has another file to
//! itself alone for a moment; and writes blocks of its own, of which it reads older ones again.

use super::history::{Hold, Increment};
use super::report::Errors;
use crate::lab::Lab;
use crate::smb::{Answer, Session, Sharing};
use ::drill::clients::{BLOCK, block};
use ::drill::now_us;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Digits of the number in the file.
pub(super) const ZERO: &[u8] = b"00000000000000000000";
/// What holds are of.
pub(super) const RANGE: &str = "a locked range";
pub(super) const ALONE: &str = "a file opened alone";
/// Without a success for so long a client is stalled, in microseconds. smbd waits for one second before it refuses an open.
pub(super) const STALL_US: u64 = 2_000_000;
/// A lock is asked for so often, then other work is done first.
const TRIES: u32 = 60;
/// Blocks that are read again when a client has connected anew.
const AGAIN: u64 = 8;
/// What a server says of a session or of files that are no more (closed, deleted, disconnected): as good as a broken
/// connection.
const GONE: [&str; 6] = ["0xc0000128", "0xc0000203", "0xc000020c", "0xc00000c9", "0xc0000120", "0xc000026e"];

/// The answer to giving a range back that is not locked.
const NOT_LOCKED: &str = "0xc000007e";

/// Who and where.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) index: usize,
    pub(super) vip: String,
    pub(super) counter: String,
    pub(super) alone: String,
    pub(super) own: String,
    /// To see that the checkers find it: it counts without a lock.
    pub(super) lawless: bool,
}

/// What a client has seen.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) holds: Vec<Hold>,
    pub(super) increments: Vec<Increment>,
    /// Blocks 0 to here are acknowledged.
    pub(super) blocks: u64,
    pub(super) compared: u64,
    pub(super) wrong: Vec<String>,
    /// What the server said over a connection that stood, and how often.
    pub(super) errors: Errors,
    pub(super) reconnects: u64,
    pub(super) stalls: u64,
    pub(super) longest_us: u64,
    /// Locks that were taken back from a server that had not given them, and those that could not be.
    pub(super) taken_back: u64,
    pub(super) lost: u64,
}

struct Open {
    session: Session,
    counter: String,
    own: String,
}

struct Client {
    lab: Lab,
    who: Who,
    stop: Arc<AtomicBool>,
    open: Option<Open>,
    notes: Notes,
    last_us: u64,
    turns: u64,
}

/// Starts one; what it has seen when the flag is set.
pub(super) fn start(lab: &Lab, who: Who, stop: &Arc<AtomicBool>) -> JoinHandle<Notes> {
    let mut client = Client {
        lab: lab.clone(),
        who,
        stop: Arc::clone(stop),
        open: None,
        notes: Notes::default(),
        last_us: now_us(),
        turns: 0,
    };
    std::thread::spawn(move || {
        client.run();
        client.notes
    })
}

/// An answer in hexadecimal as bytes.
pub(super) fn bytes(answer: Answer) -> Result<Vec<u8>> {
    let hex = answer.handle()?;
    (0..hex.len() / 2).map(|i| Ok(u8::from_str_radix(&hex[2 * i..2 * i + 2], 16)?)).collect()
}

/// The number in a counter's file.
pub(super) fn number(session: &mut Session, handle: &str) -> Result<u64> {
    let text = bytes(session.get(handle, 0, ZERO.len())?)?;
    String::from_utf8_lossy(&text).parse().with_context(|| format!("the counter holds {text:?}"))
}

impl Client {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn alive(&mut self) {
        let now = now_us();
        let gap = now - self.last_us;
        self.notes.stalls += u64::from(gap > STALL_US);
        self.notes.longest_us = self.notes.longest_us.max(gap);
        self.last_us = now;
    }

    fn run(&mut self) {
        while !self.stopped() {
            match self.turn() {
                Ok(()) => std::thread::sleep(Duration::from_millis(20)),
                Err(e) => {
                    let why = format!("{e:#}");
                    // Of an answer, or of the login's.
                    if let Some(at) =
                        why.find(": error 0x").map(|at| at + 8).or_else(|| why.find(": 0x").map(|at| at + 2))
                        && !GONE.iter().any(|code| why[at..].starts_with(code))
                    {
                        self.notes.errors.add(format!("SMB client: {}", why[at..].trim()), 1, now_us());
                    }
                    self.open = None;
                    self.notes.reconnects += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        self.alive();
    }

    fn turn(&mut self) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        self.count(&mut open)?;
        if self.turns.is_multiple_of(16) {
            self.alone(&mut open)?;
        }
        let n = self.notes.blocks;
        open.session.put(&open.own, n * BLOCK as u64, &block(&self.who.own, n))?.handle()?;
        self.notes.blocks += 1;
        self.alive();
        if self.turns.is_multiple_of(8) {
            // Any older one, without chance: a step that is no divisor of much.
            self.compare(&mut open, self.turns * 7919 % self.notes.blocks)?;
        }
        self.turns += 1;
        self.open = Some(open);
        Ok(())
    }

    fn connect(&mut self) -> Result<Open> {
        let mut session = Session::locking(&self.lab, &self.who.vip)?;
        let counter = session.create(&self.who.counter, Sharing::All)?.handle()?;
        let own = session.create(&self.who.own, Sharing::All)?.handle()?;
        let mut open = Open { session, counter, own };
        for n in self.notes.blocks.saturating_sub(AGAIN)..self.notes.blocks {
            self.compare(&mut open, n)?;
        }
        self.alive();
        Ok(open)
    }

    fn compare(&mut self, open: &mut Open, n: u64) -> Result<()> {
        let there = bytes(open.session.get(&open.own, n * BLOCK as u64, BLOCK)?)?;
        self.notes.compared += BLOCK as u64;
        if there != block(&self.who.own, n) {
            let me = self.who.index;
            self.notes.wrong.push(format!("wrong bytes: block {n} of SMB client {me} is not what was acknowledged"));
        }
        Ok(())
    }

    /// Asks for the counter's range until it is granted; the time of the answer, if it was.
    fn lock(&mut self, open: &mut Open) -> Result<Option<u64>> {
        if self.who.lawless {
            return Ok(Some(now_us()));
        }
        for _ in 0..TRIES {
            let answer = open.session.lock(&open.counter, 0, ZERO.len() as u64)?;
            self.alive();
            match answer {
                Answer::Done(_) => return Ok(Some(now_us())),
                refused if refused.is_lock_refused() => {}
                refused => {
                    refused.handle()?;
                }
            }
            if self.stopped() {
                break;
            }
            std::thread::sleep(Duration::from_micros(3000 + now_us() % 17_000));
        }
        Ok(None)
    }

    fn count(&mut self, open: &mut Open) -> Result<()> {
        let Some(from_us) = self.lock(open)? else {
            return Ok(());
        };
        let client = self.who.index;
        let mut hold = Hold { of: RANGE, client, from_us, to_us: from_us };
        let done = self.increment(open, &mut hold);
        self.notes.holds.push(hold);
        done?;
        if !self.who.lawless {
            let answer = open.session.unlock(&open.counter, 0, ZERO.len() as u64)?;
            if matches!(&answer, Answer::Refused(why) if why.starts_with(NOT_LOCKED)) {
                let at = now_us();
                let when =
                    format!("granted at {from_us} us, was not there any more at {at} us, over the same connection");
                self.notes.wrong.push(format!("client {client}'s lock, {when}"));
            }
            answer.handle()?;
        }
        self.alive();
        Ok(())
    }

    /// What is done under the lock. Acknowledged is what is flushed.
    fn increment(&mut self, open: &mut Open, hold: &mut Hold) -> Result<()> {
        let client = self.who.index;
        let sent = now_us();
        let value = number(&mut open.session, &open.counter)? + 1;
        hold.to_us = sent;
        let sent = now_us();
        let text = format!("{value:020}");
        let done = open.session.put(&open.counter, 0, text.as_bytes()).and_then(Answer::handle);
        self.notes.increments.push(Increment {
            client,
            begun_us: hold.from_us,
            ended_us: now_us(),
            value,
            known: done.is_ok(),
        });
        done?;
        hold.to_us = sent;
        let sent = now_us();
        let there = number(&mut open.session, &open.counter)?;
        hold.to_us = sent;
        if there != value {
            self.notes.wrong.push(format!("client {client} wrote {value} under its lock and reads {there}"));
        }
        Ok(())
    }

    /// A file that nobody else may have open meanwhile.
    fn alone(&mut self, open: &mut Open) -> Result<()> {
        let client = self.who.index;
        let answer = open.session.create(&self.who.alone, Sharing::Nothing)?;
        if answer.is_sharing_violation() {
            self.alive();
            return Ok(());
        }
        let handle = answer.handle()?;
        let from_us = now_us();
        let mut hold = Hold { of: ALONE, client, from_us, to_us: from_us };
        let mine = format!("{client:04}-{:015}", self.turns);
        let done = write_and_read(&mut open.session, &handle, mine.as_bytes(), &mut hold);
        self.notes.holds.push(hold);
        let there = done?;
        if there != mine.as_bytes() {
            let there = String::from_utf8_lossy(&there);
            self.notes.wrong.push(format!("client {client} wrote {mine} to a file of its own alone and reads {there}"));
        }
        open.session.close(&handle)?.handle()?;
        self.alive();
        Ok(())
    }
}

/// Puts this at a file's beginning and reads it; `hold` lasts until the last request that was answered.
fn write_and_read(session: &mut Session, handle: &str, mine: &[u8], hold: &mut Hold) -> Result<Vec<u8>> {
    let sent = now_us();
    session.put(handle, 0, mine)?.handle()?;
    hold.to_us = sent;
    let sent = now_us();
    let there = bytes(session.get(handle, 0, mine.len())?)?;
    hold.to_us = sent;
    Ok(there)
}
