//! `steadfast-lab`: a laboratory of whole servers on one machine, for the demo, the tests and the benchmarks.
//!
//! Development only; nothing of it is installed. Commands either start a laboratory (`up`, `demo`, `test`, `bench`)
//! or work on a running one from another shell (`exec`, `power-off`, `partition`, ...).

mod args;
mod bench;
mod cases;
mod chaos;
mod demo;
mod drill;
mod files;
mod golden;
mod host_init;
mod inside;
mod lab;
mod launch;
mod parts;
mod pid1;
mod probe;
mod samba_root;
mod sh;
mod site;
mod smb;
mod steadfast;
mod stock;
mod streams;
mod suite;
mod switch;
mod torture;
mod vm;

use anyhow::{Context, Result};
use args::{BenchKind, Cli, Cmd, ProbeKind, Shape};
use clap::Parser;
use lab::Net;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

fn run_probe(probe: ProbeKind) -> Result<i32> {
    match probe {
        ProbeKind::Tcp { target, interval_ms } => probe::tcp::main(target, Duration::from_millis(interval_ms)),
        ProbeKind::NfsWriter { file, interval_ms } => {
            probe::nfs_writer::main(&file, Duration::from_millis(interval_ms))
        }
        ProbeKind::Attempt { what, path, block, until_us } => probe::attempt::main(what, &path, block, until_us),
        ProbeKind::MountWriter { path, tag, once } => probe::mount_writer::main(&path, &tag, once),
        ProbeKind::ReadBack { directory } => probe::read_back::main(&directory),
        ProbeKind::NfsCount(counting) => probe::nfs_count::main(&counting),
        ProbeKind::Nfs3Hold(contest) => probe::nfs3_hold::main(&contest),
        ProbeKind::Nfs3Say(file) => probe::nfs3_say::main(&file),
        ProbeKind::NfsHold(contest) => probe::nfs_hold::main(&contest),
        ProbeKind::NfsVerify { file, blocks } => probe::nfs_writer::verify(&file, blocks),
        ProbeKind::Database(options) => bench::db::worker::main(&options),
        ProbeKind::ClientOfDatabases(options) => probe::databases::main(&options),
        ProbeKind::ChainLock(options) => probe::chain_lock::main(&options),
        ProbeKind::CrowdServer { port } => probe::crowd::serve(port),
        ProbeKind::Crowd { targets, count } => probe::crowd::open(&targets, count),
        ProbeKind::CrowdKnown { targets, count } => probe::crowd::known(&targets, count),
        ProbeKind::Told => probe::told::main(),
        ProbeKind::Drill => ::drill::clients::main().map(|()| 0),
        ProbeKind::Garbage { target, tcp, udp, rounds } => probe::garbage::main(target, &tcp, &udp, rounds),
        ProbeKind::Sweep { targets } => probe::sweep::main(&targets),
        ProbeKind::Arp { interface, own, vips, interval_ms } => {
            probe::arp::main(&interface, own, &vips, Duration::from_millis(interval_ms))
        }
    }
}

