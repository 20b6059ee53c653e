//! Close reasons by name: each is provoked for real and looked up in the log, at both ends where
//! both log one.
//!
//! Not here: `finished`, `no-such-service` and `target-refused` are in `lifecycle.rs`,
//! `source-limit` in `limits.rs`, `unopened` in `pool.rs`. `local-error` takes a machine that lacks
//! something.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use knockpipe::proto::SuiteSet;
use knockpipe::proto::handshake::MESSAGE_LEN;
use knockpipe::proto::inbound::Event;
use knockpipe::proto::message::ResetReason;
use tempfile::TempDir;
use testkit::address::deaf;
use testkit::admin::Admin;
use testkit::data::Noise;
use testkit::hand::{Acceptor, Call, Hand};
use testkit::middleman::{Act, Cut, Edit, Middleman, Toward};
use testkit::wait::poll;
use testkit::{
    Addr, End, Ending, Launch, NEVER, Pair, PairOptions, Target, Wire, any, binary, eventually,
    keygen,
};

/// A decrypt end in front of an echo, and the key for peers driven by hand.
struct Door {
    decrypt: End,
    key: std::path::PathBuf,
    target: Target,
    _dir: TempDir,
}

impl Door {
    fn new(args: &[&str]) -> Self {
        let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
        let key = keygen(dir.path(), "key");
        let launch = Launch::decrypt(&key).source(&any()).target(target.addr()).args(args);
        Self { decrypt: launch.start(), key, target, _dir: dir }
    }

    fn dial(&self) -> Hand {
        Hand::dial(self.decrypt.addr(), &self.key)
    }

    /// Sends `message` and waits for the end; returns the bytes that came back.
    fn visit(&self, message: &[u8]) -> Vec<u8> {
        let mut wire = self.decrypt.connect();
        wire.write_all(message).unwrap();
        let (answer, ending) = wire.read_to_ending(NEVER);
        assert_ne!(ending, Ending::Silent, "a stranger is never thrown out");
        answer
    }

    /// Stops, and checks that exactly this was refused and the target untouched.
    fn refused_exactly(mut self, reasons: &[(&str, u64)]) {
        self.decrypt.stop();
        for (reason, count) in reasons {
            assert_eq!(self.decrypt.refused(reason), *count, "{}", self.decrypt.program.tail());
        }
        let all: u64 = reasons.iter().map(|(_, count)| count).sum();
        assert_eq!(self.decrypt.strangers(), all, "{}", self.decrypt.program.tail());
        assert_eq!(self.target.counts().accepts(), 0, "it reached the target");
    }
}

// === before the dialer is proven: the decrypt end alone knows ===

/// `evicted`: an unproven connection makes place for a new one, also for an honest one. Among
/// those that come at the same moment, only the end knows which is the oldest.
#[test]
fn evicted() {
    let door = Door::new(&["-o", "600s", "--max-handshakes", "2"]);
    let mut strangers: Vec<Wire> = (0..3).map(|_| door.decrypt.connect()).collect();
    door.decrypt.wait_refused("evicted");
    one_ends(&mut strangers);
    let mut guest = door.dial();
    one_ends(&mut strangers);
    guest.open();
    assert_eq!(guest.hear(), Event::Opened, "a proven dialer keeps its place");
    drop((guest, strangers));
}

/// Waits until one of `wires` has been reset, and takes it out.
#[track_caller]
fn one_ends(wires: &mut Vec<Wire>) {
    let look = Duration::from_millis(1);
    let ended = poll(NEVER, || {
        wires.iter_mut().position(|wire| match wire.read_to_ending(look) {
            (bytes, _) if !bytes.is_empty() => panic!("{} bytes came first", bytes.len()),
            (_, ending) => ending == Ending::Reset,
        })
    });
    wires.remove(ended.expect("none is displaced"));
}

