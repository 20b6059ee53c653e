//! Configuration files that change while connections go through.

use std::io::Write;
use std::iter::repeat_n;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use testkit::admin::Admin;
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::hand::Call;
use testkit::legit::{Clients, round_trip};
use testkit::redis::Redis;
use testkit::{Addr, Ending, Target, Wire, eventually, keygen, proc};

pub(super) const KEY: &str = "\"key\"";

/// Time for which a client that waits for a slot is watched to get nothing.
const A_MOMENT: Duration = Duration::from_millis(300);

/// Interval at which a pump sends.
const A_BREATH: Duration = Duration::from_millis(1);

/// Both ends from files, in front of an echo server.
pub(super) struct Two {
    pub(super) encrypt: Service,
    pub(super) decrypt: Service,
    target: Target,
    pub(super) dir: tempfile::TempDir,
}

impl Two {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        keygen(dir.path(), "key");
        keygen(dir.path(), "new");
        let target = Target::echo();
        let table = decrypt_table("far", target.addr(), KEY, "");
        let process = |end| {
            let path = |what: &str| dir.path().join(format!("{end}.{what}")).display().to_string();
            format!("handover = \"{}\"\npid-file = \"{}\"", path("handover"), path("pid"))
        };
        let decrypt = Service::start_with(dir.path(), "far.toml", &process("far"), &table);
        let table = encrypt_table("near", &decrypt.addr("far"), KEY, "");
        let encrypt = Service::start_with(dir.path(), "near.toml", &process("near"), &table);
        Self { encrypt, decrypt, target, dir }
    }

    pub(super) fn near(&self, key: &str, more: &str) -> String {
        encrypt_table("near", &self.decrypt.addr("far"), key, more)
    }

    pub(super) fn far(&self, key: &str, more: &str) -> String {
        decrypt_table("far", self.target.addr(), key, more)
    }

    pub(super) fn entrance(&self) -> Addr {
        self.encrypt.addr("near")
    }

    pub(super) fn stop(mut self) {
        self.encrypt.stop();
        self.decrypt.stop();
    }
}

/// "20 reloads (add/remove/change/bad file) under 10 pumps: 0 errors; bad file: old config stays".
/// The pumps go through the parts that change, too.
#[test]
fn twenty_reloads_disturb_no_connection() {
    let two = Two::start();
    let pumps = Clients::pumps(repeat_n(two.entrance(), 10), 1_000, A_BREATH);
    let other = encrypt_table("other", two.target.addr(), KEY, "");
    for round in 0..5 {
        let line = two.encrypt.reload(&format!("{}{other}", two.near(KEY, "")));
        assert_eq!((line.number("added"), line.number("same")), (Some(1), Some(1)));
        let entrance = two.encrypt.addr("other");
        let changed = two.near(KEY, &format!("timeout = '{}s'", 6 + round));
        let line = two.encrypt.reload(&format!("{changed}{other}"));
        assert_eq!((line.number("changed"), line.number("same")), (Some(1), Some(1)));
        let line = two.encrypt.reload(&changed);
        assert_eq!((line.number("removed"), line.number("same")), (Some(1), Some(1)));
        eventually("the removed tunnel is closed", || Wire::connect(&entrance).is_err());
        let line = two.encrypt.reload_fails(&changed.replace("timeout", "timeuot"));
        assert!(line.text().contains("did you mean 'timeout'"), "{}", line.text());
        assert!(line.has("detail", "nothing was changed"), "{}", line.text());
        two.decrypt.reload(&two.far(KEY, &format!("timeout = '{}s'", 6 + round)));
        round_trip(&two.entrance());
        two.encrypt.reload(&two.near(KEY, ""));
    }
    println!("{}", pumps.finish().summary());
    let ended = two.encrypt.closed("near");
    assert!(ended.iter().all(|line| line.has("reason", "finished")), "{ended:?}");
    two.stop();
}

