//! The file under a database. A trait, so that a test can let it die at any write.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Reads and writes at offsets. Reads and writes go through the page cache like the shared mappings that libtdb uses, so
/// each side sees what the other wrote at once; and unlike with a mapping, a file that somebody cuts off gives an error
/// and not a SIGBUS.
pub(crate) trait Storage: Debug + Send {
    fn read(&self, bytes: &mut [u8], at: u32) -> io::Result<()>;
    fn write(&self, bytes: &[u8], at: u32) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Makes the file `size` bytes long, with blocks of the disk under the new part, which reads as zeros.
    fn extend(&self, from: u32, size: u32) -> io::Result<()>;
    /// On the disk when it returns.
    fn sync(&self) -> io::Result<()>;
    /// Marks the file as changed now: mapped writes of others may not have.
    fn touch(&self) -> io::Result<()>;
    /// For locks.
    fn file(&self) -> &File;
}

impl Storage for File {
    fn read(&self, bytes: &mut [u8], at: u32) -> io::Result<()> {
        self.read_exact_at(bytes, u64::from(at))
    }

    fn write(&self, bytes: &[u8], at: u32) -> io::Result<()> {
        self.write_all_at(bytes, u64::from(at))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn extend(&self, from: u32, size: u32) -> io::Result<()> {
        let (from, size) = (u64::from(from), u64::from(size));
        loop {
            match fallocate(self, FallocateFlags::empty(), from, size.saturating_sub(from)) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // Some filesystems cannot: write it, so that a full disk is noticed here and not in a mapping.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let zeros = [0; 8192];
        let mut at = from;
        while at < size {
            let now = usize::try_from(size - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            if let Err(error) = self.write_all_at(&zeros[..now], at) {
                // Nobody can have used the new part yet: the caller holds the free list or the whole file.
                self.set_len(from)?;
                return Err(error);
            }
            at += now as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn touch(&self) -> io::Result<()> {
        self.set_modified(SystemTime::now())
    }

    fn file(&self) -> &File {
        self
    }
}
