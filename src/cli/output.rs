//! Output of the commands: aligned lines for people and `grep`, or JSON.
//!
//! Answers go to standard output, notices to standard error. A reader that is gone is not a
//! failure, and no reason to leave a change half done.

use std::io::{self, BufWriter, Stdout, Write};
use std::time::Duration;

use clap::Args;
use rustix::termios::tcgetwinsize;
use serde_json::Value;
use tracing::Level;

use crate::civil::Date;
use crate::observe::stderr;
use crate::printable::{printable, printable_json, printable_lines};
use crate::run::Failure;

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// People.
    Text,
    /// Programs: one object in each line.
    Json,
}

/// The flag that chooses the form.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct FormArgs {
    /// Print JSON, one object in each line
    #[arg(long)]
    json: bool,
}

impl FormArgs {
    pub(super) fn form(self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }
}

/// Standard output.
pub(super) struct Output {
    out: BufWriter<Stdout>,
    form: Form,
    /// The reader is gone.
    closed: bool,
}

impl Output {
    pub(super) fn new(form: Form) -> Self {
        Self { out: BufWriter::new(io::stdout()), form, closed: false }
    }

    /// Prints one answer, in the requested form.
    ///
    /// # Errors
    /// [`Failure::Runtime`] when it cannot be written.
    pub(super) fn say(
        &mut self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        let line = match self.form {
            Form::Text => text(),
            Form::Json => json().to_string(),
        };
        let line = match self.form {
            Form::Text => printable_lines(&line),
            Form::Json => printable_json(&line),
        };
        let written = if self.closed { Ok(()) } else { writeln!(self.out, "{line}") };
        self.checked(written)
    }

    /// Writes the remaining output.
    ///
    /// # Errors
    /// [`Failure::Runtime`] when it cannot be written.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let written = if self.closed { Ok(()) } else { self.out.flush() };
        self.checked(written)
    }

    fn checked(&mut self, written: io::Result<()>) -> Result<(), Failure> {
        let advice = "redirect it elsewhere; changes that were made stay made";
        self.closed |= !is_read(written, advice)?;
        Ok(())
    }
}

/// Prints lines at once. Returns false once there is no reader.
///
/// # Errors
/// [`Failure::Runtime`] when it cannot be written.
pub(super) fn print(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(printable_lines(text).as_bytes());
    is_read(written.and_then(|()| out.flush()), "redirect it elsewhere")
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// Characters in a line.
    pub(super) columns: usize,
    /// Lines.
    pub(super) rows: usize,
}

impl Screen {
    /// Returns the size of standard output; `None` where that is not a terminal.
    pub(super) fn of_stdout() -> Option<Self> {
        let size = tcgetwinsize(io::stdout()).ok()?;
        // A terminal over a serial line does not know its size.
        let or = |size: u16, usual: usize| if size == 0 { usual } else { size.into() };
        Some(Self { columns: or(size.ws_col, 80), rows: or(size.ws_row, 24) })
    }
}

/// Clears the screen of a terminal.
///
/// # Errors
/// [`Failure::Runtime`] when it cannot be written.
pub(super) fn clear() -> Result<bool, Failure> {
    is_read(io::stdout().write_all(b"\x1b[H\x1b[2J"), "redirect it elsewhere")
}

/// Returns whether the output still has a reader.
///
/// # Errors
/// [`Failure::Runtime`] with the `remedy` when it could not be written.
pub(super) fn is_read(written: io::Result<()>, remedy: &str) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Runtime(anyhow::anyhow!("cannot print: {error}; {remedy}"))),
    }
}

/// Prints a notice, which is not part of the answer.
pub(super) fn notice(text: &str) {
    stderr::line(Level::WARN, &printable(text));
}

/// Formats the remaining time.
pub(super) fn left(time: Option<Duration>) -> String {
    // A fraction of a second counts as a second.
    let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    time.map_or_else(|| "for ever".to_owned(), |time| span(seconds(time)))
}

/// Formats seconds in their two largest units: `3h20m`.
pub(super) fn span(seconds: u64) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let largest = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut text = String::new();
    for (size, unit) in &UNITS[largest..UNITS.len().min(largest + 2)] {
        if rest >= *size || text.is_empty() {
            text += &format!("{}{unit}", rest / size);
        }
        rest %= size;
    }
    text
}

/// Formats a unix second in UTC, as people and sorting programs read it.
pub(super) fn date(unix: u64) -> String {
    let day = Date::of_unix(unix);
    let second = unix % 86_400;
    let hour = second / 3600;
    let minute = second / 60 % 60;
    let second = second % 60;
    format!("{day:#}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, shown) in
            [(0, "0s"), (59, "59s"), (61, "1m1s"), (7_260, "2h1m"), (90_000, "1d1h")]
        {
            assert_eq!(span(seconds), shown);
        }
    }

    #[test]
    fn a_part_of_a_second_is_time_left() {
        let cases = [
            (0, "0s"),
            (1, "1s"),
            (59_001, "1m"),
            (60_000, "1m"),
            (3_599_000, "59m59s"),
            (3_600_000, "1h"),
            (3_660_000, "1h1m"),
            (86_400_000 * 30 - 1000, "29d23h"),
            (86_400_000 + 59_000, "1d"),
        ];
        for (ms, shown) in cases {
            assert_eq!(left(Some(Duration::from_millis(ms))), shown, "{ms} ms");
        }
        assert_eq!(left(None), "for ever");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(unix), shown);
        }
    }
}
