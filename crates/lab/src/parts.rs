//! Everything a node runs beside the daemon: GlusterFS, rpcbind, statd, D-Bus; by hand also the rest.
//!
//! With the daemon, the lab starts only what a distribution starts at boot; the mount, Samba and Ganesha are the
//! daemon's. Without it (`--subject parts`) the lab starts those too and places each VIP once, for good.

use crate::lab::Lab;
use crate::site::{self, CLIENT, MOUNT, PASSWORD, SHARE, Storage, Subject, UID, USER, VOLUME, WATCHER};
use crate::{files, samba_root, sh, stock};
use anyhow::{Context, Result, bail};
use services::storage::coherence::{MOUNT_OPTIONS, VOLUME_OPTIONS};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Beside what makes the volume coherent between mounts: Ganesha's heads cache across each other without it.
const HEADS_OPTION: [&str; 2] = ["features.cache-invalidation", "on"];

/// Says what is going on, with the time since the start.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Stdout,
    Stderr,
    Nowhere,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), to: To::Stdout }
    }

    /// For programs whose standard output is data.
    pub(crate) fn to_stderr() -> Self {
        Self { start: Instant::now(), to: To::Stderr }
    }

    /// For laboratories of which somebody else tells.
    pub(crate) fn silent() -> Self {
        Self { start: Instant::now(), to: To::Nowhere }
    }

    pub(crate) fn step(&self, what: &str) {
        let line = format!("[{:6.1} s] {what}", self.start.elapsed().as_secs_f64());
        match self.to {
            To::Stdout => println!("{line}"),
            To::Stderr => eprintln!("{line}"),
            To::Nowhere => {}
        }
    }
}

/// Runs `work` for every node at once; the first error wins.
pub(crate) fn each_node(lab: &Lab, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let nodes: Vec<usize> = (0..lab.site.nodes).collect();
    each(&nodes, work)
}

pub(crate) fn each(nodes: &[usize], work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for &node in nodes {
            let (work, failed) = (&work, &failed);
            scope.spawn(move || {
                if let Err(e) = work(node)
                    && let Ok(mut slot) = failed.lock()
                {
                    slot.get_or_insert(e);
                }
            });
        }
    });
    match failed.into_inner() {
        Ok(Some(e)) => Err(e),
        _ => Ok(()),
    }
}

/// Brings up hosts, storage and (without the daemon) services.
pub(crate) fn up(lab: &Lab, progress: &Progress) -> Result<()> {
    progress.step(&format!("{} nodes, a client, a switch", lab.site.nodes));
    lab.power_on(CLIENT)?;
    lab.power_on(WATCHER)?;
    for host in [CLIENT, WATCHER] {
        lab.write(host, "/etc/hosts", &files::hosts(&lab.site))?;
        if let Some(text) = files::resolv_for(&lab.site, host) {
            lab.write(host, "/etc/resolv.conf", &text)?;
        }
    }
    each_node(lab, |node| boot(lab, node))?;
    match lab.site.storage {
        Storage::Gluster => {
            progress.step(&format!("GlusterFS: pool of {}, volume {VOLUME}", lab.site.nodes));
            create_volume(lab)?;
        }
        Storage::Local => progress.step("one shared directory as storage"),
    }
    prepare_share(lab)?;
    if lab.site.subject == Subject::Parts {
        progress.step("mount, Samba and Ganesha on every node, VIPs in place (no daemon)");
        each_node(lab, |node| by_hand(lab, node))?;
    }
    Ok(())
}

