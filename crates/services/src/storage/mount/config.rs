//! The `[storage]` table of the configuration.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::coherence;

/// What the nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A GlusterFS volume, mounted and unmounted by Steadfast.
    Gluster,
    /// A directory that is there already: on any cluster filesystem that somebody else mounts.
    #[serde(alias = "posix")]
    Local,
}

/// The shared filesystem as the operator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    pub kind: Kind,
    /// Mount point (made if missing) or, for kind `local`, the directory. Absolute.
    pub path: PathBuf,
    /// GlusterFS: servers to ask for the volume, in order. Default: `localhost`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// GlusterFS: name of the volume. Required for kind `gluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// GlusterFS: mount options instead of those that coherence between nodes needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
    /// The group that the mount's client process runs with; its sockets are told apart by it.
    #[serde(skip)]
    pub group: Option<u32>,
}

/// What is wrong with a `[storage]` table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("[storage] path = \"{}\" must be absolute, without `..`, and not `/`", .0.display())]
    Path(PathBuf),
    #[error("[storage] kind = \"gluster\" needs volume = \"NAME\"")]
    NoVolume,
    #[error("[storage] {key} is for kind = \"gluster\"; kind \"local\" takes the directory as it is")]
    OnlyGluster { key: &'static str },
    #[error("[storage] {key}: \"{value}\" is empty or has characters that mount does not take")]
    Word { key: &'static str, value: String },
}

impl StorageConfig {
    /// A GlusterFS volume served by this machine, with the options of coherence.
    pub fn gluster(volume: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            kind: Kind::Gluster,
            path: path.into(),
            servers: Vec::new(),
            volume: Some(volume.into()),
            options: None,
            group: None,
        }
    }

    /// A directory that is there already.
    pub fn local(path: impl Into<PathBuf>) -> Self {
        Self { kind: Kind::Local, path: path.into(), servers: Vec::new(), volume: None, options: None, group: None }
    }

    /// The same volume once more, on a mount of its own for the cluster lock, with a client of that group. A local directory stays as it is.
    pub fn for_lock(&self, path: impl Into<PathBuf>, group: u32) -> Self {
        match self.kind {
            Kind::Gluster => Self { path: path.into(), options: None, group: Some(group), ..self.clone() },
            Kind::Local => self.clone(),
        }
    }

    /// Refuses what `mount` would misread.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !self.path.is_absolute() || self.path == Path::new("/") || !self.path.components().all(plain) {
            return Err(ConfigError::Path(self.path.clone()));
        }
        if self.kind == Kind::Local {
            let key = match self {
                Self { volume: Some(_), .. } => "volume",
                Self { options: Some(_), .. } => "options",
                Self { servers, .. } if !servers.is_empty() => "servers",
                _ => return Ok(()),
            };
            return Err(ConfigError::OnlyGluster { key });
        }
        let volume = self.volume.as_ref().ok_or(ConfigError::NoVolume)?;
        check_word("volume", volume, |c| c.is_ascii_alphanumeric() || "-_.".contains(c))?;
        for server in &self.servers {
            check_word("servers", server, |c| c.is_ascii_alphanumeric() || "-_.:[]".contains(c))?;
        }
        for option in self.options.iter().flatten() {
            check_word("options", option, |c| c.is_ascii_graphic() && c != ',')?;
        }
        Ok(())
    }

    pub(super) fn mount_options(&self) -> Vec<String> {
        let default = || coherence::MOUNT_OPTIONS.iter().map(|&option| option.to_owned()).collect();
        self.options.clone().unwrap_or_else(default)
    }
}

fn check_word(key: &'static str, value: &str, allowed: impl Fn(char) -> bool) -> Result<(), ConfigError> {
    if value.is_empty() || value.starts_with('-') || !value.chars().all(allowed) {
        return Err(ConfigError::Word { key, value: value.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mount_would_misread_is_refused() {
        let good = StorageConfig::gluster("vol1", "/mnt/glustervol");
        assert_eq!(good.validate(), Ok(()));
        let with = |change: fn(&mut StorageConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(with(|c| c.path = "mnt".into()).contains("absolute"));
        assert!(with(|c| c.path = "/".into()).contains("not `/`"));
        assert!(with(|c| c.path = "/mnt/../etc".into()).contains(".."));
        assert!(with(|c| c.volume = None).contains("needs volume"));
        assert!(with(|c| c.volume = Some("a b".into())).contains("a b"));
        assert!(with(|c| c.servers = vec!["-o".into()]).contains("servers"));
        assert!(with(|c| c.options = Some(vec!["a=1,suid".into()])).contains("options"));
        assert!(with(|c| c.kind = Kind::Local).contains("volume is for kind"));
        assert_eq!(StorageConfig::local("/srv/shared").validate(), Ok(()));
    }

    #[test]
    fn unknown_keys_are_refused_and_posix_means_local() {
        let parse = |text: &str| serde_json::from_str::<StorageConfig>(text);
        assert_eq!(parse(r#"{"kind":"posix","path":"/x"}"#).unwrap(), StorageConfig::local("/x"));
        assert!(parse(r#"{"kind":"local","path":"/x","volum":"v"}"#).unwrap_err().to_string().contains("volum"));
    }
}
