//! The mount table of this process, proc_pid_mountinfo(5). Reading it touches no filesystem.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// `major:minor`, as the kernel writes it.
    pub(super) device: String,
    pub(super) fstype: String,
    pub(super) source: String,
}

impl Entry {
    /// Whether it is the root of that volume; the source reads `SERVER:VOLUME` or `SERVER:/VOLUME`.
    pub(super) fn is_gluster_volume(&self, volume: &str) -> bool {
        let mounted = self.source.rsplit_once(':').map(|(_, volume)| volume.trim_start_matches('/'));
        self.fstype == "fuse.glusterfs" && mounted == Some(volume)
    }
}

/// All mounts that this process sees, in the order they were made.
#[derive(Debug)]
pub(super) struct Table(Vec<Entry>);

impl Table {
    pub(super) fn read() -> io::Result<Self> {
        let text = fs::read("/proc/self/mountinfo")?;
        Ok(Self::parse(&text))
    }

    /// Lines that make no sense are skipped: they belong to others.
    fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// The topmost mount at exactly that path.
    pub(super) fn at(&self, path: &Path) -> Option<Entry> {
        self.0.iter().rev().find(|entry| entry.path == path).cloned()
    }
}

// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let fstype = String::from_utf8(unescape(after.next()?)).ok()?;
    let source = String::from_utf8_lossy(&unescape(after.next()?)).into_owned();
    Some(Entry { path, device, fstype, source })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0, |value: u8, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
80 22 0:52 / /mnt/glustervol rw,relatime shared:3 master:1 - fuse.glusterfs localhost:/vol1 rw,user_id=0
81 22 0:60 / /mnt/a\\040b rw - fuse.glusterfs gluster1:vol2 rw
82 80 0:61 / /mnt/glustervol rw - tmpfs tmpfs rw
broken line
";

    #[test]
    fn the_topmost_mount_at_a_path_is_found() {
        let table = Table::parse(TEXT);
        assert_eq!(table.0.len(), 4);
        assert_eq!(table.at(Path::new("/mnt/glustervol")).unwrap().fstype, "tmpfs");
        let spaced = table.at(Path::new("/mnt/a b")).unwrap();
        assert!(spaced.is_gluster_volume("vol2") && !spaced.is_gluster_volume("vol"));
        assert!(table.0[1].is_gluster_volume("vol1"));
        assert_eq!(table.0[1].device, "0:52");
        assert_eq!(table.at(Path::new("/mnt")), None);
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(Table::read().unwrap().at(Path::new("/proc")).is_some());
    }
}
