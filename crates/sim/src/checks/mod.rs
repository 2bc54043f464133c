//! What must hold at every step, each invariant in a checker of its own.
//!
//! A checker sees what cores put out and what kernels do; it never looks inside a core.

mod bounds;
mod deserted;
mod exclusion;
mod exclusive;
mod freed;
mod grace;
mod harmless;
mod held;
mod learned;
mod moves;
mod orders;
mod parting;
mod prepare;
pub mod rest;
mod to_and_fro;
mod unfinished;
mod views;
mod votes;

use crate::clock::{MS, Micros};
use crate::setup::Setup;
use crate::world::World;
use cluster::{Health, Message, Output};
use std::net::IpAddr;

/// Between two looks that no event causes.
pub(crate) const PULSE: Micros = 100 * MS;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker objects.
    pub check: &'static str,
    /// World time.
    pub at: Micros,
    /// What was seen.
    pub text: String,
}

/// One invariant.
pub(crate) trait Check: std::fmt::Debug + Send {
    /// Its name.
    fn name(&self) -> &'static str;
    /// A core at `host` has put this out; it is not carried out yet.
    fn output(&mut self, _world: &World, _host: usize, _output: &Output) -> Result<(), String> {
        Ok(())
    }
    /// Does it look at grants and renewals of leases as well? Most outputs but heartbeats are these.
    fn minds_leases(&self) -> bool {
        false
    }
    /// The kernel of `host` lets `vip` answer, or does so again.
    fn answers(&mut self, _world: &World, _host: usize, _vip: IpAddr) -> Result<(), String> {
        Ok(())
    }
    /// A daemon has started.
    fn started(&mut self, _world: &World, _host: usize) -> Result<(), String> {
        Ok(())
    }
    /// A core is about to be told of a public interface of its node.
    fn interface(&mut self, _world: &World, _host: usize, _name: &str, _up: bool) -> Result<(), String> {
        Ok(())
    }
    /// A core is about to be told that an address could not be taken.
    fn take_failed(&mut self, _world: &World, _host: usize, _vip: IpAddr) -> Result<(), String> {
        Ok(())
    }
    /// A core is about to be told how a service of its node is.
    fn service(&mut self, _world: &World, _host: usize, _name: &str, _state: Health) -> Result<(), String> {
        Ok(())
    }
    /// Every [`PULSE`] of world time.
    fn pulse(&mut self, _world: &World) -> Result<(), String> {
        Ok(())
    }
}

/// Lets one look.
fn one(
    world: &World,
    check: &mut dyn Check,
    mut look: impl FnMut(&mut dyn Check) -> Result<(), String>,
) -> Result<(), Violation> {
    look(check).map_err(|text| Violation { check: check.name(), at: world.now, text })
}

/// All checkers.
#[derive(Debug)]
pub struct Checks {
    all: Vec<Box<dyn Check>>,
    /// Those that mind leases, by their place.
    leases: Vec<usize>,
}

impl Checks {
    /// All that apply to a site.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let all: Vec<Box<dyn Check>> = vec![
            Box::new(exclusive::Exclusive),
            Box::new(harmless::Harmless::default()),
            Box::new(views::Views::default()),
            Box::new(votes::Votes::new(setup.nodes)),
            Box::new(orders::OrdersOfLeader::default()),
            Box::new(exclusion::Exclusion::default()),
            Box::new(moves::Moves::default()),
            Box::new(prepare::Prepare::default()),
            Box::new(grace::Grace::default()),
            Box::new(freed::Freed::default()),
            Box::new(parting::Parting::default()),
            Box::new(unfinished::Unfinished::default()),
            Box::new(held::Held::default()),
            Box::new(to_and_fro::ToAndFro::default()),
            Box::new(deserted::Deserted::default()),
            Box::new(bounds::Bounds::new(setup)),
        ];
        let leases = all.iter().enumerate().filter(|(_, check)| check.minds_leases()).map(|(place, _)| place).collect();
        Self { all, leases }
    }

    fn each(
        &mut self,
        world: &World,
        mut look: impl FnMut(&mut dyn Check) -> Result<(), String>,
    ) -> Result<(), Violation> {
        self.all.iter_mut().try_for_each(|check| one(world, check.as_mut(), &mut look))
    }

    pub(crate) fn outputs(&mut self, world: &World, host: usize, outputs: &[Output]) -> Result<(), Violation> {
        for output in outputs {
            let look = |check: &mut dyn Check| check.output(world, host, output);
            match output {
                // "I am here", what a node says of itself, words for people: most outputs are this. Nodes are judged by what they do.
                Output::SendHeartbeat { .. } | Output::Send { message: Message::Report(_), .. } | Output::Event(_) => {}
                Output::SendGrant { .. } | Output::RenewLease { .. } => {
                    self.leases.iter().try_for_each(|place| one(world, self.all[*place].as_mut(), look))?;
                }
                _ => self.each(world, look)?,
            }
        }
        Ok(())
    }

    pub(crate) fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), Violation> {
        self.each(world, |check| check.answers(world, host, vip))
    }

    pub(crate) fn started(&mut self, world: &World, host: usize) -> Result<(), Violation> {
        self.each(world, |check| check.started(world, host))
    }

    pub(crate) fn interface(&mut self, world: &World, host: usize, name: &str, up: bool) -> Result<(), Violation> {
        self.each(world, |check| check.interface(world, host, name, up))
    }

    pub(crate) fn take_failed(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), Violation> {
        self.each(world, |check| check.take_failed(world, host, vip))
    }

    pub(crate) fn service(&mut self, world: &World, host: usize, name: &str, state: Health) -> Result<(), Violation> {
        self.each(world, |check| check.service(world, host, name, state))
    }

    pub(crate) fn pulse(&mut self, world: &World) -> Result<(), Violation> {
        self.each(world, |check| check.pulse(world))
    }
}
