//! Can a member host an address, and what speaks against it?
//!
//! The leader asks this of every member and address at every change, so the answer is put into words only where somebody
//! reads them.

use crate::placing::Scene;
use crate::{AdminState, Health, Pnn, Report, ServiceHealth, VipConf};
use std::fmt;
use std::net::IpAddr;

/// What speaks against a member as the host of an address. Its words follow on the member's name and a colon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unfit<'a> {
    NoMember,
    Stopping,
    Admin(AdminState),
    LinkDown(&'a str),
    Conflict { vip: IpAddr, mac: &'a str },
    NotTaken(&'a str),
    Service { name: &'a str, health: Option<&'a ServiceHealth> },
}

impl fmt::Display for Unfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoMember => f.write_str("it is not a member"),
            Self::Stopping => f.write_str("it is being stopped"),
            Self::Admin(AdminState::Active) => Ok(()),
            Self::Admin(AdminState::Drained) => f.write_str("it is drained"),
            Self::Admin(AdminState::Stopped) => f.write_str("it is stopped"),
            Self::Admin(AdminState::Banned) => f.write_str("it is banned"),
            Self::LinkDown(interface) => write!(f, "its interface {interface} is down"),
            Self::Conflict { vip, mac } => write!(f, "another machine ({mac}) answers for {vip}"),
            Self::NotTaken(why) => write!(f, "it could not take it: {why}"),
            Self::Service { name, health: None } => write!(f, "{name} has not been seen yet"),
            Self::Service { name, health: Some(h) } if h.because.is_empty() => write!(f, "{name} is {}", word(h.state)),
            Self::Service { name, health: Some(h) } => write!(f, "{name} is {}: {}", word(h.state), h.because),
        }
    }
}

/// An address that is to be hosted.
#[derive(Clone, Copy)]
pub(crate) struct Address<'a> {
    pub(crate) vip: IpAddr,
    pub(crate) conf: &'a VipConf,
    /// The MAC of a machine outside of the cluster that answers for it.
    conflict: Option<&'a str>,
}

impl<'a> Address<'a> {
    pub(crate) fn new(scene: &Scene<'a>, vip: IpAddr, conf: &'a VipConf) -> Self {
        // What a node saw before it was lost nobody would ever take back.
        let mut members = scene.view.members.keys().filter_map(|pnn| scene.member(*pnn));
        let conflict = members.find_map(|r| r.conflicts.get(&vip));
        Self { vip, conf, conflict: conflict.map(String::as_str) }
    }
}

/// How a member's storage answers, by the services that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Storage {
    Answers,
    /// Not just now. It may be the whole volume, which each node notices in its own time.
    Hesitates,
    Failed,
}

impl Storage {
    fn of(report: &Report) -> Self {
        let state = |name: &&str| report.services.get(*name).map(|health| health.state);
        let of = |state| match state {
            Health::Failed => Self::Failed,
            Health::Failing => Self::Hesitates,
            Health::Ok | Health::Starting | Health::Off => Self::Answers,
        };
        crate::unfinished::HANG.iter().filter_map(state).map(of).max().unwrap_or(Self::Answers)
    }
}

/// A member, with what is the same for all addresses.
#[derive(Clone, Copy)]
pub(crate) struct Host<'a> {
    pnn: Pnn,
    report: &'a Report,
    /// The administrator's word, or the end of its daemon.
    unwilling: Option<Unfit<'a>>,
    /// The first service that does not work.
    broken: Option<Unfit<'a>>,
    /// No service has yet to start.
    started: bool,
    /// How far its storage answers, and its NFS server, which asks the same storage: the worse of the two.
    storage: Storage,
}

impl<'a> Host<'a> {
    /// Nothing unless this member's admitted run has reported under this view.
    pub(crate) fn new(scene: &Scene<'a>, pnn: Pnn) -> Option<Self> {
        let report = scene.member(pnn)?;
        let unwilling = match report.admin {
            _ if report.leaving || report.left => Some(Unfit::Stopping),
            AdminState::Active => None,
            state => Some(Unfit::Admin(state)),
        };
        let (mut broken, mut started) = (None, true);
        for name in &scene.config.services {
            let health = report.services.get(name);
            let state = health.map(|h| h.state);
            if scene.added.excuses(scene.now, name, state) {
                continue;
            }
            if broken.is_none() && !matches!(state, Some(Health::Ok | Health::Failing)) {
                broken = Some(Unfit::Service { name, health });
            }
            started &= matches!(state, Some(Health::Ok | Health::Failing | Health::Failed));
        }
        Some(Self { pnn, report, unwilling, broken, started, storage: Storage::of(report) })
    }

    fn link_down(&self, address: &Address<'a>) -> Option<&'a str> {
        let down = |interface: &&String| address.conf.hosts.get(&self.pnn) == Some(interface);
        self.report.links_down.iter().find(down).map(String::as_str)
    }

    /// Can it host this address, and well?
    pub(crate) fn fit(&self, address: &Address<'a>) -> Result<(), Unfit<'a>> {
        self.unwilling.map_or_else(|| self.works(address), Err)
    }

    /// Is everything there that this address needs, whatever the administrator says?
    pub(crate) fn works(&self, address: &Address<'a>) -> Result<(), Unfit<'a>> {
        if let Some(interface) = self.link_down(address) {
            return Err(Unfit::LinkDown(interface));
        }
        if let Some(mac) = address.conflict {
            return Err(Unfit::Conflict { vip: address.vip, mac });
        }
        if let Some(why) = self.report.failed.get(&address.vip) {
            return Err(Unfit::NotTaken(why));
        }
        self.broken.map_or(Ok(()), Err)
    }

    /// How its storage answers.
    pub(crate) fn storage(&self) -> Storage {
        self.storage
    }

    /// Able and willing, whatever its services do.
    pub(crate) fn able(&self, address: &Address<'a>) -> bool {
        address.conflict.is_none()
            && self.unwilling.is_none()
            && address.conf.hosts.contains_key(&self.pnn)
            && self.link_down(address).is_none()
    }

    /// Better than nothing: able, but a service has failed there (not: has yet to start).
    pub(crate) fn last_resort(&self, address: &Address<'a>) -> bool {
        self.started && self.able(address)
    }

    /// Is it drained, and could host this address if it were not?
    pub(crate) fn drains(&self, address: &Address<'a>) -> bool {
        matches!(self.unwilling, Some(Unfit::Admin(AdminState::Drained))) && self.works(address).is_ok()
    }

    /// Does it wait for clients to forget what DNS told them?
    pub(crate) fn lingers(&self) -> bool {
        self.report.lingers
    }

    /// Does it serve this address well, so that only somebody's wish moves it?
    pub(crate) fn serves_well(&self, address: &Address<'a>) -> bool {
        matches!(self.report.admin, AdminState::Active | AdminState::Drained)
            && self.report.serving.contains(&address.vip)
            && self.works(address).is_ok()
    }

    /// Does its daemon end?
    pub(crate) fn leaving(&self) -> bool {
        self.report.leaving
    }
}

pub(crate) fn word(state: Health) -> &'static str {
    match state {
        Health::Off => "off",
        Health::Starting => "starting",
        Health::Ok => "ok",
        Health::Failing => "failing",
        Health::Failed => "failed",
    }
}
