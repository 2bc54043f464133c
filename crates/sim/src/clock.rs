//! A machine's clock: starts anywhere, drifts, and stands still while the machine is paused.

use cluster::Time;

/// World time: microseconds since the simulation began. Node clocks are derived from it.
pub type Micros = u64;

/// One millisecond of world time.
pub const MS: Micros = 1_000;
/// One second of world time.
pub const S: Micros = 1_000_000;

/// A machine's CLOCK_BOOTTIME.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: u64,
    ppm: i64,
    stood: Micros,
    frozen_since: Option<Micros>,
}

impl Clock {
    /// A clock that shows `origin` at world time 0 and gains `ppm` microseconds per second.
    #[must_use]
    pub fn new(origin: u64, ppm: i64) -> Self {
        Self { origin, ppm, stood: 0, frozen_since: None }
    }

    /// What it shows at world time `now`.
    #[must_use]
    pub fn local(&self, now: Micros) -> Time {
        let ran = self.frozen_since.unwrap_or(now).saturating_sub(self.stood);
        let rate = (1_000_000 + self.ppm) as u64;
        // 64 bits are enough for half a year, and far cheaper to divide.
        let shown = match ran.checked_mul(rate) {
            Some(product) => product / 1_000_000,
            None => (u128::from(ran) * u128::from(rate) / 1_000_000) as u64,
        };
        Time(self.origin + shown)
    }

    /// The world time at which it will have reached `local`, if it is not paused until then.
    #[must_use]
    pub fn world(&self, local: Time) -> Micros {
        let rate = (1_000_000 + self.ppm) as u64;
        let shown = local.0.saturating_sub(self.origin);
        let ran = match shown.checked_mul(1_000_000) {
            Some(product) => product.div_ceil(rate),
            None => u64::try_from((u128::from(shown) * 1_000_000).div_ceil(u128::from(rate))).unwrap_or(u64::MAX / 4),
        };
        ran.saturating_add(self.stood).min(u64::MAX / 4)
    }

    /// The machine is paused.
    pub fn freeze(&mut self, now: Micros) {
        self.frozen_since.get_or_insert(now);
    }

    /// The machine goes on; its clock lags by the pause from now on.
    pub fn thaw(&mut self, now: Micros) {
        if let Some(since) = self.frozen_since.take() {
            self.stood += now.saturating_sub(since);
        }
    }

    /// Does it stand still?
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn world_is_the_inverse_of_local() {
        for ppm in [-200, 0, 37, 200] {
            let mut clock = Clock::new(77 * S, ppm);
            clock.freeze(3 * S);
            clock.thaw(5 * S);
            for now in [5 * S, 5 * S + 1, 17 * S + 123_457, 90_000 * S + 1] {
                let back = clock.world(clock.local(now));
                assert!(now.abs_diff(back) <= 2, "{ppm} ppm: {now} came back as {back}");
                assert!(clock.local(back) >= clock.local(now));
            }
        }
    }

    #[test]
    fn a_paused_clock_stands_still() {
        let mut clock = Clock::new(0, 0);
        clock.freeze(S);
        assert_eq!(clock.local(9 * S), Time(S));
        clock.thaw(9 * S);
        assert_eq!(clock.local(10 * S), Time(2 * S));
    }
}
