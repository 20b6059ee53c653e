//! The process around a tunnel: ready when it says so, in the background when asked, with the
//! rights it was given, gone without a trace.
//!
//! Sources are unix sockets in a temporary directory, so no port is taken.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use testkit::NEVER;
use testkit::proc::{self, Background};

const PROGRAM: &str = env!("CARGO_BIN_EXE_knockpipe");

/// A directory with a key, and the paths of the files that a tunnel makes in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        fs::write(place.path("key"), [7; 32]).unwrap();
        fs::set_permissions(place.path("key"), Permissions::from_mode(0o600)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns the command of `line` with `@` for this directory; standard error goes to the file
    /// `log`.
    fn command(&self, line: &str) -> Command {
        let words = line.split(' ').map(|word| word.replace('@', self.0.path().to_str().unwrap()));
        let mut command = Command::new(PROGRAM);
        command.args(words).current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(self.path("log")).unwrap());
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Returns the pid in a pid file.
    fn pid(&self, name: &str) -> u32 {
        proc::pid_in(&self.path(name))
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Finds a background process that started although it should not have: it must not outlive the
    /// test either.
    fn background(&self) -> Option<Background> {
        let names = self.files();
        let pid_file = names.iter().find(|name| name.ends_with(".pid"))?;
        Some(Background::of(&self.path(pid_file)))
    }

    /// Runs `line`, which must fail with `status` and one complaint, and leave nothing.
    fn fails(&self, line: &str, status: i32, parts: &[&str]) {
        let before = self.files();
        let mut child = Running(self.command(line).spawn().unwrap());
        let ended = child.ended();
        let _went_on = self.background();
        assert_eq!(ended.code(), Some(status), "{line}: {}", self.log());
        let log = self.log();
        let complaints: Vec<_> = log.lines().filter(|l| l.starts_with("knockpipe: ")).collect();
        assert_eq!(complaints.len(), 1, "{line}: {log}");
        assert!(complaints[0].contains(';'), "no remedy: {log}");
        for part in parts {
            assert!(complaints[0].contains(part), "no '{part}' in {log}");
        }
        let mut after = self.files();
        after.retain(|name| name != "log" || before.contains(name));
        assert_eq!(after, before, "left behind by {line}");
    }
}

/// A foreground process that does not outlive its test.
struct Running(Child);

impl Running {
    fn ended(&mut self) -> ExitStatus {
        let child = &mut self.0;
        until("the process ends", || child.try_wait().unwrap())
    }

    fn stop(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is the aim.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + NEVER;
    loop {
        if let Some(result) = check() {
            return result;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ready(place: &Place) {
    until("the log says ready", || place.log().contains("ready").then_some(()));
}

#[test]
fn the_command_returns_when_the_background_is_ready() {
    let place = Place::new();
    for (end, source) in [("-d", "one"), ("-e", "two")] {
        let line = format!("{end} -s @/{source} -t @/target -k key");
        let mut parent = Running(place.command(&line).spawn().unwrap());
        assert!(parent.ended().success(), "{}", place.log());
        // No waiting from here on: returned means ready.
        let pid_file = format!("{source}.pid");
        let child = Background::of(&place.path(&pid_file));
        assert!(child.lives());
        UnixStream::connect(place.path(source)).unwrap();
        let session = proc::stat(child.pid()).unwrap().session;
        assert_eq!(session, child.pid(), "it leads a session of its own");
        for fd in [0, 1] {
            let file = fs::read_link(format!("/proc/{}/fd/{fd}", child.pid())).unwrap();
            assert_eq!(file, Path::new("/dev/null"));
        }
        child.stop();
    }
    assert_eq!(place.files(), ["key", "log"]);
}

#[test]
fn a_background_process_can_be_started_from_another_ones_environment() {
    let place = Place::new();
    let mut command = place.command("-d -s @/source -t @/target -k key -p @/my.pid");
    command.env("KNOCKPIPE_BACKGROUND_PARENT", "1");
    assert!(Running(command.spawn().unwrap()).ended().success(), "{}", place.log());
    let child = Background::of(&place.path("my.pid"));
    assert!(child.lives());
    child.stop();
    assert_eq!(place.files(), ["key", "log"]);
}

#[test]
fn errors_of_the_background_appear_in_the_foreground() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let source = format!("[127.0.0.1]:{port}");
    place.fails(&format!("-d -s {source} -t @/target -k key"), 1, &[&port.to_string()]);
    place.fails("-d -s @/source -t @/target -k none", 2, &["no key file none"]);
    place.fails("-d -s @/source -t @/target -k key -p @/no/my.pid", 1, &["pid file"]);
    place.fails("-e -s @/source -t no-such-host.invalid:1 -k key", 1, &["no-such-host.invalid"]);
}

#[test]
fn errors_of_the_foreground_leave_nothing() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let taken_source = format!("[127.0.0.1]:{port}");
    for end in ["encrypt", "decrypt"] {
        let line = format!("{end} -s @/first -s {taken_source} -t @/target -k key -p @/my.pid");
        place.fails(&line, 1, &[&port.to_string()]);
        let line = format!("{end} -s @/source -t no-such-host.invalid:1 -k key -p @/my.pid");
        place.fails(&line, 1, &["no-such-host.invalid"]);
        let line = format!("{end} -s @/source -t @/target -k key -p @/no/my.pid");
        place.fails(&line, 1, &["pid file"]);
        let line = format!("{end} -s @/no/source -t @/target -k key");
        place.fails(&line, 1, &["no/source"]);
    }
}

#[test]
fn waiting_for_dns_does_not_hold_the_start_up() {
    let place = Place::new();
    let line = "-e -D -s @/source -t no-such-host.invalid:1 -k key";
    let mut parent = Running(place.command(line).spawn().unwrap());
    assert!(parent.ended().success(), "{}", place.log());
    let child = Background::of(&place.path("source.pid"));
    assert!(child.lives());
    child.stop();
}

#[test]
fn a_key_on_standard_input_reaches_the_background() {
    let place = Place::new();
    let mut command = place.command("-d -s @/source -t @/target -k -");
    let mut parent = Running(command.stdin(Stdio::piped()).spawn().unwrap());
    parent.0.stdin.take().unwrap().write_all(&[9; 32]).unwrap();
    assert!(parent.ended().success(), "{}", place.log());
    Background::of(&place.path("source.pid")).stop();
}

#[test]
fn the_foreground_stays_and_writes_a_pid_file_when_asked() {
    let place = Place::new();
    for end in ["encrypt", "decrypt"] {
        let line = format!("{end} -s @/source -t @/target -k key -p @/my.pid");
        let mut child = Running(place.command(&line).spawn().unwrap());
        ready(&place);
        assert_eq!(place.pid("my.pid"), child.0.id());
        assert_eq!(child.stop().code(), Some(0), "{}", place.log());
        assert_eq!(place.files(), ["key", "log"]);
    }
}

#[test]
fn spipeds_foreground_writes_a_pid_file_only_when_asked() {
    let place = Place::new();
    let line = "-d -F -s @/source -t @/target -k key";
    let mut child = Running(place.command(line).spawn().unwrap());
    ready(&place);
    assert_eq!(place.files(), ["key", "log", "source"]);
    assert_eq!(child.stop().code(), Some(0), "{}", place.log());
}

/// Settings that are valid and suspicious are reported once, at the start.
#[test]
fn traps_of_the_gate_are_told_at_the_start() {
    let place = Place::new();
    let line = "decrypt -s @/s -t @/t -k @/key --gate unix://@/t --allow 0.0.0.0/0 --deny ::/0 --deny 10.0.0.0/16 --max-unopened 1000000 --proxy-to-target v2";
    let mut child = Running(place.command(line).spawn().unwrap());
    ready(&place);
    let log = place.log();
    for part in [
        "WARN a rule is wider than /16 (IPv6: /64); check that this is intended flag=--allow net=0.0.0.0/0",
        "flag=--deny net=::/0",
        "WARN gate store is also the target",
        "WARN clients without an announced address are localhost to the target",
        "detail=\"raise ulimit -n (LimitNOFILE= of a unit), or lower --max-unopened\"",
    ] {
        assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
    }
    assert!(!log.contains("10.0.0.0/16"), "{log}");
    assert!(child.stop().success());
}

#[test]
fn sigint_stops_as_sigterm_does() {
    let place = Place::new();
    let mut child =
        Running(place.command("decrypt -s @/source -t @/target -k key").spawn().unwrap());
    ready(&place);
    kill(Pid::from_raw(child.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.ended().code(), Some(0), "{}", place.log());
}

#[test]
fn an_unread_log_does_not_stop_the_tunnel() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = place.command("decrypt -s @/source -t @/target -k key -p @/my.pid");
    let mut child = Running(command.stderr(writer).spawn().unwrap());
    // No log tells that it is ready, so the system is asked whether it catches SIGTERM.
    until("it catches SIGTERM", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
        let caught = u64::from_str_radix(caught, 16).unwrap();
        (caught >> (Signal::SIGTERM as i32 - 1) & 1 == 1).then_some(())
    });
    until("it writes its pid", || {
        let written = fs::metadata(place.path("my.pid")).is_ok_and(|file| file.len() > 0);
        written.then_some(())
    });
    assert_eq!(place.pid("my.pid"), child.0.id());
    assert_eq!(child.stop().code(), Some(0));
}

/// An encrypt end with a pipe as its log, between a client's socket and an echo.
struct Stuck {
    place: Place,
    child: Running,
    log: std::io::PipeReader,
    _decrypt: Running,
}

impl Stuck {
    /// More lines than the pipe and everything behind it hold.
    const FLOOD: usize = 20_000;

    fn start() -> Self {
        let place = Place::new();
        echo(UnixListener::bind(place.path("target")).unwrap());
        let line = "decrypt -s @/sealed -t @/target -k key";
        let decrypt = Running(place.command(line).spawn().unwrap());
        ready(&place);
        let (log, writer) = std::io::pipe().unwrap();
        let line = "encrypt -s @/source -t @/sealed -k key --log-format json --log-level debug";
        let child = Running(place.command(line).stderr(writer).spawn().unwrap());
        until("it listens", || UnixStream::connect(place.path("source")).ok());
        Self { place, child, log, _decrypt: decrypt }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(self.place.path("source")).unwrap();
        client.set_read_timeout(Some(NEVER)).unwrap();
        client
    }

    /// Causes one line for each of `FLOOD` sessions, which are short because their target is out of
    /// reach, and runs `meanwhile` at each thousand.
    fn flood(&self, mut meanwhile: impl FnMut()) {
        fs::rename(self.place.path("sealed"), self.place.path("away")).unwrap();
        for i in 0..Self::FLOOD {
            // An end or a reset: it is over, and only that matters.
            let _ = self.connect().read(&mut [0]);
            if i % 1000 == 0 {
                meanwhile();
            }
        }
        fs::rename(self.place.path("away"), self.place.path("sealed")).unwrap();
    }

    /// Returns the counts of the lines about lost lines.
    fn lost(events: &[serde_json::Value]) -> impl Iterator<Item = u64> {
        let told = events.iter().filter(|event| event["message"] == "log lines lost");
        told.map(|event| {
            assert_eq!(event["level"], "WARN");
            event["count"].as_u64().unwrap()
        })
    }

    fn events(text: &str) -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// Echoes every connection, until the test's process ends.
fn echo(listener: UnixListener) {
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            std::thread::spawn(move || std::io::copy(&mut &client, &mut &client));
        }
    });
}