/// "restart at 500 connects/s: 0 refused", without systemd. The address that
/// clients use is the same, and sessions of the old process finish there.
#[test]
fn restarts_refuse_no_client() {
    let mut two = Two::start();
    let mut old_session = Wire::connect(&two.entrance()).unwrap();
    old_session.expect_echo(b"before");
    let comers = comers(&two.entrance(), 500);
    let mut before = vec![];
    for round in 0..6 {
        comers.serve(100);
        let service = if round % 2 == 0 { &mut two.decrypt } else { &mut two.encrypt };
        let next = service.again();
        next.program.wait_line("took over", |line| line.message().starts_with("took over"));
        let pid = |end: &str| std::fs::read_to_string(two.dir.path().join(format!("{end}.pid")));
        let end = if round % 2 == 0 { "far" } else { "near" };
        eventually("the pid file is the new one's", || {
            pid(end).is_ok_and(|text| text.trim() == next.program.pid().to_string())
        });
        before.push(std::mem::replace(service, next));
    }
    comers.serve(100);
    println!("{}", comers.finish().summary());
    old_session.expect_echo(b"after six restarts");
    old_session.finish();
    assert_eq!(old_session.expect_ending(), Ending::Clean);
    for old in &mut before {
        assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    }
    round_trip(&two.entrance());
    two.stop();
}

/// Starts clients that come so many times a second, each for one echo.
fn comers(entrance: &Addr, per_second: u32) -> Clients {
    const THREADS: u32 = 8;
    let all = repeat_n(entrance.clone(), THREADS as usize);
    Clients::comers(all, Duration::from_secs(1) * THREADS / per_second)
}

/// "key rotation, both orders, 200 connects/s: 0 failures while both keys
/// listed; old key refused <= 1 s after removal".
#[test]
fn keys_rotate_in_both_orders_without_a_failure() {
    const BOTH: &str = "[\"key\", \"new\"]";
    const NEW_FIRST: &str = "[\"new\", \"key\"]";
    const NEW: &str = "\"new\"";
    for decrypt_first in [true, false] {
        let two = Two::start();
        let comers = comers(&two.entrance(), 200);
        comers.serve(50);
        let steps: [(&Service, String); 4] = if decrypt_first {
            [
                (&two.decrypt, two.far(BOTH, "")),
                (&two.encrypt, two.near(NEW, "")),
                (&two.encrypt, two.near(NEW_FIRST, "")),
                (&two.decrypt, two.far(NEW, "")),
            ]
        } else {
            [
                (&two.encrypt, two.near(BOTH, "")),
                (&two.decrypt, two.far(NEW_FIRST, "")),
                (&two.encrypt, two.near(NEW, "")),
                (&two.decrypt, two.far(NEW, "")),
            ]
        };
        for (service, text) in steps {
            service.reload(&text);
            comers.serve(50);
        }
        let removed = Instant::now();
        let old = Call::new(&two.dir.path().join("key"));
        let mut wire = Wire::connect(&two.decrypt.addr("far")).unwrap();
        wire.write_all(old.message()).unwrap();
        println!("the old key was tried {:?} after its removal", removed.elapsed());
        let (answer, _) = wire.read_to_ending(Duration::from_secs(20));
        assert!(answer.is_empty(), "the old key got an answer");
        println!("{}", comers.finish().summary());
        two.stop();
    }
}

/// Sessions of a tunnel that changes go on, and count against its new limit.
#[test]
fn a_changed_limit_counts_present_sessions() {
    let two = Two::start();
    let limit = |number: u32| two.near(KEY, &format!("max-sessions = {number}"));
    let is_full = |number: u32| {
        let about = |line: &testkit::Line| line.has("limit", &number.to_string());
        let reached = "session limit reached";
        two.encrypt.program.wait_line(reached, |line| line.is(reached) && about(line));
    };
    two.encrypt.reload(&limit(2));
    let mut held: Vec<Wire> = (0..2).map(|_| Wire::connect(&two.entrance()).unwrap()).collect();
    held.iter_mut().for_each(|wire| wire.expect_echo(b"held"));
    let mut third = Wire::connect(&two.entrance()).unwrap();
    is_full(2);
    assert!(!third.echoes(b"third", A_MOMENT), "it waits for a slot");
    two.encrypt.reload(&limit(3));
    assert_eq!(third.expect_bytes(5), b"third", "it was waiting when the limit changed");
    held.iter_mut().for_each(|wire| wire.expect_echo(b"still there"));
    two.encrypt.reload(&limit(1));
    drop(held.pop());
    let mut fourth = Wire::connect(&two.entrance()).unwrap();
    is_full(1);
    assert!(!fourth.echoes(b"fourth", A_MOMENT), "two are above the limit");
    drop((held, third));
    assert_eq!(fourth.expect_bytes(6), b"fourth");
    drop(fourth);
    two.stop();
}

