//! A log that goes to a file, as logrotate treats it.

use std::fs::{self, File};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::{Launch, any, eventually, keygen};

/// A renamed file is written on; one that is copied and emptied begins anew, without a hole.
#[test]
fn a_log_file_that_is_copied_and_emptied_goes_on_at_its_beginning() {
    let dir = TempDir::new().unwrap();
    let (log, moved) = (dir.path().join("log"), dir.path().join("log.1"));
    let launch = Launch::decrypt(&keygen(dir.path(), "key")).source(&any());
    let mut command: Command = launch.args(["-t", "/no/where"]).command();
    let append = File::options().create(true).append(true).open(&log).unwrap();
    let mut child = command.stderr(append).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let has = |path: &std::path::Path, word: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.contains(word))
    };
    eventually("it is ready", || has(&log, "\"ready\""));
    File::create(&log).unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    eventually("it goes on", || has(&log, "\"reloaded\""));
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with('{') && !text.contains("\"ready\""), "{text}");

    fs::rename(&log, &moved).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(has(&moved, "stopped") && !log.exists());
}
