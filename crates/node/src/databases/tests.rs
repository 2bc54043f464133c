//! The thread with a scripted core, and real clients.

mod links;

use super::*;
use crate::sync::locked;
use ctdb::server::{ClientId, Level};
use ctdb::wire::HEADER_LEN;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(20);

/// What the thread has heard and said.
#[derive(Debug, Default)]
struct Seen {
    gone: Vec<ClientId>,
    pids: BTreeMap<u32, i32>,
    links: Vec<(u32, bool)>,
    wakes: u32,
    /// From peers.
    heard: Vec<(u32, Vec<u8>)>,
    wishes: Vec<Wish>,
    recovered: Vec<u64>,
    warning: String,
    /// Clients' ends that [`Outside::told`] reads from.
    listeners: Vec<UnixStream>,
    /// What was told, and how many bytes each of the listeners had then.
    told: Vec<(Vec<IpAddr>, Vec<usize>)>,
}

type Shared = Arc<Mutex<Seen>>;

/// Does what a packet says after its header; without a word that it knows it sends the packet back.
struct Scripted {
    seen: Shared,
    asker: Option<ClientId>,
    wake: Option<Duration>,
}

impl Core for Scripted {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        let mut seen = locked(&self.seen);
        match input {
            Input::Connected { client, pid } => {
                assert!(client.0 != 0 && seen.pids.insert(client.0, pid).is_none(), "{client:?} twice");
            }
            Input::Disconnected { client } => seen.gone.push(client),
            Input::Packet { client, packet: bytes } => {
                let text = String::from_utf8_lossy(&bytes[HEADER_LEN..]).into_owned();
                let mut words = text.split(' ');
                match words.next().unwrap_or_default() {
                    "flood" => {
                        let (count, len) = (words.next().unwrap(), words.next().unwrap());
                        let packet = packet(&vec![b'x'; len.parse().unwrap()]);
                        for _ in 0..count.parse::<usize>().unwrap() {
                            out.push(Output::Client { client, packet: packet.clone() });
                        }
                    }
                    "drown" => {
                        for _ in 0..80 {
                            out.push(Output::Peer { to: 7, bytes: vec![b'x'; 1 << 20] });
                        }
                        out.push(Output::Client { client, packet: bytes });
                    }
                    "now" => {
                        self.asker = Some(client);
                        out.push(Output::File { db: 1, order: FileOrder::LookSequence });
                    }
                    "later" => {
                        self.asker = Some(client);
                        out.push(Output::File { db: 2, order: FileOrder::Bump });
                    }
                    "wake" => {
                        self.asker = Some(client);
                        self.wake = Some(now.mono + Duration::from_millis(30));
                    }
                    "end" => {
                        out.push(Output::Client { client, packet: bytes });
                        out.push(Output::Close { client });
                        out.push(Output::Client { client, packet: packet(b"too late") });
                    }
                    "peer" => {
                        for word in words {
                            out.push(Output::Peer { to: 7, bytes: word.as_bytes().to_vec() });
                        }
                        out.push(Output::Admin(Wish::Reload));
                        out.push(Output::Recovered { epoch: 17 });
                        out.push(Output::Log { level: Level::Debug, text: "hello".into() });
                        out.push(Output::Client { client, packet: bytes });
                    }
                    _ => out.push(Output::Client { client, packet: bytes }),
                }
            }
            Input::File { db, answer: FileAnswer::Sequence(number) } => {
                let client = self.asker.take().unwrap();
                let packet = packet(format!("{db} {number}").as_bytes());
                out.push(Output::Client { client, packet });
            }
            Input::Peer { from, bytes } => seen.heard.push((from, bytes)),
            Input::Link { peer, up } => {
                seen.links.push((peer, up));
                out.push(Output::Peer { to: peer, bytes: b"hello".to_vec() });
            }
            Input::Leaves(address) => {
                for client in seen.pids.keys() {
                    out.push(Output::Client {
                        client: ClientId(*client),
                        packet: packet(address.to_string().as_bytes()),
                    });
                }
            }
            Input::Wake => {
                seen.wakes += 1;
                self.wake = None;
                if let Some(client) = self.asker.take() {
                    out.push(Output::Client { client, packet: packet(b"awake") });
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        self.wake
    }
}

/// One order is answered at once, the other by another thread.
struct Answers(Post);

impl Files for Answers {
    fn order(&mut self, db: u32, order: FileOrder, now: &mut Vec<(u32, FileAnswer)>) {
        if order == FileOrder::LookSequence {
            return now.push((db, FileAnswer::Sequence(11)));
        }
        let post = self.0.clone();
        std::thread::spawn(move || post.put(Item::Input(Input::File { db, answer: FileAnswer::Sequence(12) })));
    }
}

struct Noted(Shared);

impl Outside for Noted {
    fn wish(&self, wish: Wish) {
        locked(&self.0).wishes.push(wish);
    }
    fn told(&self, addresses: Vec<IpAddr>) {
        let mut seen = locked(&self.0);
        let readable = seen.listeners.iter().map(|stream| {
            stream.set_nonblocking(true).unwrap();
            (&*stream).read(&mut [0; 256]).unwrap_or(0)
        });
        let readable = readable.collect();
        seen.told.push((addresses, readable));
    }
    fn recovered(&self, view: u64) {
        locked(&self.0).recovered.push(view);
    }
    fn connection(&self, _: Connection, _: bool) {}
    fn warn(&self, text: String) {
        locked(&self.0).warning = text;
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    path: PathBuf,
    post: Post,
    seen: Shared,
    databases: Option<Databases>,
}

fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ctdb/ctdbd.socket");
    start_at(dir, path)
}

/// In place of the kernel's.
fn latency(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("latency")
}

fn start_at(dir: tempfile::TempDir, path: PathBuf) -> Fixture {
    std::fs::write(latency(&dir), "").unwrap();
    let (post, seen) = (Post::new().unwrap(), Shared::default());
    let (core, files) = (Scripted { seen: Arc::clone(&seen), asker: None, wake: None }, Answers(post.clone()));
    let outside = Noted(Arc::clone(&seen));
    let databases = Databases::start(
        post.clone(),
        Served { socket: path.clone(), keep_awake: Some(latency(&dir)) },
        || Ok((core, files)),
        outside,
    )
    .unwrap();
    Fixture { dir, path, post, seen, databases: Some(databases) }
}

impl Fixture {
    fn connect(&self) -> UnixStream {
        let mut stream = None;
        until("the socket", || {
            stream = UnixStream::connect(&self.path).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    fn stop(&mut self) {
        if let Some(databases) = self.databases.take() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(databases.stop());
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop();
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + payload.len()).unwrap();
    let mut bytes = vec![0; HEADER_LEN];
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload of the next packet.
#[track_caller]
fn receive(stream: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).unwrap();
    let len = u32::from_ne_bytes(*header.first_chunk().unwrap()) as usize;
    let mut payload = vec![0; len - HEADER_LEN];
    stream.read_exact(&mut payload).unwrap();
    payload
}

#[track_caller]
fn ask(stream: &mut UnixStream, payload: &[u8]) -> Vec<u8> {
    stream.write_all(&packet(payload)).unwrap();
    receive(stream)
}

#[track_caller]
fn expect_end(stream: &mut UnixStream) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("still open: {other:?}"),
    }
}

#[test]
fn packets_are_answered_however_they_come_in() {
    let server = start();
    let mut client = server.connect();
    let mode = std::fs::metadata(&server.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(ask(&mut client, b"hello"), b"hello");

    let stream: Vec<u8> = [packet(b"one"), packet(&[b'2'; 300_000]), packet(b""), packet(b"four")].concat();
    let mut writer = client.try_clone().unwrap();
    let all = stream.clone();
    let writing = std::thread::spawn(move || {
        // The first one byte by byte.
        all[..40].chunks(1).chain(all[40..].chunks(50_000)).for_each(|part| writer.write_all(part).unwrap());
    });
    for payload in [&b"one"[..], &[b'2'; 300_000], b"", b"four"] {
        assert!(receive(&mut client) == payload, "{} bytes", payload.len());
    }
    writing.join().unwrap();

    assert_eq!(ask(&mut client, b"now"), b"1 11");
    assert_eq!(ask(&mut client, b"later"), b"2 12");
    assert_eq!(ask(&mut client, b"wake"), b"awake");
    let seen = locked(&server.seen);
    assert_eq!(seen.wakes, 1);
    let me = i32::try_from(std::process::id()).unwrap();
    assert!(seen.pids.values().all(|pid| *pid == me), "{seen:?}");
}

#[test]
fn clients_have_in_hand_that_an_address_leaves_before_anybody_hears_that_they_were_told() {
    let mut server = start();
    let mut clients: Vec<UnixStream> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, b"hello"), b"hello");
    }
    // One that has not read for long keeps nobody.
    let mut slow = clients.pop().unwrap();
    slow.write_all(&packet(b"flood 3000 20000")).unwrap();
    locked(&server.seen).listeners = clients;
    let address: IpAddr = "192.168.1.9".parse().unwrap();
    assert!(server.post.put(Item::Releasing(vec![address])));
    until("told", || !locked(&server.seen).told.is_empty());
    let told = locked(&server.seen).told.clone();
    let all = packet(address.to_string().as_bytes()).len();
    assert_eq!(told, [(vec![address], vec![all; 19])]);
    server.stop();
    assert!(!server.post.put(Item::Releasing(vec![address])), "nobody tells, and it is known");
}

#[test]
fn who_lies_about_a_length_is_closed_and_nobody_else() {
    let server = start();
    let (mut good, mut half) = (server.connect(), server.connect());
    half.write_all(&packet(b"half")[..35]).unwrap();
    let before = locked(&server.seen).gone.len();
    for len in [0u32, 3, 300 << 20, u32::MAX] {
        let mut bad = server.connect();
        bad.write_all(&[&packet(b"good")[..], &len.to_ne_bytes()].concat()).unwrap();
        assert_eq!(receive(&mut bad), b"good", "what came before is answered");
        expect_end(&mut bad);
        assert_eq!(ask(&mut good, b"hello"), b"hello");
    }
    half.write_all(&packet(b"half")[35..]).unwrap();
    assert_eq!(receive(&mut half), b"half");
    until("four ends", || locked(&server.seen).gone.len() == before + 4);

    drop(good);
    until("a fifth", || locked(&server.seen).gone.len() == before + 5);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_loses_nothing() {
    let server = start();
    let (mut slow, mut other) = (server.connect(), server.connect());
    let (count, len) = (3000, 20_000);
    slow.write_all(&packet(format!("flood {count} {len}").as_bytes())).unwrap();
    slow.write_all(&packet(b"last")).unwrap();
    let mut longest = Duration::ZERO;
    for round in 0..200 {
        let began = Instant::now();
        assert_eq!(ask(&mut other, b"hello"), b"hello");
        // The first waits for the flood to be made.
        if round > 0 {
            longest = longest.max(began.elapsed());
        }
    }
    println!("longest answer beside a client that does not read: {longest:?}");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    for _ in 0..count {
        assert_eq!(receive(&mut slow).len(), len);
    }
    assert_eq!(receive(&mut slow), b"last");
    assert_eq!(ask(&mut slow, b"hello"), b"hello");
}

#[test]
fn a_client_with_far_too_much_unread_is_closed() {
    let server = start();
    let (mut slow, mut other) = (server.connect(), server.connect());
    let gone = locked(&server.seen).gone.len();
    slow.write_all(&packet(b"flood 50 1000000")).unwrap();
    assert_eq!(ask(&mut other, b"hello"), b"hello");
    assert_eq!(locked(&server.seen).gone.len(), gone);
    slow.write_all(&packet(b"flood 30 1000000")).unwrap();
    until("its end", || locked(&server.seen).gone.len() == gone + 1);
    assert_eq!(ask(&mut other, b"hello"), b"hello");
}

#[test]
fn two_thousand_clients_get_an_answer_each() {
    let server = start();
    let mut clients: Vec<_> = (0..2000).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&packet(format!("{n}").as_bytes())).unwrap();
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(receive(client), format!("{n}").as_bytes());
    }
    let gone = locked(&server.seen).gone.len();
    drop(clients);
    until("2000 ends", || locked(&server.seen).gone.len() >= gone + 2000);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ctdbd.socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left over");
    let mut server = start_at(dir, path);
    let mut client = server.connect();
    assert_eq!(ask(&mut client, b"hello"), b"hello");
    assert!(locked(&server.seen).warning.is_empty());

