//! `steadfast ip`.

use super::table::{Cell, Table};
use super::{Colour, Style, ago, name, vip_state};
use cluster::{Snapshot, Time, VipState};

/// All public addresses.
pub(super) fn table(s: &Snapshot, now: Time) -> Table {
    let mut table = Table::new(&["ADDRESS", "NODE", "INTERFACE", "STATE", "SINCE", "WHY"]);
    for (address, vip) in &s.vips {
        let (word, colour) = vip_state(vip.state);
        let word = match (vip.holder, vip.target) {
            (Some(holder), Some(target)) if holder != target => format!("{word} to {}", name(s, target)),
            _ => word.to_owned(),
        };
        let ill = vip.state == VipState::Held && !vip.healthy;
        let node = vip.holder.or(vip.target).map_or_else(|| "-".into(), |pnn| name(s, pnn));
        // Why a healthy address is where it is, is for `ip` and `events`; here it would hide what matters.
        let because = if vip.state == VipState::Held && vip.healthy { "" } else { vip.because.as_str() };
        let because = if ill && because.is_empty() { "its node is not healthy" } else { because };
        table.row([
            Cell::plain(format!("{address}/{}", vip.prefix_len)),
            Cell::plain(node),
            Cell::plain(vip.interface.clone()),
            Cell::new(if ill { format!("{word}, ill") } else { word }, if ill { Colour::Bad } else { colour }),
            Cell::plain(ago(vip.since, now)),
            Cell::plain(because),
        ]);
    }
    table
}

/// The table with every reason.
pub(crate) fn ip(s: &Snapshot, now: Time, style: Style) -> String {
    if s.vips.is_empty() {
        return "no public addresses are configured: add [[vip]] sections to the configuration\n".into();
    }
    let mut table = Table::new(&["ADDRESS", "NODE", "INTERFACE", "STATE", "SINCE", "WHY"]);
    for (address, vip) in &s.vips {
        let (word, colour) = vip_state(vip.state);
        let holder = vip.holder.map_or_else(|| "-".into(), |pnn| name(s, pnn));
        let node = match vip.target {
            Some(target) if vip.holder != Some(target) => format!("{holder} -> {}", name(s, target)),
            _ => holder,
        };
        table.row([
            Cell::plain(format!("{address}/{}", vip.prefix_len)),
            Cell::plain(node),
            Cell::plain(vip.interface.clone()),
            Cell::new(word, if vip.healthy { colour } else { Colour::Bad }),
            Cell::plain(ago(vip.since, now)),
            Cell::plain(vip.because.clone()),
        ]);
    }
    let mut out = String::new();
    table.draw(style, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn each_address_with_its_reason() {
        let s = sample::one_down().snapshot;
        assert_eq!(
            ip(&s, sample::NOW, Style { colour: false, width: 120 }),
            "\
ADDRESS         NODE           INTERFACE  STATE    SINCE  WHY
192.0.2.200/24  gluster1       eth0       held     30s    spread evenly
192.0.2.201/24  - -> gluster1  eth0       waiting  1s     until the lease of gluster2 is over
"
        );
    }
}
