//! Lines of the demo: short, aligned, with a mark for the result of each step.
//!
//! Styles are always written. The stream removes them if it is no terminal.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

/// Style of names and headings.
pub(super) const TITLE: Style = Style::new().bold();

/// Style of the mark of a step that succeeded.
const OK: Style = AnsiColor::Green.on_default().bold();

/// Style of the mark of a step that failed.
const FAILED: Style = AnsiColor::Red.on_default().bold();

/// Style of values.
const VALUE: Style = AnsiColor::Cyan.on_default();

/// Style of explanations.
const NOTE: Style = Style::new().dimmed();

/// Width of names, in columns.
const NAME_WIDTH: usize = 13;

/// Width of values, in columns: an address fits.
const VALUE_WIDTH: usize = 17;

/// Width of the titles of steps, in columns.
const STEP_WIDTH: usize = 29;

/// Writes a value with its name and explanation.
pub(super) fn fact(out: &mut impl Write, name: &str, value: &str, note: &str) -> io::Result<()> {
    let name = cell(TITLE, name, NAME_WIDTH);
    let value = cell(VALUE, value, VALUE_WIDTH);
    writeln!(out, "{name}{value}{NOTE}{note}{NOTE:#}")
}

/// Writes a measurement.
pub(super) fn measure(out: &mut impl Write, name: &str, of: &str, shown: &str) -> io::Result<()> {
    let name = cell(TITLE, name, NAME_WIDTH);
    let of = cell(NOTE, of, 10);
    writeln!(out, "{name}{of}{VALUE}{shown}{VALUE:#}")
}

/// Takes a step and writes its mark, its title and its result.
///
/// # Errors
/// The error of the step, after a line that marks it.
pub(super) async fn step(
    out: &mut impl Write,
    title: &str,
    taken: impl Future<Output = anyhow::Result<String>>,
) -> anyhow::Result<()> {
    let result = taken.await;
    let (style, mark) = if result.is_ok() { (OK, "ok") } else { (FAILED, "failed") };
    let mark = cell(style, mark, 8);
    let title = cell(TITLE, title, STEP_WIDTH);
    let found = result.as_deref().unwrap_or_default();
    writeln!(out, "{mark}{title}{NOTE}{found}{NOTE:#}")?;
    result.map(drop)
}

/// Returns `text` in a style, filled up to a width without it.
fn cell(style: Style, text: &str, width: usize) -> impl Display {
    format!("{style}{text}{style:#}{:1$}", "", width.saturating_sub(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(write: impl FnOnce(&mut anstream::StripStream<Vec<u8>>) -> io::Result<()>) -> String {
        let mut out = anstream::StripStream::new(vec![]);
        write(&mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn columns_are_aligned_without_the_styles() {
        let short = shown(|out| fact(out, "key", "1f2e3d4c", "note"));
        let long = shown(|out| fact(out, "decrypt", "127.0.0.1:40000", "note"));
        assert_eq!(short.find("note"), long.find("note"), "{short}{long}");
        assert!(short.len() < 80 && long.len() < 80);
    }

    #[tokio::test]
    async fn a_step_is_marked_by_its_result() {
        let mut out = anstream::StripStream::new(vec![]);
        step(&mut out, "one", async { Ok("well".to_owned()) }).await.unwrap();
        let failed = step(&mut out, "two", async { anyhow::bail!("ill") }).await;
        assert_eq!(failed.unwrap_err().to_string(), "ill");
        let shown = String::from_utf8(out.into_inner()).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("ok ") && lines[0].ends_with("well"), "{shown}");
        assert!(lines[1].starts_with("failed ") && lines[1].contains("two"), "{shown}");
        assert_eq!(lines[0].find("one"), lines[1].find("two"));
    }
}
