//! A virtual machine as client: Debian's own kernel with its NFS and CIFS clients, under emulation (no KVM needed).
//!
//! Kernel and initramfs are made once from Debian packages below the build directory. The machine's network card is a
//! tap on the laboratory's `lan`; commands go through an agent on a virtio-serial port (see `vm/init`).

use crate::lab::{Lab, Net};
use crate::sh::{self, quick};
use crate::site::ZONE;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const BUILD: &str = include_str!("../vm/build.sh");
const INIT: &str = include_str!("../vm/init");
const QEMU: &str = "qemu-system-x86_64";

fn image() -> PathBuf {
    crate::artifacts("lab-vm")
}

/// What virtual machines need beyond the rest.
pub(crate) fn check_programs() -> Result<()> {
    let found = |p: &str| ["/usr/bin", "/usr/sbin", "/sbin", "/bin"].iter().any(|d| PathBuf::from(d).join(p).exists());
    let missing: Vec<&str> =
        [(QEMU, "qemu-system-x86"), ("depmod", "kmod")].iter().filter(|(p, _)| !found(p)).map(|m| m.1).collect();
    if missing.is_empty() { Ok(()) } else { bail!("virtual machines need: apt-get install {}", missing.join(" ")) }
}

/// Makes kernel and initramfs unless they are there from these same scripts.
pub(crate) fn build_image() -> Result<()> {
    let dir = image();
    let stamp = dir.join("made-from");
    let source = format!("{BUILD}{INIT}");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == source) && dir.join("initrd").exists() {
        return Ok(());
    }
    println!("making the virtual machine's kernel and initramfs in {}", dir.display());
    fs::create_dir_all(&dir)?;
    let (build, init) = (dir.join("build.sh"), dir.join("init"));
    fs::write(&build, BUILD)?;
    fs::write(&init, INIT)?;
    sh::run(Command::new("bash").arg(&build).arg(&dir).arg(&init), Duration::from_secs(600))?;
    fs::write(&stamp, source)?;
    Ok(())
}

#[derive(Debug, Default)]
struct Answers {
    done: BTreeMap<String, (i32, String)>,
    closed: bool,
}

/// A running machine; it ends with this value.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    agent: UnixStream,
    answers: Arc<(Mutex<Answers>, Condvar)>,
    next: u32,
    dir: PathBuf,
}

impl Machine {
    /// Boots a machine with this address on the laboratory's `lan`.
    pub(crate) fn boot(lab: &Lab, address: &str) -> Result<Self> {
        let dir = lab.base.join("vm");
        fs::create_dir_all(&dir)?;
        let _ = quick(&["ip", "link", "del", "tap-vm"]);
        quick(&["ip", "tuntap", "add", "dev", "tap-vm", "mode", "tap"])?;
        quick(&["ip", "link", "set", "tap-vm", "master", Net::Public.bridge(), "up"])?;
        let vips = lab.site.vips();
        let dns = vips[..vips.len().min(3)].join(",");
        let line = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on no_timer_check audit=0 \
             net.ifnames=0 lab.ip={address}/24 lab.dns={dns} lab.search={ZONE}"
        );
        let socket = dir.join("agent");
        let image = image();
        let log = fs::File::create(dir.join("qemu.log"))?;
        let mut command = Command::new(QEMU);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "pc,usb=off"]);
        command.args(["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max,la57=off", "-smp", "1", "-m", "320"]);
        command.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(image.join("initrd"));
        command.args(["-append", &line, "-serial", &format!("file:{}", dir.join("console.log").display())]);
        command.args(["-netdev", "tap,id=n0,ifname=tap-vm,script=no,downscript=no"]);
        command.args(["-device", "virtio-net-pci,netdev=n0,mac=52:54:00:5f:02:01,romfile="]);
        command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        command.args(["-chardev", &format!("socket,id=a,path={},server=on,wait=off", socket.display())]);
        command.args(["-device", "virtserialport,chardev=a,name=agent"]);
        let qemu = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?;
        let agent = sh::wait_for("the virtual machine's agent socket", Duration::from_secs(20), || {
            Ok(UnixStream::connect(&socket).ok())
        })?;
        let answers = Arc::new((Mutex::new(Answers::default()), Condvar::new()));
        let reader = BufReader::new(agent.try_clone()?);
        let shared = Arc::clone(&answers);
        std::thread::spawn(move || listen(reader, &shared));
        let machine = Self { qemu, agent, answers, next: 0, dir };
        machine.wait("ready", Duration::from_secs(240)).with_context(|| machine.console())?;
        Ok(machine)
    }

    /// Starts a shell line in the machine; the ticket is for [`Self::wait`].
    pub(crate) fn start(&mut self, line: &str) -> Result<String> {
        self.next += 1;
        let id = self.next.to_string();
        writeln!(self.agent, "{id} {line}")?;
        Ok(id)
    }

    /// Waits for a ticket's exit status and output.
    pub(crate) fn wait(&self, id: &str, limit: Duration) -> Result<(i32, String)> {
        let end = Instant::now() + limit;
        let (lock, changed) = &*self.answers;
        let mut answers = lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = answers.done.remove(id) {
                return Ok(found);
            }
            if answers.closed {
                bail!("the virtual machine has ended");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer from the virtual machine within {} s", limit.as_secs());
            }
            answers = changed.wait_timeout(answers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs a shell line; its output. A failure is an error.
    pub(crate) fn run(&mut self, line: &str, limit: Duration) -> Result<String> {
        let id = self.start(line)?;
        let (status, text) = self.wait(&id, limit).with_context(|| format!("in the virtual machine: {line}"))?;
        if status != 0 {
            bail!("in the virtual machine, `{line}` ended with {status}: {}", text.trim());
        }
        Ok(text)
    }

    /// Last lines of its console, for messages.
    pub(crate) fn console(&self) -> String {
        let text = fs::read(self.dir.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = quick(&["ip", "link", "del", "tap-vm"]);
    }
}

fn listen(reader: BufReader<UnixStream>, shared: &(Mutex<Answers>, Condvar)) {
    for line in reader.lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let (Some(id), Some(status)) = (words.next(), words.next().and_then(|s| s.parse().ok())) else {
            continue;
        };
        let text = decode(words.next().unwrap_or(""));
        let mut answers = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.done.insert(id.to_owned(), (status, text));
        shared.1.notify_all();
    }
    shared.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    shared.1.notify_all();
}

/// Base64 (RFC 4648) to text; characters outside of the alphabet are skipped.
fn decode(text: &str) -> String {
    let (mut bits, mut have, mut out) = (0u32, 0, Vec::new());
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn base64_is_read() {
        assert_eq!(decode("aGVsbG8K"), "hello\n");
        assert_eq!(decode("YQ=="), "a");
        assert_eq!(decode(""), "");
    }
}
