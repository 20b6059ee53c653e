//! Start, stop, rotation, services, `pipe`, and the passing of ends of connections.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use testkit::address::refusing;
use testkit::data::{Noise, Sum, send_noise, sha256};
use testkit::end::key_id;
use testkit::wait::poll;
use testkit::{
    Addr, Ending, Kind, Launch, Line, NEVER, Pair, PairOptions, Program, Target, Wire, any, binary,
    eventually, keygen,
};

/// "SIGTERM drains: stop accepting, close the listeners, let sessions finish, exit 0".
#[test]
fn sigterm_lets_running_transfers_finish_and_takes_no_new_ones() {
    const PUMPS: usize = 50;
    const LEN: u64 = 2 * 1024 * 1024;
    let go = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&go);
    let target = Target::local(move |mut wire, _| {
        // It fails for clients that only tried whether they are still admitted.
        let _ = send_noise(&mut wire, Noise::new(3), LEN / 2);
        eventually("the rest may go", || theirs.load(Ordering::SeqCst));
        let _ = send_noise(&mut wire, Noise::new(4), LEN / 2);
    });
    let mut pair = Pair::to(target.addr());
    let mut clients: Vec<Wire> = (0..PUMPS).map(|_| pair.connect()).collect();
    let half = usize::try_from(LEN / 2).unwrap();
    for client in &mut clients {
        client.expect_bytes(half);
    }
    for end in [&pair.encrypt, &pair.decrypt] {
        end.terminate();
        end.wait_refusing();
    }
    assert!(pair.encrypt.program.is_running() && pair.decrypt.program.is_running());
    go.store(true, Ordering::SeqCst);
    let expected = Sum::of_noise(Noise::new(4), LEN / 2);
    for client in &mut clients {
        assert_eq!(Sum::of(client).unwrap().hex(), expected);
    }
    drop(clients);
    assert_eq!(pair.encrypt.program.exit_code(), 0);
    assert_eq!(pair.decrypt.program.exit_code(), 0);
    // A client that only tried whether it is still admitted may have finished too.
    let whole = LEN.to_string();
    for (name, end) in pair.ends() {
        let is_whole = |line: &&Line| line.has("received", &whole) || line.has("sent", &whole);
        let closed = end.closed();
        let finished = closed.iter().filter(|line| line.has("reason", "finished"));
        assert_eq!(finished.filter(is_whole).count(), PUMPS, "{name}");
    }
}

/// Opens a session that the target holds and that will never end by itself.
fn endless_session(pair: &Pair, target: &Target) -> Wire {
    let before = target.counts().accepts();
    let mut client = pair.connect();
    client.write_all(b"still here").unwrap();
    eventually("the target has it", || target.counts().accepts() > before);
    client
}

/// "... until --drain DURATION, exit 1 if some were cut": the client sees a reset.
#[test]
fn a_session_that_outlives_the_drain_is_cut_and_the_exit_code_says_so() {
    let target = Target::hold();
    let options = || PairOptions::both(&["--drain", "500ms"]);
    let mut pair = Pair::start(options(), target.addr());
    let mut client = endless_session(&pair, &target);
    pair.encrypt.terminate();
    assert_eq!(pair.encrypt.program.exit_code(), 1);
    pair.encrypt.wait_closed("shutdown");
    assert_eq!(client.expect_ending(), Ending::Reset);
    pair.decrypt.stop();

    let mut pair = Pair::start(options(), target.addr());
    let mut client = endless_session(&pair, &target);
    pair.decrypt.terminate();
    assert_eq!(pair.decrypt.program.exit_code(), 1);
    pair.decrypt.wait_closed("shutdown");
    assert_eq!(client.expect_ending(), Ending::Reset);
    pair.encrypt.stop();
}

/// "A second signal ends now."
#[test]
fn a_second_signal_ends_at_once() {
    let target = Target::hold();
    for second in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
        let mut pair = Pair::start(PairOptions::both(&["--drain", "3600s"]), target.addr());
        let mut client = endless_session(&pair, &target);
        pair.encrypt.terminate();
        pair.encrypt.wait_refusing();
        assert!(pair.encrypt.program.is_running(), "the first signal waits for the session");
        pair.encrypt.program.signal(second);
        assert_eq!(pair.encrypt.program.exit_code(), 1);
        assert_eq!(client.expect_ending(), Ending::Reset);
    }
}

