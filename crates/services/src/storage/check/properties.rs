//! The properties, one function each: what the nodes do, and what each must see.
//!
//! Every test first has the reading node look at the old state, since it is such looks that fill the caches
//! which then answer wrongly.

use std::time::Duration;

use super::coordinator::{Nodes, Tally, both};
use super::ops::{Attributes, Op, Outcome, PeerError};
use super::report::Property;
use crate::storage::coherence;

/// Increments per second below which writers wait for each other rather than for the disks.
const SLOW_RATE: f64 = 10.0;

type Tested = Result<Tally, PeerError>;

pub(super) async fn test(property: Property, nodes: &Nodes<'_>) -> Tested {
    match property {
        Property::LockExclusive => lock_exclusive(nodes).await,
        Property::LockHandover => lock_handover(nodes).await,
        Property::WriteSeenOpen => write_seen(nodes, true).await,
        Property::WriteSeenNew => write_seen(nodes, false).await,
        Property::WriteSeenWhereMade => write_seen_where_made(nodes).await,
        Property::CreateSeen => create_seen(nodes).await,
        Property::RenameSeen => rename_seen(nodes).await,
        Property::DeleteSeen => delete_seen(nodes).await,
        Property::OpenSurvivesDelete => open_survives_delete(nodes).await,
        Property::AttributesSeen => attributes_seen(nodes).await,
        Property::CounterExact => counter_exact(nodes).await,
    }
}

fn is_missing(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Errno { code: libc::ENOENT, .. })
}

/// An outcome in the words of the evidence.
fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Errno { text, .. } => text.clone(),
        Outcome::Text(text) => format!("{text:?}"),
        Outcome::Attributes(a) => format!("size {} mode {:o} time {}", a.size, a.mode, a.mtime),
        Outcome::Names(names) => names.join(" "),
        Outcome::Done => "success".to_owned(),
        Outcome::Lock { granted: true, .. } => "lock granted".to_owned(),
        Outcome::Lock { granted: false, .. } => "lock refused".to_owned(),
        Outcome::Counted { times, .. } => format!("{times} increments"),
    }
}

fn granted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Lock { granted: true, .. })
}

fn on(file: &str) -> String {
    file.to_owned()
}

async fn lock_exclusive(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    for node in nodes.all() {
        nodes.must(node, Op::Open { file: on("l"), name: on("lock"), create: true, exclusive: false }).await?;
    }
    for (holder, other) in nodes.pairs() {
        let held = nodes.look(holder, Op::TryLock { file: on("l") }).await?;
        tally.check(granted(&held), || format!("{} asked for a free lock: {}", nodes.name(holder), words(&held)));
        for _ in 0..nodes.plan.rounds {
            let second = nodes.look(other, Op::TryLock { file: on("l") }).await?;
            let refused = matches!(second, Outcome::Lock { granted: false, .. });
            let seen =
                || format!("while {} held it, {} got: {}", nodes.name(holder), nodes.name(other), words(&second));
            tally.check(refused, seen);
            if granted(&second) {
                nodes.must(other, Op::Unlock { file: on("l") }).await?;
            }
        }
        nodes.look(holder, Op::Unlock { file: on("l") }).await?;
    }
    Ok(tally)
}

async fn lock_handover(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    let within = nodes.plan.deadline / 2;
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let mut slowest = Duration::ZERO;
    for (holder, heir) in nodes.pairs() {
        for by_close in [false, true] {
            // Opened anew each time: a wait that was given up leaves its lock with its file.
            for node in [holder, heir] {
                nodes
                    .must(node, Op::Open { file: on("h"), name: on("handover"), create: true, exclusive: false })
                    .await?;
            }
            let held = nodes.look(holder, Op::TryLock { file: on("h") }).await?;
            let let_go = async {
                // The heir waits by then, on any machine that is not overloaded; if not the test is only weaker.
                tokio::time::sleep(Duration::from_millis(30)).await;
                let op = if by_close { Op::Close { file: on("h") } } else { Op::Unlock { file: on("h") } };
                let at = tokio::time::Instant::now();
                nodes.look(holder, op).await.map(|_| at)
            };
            let wait = async {
                let got = nodes.look(heir, Op::WaitLock { file: on("h"), within_ms }).await;
                got.map(|outcome| (outcome, tokio::time::Instant::now()))
            };
            let (at, got) = both(let_go, wait).await;
            let (at, (outcome, then)) = (at?, got?);
            let how = if by_close { "closed" } else { "unlocked" };
            tally.check(granted(&held) && granted(&outcome), || {
                format!("{} {how} it, {} waited {within:?}: {}", nodes.name(holder), nodes.name(heir), words(&outcome))
            });
            slowest = slowest.max(then.saturating_duration_since(at));
            for node in [holder, heir] {
                nodes.must(node, Op::Close { file: on("h") }).await?;
            }
        }
    }
    tally.notes.push(format!("slowest {} ms", slowest.as_millis()));
    Ok(tally)
}