fn new_id() -> String {
    format!("sf{}", std::process::id())
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Passes a command on into the running laboratory.
fn relay(lab: Option<&str>, words: &[&str]) -> Result<i32> {
    launch::enter(&launch::find(lab)?, &strings(words))
}

fn outside(cli: Cli) -> Result<i32> {
    let lab = cli.lab.as_deref();
    match cli.command {
        Cmd::Up(shape) => up(&shape),
        Cmd::Down { all_stale: true } => {
            let gone = launch::sweep();
            println!("cleared away: {}", if gone.is_empty() { "nothing".into() } else { gone.join(", ") });
            Ok(0)
        }
        Cmd::Down { all_stale: false } => {
            let entry = launch::find(lab)?;
            entry.end()?;
            println!("laboratory {} is gone", entry.id);
            Ok(0)
        }
        Cmd::List => {
            for e in launch::entries() {
                let state = if e.alive() { "running" } else { "dead (steadfast-lab down --all-stale)" };
                println!("{}  pid {}  {state}", e.id, e.pid);
            }
            Ok(0)
        }
        Cmd::Exec { host, words } => {
            let mut all = vec!["exec", host.as_str()];
            all.extend(words.iter().map(String::as_str));
            relay(lab, &all)
        }
        Cmd::Client { words } => {
            let mut all = vec!["exec", site::CLIENT];
            all.extend(words.iter().map(String::as_str));
            relay(lab, &all)
        }
        Cmd::PowerOff { node } => relay(lab, &["power-off", &node]),
        Cmd::PowerOn { node } => relay(lab, &["power-on", &node]),
        Cmd::Link { node, net, state } => {
            relay(lab, &["link", &node, if net == Net::Public { "public" } else { "private" }, &state])
        }
        Cmd::Partition { groups, net } => {
            let mut all = vec!["partition", groups.as_str()];
            match net {
                Some(Net::Public) => all.extend(["--net", "public"]),
                Some(Net::Private) => all.extend(["--net", "private"]),
                None => {}
            }
            relay(lab, &all)
        }
        Cmd::Drill(options) => {
            let mut all = strings(&["drill", options.fault.word()]);
            all.extend(options.on.map(|node| format!("--on={node}")));
            if let Some(file) = options.svg {
                all.push(format!("--svg={}", std::path::absolute(file)?.display()));
            }
            all.extend(options.json.then(|| "--json".to_owned()));
            launch::enter(&launch::find(lab)?, &all)
        }
        Cmd::Pid1 { id, words } => pid1::main(&id, &words),
        Cmd::HostInit { spec } => host_init::main(&spec),
        Cmd::Vm { lines } => {
            vm::check_programs()?;
            vm::build_image()?;
            let mut all = vec!["vm"];
            all.extend(lines.iter().map(String::as_str));
            relay(lab, &all)
        }
        Cmd::Demo { storage, steadfast } => {
            let shape = Shape { clustering: true, ..Shape::reference(storage, steadfast) };
            run_inside(&shape, &["demo"], &[])
        }
        Cmd::Test(selection) => suite::main(&selection),
        Cmd::Bench { bench } => bench_outside(bench),
        Cmd::Smbtorture(options) => torture::plan::main(&options),
        Cmd::Chaos { storage, private_net, options, without, steadfast } => {
            // Two copies alone may end in a split brain whatever the daemons do (docs/storage.md).
            let arbiter = storage == site::Storage::Gluster;
            let reference = Shape::reference(storage, steadfast);
            let shape = Shape { clustering: true, arbiter, private_net, without, ..reference };
            run_inside(&shape, &["chaos"], &options.words())
        }
        Cmd::Probe { probe } => run_probe(probe),
        Cmd::Inside { id, command } => inside::main(&id, command),
    }
}

fn bench_outside(bench: BenchKind) -> Result<i32> {
    match bench {
        BenchKind::Failover(options) => bench::plan::main(options),
        BenchKind::Db(options) => bench::db::plan::main(&options),
        BenchKind::Load { minutes, storage, preset, json, steadfast } => {
            let mut words = strings(&["--minutes", &minutes.to_string()]);
            if json {
                words.push("--json".into());
            }
            let mut shape = Shape::reference(storage, steadfast);
            shape.preset = preset;
            run_inside(&shape, &["bench-load"], &words)
        }
        BenchKind::Idle { seconds, storage, json, steadfast } => {
            let mut words = strings(&["--seconds", &seconds.to_string()]);
            if json {
                words.push("--json".into());
            }
            run_inside(&Shape::reference(storage, steadfast), &["bench-idle"], &words)
        }
    }
}

/// Starts a laboratory that ends with its work, or with this process; the work's exit code.
fn run_inside(shape: &Shape, command: &[&str], words: &[String]) -> Result<i32> {
    parts::check_programs(shape.storage, shape.subject)?;
    launch::sweep();
    let id = new_id();
    shape.site(&id)?;
    let mut all = strings(command);
    all.extend(shape.words());
    all.extend_from_slice(words);
    launch::Launched::start(&id, &all)?.wait()
}

/// Where results are kept: below the directory that holds this program's build.
fn artifacts(kind: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.parent().and_then(std::path::Path::parent).map_or_else(|| PathBuf::from("target"), PathBuf::from).join(kind)
}

fn up(shape: &Shape) -> Result<i32> {
    parts::check_programs(shape.storage, shape.subject)?;
    launch::sweep();
    let id = new_id();
    shape.site(&id)?;
    let mut words = strings(&["up"]);
    words.extend(shape.words());
    std::fs::create_dir_all(launch::REGISTRY).with_context(|| format!("cannot make {}", launch::REGISTRY))?;
    let log = launch::log_path(&id);
    let written = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut said = std::fs::File::open(&log)?;
    let mut launched = launch::Launched::start_saying(&id, &words, Some(&written))?;
    let ready = PathBuf::from(launch::REGISTRY).join(format!("{id}.ready"));
    loop {
        let (up, runs) = (ready.exists(), launched.running()?);
        std::io::copy(&mut said, &mut std::io::stdout())?;
        if up {
            break;
        }
        if !runs {
            return launched.wait();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::remove_file(&ready)?;
    launched.detach()?;
    println!("laboratory {id} is up; end it with: steadfast-lab down --lab {id}");
    Ok(0)
}

fn main() -> ExitCode {
    match outside(Cli::parse()) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            eprintln!("steadfast-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}
