//! CTDB's tunables: their names, in the order of its structure, and their values.
//!
//! Kept for the tools and scripts that set them. Heeded here: `SeqnumInterval`, `VacuumInterval`, `VacuumFastPathCount`,
//! `AllowClientDBAttach`; and by the cluster's core, which hears of them: `NoIPTakeover`, `NoIPFailback`. What the others
//! tune follows this server's own configuration.

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Listed.
    Current(usize),
    /// Can be set and read, is not listed.
    Obsolete(usize),
}

const O: bool = true;
const C: bool = false;

/// Name, default, obsolete.
const TABLE: [(&str, u32, bool); 62] = [
    ("MaxRedirectCount", 3, O),
    ("SeqnumInterval", 1000, C),
    ("ControlTimeout", 60, C),
    ("TraverseTimeout", 20, C),
    ("KeepaliveInterval", 5, C),
    ("KeepaliveLimit", 5, C),
    ("RecoverTimeout", 30, C),
    ("RecoverInterval", 1, C),
    ("ElectionTimeout", 3, C),
    ("TakeoverTimeout", 9, C),
    ("MonitorInterval", 15, C),
    ("TickleUpdateInterval", 20, C),
    ("EventScriptTimeout", 30, C),
    ("MonitorTimeoutCount", 20, C),
    ("EventScriptUnhealthyOnTimeout", 0, O),
    ("RecoveryGracePeriod", 120, C),
    ("RecoveryBanPeriod", 300, C),
    ("DatabaseHashSize", 100_001, C),
    ("DatabaseMaxDead", 5, C),
    ("RerecoveryTimeout", 10, C),
    ("EnableBans", 1, C),
    ("DeterministicIPs", 0, O),
    ("ReclockPingPeriod", 60, O),
    ("NoIPFailback", 0, C),
    ("DisableIPFailover", 0, O),
    ("VerboseMemoryNames", 0, C),
    ("RecdPingTimeout", 60, C),
    ("RecdFailCount", 10, C),
    ("LogLatencyMs", 0, C),
    ("RecLockLatencyMs", 1000, C),
    ("RecoveryDropAllIPs", 120, C),
    ("VerifyRecoveryLock", 1, O),
    ("VacuumInterval", 10, C),
    ("VacuumMaxRunTime", 120, C),
    ("RepackLimit", 10_000, C),
    ("VacuumLimit", 5000, O),
    ("MaxQueueDropMsg", 1_000_000, C),
    ("AllowUnhealthyDBRead", 0, C),
    ("StatHistoryInterval", 1, C),
    ("DeferredAttachTO", 120, C),
    ("VacuumFastPathCount", 60, C),
    ("LCP2PublicIPs", 1, O),
    ("AllowClientDBAttach", 1, C),
    ("RecoverPDBBySeqNum", 1, O),
    ("DeferredRebalanceOnNodeAdd", 300, O),
    ("FetchCollapse", 1, C),
    ("HopcountMakeSticky", 50, C),
    ("StickyDuration", 600, C),
    ("StickyPindown", 200, C),
    ("NoIPTakeover", 0, C),
    ("DBRecordCountWarn", 100_000, C),
    ("DBRecordSizeWarn", 10_000_000, C),
    ("DBSizeWarn", 100_000_000, C),
    ("PullDBPreallocation", 10_485_760, C),
    ("NoIPHostOnAllDisabled", 1, O),
    ("Samba3AvoidDeadlocks", 0, O),
    ("TDBMutexEnabled", 1, O),
    ("LockProcessesPerDB", 200, C),
    ("RecBufferSizeLimit", 1_000_000, C),
    ("QueueBufferSize", 1024, C),
    ("IPAllocAlgorithm", 2, C),
    ("AllowMixedVersions", 0, C),
];

/// The values on one node.
#[derive(Clone, Debug)]
pub(super) struct Tunables([u32; TABLE.len()]);

impl Default for Tunables {
    fn default() -> Self {
        Self(TABLE.map(|(_, value, _)| value))
    }
}

impl Tunables {
    /// Which a name means; case does not matter.
    pub(super) fn find(name: &str) -> Option<Known> {
        let at = TABLE.iter().position(|(n, ..)| n.eq_ignore_ascii_case(name))?;
        Some(if TABLE[at].2 { Known::Obsolete(at) } else { Known::Current(at) })
    }

    pub(super) fn get(&self, known: Known) -> u32 {
        let (Known::Current(at) | Known::Obsolete(at)) = known;
        self.0[at]
    }

    pub(super) fn set(&mut self, known: Known, value: u32) {
        let (Known::Current(at) | Known::Obsolete(at)) = known;
        self.0[at] = value;
    }

    /// A value by its exact name; 0 if there is none.
    pub(super) fn named(&self, name: &str) -> u32 {
        Self::find(name).map_or(0, |known| self.get(known))
    }

    /// All, in order.
    pub(super) fn values(&self) -> &[u32] {
        &self.0
    }

    /// The names that are listed, in the original's order, which is not that of its structure in one place. Its text begins
    /// with a colon.
    pub(super) fn list() -> String {
        let mut names: Vec<&str> = TABLE.iter().filter(|(.., obsolete)| !obsolete).map(|(name, ..)| *name).collect();
        let at = |names: &[&str], wanted| names.iter().position(|n| *n == wanted);
        if let (Some(from), Some(to)) = (at(&names, "VacuumFastPathCount"), at(&names, "MaxQueueDropMsg")) {
            let name = names.remove(from);
            names.insert(to, name);
        }
        names.iter().map(|name| format!(":{name}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_obsolete_ones_told_apart() {
        assert_eq!(Tunables::find("seqnuminterval"), Some(Known::Current(1)));
        assert_eq!(Tunables::find("VerifyRecoveryLock"), Some(Known::Obsolete(31)));
        assert_eq!(Tunables::find("NoSuchThing"), None);
        assert_eq!(Tunables::default().named("AllowMixedVersions"), 0);
        assert_eq!(Tunables::default().values().len(), 62);
        assert!(Tunables::list().starts_with(":SeqnumInterval:ControlTimeout"));
        assert!(!Tunables::list().contains("VacuumLimit"));
        assert!(Tunables::list().contains("RepackLimit:VacuumFastPathCount:MaxQueueDropMsg"));
    }
}
