//! Samba: the generated include, the check with testparm, and smbd's command line.
//!
//! The operator's smb.conf stays the operator's. What serving on addresses that move needs is written into a
//! file of its own, to be included as the last line of `[global]`; whether it takes effect is read from
//! testparm, so a missing include line and a setting that overrides it are both found. See smb.conf(5),
//! testparm(1). Tested with 4.17.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
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
    value: String,
    why: &'static str,
}

/// What must hold. `nfs`: the same files are served over NFS, too.
fn needed(config: &SambaConfig, nfs: bool) -> Vec<Needed> {
    let need = |name, value: &str, why| Needed { name, value: value.to_owned(), why };
    let mut all = vec![
        need("bind interfaces only", "No", "smbd must listen on addresses that arrive while it runs"),
        need("server multi channel support", "No", "clients would open channels to node addresses, which do not move"),
    ];
    if config.clustering {
        let socket = config.ctdb_socket.display().to_string();
        all.push(need("clustering", "Yes", "the smbds of all nodes are one server"));
        all.push(need("ctdbd socket", &socket, "steadfast keeps the databases that they share"));
        // Caching is safe then (oplocks, leases: left at Samba's defaults): every smbd knows of every other's opens.
        let (posix, why) = if nfs {
            ("Yes", "only locks on the shared file system are seen by NFS clients")
        } else {
            (
                "No",
                "the smbds of all nodes know each other's locks; with both, smbd 4.17 crashes when a client comes back \
                 to another node for a file that it has a lock on",
            )
        };
        all.push(need("posix locking", posix, why));
    } else {
        let why = "each node's smbd knows only its own clients: what one client caches, another changes elsewhere";
        all.push(need("oplocks", "No", why));
        all.push(need("level2 oplocks", "No", "as oplocks"));
        all.push(need("smb2 leases", "No", "as oplocks"));
        all.push(need("posix locking", "Yes", "only locks on the shared file system are seen by the other nodes"));
    }
    let why = "flock on a FUSE mount blocks clients of other nodes that may share the file";
    all.push(need("kernel share modes", "No", why));
    all
}

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
    #[error("{} does not answer ({source}); smbd finds its databases there", path.display())]
    NoDatabases { path: PathBuf, source: io::Error },
    #[error("another program (pid {pid}) answers at {}; is it ctdbd? `systemctl disable --now ctdb`", path.display())]
    ForeignDatabases { path: PathBuf, pid: i32 },
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

/// The generated file. `nfs`: the same files are served over NFS, too.
pub fn include_text(config: &SambaConfig, nfs: bool) -> String {
    let mut text = format!(
        "# Written by steadfast at each start of smbd; changes made here are lost.\n\
         # Put this as the last line of [global] into {}:\n#   {}\n",
        config.config.display(),
        include_line(config)
    );
    for Needed { name, value, why } in needed(config, nfs) {
        text += &format!("# {why}\n{name} = {value}\n");
    }
    text + "# with the fileid module, a file has the same identity on every node whatever its device number\n\
            fileid:algorithm = fsname\n"
}

/// Writes the include if it is not current, has testparm check everything and looks for the databases. Returns warnings.
pub async fn prepare(config: &SambaConfig, nfs: bool) -> Result<Vec<String>, SambaError> {
    write_include(config, nfs).await?;
    let warnings = check(config, nfs).await?;
    if config.clustering {
        find_databases(config).await?;
    }
    Ok(warnings)
}

/// smbd ends at once when its databases are not there: better said here than found in its log.
async fn find_databases(config: &SambaConfig) -> Result<(), SambaError> {
    let path = config.ctdb_socket.clone();
    let connected = within(FILE_DEADLINE, move || -> io::Result<i32> {
        let stream = UnixStream::connect(path)?;
        Ok(rustix::net::sockopt::socket_peercred(&stream)?.pid.as_raw_nonzero().get())
    });
    let path = config.ctdb_socket.clone();
    match connected.await {
        Some(Ok(pid)) if pid.cast_unsigned() == std::process::id() => Ok(()),
        Some(Ok(pid)) => Err(SambaError::ForeignDatabases { path, pid }),
        Some(Err(source)) => Err(SambaError::NoDatabases { path, source }),
        None => Err(SambaError::NoDatabases { path, source: io::ErrorKind::TimedOut.into() }),
    }
}