/// An idle end has nothing to wait for.
#[test]
fn sigterm_and_sigint_end_an_idle_end_with_0() {
    let target = Target::echo();
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
        let mut pair = Pair::start(PairOptions::both(&["--drain", "3600s"]), target.addr());
        pair.connect().expect_echo(b"once");
        for end in [&mut pair.encrypt, &mut pair.decrypt] {
            end.program.signal(signal);
            assert_eq!(end.program.exit_code(), 0);
        }
    }
}

/// "Unix sockets and pid files are removed", and the pid file holds the pid meanwhile.
#[test]
fn unix_sockets_and_pid_files_are_removed_at_the_end() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("encrypt.pid");
    let pid_text = pid.to_str().unwrap();
    let options =
        PairOptions::default().source(Kind::Unix).middle(Kind::Unix).encrypt(&["-p", pid_text]);
    let pair = Pair::start(options, target.addr());
    pair.connect().expect_echo(b"hello");
    let written = fs::read_to_string(&pid).unwrap();
    assert_eq!(written.trim_end(), pair.encrypt.pid().to_string());
    let sockets = [pair.encrypt.addr().path().to_owned(), pair.decrypt.addr().path().to_owned()];
    assert!(sockets.iter().all(|socket| socket.exists()));
    let mut pair = pair;
    pair.encrypt.stop();
    pair.decrypt.stop();
    for left in sockets.iter().chain([&pid]) {
        assert!(!left.exists(), "{} is left behind", left.display());
    }
}

/// "A stale unix socket is replaced when no process listens on it, never when one does", and a file
/// that is not a socket stays untouched.
#[test]
fn a_stale_unix_socket_is_replaced_but_never_a_live_one() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let socket = Kind::Unix.fresh(dir.path(), "sealed.sock");
    let launch = Launch::decrypt(&key).source(&socket).target(target.addr());

    let killed = launch.start();
    killed.program.signal(nix::sys::signal::SIGKILL);
    drop(killed);
    assert!(socket.path().exists(), "a killed end leaves its socket behind");
    let live = launch.start();

    let mut second = launch.spawn();
    assert_eq!(second.exit_code(), 1);
    one_complaint(&second);
    let encrypt = Launch::encrypt(&key).source(&any()).target(live.addr()).start();
    encrypt.connect().expect_echo(b"the first is unharmed");

    let file = Kind::Unix.fresh(dir.path(), "notes.txt");
    fs::write(file.path(), "not a socket").unwrap();
    let mut refused = Launch::decrypt(&key).source(&file).target(target.addr()).spawn();
    assert_eq!(refused.exit_code(), 1);
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "not a socket");
}

/// "Port in use": exit 1, one line.
#[test]
fn a_port_in_use_is_refused_with_one_line() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let first = Launch::decrypt(&key).source(&any()).target(target.addr()).start();
    let mut second = Launch::decrypt(&key).source(first.addr()).target(target.addr()).spawn();
    assert_eq!(second.exit_code(), 1);
    let complaint = one_complaint(&second);
    assert!(complaint.contains(&first.addr().to_string()), "{complaint}");
}

/// Returns the one line `knockpipe: CAUSE; REMEDY` of a program that refused to run.
#[track_caller]
fn one_complaint(program: &Program) -> String {
    let text = program.stderr();
    let complaints: Vec<&str> =
        text.lines().filter(|line| line.starts_with("knockpipe: ")).collect();
    assert_eq!(complaints.len(), 1, "one line of complaint:\n{text}");
    assert!(complaints[0].contains("; "), "cause and remedy: {}", complaints[0]);
    complaints[0].to_owned()
}

