//! Probes: small clients that run on the client host and report every gap between two successes.

pub(crate) mod ident;
