//! A running laboratory, seen from inside its namespaces: hosts, cables, power.
//!
//! All state that outlives one command is in files below the laboratory's base directory, so that commands from
//! other shells (`power-off`, `link`, `partition`) and the driver see the same. Services are in [`crate::parts`].

use crate::host_init::Spec;
use crate::sh;
use crate::site::{self, CLIENT, Site};
use crate::switch;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Two networks a node may be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Net {
    /// eth0: clients, VIPs.
    Public,
    /// eth1: between nodes only.
    Private,
}

impl Net {
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Public => "eth0",
            Self::Private => "eth1",
        }
    }

    pub(crate) fn bridge(self) -> &'static str {
        match self {
            Self::Public => "lan",
            Self::Private => "mesh",
        }
    }

    /// The switch's port for a host.
    pub(crate) fn port(self, host: &str) -> String {
        match self {
            Self::Public => format!("p-{host}"),
            Self::Private => format!("q-{host}"),
        }
    }
}

/// Handle on a laboratory.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    pub(crate) site: Site,
    pub(crate) base: PathBuf,
}

impl Lab {
    /// Makes the switch and writes down the site; no host is on yet.
    pub(crate) fn create(site: Site) -> Result<Self> {
        let base = site.base();
        for host in site.names().iter().map(String::as_str).chain(site.bystanders().map(|b| b.0)) {
            fs::create_dir_all(base.join("hosts").join(host))?;
        }
        fs::create_dir_all(base.join("shared"))?;
        fs::create_dir_all(base.join("probes"))?;
        fs::write(base.join("site.json"), serde_json::to_string_pretty(&site)?)?;
        let lab = Self { site, base };
        switch::create(&lab.site)?;
        Ok(lab)
    }

    /// The laboratory that this process is inside of.
    pub(crate) fn open(id: &str) -> Result<Self> {
        let base = std::path::Path::new(crate::launch::REGISTRY).join(id);
        let text = fs::read_to_string(base.join("site.json")).context("this laboratory is not up yet")?;
        Ok(Self { site: serde_json::from_str(&text)?, base })
    }

    pub(crate) fn host_dir(&self, host: &str) -> PathBuf {
        self.base.join("hosts").join(host)
    }

    /// A host's disk as it is while the host is off: paths below it are the host's own.
    pub(crate) fn disk(&self, host: &str) -> PathBuf {
        self.host_dir(host).join("upper")
    }

    fn pid(&self, host: &str) -> Option<i32> {
        let pid: i32 = fs::read_to_string(self.host_dir(host).join("pid")).ok()?.trim().parse().ok()?;
        PathBuf::from(format!("/proc/{pid}")).exists().then_some(pid)
    }

    pub(crate) fn is_on(&self, host: &str) -> bool {
        self.pid(host).is_some()
    }

    /// Nodes that have power, by number.
    pub(crate) fn nodes_on(&self) -> Vec<usize> {
        (0..self.site.nodes).filter(|&i| self.is_on(&site::name(i))).collect()
    }

    /// Powers a host on: fresh namespaces and cables, the disk as it was. No service is started.
    pub(crate) fn power_on(&self, host: &str) -> Result<()> {
        if self.is_on(host) {
            return Ok(());
        }
        let dir = self.host_dir(host);
        let spec = Spec { name: host.to_owned(), dir: dir.clone(), binds: self.binds(host)? };
        let file = dir.join("spec.json");
        fs::write(&file, serde_json::to_string(&spec)?)?;
        let log = fs::File::create(dir.join("init.log"))?;
        let mut child = Command::new("setsid")
            .args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--net", "--fork", "--propagation", "private"])
            .arg("--")
            .arg(std::env::current_exe()?)
            .args(["host-init", "--spec"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start `setsid unshare`")?;
        let mut first = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut first)?;
        }
        if first.trim() != "ready" {
            let said = fs::read_to_string(dir.join("init.log")).unwrap_or_default();
            bail!("{host} did not start: {}", said.trim());
        }
        let unshare = child.id();
        // setsid does not fork here (it is no group leader), so unshare is our child and init its child.
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        let pid: i32 = children.split_whitespace().next().context("the host has no first process")?.parse()?;
        fs::write(dir.join("pid"), pid.to_string())?;
        std::thread::spawn(move || child.wait());
        switch::plug(self, host, pid)
    }