/// "-s may be given several times", on both ends.
#[test]
fn an_end_listens_on_several_addresses() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let several = |mut launch: Launch, name: &str| {
        for kind in Kind::ALL {
            launch = launch.source(&kind.fresh(dir.path(), name));
        }
        launch.start()
    };
    let decrypt = several(Launch::decrypt(&key).target(target.addr()), "d.sock");
    assert_eq!(decrypt.addrs().len(), 3);
    for sealed in decrypt.addrs() {
        let encrypt = several(Launch::encrypt(&key).target(sealed), "e.sock");
        assert_eq!(encrypt.addrs().len(), 3);
        for plain in encrypt.addrs() {
            let mut client = Wire::connect(plain).unwrap();
            client.expect_echo(format!("{plain} to {sealed}").as_bytes());
        }
    }
}

/// "Several -k: the first dials, all are accepted". `reload.rs` shows that no client is refused
/// while they change.
#[test]
fn the_first_of_several_keys_dials_and_all_are_accepted() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (keygen(dir.path(), "old"), keygen(dir.path(), "new"));
    let ring = |mode, keys: &[&PathBuf], to: &Addr, timeout: &str| {
        let launch = keys.iter().fold(Launch::new(mode), |l, key| l.args(["-k"]).args([key]));
        launch.source(&any()).target(to).args(["-o", timeout]).start()
    };
    for dialled in [[&old, &new], [&new, &old]] {
        let decrypt = ring("decrypt", &[&old, &new], target.addr(), "60s");
        let encrypt = ring("encrypt", &dialled, decrypt.addr(), "60s");
        encrypt.connect().expect_echo(b"which key");
        let line = encrypt.wait_closed("finished");
        assert!(line.has("key", &key_id(dialled[0])), "{}", line.text());
        let other = ring("decrypt", &[dialled[1]], target.addr(), "1s");
        let encrypt = ring("encrypt", &dialled, other.addr(), "1s");
        assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
        encrypt.wait_closed("no-answer");
    }
}

/// "One encrypted port, many targets", and an unknown service is named in the log of the encrypt
/// end.
#[test]
fn services_share_one_port_and_an_unknown_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let says = |name: &'static str| {
        Target::local(move |mut wire, _| wire.write_all(name.as_bytes()).unwrap())
    };
    let (redis, mysql, default) = (says("redis"), says("mysql"), says("default"));
    let decrypt = Launch::decrypt(&key)
        .source(&any())
        .target(default.addr())
        .args(["-t", &format!("redis={}", redis.addr())])
        .args(["-t", &format!("mysql={}", mysql.addr())])
        .start();
    let dialer = |service: Option<&str>| {
        let launch = Launch::encrypt(&key).source(&any()).target(decrypt.addr());
        let named = service.iter().flat_map(|name| ["--service", name]);
        launch.args(named).start()
    };
    for (service, answer) in [(Some("redis"), "redis"), (Some("mysql"), "mysql"), (None, "default")]
    {
        let encrypt = dialer(service);
        let (bytes, ending) = encrypt.connect().read_to_ending(NEVER);
        assert_eq!((bytes.as_slice(), ending), (answer.as_bytes(), Ending::Clean));
    }
    let lost = dialer(Some("postgres"));
    assert_eq!(lost.connect().expect_ending(), Ending::Reset);
    let line = lost.wait_closed("no-such-service");
    assert!(line.text().contains("postgres"), "{}", line.text());
    decrypt.wait_closed("no-such-service");
}

/// A target that is down is named at the encrypt end, where people look first.
#[test]
fn a_target_that_refuses_is_named_at_both_ends() {
    let (no_listener, _socket) = refusing();
    let pair = Pair::to(&no_listener);
    assert_eq!(pair.connect().expect_ending(), Ending::Reset);
    pair.encrypt.wait_closed("target-refused");
    pair.decrypt.wait_closed("target-refused");
    // One failed target is not the end of the tunnel.
    assert_eq!(pair.connect().expect_ending(), Ending::Reset);
    pair.stop();
}

