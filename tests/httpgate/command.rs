//! `--run`: a command whose life is that of the gate, whatever ends either.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use testkit::proc::stat;
use testkit::{End, Launch, NEVER, Program, eventually, wait::poll};

use crate::world::{Server, connect, get, launch};

/// Starts a gate with a command in `dir`, without waiting for either.
fn run(dir: &Path, server: &Server, command: &str) -> Program {
    let args = ["--allow", "127.0.0.0/8", "--drain", "5s", "--run", command];
    let mut line = launch(&server.url(), &args).command();
    Program::spawn("http", line.current_dir(dir).stdout(Stdio::piped()))
}

/// Waits for a file with a pid, as a command writes it.
#[track_caller]
fn pid(dir: &Path, name: &str) -> u32 {
    let file = dir.join(name);
    let read = || fs::read_to_string(&file).ok()?.strip_suffix('\n')?.parse().ok();
    poll(NEVER, read).unwrap_or_else(|| panic!("{name} is not written"))
}

#[track_caller]
fn expect_gone(pid: u32) {
    eventually(&format!("process {pid} is gone"), || {
        stat(pid).is_none_or(|stat| stat.state == "Z")
    });
}

/// A command with a child in its group, and one that left it.
const FAMILY: &str = "echo $$ > own; sleep 1000 & echo $! > child; \
    setsid sh -c 'echo $$ > loner; exec sleep 1000' & \
    while [ ! -s loner ]; do sleep 0.01; done; echo ready";

fn ready(program: &mut Program) {
    use std::io::{BufRead, BufReader};
    let stdout = program.child().stdout.as_mut().expect("stdout is piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "its output is passed through");
}

#[track_caller]
fn expect_family_gone(dir: &Path) {
    for name in ["own", "child", "loner"] {
        expect_gone(pid(dir, name));
    }
}

#[test]
fn the_exit_status_is_the_commands() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    for (command, status) in
        [("exit 7", 7), ("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("/nowhere", 127)]
    {
        let mut program = run(dir.path(), &server, command);
        assert_eq!(program.exit_code(), status, "{command}");
    }
}

#[test]
fn the_command_runs_once_the_gate_serves_and_its_output_is_passed_through() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let command = "echo to-stdout; echo to-stderr >&2; cat; exec sleep 1000";
    let mut program = run(dir.path(), &server, command);
    program.wait_line("ready", |line| line.is("ready"));
    eventually("its errors are passed through", || program.stderr().contains("to-stderr\n"));
    program.signal(Signal::SIGTERM);
    // Its standard input is empty, so cat ended.
    assert_eq!(program.exit_code(), 143);
    let mut stdout = String::new();
    let mut pipe = program.child().stdout.take().unwrap();
    std::io::Read::read_to_string(&mut pipe, &mut stdout).unwrap();
    assert_eq!(stdout, "to-stdout\n");
}

#[test]
fn signals_are_passed_on_and_the_answer_of_the_command_counts() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let command = "trap 'echo usr1' USR1; trap 'exit 3' TERM; trap 'exit 4' INT; echo ready; \
                   while :; do sleep 0.05; done";
    for (signal, status) in [(Signal::SIGTERM, 3), (Signal::SIGINT, 4)] {
        let mut program = run(dir.path(), &server, command);
        ready(&mut program);
        program.signal(Signal::SIGUSR1);
        let mut line = [0; 5];
        let stdout = program.child().stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut line).unwrap();
        assert_eq!(&line, b"usr1\n");
        // A shell cannot trap a signal that is ignored where it starts, as SIGINT is where a shell
        // runs these tests in the background.
        let (signal, status) =
            if is_ignored(signal) { (Signal::SIGTERM, 3) } else { (signal, status) };
        program.signal(signal);
        assert_eq!(program.exit_code(), status);
    }
}

/// Returns true if this process, and so its children, began with the signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() >> (signal as u32 - 1) & 1 == 1
}

#[test]
fn requests_under_way_finish_while_the_command_does() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let program =
        run(dir.path(), &server, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
    let mut gate = End::of(program);
    ready(&mut gate.program);
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    gate.program.signal(Signal::SIGTERM);
    assert_eq!(gate.program.exit_code(), 0);
}

#[test]
fn nothing_of_the_command_outlives_the_gate() {
    let server = Server::hello();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let dir = tempfile::tempdir().unwrap();
        let command = format!("{FAMILY}; wait");
        let mut program = run(dir.path(), &server, &command);
        ready(&mut program);
        program.signal(signal);
        program.wait();
        expect_family_gone(dir.path());
    }
}

#[test]
fn nothing_of_the_command_outlives_its_own_end() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let mut program = run(dir.path(), &server, &format!("{FAMILY}; exit 9"));
    assert_eq!(program.exit_code(), 9);
    expect_family_gone(dir.path());
}

#[test]
fn a_command_that_ignores_the_signal_is_killed_after_the_drain() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "--allow",
        "127.0.0.0/8",
        "--drain",
        "1s",
        "--run",
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    ];
    let mut line = launch(&server.url(), &args).command();
    let mut program = Program::spawn("http", line.current_dir(dir.path()).stdout(Stdio::piped()));
    ready(&mut program);
    program.signal(Signal::SIGTERM);
    assert_eq!(program.exit_code(), 137);
}

#[test]
fn the_command_does_not_get_the_password_of_the_store() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let mut line = launch(
        &server.url(),
        &["--allow", "127.0.0.0/8", "--run", "env > vars; echo kept=$OTHER; exit 0"],
    )
    .command();
    line.env("KNOCKPIPE_GATE_CREDENTIALS", "geheim").env("OTHER", "yes").env("NOTIFY_SOCKET", "/x");
    let mut program = Program::spawn("http", line.current_dir(dir.path()).stdout(Stdio::piped()));
    assert_eq!(program.exit_code(), 0);
    let vars = fs::read_to_string(dir.path().join("vars")).unwrap();
    assert!(vars.contains("OTHER=yes") && !vars.contains("geheim") && !vars.contains("NOTIFY"));
}

#[test]
fn a_gate_that_cannot_start_starts_no_command() {
    let server = Server::hello();
    let dir = tempfile::tempdir().unwrap();
    let taken = server.target.addr().to_string();
    let mut program = Launch::new("http")
        .args(["-s", &taken, "-t", &server.url(), "--allow", "127.0.0.0/8", "--run"])
        .args([format!("touch {}", dir.path().join("ran").display())])
        .spawn();
    assert_eq!(program.exit_code(), 1);
    assert!(!dir.path().join("ran").exists());
}
