//! Samba: the generated include, the check with testparm, and smbd's command line.
//!
//! The operator's smb.conf stays the operator's. What serving on addresses that move needs is written into a
//! file of its own, to be included as the last line of `[global]`; whether it takes effect is read from
//! testparm, so a missing include line and a setting that overrides it are both found. See smb.conf(5),
//! testparm(1). Tested with 4.17.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;

use crate::config::SambaConfig;
use crate::output::{lines_of, within};
use crate::supervisor::search_path;

const TESTPARM_DEADLINE: Duration = Duration::from_secs(5);
const FILE_DEADLINE: Duration = Duration::from_secs(1);

/// A setting that the cluster needs: name, value, why.
struct Needed {
    name: &'static str,
    value: &'static str,
    why: &'static str,
}

const NEEDED: [Needed; 7] = [
    Needed {
        name: "bind interfaces only",
        value: "No",
        why: "smbd must listen on addresses that arrive while it runs",
    },
    Needed {
        name: "server multi channel support",
        value: "No",
        why: "clients would open channels to node addresses, which do not move",
    },
    Needed {
        name: "oplocks",
        value: "No",
        why: "each node's smbd knows only its own clients: what one client caches, another changes elsewhere",
    },
    Needed { name: "level2 oplocks", value: "No", why: "as oplocks" },
    Needed { name: "smb2 leases", value: "No", why: "as oplocks" },
    Needed {
        name: "posix locking",
        value: "Yes",
        why: "only locks on the shared file system are seen by the other nodes",
    },
    Needed {
        name: "kernel share modes",
        value: "No",
        why: "flock on a FUSE mount blocks clients of other nodes that may share the file",
    },
];

/// Samba cannot be started with what is configured.
#[derive(Debug, Error)]
pub enum SambaError {
    #[error("cannot write {}: {source}", path.display())]
    Include { path: PathBuf, source: io::Error },
    #[error("{} does not answer within {} ms; is it on the shared mount, and that hangs?", path.display(), FILE_DEADLINE.as_millis())]
    Hangs { path: PathBuf },
    #[error("{program} is not installed (or not in PATH); install samba, or set samba.testparm")]
    NoTestparm { program: String },
    #[error("cannot run {program}: {source}")]
    Testparm { program: String, source: io::Error },
    #[error("testparm did not end within {} s", TESTPARM_DEADLINE.as_secs())]
    TestparmHangs,
    /// `output` has the words of testparm.
    #[error("testparm refuses {}: {}", config.display(), output.first().map_or("no reason given", String::as_str))]
    Refused { config: PathBuf, output: Vec<String> },
}

impl SambaError {
    /// The complaint in full.
    pub fn output(&self) -> &[String] {
        match self {
            Self::Refused { output, .. } => output,
            _ => &[],
        }
    }
}

/// The command that runs smbd in the foreground.
pub fn command(config: &SambaConfig) -> Vec<String> {
    if !config.command.is_empty() {
        return config.command.clone();
    }
    let file = config.config.to_string_lossy();
    ["smbd", "-F", "--no-process-group", "-s", &file].map(String::from).to_vec()
}

/// The line that belongs at the end of `[global]` in the operator's file.
pub fn include_line(config: &SambaConfig) -> String {
    format!("include = {}", config.include.display())
}

/// The generated file.
pub fn include_text(config: &SambaConfig) -> String {
    let mut text = format!(
        "# Written by steadfast at each start of smbd; changes made here are lost.\n\
         # Put this as the last line of [global] into {}:\n#   {}\n",
        config.config.display(),
        include_line(config)
    );
    for Needed { name, value, why } in NEEDED {
        text += &format!("# {why}\n{name} = {}\n", value.to_lowercase());
    }
    text + "# with the fileid module, a file has the same identity on every node whatever its device number\n\
            fileid:algorithm = fsname\n"
}

/// Writes the include if it is not current and has testparm check everything. Returns warnings.
pub async fn prepare(config: &SambaConfig) -> Result<Vec<String>, SambaError> {
    write_include(config).await?;
    check(config).await
}

