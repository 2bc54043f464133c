//! The `[samba]`, `[nfs]` and `[health]` sections of `steadfast.toml`.
//!
//! Plain data with defaults; every field can be left out, an unknown one is refused. [`ServicesConfig::check`]
//! says what cannot work before anything is started. Which files exist is looked at when a service starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Who runs the processes of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartWith {
    /// `systemd` where systemd is the init (`/run/systemd/system` exists), else `exec`.
    #[default]
    Auto,
    /// `systemctl start UNIT`.
    Systemd,
    /// The daemon runs the command itself, in a process group of its own.
    Exec,
}

impl StartWith {
    /// Whether units are used on this machine.
    pub fn uses_systemd(self) -> bool {
        match self {
            Self::Auto => Path::new("/run/systemd/system").exists(),
            Self::Systemd => true,
            Self::Exec => false,
        }
    }
}

/// `[samba]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SambaConfig {
    /// Whether this cluster serves SMB.
    pub enabled: bool,
    /// Start, restart and stop smbd. With `false` it is only probed.
    pub manage: bool,
    /// The operator's own configuration file; never written.
    pub config: PathBuf,
    /// The file that is generated for `include = ` in the `[global]` section of `config`.
    pub include: PathBuf,
    /// The smbds of all nodes are one server: they share their databases (locks, sessions, users) through this daemon.
    pub clustering: bool,
    /// Where this daemon, in CTDB's place, answers Samba and the `ctdb` tool. Node-local.
    pub ctdb_socket: PathBuf,
    /// The machine's processors do not sleep deeply while much moves between the nodes' databases. Node-local.
    pub keep_awake: bool,
    /// Shares that must exist; the probe asks for each of them. IPC$ is always asked for.
    pub shares: Vec<String>,
    pub start: StartWith,
    pub unit: String,
    /// Runs smbd in the foreground, instead of `smbd -F --no-process-group`. It must not fork away.
    pub command: Vec<String>,
    /// smbd's own log, whose last lines are shown when it fails.
    pub log_file: PathBuf,
    pub testparm: PathBuf,
    /// Where the probe connects to.
    pub probe_address: SocketAddr,
    /// Seconds from TERM to KILL.
    pub stop_timeout: u64,
}

impl Default for SambaConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            manage: true,
            config: "/etc/samba/smb.conf".into(),
            include: "/etc/samba/steadfast.conf".into(),
            clustering: false,
            ctdb_socket: "/run/ctdb/ctdbd.socket".into(),
            keep_awake: true,
            shares: Vec::new(),
            start: StartWith::Auto,
            unit: "smbd.service".into(),
            command: Vec::new(),
            log_file: "/var/log/samba/log.smbd".into(),
            testparm: "testparm".into(),
            probe_address: SocketAddr::from(([127, 0, 0, 1], 445)),
            stop_timeout: 5,
        }
    }
}

/// Which NFS server is driven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NfsServer {
    #[default]
    Ganesha,
}

/// When the NFS servers enter their grace period because another node is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grace {
    /// When clients were recorded there, who could have locks or open files.
    #[default]
    WhenNeeded,
    /// Never: locks of its clients are lost with it, and others can have them at once.
    Never,
}

/// For whose sake the NFS servers enter their grace period when an address moves by plan, from a server that lives on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveGrace {
    /// For clients with NFSv3 locks, who would not hear that they have lost them.
    #[default]
    Nfsv3,
    /// For all recorded clients: NFSv4's are recorded from mount on.
    All,
    /// For nobody's.
    Never,
}