/// The limit of one source behaves alike: a new limit forgets no session.
#[test]
fn a_changed_limit_of_a_source_counts_present_sessions() {
    let two = Two::start();
    let limit = |number: u32| two.near(KEY, &format!("max-per-source = {number}"));
    let is_full = || Wire::connect(&two.entrance()).unwrap().expect_ending() == Ending::Reset;
    two.encrypt.reload(&limit(2));
    let mut held: Vec<Wire> = (0..2).map(|_| Wire::connect(&two.entrance()).unwrap()).collect();
    held.iter_mut().for_each(|wire| wire.expect_echo(b"held"));
    assert!(is_full(), "a third of two");
    two.encrypt.reload(&limit(3));
    held.push(Wire::connect(&two.entrance()).unwrap());
    held[2].expect_echo(b"the third of three");
    assert!(is_full(), "a fourth of three");
    two.encrypt.reload(&limit(1));
    drop(held.pop());
    eventually("its session has ended", || two.encrypt.closed("near").len() == 1);
    assert!(is_full(), "two are above the limit");
    held.clear();
    let is_served = || Wire::connect(&two.entrance()).unwrap().echoes(b"alone", testkit::NEVER);
    eventually("no other is left", is_served);
    two.stop();
}

/// A tunnel that is gone accepts no client, and its sessions have its drain.
#[test]
fn a_removed_tunnel_drains() {
    let two = Two::start();
    let kept = encrypt_table("kept", &two.decrypt.addr("far"), KEY, "");
    for (drain, is_cut) in [("\"60s\"", false), ("\"200ms\"", true)] {
        let near = two.near(KEY, &format!("drain = {drain}"));
        two.encrypt.reload(&format!("{near}{kept}"));
        let entrance = two.entrance();
        let mut wire = Wire::connect(&entrance).unwrap();
        wire.expect_echo(b"before");
        let line = two.encrypt.reload(&kept);
        assert_eq!(line.number("removed"), Some(1), "{}", line.text());
        eventually("connections are refused", || Wire::connect(&entrance).is_err());
        if is_cut {
            assert_eq!(wire.expect_ending(), Ending::Reset);
        } else {
            wire.expect_echo(b"after");
            wire.finish();
            assert_eq!(wire.expect_ending(), Ending::Clean);
        }
    }
    round_trip(&two.encrypt.addr("kept"));
    two.stop();
}

/// A failure of the new file leaves the old state as it is.
#[test]
fn a_set_that_cannot_be_had_changes_nothing() {
    let two = Two::start();
    let taken = format!("{}", two.target.addr());
    let near = two.near(KEY, "timeout = '9s'");
    for (more, piece) in [
        (near.replace("near", "more").replace("127.0.0.1:0", &taken), "is in use"),
        (near.replace("near", "more").replace(KEY, "\"gone\""), "gone"),
        (
            near.replace("near", "more")
                .replace("target = \"127.0.0.1", "target = \"no-such-name.invalid"),
            "cannot resolve",
        ),
    ] {
        let line = two.encrypt.reload_fails(&format!("{near}{more}"));
        assert!(line.text().contains(piece), "{}", line.text());
        assert!(line.text().contains("more"), "names the tunnel: {}", line.text());
        round_trip(&two.entrance());
    }
    two.encrypt.reload_fails("[tunnels.");
    round_trip(&two.entrance());
    two.stop();
}

