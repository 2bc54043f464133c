//! The clusters that are asked: four nodes at 192.168.122.100 to .103, four public addresses from .200 on eth0, address n
//! on node n.

use crate::lab::Lab;
use crate::{sh, site};
use anyhow::{Context, Result, bail};
use std::fmt::Debug;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const NODES: usize = 4;
/// A command takes at most its own 120 s.
const LIMIT: Duration = Duration::from_secs(130);
/// Debian's tool, whatever else is called `ctdb`.
const TOOL: &str = "/usr/bin/ctdb";
/// The one event script that both have: it says no to an address that is nobody's, and nothing to all else.
const SCRIPT: &str = "#!/bin/sh
[ \"$1\" != takeip ] || [ \"$3\" != 192.0.2.1 ] || { echo nobody knows it; exit 3; }
";
const SCRIPT_NAME: &str = "events/legacy/01.golden.script";

pub(crate) trait Rival: Debug {
    /// The tool, to be asked on a node; arguments are added.
    fn tool(&self, node: usize) -> Result<Command>;

    /// A text without this cluster's own paths.
    fn plain(&self, text: &str) -> String;

    /// Runs the tool on a node.
    fn ask(&self, node: usize, words: &[&str], input: &str) -> Result<sh::Outcome> {
        let mut command = self.tool(node)?;
        command.args(words);
        sh::outcome_of(&mut command, input, LIMIT)
    }

    /// Brings about the state that everything begins with.
    fn begin(&self) -> Result<()> {
        sh::wait_for("every node to be OK", Duration::from_secs(90), || {
            let said = self.ask(0, &["nodestatus", "all"], "")?;
            if said.ok() { Ok(Some(())) } else { bail!("{}", said.text()) }
        })?;
        for node in 0..NODES {
            let address = format!("192.168.122.{}", 200 + node);
            sh::wait_for(&format!("{address} to be on node {node}"), Duration::from_secs(60), || {
                let all = self.ask(0, &["ip", "all"], "")?.stdout;
                if all.lines().any(|l| l.trim() == format!("{address} {node}")) {
                    return Ok(Some(()));
                }
                let moved = self.ask(0, &["moveip", &address, &node.to_string()], "")?;
                bail!("{}\n{all}", moved.text())
            })?;
        }
        Ok(())
    }
}

fn nodes_file() -> String {
    (0..NODES).map(|n| format!("192.168.122.{}\n", 100 + n)).collect()
}

/// The daemons of this laboratory.
#[derive(Debug)]
pub(crate) struct Daemons<'a>(pub(crate) &'a Lab);

impl<'a> Daemons<'a> {
    /// The tool reads the nodes' list itself. Whether event scripts are run is the daemons' configuration; those that
    /// Debian's package enables are put aside.
    pub(crate) fn new(lab: &'a Lab) -> Result<Self> {
        for host in lab.site.names() {
            lab.shell(&host, "mkdir -p /etc/ctdb/events/legacy; rm -f /etc/ctdb/events/legacy/*.script")?;
            lab.write(&host, "/etc/ctdb/nodes", &nodes_file())?;
            lab.write(&host, &format!("/etc/ctdb/{SCRIPT_NAME}"), SCRIPT)?;
            lab.shell(&host, &format!("chmod 755 /etc/ctdb/{SCRIPT_NAME}"))?;
        }
        Ok(Self(lab))
    }
}

impl Rival for Daemons<'_> {
    fn tool(&self, node: usize) -> Result<Command> {
        self.0.command(&site::name(node), &[TOOL])
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for kind in ["volatile", "persistent", "state"] {
            for dir in ["/var/lib/steadfast/db", "/var/lib/ctdb", "/run/steadfast"] {
                text = text.replace(&format!("{dir}/{kind}/"), &format!("{}/", kind.to_uppercase()));
            }
        }
        text.replace(&format!("{}/.steadfast/lock", site::MOUNT), "LOCK").replace("/run/ctdb/ctdbd.socket", "SOCKET")
    }
}

/// Debian's ctdbd, one for each node, in a network namespace of its own that has all their addresses. It runs as its own
/// test-suite does: public addresses are given out and kept in mind, but on no interface.
#[derive(Debug)]
pub(crate) struct Stock {
    dir: PathBuf,
    /// Keeps the namespace.
    keeper: Child,
    daemons: Vec<Child>,
}

const NETWORK: &str = "ip link set lo up
ip link add eth0 type veth peer name eth0p
ip link set eth0p up
ip link set eth0 up
for i in 0 1 2 3; do ip addr add 192.168.122.10$i/24 dev eth0; done
echo up
exec sleep infinity";

impl Stock {
    /// Starts all of them; `dir` must not be there yet and is removed in the end.
    pub(crate) fn start(dir: PathBuf) -> Result<Self> {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-ec", NETWORK])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start `unshare --net`")?;
        let mut first = [0; 3];
        let out = keeper.stdout.as_mut().context("no output")?;
        let up = std::io::Read::read_exact(out, &mut first);
        let mut stock = Self { dir, keeper, daemons: Vec::new() };
        up.context("the network namespace did not come up")?;
        for node in 0..NODES {
            stock.write_files(node)?;
            let child = stock.inside(node, "ctdbd")?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
            stock.daemons.push(child);
        }
        Ok(stock)
    }

    fn base(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node.{node}"))
    }

    fn write_files(&self, node: usize) -> Result<()> {
        let base = self.base(node);
        for dir in ["run", "events/legacy", "volatile", "persistent", "state"] {
            let dir = base.join(dir);
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let at = base.display();
        let conf = format!(
            "[logging]\n\tlocation = file:{at}/log.ctdb\n\tlog level = NOTICE\n\
             [cluster]\n\tcluster lock = {}/lock\n\tnode address = 192.168.122.{}\n\
             [database]\n\tvolatile database directory = {at}/volatile\n\tpersistent database directory = {at}/persistent\n\
             \tstate database directory = {at}/state\n\ttdb mutexes = false\n",
            self.dir.display(),
            100 + node
        );
        let addresses: String = (0..NODES).map(|n| format!("192.168.122.{}/24 eth0\n", 200 + n)).collect();
        for (name, text) in [("ctdb.conf", conf), ("nodes", nodes_file()), ("public_addresses", addresses)] {
            std::fs::File::create(base.join(name))?.write_all(text.as_bytes())?;
        }
        let script = base.join(SCRIPT_NAME);
        std::fs::write(&script, SCRIPT)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn inside(&self, node: usize, program: &str) -> Result<Command> {
        let pid = self.keeper.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "--", program]).env_clear();
        command.envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8"), ("CTDB_TEST_MODE", "yes")]);
        command.env("CTDB_BASE", self.base(node));
        Ok(command)
    }
}

impl Rival for Stock {
    fn tool(&self, node: usize) -> Result<Command> {
        self.inside(node, TOOL)
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.replace(&format!("{}/lock", self.dir.display()), "LOCK");
        for node in 0..NODES {
            let base = self.base(node);
            for kind in ["volatile", "persistent", "state"] {
                text = text.replace(&format!("{}/{kind}/", base.display()), &format!("{}/", kind.to_uppercase()));
            }
            text = text.replace(&format!("{}/run/ctdbd.socket", base.display()), "SOCKET");
        }
        text
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        for node in 0..self.daemons.len() {
            // One that does not answer loses its standard input next, and ends of that.
            let _ = self.ask(node, &["-T", "5", "shutdown"], "");
        }
        for child in &mut self.daemons {
            drop(child.stdin.take());
        }
        for child in &mut self.daemons {
            let _ = child.wait();
        }
        sh::kill_group(&mut self.keeper);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
