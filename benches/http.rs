//! The gate in front of a web server, with a million addresses in its set, beside haproxy and nginx
//! as plain reverse proxies and caddy with `forward_auth`, in one run.
//!
//! `cargo bench --bench http`; needs haproxy, nginx, caddy, wrk and redis-server. The competitors
//! take turns within a round, so that other load of the machine affects all of them; the median of
//! the rounds counts. CPU is that of all processes of a competitor, from the kernel's clocks.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "what it measured is for a person to read")]

#[path = "common/wrk.rs"]
mod wrk;

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::Parser;
use tempfile::TempDir;
use testkit::address::free_port;
use testkit::program::require;
use testkit::redis::{MILLION, Redis, Reply};
use testkit::{Launch, Program};

use wrk::{Competitor, Load, Turns, start, stop};

/// Options of the command line.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    turns: Turns,

    /// Competitors to measure; all of them unless given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Loads: name, path and connections of the client.
const LOADS: [(&str, &str, u32); 3] = [
    ("GET of 128 bytes, 64 connections", "/small", 64),
    ("GET of 128 bytes, 1 connection", "/small", 1),
    ("GET of 64 KiB, 64 connections", "/large", 64),
];

fn main() {
    let arguments = Arguments::parse();
    for (program, package) in
        [("nginx", "nginx"), ("haproxy", "haproxy"), ("caddy", "caddy"), ("wrk", "wrk")]
    {
        require(program, package);
    }
    let dir = tempfile::tempdir().unwrap();
    let (server, port) = web_server(&dir);
    let redis = Redis::start();
    assert_eq!(redis.direct().ask(&["EVAL", MILLION, "0"]), Reply::Number(1_010_000));
    redis.ask("SADD ip-allowed 127.0.0.1");
    let mut all = vec![Competitor { name: "direct", port, program: None }];
    all.extend([haproxy(&dir, port), nginx(&dir, port), caddy(&dir, port), ours(&redis, port)]);
    all.retain(|it| arguments.only.is_empty() || arguments.only.iter().any(|name| name == it.name));
    wrk::print_head(&all);
    for (name, path, connections) in LOADS {
        let load = Load { name, path, connections, header: None };
        wrk::compare(&load, &all, &arguments.turns);
    }
    let proxies = all.into_iter().filter_map(|it| it.program);
    proxies.chain([server]).for_each(stop);
}

// === the competitors ===

fn write(dir: &TempDir, name: &str, text: String) -> std::path::PathBuf {
    let file = dir.path().join(name);
    fs::write(&file, text).unwrap();
    file
}

fn nginx_with(dir: &TempDir, name: &'static str, workers: u32, port: u16, http: &str) -> Program {
    let root = dir.path().join(name);
    fs::create_dir(&root).unwrap();
    let at = root.display();
    let config = format!(
        "daemon off;\nworker_processes {workers};\npid {at}/pid;\nerror_log {at}/error.log;\n\
         events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n\
         fastcgi_temp_path {at}/f;\nuwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\n\
         keepalive_requests 100000000;\n{http}\n}}\n"
    );
    let file = write(dir, &format!("{name}.conf"), config);
    start(
        name,
        Command::new("nginx").arg("-e").arg(root.join("error.log")).arg("-c").arg(file),
        port,
    )
}

/// Starts the web server behind all of them.
fn web_server(dir: &TempDir) -> (Program, u16) {
    let port = free_port();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("small"), vec![b'x'; 128]).unwrap();
    fs::write(files.join("large"), vec![b'x'; 64 * 1024]).unwrap();
    let http = format!(
        "open_file_cache max=10;\nserver {{ listen 127.0.0.1:{port}; root {}; \
         location = /auth {{ return 200; }} }}",
        files.display()
    );
    readable(dir.path());
    (nginx_with(dir, "server", 1, port, &http), port)
}

/// Lets the workers of nginx, which are another user, read the files.
fn readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn haproxy(dir: &TempDir, server: u16) -> Competitor {
    let port = free_port();
    let config = format!(
        "global\n nbthread 2\n maxconn 4096\ndefaults\n mode http\n option forwardfor\n \
         timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         frontend f\n bind 127.0.0.1:{port}\n default_backend b\n\
         backend b\n server s 127.0.0.1:{server}\n"
    );
    let file = write(dir, "haproxy.cfg", config);
    let program = start("haproxy", Command::new("haproxy").arg("-db").arg("-f").arg(file), port);
    Competitor { name: "haproxy", port, program: Some(program) }
}

fn nginx(dir: &TempDir, server: u16) -> Competitor {
    let port = free_port();
    let http = format!(
        "upstream up {{ server 127.0.0.1:{server}; keepalive 128; \
         keepalive_requests 100000000; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}"
    );
    let program = nginx_with(dir, "nginx", 2, port, &http);
    Competitor { name: "nginx", port, program: Some(program) }
}

fn caddy(dir: &TempDir, server: u16) -> Competitor {
    let port = free_port();
    let config = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n \
         forward_auth 127.0.0.1:{server} {{\n  uri /auth\n }}\n \
         reverse_proxy 127.0.0.1:{server}\n}}\n"
    );
    let file = write(dir, "Caddyfile", config);
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("HOME", dir.path()).env("XDG_DATA_HOME", dir.path());
    Competitor { name: "caddy", port, program: Some(start("caddy", &mut command, port)) }
}

fn ours(redis: &Redis, server: u16) -> Competitor {
    let launch = Launch::new("http")
        .args(["-s", "127.0.0.1:0", "-t", &format!("http://127.0.0.1:{server}")])
        .args(["--gate", &redis.url()]);
    let gate = launch.start();
    let synced = gate.program.wait_line("gate store synced", |line| line.is("gate store synced"));
    assert!(synced.number("addresses").unwrap() > 1_000_000);
    let port = gate.addr().tcp().port();
    Competitor { name: "knockpipe", port, program: Some(gate.program) }
}
