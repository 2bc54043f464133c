//! All commands, and how they are used.

use super::args::Options;
use super::context::Context;
use super::out::{FAILED, Out, Outcome, say};
use super::{admin, backup, databases, helpers, ip, nodes, records, statistics, tickles, tunables};
use std::ffi::OsString;

/// What stands after the command.
pub(super) type Args = [OsString];

/// How a command is carried out.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Without a daemon.
    Alone(fn(&Options, &mut Out, &Args) -> Outcome),
    /// By this node's daemon only.
    Here(fn(&mut Context, &Args) -> Outcome),
    /// By the daemon of any node.
    There(fn(&mut Context, &Args) -> Outcome),
}
use Run::{Alone, Here, There};

/// Name, how it is carried out, its arguments, what it does; in the order in which the help lists them.
type Command = (&'static str, Run, &'static str, &'static str);

/// The version of CTDB whose tool this one equals; the first line of `ctdb version`, which scripts compare.
const VERSION: &str = "4.17.12";

#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    ("version", Alone(version), "", "show version of ctdb"),
    ("status", There(nodes::status), "", "show node status"),
    ("uptime", There(nodes::uptime), "", "show node uptime"),
    ("ping", There(nodes::ping), "", "ping a node"),
    ("runstate", There(nodes::runstate), "[setup|first_recovery|startup|running]", "get/check runstate of a node"),
    ("getvar", There(tunables::getvar), "<name>", "get a tunable variable"),
    ("setvar", There(tunables::setvar), "<name> <value>", "set a tunable variable"),
    ("listvars", There(tunables::listvars), "", "list tunable variables"),
    ("statistics", There(statistics::statistics), "", "show ctdb statistics"),
    ("statisticsreset", There(statistics::statisticsreset), "", "reset ctdb statistics"),
    ("stats", There(statistics::stats), "[count]", "show rolling statistics"),
    ("ip", There(ip::ip), "[all]", "show public ips"),
    ("ipinfo", There(ip::ipinfo), "<ip>", "show public ip details"),
    ("ifaces", There(ip::ifaces), "", "show interfaces"),
    ("setifacelink", There(ip::setifacelink), "<iface> up|down", "set interface link status"),
    ("process-exists", There(nodes::process_exists), "<pid> [<srvid>]", "check if a process exists on a node"),
    ("getdbmap", There(databases::getdbmap), "", "show attached databases"),
    ("getdbstatus", There(databases::getdbstatus), "<dbname|dbid>", "show database status"),
    ("catdb", Here(databases::catdb), "<dbname|dbid>", "dump cluster-wide ctdb database"),
    ("cattdb", Here(databases::cattdb), "<dbname|dbid>", "dump local ctdb database"),
    ("getcapabilities", There(nodes::getcapabilities), "", "show node capabilities"),
    ("pnn", Here(nodes::pnn), "", "show the pnn of the currnet node"),
    ("lvs", Here(helpers::lvs), "leader|list|status", "show lvs configuration"),
    ("setdebug", There(nodes::setdebug), "ERROR|WARNING|NOTICE|INFO|DEBUG", "set debug level"),
    ("getdebug", There(nodes::getdebug), "", "get debug level"),
    ("attach", Here(databases::attach), "<dbname> [persistent|replicated]", "attach a database"),
    ("detach", Here(databases::detach), "<dbname|dbid> ...", "detach database(s)"),
    ("dumpmemory", There(statistics::dumpmemory), "", "dump ctdbd memory map"),
    ("rddumpmemory", There(statistics::rddumpmemory), "", "dump recoverd memory map"),
    ("getpid", There(nodes::getpid), "", "get ctdbd process ID"),
    ("disable", There(admin::disable), "", "disable a node"),
    ("enable", There(admin::enable), "", "enable a node"),
    ("stop", There(admin::stop), "", "stop a node"),
    ("continue", There(admin::cont), "", "continue a stopped node"),
    ("ban", There(admin::ban), "<bantime>", "ban a node"),
    ("unban", There(admin::unban), "", "unban a node"),
    ("shutdown", There(admin::shutdown), "", "shutdown ctdb daemon"),
    ("recover", There(admin::recover), "", "force recovery"),
    ("sync", There(admin::ipreallocate), "", "run ip reallocation (deprecated)"),
    ("ipreallocate", There(admin::ipreallocate), "", "run ip reallocation"),
    ("gratarp", There(ip::gratarp), "<ip> <interface>", "send a gratuitous arp"),
    ("tickle", Alone(|_, out, args| tickles::tickle(out, args)), "<srcip:port> <dstip:port>", "send a tcp tickle ack"),
    ("gettickles", There(tickles::gettickles), "<ip> [<port>]", "get the list of tickles"),
    ("addtickle", There(tickles::addtickle), "<ip>:<port> <ip>:<port>", "add a tickle"),
    ("deltickle", There(tickles::deltickle), "<ip>:<port> <ip>:<port>", "delete a tickle"),
    ("listnodes", Alone(nodes::listnodes), "", "list nodes in the cluster"),
    ("reloadnodes", Here(admin::reloadnodes), "", "reload the nodes file all nodes"),
    ("moveip", Here(ip::moveip), "<ip> <node>", "move an ip address to another node"),
    ("addip", There(ip::addip), "<ip/mask> <iface>", "add an ip address to a node"),
    ("delip", There(ip::delip), "<ip>", "delete an ip address from a node"),
    ("backupdb", Here(backup::backupdb), "<dbname|dbid> <file>", "backup a database into a file"),
    ("restoredb", Here(backup::restoredb), "<file> [dbname]", "restore a database from a file"),
    ("dumpdbbackup", Alone(|_, out, args| backup::dumpdbbackup(out, args)), "<file>", "dump database from a backup file"),
    ("wipedb", Here(backup::wipedb), "<dbname|dbid>", "wipe the contents of a database."),
    ("leader", There(nodes::leader), "", "show the pnn of the leader"),
    ("event", Alone(|_, out, args| helpers::event(out, args)), "", "event and event script commands"),
    ("scriptstatus", Alone(|_, out, args| helpers::scriptstatus(out, args)), "[init|setup|startup|monitor|takeip|releaseip|ipreallocated]", "show event script status"),
    ("natgw", Here(helpers::natgw), "leader|list|status", "show natgw configuration"),
    ("getreclock", There(nodes::getreclock), "", "get recovery lock file"),
    ("setlmasterrole", There(admin::setlmasterrole), "on|off", "set LMASTER role"),
    ("setleaderrole", There(admin::setleaderrole), "on|off", "set LEADER role"),
    ("setdbreadonly", There(databases::setdbreadonly), "<dbname|dbid>", "enable readonly records"),
    ("setdbsticky", There(databases::setdbsticky), "<dbname|dbid>", "enable sticky records"),
    ("pfetch", Here(records::pfetch), "<dbname|dbid> <key>", "fetch record from persistent database"),
    ("pstore", Here(records::pstore), "<dbname|dbid> <key> <value>", "write record to persistent database"),
    ("pdelete", Here(records::pdelete), "<dbname|dbid> <key>", "delete record from persistent database"),
    ("ptrans", Here(records::ptrans), "<dbname|dbid> [<file>]", "update a persistent database (from file or stdin)"),
    ("tfetch", There(records::tfetch), "<tdb-file> <key> [<file>]", "fetch a record"),
    ("tstore", There(records::tstore), "<tdb-file> <key> <data> [<rsn> <dmaster> <flags>]", "store a record"),
    ("readkey", Here(records::readkey), "<dbname|dbid> <key> [readonly]", "read value of a database key"),
    ("writekey", Here(records::writekey), "<dbname|dbid> <key> <value>", "write value for a database key"),
    ("deletekey", Here(records::deletekey), "<dbname|dbid> <key>", "delete a database key"),
    ("checktcpport", Alone(|_, out, args| helpers::checktcpport(out, args)), "<port>", "check if a service is bound to a specific tcp port or not"),
    ("getdbseqnum", Here(databases::getdbseqnum), "<dbname|dbid>", "get database sequence number"),
    ("nodestatus", There(nodes::nodestatus), "[all|<pnn-list>]", "show and return node status"),
    ("dbstatistics", There(statistics::dbstatistics), "<dbname|dbid>", "show database statistics"),
    ("reloadips", Here(ip::reloadips), "[all|<pnn-list>]", "reload the public addresses file"),
];

