//! Where tests run: shares beside the laboratory's own, one for each test under way, and the program on the client or a node.

use super::ran::verdict;
use super::{Kind, Outcome, Ran, Test};
use crate::lab::Lab;
use crate::site::{self, CLIENT, MOUNT, USER};
use crate::{files, sh};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const SMB_CONF: &str = "/etc/samba/smb.conf";

/// A user beside the laboratory's, for tests that change users.
pub(super) const OTHER_USER: &str = "alice";
pub(super) const OTHER_PASSWORD: &str = "geheim2";

/// Shares on nodes that run, as long as this lives; [`Self::end`] takes them back.
#[derive(Debug)]
pub(crate) struct Stand<'a> {
    lab: &'a Lab,
    /// An address of each node that is asked.
    addresses: Vec<String>,
    /// Every node's smb.conf as it was.
    before: Vec<(String, String)>,
}

impl<'a> Stand<'a> {
    /// Adds `lanes` shares on every node. With `multi_channel`, the line that the daemon writes against it is taken back.
    pub(crate) fn new(lab: &'a Lab, addresses: Vec<String>, lanes: usize, multi_channel: bool) -> Result<Self> {
        let mut before = Vec::new();
        for host in lab.site.names() {
            let text = lab.read(&host, SMB_CONF)?;
            before.push((host, text));
        }
        let stand = Self { lab, addresses, before };
        for lane in 0..lanes {
            let dir = directory(lane);
            lab.shell(&site::name(0), &format!("mkdir -p {dir}; chown {USER}: {dir}; chmod 777 {dir}"))?;
            let list: String = stand.addresses.iter().map(|a| format!("//{a}/{}\n", share(lane))).collect();
            lab.write(CLIENT, &list_of(lane), &list)?;
            for (host, _) in &stand.before {
                lab.write(host, &opened_file(lane), "")?;
            }
        }
        let more = conf(lanes, multi_channel, lab.site.one_samba());
        for (host, text) in &stand.before {
            lab.write(host, SMB_CONF, &format!("{text}\n{more}"))?;
        }
        stand.reload()?;
        for address in &stand.addresses {
            let line = format!("smbclient -U {} //{address}/{} -c ls >/dev/null", files::smb_login(), share(lanes - 1));
            sh::wait_for(&format!("the tests' shares at {address}"), Duration::from_secs(30), || {
                lab.client(&line).map(Some)
            })?;
        }
        Ok(stand)
    }

    /// smbd answers messages in their order: when it answers the second it has done the first.
    fn reload(&self) -> Result<()> {
        for (host, _) in &self.before {
            sh::wait_for(&format!("smbd on {host} to read its shares"), Duration::from_secs(30), || {
                self.lab.shell(host, "smbcontrol smbd reload-config; smbcontrol smbd ping >/dev/null").map(Some)
            })?;
        }
        Ok(())
    }

    /// Gives every node its smb.conf back.
    pub(crate) fn end(self) -> Result<()> {
        for (host, text) in &self.before {
            self.lab.write(host, SMB_CONF, text)?;
        }
        self.reload()
    }

    /// Runs a test; `lane` is a share that no other test uses meanwhile.
    pub(crate) fn run(&self, test: &Test, lane: usize, limit: Duration) -> Result<Ran> {
        let first = self.addresses.first().context("no address to be asked")?;
        let host = if test.kind == Kind::Local { site::name(0) } else { CLIENT.to_owned() };
        let work = format!("/tmp/smbtorture-{lane}");
        let mut words = vec![
            "smbtorture".to_owned(),
            format!("//{first}/{}", share(lane)),
            format!("-U{}", files::smb_login()),
            "--format=subunit".into(),
            "--target=samba3".into(),
            format!("--basedir={work}"),
            "--option=client min protocol=NT1".into(),
            format!("--option=torture:user2name={OTHER_USER}"),
            format!("--option=torture:user2password={OTHER_PASSWORD}"),
            format!("--option=torture:localdir={}", directory(lane)),
        ];
        if test.kind == Kind::Two {
            words.push(format!("--unclist={}", list_of(lane)));
        }
        words.push(test.full.clone());
        let script = format!("mkdir -p {work}; cd {work}; exec \"$@\"");
        let mut all = vec!["sh", "-c", &script, "sh"];
        all.extend(words.iter().map(String::as_str));
        let before = self.opened(lane)?;
        let begun = Instant::now();
        let done = self.lab.try_exec(&host, &all, limit)?;
        let seconds = begun.elapsed().as_secs_f64();
        let nodes = before.iter().zip(self.opened(lane)?).filter(|(before, after)| **before < *after).count();
        let outcome = if done.timed_out { Outcome::Timeout } else { verdict(&done.stdout, &done.stderr) };
        Ok(Ran { outcome, seconds, nodes, said: done.text() })
    }

