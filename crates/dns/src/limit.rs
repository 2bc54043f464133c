//! Response-rate limiting: a server that answers every forged question is a weapon against whoever was forged.
//!
//! A token bucket for each client network (IPv4 /24, IPv6 /56). Over the limit a client gets an empty, truncated answer,
//! no longer than its question: a real resolver asks again over TCP, a victim gets no more than was sent. Memory is
//! bounded: what finds no place shares one bucket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Client networks that are told apart.
const MOST: usize = 8192;

/// Buckets of all clients.
#[derive(Debug)]
pub struct Limiter {
    rate: f64,
    exempt: Vec<(IpAddr, u8)>,
    buckets: HashMap<u64, Bucket>,
    shared: Bucket,
    /// When room was last made: a flood of forged sources must not have the table searched for each datagram.
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant, rate: f64) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(rate);
        self.at = now;
    }

    fn take(&mut self, now: Instant, rate: f64) -> bool {
        self.refill(now, rate);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

impl Limiter {
    /// `rate` answers per second to a client network (0: no limit), as many at once; none for `exempt` networks.
    #[must_use]
    pub fn new(rate: u32, exempt: Vec<(IpAddr, u8)>, now: Instant) -> Self {
        Self {
            rate: f64::from(rate),
            exempt,
            buckets: HashMap::new(),
            shared: Bucket { tokens: f64::from(rate), at: now },
            swept: None,
        }
    }

    /// May this client have a full answer?
    pub fn allow(&mut self, client: IpAddr, now: Instant) -> bool {
        let client = client.to_canonical();
        if self.rate == 0.0 || client.is_loopback() || self.exempt.iter().any(|n| contains(*n, client)) {
            return true;
        }
        let key = key(client);
        if self.buckets.len() >= MOST && !self.buckets.contains_key(&key) {
            // a bucket that has had time to fill up says nothing
            let second = Duration::from_secs(1);
            let since = self.swept.map(|at| now.saturating_duration_since(at));
            if since.is_none_or(|since| since >= second) {
                self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < second);
                self.swept = Some(now);
            }
            if self.buckets.len() >= MOST {
                return self.shared.take(now, self.rate);
            }
        }
        let full = Bucket { tokens: self.rate, at: now };
        self.buckets.entry(key).or_insert(full).take(now, self.rate)
    }
}

/// IPv4 /24 and IPv6 /56, never equal to each other.
fn key(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(v4) => u64::from(u32::from(v4) >> 8) | 1 << 63,
        IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 72).unwrap_or(0),
    }
}

fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = u32::from(network) ^ u32::from(address);
            differ.leading_zeros() >= u32::from(bits)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = u128::from(network) ^ u128::from(address);
            differ.leading_zeros() >= u32::from(bits)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_has_its_rate_and_no_more() {
        let start = Instant::now();
        let mut limiter = Limiter::new(10, vec![(ip("10.0.0.0"), 8)], start);
        let count = |limiter: &mut Limiter, client: &str, at: Instant| {
            (0..100).filter(|_| limiter.allow(ip(client), at)).count()
        };
        assert_eq!(count(&mut limiter, "192.0.2.1", start), 10);
        assert_eq!(count(&mut limiter, "192.0.2.77", start), 0, "the same network");
        assert_eq!(count(&mut limiter, "192.0.3.1", start), 10, "another one");
        assert_eq!(count(&mut limiter, "192.0.2.1", start + Duration::from_millis(500)), 5);
        assert_eq!(
            count(&mut limiter, "192.0.2.1", start + Duration::from_secs(60)),
            10,
            "no more than a second's worth"
        );
        assert_eq!(count(&mut limiter, "10.255.1.1", start), 100, "exempt");
        assert_eq!(count(&mut limiter, "::ffff:10.1.1.1", start), 100, "exempt in IPv6 clothes");
        assert_eq!(count(&mut limiter, "2001:db8::1", start), 10);
        assert_eq!(count(&mut limiter, "2001:db8:0:ff::1", start), 0, "the same /56");
        assert_eq!(count(&mut Limiter::new(0, Vec::new(), start), "192.0.2.1", start), 100, "no limit");
    }

    #[test]
    fn memory_is_bounded_under_forged_sources() {
        let start = Instant::now();
        let mut limiter = Limiter::new(5, Vec::new(), start);
        let allowed = (0..100_000_u32).filter(|n| limiter.allow(IpAddr::from((n << 8).to_be_bytes()), start)).count();
        assert!(limiter.buckets.len() <= MOST);
        assert!(allowed <= MOST + 5, "{allowed}");
        assert!(limiter.allow(ip("203.0.113.9"), start + Duration::from_secs(2)), "places are free again");
    }
}