async fn write_include(config: &SambaConfig, nfs: bool) -> Result<(), SambaError> {
    let path = config.include.clone();
    let text = include_text(config, nfs);
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
pub async fn check(config: &SambaConfig, nfs: bool) -> Result<Vec<String>, SambaError> {
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
    warnings.extend(deviations(config, nfs, &String::from_utf8_lossy(&output.stdout)));
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
fn deviations(config: &SambaConfig, nfs: bool, listing: &str) -> Vec<String> {
    let sections = parse_listing(listing);
    let global = sections.get("global");
    let mut found = Vec::new();
    for Needed { name, value, why } in needed(config, nfs) {
        for (section, values) in &sections {
            let Some(got) = values.get(name).filter(|got| !got.eq_ignore_ascii_case(&value)) else {
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

    fn clustered() -> SambaConfig {
        SambaConfig { clustering: true, ..SambaConfig::default() }
    }

    #[test]
    fn deviations_name_section_setting_and_remedy() {
        let found = deviations(&SambaConfig::default(), false, LISTING);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with("[global] has \"oplocks = Yes\", it should be No"));
        assert!(found[1].starts_with("[b] has \"level2 oplocks = Yes\""));
        assert!(found[2].contains("include = /etc/samba/steadfast.conf"));
        assert!(deviations(&SambaConfig::default(), false, "[global]\n\toplocks = No\n").is_empty());
    }

    #[test]
    fn caching_is_left_alone_where_the_nodes_know_of_each_other() {
        let listing = format!("{LISTING}\tposix locking = Yes\n");
        let with_nfs = deviations(&clustered(), true, &listing);
        assert!(with_nfs.is_empty(), "{with_nfs:#?}");
        let without = deviations(&clustered(), false, &listing);
        assert!(without[0].starts_with("[b] has \"posix locking = Yes\", it should be No"), "{without:#?}");
        let elsewhere = "[global]\n\tclustering = No\n\tctdbd socket = /run/other\n";
        let found = deviations(&clustered(), true, elsewhere);
        assert!(found[0].starts_with("[global] has \"clustering = No\", it should be Yes"), "{found:#?}");
        assert!(found[1].starts_with("[global] has \"ctdbd socket = /run/other\""), "{found:#?}");
    }

    #[test]
    fn the_include_sets_all_that_is_needed() {
        for (config, nfs) in [SambaConfig::default(), clustered()].into_iter().zip([false, true]) {
            let text = include_text(&config, nfs);
            for Needed { name, value, .. } in needed(&config, nfs) {
                assert!(text.lines().any(|l| l == format!("{name} = {value}")), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn smbd_is_not_started_before_its_databases_answer() {
        let dir = tempfile::tempdir().unwrap();
        let config = SambaConfig {
            ctdb_socket: dir.path().join("ctdbd.socket"),
            include: dir.path().join("include.conf"),
            testparm: "true".into(),
            ..clustered()
        };
        let error = prepare(&config, true).await.unwrap_err().to_string();
        assert!(error.contains("ctdbd.socket does not answer (No such file"), "{error}");
        let listener = std::os::unix::net::UnixListener::bind(&config.ctdb_socket).unwrap();
        assert_eq!(prepare(&config, true).await.unwrap(), Vec::<String>::new());
        drop(listener);
        std::fs::remove_file(&config.ctdb_socket).unwrap();
        let listen =
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); sys.stdin.read()";
        let mut ctdbd = std::process::Command::new("/usr/bin/python3")
            .args(["-c", listen])
            .arg(&config.ctdb_socket)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        while !config.ctdb_socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It is bound a moment before it listens.
        let error = loop {
            match prepare(&config, true).await {
                Err(SambaError::NoDatabases { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => break other.unwrap_err().to_string(),
            }
        };
        ctdbd.kill().unwrap();
        ctdbd.wait().unwrap();
        assert!(error.contains(&format!("another program (pid {})", ctdbd.id())), "{error}");
    }

    #[tokio::test]
    async fn a_missing_testparm_is_named() {
        let config = SambaConfig { testparm: "steadfast-no-testparm".into(), ..SambaConfig::default() };
        let error = check(&config, false).await.unwrap_err().to_string();
        assert!(error.contains("steadfast-no-testparm is not installed"), "{error}");
    }
}
