//! What happens to a service in its life: it is stopped behind a load balancer,
//! its far end and its target come and go, it is killed at any moment.

use crate::common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::RngExt;

use common::file::{Service, decrypt_table, encrypt_table};
use common::legit::{round_trip, round_trips};
use common::target::echo;
use common::{
    Addr, Ending, Kind, Launch, NEVER, Pair, PairOptions, Target, Wire, binary, eventually, keygen,
};

fn any() -> Addr {
    Kind::Tcp4.fresh(Path::new("/"), "")
}

/// E2: "new connections accepted for N s" after the first signal.
#[test]
fn a_window_of_acceptance_comes_before_the_drain() {
    let target = Target::echo();
    for hurry in [false, true] {
        let window = if hurry { "3600" } else { "2" };
        let options = PairOptions::default().encrypt(&["--drain-accept", window]);
        let mut pair = Pair::start(options, target.addr());
        pair.encrypt.terminate();
        let is_soon = |line: &common::Line| line.message().starts_with("stopping soon");
        pair.encrypt.program.wait_line("stopping soon", is_soon);
        round_trip(pair.entrance());
        let held = hurry.then(|| {
            let mut wire = pair.connect();
            wire.expect_echo(b"held");
            wire
        });
        if hurry {
            pair.encrypt.terminate();
        }
        pair.encrypt.wait_refusing();
        assert_eq!(pair.encrypt.program.exit_code(), i32::from(hurry));
        drop(held);
        pair.decrypt.stop();
    }
}

/// E9: "peer down at start, back later: first success <= 1 s after return". Nothing
/// is tried again behind a client's back, so 1,000 of them make no burst.
#[test]
fn a_far_end_that_comes_back_serves_the_next_client() {
    const CLIENTS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let middle = Kind::Unix.fresh(dir.path(), "middle");
    let far_end = || Launch::decrypt(&key).source(&middle).target(target.addr()).start();
    for pool in ["0", "4"] {
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
        let mut decrypt = far_end();
        let back = Instant::now();
        eventually("somebody is served", || {
            Wire::connect(encrypt.addr()).is_ok_and(|mut wire| wire.echoes(b"back?", NEVER))
        });
        println!("pool {pool}: first success {:?} after the return", back.elapsed());
        round_trips(encrypt.addr(), 20);
        encrypt.stop();
        decrypt.stop();
    }
}

/// Ten times ghostunnel's backend-flapping: "10 dials refused, 20 RST backend, then
/// 10 straight successes".
#[test]
fn a_target_that_flaps_is_served_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let place = Kind::Unix.fresh(dir.path(), "target");
    let pair = Pair::to(&place);
    for _ in 0..100 {
        assert_eq!(pair.connect().expect_ending(), Ending::Reset, "nobody listens");
    }
    let resetting = Target::serve(&place, |wire, _| wire.reset());
    for _ in 0..200 {
        let mut wire = pair.connect();
        assert_ne!(wire.read_to_ending(NEVER).1, Ending::Silent);
    }
    drop(resetting);
    let gone = |place: &Addr| Wire::connect(place).is_err();
    eventually("the old target is gone", || gone(&place));
    if let Addr::Unix(path) = &place {
        let _ = fs::remove_file(path);
    }
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
    let entrance = encrypt.addr("near");
    let (reloads, trips) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..PUMPS {
            scope.spawn(|| {
                let mut wire = Wire::connect(&entrance).unwrap();
                while reloads.load(Ordering::SeqCst) < RELOADS {
                    wire.expect_echo(&[5; 10_000]);
                    trips.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        for reload in 0..RELOADS {
            let more = format!("timeout = {}", 5 + reload % 2);
            encrypt.reload(&near(&more));
            decrypt.reload(&far(&more));
            reloads.fetch_add(1, Ordering::SeqCst);
        }
    });
    println!("{} round trips during {RELOADS} reloads", trips.load(Ordering::SeqCst));
    encrypt.stop();
    decrypt.stop();
}

/// E11: "SIGKILL at random points with config/state writes, 200 runs: restarts clean".
/// Unix sockets, a pid file, a handover socket and a gate's file are in its way.
#[test]
fn two_hundred_kills_at_any_moment_leave_nothing_that_hinders() {
    const KILLS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = format!(
        "[process]\nlog-format = \"json\"\npid-file = {:?}\nhandover = {:?}\n\
         [tunnels.far]\nmode = \"decrypt\"\nsource = {:?}\ntarget = \"{}\"\nkey = \"key\"\n\
         gate = \"file:gate\"\n\
         [tunnels.near]\nmode = \"encrypt\"\nsource = {:?}\ntarget = {:?}\nkey = \"key\"\npool = 2\n",
        path("pid"),
        path("handover"),
        path("middle"),
        target.addr(),
        path("in"),
        path("middle"),
    );
    let file = dir.path().join("all.toml");
    fs::write(&file, &text).unwrap();
    let mut random = rand::rng();
    for kill in 0..KILLS {
        let mut command = std::process::Command::new(binary());
        command.arg("run").arg("-c").arg(&file).stdin(std::process::Stdio::null());
        let mut program = common::Program::spawn("killed", &mut command);
        if kill % 10 == 9 {
            // It got all the way to its work, in spite of all the others.
            program.wait_line("ready", |line| line.is("ready") && line.has("tunnel", "near"));
            round_trip(&Addr::parse(&path("in")).unwrap());
        } else {
            thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
            assert!(program.is_running(), "kill {kill}: {}", program.tail());
        }
        program.signal(Signal::SIGKILL);
        program.wait();
    }
    let text = text.split_once("[tunnels.far]").unwrap().1;
    let process = format!("pid-file = {:?}\nhandover = {:?}", path("pid"), path("handover"));
    let text = format!("[tunnels.far]{text}");
    let mut service = Service::start_with(dir.path(), "all.toml", &process, &text);
    round_trip(&service.addr("near"));
    service.stop();
}
