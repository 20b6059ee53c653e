//! The scenarios of spiped's own tests, and their gaps.
//!
//! The first ten follow the ten scenarios of spiped's `tests/` directory, in its order. Of the gaps
//! there, tampering, replay, descriptors, drain, limits, a change of DNS and strangers have files
//! of their own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::address::refusing;
use testkit::data::{Noise, Sum, send_noise};
use testkit::proc::Background;
use testkit::target::echo;
use testkit::wait::{bounded, poll};
use testkit::{
    Addr, Ending, Kind, Launch, NEVER, Pair, PairOptions, Program, Suite, Target, Wire, any,
    binary, keygen,
};

/// Scenario 1 (`01-connection-open-close`): open, a newline, close; all ends stop on
/// SIGTERM. Over TCP, then with nothing but unix sockets.
#[test]
fn scenario_01_open_a_newline_close() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Tcp4, Kind::Unix] {
        let target = Target::serve(&kind.fresh(dir.path(), "target.sock"), echo);
        let pair = Pair::start(PairOptions::default().source(kind).middle(kind), target.addr());
        let mut client = pair.connect();
        client.write_all(b"\n").unwrap();
        client.finish();
        assert_eq!(client.read_to_ending(NEVER), (b"\n".to_vec(), Ending::Clean));
        pair.stop();
        assert_eq!((target.counts().accepts(), target.counts().bytes()), (1, 1));
    }
}

/// Scenario 2 (`02-connection-open-timeout-close`): a connection held longer than the
/// timeout with almost no traffic is still good.
#[test]
fn scenario_02_a_quiet_connection_outlives_the_timeout() {
    let target = Target::echo();
    let pair = Pair::start(PairOptions::both(&["-o", "1s"]), target.addr());
    let mut client = pair.connect();
    client.expect_echo(b"\n");
    thread::sleep(Duration::from_secs(3));
    client.expect_echo(b"still here\n");
    client.finish();
    assert_eq!(client.expect_ending(), Ending::Clean);
    pair.stop();
}

/// Scenario 3 (`03-connection-open-close-double`): of two overlapping connections,
/// the end of one does not disturb the other.
#[test]
fn scenario_03_overlapping_connections_are_independent() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let (mut one, mut two) = (pair.connect(), pair.connect());
    one.expect_echo(b"one");
    two.expect_echo(b"two");
    one.finish();
    assert_eq!(one.expect_ending(), Ending::Clean);
    two.expect_echo(b"two goes on");
    let three = pair.connect();
    three.reset();
    two.expect_echo(b"and on");
    drop(two);
    pair.stop();
}

/// Scenario 4 (`04-send-data-spipe`): a file through the client tool arrives unchanged;
/// an unreachable target is a prompt failure.
#[test]
fn scenario_04_a_file_through_pipe() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let (file, sum) = some_file(pair.dir(), 3_000_001);
    assert_eq!(pipe_sum(pair.key(), pair.decrypt.addr(), &file), sum);
    let (no_listener, _socket) = refusing();
    let mut failing = pipe(pair.key(), &no_listener);
    let mut failing = Program::spawn("pipe", failing.stdin(Stdio::null()).stdout(Stdio::null()));
    assert_eq!(failing.exit_code(), 1);
}

/// Scenario 5 (`05-send-data-spiped`): a file through a pair arrives unchanged.
#[test]
fn scenario_05_a_file_through_a_pair() {
    for suite in Suite::BOTH {
        file_through(PairOptions::default().suite(suite));
    }
}

/// Sends noise through a pair both ways at once, in odd pieces.
fn file_through(options: PairOptions) {
    const LEN: u64 = 20_000_003;
    let target = Target::echo();
    let pair = Pair::start(options, target.addr());
    let mut client = pair.connect();
    let mut sender = client.try_clone();
    let sending = thread::spawn(move || {
        send_noise(&mut sender, Noise::new(5), LEN).unwrap();
        sender.finish();
    });
    let sum = Sum::of(&mut client).unwrap();
    sending.join().unwrap();
    assert_eq!((sum.bytes, sum.hex()), (LEN, Sum::of_noise(Noise::new(5), LEN)));
    drop(client);
    pair.stop();
}

