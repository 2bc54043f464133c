//! Chooses laboratory tests, gives each group a laboratory, and sums up.

use crate::args::Shape;
use crate::cases::{CASES, Case, Group, Verdict};
use crate::site::{Storage, Subject};
use crate::{launch, parts, samba_root, strings, vm};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Which tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Also the long ones
    #[arg(long)]
    long: bool,
    /// Also those that need virtual machines (real kernel clients)
    #[arg(long)]
    vm: bool,
    /// Only this kind of site
    #[arg(long, value_enum)]
    group: Option<Group>,
    /// Show the tests and end
    #[arg(long)]
    list: bool,
    /// Append 'passed failed skipped' as three numbers to this file
    #[arg(long)]
    tally: Option<PathBuf>,
    /// The program under test (default: beside this one)
    #[arg(long)]
    steadfast: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

fn skip(tally: &mut Tally, case: &Case, why: &str) {
    println!("test {} SKIPPED: {why}", case.name);
    tally.skipped += 1;
}

pub(crate) fn main(selection: &Selection) -> Result<i32> {
    if selection.list {
        for case in CASES {
            println!("{:8} {}{}", case.group.word(), case.name, if case.long { " (--long)" } else { "" });
        }
        return Ok(0);
    }
    launch::sweep();
    let mut tally = Tally::default();
    let mut code = 0;
    for group in Group::ALL {
        let wanted = |c: &&Case| {
            c.group == group
                && selection.group.is_none_or(|g| g == group)
                && selection.filter.as_ref().is_none_or(|f| c.name.contains(f.as_str()))
        };
        let mut run = Vec::new();
        for case in CASES.iter().filter(wanted) {
            if case.long && !selection.long {
                skip(&mut tally, case, "only with --long");
            } else if group == Group::Vm && !selection.vm {
                skip(&mut tally, case, "only with --vm");
            } else {
                run.push(*case);
            }
        }
        if run.is_empty() {
            continue;
        }
        code = run_group(selection, group, &run, &mut tally)?;
        if code == 130 {
            break;
        }
    }
    let all_skipped = tally.passed == 0 && tally.failed.is_empty();
    for line in &tally.failed {
        println!("failed: {line}");
    }
    println!("laboratory: {} passed, {} failed, {} skipped", tally.passed, tally.failed.len(), tally.skipped);
    if let Some(path) = &selection.tally {
        let line = format!("{} {} {}\n", tally.passed, tally.failed.len(), tally.skipped);
        std::fs::write(path, line).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if code == 130 {
        return Ok(130);
    }
    if all_skipped {
        println!("no laboratory test was run: that is no success");
    }
    Ok(i32::from(!tally.failed.is_empty() || all_skipped))
}

fn run_group(selection: &Selection, group: Group, run: &[Case], tally: &mut Tally) -> Result<i32> {
    if let Err(e) = parts::check_programs(group.storage(), Subject::Steadfast)
        .and_then(|()| if group == Group::Vm { vm::check_programs() } else { Ok(()) })
    {
        for case in run {
            skip(tally, case, &format!("{e:#}").replace('\n', "; "));
        }
        return Ok(0);
    }
    if group == Group::Vm {
        vm::build_image()?;
    }
    let mut samba_root = None;
    if group == Group::Next {
        match samba_root::find() {
            Ok(root) => samba_root = Some(root),
            Err(why) => {
                run.iter().for_each(|case| skip(tally, case, &why));
                return Ok(0);
            }
        }
    }
    let shape = Shape {
        storage: group.storage(),
        nodes: 4,
        private_net: group.private_net(),
        ipv6: group == Group::Local,
        subject: Subject::Steadfast,
        preset: None,
        clustering: group.clustering(),
        arbiter: false,
        samba_root,
        without: None,
        steadfast: selection.steadfast.clone(),
    };
    println!(
        "--- {} tests with {}",
        run.len(),
        match (shape.storage, shape.private_net) {
            (Storage::Local, _) if shape.samba_root.is_some() => "a shared directory, a newer Samba as one server",
            (Storage::Local, _) if shape.clustering => "a shared directory, Samba as one server",
            (Storage::Local, false) => "a shared directory",
            (Storage::Local, true) => "a shared directory, and control on a private network",
            (Storage::Gluster, false) => "GlusterFS",
            (Storage::Gluster, true) => "GlusterFS and control on a private network",
        }
    );
    let id = format!("{}-{}", crate::new_id(), group.word());
    shape.site(&id)?;
    let result = crate::artifacts("lab-logs");
    std::fs::create_dir_all(&result)?;
    let result = result.join(format!("{id}.json"));
    let mut words = strings(&["test"]);
    words.extend(shape.words());
    words.extend(["--result".into(), result.display().to_string()]);
    for case in run {
        words.extend(["--case".into(), case.name.into()]);
    }
    let code = launch::Launched::start(&id, &words)?.wait()?;
    let verdicts: Vec<Verdict> = match std::fs::read_to_string(&result) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Vec::new(),
    };
    for case in run {
        match verdicts.iter().find(|v| v.name == case.name) {
            Some(Verdict { failure: None, .. }) => tally.passed += 1,
            Some(Verdict { failure: Some(why), .. }) => {
                tally.failed.push(format!("{}: {}", case.name, why.lines().next().unwrap_or("")));
            }
            None => tally.failed.push(format!("{}: the laboratory did not get to it", case.name)),
        }
    }
    Ok(code)
}