/// Power on and what the distribution would start; the node's own files at its first boot.
pub(crate) fn boot(lab: &Lab, node: usize) -> Result<()> {
    let host = site::name(node);
    let first = !lab.disk(&host).exists();
    lab.power_on(&host)?;
    if first {
        lab.write(&host, "/etc/hosts", &files::hosts(&lab.site))?;
        lab.write(&host, "/etc/samba/smb.conf", &files::smb_conf(&lab.site, node))?;
        if lab.site.subject.is_steadfast() {
            lab.write(&host, "/etc/samba/steadfast.conf", "")?;
        }
        if let Some(root) = &lab.site.samba_root {
            samba_root::place(lab, &host, root)?;
        }
        if lab.site.subject.is_ctdb() {
            stock::write_files(lab, node)?;
        }
        // With clustering, Samba's users are in databases that all nodes share: added when those are there.
        let password =
            if lab.site.one_samba() { String::new() } else { format!("{} >/dev/null", smb_user(USER, PASSWORD)) };
        lab.write(&host, "/etc/ganesha/ganesha.conf", &files::ganesha_conf(&lab.site))?;
        lab.shell(
            &host,
            &format!(
                "mkdir -p {MOUNT}; id {USER} >/dev/null 2>&1 || useradd -u {UID} -M {USER}
                 chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak 2>/dev/null || true
                 {password}"
            ),
        )?;
    }
    lab.shell(&host, "dbus-daemon --system --fork 2>/dev/null || true; rpcbind -w 2>/dev/null || rpcbind")?;
    if !lab.site.subject.is_ctdb() {
        lab.shell(&host, "rpc.statd --no-notify 2>/dev/null || true")?;
    }
    if lab.site.storage == Storage::Gluster {
        if !first && lab.site.subject.is_steadfast() {
            // As packaging/steadfast-fence.service does.
            let fence = ["steadfast", "helper", "fence", "--config", crate::steadfast::CONFIG];
            lab.exec(&host, &fence, Duration::from_secs(20))?;
        }
        lab.exec(&host, &["glusterd", "--log-level", "WARNING"], Duration::from_secs(120))?;
    }
    Ok(())
}

/// The command that gives a Unix user a password for SMB.
pub(crate) fn smb_user(user: &str, password: &str) -> String {
    format!("printf '{password}\\n{password}\\n' | smbpasswd -s -a {user}")
}

fn gluster(lab: &Lab, words: &[&str]) -> Result<String> {
    let all = [&["gluster", "--mode=script"], words].concat();
    lab.exec("gluster1", &all, Duration::from_secs(60))
}

fn create_volume(lab: &Lab) -> Result<()> {
    let site = &lab.site;
    for node in 1..site.nodes {
        let name = site::name(node);
        sh::wait_for(&format!("{name} to join the GlusterFS pool"), Duration::from_secs(60), || {
            gluster(lab, &["peer", "probe", &name]).map(Some)
        })?;
    }
    sh::wait_for("all GlusterFS peers to be connected", Duration::from_secs(60), || {
        let text = gluster(lab, &["peer", "status"])?;
        Ok((text.matches("(Connected)").count() == site.nodes - 1).then_some(()))
    })?;
    let sets = site.replica_sets();
    let arbiters = sets.iter().any(|set| set.len() == 3) && site.arbiter;
    // A server may have a copy of its own files and the arbiter of others.
    let brick =
        |(i, node): (usize, &usize)| format!("{}:/data/brick/{}", site::name(*node), if i < 2 { "b" } else { "a" });
    let bricks: Vec<String> = sets.iter().flat_map(|set| set.iter().enumerate().map(brick)).collect();
    let mut words = vec!["volume", "create", VOLUME];
    match sets[0].len() {
        1 => {}
        3 if arbiters => words.extend(["replica", "3", "arbiter", "1"]),
        3 => words.extend(["replica", "3"]),
        _ => words.extend(["replica", "2"]),
    }
    words.extend(bricks.iter().map(String::as_str));
    words.push("force");
    // A peer may be connected and not yet friends with all others: glusterd then refuses, and says so.
    sh::wait_for("the volume to be created", Duration::from_secs(60), || gluster(lab, &words).map(Some))?;
    for [option, value] in VOLUME_OPTIONS.iter().map(|s| [s.option, s.value]).chain([HEADS_OPTION]) {
        gluster(lab, &["volume", "set", VOLUME, option, value])?;
    }
    if site.subject == Subject::CtdbTuned {
        for [option, value] in stock::TUNED_VOLUME {
            gluster(lab, &["volume", "set", VOLUME, option, value])?;
        }
    }
    gluster(lab, &["volume", "start", VOLUME])?;
    sh::wait_for("all bricks to be online", Duration::from_secs(60), || {
        let text = gluster(lab, &["volume", "status", VOLUME, "detail"])?;
        let online = text.lines().filter(|l| l.starts_with("Online") && l.trim_end().ends_with('Y')).count();
        Ok((online >= bricks.len()).then_some(()))
    })
}