async fn write_seen(nodes: &Nodes<'_>, stays_open: bool) -> Tested {
    let mut tally = Tally::default();
    let mut wrong = [0u32; 2];
    let mut tried = [0u32; 2];
    for (writer, reader) in nodes.pairs() {
        let name = format!("write-{stays_open}-{writer}-{reader}");
        nodes.make(writer, &name, "round 000").await?;
        nodes.must(writer, Op::Open { file: on("w"), name: name.clone(), create: false, exclusive: false }).await?;
        if stays_open {
            nodes.look(reader, Op::Open { file: on("r"), name: name.clone(), create: false, exclusive: false }).await?;
        }
        let read = async || match stays_open {
            true => nodes.look(reader, Op::Read { file: on("r"), at: 0, len: 100 }).await,
            false => nodes.read_anew(reader, &name).await,
        };
        read().await?;
        for round in 1..=2 * nodes.plan.rounds {
            let (text, sync) = (format!("round {round:03}"), round % 2 == 0);
            nodes.must(writer, Op::Write { file: on("w"), at: 0, text: text.clone(), sync }).await?;
            let seen = read().await?;
            let right = seen == Outcome::Text(text.clone());
            tried[usize::from(sync)] += 1;
            wrong[usize::from(sync)] += u32::from(!right);
            tally.check(right, || {
                let how = if sync { "wrote and synced" } else { "wrote" };
                format!("{} {how} {text:?}, {} read {}", nodes.name(writer), nodes.name(reader), words(&seen))
            });
        }
        nodes.must(writer, Op::Close { file: on("w") }).await?;
        nodes.must(reader, Op::Close { file: on("r") }).await?;
    }
    if stays_open {
        read_ahead_seen(nodes, &mut tally).await?;
    }
    if tally.wrong > 0 {
        let [plain, synced] = [0, 1].map(|i| format!("{} of {}", wrong[i], tried[i]));
        tally.notes.push(format!("{plain} plain and {synced} synced writes not seen"));
    }
    Ok(tally)
}

/// The same for a larger file that is being read from the start: data that was read ahead of time is a cache too.
async fn read_ahead_seen(nodes: &Nodes<'_>, tally: &mut Tally) -> Result<(), PeerError> {
    const BLOCK: u64 = 64 * 1024;
    for (writer, reader) in nodes.pairs() {
        let name = format!("ahead-{writer}-{reader}");
        nodes.make(writer, &name, "").await?;
        nodes.must(writer, Op::Open { file: on("w"), name: name.clone(), create: false, exclusive: false }).await?;
        for block in 0..8 {
            let text = "x".repeat(BLOCK as usize);
            nodes.must(writer, Op::Write { file: on("w"), at: block * BLOCK, text, sync: block == 7 }).await?;
        }
        nodes.look(reader, Op::Open { file: on("r"), name, create: false, exclusive: false }).await?;
        for round in 0..nodes.plan.rounds {
            for block in 0..3 {
                nodes.look(reader, Op::Read { file: on("r"), at: block * BLOCK, len: BLOCK as u32 }).await?;
            }
            let text = format!("ahead {round:03}");
            nodes.must(writer, Op::Write { file: on("w"), at: 3 * BLOCK, text: text.clone(), sync: false }).await?;
            let seen = nodes.look(reader, Op::Read { file: on("r"), at: 3 * BLOCK, len: 9 }).await?;
            tally.check(seen == Outcome::Text(text.clone()), || {
                let (writer, reader) = (nodes.name(writer), nodes.name(reader));
                format!("{writer} wrote {text:?} where {reader} was about to read, which got {}", words(&seen))
            });
        }
        nodes.must(writer, Op::Close { file: on("w") }).await?;
        nodes.must(reader, Op::Close { file: on("r") }).await?;
    }
    Ok(())
}

