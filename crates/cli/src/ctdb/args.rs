//! The command line, read as popt reads it: options stand before and after the command.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What the options say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Seconds to wait for each answer.
    pub(super) time_limit: i32,
    /// Which node is meant; -1: this one.
    pub(super) node: i32,
    /// Output for programs.
    pub(super) machine: bool,
    /// Between its fields.
    pub(super) separator: String,
    pub(super) verbose: bool,
    /// Seconds after which the command gives up.
    pub(super) max_runtime: i32,
}

/// How a command line is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// With a command and its arguments; none if there was none.
    Command(Options, Vec<OsString>),
    /// `--help`.
    Help,
    /// `--usage`.
    Usage,
    /// Which option is wrong, and why.
    Wrong(String),
}

/// What an option takes.
#[derive(Clone, Copy)]
enum Opt {
    Help,
    Usage,
    Debug,
    TimeLimit,
    Node,
    Machine,
    Separator,
    Parsable,
    Verbose,
    MaxRuntime,
}

impl Opt {
    fn short(letter: u8) -> Option<Self> {
        Some(match letter {
            b'?' => Self::Help,
            b'd' => Self::Debug,
            b't' => Self::TimeLimit,
            b'n' => Self::Node,
            b'Y' => Self::Machine,
            b'x' => Self::Separator,
            b'X' => Self::Parsable,
            b'v' => Self::Verbose,
            b'T' => Self::MaxRuntime,
            _ => return None,
        })
    }

    fn long(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"help" => Self::Help,
            b"usage" => Self::Usage,
            b"debug" => Self::Debug,
            b"timelimit" => Self::TimeLimit,
            b"node" => Self::Node,
            b"separator" => Self::Separator,
            b"verbose" => Self::Verbose,
            b"maxruntime" => Self::MaxRuntime,
            _ => return None,
        })
    }

    fn has_value(self) -> bool {
        matches!(self, Self::Debug | Self::TimeLimit | Self::Node | Self::Separator | Self::MaxRuntime)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { time_limit: 10, node: -1, machine: false, separator: "|".into(), verbose: false, max_runtime: 0 }
    }
}

/// Reads what stands after the program's name.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Line {
    let mut options = Options::default();
    let mut rest = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if bytes == b"--" {
            rest.extend(args.by_ref());
            break;
        }
        if bytes.len() < 2 || bytes[0] != b'-' {
            rest.push(arg);
            continue;
        }
        let shown = arg.to_string_lossy().into_owned();
        let wrong = |what: &str, why: &str| Line::Wrong(format!("{what}: {why}"));
        let mut found = Vec::new();
        if let Some(long) = bytes.strip_prefix(b"--") {
            let (name, value) = match long.iter().position(|b| *b == b'=') {
                Some(at) => (&long[..at], Some(long[at + 1..].to_vec())),
                None => (long, None),
            };
            let Some(option) = Opt::long(name) else { return wrong(&shown, "unknown option") };
            found.push((option, value));
        } else {
            let mut letters = &bytes[1..];
            while let [letter, left @ ..] = letters {
                let Some(option) = Opt::short(*letter) else { return wrong(&shown, "unknown option") };
                letters = left;
                let mut value = None;
                if option.has_value() && !left.is_empty() {
                    value = Some(left.strip_prefix(b"=").unwrap_or(left).to_vec());
                    letters = &[];
                } else if let Some(given) = left.strip_prefix(b"=") {
                    value = Some(given.to_vec());
                    letters = &[];
                }
                found.push((option, value));
            }
        }
        for (option, value) in found {
            if !option.has_value() && value.is_some() {
                return wrong(&shown, "option does not take an argument");
            }
            let value = match (option.has_value(), value) {
                (true, None) => match args.next() {
                    Some(next) => next.into_vec(),
                    None => return wrong(&shown, "missing argument"),
                },
                (_, value) => value.unwrap_or_default(),
            };
            let text = String::from_utf8_lossy(&value).into_owned();
            let number = |into: &mut i32| match number(&text) {
                Ok(n) => {
                    *into = n;
                    None
                }
                Err(why) => Some(wrong(&text, why)),
            };
            let bad = match option {
                Opt::Help => return Line::Help,
                Opt::Usage => return Line::Usage,
                // How much the client library says of itself; there is none here.
                Opt::Debug => None,
                Opt::TimeLimit => number(&mut options.time_limit),
                Opt::Node => number(&mut options.node),
                Opt::MaxRuntime => number(&mut options.max_runtime),
                Opt::Machine | Opt::Parsable => {
                    options.machine = true;
                    None
                }
                Opt::Separator => {
                    options.separator = text.clone();
                    None
                }
                Opt::Verbose => {
                    options.verbose = true;
                    None
                }
            };
            if let Some(bad) = bad {
                return bad;
            }
        }
    }
    Line::Command(options, rest)
}

