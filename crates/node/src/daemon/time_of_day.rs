//! Tells the core what time of the day it is: it has no clock, and `fail_back = "window"` needs to know.

use std::time::Duration;

use cluster::Input;
use jiff::Zoned;
use tokio::time::sleep;

use super::inbox::Inbox;

/// Tells the minute at once and whenever it changes, in this machine's time zone. A clock that is set is noticed within
/// a minute.
pub(super) async fn run(inbox: Inbox) {
    loop {
        let now = Zoned::now();
        let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
        inbox.input(Input::TimeOfDay { minute });
        let rest = 60u64.saturating_sub(u64::from(now.second().unsigned_abs())).max(1);
        sleep(Duration::from_secs(rest)).await;
    }
}
