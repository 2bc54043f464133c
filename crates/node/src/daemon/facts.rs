//! What this node knows of itself beside the core, for `steadfast status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::{Health, ServiceHealth};

use crate::admin::api;
use crate::config::{Config, STORAGE, Storage};

/// Collected by several tasks, read by the admin socket. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    services: BTreeMap<String, ServiceHealth>,
    limits: Vec<String>,
    lifted: Option<String>,
    dns: Option<api::Dns>,
}

impl Facts {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Health of a service.
    pub(crate) fn service(&self, name: &str, health: ServiceHealth) {
        self.lock().services.insert(name.to_owned(), health);
    }

    /// What eviction cannot do with the storage.
    pub(crate) fn limits(&self, limits: Vec<String>) {
        self.lock().limits = limits;
    }

    /// The volume's option that is changed for the time of planned moves.
    pub(crate) fn lifted(&self, option: Option<String>) {
        self.lock().lifted = option;
    }

    /// The DNS server.
    pub(crate) fn dns(&self, dns: Option<api::Dns>) {
        self.lock().dns = dns;
    }

    /// Forgets the services of an older configuration.
    pub(crate) fn keep_services(&self, names: impl Fn(&str) -> bool) {
        self.lock().services.retain(|name, _| names(name));
    }

    /// All of it, as `status` shows it.
    pub(crate) fn local(&self, config: &Config) -> api::Local {
        let known = self.lock();
        let (kind, path) = match &config.storage {
            Storage::Gluster { path, .. } => ("gluster", Some(path)),
            Storage::Local { path, .. } => ("local", Some(path)),
            Storage::None => ("none", None),
        };
        let unknown = || ServiceHealth { state: Health::Off, because: "not looked at yet".into(), output: Vec::new() };
        api::Local {
            version: crate::VERSION.to_owned(),
            services: known.services.clone(),
            storage: path.map(|path| api::Storage {
                kind: kind.to_owned(),
                path: path.display().to_string(),
                mount: known.services.get(STORAGE).cloned().unwrap_or_else(unknown),
                eviction_limits: known.limits.clone(),
                lifted: known.lifted.clone(),
            }),
            dns: known.dns.clone(),
            config_file: config.path.display().to_string(),
            ..api::Local::default()
        }
    }
}
