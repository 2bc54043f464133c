//! GlusterFS clients: starting one by `mount -t glusterfs`, finding the process that serves a mount, ending it.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::{MOUNT_DEADLINE, MountError, StorageConfig};
use crate::supervisor::watch;

/// How long a client may take to end after its mount is gone, and again after SIGTERM.
const END_GRACE: Duration = Duration::from_secs(1);
/// How much of a client's log is read when a mount fails.
const LOG_TAIL: u64 = 16 * 1024;

pub(super) fn mount_error(config: &StorageConfig, why: String) -> MountError {
    let volume = config.volume.clone().unwrap_or_default();
    MountError::Mount { path: config.path.clone(), volume, why }
}

/// Mounts the volume; the mount point is made if it is missing.
pub(super) async fn mount(config: &StorageConfig) -> Result<(), MountError> {
    let point = config.path.clone();
    fs::create_dir_all(&point).map_err(|source| MountError::MountPoint { path: point, source })?;
    let mut command = Command::new("mount");
    command
        .args(["-t", "glusterfs"])
        .args(arguments(config))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(group) = config.group {
        command.gid(group);
    }
    let mut child = command.spawn().map_err(MountError::Spawn)?;
    let group = child.id().and_then(|id| Pid::from_raw(id as i32));
    let said = child.stderr.take();
    let ended = timeout(MOUNT_DEADLINE, child.wait()).await;
    let Ok(status) = ended else {
        if let Some(group) = group {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let why = format!("no end within {MOUNT_DEADLINE:?}; is glusterd running on {}?", servers(config).join(", "));
        return Err(mount_error(config, why));
    };
    if status.map_err(MountError::Spawn)?.success() {
        return Ok(());
    }
    // The daemonized client may have kept the pipe: what is there now must do.
    let mut output = Vec::new();
    if let Some(said) = said {
        let _ = timeout(Duration::from_millis(200), said.take(LOG_TAIL).read_to_end(&mut output)).await;
    }
    let mut why = String::from_utf8_lossy(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(line) = last_error(&log_of(&config.path)) {
        why = format!("{why} Its log says: {line}");
    }
    Err(mount_error(config, why.trim().to_owned()))
}

fn servers(config: &StorageConfig) -> Vec<String> {
    if config.servers.is_empty() { vec!["localhost".to_owned()] } else { config.servers.clone() }
}

/// `-o OPTIONS SERVER:/VOLUME PATH`
fn arguments(config: &StorageConfig) -> Vec<String> {
    let servers = servers(config);
    let mut options = config.mount_options();
    if servers.len() > 1 {
        options.push(format!("backup-volfile-servers={}", servers[1..].join(":")));
    }
    let source = format!("{}:/{}", servers[0], config.volume.as_deref().unwrap_or_default());
    let mut args = Vec::new();
    if !options.is_empty() {
        args.extend(["-o".to_owned(), options.join(",")]);
    }
    args.extend([source, config.path.display().to_string()]);
    args
}

/// Where a client logs by default: the mount point with dashes for slashes.
fn log_of(path: &Path) -> PathBuf {
    let name = path.display().to_string().trim_matches('/').replace('/', "-");
    PathBuf::from(format!("/var/log/glusterfs/{name}.log"))
}

fn last_error(log: &Path) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    // [2026-01-01 10:00:00 +0000] E [MSGID: 104004] [file.c:1:function] 0-mgmt: text
    let line = text.lines().rev().find(|line| line.contains("] E ["))?;
    Some(line.split_once("] E ").map_or(line, |(_, rest)| rest).to_owned())
}

/// A client process that serves a mount of ours.
#[derive(Debug)]
pub(super) struct Client {
    pid: Pid,
    path: PathBuf,
}

/// The GlusterFS client processes that serve `path` in this mount namespace.
pub(super) fn clients_of(path: &Path) -> Vec<Client> {
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| command_serves(*pid, path))
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == ours)
        .filter_map(|pid| Some(Client { pid: Pid::from_raw(pid)?, path: path.to_owned() }))
        .collect()
}

/// Its words, when the process is `glusterfs ... PATH`.
fn command_of(pid: i32, path: &Path) -> Option<Vec<Vec<u8>>> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<Vec<u8>> = text.split(|byte| *byte == 0).filter(|w| !w.is_empty()).map(<[u8]>::to_vec).collect();
    let (first, last) = (words.first()?, words.last()?);
    let program = first.rsplit(|byte| *byte == b'/').next()?;
    (program == b"glusterfs" && last == path.as_os_str().as_bytes()).then_some(words)
}

fn command_serves(pid: i32, path: &Path) -> bool {
    command_of(pid, path).is_some()
}