async fn write_include(config: &SambaConfig) -> Result<(), SambaError> {
    let path = config.include.clone();
    let text = include_text(config);
    let written = within(FILE_DEADLINE, move || {
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let fresh = path.with_extension("conf.new");
        // whole or not at all: smbd may read it at any moment
        std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &path))
    });
    match written.await {
        Some(Ok(())) => Ok(()),
        Some(Err(source)) => Err(SambaError::Include { path: config.include.clone(), source }),
        None => Err(SambaError::Hangs { path: config.include.clone() }),
    }
}

/// Has testparm read the configuration. Returns warnings: unknown parameters, settings that do not hold.
pub async fn check(config: &SambaConfig) -> Result<Vec<String>, SambaError> {
    let program = || config.testparm.display().to_string();
    let run = Command::new(&config.testparm)
        .args(["-s", "-v", "--debuglevel=1"])
        .arg(&config.config)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(TESTPARM_DEADLINE, run).await {
        Err(_) => return Err(SambaError::TestparmHangs),
        Ok(Err(source)) if source.kind() == io::ErrorKind::NotFound => {
            return Err(SambaError::NoTestparm { program: program() });
        }
        Ok(Err(source)) => {
            return Err(SambaError::Testparm { program: program(), source });
        }
        Ok(Ok(output)) => output,
    };
    let said: Vec<String> = lines_of(&output.stderr, 40).into_iter().filter(|line| !is_chatter(line)).collect();
    if !output.status.success() {
        return Err(SambaError::Refused { config: config.config.clone(), output: said });
    }
    let mut warnings: Vec<String> =
        said.into_iter().filter(|line| line.starts_with("Unknown parameter") || line.contains("ERROR")).collect();
    warnings.extend(deviations(config, &String::from_utf8_lossy(&output.stdout)));
    Ok(warnings)
}

/// What testparm says to everybody.
fn is_chatter(line: &str) -> bool {
    line.starts_with("Load smb config files from")
        || line.starts_with("Loaded services file")
        || line.starts_with("Weak crypto")
        || line.starts_with("Server role:")
}

/// Which needed settings do not hold, by testparm's full listing.
fn deviations(config: &SambaConfig, listing: &str) -> Vec<String> {
    let sections = parse_listing(listing);
    let global = sections.get("global");
    let mut found = Vec::new();
    for Needed { name, value, why } in NEEDED {
        for (section, values) in &sections {
            let Some(got) = values.get(name).filter(|got| !got.eq_ignore_ascii_case(value)) else {
                continue;
            };
            // a share that only inherits is the same complaint again
            if section != "global" && global.and_then(|global| global.get(name)) == Some(got) {
                continue;
            }
            found.push(format!("[{section}] has \"{name} = {got}\", it should be {value}: {why}"));
        }
    }
    if !found.is_empty() {
        found.push(format!(
            "write \"{}\" as the last line of [global] in {}, and take out what overrides it",
            include_line(config),
            config.config.display()
        ));
    }
    found
}

fn parse_listing(listing: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let values = sections.entry(section.clone()).or_default();
            values.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "# Global parameters\n[global]\n\tbind interfaces only = No\n\toplocks = Yes\n\n\
                           [a]\n\toplocks = Yes\n\tsmb2 leases = No\n[b]\n\tlevel2 oplocks = Yes\n";

    #[test]
    fn deviations_name_section_setting_and_remedy() {
        let found = deviations(&SambaConfig::default(), LISTING);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with("[global] has \"oplocks = Yes\", it should be No"));
        assert!(found[1].starts_with("[b] has \"level2 oplocks = Yes\""));
        assert!(found[2].contains("include = /etc/samba/steadfast.conf"));
        assert!(deviations(&SambaConfig::default(), "[global]\n\toplocks = No\n").is_empty());
    }

    #[test]
    fn the_include_sets_all_that_is_needed() {
        let text = include_text(&SambaConfig::default());
        for needed in NEEDED {
            assert!(
                text.lines().any(|l| l == format!("{} = {}", needed.name, needed.value.to_lowercase())),
                "{}",
                needed.name
            );
        }
    }

    #[tokio::test]
    async fn a_missing_testparm_is_named() {
        let config = SambaConfig { testparm: "steadfast-no-testparm".into(), ..SambaConfig::default() };
        let error = check(&config).await.unwrap_err().to_string();
        assert!(error.contains("steadfast-no-testparm is not installed"), "{error}");
    }
}
