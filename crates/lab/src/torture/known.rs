//! Differences between the two that are accepted, each with its reason.

use super::Kind;

/// One a line: the test (`*` being any text), where, why.
const KNOWN: &str = include_str!("known.txt");
/// How a reason begins whose proof is a run with multi-channel let on.
const MULTI_CHANNEL: &str = "multi-channel";

/// Why a test may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Why(pub(crate) &'static str);

impl Why {
    /// Must it pass when multi-channel is let on?
    pub(crate) fn is_multi_channel(self) -> bool {
        self.0.starts_with(MULTI_CHANNEL)
    }
}

/// The reason that is on the list for a test.
pub(crate) fn why(name: &str, kind: Kind) -> Option<Why> {
    lines().find(|(pattern, of, _)| matches(pattern, name) && of.is_none_or(|of| of == kind)).map(|l| l.2)
}

fn lines() -> impl Iterator<Item = (&'static str, Option<Kind>, Why)> {
    KNOWN.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let mut parts = line.splitn(3, '|').map(str::trim);
        let (pattern, of, why) = (parts.next()?, parts.next()?, parts.next()?);
        Some((pattern, Kind::ALL.into_iter().find(|k| k.words() == of), Why(why)))
    })
}

/// Does a name match, `*` being any text?
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| matches(tail, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        assert!(matches("smb2.session.bind_*", "smb2.session.bind_negative_smb202"));
        assert!(matches("a*c*", "abcd") && matches("*", "") && matches("a", "a"));
        assert!(!matches("a*c", "abcd") && !matches("smb2.lock", "smb2.lock.async"));
    }

    #[test]
    fn every_line_is_understood() {
        for line in KNOWN.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let parts: Vec<&str> = line.split('|').map(str::trim).collect();
            assert_eq!(parts.len(), 3, "{line}");
            let place = parts[1] == "any" || Kind::ALL.iter().any(|k| k.words() == parts[1]);
            assert!(place && parts[2].len() > 20, "{line}");
        }
    }
}
