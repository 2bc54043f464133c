//! Locks without poisoning: a panic ends the daemon (`panic = "abort"`), and in tests the data is still whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
