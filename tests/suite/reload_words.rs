//! Answers to the order to reload: the changes, by name, those that take a restart, and the user as
//! which files were read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::geteuid;
use serde_json::{Value, json};
use testkit::address::refusing;
use testkit::admin::Admin;
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::{Launch, any, keygen};

/// Returns a file with its tunnels, and the flags of the process.
fn text(dir: &Path, process: &str, tunnels: &[String]) -> String {
    let admin = dir.join("admin.sock");
    let process = format!("[process]\nlog-format = \"json\"\nadmin = {admin:?}\n{process}\n");
    process + &tunnels.concat()
}

#[test]
fn a_reload_names_what_changed_and_which_settings() {
    let dir = tempfile::tempdir().unwrap();
    for key in ["key", "new"] {
        keygen(dir.path(), key);
    }
    let (nowhere, _held) = refusing();
    let decrypt = |name: &str, key: &str, more: &str| decrypt_table(name, &nowhere, key, more);
    let same = decrypt("same", "\"key\"", "");
    let file = dir.path().join("tunnels.toml");
    let gone = decrypt("gone", "\"key\"", "");
    let before = [
        same.clone(),
        decrypt("mysql", "\"key\"", "allow = \"192.0.2.0/24\""),
        encrypt_table("near", &nowhere, "\"key\"", "pool = 1"),
        gone.clone(),
    ];
    let process = format!("admin = {:?}", dir.path().join("admin.sock"));
    let service = Service::start_with(dir.path(), "tunnels.toml", &process, &before.concat());
    let admin = Admin(dir.path().join("admin.sock"));
    assert_eq!(admin.says(0, &["reload"]), "nothing changed; 4 the same\n");
    let gated = "max-sessions = 7\nallow = \"198.51.100.0/24\"";
    let after = [
        same,
        decrypt("mysql", "[\"key\", \"new\"]", gated),
        encrypt_table("near", &nowhere, "\"key\"", "pool = 2\nservice = \"x\"\ntimeout = '7s'"),
        decrypt("redis", "\"key\"", ""),
    ];
    fs::write(&file, text(dir.path(), "drain-accept = '3s'", &after)).unwrap();
    let said = admin.says(0, &["reload"]);
    let expected = "added redis; changed mysql (key, max-sessions, allow), \
                    near (service, pool, timeout); removed gone; 1 the same; \
                    [process] changed (drain-accept), which needs a restart";
    assert_eq!(said, format!("{expected}\n"));
    assert_eq!(admin.status()["reload"]["message"], expected);
    assert!(admin.says(0, &["status"]).contains(&format!("reload       done: {expected}\n")));
    let log = service.program.log();
    let line = log.iter().rfind(|line| line.is("reloaded")).unwrap();
    assert_eq!(line.field("detail").as_deref(), Some(expected), "{}", line.text());
    let counts = ["added", "changed", "removed", "same"].map(|name| line.number(name).unwrap());
    assert_eq!(counts, [1, 2, 1, 1]);
    let warned = log.iter().rfind(|it| it.message().starts_with("settings of [process]"));
    assert_eq!(warned.unwrap().field("settings").as_deref(), Some("drain-accept"));
    // Again, as JSON; what needs a restart is still to be done.
    let said: Value = serde_json::from_str(&admin.says(0, &["reload", "--json"])).unwrap();
    let nothing = json!({
        "added": [], "changed": [], "removed": [], "same": 4, "restart": ["drain-accept"],
    });
    assert_eq!(said, json!({ "reloaded": nothing }));
    fs::write(&file, text(dir.path(), "", &[after[0].clone(), gone])).unwrap();
    let said: Value = serde_json::from_str(&admin.says(0, &["reload", "--json"])).unwrap();
    assert_eq!(said["reloaded"]["added"], json!(["gone"]));
    assert_eq!(said["reloaded"]["removed"], json!(["mysql", "near", "redis"]));
    assert_eq!(admin.status()["reload"]["changes"], said["reloaded"]);
}

/// A tunnel of a command line is named by its mode, and only the content of its files can change.
#[test]
fn a_reload_of_one_end_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let (key, next) = (keygen(dir.path(), "key"), keygen(dir.path(), "next"));
    let (nowhere, _held) = refusing();
    let path = dir.path().join("admin.sock");
    let launch = Launch::decrypt(&key).source(&any()).target(&nowhere).args(["--admin"]);
    let _end = launch.args([&path]).start();
    fs::rename(next, key).unwrap();
    assert_eq!(Admin(path).says(0, &["reload"]), "changed decrypt (key)\n");
}

/// Root began, and the user that it became may not read the key.
#[test]
fn a_key_that_cannot_be_read_names_the_user_who_reads() {
    assert!(geteuid().is_root(), "this test takes root; run it with sudo");
    let open = |mode| Permissions::from_mode(mode);
    let dir = tempfile::Builder::new().permissions(open(0o755)).tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let (nowhere, _held) = refusing();
    for flag in [None, Some("no-sandbox = true")] {
        let path = dir.path().join("admin.sock");
        let process = format!("user = \"nobody\"\nadmin = {path:?}\n{}", flag.unwrap_or_default());
        let table = decrypt_table("far", &nowhere, &format!("{key:?}"), "");
        let service = Service::start_with(dir.path(), "far.toml", &process, &table);
        let output = Admin(path).run(&["reload", "--user", "nobody"]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains("key file") && line.contains("Permission denied"), "{line}");
        assert!(line.contains("read as user 'nobody'"), "{line}");
        assert_eq!(line.contains("the sandbox does not"), flag.is_none(), "{line}");
        drop(service);
    }
}

/// Files that no tunnel uses are read at a reload too, anywhere in the configuration.
#[test]
fn a_key_that_no_tunnel_uses_may_be_in_another_directory() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let key = keygen(elsewhere.path(), "old");
    let password = elsewhere.path().join("password");
    fs::write(&password, "secret").unwrap();
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let (nowhere, _held) = refusing();
    let unused = format!(
        "[keys]\nold = {key:?}\n[gates.old]\ngate = \"redis://127.0.0.1:1\"\n\
         gate-credentials = {password:?}\n"
    );
    let table = |more: &str| decrypt_table("far", &nowhere, "\"./key\"", more) + "\n" + &unused;
    let service = Service::start(dir.path(), "far.toml", &table(""));
    let line = service.reload(&table("timeout = '7s'"));
    assert_eq!(line.field("detail").as_deref(), Some("changed far (timeout)"), "{}", line.text());
}

/// A store with unchanged files is not mentioned.
#[test]
fn accepting_readable_files_changes_no_gate() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let (nowhere, _held) = refusing();
    let gate = dir.path().join("gate");
    let table = |more: &str| {
        let gate = format!("gate = \"file:{}\"\n{more}", gate.display());
        decrypt_table("far", &nowhere, "\"key\"", &gate)
    };
    let service = Service::start(dir.path(), "far.toml", &table(""));
    let line = service.reload(&table("allow-readable-key = true"));
    let detail = line.field("detail");
    assert_eq!(detail.as_deref(), Some("nothing changed; 1 the same"), "{}", line.text());
}
