//! `steadfast import-ctdb`: one configuration from CTDB's files.

use super::local::{colour_on_errors, machine};
use crate::args::ImportOptions;
use crate::exit::Fail;
use crate::{out, render};
use node::config::{self, Places};
use serde_json::json;
use std::io::{ErrorKind, Write};
use std::path::Path;

pub(super) fn main(options: &ImportOptions, as_json: bool) -> Result<(), Fail> {
    let places = Places { base: options.base.clone(), root: "/".into() };
    let imported = config::import(&places, &machine(None)?).map_err(|problems| {
        Fail::Other(format!(
            "nothing was written: CTDB's files cannot be taken over as they are\n{}",
            problems.render(colour_on_errors(as_json))
        ))
    })?;
    if let Some(file) = &options.output {
        write(file, &imported.config, options.force)?;
    }
    if as_json {
        return out::json(&json!({
            "ok": true,
            "written": options.output,
            "config": imported.config,
            "lines": imported.lines,
            "notes": imported.notes,
        }));
    }
    // standard error may be another terminal than standard output: neither its width nor its colours are known
    eprint!("{}", render::imported(&imported, render::Style::plain()));
    match &options.output {
        None => out::print(&imported.config),
        Some(file) => {
            eprintln!("Written: {}. Next: steadfast config check {0}", file.display());
            Ok(())
        }
    }
}

/// The whole file or none of it. What is there stays unless `force` is given.
fn write(file: &Path, text: &str, force: bool) -> Result<(), Fail> {
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Fail::Other(format!(
            "{} is there already and was left as it is: name another file, or say --force to overwrite it",
            file.display()
        )),
        ErrorKind::NotFound => {
            Fail::Other(format!("cannot write {}: its directory is not there: make it first", file.display()))
        }
        _ => Fail::Other(format!("cannot write {}: {error}", file.display())),
    };
    let mut name = file.file_name().ok_or_else(|| Fail::Other(format!("{} is no file", file.display())))?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = file.with_file_name(name);
    let made = (|| {
        let mut new = std::fs::File::create_new(&fresh)?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        // a link, unlike a rename, does not replace what is there
        if force { std::fs::rename(&fresh, file) } else { std::fs::hard_link(&fresh, file) }
    })();
    // gone after a rename; else our own, under a name that nobody looks for
    let _ = std::fs::remove_file(&fresh);
    made.map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_only_overwritten_when_told_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("steadfast.toml");
        write(&file, "one", false).expect("new");
        let refused = write(&file, "two", false).expect_err("there").to_string();
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "one");
        write(&file, "two", true).expect("told to");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "two");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left behind");
        let nowhere = write(&dir.path().join("no/where"), "", false).expect_err("no directory").to_string();
        assert!(nowhere.contains("make it first"), "{nowhere}");
    }
}
