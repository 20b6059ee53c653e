//! `knockpipe status` of many tunnels: problems first and in words, at a terminal no more than it
//! can show.

use std::fs::File;
use std::io::Read;
use std::iter::repeat_n;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use serde_json::Value;
use tempfile::TempDir;
use testkit::address::refusing;
use testkit::admin::Admin;
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::legit::Clients;
use testkit::{Addr, Kind, Launch, NEVER, Target, any, binary, eventually, keygen};

const KEY: &str = "\"key\"";

/// Returns the output of a command at a terminal of 80x24.
fn at_a_terminal(admin: &Admin, args: &[&str]) -> String {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let mut command = Command::new(binary());
    command.args(args).arg("--admin").arg(&admin.0).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::from(terminal.slave)).spawn().unwrap();
    // It holds a copy of the terminal's other side.
    drop(command);
    let mut shown = vec![];
    // Once the other side is closed, reading is an error.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

/// Returns the rows of the tunnels: name and state.
fn rows(text: &str) -> Vec<(String, String)> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("TUNNEL"));
    let state = lines.next().unwrap_or_else(|| panic!("no table: {text}")).find("STATE").unwrap();
    let rows = lines.take_while(|line| !line.is_empty() && !line.starts_with("and "));
    let row = |line: &str| {
        let name = line.split_whitespace().next().unwrap().to_owned();
        (name, line[state..].to_owned())
    };
    rows.map(row).collect()
}

/// A process with 40 tunnels, of which some have a problem, and all the parts of that.
struct Forty {
    admin: Admin,
    service: Service,
    target: Target,
    dir: TempDir,
}

impl Forty {
    #[track_caller]
    fn start(nowhere: &Addr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        keygen(dir.path(), "key");
        let target = Target::echo();
        let far = |name: &str, more: &str| decrypt_table(name, target.addr(), KEY, more);
        let mut tunnels = vec![
            decrypt_table("m-checked", nowhere, KEY, "check = \"tcp/1s\""),
            encrypt_table("n-away", nowhere, KEY, ""),
            encrypt_table("o-pool", nowhere, KEY, "pool = 2"),
            far("p-gate", &format!("gate = \"redis://{nowhere}\"")),
            far("q-full", "max-sessions = 1"),
            far("r-open", &format!("gate = \"redis://{nowhere}\"\ngate-failure = \"open\"")),
        ];
        tunnels.extend((tunnels.len()..40).map(|place| far(&format!("a-{place}"), "")));
        let path = dir.path().join("admin.sock");
        let process = format!("admin = {path:?}");
        let text = tunnels.concat();
        let service = Service::start_with(dir.path(), "forty.toml", &process, &text);
        Self { admin: Admin(path), service, target, dir }
    }

    fn rows(&self) -> Vec<(String, String)> {
        rows(&self.admin.says(0, &["status"]))
    }
}

#[test]
fn forty_tunnels_fit_on_a_terminal_and_what_is_wrong_comes_first() {
    let (nowhere, _held) = refusing();
    let forty = Forty::start(&nowhere);
    let key = forty.dir.path().join("key");
    testkit::Wire::connect(&forty.service.addr("n-away")).unwrap().read_to_ending(NEVER);
    let full = Launch::encrypt(&key).source(&any()).target(&forty.service.addr("q-full")).start();
    let mut client = full.connect();
    client.expect_echo(b"takes the only session");
    let broken = [
        ("m-checked", "all targets down"),
        ("n-away", "far end down"),
        ("o-pool", "far end down, pool empty"),
        ("p-gate", "gate store down"),
        ("q-full", "full"),
    ];
    let expected = broken.into_iter().chain([("r-open", "gate store down")]);
    let expected: Vec<(String, String)> =
        expected.map(|(name, state)| (name.to_owned(), state.to_owned())).collect();
    eventually("all that is wrong is told", || forty.rows()[..6] == expected);
    let all = forty.rows();
    assert_eq!(all.len(), 40);
    assert!(all[6..].iter().all(|(_, state)| state == "ok"), "{all:?}");
    assert!(all[6..].is_sorted(), "{all:?}");

    let text = at_a_terminal(&forty.admin, &["status"]);
    assert!(text.lines().count() <= 23, "and a line for the prompt: {text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let shown = rows(&text);
    let words = |rows: &[(String, String)]| rows[..6].iter().map(|it| it.0.clone()).collect();
    let names: Vec<String> = words(&shown);
    assert_eq!(names, words(&all) as Vec<String>, "{text}");
    assert!(shown[6..].iter().all(|(_, state)| state == "ok") && shown.len() > 6, "{text}");
    let rest = 40 - shown.len();
    let last = format!("and {rest} more: {rest} ok; --all shows them");
    assert_eq!(text.lines().last(), Some(&*last), "{text}");
    assert!(text.contains("5 broken, 1 degraded, 34 ok\n"), "{text}");
    let text = at_a_terminal(&forty.admin, &["status", "--all"]);
    assert_eq!(rows(&text).len(), 40, "{text}");

    // The same for programs.
    let status = forty.admin.status();
    let of = |name: &str| {
        let tunnels = status["tunnels"].as_array().unwrap();
        tunnels.iter().find(|tunnel| tunnel["name"] == name).unwrap().clone()
    };
    for (name, what) in [("n-away", "far end down"), ("p-gate", "gate store down")] {
        let wrong = &of(name)["wrong"][0];
        assert_eq!((&wrong["what"], &wrong["broken"]), (&what.into(), &true.into()), "{status}");
    }
    assert_eq!(of("a-6")["wrong"], Value::Array(vec![]));
    let details = forty.admin.says(0, &["status", "--tunnel", "n-away"]);
    assert!(details.starts_with("n-away: encrypt, serving\n"), "{details}");
    assert!(details.contains("  wrong        far end down\n"), "{details}");
    let target = format!("  targets      {nowhere} failing for ");
    assert!(details.contains(&target) && !details.contains("p-gate"), "{details}");

    // Traffic through one of them does not hide it.
    forty.service.write(&decrypt_table("q-full", forty.target.addr(), KEY, "max-sessions = 9"));
    assert!(
        forty.admin.says(0, &["reload"]).starts_with("changed q-full (max-sessions); removed ")
    );
    eventually("the others have no session and are gone", || {
        forty.admin.says(0, &["status"]).contains("tunnels      1 ok\n")
    });
    client.expect_echo(b"goes on");
    forty.service.write(&decrypt_table("other", forty.target.addr(), KEY, ""));
    forty.admin.says(0, &["reload"]);
    let drains = ("q-full".to_owned(), "draining".to_owned());
    assert_eq!(forty.rows(), [drains, ("other".to_owned(), "ok".to_owned())]);
}

/// A far end that is there again is reported as soon as a client got through.
#[test]
fn a_far_end_that_comes_back_is_well_again() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let (far, path) = (Kind::Unix.fresh(dir.path(), "far"), dir.path().join("admin.sock"));
    let launch = Launch::encrypt(&key).source(&any()).target(&far).args(["--admin"]);
    let near = launch.args([&path]).start();
    let admin = Admin(path);
    let what = || admin.tunnel()["wrong"][0]["what"].clone();
    assert_eq!(what(), Value::Null, "no client has tried");
    near.connect().read_to_ending(NEVER);
    eventually("it is told", || what() == "far end down");
    assert!(admin.tunnel()["targets"][0]["failing_s"].is_u64());
    let echo = Target::echo();
    let _far = Launch::decrypt(&key).source(&far).target(echo.addr()).start();
    near.connect().expect_echo(b"hello");
    assert_eq!(what(), Value::Null);
    assert_eq!(admin.tunnel()["targets"][0]["failing_s"], Value::Null);
}

