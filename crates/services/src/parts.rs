//! What a test may leave out, to see that its absence shows.

/// What the managers notice of their own accord. All of it, except in tests that show what each part is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The end of a service's process is noticed at once; without it only probes that fail tell of it.
    pub exits: bool,
    /// Probes of the services and of the mount that fail count; without it one that hangs is as good as one that answers.
    pub probes: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { exits: true, probes: true }
    }
}