/// A first message that was answered before a reload is a replay after it.
#[test]
fn a_reload_forgets_no_first_message() {
    let two = Two::start();
    let far = two.decrypt.addr("far");
    let hello = Call::new(&two.dir.path().join("key"));
    let mut wire = Wire::connect(&far).unwrap();
    wire.write_all(hello.message()).unwrap();
    wire.expect_bytes(1);
    two.decrypt.reload(&two.far(KEY, "timeout = '1s'"));
    let mut again = Wire::connect(&far).unwrap();
    again.write_all(hello.message()).unwrap();
    let (answer, _) = again.read_to_ending(Duration::from_secs(20));
    assert!(answer.is_empty());
    let counted = |reason: &str| {
        two.decrypt.program.log().iter().map(|line| line.refused(reason)).sum::<u64>()
    };
    eventually("it is counted as a replay", || counted("replayed") == 1);
    drop(wire);
    two.stop();
}

/// A successor that cannot start leaves everything as it was, unix sockets too; one that renames a
/// tunnel finds its socket nevertheless.
#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let process = format!("handover = \"{}\"", path("handover"));
    let text = |name: &str, target: &str| {
        format!(
            "[tunnels.{name}]\nmode = \"decrypt\"\nsource = \"{}\"\ntarget = \"{target}\"\nkey = \"key\"\n",
            path("in")
        )
    };
    let good = text("far", &target.addr().to_string());
    let mut old = Service::start_with(dir.path(), "far.toml", &process, &good);
    let key = dir.path().join("key");
    let dial = || testkit::hand::Hand::dial(&Addr::parse(&path("in")).unwrap(), &key);
    drop(dial());

    old.write(&text("far", "no-such-name.invalid:1"));
    let mut failing = std::process::Command::new(testkit::binary());
    let output = failing.args(["run", "-c", &path("far.toml")]).output().unwrap();
    assert!(!output.status.success());
    drop(dial());

    old.write(&text("renamed", &target.addr().to_string()));
    let mut next = old.again();
    next.program.wait_line("took over", |line| line.message().starts_with("took over"));
    assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    drop(dial());
    next.stop();
    assert!(!Path::new(&path("in")).exists(), "its file is the successor's to remove");
}

/// "SIGTERM to the old one while the successor gets ready" ends in the successor, with everything
/// that the old one had, also while that one has sessions.
#[test]
fn an_old_process_that_is_stopped_meanwhile_does_not_take_the_new_one_along() {
    let two = Two::start();
    let path = |what: &str| two.dir.path().join(what);
    let process = format!(
        "handover = {:?}\npid-file = {:?}\nadmin = {:?}",
        path("handover"),
        path("pid"),
        path("admin")
    );
    let mut old = Service::start_with(two.dir.path(), "own.toml", &process, &two.near(KEY, ""));
    let entrance = old.addr("near");
    let mut live = Wire::connect(&entrance).unwrap();
    live.expect_echo(b"before");

    // Its gate's store does not answer, so that it has the sockets and is not ready.
    let store = Redis::start();
    store.signal(Signal::SIGSTOP);
    let gate =
        format!("gate = \"redis://{}\"\ninternal = \"allow\"\ntimeout = '3600s'", store.tcp());
    old.write(&two.near(KEY, &gate));
    let mut command = std::process::Command::new(testkit::binary());
    command.args(["run", "-c"]).arg(path("own.toml"));
    let mut next = testkit::Program::spawn("successor", &mut command);
    let has_it = |socket: &proc::TcpSocket| Addr::Tcp(socket.local.into()) == entrance;
    eventually("it has the socket", || proc::tcp_sockets(next.pid()).iter().any(has_it));
    old.program.signal(Signal::SIGTERM);
    old.program.wait_line("stopping", |line| line.message().starts_with("stopping:"));
    store.signal(Signal::SIGCONT);

    next.wait_line("took over", |line| line.message().starts_with("took over from"));
    round_trip(&entrance);
    let pid = || std::fs::read_to_string(path("pid")).unwrap_or_default();
    eventually("it has the pid file", || pid() == format!("{}\n", next.pid()));
    live.expect_echo(b"after");
    live.finish();
    assert_eq!(live.expect_ending(), Ending::Clean);
    assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    assert_eq!(Admin(path("admin")).status()["pid"], next.pid());
    assert_eq!(pid(), format!("{}\n", next.pid()));
    next.signal(Signal::SIGTERM);
    assert_eq!(next.exit_code(), 0, "{}", next.tail());
    two.stop();
}

