//! Where a node keeps its certificates and keys.

use std::path::{Path, PathBuf};

/// The directory `pki` in a node's state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiDir {
    path: PathBuf,
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
}
