//! The sockets: one UDP and one TCP socket for each address, so that an answer comes from the address that was asked.
//!
//! Public addresses come and go, so every socket is bound with IP_FREEBIND once and stays: it simply hears nothing
//! while its address is elsewhere. A socket that fails (another program has the port; it was destroyed together with
//! a released address) is opened again; what cannot be opened stands in [`Server::problems`].

mod socket;
mod tcp;
mod udp;

use crate::limit::Limiter;
use crate::zone::ZoneView;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// TCP connections at once, from everybody.
const MOST_CONNECTIONS: usize = 128;
/// Until a socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Where and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Addresses and ports to answer on, each over UDP and TCP. No wildcard addresses.
    pub sockets: Vec<SocketAddr>,
    /// UDP answers per second to one client network before they are truncated; 0: no limit.
    pub rate_limit: u32,
    /// Networks without a limit: address and prefix length.
    pub rate_limit_exempt: Vec<(IpAddr, u8)>,
}

/// Runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What the sockets' tasks share.
#[derive(Debug)]
struct Shared {
    view: watch::Receiver<Arc<ZoneView>>,
    limiter: Mutex<Limiter>,
    turn: AtomicUsize,
    connections: Arc<Semaphore>,
    clients: Mutex<BTreeMap<IpAddr, usize>>,
    problems: Mutex<BTreeMap<(SocketAddr, &'static str), String>>,
}

impl Server {
    /// Opens the sockets and answers from the newest view. Call it within a tokio runtime.
    ///
    /// Never fails: a socket that cannot be opened is tried again, and stands in [`Server::problems`] meanwhile.
    #[must_use]
    pub fn start(config: &ServerConfig, view: watch::Receiver<Arc<ZoneView>>) -> Self {
        let limiter = Limiter::new(config.rate_limit, config.rate_limit_exempt.clone(), Instant::now());
        let shared = Arc::new(Shared {
            view,
            limiter: Mutex::new(limiter),
            turn: AtomicUsize::new(0),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            clients: Mutex::new(BTreeMap::new()),
            problems: Mutex::new(BTreeMap::new()),
        });
        let mut tasks = JoinSet::new();
        for address in &config.sockets {
            let first = socket::udp(*address);
            shared.note(*address, "UDP", first.as_ref().err());
            tasks.spawn(udp::run(Arc::clone(&shared), *address, first.ok()));
            let first = socket::tcp(*address);
            shared.note(*address, "TCP", first.as_ref().err());
            tasks.spawn(tcp::run(Arc::clone(&shared), *address, first.ok()));
        }
        Self { shared, tasks }
    }

    /// Sockets that are not open, each in a sentence with the remedy.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let problems = self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().cloned().collect()
    }

    /// Closes all sockets; when it returns they may be opened again by another server.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Shared {
    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn allow(&self, client: IpAddr) -> bool {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.allow(client, Instant::now())
    }

    /// Remembers (or forgets) what is wrong with a socket; logs it when that changes.
    fn note(&self, address: SocketAddr, protocol: &'static str, error: Option<&std::io::Error>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if problems.remove(&(address, protocol)).is_some() {
                tracing::info!(%address, protocol, "DNS answers there now");
            }
            return;
        };
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has the port (named, dnsmasq, systemd-resolved?): stop it, keep it to 127.0.0.1, or \
                 leave this address out of `listen` in [dns]"
                    .to_owned()
            }
            std::io::ErrorKind::PermissionDenied => "this port needs root".to_owned(),
            _ => error.to_string(),
        };
        let text = format!("DNS does not answer over {protocol} on {address}: {why}");
        if problems.get(&(address, protocol)) != Some(&text) {
            tracing::warn!("{text}");
            problems.insert((address, protocol), text);
        }
    }
}
