//! Where log lines go and what they look like.
//!
//! A log that cannot be written never stops the tunnel: a closed standard
//! error loses lines and nothing else.

use std::io::{self, IsTerminal};

use syslog_tracing::{Facility, InvalidCharAction, Options, Syslog};
use tracing::Dispatch;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::{MakeWriter, Subscriber};

/// What is logged, where, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least important level that is logged.
    pub level: LevelFilter,
    /// One line's form.
    pub format: Format,
    /// Where lines go.
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

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// The system's log, as `knockpipe[PID]` of the daemon facility.
    Syslog,
}

/// Starts logging for the rest of the process. The first call counts; later
/// ones change nothing.
pub fn start(settings: Settings) {
    let dispatch = match settings.output {
        Output::Stderr => dispatch(settings, io::stderr),
        Output::Syslog => {
            // None means that a logger exists, so logging was started already.
            let Some(syslog) = Syslog::new(c"knockpipe", Options::LOG_PID, Facility::Daemon) else {
                return;
            };
            dispatch(settings, syslog.invalid_chars(InvalidCharAction::ReplaceWith('?')))
        }
    };
    // An error means that logging was started already.
    let _ = tracing::dispatcher::set_global_default(dispatch);
}

/// No module paths: operators know messages and fields, and a module's path in
/// `target` would collide with our field of that name. Errors of the log itself
/// are dropped, because they would be printed to the very place that failed.
fn dispatch<W>(settings: Settings, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = Subscriber::builder()
        .with_max_level(settings.level)
        .with_target(false)
        .with_ansi(settings.output == Output::Stderr && is_colourful())
        .log_internal_errors(false)
        .with_writer(writer);
    // Syslog adds its own time.
    match (settings.format, settings.output) {
        (Format::Text, Output::Stderr) => lines.compact().into(),
        (Format::Text, Output::Syslog) => lines.compact().without_time().into(),
        (Format::Json, Output::Stderr) => lines.json().flatten_event(true).into(),
        (Format::Json, Output::Syslog) => lines.json().flatten_event(true).without_time().into(),
    }
}

/// Whether somebody looks at standard error who has not said no to colours.
fn is_colourful() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, output: Output) -> String {
        let (memory, settings) =
            (Memory::default(), Settings { level: LevelFilter::INFO, format, output });
        let writer = memory.clone();
        tracing::dispatcher::with_default(&dispatch(settings, move || writer.clone()), || {
            tracing::info!(target = "redis", address = %"127.0.0.1:1", sent = 7, "closed");
            tracing::debug!("too much");
        });
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_lines() {
        let line = logged(Format::Text, Output::Stderr);
        let (_time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest.trim(), "INFO closed target=\"redis\" address=127.0.0.1:1 sent=7");
        let line = logged(Format::Text, Output::Syslog);
        assert!(line.trim_start().starts_with("INFO closed"), "{line}");
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
    fn a_log_that_cannot_be_written_harms_nobody() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let settings =
            Settings { level: LevelFilter::INFO, format: Format::Text, output: Output::Stderr };
        tracing::dispatcher::with_default(&dispatch(settings, || Broken), || {
            tracing::info!("lost");
        });
    }
}