    let second = start_at(tempfile::tempdir().unwrap(), server.path.clone());
    until("the warning", || locked(&second.seen).warning.contains("stock ctdbd or another steadfast is running"));
    assert_eq!(ask(&mut client, b"hello"), b"hello");
    // As soon as the other has ended it gets it.
    server.stop();
    expect_end(&mut client);
    until("the second has the socket", || locked(&second.seen).warning.is_empty());
    assert_eq!(ask(&mut second.connect(), b"hello"), b"hello");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ctdbd.socket");
    std::fs::write(&path, "mine").unwrap();
    let mut server = start_at(dir, path);
    until("the warning", || locked(&server.seen).warning.contains("not a socket"));
    server.stop();
    assert_eq!(std::fs::read(&server.path).unwrap(), b"mine");
}

#[test]
fn who_is_to_be_closed_reads_what_was_said_before_and_no_more() {
    let server = start();
    let mut client = server.connect();
    let gone = locked(&server.seen).gone.len();
    assert_eq!(ask(&mut client, b"end"), b"end");
    expect_end(&mut client);
    until("its end", || locked(&server.seen).gone.len() == gone + 1);

    // More than the kernel takes at once.
    let mut client = server.connect();
    client.write_all(&packet(b"flood 50 100000")).unwrap();
    client.write_all(&packet(b"end")).unwrap();
    client.write_all(&packet(b"not heard")).unwrap();
    for _ in 0..50 {
        assert_eq!(receive(&mut client).len(), 100_000);
    }
    assert_eq!(receive(&mut client), b"end");
    expect_end(&mut client);
    until("its end", || locked(&server.seen).gone.len() == gone + 2);
}