/// A filesystem may serve a file differently as long as the open that made it lasts, and after it to whoever opened
/// the file meanwhile: GlusterFS gives such opens the kernel's cache where all others go past it.
async fn write_seen_where_made(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    // An open that is served differently is so every time: half the rounds show it.
    let rounds = nodes.plan.rounds.div_ceil(2);
    let mut wrong = [0u32; 2];
    let mut tried = [0u32; 2];
    for (maker, writer) in nodes.pairs() {
        let name = format!("where-made-{maker}-{writer}");
        let open = |file| Op::Open { file: on(file), name: name.clone(), create: false, exclusive: false };
        nodes.must(maker, Op::Open { file: on("made"), name: name.clone(), create: true, exclusive: true }).await?;
        nodes.must(maker, open("second")).await?;
        nodes.must(writer, open("w")).await?;
        // Only the writer writes: GlusterFS would keep it waiting for a second after a write of the other's.
        nodes.must(writer, Op::Write { file: on("w"), at: 0, text: on("round 000"), sync: false }).await?;
        let mut readers = vec!["second"];
        for (closed, rounds) in [(false, 1..=rounds), (true, rounds + 1..=2 * rounds)] {
            if closed {
                nodes.must(maker, Op::Close { file: on("made") }).await?;
                nodes.must(maker, open("third")).await?;
                readers.push("third");
            }
            for reader in &readers {
                nodes.look(maker, Op::Read { file: on(reader), at: 0, len: 100 }).await?;
            }
            for round in rounds {
                let text = format!("round {round:03}");
                nodes.must(writer, Op::Write { file: on("w"), at: 0, text: text.clone(), sync: false }).await?;
                for reader in &readers {
                    let seen = nodes.look(maker, Op::Read { file: on(reader), at: 0, len: 100 }).await?;
                    let right = seen == Outcome::Text(text.clone());
                    tried[usize::from(closed)] += 1;
                    wrong[usize::from(closed)] += u32::from(!right);
                    tally.check(right, || {
                        let (maker, writer) = (nodes.name(maker), nodes.name(writer));
                        format!("{maker} had made the file, {writer} wrote {text:?}, {maker} read {}", words(&seen))
                    });
                }
            }
        }
        nodes.must(writer, Op::Close { file: on("w") }).await?;
        for reader in readers {
            nodes.must(maker, Op::Close { file: on(reader) }).await?;
        }
    }
    if tally.wrong > 0 {
        let [open, closed] = [0, 1].map(|i| format!("{} of {}", wrong[i], tried[i]));
        tally.notes.push(format!("{open} while the open that made it lasted, {closed} afterwards"));
    }
    Ok(tally)
}

async fn create_seen(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    for (maker, other) in nodes.pairs() {
        for round in 0..nodes.plan.rounds {
            let name = format!("create-{maker}-{other}-{round}");
            let who = || format!("{} made a file, {}", nodes.name(maker), nodes.name(other));
            nodes.look(other, Op::Stat { name: name.clone() }).await?;
            nodes.look(other, Op::List).await?;
            nodes.make(maker, &name, "new").await?;
            let seen = nodes.look(other, Op::Stat { name: name.clone() }).await?;
            tally.check(matches!(seen, Outcome::Attributes(_)), || format!("{} got: {}", who(), words(&seen)));
            let listed = nodes.look(other, Op::List).await?;
            let has = matches!(&listed, Outcome::Names(names) if names.contains(&name));
            tally.check(has, || format!("{} does not list it", who()));
            let again = Op::Open { file: on("again"), name: name.clone(), create: true, exclusive: true };
            let second = nodes.look(other, again).await?;
            let refused = matches!(second, Outcome::Errno { code: libc::EEXIST, .. });
            tally.check(refused, || format!("{} made it once more: {}", who(), words(&second)));
            nodes.must(other, Op::Close { file: on("again") }).await?;
        }
    }
    for round in 0..nodes.plan.rounds {
        let race = Op::Open { file: on("race"), name: format!("race-{round}"), create: true, exclusive: true };
        let outcomes = nodes.everywhere(&race, nodes.plan.deadline).await?;
        let made = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        tally.check(made == 1, || format!("{made} nodes made one and the same file"));
        nodes.everywhere(&Op::Close { file: on("race") }, nodes.plan.deadline).await?;
    }
    Ok(tally)
}

