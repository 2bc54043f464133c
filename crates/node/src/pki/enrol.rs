//! The member's side of `steadfast join`.

use super::ledger::unhex;
use super::{Identity, Ledger, PkiDir, PkiError};
use cluster::{NodeConf, Pnn, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest request or answer, in bytes: certificates, a key and a configuration file.
pub const MAX_JOIN: usize = 1 << 20;

/// What a joining node asks, over TLS, once it has checked the member's certificate by the token's fingerprint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Version of its program.
    pub version: String,
    /// The token's id, hex.
    pub token: String,
    /// The token's secret, hex.
    pub secret: String,
    /// Its name in the nodes list; without one the member goes by its address.
    pub name: Option<String>,
    /// Certificate signing request, PEM.
    pub request_pem: String,
    /// It has no configuration file.
    pub wants_config: bool,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest").field("name", &self.name).field("token", &self.token).finish_non_exhaustive()
    }
}

/// The member's answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinAnswer {
    /// Come in.
    Welcome {
        /// The joining node's name.
        name: String,
        /// Its certificate, PEM.
        node_pem: String,
        /// The cluster's CA, PEM.
        ca_pem: String,
        /// The CA's key, for servers.
        ca_key_pem: Option<String>,
        /// Text of the configuration file, if it was wanted and is known.
        config: Option<String>,
    },
    /// No, and why, for the person at the joining node.
    Refused { because: String },
}

impl std::fmt::Debug for JoinAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Welcome { name, .. } => f.debug_struct("Welcome").field("name", name).finish_non_exhaustive(),
            Self::Refused { because } => f.debug_struct("Refused").field("because", because).finish(),
        }
    }
}

/// Decides who may join.
#[derive(Clone, Debug)]
pub struct Enroller {
    dir: PkiDir,
}

impl Enroller {
    /// With the CA and the tokens of this directory.
    #[must_use]
    pub fn new(dir: PkiDir) -> Self {
        Self { dir }
    }

    /// Answers a request that came from `from`; `now` is in seconds since 1970. Reads and writes files.
    #[must_use]
    pub fn answer(
        &self,
        request: &JoinRequest,
        from: IpAddr,
        nodes: &BTreeMap<Pnn, NodeConf>,
        config_text: Option<&str>,
        now: u64,
    ) -> JoinAnswer {
        match self.decide(request, from, nodes, config_text, now) {
            Ok(Ok(welcome)) => welcome,
            Ok(Err(because)) => JoinAnswer::Refused { because },
            Err(error) => {
                tracing::error!(%from, %error, "a node could not join");
                JoinAnswer::Refused { because: format!("it has a problem of its own: {error}") }
            }
        }
    }

    fn decide(
        &self,
        request: &JoinRequest,
        from: IpAddr,
        nodes: &BTreeMap<Pnn, NodeConf>,
        config_text: Option<&str>,
        now: u64,
    ) -> Result<Result<JoinAnswer, String>, PkiError> {
        let node = match which(request.name.as_deref(), from, nodes) {
            Ok(node) => node,
            Err(because) => return Ok(Err(because)),
        };
        let authority = self.dir.authority()?;
        if self.dir.credentials()?.identity.name == node.name {
            return Ok(Err(format!("'{}' is this member itself", node.name)));
        }
        let identity = Identity::new(authority.cluster(), &node.name)?;
        // Before the token is used up: a request that cannot be certified must not cost it.
        let node_pem = match authority.certify(&identity, &request.request_pem) {
            Ok(pem) => pem,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let secret = unhex(&request.secret).unwrap_or_default();
        if let Err(because) = Ledger::new(self.dir.clone()).redeem(&request.token, &secret, &node.name, now)? {
            return Ok(Err(because));
        }
        tracing::info!(node = %node.name, %from, "certified a joining node; its token is used up");
        Ok(Ok(JoinAnswer::Welcome {
            name: node.name.clone(),
            node_pem,
            ca_pem: authority.certificate_pem().to_owned(),
            ca_key_pem: (node.role == Role::Server).then(|| authority.key_pem().to_owned()),
            config: config_text.filter(|_| request.wants_config).map(str::to_owned),
        }))
    }
}

fn which<'a>(name: Option<&str>, from: IpAddr, nodes: &'a BTreeMap<Pnn, NodeConf>) -> Result<&'a NodeConf, String> {
    let found = match name {
        Some(name) => nodes.values().find(|n| n.name == name),
        None => nodes.values().find(|n| n.addresses.contains(&from)),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = nodes.values().map(|n| n.name.as_str()).collect();
        let what = match name {
            Some(name) => format!("'{name}' is not in the nodes list"),
            None => {
                format!("no node of the nodes list has the address {from} (say which one with --node NAME)")
            }
        };
        format!(
            "{what}, which has: {}. Add a [[node]] to the configuration of the members and reload them first",
            known.join(", ")
        )
    })
}
