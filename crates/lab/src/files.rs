//! The files that the administrator of the reference site would write, per host.

use crate::site::{self, CLIENT, MOUNT, PASSWORD, SHARE, Site, Storage, Subject, UID, USER, VOLUME, ZONE};
use std::fmt::Write as _;

pub(crate) fn hosts(site: &Site) -> String {
    let mut text = String::from("127.0.0.1 localhost\n");
    for node in 0..site.nodes {
        let _ = writeln!(text, "{} {}", site.private(node), site::name(node));
    }
    text
}

/// The client asks the cluster's own DNS servers: three VIPs are what the C library reads.
pub(crate) fn resolv(site: &Site) -> String {
    let mut text = format!("search {ZONE}\noptions timeout:1 attempts:3\n");
    for vip in site.vips().iter().take(3) {
        let _ = writeln!(text, "nameserver {vip}");
    }
    text
}

/// With clustering what the nodes keep for themselves (private dir, lock, state, cache and pid directories) stays where
/// Debian has it: below each host's own /var and /run. `kernel share modes` and `fileid` are what a FUSE mount seen from several nodes needs.
pub(crate) fn smb_conf(site: &Site, node: usize) -> String {
    let more = match site.subject {
        Subject::Steadfast | Subject::SteadfastFast => "  include = /etc/samba/steadfast.conf\n",
        Subject::Ctdb | Subject::CtdbTuned => "  clustering = yes\n",
        Subject::Parts => "",
    };
    // The nodes are one server to Samba's clients, with one name.
    let name = if site.one_samba() { "GLUSTER".into() } else { site::name(node).to_uppercase() };
    format!(
        "[global]
  workgroup = WORKGROUP
  netbios name = {name}
  server string = Steadfast laboratory
  server role = standalone server
  security = user
  passdb backend = tdbsam
  map to guest = never
  disable netbios = yes
  smb ports = 445
  load printers = no
  printing = bsd
  printcap name = /dev/null
  disable spoolss = yes
  log file = /var/log/samba/log.%m
  max log size = 5000
  log level = 1
{more}[{SHARE}]
  path = {MOUNT}/{SHARE}
  read only = no
  browseable = yes
  valid users = {USER}
  vfs objects = fileid
  fileid:algorithm = fsname
  kernel share modes = no
"
    )
}

pub(crate) fn ganesha_conf(site: &Site) -> String {
    let (path, fsal) = match site.storage {
        Storage::Gluster => {
            ("/", format!("FSAL {{ Name = GLUSTER; Hostname = \"localhost\"; Volume = \"{VOLUME}\"; }}"))
        }
        Storage::Local => (MOUNT, "FSAL { Name = VFS; }".to_owned()),
    };
    // Ganesha's default grace and lease, where everything is left at its default; no NLM where nothing minds statd.
    let (grace, lease, nlm) = match site.subject {
        Subject::Ctdb => (90, 60, "Enable_NLM = false"),
        Subject::CtdbTuned => (15, 10, "Enable_NLM = false"),
        Subject::Steadfast | Subject::SteadfastFast | Subject::Parts => (10, 10, "NLM_Port = 32803"),
    };
    format!(
        "NFS_CORE_PARAM {{
  Protocols = 3, 4;
  NFS_Port = 2049;
  MNT_Port = 20048;
  {nlm};
  Enable_RQUOTA = false;
  mount_path_pseudo = true;
}}
NFSv4 {{
  Grace_Period = {grace};
  Lease_Lifetime = {lease};
  RecoveryBackend = fs;
  Server_Scope = {VOLUME};
  Minor_Versions = 0, 1, 2;
}}
LOG {{ Default_Log_Level = EVENT; }}
EXPORT {{
  Export_Id = 1;
  Path = \"{path}\";
  Pseudo = \"/{VOLUME}\";
  Access_Type = RW;
  Squash = All_Squash;
  Anonymous_Uid = {UID};
  Anonymous_Gid = {UID};
  SecType = sys;
  Transports = TCP;
  Protocols = 3, 4;
  Filesystem_Id = 5.122;
  {fsal}
}}
"
    )
}

/// Lines for a person with a shell on this machine.
pub(crate) fn smb_login() -> String {
    format!("{USER}%{PASSWORD}")
}

/// Name service for a host: only the client asks the cluster.
pub(crate) fn resolv_for(site: &Site, host: &str) -> Option<String> {
    (host == CLIENT).then(|| resolv(site))
}
