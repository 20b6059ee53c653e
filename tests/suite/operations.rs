//! Events in the life of a service: it is stopped behind a load balancer, its far end and its
//! target come and go, it is killed at any moment.

use std::iter::repeat_n;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;

use testkit::address::refusing_at;
use testkit::admin::Metrics;
use testkit::data::Noise;
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::legit::{Clients, round_trip, round_trips};
use testkit::target::echo;
use testkit::{
    Addr, Ending, Kind, Launch, Pair, PairOptions, Program, Target, Wire, any, binary, eventually,
    keygen, proc,
};

/// "new connections accepted for N s" after the first signal.
#[test]
fn a_window_of_acceptance_comes_before_the_drain() {
    let target = Target::echo();
    for (window, hurry) in [("3600s", true), ("100ms", false)] {
        let options = PairOptions::default().encrypt(&["--drain-accept", window]);
        let mut pair = Pair::start(options, target.addr());
        pair.encrypt.terminate();
        let is_soon = |line: &testkit::Line| line.message().starts_with("stopping soon");
        pair.encrypt.program.wait_line("stopping soon", is_soon);
        let held = hurry.then(|| {
            round_trip(pair.entrance());
            let mut wire = pair.connect();
            wire.expect_echo(b"held");
            pair.encrypt.terminate();
            wire
        });
        pair.encrypt.wait_refusing();
        assert_eq!(pair.encrypt.program.exit_code(), i32::from(hurry));
        drop(held);
        pair.decrypt.stop();
    }
}

/// "peer down at start, back later: first success <= 1 s after return". Nothing
/// is tried again behind a client's back, so 1,000 of them make no burst.
#[test]
fn a_far_end_that_comes_back_serves_the_next_client() {
    const CLIENTS: usize = 1_000;
    const LATER: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let middle = Kind::Unix.fresh(dir.path(), "middle");
    let far_end = Launch::decrypt(&key).source(&middle).target(target.addr());
    let far_end = far_end.args(["--metrics", ":0"]);
    for (pool, connections) in [("0", LATER..=LATER), ("4", LATER..=CLIENTS / 10)] {
        let launch = Launch::encrypt(&key).source(&any()).target(&middle).args(["--pool", pool]);
        let mut encrypt = launch.start();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..CLIENTS / 8 {
                        assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
                    }
                });
            }
        });
        let mut decrypt = far_end.start();
        // The very next one, and all that follow.
        round_trips(encrypt.addr(), LATER);
        let came = Metrics::of(&decrypt).get("connections_accepted_total", "");
        assert!(connections.contains(&(came as usize)), "pool {pool}: {came} connections");
        encrypt.stop();
        decrypt.stop();
    }
}

/// Ten times ghostunnel's backend-flapping: "10 dials refused, 20 RST backend, then
/// 10 straight successes".
#[test]
fn a_target_that_flaps_is_served_again_at_once() {
    let (place, closed) = refusing_at([127, 77, 0, 1].into());
    let pair = Pair::to(&place);
    for _ in 0..100 {
        assert_eq!(pair.connect().expect_ending(), Ending::Reset, "it is refused");
    }
    drop(closed);
    let resetting = Target::serve(&place, |wire, _| wire.reset());
    for _ in 0..200 {
        assert_eq!(pair.connect().expect_ending(), Ending::Reset);
    }
    drop(resetting);
    eventually("the old target is gone", || Wire::connect(&place).is_err());
    let target = Target::serve(&place, echo);
    round_trips(pair.entrance(), 100);
    drop(target);
    pair.stop();
}

/// Ten times ghostunnel's reload-under-load: "10 pumps, 5 reloads, 0 errors".
#[test]
fn a_hundred_pumps_go_through_fifty_reloads() {
    const PUMPS: usize = 100;
    const RELOADS: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let far = |more: &str| decrypt_table("far", target.addr(), "\"key\"", more);
    let mut decrypt = Service::start(dir.path(), "far.toml", &far(""));
    let near = |more: &str| encrypt_table("near", &decrypt.addr("far"), "\"key\"", more);
    let mut encrypt = Service::start(dir.path(), "near.toml", &near(""));
    let entrances = repeat_n(encrypt.addr("near"), PUMPS);
    let pumps = Clients::pumps(entrances, 10_000, Duration::from_millis(20));
    for reload in 0..RELOADS {
        let more = format!("timeout = '{}s'", 5 + reload % 2);
        encrypt.reload(&near(&more));
        decrypt.reload(&far(&more));
    }
    println!("during {RELOADS} reloads: {}", pumps.finish().summary());
    encrypt.stop();
    decrypt.stop();
}

/// "SIGKILL at random points with config/state writes, 200 runs: restarts clean". Unix sockets, a
/// pid file, a handover socket and a gate's file are in its way, and another process writes to that
/// file.
#[test]
fn two_hundred_kills_at_any_moment_leave_nothing_that_hinders() {
    const KILLS: usize = 200;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = Noise::new(seed);
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let process = format!("pid-file = {:?}\nhandover = {:?}", path("pid"), path("handover"));
    let tunnels = format!(
        "[tunnels.far]\nmode = \"decrypt\"\nsource = {:?}\ntarget = \"{}\"\nkey = \"key\"\n\
         gate = \"file:gate\"\n\
         [tunnels.near]\nmode = \"encrypt\"\nsource = {:?}\ntarget = {:?}\nkey = \"key\"\npool = 2\n",
        path("middle"),
        target.addr(),
        path("in"),
        path("middle"),
    );
    let mut first = Service::start_with(dir.path(), "all.toml", &process, &tunnels);
    // Progress of its start: the number of its descriptors grows until it is ready.
    let whole = proc::fds(first.program.pid());
    let store = format!("file:{}", path("gate"));
    let gate = |words: &[&str]| {
        let mut command = Command::new(binary());
        let output = command.arg("gate").args(words).args(["--gate", &store]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    first.stop();
    let mut got_ready = 0;
    for kill in 0..KILLS {
        let program = run(&dir.path().join("all.toml"));
        let member = format!("203.0.113.{kill}");
        thread::scope(|scope| {
            scope.spawn(|| gate(&["allow", &member]));
            if kill % 10 == 9 {
                // It started completely, in spite of all the others.
                program.wait_line("ready", |line| line.is("ready") && line.has("tunnel", "near"));
                round_trip(&Addr::parse(&path("in")).unwrap());
            } else {
                let part = random.below(whole + 1);
                let is_ready = || program.count_containing(b"\"ready\"") == 2;
                eventually("it has so much", || proc::fds(program.pid()) >= part || is_ready());
                got_ready += usize::from(is_ready());
            }
            program.signal(Signal::SIGKILL);
        });
    }
    println!("{got_ready} of those that were killed on their way were ready already");
    let mut service = Service::start_with(dir.path(), "all.toml", &process, &tunnels);
    round_trip(&service.addr("near"));
    service.stop();
    assert_eq!(gate(&["list"]).lines().count(), KILLS, "every admitted address is still there");
}

fn run(file: &Path) -> Program {
    let mut command = Command::new(binary());
    command.arg("run").arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    Program::spawn("killed", &mut command)
}
