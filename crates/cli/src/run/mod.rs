//! What each command does.

mod act;
mod drill;
mod import;
mod local;
mod show;

pub(crate) use local::help;

use crate::args::{Cli, Command, ConfigCommand, DnsCommand};
use crate::exit::{Exit, Fail};
use cluster::AdminState;
use std::process::ExitCode;

/// Runs a command.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Fail> {
    let socket = cli.socket.as_path();
    let done = match cli.command {
        Command::Status { watch: true, json } => return show::watch(socket, json.json).map(ExitCode::from),
        Command::Status { watch: false, json } => return show::status(socket, json.json).map(ExitCode::from),
        Command::Ip { json } => show::ip(socket, json.json),
        Command::Nodes { json } => show::nodes(socket, json.json),
        Command::Events { follow, last, json } => show::events(socket, follow, last, json.json),
        Command::Version { json } => show::version(socket, json.json),
        Command::Dns(DnsCommand::Zone { json }) => show::zone(socket, json.json),
        Command::Drain { target, now, yes, no_wait } => act::drain(socket, target, now, yes, !no_wait),
        Command::Stop { target, yes, no_wait } => act::stop(socket, target, yes, !no_wait),
        Command::Resume { target } | Command::Continue { target } => act::set_state(socket, target, AdminState::Active),
        Command::Ban { node, json } => {
            act::set_state(socket, crate::args::Target { node: Some(node), json }, AdminState::Banned)
        }
        Command::MoveIp { vip, node, json } => act::move_ip(socket, vip, &node, json.json),
        Command::ForceView { yes, because, json } => act::force_view(socket, yes, because, json.json),
        Command::CheckStorage { rounds, json } => act::check_storage(socket, rounds, json.json),
        Command::Drill { fault, options } => return drill::main(socket, fault, options),
        Command::Reload { json } => act::reload(socket, json.json),
        Command::Init { place, json } => local::init(&place, json.json),
        Command::Token { place, joins, life, json } => local::token(&place, socket, joins.as_deref(), life, json.json),
        Command::Join { token, place, json } => local::join(&place, &token, json.json),
        Command::Config(ConfigCommand::Check { file, node, json }) => {
            return local::config_check(&file, node, json.json);
        }
        Command::Config(ConfigCommand::Show { file, node, json }) => return local::config_show(&file, node, json.json),
        Command::ImportCtdb { options, json } => import::main(&options, json.json),
        Command::Completions { shell } => local::completions(shell),
        Command::Man { dir } => local::man(&dir),
        Command::Daemon { place, run_dir, log, without } => {
            return Ok(local::daemon(place, run_dir, log, without).into());
        }
        Command::Ask { request } => show::ask(socket, &request),
        Command::Helper { args } => return local::helper(&args),
    };
    done.map(|()| Exit::Ok.into())
}
