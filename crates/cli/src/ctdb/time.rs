//! Times as C's `ctime` writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `Thu Nov 26 00:56:53 2026`, in the time zone of the machine.
pub(super) fn stamp(seconds: i64) -> String {
    format(seconds, "%a %b %e %H:%M:%S %Y")
}

/// `2026/11/26 00:56:53`.
pub(super) fn short_stamp(seconds: i64) -> String {
    format(seconds, "%Y/%m/%d %H:%M:%S")
}

fn format(seconds: i64, how: &str) -> String {
    let Ok(time) = Timestamp::from_second(seconds) else { return format!("second {seconds}") };
    time.to_zoned(TimeZone::system()).strftime(how).to_string()
}

/// Days, hours, minutes and seconds: `000 00:01:31`.
pub(super) fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    format!("{days:03} {:02}:{:02}:{:02}", hours % 24, minutes % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_count_days() {
        assert_eq!(span(34), "000 00:00:34");
        assert_eq!(span(2 * 86400 + 3 * 3600 + 4 * 60 + 5), "002 03:04:05");
    }
}
