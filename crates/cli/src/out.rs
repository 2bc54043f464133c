//! Standard output: never a panic when nobody reads it.

use crate::exit::{Fail, output};
use crate::render::Style;
use serde::Serialize;
use std::io::{IsTerminal, Write, stdout};

/// Prints text as it is.
pub(crate) fn print(text: &str) -> Result<(), Fail> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output)
}

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<(), Fail> {
    print(&format!("{text}\n"))
}

/// Prints a value as JSON, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Fail> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints a value as JSON on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Fail> {
    line(&serde_json::to_string(value)?)
}

/// A sentence: for people, or as `{"ok": true, "text": ...}`.
pub(crate) fn sentence(text: &str, as_json: bool) -> Result<(), Fail> {
    if as_json {
        json(&serde_json::json!({"ok": true, "text": text}))
    } else if text.is_empty() {
        Ok(())
    } else {
        line(text)
    }
}

/// Colours and width of the terminal; none and no limit when the output is no terminal. `NO_COLOR` (no-color.org)
/// and `TERM=dumb` are honoured, and `COLUMNS` is taken where the terminal does not tell.
pub(crate) fn style() -> Style {
    let out = stdout();
    if !out.is_terminal() {
        return Style::plain();
    }
    let wants = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    let told = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col)).filter(|w| *w > 0);
    let width = told.or_else(|| std::env::var("COLUMNS").ok()?.parse().ok());
    Style { colour: wants && !dumb, width: width.unwrap_or(80) }
}
