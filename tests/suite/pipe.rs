//! `pipe` never makes half an upload look whole, and its exit status tells the outcome.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::{Addr, Ending, NEVER, Pair, Program, Target, binary};

/// Far longer than an echo takes on a loaded machine.
const A_WHILE: Duration = Duration::from_secs(20);

/// Starts `pipe` with its stdin and stdout in our hands.
fn pipe(key: &Path, to: &Addr) -> (Program, ChildStdin) {
    let mut command = Command::new(binary());
    command.args(["pipe", "-t", &to.to_string(), "-k"]).arg(key);
    let mut pipe = Program::spawn("pipe", command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let stdin = pipe.child().stdin.take().unwrap();
    (pipe, stdin)
}

/// The bytes and the ending of one upload, as the target saw them.
type Seen = Receiver<(Vec<u8>, Ending)>;

/// Starts a target that reads `first` bytes, says that it has nothing more to say, and reports what
/// came after them.
fn hasty_target(first: usize) -> (Target, Seen) {
    let (sender, seen) = channel();
    let target = Target::local(move |mut wire, _| {
        wire.expect_bytes(first);
        wire.finish();
        sender.send(wire.read_to_ending(NEVER)).unwrap();
    });
    (target, seen)
}

/// The server has finished while stdin still sends: `pipe` ends well, because the far side did, and
/// the server must not take its bytes for all there were.
#[test]
fn a_server_that_finishes_first_does_not_see_a_clean_end_of_half_an_upload() {
    let (target, seen) = hasty_target(100_000);
    let pair = Pair::to(target.addr());
    let (mut pipe, mut stdin) = pipe(pair.key(), pair.decrypt.addr());
    let sending = thread::spawn(move || while stdin.write_all(&[7; 4096]).is_ok() {});
    assert_eq!(pipe.exit_code(), 0, "{}", pipe.tail());
    sending.join().unwrap();
    let (_, ending) = seen.recv_timeout(NEVER).expect("the server sees an end");
    assert_eq!(ending, Ending::Reset, "half an upload ends cleanly");
    pair.decrypt.wait_closed("peer-reset");
    pair.stop();
}

/// A stdin that is open and silent gives the same result: more might have come.
#[test]
fn an_upload_that_only_pauses_is_not_called_complete_either() {
    let (target, seen) = hasty_target(5);
    let pair = Pair::to(target.addr());
    let (mut pipe, mut stdin) = pipe(pair.key(), pair.decrypt.addr());
    stdin.write_all(b"hello").unwrap();
    assert_eq!(pipe.exit_code(), 0, "{}", pipe.tail());
    let seen = seen.recv_timeout(NEVER).expect("the server sees an end");
    assert_eq!(seen, (vec![], Ending::Reset));
    drop(stdin);
    pair.stop();
}

/// An upload that is complete is reported as such, whichever side finishes first.
#[test]
fn a_complete_upload_ends_cleanly() {
    let (sender, seen) = channel();
    let target = Target::local(move |mut wire, _| {
        let upload = wire.read_to_ending(NEVER);
        wire.write_all(b"thanks").unwrap();
        sender.send(upload).unwrap();
    });
    let pair = Pair::to(target.addr());
    let (mut pipe, mut stdin) = pipe(pair.key(), pair.decrypt.addr());
    stdin.write_all(b"all of it").unwrap();
    drop(stdin);
    let mut stdout = pipe.child().stdout.take().unwrap();
    let answer = thread::spawn(move || {
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).unwrap();
        answer
    });
    assert_eq!(pipe.exit_code(), 0, "{}", pipe.tail());
    assert_eq!(answer.join().unwrap(), b"thanks");
    assert_eq!(seen.recv_timeout(NEVER).unwrap(), (b"all of it".to_vec(), Ending::Clean));
    pair.encrypt.program.signal(Signal::SIGTERM);
    pair.decrypt.wait_closed("finished");
}

/// A server that breaks in the middle is a failure of `pipe`, and one line.
#[test]
fn a_server_that_breaks_is_a_failure() {
    let target = Target::local(|mut wire, _| {
        wire.expect_bytes(1000);
        wire.reset();
    });
    let pair = Pair::to(target.addr());
    let (mut pipe, mut stdin) = pipe(pair.key(), pair.decrypt.addr());
    stdin.write_all(&[1; 2000]).unwrap();
    assert_eq!(pipe.exit_code(), 1);
    let text = pipe.stderr();
    assert!(text.starts_with("knockpipe: ") && text.contains("peer-reset"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    drop(stdin);
}

/// So is a decrypt end that dies, however much had come through.
#[test]
fn a_far_end_that_dies_is_a_failure() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let (mut pipe, mut stdin) = pipe(pair.key(), pair.decrypt.addr());
    let _stdout = echoes(&mut pipe, &mut stdin, b"hello\n");
    pair.decrypt.program.signal(Signal::SIGKILL);
    assert_eq!(pipe.exit_code(), 1);
    let text = pipe.stderr();
    assert!(text.contains("truncated") || text.contains("peer-lost"), "{text}");
    drop(stdin);
}

/// Protocols that wait for each other's bytes do not end them with a newline, and
/// ssh is one: what came through the tunnel is written at once.
#[test]
fn bytes_without_a_newline_are_not_held_back() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let (mut pipe, mut stdin) = pipe(pair.key(), pair.decrypt.addr());
    let mut stdout = pipe.child().stdout.take().unwrap();
    for bytes in [&b"x"[..], b"\x00\x01", b"a line\nand a bit more", b"\n", b"end"] {
        stdout = echoes_on(stdout, &mut stdin, bytes);
    }
    drop((stdin, stdout));
    assert_eq!(pipe.exit_code(), 0, "{}", pipe.tail());
}

/// Sends `bytes` through `pipe` and waits until they are back.
#[track_caller]
fn echoes(pipe: &mut Program, stdin: &mut ChildStdin, bytes: &'static [u8]) -> ChildStdout {
    let stdout = pipe.child().stdout.take().unwrap();
    echoes_on(stdout, stdin, bytes)
}

#[track_caller]
fn echoes_on(mut stdout: ChildStdout, stdin: &mut ChildStdin, bytes: &'static [u8]) -> ChildStdout {
    stdin.write_all(bytes).unwrap();
    let (send, back) = channel();
    thread::spawn(move || {
        let mut all = vec![0; bytes.len()];
        let read = stdout.read_exact(&mut all);
        // The receiver is gone when it comes too late.
        let _ = send.send((read.map(|()| all), stdout));
    });
    match back.recv_timeout(A_WHILE) {
        Ok((all, stdout)) => {
            assert_eq!(all.unwrap(), bytes);
            stdout
        }
        Err(error) => panic!("{bytes:?} does not come back: {error}"),
    }
}
