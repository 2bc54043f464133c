//! What a command prints, and how it ends.

use std::fmt;
use std::io::{ErrorKind, LineWriter, Stdout, Write, stderr, stdout};

/// How a command ends when it does not simply succeed; the error has been printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit(pub(super) i32);

/// How a command ends.
pub(super) type Outcome = Result<(), Exit>;

/// It failed, and nothing more is to be said by a number.
pub(super) const FAILED: Exit = Exit(1);
/// What a shell sees of a program that wrote to a pipe that nobody reads.
const BROKEN_PIPE: Exit = Exit(128 + 13);
/// As C's `EINVAL`, `ENOMEM`.
pub(super) const EINVAL: Exit = Exit(22);
pub(super) const ENOMEM: Exit = Exit(12);

impl Exit {
    /// Of an error of the system.
    pub(super) fn errno(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(1))
    }

    /// What the shell gets: -1 is 1, of the rest the lowest byte.
    pub(super) fn code(self) -> u8 {
        if self.0 == -1 { 1 } else { (self.0 & 0xff) as u8 }
    }
}

/// Standard output, line by line.
#[derive(Debug)]
pub(super) struct Out(LineWriter<Stdout>);

impl Out {
    pub(super) fn new() -> Self {
        Self(LineWriter::new(stdout()))
    }

    /// Prints what is given, without a line's end.
    pub(super) fn print(&mut self, text: fmt::Arguments<'_>) -> Outcome {
        self.0.write_fmt(text).map_err(|e| Self::failed(&e))
    }

    /// Prints bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Outcome {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).map_err(|e| Self::failed(&e))
    }

    /// At the end.
    pub(super) fn flush(&mut self) -> Outcome {
        self.0.flush().map_err(|e| Self::failed(&e))
    }

    fn failed(error: &std::io::Error) -> Exit {
        if error.kind() == ErrorKind::BrokenPipe {
            return BROKEN_PIPE;
        }
        to_stderr(format_args!("Cannot write the output: {error}"));
        FAILED
    }
}

/// Prints a line to standard error. Nobody is left to tell if that fails.
pub(super) fn to_stderr(text: fmt::Arguments<'_>) {
    let _ = writeln!(stderr(), "{text}");
}

/// A line to standard output.
macro_rules! say {
    ($out:expr) => { $out.print(format_args!("\n")) };
    ($out:expr, $format:literal $($rest:tt)*) => { $out.print(format_args!("{}\n", format_args!($format $($rest)*))) };
}
/// A line to standard error.
macro_rules! complain {
    ($($format:tt)*) => { $crate::ctdb::out::to_stderr(format_args!($($format)*)) };
}
pub(super) use {complain, say};
