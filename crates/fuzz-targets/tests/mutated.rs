//! A plain fuzzer for the stable toolchain: inputs of the corpora with bytes changed, cut out, doubled and joined. It has
//! no eyes for coverage as libFuzzer has (`scripts/fuzz`), and needs nothing.
//!
//! `FUZZ_SECONDS` for each target (default: a tenth), `FUZZ_SEED`.

#![allow(clippy::unwrap_used)]

use fuzz_targets::TARGETS;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// An input may take so long.
const SOON: Duration = Duration::from_secs(5);
const LONGEST: usize = 32 << 10;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Numbers that lengths and offsets lie with.
const LIES: [u32; 12] =
    [0, 1, 3, 24, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_fffe, 0xffff_ffff];

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 | 3 if bytes.len() >= 4 => {
                let at = random.below(bytes.len() - 3) & if random.below(2) == 0 { !3 } else { !0 };
                let lie = match random.below(3) {
                    0 => random.below(2 * bytes.len()) as u32,
                    _ => LIES[random.below(LIES.len())],
                };
                let lie = if random.below(4) == 0 { lie.to_be_bytes() } else { lie.to_le_bytes() };
                bytes[at..at + 4].copy_from_slice(&lie);
            }
            4 => bytes.truncate(at),
            5 if !bytes.is_empty() => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 if !bytes.is_empty() => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

#[test]
fn changed_inputs_return_soon() {
    let of = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<f64>().ok());
    let seconds = Duration::from_secs_f64(of("FUZZ_SECONDS").unwrap_or(0.1));
    let mut random = Random(of("FUZZ_SEED").unwrap_or(1.0) as u64);
    let only = std::env::var("FUZZ_TARGET").ok();
    let mut failures = Vec::new();
    for (name, target) in TARGETS.iter().filter(|(name, _)| only.as_ref().is_none_or(|o| o == name)) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut files: Vec<_> = corpus.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
        let (begun, mut runs, mut longest) = (Instant::now(), 0u64, Duration::ZERO);
        while begun.elapsed() < seconds {
            let bytes = mutate(&mut random, &corpus);
            let at = Instant::now();
            let ended = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            let took = at.elapsed();
            (runs, longest) = (runs + 1, longest.max(took));
            if ended.is_err() || took > SOON {
                let kept = std::env::temp_dir().join(format!("fuzz-{name}-{runs}"));
                std::fs::write(&kept, &bytes).unwrap();
                failures.push(format!("{name}: {} ({took:?})", kept.display()));
                break;
            }
        }
        println!("{name}: {runs} inputs, the longest took {longest:?}");
    }
    assert!(failures.is_empty(), "{failures:?}");
}