/// How popt tells what options there are.
const OPTIONS: &str = "\
Usage: [OPTION...]
  -d, --debug=STRING       debug level
  -t, --timelimit=INT      timelimit (in seconds)
  -n, --node=INT           node specification - integer
  -Y                       enable machine readable output
  -x, --separator=CHAR     specify separator for machine readable output
  -X                       enable machine parsable output with separator |
  -v, --verbose            enable verbose output
  -T, --maxruntime=INT     die if runtime exceeds this limit (in seconds)

Help options:
  -?, --help               Show this help message
      --usage              Display brief usage message
";
const SHORT: &str = "\
Usage: [-?YXv] [-?|--help] [--usage] [-d|--debug=STRING]
        [-t|--timelimit=INT] [-n|--node=INT] [-Y] [-x|--separator=CHAR]
        [-X] [-v|--verbose] [-T|--maxruntime=INT]
";

/// The command of a name.
pub(super) fn find(name: &str) -> Option<Run> {
    COMMANDS.iter().find(|(known, ..)| *known == name).map(|(_, run, ..)| *run)
}

pub(super) fn help(out: &mut Out) -> Outcome {
    out.print(format_args!("{OPTIONS}"))
}

pub(super) fn short_help(out: &mut Out) -> Outcome {
    out.print(format_args!("{SHORT}"))
}

/// All commands, as the answer to no command.
pub(super) fn everything(out: &mut Out) -> Outcome {
    help(out)?;
    say!(out, "\nCommands:")?;
    COMMANDS.iter().try_for_each(|command| line(out, command))?;
    Err(FAILED)
}

/// How one command is used, as the answer to arguments that it does not take.
pub(super) fn usage(out: &mut Out, name: &str) -> Outcome {
    match COMMANDS.iter().find(|(known, ..)| *known == name) {
        Some(command) => {
            short_help(out)?;
            say!(out, "\nCommands:")?;
            line(out, command)?;
            Err(FAILED)
        }
        // The original looks two commands up by names that they do not have.
        None => everything(out),
    }
}

fn line(out: &mut Out, (name, _, args, does): &Command) -> Outcome {
    say!(out, "  {name:<15} {args:<27}  {does}")
}

fn version(_: &Options, out: &mut Out, _: &Args) -> Outcome {
    say!(out, "{VERSION}-Steadfast-{}", env!("CARGO_PKG_VERSION"))
}
