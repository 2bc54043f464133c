//! What the admin socket's requests do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cluster::Snapshot;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::check::Checks;
use super::facts::Facts;
use super::inbox::Inbox;
use super::timeline::{Timeline, unix_ms};
use crate::admin::api::{Answer, Link, Request, Status};
use crate::admin::server::{Answers, Handler};
use crate::config::{Config, Storage};
use crate::peer::Peers;

/// The core answers within 5 s; this is for a core that hangs.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two states for one follower.
const PACE: Duration = Duration::from_millis(100);

/// A wish for a new configuration, and where to say what came of it.
pub(crate) type Reload = oneshot::Sender<Result<String, String>>;

/// Carries out the requests of the admin socket.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) inbox: Inbox,
    pub(crate) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) timeline: Timeline,
    pub(crate) facts: Facts,
    pub(crate) config: watch::Receiver<Arc<Config>>,
    pub(crate) peers: Peers,
    pub(crate) checks: Checks,
    pub(crate) reload: mpsc::Sender<Reload>,
    pub(crate) log_place: String,
    pub(crate) started_unix_ms: i64,
}

impl Handler for Admin {
    async fn handle(&self, request: Request, out: &mut Answers) -> io::Result<()> {
        match request {
            Request::Version => out.done(crate::VERSION).await,
            Request::Status { follow } => self.status(follow, out).await,
            Request::Events { last, follow } => self.events(last, follow, out).await,
            Request::Admin { command } => match timeout(PATIENCE, self.inbox.admin(command)).await {
                Ok(Ok(Ok(text))) => out.done(text).await,
                Ok(Ok(Err(why))) => out.failed(why).await,
                Ok(Err(_)) => out.failed("the daemon is ending and takes no requests").await,
                Err(_) => {
                    out.failed(format!(
                        "no answer within {} s; `steadfast events` tells what happened",
                        PATIENCE.as_secs()
                    ))
                    .await
                }
            },
            Request::Zone => self.zone(out).await,
            Request::CheckStorage { rounds } => self.check(rounds, out).await,
            Request::Reload => {
                let (reply, answer) = oneshot::channel();
                if self.reload.send(reply).await.is_err() {
                    return out.failed("the daemon is ending and takes no configuration").await;
                }
                match answer.await {
                    Ok(Ok(text)) => out.done(text).await,
                    Ok(Err(why)) => out.failed(why).await,
                    Err(_) => out.failed("the daemon is ending and takes no configuration").await,
                }
            }
        }
    }
}

impl Admin {
    fn answer(&self, snapshot: &Snapshot) -> Answer {
        let mut local = self.facts.local(&self.config.borrow());
        local.started_unix_ms = self.started_unix_ms;
        local.log.clone_from(&self.log_place);
        let links = self.peers.links().into_iter();
        local.links = links.map(|l| Link { peer: l.peer, up: l.up, because: l.because }).collect();
        Answer::Status(Box::new(Status { snapshot: snapshot.clone(), local, unix_ms: unix_ms() }))
    }

    async fn status(&self, follow: bool, out: &mut Answers) -> io::Result<()> {
        let mut snapshots = self.snapshots.clone();
        let first = timeout(Duration::from_secs(2), snapshots.wait_for(Option::is_some)).await.is_ok_and(|s| s.is_ok());
        if !first {
            return out.failed("the daemon is starting or ending and has no state to show: try again").await;
        }
        loop {
            let next = Instant::now() + PACE;
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                out.write(&self.answer(&snapshot)).await?;
            }
            if !follow {
                return out.done("").await;
            }
            if snapshots.changed().await.is_err() {
                return out.failed("the daemon is ending").await;
            }
            sleep_until(next).await;
        }
    }

    async fn events(&self, last: usize, follow: bool, out: &mut Answers) -> io::Result<()> {
        if !follow {
            for event in self.timeline.last(last) {
                out.write(&Answer::Event(event)).await?;
            }
            return out.done("").await;
        }
        let (kept, mut news) = self.timeline.follow(last);
        for event in kept {
            out.write(&Answer::Event(event)).await?;
        }
        loop {
            match news.recv().await {
                Ok((_, event)) => out.write(&Answer::Event(event)).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let text = format!("{missed} events were missed: too many at once for this connection");
                    out.write(&Answer::Progress { text }).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return out.failed("the daemon is ending").await,
            }
        }
    }

    async fn zone(&self, out: &mut Answers) -> io::Result<()> {
        let config = Arc::clone(&self.config.borrow());
        let snapshot = self.snapshots.borrow().clone();
        let Some(dns) = &config.dns else {
            let text = "no DNS zone is configured: add a [dns] section (docs/dns.md) and reload";
            return out.failed(text).await;
        };
        let Some(snapshot) = snapshot else {
            return out.failed("the daemon is starting and knows no addresses yet: try again").await;
        };
        let text = super::dns::text(dns, &snapshot);
        out.write(&Answer::Text { text }).await?;
        out.done("").await
    }

    async fn check(&self, increments: Option<u32>, out: &mut Answers) -> io::Result<()> {
        let config = Arc::clone(&self.config.borrow());
        let snapshot = self.snapshots.borrow().clone();
        let others: Vec<_> = snapshot
            .iter()
            .flat_map(|s| s.nodes.iter().filter(|(pnn, node)| **pnn != s.me && node.member))
            .filter(|(pnn, _)| self.peers.links().iter().any(|l| l.peer == **pnn && l.up))
            .map(|(pnn, node)| (*pnn, node.name.clone()))
            .collect();
        let volume = match &config.storage {
            Storage::Gluster { volume, .. } => Some(volume.clone()),
            Storage::Local { .. } | Storage::None => None,
        };
        let names: Vec<&str> = others.iter().map(|(_, name)| name.as_str()).collect();
        let text = format!("checking the shared mount between this node and {}", names.join(", "));
        out.write(&Answer::Progress { text }).await?;
        let report = match self.checks.run(&config.this_node().name, others, volume, increments).await {
            Ok(report) => report,
            Err(why) => return out.failed(why).await,
        };
        let warning = report.warning();
        self.inbox
            .input(cluster::Input::Warning { key: "coherence".to_owned(), text: warning.clone().unwrap_or_default() });
        out.write(&Answer::Value { value: serde_json::to_value(&report)? }).await?;
        out.write(&Answer::Text { text: report.to_string() }).await?;
        match warning {
            None => out.done("").await,
            Some(text) => out.failed(text).await,
        }
    }
}
