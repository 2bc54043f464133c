//! `steadfast-lab`: a laboratory of whole servers on one machine, for the demo, the tests and the benchmarks.
//!
//! Development only; nothing of it is installed. Commands either start a laboratory (`up`, `demo`, `test`, `bench`)
//! or work on a running one from another shell (`exec`, `power-off`, `partition`, ...).

mod bench;
mod cases;
mod demo;
mod files;
mod host_init;
mod lab;
mod launch;
mod parts;
mod pid1;
mod probe;
mod sh;
mod site;
mod stats;
mod steadfast;
mod suite;
mod switch;
mod vm;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use lab::{Lab, Net};
use parts::Progress;
use site::{Site, Storage};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(
    name = "steadfast-lab",
    about = "Laboratory of whole servers in namespaces (development only)"
)]
struct Cli {
    /// Which running laboratory is meant, when there are several
    #[arg(long, global = true)]
    lab: Option<String>,
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Clone, Args)]
struct Shape {
    /// What the nodes share
    #[arg(long, value_enum, default_value = "gluster")]
    storage: Storage,
    /// Number of nodes
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// A second network between the nodes, for storage and control
    #[arg(long)]
    private_net: bool,
    /// IPv6 addresses too
    #[arg(long)]
    ipv6: bool,
    /// Start the services by hand, without the daemon
    #[arg(long)]
    without_daemon: bool,
    /// The program under test (default: beside this one)
    #[arg(long)]
    steadfast: Option<PathBuf>,
}

impl Shape {
    /// The reference site.
    fn reference(storage: Storage, steadfast: Option<PathBuf>) -> Self {
        Self {
            storage,
            nodes: 4,
            private_net: false,
            ipv6: false,
            without_daemon: false,
            steadfast,
        }
    }

    fn site(&self, id: &str) -> Result<Site> {
        let steadfast = match &self.steadfast {
            Some(path) => path
                .canonicalize()
                .with_context(|| format!("no program at {}", path.display()))?,
            None => std::env::current_exe()?.with_file_name("steadfast"),
        };
        if !self.without_daemon && !steadfast.exists() {
            bail!(
                "{} is not there: build it first (cargo build --profile lab)",
                steadfast.display()
            );
        }
        let mut site = Site::new(id.to_owned(), self.storage, self.nodes, steadfast)?;
        site.private_net = self.private_net;
        site.ipv6 = self.ipv6;
        site.daemon = !self.without_daemon;
        Ok(site)
    }

