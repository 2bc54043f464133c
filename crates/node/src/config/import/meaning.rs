//! What CTDB's names mean here: facts about CTDB 3.x to 4.2x, in tables.

use super::Did;

/// Said wherever NFS is taken over.
pub(super) const NFS: &str = "the server is NFS-Ganesha here: list its exports in [nfs] exports";

/// A tunable that CTDB knows.
#[derive(Debug)]
pub(super) enum Tunable {
    NoFailback,
    NoTakeover,
    /// Heeded while the daemon runs; with CTDB's default.
    Heeded(u32),
    /// A key of `[events]`, and the most that it can be.
    Events(&'static str, u32),
    Other(Did, &'static str),
}

/// Names without capitals, from all versions, the obsolete ones included.
pub(super) const TUNABLES: &str = "maxredirectcount seqnuminterval controltimeout traversetimeout keepaliveinterval keepalivelimit \
    recovertimeout recoverinterval electiontimeout takeovertimeout monitorinterval tickleupdateinterval eventscripttimeout \
    monitortimeoutcount eventscriptunhealthyontimeout recoverygraceperiod recoverybanperiod databasehashsize databasemaxdead \
    rerecoverytimeout enablebans deterministicips reclockpingperiod noipfailback disableipfailover verbosememorynames \
    recdpingtimeout recdfailcount loglatencyms reclocklatencyms recoverydropallips verifyrecoverylock vacuuminterval \
    vacuummaxruntime repacklimit vacuumlimit maxqueuedropmsg allowunhealthydbread stathistoryinterval deferredattachto \
    vacuumfastpathcount lcp2publicips allowclientdbattach recoverpdbbyseqnum deferredrebalanceonnodeadd fetchcollapse \
    hopcountmakesticky stickyduration stickypindown noiptakeover dbrecordcountwarn dbrecordsizewarn dbsizewarn \
    pulldbpreallocation noiphostonalldisabled samba3avoiddeadlocks tdbmutexenabled mutexenabled lockprocessesperdb \
    recbuffersizelimit queuebuffersize ipallocalgorithm allowmixedversions";

/// What a tunable means; `None` for one that CTDB does not have.
pub(super) fn tunable(name: &str) -> Option<Tunable> {
    let name = name.to_ascii_lowercase();
    if !TUNABLES.split_whitespace().any(|known| known == name) {
        return None;
    }
    let none = |why| Some(Tunable::Other(Did::NoMeaning, why));
    match name.as_str() {
        "noipfailback" => Some(Tunable::NoFailback),
        "keepaliveinterval" | "keepalivelimit" | "electiontimeout" | "takeovertimeout" | "recdpingtimeout"
        | "recdfailcount" => none("a lost node is noticed by its lease: [cluster] lease_ms"),
        "monitorinterval" => Some(Tunable::Events("monitor_interval", 3600)),
        "eventscripttimeout" => Some(Tunable::Events("timeout", 3600)),
        "monitortimeoutcount" => Some(Tunable::Events("monitor_timeouts", 1000)),
        "eventscriptunhealthyontimeout" => none("obsolete in CTDB as well: [events] monitor_timeouts"),
        "ipallocalgorithm" | "lcp2publicips" | "deterministicips" | "deferredrebalanceonnodeadd" => {
            none("addresses are always spread evenly with as few moves as can be")
        }
        "noiptakeover" => Some(Tunable::NoTakeover),
        "disableipfailover" | "noiphostonalldisabled" => Some(Tunable::Other(
            Did::ToDo,
            "addresses always move here; one that must not: [[vip]] nodes = [\"its only node\"]",
        )),
        "enablebans" | "recoverybanperiod" | "recoverygraceperiod" | "recoverydropallips" => {
            none("nobody is banned but by `steadfast ban`; a node without a lease has no addresses")
        }
        "reclockpingperiod" | "reclocklatencyms" | "verifyrecoverylock" => none("the lock is watched in its own way"),
        "seqnuminterval" => Some(Tunable::Heeded(1000)),
        "vacuuminterval" => Some(Tunable::Heeded(10)),
        "vacuumfastpathcount" => Some(Tunable::Heeded(60)),
        "allowclientdbattach" => Some(Tunable::Heeded(1)),
        _ => none(database_tunable(&name)),
    }
}

/// Why one of the others has no meaning here: most tune ctdbd's databases and queues.
fn database_tunable(name: &str) -> &'static str {
    match name {
        "controltimeout" | "traversetimeout" | "recovertimeout" | "recoverinterval" | "rerecoverytimeout"
        | "deferredattachto" => "how long the daemon waits for other nodes, and when it recovers, is not tuned",
        "tickleupdateinterval" => "the other nodes hear of clients' connections within a second",
        "databasehashsize" => "the databases have 100001 chains, CTDB's default",
        "databasemaxdead" => "how many deleted records a chain keeps for reuse is fixed",
        "repacklimit" | "vacuumlimit" | "vacuummaxruntime" => {
            "emptied records are deleted in small steps, and no file is repacked for the free ones in it"
        }
        "mutexenabled" | "tdbmutexenabled" => "the databases are made without mutexes",
        "lockprocessesperdb" | "samba3avoiddeadlocks" => "locks are waited for without processes of their own",
        "recbuffersizelimit" | "pulldbpreallocation" => "recoveries send records in pieces of a fixed size",
        "queuebuffersize" | "maxqueuedropmsg" => {
            "a client that does not read loses no message; it is closed when too much waits for it"
        }
        "maxredirectcount" => {
            "who wants a record asks the node that knows where it is; nothing is passed on in circles"
        }
        "fetchcollapse" => "what a node's clients want of one record is always asked for once",
        "hopcountmakesticky" | "stickyduration" | "stickypindown" => {
            "no record is kept on a node for a time: `ctdb setdbsticky` is only shown"
        }
        "allowunhealthydbread" => "a database that is unhealthy is read by nobody until it is recovered",
        "recoverpdbbyseqnum" => "a persistent database is recovered from the node that has its newest state",
        "stathistoryinterval" => "`ctdb stats` keeps no history",
        "loglatencyms" => "how long single calls took is not logged",
        "dbrecordcountwarn" | "dbrecordsizewarn" | "dbsizewarn" => "nobody is warned of many or large records",
        "verbosememorynames" => "about the memory of a program in C",
        "allowmixedversions" => "daemons of different versions work together, so that they are upgraded one by one",
        _ => "not heeded",
    }
}

/// What a node may be, by its own `ctdb.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    Leader,
    Lmaster,
}