/// `clock-skew`: a clock more than two minutes off, in either direction, gets not a byte for an
/// answer; one that is less off gets one.
#[test]
fn clock_skew() {
    let door = Door::new(&["-o", "500ms"]);
    for ahead in [121, -121, 3600, -3600] {
        let call = Call::with(&door.key, ahead, SuiteSet::BOTH);
        assert_eq!(door.visit(call.message()), b"", "{ahead} s ahead");
    }
    let call = Call::with(&door.key, 110, SuiteSet::BOTH);
    assert_eq!(door.visit(call.message()).len(), MESSAGE_LEN, "110 s ahead");
    door.refused_exactly(&[("clock-skew", 4), ("unconfirmed", 1)]);
}

/// `replayed`: the same first message is answered once.
#[test]
fn replayed() {
    let door = Door::new(&["-o", "500ms"]);
    let call = Call::new(&door.key);
    assert_eq!(door.visit(call.message()).len(), MESSAGE_LEN);
    for _ in 0..2 {
        assert_eq!(door.visit(call.message()), b"");
    }
    door.refused_exactly(&[("unconfirmed", 1), ("replayed", 2)]);
}

/// `unconfirmed`: a valid first message, and then no proof of life: silence, an end, or an invalid
/// record.
#[test]
fn unconfirmed() {
    let door = Door::new(&["-o", "500ms"]);
    let mut silent = door.dial().into_wire();
    assert_eq!(silent.expect_ending(), Ending::Reset);
    drop(door.dial());
    let mut liar = door.dial();
    liar.garbage();
    assert_eq!(liar.into_wire().expect_ending(), Ending::Reset, "and not a byte");
    door.refused_exactly(&[("unconfirmed", 3)]);
}

/// `handshake-failed`: neither random bytes nor an unknown key get an answer.
#[test]
fn handshake_failed() {
    let door = Door::new(&["-o", "500ms"]);
    let unknown = keygen(door.key.parent().unwrap(), "unknown");
    assert_eq!(door.visit(&Noise::new(1).bytes(MESSAGE_LEN)), b"");
    assert_eq!(door.visit(Call::new(&unknown).message()), b"");
    door.refused_exactly(&[("handshake-failed", 2)]);
}

/// `no-common-suite` at the decrypt end is `no-answer` at the encrypt end.
#[test]
fn no_common_suite() {
    let door = Door::new(&["-o", "500ms", "--suite", "aes-256-gcm"]);
    let call = Call::with(&door.key, 0, SuiteSet::PORTABLE);
    assert_eq!(door.visit(call.message()), b"");
    let encrypt = Launch::encrypt(&door.key).source(&any()).target(door.decrypt.addr());
    let mut encrypt = encrypt.args(["-o", "500ms", "--suite", "chacha20-poly1305"]).start();
    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
    encrypt.wait_closed("no-answer");
    encrypt.stop();
    // The first of its two connections and the second.
    door.refused_exactly(&[("no-common-suite", 3)]);
}

// === after the proof, before the target ===

/// A dialer that proved its key and then says something else than Open.
#[test]
fn what_may_follow_confirm_is_open_alone() {
    let door = Door::new(&[]);

    let mut gone = door.dial();
    gone.confirm();
    drop(gone);
    door.decrypt.wait_refused("truncated");

    let mut liar = door.dial();
    liar.confirm();
    liar.garbage();
    assert_eq!(liar.hear(), Event::Reset(ResetReason::ProtocolError));
    door.decrypt.wait_closed("bad-record");

    let mut twice = door.dial();
    twice.confirm();
    twice.confirm();
    assert_eq!(twice.hear(), Event::Reset(ResetReason::ProtocolError));
    door.decrypt.wait_closed("protocol-error");

    let mut shy = door.dial();
    shy.confirm();
    shy.reset(ResetReason::PlainReset);
    door.decrypt.wait_closed("peer-reset");

    assert_eq!(door.target.counts().accepts(), 0);
    let mut slow = door.dial();
    slow.confirm();
    slow.open();
    assert_eq!(slow.hear(), Event::Opened, "and Open is served");
}

/// `target-timeout`, reported to both.
#[test]
fn target_timeout() {
    let (silent, _held) = deaf();
    let pair = Pair::start(PairOptions::default().decrypt(&["-o", "500ms"]), &silent);
    assert_eq!(pair.connect().expect_ending(), Ending::Reset);
    let line = pair.decrypt.wait_closed("target-timeout");
    assert!(line.field("detail").is_some(), "no remedy: {}", line.text());
    pair.encrypt.wait_closed("target-timeout");
    pair.stop();
}

