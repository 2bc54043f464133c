//! `/etc/steadfast/steadfast.toml`: one file, the same on every node.
//!
//! ```text
//!   files ──> parse ──> Spec ──> check ──> Config ──> core(), services, dns, peer
//!     └ CTDB's nodes and public_addresses ──┘  └────> Diagnostics: file, line, what is wrong, what to write
//! ```
//!
//! [`load`] reads and checks it against a [`Machine`]; a configuration with an error is not used at all, and all
//! errors are shown at once. What it does not do: look names up, touch the network or the shared mount (except to
//! read the file itself, with a deadline), or watch for changes. The keys are described in docs/configuration.md.

mod address;
mod check;
mod command;
mod ctdb_files;
mod diagnostic;
mod files;
mod import;
mod machine;
mod model;
mod parse;
mod spec;
#[cfg(test)]
mod tests;

pub use command::{Outcome, check_file, show};
pub use diagnostic::{Diagnostic, Diagnostics, Mark, Severity, Source};
pub use import::{CtdbFiles, CtdbPlaces, CtdbSetup, Did, Imported, Line, LogLevel, LogPlace, Places, import};
pub use machine::Machine;
pub(crate) use model::DEFAULT_CONTROL_PORT;
pub use model::{
    Config, DatabasePlaces, Dns, DnsName, EVENTS, ListEdit, Lock, NFS, PublicList, SAMBA, STORAGE, Storage,
};

use check::Purpose;
use files::Files;
use std::path::Path;

/// Where the file is unless the operator says otherwise.
pub const DEFAULT_PATH: &str = "/etc/steadfast/steadfast.toml";

/// Reads the configuration for serving by it on this machine.
///
/// # Errors
/// All problems, when one of them is an error. Warnings alone come with the configuration.
pub fn load(path: &Path, machine: &Machine) -> Result<Config, Diagnostics> {
    read(path, machine, Purpose::Serve, &mut Files::default())
}

/// As [`load`], for the daemon: what is good is kept in `state_dir`, and used when the file cannot be *read* at a
/// later start, because it lies on a mount that hangs or is not there yet. A file that is wrong is refused.
///
/// # Errors
/// All problems, when one of them is an error.
pub fn load_or_last_good(path: &Path, machine: &Machine, state_dir: &Path) -> Result<Config, Diagnostics> {
    let mut files = Files::default();
    let mut config = match read(path, machine, Purpose::Serve, &mut files) {
        Ok(config) => config,
        Err(problems) => {
            let Some((absent, why)) = files.unreadable() else {
                return Err(problems);
            };
            let kept = Files::last_good(state_dir);
            let kept = kept.and_then(|mut kept| read(path, machine, Purpose::Serve, &mut kept).ok());
            let Some(mut config) = kept else {
                return Err(problems);
            };
            config.warnings.push(
                Diagnostic::warning(format!("{} cannot be read: {why}", absent.display()))
                    .help("the copy of the last good configuration is used; make the file readable and reload"),
            );
            return Ok(config);
        }
    };
    if let Err(error) = files.keep(state_dir) {
        config.warnings.push(
            Diagnostic::warning(format!(
                "no copy of the configuration could be kept in {}: {error}",
                state_dir.display()
            ))
            .help("free space or make the directory writable; the copy is used when the file cannot be read"),
        );
    }
    Ok(config)
}

/// Checks a text as [`load`] would check a file: for tests and for a configuration that is about to be written.
///
/// # Errors
/// All problems, when one of them is an error.
pub fn load_text(path: &Path, text: &str, machine: &Machine) -> Result<Config, Diagnostics> {
    checked(path, &Source::new(path, text.to_owned()), machine, Purpose::Serve, &mut Files::default())
}

fn read(path: &Path, machine: &Machine, purpose: Purpose, files: &mut Files) -> Result<Config, Diagnostics> {
    let source = files.read(path).map_err(|error| unreadable(path, &error))?;
    checked(path, &source, machine, purpose, files)
}

fn checked(
    path: &Path,
    source: &std::sync::Arc<Source>,
    machine: &Machine,
    purpose: Purpose,
    files: &mut Files,
) -> Result<Config, Diagnostics> {
    let mut problems = Diagnostics::default();
    let config = parse::parse(source, &mut problems)
        .and_then(|spec| check::check(path, source, spec, machine, purpose, files, &mut problems));
    match config {
        Some(mut config) => {
            config.warnings = problems;
            Ok(config)
        }
        None => Err(problems),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostics {
    let help = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "write one (packaging/steadfast.toml is a sample), or name another with --config FILE"
        }
        std::io::ErrorKind::PermissionDenied => "run this as root",
        _ => "mend the file or the filesystem that it lies on, or name another with --config FILE",
    };
    let title = format!("{} cannot be read: {error}", path.display());
    Diagnostics(vec![Diagnostic::error(title).help(help)])
}