    fn words(&self) -> Vec<String> {
        let storage = if self.storage == Storage::Gluster {
            "gluster"
        } else {
            "local"
        };
        let mut words = vec![
            "--storage".into(),
            storage.into(),
            "--nodes".into(),
            self.nodes.to_string(),
        ];
        let flags = [
            (self.private_net, "--private-net"),
            (self.ipv6, "--ipv6"),
            (self.without_daemon, "--without-daemon"),
        ];
        words.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_owned()));
        if let Some(path) = &self.steadfast {
            words.extend(["--steadfast".into(), path.display().to_string()]);
        }
        words
    }
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Bring a laboratory up; it stays until `down`
    Up(Shape),
    /// End the laboratory
    Down {
        /// Only clear away what dead laboratories left
        #[arg(long)]
        all_stale: bool,
    },
    /// Show running laboratories
    List,
    /// Run a command on a node, the client or the watcher
    Exec {
        host: String,
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a command on the client host
    Client {
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Cut a node's power: cables first, then every process at once
    PowerOff { node: String },
    /// Power on; the node boots with its disk as it was
    PowerOn { node: String },
    /// Plug or unplug a cable
    Link {
        node: String,
        #[arg(value_enum)]
        net: Net,
        #[arg(value_parser = ["up", "down"])]
        state: String,
    },
    /// Split the networks into groups of hosts: 'gluster1|gluster2,gluster3' ('heal' undoes)
    Partition {
        groups: String,
        /// Only this network
        #[arg(long, value_enum)]
        net: Option<Net>,
    },
    #[command(hide = true)]
    Pid1 {
        #[arg(long)]
        id: String,
        #[arg(last = true)]
        words: Vec<String>,
    },
    #[command(hide = true)]
    HostInit {
        #[arg(long)]
        spec: PathBuf,
    },
    /// Boot a virtual machine beside the running laboratory and run shell lines in it
    Vm {
        #[arg(required = true)]
        lines: Vec<String>,
    },
    /// The reference site, with commands to try, until Ctrl-C
    Demo {
        #[arg(long, value_enum, default_value = "gluster")]
        storage: Storage,
        #[arg(long)]
        steadfast: Option<PathBuf>,
    },
    /// The laboratory tests
    Test(suite::Selection),
    /// Benchmarks
    Bench {
        #[command(subcommand)]
        bench: BenchKind,
    },
    /// Run a probe here until standard input closes
    Probe {
        #[command(subcommand)]
        probe: ProbeKind,
    },
    #[command(hide = true)]
    Inside {
        #[arg(long)]
        id: String,
        #[command(subcommand)]
        command: Inside,
    },
}

#[derive(Debug, Clone, Subcommand)]
enum BenchKind {
    /// What clients see when a server fails
    Failover {
        #[arg(long, value_enum, default_value = "power-off")]
        case: bench::Fault,
        #[arg(long, value_enum, default_value = "steadfast")]
        subject: bench::Subject,
        #[arg(long, default_value_t = 10)]
        runs: usize,
        #[arg(long, value_enum, default_value = "gluster")]
        storage: Storage,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
        #[arg(long)]
        steadfast: Option<PathBuf>,
    },
    /// Memory and CPU of idle daemons
    Idle {
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        #[arg(long, value_enum, default_value = "gluster")]
        storage: Storage,
        /// One JSON object on standard output
        #[arg(long)]
        json: bool,
        #[arg(long)]
        steadfast: Option<PathBuf>,
    },
}

/// What runs inside a laboratory's namespaces.
#[derive(Debug, Subcommand)]
enum Inside {
    Up(Shape),
    Vm {
        lines: Vec<String>,
    },
    Demo(Shape),
    Test {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        result: PathBuf,
        #[arg(long = "case")]
        cases: Vec<String>,
    },
    Bench {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        runs: Option<usize>,
        #[arg(long)]
        idle: Option<u64>,
        #[arg(long)]
        json: bool,
    },
    Exec {
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    PowerOff {
        node: String,
    },
    PowerOn {
        node: String,
    },
    Link {
        node: String,
        #[arg(value_enum)]
        net: Net,
        state: String,
    },
    Partition {
        groups: String,
        #[arg(long, value_enum)]
        net: Option<Net>,
    },
}

#[derive(Debug, Subcommand)]
enum ProbeKind {
    /// Connect to the ident server behind an address
    Tcp {
        #[arg(long)]
        target: IpAddr,
        #[arg(long, default_value_t = 5)]
        interval_ms: u64,
    },
    /// Write a file over NFSv3, block by block
    NfsWriter {
        #[arg(long)]
        server: IpAddr,
        #[arg(long, default_value = "/vol1")]
        export: String,
        #[arg(long)]
        path: String,
        #[arg(long, default_value_t = 20)]
        interval_ms: u64,
    },
    /// Check what the writer wrote
    NfsVerify {
        #[arg(long)]
        server: IpAddr,
        #[arg(long, default_value = "/vol1")]
        export: String,
        #[arg(long)]
        path: String,
        #[arg(long)]
        blocks: u64,
    },
    /// Throw garbage at ports
    Garbage {
        #[arg(long)]
        target: IpAddr,
        #[arg(long)]
        tcp: Vec<u16>,
        #[arg(long)]
        udp: Vec<u16>,
        #[arg(long, default_value_t = 80)]
        rounds: u64,
    },
    /// Watch who claims the VIPs
    Arp {
        #[arg(long, default_value = "eth0")]
        interface: String,
        #[arg(long)]
        own: Ipv4Addr,
        #[arg(long, value_delimiter = ',')]
        vips: Vec<Ipv4Addr>,
        #[arg(long, default_value_t = 50)]
        interval_ms: u64,
    },
}

fn run_probe(probe: ProbeKind) -> Result<i32> {
    match probe {
        ProbeKind::Tcp { target, interval_ms } => {
            probe::tcp::main(target, Duration::from_millis(interval_ms))
        }
        ProbeKind::NfsWriter {
            server,
            export,
            path,
            interval_ms,
        } => probe::nfs_writer::main(server, &export, &path, Duration::from_millis(interval_ms)),
        ProbeKind::NfsVerify {
            server,
            export,
            path,
            blocks,
        } => probe::nfs_writer::verify(server, &export, &path, blocks),
        ProbeKind::Garbage {
            target,
            tcp,
            udp,
            rounds,
        } => probe::garbage::main(target, &tcp, &udp, rounds),
        ProbeKind::Arp {
            interface,
            own,
            vips,
            interval_ms,
        } => probe::arp::main(&interface, own, &vips, Duration::from_millis(interval_ms)),
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
            println!(
                "cleared away: {}",
                if gone.is_empty() {
                    "nothing".into()
                } else {
                    gone.join(", ")
                }
            );
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
                let state = if e.alive() {
                    "running"
                } else {
                    "dead (steadfast-lab down --all-stale)"
                };
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
        Cmd::Link { node, net, state } => relay(
            lab,
            &[
                "link",
                &node,
                if net == Net::Public { "public" } else { "private" },
                &state,
            ],
        ),
        Cmd::Partition { groups, net } => {
            let mut all = vec!["partition", groups.as_str()];
            match net {
                Some(Net::Public) => all.extend(["--net", "public"]),
                Some(Net::Private) => all.extend(["--net", "private"]),
                None => {}
            }
            relay(lab, &all)
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
            let shape = Shape::reference(storage, steadfast);
            run_inside(&shape, &["demo"], &[])
        }
        Cmd::Test(selection) => suite::main(&selection),
        Cmd::Bench { bench } => bench_outside(bench),
        Cmd::Probe { probe } => run_probe(probe),
        Cmd::Inside { id, command } => inside(&id, command),
    }
}

fn bench_outside(bench: BenchKind) -> Result<i32> {
    let (mut words, json, shape) = match bench {
        BenchKind::Failover {
            case: bench::Fault::PowerOff,
            subject: bench::Subject::Steadfast,
            runs,
            storage,
            json,
            steadfast,
        } => (
            strings(&["--runs", &runs.to_string()]),
            json,
            Shape::reference(storage, steadfast),
        ),
        BenchKind::Idle {
            seconds,
            storage,
            json,
            steadfast,
        } => (
            strings(&["--idle", &seconds.to_string()]),
            json,
            Shape::reference(storage, steadfast),
        ),
    };
    if json {
        words.push("--json".into());
    }
    run_inside(&shape, &["bench"], &words)
}

/// Starts a laboratory that ends with its work, or with this process; the work's exit code.
fn run_inside(shape: &Shape, command: &[&str], words: &[String]) -> Result<i32> {
    parts::check_programs(shape.storage)?;
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
    exe.parent()
        .and_then(std::path::Path::parent)
        .map_or_else(|| PathBuf::from("target"), PathBuf::from)
        .join(kind)
}

fn up(shape: &Shape) -> Result<i32> {
    parts::check_programs(shape.storage)?;
    launch::sweep();
    let id = new_id();
    shape.site(&id)?;
    let mut words = strings(&["up"]);
    words.extend(shape.words());
    let mut launched = launch::Launched::start(&id, &words)?;
    let ready = PathBuf::from(launch::REGISTRY).join(format!("{id}.ready"));
    while !ready.exists() {
        if !launched.running()? {
            return launched.wait();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::remove_file(&ready)?;
    launched.detach()?;
    println!("laboratory {id} is up; end it with: steadfast-lab down --lab {id}");
    Ok(0)
}

fn inside(id: &str, command: Inside) -> Result<i32> {
    if let Inside::Up(shape) = command {
        let lab = Lab::create(shape.site(id)?)?;
        let progress = Progress::new();
        parts::up(&lab, &progress)?;
        if lab.site.daemon {
            steadfast::form(&lab, &progress)?;
        }
        std::fs::write(PathBuf::from(launch::REGISTRY).join(format!("{id}.ready")), "")?;
        loop {
            std::thread::park();
        }
    }
    match command {
        Inside::Demo(shape) => {
            demo::main(&Lab::create(shape.site(id)?)?)?;
            loop {
                std::thread::park();
            }
        }
        Inside::Test { shape, result, cases } => {
            let lab = Lab::create(shape.site(id)?)?;
            let verdicts = cases::run_group(&lab, &cases)?;
            std::fs::write(&result, serde_json::to_string_pretty(&verdicts)?)
                .with_context(|| format!("cannot write {}", result.display()))?;
            Ok(0)
        }
        Inside::Bench {
            shape,
            runs,
            idle,
            json,
        } => {
            let lab = Lab::create(shape.site(id)?)?;
            match (runs, idle) {
                (Some(runs), _) => bench::failover(&lab, runs, json)?,
                (None, Some(seconds)) => bench::idle(&lab, seconds, json)?,
                (None, None) => bail!("no benchmark was named"),
            }
            Ok(0)
        }
        other => on_running(&Lab::open(id)?, other),
    }
}

/// Commands that work on a laboratory which is up.
fn on_running(lab: &Lab, command: Inside) -> Result<i32> {
    match command {
        Inside::Up(_) | Inside::Demo(_) | Inside::Test { .. } | Inside::Bench { .. } => {}
        Inside::Exec { host, words } => {
            let host = if site::CLIENT == host || site::WATCHER == host {
                host
            } else {
                site::name(lab.site.node(&host)?)
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let status = lab.command(&host, &words)?.status()?;
            return Ok(status.code().unwrap_or(1));
        }
        Inside::Vm { lines } => {
            let mut machine = vm::Machine::boot(lab, "192.168.122.50")?;
            for line in lines {
                print!("{}", machine.run(&line, Duration::from_secs(300))?);
            }
        }
        Inside::PowerOff { node } => lab.power_off(&site::name(lab.site.node(&node)?))?,
        Inside::PowerOn { node } => {
            let node = lab.site.node(&node)?;
            parts::boot(lab, node)?;
            if lab.site.daemon {
                steadfast::start(lab, node)?;
            }
        }
        Inside::Link { node, net, state } => {
            switch::link(lab, &site::name(lab.site.node(&node)?), net, state == "up")?;
        }
        Inside::Partition { groups, net } => {
            let groups = if groups == "heal" {
                Vec::new()
            } else {
                switch::parse_groups(&lab.site, &groups)?
            };
            let nets = net.map_or_else(|| vec![Net::Public, Net::Private], |n| vec![n]);
            switch::partition(lab, &groups, &nets)?;
        }
    }
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
