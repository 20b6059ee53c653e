//! `--gate file:PATH`: the commands write, a tunnel obeys.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use knockpipe::gate::embedded_store::EmbeddedStore;
use knockpipe::gate::store::Edit;
use nix::unistd::User;

use super::world::{OTHER, PEER, PEER6, READ, SOON, Stage, entrance, expect_end, now_s};
use testkit::target::echo;
use testkit::wait::poll;
use testkit::{Addr, End, Launch, NEVER, Target, Wire, binary, eventually};

/// Admitted regardless of the store.
const INTERNAL: &str = "10.1.2.3";

/// A user that is neither root nor the owner of anything here.
const USER: &str = "nobody";

/// A file, a gate that uses it, and the peers that want to come in.
struct Place {
    peers: RefCell<HashMap<String, End>>,
    gate: Option<End>,
    target: Target,
    stage: Stage,
}

impl Place {
    fn new() -> Self {
        let stage = Stage::new();
        let target = Target::serve(&stage.target(), echo);
        Self { peers: RefCell::default(), gate: None, target, stage }
    }

    /// Starts a gate with more options than its file.
    fn with_gate(args: &[&str]) -> Self {
        let mut place = Self::new();
        place.start(args);
        place
    }

    fn start(&mut self, args: &[&str]) {
        let store = self.store();
        let args = [&["--gate", &store], args].concat();
        let gate = self.stage.decrypt(self.target.addr(), &args);
        gate.program.wait_line(READ, |line| line.is(READ));
        self.gate = Some(gate);
    }

    fn path(&self) -> PathBuf {
        self.stage.dir.path().join("gate")
    }

    fn store(&self) -> String {
        format!("file:{}", self.path().display())
    }

    fn gate(&self) -> &End {
        self.gate.as_ref().expect("the gate is started")
    }