/// "One line per finished connection with peer, target, key id, bytes each way,
/// duration and one close reason".
#[test]
fn a_finished_session_is_one_line_with_everything_in_it() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let id = key_id(pair.key());
    let mut client = pair.connect();
    client.expect_echo(&[7; 1000]);
    client.finish();
    assert_eq!(client.expect_ending(), Ending::Clean);
    for (name, end) in pair.ends() {
        let line = end.wait_closed("finished");
        assert!(line.has("key", &id), "{name}: {}", line.text());
        assert_eq!((line.number("sent"), line.number("received")), (Some(1000), Some(1000)));
        for field in ["peer", "target", "duration_ms"] {
            assert!(line.field(field).is_some(), "{name} has no {field}: {}", line.text());
        }
        assert_eq!(end.closed().len(), 1, "{name}");
    }
    pair.stop();
}

/// "Half-close passes through both ways": the client finishes first and still
/// gets 16 MiB; the target finishes first and still gets 16 MiB.
#[test]
fn half_close_passes_both_ways() {
    const LEN: u64 = 16 * 1024 * 1024;
    let expected = Sum::of_noise(Noise::new(9), LEN);
    let asked = Target::local(|mut wire, _| {
        let (request, ending) = wire.read_to_ending(NEVER);
        assert_eq!((request.as_slice(), ending), (&b"request"[..], Ending::Clean));
        send_noise(&mut wire, Noise::new(9), LEN).unwrap();
    });
    let heard = Arc::new(Mutex::new(None));
    let theirs = Arc::clone(&heard);
    let listening = Target::local(move |mut wire, _| {
        wire.write_all(b"that is all from me").unwrap();
        wire.finish();
        *theirs.lock().unwrap() = Some(Sum::of(&mut wire).unwrap().hex());
    });
    for source in Kind::ALL {
        let pair = Pair::start(PairOptions::default().source(source), asked.addr());
        let mut client = pair.connect();
        client.write_all(b"request").unwrap();
        client.finish();
        assert_eq!(Sum::of(&mut client).unwrap().hex(), expected, "{source:?}");
        asked.wait_idle();

        let pair = Pair::start(PairOptions::default().source(source), listening.addr());
        let mut client = pair.connect();
        let (greeting, ending) = client.read_to_ending(NEVER);
        assert_eq!((greeting.as_slice(), ending), (&b"that is all from me"[..], Ending::Clean));
        send_noise(&mut client, Noise::new(9), LEN).unwrap();
        client.finish();
        let sum = poll(NEVER, || heard.lock().unwrap().take());
        assert_eq!(sum.as_ref(), Some(&expected), "{source:?}");
        pair.encrypt.wait_closed("finished");
        pair.decrypt.wait_closed("finished");
    }
}

/// "A reset arrives as a reset", from the client to the target and back, and is named.
#[test]
fn a_reset_arrives_as_a_reset() {
    let endings = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&endings);
    let target = Target::local(move |mut wire, _| match wire.expect_bytes(4).as_slice() {
        b"wait" => {
            wire.write_all(b"here").unwrap();
            let (_, ending) = wire.read_to_ending(NEVER);
            theirs.lock().unwrap().push(ending);
        }
        _ => wire.reset(),
    });
    let pair = Pair::to(target.addr());
    let mut client = pair.connect();
    client.write_all(b"wait").unwrap();
    client.expect_bytes(4);
    client.reset();
    eventually("the target sees an end", || !endings.lock().unwrap().is_empty());
    assert_eq!(*endings.lock().unwrap(), [Ending::Reset]);
    pair.encrypt.wait_closed("plain-reset");
    pair.decrypt.wait_closed("peer-reset");

    let mut client = pair.connect();
    client.write_all(b"kick").unwrap();
    assert_eq!(client.expect_ending(), Ending::Reset);
    pair.decrypt.wait_closed("plain-reset");
    pair.encrypt.wait_closed("peer-reset");
    pair.stop();
}

