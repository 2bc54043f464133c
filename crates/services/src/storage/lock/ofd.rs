//! Open-file-description locks over a whole file (fcntl(2), F_OFD_SETLK).
//!
//! They conflict with the POSIX locks that CTDB and Samba take, but belong to the open file rather than to the
//! process: closing another descriptor of the same file does not drop them. Across a FUSE mount of GlusterFS
//! they are exclusive, and free within a millisecond of their holder's death.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

fn whole_file(kind: libc::c_int) -> libc::flock {
    // l_pid must be 0 for this kind of lock.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the exclusive lock if nobody holds one. False: somebody does.
pub(in crate::storage) fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the exclusive lock, waiting without bound.
pub(in crate::storage) fn lock_wait(file: &File) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&whole_file(libc::F_WRLCK))) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets the lock go.
pub(in crate::storage) fn unlock(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)))?;
    Ok(())
}

/// Whether a lock on another open of the same file stands in the way of `file` taking one.
pub(in crate::storage) fn conflicting(file: &File) -> io::Result<bool> {
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_opens_exclude_each_other_and_a_third_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::options().create(true).truncate(false).read(true).write(true).open(dir.path().join("l"));
        let (a, b, c) = (open().unwrap(), open().unwrap(), open().unwrap());
        assert!(!conflicting(&c).unwrap());
        assert!(try_lock(&a).unwrap());
        assert!(!try_lock(&b).unwrap());
        assert!(conflicting(&c).unwrap());
        drop(c);
        assert!(!try_lock(&b).unwrap(), "closing another descriptor must not free it");
        drop(a);
        assert!(try_lock(&b).unwrap());
        unlock(&b).unwrap();
    }
}