    /// Runs `knockpipe gate LINE` on the file; returns its status and all that it prints.
    fn run(&self, line: &str) -> (Option<i32>, String) {
        let mut command = Command::new(binary());
        let output = command.arg("gate").args(line.split(' ')).args(["--gate", &self.store()]);
        let output = output.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// Runs a command that has to change something.
    #[track_caller]
    fn change(&self, line: &str) {
        let (status, text) = self.run(line);
        assert_eq!(status, Some(0), "{line}: {text}");
    }

    /// Returns a connection through a tunnel that comes from `source`.
    fn connect(&self, source: &str) -> Wire {
        let mut peers = self.peers.borrow_mut();
        let peer = peers
            .entry(source.to_owned())
            .or_insert_with(|| self.stage.encrypt(source, &entrance(self.gate(), source)));
        peer.connect()
    }

    fn is_denied(&self, source: &str) -> bool {
        self.stage.net.is_denied(source, &entrance(self.gate(), source))
    }

    #[track_caller]
    fn wait_in(&self, source: &str) -> Wire {
        let live = poll(NEVER, || {
            let mut wire = self.connect(source);
            wire.echoes(b"may I?", NEVER).then_some(wire)
        });
        live.unwrap_or_else(|| panic!("{source} does not get in"))
    }

    #[track_caller]
    fn wait_out(&self, source: &str) {
        eventually("it is denied", || self.is_denied(source));
    }

    fn count(&self, message: &str) -> usize {
        self.gate().count(message)
    }
}

// === what the commands change ===

/// "Lets a waiting peer in ... close live connections within 1 s", with a file.
#[test]
fn a_file_lets_in_and_takes_out() {
    let place = Place::with_gate(&[]);
    for source in [PEER, PEER6] {
        let revocations = [
            format!("remove {source}"),
            format!("ban {source} --ttl 1h"),
            format!("deny {source}"),
        ];
        for revoke in revocations {
            assert!(place.is_denied(source), "{source} before it is allowed");
            let began = Instant::now();
            place.change(&format!("allow {source}"));
            let (mut live, granted) = (place.wait_in(source), began.elapsed());
            let mut idle = place.wait_in(source);
            let began = Instant::now();
            place.change(&revoke);
            expect_end(&mut live);
            expect_end(&mut idle);
            let ended = began.elapsed();
            println!("{source}: in after {granted:?}, {revoke}: ended after {ended:?}");
            assert!(granted < SOON && ended < SOON, "{granted:?}, {ended:?}");
            place.wait_out(source);
            // Remove the rest of both.
            place.run(&format!("unban {source}"));
            place.run(&format!("remove {source}"));
        }
    }
    assert_eq!(place.gate().wait_closed("revoked").message(), "closed");
}

#[test]
fn the_end_of_a_ttl_in_a_file_ends_connections() {
    let place = Place::with_gate(&[]);
    place.change(&format!("allow {OTHER}"));
    let began = Instant::now();
    place.change(&format!("allow {PEER} --ttl 3s"));
    let mut live = place.wait_in(PEER);
    let mut stays = place.wait_in(OTHER);
    expect_end(&mut live);
    let after = began.elapsed();
    println!("a TTL of 3 s ended a connection after {after:?}");
    assert!(after > Duration::from_millis(2_900), "too early");
    assert!(after < Duration::from_secs(3) + SOON);
    place.wait_out(PEER);
    stays.expect_echo(b"undisturbed");

    // The end of a ban admits again, without any command.
    place.change(&format!("ban {OTHER} --ttl 2s"));
    expect_end(&mut stays);
    place.wait_in(OTHER);
}

/// An admission is noted in the file, for the reaper.
#[test]
fn a_file_keeps_the_history() {
    let place = Place::with_gate(&[]);
    place.change(&format!("allow {PEER}"));
    let _live = place.wait_in(PEER);
    eventually("it is noted", || place.run("history").1.contains(PEER));
    assert!(!place.run("history").1.contains(OTHER));
}

// === a file that is away ===

/// A file that is damaged or missing is an unavailable store: connected clients stay, no other is
/// admitted, and a restored file takes effect.
#[test]
fn a_damaged_or_missing_file_is_a_store_that_is_away() {
    let flags = ["--ban-after", "1000/60s/1h", "-o", "1s", "--internal", "allow"];
    let place = Place::with_gate(&flags);
    for line in [format!("allow {PEER}"), format!("allow {OTHER} --ttl 1h")] {
        place.change(&line);
    }
    let mut live = place.wait_in(PEER);
    eventually("what it has to write is written", || place.run("history").1.contains(PEER));

    let (path, copy) = (place.path(), place.stage.dir.path().join("copy"));
    fs::rename(&path, &copy).unwrap();
    away(&place, 1, &["No such file"]);
    // A note that is due now is lost: an empty file would say that the allow-set is empty.
    let mut failing = place.stage.net.dial(INTERNAL, &entrance(place.gate(), INTERNAL));
    failing.send(&[0x55; 256]).unwrap();
    failing.expect_ending();
    let lost = "gate store writes failing";
    place.gate().program.wait_line(lost, |line| line.is(lost) && line.has("what", "strikes"));
    assert!(!path.exists(), "the gate made an empty file");
    live.expect_echo(b"who is in stays in");
    fs::rename(&copy, &path).unwrap();
    back(&place, 2);
    let mut second = place.wait_in(PEER);

    // A line in the middle differs from the one that was written, under another inode.
    let whole = fs::read(&path).unwrap();
    let mut bad = whole.clone();
    bad[whole.iter().position(|byte| *byte == b'\n').unwrap() + 3] ^= 1;
    replace(&place, &bad);
    away(&place, 2, &["is damaged at byte", "restore it from a copy"]);
    let (status, text) = place.run(&format!("allow {PEER6}"));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("is damaged at byte"), "{text}");
    assert!(fs::read(&path).unwrap() == bad, "a damaged file is left as it is");
    live.expect_echo(b"still in");
    second.expect_echo(b"still in");
    replace(&place, &whole);
    back(&place, 3);
    place.wait_in(PEER);

