//! What runs inside a laboratory's namespaces: the drivers (up, demo, test, bench) and commands on a running one.

use crate::args::Inside;
use crate::lab::{Lab, Net};
use crate::parts::{self, Progress};
use crate::site::Subject;
use crate::{bench, cases, chaos, demo, drill, launch, site, steadfast, stock, switch, torture, vm};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Does `command` in laboratory `id`; the exit code.
pub(crate) fn main(id: &str, command: Inside) -> Result<i32> {
    if let Inside::Up(shape) = command {
        let lab = Lab::create(shape.site(id)?)?;
        let progress = Progress::new();
        parts::up(&lab, &progress)?;
        match lab.site.subject {
            Subject::Steadfast | Subject::SteadfastFast => steadfast::form(&lab, &progress)?,
            Subject::Ctdb | Subject::CtdbTuned => stock::form(&lab, &progress)?,
            Subject::Parts => {}
        }
        std::fs::write(PathBuf::from(launch::REGISTRY).join(format!("{id}.ready")), "")?;
        loop {
            std::thread::park();
        }
    }
    match command {
        Inside::Demo(shape) => {
            demo::main(&Lab::create(shape.site(id)?)?)?;
            loop {
                std::thread::park();
            }
        }
        Inside::Test { shape, result, cases } => {
            let lab = Lab::create(shape.site(id)?)?;
            let verdicts = cases::run_group(&lab, &cases)?;
            std::fs::write(&result, serde_json::to_string_pretty(&verdicts)?)
                .with_context(|| format!("cannot write {}", result.display()))?;
            Ok(0)
        }
        Inside::BenchBlock { shape, plan } => {
            bench::block(&Lab::create(shape.site(id)?)?, &plan)?;
            Ok(0)
        }
        Inside::BenchDatabase { shape, plan } => {
            bench::db::drive(&Lab::create(shape.site(id)?)?, &plan)?;
            Ok(0)
        }
        Inside::Smbtorture { shape, plan } => {
            torture::drive(&Lab::create(shape.site(id)?)?, &plan)?;
            Ok(0)
        }
        Inside::BenchLoad { shape, minutes, json } => {
            bench::load(&Lab::create(shape.site(id)?)?, minutes, json)?;
            Ok(0)
        }
        Inside::Chaos { shape, options } => chaos::main(&Lab::create(shape.site(id)?)?, &options),
        Inside::BenchIdle { shape, seconds, json } => {
            bench::idle(&Lab::create(shape.site(id)?)?, seconds, json)?;
            Ok(0)
        }
        other => on_running(&Lab::open(id)?, other),
    }
}

/// Commands that work on a laboratory which is up.
fn on_running(lab: &Lab, command: Inside) -> Result<i32> {
    match command {
        Inside::Up(_) | Inside::Demo(_) | Inside::Test { .. } => {}
        Inside::BenchBlock { .. }
        | Inside::BenchDatabase { .. }
        | Inside::BenchLoad { .. }
        | Inside::Smbtorture { .. }
        | Inside::Chaos { .. }
        | Inside::BenchIdle { .. } => {}
        Inside::Exec { host, words } => {
            let host =
                if site::CLIENT == host || site::WATCHER == host { host } else { site::name(lab.site.node(&host)?) };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let status = lab.command(&host, &words)?.status()?;
            return Ok(status.code().unwrap_or(1));
        }
        Inside::Vm { lines } => {
            let mut machine = vm::Machine::boot(lab, "192.168.122.50")?;
            for line in lines {
                print!("{}", machine.run(&line, Duration::from_secs(300))?);
            }
        }
        Inside::Drill(options) => {
            return drill::main(lab, options.fault, options.on.as_deref(), options.json, options.svg.as_deref());
        }
        Inside::PowerOff { node } => lab.power_off(&site::name(lab.site.node(&node)?))?,
        Inside::PowerOn { node } => {
            let node = lab.site.node(&node)?;
            parts::boot(lab, node)?;
            match lab.site.subject {
                Subject::Steadfast | Subject::SteadfastFast => steadfast::start(lab, node)?,
                Subject::Ctdb | Subject::CtdbTuned => stock::start(lab, node)?,
                Subject::Parts => {}
            }
        }
        Inside::Link { node, net, state } => {
            switch::link(lab, &site::name(lab.site.node(&node)?), net, state == "up")?;
        }
        Inside::Partition { groups, net } => {
            let groups = if groups == "heal" { Vec::new() } else { switch::parse_groups(&lab.site, &groups)? };
            let nets = net.map_or_else(|| vec![Net::Public, Net::Private], |n| vec![n]);
            switch::partition(lab, &groups, &nets)?;
        }
    }
    Ok(0)
}