/// `[nfs]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NfsConfig {
    /// Whether this cluster serves NFS.
    pub enabled: bool,
    pub server: NfsServer,
    /// Start, restart and stop the NFS server, rpcbind and rpc.statd. With `false` it is only probed.
    pub manage: bool,
    /// Ganesha's configuration file.
    pub config: PathBuf,
    /// Paths that clients mount and the probe asks for, as `/vol1`.
    pub exports: Vec<String>,
    /// Protocol versions to probe: 3, 4 or both.
    pub versions: Vec<u32>,
    pub start: StartWith,
    pub unit: String,
    /// Runs the server in the foreground, instead of `ganesha.nfsd -F -f CONFIG -L LOG_FILE`.
    pub command: Vec<String>,
    pub log_file: PathBuf,
    /// When it enters its grace period because another node is lost.
    pub grace: Grace,
    /// For whose sake it does so when an address moves by plan.
    pub grace_at_moves: MoveGrace,
    /// Whether rpc.statd is kept running for NFSv3 locks ("No locks available" without it).
    pub statd: bool,
    pub rpcbind_unit: String,
    pub rpcbind_command: Vec<String>,
    pub statd_unit: String,
    pub statd_command: Vec<String>,
    /// Where the probe connects to.
    pub probe_address: SocketAddr,
    /// Port of the MOUNT protocol; asked from rpcbind when it is not given.
    pub mount_port: Option<u16>,
    /// Seconds from TERM to KILL.
    pub stop_timeout: u64,
}

impl Default for NfsConfig {
    fn default() -> Self {
        let words = |line: &str| line.split(' ').map(String::from).collect();
        Self {
            enabled: false,
            server: NfsServer::Ganesha,
            manage: true,
            config: "/etc/ganesha/ganesha.conf".into(),
            exports: Vec::new(),
            versions: vec![3, 4],
            start: StartWith::Auto,
            unit: "nfs-ganesha.service".into(),
            command: Vec::new(),
            log_file: "/var/log/ganesha/ganesha.log".into(),
            grace: Grace::WhenNeeded,
            grace_at_moves: MoveGrace::Nfsv3,
            statd: true,
            rpcbind_unit: "rpcbind.service".into(),
            // -w takes over earlier registrations, so that a restart does not make the NFS server unknown
            rpcbind_command: words("rpcbind -f -w"),
            statd_unit: "rpc-statd.service".into(),
            // Notifications belong to a takeover, not to each start of the process
            statd_command: words("rpc.statd -F --no-notify"),
            probe_address: SocketAddr::from(([127, 0, 0, 1], 2049)),
            mount_port: None,
            stop_timeout: 5,
        }
    }
}

impl NfsConfig {
    /// Whether rpcbind is needed: NFSv3 clients ask it for the ports.
    pub fn needs_rpcbind(&self) -> bool {
        self.versions.contains(&3)
    }
}

/// `[health]`: when a service counts as failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Milliseconds between probes of a service that answers.
    pub probe_interval_ms: u64,
    /// Milliseconds that one probe may take.
    pub probe_deadline_ms: u64,
    /// Failed probes in a row that make a service failed.
    pub failures: u32,
    /// Good probes in a row that make a failed service healthy again.
    pub successes: u32,
    /// Fast restarts that may fail before the service counts as failed.
    pub fast_restarts: u32,
    /// Milliseconds from the end of a process until its successor must answer.
    pub restart_limit_ms: u64,
    /// Milliseconds that a first start may take.
    pub start_limit_ms: u64,
    /// Seconds that a service may be hung before it is killed and started again; 0: never.
    pub restart_hung_after: u64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            probe_interval_ms: 1000,
            probe_deadline_ms: 1000,
            failures: 3,
            successes: 3,
            fast_restarts: 2,
            restart_limit_ms: 400,
            start_limit_ms: 30_000,
            restart_hung_after: 10,
        }
    }
}

impl HealthConfig {
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.probe_interval_ms)
    }

    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.probe_deadline_ms)
    }
}

/// `[events]`: CTDB's event scripts, which the daemon runs beside the services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// Run the scripts.
    pub enabled: bool,
    /// CTDB's directory; the scripts are in `events/legacy` below it.
    pub base: PathBuf,
    /// Where CTDB's event daemon would answer the `ctdb` tool. Node-local.
    pub socket: PathBuf,
    /// Seconds that all scripts of an event may take together.
    pub timeout: u64,
    /// Seconds between `monitor` events.
    pub monitor_interval: u64,
    /// `monitor` events in a row that may not end in time before the node is unhealthy.
    pub monitor_timeouts: u32,
    /// Run with a hung script's process id and the event before it is killed; empty: nothing.
    pub debug_script: PathBuf,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            base: "/etc/ctdb".into(),
            socket: "/run/ctdb/eventd.socket".into(),
            timeout: 30,
            monitor_interval: 15,
            monitor_timeouts: 1,
            debug_script: PathBuf::new(),
        }
    }
}