/// What becomes of a capability; `as_ctdbd`: for a daemon that runs from CTDB's files.
pub(super) fn capability(what: Capability, can: bool, as_ctdbd: bool) -> (Did, &'static str) {
    match (what, can, as_ctdbd) {
        (_, true, _) => (Did::Taken, "the default here"),
        (Capability::Leader, false, true) => {
            (Did::Taken, "clients are told of another leader, as by `ctdb setleaderrole`")
        }
        (Capability::Lmaster, false, true) => (Did::Taken, "as by `ctdb setlmasterrole`"),
        (Capability::Leader, false, false) => (
            Did::ToDo,
            "every server can lead. `ctdb setleaderrole off` on this node, after each start of its daemon, has clients told \
             of another leader; a node that must not serve either: [[node]] role = \"witness\"",
        ),
        (Capability::Lmaster, false, false) => (
            Did::ToDo,
            "every server begins as a location master: `ctdb setlmasterrole off` on this node, after each start of its daemon",
        ),
    }
}

/// A setting of `ctdb.conf` that is not carried over.
pub(super) fn conf(section: &str, key: &str) -> (Did, &'static str) {
    let none = |why| (Did::NoMeaning, why);
    match (section, key) {
        ("logging", "location" | "log level") => {
            none("the journal has the log (steadfast daemon --log FILE for a file)")
        }
        ("cluster", "transport") => none("always TCP, and UDP for heartbeats"),
        ("cluster", "node address") => none("a node finds itself in the list by its addresses"),
        ("cluster", "leader timeout") => none("[cluster] lease_ms decides"),
        ("database", "volatile database directory" | "persistent database directory" | "state database directory") => {
            none("our databases are in /var/lib/steadfast/db; docs/samba.md says how to take CTDB's along")
        }
        ("database", "lock debug script" | "tdb mutexes") => {
            none("no process of ours waits for a lock that it would have to debug")
        }
        ("failover", "shutdown failover timeout" | "shutdown extra timeout") => {
            none("`steadfast drain` before a shutdown waits as long as it takes")
        }
        ("legacy", "realtime scheduling") => {
            none("the threads that a lease depends on are at real-time priority where LimitRTPRIO allows it")
        }
        ("legacy", "start as stopped" | "start as disabled") => {
            (Did::ToDo, "a node keeps its state over restarts: `steadfast stop` or `drain` it once")
        }
        ("legacy", "script log level") => none("what event scripts say is in the journal"),
        _ => (Did::Unknown, "CTDB has no such setting in this section"),
    }
}

