//! The results as a section of a document.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::competitors::Competitor;
use crate::goals::{self, Bound, Goal};
use crate::machine;
use crate::results::Results;
use crate::rows::Row;

const BEGIN: &str = "<!-- bench-peers: written by `make bench-peers` from here -->\n";
const END: &str = "<!-- bench-peers: to here -->\n";

/// Returns everything that stands between the markers.
pub(crate) fn page(results: &Results, rows: &[Row]) -> String {
    let (date, machine, versions) = (machine::date(), machine::description(), machine::versions());
    format!(
        "{date}, {machine}:\n\n    {}\n\n{versions}. Rounds: {}, in which the competitors of \
         a row take turns.\n\n![Bars of every competitor](bench-peers.svg)\n\n\
         ### Targets\n\n{}\n### Figures\n\n{}",
        command(),
        results.rounds(),
        targets(results, rows),
        figures(results, rows)
    )
}

/// Puts `page` between the markers of the document; a new document consists of nothing else.
pub(crate) fn write(page: &str, document: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(document).unwrap_or_else(|_| format!("{BEGIN}{END}"));
    let (before, rest) = text.split_once(BEGIN).context("the document lacks the first marker")?;
    let (_, after) = rest.split_once(END).context("the document lacks the last marker")?;
    ensure!(!after.contains(BEGIN), "the document has the markers twice");
    std::fs::write(document, format!("{before}{BEGIN}{page}{END}{after}"))?;
    Ok(())
}

/// Returns the command that makes such a page again.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.join(" ").as_str() {
        "--write" => "make bench-peers".to_owned(),
        others => format!("cargo bench --bench peers -- {others}"),
    }
}

fn targets(results: &Results, rows: &[Row]) -> String {
    let mut table = String::from(
        "| load | figure | who | target | measured | theirs | ratio | |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        for goal in goals::all().iter().filter(|goal| goal.row == row.name) {
            table += &target(goal, row.title, results);
        }
    }
    table
}

fn target(goal: &Goal, title: &str, results: &Results) -> String {
    let (word, limit) = match goal.bound {
        Bound::AtLeast(least) => ("at least", least),
        Bound::AtMost(most) => ("at most", most),
    };
    let wanted = match goal.against {
        Some(peer) => format!("{word} {limit}x {}", peer.name()),
        None => format!("{word} {limit}"),
    };
    let begin = format!("| {title} | {} | {} | {wanted} ", goal.figure, goal.ours.name());
    let Some(outcome) = goal.outcome(results) else {
        return begin + "| not measured | | | |\n";
    };
    let theirs = outcome.theirs.map(number).unwrap_or_default();
    let ratio = outcome.theirs.map(|_| format!("{:.2}", outcome.value)).unwrap_or_default();
    let verdict = if outcome.met { "met" } else { "**missed**" };
    format!("{begin}| {} | {theirs} | {ratio} | {verdict} |\n", number(outcome.ours))
}

fn figures(results: &Results, rows: &[Row]) -> String {
    let shown: Vec<_> = Competitor::ALL.into_iter().filter(|c| results.has(*c)).collect();
    let mut table = String::from("| load | figure ");
    for competitor in &shown {
        let _ = write!(table, "| {} ", competitor.name());
    }
    table += "|\n|---|---";
    table += &"|---".repeat(shown.len());
    table += "|\n";
    for row in rows {
        for figure in results.figures(row.name) {
            let _ = write!(table, "| {} | {figure} ", row.title);
            for &competitor in &shown {
                let value = results.get(row.name, figure, competitor);
                let _ = write!(table, "| {} ", value.map(number).unwrap_or_default());
            }
            table += "|\n";
        }
    }
    table
}

/// Formats with three significant digits, and a comma for thousands.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        let whole = value.round() as u64;
        return match whole / 1_000_000 {
            0 => format!("{},{:03}", whole / 1000, whole % 1000),
            n => format!("{n},{:03},{:03}", whole / 1000 % 1000, whole % 1000),
        };
    }
    match size {
        s if s >= 100.0 || s == 0.0 => format!("{value:.0}"),
        s if s >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