    // An empty file is one that was lost; nobody removes all entries in that way.
    replace(&place, b"");
    away(&place, 3, &["was emptied since it was read", "restore it"]);
    live.expect_echo(b"in for ever");
    assert!(fs::read(&path).unwrap().is_empty(), "the gate began it anew");
    replace(&place, &whole);
    back(&place, 4);
    place.wait_in(PEER);

    // A torn end is no damage: it is passed over, and cut off with the next change.
    let junk = OpenOptions::new().append(true).open(&path).unwrap().write_all(b"9a3f21bc 47");
    junk.unwrap();
    place.change(&format!("remove {PEER}"));
    expect_end(&mut live);
    expect_end(&mut second);
    assert_eq!(place.count("gate store unavailable"), 3);
}

/// Replaces the file by another one.
fn replace(place: &Place, bytes: &[u8]) {
    let new = place.stage.dir.path().join("new");
    fs::write(&new, bytes).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, place.path()).unwrap();
}

/// Checks that the log has said `times` times that the file is unavailable, and why.
#[track_caller]
fn away(place: &Place, times: usize, parts: &[&str]) {
    const AWAY: &str = "gate store unavailable";
    eventually("it is noticed", || place.count(AWAY) == times);
    let lines = place.gate().program.log();
    let why = lines.iter().rfind(|line| line.is(AWAY)).unwrap().field("why").unwrap();
    for part in parts {
        assert!(why.contains(part), "no '{part}' in {why}");
    }
    for source in [PEER, OTHER] {
        place.wait_out(source);
    }
}

#[track_caller]
fn back(place: &Place, times: usize) {
    eventually("it is read again", || place.count(READ) == times);
}

// === the reaper ===

/// Writes the times of the last admissions; no command does.
fn seen(place: &Place, addresses: &[(&str, u64)]) {
    let store = EmbeddedStore::open(&place.path()).unwrap();
    let seen = addresses.iter().map(|(ip, at)| (ip.parse().unwrap(), *at)).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(store.edit(Edit::RecordSeen(seen))).unwrap();
}

/// `--reap-idle`: an address that was not admitted for that long has to be allowed again.
#[test]
fn the_reaper_removes_idle_addresses_and_no_others() {
    const NEVER_SEEN: &str = "203.0.113.20";
    const NETWORK: &str = "192.0.2.0/24";
    const DAY: u64 = 86_400;
    let mut place = Place::new();
    place.change(&format!("allow {PEER} {PEER6} {OTHER} {NEVER_SEEN} {NETWORK}"));
    place.change("ban 203.0.113.66 --ttl 1d");
    let now = now_s();
    seen(&place, &[(PEER, now - 40 * DAY), (PEER6, now - 31 * DAY), (OTHER, now - 29 * DAY)]);
    place.start(&["--reap-idle", "30d"]);
    // No connection before that, or else it might be noted once more.
    eventually("they are forgotten", || {
        let (_, history) = place.run("history");
        !history.contains(PEER) && !history.contains(PEER6) && history.contains(OTHER)
    });
    let (_, list) = place.run("list");
    let kept: Vec<&str> = list.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    for member in [OTHER, NEVER_SEEN, NETWORK, "203.0.113.66"] {
        assert!(kept.contains(&member), "{member} is gone: {list}");
    }
    assert_eq!(kept.len(), 4, "{list}");
    let line =
        place.gate().program.wait_line("how many", |line| line.is("removing idle addresses"));
    assert_eq!(line.number("count"), Some(2));
    for idle in [PEER, PEER6] {
        place.wait_out(idle);
    }
    place.wait_in(OTHER);
    // Removed is not banned: after another `allow` it is admitted.
    place.change(&format!("allow {PEER}"));
    place.wait_in(PEER);
}