/// `target-unresolved`, reported to both; without `-D` it is a start that fails.
#[test]
fn target_unresolved() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "no-such-host.invalid:1"]);
    let mut refused = launch.spawn();
    assert_eq!(refused.exit_code(), 1);
    let decrypt = launch.args(["-D"]).start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr()).start();
    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
    decrypt.wait_closed("target-unresolved");
    encrypt.wait_closed("target-unresolved");
}

// === within a session ===

/// Starts a target that says a byte and then waits for the client.
fn greeting() -> Target {
    Target::local(|mut wire, counts| {
        if wire.write_all(b"!").is_ok() {
            testkit::target::echo(wire, counts);
        }
    })
}

/// `plain-reset` here is `peer-reset` there.
#[test]
fn plain_reset_and_peer_reset() {
    let target = greeting();
    let pair = Pair::to(target.addr());
    let mut client = pair.connect();
    client.expect_bytes(1);
    client.reset();
    pair.encrypt.wait_closed("plain-reset");
    pair.decrypt.wait_closed("peer-reset");

    let rude = Target::local(|mut wire, _| {
        wire.expect_bytes(1);
        wire.reset();
    });
    let pair = Pair::to(rude.addr());
    let mut client = pair.connect();
    client.write_all(b"?").unwrap();
    assert_eq!(client.expect_ending(), Ending::Reset);
    pair.decrypt.wait_closed("plain-reset");
    pair.encrypt.wait_closed("peer-reset");
}

/// `shutdown` here is `peer-shutdown` there, and the client sees a reset.
#[test]
fn shutdown_and_peer_shutdown() {
    let target = greeting();
    for stopped in ["encrypt", "decrypt"] {
        let mut pair = Pair::start(PairOptions::both(&["--drain", "200ms"]), target.addr());
        let mut client = pair.connect();
        client.expect_bytes(1);
        let (here, there) = match stopped {
            "encrypt" => (&mut pair.encrypt, &mut pair.decrypt),
            _ => (&mut pair.decrypt, &mut pair.encrypt),
        };
        here.terminate();
        assert_eq!(here.program.exit_code(), 1, "a session was cut");
        here.wait_closed("shutdown");
        there.wait_closed("peer-shutdown");
        assert_eq!(client.expect_ending(), Ending::Reset, "{stopped}");
        there.stop();
    }
}

/// Damage that a host on the path can do to a session, and its names at both ends.
#[test]
fn reasons_of_a_session_that_a_host_on_the_path_harms() {
    let flip = Act::Flip { byte: 20, bit: 3 };
    let cut = |how| Act::Cut { byte: 10, how };
    let cases = [
        // A record that was changed: its reader tells the other end.
        (Toward::Acceptor, flip.clone(), "peer-rejected", "bad-record"),
        (Toward::Dialer, flip, "bad-record", "peer-rejected"),
        // The network went away.
        (Toward::Acceptor, cut(Cut::Rst), "peer-lost", "peer-lost"),
        (Toward::Dialer, cut(Cut::Rst), "peer-lost", "peer-lost"),
    ];
    for (toward, act, encrypt, decrypt) in cases {
        let (pair, _target, _middle) = harmed(toward, act);
        assert_eq!(pair.encrypt.wait_closed(encrypt).field("reason").unwrap(), encrypt);
        pair.decrypt.wait_closed(decrypt);
    }
    // A clean end without Fin, which only the end that it is shown to can see.
    let (pair, _target, _middle) = harmed(Toward::Acceptor, cut(Cut::Fin));
    pair.decrypt.wait_closed("truncated");
    let (pair, _target, _middle) = harmed(Toward::Dialer, cut(Cut::Fin));
    pair.encrypt.wait_closed("truncated");
}