/// Scenario 6 (`06-send-data-system-spiped`): two builds understand each other. There
/// is no older release yet; the build without C code stands in for it, both ways.
#[test]
fn scenario_06_the_pure_rust_build_and_the_default_build_understand_each_other() {
    let pure = std::env::var_os("KNOCKPIPE_PURE").map(PathBuf::from).expect(
        "KNOCKPIPE_PURE must name a knockpipe built with --no-default-features; \
         `make test` builds one and sets it",
    );
    assert!(pure.is_file(), "KNOCKPIPE_PURE names {}, which is no file", pure.display());
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm, Suite::Auto] {
        let options = PairOptions::default().suite(suite);
        file_through(PairOptions { encrypt_binary: pure.clone(), ..options });
        let options = PairOptions::default().suite(suite);
        file_through(PairOptions { decrypt_binary: pure.clone(), ..options });
    }
}

/// Scenario 7 (`07-resolve`): names, v4 and v6 in every spelling, and paths.
#[test]
fn scenario_07_addresses_in_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let four = Target::echo();
    let six = Target::serve(&Kind::Tcp6.fresh(dir.path(), ""), echo);
    let unix = Target::serve(&Kind::Unix.fresh(dir.path(), "target.sock"), echo);
    let (port4, port6) = (four.addr().tcp().port(), six.addr().tcp().port());
    let spellings = [
        format!("localhost:{port4}"),
        format!("127.0.0.1:{port4}"),
        format!("[127.0.0.1]:{port4}"),
        format!("[::1]:{port6}"),
        format!("[0:0:0:0:0:0:0:1]:{port6}"),
        format!("[::ffff:127.0.0.1]:{port4}"),
        unix.addr().to_string(),
    ];
    for spelling in spellings {
        let decrypt = Launch::decrypt(&key).source(&any()).args(["-t", &spelling]).start();
        let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr()).start();
        let mut client = encrypt.connect();
        assert!(client.echoes(b"hello", NEVER), "{spelling}:\n{}", decrypt.program.tail());
    }
}