    /// How often a lane's share was opened, by node.
    fn opened(&self, lane: usize) -> Result<Vec<usize>> {
        let file = opened_file(lane);
        let of = |(host, _): &(String, String)| Ok(self.lab.read(host, &file)?.lines().count());
        self.before.iter().map(of).collect()
    }
}

fn share(lane: usize) -> String {
    format!("torture{lane}")
}

fn directory(lane: usize) -> String {
    format!("{MOUNT}/{}", share(lane))
}

fn list_of(lane: usize) -> String {
    format!("/tmp/unclist{lane}")
}

/// Of each node for itself: a line for each time that a client opened the share.
fn opened_file(lane: usize) -> String {
    format!("/var/log/samba/{}.opened", share(lane))
}

/// As in Samba's own selftest, where what a test wants is set there: SMB1 for tests that speak it, streams and ACLs, a tenth
/// of the delays, and durable handles, which smbd grants only where no other program shares the files. Caching too,
/// which the daemon takes from smbds that do not know each other: tests of it would skip themselves. Where each node has
/// users of its own, who are nobody to the other, ACLs are the modes of files: tests would be denied what they make there.
fn conf(lanes: usize, multi_channel: bool, one_samba: bool) -> String {
    let (acls, mode) = if one_samba { (" acl_xattr", "") } else { ("", "  force create mode = 0755\n") };
    let mut text = String::from(
        "[global]
  server min protocol = NT1
  smbd:FSCTL_SMBTORTURE = yes
  smbd:writetimeupdatedelay = 500000
  oplocks = yes
  level2 oplocks = yes
  smb2 leases = yes
",
    );
    if multi_channel {
        text.push_str("  server multi channel support = yes\n");
    }
    for lane in 0..lanes {
        let (share, path, opened) = (share(lane), directory(lane), opened_file(lane));
        // smbd escapes what is no word of a command, but not within quotes.
        let _ = write!(
            text,
            "[{share}]
  path = {path}
  root preexec = sh -c 'echo >>{opened}'
  read only = no
  vfs objects = fileid{acls} streams_xattr
  fileid:algorithm = fsname
  ea support = yes
  store dos attributes = yes
  map archive = no
  map hidden = no
  map system = no
  map readonly = no
  create mask = 0755
{mode}  dos filemode = yes
  strict rename = yes
  kernel share modes = no
  kernel oplocks = no
  posix locking = no
  smbd:sharedelay = 20000
"
        );
    }
    text
}

/// A password for the second user, who is known to Unix on every node.
pub(super) fn add_other_user(lab: &Lab) -> Result<()> {
    for host in lab.site.names() {
        lab.shell(&host, &format!("id {OTHER_USER} >/dev/null 2>&1 || useradd -M {OTHER_USER}"))?;
    }
    let line = format!("{} >/dev/null", crate::parts::smb_user(OTHER_USER, OTHER_PASSWORD));
    lab.shell(&site::name(0), &line).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_channel_comes_last() {
        assert!(!conf(2, false, true).contains("multi channel"));
        let text = conf(2, true, true);
        assert!(text.contains("multi channel support = yes\n[torture0]") && text.contains("\n[torture1]\n"), "{text}");
    }
}