/// The kernel reports a reset once: to the write that meets it, and then a read looks like an end.
/// It is `peer-lost` all the same, and no `truncated`.
#[test]
fn a_reset_that_a_write_meets_first_is_peer_lost() {
    let target = Target::local(|mut wire, _| while wire.write_all(&[0; 4096]).is_ok() {});
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let decrypt = Launch::decrypt(&key).source(&any()).target(target.addr()).start();
    for round in 0..20 {
        let mut guest = Hand::dial(decrypt.addr(), &key);
        guest.open();
        assert_eq!(guest.hear(), Event::Opened);
        // The rest is not read, so the decrypt end is always about to write.
        guest.into_wire().reset();
        eventually("it is told", || decrypt.closed().len() > round);
        let line = decrypt.closed().pop().unwrap();
        assert!(line.has("reason", "peer-lost"), "round {round}: {}", line.text());
    }
}

/// Makes a pair with one session, with an edit of its second record toward one end.
fn harmed(toward: Toward, act: Act) -> (Pair, Target, Middleman) {
    let target = greeting();
    let middle = Mutex::new(None);
    let pair = Pair::start_via(PairOptions::default(), target.addr(), |sealed| {
        let started = Middleman::start(sealed);
        let addr = started.addr().clone();
        *middle.lock().unwrap() = Some(started);
        addr
    });
    let middle = middle.into_inner().unwrap().unwrap();
    middle.edit_next([Edit { toward, frame: 2, act }]);
    let mut client = pair.connect();
    // Not while the target is dialled, which is another case.
    let said = if toward == Toward::Acceptor { client.expect_bytes(1) } else { vec![] };
    client.write_all(b"?").unwrap();
    let (rest, ending) = client.read_to_ending(NEVER);
    assert!(b"!?".starts_with(&[said, rest].concat()), "that is not what the target sent");
    assert_eq!(ending, Ending::Reset);
    eventually("the edit took effect", || middle.applied() == 1);
    (pair, target, middle)
}

/// Records that are authentic and out of place: both ends log `protocol-error`, tell the other so,
/// and the client sees a reset.
#[test]
fn protocol_error_at_either_end() {
    let door = Door::new(&[]);
    let mut guest = door.dial();
    guest.open();
    assert_eq!(guest.hear(), Event::Opened);
    guest.opened();
    assert_eq!(guest.hear(), Event::Reset(ResetReason::ProtocolError));
    door.decrypt.wait_closed("protocol-error");
    door.target.wait_idle();

    let (encrypt, acceptor) = in_front_of_a_hand(&door.key);
    let mut client = encrypt.connect();
    let mut host = acceptor.accept();
    host.opened();
    host.opened();
    assert_eq!(host.hear(), Event::Reset(ResetReason::ProtocolError));
    assert_eq!(client.expect_ending(), Ending::Reset);
    encrypt.wait_closed("protocol-error");
}

/// Starts an encrypt end that dials the test.
fn in_front_of_a_hand(key: &Path) -> (End, Acceptor) {
    let acceptor = Acceptor::start(key);
    let encrypt = Launch::encrypt(key).source(&any()).target(&acceptor.addr()).start();
    (encrypt, acceptor)
}

