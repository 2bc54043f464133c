//! Never two nodes that answer for one address.
//!
//! A daemon's stop or death excuses nothing: the kernel lease covers it. A paused *machine* has a clock that stands
//! still; it may answer beside its heir for one lease after it goes on, no longer.

use super::Check;
use crate::world::World;
use std::net::IpAddr;

/// The checker.
#[derive(Debug)]
pub(crate) struct Exclusive;

impl Check for Exclusive {
    fn name(&self) -> &'static str {
        "one answer per address"
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        let fresh = |h: usize| world.has_just_thawed(h);
        for other in world.answering(vip) {
            if other != host && !fresh(other) && !fresh(host) {
                return Err(format!("n{host} and n{other} both answer for {vip}"));
            }
        }
        Ok(())
    }
}