/// Section and key of `ctdb.conf` that a name of the 2012 style has become, where ctdbd itself reads it.
pub(super) fn modern(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "CTDB_NODE_ADDRESS" => ("cluster", "node address"),
        "CTDB_DBDIR" => ("database", "volatile database directory"),
        "CTDB_DBDIR_PERSISTENT" => ("database", "persistent database directory"),
        "CTDB_DBDIR_STATE" => ("database", "state database directory"),
        "CTDB_LOGGING" => ("logging", "location"),
        "CTDB_DEBUGLEVEL" => ("logging", "log level"),
        "CTDB_START_AS_DISABLED" => ("legacy", "start as disabled"),
        "CTDB_START_AS_STOPPED" => ("legacy", "start as stopped"),
        "CTDB_CAPABILITY_RECMASTER" => ("cluster", "leader capability"),
        "CTDB_CAPABILITY_LMASTER" => ("legacy", "lmaster capability"),
        _ => return None,
    })
}

/// A name of the options files, or of the 2012 style, that is not carried over.
pub(super) fn legacy(name: &str) -> (Did, &'static str) {
    let none = |why| (Did::NoMeaning, why);
    let todo = |what| (Did::ToDo, what);
    let begins = |with: &str| name.starts_with(with);
    match name {
        "CTDB_TRANSPORT" => none("always TCP, and UDP for heartbeats"),
        "CTDB_NODE_ADDRESS" => none("a node finds itself in the list by its addresses"),
        "CTDB_DBDIR" | "CTDB_DBDIR_PERSISTENT" | "CTDB_DBDIR_STATE" | "CTDB_VARDIR" => {
            none("our databases are in /var/lib/steadfast/db; docs/samba.md says how to take CTDB's along")
        }
        "CTDB_DEBUG_LOCKS"
        | "CTDB_DEBUG_HUNG_SCRIPT_STACKPAT"
        | "CTDB_SUPPRESS_COREFILE"
        | "CTDB_MAX_OPEN_FILES"
        | "CTDB_VALGRIND"
        | "CTDB_OPTIONS" => none("about the process ctdbd, which is not run"),
        "CTDB_NOSETSCHED" => none("real-time priority is used where LimitRTPRIO allows it"),
        "CTDB_START_AS_DISABLED" | "CTDB_START_AS_STOPPED" => {
            todo("a node keeps its state over restarts: `steadfast stop` or `drain` it once")
        }
        "CTDB_LOGGING"
        | "CTDB_LOGFILE"
        | "CTDB_SYSLOG"
        | "CTDB_DEBUGLEVEL"
        | "CTDB_SCRIPT_LOG_LEVEL"
        | "CTDB_KILLTCP_DEBUGLEVEL" => none("the journal has the log (steadfast daemon --log FILE for a file)"),
        "CTDB_SOCKET" => todo("Samba finds us at [samba] ctdb_socket; write the path there if smb.conf names another"),
        "CTDB_PIDFILE"
        | "CTDB_BASE"
        | "CTDB_INIT_STYLE"
        | "CTDB_SERVICE_AUTOSTARTSTOP"
        | "CTDB_SHUTDOWN_TIMEOUT"
        | "CTDB_MAX_PERSISTENT_CHECK_ERRORS"
        | "CTDB_MAX_CORRUPT_DB_BACKUPS"
        | "CTDB_SCRIPT_VARDIR"
        | "CTDB_HELPER_BINDIR"
        | "CTDB_SYS_ETCDIR" => none("about how ctdbd was started; systemd starts us"),
        "CTDB_EVENT_SCRIPT_DIR" => {
            todo("event scripts are run from events/legacy in CTDB's directory, as NN.name.script: [events] base")
        }
        "CTDB_NOTIFY_SCRIPT" => todo("no notification script is run: `steadfast events --follow --json` tells"),
        "CTDB_PUBLIC_INTERFACE" => todo("only for addresses without an interface: each [[vip]] names its own"),
        "CTDB_MANAGES_WINBIND" | "CTDB_SERVICE_WINBIND" => {
            todo("winbindd is not started here: systemctl enable it on all nodes")
        }
        "CTDB_SERVICE_NMB" => {
            todo("nmbd is not started here: systemctl enable it on all nodes if you need NetBIOS names")
        }
        "CTDB_SERVICE_SMB" => none("empty: the default unit"),
        "CTDB_SAMBA_CHECK_PORTS" | "CTDB_SAMBA_SKIP_SHARE_CHECK" | "CTDB_SAMBA_SKIP_CONF_CHECK" => {
            none("the probe speaks SMB; it asks for the shares that [samba] shares lists")
        }
        "CTDB_NFS_CALLOUT" | "CTDB_NFS_SERVER_MODE" | "NFS_SERVER_MODE" | "CTDB_MANAGES_GANESHA" => todo(NFS),
        "CTDB_RPCINFO_LOCALHOST" | "CTDB_RPCINFO_LOCALHOST6" => {
            none("the probe of NFS asks the server itself: [nfs] probe_address")
        }
        "CTDB_MONITOR_FILESYSTEM_USAGE"
        | "CTDB_MONITOR_MEMORY_USAGE"
        | "CTDB_MONITOR_FREE_MEMORY"
        | "CTDB_MONITOR_FREE_MEMORY_WARN"
        | "CTDB_MONITOR_SWAP_USAGE"
        | "CTDB_CHECK_FS_USE" => todo("full disks and memory are not watched here: let your monitoring do it"),
        "CTDB_MONITOR_MPDEVICES" | "CTDB_CHECK_SWAP_IS_NOT_USED" => todo("not watched here: let your monitoring do it"),
        "CTDB_PARTIALLY_ONLINE_INTERFACES" => none("an address leaves a node whose interface is down; the others stay"),
        "CTDB_MANAGES_VSFTPD"
        | "CTDB_MANAGES_HTTPD"
        | "CTDB_MANAGES_CLAMD"
        | "CTDB_MANAGES_ISCSI"
        | "CTDB_MANAGED_SERVICES"
        | "CTDB_CLAMD_SOCKET"
        | "CTDB_START_ISCSI_SCRIPTS" => todo("only Samba and NFS are managed here: let systemd start it on all nodes"),
        _ if begins("CTDB_NATGW_") || begins("NATGW_") => {
            todo("there is no NAT gateway here: set a route that does not need one")
        }
        _ if begins("CTDB_LVS_") || begins("LVS_") => {
            todo("there is no LVS here: give clients several addresses by DNS, see [dns]")
        }
        _ if begins("CTDB_PER_IP_ROUTING_") => {
            todo("there are no routes by address here: set policy rules (ip rule) on all nodes")
        }
        _ if begins("CTDB_NFS_") || begins("NFS_") || begins("STATD_") => {
            none("about CTDB's own NFS checks and statd; ours come with [nfs]")
        }
        _ => (Did::Unknown, "not one of CTDB's names; nothing reads it here"),
    }
}