fn moves(mut session: &UnixStream) {
    session.write_all(b"ping").unwrap();
    let mut reply = [0; 4];
    session.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"ping");
}

#[test]
fn a_log_that_is_open_but_never_read_does_not_stop_the_tunnel() {
    let mut stuck = Stuck::start();
    let live = stuck.connect();
    moves(&live);
    stuck.flood(|| moves(&live));
    moves(&stuck.connect());
    drop(live);
    let start = Instant::now();
    assert_eq!(stuck.child.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "ended after {:?}", start.elapsed());
    let mut text = String::new();
    stuck.log.read_to_string(&mut text).unwrap();
    // Whole lines, from the first on, as many as a pipe holds.
    let events = Stuck::events(&text);
    assert_eq!(events[0]["message"], "sandbox");
    assert!((50..Stuck::FLOOD).contains(&events.len()), "{} lines", events.len());
}

#[test]
fn a_log_that_is_read_again_tells_how_many_lines_are_lost() {
    let mut stuck = Stuck::start();
    stuck.flood(|| ());
    let (log, read) = (stuck.log.try_clone().unwrap(), Arc::new(Mutex::new(vec![])));
    let theirs = Arc::clone(&read);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(log).lines() {
            theirs.lock().unwrap().extend(Stuck::events(&line.unwrap()));
        }
    });
    // The first connection of all was the one that tested whether it listens.
    until("every session's line was read or counted", || {
        let read = read.lock().unwrap();
        let is_end = |event: &&serde_json::Value| {
            ["closed", "not opened"].iter().any(|end| event["message"] == *end)
        };
        let closed = read.iter().filter(is_end).count();
        let lost: u64 = Stuck::lost(&read).sum();
        // Summaries of failures may be among the lost ones too.
        let sessions = Stuck::FLOOD as u64 + 1;
        (sessions..sessions + 5).contains(&(closed as u64 + lost)).then_some(())
    });
    assert_eq!(stuck.child.stop().code(), Some(0));
    reader.join().unwrap();
    let read = read.lock().unwrap();
    assert!(Stuck::lost(&read).count() > 0, "nothing was lost");
    assert_eq!(read.last().unwrap()["message"], "stopped: all sessions finished");
}

#[test]
fn json_log_lines_are_json_and_say_where_it_listens() {
    let place = Place::new();
    let line = "decrypt -s [127.0.0.1]:0 -t redis=@/target -k key --log-format json";
    let mut child = Running(place.command(line).spawn().unwrap());
    ready(&place);
    assert_eq!(child.stop().code(), Some(0));
    let log = place.log();
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let listening = events.iter().find(|event| event["message"] == "listening").expect(&log);
    let address = listening["address"].as_str().expect(&log);
    assert!(!address.ends_with(":0"), "the real port is told: {log}");
    let ready = events.iter().find(|event| event["message"] == "ready").expect(&log);
    assert_eq!(ready["mode"], "decrypt", "{log}");
}
