//! Ganesha's grace period, entered on purpose: the call over D-Bus that reads a lost node's clients.
//!
//! `grace("5:LABEL")` is Ganesha's `EVENT_TAKE_IP` (src/MainNFSD/nfs_admin_thread.c, src/SAL/nfs4_recovery.c and
//! src/SAL/recovery/recovery_fs.c of 4.3). It reads the clients below `RecoveryRoot/LABEL/v4recov`; NFSv3 locks that came by
//! the address LABEL are dropped, so LABEL is none. The answer comes when Ganesha is in its grace period: that waits for the
//! operations under way which a grace period would refuse.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

/// Ganesha did not enter its grace period.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GraceError {
    #[error("dbus-send cannot be run: {0}; install it (package dbus-bin, or dbus-tools)")]
    NoProgram(String),
    #[error(
        "NFS-Ganesha is not on the system's D-Bus: {0}; start the D-Bus daemon before Ganesha, and keep the policy org.ganesha.nfsd.conf that comes with Ganesha"
    )]
    NoBus(String),
    #[error("NFS-Ganesha did not answer on D-Bus within {} s: operations that it has under way do not end", .0.as_secs())]
    Late(Duration),
    #[error("NFS-Ganesha refused: {0}")]
    Refused(String),
}

const LABEL: &str = "steadfast-";

/// What Ganesha and this program call the records of a lost node.
#[must_use]
pub fn label(node: u16) -> String {
    format!("{LABEL}{node}")
}

/// May clients of a lost node still reclaim? That is so when its list was given to Ganesha, below `root`, less than a
/// `period` ago; and when that cannot be told, or the clock was set back since.
#[must_use]
pub fn runs(root: &Path, period: Duration) -> bool {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    };
    let lists = entries.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(LABEL)))
    });
    lists.flatten().any(|list| {
        let written = list.metadata().and_then(|list| list.modified()).map(|at| at.elapsed());
        !matches!(written, Ok(Ok(ago)) if ago >= period)
    })
}

/// Lets Ganesha enter its grace period, or begin it anew, with the clients below this label.
///
/// # Errors
/// It did not; see [`GraceError`].
pub async fn enter(label: &str, deadline: Duration) -> Result<(), GraceError> {
    let output = call("grace", Some(&format!("string:5:{label}")), deadline).await?;
    judge(output.status.success(), &output.stdout, &output.stderr, deadline)
}

/// Lets Ganesha, which is in its grace period, drop what NFSv4 clients hold that call themselves so, or whose names contain
/// this: `EVENT_RELEASE_IP`. Begins a grace period where none runs.
///
/// # Errors
/// As of [`enter`].
pub async fn release(name: &str, deadline: Duration) -> Result<(), GraceError> {
    let output = call("grace", Some(&format!("string:2:{name}")), deadline).await?;
    judge(output.status.success(), &output.stdout, &output.stderr, deadline)
}

/// Whether Ganesha can be reached over D-Bus at all.
///
/// # Errors
/// As of [`enter`].
pub async fn reachable(deadline: Duration) -> Result<(), GraceError> {
    let output = call("get_grace", None, deadline).await?;
    judge(output.status.success(), &output.stdout, &output.stderr, deadline)
}

async fn call(method: &str, argument: Option<&str>, deadline: Duration) -> Result<Output, GraceError> {
    let patience = format!("--reply-timeout={}", deadline.as_millis());
    let method = format!("org.ganesha.nfsd.admin.{method}");
    let words = ["--system", "--print-reply", &patience, "--dest=org.ganesha.nfsd", "/org/ganesha/nfsd/admin", &method];
    let mut command = Command::new("dbus-send");
    command.args(words).args(argument).stdin(Stdio::null()).kill_on_drop(true);
    // Its own deadline is for the answer only, not for the bus.
    match timeout(deadline + Duration::from_millis(500), command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(GraceError::NoProgram(error.to_string())),
        Err(_) => Err(GraceError::Late(deadline)),
    }
}

fn judge(success: bool, says: &[u8], complains: &[u8], deadline: Duration) -> Result<(), GraceError> {
    let (says, complains) = (String::from_utf8_lossy(says), String::from_utf8_lossy(complains));
    if success && says.contains("boolean true") {
        return Ok(());
    }
    let why =
        complains.lines().chain(says.lines()).find(|line| !line.is_empty()).unwrap_or("it says nothing").to_owned();
    if why.contains("NoReply") {
        return Err(GraceError::Late(deadline));
    }
    let nobody = ["ServiceUnknown", "Failed to open connection", "NoServer", "FileNotFound", "AccessDenied"];
    Err(if nobody.iter().any(|word| why.contains(word)) { GraceError::NoBus(why) } else { GraceError::Refused(why) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_nodes_list_counts_for_the_length_of_a_grace_period() {
        let dir = tempfile::tempdir().unwrap();
        let (short, long) = (Duration::ZERO, Duration::from_secs(60));
        assert!(!runs(&dir.path().join("none"), long));
        std::fs::create_dir(dir.path().join("v4recov")).unwrap();
        assert!(!runs(dir.path(), long));
        std::fs::create_dir(dir.path().join(label(3))).unwrap();
        assert!(runs(dir.path(), long));
        assert!(!runs(dir.path(), short));
        let list = std::fs::File::open(dir.path().join(label(3))).unwrap();
        list.set_modified(std::time::SystemTime::now() + long).unwrap();
        assert!(runs(dir.path(), short), "the clock was set back");
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(runs(&dir.path().join("file"), long), "unreadable");
    }

    #[test]
    fn answers_are_told_apart() {
        let judge = |success, says: &str, complains: &str| {
            judge(success, says.as_bytes(), complains.as_bytes(), Duration::from_secs(6))
        };
        let good = "method return time=1 sender=:1.2\n   boolean true\n   string \"Started grace period\"\n";
        assert_eq!(judge(true, good, ""), Ok(()));
        let refused = judge(true, "   boolean false\n   string \"Unable to start grace\"\n", "");
        assert!(matches!(refused, Err(GraceError::Refused(_))), "{refused:?}");
        let unknown = "Error org.freedesktop.DBus.Error.ServiceUnknown: The name org.ganesha.nfsd was not provided";
        assert!(matches!(judge(false, "", unknown), Err(GraceError::NoBus(_))));
        let none = "Failed to open connection to \"system\" message bus: Failed to connect to socket /run/dbus";
        let text = judge(false, "", none).unwrap_err().to_string();
        assert!(text.contains("start the D-Bus daemon before Ganesha"), "{text}");
        let late = "Error org.freedesktop.DBus.Error.NoReply: Did not receive a reply.";
        assert_eq!(judge(false, "", late), Err(GraceError::Late(Duration::from_secs(6))));
    }
}