/// Scenario 8 (`08-throttled-echo`): the client finishes sending, and a slow answer
/// still comes back whole.
#[test]
fn scenario_08_a_throttled_echo_comes_back_whole_after_half_close() {
    let target = Target::local(|mut wire, counts| {
        let mut buffer = vec![0; 100];
        while let Ok(n @ 1..) = wire.read(&mut buffer) {
            counts.add_bytes(n);
            thread::sleep(Duration::from_millis(50));
            if wire.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    let pair = Pair::start(PairOptions::both(&["-o", "500ms"]), target.addr());
    let sent = Noise::new(8).bytes(4000);
    let mut client = pair.connect();
    client.write_all(&sent).unwrap();
    client.finish();
    let (back, ending) = client.read_to_ending(NEVER);
    assert!(back == sent, "{} of {} bytes came back", back.len(), sent.len());
    assert_eq!(ending, Ending::Clean);
    pair.stop();
}

/// Scenario 9 (`09-pushbits`): stdin to stdout over one hop, over two hops (a tunnel
/// in a tunnel), and cancelled right after the start.
#[test]
fn scenario_09_copies_over_one_hop_two_hops_and_none() {
    let target = Target::echo();
    let inner = Pair::to(target.addr());
    let outer = Pair::to(inner.decrypt.addr());
    let (file, sum) = some_file(inner.dir(), 1_234_567);
    assert_eq!(pipe_sum(inner.key(), inner.decrypt.addr(), &file), sum, "one hop");
    assert_eq!(pipe_sum(inner.key(), outer.entrance(), &file), sum, "two hops");

    let mut cancelled = pipe(inner.key(), inner.decrypt.addr())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cancelled.kill().unwrap();
    cancelled.wait().unwrap();
    target.wait_idle();
    inner.connect().expect_echo(b"unharmed");
}

/// Scenario 10 (`10-pthread-create-blocking`): its helper exists so that "started" means started.
/// For us: a client that comes after `ready` can connect at once, every time.
#[test]
fn scenario_10_ready_means_ready() {
    let target = Target::echo();
    for round in 0..20 {
        let kind = Kind::ALL[round % 3];
        let pair = Pair::start(PairOptions::default().source(kind).middle(kind), target.addr());
        pair.connect().expect_echo(b"at once");
    }
}

/// Gap: a wrong key. Reset on the plain side, a reason in the log, no target.
#[test]
fn gap_a_wrong_key_is_a_reset_with_a_reason() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let wrong = keygen(pair.dir(), "wrong");
    let encrypt = Launch::encrypt(&wrong).source(&any()).target(pair.decrypt.addr());
    let mut encrypt = encrypt.args(["-o", "500ms"]).start();
    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
    encrypt.wait_closed("no-answer");
    assert_eq!(target.counts().accepts(), 0);
    encrypt.stop();
    pair.stop();
}

/// Gap: a handshake timeout. The other end accepts and says nothing.
#[test]
fn gap_an_end_that_says_nothing_is_given_up_after_the_timeout() {
    let silent = Target::hold();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let encrypt = Launch::encrypt(&key).source(&any()).target(silent.addr());
    let encrypt = encrypt.args(["-o", "300ms"]).start();
    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
    encrypt.wait_closed("no-answer");
}

/// Gap: the far end is down, and comes back.
#[test]
fn gap_a_far_end_that_is_down_is_named_and_works_when_it_is_back() {
    let target = Target::echo();
    let mut pair = Pair::to(target.addr());
    let sealed = pair.decrypt.addr().clone();
    pair.decrypt.stop();
    assert_eq!(pair.connect().expect_ending(), Ending::Reset);
    pair.encrypt.wait_closed("peer-unreachable");
    let back = Launch::decrypt(pair.key()).source(&sealed).target(target.addr()).start();
    pair.connect().expect_echo(b"back again");
    drop(back);
}

/// Gap: a large transfer both ways at once, sums equal.
#[test]
fn gap_256_mib_both_ways_at_once() {
    const LEN: u64 = 256 * 1024 * 1024;
    let target = Target::local(|mut wire, _| {
        let mut sender = wire.try_clone();
        let sending = thread::spawn(move || {
            send_noise(&mut sender, Noise::new(21), LEN).unwrap();
            sender.finish();
        });
        let sum = Sum::of(&mut wire).unwrap();
        sending.join().unwrap();
        assert_eq!(sum.hex(), Sum::of_noise(Noise::new(22), LEN));
    });
    for suite in Suite::BOTH {
        let pair = Pair::start(PairOptions::default().suite(suite), target.addr());
        let mut client = pair.connect();
        let mut sender = client.try_clone();
        let sending = thread::spawn(move || {
            send_noise(&mut sender, Noise::new(22), LEN).unwrap();
            sender.finish();
        });
        assert_eq!(Sum::of(&mut client).unwrap().hex(), Sum::of_noise(Noise::new(21), LEN));
        sending.join().unwrap();
        drop(client);
        // The target has checked its sum, too.
        target.wait_idle();
        pair.encrypt.wait_closed("finished");
        pair.decrypt.wait_closed("finished");
        pair.stop();
    }
}

/// Gap: small writes, 100,000 of 1 to 17 bytes, are neither lost nor reordered.
#[test]
fn gap_a_hundred_thousand_small_writes() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let mut client = pair.connect();
    let sent = Noise::new(17).bytes(900_000);
    let mut sender = client.try_clone();
    let theirs = sent.clone();
    let sending = thread::spawn(move || {
        let mut sizes = (1..=17).cycle();
        let mut rest = theirs.as_slice();
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            sender.write_all(piece).unwrap();
            rest = left;
        }
        sender.finish();
    });
    let (back, ending) = client.read_to_ending(NEVER);
    sending.join().unwrap();
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    assert_eq!(ending, Ending::Clean);
}

/// Gap: a name that does not resolve is refused at start, with the cause; with `-D`
/// the end starts all the same.
#[test]
fn gap_a_name_that_does_not_resolve() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "no-such-host.invalid:6379"]);
    let mut refused = launch.spawn();
    assert_eq!(refused.exit_code(), 1);
    let text = refused.stderr();
    assert!(text.contains("no-such-host.invalid"), "{text}");
    let waiting = launch.args(["-D"]).start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(waiting.addr()).start();
    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
    encrypt.wait_closed("target-unresolved");
}

/// spiped's own command line with the name changed, in the foreground.
#[test]
fn spelling_a_spiped_command_line_works() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let bracketed = format!("[127.0.0.1]:{}", target.addr().tcp().port());
    let key_flag = format!("-k{}", key.display());
    let decrypt = spiped_style(&["-dFg", "-s", &path("d"), "-t", &bracketed, &key_flag]);
    let sealed = Addr::parse(&path("d")).unwrap();
    poll(NEVER, || Wire::connect(&sealed).ok()).expect("it listens");
    let encrypt =
        spiped_style(&["-F", "-e", "-s", &path("e"), "-t", &path("d"), &key_flag, "-o", "0", "-j"]);
    let entrance = Addr::parse(&path("e")).unwrap();
    let mut client = poll(NEVER, || Wire::connect(&entrance).ok()).expect("it listens");
    client.expect_echo(b"as with spiped");
    drop(client);
    for mut end in [encrypt, decrypt] {
        end.signal(Signal::SIGTERM);
        assert_eq!(end.exit_code(), 0);
    }
}

