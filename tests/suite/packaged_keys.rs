//! The way of the keys of the package's units to their user, their permitted modes, and the first
//! advice to an operator without a key.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::geteuid;
use tempfile::TempDir;
use testkit::program::install;
use testkit::tree::read;
use testkit::{End, Launch, Program, binary, keygen};

/// The user of a service, without an account.
const USER: u32 = 61_234;

/// The directories of a service.
struct Places {
    dir: TempDir,
}

impl Places {
    fn new() -> Self {
        assert!(geteuid().is_root(), "this test is about root; run it with sudo");
        let places = Self { dir: TempDir::new().unwrap() };
        for (name, mode, owner) in [("keys", 0o700, 0), ("run", 0o755, USER)] {
            fs::create_dir(places.path(name)).unwrap();
            set(&places.path(name), mode, owner);
        }
        places
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn give(&self, from: &str, to: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/give-keys");
        let mut command = Command::new("sh");
        command.arg(script).args([self.path(from), self.path(to)]);
        command.env("RUNTIME_DIRECTORY", self.path("run")).output().unwrap()
    }

    #[track_caller]
    fn refused(&self, from: &str, to: &str, part: &str) {
        let output = self.give(from, to);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
    }

    /// Lists a directory, hidden files too.
    fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn set(path: &Path, mode: u32, owner: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, Some(owner), None).unwrap();
}

#[track_caller]
fn fine(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn copies_are_the_services_alone_and_follow_the_keys() {
    let places = Places::new();
    for (name, text) in [("a b.key", "one"), ("gate.pass", "two"), (".hidden", "three")] {
        fs::write(places.path("keys").join(name), text).unwrap();
    }
    fs::create_dir(places.path("keys/below")).unwrap();
    fs::write(places.path("elsewhere"), "four").unwrap();
    symlink(places.path("elsewhere"), places.path("keys/link")).unwrap();
    let output = places.give("keys", "copies");
    fine(&output);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("link is a link and is not given") && told.lines().count() == 1,
        "{told}"
    );
    assert_eq!(places.names("copies"), ["a b.key", "gate.pass"]);
    let seen = fs::metadata(places.path("copies")).unwrap();
    assert_eq!((seen.uid(), seen.mode() & 0o7777), (0, 0o711));
    for name in ["a b.key", "gate.pass"] {
        let copy = fs::metadata(places.path("copies").join(name)).unwrap();
        assert_eq!((copy.uid(), copy.mode() & 0o7777), (USER, 0o400));
    }

    // One key changes, one is new, one goes; remains of an earlier run do not matter.
    fs::write(places.path("keys/a b.key"), "five").unwrap();
    fs::write(places.path("keys/new.key"), "six").unwrap();
    fs::remove_file(places.path("keys/gate.pass")).unwrap();
    fs::write(places.path("copies/.new"), "half").unwrap();
    fine(&places.give("keys", "copies"));
    assert_eq!(places.names("copies"), ["a b.key", "new.key"]);
    assert_eq!(fs::read_to_string(places.path("copies/a b.key")).unwrap(), "five");
    assert_eq!(fs::metadata(places.path("copies")).unwrap().ino(), seen.ino(), "it is mounted");
    fs::remove_file(places.path("keys/new.key")).unwrap();
    fs::remove_file(places.path("keys/a b.key")).unwrap();
    fine(&places.give("keys", "copies"));
    assert!(places.names("copies").is_empty());
}

#[test]
fn root_copies_nothing_where_another_user_can_change_a_directory() {
    let places = Places::new();
    fs::write(places.path("keys/a.key"), "one").unwrap();
    fs::create_dir(places.path("theirs")).unwrap();
    symlink(places.path("theirs"), places.path("link")).unwrap();
    for (mode, owner) in [(0o711, USER), (0o733, 0), (0o771, 0)] {
        set(&places.path("theirs"), mode, owner);
        places.refused("keys", "theirs", "no directory that root alone may change");
        places.refused("theirs", "copies", "no directory that root alone may change");
        assert!(places.names("theirs").is_empty() && !places.path("copies").exists());
    }
    set(&places.path("theirs"), 0o711, 0);
    places.refused("keys", "link", "no directory that root alone may change");
    places.refused("link", "copies", "no directory that root alone may change");
    places.refused("none", "copies", "'install -d -m 0700");
    assert!(!places.path("copies").exists());
}

/// The units fit the script, and the configuration file fits the units.
#[test]
fn the_units_give_the_keys_that_the_file_names() {
    for (unit, keys, copies) in [
        ("knockpipe.service", "/etc/knockpipe/keys", "/run/knockpipe.keys"),
        ("knockpipe@.service", "/etc/knockpipe/%i", "/run/knockpipe@%i.keys"),
    ] {
        let text = read(format!("packaging/systemd/{unit}"));
        let outside = "/usr/bin/nsenter --target 1 --mount";
        for line in [
            format!("ExecStartPre=+{outside} /usr/lib/knockpipe/give-keys {keys} {copies}"),
            format!("ExecReload=+{outside} /usr/lib/knockpipe/give-keys {keys} {copies}"),
            format!("BindReadOnlyPaths=-{copies}:{keys}"),
            format!("ExecStopPost=-+/bin/rm -rf {copies}"),
        ] {
            assert!(text.lines().any(|have| have == line), "{unit} has no {line}");
        }
        // Root never writes into a directory of the service's user.
        assert!(!copies.starts_with("/run/knockpipe/") && !copies.starts_with("/run/knockpipe-"));
        assert!(!text.contains("LoadCredential"), "{unit}");
    }
    assert!(read("Cargo.toml").contains(r#"["packaging/give-keys", "usr/lib/knockpipe/", "755"]"#));
}

// === modes ===

#[test]
fn only_a_credential_may_be_open_to_a_group() {
    let places = Places::new();
    let (there, elsewhere) =
        (keygen(&places.path("run"), "key"), keygen(&places.path("keys"), "key"));
    let key_id = |file: &Path, mode: u32, directory: Option<&str>| {
        set(file, mode, 0);
        let mut command = Command::new(binary());
        command.arg("key-id").arg(file).env_remove("CREDENTIALS_DIRECTORY");
        if let Some(directory) = directory {
            command.env("CREDENTIALS_DIRECTORY", places.path(directory));
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() || text.contains("chmod 600"), "{text}");
        output.status.success()
    };
    assert!(key_id(&there, 0o440, Some("run")), "a credential");
    for mode in [0o444, 0o460, 0o644, 0o642] {
        assert!(!key_id(&there, mode, Some("run")), "{mode:o}");
    }
    assert!(!key_id(&elsewhere, 0o440, Some("run")));
    assert!(!key_id(&there, 0o440, None));
    assert!(!read("packaging/knockpipe.toml").contains("allow-readable-key"));
}

/// A file as units with `LoadCredential=key:/etc/knockpipe/keys` have it.
#[test]
fn root_checks_a_file_that_names_credentials() {
    let dir = TempDir::new().unwrap();
    for keys in ["keys", "office"] {
        fs::create_dir(dir.path().join(keys)).unwrap();
        keygen(&dir.path().join(keys), &format!("{keys}.key"));
    }
    let check = |file: &str, key: &str| {
        let text = format!(
            "[tunnels.a]\nmode = \"encrypt\"\nsource = \"127.0.0.1:1\"\ntarget = \"127.0.0.1:2\"\nkey = \"{key}\"\n"
        );
        fs::write(dir.path().join(file), text).unwrap();
        let mut command = Command::new(binary());
        command
            .args(["check", "-c"])
            .arg(dir.path().join(file))
            .env_remove("CREDENTIALS_DIRECTORY");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let credential = |name: &str| format!("${{CREDENTIALS_DIRECTORY}}/{name}");
    for (file, key) in
        [("knockpipe.toml", "keys"), ("office.toml", "office"), ("other.toml", "keys")]
    {
        let (status, said) = check(file, &credential(&format!("key_{key}.key")));
        assert_eq!(status, Some(0), "{said}");
    }
    let (status, said) = check("knockpipe.toml", &credential("key_none.key"));
    assert!(status == Some(2) && said.contains("keys/none.key; copy it from"), "{said}");
    let (status, said) = check("knockpipe.toml", &credential("office.key"));
    assert!(
        status == Some(2) && said.contains("LoadCredential=") && said.contains("; write the path"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

// === the first advice ===

/// A key that was made anew on the second host would lead nowhere.
#[test]
fn a_missing_key_is_copied_before_one_is_made() {
    let dir = TempDir::new().unwrap();
    let text = "[tunnels.a]\nmode = \"encrypt\"\nsource = \"127.0.0.1:0\"\ntarget = \"127.0.0.1:2\"\nkey = \"none\"\n";
    fs::write(dir.path().join("file.toml"), text).unwrap();
    for line in [
        "encrypt -s 127.0.0.1:0 -t 127.0.0.1:2 -k none",
        "decrypt -s 127.0.0.1:0 -t 127.0.0.1:2 -k none",
        "pipe -t 127.0.0.1:2 -k none",
        "-e -F -s [127.0.0.1]:0 -t [127.0.0.1]:2 -k none",
        "-d -F -s [127.0.0.1]:0 -t [127.0.0.1]:2 -k none",
        "run -c file.toml",
        "check -c file.toml",
        "key-id none",
        "encrypt -s 127.0.0.1:0 -t 127.0.0.1:2",
        "key-id empty",
        "key-id short",
    ] {
        fs::write(dir.path().join("empty"), "").unwrap();
        fs::write(dir.path().join("short"), "short").unwrap();
        for name in ["empty", "short"] {
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o600)).unwrap();
        }
        let mut command = Command::new(binary());
        let output = command.args(line.split(' ')).current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        let (copy, make) = (said.find("from the other host"), said.find("knockpipe keygen"));
        assert!(copy.is_some() && copy < make, "{line}: {said}");
    }
}

// === descriptors ===

/// If the limit is too low for all tunnels together, the log names the unit's setting.
#[test]
fn tunnels_that_share_too_few_descriptors_are_told_of_the_units_limit() {
    let dir = TempDir::new().unwrap();
    keygen(dir.path(), "key");
    let table = |n| {
        format!(
            "[tunnels.t{n}]\nmode = \"decrypt\"\nsource = \"127.0.0.1:0\"\ntarget = \"127.0.0.1:2\"\nkey = \"key\"\n"
        )
    };
    let file = dir.path().join("file.toml");
    let warnings = |tunnels: u32| {
        let tables: String = (0..tunnels).map(table).collect();
        fs::write(&file, format!("[process]\nlog-format = \"json\"\n{tables}")).unwrap();
        let launch = Launch::new("run").nofile(18_000).args(["-c".as_ref(), file.as_os_str()]);
        let mut end = launch.start();
        // Its end comes after the lines about all tunnels.
        end.stop();
        let all =
            end.program.log().into_iter().filter(|line| line.message().starts_with("not enough"));
        all.map(|line| line.text()).collect::<Vec<_>>()
    };
    assert_eq!(warnings(4), [""; 0]);
    let told = warnings(8);
    assert!(told.len() >= 8, "each tunnel is told: {told:?}");
    assert!(told.iter().all(|line| line.contains("LimitNOFILE= of a unit")), "{told:?}");
}

// === the answering process ===

/// Only root can make a directory in /run, and no other directory proves as much.
#[test]
fn root_believes_the_user_of_a_directory_that_it_made_in_run() {
    let places = Places::new();
    set(places.dir.path(), 0o755, 0);
    install(&binary(), &places.path("knockpipe"));
    let given = tempfile::Builder::new().prefix("knockpipe-test-").tempdir_in("/run").unwrap();
    let key = keygen(&places.path("run"), "key");
    set(&key, 0o600, USER);
    for (directory, is_believed) in [(given.path(), true), (&places.path("run"), false)] {
        set(directory, 0o755, USER);
        let admin = directory.join("admin.sock");
        let user = USER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--clear-groups", "--"]).arg(places.path("knockpipe"));
        command.args(["decrypt", "--log-format", "json", "-s", "127.0.0.1:0", "-t", "/no/where"]);
        command.arg("-k").arg(&key).arg("--admin").arg(&admin);
        let mut end = End::of(Program::spawn("service", &mut command));
        let status =
            Command::new(binary()).args(["status", "--admin"]).arg(&admin).output().unwrap();
        let said = String::from_utf8(status.stderr).unwrap();
        assert_eq!(status.status.success(), is_believed, "{said}");
        assert_eq!(said.contains("a process of another user"), !is_believed, "{said}");
        end.stop();
    }
}