/// Mounts the volume on a host, as the daemon would.
pub(crate) fn mount(lab: &Lab, host: &str) -> Result<()> {
    if lab.site.storage == Storage::Local {
        return Ok(());
    }
    let options = MOUNT_OPTIONS.join(",");
    let line = format!(
        "mountpoint -q {MOUNT} || {{ mount -t glusterfs -o {options},log-level=WARNING localhost:/{VOLUME} {MOUNT}; mountpoint -q {MOUNT}; }}"
    );
    sh::wait_for(&format!("{VOLUME} to be mounted on {host}"), Duration::from_secs(60), || {
        lab.shell(host, &line).map(Some)
    })
    .map(drop)
}

/// How many bricks the GlusterFS client of this mount is connected to.
pub(crate) fn bricks_connected(lab: &Lab, host: &str, mount: &str) -> Result<usize> {
    let line = format!("grep -l '^connected = 1' {mount}/.meta/graphs/active/*-client-*/private | wc -l");
    Ok(lab.shell(host, &line)?.trim().parse()?)
}

/// Waits until GlusterFS has nothing left to heal, so that another replica may be lost.
pub(crate) fn wait_healed(lab: &Lab, limit: Duration) -> Result<()> {
    if lab.site.storage == Storage::Local || lab.site.nodes == 1 {
        return Ok(());
    }
    let on = lab.nodes_on().first().copied().context("no node is on")?;
    let bricks: usize = lab.site.replica_sets().iter().map(Vec::len).sum();
    let mut asked = Instant::now();
    sh::wait_for("GlusterFS to heal its replicas", limit, || {
        // Its own healer looks again only every ten minutes when it came too early; an operator would ask it, too. It
        // refuses while a brick is away: then this asks again.
        if asked.elapsed() > Duration::from_secs(5) {
            asked = Instant::now();
            let heal = ["gluster", "--mode=script", "volume", "heal", VOLUME];
            let _ = lab.exec(&site::name(on), &heal, Duration::from_secs(60));
        }
        let words = ["gluster", "--mode=script", "volume", "heal", VOLUME, "info"];
        let text = lab.exec(&site::name(on), &words, Duration::from_secs(60))?;
        let counts: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("Number of entries: ")).collect();
        Ok((counts.len() == bricks && counts.iter().all(|c| c.trim() == "0")).then_some(()))
    })
}

/// The share's directory, made once by way of node 0's mount.
fn prepare_share(lab: &Lab) -> Result<()> {
    let first = site::name(0);
    mount(lab, &first)?;
    lab.shell(
        &first,
        &format!(
            "mkdir -p {MOUNT}/{SHARE} {MOUNT}/nfs; chown {USER}: {MOUNT}/{SHARE} {MOUNT}/nfs; chmod 777 {MOUNT}/{SHARE} {MOUNT}/nfs"
        ),
    )?;
    if lab.site.storage == Storage::Gluster && lab.site.subject.is_steadfast() {
        lab.shell(&first, &format!("umount {MOUNT}"))?;
    }
    Ok(())
}

/// Puts a file of the client host on the volume over NFS; the name that it got, which begins with `name`.
///
/// Ganesha lets nobody create files for some seconds after its start. A kernel waits; nfs-cp gives up, and may leave
/// an empty file behind, so each attempt has a name of its own.
pub(crate) fn nfs_put(lab: &Lab, server: &str, file: &str, name: &str) -> Result<String> {
    let mut attempt = 0;
    sh::wait_for(&format!("NFS on {server} to take a file"), Duration::from_secs(40), || {
        attempt += 1;
        let to = format!("{name}-{attempt}");
        lab.client(&format!("nfs-cp {file} nfs://{server}/{VOLUME}/{to} >/dev/null"))?;
        Ok(Some(to))
    })
}

