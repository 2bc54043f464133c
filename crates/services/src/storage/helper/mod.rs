//! Child processes that touch the mount so that the daemon need not: [`Helper`] is the daemon's side,
//! [`run`] the entry point of the child, which the command line calls for `steadfast helper KIND ARGS`.
//!
//! They talk in lines of JSON over the child's stdin and stdout, one answer to a request, in order. A child
//! whose stdin closes ends, so none outlives its daemon (unless it hangs in the kernel, and then only as
//! long as that).

mod process;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

pub use process::{Helper, HelperCommand, HelperError};
pub(crate) use serve::serve;

use super::{check, heals, lock, mount};

/// What a helper says about how to call it.
pub const USAGE: &str = "helper kinds:
  mount-probe PATH --node PNN    statfs, write, fsync and read back on a mount, on request
  unmount                        unmounts paths on request
  lock --dir DIR --node PNN      the cluster lock and the records beside it
  heal-count                     counts what waits to be healed on bricks, on request
  check-peer --dir DIR           executes the steps of check-storage below DIR";

/// Runs one helper until its stdin closes. `args` is what follows `steadfast helper`.
///
/// Returns 2 when the arguments are wrong (said on stderr), else 0.
pub fn run(args: &[String]) -> ExitCode {
    let Some((kind, rest)) = args.split_first() else {
        return usage("no helper kind given");
    };
    let mut options = Options::default();
    if let Err(why) = options.parse(rest) {
        return usage(&why);
    }
    match (kind.as_str(), options) {
        ("mount-probe", Options { path: Some(path), node: Some(node), dir: None }) => mount::probe_main(&path, node),
        ("unmount", Options { path: None, node: None, dir: None }) => mount::unmount_main(),
        ("heal-count", Options { path: None, node: None, dir: None }) => heals::helper_main(),
        ("lock", Options { path: None, node: Some(node), dir: Some(dir) }) => lock::main(&dir, node),
        ("check-peer", Options { path: None, node: None, dir: Some(dir) }) => check::peer_main(&dir),
        _ => usage(&format!("`{kind}` is no helper kind or its arguments are incomplete")),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("steadfast helper: {why}\n{USAGE}");
    ExitCode::from(2)
}

#[derive(Debug, Default)]
struct Options {
    path: Option<PathBuf>,
    node: Option<u32>,
    dir: Option<PathBuf>,
}

impl Options {
    fn parse(&mut self, args: &[String]) -> Result<(), String> {
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("`{arg}` needs a value"));
            match arg.as_str() {
                "--dir" => self.dir = Some(PathBuf::from(value()?)),
                "--node" => {
                    let text = value()?;
                    self.node = Some(text.parse().map_err(|_| format!("`{text}` is no node number"))?);
                }
                other if other.starts_with('-') => return Err(format!("unknown option `{other}`")),
                other if self.path.is_none() => self.path = Some(PathBuf::from(other)),
                other => return Err(format!("unexpected argument `{other}`")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        let mut options = Options::default();
        options.parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())?;
        Ok(options)
    }

    #[test]
    fn options_are_read_and_nonsense_is_named() {
        let good = parse(&["--dir", "/m/.steadfast", "--node", "3"]).unwrap();
        assert_eq!((good.dir, good.node), (Some(PathBuf::from("/m/.steadfast")), Some(3)));
        assert!(parse(&["--node", "three"]).unwrap_err().contains("`three`"));
        assert!(parse(&["--dir"]).unwrap_err().contains("needs a value"));
        assert!(parse(&["--bogus"]).unwrap_err().contains("--bogus"));
        assert!(parse(&["/a", "/b"]).unwrap_err().contains("/b"));
    }
}