/// The script of CTDB's package that reads an option.
pub(super) fn option_of(name: &str) -> Option<&'static str> {
    let begins = |with: &str| name.starts_with(with);
    Some(match name {
        _ if begins("CTDB_MONITOR_") || name == "CTDB_CHECK_FS_USE" || name == "CTDB_CHECK_SWAP_IS_NOT_USED" => {
            "05.system"
        }
        _ if begins("CTDB_NATGW_") => "11.natgw",
        _ if begins("CTDB_PER_IP_ROUTING_") => "13.per_ip_routing",
        "CTDB_CLAMD_SOCKET" => "31.clamd",
        "CTDB_SERVICE_NMB" => "48.netbios",
        "CTDB_SERVICE_WINBIND" => "49.winbind",
        "CTDB_START_ISCSI_SCRIPTS" => "70.iscsi",
        _ if begins("CTDB_LVS_") => "91.lvs",
        _ => return None,
    })
}

/// An event script that is enabled, is neither Samba's nor NFS's, and is not run.
pub(super) fn script(base: &str) -> (Did, String) {
    let none = |why: &str| (Did::NoMeaning, why.to_owned());
    let todo = |what: &str| (Did::ToDo, what.to_owned());
    match base {
        "00.ctdb" | "01.reclock" | "10.interface" | "10.external" | "README" => {
            none("built in: databases, lock, addresses")
        }
        "05.system" | "40.fs_use" | "20.multipathd" => {
            todo("disks and memory are not watched here: let your monitoring do it")
        }
        "06.nfs" => none("built in: the grace period is started at a takeover"),
        "11.natgw" => todo("there is no NAT gateway here: set a route that does not need one"),
        "11.routing" => todo("static routes: set them in the network's own configuration"),
        "13.per_ip_routing" => todo("there are no routes by address here: set policy rules (ip rule) on all nodes"),
        "48.netbios" => todo("nmbd is not started here: systemctl enable it on all nodes if you need NetBIOS names"),
        "49.winbind" => todo("winbindd is not started here: systemctl enable it on all nodes"),
        "31.clamd" | "40.vsftpd" | "41.httpd" | "70.iscsi" | "62.cnfs" => {
            todo("only Samba and NFS are managed here: let systemd start it on all nodes")
        }
        "91.lvs" => todo("there is no LVS here: give clients several addresses by DNS, see [dns]"),
        _ => (
            Did::Unknown,
            "not one of CTDB's, and not run from here: as events/legacy/NN.name.script it is, with CTDB's arguments"
                .into(),
        ),
    }
}