async fn rename_seen(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    for (mover, other) in nodes.pairs() {
        let (from, to) = (format!("from-{mover}-{other}"), format!("to-{mover}-{other}"));
        nodes.make(mover, &to, "old content").await?;
        for round in 0..nodes.plan.rounds {
            let text = format!("content {round}");
            let who = || format!("{} renamed a file over another, {}", nodes.name(mover), nodes.name(other));
            nodes.make(mover, &from, &text).await?;
            nodes.read_anew(other, &to).await?;
            nodes.look(other, Op::Stat { name: from.clone() }).await?;
            nodes.look(other, Op::List).await?;
            nodes.must(mover, Op::Rename { from: from.clone(), to: to.clone() }).await?;
            let new = nodes.read_anew(other, &to).await?;
            tally.check(new == Outcome::Text(text.clone()), || {
                format!("{} read {} under the new name instead of {text:?}", who(), words(&new))
            });
            let old = nodes.look(other, Op::Stat { name: from.clone() }).await?;
            tally.check(is_missing(&old), || format!("{} still saw the old name: {}", who(), words(&old)));
            let listed = nodes.look(other, Op::List).await?;
            let right = matches!(&listed, Outcome::Names(names) if names.contains(&to) && !names.contains(&from));
            tally.check(right, || format!("{} lists what was before", who()));
        }
    }
    Ok(tally)
}

async fn delete_seen(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    for (remover, other) in nodes.pairs() {
        for round in 0..nodes.plan.rounds {
            let name = format!("delete-{remover}-{other}-{round}");
            let who = || format!("{} deleted a file, {}", nodes.name(remover), nodes.name(other));
            nodes.make(remover, &name, "short life").await?;
            nodes.read_anew(other, &name).await?;
            nodes.look(other, Op::Stat { name: name.clone() }).await?;
            nodes.look(other, Op::List).await?;
            nodes.must(remover, Op::Unlink { name: name.clone() }).await?;
            let seen = nodes.look(other, Op::Stat { name: name.clone() }).await?;
            tally.check(is_missing(&seen), || format!("{} still saw it: {}", who(), words(&seen)));
            let opened = nodes.read_anew(other, &name).await?;
            tally.check(is_missing(&opened), || format!("{} could still open it: {}", who(), words(&opened)));
            let listed = nodes.look(other, Op::List).await?;
            let gone = matches!(&listed, Outcome::Names(names) if !names.contains(&name));
            tally.check(gone, || format!("{} still lists it", who()));
        }
    }
    Ok(tally)
}

async fn open_survives_delete(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    for (remover, other) in nodes.pairs() {
        for touched in [false, true] {
            let name = format!("kept-{remover}-{other}-{touched}");
            nodes.make(remover, &name, "still here").await?;
            nodes
                .must(other, Op::Open { file: on("kept"), name: name.clone(), create: false, exclusive: false })
                .await?;
            if touched {
                nodes.look(other, Op::Read { file: on("kept"), at: 0, len: 100 }).await?;
            }
            nodes.must(remover, Op::Unlink { name }).await?;
            let read = nodes.look(other, Op::Read { file: on("kept"), at: 0, len: 100 }).await?;
            tally.check(read == Outcome::Text(on("still here")), || {
                format!(
                    "{} deleted a file, {} had it open and read: {}",
                    nodes.name(remover),
                    nodes.name(other),
                    words(&read)
                )
            });
            nodes.must(other, Op::Close { file: on("kept") }).await?;
        }
    }
    Ok(tally)
}

