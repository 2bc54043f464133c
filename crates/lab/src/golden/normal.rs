//! Takes out of an output what two clusters in the same state do not share.

use super::steps::{How, Step};

/// The lines that are compared.
pub(super) fn lines(step: &Step, text: &str) -> Vec<String> {
    let mut all: Vec<String> = text.lines().map(|l| l.trim_end().to_owned()).collect();
    match step.how {
        How::Exact => {}
        How::Numbers => all.iter_mut().for_each(|l| *l = without_numbers(l)),
        How::Shape | How::ShapeBut(_) => {
            if let How::ShapeBut(word) = step.how {
                all.retain(|l| !l.contains(word));
            }
            all.iter_mut().for_each(|l| *l = squeezed(&without_numbers(l)));
        }
        How::Only(word) => all.retain(|l| l.contains(word)),
        How::Sorted => all.sort(),
        How::Nothing => all.clear(),
    }
    for line in &mut all {
        for word in ["Generation:", "Leader:", "time="] {
            blank_number_after(line, word);
        }
    }
    all
}

/// Each number, with its decimals, is one `N`; those in names are left alone.
fn without_numbers(line: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() && !before.is_ascii_alphabetic() && before != '_' {
            while chars.peek().is_some_and(|c| c.is_ascii_digit() || *c == '.') {
                chars.next();
            }
            out.push('N');
            before = 'N';
            // A word that a number begins is not a name.
            if chars.peek().is_some_and(char::is_ascii_alphabetic) {
                before = ' ';
            }
        } else {
            out.push(c);
            before = c;
        }
    }
    out
}

/// Runs of blanks, which line up with the numbers, as one.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn blank_number_after(line: &mut String, word: &str) {
    let Some(at) = line.find(word).map(|at| at + word.len()) else { return };
    let digits = line[at..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').count();
    if digits > 0 {
        line.replace_range(at..at + digits, "N");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_and_names_stay() {
        assert_eq!(
            without_numbers("response from 0 time=0.000073 sec  (1 clients)"),
            "response from N time=N sec  (N clients)"
        );
        assert_eq!(without_numbers("eth0 srvid1 _2 -3"), "eth0 srvid1 _2 -N");
        let mut line = "Generation:197118004".to_owned();
        blank_number_after(&mut line, "Generation:");
        assert_eq!(line, "Generation:N");
    }
}