/// Every reason that a Reset can carry, and the encrypt end's name for it, before the target is
/// connected and after.
#[test]
fn an_encrypt_end_names_what_the_far_end_tells_it() {
    let cases = [
        (ResetReason::PlainReset, "peer-reset"),
        (ResetReason::TargetRefused, "target-refused"),
        (ResetReason::TargetTimeout, "target-timeout"),
        (ResetReason::TargetUnresolved, "target-unresolved"),
        (ResetReason::NoSuchService, "no-such-service"),
        (ResetReason::LimitReached, "limit-reached"),
        (ResetReason::ProtocolError, "peer-rejected"),
        (ResetReason::Shutdown, "peer-shutdown"),
        (ResetReason::Unopened, "unopened"),
        (ResetReason::Failed, "peer-failed"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let (encrypt, acceptor) = in_front_of_a_hand(&keygen(dir.path(), "key"));
    for opened in [false, true] {
        for (reason, name) in cases {
            let before = encrypt.closed().len();
            let mut client = encrypt.connect();
            let mut host = acceptor.accept();
            if opened {
                host.opened();
            }
            host.reset(reason);
            assert_eq!(client.expect_ending(), Ending::Reset, "{reason:?}");
            eventually("it is told", || encrypt.closed().len() > before);
            let line = encrypt.closed().pop().unwrap();
            assert!(line.has("reason", name), "{reason:?}, {opened}: {}", line.text());
        }
    }
}

/// The decrypt end's names, for the reasons that a dialer can send.
#[test]
fn a_decrypt_end_names_what_the_dialer_tells_it() {
    let door = Door::new(&[]);
    let cases = [
        (ResetReason::PlainReset, "peer-reset"),
        (ResetReason::ProtocolError, "peer-rejected"),
        (ResetReason::Shutdown, "peer-shutdown"),
        (ResetReason::Failed, "peer-failed"),
    ];
    for (reason, name) in cases {
        let mut guest = door.dial();
        guest.open();
        assert_eq!(guest.hear(), Event::Opened);
        guest.reset(reason);
        door.decrypt.wait_closed(name);
    }
    // After Fin only a Reset can still come, and it counts.
    let mut guest = door.dial();
    guest.open();
    guest.fin();
    assert_eq!(guest.hear(), Event::Opened);
    assert_eq!(guest.hear(), Event::Fin, "the echo ends with its client");
    door.decrypt.wait_closed("finished");
    door.target.wait_idle();
}

/// `peer-unreachable` and `no-answer`: the address has no listener, or one that does not answer.
#[test]
fn peer_unreachable_and_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let (refusing, _socket) = testkit::address::refusing();
    let (deaf, _held) = deaf();
    let mute = Target::hold();
    let hasty = Target::local(|wire, _| drop(wire));
    let cases: [(&Addr, &str); 4] = [
        (&refusing, "peer-unreachable"),
        (&deaf, "peer-unreachable"),
        (mute.addr(), "no-answer"),
        (hasty.addr(), "no-answer"),
    ];
    for (to, reason) in cases {
        let launch = Launch::encrypt(&key).source(&any()).target(to);
        let encrypt = launch.args(["-o", "300ms"]).start();
        let mut client: Wire = encrypt.connect();
        assert_eq!(client.expect_ending(), Ending::Reset, "{reason}");
        let line = encrypt.wait_closed(reason);
        assert!(line.field("detail").is_some(), "no remedy: {}", line.text());
    }
}

/// `--on-revoke keep` keeps open sessions, and not clients that still waited for a tunnel. Either
/// way the far end is told that it is revoked.
#[test]
fn a_client_that_is_banned_while_its_tunnel_is_made_gets_none() {
    for on_revoke in ["keep", "close"] {
        banned_while_its_tunnel_is_made(on_revoke);
    }
}

fn banned_while_its_tunnel_is_made(on_revoke: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (key, admin) = (keygen(dir.path(), "key"), Admin(dir.path().join("admin")));
    let store = format!("file:{}", dir.path().join("gate").display());
    let far_end = Acceptor::start(&key);
    let args = ["--gate", &store, "--internal", "allow"];
    let more = ["--on-revoke", on_revoke, "-o", "3600s", "--admin"];
    let args = [&args[..], &more].concat();
    let launch = Launch::encrypt(&key).source(&any()).target(&far_end.addr()).args(args);
    let encrypt = launch.args([&admin.0]).start();
    let mut client = encrypt.connect();
    let (mut hand, first) = far_end.accept_after(|| {
        let mut ban = Command::new(binary());
        let ban = ban.args(["gate", "ban", "127.0.0.1", "--gate", &store]).output().unwrap();
        assert!(ban.status.success(), "{}", String::from_utf8_lossy(&ban.stderr));
        eventually("the gate knows", || admin.tunnel()["gate"]["bans"] == 1);
    });
    assert_eq!(first, Event::Confirmed, "it is not opened");
    assert_eq!(hand.hear(), Event::Reset(ResetReason::Unopened));
    assert_eq!(client.read_to_ending(NEVER).1, Ending::Reset);
    encrypt.wait_closed("revoked");
}
