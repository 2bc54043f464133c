//! Random numbers for identities, run numbers and seeds.

use cluster::{Incarnation, NodeUid, RunId};
use ring::rand::{SecureRandom, SystemRandom};

/// Fills an array from the kernel's generator.
///
/// # Errors
/// The kernel gives no random numbers; none since 3.17 refuses.
pub fn bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("the kernel gives no random numbers"))?;
    Ok(bytes)
}

/// A new identity for a disk that holds votes.
///
/// # Errors
/// As [`bytes`].
pub fn node_uid() -> std::io::Result<NodeUid> {
    Ok(NodeUid(u128::from_le_bytes(bytes()?)))
}

/// A number for this start of the daemon.
///
/// # Errors
/// As [`bytes`].
pub fn run_id() -> std::io::Result<RunId> {
    Ok(RunId(seed()?))
}

/// The life of a cluster that `number` lives came before.
///
/// # Errors
/// As [`bytes`].
pub fn incarnation(number: u32) -> std::io::Result<Incarnation> {
    Ok(Incarnation { number, id: seed()? })
}

/// 64 random bits.
///
/// # Errors
/// As [`bytes`].
pub fn seed() -> std::io::Result<u64> {
    Ok(u64::from_le_bytes(bytes()?))
}
