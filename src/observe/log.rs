//! Destination and form of log lines.
//!
//! A log that cannot be written never stops the tunnel: a closed standard error, or a pipe that is
//! never read, only loses lines. The same goes for syslog(3), which blocks while the system's log
//! is stuck. One thread does all the writing; `queue` describes the handling of the others.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::syslog::{Facility, LogFlags, Priority, Severity, openlog, syslog};
use tracing::{Dispatch, Level};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::Subscriber;
use tracing_subscriber::layer::SubscriberExt;

use super::fields::PrintableFields;
use super::json::JsonLines;
use super::libraries::LibraryLines;
use super::priority;
pub use super::queue::Guard;
use super::queue::{Line, Lines};
use crate::printable::{printable, printable_json};

/// True while there is a log.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Settings of the log: level, form, destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least important level that is logged.
    pub level: LevelFilter,
    /// One line's form.
    pub format: Format,
    /// Destination of lines.
    pub output: Output,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Time, level, message, `field=value`.
    Text,
    /// One JSON object, fields beside `timestamp`, `level` and `message`.
    Json,
}

/// Destination of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// The system's log, as `knockpipe[PID]` of the daemon facility.
    Syslog,
}

/// Reason why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No service reads the lines, which would go unnoticed.
    #[error(
        "--syslog: nothing listens at {SYSLOG} ({0}); start a syslog service, or leave it out to log to standard error"
    )]
    NoSyslog(io::Error),
    /// The system refuses a thread.
    #[error("cannot start the log: {0}; check the limits of threads and memory")]
    System(#[from] io::Error),
}

/// The socket to which syslog(3) sends its lines.
const SYSLOG: &str = "/dev/log";

/// Starts logging, until the guard is dropped. Only the first call has an effect.
///
/// # Errors
/// [`StartError`]
pub fn start(settings: Settings) -> Result<Guard, StartError> {
    let lines = Lines::default();
    // One for all notices: creating one costs a check at every log statement.
    let losses = Lines::default();
    let lost = settings.at_least_warn();
    let is_coloured = settings.is_coloured();
    let telling = dispatch(lost, is_coloured, losses.clone());
    let notice = move |count| {
        tracing::dispatcher::with_default(&telling, || tracing::warn!(count, "log lines lost"));
        losses.pop()
    };
    let guard = match settings.output {
        Output::Stderr => {
            let shown = move |line: &[u8]| settings.shown(is_coloured, line);
            let is_journal = priority::is_journal();
            let write = move |(level, line): &Line| {
                let mark = if is_journal { priority::mark(*level) } else { "" };
                // In one write, so that no other line comes between.
                io::stderr().write_all(&[mark.as_bytes(), &shown(line)].concat())
            };
            lines.start(write, notice)?
        }
        Output::Syslog => {
            find_syslog().map_err(StartError::NoSyslog)?;
            openlog(Some(c"knockpipe"), LogFlags::LOG_PID, Facility::LOG_DAEMON)
                .map_err(io::Error::from)?;
            let shown = move |line: &[u8]| settings.shown(is_coloured, line);
            lines.start(move |(level, line)| to_syslog(*level, shown(line)), notice)?
        }
    };
    // An error means that logging was started already.
    let _ = tracing::dispatcher::set_global_default(dispatch(settings, is_coloured, lines));
    STARTED.store(true, Ordering::Release);
    Ok(guard)
}

/// Returns true if the log is running.
pub(super) fn is_started() -> bool {
    STARTED.load(Ordering::Acquire)
}

/// Ends the log: lines from now on are lost.
pub(super) fn ended() {
    STARTED.store(false, Ordering::Release);
}

/// Checks that a syslog service listens: syslog(3) itself does not report that.
fn find_syslog() -> io::Result<()> {
    let datagrams = UnixDatagram::unbound()?.connect(SYSLOG);
    datagrams.or_else(|error| UnixStream::connect(SYSLOG).map(drop).map_err(|_| error))
}

