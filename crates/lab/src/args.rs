//! The command line: what may be asked from outside, and what runs inside a laboratory's namespaces.

use crate::bench;
use crate::chaos;
use crate::lab::Net;
use crate::site::{Site, Storage, Subject};
use crate::suite;
use crate::torture;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "steadfast-lab", about = "Laboratory of whole servers in namespaces (development only)")]
pub(crate) struct Cli {
    /// Which running laboratory is meant, when there are several
    #[arg(long, global = true)]
    pub(crate) lab: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Cmd,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// What the nodes share
    #[arg(long, value_enum, default_value = "gluster")]
    pub(crate) storage: Storage,
    /// Number of nodes
    #[arg(long, default_value_t = 4)]
    pub(crate) nodes: usize,
    /// A second network between the nodes, for storage and control
    #[arg(long)]
    pub(crate) private_net: bool,
    /// IPv6 addresses too
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// What makes one service of the nodes
    #[arg(long, value_enum, default_value = "steadfast")]
    pub(crate) subject: Subject,
    /// The daemon's preset: normal or fast
    #[arg(long, value_parser = ["normal", "fast"])]
    pub(crate) preset: Option<String>,
    /// Samba with clustering: one server of all nodes
    #[arg(long)]
    pub(crate) clustering: bool,
    /// GlusterFS with an arbiter beside every two copies
    #[arg(long)]
    pub(crate) arbiter: bool,
    /// The Samba of the Debian in this directory (scripts/install-needs samba-next makes one)
    #[arg(long)]
    pub(crate) samba_root: Option<PathBuf>,
    /// Daemons without these parts, to see that it shows
    #[arg(long, hide = true)]
    pub(crate) without: Option<String>,
    /// The program under test (default: beside this one)
    #[arg(long)]
    pub(crate) steadfast: Option<PathBuf>,
}

impl Shape {
    /// The reference site.
    pub(crate) fn reference(storage: Storage, steadfast: Option<PathBuf>) -> Self {
        Self {
            storage,
            nodes: 4,
            private_net: false,
            ipv6: false,
            subject: Subject::Steadfast,
            preset: None,
            clustering: false,
            arbiter: false,
            samba_root: None,
            without: None,
            steadfast,
        }
    }

    pub(crate) fn site(&self, id: &str) -> Result<Site> {
        let steadfast = match &self.steadfast {
            Some(path) => path.canonicalize().with_context(|| format!("no program at {}", path.display()))?,
            None => std::env::current_exe()?.with_file_name("steadfast"),
        };
        if self.subject.is_steadfast() && !steadfast.exists() {
            bail!("{} is not there: build it first (cargo build --profile lab)", steadfast.display());
        }
        if self.arbiter && (self.storage == Storage::Local || self.nodes < 3) {
            bail!("--arbiter: GlusterFS with three nodes or more has one");
        }
        let mut site = Site::new(id.to_owned(), self.storage, self.nodes, steadfast)?;
        site.private_net = self.private_net;
        site.ipv6 = self.ipv6;
        site.subject = self.subject;
        site.preset.clone_from(&self.preset);
        site.clustering = self.clustering;
        site.arbiter = self.arbiter;
        site.samba_root.clone_from(&self.samba_root);
        site.without.clone_from(&self.without);
        Ok(site)
    }