/// A whole number as popt takes it: of base 8, 10 or 16; nothing is 0.
fn number(text: &str) -> Result<i32, &'static str> {
    let (n, left) = prefix(text);
    if !left.is_empty() {
        return Err("invalid numeric value");
    }
    i32::try_from(n).map_err(|_| "number too large or too small")
}

/// The number that a text begins with, as C's `strtol` with base 0 reads it, and what follows. 0 if there is none.
pub(super) fn prefix(text: &str) -> (i128, &str) {
    let trimmed = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match trimmed.as_bytes().first() {
        Some(b'-') => (true, &trimmed[1..]),
        Some(b'+') => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    let hex = |s: &str| s.starts_with(|c: char| c.is_ascii_hexdigit());
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] if hex(&digits[2..]) => (16, &digits[2..]),
        [b'0', ..] => (8, digits),
        _ => (10, digits),
    };
    let end = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    if end == 0 {
        return (0, text);
    }
    // More digits than this are too many for every number in use.
    let n = i128::from_str_radix(&digits[..end], base).unwrap_or(i128::MAX);
    (if negative { -n } else { n }, &digits[end..])
}

/// As C's `strtoul` into 32 bits, which takes whatever comes.
pub(super) fn lenient_u32(text: &str) -> u32 {
    let (n, _) = prefix(text);
    let clamped = n.clamp(-i128::from(u64::MAX), i128::from(u64::MAX));
    // Negative numbers wrap in C.
    (clamped & 0xFFFF_FFFF) as u32
}

/// As C's `strtoull`.
pub(super) fn lenient_u64(text: &str) -> u64 {
    let (n, _) = prefix(text);
    let clamped = n.clamp(-i128::from(u64::MAX), i128::from(u64::MAX));
    (clamped & i128::from(u64::MAX)) as u64
}

/// As C's `atoi`: decimal, whatever follows.
pub(super) fn atoi(text: &str) -> i32 {
    let trimmed = text.trim_start_matches([' ', '\t']);
    let end = trimmed
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *at == 0 && matches!(c, '-' | '+')))
        .map_or(trimmed.len(), |(at, _)| at);
    trimmed[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        parse(text.split_whitespace().map(OsString::from))
    }

    fn command(text: &str) -> (Options, Vec<String>) {
        let Line::Command(options, rest) = line(text) else { panic!("{text}: {:?}", line(text)) };
        (options, rest.iter().map(|arg| arg.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn options_stand_anywhere() {
        let (options, rest) = command("-Yx: status all -n 2 --verbose");
        assert_eq!(rest, ["status", "all"]);
        assert_eq!((options.node, options.separator.as_str()), (2, ":"));
        assert!(options.machine && options.verbose);
        assert_eq!(command("-n=0x10 pnn -- -n 9").1, ["pnn", "-n", "9"]);
        assert_eq!(command("-n=0x10 pnn").0.node, 16);
        assert_eq!(command("--node=1 -").1, ["-"]);
        assert_eq!(command("-n-1 pnn").0.node, -1);
    }

    #[test]
    fn wrong_ones_are_told_as_popt_tells_them() {
        for (given, told) in [
            ("-Z status", "-Z: unknown option"),
            ("-YZ status", "-YZ: unknown option"),
            ("--foo=1", "--foo=1: unknown option"),
            ("--nod 1", "--nod: unknown option"),
            ("-t", "-t: missing argument"),
            ("-t abc", "abc: invalid numeric value"),
            ("-n 1x", "1x: invalid numeric value"),
            ("-n 99999999999", "99999999999: number too large or too small"),
            ("-Y=1", "-Y=1: option does not take an argument"),
            ("--verbose=1", "--verbose=1: option does not take an argument"),
        ] {
            assert_eq!(line(given), Line::Wrong(told.into()), "{given}");
        }
        assert_eq!(line("status -?"), Line::Help);
        assert_eq!(line("--usage -Z"), Line::Usage);
    }

    #[test]
    fn numbers_as_c_reads_them() {
        assert_eq!(lenient_u32("0x10z"), 16);
        assert_eq!(lenient_u32("-1"), u32::MAX);
        assert_eq!(lenient_u32("x"), 0);
        assert_eq!(lenient_u64("0xCE01000000000001"), 0xCE01_0000_0000_0001);
        assert_eq!((atoi("12x"), atoi("-3"), atoi("abc"), atoi("")), (12, -3, 0, 0));
    }
}