#[test]
fn rates_are_what_goes_through_in_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let (echo, path) = (Target::echo(), dir.path().join("admin.sock"));
    let far = Launch::decrypt(&key).source(&any()).target(echo.addr());
    let far = far.args(["--admin"]).args([&path]).start();
    let near = Launch::encrypt(&key).source(&any()).target(far.addr()).start();
    let admin = Admin(path);
    let rate = |name: &str| admin.tunnel()[name].as_u64().expect("it is a number");
    let all = ["accepted_per_s", "sent_per_s", "received_per_s"];
    assert_eq!(all.map(rate), [0, 0, 0]);
    let comers = Clients::comers(repeat_n(near.addr().clone(), 2), Duration::from_millis(20));
    eventually("connections and bytes have rates", || all.map(rate).iter().all(|rate| *rate > 0));
    let text = admin.says(0, &["status", "--tunnel", "decrypt"]);
    assert!(text.lines().any(|line| line.contains("per second") && line.contains(" sent, ")));
    comers.finish();
    eventually("and none afterwards", || all.map(rate) == [0, 0, 0]);
}

#[test]
fn a_tunnel_that_there_is_not_is_told_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let (nowhere, _held) = refusing();
    let tables = ["redis", "mysql"].map(|name| decrypt_table(name, &nowhere, KEY, ""));
    let path = dir.path().join("admin.sock");
    let process = format!("admin = {path:?}");
    let _service = Service::start_with(dir.path(), "two.toml", &process, &tables.concat());
    let admin = Admin(path);
    for command in ["status", "who", "kick"] {
        for form in [&[][..], &["--json"]] {
            let output = admin.run(&[&[command, "--tunnel", "rediss"], form].concat());
            let line = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
            let told = "there is no tunnel 'rediss'; choose one of: mysql, redis";
            assert!(line.contains(told), "{command}: {line}");
            assert!(output.stdout.is_empty(), "{command}");
        }
    }
    admin.says(3, &["kick", "--tunnel", "redis"]);
    admin.says(0, &["who", "--tunnel", "redis"]);
    assert!(admin.says(0, &["status", "--tunnel", "redis"]).starts_with("redis: decrypt"));
}

/// A reader of a file or a pipe gets all of each tunnel, and no line is cut.
#[test]
fn what_is_no_terminal_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let (nowhere, _held) = refusing();
    let name = "a-tunnel-whose-name-is-as-long-as-names-are";
    let tables = [name, "b"].map(|name| decrypt_table(name, &nowhere, KEY, ""));
    let path = dir.path().join("admin.sock");
    let process = format!("admin = {path:?}");
    let _service = Service::start_with(dir.path(), "two.toml", &process, &tables.concat());
    let admin = Admin(path);
    assert!(admin.says(0, &["status"]).contains(&format!("{name} ")));
    assert!(at_a_terminal(&admin, &["status"]).lines().all(|line| line.len() <= 80));
}
