//! pid 1 of a host (node, client or watcher): builds its root from the machine's own, then reaps for ever.
//!
//! The root is an overlay: the machine's packages below, the host's own state above, on the laboratory's tmpfs, so
//! that it survives a power cycle as a disk does. /run, /tmp and /dev/shm are fresh at each power on. "Power off" is
//! SIGKILL for this process: the kernel ends everything else in its pid namespace.

use crate::probe::ident;
use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a host is made of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Holds `upper`, `work` and `root`.
    pub(crate) dir: PathBuf,
    /// Directories or files of the laboratory that appear in the host, as (from, to).
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
}

/// State of the machine's own services that a host must not inherit: identities, databases, logs.
const FORGET: &[&str] = &[
    "var/lib/glusterd/glusterd.info",
    "var/lib/glusterd/peers",
    "var/lib/glusterd/vols",
    "var/lib/glusterd/glustershd",
    "var/lib/samba",
    "var/cache/samba",
    "var/log/samba",
    "var/log/glusterfs",
    "var/log/ganesha",
    "var/lib/nfs",
    "var/lib/steadfast",
    "var/lib/ctdb",
    "var/log/ctdb",
    "etc/steadfast",
    "etc/resolv.conf",
];

const MAKE: &[&str] = &[
    "run/lock",
    "run/dbus",
    "run/rpcbind",
    "run/samba",
    "run/ganesha",
    "run/gluster",
    "run/steadfast",
    "run/sendsigs.omit.d",
    "var/lib/glusterd",
    "var/lib/samba/private",
    "var/cache/samba",
    "var/log/samba",
    "var/log/glusterfs",
    "var/log/ganesha",
    "var/lib/nfs/sm",
    "var/lib/nfs/sm.bak",
    "var/lib/nfs/ganesha/v4recov",
    "var/lib/nfs/ganesha/v4old",
    "etc/steadfast",
    "etc/ganesha",
    "etc/samba",
];

fn tmpfs(on: &Path, options: &str) -> Result<()> {
    fs::create_dir_all(on)?;
    let options = CString::new(options)?;
    rustix::mount::mount("tmpfs", on, "tmpfs", MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("cannot mount a tmpfs on {}", on.display()))
}

fn build(spec: &Spec) -> Result<()> {
    let dir = &spec.dir;
    let (upper, work, root) = (dir.join("upper"), dir.join("work"), dir.join("root"));
    let first_boot = !upper.exists();
    for d in [&upper, &work, &root] {
        fs::create_dir_all(d)?;
    }
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    let layers = CString::new(layers)?;
    rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), layers.as_c_str())
        .context("cannot mount the host's overlay root")?;
    rustix::mount::mount("proc", root.join("proc"), "proc", MountFlags::empty(), None)?;
    rustix::mount::mount("sysfs", root.join("sys"), "sysfs", MountFlags::empty(), None)?;
    rustix::mount::mount_bind_recursive("/dev", root.join("dev"))?;
    tmpfs(&root.join("dev/shm"), "mode=1777")?;
    tmpfs(&root.join("run"), "mode=755")?;
    tmpfs(&root.join("tmp"), "mode=1777")?;
    if first_boot {
        for path in FORGET {
            let path = root.join(path);
            // Absent on a machine without that package; a directory or a file otherwise.
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
    // Those on the disk are there from the first boot on, or are what the node has made of them since.
    for path in MAKE.iter().filter(|path| first_boot || path.starts_with("run/")) {
        fs::create_dir_all(root.join(path)).with_context(|| format!("cannot make /{path} in the host"))?;
    }
    for (from, to) in &spec.binds {
        let to = root.join(to.strip_prefix("/").unwrap_or(to));
        if from.is_dir() {
            fs::create_dir_all(&to)?;
        } else if !to.exists() {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&to, "")?;
        }
        rustix::mount::mount_bind_recursive(from, &to)
            .with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))?;
    }
    rustix::system::sethostname(spec.name.as_bytes())?;
    std::env::set_current_dir(&root)?;
    rustix::process::pivot_root(".", ".").context("cannot change the host's root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Builds the host, says `ready` on standard output, and stays.
pub(crate) fn main(spec: &Path) -> Result<i32> {
    let text = fs::read_to_string(spec).with_context(|| format!("cannot read {}", spec.display()))?;
    let spec: Spec = serde_json::from_str(&text)?;
    build(&spec)?;
    let _ = fs::write("/proc/self/autogroup", "-10");
    ident::serve(&spec.name);
    std::io::stdout().write_all(b"ready\n")?;
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No children at the moment: orphans may come at any time.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(200)),
        }
    }
}