/// Ends clients whose mount is gone: waits, then TERM, then KILL, a second each.
pub(super) async fn end(clients: Vec<Client>) {
    for client in clients {
        let Ok(process) = pidfd_open(client.pid, PidfdFlags::empty()) else {
            continue;
        };
        let pid = client.pid.as_raw_nonzero().get();
        for signal in [None, Some(Signal::TERM), Some(Signal::KILL)] {
            // Asked again behind the pidfd: a number that was given to another process meanwhile is no client.
            if !command_serves(pid, &client.path) {
                break;
            }
            if let Some(signal) = signal {
                tracing::info!(pid, path = %client.path.display(), ?signal, "ending the client of a mount that is gone");
                // Gone already is as good.
                let _ = pidfd_send_signal(&process, signal);
            }
            let until = Instant::now() + END_GRACE;
            while command_serves(pid, &client.path) && Instant::now() < until {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Ends clients whose mount hangs, at once: what they have in hand is not carried out any more, and who waits for it in the
/// kernel gets an error.
pub(super) async fn kill(clients: Vec<Client>) -> Result<(), String> {
    for client in clients {
        let pid = client.pid.as_raw_nonzero().get();
        let path = client.path.display();
        let process = match watch(client.pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(error) => return Err(format!("the client process {pid} of {path} cannot be ended: {error}")),
        };
        // Asked again behind the pidfd, as in `end`.
        if !command_serves(pid, &client.path) {
            continue;
        }
        tracing::warn!(pid, %path, "the client of a mount that does not answer is ended, with what clients elsewhere have sent again");
        // Gone already is as good.
        let _ = pidfd_send_signal(process.get_ref(), Signal::KILL);
        // All of its threads, for any may be about to send something.
        if timeout(END_GRACE, process.readable()).await.is_err() {
            return Err(format!(
                "the client process {pid} of {path} was killed and has not ended within {END_GRACE:?}"
            ));
        }
    }
    Ok(())
}

/// Which options of coherence the client that serves `path` was started without, as sentences.
pub(super) fn incoherent_options(path: &Path) -> Vec<String> {
    let Some(client) = clients_of(path).pop() else {
        return Vec::new();
    };
    let Some(words) = command_of(client.pid.as_raw_nonzero().get(), path) else {
        return Vec::new();
    };
    missing_options(&words)
        .into_iter()
        .map(|option| {
            format!("{} is mounted without {option}: other nodes' changes are seen late; unmount it", path.display())
        })
        .collect()
}

fn missing_options(words: &[Vec<u8>]) -> Vec<&'static str> {
    let has = |option: &&str| words.iter().any(|word| word.strip_prefix(b"--") == Some(option.as_bytes()));
    super::super::coherence::MOUNT_OPTIONS.into_iter().filter(|option| !has(option)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_all_servers_and_the_options() {
        let mut config = StorageConfig::gluster("vol1", "/mnt/g");
        config.servers = vec!["g1".into(), "g2".into(), "g3".into()];
        config.options = Some(vec!["log-level=ERROR".into()]);
        let expected = ["-o", "log-level=ERROR,backup-volfile-servers=g2:g3", "g1:/vol1", "/mnt/g"];
        assert_eq!(arguments(&config), expected);
        assert!(arguments(&StorageConfig::gluster("v", "/m"))[1].contains("attribute-timeout=0"));
    }

    #[test]
    fn options_are_read_off_a_running_client() {
        let words = |text: &str| text.split(' ').map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
        let all = "/usr/sbin/glusterfs --direct-io-mode=enable --auto-invalidation=true --attribute-timeout=0 \
                   --entry-timeout=0 --negative-timeout=0 --process-name fuse --volfile-server=localhost --volfile-id=/vol1 /mnt/g";
        assert!(missing_options(&words(all)).is_empty());
        assert_eq!(missing_options(&words("glusterfs --entry-timeout=0 /mnt/g")).len(), 4);
    }

    #[test]
    fn the_log_is_where_gluster_puts_it() {
        assert_eq!(log_of(Path::new("/mnt/glustervol")), Path::new("/var/log/glusterfs/mnt-glustervol.log"));
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("l");
        fs::write(&log, "[t] I [a] 0-x: fine\n[t] E [MSGID: 1] [f.c:1:g] 0-mgmt: no volume\n[t] I [a] bye\n").unwrap();
        assert_eq!(last_error(&log).unwrap(), "[MSGID: 1] [f.c:1:g] 0-mgmt: no volume");
        assert_eq!(last_error(Path::new("/no/such/log")), None);
    }

    #[test]
    fn no_process_serves_a_path_nobody_mounted() {
        assert!(clients_of(Path::new("/no/such/mount")).is_empty());
    }
}
