//! The server on real sockets: on loopback, and with dig in a network namespace of its own.

mod common;

use common::{conf, ip, snapshot};
use dns::{Server, ServerConfig, ZoneView, follow};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

/// A question for `name`, type A, as bytes.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

fn views() -> watch::Receiver<Arc<ZoneView>> {
    watch::channel(Arc::new(common::view())).1
}

fn config(sockets: Vec<SocketAddr>) -> ServerConfig {
    ServerConfig { sockets, rate_limit: 0, rate_limit_exempt: Vec::new() }
}

/// A port that is free for UDP and TCP on these loopback addresses.
async fn free_port(addresses: &[IpAddr]) -> u16 {
    for _ in 0..100 {
        let probe = UdpSocket::bind((addresses[0], 0)).await.expect("bound");
        let port = probe.local_addr().expect("an address").port();
        let mut held = Vec::new();
        for address in addresses {
            held.push(tokio::net::TcpListener::bind((*address, port)).await);
        }
        if held.iter().all(Result::is_ok) {
            return port;
        }
    }
    panic!("no free port");
}

async fn ask_udp(client: &UdpSocket, bytes: &[u8]) -> Option<Vec<u8>> {
    client.send(bytes).await.expect("sent");
    let mut buffer = [0; 2048];
    let length = timeout(Duration::from_secs(5), client.recv(&mut buffer)).await.ok()?.expect("received");
    Some(buffer[..length].to_vec())
}

async fn client_of(server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    client.connect(server).await.expect("connected");
    client
}

#[tokio::test]
async fn answers_come_from_the_address_that_was_asked() {
    let addresses = [ip("127.0.0.1"), ip("127.0.77.2"), ip("127.0.77.3")];
    let port = free_port(&addresses).await;
    let sockets: Vec<SocketAddr> = addresses.iter().map(|a| SocketAddr::new(*a, port)).collect();
    let server = Server::start(&config(sockets.clone()), views());
    assert_eq!(server.problems(), Vec::<String>::new());
    for address in sockets {
        // a connected socket hears nobody but the address that it asked
        let answer = ask_udp(&client_of(address).await, &question("glusternfs")).await.expect("an answer");
        assert_eq!((&answer[..2], answer[3] & 0x0f, answer[7]), (&[0x12, 0x34][..], 0, 4));
    }
    server.stop().await;
}

