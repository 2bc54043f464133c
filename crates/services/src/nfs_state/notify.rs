//! NSM's word that a server has begun anew (`SM_NOTIFY`; X/Open XNFS, chapter 11), for a lost server's NFSv3 clients.
//!
//! A client's rpc.statd asks for it: it monitors the server under the name or address that was mounted, and finds that by the
//! name in the call or by where the call comes from. Both are the public address here. It passes the word on when
//! the state number is not the last one it heard, and the client's kernel then reclaims its locks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use crate::probe::rpc::{NoResult, Procedure, call_body, result_of};
use crate::probe::xdr::{Reader, Writer};

const STATD: u32 = 100_024;
const NOTIFY: Procedure = Procedure { program: STATD, version: 1, number: 6 };
const GETPORT: Procedure = Procedure { program: 100_000, version: 2, number: 3 };
/// As GETPORT, for IPv6 (RFC 1833, version 3).
const GETADDR: Procedure = Procedure { program: 100_000, version: 3, number: 3 };
const RPCBIND: u16 = 111;
pub(super) const TCP: u32 = 6;
const UDP: u32 = 17;
/// How long an answer may take, and first and longest pause before the next attempt.
const ANSWER: Duration = Duration::from_secs(1);
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
const LONGEST: usize = 1500;

/// Tells a client, by its address or name, that the server at this public address has begun anew; again and again until it
/// answers. The address must be on this node. `state` is any number that the client has not heard from there last.
///
/// # Errors
/// It has not answered until then, with the last reason.
pub async fn tell(vip: IpAddr, client: &str, state: u32, until: Instant) -> Result<(), String> {
    let mut pause = PAUSE.0;
    loop {
        let Err(why) = once(vip, client, state).await else { return Ok(()) };
        if Instant::now() + pause >= until {
            return Err(why);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn once(vip: IpAddr, client: &str, state: u32) -> Result<(), String> {
    let client = resolve(client, vip).await?;
    let socket = UdpSocket::bind(SocketAddr::new(vip, 0)).await.map_err(|e| format!("cannot send from {vip}: {e}"))?;
    let port = match client {
        IpAddr::V4(_) => {
            let args = Writer::new().u32s(&[STATD, NOTIFY.version, UDP, 0]);
            let answer = call(&socket, SocketAddr::new(client, RPCBIND), GETPORT, &args).await?;
            Reader::new(&answer).u32().ok().and_then(|port| u16::try_from(port).ok())
        }
        IpAddr::V6(_) => {
            let args = Writer::new().u32s(&[STATD, NOTIFY.version]).opaque(b"udp6").opaque(b"").opaque(b"");
            let answer = call(&socket, SocketAddr::new(client, RPCBIND), GETADDR, &args).await?;
            Reader::new(&answer).opaque(128).ok().and_then(port_of)
        }
    };
    let port = port.filter(|port| *port != 0).ok_or_else(|| format!("no rpc.statd is registered at {client}"))?;
    let args = Writer::new().opaque(vip.to_string().as_bytes()).u32(state);
    call(&socket, SocketAddr::new(client, port), NOTIFY, &args).await.map(drop)
}

/// The ports of the lock manager that rpcbind of this node knows; none where it knows none, or does not answer.
pub async fn lock_manager_ports() -> Vec<u16> {
    let mut ports = Vec::new();
    for protocol in [TCP, UDP] {
        ports.extend(lock_manager_port(protocol).await.filter(|port| !ports.contains(port)));
    }
    ports
}

/// The one of this protocol.
pub(super) async fn lock_manager_port(protocol: u32) -> Option<u16> {
    const NLM: (u32, u32) = (100_021, 4);
    let local = SocketAddr::from(([127, 0, 0, 1], RPCBIND));
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.ok()?;
    let args = Writer::new().u32s(&[NLM.0, NLM.1, protocol, 0]);
    let answer = call(&socket, local, GETPORT, &args).await.ok()?;
    let port = Reader::new(&answer).u32().ok().and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port != 0)
}

/// The client's address, of the public address's own family.
async fn resolve(client: &str, vip: IpAddr) -> Result<IpAddr, String> {
    if let Ok(address) = client.parse::<IpAddr>() {
        let address = address.to_canonical();
        let same = address.is_ipv4() == vip.is_ipv4();
        return if same { Ok(address) } else { Err(format!("{client} cannot be reached from {vip}")) };
    }
    let found = match timeout(ANSWER, tokio::net::lookup_host((client, RPCBIND))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(format!("{client} has no address: {error}")),
        Err(_) => return Err(format!("{client} has no address: the name servers do not answer")),
    };
    let mut found = found.map(|address| address.ip().to_canonical());
    found.find(|a| a.is_ipv4() == vip.is_ipv4()).ok_or_else(|| format!("{client} cannot be reached from {vip}"))
}

/// The port of a universal address (RFC 5665): its last two numbers.
fn port_of(universal: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(universal).ok()?;
    let (rest, low) = text.rsplit_once('.')?;
    let (_, high) = rest.rsplit_once('.')?;
    Some(u16::from_be_bytes([high.parse().ok()?, low.parse().ok()?]))
}

async fn call(socket: &UdpSocket, to: SocketAddr, procedure: Procedure, args: &Writer) -> Result<Vec<u8>, String> {
    // From a port of its own: nobody else answers this number here.
    let xid = u32::from(to.port()) << 8 | procedure.number;
    let send = socket.send_to(&call_body(xid, procedure, args), to).await;
    send.map_err(|error| format!("cannot send to {to}: {error}"))?;
    let answer = timeout(ANSWER, async {
        let mut buffer = [0; LONGEST];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            if from.ip() == to.ip() {
                return Ok::<_, std::io::Error>(buffer[..length].to_vec());
            }
        }
    });
    let answer =
        answer.await.map_err(|_| format!("{to} does not answer"))?.map_err(|error| format!("{to}: {error}"))?;
    match result_of(&answer, xid) {
        Ok(result) => Ok(result.to_vec()),
        Err(NoResult::Refused(why) | NoResult::Nonsense(why)) => Err(format!("{to}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_universal_address_ends_with_the_port() {
        assert_eq!(port_of(b"fd00::9.8.1"), Some(2049));
        assert_eq!(port_of(b"10.0.0.9.0.111"), Some(111));
        for bad in [&b""[..], b"fd00::9", b"10.0.0.9.1.256", b"\xff.1.1"] {
            assert_eq!(port_of(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_asked_until_the_end_and_no_longer() {
        let begun = Instant::now();
        let end = begun + Duration::from_millis(1200);
        // Nobody binds this port of 127.0.0.9.
        let why = tell("127.0.0.1".parse().unwrap(), "127.0.0.9", 7, end).await.unwrap_err();
        assert!(why.contains("127.0.0.9"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        let why = tell("127.0.0.1".parse().unwrap(), "::1", 7, begun).await.unwrap_err();
        assert!(why.contains("cannot be reached"), "{why}");
    }
}
