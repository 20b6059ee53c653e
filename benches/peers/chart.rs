//! The results as bars: a panel for each figure, a bar for each competitor.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::competitors::Competitor;
use crate::report::number;
use crate::results::Results;

const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (400, 230);
const TITLE: i32 = 34;
const NAMES: i32 = 118;
const VALUES: i32 = 70;

const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const THEIRS: RGBColor = RGBColor(0xa9, 0xb4, 0xbf);
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);

/// Row, figure and title of each panel.
const PANELS: [(&str, &str, &str); 12] = [
    ("bulk-up-1", "GB/s", "One connection up, GB/s (more is better)"),
    ("bulk-down-1", "GB/s", "One connection down, GB/s (more)"),
    ("bulk-up-1", "CPU s per GB", "CPU of both ends, s per GB (less)"),
    ("rtt", "p50 us", "64-byte round trip p50, microseconds (less)"),
    ("rtt", "CPU us", "CPU per round trip, microseconds (less)"),
    ("redis-p1", "ops/s", "Redis GET, 50 clients, ops/s (more)"),
    ("redis-p16", "ops/s", "the same, 16 pipelined, ops/s (more)"),
    ("connects", "per second", "New connections per second (more)"),
    ("connects", "CPU us", "CPU per new connection, microseconds (less)"),
    ("idle", "KiB", "Memory of an idle connection, KiB (less)"),
    ("first-byte", "round trips", "First byte, round trips (less)"),
    ("start", "ms", "Start to first echoed byte, ms (less)"),
];

/// Draws the measured figures; panels without one are left out.
pub(crate) fn draw(results: &Results, file: &Path) -> anyhow::Result<()> {
    let panels: Vec<_> = PANELS.iter().filter(|panel| !bars(results, panel).is_empty()).collect();
    let lines = panels.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * lines as u32);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    for (panel, area) in panels.iter().zip(area.split_evenly((lines, COLUMNS))) {
        draw_panel(&area, panel.2, &bars(results, panel)).map_err(failed)?;
    }
    area.present().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the chart: {error}")
}

fn bars(results: &Results, (row, figure, _): &(&'static str, &'static str, &str)) -> Bars {
    let value = |competitor| Some((competitor, results.get(row, figure, competitor)?));
    Competitor::ALL.into_iter().filter_map(value).collect()
}

type Bars = Vec<(Competitor, f64)>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_panel(area: &Area<'_>, title: &str, bars: &Bars) -> Result<(), Box<dyn std::error::Error>> {
    let font = ("sans-serif", 15).into_font().color(&INK);
    area.draw(&Text::new(title.to_owned(), (12, 12), &font))?;
    let most = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(PANEL.0.cast_signed() - NAMES - VALUES);
    let step = (PANEL.1.cast_signed() - TITLE - 10) / 8;
    for (line, &(competitor, value)) in (0..).zip(bars) {
        let top = TITLE + line * step;
        let end = NAMES + (value / most * room).round() as i32;
        let color = if competitor.is_ours() { OURS } else { THEIRS };
        let text = |x| (x, top + 3);
        area.draw(&Text::new(competitor.name(), text(12), &font))?;
        area.draw(&Rectangle::new([(NAMES, top), (end, top + step - 5)], color.filled()))?;
        area.draw(&Text::new(number(value), text(end + 6), &font))?;
    }
    Ok(())
}