async fn attributes_seen(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    let (mut by_name, mut by_file) = (0, 0);
    for (changer, other) in nodes.pairs() {
        let name = format!("attributes-{changer}-{other}");
        nodes.make(changer, &name, "x").await?;
        for node in [changer, other] {
            let open = Op::Open { file: on("a"), name: name.clone(), create: false, exclusive: false };
            nodes.must(node, open).await?;
        }
        // By the open file as well: that does not look the name up, and so has caches of its own.
        let looks = [Op::StatOpen { file: on("a") }, Op::Stat { name: name.clone() }];
        for look in &looks {
            nodes.look(other, look.clone()).await?;
        }
        for round in 0..nodes.plan.rounds {
            for (what, op, right) in changes(&name, round) {
                nodes.must(changer, op).await?;
                for (look, wrong) in looks.iter().zip([&mut by_file, &mut by_name]) {
                    let seen = nodes.look(other, look.clone()).await?;
                    let right = matches!(&seen, Outcome::Attributes(attributes) if right(attributes));
                    *wrong += u32::from(!right);
                    tally.check(right, || {
                        format!("{} {what} a file, {} saw {}", nodes.name(changer), nodes.name(other), words(&seen))
                    });
                }
            }
        }
        for node in [changer, other] {
            nodes.must(node, Op::Close { file: on("a") }).await?;
        }
    }
    if tally.wrong > 0 {
        tally.notes.push(format!("{by_name} by name, {by_file} by a file that was open"));
    }
    Ok(tally)
}

type Judge = Box<dyn Fn(&Attributes) -> bool + Send + Sync>;

/// What is changed in a file, and how to tell that it is seen.
fn changes(name: &str, round: u32) -> [(&'static str, Op, Judge); 4] {
    let (at, mode, mtime) = (u64::from(round) * 10 + 1, 0o600 + (round % 8), 1_000_000_000 + i64::from(round));
    [
        (
            "lengthened",
            Op::Write { file: on("a"), at, text: on("123456789"), sync: false },
            Box::new(move |a| a.size == at + 9),
        ),
        ("shortened", Op::Truncate { file: on("a"), size: at }, Box::new(move |a| a.size == at)),
        ("changed the mode of", Op::Chmod { name: name.to_owned(), mode }, Box::new(move |a| a.mode == mode)),
        ("set the time of", Op::SetTime { name: name.to_owned(), mtime }, Box::new(move |a| a.mtime == mtime)),
    ]
}

async fn counter_exact(nodes: &Nodes<'_>) -> Tested {
    let mut tally = Tally::default();
    let (times, within) = (nodes.plan.increments, nodes.plan.count_deadline);
    if nodes.all().len() < 2 {
        return Ok(tally);
    }
    for node in nodes.all() {
        nodes.must(node, Op::Open { file: on("c"), name: on("counter"), create: true, exclusive: false }).await?;
    }
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let count = Op::Count { file: on("c"), times, within_ms };
    let started = tokio::time::Instant::now();
    let outcomes = nodes.everywhere(&count, within + nodes.plan.deadline).await?;
    let took = started.elapsed();
    let mut made = 0;
    for (node, outcome) in nodes.all().zip(&outcomes) {
        match outcome {
            Outcome::Counted { times, .. } => made += times,
            other => tally.check(false, || format!("{}: {}", nodes.name(node), words(other))),
        }
    }
    for node in nodes.all() {
        let read = nodes.read_anew(node, "counter").await?;
        let value = match &read {
            Outcome::Text(text) => text.trim().parse::<u32>().ok(),
            _ => None,
        };
        tally.check(value == Some(made), || {
            format!("{} reads {} after {made} increments", nodes.name(node), words(&read))
        });
    }
    let rate = f64::from(made) / took.as_secs_f64().max(1e-6);
    tally.notes.push(format!("{made} increments by {} nodes, {rate:.0}/s", nodes.all().len()));
    let wanted = times.saturating_mul(u32::try_from(nodes.all().len()).unwrap_or(u32::MAX));
    if made < wanted {
        tally.notes.push(format!("no more were made within {within:?}"));
    }
    if made == 0 {
        tally.check(false, || format!("not one increment within {within:?}"));
    }
    if rate < SLOW_RATE {
        let slow = coherence::EAGER_LOCK;
        let command = slow.command(&nodes.plan.volume);
        let why = "a node waits a second to write to a file that another node has just written to";
        tally.notes.push(format!("slow: {why}; `{command}` mends that"));
    }
    Ok(tally)
}