/// An end dies without a word: "truncation is a reset and never a clean end", for the client as for
/// the target, whichever end it was.
#[test]
fn the_death_of_either_end_is_a_reset_on_both_plain_sides() {
    let (sender, endings) = channel();
    let target = Target::local(move |mut wire, _| {
        let hello = wire.expect_bytes(5);
        wire.write_all(&hello).unwrap();
        sender.send(wire.read_to_ending(NEVER)).unwrap();
    });
    for killed in ["encrypt", "decrypt"] {
        let pair = Pair::to(target.addr());
        let mut client = pair.connect();
        client.expect_echo(b"hello");
        let (_, end) = pair.ends().into_iter().find(|(name, _)| *name == killed).unwrap();
        end.program.signal(nix::sys::signal::SIGKILL);
        assert_eq!(client.expect_ending(), Ending::Reset, "the client, {killed} killed");
        let target_saw = endings.recv_timeout(NEVER).expect("the target sees an end");
        assert_eq!(target_saw, (vec![], Ending::Reset), "the target, {killed} killed");
    }
}

/// Starts `pipe` with its stdin and stdout in our hands.
fn pipe(key: &Path, to: &Addr) -> Program {
    let mut command = Command::new(binary());
    command.args(["pipe", "-o", "1s", "-t", &to.to_string(), "-k"]).arg(key);
    Program::spawn("pipe", command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// "`knockpipe pipe`: stdin and stdout through the tunnel": 32 MiB come back whole.
#[test]
fn pipe_carries_stdin_and_stdout() {
    const LEN: u64 = 32 * 1024 * 1024;
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let mut pipe = pipe(pair.key(), pair.decrypt.addr());
    let mut stdin = pipe.child().stdin.take().unwrap();
    let sender = thread::spawn(move || send_noise(&mut stdin, Noise::new(1), LEN));
    let sum = pipe.stdout_sum();
    sender.join().unwrap().unwrap();
    assert_eq!((sum.bytes, sum.hex()), (LEN, Sum::of_noise(Noise::new(1), LEN)));
    assert_eq!(pipe.exit_code(), 0);
}

/// "It ends promptly when the far side ends", although its stdin stays open.
#[test]
fn pipe_ends_when_the_far_side_ends_although_stdin_is_open() {
    let target = Target::local(|mut wire, _| wire.write_all(b"good bye").unwrap());
    let pair = Pair::to(target.addr());
    let mut pipe = pipe(pair.key(), pair.decrypt.addr());
    let stdin = pipe.child().stdin.take().unwrap();
    assert_eq!(pipe.stdout_sum().hex(), sha256(b"good bye"));
    assert_eq!(pipe.exit_code(), 0);
    drop(stdin);
}

/// The exit codes of `pipe`: 1 for an error at run time, 2 for a bad key file, one line each.
#[test]
fn pipe_tells_by_its_exit_code_what_went_wrong() {
    let target = Target::local(|wire, _| wire.reset());
    let pair = Pair::to(target.addr());
    let wrong = keygen(pair.dir(), "wrong");
    let (no_listener, _socket) = refusing();
    let missing = pair.dir().join("missing");
    let sealed = pair.decrypt.addr();
    let cases = [
        ("a reset", pair.key(), sealed, 1),
        ("a wrong key", wrong.as_path(), sealed, 1),
        ("no listener", pair.key(), &no_listener, 1),
        ("no key file", missing.as_path(), sealed, 2),
    ];
    for (name, key, to, expected) in cases {
        let mut pipe = pipe(key, to);
        let stdin = pipe.child().stdin.take().unwrap();
        assert_eq!(pipe.exit_code(), expected, "{name}");
        drop(stdin);
        let complaint = one_complaint(&pipe);
        println!("{name}: {complaint}");
    }
}

/// "`knockpipe decrypt` tells in its first lines what it listens on, where it
/// forwards, its limits and key ids."
#[test]
fn the_first_lines_tell_what_the_end_does() {
    let target = Target::echo();
    let pair = Pair::start(PairOptions::default().decrypt(&["-n", "77"]), target.addr());
    let id = key_id(pair.key());
    let log = pair.decrypt.program.log();
    let ready: &Line = log.iter().find(|line| line.is("ready")).unwrap();
    assert!(ready.has("mode", "decrypt") && ready.has("sessions", "77"), "{}", ready.text());
    let text = ready.text();
    assert!(text.contains(&id) && text.contains(&target.addr().to_string()), "{text}");
}
