//! The joining node's side of `steadfast join`.

use super::authority::new_request;
use super::ledger::{hex, sha256};
use super::tls::joiner;
use super::{Identity, JoinAnswer, JoinRequest, MAX_JOIN, PkiDir, PkiError, Token};
use crate::state::StateStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(15);

/// What `join` got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// This node, as its certificate names it.
    pub identity: Identity,
    /// The member that admitted it.
    pub member: SocketAddr,
    /// The configuration file, if there was none and the member sent its own.
    pub config_written: Option<PathBuf>,
}

/// Gets a certificate for this node by a one-time token, and the configuration if `config` does not exist yet.
///
/// # Errors
/// This node belongs to a cluster already; nobody of the token answers; somebody else does; the member refuses.
pub fn join(
    state_dir: &Path,
    token: &Token,
    name: Option<&str>,
    config: &Path,
    version: &str,
) -> Result<Joined, PkiError> {
    let store = StateStore::open(state_dir)?;
    let dir = PkiDir::in_state_dir(state_dir);
    dir.must_be_empty()?;
    if store.load()?.is_some() {
        return Err(PkiError::OldVotes { path: state_dir.join("votes.json"), state_dir: state_dir.to_owned() });
    }
    let wants_config = !config.try_exists().map_err(PkiError::io("look for", config))?;
    let (key, request_pem) = new_request()?;
    let request = JoinRequest {
        version: version.to_owned(),
        token: hex(&token.id),
        secret: hex(&token.secret),
        name: name.map(str::to_owned),
        request_pem,
        wants_config,
    };
    let tls = joiner(token.fingerprint)?;
    let mut failures = Vec::new();
    for address in &token.addresses {
        let stream = match TcpStream::connect_timeout(address, CONNECT) {
            Ok(stream) => stream,
            Err(error) => {
                failures.push((*address, error.to_string()));
                continue;
            }
        };
        // The token may be used up by now: another address would only say so.
        let answer = ask(stream, *address, &tls, &request)?;
        return accept(answer, *address, token, &dir, &key, config);
    }
    Err(PkiError::Unreachable(failures))
}

fn ask(
    stream: TcpStream,
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
    request: &JoinRequest,
) -> Result<JoinAnswer, PkiError> {
    let lost = |e: io::Error| PkiError::Answer(address, e.to_string());
    stream.set_read_timeout(Some(ANSWER)).and_then(|()| stream.set_write_timeout(Some(ANSWER))).map_err(lost)?;
    let mut connection = ClientConnection::new(Arc::clone(tls), ServerName::from(address.ip()))
        .map_err(PkiError::crypto("begin TLS"))?;
    let mut stream = stream;
    // The member's certificate is checked before anything is sent.
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|e| match e.get_ref().and_then(|e| e.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(why)) => PkiError::WrongCluster(address, why.to_string()),
            _ => PkiError::Answer(address, e.to_string()),
        })?;
    }
    let mut stream = StreamOwned::new(connection, stream);
    let body = serde_json::to_vec(request).map_err(PkiError::crypto("encode the request"))?;
    let length = u32::try_from(body.len()).map_err(PkiError::crypto("encode the request"))?;
    stream
        .write_all(&length.to_be_bytes())
        .and_then(|()| stream.write_all(&body))
        .and_then(|()| stream.flush())
        .map_err(lost)?;
    let mut header = [0; 4];
    stream.read_exact(&mut header).map_err(lost)?;
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_JOIN {
        return Err(PkiError::Answer(address, format!("{length} bytes")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(lost)?;
    serde_json::from_slice(&body).map_err(|e| PkiError::Answer(address, e.to_string()))
}

fn accept(
    answer: JoinAnswer,
    member: SocketAddr,
    token: &Token,
    dir: &PkiDir,
    key: &str,
    config: &Path,
) -> Result<Joined, PkiError> {
    let (node_pem, ca_pem, ca_key_pem, text) = match answer {
        JoinAnswer::Refused { because } => return Err(PkiError::Refused(member, because)),
        JoinAnswer::Welcome { node_pem, ca_pem, ca_key_pem, config, .. } => (node_pem, ca_pem, ca_key_pem, config),
    };
    let certificate = CertificateDer::from_pem_slice(node_pem.as_bytes())
        .map_err(|e| PkiError::Answer(member, format!("the certificate: {e}")))?;
    let identity = Identity::of_certificate(&certificate).map_err(|e| PkiError::Answer(member, e))?;
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|e| PkiError::Answer(member, format!("the CA's certificate: {e}")))?;
    if sha256(&ca) != token.fingerprint {
        return Err(PkiError::WrongCluster(member, "it sent another CA".into()));
    }
    let config_written = match text {
        Some(text) => write_config(config, &text)?,
        None => None,
    };
    dir.install(&ca_pem, ca_key_pem.as_deref(), &node_pem, key)?;
    Ok(Joined { identity, member, config_written })
}

/// Never over a file that is there.
fn write_config(path: &Path, text: &str) -> Result<Option<PathBuf>, PkiError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(PkiError::io("make", parent))?;
    }
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(PkiError::io("write the configuration to", path))?;
            Ok(Some(path.to_owned()))
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(e) => Err(PkiError::io("write the configuration to", path)(e)),
    }
}
