//! Priorities in front of log lines, for a journal that reads standard error.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use tempfile::TempDir;

use testkit::machine::with_syslog;
use testkit::{NEVER, binary, keygen, wait::bounded};

/// The stream that `JOURNAL_STREAM` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// Standard error.
    Stderr,
    /// A pipe other than the named one.
    Other,
    Nothing,
}

/// A run of the program with a pipe as standard error, as a service has a socket.
struct Run {
    child: Child,
    stderr: BufReader<PipeReader>,
}

impl Run {
    fn start(named: Named, args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(args);
        Self::of(named, command)
    }

    fn of(named: Named, mut command: Command) -> Self {
        let (reader, writer) = pipe().unwrap();
        let (_held, other) = pipe().unwrap();
        let name = |pipe: &dyn Fn() -> (u64, u64)| {
            let (device, inode) = pipe();
            format!("{device}:{inode}")
        };
        let seen = |pipe: &dyn AsFd| {
            let seen = fstat(pipe.as_fd()).unwrap();
            (seen.st_dev, seen.st_ino)
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        match named {
            Named::Stderr => command.env("JOURNAL_STREAM", name(&|| seen(&writer))),
            Named::Other => command.env("JOURNAL_STREAM", name(&|| seen(&other))),
            Named::Nothing => command.env_remove("JOURNAL_STREAM"),
        };
        let child = command.stderr(writer).spawn().unwrap();
        // The command holds the other end of the pipe, too.
        drop(command);
        Self { child, stderr: BufReader::new(reader) }
    }

    /// Starts a tunnel that serves, with the log as `format`, and lines of several levels.
    fn serving(named: Named, dir: &TempDir, format: &str) -> Self {
        let key = dir.path().join("key");
        let key = key.to_str().unwrap();
        let words = "decrypt -s 127.0.0.1:0 -t knockpipe-test.invalid:1 -D --log-level debug";
        let mut args: Vec<_> = words.split(' ').collect();
        args.extend(["--log-format", format, "-k", key]);
        Self::start(named, &args)
    }

    /// Returns all lines until its end; it is stopped once it is ready.
    fn lines(self) -> Vec<String> {
        bounded("it is ready, and ends", move || {
            let Self { mut child, mut stderr } = self;
            let mut lines = vec![];
            loop {
                let mut line = String::new();
                if stderr.read_line(&mut line).unwrap() == 0 {
                    child.wait().unwrap();
                    return lines;
                }
                if line.contains("ready") {
                    let pid = Pid::from_raw(child.id().cast_signed());
                    kill(pid, Signal::SIGTERM).unwrap();
                }
                lines.push(line.trim_end_matches('\n').to_owned());
            }
        })
    }

    fn all(mut self) -> String {
        bounded("it ends", move || {
            let mut text = String::new();
            self.stderr.read_to_string(&mut text).unwrap();
            self.child.wait().unwrap();
            text
        })
    }
}

fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    dir
}

/// Splits a line into its mark and the rest.
fn split(line: &str) -> (&str, &str) {
    line.split_at(if line.starts_with('<') { 3 } else { 0 })
}

/// Returns the mark for a line's own level.
fn due(line: &str) -> &'static str {
    let marks = [("ERROR", "<3>"), ("WARN", "<4>"), ("INFO", "<6>"), ("DEBUG", "<7>")];
    let has = |level: &str| {
        line.contains(&format!(" {level} ")) || line.contains(&format!("\"level\":\"{level}\""))
    };
    let found = marks.iter().find(|(level, _)| has(level));
    found.unwrap_or_else(|| panic!("a line without a level: {line}")).1
}

#[test]
fn a_journal_is_told_how_important_each_line_is() {
    let dir = place();
    for format in ["text", "json"] {
        let lines = Run::serving(Named::Stderr, &dir, format).lines();
        let mut seen: Vec<&str> = vec![];
        for line in &lines {
            let (mark, rest) = split(line);
            assert_eq!(mark, due(rest), "{line}");
            assert!(format == "text" || serde_json::from_str::<serde_json::Value>(rest).is_ok());
            seen.push(mark);
        }
        for mark in ["<4>", "<6>"] {
            assert!(seen.contains(&mark), "no {mark} in {lines:#?}");
        }
    }
}

#[test]
fn no_other_stream_gets_priorities() {
    let dir = place();
    for (named, format) in
        [(Named::Other, "text"), (Named::Other, "json"), (Named::Nothing, "text")]
    {
        let lines = Run::serving(named, &dir, format).lines();
        assert!(!lines.is_empty());
        for line in lines {
            assert_eq!(split(&line).0, "", "{named:?}: {line}");
        }
    }
}

/// Also before the log has begun, and for any message.
#[test]
fn what_ends_the_program_is_an_error_to_a_journal() {
    let dir = place();
    let bad = dir.path().join("a\n<7>b");
    fs::write(&bad, "short").unwrap();
    for (named, mark) in [(Named::Stderr, "<3>"), (Named::Other, ""), (Named::Nothing, "")] {
        for args in [&["key-id", bad.to_str().unwrap()][..], &["decrypt"], &["no-such-command"]] {
            let text = Run::start(named, args).all();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.starts_with(&format!("{mark}knockpipe: ")), "{named:?}: {text}");
        }
    }
}

/// The system's log learns the level from the call.
#[test]
fn lines_for_syslog_have_no_priorities_in_them() {
    let dir = place();
    let key = dir.path().join("key");
    let source = dir.path().join("socket");
    let log = UnixDatagram::bind(dir.path().join("log")).unwrap();
    log.set_read_timeout(Some(NEVER)).unwrap();
    let mut command = with_syslog(&dir.path().join("log"));
    command.args(["decrypt", "--syslog", "-t", "127.0.0.1:1", "-s"]);
    command.arg(&source).arg("-k").arg(&key);
    let run = Run::of(Named::Stderr, command);
    let mut bytes = [0; 4096];
    loop {
        let line = log.recv(&mut bytes).expect("it says when it is ready");
        let line = String::from_utf8_lossy(&bytes[..line]).into_owned();
        let (_, text) = line.split_once("]: ").expect("it is tagged");
        assert!(!text.starts_with('<'), "{line}");
        if text.contains(" ready ") || text.starts_with("ready") {
            break;
        }
    }
    kill(Pid::from_raw(run.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let text = run.all();
    assert_eq!(text, "");
}
