//! Tables whose last column holds the reasons and wraps at the terminal's edge.

use super::{Colour, Style};
use std::fmt::Write as _;

/// Below this the last column goes on a line of its own.
const LEAST: usize = 24;
const GAP: usize = 2;

/// A table being filled.
#[derive(Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// Text and its colour.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: one_line(&text.into()), colour }
    }
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(text, Colour::None)
    }
}

/// What comes from elsewhere must not write to the terminal: control characters become spaces.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_owned()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        row.resize_with(self.head.len(), || Cell::plain(""));
        self.rows.push(row);
    }

    pub(super) fn draw(&self, style: Style, out: &mut String) {
        let Some(last) = self.head.len().checked_sub(1) else { return };
        let widths: Vec<usize> = (0..=last)
            .map(|i| self.rows.iter().map(|r| width(&r[i].text)).chain([width(self.head[i])]).max().unwrap_or(0))
            .collect();
        let before: usize = widths[..last].iter().map(|w| w + GAP).sum();
        let reasons = self.rows.iter().any(|r| !r[last].text.is_empty());
        let room = style.width.saturating_sub(before);
        let under = room < LEAST && widths[last] > room;
        let shown = if reasons && !under { last + 1 } else { last };

        let heads = self.head[..shown].iter().map(|h| Cell::new(*h, Colour::Faint)).collect::<Vec<_>>();
        line(&heads, &widths, style, usize::MAX, out);
        for row in &self.rows {
            line(&row[..shown], &widths, style, if shown > last { room } else { usize::MAX }, out);
            if under && !row[last].text.is_empty() {
                for part in wrap(&row[last].text, style.width.saturating_sub(4).max(LEAST)) {
                    let _ = writeln!(out, "    {}", style.paint(row[last].colour, &part));
                }
            }
        }
    }
}

fn line(cells: &[Cell], widths: &[usize], style: Style, room: usize, out: &mut String) {
    let mut text = String::new();
    for (i, cell) in cells.iter().enumerate() {
        if i + 1 < widths.len() {
            text.push_str(&style.paint(cell.colour, &cell.text));
            text.extend(std::iter::repeat_n(' ', widths[i] + GAP - width(&cell.text)));
        } else {
            let indent: usize = widths[..i].iter().map(|w| w + GAP).sum();
            for (n, part) in wrap(&cell.text, room).iter().enumerate() {
                if n > 0 {
                    text.push('\n');
                    text.extend(std::iter::repeat_n(' ', indent));
                }
                text.push_str(&style.paint(cell.colour, part));
            }
        }
    }
    out.push_str(text.trim_end_matches(' '));
    out.push('\n');
}

/// Breaks at spaces and keeps the first line's indent; a word that is longer than a line stays whole.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let words = text.trim_start_matches(' ');
    let indent = " ".repeat(text.len() - words.len());
    let mut lines = vec![indent];
    for word in words.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.trim_start().is_empty() {
            line.push_str(word);
        } else if width(line) + 1 + width(word) <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NODE", "STATE", "WHY"]);
        table.row([Cell::plain("a"), Cell::new("OK", Colour::Good), Cell::plain("")]);
        table.row([
            Cell::plain("long-name"),
            Cell::new("DOWN", Colour::Bad),
            Cell::plain("not heard for a long while now"),
        ]);
        table
    }

    fn drawn(table: &Table, width: usize, colour: bool) -> String {
        let mut out = String::new();
        table.draw(Style { colour, width }, &mut out);
        out
    }

    #[test]
    fn columns_line_up_and_reasons_wrap() {
        assert_eq!(
            drawn(&table(), 200, false),
            "NODE       STATE  WHY\na          OK\nlong-name  DOWN   not heard for a long while now\n"
        );
        assert_eq!(
            drawn(&table(), 42, false),
            "NODE       STATE  WHY\na          OK\nlong-name  DOWN   not heard for a long\n                  while now\n"
        );
        assert_eq!(
            drawn(&table(), 30, false),
            "NODE       STATE\na          OK\nlong-name  DOWN\n    not heard for a long while\n    now\n"
        );
    }

    #[test]
    fn no_reason_no_column() {
        let mut table = Table::new(&["NODE", "WHY"]);
        table.row([Cell::plain("a")]);
        assert_eq!(drawn(&table, 80, false), "NODE\na\n");
    }

    #[test]
    fn colours_take_no_room_and_foreign_escapes_do_not_pass() {
        assert!(drawn(&table(), 200, true).contains("a          \x1b[32mOK\x1b[0m"));
        let mut table = Table::new(&["WHY"]);
        table.row([Cell::plain("x\x1b[2Jy\nz")]);
        assert!(!drawn(&table, 80, false).contains('\x1b'));
    }
}