    /// Cuts the power: the cables first, so that no FIN or RST reaches anybody, then everything at once.
    pub(crate) fn power_off(&self, host: &str) -> Result<()> {
        let Some(pid) = self.pid(host) else { return Ok(()) };
        switch::dead(self, host)?;
        let raw = rustix::process::Pid::from_raw(pid).context("a host without a pid")?;
        rustix::process::kill_process(raw, rustix::process::Signal::KILL)?;
        sh::wait_for(&format!("{host} to be off"), Duration::from_secs(20), || Ok((!self.is_on(host)).then_some(())))?;
        let _ = fs::remove_file(self.host_dir(host).join("pid"));
        Ok(())
    }

    fn binds(&self, host: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
        let me = std::env::current_exe()?;
        let mut binds = vec![(me, PathBuf::from("/usr/local/sbin/steadfast-lab"))];
        if self.site.bystanders().iter().any(|b| b.0 == host) {
            return Ok(binds);
        }
        if self.site.storage == site::Storage::Gluster {
            let brick = self.host_dir(host).join("brick");
            fs::create_dir_all(&brick)?;
            binds.push((brick, PathBuf::from("/data/brick")));
        } else {
            binds.push((self.base.join("shared"), PathBuf::from(site::MOUNT)));
        }
        if self.site.steadfast.exists() {
            binds.push((self.site.steadfast.clone(), PathBuf::from("/usr/local/sbin/steadfast")));
        }
        Ok(binds)
    }

    /// A command that runs inside a host.
    pub(crate) fn command(&self, host: &str, words: &[&str]) -> Result<Command> {
        let pid = self.pid(host).with_context(|| format!("{host} is off"))?;
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-m", "-u", "-i", "-n", "-p", "--"]);
        command.args(words).env_clear();
        command.envs([
            ("HOME", "/root"),
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C.UTF-8"),
        ]);
        command.env("TERM", std::env::var("TERM").unwrap_or_else(|_| "dumb".into()));
        Ok(command)
    }

    /// Runs words inside a host; its standard output.
    pub(crate) fn exec(&self, host: &str, words: &[&str], limit: Duration) -> Result<String> {
        sh::run(&mut self.command(host, words)?, limit).with_context(|| format!("on {host}"))
    }

    /// As [`Self::exec`], a failure of the program itself being an answer too.
    pub(crate) fn try_exec(&self, host: &str, words: &[&str], limit: Duration) -> Result<sh::Outcome> {
        sh::outcome(&mut self.command(host, words)?, limit)
    }

    /// Runs a shell line inside a host.
    pub(crate) fn shell(&self, host: &str, line: &str) -> Result<String> {
        self.exec(host, &["sh", "-ec", line], Duration::from_secs(60))
    }

    /// Runs a shell line on the client host.
    pub(crate) fn client(&self, line: &str) -> Result<String> {
        self.shell(CLIENT, line)
    }

    /// Starts a program that stays, in a session of its own; what it prints goes to /var/log/NAME.log of the host.
    pub(crate) fn service(&self, host: &str, name: &str, words: &[&str]) -> Result<()> {
        let script = format!(
            "echo -10 >/proc/self/autogroup 2>/dev/null; echo $$ >/run/{name}.pid; exec \"$@\" </dev/null >>/var/log/{name}.log 2>&1"
        );
        let mut all = vec!["setsid", "-f", "sh", "-c", &script, name];
        all.extend(words);
        self.exec(host, &all, Duration::from_secs(10)).map(drop)
    }

    /// The pid, inside the host, of a program started by [`Self::service`].
    pub(crate) fn service_pid(&self, host: &str, name: &str) -> Result<String> {
        let text = self.exec(host, &["cat", &format!("/run/{name}.pid")], Duration::from_secs(5))?;
        Ok(text.trim().to_owned())
    }

    /// Writes a file of a host that is on.
    pub(crate) fn write(&self, host: &str, path: &str, text: &str) -> Result<()> {
        let pid = self.pid(host).with_context(|| format!("{host} is off"))?;
        let file = format!("/proc/{pid}/root{path}");
        fs::write(&file, text).with_context(|| format!("cannot write {path} on {host}"))
    }

    /// Reads a file of a host that is on.
    pub(crate) fn read(&self, host: &str, path: &str) -> Result<String> {
        let pid = self.pid(host).with_context(|| format!("{host} is off"))?;
        let file = format!("/proc/{pid}/root{path}");
        fs::read_to_string(&file).with_context(|| format!("cannot read {path} on {host}"))
    }
}
