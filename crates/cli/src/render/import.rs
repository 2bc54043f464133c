//! What became of each line of CTDB's files.

use super::table::{Cell, Table};
use super::{Colour, Style};
use node::config::{Did, Imported};
use std::fmt::Write as _;

/// A table of all lines, then what was made up.
pub(crate) fn imported(imported: &Imported, style: Style) -> String {
    let mut table = Table::new(&["WHERE", "LINE", "", "AS WHAT, OR WHY NOT"]);
    for line in &imported.lines {
        let place = match line.line {
            0 => line.file.display().to_string(),
            number => format!("{}:{number}", line.file.display()),
        };
        let (did, colour) = match line.did {
            Did::Taken => ("taken", Colour::None),
            Did::NoMeaning => ("no meaning here", Colour::None),
            Did::ToDo => ("for you to do", Colour::Waiting),
            Did::Unknown => ("unknown", Colour::Waiting),
        };
        let text = if line.line == 0 { "" } else { line.text.as_str() };
        table.row([Cell::plain(place), Cell::plain(text), Cell::new(did, colour), Cell::plain(line.says.as_str())]);
    }
    let mut out = String::new();
    table.draw(style, &mut out);
    out.push('\n');
    for note in &imported.notes {
        let _ = writeln!(out, "{note}");
    }
    out
}
