//! Text to [`Spec`], with every problem of form collected: syntax, unknown keys, values of the wrong type.
//!
//! serde stops at its first error. So the entry that it points at is cut out of the parsed tree and the rest is read
//! again, until nothing is wrong any more: a file with five mistyped keys shows five problems, not one.

use super::diagnostic::{Diagnostic, Diagnostics, Source};
use super::spec::Spec;
use serde::Deserialize;
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// More problems than anybody reads at once.
const MOST: usize = 50;

/// Reads the file's text. With errors of syntax there is nothing else to look at, and `None` is returned.
pub(super) fn parse(source: &Arc<Source>, problems: &mut Diagnostics) -> Option<Spec> {
    let (mut table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        for error in errors.iter().take(MOST) {
            let span = error.span().unwrap_or(0..0);
            problems.push(Diagnostic::error("this is not TOML").at(source, span, error.message()));
        }
        return None;
    }
    for _ in 0..MOST {
        match Spec::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(spec) => return Some(spec),
            Err(error) => {
                let span = error.span();
                problems.push(explain(source, error.message(), span.clone()));
                if !span.is_some_and(|span| cut(table.get_mut(), &span)) {
                    return None;
                }
            }
        }
    }
    None
}

/// serde's message in the operator's words.
fn explain(source: &Arc<Source>, message: &str, span: Option<Range<usize>>) -> Diagnostic {
    let span = span.unwrap_or(0..0);
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (given, known) = match quoted.split_first() {
        Some((given, known)) => (*given, known),
        None => ("", &[][..]),
    };
    if message.starts_with("unknown field") {
        let diagnostic = Diagnostic::error(format!("unknown key `{given}`")).at(source, span, "nothing reads this");
        return match nearest(given, known) {
            Some(name) => diagnostic.help(format!("write `{name}`")),
            None if known.is_empty() => diagnostic.help("remove it"),
            None => diagnostic.help(format!("remove it; keys of this section: {}", known.join(", "))),
        };
    }
    if message.starts_with("unknown variant") {
        let choices = known.iter().map(|k| format!("\"{k}\"")).collect::<Vec<_>>().join(" or ");
        return Diagnostic::error(format!("`{given}` is not a choice here"))
            .at(source, span, "")
            .help(format!("write {choices}"));
    }
    Diagnostic::error("a value of the wrong kind").at(source, span, message)
}

/// The known name that is meant, if one is near enough to guess.
pub(super) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (distance(given, name), *name))
        .min()
        .filter(|(d, name)| *d <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// Edit distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// Cuts the innermost entry out that `span` points at. False when there is none.
fn cut(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let mut doomed = None;
    for (key, value) in table.iter_mut() {
        let here = value.span();
        if key.span() == *span {
            doomed = Some(key.clone());
            break;
        }
        if cut_inside(value.get_mut(), span) {
            return true;
        }
        if here.start <= span.start && span.end <= here.end {
            doomed = Some(key.clone());
            break;
        }
    }
    doomed.is_some_and(|key| table.remove(&key).is_some())
}

fn cut_inside(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => cut(table, span),
        DeValue::Array(array) => array.iter_mut().any(|item| cut_inside(item.get_mut(), span)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn problems(text: &str) -> (Option<Spec>, Diagnostics) {
        let mut problems = Diagnostics::default();
        let spec = parse(&Source::new(Path::new("steadfast.toml"), text.into()), &mut problems);
        (spec, problems)
    }

    #[test]
    fn all_unknown_keys_are_shown_at_once() {
        let (spec, problems) = problems(
            "[cluster]\nnmae = \"a\"\nlock = \"/x\"\n[[node]]\nname = \"n\"\nadresses = []\n[[node]]\nrole = \"wittness\"\n\
             [samba]\nenable = true\n[dns]\nttl = \"1\"\n[extra]\na = 1\n",
        );
        let spec = spec.expect("what is right is still read");
        assert_eq!(spec.cluster.expect("cluster").lock.expect("lock").get_ref(), "/x");
        let titles: Vec<_> = problems.0.iter().map(|d| d.title.as_str()).collect();
        assert_eq!(problems.errors(), 6, "{titles:?}");
        for wanted in ["`nmae`", "`adresses`", "`wittness`", "`enable`", "wrong kind", "`extra`"] {
            assert!(titles.iter().any(|t| t.contains(wanted)), "{wanted} in {titles:?}");
        }
        let text = problems.render(false);
        assert!(text.contains("write `name`"), "{text}");
        assert!(text.contains("--> steadfast.toml:2:1"), "{text}");
    }

    #[test]
    fn syntax_errors_point_at_their_line() {
        let (spec, problems) = problems("[cluster]\nname = storage\n[[node]\n");
        assert!(spec.is_none());
        assert!(problems.errors() >= 2, "{problems}");
        assert!(problems.to_string().contains("steadfast.toml:2:"), "{problems}");
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in [
            "",
            "\u{0}",
            "=",
            "[",
            "[[",
            "a",
            "a=",
            "\u{feff}",
            "node = 3",
            "node = [1, {x = 2}]",
            "dns = {name = [{vips = 3}]}",
        ] {
            let _ = problems(text).1.to_string();
        }
    }
}