/// Everything that [`Manager`](crate::Manager) needs to know, apart from the storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicesConfig {
    pub samba: SambaConfig,
    pub nfs: NfsConfig,
    pub health: HealthConfig,
    pub events: EventsConfig,
    /// Process ids and output of the services that the daemon runs itself. Node-local, gone after a boot.
    pub run_dir: PathBuf,
}

impl Default for ServicesConfig {
    fn default() -> Self {
        Self {
            samba: SambaConfig::default(),
            nfs: NfsConfig::default(),
            health: HealthConfig::default(),
            events: EventsConfig::default(),
            run_dir: "/run/steadfast/services".into(),
        }
    }
}

/// A setting that cannot work. The caller adds file and line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{section}.{key}: {problem}; {remedy}")]
pub struct ConfigProblem {
    pub section: &'static str,
    pub key: &'static str,
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl ServicesConfig {
    /// The enabled services by their names in reports, with the TCP port on which clients find each.
    pub fn ports(&self) -> Vec<(&'static str, u16)> {
        let samba = self.samba.enabled.then(|| ("samba", self.samba.probe_address.port()));
        let nfs = self.nfs.enabled.then(|| ("nfs", self.nfs.probe_address.port()));
        samba.into_iter().chain(nfs).collect()
    }

    /// All settings that cannot work.
    pub fn check(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut wrong = |section, key, problem: String, remedy: &str| {
            problems.push(ConfigProblem { section, key, problem, remedy: remedy.into() });
        };
        if let Some(version) = self.nfs.versions.iter().find(|v| !matches!(v, 3 | 4)) {
            wrong(
                "nfs",
                "versions",
                format!("{version} is no NFS version that can be probed"),
                "write [3], [4] or [3, 4]",
            );
        }
        if self.nfs.enabled && self.nfs.versions.is_empty() {
            wrong("nfs", "versions", "is empty".into(), "write [3, 4], or enabled = false");
        }
        if let Some(export) = self.nfs.exports.iter().find(|path| !is_export_path(path)) {
            wrong(
                "nfs",
                "exports",
                format!("\"{export}\" is no path that a client can mount"),
                "write it as \"/vol1\"",
            );
        }
        if let Some(share) = self.samba.shares.iter().find(|name| !is_share_name(name)) {
            wrong(
                "samba",
                "shares",
                format!("\"{share}\" is no name of a share"),
                "write the name in [brackets] of smb.conf",
            );
        }
        if self.samba.config == self.samba.include {
            wrong(
                "samba",
                "include",
                format!("is the operator's own file {}", self.samba.config.display()),
                "name a file of its own, it is overwritten",
            );
        }
        let socket = &self.samba.ctdb_socket;
        if self.samba.clustering && (!socket.is_absolute() || socket.as_os_str().len() > LONGEST_SOCKET) {
            wrong(
                "samba",
                "ctdb_socket",
                format!("\"{}\" cannot be a socket", socket.display()),
                "write a full path of at most 107 bytes",
            );
        }
        let events = &self.events;
        if events.enabled && !events.base.is_absolute() {
            wrong(
                "events",
                "base",
                format!("\"{}\" is no full path", events.base.display()),
                "write CTDB's directory, as \"/etc/ctdb\"",
            );
        }
        if events.enabled && (!events.socket.is_absolute() || events.socket.as_os_str().len() > LONGEST_SOCKET) {
            wrong(
                "events",
                "socket",
                format!("\"{}\" cannot be a socket", events.socket.display()),
                "write a full path of at most 107 bytes",
            );
        }
        if events.enabled && !events.debug_script.as_os_str().is_empty() && !events.debug_script.is_absolute() {
            wrong(
                "events",
                "debug_script",
                format!("\"{}\" is no full path", events.debug_script.display()),
                "write the full path of the script, or \"\"",
            );
        }
        for (key, value, most) in [
            ("timeout", events.timeout, 3600),
            ("monitor_interval", events.monitor_interval, 3600),
            ("monitor_timeouts", u64::from(events.monitor_timeouts), 1000),
        ] {
            if !(1..=most).contains(&value) {
                wrong("events", key, format!("{value} is out of range"), &format!("write 1 to {most}"));
            }
        }
        let health = &self.health;
        for (key, value, least, most) in [
            ("probe_interval_ms", health.probe_interval_ms, 50, 60_000),
            ("probe_deadline_ms", health.probe_deadline_ms, 50, 60_000),
            ("failures", u64::from(health.failures), 1, 100),
            ("successes", u64::from(health.successes), 1, 100),
            ("restart_limit_ms", health.restart_limit_ms, 100, 600_000),
            ("start_limit_ms", health.start_limit_ms, 100, 600_000),
        ] {
            if !(least..=most).contains(&value) {
                wrong("health", key, format!("{value} is out of range"), &format!("write {least} to {most}"));
            }
        }
        for (section, seconds) in [("samba", self.samba.stop_timeout), ("nfs", self.nfs.stop_timeout)] {
            if !(1..=300).contains(&seconds) {
                wrong(section, "stop_timeout", format!("{seconds} seconds is out of range"), "write 1 to 300");
            }
        }
        problems
    }
}

/// What the kernel takes for the path of a socket (sockaddr_un, without the NUL).
const LONGEST_SOCKET: usize = 107;

fn is_export_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && !path.contains('\0') && !path.split('/').any(|part| part == "..")
}