    pub(crate) fn words(&self) -> Vec<String> {
        let storage = if self.storage == Storage::Gluster { "gluster" } else { "local" };
        let mut words = vec!["--storage".into(), storage.into(), "--nodes".into(), self.nodes.to_string()];
        words.extend(["--subject".into(), self.subject.word().into()]);
        let flags = [
            (self.private_net, "--private-net"),
            (self.ipv6, "--ipv6"),
            (self.clustering, "--clustering"),
            (self.arbiter, "--arbiter"),
        ];
        words.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_owned()));
        if let Some(preset) = &self.preset {
            words.extend(["--preset".into(), preset.clone()]);
        }
        if let Some(root) = &self.samba_root {
            words.extend(["--samba-root".into(), root.display().to_string()]);
        }
        if let Some(parts) = &self.without {
            words.extend(["--without".into(), parts.clone()]);
        }
        if let Some(path) = &self.steadfast {
            words.extend(["--steadfast".into(), path.display().to_string()]);
        }
        words
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cmd {
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
    /// Make a fault on the running laboratory and measure what clients see
    Drill(DrillOptions),
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
    /// Samba's own tests of servers, on Debian's CTDB and on this daemon
    Smbtorture(torture::plan::Options),
    /// Random faults for a while under SMB and NFS clients that check every byte and lock
    Chaos {
        /// What the nodes share
        #[arg(long, value_enum, default_value = "local")]
        storage: Storage,
        /// A second network between the nodes, for storage and control
        #[arg(long)]
        private_net: bool,
        #[command(flatten)]
        options: chaos::Options,
        /// Daemons without these parts, to see that it shows
        #[arg(long, hide = true)]
        without: Option<String>,
        /// The program under test (default: beside this one)
        #[arg(long)]
        steadfast: Option<PathBuf>,
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

#[derive(Debug, Clone, Args)]
pub(crate) struct DrillOptions {
    /// power-off, leader-power-off, daemon-killed, daemon-stopped, public-link-down, private-link-down, service-killed,
    /// service-hung, mount-hung, drain, rejoin
    pub(crate) fault: drill::Fault,
    /// The node that it hits; by default one that does not lead
    #[arg(long, value_name = "NODE")]
    pub(crate) on: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the timeline to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum BenchKind {
    /// What clients see when a server fails
    Failover(bench::plan::Options),
    /// Clustered databases, as clients of CTDB's protocol see them
    Db(bench::db::plan::Options),
    /// Four nodes with all processors busy: view changes, false failovers, stalls
    Load {
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        #[arg(long, value_enum, default_value = "local")]
        storage: Storage,
        #[arg(long, value_parser = ["normal", "fast"])]
        preset: Option<String>,
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
pub(crate) enum Inside {
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
    BenchBlock {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        plan: PathBuf,
    },
    BenchDatabase {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        plan: PathBuf,
    },
    Smbtorture {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        plan: PathBuf,
    },
    BenchLoad {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        minutes: f64,
        #[arg(long)]
        json: bool,
    },
    Chaos {
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        options: chaos::Options,
    },
    BenchIdle {
        #[command(flatten)]
        shape: Shape,
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        json: bool,
    },
    Exec {
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    Drill(DrillOptions),
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

/// Clients that count.
#[derive(Debug, clap::Args)]
pub(crate) struct Counting {
    /// NFS version, 3 or 4
    #[arg(long)]
    pub(crate) nfs: u8,
    /// Whom each client asks
    #[arg(long, required = true)]
    pub(crate) server: Vec<IpAddr>,
    #[arg(long, default_value = "/vol1")]
    pub(crate) export: String,
    /// What each client counts in
    #[arg(long, required = true)]
    pub(crate) path: Vec<String>,
    #[arg(long, default_value_t = 2000)]
    pub(crate) stall_ms: u64,
}

/// A lock that two clients want.
#[derive(Debug, clap::Args)]
pub(crate) struct Contest {
    /// Whom its holder asks
    #[arg(long)]
    pub(crate) server: IpAddr,
    /// Whom the rival asks
    #[arg(long)]
    pub(crate) other: IpAddr,
    #[arg(long, default_value = "/vol1")]
    pub(crate) export: String,
    #[arg(long)]
    pub(crate) path: String,
}

/// A file on an NFS server.
#[derive(Debug, clap::Args)]
pub(crate) struct NfsFile {
    #[arg(long)]
    pub(crate) server: IpAddr,
    #[arg(long, default_value = "/vol1")]
    pub(crate) export: String,
    #[arg(long)]
    pub(crate) path: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProbeKind {
    /// Connect to the ident server behind an address
    Tcp {
        #[arg(long)]
        target: IpAddr,
        #[arg(long, default_value_t = 5)]
        interval_ms: u64,
    },
    /// Write a file over NFSv3, block by block
    NfsWriter {
        #[command(flatten)]
        file: NfsFile,
        #[arg(long, default_value_t = 20)]
        interval_ms: u64,
    },
    /// Count in a file over NFS, under a lock
    NfsCount(Counting),
    /// Hold a lock over NFSv3, while a rival wants it through another server
    Nfs3Hold(Contest),
    /// Write to a file over NFSv3 what standard input says, line by line
    Nfs3Say(NfsFile),
    /// Hold a lock over NFSv4, while a rival wants it through another server
    NfsHold(Contest),
    /// Write to the shared mount on a node, under a lock
    MountWriter {
        #[arg(long)]
        path: PathBuf,
        /// First letters of every line
        #[arg(long)]
        tag: String,
        /// Each block once, then end
        #[arg(long)]
        once: bool,
    },
    /// Write to files of the shared mount on a node, and read back at once
    ReadBack {
        #[arg(long)]
        directory: PathBuf,
    },
    /// Try one operation on the shared mount of a node until it works or its time is over
    Attempt {
        #[arg(long, value_enum)]
        what: crate::probe::attempt::What,
        #[arg(long)]
        path: PathBuf,
        /// Which block is written
        #[arg(long, default_value_t = 0)]
        block: u64,
        /// Microseconds of CLOCK_MONOTONIC
        #[arg(long)]
        until_us: u64,
    },
    /// Check what the writer wrote
    NfsVerify {
        #[command(flatten)]
        file: NfsFile,
        #[arg(long)]
        blocks: u64,
    },
    /// A client of the clustered databases, as lines on standard input say
    Database(bench::db::worker::Options),
    /// A client of the clustered databases that counts through a fault
    ClientOfDatabases(crate::probe::databases::Options),
    /// Stop a process while it holds a chain lock on a TDB file
    ChainLock(crate::probe::chain_lock::Options),
    /// Keep every connection to a port
    CrowdServer {
        #[arg(long)]
        port: u16,
    },
    /// Open many connections to each target and keep them
    Crowd {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<SocketAddr>,
        #[arg(long)]
        count: usize,
    },
    /// Wait until this node's databases know of as many connections to each target
    CrowdKnown {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<SocketAddr>,
        #[arg(long)]
        count: usize,
    },
    /// Whether Samba is told of each address before it leaves
    Told,
    /// The drill's clients, as the line on standard input says
    Drill,
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
    /// Ping many addresses
    Sweep {
        #[arg(long, value_delimiter = ',')]
        targets: Vec<Ipv4Addr>,
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
