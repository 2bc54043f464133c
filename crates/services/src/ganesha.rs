//! NFS-Ganesha: its command line, and what can be said about its configuration before it starts.
//!
//! Ganesha has no way to check a configuration without serving it; what it complains about stands in its
//! log, whose last lines are shown, and an export that it dropped is found by the probe.
//! See ganesha-config(8). Tested with 4.3.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::config::NfsConfig;
use crate::nfs_state;
use crate::output::within;
use crate::probe::arbitrary;

/// Longest configuration that is looked at.
const MAX_CONFIG: u64 = 1024 * 1024;
const FILE_DEADLINE: Duration = Duration::from_secs(1);
/// Clients wait for a restart.
const RESTART_DEADLINE: Duration = Duration::from_millis(100);

/// Ganesha cannot be started with what is configured.
#[derive(Debug, Error)]
pub enum GaneshaError {
    #[error("cannot read Ganesha's configuration {}: {source}; set nfs.config, or write it", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("Ganesha's configuration {} does not answer within {} ms; is it on the shared mount, and that hangs?", path.display(), FILE_DEADLINE.as_millis())]
    Hangs { path: PathBuf },
    #[error("Ganesha's configuration {} is {len} bytes, which cannot be right", path.display())]
    TooLarge { path: PathBuf, len: u64 },
    #[error("Ganesha's configuration {} has no EXPORT block: nothing would be served", path.display())]
    NoExport { path: PathBuf },
    #[error("{}:{line}: a lone \";\" is a syntax error for Ganesha; take it out", path.display())]
    LoneSemicolon { path: PathBuf, line: usize },
    #[error("cannot make the directory {} that Ganesha needs: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
}

/// What marks a line of Ganesha's log as a complaint: it goes on without an export that it could not make,
/// and what it says about that is soon followed by chatter.
pub(crate) const SEVERE: &[&str] = &[" :CRIT :", " :MAJ :", " :FATAL :"];

