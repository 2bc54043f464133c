//! Who a certificate is for: the URI in its subject alternative name (RFC 5280, 4.2.1.6).

use super::PkiError;
use crate::random;
use std::fmt;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "steadfast://";

/// Random number of a cluster, so that two clusters of one name are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(u128);

impl ClusterId {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn random() -> std::io::Result<Self> {
        Ok(Self(u128::from_be_bytes(random::bytes()?)))
    }

    /// Of all clusters on one machine's loopback addresses.
    pub(super) fn of_loopback() -> Self {
        Self(u128::from_be_bytes(*b"loopback cluster"))
    }

    /// Are its certificates anybody's ([`super::loopback`])?
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self == Self::of_loopback()
    }

    /// From 32 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A node of a cluster, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's name in the nodes list.
    pub name: String,
}

impl Identity {
    /// # Errors
    /// The name cannot stand in a URI.
    pub fn new(cluster: ClusterId, name: &str) -> Result<Self, PkiError> {
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits { Ok(Self { cluster, name: name.to_owned() }) } else { Err(PkiError::Name(name.to_owned())) }
    }

    /// `steadfast://CLUSTER-ID/NODE-NAME`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.cluster, self.name)
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let (cluster, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        Self::new(ClusterId::parse(cluster)?, name).ok()
    }

    /// Reads it from a certificate (DER).
    ///
    /// # Errors
    /// Why the certificate names no node, as a phrase.
    pub fn of_certificate(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| format!("its certificate cannot be read: {e}"))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|e| format!("the names in its certificate cannot be read: {e}"))?;
        let mut found = names.iter().flat_map(|n| &n.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Self::from_uri(uri),
            _ => None,
        });
        match (found.next(), found.next()) {
            (Some(identity), None) => Ok(identity),
            (None, _) => Err("its certificate names no node of a cluster".into()),
            (Some(_), Some(_)) => Err("its certificate names more than one node".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_read_back_and_others_are_not() {
        let identity = Identity::new(ClusterId(7), "gluster-1.example").unwrap();
        assert_eq!(Identity::from_uri(&identity.uri()), Some(identity.clone()));
        for bad in [
            "steadfast://7/a",
            "http://00000000000000000000000000000007/a",
            "steadfast://00000000000000000000000000000007",
            "steadfast://00000000000000000000000000000007/",
            "steadfast://00000000000000000000000000000007/a/b",
            "steadfast://+0000000000000000000000000000007/a",
        ] {
            assert_eq!(Identity::from_uri(bad), None, "{bad}");
        }
        assert!(Identity::new(ClusterId(7), "a b").is_err());
        assert!(Identity::of_certificate(b"garbage").is_err());
    }
}
