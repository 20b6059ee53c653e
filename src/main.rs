//! The `knockpipe` program: hands its arguments over and turns the outcome
//! into an exit status.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | success |
//! | 1 | it failed at run time, or sessions were cut |
//! | 2 | the command line or a key file is invalid |
//! | 3 | a `gate` command or `kick` found nothing to change |
//! | 128 + N | signal N ended `pipe`: 129 SIGHUP, 130 SIGINT, 143 SIGTERM |
//! | any | that of the command of `http --run` |

use std::ffi::OsString;
use std::panic::catch_unwind;
use std::process::ExitCode;

use knockpipe::cli::{self, Done};
use knockpipe::printable::printable;
use knockpipe::{Failure, panics, stderr};
use tracing::Level;

fn main() -> ExitCode {
    panics::install();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // The panic was logged already.
    let Ok(done) = catch_unwind(|| cli::run(&arguments)) else { return ExitCode::from(1) };
    match done {
        Ok(Done::Clean) => ExitCode::SUCCESS,
        Ok(Done::SessionsCut) => ExitCode::from(1),
        Ok(Done::Unchanged) => ExitCode::from(3),
        Ok(Done::Background(status) | Done::Signalled(status) | Done::Command(status)) => {
            ExitCode::from(status)
        }
        Err(failure) => {
            stderr::line(Level::ERROR, &printable(&failure.to_string()));
            match failure {
                Failure::Runtime(_) => ExitCode::from(1),
                Failure::Usage(_) => ExitCode::from(2),
            }
        }
    }
}