/// A file that is not a socket is never removed, with any value of --handover.
#[test]
fn a_file_at_the_place_of_the_handover_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let before = std::fs::read(&key).unwrap();
    let mut program = std::process::Command::new(testkit::binary());
    program.args(["decrypt", "-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-k"]).arg(&key);
    let output = program.arg("--handover").arg(&key).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

/// "SIGHUP during drain ignored".
#[test]
fn a_hang_up_while_it_drains_is_harmless() {
    let mut two = Two::start();
    let mut wire = Wire::connect(&two.entrance()).unwrap();
    wire.expect_echo(b"before");
    two.encrypt.program.signal(Signal::SIGTERM);
    let is_stopping = |line: &testkit::Line| line.message().starts_with("stopping:");
    two.encrypt.program.wait_line("stopping", is_stopping);
    two.encrypt.program.signal(Signal::SIGHUP);
    two.encrypt.program.wait_line("told", |line| line.message().starts_with("already stopping"));
    wire.expect_echo(b"after");
    wire.finish();
    assert_eq!(wire.expect_ending(), Ending::Clean);
    assert_eq!(two.encrypt.program.exit_code(), 0);
    two.decrypt.stop();
}

/// "200 tunnels in one file: start, reload of one while 50 others carry load with
/// no error". Times and memory are printed.
#[test]
fn two_hundred_tunnels_in_one_file() {
    const PAIRS: usize = 100;
    const LOADED: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let began = Instant::now();
    let text = many(dir.path(), &target, PAIRS, "");
    let mut all = Service::start(dir.path(), "all.toml", &text);
    let rss = proc::rss_kib(all.program.pid());
    println!("{} tunnels are ready after {:?}, {rss} KiB", 2 * PAIRS, began.elapsed());
    let entrance = |pair: usize| Addr::parse(&path(dir.path(), "in", pair)).unwrap();
    let pumps = || Clients::pumps((1..=LOADED).map(entrance), 1_000, A_BREATH);
    let quiet = pumps();
    quiet.serve(100 * LOADED as u64);
    println!("without reloads: {}", quiet.finish().summary());
    let loaded = pumps();
    for round in 0..5 {
        let began = Instant::now();
        let text = many(dir.path(), &target, PAIRS, &format!("timeout = '{}s'", 6 + round));
        let line = all.reload(&text);
        assert_eq!(line.number("changed"), Some(1), "{}", line.text());
        assert_eq!(line.number("same"), Some(2 * PAIRS as u64 - 1), "{}", line.text());
        println!("reload {round} took {:?}", began.elapsed());
        round_trip(&entrance(0));
    }
    println!("with reloads: {}", loaded.finish().summary());
    println!("{} KiB", proc::rss_kib(all.program.pid()));
    all.stop();
}

/// Returns pairs of tunnels in one file; `more` is added to the first entrance.
fn many(dir: &Path, target: &Target, pairs: usize, more: &str) -> String {
    let mut text = "[defaults]\nkey = \"key\"\nmax-sessions = 16\n".to_owned();
    for pair in 0..pairs {
        let (input, middle) = (path(dir, "in", pair), path(dir, "mid", pair));
        let more = if pair == 0 { more } else { "" };
        let target = target.addr();
        text += &format!(
            "[tunnels.in{pair}]\nmode = \"encrypt\"\nsource = \"{input}\"\ntarget = \"{middle}\"\n{more}\n\
             [tunnels.out{pair}]\nmode = \"decrypt\"\nsource = \"{middle}\"\ntarget = \"{target}\"\n"
        );
    }
    text
}

fn path(dir: &Path, what: &str, number: usize) -> String {
    dir.join(format!("{what}{number}")).display().to_string()
}
