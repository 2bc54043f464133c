//! TLS settings: version 1.3 only, ring, the cluster's CA only, no resumption (each session gives fresh keys for
//! the heartbeats).
//!
//! Three protocols share the control port, told apart by ALPN (RFC 7301): links and data links, for which both ends
//! show a certificate, and joining, for which only the member does.

use super::ledger::sha256;
use super::{Credentials, PkiError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use std::sync::Arc;

/// ALPN name of the links.
pub const LINK_PROTOCOL: &[u8] = b"steadfast-link/1";
/// ALPN name of the data links.
pub const DATA_PROTOCOL: &[u8] = b"steadfast-data/1";
/// ALPN name of joining.
pub const JOIN_PROTOCOL: &[u8] = b"steadfast-join/1";

/// The settings of a node that has its certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For links and data links that this node accepts.
    pub accept: Arc<ServerConfig>,
    /// For links that this node dials.
    pub dial: Arc<ClientConfig>,
    /// For data links that this node dials.
    pub dial_data: Arc<ClientConfig>,
    /// For joining nodes, which have no certificate yet.
    pub join: Arc<ServerConfig>,
}

impl Tls {
    /// # Errors
    /// The certificates do not fit together.
    pub fn new(credentials: &Credentials) -> Result<Self, PkiError> {
        let crypto = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(credentials.ca.clone()).map_err(PkiError::crypto("use the CA's certificate"))?;
        let roots = Arc::new(roots);
        // The CA goes along: by its fingerprint a joining node knows the cluster.
        let chain = vec![credentials.certificate.clone(), credentials.ca.clone()];

        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&crypto))
            .build()
            .map_err(PkiError::crypto("use the CA's certificate"))?;
        let mut accept = server(&crypto)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), credentials.key.clone_key())
            .map_err(PkiError::crypto("use this node's certificate"))?;
        accept.alpn_protocols = vec![LINK_PROTOCOL.to_vec(), DATA_PROTOCOL.to_vec()];
        accept.send_tls13_tickets = 0;

        let mut join = server(&crypto)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), credentials.key.clone_key())
            .map_err(PkiError::crypto("use this node's certificate"))?;
        join.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
        join.send_tls13_tickets = 0;

        let mut dial = client(&crypto)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier {
                trust: Trust::Ca(roots),
                crypto: Arc::clone(&crypto),
            }))
            .with_client_auth_cert(chain, credentials.key.clone_key())
            .map_err(PkiError::crypto("use this node's certificate"))?;
        dial.alpn_protocols = vec![LINK_PROTOCOL.to_vec()];
        dial.resumption = Resumption::disabled();
        let mut dial_data = dial.clone();
        dial_data.alpn_protocols = vec![DATA_PROTOCOL.to_vec()];

        Ok(Self {
            accept: Arc::new(accept),
            dial: Arc::new(dial),
            dial_data: Arc::new(dial_data),
            join: Arc::new(join),
        })
    }
}

/// For a joining node: trusts only the CA with this SHA-256 fingerprint.
pub(super) fn joiner(fingerprint: [u8; 32]) -> Result<Arc<ClientConfig>, PkiError> {
    let crypto = Arc::new(ring::default_provider());
    let mut config = client(&crypto)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            trust: Trust::Fingerprint(fingerprint),
            crypto: Arc::clone(&crypto),
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn server(
    crypto: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, PkiError> {
    ServerConfig::builder_with_provider(Arc::clone(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PkiError::crypto("set up TLS 1.3"))
}

fn client(
    crypto: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, PkiError> {
    ClientConfig::builder_with_provider(Arc::clone(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PkiError::crypto("set up TLS 1.3"))
}

#[derive(Debug)]
enum Trust {
    Ca(Arc<RootCertStore>),
    Fingerprint([u8; 32]),
}

/// Checks that the other end is certified by the CA. Which node it is, is in a URI that the libraries' name check
/// does not know; whoever uses the connection compares it with the nodes list (`Identity::of_certificate`).
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    crypto: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.trust {
            Trust::Ca(roots) => Arc::clone(roots),
            Trust::Fingerprint(fingerprint) => {
                let ca = intermediates
                    .iter()
                    .find(|c| sha256(c) == *fingerprint)
                    .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone().into_owned())?;
                Arc::new(roots)
            }
        };
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            self.crypto.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}
