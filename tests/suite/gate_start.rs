//! An end with a gate that starts: it reads its store, or fails to, before it
//! accepts and before it says that it is ready.

use std::fmt::Write;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use testkit::proc::{self, TcpSocket};
use testkit::redis::{Redis, Reply};
use testkit::{Addr, End, Launch, Pair, Program, Target, Wire, any, eventually, keygen};

use super::systemd::{Manager, hand_over, tcp};

/// Addresses in the store, and clients that come before the start.
const ADDRESSES: u32 = 200_000;
const EARLY: usize = 20;

/// Starts of each end with clients that wait.
const STARTS: usize = 3;

const READ: &str = "gate store synced";
const AWAY: &str = "gate store unavailable";
const UNREAD: &str = "gate store not synced yet";

/// Returns an address of the store that no peer here has.
fn address(number: u32) -> String {
    format!("11.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)
}

/// Writes a gate's file in which all addresses, and 127.0.0.1 last, are allowed.
fn write_file(path: &Path) {
    let mut text = String::from("knockpipe-gate-1\n");
    let began = text.len();
    for ip in (0..ADDRESSES).map(address).chain(["127.0.0.1".to_owned()]) {
        let words = format!("{began} allow {ip} -");
        let digest = Sha256::digest(&words);
        for byte in &digest[..4] {
            write!(text, "{byte:02x}").unwrap();
        }
        writeln!(text, " {words}").unwrap();
    }
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Starts a Redis with a set of them.
fn fill_redis() -> Redis {
    const FILL: &str = "for i = 0, 1999 do local m = {} for j = 0, 99 do \
        local n = i * 100 + j \
        m[#m + 1] = '11.' .. math.floor(n / 65536) .. '.' .. math.floor(n / 256) % 256 \
        .. '.' .. n % 256 end redis.call('SADD', 'ip-allowed', unpack(m)) end \
        return redis.call('SADD', 'ip-allowed', '127.0.0.1')";
    let redis = Redis::start();
    assert_eq!(redis.direct().ask(&["EVAL", FILL, "0"]), Reply::Number(1));
    assert_eq!(redis.ask("SCARD ip-allowed"), Reply::Number(i64::from(ADDRESSES) + 1));
    redis
}

/// Returns the ends that can be started with clients in the backlog, by one command line and by a
/// file.
fn launches(pair: &Pair, dir: &Path, store: &str) -> [Launch; 2] {
    let line = Launch::encrypt(pair.key())
        .args(["-s", "systemd:gate", "--internal", "check", "--gate", store])
        .target(pair.decrypt.addr());
    let file = dir.join("near.toml");
    let table = format!(
        "[process]\nlog-format = \"json\"\n[tunnels.near]\nmode = \"encrypt\"\nsource = \"systemd:gate\"\ntarget = \"{}\"\n\
         key = \"{}\"\ninternal = \"check\"\ngate = \"{store}\"\n",
        pair.decrypt.addr(),
        pair.key().display()
    );
    fs::write(&file, table).unwrap();
    [line, Launch::new("run").args(["-c"]).args([file])]
}

/// "The store is read ... before the first connection is accepted; clients that come
/// meanwhile wait in the backlog."
#[test]
fn clients_that_wait_at_the_socket_find_the_store_read() {
    let (target, dir) = (Target::echo(), tempfile::tempdir().unwrap());
    let pair = Pair::to(target.addr());
    let path = dir.path().join("gate");
    write_file(&path);
    let redis = fill_redis();
    for store in [format!("file:{}", path.display()), redis.url()] {
        for (launch, _) in launches(&pair, dir.path(), &store).iter().cycle().zip(0..STARTS) {
            let (addr, listener) = tcp();
            let mut early: Vec<Wire> =
                (0..EARLY).map(|_| Wire::connect(&addr).expect("the socket listens")).collect();
            let mut end = End::of(hand_over(launch, "gate", vec![listener.into()]));
            for client in &mut early {
                client.expect_echo(b"I was early");
            }
            drop(early);
            end.stop();
            assert_eq!(end.refused("gate-denied"), 0, "{}", end.program.tail());
        }
    }
}

fn position(program: &Program, message: &str) -> Option<usize> {
    program.log().iter().position(|line| line.message().starts_with(message))
}

/// "... and before it says that it is ready", to the log, the pid file and the
/// service manager.
#[test]
fn a_ready_end_has_read_its_store() {
    let (target, redis) = (Target::echo(), fill_redis());
    let pair = Pair::to(target.addr());
    let name = format!("knockpipe-gate-start-{}", std::process::id());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let launch = Launch::encrypt(pair.key()).source(&any()).target(pair.decrypt.addr());
    let launch = launch.args(["--internal", "check", "--gate", &redis.url()]);
    let mut command = launch.command();
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let program = Program::spawn("encrypt", &mut command);
    assert_eq!(manager.next()[0], "READY=1");
    let mut end = End::of(program);
    let read = position(&end.program, READ).expect("it is read before ready");
    assert!(Some(read) < position(&end.program, "ready"), "{}", end.program.tail());
    end.connect().expect_echo(b"at once");
    end.stop();
}

/// "A store that is unavailable delays the start until that is known, and no longer."
#[test]
fn a_store_that_is_away_delays_the_start_by_one_failure() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let mut redis = Redis::start();
    redis.kill();
    let began = Instant::now();
    let launch = Launch::encrypt(pair.key()).source(&any()).target(pair.decrypt.addr());
    let launch = launch.args(["--internal", "check", "--gate", &redis.url(), "-o", "100s"]);
    for (policy, open) in [("closed", false), ("open", true)] {
        let mut end = launch.clone().args(["--gate-failure", policy]).start();
        let away = position(&end.program, AWAY).expect("it is told before ready");
        assert!(Some(away) < position(&end.program, "ready"), "{}", end.program.tail());
        assert_eq!(end.connect().echoes(b"may I?", testkit::NEVER), open, "{policy}");
        end.stop();
    }
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
}

/// "After `-o` it starts all the same, and says so." No client is admitted by the policy for an
/// unavailable store before the store is known to be unavailable.
#[test]
fn a_store_that_does_not_answer_delays_the_start_for_the_timeout_at_most() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let redis = fill_redis();
    redis.signal(Signal::SIGSTOP);
    let launch = Launch::encrypt(pair.key()).source(&any()).target(pair.decrypt.addr());
    let launch = launch.args(["--internal", "check", "--gate", &redis.url(), "-o", "300ms"]);
    let mut end = launch.args(["--gate-failure", "open"]).start();
    assert!(position(&end.program, UNREAD).is_some(), "{}", end.program.tail());
    end.program.wait_line(AWAY, |line| line.is(AWAY));
    eventually("the policy holds", || end.connect().echoes(b"may I?", testkit::NEVER));
    redis.signal(Signal::SIGCONT);
    end.program.wait_line(READ, |line| line.is(READ));
    end.stop();
}

