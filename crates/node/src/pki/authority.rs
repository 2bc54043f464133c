//! The cluster's certificate authority.

use super::{ClusterId, Identity, PkiError};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd, string::Ia5String,
};

/// A CA with its key: can make certificates.
#[derive(Debug)]
pub struct Authority {
    cluster: ClusterId,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes the CA of a new cluster.
    ///
    /// # Errors
    /// The library refuses; not expected.
    pub fn create(cluster: ClusterId, cluster_name: &str) -> Result<Self, PkiError> {
        Self::of(cluster, cluster_name, KeyPair::generate().map_err(PkiError::crypto("make a key"))?)
    }

    fn of(cluster: ClusterId, cluster_name: &str, key: KeyPair) -> Result<Self, PkiError> {
        let mut params = always_valid();
        params.distinguished_name = common_name(&format!("Steadfast CA of {cluster_name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("steadfast://{cluster}"))?];
        let certificate = params.self_signed(&key).map_err(PkiError::crypto("make the CA's certificate"))?;
        Self::load(cluster, certificate.pem(), key.serialize_pem())
    }

    /// The CA of all clusters whose nodes are on one machine's loopback addresses. Its key is known to everybody: who is
    /// certified by it has proved nothing, and only loopback addresses may use it ([`super::loopback`]).
    ///
    /// # Errors
    /// The library refuses; not expected.
    pub(super) fn known_to_all() -> Result<Self, PkiError> {
        let cluster = ClusterId::of_loopback();
        // RFC 8410: the PKCS #8 frame of an Ed25519 key, and 32 bytes of it.
        let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        der.extend_from_slice(b"steadfast: loopback without keys");
        let key = KeyPair::try_from(der).map_err(PkiError::crypto("make the key of loopback clusters"))?;
        Self::of(cluster, "loopback", key)
    }

    /// From the two PEM texts.
    ///
    /// # Errors
    /// They cannot be parsed.
    pub fn load(cluster: ClusterId, certificate_pem: String, key_pem: String) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&key_pem).map_err(PkiError::crypto("read the CA's key"))?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(PkiError::crypto("read the CA's certificate"))?;
        Ok(Self { cluster, certificate_pem, key_pem, issuer })
    }

    /// Which cluster it is the CA of.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key as PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Makes a certificate for a node from its certificate signing request (RFC 2986, PEM). Only the public key is
    /// taken from the request, and its proof that the node has the private one; the name is the caller's.
    ///
    /// # Errors
    /// The request is garbage or its signature wrong.
    pub fn certify(&self, node: &Identity, request_pem: &str) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(PkiError::crypto("read the certificate request"))?;
        let mut params = always_valid();
        params.distinguished_name = common_name(&node.name);
        params.subject_alt_names = vec![uri(&node.uri())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(PkiError::crypto("make the node's certificate"))?;
        Ok(certificate.pem())
    }
}

/// A new key and the request for its certificate, both PEM.
///
/// # Errors
/// The library refuses; not expected.
pub(crate) fn new_request() -> Result<(String, String), PkiError> {
    let key = KeyPair::generate().map_err(PkiError::crypto("make a key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .map_err(PkiError::crypto("make the certificate request"))?;
    Ok((key.serialize_pem(), request))
}

fn always_valid() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn uri(text: &str) -> Result<SanType, PkiError> {
    Ia5String::try_from(text).map(SanType::URI).map_err(PkiError::crypto("name the certificate"))
}