/// The command that runs Ganesha in the foreground.
pub fn command(config: &NfsConfig) -> Vec<String> {
    if !config.command.is_empty() {
        return config.command.clone();
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    ["ganesha.nfsd", "-F", "-C", "-f", &text(&config.config), "-L", &text(&config.log_file), "-N", "NIV_EVENT"]
        .map(String::from)
        .to_vec()
}

/// The command of one start: with an epoch that no other Ganesha of the cluster has. By default that is the second of its
/// start, and two servers that were started together then take each other's clients for their own, expired ones, which
/// may reclaim nothing (docs/nfs.md).
pub(crate) fn this_start(config: &NfsConfig, other: Option<Vec<String>>) -> Option<Vec<String>> {
    if !config.command.is_empty() {
        return other;
    }
    let mut words = other.unwrap_or_else(|| command(config));
    // 32 bits count, and 0 is no epoch.
    words.extend(["-E".to_owned(), (arbitrary() >> 33 | 1).to_string()]);
    Some(words)
}

/// Looks at the configuration and makes the directories that Ganesha does not make itself.
pub async fn prepare(config: &NfsConfig) -> Result<(), GaneshaError> {
    let path = config.config.clone();
    let log = config.log_file.clone();
    let looked = within(FILE_DEADLINE, move || {
        check_file(&path)?;
        let mut needed = vec![PathBuf::from("/var/run/ganesha")];
        needed.extend(log.parent().map(Path::to_path_buf));
        for dir in needed {
            std::fs::create_dir_all(&dir).map_err(|source| GaneshaError::Directory { path: dir.clone(), source })?;
        }
        Ok(())
    });
    looked.await.unwrap_or_else(|| Err(GaneshaError::Hangs { path: config.config.clone() }))
}

/// The command that starts Ganesha anew after its end, without a grace period, when nobody could want to reclaim
/// anything: no client is recorded with it, and no lost node's clients may reclaim here. With one it would refuse opens, locks and new files to everybody, for 90 s
/// unless configured otherwise. None: with grace, as always when anything here is not certain.
///
/// `ran` is for how long the process before this one ran in our sight: before its own grace was over, clients may have
/// had locks to reclaim that are recorded nowhere any more. None: however long, and whoever is recorded, for all of them
/// are with other servers now.
pub async fn restart_command(config: &NfsConfig, run_dir: &Path, ran: Option<Duration>) -> Option<Vec<String>> {
    if !config.command.is_empty()
        || config.statd_command.iter().any(|word| word.starts_with("-P") || word.contains("state-dir"))
    {
        return None;
    }
    let (original, wrapper) = (config.config.clone(), run_dir.join("ganesha-restart.conf"));
    let mut restart = config.clone();
    restart.config.clone_from(&wrapper);
    let written = within(RESTART_DEADLINE, move || {
        let text = std::fs::read_to_string(&original).ok()?;
        let period = grace_period(&text)?;
        if ran.is_some_and(|ran| ran < period || recorded())
            || nfs_state::grace::runs(Path::new(nfs_state::records::ROOT), period)
        {
            return None;
        }
        let text = format!(
            "# Written by Steadfast for a restart without a grace period; see {0}\n%include \"{0}\"\nNFSv4 {{ Graceless = true; }}\n",
            original.display()
        );
        std::fs::write(&wrapper, text).ok()
    });
    written.await.flatten().map(|()| command(&restart))
}

/// Where Ganesha (`RecoveryBackend = fs`) and rpc.statd record clients with state: directory, and how deep below it.
const RECORDS: [(&str, u32); 4] = [
    ("/var/lib/nfs/ganesha/v4recov", 2),
    ("/var/lib/nfs/ganesha/v4old", 2),
    ("/var/lib/nfs/sm", 1),
    ("/var/lib/nfs/sm.bak", 1),
];

/// Whether any client is recorded.
fn recorded() -> bool {
    RECORDS.iter().any(|(dir, depth)| has_records(Path::new(dir), *depth))
}

/// Whether anything lies `depth` levels below, or what lies there is not known.
fn has_records(dir: &Path, depth: u32) -> bool {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // one that was never made holds nothing
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    entries.into_iter().any(|entry| {
        entry.is_ok_and(|entry| depth == 1 || !entry.path().is_dir() || has_records(&entry.path(), depth - 1))
    })
}

/// How long Ganesha's grace period is with this configuration; None when that, or where it records its clients,
/// cannot be told from this text alone.
fn grace_period(text: &str) -> Option<Duration> {
    let code: String =
        text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let code = code.to_ascii_lowercase();
    let value = |key: &str| {
        let rest = code.split(key).nth(1)?.trim_start().strip_prefix('=')?;
        Some(rest.split(';').next()?.trim().trim_matches('"').to_owned())
    };
    let elsewhere = ["%include", "%url", "recoveryroot", "recoverydir", "oldrecoverydir", "clustered"];
    if elsewhere.iter().any(|word| code.contains(word)) {
        return None;
    }
    if code.contains("recoverybackend") && value("recoverybackend")? != "fs" {
        return None;
    }
    let seconds = if code.contains("grace_period") { value("grace_period")?.parse().ok()? } else { 90 };
    Some(Duration::from_secs(seconds))
}

/// What matters of Ganesha's configuration for locks over a failover (docs/nfs.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraceSetup {
    /// `RecoveryRoot`.
    pub root: PathBuf,
    /// `Grace_Period`.
    pub period: Duration,
    /// What NFSv4.1 clients cannot do with it; empty: nothing.
    pub warning: String,
}

/// Looks at the configuration for what a failover needs of it.
///
/// # Errors
/// A sentence: Ganesha's records cannot be found with this configuration, or it cannot be read.
pub async fn grace_setup(config: &NfsConfig) -> Result<GraceSetup, String> {
    let path = config.config.clone();
    let text = within(FILE_DEADLINE, move || std::fs::read_to_string(path)).await;
    let name = config.config.display();
    match text {
        Some(Ok(text)) => setup_of(&text).map_err(|why| format!("{name}: {why}")),
        Some(Err(error)) => Err(format!("{name} cannot be read: {error}")),
        None => Err(format!("{name} does not answer within {} ms", FILE_DEADLINE.as_millis())),
    }
}

fn setup_of(text: &str) -> Result<GraceSetup, String> {
    let period = grace_period(text).ok_or(
        "where clients are recorded cannot be told; use RecoveryBackend = fs, leave RecoveryRoot and Clustered at their defaults, and name Grace_Period here rather than in an included file",
    )?;
    let scope = text
        .lines()
        .any(|line| line.split('#').next().unwrap_or_default().to_ascii_lowercase().contains("server_scope"));
    let warning = if scope {
        ""
    } else {
        "Server_Scope is not set: NFSv4.1 clients reclaim nothing from another node; write Server_Scope = \"NAME\"; into its NFSv4 block, the same name on all nodes"
    };
    Ok(GraceSetup { root: nfs_state::records::ROOT.into(), period, warning: warning.to_owned() })
}

