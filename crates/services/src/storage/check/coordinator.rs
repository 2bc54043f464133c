//! Leads the nodes through the properties and judges what they saw.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ops::{Op, Outcome, Peer, PeerError};
use super::properties;
use super::report::{CheckReport, Finding, Property, Verdict};
use super::responder::fresh_run;

/// How much is tested, and how long anything may take.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the volume in the remedies.
    pub volume: String,
    /// Observations per ordered pair of nodes and kind of change.
    pub rounds: u32,
    /// Increments of the shared counter by each node.
    pub increments: u32,
    /// For one operation.
    pub deadline: Duration,
    /// For all increments of a node; what is not made by then is left out, and what was made must be exact.
    pub count_deadline: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            volume: "VOLUME".to_owned(),
            rounds: 5,
            increments: 200,
            deadline: Duration::from_secs(10),
            count_deadline: Duration::from_secs(20),
        }
    }
}

/// Tests every property between all ordered pairs of the nodes (two at least) and removes the scratch directory
/// again. A node that gives no answer ends the test; what was not tested is [`Verdict::Unknown`].
pub async fn run(peers: Vec<Arc<dyn Peer>>, plan: &Plan) -> CheckReport {
    let started = Instant::now();
    let nodes = Nodes { peers, plan };
    let mut findings = Vec::new();
    let mut lost = nodes.begin().await.err();
    for property in Property::ALL {
        let begun = Instant::now();
        let result = match &lost {
            Some(error) => Err(error.clone()),
            None => properties::test(property, &nodes).await,
        };
        findings.push(finding(property, &result, begun.elapsed(), plan));
        lost = result.err();
    }
    nodes.end().await;
    let names = nodes.peers.iter().map(|peer| peer.name().to_owned()).collect();
    CheckReport { nodes: names, findings, took: started.elapsed() }
}

fn finding(property: Property, result: &Result<Tally, PeerError>, took: Duration, plan: &Plan) -> Finding {
    let (verdict, tried, wrong, evidence) = match result {
        Ok(tally) if tally.wrong == 0 && tally.tried > 0 => (Verdict::Holds, tally.tried, 0, tally.evidence()),
        Ok(tally) if tally.tried > 0 => (Verdict::Fails, tally.tried, tally.wrong, tally.evidence()),
        Ok(_) => (Verdict::Unknown, 0, 0, "nothing was observed; it takes two nodes".to_owned()),
        Err(error) => (Verdict::Unknown, 0, 0, format!("not tested: {error}")),
    };
    let fails = verdict == Verdict::Fails;
    Finding {
        property,
        title: property.title().to_owned(),
        verdict,
        tried,
        wrong,
        evidence,
        took,
        cost: if fails { property.cost().to_owned() } else { String::new() },
        remedies: if fails { property.remedies(&plan.volume) } else { Vec::new() },
    }
}

/// Counts observations.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) tried: u32,
    pub(super) wrong: u32,
    first_wrong: Option<String>,
    /// More figures for the evidence.
    pub(super) notes: Vec<String>,
}

impl Tally {
    /// One observation; `otherwise` describes it when it is wrong.
    pub(super) fn check(&mut self, right: bool, otherwise: impl FnOnce() -> String) {
        self.tried += 1;
        if !right {
            self.wrong += 1;
            self.first_wrong.get_or_insert_with(otherwise);
        }
    }

    fn evidence(&self) -> String {
        let mut parts = vec![match self.wrong {
            0 => format!("{} of {} right", self.tried, self.tried),
            wrong => format!("{wrong} of {} wrong", self.tried),
        }];
        parts.extend(self.notes.iter().cloned());
        parts.extend(self.first_wrong.iter().map(|first| format!("first: {first}")));
        parts.join("; ")
    }
}

/// The nodes of one test.
pub(super) struct Nodes<'a> {
    peers: Vec<Arc<dyn Peer>>,
    pub(super) plan: &'a Plan,
}

impl Nodes<'_> {
    async fn begin(&self) -> Result<(), PeerError> {
        let run = fresh_run();
        for node in self.all() {
            self.must(node, Op::Begin { run: run.clone() }).await?;
        }
        Ok(())
    }

    async fn end(&self) {
        // Nothing depends on it any more: a node that is lost ends with its helper.
        for node in self.all().skip(1) {
            let _ = self.look(node, Op::End { remove: false }).await;
        }
        if let Some(first) = self.all().next() {
            let _ = self.look(first, Op::End { remove: true }).await;
        }
    }

    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.peers.len()
    }

    /// Every node with every other, in both directions.
    pub(super) fn pairs(&self) -> Vec<(usize, usize)> {
        self.all().flat_map(|a| self.all().filter(move |b| *b != a).map(move |b| (a, b))).collect()
    }

    pub(super) fn name(&self, node: usize) -> &str {
        self.peers[node].name()
    }

    /// Does an operation whose outcome is an observation, the system's refusal included.
    pub(super) async fn look(&self, node: usize, op: Op) -> Result<Outcome, PeerError> {
        self.peers[node].call(op, self.plan.deadline).await
    }

    /// Does an operation that is a step of the test and has to work.
    pub(super) async fn must(&self, node: usize, op: Op) -> Result<Outcome, PeerError> {
        let doing = format!("{op:?}");
        match self.look(node, op).await? {
            Outcome::Errno { text, .. } => {
                Err(PeerError { node: self.name(node).to_owned(), why: format!("{doing}: {text}") })
            }
            outcome => Ok(outcome),
        }
    }

    /// The same operation on all nodes at once, with a deadline of its own.
    pub(super) async fn everywhere(&self, op: &Op, deadline: Duration) -> Result<Vec<Outcome>, PeerError> {
        let mut tasks = Vec::new();
        for peer in &self.peers {
            let (peer, op) = (Arc::clone(peer), op.clone());
            tasks.push(tokio::spawn(async move { peer.call(op, deadline).await }));
        }
        let mut outcomes = Vec::new();
        for (node, task) in tasks.into_iter().enumerate() {
            let outcome = task.await.map_err(|e| PeerError { node: self.name(node).to_owned(), why: e.to_string() })?;
            outcomes.push(outcome?);
        }
        Ok(outcomes)
    }

    pub(super) async fn open(&self, node: usize, file: &str, name: &str, create: bool) -> Result<Outcome, PeerError> {
        self.look(node, Op::Open { file: file.into(), name: name.into(), create, exclusive: false }).await
    }

    /// Opens, reads from the start, closes.
    pub(super) async fn read_anew(&self, node: usize, name: &str) -> Result<Outcome, PeerError> {
        let opened = self.open(node, "anew", name, false).await?;
        if matches!(opened, Outcome::Errno { .. }) {
            return Ok(opened);
        }
        let read = self.look(node, Op::Read { file: "anew".into(), at: 0, len: 4096 }).await?;
        self.must(node, Op::Close { file: "anew".into() }).await?;
        Ok(read)
    }

    /// Makes a file with a text in it and closes it again.
    pub(super) async fn make(&self, node: usize, name: &str, text: &str) -> Result<(), PeerError> {
        self.must(node, Op::Open { file: "made".into(), name: name.into(), create: true, exclusive: true }).await?;
        self.must(node, Op::Write { file: "made".into(), at: 0, text: text.into(), sync: true }).await?;
        self.must(node, Op::Close { file: "made".into() }).await?;
        Ok(())
    }
}

/// Two steps of the test at once.
pub(super) async fn both<A, B>(a: A, b: B) -> (A::Output, B::Output)
where
    A: Future,
    B: Future,
{
    tokio::join!(a, b)
}
