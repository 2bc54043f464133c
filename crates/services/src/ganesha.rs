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
use crate::output::within;

/// Longest configuration that is looked at.
const MAX_CONFIG: u64 = 1024 * 1024;
const FILE_DEADLINE: Duration = Duration::from_secs(1);

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

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let config = NfsConfig { config: "/nonexistent/ganesha.conf".into(), ..NfsConfig::default() };
        let error = prepare(&config).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ganesha.conf") && error.contains("nfs.config"), "{error}");
    }
}
