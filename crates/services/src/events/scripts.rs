//! CTDB's event scripts in their directory: which there are, which are enabled, which are never run here.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Below CTDB's directory.
const FOLDER: &str = "events/legacy";
const SUFFIX: &str = ".script";

/// One script of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Without `.script`.
    pub name: String,
    pub path: PathBuf,
    /// Is one of its executable bits set?
    pub enabled: bool,
}

/// Parts of this daemon that do the work of scripts of CTDB's package.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuiltIn {
    pub samba: bool,
    pub nfs: bool,
}

impl BuiltIn {
    /// Why a script is not run, enabled or not.
    #[must_use]
    pub fn refuses(self, name: &str) -> Option<&'static str> {
        match name {
            "00.ctdb" => Some("databases and tunables are this daemon's own"),
            "01.reclock" => Some("the cluster lock is watched by this daemon"),
            "10.interface" | "10.external" => Some("this daemon puts addresses on interfaces and watches their links"),
            "50.samba" if self.samba => Some("[samba] starts and probes smbd"),
            "06.nfs" | "60.nfs" | "60.ganesha" if self.nfs => Some("[nfs] starts and probes the NFS server"),
            _ => None,
        }
    }
}

/// Where CTDB's package has its scripts; `events/legacy` has links to those that are enabled.
pub const LIBRARY: &str = "/usr/share/ctdb/events/legacy";

/// The scripts of an installation, in the order in which they run. A directory that is not there has none.
///
/// # Errors
/// The directory cannot be read.
pub fn list(base: &Path) -> io::Result<Vec<Script>> {
    list_in(&base.join(FOLDER))
}

/// The scripts of one directory.
///
/// # Errors
/// The directory cannot be read.
pub fn list_in(folder: &Path) -> io::Result<Vec<Script>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut scripts = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        // Others are a package manager's or an editor's.
        let Some(name) = file.to_str().and_then(script_name) else { continue };
        // A link whose script has gone is not there.
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        let enabled = meta.is_file() && meta.permissions().mode() & 0o111 != 0;
        scripts.push(Script { name: name.to_owned(), path: entry.path(), enabled });
    }
    scripts.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(scripts)
}

/// `NN.name` of `NN.name.script`.
fn script_name(file: &str) -> Option<&str> {
    let name = file.strip_suffix(SUFFIX)?;
    match name.as_bytes() {
        [a, b, b'.', _, ..] if a.is_ascii_digit() && b.is_ascii_digit() => Some(name),
        _ => None,
    }
}

/// Enables or disables a script as the `ctdb` tool does: by its executable bits or, if it is one of CTDB's package, by the
/// link to it. Nothing is to be done to disable one that is not there.
///
/// # Errors
/// There is no such script, or it cannot be changed.
pub fn enable(base: &Path, library: &Path, name: &str, on: bool) -> io::Result<()> {
    let file = format!("{name}{SUFFIX}");
    if script_name(&file).is_none() || name.contains('/') {
        return Err(ErrorKind::NotFound.into());
    }
    let path = base.join(FOLDER).join(&file);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_symlink() && on => fs::metadata(&path).map(drop),
        Ok(meta) if meta.is_symlink() => fs::remove_file(&path),
        Ok(meta) => {
            let mode = meta.permissions().mode();
            let mode = if on { mode | 0o111 } else { mode & !0o111 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        }
        Err(error) if error.kind() == ErrorKind::NotFound && on => {
            fs::metadata(library.join(&file))?;
            std::os::unix::fs::symlink(library.join(&file), &path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_come_in_order_and_strangers_do_not_count() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(list(base.path()).unwrap(), []);
        let folder = base.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        for name in
            ["50.b.script", "05.a.script", "5.c.script", "05.a.script~", "README", "05.d.options", "xx.e.script"]
        {
            fs::write(folder.join(name), "#!/bin/sh\n").unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", folder.join("07.gone.script")).unwrap();
        let library = base.path().join("library");
        let enable = |name: &str, on| enable(base.path(), &library, name, on);
        enable("50.b", true).unwrap();
        let names = |base: &Path| -> Vec<(String, bool)> {
            list(base).unwrap().into_iter().map(|s| (s.name, s.enabled)).collect()
        };
        assert_eq!(names(base.path()), [("05.a".into(), false), ("50.b".into(), true)]);
        enable("50.b", false).unwrap();
        assert_eq!(names(base.path())[1], ("50.b".into(), false));
        assert_eq!(enable("06.x", true).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(enable("../../50.b", true).is_err());
        // One of the package: the link is the switch, and its own bits stay.
        fs::create_dir(&library).unwrap();
        let packaged = library.join("49.w.script");
        fs::write(&packaged, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&packaged, fs::Permissions::from_mode(0o755)).unwrap();
        enable("49.w", true).unwrap();
        enable("49.w", true).unwrap();
        assert_eq!(names(base.path())[1], ("49.w".into(), true));
        enable("49.w", false).unwrap();
        enable("49.w", false).unwrap();
        assert_eq!(names(base.path()).len(), 2);
        assert!(list_in(&library).unwrap()[0].enabled);
    }

    #[test]
    fn what_the_daemon_does_itself_is_left_to_it() {
        let all = BuiltIn { samba: true, nfs: true };
        assert!(all.refuses("10.interface").is_some() && all.refuses("50.samba").is_some());
        assert!(BuiltIn::default().refuses("50.samba").is_none(), "then somebody else must start it");
        assert!(all.refuses("99.mine").is_none());
    }
}
