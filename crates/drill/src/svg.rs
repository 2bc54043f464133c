//! The timeline: a lane for each client, its stalls as gaps in a bar, moments of the drill as lines across.

use crate::clients::Stream;
use crate::report::Report;
use std::fmt::Write as _;

const LEFT: f64 = 214.0;
const WIDTH: f64 = 820.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 96.0;
const LANE: f64 = 26.0;

/// Seconds around the fault, and around its mending, that are drawn.
const BEFORE: f64 = 1.0;

struct Scale {
    from_us: u64,
    span_us: f64,
}

impl Scale {
    fn x(&self, us: u64) -> f64 {
        LEFT + WIDTH * ((us.saturating_sub(self.from_us)) as f64 / self.span_us).clamp(0.0, 1.0)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A step of the axis that gives five to twelve marks.
fn step(seconds: f64) -> f64 {
    [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0].into_iter().find(|s| seconds / s <= 12.0).unwrap_or(120.0)
}

pub(crate) fn draw(report: &Report) -> String {
    let m = report.marks;
    let from_us = m.fault_us.saturating_sub((BEFORE * 1e6) as u64);
    let scale = Scale { from_us, span_us: (m.ended_us.max(m.fault_us + 1_000_000) - from_us) as f64 };
    let lanes = report.streams.len() as f64;
    let bottom = TOP + LANE * lanes;
    let (width, height) = (LEFT + WIDTH + RIGHT, bottom + 58.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"13\" fill=\"#1f2933\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"24\" y=\"34\" font-size=\"20\" font-weight=\"600\">{} on {}</text>\n\
         <text x=\"24\" y=\"56\" fill=\"#52606d\">what clients saw; a gap in a bar is a time without a success</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#52606d\" text-anchor=\"end\">outage</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#52606d\" text-anchor=\"end\">on return</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#52606d\" text-anchor=\"end\">failed</text>\n",
        report.fault,
        escape(&report.node),
        LEFT + WIDTH + 86.0,
        TOP - 14.0,
        LEFT + WIDTH + 166.0,
        TOP - 14.0,
        LEFT + WIDTH + 226.0,
        TOP - 14.0,
    );
    axis(&mut svg, &scale, m.fault_us, bottom);
    for (i, stream) in report.streams.iter().enumerate() {
        lane(&mut svg, &scale, report, stream, TOP + LANE * i as f64);
    }
    for (us, label, colour) in [(m.fault_us, report.fault.word(), "#c81e1e"), (m.mended_us, "mended", "#1f7a4d")] {
        let x = scale.x(us);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-weight=\"600\">{label}</text>",
            TOP - 10.0,
            TOP - 14.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn axis(svg: &mut String, scale: &Scale, zero_us: u64, bottom: f64) {
    let seconds = scale.span_us / 1e6;
    let step = step(seconds);
    let first = -(BEFORE / step).floor() as i64;
    for k in first.. {
        let at = k as f64 * step;
        if at > seconds - BEFORE + 1e-9 {
            break;
        }
        let x = scale.x((zero_us as f64 + at * 1e6) as u64);
        let label = if step < 1.0 { format!("{at:.1}") } else { format!("{at:.0}") };
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP:.1}\" y2=\"{bottom:.1}\" stroke=\"#e4e7eb\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#52606d\" text-anchor=\"middle\">{label}</text>",
            bottom + 20.0,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#52606d\" text-anchor=\"middle\">seconds from the fault</text>",
        LEFT + WIDTH / 2.0,
        bottom + 42.0,
    );
}

fn lane(svg: &mut String, scale: &Scale, report: &Report, stream: &Stream, y: f64) {
    let moved = report.is_moved(stream);
    let colour = if moved { "#2457a6" } else { "#7b8794" };
    let weight = if moved { "600" } else { "400" };
    let middle = y + LANE / 2.0 + 4.5;
    let _ = writeln!(
        svg,
        "<text x=\"24\" y=\"{middle:.1}\" font-weight=\"{weight}\">{}</text>\
         <text x=\"72\" y=\"{middle:.1}\" font-weight=\"{weight}\">{}</text>",
        escape(&stream.protocol),
        escape(&stream.vip),
    );
    let bar = |svg: &mut String, from: f64, to: f64| {
        if to - from > 0.05 {
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" rx=\"2\" fill=\"{colour}\"/>",
                y + 7.0,
                to - from,
            );
        }
    };
    let mut at = LEFT;
    for stall in stream.stalls.iter().filter(|s| s.to_us >= scale.from_us) {
        let (from, to) = (scale.x(stall.from_us), scale.x(stall.to_us));
        bar(svg, at, from);
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"#fde8e8\"/>",
            y + 7.0,
            (to - from).max(1.0)
        );
        if to - from > 46.0 {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{middle:.1}\" font-size=\"11\" fill=\"#9b1c1c\" text-anchor=\"middle\">{}</text>",
                (from + to) / 2.0,
                time(stall.ms()),
            );
        }
        at = to;
    }
    if stream.last_us > 0 {
        bar(svg, at, LEFT + WIDTH);
    }
    let (fault, mended) = report.outages(stream);
    let cell = |x: f64, text: &str, bad: bool| {
        let fill = if bad { "#c81e1e" } else { "#1f2933" };
        format!(
            "<text x=\"{:.0}\" y=\"{middle:.1}\" fill=\"{fill}\" text-anchor=\"end\" font-weight=\"{weight}\">{text}</text>\n",
            LEFT + WIDTH + x
        )
    };
    if let Some(why) = &stream.wrong {
        let why: String = why.chars().take(34).collect();
        svg.push_str(&cell(240.0, &escape(&why), true));
        return;
    }
    svg.push_str(&cell(86.0, &time(fault), false));
    svg.push_str(&cell(166.0, &time(mended), false));
    svg.push_str(&cell(226.0, &stream.failed.to_string(), stream.failed > 0));
}

/// Milliseconds, or seconds from ten on.
fn time(ms: f64) -> String {
    if ms <= 0.0 {
        "none".to_owned()
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::clients::{Stall, Stream};
    use crate::{Fault, Marks, Report};

    #[test]
    fn stalls_are_told_apart_and_text_cannot_break_the_file() {
        let stream = Stream {
            protocol: "tcp".into(),
            vip: "10.0.0.1".into(),
            ok: 5,
            stalls: vec![
                Stall { from_us: 1_900_000, to_us: 2_600_000, open: false },
                Stall { from_us: 9_000_000, to_us: 9_150_000, open: false },
            ],
            last_us: 12_000_000,
            ..Stream::default()
        };
        let marks = Marks { began_us: 0, fault_us: 2_000_000, mended_us: 8_000_000, ended_us: 12_000_000 };
        let report = Report {
            fault: Fault::PowerOff,
            node: "<a & b>".into(),
            moved: vec!["10.0.0.1".into()],
            marks,
            streams: vec![stream],
            notes: Vec::new(),
        };
        assert_eq!(report.outages(&report.streams[0]), (700.0, 150.0));
        let svg = report.svg();
        assert!(svg.contains("&lt;a &amp; b&gt;") && svg.contains("700 ms") && svg.contains("150 ms"), "{svg}");
        assert!(report.is_clean());
        assert!(report.table().contains("moved"));
    }
}
