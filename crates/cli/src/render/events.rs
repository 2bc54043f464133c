//! A line of `steadfast events`.

use super::table::one_line;
use super::{Colour, Style};
use cluster::Level;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use node::admin::api::TimedEvent;

/// Time, kind, what, why. `names` gives the name of a node.
pub(crate) fn event(timed: &TimedEvent, zone: &TimeZone, style: Style) -> String {
    let event = &timed.event;
    let time = Timestamp::from_millisecond(timed.unix_ms)
        .map(|t| t.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string())
        .unwrap_or_else(|_| "(time unknown)".into());
    let colour = match event.level {
        Level::Info => Colour::None,
        Level::Warning => Colour::Waiting,
        Level::Error => Colour::Bad,
    };
    let mark = match event.level {
        Level::Info => ' ',
        Level::Warning => '!',
        Level::Error => 'E',
    };
    let because =
        if event.because.is_empty() { String::new() } else { format!(" (because {})", one_line(&event.because)) };
    format!(
        "{} {mark} {:<9} e{:<4} {}{}",
        style.paint(Colour::Faint, &time),
        event.kind,
        event.epoch.0,
        style.paint(colour, &one_line(&event.text)),
        style.paint(Colour::Faint, &because),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Epoch, Event, Pnn, Time};

    #[test]
    fn a_line_says_when_what_and_why() {
        let mut timed = TimedEvent {
            unix_ms: 1_700_000_000_123,
            event: Event {
                at: Time(5),
                level: Level::Warning,
                kind: "suspect".into(),
                epoch: Epoch(12),
                node: Some(Pnn(1)),
                text: "gluster2 is silent".into(),
                because: "no heartbeat for 450 ms".into(),
            },
        };
        assert_eq!(
            event(&timed, &TimeZone::UTC, Style::plain()),
            "2023-11-14 22:13:20.123 ! suspect   e12   gluster2 is silent (because no heartbeat for 450 ms)"
        );
        timed.unix_ms = i64::MAX;
        assert!(event(&timed, &TimeZone::UTC, Style::plain()).starts_with("(time unknown)"));
    }
}