fn is_share_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 80 && !name.contains(['\\', '/', '[', ']', '\0', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_period_is_entered_unless_that_is_switched_off() {
        let grace = |text: &str| serde_json::from_str::<NfsConfig>(text).map(|nfs| nfs.grace).map_err(drop);
        assert_eq!(grace("{}"), Ok(Grace::WhenNeeded));
        assert_eq!(grace("{\"grace\": \"when-needed\"}"), Ok(Grace::WhenNeeded));
        assert_eq!(grace("{\"grace\": \"never\"}"), Ok(Grace::Never));
        assert_eq!(grace("{\"grace\": \"always\"}"), Err(()));
    }

    #[test]
    fn defaults_have_no_problem() {
        assert_eq!(ServicesConfig::default().check(), []);
    }

    #[test]
    fn a_socket_that_the_kernel_would_refuse_is_told() {
        for path in ["ctdbd.socket".to_owned(), format!("/{}", "x".repeat(LONGEST_SOCKET))] {
            let mut config = ServicesConfig::default();
            config.samba.ctdb_socket = path.into();
            assert_eq!(config.check(), [], "nobody uses it");
            config.samba.clustering = true;
            let problems = config.check();
            assert_eq!(problems.iter().map(|p| p.key).collect::<Vec<_>>(), ["ctdb_socket"]);
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_missing_ones_default() {
        let config: ServicesConfig = serde_json::from_str(r#"{"samba": {"enabled": true}}"#).unwrap();
        assert!(config.samba.enabled && config.samba.manage && !config.nfs.enabled);
        let error = serde_json::from_str::<ServicesConfig>(r#"{"samba": {"enable": true}}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `enable`"), "{error}");
    }

    #[test]
    fn each_problem_names_its_key_and_the_remedy() {
        let mut config = ServicesConfig::default();
        config.nfs.enabled = true;
        config.nfs.versions = vec![2];
        config.nfs.exports = vec!["vol1".into()];
        config.samba.shares = vec!["a/b".into()];
        config.samba.include = config.samba.config.clone();
        config.health.failures = 0;
        config.samba.stop_timeout = 0;
        let keys: Vec<_> = config.check().into_iter().map(|p| (p.section, p.key)).collect();
        assert_eq!(
            keys,
            [
                ("nfs", "versions"),
                ("nfs", "exports"),
                ("samba", "shares"),
                ("samba", "include"),
                ("health", "failures"),
                ("samba", "stop_timeout")
            ]
        );
        config.nfs.versions = vec![3];
        assert!(config.nfs.needs_rpcbind());
    }
}
