//! A process of another user that tells root's command where its store is. Needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Answer, Store, complaint, finish};
use testkit::program::{install, require};
use testkit::{Program, binary, keygen};

const USER: u32 = 65534;

fn theirs(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, Some(USER), None).unwrap();
}

fn ask(admin: &Path, password: Option<&str>) -> Answer {
    let mut command = Command::new(binary());
    command.args(["gate", "allow", "203.0.113.7", "--user", "nobody", "--admin"]).arg(admin);
    command.env_remove("KNOCKPIPE_GATE_CREDENTIALS");
    command.envs(password.map(|password| ("KNOCKPIPE_GATE_CREDENTIALS", password)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command, "")
}

/// After its start its password file is replaced by a link to one of root's.
#[test]
fn root_reads_nothing_that_the_process_could_not() {
    require("setpriv", "util-linux");
    let store = Store::redis_with(&["--requirepass", "geheim"]);
    let open = Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
    install(&binary(), &dir.path().join("knockpipe"));
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let (key, pass, admin) = (keygen(&home, "key"), home.join("pass"), home.join("admin.sock"));
    fs::write(&pass, "geheim\n").unwrap();
    theirs(&home, 0o755);
    theirs(&key, 0o600);
    theirs(&pass, 0o600);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--"]).arg(dir.path().join("knockpipe"));
    command.args(["decrypt", "--log-format", "json", "-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
    command.arg("-k").arg(&key).arg("--admin").arg(&admin).args(["--gate", &store.flags[1]]);
    command.arg("--gate-credentials").arg(&pass).stdin(Stdio::null()).stdout(Stdio::null());
    let program = Program::spawn("theirs", &mut command);
    program.wait_line("ready", |line| line.is("ready"));
    let answer = ask(&admin, Some("another"));
    assert_eq!(answer.status, Some(0), "{answer:?}");
    let roots = dir.path().join("roots");
    fs::write(&roots, "geheim\n").unwrap();
    fs::set_permissions(&roots, Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&pass).unwrap();
    symlink(&roots, &pass).unwrap();
    complaint(&ask(&admin, None), 2, &["Permission denied", "user nobody", "-c FILE"]);
}
