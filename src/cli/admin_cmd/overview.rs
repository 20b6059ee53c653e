//! All tunnels of a process in one line each, those with problems first.
//!
//! A terminal gets only what fits on it: lines are cut at its width, and one line counts the
//! tunnels that do not fit. Anything else, a file or `grep`, gets every tunnel in full.

use std::collections::HashMap;

use super::rates::Rates;
use super::view::{line, size, table};
use crate::admin::protocol::{ReloadReply, StatusReply, TunnelReply};
use crate::cli::output::{Screen, span};

/// The number of columns.
const WIDTH: usize = 8;
const STATE: usize = WIDTH - 1;

/// The names of the columns.
const COLUMNS: [&str; WIDTH] =
    ["TUNNEL", "MODE", "SESSIONS", "PEAK", "NEW/S", "SENT/S", "RECV/S", "STATE"];

/// Shortest length to which a name is cut on a narrow terminal.
const LEAST_NAME: usize = 8;

/// The state of a tunnel in a word, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    /// New connections do not get through.
    Broken,
    /// There is a problem, or a limit is near.
    Degraded,
    Good,
}

impl Grade {
    fn of(tunnel: &TunnelReply) -> Self {
        match &tunnel.wrong[..] {
            [] => Self::Good,
            wrong if wrong.iter().any(|it| it.broken) => Self::Broken,
            _ => Self::Degraded,
        }
    }
}

/// Shows the process and its tunnels: `all` of them, or as many as fit on the screen.
pub(super) fn overview(
    status: &StatusReply,
    rates: &HashMap<&str, Rates>,
    screen: Option<Screen>,
    all: bool,
) -> String {
    let mut tunnels: Vec<&TunnelReply> = status.tunnels.iter().collect();
    // Stable: they arrive sorted by name.
    tunnels.sort_by_key(|tunnel| Grade::of(tunnel));
    let head = head(status, &tunnels);
    // The names of the columns, and a line for the prompt, or the cursor.
    let taken = head.lines().count() + 2;
    let room = screen.filter(|_| !all).map_or(usize::MAX, |it| it.rows.saturating_sub(taken));
    // The line about the others needs one, too.
    let shown = if tunnels.len() <= room { room } else { room.saturating_sub(1).max(1) };
    let (shown, others) = tunnels.split_at(shown.min(tunnels.len()));
    let rows = shown.iter().map(|tunnel| row(tunnel, rates.get(&*tunnel.name)));
    let mut rows: Vec<_> = rows.collect();
    rows.insert(0, COLUMNS.map(str::to_owned));
    if let Some(Screen { columns, .. }) = screen {
        fit(&mut rows, shown, columns);
    }
    let text = head + &table(rows) + &of_others(others);
    let wide = |line: &str| screen.map_or_else(|| line.to_owned(), |it| cut(line, it.columns));
    text.lines().map(|line| wide(line) + "\n").collect()
}

/// Shows the lines about the process.
fn head(status: &StatusReply, tunnels: &[&TunnelReply]) -> String {
    let StatusReply { version, pid, uptime_s, state, .. } = status;
    let up = span(*uptime_s);
    let mut out = format!("knockpipe {version}, process {pid}, up {up}: {state}\n");
    if let Some(why) = &status.why {
        line(&mut out, "", "why", why);
    }
    let open = status.descriptors.map_or_else(|| "?".to_owned(), |open| open.to_string());
    line(&mut out, "", "descriptors", &format!("{open} of {}", status.descriptor_limit));
    if let Some(ReloadReply { ok, message, .. }) = &status.reload {
        let how = if *ok { "done" } else { "failed" };
        line(&mut out, "", "reload", &format!("{how}: {message}"));
    }
    line(&mut out, "", "tunnels", &counts(tunnels));
    out + "\n"
}

/// Counts the tunnels of each grade.
fn counts(tunnels: &[&TunnelReply]) -> String {
    let all = [(Grade::Broken, "broken"), (Grade::Degraded, "degraded"), (Grade::Good, "ok")];
    let counted = all.map(|(grade, what)| {
        let count = tunnels.iter().filter(|tunnel| Grade::of(tunnel) == grade).count();
        (count, format!("{count} {what}"))
    });
    let some = counted.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text);
    some.collect::<Vec<_>>().join(", ")
}

fn of_others(others: &[&TunnelReply]) -> String {
    match others {
        [] => String::new(),
        _ => format!("and {} more: {}; --all shows them\n", others.len(), counts(others)),
    }
}

fn row(tunnel: &TunnelReply, rates: Option<&Rates>) -> [String; WIDTH] {
    let TunnelReply { name, mode, sessions, .. } = tunnel;
    let rate = |of: fn(&Rates) -> u64| rates.map_or_else(|| "-".to_owned(), |it| size(of(it)));
    [
        name.clone(),
        mode.clone(),
        format!("{}/{}", sessions.now, sessions.limit),
        sessions.most.to_string(),
        rate(|rates| rates.accepted),
        rate(|rates| rates.sent),
        rate(|rates| rates.received),
        what_is_wrong(tunnel),
    ]
}

fn what_is_wrong(tunnel: &TunnelReply) -> String {
    let words: Vec<&str> = tunnel.wrong.iter().map(|it| &*it.what).collect();
    if words.is_empty() { "ok".to_owned() } else { words.join(", ") }
}

/// Returns the worst fault, and the number of others.
fn the_worst(tunnel: &TunnelReply) -> String {
    match &tunnel.wrong[..] {
        [worst, rest @ ..] if !rest.is_empty() => format!("{} +{}", worst.what, rest.len()),
        _ => what_is_wrong(tunnel),
    }
}

/// Makes rows of these tunnels as narrow as a terminal: first cuts the list of problems, then long
/// names.
fn fit(rows: &mut [[String; WIDTH]], tunnels: &[&TunnelReply], columns: usize) {
    if width(rows) <= columns {
        return;
    }
    for (row, tunnel) in rows[1..].iter_mut().zip(tunnels) {
        row[STATE] = the_worst(tunnel);
    }
    let longest = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
    let name = longest.saturating_sub(width(rows).saturating_sub(columns)).max(LEAST_NAME);
    for row in rows {
        row[0] = cut(&row[0], name);
    }
}

/// Returns the width of a table.
fn width(rows: &[[String; WIDTH]]) -> usize {
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    (0..WIDTH).filter_map(widest).sum::<usize>() + 2 * (WIDTH - 1)
}

/// Cuts a text to a width, with a mark where something is missing.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    kept + "~"
}

#[cfg(test)]
#[path = "overview_tests.rs"]
mod tests;
