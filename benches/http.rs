//! The gate in front of a web server, with a million addresses in its set, beside haproxy and nginx
//! as plain reverse proxies and caddy with `forward_auth`, in one run.
//!
//! `cargo bench --bench http`; needs haproxy, nginx, caddy, wrk and redis-server. The competitors
//! take turns within a round, so that other load of the machine affects all of them; the median of
//! the rounds counts. CPU is that of all processes of a competitor, from the kernel's clocks.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "what it measured is for a person to read")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::address::free_port;
use testkit::program::require;
use testkit::redis::{MILLION, Redis, Reply};
use testkit::{Launch, Program, Wire, eventually, proc};

/// Options of the command line.
#[derive(Parser)]
struct Arguments {
    /// Measurements of each competitor in each row
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Duration of one measurement, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u32,

    /// Competitors to measure; all of them unless given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Passed by `cargo bench` to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A load: its name, the path that is asked for, and the connections of the client.
struct Row {
    name: &'static str,
    path: &'static str,
    connections: u32,
}

const ROWS: [Row; 3] = [
    Row { name: "GET of 128 bytes, 64 connections", path: "/small", connections: 64 },
    Row { name: "GET of 128 bytes, 1 connection", path: "/small", connections: 1 },
    Row { name: "GET of 64 KiB, 64 connections", path: "/large", connections: 64 },
];

/// A proxy in front of the web server, or the server itself.
struct Competitor {
    name: &'static str,
    port: u16,
    /// `None` for the server itself, which all others use too.
    program: Option<Program>,
}

/// What one measurement found.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    p99_us: f64,
    cpu_us: f64,
}

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
    println!("| load | figure | {} |", names(&all));
    println!("|---|---|{}", "---|".repeat(all.len()));
    for row in &ROWS {
        let mut found: Vec<Vec<Figures>> = all.iter().map(|_| vec![]).collect();
        for _ in 0..arguments.rounds {
            for (competitor, found) in all.iter().zip(&mut found) {
                found.push(measure(row, competitor, arguments.seconds));
            }
        }
        print_row(row, "requests/s", &found, |it| it.per_second);
        print_row(row, "p99 us", &found, |it| it.p99_us);
        print_row(row, "CPU us per request", &found, |it| it.cpu_us);
    }
    let proxies = all.into_iter().filter_map(|it| it.program);
    proxies.chain([server]).for_each(stop);
}

/// Ends a program so that it ends its own processes, which a kill would leave behind.
fn stop(mut program: Program) {
    program.signal(Signal::SIGTERM);
    program.wait();
}

fn names(all: &[Competitor]) -> String {
    all.iter().map(|it| it.name).collect::<Vec<_>>().join(" | ")
}

fn print_row(row: &Row, figure: &str, found: &[Vec<Figures>], of: fn(&Figures) -> f64) {
    let cells: Vec<String> = found
        .iter()
        .map(|figures| {
            let mut values: Vec<f64> = figures.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let median = values[values.len() / 2];
            if median < 100.0 { format!("{median:.1}") } else { format!("{median:.0}") }
        })
        .collect();
    println!("| {} | {figure} | {} |", row.name, cells.join(" | "));
}

// === one measurement ===

fn measure(row: &Row, competitor: &Competitor, seconds: u32) -> Figures {
    let cpu = || competitor.program.as_ref().map_or(Duration::ZERO, |it| family_cpu(it.pid()));
    let before = cpu();
    let output = Command::new("wrk")
        .args(["--latency", "-t", "1", "-c", &row.connections.to_string()])
        .args(["-d", &format!("{seconds}s")])
        .arg(format!("http://127.0.0.1:{}{}", competitor.port, row.path))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bad = text.contains("Non-2xx") || text.contains("Socket errors");
    assert!(output.status.success() && !bad, "{}: {text}", competitor.name);
    let word = |start: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(start));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    };
    let requests = text.lines().find(|line| line.contains(" requests in ")).unwrap();
    let requests: f64 = requests.split_whitespace().next().unwrap().parse().unwrap();
    Figures {
        per_second: word("Requests/sec:").parse().unwrap(),
        p99_us: micros(&word("99%")),
        cpu_us: (cpu() - before).as_secs_f64() * 1e6 / requests,
    }
}

/// Reads a time of wrk.
fn micros(text: &str) -> f64 {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let read =
        |(unit, factor): (&str, f64)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor);
    units.into_iter().find_map(read).unwrap()
}

/// Returns the CPU time of a process and its children.
fn family_cpu(pid: u32) -> Duration {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let family = pids.filter_map(proc::stat).filter(|stat| stat.parent == pid);
    family.map(|stat| stat.cpu).sum::<Duration>() + proc::cpu(pid)
}

// === the competitors ===

/// Starts a program and waits until its port answers.
fn start(name: &'static str, command: &mut Command, port: u16) -> Program {
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    let program = Program::spawn(name, command.stdin(Stdio::null()).stdout(Stdio::null()));
    let addr = testkit::Addr::Tcp(([127, 0, 0, 1], port).into());
    eventually(&format!("{name} answers"), || Wire::connect(&addr).is_ok());
    program
}

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
