//! `[cluster]`: name, lock, ports.

use super::Context;
use crate::config::model::{Dns, Lock, Storage};
use crate::config::spec::{FailBackWord, Preset};
use ::cluster::{DayWindow, FailBack};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Below the mount when nothing else is said.
const RECORDS: &str = ".steadfast";

/// The cluster's name. It stands in certificates, so it is kept to letters that need no quoting.
pub(super) fn name(context: &mut Context<'_>, name: Option<&Spanned<String>>) -> String {
    let Some(name) = name else {
        context.error("the cluster has no name", 0..0, "", "write name = \"storage\" under [cluster]");
        return String::new();
    };
    let text = name.get_ref();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 63 || !text.chars().all(good) {
        context.error(
            format!("\"{text}\" cannot be a cluster's name"),
            name.span(),
            "",
            "write 1 to 63 letters, digits, hyphens, dots or underscores",
        );
    }
    text.clone()
}

/// When addresses go back to a returning node.
pub(super) fn fail_back(
    context: &mut Context<'_>,
    word: Option<&Spanned<FailBackWord>>,
    window: Option<&Spanned<String>>,
) -> FailBack {
    let example =
        "write fail_back_window = \"02:00-04:00\": two different times of the day, in this machine's time zone";
    match (word.map(|w| (*w.get_ref(), w.span())), window) {
        (Some((FailBackWord::Window, _)), Some(text)) => match day_window(text.get_ref()) {
            Some(window) => return FailBack::Window(window),
            None => context.error(format!("\"{}\" is no part of a day", text.get_ref()), text.span(), "", example),
        },
        (Some((FailBackWord::Window, span)), None) => {
            context.error("fail_back is \"window\", but there is no `fail_back_window`", span, "", example);
        }
        (_, Some(text)) => context.error(
            "`fail_back_window` without fail_back = \"window\"",
            text.span(),
            "",
            "write fail_back = \"window\", or remove this line",
        ),
        (Some((FailBackWord::Never, _)), None) => return FailBack::Never,
        (Some((FailBackWord::Spread, _)) | None, None) => {}
    }
    FailBack::Spread
}

/// `HH:MM-HH:MM`.
fn day_window(text: &str) -> Option<DayWindow> {
    let time = |text: &str| {
        let (hours, minutes) = text.trim().split_once(':')?;
        let number = |t: &str, end: u16| t.parse::<u16>().ok().filter(|n| t.len() == 2 && *n < end);
        Some(number(hours, 24)? * 60 + number(minutes, 60)?)
    };
    let (from, to) = text.split_once('-')?;
    let (from, to) = (time(from)?, time(to)?);
    (from != to).then_some(DayWindow { from, to })
}

/// The lease, in milliseconds: a preset's, or as it is written.
pub(super) fn lease(context: &mut Context<'_>, preset: Option<Preset>, lease: Option<&Spanned<i64>>) -> u64 {
    let chosen = preset.unwrap_or_default().lease_ms();
    let written = context.number("lease_ms", lease, 200, 10_000, chosen);
    if let (Some(_), Some(lease)) = (preset, lease.filter(|_| written != chosen)) {
        context.error(
            "`preset` and `lease_ms` contradict each other",
            lease.span(),
            format!("the preset means {chosen} ms"),
            "remove one of the two lines",
        );
    }
    written
}

/// The cluster lock: a path, or CTDB's `!command` with its records in a directory.
pub(super) fn lock(
    context: &mut Context<'_>,
    lock: Option<&Spanned<String>>,
    records: Option<&Spanned<PathBuf>>,
    storage: &Storage,
) -> Option<Lock> {
    let Some(lock) = lock else {
        if let Some(records) = records {
            context.error(
                "`lock_records` without a lock",
                records.span(),
                "",
                "remove it, or write lock = \"!COMMAND\"; with a path the records lie beside the lock",
            );
        }
        return None;
    };
    let text = lock.get_ref().trim();
    if let Some(command) = text.strip_prefix('!') {
        return helper(context, lock, command.trim(), records, storage);
    }
    if let Some(records) = records {
        context.error("the records lie beside the lock", records.span(), "", "remove this line");
    }
    let path = Path::new(text);
    let directory = path.parent().filter(|d| d.as_os_str().len() > 1);
    let Some(directory) = directory.filter(|_| path.is_absolute() && !has_dots(path)) else {
        context.error(
            format!("\"{text}\" cannot be the path of the lock"),
            lock.span(),
            "",
            "write the full path of a file in a directory of its own on the shared mount, as \"/mnt/vol/.steadfast/lock\"",
        );
        return None;
    };
    if path.file_name().is_none_or(|name| name != "lock") {
        context.error(
            "the file of the lock is always called `lock`",
            lock.span(),
            "",
            format!("write \"{}/lock\"", directory.display()),
        );
    }
    if let Some(mount) = storage.path()
        && !path.starts_with(mount)
    {
        context.error(
            "the lock is not on the shared filesystem",
            lock.span(),
            format!("not below {}", mount.display()),
            format!("write \"{}/{RECORDS}/lock\"", mount.display()),
        );
    }
    Some(Lock { dir: directory.to_path_buf(), command: None })
}

fn helper(
    context: &mut Context<'_>,
    lock: &Spanned<String>,
    command: &str,
    records: Option<&Spanned<PathBuf>>,
    storage: &Storage,
) -> Option<Lock> {
    if !command.starts_with('/') {
        context.error(
            "the lock's command needs its full path",
            lock.span(),
            "",
            "write \"!/usr/libexec/ctdb/ctdb_mutex_...\" with its arguments",
        );
        return None;
    }
    let dir = match (records, storage.path()) {
        (Some(records), _) if records.get_ref().is_absolute() && !has_dots(records.get_ref()) => {
            records.get_ref().clone()
        }
        (Some(records), _) => {
            context.error(
                "`lock_records` needs a full path",
                records.span(),
                "",
                "write a directory on the shared mount, as \"/mnt/vol/.steadfast\"",
            );
            return None;
        }
        (None, Some(mount)) => mount.join(RECORDS),
        (None, None) => {
            context.error(
                "nowhere to keep the records of the lock",
                lock.span(),
                "the command holds the lock, its records stay files",
                "write lock_records = \"/mnt/vol/.steadfast\", a directory on the shared mount",
            );
            return None;
        }
    };
    Some(Lock { dir, command: Some(command.to_owned()) })
}

fn has_dots(path: &Path) -> bool {
    path.components().any(|part| matches!(part, std::path::Component::ParentDir))
}

/// Two things on one port.
pub(super) fn ports(context: &mut Context<'_>, control: u16, place: Option<&Spanned<i64>>, dns: Option<&Dns>) {
    let taken = [(445, "SMB"), (2049, "NFS"), (111, "rpcbind"), (24_007, "glusterd")];
    let service = taken.iter().find(|(port, _)| *port == control).map(|(_, name)| *name);
    let dns = dns.is_some_and(|dns| dns.port == control).then_some("DNS");
    if let (Some(other), Some(place)) = (service.or(dns), place) {
        context.error(
            format!("port {control} is {other}'s"),
            place.span(),
            "",
            "write another port for `control_port`, as 4390",
        );
    }
}
