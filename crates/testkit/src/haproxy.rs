//! A real haproxy that forwards TCP, the reference for the PROXY protocol.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::address::{Addr, Kind, free_port};
use crate::program::{Program, require};
use crate::wait::{NEVER, poll};
use crate::wire::Wire;

/// Attempts to start on ports that another process may take meanwhile.
const STARTS: usize = 5;

/// A running haproxy with a listener of every kind.
pub struct Haproxy {
    tcp4: Addr,
    tcp6: Addr,
    unix: Addr,
    _program: Program,
    // Last, so that it is removed after the program is gone.
    _dir: TempDir,
}

impl Haproxy {
    /// Starts a haproxy that forwards to `server`, with more words for its `bind` and `server`
    /// lines.
    pub fn start(bind: &str, server: &Addr, words: &str) -> Self {
        require("haproxy", "haproxy");
        for _ in 0..STARTS {
            if let Some(haproxy) = Self::try_start(bind, server, words) {
                return haproxy;
            }
        }
        panic!("haproxy does not start; see its messages above");
    }

    fn try_start(bind: &str, server: &Addr, words: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let tcp4 = Addr::Tcp((Ipv4Addr::LOCALHOST, free_port()).into());
        let tcp6 = Addr::Tcp((Ipv6Addr::LOCALHOST, free_port()).into());
        let unix = Addr::Unix(dir.path().join("front.sock"));
        let admin = Addr::Unix(dir.path().join("admin.sock"));
        let config = format!(
            "global\n stats socket {admin}\n\
             defaults\n mode tcp\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind {tcp4} {bind}\n bind {tcp6} {bind}\n bind unix@{unix} {bind}\n \
             server only {server} {words}\n"
        );
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, config).expect("the directory is writable");
        let mut program = Program::spawn("haproxy", &mut command(&file));
        // Queried on its own socket: connections to the listeners would be forwarded.
        let up = poll(NEVER, || {
            if !program.is_running() {
                return Some(false);
            }
            answers(&admin).then_some(true)
        });
        if up != Some(true) {
            eprintln!("{}", program.tail());
            return None;
        }
        Some(Self { tcp4, tcp6, unix, _program: program, _dir: dir })
    }

    /// Returns the address to connect to.
    pub fn entrance(&self, kind: Kind) -> &Addr {
        match kind {
            Kind::Tcp4 => &self.tcp4,
            Kind::Tcp6 => &self.tcp6,
            Kind::Unix => &self.unix,
        }
    }
}

fn command(config: &Path) -> Command {
    let mut command = Command::new("haproxy");
    command
        .env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin")
        .arg("-db")
        .arg("-f")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn answers(admin: &Addr) -> bool {
    let Ok(mut wire) = Wire::connect(admin) else { return false };
    wire.read_limit(NEVER);
    wire.write_all(b"show info\n").is_ok() && wire.read(&mut [0]).is_ok_and(|n| n == 1)
}