/// A gate that comes with a reload does the same.
#[test]
fn a_reload_does_not_wait_for_a_store_that_is_away() {
    let two = super::reload::Two::start();
    let mut redis = Redis::start();
    redis.kill();
    let gate = format!("gate = \"{}\"\ninternal = \"check\"\ntimeout = '100s'", redis.url());
    let began = Instant::now();
    two.encrypt.reload(&two.near(super::reload::KEY, &gate));
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    assert!(position(&two.encrypt.program, AWAY).is_some());
    let entrance: Addr = two.entrance();
    assert!(!Wire::connect(&entrance).unwrap().echoes(b"may I?", testkit::NEVER));
    two.stop();
}

/// Ends that start together: the messages that a pool sends while the far end gets ready wait for
/// it, and are not taken for recordings of before its start.
#[test]
fn tunnels_of_a_pool_that_come_while_the_far_end_starts_are_answered() {
    let (target, dir) = (Target::echo(), tempfile::tempdir().unwrap());
    let key = keygen(dir.path(), "key");
    let redis = Redis::start();
    redis.ask("SADD ip-allowed 127.0.0.1");
    redis.signal(Signal::SIGSTOP);
    let (sealed, listener) = tcp();
    let gate = redis.url();
    let launch = Launch::decrypt(&key).args(["-s", "systemd:sealed", "-o", "60s", "--gate", &gate]);
    let launch = launch.target(target.addr());
    let program = hand_over(&launch, "sealed", vec![listener.into()]);
    let asks = |socket: &TcpSocket| Addr::Tcp(socket.remote.into()) == *redis.tcp();
    eventually("it asks its store", || proc::tcp_sockets(program.pid()).iter().any(asks));

    let encrypt = Launch::encrypt(&key).source(&any()).target(&sealed).args(["--pool", "4"]);
    let mut encrypt = encrypt.start();
    let comes = |socket: &TcpSocket| Addr::Tcp(socket.remote.into()) == sealed;
    let come = || proc::tcp_sockets(encrypt.pid()).iter().filter(|one| comes(one)).count();
    eventually("its tunnels wait", || come() >= 4);
    redis.signal(Signal::SIGCONT);
    let mut decrypt = End::of(program);
    encrypt.connect().expect_echo(b"served");
    encrypt.stop();
    decrypt.stop();
    assert_eq!(decrypt.strangers(), 0, "{}", decrypt.program.tail());
}