#[tokio::test]
async fn garbage_over_udp_and_tcp_does_not_disturb_others() {
    let port = free_port(&[ip("127.0.0.1")]).await;
    let address = SocketAddr::new(ip("127.0.0.1"), port);
    let server = Server::start(&config(vec![address]), views());
    let client = client_of(address).await;
    for garbage in [&b""[..], b"x", &[0; 11], &[0xff; 600], &[0; 4000], b"GET / HTTP/1.1\r\n\r\n"] {
        client.send(garbage).await.expect("sent");
    }
    // connections that say nothing, lie about their length, break off
    let mut idle = Vec::new();
    for bytes in [&b""[..], b"\xff\xff", b"\x00\x05ab", b"\x00\x00", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        idle.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.expect("connected");
    for name in ["glusternfs", "glustercifs.storage.example"] {
        let bytes = question(name);
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        // in pieces
        stream.write_all(&length[..1]).await.expect("sent");
        stream.write_all(&length[1..]).await.expect("sent");
        stream.write_all(&bytes).await.expect("sent");
        let length = timeout(Duration::from_secs(5), stream.read_u16()).await.expect("in time").expect("a length");
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!((answer[3] & 0x0f, answer[7]), (0, 4), "{name}");
    }
    // what came back to the garbage is read away
    let mut buffer = [0; 2048];
    while let Ok(Ok(_)) = timeout(Duration::from_millis(100), client.recv(&mut buffer)).await {}
    let answer = ask_udp(&client, &question("glusternfs")).await.expect("still answering");
    assert_eq!(answer[7], 4);
    server.stop().await;
}

#[tokio::test]
async fn one_client_cannot_have_all_connections() {
    let port = free_port(&[ip("127.0.0.1")]).await;
    let address = SocketAddr::new(ip("127.0.0.1"), port);
    let server = Server::start(&config(vec![address]), views());
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(TcpStream::connect(address).await.expect("connected"));
    }
    let mut refused = 0;
    for stream in &mut streams {
        // a connection that was turned away ends at once, the others wait
        let mut byte = [0];
        if let Ok(ended) = timeout(Duration::from_millis(100), stream.read(&mut byte)).await {
            assert!(matches!(ended, Ok(0) | Err(_)));
            refused += 1;
        }
    }
    assert_eq!(refused, 40 - 16);
    // another client (address) is served
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(ip("127.0.77.9"), 0)).expect("bound");
    let mut stream = socket.connect(address).await.expect("connected");
    let bytes = question("glusternfs");
    stream.write_u16(u16::try_from(bytes.len()).expect("short")).await.expect("sent");
    stream.write_all(&bytes).await.expect("sent");
    assert!(timeout(Duration::from_secs(5), stream.read_u16()).await.expect("in time").is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_and_taken_over_when_it_is_free() {
    let port = free_port(&[ip("127.0.0.1")]).await;
    let address = SocketAddr::new(ip("127.0.0.1"), port);
    let other = UdpSocket::bind(address).await.expect("bound");
    let server = Server::start(&config(vec![address]), views());
    let problems = server.problems();
    assert!(problems.len() == 1 && problems[0].contains("another program has the port"), "{problems:?}");
    drop(other);
    timeout(Duration::from_secs(20), async {
        while !server.problems().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("opened again");
    assert!(ask_udp(&client_of(address).await, &question("glusternfs")).await.is_some());
    server.stop().await;
    // all of it is closed: it can be opened anew
    let server = Server::start(&config(vec![address]), views());
    assert_eq!(server.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn the_zone_follows_the_snapshots() {
    let (snapshots, receiver) = watch::channel(None);
    let mut views = follow(conf(), receiver);
    assert!(!views.borrow_and_update().serving);
    let mut now = snapshot();
    snapshots.send_replace(Some(Arc::new(now.clone())));
    let serving = |wanted: bool| move |view: &Arc<ZoneView>| view.serving == wanted;
    let wait = Duration::from_secs(10);
    timeout(wait, views.wait_for(serving(true))).await.expect("in time").expect("there");
    now.lease.valid = false;
    snapshots.send_replace(Some(Arc::new(now.clone())));
    timeout(wait, views.wait_for(serving(false))).await.expect("in time").expect("there");
    now.lease.valid = true;
    snapshots.send_replace(Some(Arc::new(now)));
    timeout(wait, views.wait_for(serving(true))).await.expect("in time").expect("there");
    drop(snapshots);
    timeout(wait, views.wait_for(serving(false))).await.expect("in time").expect("the core is gone");
}

/// A network namespace that goes away with the test.
struct Namespace(String);

impl Namespace {
    fn new() -> Result<Self, String> {
        let name = format!("sfdns-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        match made {
            Ok(status) if status.success() => Ok(Self(name)),
            Ok(status) => Err(format!("`ip netns add` needs root: {status}")),
            Err(error) => Err(format!("no `ip`: {error}")),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn dig_gets_what_it_asks_for() {
    if let Err(error) = Command::new("dig").arg("-v").stderr(Stdio::null()).status() {
        println!("skipped: no dig: {error}");
        return;
    }
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let test = std::env::current_exe().expect("this program");
    let status = Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(test)
        .args(["--exact", "inside_the_namespace", "--ignored", "--nocapture"])
        .status()
        .expect("run");
    assert!(status.success());
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("run");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn dig(arguments: &'static str) -> String {
    let words: Vec<&str> = "+tries=1 +timeout=5".split(' ').chain(arguments.split(' ')).collect();
    tokio::task::spawn_blocking(move || run("dig", &words)).await.expect("run")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs in a namespace that dig_gets_what_it_asks_for makes"]
async fn inside_the_namespace() {
    run("ip", &["link", "set", "lo", "up"]);
    let sockets = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|a| SocketAddr::new(ip(a), 53)).to_vec();
    // the addresses are not there yet: freebind
    let limited = ServerConfig { rate_limit: 20, rate_limit_exempt: vec![(ip("2001:db8::"), 32)], ..config(sockets) };
    let server = Server::start(&limited, views());
    assert_eq!(server.problems(), Vec::<String>::new());
    for address in ["192.0.2.1/32", "192.0.2.2/32"] {
        run("ip", &["addr", "add", address, "dev", "lo"]);
    }
    run("ip", &["addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"]);
    for (arguments, wanted) in [
        (
            "@192.0.2.1 glusternfs.storage.example",
            &["status: NOERROR", "flags: qr aa rd;", "ANSWER: 4", "1\tIN\tA\t10.0.0.3", "udp: 1232"][..],
        ),
        ("@192.0.2.2 GlusterCIFS.storage.example", &["GlusterCIFS.storage.example. 1\tIN\tA", "SERVER: 192.0.2.2#53"]),
        ("@192.0.2.1 glusternfs +tcp +noedns", &["ANSWER: 4", "(TCP)"]),
        ("@192.0.2.1 -t AAAA glusternfs", &["AAAA\tfd00::1"]),
        (
            "@192.0.2.1 -t MX glusternfs.storage.example",
            &["NOERROR", "ANSWER: 0", "SOA\tns1.storage.example. hostmaster.storage.example. 458752"],
        ),
        ("@192.0.2.1 nosuch.storage.example", &["NXDOMAIN", "SOA"]),
        ("@192.0.2.1 -t NS storage.example", &["ANSWER: 2", "ns1.storage.example.\t300\tIN\tA\t10.0.0.1"]),
        ("@192.0.2.1 -t AXFR storage.example", &["Transfer failed"]),
        ("@192.0.2.1 -t ANY storage.example", &["ANSWER: 4"]),
        ("@192.0.2.1 www.example.com", &["REFUSED"]),
        ("@192.0.2.1 +edns=1 +noednsnegotiation glusternfs", &["BADVERS"]),
    ] {
        let shown = dig(arguments).await;
        for part in wanted {
            assert!(shown.contains(part), "dig {arguments}: {part:?} is missing in\n{shown}");
        }
    }
    // an address that comes and goes
    run("ip", &["addr", "del", "192.0.2.2/32", "dev", "lo"]);
    run("ip", &["addr", "add", "192.0.2.2/32", "dev", "lo"]);
    assert!(dig("@192.0.2.2 glusternfs").await.contains("ANSWER: 4"));
    // more than the rate: truncated, and dig comes back over TCP
    let client = UdpSocket::bind("192.0.2.2:0").await.expect("bound");
    client.connect("192.0.2.1:53").await.expect("connected");
    let mut truncated = 0;
    for _ in 0..100 {
        let answer = ask_udp(&client, &question("glusternfs")).await.expect("an answer");
        truncated += usize::from(answer[2] & 2 != 0);
    }
    assert!(truncated >= 50, "{truncated}");
    println!("100 questions at once, 20 per second allowed: {truncated} truncated");
    server.stop().await;
}