#[test]
fn at_its_end_clients_are_closed_and_the_socket_is_gone() {
    let mut server = start();
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    assert_eq!(ask(&mut clients[19], b"hello"), b"hello");
    server.stop();
    for client in &mut clients {
        expect_end(client);
    }
    assert!(!server.path.exists());
}

#[test]
fn what_keeps_the_databases_from_being_made_is_told() {
    let (post, seen) = (Post::new().unwrap(), Shared::default());
    let make = || Err::<(Scripted, Answers), _>("the disk is gone".to_owned());
    let databases = Databases::start(
        post.clone(),
        Served { socket: "/nowhere".into(), keep_awake: None },
        make,
        Noted(Arc::clone(&seen)),
    )
    .unwrap();
    until("the warning", || locked(&seen).warning.contains("the disk is gone"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(databases.stop());
    post.put(Item::Stop);
    post.put_part(Item::Stop);
    assert!(post.take(true).0.is_empty(), "nothing is kept for nobody");
}

/// `cargo test --release -p node --lib -- --ignored --nocapture nine_thousand`
#[test]
#[ignore = "a measurement"]
fn nine_thousand_clients_cost_little() {
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let server = start();
    let mut first = server.connect();
    assert_eq!(ask(&mut first, b"hello"), b"hello");
    let before = rss();
    let mut clients: Vec<_> = (0..9_000).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, &[b'x'; 20_000]).len(), 20_000);
    }
    let each = (rss() - before) * 1024 / clients.len();
    let mut times: Vec<_> = (0..10_000)
        .map(|_| {
            let began = Instant::now();
            ask(&mut first, &[b'x'; 100]);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{each} bytes of memory a client; an answer takes {:?} (median), {:?} (99 %)", times[5000], times[9900]);
    assert!(each < 4096, "{each}");
}
