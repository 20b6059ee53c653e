//! Real proxies in front, with the configuration of `packaging/forward-auth`, in which nothing is
//! changed but addresses.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::address::free_port;
use testkit::program::{Program, require};
use testkit::tree::read;
use testkit::wait::{NEVER, poll};
use testkit::{Addr, Wire};

/// Attempts to start on a port that another process may take meanwhile.
const STARTS: usize = 5;

/// A running proxy.
pub(crate) struct Front {
    pub(crate) name: &'static str,
    pub(crate) addr: Addr,
    _program: Program,
    _dir: TempDir,
}

/// Addresses that the examples name otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Behind<'a> {
    pub(crate) knockd: &'a Addr,
    pub(crate) app: &'a Addr,
}

impl Behind<'_> {
    fn put_into(self, text: &str) -> String {
        let Behind { knockd, app } = self;
        let text = text.replace("127.0.0.1:8700", &knockd.to_string());
        text.replace("127.0.0.1:3000", &app.to_string())
    }
}

impl Front {
    pub(crate) fn caddy(behind: Behind<'_>) -> Self {
        Self::caddy_with(&behind.put_into(&read("packaging/forward-auth/Caddyfile")))
    }

    /// Starts Caddy with these sites, without TLS.
    pub(crate) fn caddy_with(sites: &str) -> Self {
        require("caddy", "caddy");
        Self::start("caddy", |dir, addr| {
            let mut text = sites.to_owned();
            for site in ["knock", "app", "wiki"] {
                let port = addr.tcp().port();
                let plain = format!("\nhttp://{site}.example.org:{port} {{");
                text = text.replace(&format!("\n{site}.example.org {{"), &plain);
            }
            let file = dir.join("Caddyfile");
            fs::write(&file, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{text}")).unwrap();
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
            command.env("HOME", dir).env("XDG_CONFIG_HOME", dir).env("XDG_DATA_HOME", dir);
            command
        })
    }

    pub(crate) fn nginx(behind: Behind<'_>) -> Self {
        Self::nginx_with(behind, "")
    }

    /// Starts nginx with one more line beside `auth_request`.
    pub(crate) fn nginx_with(behind: Behind<'_>, line: &str) -> Self {
        const ASKS: &str = "auth_request /knockpipe-verify;";
        require("nginx", "nginx-light");
        Self::start("nginx", |dir, addr| {
            let servers = behind.put_into(&read("packaging/forward-auth/nginx.conf"));
            let servers = servers.replace(ASKS, &format!("{ASKS}\n{line}"));
            let servers = servers.replace("listen 80;", &format!("listen {addr};"));
            let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let places: String = places
                .iter()
                .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
                .collect();
            let text = format!(
                "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\n\
                 http {{\naccess_log off;\n{places}{servers}}}\n",
                dir = dir.display()
            );
            let file = dir.join("nginx.conf");
            fs::write(&file, text).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(dir).arg("-c").arg(file);
            command
        })
    }

    pub(crate) fn haproxy(behind: Behind<'_>) -> Self {
        require("haproxy", "haproxy");
        Self::start("haproxy", |dir, addr| {
            let text = behind.put_into(&read("packaging/forward-auth/haproxy.cfg"));
            let file = dir.join("haproxy.cfg");
            fs::write(&file, text.replace("bind :80", &format!("bind {addr}"))).unwrap();
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(file);
            command
        })
    }

    fn start(name: &'static str, command: impl Fn(&Path, &Addr) -> Command) -> Self {
        for _ in 0..STARTS {
            let dir = TempDir::new().unwrap();
            let addr = Addr::Tcp(([127, 0, 0, 1], free_port()).into());
            let mut command = command(dir.path(), &addr);
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
            command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null());
            let mut program = Program::spawn(name, &mut command);
            let is_up = poll(NEVER, || {
                if !program.is_running() {
                    return Some(false);
                }
                Wire::connect(&addr).is_ok().then_some(true)
            });
            if is_up == Some(true) {
                return Self { name, addr, _program: program, _dir: dir };
            }
            eprintln!("{}", program.tail());
        }
        panic!("{name} does not start; see its messages above");
    }
}
