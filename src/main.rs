//! The `knockpipe` program: hands its arguments over and turns the outcome
//! into an exit status.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | all went well |
//! | 1 | it failed at run time, or sessions were cut |
//! | 2 | the command line or a key file is wrong |

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use knockpipe::cli::{self, Done};
use knockpipe::run::Failure;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::run(&arguments) {
        Ok(Done::Clean) => ExitCode::SUCCESS,
        Ok(Done::SessionsCut) => ExitCode::from(1),
        Ok(Done::Background(status)) => ExitCode::from(status),
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
/// a failure into a panic.
fn report(failure: &Failure) {
    let text = failure.to_string().replace(char::is_control, " ");
    let _ = writeln!(io::stderr(), "knockpipe: {text}");
}