fn check_file(path: &Path) -> Result<(), GaneshaError> {
    let unreadable = |source| GaneshaError::Unreadable { path: path.to_path_buf(), source };
    let len = path.metadata().map_err(unreadable)?.len();
    if len > MAX_CONFIG {
        return Err(GaneshaError::TooLarge { path: path.to_path_buf(), len });
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    check_text(path, &String::from_utf8_lossy(&bytes))
}

fn check_text(path: &Path, text: &str) -> Result<(), GaneshaError> {
    let mut exports = false;
    let mut last = None;
    for (number, line) in text.lines().enumerate() {
        let code = line.split('#').next().unwrap_or_default();
        let upper = code.to_ascii_uppercase();
        // what other files hold is not known here
        exports |= upper.contains("EXPORT") || upper.contains("%INCLUDE") || upper.contains("%URL");
        for c in code.chars().filter(|c| !c.is_whitespace()) {
            if c == ';' && matches!(last, None | Some(';' | '{' | '}')) {
                return Err(GaneshaError::LoneSemicolon { path: path.to_path_buf(), line: number + 1 });
            }
            last = Some(c);
        }
    }
    if exports { Ok(()) } else { Err(GaneshaError::NoExport { path: path.to_path_buf() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_ganesha_would_stumble_over() {
        let check = |text: &str| check_text(Path::new("g.conf"), text).map_err(|error| error.to_string());
        let good = "NFSv4 { Grace_Period = 90; }\nEXPORT { Path = \"/\"; FSAL { Name = VFS; } }\n";
        assert_eq!(check(good), Ok(()));
        assert_eq!(check("%include \"/etc/ganesha/exports.conf\"\n"), Ok(()));
        let lone = check("NFSv4 { Grace_Period = 90; }\n;\nEXPORT { }\n").unwrap_err();
        assert!(lone.starts_with("g.conf:2: a lone"), "{lone}");
        assert!(check("EXPORT { Path = 1; };\n").is_err());
        assert!(check("# EXPORT { }\n").unwrap_err().contains("no EXPORT block"));
    }

    #[test]
    fn a_grace_period_is_left_out_only_where_it_is_certain_who_could_want_it() {
        let seconds = |text: &str| grace_period(text).map(|grace| grace.as_secs());
        assert_eq!(seconds("EXPORT { }"), Some(90));
        assert_eq!(seconds("NFSv4 { Grace_Period = 10; RecoveryBackend = \"fs\"; }"), Some(10));
        for text in [
            "NFSv4 { RecoveryBackend = fs_ng; }",
            "NFSv4 { RecoveryBackend = rados_kv; }",
            "NFSv4 { RecoveryRoot = /mnt/x; }",
            "NFSv4 { Grace_Period = soon; }",
            "%include \"/etc/ganesha/other.conf\"",
            "NFS_Core_Param { Clustered = true; }",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node0");
        assert!(!has_records(&node, 1), "a directory that is not there");
        std::fs::create_dir(&node).unwrap();
        assert!(!has_records(dir.path(), 2));
        std::fs::create_dir(node.join("::ffff:10.0.0.1-(3:abc)")).unwrap();
        assert!(has_records(dir.path(), 2));
        assert!(has_records(&dir.path().join("node0/::ffff:10.0.0.1-(3:abc)").join(".."), 1));
    }

    #[test]
    fn each_start_has_an_epoch_of_its_own() {
        let config = NfsConfig::default();
        let epochs = [None, Some(vec!["ganesha.nfsd".to_owned()]), None].map(|other| {
            let words = this_start(&config, other).unwrap();
            assert_eq!(words[words.len() - 2], "-E");
            words.last().unwrap().parse::<u32>().unwrap()
        });
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != epochs[2], "{epochs:?}");
        let own = NfsConfig { command: vec!["my-ganesha".into()], ..NfsConfig::default() };
        assert_eq!(this_start(&own, None), None);
    }

    #[test]
    fn what_a_failover_needs_of_the_configuration_is_found_or_said() {
        let good = setup_of("NFSv4 { Grace_Period = 20; Server_Scope = \"x\"; }\nEXPORT { }").unwrap();
        assert_eq!((good.period.as_secs(), good.warning.as_str()), (20, ""));
        let alone = setup_of("# Server_Scope = x;\nEXPORT { }").unwrap();
        assert!(alone.warning.contains("Server_Scope is not set"), "{}", alone.warning);
        assert_eq!(alone.period.as_secs(), 90);
        assert!(setup_of("NFSv4 { RecoveryBackend = rados_ng; }").unwrap_err().contains("RecoveryBackend = fs"));
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let config = NfsConfig { config: "/nonexistent/ganesha.conf".into(), ..NfsConfig::default() };
        let error = prepare(&config).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ganesha.conf") && error.contains("nfs.config"), "{error}");
    }
}
