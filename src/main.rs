//! The `knockpipe` program: hands its arguments over and turns the outcome
//! into an exit status.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | all went well |
//! | 1 | it failed at run time, or sessions were cut |
//! | 2 | the command line or a key file is wrong |
//! | 3 | a `gate` command or `kick` found nothing to change |
//! | 128 + N | signal N ended `pipe`: 129 SIGHUP, 130 SIGINT, 143 SIGTERM |

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use knockpipe::cli::{self, Done};
use knockpipe::printable::printable;
use knockpipe::run::Failure;

/// How long the end of the process may wait for a reader of its last line.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::run(&arguments) {
        Ok(Done::Clean) => ExitCode::SUCCESS,
        Ok(Done::SessionsCut) => ExitCode::from(1),
        Ok(Done::Unchanged) => ExitCode::from(3),
        Ok(Done::Background(status) | Done::Signalled(status)) => ExitCode::from(status),
        Err(failure) => {
            report(&failure);
            match failure {
                Failure::Runtime(_) => ExitCode::from(1),
                Failure::Usage(_) => ExitCode::from(2),
            }
        }
    }
}

/// One line, whatever is in the message. A closed standard error must not turn
/// a failure into a panic, and one that nobody reads must not keep us from ending.
fn report(failure: &Failure) {
    let line = format!("knockpipe: {}\n", printable(&failure.to_string()));
    let (done, written) = mpsc::channel();
    let write = move || {
        let _ = io::stderr().write_all(line.as_bytes());
        // Nobody waits any more for a line that took too long.
        let _ = done.send(());
    };
    // Without a thread to spare the line is lost, the exit status is not.
    if thread::Builder::new().spawn(write).is_ok() {
        let _ = written.recv_timeout(PATIENCE);
    }
}
