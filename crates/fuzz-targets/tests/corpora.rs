//! Replays the corpora of `fuzz/` on the stable toolchain: what once crashed a parser must not again.

#![allow(clippy::unwrap_used)]

use fuzz_targets::TARGETS;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn every_input_of_the_corpora_returns_soon() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut names: Vec<String> =
        corpora.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "a corpus for every target, and a target for every corpus");
    for (name, target) in TARGETS {
        let mut files: Vec<_> = corpora.join(name).read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name}: an empty corpus");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            // Shown when the test fails: libtest keeps what a passing test prints.
            println!("{}", file.display());
            let begun = Instant::now();
            target(&bytes);
            // Every prefix of short ones, too: what is cut must be no surprise.
            for end in (0..bytes.len().min(200)).step_by(7) {
                target(&bytes[..end]);
            }
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(5), "{}: {took:?}", file.display());
        }
    }
}
