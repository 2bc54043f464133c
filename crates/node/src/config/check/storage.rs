//! `[storage]`: the shared filesystem.

use super::Context;
use crate::config::model::Storage;
use crate::config::spec::{KindSpec, StorageSpec};
use std::path::{Component, PathBuf};
use toml::Spanned;

/// Reads the section. Without it there is no shared filesystem.
pub(super) fn storage(context: &mut Context<'_>, spec: Option<&Spanned<StorageSpec>>) -> Storage {
    let Some(section) = spec else {
        return Storage::None;
    };
    let spec = section.get_ref();
    let kind = match &spec.kind {
        Some(kind) => *kind.get_ref(),
        None if spec.volume.is_some() => KindSpec::Gluster,
        None => {
            context.error(
                "[storage] does not say of what kind it is",
                section.span(),
                "",
                "write kind = \"gluster\", \"local\" (a directory that is there already) or \"none\"",
            );
            return Storage::None;
        }
    };
    if kind != KindSpec::Gluster {
        let strangers = [
            ("volume", spec.volume.as_ref().map(Spanned::span)),
            ("server", spec.server.as_ref().map(Spanned::span)),
            ("mount_options", spec.mount_options.as_ref().map(Spanned::span)),
            ("lift_post_op_delay", spec.lift_post_op_delay.as_ref().map(Spanned::span)),
        ];
        for (key, span) in strangers {
            if let Some(span) = span {
                context.error(
                    format!("`{key}` is for kind = \"gluster\""),
                    span,
                    "",
                    "remove it, or write kind = \"gluster\"",
                );
            }
        }
    }
    if let (Some(command), true) = (&spec.evict_command, kind != KindSpec::Local) {
        context.error(
            "`evict_command` is for kind = \"local\"",
            command.span(),
            "",
            "remove it: for GlusterFS the nodes shut a lost one out by themselves",
        );
    }
    if kind == KindSpec::None {
        return Storage::None;
    }
    let path = path(context, section);
    if kind == KindSpec::Local {
        let evict_command = spec.evict_command.as_ref().map(|command| evict_command(context, command));
        return Storage::Local { path, evict_command };
    }
    Storage::Gluster {
        path,
        volume: volume(context, section),
        server: spec.server.as_ref().map_or_else(|| "localhost".to_owned(), |s| server(context, s)),
        mount_options: spec.mount_options.as_ref().map(|options| mount_options(context, options)),
    }
}

/// Is the volume's post-op delay to be lifted for planned moves? Unless said otherwise where NFS is served from GlusterFS:
/// smbd closes its files when a client leaves, which ends the delay.
pub(super) fn lifts_post_op_delay(spec: Option<&Spanned<StorageSpec>>, storage: &Storage, nfs: bool) -> bool {
    let given = spec.and_then(|section| section.get_ref().lift_post_op_delay.as_ref());
    given.map_or(nfs && matches!(storage, Storage::Gluster { .. }), |lift| *lift.get_ref())
}

fn evict_command(context: &mut Context<'_>, command: &Spanned<String>) -> String {
    let text = command.get_ref();
    if !text.trim_start().starts_with('/') {
        context.error(
            format!("\"{text}\" cannot be run"),
            command.span(),
            "",
            "write the full path of a program and its arguments, as \"/etc/steadfast/evict\"",
        );
    }
    text.clone()
}

fn path(context: &mut Context<'_>, section: &Spanned<StorageSpec>) -> PathBuf {
    let Some(path) = &section.get_ref().path else {
        context.error(
            "[storage] has no path",
            section.span(),
            "",
            "write path = \"/mnt/glustervol\", where the filesystem is mounted on every node",
        );
        return PathBuf::new();
    };
    let given = path.get_ref();
    let plain = given.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !given.is_absolute() || !plain || given.components().count() < 2 {
        context.error(
            format!("\"{}\" cannot be a mount point", given.display()),
            path.span(),
            "",
            "write a full path without `..`, as \"/mnt/glustervol\"",
        );
    }
    given.components().collect()
}

fn volume(context: &mut Context<'_>, section: &Spanned<StorageSpec>) -> String {
    let Some(volume) = &section.get_ref().volume else {
        context.error(
            "[storage] of kind \"gluster\" has no volume",
            section.span(),
            "",
            "write volume = \"vol1\"; `gluster volume list` shows the names",
        );
        return String::new();
    };
    let name = volume.get_ref();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 255 || !name.chars().all(good) {
        context.error(
            format!("\"{name}\" cannot be the name of a volume"),
            volume.span(),
            "",
            "write a name as `gluster volume list` shows it",
        );
    }
    name.clone()
}

fn server(context: &mut Context<'_>, server: &Spanned<String>) -> String {
    let name = server.get_ref();
    if !super::nodes::is_host_name(name) && name.parse::<std::net::IpAddr>().is_err() {
        context.error(
            format!("\"{name}\" cannot be a server"),
            server.span(),
            "",
            "write a host name or an address; \"localhost\" when every node runs glusterd",
        );
    }
    name.clone()
}

fn mount_options(context: &mut Context<'_>, options: &Spanned<Vec<String>>) -> Vec<String> {
    let bad = options
        .get_ref()
        .iter()
        .find(|o| o.is_empty() || o.starts_with('-') || o.contains([',', '\0']) || o.contains(char::is_whitespace));
    if let Some(bad) = bad {
        context.error(
            format!("\"{bad}\" cannot be a mount option"),
            options.span(),
            "",
            "write each option as its own text without -o, as [\"direct-io-mode=enable\", \"attribute-timeout=0\"]",
        );
    }
    options.get_ref().clone()
}
