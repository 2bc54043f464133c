//! Another Samba than the machine's: that of a whole Debian in a directory, as `scripts/install-needs samba-next` makes one.
//!
//! Its programs stand before the machine's in every node's search path. Each runs in that directory, with the node's own
//! configuration, state, shared directory and sockets in their places.

use crate::lab::Lab;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Where `scripts/install-needs samba-next` puts it.
const PLACE: &str = "/var/cache/steadfast-lab/samba-next";
const PROGRAMS: [&str; 8] =
    ["smbd", "smbpasswd", "smbstatus", "smbcontrol", "pdbedit", "testparm", "net", "/usr/libexec/samba/samba-dcerpcd"];

/// The directory, or why there is none.
pub(crate) fn find() -> Result<PathBuf, String> {
    if Path::new(PLACE).join("usr/sbin/smbd").exists() {
        return Ok(PLACE.into());
    }
    Err("no newer Samba is here: scripts/install-needs samba-next gets one (300 MB)".into())
}

/// Writes the node's programs, at its first boot.
pub(crate) fn place(lab: &Lab, host: &str, root: &Path) -> Result<()> {
    // A mount namespace of each process: what it sees is the node as it is at its start.
    let text = format!(
        "#!/bin/sh
# Written by the laboratory: PROGRAM of {root}.
if [ -z \"$IN_SAMBA_ROOT\" ]; then IN_SAMBA_ROOT=1 exec unshare -m \"$0\" \"$@\"; fi
unset IN_SAMBA_ROOT
for d in proc sys dev run tmp mnt etc var/lib/samba var/cache/samba var/log/samba var/lib/steadfast; do
  mkdir -p /$d {root}/$d && mount --rbind /$d {root}/$d || exit 1
done
exec chroot {root} PROGRAM \"$@\"
",
        root = root.display()
    );
    for program in PROGRAMS {
        let name = program.rsplit('/').next().unwrap_or(program);
        let path = format!("/usr/local/sbin/{name}");
        lab.write(host, &path, &text.replace("PROGRAM", program))?;
        lab.shell(host, &format!("chmod 755 {path}"))?;
    }
    Ok(())
}
