//! The daemon's clock: CLOCK_BOOTTIME, which goes on while the machine is suspended and which nobody can set.

use cluster::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, in microseconds since the machine started.
#[must_use]
pub fn now() -> Time {
    let t = clock_gettime(ClockId::Boottime);
    // The kernel's boot time is never negative.
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let micros = u64::try_from(t.tv_nsec / 1000).unwrap_or(0);
    Time(secs * 1_000_000 + micros)
}
