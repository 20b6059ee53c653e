//! A real mariadbd in a temporary directory, and its own client programs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::address::{Addr, free_port};
use crate::program::{Program, require};
use crate::wait::{NEVER, bounded, poll};
use crate::wire::Wire;

/// The account that the scenarios use; the server listens on loopback only.
const USER: &str = "knock";
const PASSWORD: &str = "a-password-for-tests";

/// Attempts to start a server on a port that another process may take meanwhile.
const STARTS: usize = 5;

/// A running MariaDB server with an empty database `test`.
pub struct MariaDb {
    tcp: Addr,
    program: Program,
    dir: TempDir,
}

impl MariaDb {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with more options, spelled as on mariadbd's command line.
    pub fn start_with(options: &[&str]) -> Self {
        require("mariadbd", "mariadb-server");
        require("mariadb-install-db", "mariadb-server");
        require("mariadb", "mariadb-client");
        require("mariadb-dump", "mariadb-client");
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let account = account();
        install(dir.path(), &account);
        let init = dir.path().join("init.sql");
        let sql = format!(
            "CREATE DATABASE test;\n\
             CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO '{USER}'@'%';\n"
        );
        fs::write(&init, sql).expect("the directory is writable");
        for _ in 0..STARTS {
            if let Some((tcp, program)) = serve(dir.path(), &account, options) {
                return Self { tcp, program, dir };
            }
        }
        panic!("mariadbd does not start; see its log above");
    }

    pub fn addr(&self) -> &Addr {
        &self.tcp
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// Returns the option for the server's account: none for our own, `root` by name, as mariadbd
/// demands.
fn account() -> Vec<String> {
    let root = nix::unistd::geteuid().is_root();
    if root { vec!["--user=root".into()] } else { Vec::new() }
}

fn install(dir: &Path, account: &[String]) {
    let output = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
        .arg(format!("--datadir={}", dir.join("data").display()))
        .args(account)
        // A server that starts removes the temporary tables of all servers that share its
        // directory.
        .env("TMPDIR", dir)
        .stdin(Stdio::null())
        .output()
        .expect("mariadb-install-db starts");
    assert!(
        output.status.success(),
        "mariadb-install-db: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn serve(dir: &Path, account: &[String], options: &[&str]) -> Option<(Addr, Program)> {
    let port = free_port();
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = Command::new("mariadbd");
    command
        .env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin")
        .env("TMPDIR", dir)
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--local-infile=1"])
        .args(["--max-allowed-packet=256M", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0"])
        .args(["--innodb-buffer-pool-size=256M", "--innodb-log-file-size=256M"])
        .args(["--performance-schema=off", "--max-connections=200"])
        .arg(format!("--port={port}"))
        .arg(format!("--datadir={}", path("data")))
        .arg(format!("--socket={}", path("mariadb.sock")))
        .arg(format!("--pid-file={}", path("mariadb.pid")))
        .arg(format!("--init-file={}", path("init.sql")))
        .args(account)
        .args(options);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut program = Program::spawn("mariadbd", &mut command);
    let tcp = Addr::Tcp((Ipv4Addr::LOCALHOST, port).into());
    let up = poll(NEVER, || {
        if !program.is_running() {
            return Some(false);
        }
        Wire::connect(&tcp).is_ok().then_some(true)
    });
    if up != Some(true) {
        eprintln!("{}", program.tail());
        return None;
    }
    Some((tcp, program))
}

/// Returns a command line of a MariaDB client program that connects to `to`.
pub fn client(program: &str, to: &Addr) -> Command {
    let mut command = Command::new(program);
    command.args(["--no-defaults", "--skip-ssl", "--max-allowed-packet=256M"]);
    command.arg(format!("--user={USER}")).env("MYSQL_PWD", PASSWORD);
    match to {
        Addr::Tcp(addr) => command
            .arg("--protocol=tcp")
            .arg(format!("--host={}", addr.ip()))
            .arg(format!("--port={}", addr.port())),
        Addr::Unix(path) => {
            command.arg("--protocol=socket").arg(format!("--socket={}", path.display()))
        }
    };
    command
}

/// Runs one statement through the `mariadb` client and returns its plain output.
#[track_caller]
pub fn query(to: &Addr, sql: &str) -> String {
    let mut command = client("mariadb", to);
    command.args(["--batch", "--skip-column-names", "--local-infile=1", "--execute", sql]);
    command.arg("test").stdin(Stdio::null());
    let output = bounded("mariadb ends", move || command.output().expect("mariadb starts"));
    assert!(output.status.success(), "mariadb: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
