//! The kinds of services: what each needs before it starts, how it is run and how it is probed.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use crate::config::{NfsConfig, SambaConfig, ServicesConfig, StartWith};
use crate::ganesha;
use crate::probe::ProbeError;
use crate::probe::nfs::{NfsProbe, statd_answers};
use crate::probe::rpcbind::Registrations;
use crate::probe::smb::SmbProbe;
use crate::samba;
use crate::supervisor::{Launch, ServiceSpec};

/// One service and its settings.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Whether the same files are served over NFS, too.
    Samba(SambaConfig, bool),
    Ganesha(NfsConfig),
    Rpcbind(NfsConfig, Registrations),
    Statd(NfsConfig),
}

/// Why a service cannot be started, with the complaint of the program that looked.
#[derive(Debug)]
pub(crate) struct NotReady {
    pub(crate) because: String,
    pub(crate) output: Vec<String>,
}

pub(crate) type ProbeFuture = Pin<Box<dyn Future<Output = Result<String, ProbeError>> + Send>>;

impl Kind {
    /// The name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Samba(..) => "samba",
            Self::Ganesha(_) => "nfs",
            Self::Rpcbind(..) => "rpcbind",
            Self::Statd(_) => "statd",
        }
    }

    /// The program that people know it by.
    pub(crate) fn program(&self) -> &'static str {
        match self {
            Self::Samba(..) => "smbd",
            Self::Ganesha(_) => "ganesha.nfsd",
            Self::Rpcbind(..) => "rpcbind",
            Self::Statd(_) => "rpc.statd",
        }
    }

    /// Whether one that runs already, started by somebody else, is as good as ours.
    pub(crate) fn may_be_shared(&self) -> bool {
        matches!(self, Self::Rpcbind(..) | Self::Statd(_))
    }

    pub(crate) fn spec(&self, services: &ServicesConfig) -> ServiceSpec {
        let nfs_unit = |nfs: &NfsConfig, unit: &str, command: Vec<String>| launch(nfs.manage, nfs.start, unit, command);
        let (launch, log_file, stop_timeout) = match self {
            Self::Samba(c, _) => {
                (launch(c.manage, c.start, &c.unit, samba::command(c)), Some(&c.log_file), c.stop_timeout)
            }
            Self::Ganesha(c) => (nfs_unit(c, &c.unit, ganesha::command(c)), Some(&c.log_file), c.stop_timeout),
            Self::Rpcbind(c, _) => (nfs_unit(c, &c.rpcbind_unit, c.rpcbind_command.clone()), None, c.stop_timeout),
            Self::Statd(c) => (nfs_unit(c, &c.statd_unit, c.statd_command.clone()), None, c.stop_timeout),
        };
        ServiceSpec {
            name: self.name().into(),
            launch,
            run_dir: services.run_dir.clone(),
            log_file: log_file.map(PathBuf::from),
            severe: match self {
                Self::Ganesha(_) => ganesha::SEVERE,
                Self::Samba(..) | Self::Rpcbind(..) | Self::Statd(_) => &[],
            },
            stop_timeout: Duration::from_secs(stop_timeout),
            shared: self.may_be_shared(),
        }
    }

    /// Checks and writes what the service needs. Returns warnings.
    pub(crate) async fn prepare(&self) -> Result<Vec<String>, NotReady> {
        match self {
            Self::Samba(config, nfs) => samba::prepare(config, *nfs)
                .await
                .map_err(|error| NotReady { because: error.to_string(), output: error.output().to_vec() }),
            Self::Ganesha(config) => match ganesha::prepare(config).await {
                Ok(()) => Ok(Vec::new()),
                Err(error) => Err(NotReady { because: error.to_string(), output: Vec::new() }),
            },
            Self::Rpcbind(..) => {
                // Debian's package leaves this to systemd-tmpfiles; without it -w has no place for its list
                let _ = std::fs::create_dir_all(Path::new("/run/rpcbind"));
                Ok(Vec::new())
            }
            Self::Statd(_) => Ok(Vec::new()),
        }
    }

    /// The command for another start after a process that ran for so long and answered, where it is not the usual one.
    /// `ran` is None after one whose clients are all with other servers.
    pub(crate) async fn restart_command(&self, run_dir: &Path, ran: Option<Duration>) -> Option<Vec<String>> {
        match self {
            Self::Ganesha(config) => ganesha::restart_command(config, run_dir, ran).await,
            Self::Samba(..) | Self::Rpcbind(..) | Self::Statd(_) => None,
        }
    }

    /// The command of one start, where that differs from start to start; `other` is one that differs from the usual.
    pub(crate) fn this_start(&self, other: Option<Vec<String>>) -> Option<Vec<String>> {
        match self {
            Self::Ganesha(config) => ganesha::this_start(config, other),
            Self::Samba(..) | Self::Rpcbind(..) | Self::Statd(_) => other,
        }
    }

    /// The process ended by itself.
    pub(crate) fn on_exit(&self) {
        if let Self::Rpcbind(_, list) = self {
            list.lost();
        }
    }

    /// The service was stopped.
    pub(crate) fn on_stop(&self) {
        if let Self::Rpcbind(_, list) = self {
            list.forget();
        }
    }

    /// One probe with its own deadline.
    pub(crate) fn probe(&self, deadline: Duration) -> ProbeFuture {
        match self.clone() {
            Self::Samba(c, _) => {
                let probe = SmbProbe { address: c.probe_address, shares: c.shares, deadline };
                Box::pin(async move { probe.run().await })
            }
            Self::Ganesha(c) => {
                let probe = NfsProbe::new(&c, deadline);
                Box::pin(async move { probe.run().await })
            }
            Self::Rpcbind(c, list) => Box::pin(list.probe(c.probe_address, deadline)),
            Self::Statd(c) => Box::pin(statd_answers(c.probe_address, deadline)),
        }
    }
}

fn launch(manage: bool, start: StartWith, unit: &str, command: Vec<String>) -> Launch {
    if !manage {
        Launch::Foreign
    } else if start.uses_systemd() {
        Launch::Unit { name: unit.into(), systemctl: "systemctl".into() }
    } else {
        Launch::Exec(command)
    }
}
