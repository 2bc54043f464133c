//! Asks an SMB server what a connecting client asks: NEGOTIATE, an anonymous SESSION_SETUP, TREE_CONNECT to
//! IPC$ and to each configured share (MS-SMB2 3.2).
//!
//! Nobody's password is needed, so a share answers "access denied" as a rule; that proves that a forked smbd
//! read its configuration and knows the share, not that the share's directory can be reached (the storage
//! probe does that). A server that admits no anonymous session at all has answered two requests in a
//! process of its own by then, which counts as good.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::smb_wire::{
    Answer, Command, HEADER, MAX_MESSAGE, Request, STATUS_ACCESS_DENIED, STATUS_BAD_NETWORK_NAME,
    STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING, STATUS_SUCCESS, negotiate, ntlm_anonymous, ntlm_negotiate,
    session_setup, tree_connect,
};
use super::{Peer, ProbeError, arbitrary};

/// Session setup refused, for a reason that says nothing against the server.
const NO_ANONYMOUS: [u32; 6] = [
    STATUS_ACCESS_DENIED,
    0xc000_006d, // logon failure
    0xc000_0072, // account disabled
    0xc000_006e, // account restriction
    0xc000_015b, // logon type not granted
    0xc000_0418, // NTLM blocked
];

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbProbe {
    pub address: SocketAddr,
    pub shares: Vec<String>,
    /// For all of it together.
    pub deadline: Duration,
}

impl SmbProbe {
    /// Asks for everything; says what answered.
    pub async fn run(&self) -> Result<String, ProbeError> {
        let peer = Peer { what: "smbd", address: self.address };
        peer.within(self.deadline, self.ask(peer)).await
    }

    async fn ask(&self, peer: Peer) -> Result<String, ProbeError> {
        let mut client = Client { peer, stream: peer.connect().await?, message_id: 0, session_id: 0 };
        let dialect = client.negotiate().await?;
        let smb = format!("SMB {}.{}.{}", dialect >> 8, dialect >> 4 & 15, dialect & 15);
        if !client.log_in().await? {
            return Ok(format!("{smb} answers (no anonymous session, shares not asked for)"));
        }
        client.tree("IPC$").await?;
        for share in &self.shares {
            client.tree(share).await?;
        }
        let shares: String = self.shares.iter().map(|share| format!(" {share}")).collect();
        Ok(if shares.is_empty() { format!("{smb} answers") } else { format!("{smb} answers for{shares}") })
    }
}

struct Client {
    peer: Peer,
    stream: TcpStream,
    message_id: u64,
    session_id: u64,
}

impl Client {
    async fn negotiate(&mut self) -> Result<u16, ProbeError> {
        let request = self.request(Command::Negotiate);
        // a fresh client GUID each time: smbd hands connections of one client to one process
        let bytes = self.exchange(negotiate(request, [arbitrary(), arbitrary()]), request).await?;
        let answer = self.parse(&bytes, Command::Negotiate)?;
        if answer.status != STATUS_SUCCESS {
            return Err(self.peer.refused(format!("NEGOTIATE: status {:#010x}", answer.status)));
        }
        answer.dialect().map_err(|error| self.peer.nonsense(error.to_string()))
    }

    /// Whether an anonymous session was granted.
    async fn log_in(&mut self) -> Result<bool, ProbeError> {
        for token in [ntlm_negotiate(), ntlm_anonymous()] {
            let request = self.request(Command::SessionSetup);
            let bytes = self.exchange(session_setup(request, &token), request).await?;
            let answer = self.parse(&bytes, Command::SessionSetup)?;
            self.session_id = answer.session_id;
            match answer.status {
                STATUS_MORE_PROCESSING_REQUIRED => {}
                STATUS_SUCCESS => return Ok(true),
                status if NO_ANONYMOUS.contains(&status) => return Ok(false),
                status => return Err(self.peer.refused(format!("SESSION_SETUP: status {status:#010x}"))),
            }
        }
        Err(self.peer.nonsense("an anonymous login that does not end"))
    }

    async fn tree(&mut self, share: &str) -> Result<(), ProbeError> {
        let request = self.request(Command::TreeConnect);
        let path = format!(r"\\{}\{share}", self.peer.address.ip());
        let bytes = self.exchange(tree_connect(request, &path), request).await?;
        match self.parse(&bytes, Command::TreeConnect)?.status {
            STATUS_SUCCESS | STATUS_ACCESS_DENIED => Ok(()),
            STATUS_BAD_NETWORK_NAME => Err(self.peer.refused(format!(
                "there is no share \"{share}\"; add [{share}] to smb.conf, or take it out of samba.shares"
            ))),
            status => Err(self.peer.refused(format!("TREE_CONNECT {share}: status {status:#010x}"))),
        }
    }

    fn request(&mut self, command: Command) -> Request {
        let request = Request { command, message_id: self.message_id, session_id: self.session_id };
        self.message_id += 1;
        request
    }

    fn parse<'a>(&self, bytes: &'a [u8], command: Command) -> Result<Answer<'a>, ProbeError> {
        Answer::parse(bytes, command).map_err(|error| self.peer.nonsense(error.to_string()))
    }

    /// Sends a request and reads its final answer.
    async fn exchange(&mut self, message: Vec<u8>, request: Request) -> Result<Vec<u8>, ProbeError> {
        let peer = self.peer;
        self.stream.write_all(&message).await.map_err(|error| peer.broken(error))?;
        loop {
            let len = self.stream.read_u32().await.map_err(|error| peer.broken(error))?;
            // the first byte is the type of the message, 0: session message
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if !(HEADER..=MAX_MESSAGE).contains(&len) {
                return Err(peer.nonsense(format!("a message of {len} bytes is announced")));
            }
            let mut bytes = vec![0; len];
            self.stream.read_exact(&mut bytes).await.map_err(|error| peer.broken(error))?;
            let answer = self.parse(&bytes, request.command)?;
            if answer.message_id != request.message_id {
                return Err(peer.nonsense("the answer to another request"));
            }
            if answer.status != STATUS_PENDING {
                return Ok(bytes);
            }
        }
    }
}
