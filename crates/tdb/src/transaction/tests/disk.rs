//! A disk in memory that remembers what was done to it, and in what order.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::peer::Dice;
use crate::storage::Storage;

/// What the power leaves or takes as one.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Size(usize),
    Write { at: usize, bytes: Vec<u8> },
    Sync,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Refuse the step of this number, and those behind it too.
    refuse: Option<(usize, bool)>,
    refused: bool,
    asked: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    /// Only for locks.
    file: Arc<File>,
}

impl Default for Disk {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Disk {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let state = State { bytes, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), file: Arc::new(tempfile::tempfile().unwrap()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        self.state().steps.clone()
    }

    /// From now on the step of this number fails, and with `for_ever` everything after it.
    pub(super) fn refuse(&self, step: usize, for_ever: bool) {
        let mut state = self.state();
        state.asked = 0;
        state.refuse = Some((step, for_ever));
    }

    /// Whether it has refused anything.
    pub(super) fn refuse_no_more(&self) -> bool {
        let mut state = self.state();
        state.refuse = None;
        state.refused
    }

    fn take(&self, step: Step) -> io::Result<()> {
        let mut state = self.state();
        let number = state.asked;
        state.asked += 1;
        if state.refuse.is_some_and(|(at, for_ever)| number == at || (for_ever && number > at)) {
            state.refused = true;
            return Err(io::Error::other("the disk refuses"));
        }
        apply(&mut state.bytes, &step);
        state.steps.push(step);
        Ok(())
    }
}

impl Storage for Disk {
    fn read(&self, bytes: &mut [u8], at: u32) -> io::Result<()> {
        let state = self.state();
        let from = state.bytes.get(at as usize..at as usize + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u32) -> io::Result<()> {
        self.take(Step::Write { at: at as usize, bytes: bytes.to_vec() })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.take(Step::Size(usize::try_from(size).unwrap()))
    }

    fn extend(&self, from: u32, size: u32) -> io::Result<()> {
        assert_eq!(u64::from(from), Storage::len(self)?, "not from the end of the file");
        self.take(Step::Size(size as usize))
    }

    fn sync(&self) -> io::Result<()> {
        self.take(Step::Sync)
    }

    fn touch(&self) -> io::Result<()> {
        Ok(())
    }

    fn file(&self) -> &File {
        &self.file
    }
}

fn apply(disk: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Size(size) => disk.resize(*size, 0),
        Step::Write { at, bytes } => {
            let end = at + bytes.len();
            if disk.len() < end {
                disk.resize(end, 0);
            }
            disk[*at..end].copy_from_slice(bytes);
        }
        Step::Sync => {}
    }
}

/// What is in the file when the process is killed after these steps: the kernel has them all.
pub(super) fn until(start: &[u8], steps: &[Step]) -> Vec<u8> {
    let mut disk = start.to_vec();
    steps.iter().for_each(|step| apply(&mut disk, step));
    disk
}

/// The same when it is killed in the middle of the last write.
pub(super) fn torn(start: &[u8], steps: &[Step]) -> Vec<u8> {
    let Some((Step::Write { at, bytes }, before)) = steps.split_last() else { return until(start, steps) };
    let mut disk = until(start, before);
    // At the border of a sector: less is never written in two.
    let middle = (at + bytes.len() / 2).next_multiple_of(SECTOR).saturating_sub(*at);
    if middle < bytes.len() {
        apply(&mut disk, &Step::Write { at: *at, bytes: bytes[..middle].to_vec() });
    }
    disk
}

/// What is on the disk when the power fails after these steps: all that was written before the last sync, and of what
/// was written since, each sector as it was at some time in between.
pub(super) fn cut_off(start: &[u8], steps: &[Step], dice: &mut Dice) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut disk = until(start, &steps[..synced]);
    // In 5: from nearly nothing to nearly all.
    let kept = 1 + dice.roll(4);
    let mut stopped = BTreeSet::new();
    for step in &steps[synced..] {
        match step {
            Step::Sync => {}
            Step::Size(_) => {
                if dice.roll(5) < kept {
                    apply(&mut disk, step);
                }
            }
            Step::Write { at, bytes } => {
                let mut done = 0;
                while done < bytes.len() {
                    let from = at + done;
                    let length = (SECTOR - from % SECTOR).min(bytes.len() - done);
                    // Beyond the end: the size did not reach the disk.
                    if from + length <= disk.len() && !stopped.contains(&(from / SECTOR)) {
                        if dice.roll(5) < kept {
                            disk[from..from + length].copy_from_slice(&bytes[done..done + length]);
                        } else {
                            stopped.insert(from / SECTOR);
                        }
                    }
                    done += length;
                }
            }
        }
    }
    disk
}
