//! Open-file-description locks on ranges of bytes (fcntl(2), F_OFD_SETLK). They stand against the POSIX locks that libtdb
//! takes, but belong to the open file and not to the process: two handles in one process exclude each other, and closing
//! one leaves the other's locks alone.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// How strong a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Others may share it.
    Shared,
    /// Nobody else has it.
    Exclusive,
}

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// As long as it takes.
    Block,
    /// Not at all.
    Try,
}

fn range(kind: libc::c_int, from: u32, bytes: u32) -> libc::flock {
    // l_pid must be 0 for this kind of lock; a length of 0 is up to the end of the file, however long it becomes.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::from(from),
        l_len: libc::off_t::from(bytes),
        l_pid: 0,
    }
}

/// Locks `bytes` bytes at `from` (0: up to the end). False: somebody else holds a lock there, and `wait` was `Try`.
/// A signal ends a wait only once `cancelled` is set: [`io::ErrorKind::Interrupted`].
pub(crate) fn lock(
    file: &File,
    kind: Kind,
    (from, bytes): (u32, u32),
    wait: Wait,
    cancelled: Option<&AtomicBool>,
) -> io::Result<bool> {
    let lock = range(
        match kind {
            Kind::Shared => libc::F_RDLCK,
            Kind::Exclusive => libc::F_WRLCK,
        },
        from,
        bytes,
    );
    loop {
        if cancelled.is_some_and(|flag| flag.load(Ordering::Acquire)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let result = match wait {
            Wait::Block => fcntl(file, FcntlArg::F_OFD_SETLKW(&lock)),
            Wait::Try => fcntl(file, FcntlArg::F_OFD_SETLK(&lock)),
        };
        match result {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) if wait == Wait::Try => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) fn unlock(file: &File, (from, bytes): (u32, u32)) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, from, bytes))) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