fn spiped_style(args: &[&str]) -> Program {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    Program::spawn("spiped", &mut command)
}

/// Without `-F`, and called through a link named `spiped`: the parent returns when
/// the daemon is ready, and the pid file is `<source>.pid`.
#[test]
fn spelling_a_daemon_through_a_link_named_spiped() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let spiped = dir.path().join("spiped");
    symlink(binary(), &spiped).unwrap();
    let socket = dir.path().join("sealed");
    let mut parent = Command::new(&spiped)
        .args(["-d", "-s"])
        .arg(&socket)
        .args(["-t", &target.addr().to_string(), "-k"])
        .arg(&key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let left = poll(NEVER, || parent.try_wait().unwrap());
    if left.is_none() {
        parent.kill().unwrap();
    }
    let daemon = Background::of(&dir.path().join("sealed.pid"));
    assert_eq!(left.expect("the parent stays").code(), Some(0));
    assert_eq!(pipe_through_spipe(dir.path(), &key, &socket), "through both links");
    daemon.stop();
    assert!(!socket.exists() && !dir.path().join("sealed.pid").exists());
}

/// Sends one line through a link named `spipe`, with spipe's flags.
fn pipe_through_spipe(dir: &Path, key: &Path, to: &Path) -> String {
    let spipe = dir.join("spipe");
    symlink(binary(), &spipe).unwrap();
    let mut command = Command::new(spipe);
    command.arg("-t").arg(to).arg("-k").arg(key).args(["-g", "-o", "5"]);
    let mut spipe = Program::spawn("spipe", command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = spipe.child().stdin.take().unwrap();
    stdin.write_all(b"through both links\n").unwrap();
    let mut stdout = BufReader::new(spipe.child().stdout.take().unwrap());
    let line = bounded("the line comes back", move || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    });
    drop(stdin);
    assert_eq!(spipe.exit_code(), 0);
    line.trim_end().to_owned()
}

/// spiped's refusals are ours: exit 2, one line with the cause; and `-f`, which spiped takes, with
/// a sentence: there is no weak mode. `-v` is the version.
#[test]
fn spelling_mistakes_are_refused_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key").display().to_string();
    let socket = dir.path().join("s").display().to_string();
    let rest = ["-F", "-s", &socket, "-t", "127.0.0.1:1", "-k", &key];
    let cases: [(&[&str], &str); 6] = [
        (&["-e", "-f"], "weak"),
        (&["-e", "-d"], "-d"),
        (&["-g"], "-e"),
        (&["-e", "-F"], "-F"),
        (&["-e", "-R", "-r", "10"], "-r"),
        (&["-e", "-n", "many"], "many"),
    ];
    for (more, hint) in cases {
        let mut refused = spiped_style(&[more, &rest].concat());
        let (code, text) = (refused.exit_code(), refused.stderr());
        assert_eq!(code, 2, "{more:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{more:?}: {text}");
        assert!(text.starts_with("knockpipe: ") && text.contains(hint), "{more:?}: {text}");
        assert!(!Path::new(&socket).exists(), "{more:?} left a socket behind");
    }
    let mut version = spiped_style(&["-v"]);
    assert_eq!(version.exit_code(), 0);
    assert!(version.stderr().contains(env!("CARGO_PKG_VERSION")));
}

fn pipe(key: &Path, to: &Addr) -> Command {
    let mut command = Command::new(binary());
    command.args(["pipe", "-t", &to.to_string(), "-k"]).arg(key);
    command
}

/// Pipes `file` to an echo at `to`; returns the digest of the bytes that come back.
#[track_caller]
fn pipe_sum(key: &Path, to: &Addr, file: &Path) -> String {
    let mut command = pipe(key, to);
    command.stdin(File::open(file).unwrap()).stdout(Stdio::piped());
    let mut pipe = Program::spawn("pipe", &mut command);
    let sum = pipe.stdout_sum();
    assert_eq!(pipe.exit_code(), 0, "{}", pipe.tail());
    sum.hex()
}

/// Makes a file of noise; returns it and its digest.
fn some_file(dir: &Path, len: u64) -> (PathBuf, String) {
    let path = dir.join(format!("file of {len}"));
    send_noise(&mut File::create(&path).unwrap(), Noise::new(len), len).unwrap();
    (path, Sum::of_noise(Noise::new(len), len))
}
