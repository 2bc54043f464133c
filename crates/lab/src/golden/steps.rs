//! The commands, in their order: later ones see what earlier ones did.

/// What is compared of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Every line.
    Exact,
    /// Every line, numbers left out.
    Numbers,
    /// The names in every line: numbers and the blanks that line them up left out.
    Shape,
    /// Lines with this word.
    Only(&'static str),
    /// As `Shape`, but for lines with this word.
    ShapeBut(&'static str),
    /// Every line, in alphabetical order.
    Sorted,
    /// The exit code alone.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Where it is asked.
    pub(super) node: usize,
    /// Without `ctdb` itself.
    pub(super) words: &'static [&'static str],
    /// Standard input.
    pub(super) input: &'static str,
    pub(super) how: How,
    /// False: only to bring about a state.
    pub(super) compare: bool,
}

impl Step {
    pub(super) fn command(&self) -> String {
        format!("node {}: ctdb {}", self.node, self.words.join(" "))
    }
}

const fn on(node: usize, words: &'static [&'static str]) -> Step {
    Step { node, words, input: "", how: How::Exact, compare: true }
}

const fn exact(words: &'static [&'static str]) -> Step {
    on(0, words)
}

const fn of(how: How, words: &'static [&'static str]) -> Step {
    Step { node: 0, words, input: "", how, compare: true }
}

const fn told(words: &'static [&'static str], input: &'static str) -> Step {
    Step { node: 0, words, input, how: How::Exact, compare: true }
}

/// The address of node `n`, put back where it belongs.
const fn put(words: &'static [&'static str]) -> Step {
    Step { node: 0, words, input: "", how: How::Nothing, compare: false }
}

const DB: How = How::Only("golden");

