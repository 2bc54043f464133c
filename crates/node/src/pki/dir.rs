//! The directory with a node's certificates and keys.

use super::{Authority, Identity, PkiError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE: &str = "node.pem";
const NODE_KEY: &str = "node.key";
/// No file here is longer.
const MAX_FILE: u64 = 1 << 20;

/// The directory `pki` in a node's state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiDir {
    path: PathBuf,
}

/// What a node proves itself with, and checks others by.
pub struct Credentials {
    /// Who it is.
    pub identity: Identity,
    /// The cluster's CA.
    pub ca: CertificateDer<'static>,
    /// This node's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl PkiDir {
    /// Of this state directory (`/var/lib/steadfast`). Touches nothing.
    #[must_use]
    pub fn in_state_dir(state_dir: &Path) -> Self {
        Self { path: state_dir.join("pki") }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn state_dir(&self) -> PathBuf {
        self.path.parent().unwrap_or(&self.path).to_owned()
    }

    /// Reads and checks what this node proves itself with.
    ///
    /// # Errors
    /// Not there, exposed to others, damaged.
    pub fn credentials(&self) -> Result<Credentials, PkiError> {
        let file = self.path.join(NODE);
        let certificate = self.certificate(NODE)?;
        let identity =
            Identity::of_certificate(&certificate).map_err(|why| PkiError::Damaged { path: file.clone(), why })?;
        let key_file = self.path.join(NODE_KEY);
        let key = PrivateKeyDer::from_pem_slice(self.secret(NODE_KEY)?.as_bytes())
            .map_err(|e| PkiError::Damaged { path: key_file, why: e.to_string() })?;
        Ok(Credentials { identity, ca: self.certificate(CA)?, certificate, key })
    }

    /// Reads the CA with its key.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`] on a node that has no key; else as [`PkiDir::credentials`].
    pub fn authority(&self) -> Result<Authority, PkiError> {
        let cluster = self.credentials()?.identity.cluster;
        let key_file = self.path.join(CA_KEY);
        if !key_file.try_exists().map_err(PkiError::io("look for", &key_file))? {
            return Err(PkiError::NoAuthority { path: key_file });
        }
        let certificate = read(&self.path.join(CA))?;
        Authority::load(cluster, certificate, self.secret(CA_KEY)?)
            .map_err(|e| PkiError::Damaged { path: key_file, why: e.to_string() })
    }

    /// Fails if this node has a certificate already.
    ///
    /// # Errors
    /// [`PkiError::AlreadyInCluster`].
    pub fn must_be_empty(&self) -> Result<(), PkiError> {
        let path = self.path.join(NODE);
        if !path.try_exists().map_err(PkiError::io("look for", &path))? {
            return Ok(());
        }
        let identity = self.credentials()?.identity;
        Err(PkiError::AlreadyInCluster {
            name: identity.name,
            cluster: identity.cluster.to_string(),
            path,
            state_dir: self.state_dir(),
        })
    }

    /// Writes everything; the node's certificate last, since its presence says that the rest is there.
    ///
    /// # Errors
    /// The disk did not take it.
    pub(crate) fn install(
        &self,
        ca_pem: &str,
        ca_key_pem: Option<&str>,
        node_pem: &str,
        node_key_pem: &str,
    ) -> Result<(), PkiError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(PkiError::io("make", &self.path))?;
        self.write(CA, ca_pem.as_bytes())?;
        if let Some(key) = ca_key_pem {
            self.write(CA_KEY, key.as_bytes())?;
        }
        self.write(NODE_KEY, node_key_pem.as_bytes())?;
        self.write(NODE, node_pem.as_bytes())
    }

    /// Replaces a file: written aside, on disk, renamed into place. Mode 0600.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), PkiError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.new"));
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(PkiError::io("remove", temporary)(e)),
            _ => {}
        }
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
        if let Err(error) = written {
            // Room for the next attempt; the error that counts is the one above.
            let _ = fs::remove_file(&temporary);
            return Err(PkiError::io("write", temporary)(error));
        }
        fs::rename(&temporary, &path).map_err(PkiError::io("put in place", &path))?;
        File::open(&self.path)
            .and_then(|d| d.sync_all())
            .map_err(PkiError::io("make permanent the files in", &self.path))
    }

    fn certificate(&self, name: &str) -> Result<CertificateDer<'static>, PkiError> {
        let path = self.path.join(name);
        CertificateDer::from_pem_slice(read(&path)?.as_bytes())
            .map_err(|e| PkiError::Damaged { path, why: e.to_string() })
    }

    fn secret(&self, name: &str) -> Result<String, PkiError> {
        let path = self.path.join(name);
        let mode = fs::metadata(&path).map_err(PkiError::io("look at", &path))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(PkiError::Exposed { path, mode });
        }
        read(&path)
    }
}

/// Reads a text file of bounded length; an absent one means that the node belongs to no cluster.
pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(PkiError::NoCluster { path: path.to_owned() });
        }
        Err(e) => return Err(PkiError::io("read", path)(e)),
    };
    let mut text = String::new();
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(e) if e.kind() == ErrorKind::InvalidData => {
            Err(PkiError::Damaged { path: path.to_owned(), why: "it is not text".into() })
        }
        Err(e) => Err(PkiError::io("read", path)(e)),
    }
}