// === access to the file ===

/// Gives other users access to the directory of the stage, which belongs to root.
fn open_directory(place: &Place) {
    fs::set_permissions(place.stage.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let target = place.stage.target();
    fs::set_permissions(target.path(), Permissions::from_mode(0o666)).unwrap();
}

/// A gate that becomes another user, and cannot use its file: one line says why and which command
/// helps.
#[track_caller]
fn refuses(place: &Place, parts: &[&str]) {
    let launch = Launch::decrypt(&place.stage.key)
        .source(&Addr::Tcp("127.0.0.1:0".parse().unwrap()))
        .target(place.target.addr())
        .args(["-u", USER, "--gate", &place.store()]);
    let mut program = launch.spawn();
    assert_eq!(program.exit_code(), 1, "{}", program.tail());
    let stderr = program.stderr();
    let complaints: Vec<_> = stderr.lines().filter(|l| l.starts_with("knockpipe: ")).collect();
    assert_eq!(complaints.len(), 1, "{stderr}");
    for part in parts {
        assert!(complaints[0].contains(part), "no '{part}' in {stderr}");
    }
}

/// A gate goes on writing its file after it gave up root, so that a file of root's is refused at
/// the start, with the command that helps.
#[test]
fn a_file_that_the_gates_user_may_not_write_is_refused_with_the_remedy() {
    let mut place = Place::new();
    open_directory(&place);
    place.change(&format!("allow {PEER}"));
    let (path, dir) = (place.path(), place.stage.dir.path().to_owned());
    let remedy = format!("run: chown {USER} {}", path.display());
    refuses(&place, &["belongs to root", &format!("runs as {USER}"), &remedy]);
    let user = User::from_name(USER).unwrap().unwrap().uid.as_raw();
    chown(&path, Some(user), None).unwrap();
    // It could be written now, but never rewritten, and would grow for ever.
    let remedy = format!("run: chown {USER} {}", dir.display());
    refuses(&place, &["its directory", &remedy]);
    fs::remove_file(&path).unwrap();
    refuses(&place, &["its directory", &remedy]);
    assert!(!path.exists());
    chown(&dir, Some(user), None).unwrap();
    place.start(&["-u", USER]);
    assert_eq!(fs::metadata(&path).unwrap().uid(), user);
    place.change(&format!("allow {PEER}"));
    place.wait_in(PEER);
}

/// Root's commands leave the file to the gate's user: when they create it in that user's directory,
/// and when they rewrite it.
#[test]
fn what_root_changes_stays_the_gates() {
    let mut place = Place::new();
    open_directory(&place);
    let user = User::from_name(USER).unwrap().unwrap().uid.as_raw();
    chown(place.stage.dir.path(), Some(user), None).unwrap();
    place.change(&format!("allow {PEER}"));
    let made = fs::metadata(place.path()).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (user, 0o600));
    place.start(&["-u", USER]);
    let mut live = place.wait_in(PEER);
    // Enough for a rewrite, as root.
    let seen_a_lot: Vec<(String, u64)> = (0..2_000).map(|i| ("192.0.2.1".to_owned(), i)).collect();
    let seen_a_lot: Vec<(&str, u64)> = seen_a_lot.iter().map(|(ip, at)| (&**ip, *at)).collect();
    eventually("root writes it anew", || {
        seen(&place, &seen_a_lot);
        fs::metadata(place.path()).unwrap().ino() != made.ino()
    });
    let anew = fs::metadata(place.path()).unwrap();
    assert_eq!((anew.uid(), anew.mode() & 0o777), (user, 0o600));
    live.expect_echo(b"no change for anybody");
    // The gate reads it, and writes it.
    place.change(&format!("allow {OTHER}"));
    place.wait_in(OTHER);
    eventually("it is noted", || place.run("history").1.contains(OTHER));
    assert_eq!(place.count("gate store unavailable"), 0);
}