pub(super) const STEPS: &[Step] = &[
    // The cluster as it stands.
    exact(&["status"]),
    exact(&["-X", "status"]),
    exact(&["-Y", "status"]),
    exact(&["-x", ":", "-X", "status"]),
    exact(&["-n", "2", "status"]),
    on(3, &["status"]),
    exact(&["nodestatus"]),
    exact(&["nodestatus", "all"]),
    exact(&["nodestatus", "1,2"]),
    exact(&["-X", "nodestatus", "all"]),
    exact(&["pnn"]),
    on(2, &["pnn"]),
    exact(&["-n", "1", "pnn"]),
    of(How::Numbers, &["leader"]),
    of(How::Numbers, &["ping"]),
    of(How::Numbers, &["-n", "3", "ping"]),
    exact(&["listnodes"]),
    exact(&["-X", "listnodes"]),
    of(How::Shape, &["uptime"]),
    exact(&["runstate"]),
    exact(&["runstate", "RUNNING"]),
    exact(&["runstate", "STARTUP"]),
    of(How::Numbers, &["getpid"]),
    exact(&["getcapabilities"]),
    exact(&["-X", "getcapabilities"]),
    exact(&["getreclock"]),
    exact(&["getdebug"]),
    exact(&["setdebug", "INFO"]),
    exact(&["getdebug"]),
    exact(&["setdebug", "NOTICE"]),
    exact(&["setdebug", "LOUD"]),
    exact(&["process-exists", "4194303"]),
    // Tunables.
    exact(&["listvars"]),
    exact(&["getvar", "MonitorInterval"]),
    exact(&["setvar", "MonitorInterval", "17"]),
    exact(&["getvar", "monitorinterval"]),
    exact(&["setvar", "MonitorInterval", "15"]),
    exact(&["getvar", "NoSuchThing"]),
    exact(&["setvar", "NoSuchThing", "1"]),
    // The event script ([`super::rivals`]) that both have. It does nothing but fail at one address that there is not.
    exact(&["event", "run", "20", "legacy", "ipreallocated"]),
    of(How::Shape, &["event", "status", "legacy", "ipreallocated"]),
    exact(&["event", "run", "20", "legacy", "takeip", "eth0", "192.0.2.1", "24"]),
    of(How::Shape, &["event", "status", "legacy", "takeip"]),
    exact(&["event", "status", "legacy", "updateip"]),
    exact(&["event", "run", "20", "nowhere", "ipreallocated"]),
    exact(&["event", "status", "nowhere", "monitor"]),
    of(How::Shape, &["scriptstatus"]),
    of(How::Shape, &["scriptstatus", "startup"]),
    // Addresses.
    exact(&["ip"]),
    exact(&["ip", "all"]),
    exact(&["-X", "ip"]),
    exact(&["-X", "ip", "all"]),
    exact(&["-v", "ip"]),
    exact(&["-v", "ip", "all"]),
    exact(&["-X", "-v", "ip", "all"]),
    exact(&["ipinfo", "192.168.122.200"]),
    exact(&["ipinfo", "10.9.9.9"]),
    exact(&["ifaces"]),
    exact(&["-X", "ifaces"]),
    exact(&["gettickles", "192.168.122.200"]),
    exact(&["addtickle", "10.1.1.1:1000", "192.168.122.200:445"]),
    exact(&["addtickle", "10.1.1.1:1001", "192.168.122.200:2049"]),
    exact(&["gettickles", "192.168.122.200"]),
    exact(&["gettickles", "192.168.122.200", "445"]),
    exact(&["-X", "gettickles", "192.168.122.200"]),
    exact(&["deltickle", "10.1.1.1:1000", "192.168.122.200:445"]),
    exact(&["deltickle", "10.1.1.1:1001", "192.168.122.200:2049"]),
    exact(&["gettickles", "192.168.122.200"]),
    exact(&["moveip", "192.168.122.200", "1"]),
    exact(&["ip", "all"]),
    exact(&["moveip", "192.168.122.200", "0"]),
    exact(&["moveip", "10.9.9.9", "1"]),
    exact(&["moveip", "192.168.122.200", "9"]),
    exact(&["ip", "all"]),
    // Databases.
    exact(&["attach", "golden_volatile.tdb"]),
    exact(&["attach", "golden_persistent.tdb", "persistent"]),
    exact(&["attach", "golden_replicated.tdb", "replicated"]),
    of(DB, &["getdbmap"]),
    of(DB, &["-X", "getdbmap"]),
    exact(&["getdbstatus", "golden_volatile.tdb"]),
    exact(&["getdbstatus", "golden_persistent.tdb"]),
    exact(&["-X", "getdbstatus", "golden_replicated.tdb"]),
    exact(&["getdbstatus", "golden_nowhere.tdb"]),
    exact(&["pfetch", "golden_persistent.tdb", "key1"]),
    exact(&["pstore", "golden_persistent.tdb", "key1", "value1"]),
    exact(&["pfetch", "golden_persistent.tdb", "key1"]),
    Step { node: 3, ..exact(&["pfetch", "golden_persistent.tdb", "key1"]) },
    exact(&["getdbseqnum", "golden_persistent.tdb"]),
    told(&["ptrans", "golden_persistent.tdb"], "\"key2\" \"value2\"\n\"key3\" \"value3\"\n\"key1\" \"other\"\n"),
    exact(&["pfetch", "golden_persistent.tdb", "key2"]),
    exact(&["pfetch", "golden_persistent.tdb", "key1"]),
    of(How::Sorted, &["catdb", "golden_persistent.tdb"]),
    of(How::Sorted, &["cattdb", "golden_persistent.tdb"]),
    exact(&["pdelete", "golden_persistent.tdb", "key2"]),
    exact(&["pfetch", "golden_persistent.tdb", "key2"]),
    exact(&["getdbseqnum", "golden_persistent.tdb"]),
    Step { node: 2, ..exact(&["getdbseqnum", "golden_persistent.tdb"]) },
    exact(&["getdbseqnum", "golden_nowhere.tdb"]),
    exact(&["pstore", "golden_volatile.tdb", "key1", "value1"]),
    exact(&["writekey", "golden_volatile.tdb", "key1", "value1"]),
    exact(&["readkey", "golden_volatile.tdb", "key1"]),
    Step { node: 2, ..exact(&["readkey", "golden_volatile.tdb", "key1"]) },
    Step { node: 3, ..exact(&["writekey", "golden_volatile.tdb", "key1", "value of node 3"]) },
    exact(&["readkey", "golden_volatile.tdb", "key1"]),
    exact(&["readkey", "golden_volatile.tdb", "key9"]),
    exact(&["writekey", "golden_volatile.tdb", "key2", "value2"]),
    of(DB, &["catdb", "golden_volatile.tdb"]),
    of(How::Only("Dumped"), &["catdb", "golden_volatile.tdb"]),
    exact(&["deletekey", "golden_volatile.tdb", "key2"]),
    exact(&["readkey", "golden_volatile.tdb", "key2"]),
    exact(&["writekey", "golden_persistent.tdb", "key1", "value1"]),
    exact(&["readkey", "golden_nowhere.tdb", "key1"]),
    // Which keys are hot each counts in its own way (docs/ctdb-tool.md).
    of(How::ShapeBut(" Key:"), &["dbstatistics", "golden_volatile.tdb"]),
    exact(&["dbstatistics", "golden_nowhere.tdb"]),
    of(How::Shape, &["statistics"]),
    of(How::Shape, &["-X", "statistics"]),
    exact(&["statisticsreset"]),
    exact(&["setdbreadonly", "golden_volatile.tdb"]),
    exact(&["setdbreadonly", "golden_persistent.tdb"]),
    exact(&["setdbsticky", "golden_volatile.tdb"]),
    of(DB, &["getdbmap"]),
    exact(&["wipedb", "golden_persistent.tdb"]),
    exact(&["pfetch", "golden_persistent.tdb", "key1"]),
    exact(&["getdbseqnum", "golden_persistent.tdb"]),
    exact(&["detach", "golden_volatile.tdb"]),
    exact(&["recover"]),
    exact(&["status"]),
    exact(&["readkey", "golden_volatile.tdb", "key1"]),
    // A database goes away.
    exact(&["attach", "golden_spare.tdb"]),
    exact(&["writekey", "golden_spare.tdb", "key1", "value1"]),
    exact(&["-n", "0", "setvar", "AllowClientDBAttach", "0"]),
    exact(&["-n", "1", "setvar", "AllowClientDBAttach", "0"]),
    exact(&["-n", "2", "setvar", "AllowClientDBAttach", "0"]),
    exact(&["detach", "golden_spare.tdb"]),
    exact(&["-n", "3", "setvar", "AllowClientDBAttach", "0"]),
    exact(&["detach", "golden_persistent.tdb"]),
    exact(&["detach", "golden_spare.tdb"]),
    exact(&["detach", "golden_spare.tdb"]),
    of(DB, &["getdbmap"]),
    exact(&["-n", "0", "setvar", "AllowClientDBAttach", "1"]),
    exact(&["-n", "1", "setvar", "AllowClientDBAttach", "1"]),
    exact(&["-n", "2", "setvar", "AllowClientDBAttach", "1"]),
    exact(&["-n", "3", "setvar", "AllowClientDBAttach", "1"]),
    exact(&["attach", "golden_spare.tdb"]),
    exact(&["readkey", "golden_spare.tdb", "key1"]),
    // Who knows where records are.
    exact(&["-n", "1", "setlmasterrole", "off"]),
    exact(&["-n", "1", "getcapabilities"]),
    exact(&["recover"]),
    exact(&["status"]),
    exact(&["-n", "1", "setlmasterrole", "on"]),
    exact(&["recover"]),
    exact(&["status"]),
    // Nodes off and on. Where their addresses go meanwhile is each system's own affair.
    exact(&["-n", "3", "disable"]),
    exact(&["status"]),
    exact(&["-X", "nodestatus", "3"]),
    exact(&["nodestatus", "3"]),
    exact(&["-n", "3", "disable"]),
    exact(&["-n", "3", "enable"]),
    exact(&["-n", "3", "enable"]),
    exact(&["nodestatus", "all"]),
    exact(&["-n", "2", "stop"]),
    exact(&["status"]),
    exact(&["-n", "2", "stop"]),
    on(2, &["status"]),
    exact(&["-n", "2", "pnn"]),
    exact(&["-n", "2", "continue"]),
    exact(&["-n", "2", "continue"]),
    exact(&["nodestatus", "all"]),
    exact(&["-n", "1", "ban", "0"]),
    exact(&["-n", "1", "ban", "100"]),
    exact(&["status"]),
    exact(&["-n", "1", "ban", "100"]),
    exact(&["-n", "1", "unban"]),
    exact(&["-n", "1", "unban"]),
    exact(&["nodestatus", "all"]),
    exact(&["ipreallocate"]),
    exact(&["reloadips"]),
    exact(&["reloadnodes"]),
    put(&["moveip", "192.168.122.200", "0"]),
    put(&["moveip", "192.168.122.201", "1"]),
    put(&["moveip", "192.168.122.202", "2"]),
    put(&["moveip", "192.168.122.203", "3"]),
    exact(&["ip", "all"]),
    exact(&["gratarp", "192.168.122.200", "eth0"]),
    // Mistakes.
    exact(&["nosuchcommand"]),
    of(How::Nothing, &[]),
    exact(&["-n", "9", "status"]),
    exact(&["-n", "x", "status"]),
    exact(&["getvar"]),
    exact(&["gettickles", "nowhere"]),
    exact(&["nodestatus", "9"]),
];
