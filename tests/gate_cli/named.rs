//! Ways to name a gate: a variable, a configuration file, a running process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Answer, Store, complaint, finish, objects};
use tempfile::TempDir;
use testkit::redis::Reply;
use testkit::{Addr, Launch, Target, binary, keygen};

/// Runs `gate WORDS`, with these variables.
pub(super) fn gate(words: &str, variables: &[(&str, &str)]) -> Answer {
    let mut command = Command::new(binary());
    command.arg("gate").args(words.split(' ')).current_dir("/");
    for variable in ["KNOCKPIPE_GATE", "KNOCKPIPE_GATE_CREDENTIALS", "KNOCKPIPE_ADMIN"] {
        command.env_remove(variable);
    }
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command, "")
}

#[track_caller]
pub(super) fn good(words: &str) -> String {
    let answer = gate(words, &[]);
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""), "{words}: {answer:?}");
    answer.out
}

/// Writes a configuration file with a tunnel behind the gate `staff`, and further text.
pub(super) fn config(dir: &TempDir, gates: &str, tunnel: &str) -> PathBuf {
    if !dir.path().join("key").exists() {
        keygen(dir.path(), "key");
    }
    let file = dir.path().join("knockpipe.toml");
    let text = format!(
        "{gates}\n[tunnels.redis]\nmode = 'decrypt'\nsource = '127.0.0.1:1'\n\
         target = '127.0.0.1:2'\nkey = 'key'\n{tunnel}\n"
    );
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn the_environment_names_the_store() {
    let store = Store::redis();
    let variable = [("KNOCKPIPE_GATE", store.flags[1].as_str())];
    let answer = gate("allow 203.0.113.7", &variable);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(gate("list", &variable).out.contains("203.0.113.7"));
    assert_eq!(store.ask("SISMEMBER ip-allowed 203.0.113.7"), Reply::Number(1));
    // A typed flag takes precedence.
    let file = Store::file();
    file.good("allow 198.51.100.1");
    let answer = gate(&format!("list {}", file.flags.join(" ")), &variable);
    assert!(answer.out.contains("198.51.100.1") && !answer.out.contains("203."), "{answer:?}");
    complaint(&gate("list", &[("KNOCKPIPE_GATE", "nonsense")]), 2, &["KNOCKPIPE_GATE", "scheme"]);
    for nothing in [&[][..], &[("KNOCKPIPE_GATE", "")]] {
        let ways = ["--gate URL", "KNOCKPIPE_GATE", "-c FILE", "--gate-name", "--admin PATH"];
        complaint(&gate("list", nothing), 2, &ways);
    }
}

#[test]
fn a_file_names_the_gate_with_all_that_it_says() {
    let store = Store::redis_with(&["--requirepass", "geheim"]);
    let dir = tempfile::tempdir().unwrap();
    let gates = format!(
        "[gates.staff]\ngate = '{}'\ngate-credentials = 'pass'\nset = 'staff'\nallow-prefix = 'may'\n\
         ban-prefix = 'out'\ndeny = ['192.0.2.0/24']\nallow = ['198.51.100.1']\ndenied = 'tarpit'\n\
         ban-after = '3/1m/1h'\nproxy-from = ['203.0.113.99']",
        store.flags[1]
    );
    let file = config(&dir, &gates, "gate = 'staff'");
    fs::write(dir.path().join("pass"), "geheim\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(dir.path().join("pass"), private).unwrap();
    let by_name = format!("-c {}", file.display());
    store.redis.as_ref().unwrap().direct().ask(&["AUTH", "geheim"]);
    good(&format!("allow 203.0.113.7 203.0.113.0/24 {by_name}"));
    for way in ["", " --gate-name staff", " --tunnel redis"] {
        assert!(good(&format!("list {by_name}{way}")).contains("203.0.113.7"), "{way}");
    }
    let text = good(&format!("ban 203.0.113.8 {by_name}"));
    assert!(text.contains("key out:203.0.113.8"), "{text}");
    // An address that its own flags admit is not banned by mistake.
    for spared in ["198.51.100.1", "203.0.113.99"] {
        let answer = gate(&format!("ban {spared} {by_name}"), &[]);
        complaint(&answer, 2, &[spared, "--force"]);
    }
    for (ip, verdict) in [
        ("203.0.113.7", "allowed: allow-set"),
        ("203.0.113.8", "denied: banned"),
        ("192.0.2.1", "denied: static-deny"),
        ("198.51.100.1", "allowed: static-allow"),
        ("10.0.0.1", "denied: not-allowed"),
    ] {
        let why = good(&format!("why {ip} {by_name}"));
        assert!(why.starts_with(&format!("{ip} is {verdict}")), "{why}");
        let is_denied = verdict.starts_with("denied");
        assert_eq!(why.contains("response      tarpit (--denied)"), is_denied, "{why}");
        assert!(why.contains("strikes       0 of 3") && !why.contains("repeat"), "{why}");
    }
    for (words, parts) in [
        (format!("why 203.0.113.7 --deny 192.0.2.1 {by_name}"), ["--deny", "exclude each other"]),
        (format!("list --gate redis://h {by_name}"), ["-c/--config", "exclude each other"]),
        (format!("list --set other {by_name}"), ["--set", "exclude each other"]),
        (format!("list --admin /a {by_name}"), ["--admin", "exclude each other"]),
        (format!("list --gate-name other {by_name}"), ["[gates.other]", "choose one of: staff"]),
        (format!("list --tunnel other {by_name}"), ["[tunnels.other]", "choose one of: redis"]),
        ("list --gate redis://h --gate-name x".to_owned(), ["--gate-name", "exclude each other"]),
        ("list --gate-name x".to_owned(), ["--gate-name", "add -c FILE"]),
        ("list -c /no/such.toml".to_owned(), ["/no/such.toml", "cannot read"]),
    ] {
        complaint(&gate(&words, &[]), 2, &parts);
    }
}

#[test]
fn of_several_gates_one_is_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let gates = "[gates.staff]\ngate = 'file:staff'\n[gates.guests]\ngate = 'file:guests'";
    let file = config(&dir, gates, "gate = 'guests'");
    let by = format!("-c {}", file.display());
    complaint(&gate(&format!("list {by}"), &[]), 2, &["--gate-name", "guests, staff"]);
    let text = good(&format!("allow 203.0.113.7 {by} --gate-name staff"));
    assert!(text.trim_end().ends_with(dir.path().join("staff").to_str().unwrap()), "{text}");
    good(&format!("allow 203.0.113.8 {by} --tunnel redis"));
    assert!(dir.path().join("guests").exists(), "beside the file");
    // A store of a tunnel's own, without a table, and a tunnel that cannot run.
    let file = config(&dir, "", "gate = 'file:own'\nallow = ['192.0.2.1']");
    fs::remove_file(dir.path().join("key")).unwrap();
    let by = format!("-c {}", file.display());
    good(&format!("allow 203.0.113.9 {by}"));
    assert!(good(&format!("why 192.0.2.1 {by}")).starts_with("192.0.2.1 is allowed: static-allow"));
    let file = config(&dir, "", "");
    let answer = gate(&format!("list -c {}", file.display()), &[]);
    complaint(&answer, 2, &["there is no gate", "[gates.NAME]"]);
}

/// Starts a decrypt end with an admin socket, and more flags.
pub(super) fn decrypt(dir: &Path, args: &[&str]) -> (testkit::End, String) {
    let target = Target::serve(&Addr::Unix(dir.join("target.sock")), testkit::target::echo);
    let admin = dir.join("admin.sock").display().to_string();
    let launch = Launch::decrypt(&keygen(dir, "key"))
        .source(&testkit::any())
        .target(target.addr())
        .args(["--admin", &admin])
        .args(args);
    (launch.start(), format!("--admin {admin}"))
}

#[test]
fn a_running_process_says_what_it_would_do() {
    let store = Store::redis();
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--gate", &store.flags[1], "--set", "staff", "--denied", "reset"];
    let rules = ["--deny", "192.0.2.0/24", "--allow", "198.51.100.1", "--proxy-from", "10.0.0.9"];
    let (_end, admin) = decrypt(dir.path(), &[&flags[..], &rules].concat());
    let text = good(&format!("allow 203.0.113.7 203.0.113.8 {admin} --tunnel decrypt"));
    assert!(text.contains("key staff on "), "{text}");
    good(&format!("ban 203.0.113.8 --ttl 1h {admin}"));
    complaint(&gate(&format!("ban 198.51.100.1 {admin}"), &[]), 2, &["--allow", "--force"]);
    assert!(good(&format!("list {admin}")).contains("allowed  203.0.113.7"));
    let said = |ip: &str| good(&format!("why {ip} {admin}"));
    testkit::eventually("the tunnel knows both", || {
        said("203.0.113.7").starts_with("203.0.113.7 is allowed: allow-set")
            && said("203.0.113.8").starts_with("203.0.113.8 is denied: banned, for ")
    });
    for (ip, verdict, decided) in [
        ("192.0.2.1", "denied", "static-deny"),
        ("198.51.100.1", "allowed", "static-allow"),
        ("203.0.113.8", "denied", "ban"),
        ("203.0.113.9", "denied", "default"),
        ("10.0.0.1", "denied", "default"),
        ("unknown", "denied", "static-deny"),
    ] {
        let text = said(ip);
        assert!(text.contains(&format!("=> {decided} ")), "{text}");
        assert!(text.contains("tunnel        decrypt"), "{text}");
        assert_eq!(text.contains("response      reset"), verdict == "denied", "{text}");
        let one = &objects(&good(&format!("why {ip} --json {admin}")))[0];
        assert_eq!((&one["verdict"], &one["decided"]), (&verdict.into(), &decided.into()), "{one}");
        assert_eq!(one["tunnel"], "decrypt");
    }
    assert!(said("10.0.0.9").contains("a load balancer (--proxy-from)"));
    let announced = format!("why 10.0.0.9 --announced {admin}");
    assert!(!good(&announced).contains("load balancer"));
    complaint(&gate(&format!("list {admin} --tunnel x"), &[]), 1, &["no tunnel 'x'", "decrypt"]);
    let answer = gate(&format!("why 203.0.113.7 --deny 192.0.2.1 {admin}"), &[]);
    complaint(&answer, 2, &["--deny", "--admin", "exclude each other"]);
    complaint(&gate("list --admin /no/where", &[]), 1, &["no knockpipe answers at /no/where"]);
}

/// A tunnel with an unavailable store answers all the same, by its policy.
#[test]
fn a_process_without_its_store_tells_its_stance() {
    let dir = tempfile::tempdir().unwrap();
    let (no_listener, _held) = testkit::address::refusing();
    let url = format!("redis://{no_listener}");
    let (_end, admin) = decrypt(dir.path(), &["--gate", &url, "--gate-failure", "open"]);
    let text = good(&format!("why 203.0.113.7 {admin}"));
    assert!(text.starts_with("203.0.113.7 is allowed: store-unavailable-open"), "{text}");
    let (_end, admin) = {
        let dir = dir.path().join("other");
        fs::create_dir(&dir).unwrap();
        decrypt(&dir, &[])
    };
    complaint(&gate(&format!("why 203.0.113.7 {admin}"), &[]), 1, &["have no gate", "--gate"]);
}

/// The socket tells the path of the password file, and never the password.
#[test]
fn no_password_goes_over_the_socket() {
    let store = Store::redis_with(&["--requirepass", "geheim"]);
    let dir = tempfile::tempdir().unwrap();
    let pass = dir.path().join("pass");
    fs::write(&pass, "geheim\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&pass, private).unwrap();
    let credentials = pass.display().to_string();
    let flags = ["--gate", &store.flags[1], "--gate-credentials", &credentials];
    let (_end, admin) = decrypt(dir.path(), &flags);
    good(&format!("allow 203.0.113.7 {admin}"));
    let socket = Addr::Unix(PathBuf::from(admin.trim_start_matches("--admin ")));
    let mut wire = testkit::Wire::connect(&socket).unwrap();
    std::io::Write::write_all(&mut wire, b"{\"command\":\"gates\"}\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut wire, &mut answer).unwrap();
    assert!(answer.contains(&credentials) && !answer.contains("geheim"), "{answer}");
}