/// Waits until files can be created through every VIP, and leaves none behind.
pub(crate) fn wait_nfs_writable(lab: &Lab) -> Result<()> {
    let vips = lab.site.vips();
    for (i, vip) in vips.iter().enumerate() {
        nfs_put(lab, vip, "/etc/hostname", &format!("nfs/ready{i}"))?;
    }
    let first = lab.nodes_on().first().copied().context("no node is on")?;
    lab.shell(&site::name(first), &format!("rm -f {MOUNT}/nfs/ready*")).map(drop)
}

fn by_hand(lab: &Lab, node: usize) -> Result<()> {
    let host = site::name(node);
    mount(lab, &host)?;
    lab.service(&host, "smbd", &["smbd", "-F", "--no-process-group"])?;
    lab.service(
        &host,
        "ganesha",
        &["ganesha.nfsd", "-F", "-L", "/var/log/ganesha/ganesha.log", "-p", "/run/ganesha/g.pid"],
    )?;
    lab.shell(&host, &format!("ip addr add {}/24 dev eth0", lab.site.vips()[node]))?;
    for port in [445, 2049] {
        let address = lab.site.public(node);
        sh::wait_for(&format!("port {port} on {host}"), Duration::from_secs(60), || {
            let probe = format!("exec 3<>/dev/tcp/{address}/{port}");
            lab.exec(&host, &["bash", "-c", &probe], Duration::from_secs(5)).map(Some)
        })
        .with_context(|| match lab.read(&host, "/var/log/ganesha/ganesha.log") {
            Ok(text) => text.lines().rev().take(5).collect::<Vec<_>>().join("\n"),
            Err(_) => String::from("no log"),
        })?;
    }
    Ok(())
}

/// All needed programs, as (program, Debian package).
pub(crate) fn missing_programs(storage: Storage, subject: Subject) -> Vec<(&'static str, &'static str)> {
    let mut needed = vec![
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("unshare", "util-linux"),
        ("smbd", "samba"),
        ("smbclient", "smbclient"),
        ("ganesha.nfsd", "nfs-ganesha"),
        ("rpcbind", "rpcbind"),
        ("rpc.statd", "nfs-common"),
        ("nfs-ls", "libnfs-utils"),
        ("dig", "bind9-dnsutils"),
        ("dbus-daemon", "dbus"),
    ];
    if storage == Storage::Gluster {
        needed.extend([("glusterd", "glusterfs-server"), ("glusterfs", "glusterfs-client")]);
    }
    if subject.is_ctdb() {
        needed.extend([("ctdbd", "ctdb"), ("iptables", "iptables"), ("killall", "psmisc"), ("ethtool", "ethtool")]);
    }
    needed.push(("fileid.so", "samba-vfs-modules"));
    let fsal = if storage == Storage::Gluster {
        ("libfsalgluster.so", "nfs-ganesha-gluster")
    } else {
        ("libfsalvfs.so", "nfs-ganesha-vfs")
    };
    needed.push(fsal);
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let (vfs, fsals) = (format!("{libraries}/samba/vfs"), format!("{libraries}/ganesha"));
    let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", &vfs, &fsals];
    needed.retain(|(program, _)| !dirs.iter().any(|d| std::path::Path::new(d).join(program).exists()));
    needed
}

/// Refuses with the list of packages to install.
pub(crate) fn check_programs(storage: Storage, subject: Subject) -> Result<()> {
    let missing = missing_programs(storage, subject);
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|m| m.0).collect();
    let packages: Vec<&str> = missing.iter().map(|m| m.1).collect();
    bail!("not found: {}\ninstall them with: apt-get install {}", programs.join(", "), packages.join(" "))
}