fn to_syslog(level: Level, line: Vec<u8>) -> io::Result<()> {
    let severity = match level {
        Level::ERROR => Severity::LOG_ERR,
        Level::WARN => Severity::LOG_WARNING,
        Level::INFO => Severity::LOG_NOTICE,
        Level::DEBUG => Severity::LOG_INFO,
        Level::TRACE => Severity::LOG_DEBUG,
    };
    syslog(Priority::new(severity, Facility::LOG_DAEMON), OsStr::from_bytes(&line))?;
    Ok(())
}

impl Settings {
    /// Makes the written form of a line: with any text in a field, it is one line, and cannot
    /// control a terminal.
    fn shown(self, is_coloured: bool, line: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        let shown = match self.format {
            Format::Json => printable_json(text),
            // Its escape sequences are the formatter's, and the rest is printable already.
            Format::Text if is_coloured => text.into(),
            Format::Text => printable(text),
        };
        (shown.into_owned() + end).into_bytes()
    }

    fn is_coloured(self) -> bool {
        self.output == Output::Stderr && self.format == Format::Text && is_colourful()
    }

    /// Returns settings for the line about lost lines, which is logged at every level: an operator
    /// who logs only errors must know that some are missing.
    fn at_least_warn(self) -> Self {
        Self { level: self.level.max(LevelFilter::WARN), ..self }
    }
}

/// Makes the subscriber. No module paths: operators know messages and fields, and a module's path
/// in `target` would collide with our field of that name. Errors of the log itself are dropped,
/// because they would be printed to the destination that failed.
fn dispatch(settings: Settings, is_coloured: bool, lines: Lines) -> Dispatch {
    let lines = Subscriber::builder()
        .with_max_level(settings.level)
        .with_target(false)
        .with_ansi(is_coloured)
        .log_internal_errors(false)
        .with_writer(lines);
    let libraries = LibraryLines::of(settings.level);
    // Syslog adds its own time.
    match (settings.format, settings.output) {
        (Format::Text, Output::Stderr) => {
            let lines = lines.compact().fmt_fields(PrintableFields).finish();
            lines.with(libraries).into()
        }
        (Format::Text, Output::Syslog) => {
            let lines = lines.compact().fmt_fields(PrintableFields).without_time().finish();
            lines.with(libraries).into()
        }
        (Format::Json, output) => {
            let json = JsonLines { has_time: output == Output::Stderr };
            lines.event_format(json).finish().with(libraries).into()
        }
    }
}