/// Files of CTDB's directory that are read line by line elsewhere.
pub(super) fn is_read(name: &str) -> bool {
    [
        "ctdb.conf",
        "ctdbd.conf",
        "nodes",
        "public_addresses",
        "ctdb.tunables",
        "tunables.d",
        "script.options",
        "events.d",
        "lock_records",
    ]
    .contains(&name)
}

/// What else may lie there.
pub(super) fn other_file(name: &str) -> (Did, String) {
    let (did, says) = match name {
        "functions"
        | "statd-callout"
        | "debug_locks.sh"
        | "debug-hung-script.sh"
        | "ctdb-crash-cleanup.sh"
        | "nfs-linux-kernel-callout"
        | "nfs-ganesha-callout"
        | "gdb_backtrace"
        | "gcore_trace.sh"
        | "rc.local.d" => (Did::NoMeaning, "a program of CTDB's package, not run here"),
        "events" => (Did::NoMeaning, "events/legacy is listed by script; scripts in events/notification are not run"),
        "notify.sh" | "notify.d" => (Did::ToDo, "notifications: `steadfast events --follow --json` tells what happens"),
        "nfs-checks.d" | "nfs-rpc-checks.d" => (Did::NoMeaning, "checks of NFS are built in: [nfs] and [health]"),
        "static-routes" | "policy_routing" => (Did::ToDo, "set these routes in the network's own configuration"),
        "natgw_nodes" | "lvs_nodes" => (Did::ToDo, "there is no NAT gateway and no LVS here"),
        _ => (Did::Unknown, "not one of CTDB's files; not looked into"),
    };
    (did, says.to_owned())
}
