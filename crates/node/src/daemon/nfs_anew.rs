//! An NFS server that has ended by itself, or was ended, and begins anew where it was: it knows nothing of the locks that it gave.
//!
//! Ganesha then has a grace period of its own, for clients are recorded with it, but tells nobody: it leaves that to
//! rpc.statd, which does it when the machine starts. So the owners of NFSv3 locks are told here, by every address by which they
//! may have come. (NFSv4 clients notice by themselves.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::nfs::{Nfs, reachable};
use super::nfs_ways::address_of;

/// A new Ganesha forgets at its start whom its records name; it answers, and is found to, some time after.
const RECENT: Duration = Duration::from_secs(15);

/// Hosts with NFSv3 locks, and when each was last among the recorded ones.
#[derive(Debug, Default)]
pub(super) struct Recent(BTreeMap<String, Instant>);

impl Recent {
    /// These are recorded now.
    pub(super) fn saw(&mut self, hosts: &BTreeSet<String>, now: Instant) {
        self.0.retain(|_, seen| now.saturating_duration_since(*seen) < RECENT);
        self.0.extend(hosts.iter().map(|host| (host.clone(), now)));
    }

    /// Who was recorded a moment ago. Who has given its locks back since has nothing to reclaim, and does not mind.
    fn hosts(&self, now: Instant) -> BTreeSet<String> {
        let recent = |seen: &Instant| now.saturating_duration_since(*seen) < RECENT;
        self.0.iter().filter(|(_, seen)| recent(seen)).map(|(host, _)| host.clone()).collect()
    }
}

impl Nfs {
    /// Tells the owners of NFSv3 locks that this node's server has begun anew: they reclaim while its grace period lasts.
    pub(super) fn begun_anew(&mut self) {
        let wanted = self.wanted() && self.in_use.grace;
        let Some(period) = self.setup.as_ref().ok().map(|setup| setup.period).filter(|_| wanted) else { return };
        let now = Instant::now();
        let hosts = self.recent.hosts(now);
        let may_use = |host: &String, vip| self.ways.may_use(address_of(host), vip);
        let vips = self.held.keys().copied();
        let due: Vec<_> = vips
            .flat_map(|vip| reachable(&hosts, vip).map(move |host| (host, vip)))
            .filter(|(host, vip)| may_use(host, *vip))
            .collect();
        for (host, vip) in due {
            self.tell_one(host, vip, now + period);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_remembered_for_a_while() {
        let (mut recent, begun) = (Recent::default(), Instant::now());
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        recent.saw(&names(&["a", "b"]), begun);
        recent.saw(&names(&["b"]), begun + RECENT / 2);
        // A new server has forgotten them.
        recent.saw(&names(&[]), begun + RECENT / 2 + Duration::from_secs(1));
        assert_eq!(recent.hosts(begun + RECENT / 2 + Duration::from_secs(2)), names(&["a", "b"]));
        assert_eq!(recent.hosts(begun + RECENT), names(&["b"]));
        assert_eq!(recent.hosts(begun + RECENT * 3 / 2), names(&[]));
    }
}