/// Returns true if standard error is a terminal, and colours are not refused.
fn is_colourful() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(settings: Settings, log: impl FnOnce()) -> (Level, String) {
        coloured_line(settings, false, log)
    }

    fn coloured_line(settings: Settings, is_coloured: bool, log: impl FnOnce()) -> (Level, String) {
        let lines = Lines::default();
        tracing::dispatcher::with_default(&dispatch(settings, is_coloured, lines.clone()), log);
        let (level, line) = lines.pop().expect("a line was logged");
        assert_eq!(lines.pop(), None, "one line only");
        (level, String::from_utf8(line).unwrap())
    }

    fn logged(format: Format, output: Output) -> String {
        let settings = Settings { level: LevelFilter::INFO, format, output };
        let (level, line) = line(settings, || {
            tracing::info!(target = "redis", address = %"127.0.0.1:1", sent = 7, "closed");
            tracing::debug!("too much");
        });
        assert_eq!(level, Level::INFO);
        line
    }

    #[test]
    fn text_lines() {
        let line = logged(Format::Text, Output::Stderr);
        let (_time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest.trim(), "INFO closed target=redis address=127.0.0.1:1 sent=7");
        let line = logged(Format::Text, Output::Syslog);
        assert!(line.trim_start().starts_with("INFO closed"), "{line}");
    }

    /// Any text in a field, in either form.
    #[test]
    fn a_line_stays_one_line_and_moves_no_terminal() {
        let bad = "a\nb\x1b[2J\u{9b}1m\u{202e}\u{7f}";
        for format in [Format::Text, Format::Json] {
            let settings = Settings { level: LevelFilter::INFO, format, output: Output::Syslog };
            let (_, line) =
                line(settings, || tracing::info!(error = %bad, detail = bad, "closed {bad}"));
            let shown = String::from_utf8(settings.shown(false, line.as_bytes())).unwrap();
            let text = shown.strip_suffix('\n').unwrap();
            assert_eq!(printable(text), text, "{format:?}");
            if format == Format::Json {
                let event: serde_json::Value = serde_json::from_str(&shown).unwrap();
                assert_eq!(event["detail"], bad);
            }
        }
    }

    /// With colours the line has escape sequences, and none may be foreign: not even a colour,
    /// which could hide text.
    #[test]
    fn the_colours_of_a_line_are_the_formatters_alone() {
        let hidden = "a\x1b[8mb\x1b[0;30mc\x1b[md\u{9b}8me\nf";
        let format = Format::Text;
        let settings = Settings { level: LevelFilter::INFO, format, output: Output::Stderr };
        let of = |text: &str| {
            let error = io::Error::other(text.to_owned());
            let cause: &(dyn std::error::Error + 'static) = &error;
            let (_, line) = coloured_line(settings, true, || {
                tracing::info!(address = %text, detail = text, kind = ?text, cause, "closed {text}");
            });
            String::from_utf8(settings.shown(true, line.as_bytes())).unwrap()
        };
        let sequences = |shown: &str| -> Vec<String> {
            let ends = |part: &str| part.split_inclusive('m').next().map(str::to_owned);
            shown.split('\x1b').skip(1).filter_map(ends).collect()
        };
        let shown = of(hidden);
        let plain = of("plain");
        assert!(sequences(&plain).len() > 8, "it has colours: {plain:?}");
        assert_eq!(sequences(&shown), sequences(&plain), "{shown:?}");
        // The debug form escapes by itself, and a value in quotes has its backslashes escaped.
        let escaped = ["a\\u{1b}[8mb\\u{1b}[0;30mc", "a\\\\u{1b}[8mb\\\\u{1b}[0;30mc"];
        assert_eq!(escaped.map(|text| shown.matches(text).count()), [4, 1], "{shown:?}");
        assert_eq!(shown.lines().count(), 1, "{shown:?}");
    }

    #[test]
    fn what_a_library_writes_of_each_connection_is_no_line() {
        for format in [Format::Text, Format::Json] {
            let settings = Settings { level: LevelFilter::INFO, format, output: Output::Stderr };
            let (_, line) = line(settings, || {
                tracing::warn!(target: "h2::proto::streams", "recv_reset");
                tracing::warn!("ours");
            });
            assert!(line.contains("ours") && !line.contains("recv_reset"), "{line}");
        }
    }

    #[test]
    fn json_lines_keep_fields_beside_the_message() {
        for output in [Output::Stderr, Output::Syslog] {
            let line = logged(Format::Json, output);
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            let fields = ["message", "target", "address", "level"].map(|name| &event[name]);
            assert_eq!(fields, ["closed", "redis", "127.0.0.1:1", "INFO"]);
            assert_eq!(event["sent"], 7);
            assert_eq!(event.get("timestamp").is_some(), output == Output::Stderr);
        }
    }

    #[test]
    fn lost_lines_are_logged_at_every_level() {
        for level in [LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::TRACE] {
            let settings = Settings { level, format: Format::Text, output: Output::Syslog };
            let told = line(settings.at_least_warn(), || tracing::warn!(count = 3, "lost"));
            assert_eq!((told.0, told.1.trim()), (Level::WARN, "WARN lost count=3"));
        }
    }
}
