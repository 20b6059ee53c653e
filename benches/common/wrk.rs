//! A web server under the load of wrk: what a client sees of it, and its CPU time.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::{Program, Wire, eventually, proc};

/// The options that every comparison has.
#[derive(clap::Args)]
pub(crate) struct Turns {
    /// Measurements of each competitor in each row
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,

    /// Duration of one measurement, in seconds
    #[arg(long, default_value_t = 4)]
    pub(crate) seconds: u32,

    /// Passed by `cargo bench` to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A server under load.
pub(crate) struct Competitor {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Its port on loopback.
    pub(crate) port: u16,
    /// Its program, of which the CPU time counts; `None` for one that all others use too.
    pub(crate) program: Option<Program>,
}

/// A load: its name, and the arguments of wrk before the URL.
pub(crate) struct Load<'a> {
    /// Its name in the table.
    pub(crate) name: &'a str,
    /// Path that is asked for.
    pub(crate) path: &'a str,
    /// Connections of the client.
    pub(crate) connections: u32,
    /// A header of each request.
    pub(crate) header: Option<&'a str>,
}

/// What one measurement found.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    per_second: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// Measures each competitor in turns, and prints the medians as rows of a table.
pub(crate) fn compare(load: &Load<'_>, all: &[Competitor], turns: &Turns) {
    let mut found: Vec<Vec<Figures>> = all.iter().map(|_| vec![]).collect();
    for _ in 0..turns.rounds {
        for (competitor, found) in all.iter().zip(&mut found) {
            found.push(measure(load, competitor, turns.seconds));
        }
    }
    print_row(load, "requests/s", &found, |it| it.per_second);
    print_row(load, "p99 us", &found, |it| it.p99_us);
    print_row(load, "CPU us per request", &found, |it| it.cpu_us);
}

/// Prints the head of the table.
pub(crate) fn print_head(all: &[Competitor]) {
    let names: Vec<_> = all.iter().map(|it| it.name).collect();
    println!("| load | figure | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(all.len()));
}

/// Starts a program and waits until its port answers.
pub(crate) fn start(name: &'static str, command: &mut Command, port: u16) -> Program {
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    let program = Program::spawn(name, command.stdin(Stdio::null()).stdout(Stdio::null()));
    let addr = testkit::Addr::Tcp(([127, 0, 0, 1], port).into());
    eventually(&format!("{name} answers"), || Wire::connect(&addr).is_ok());
    program
}

/// Ends a program so that it ends its own processes, which a kill would leave behind.
pub(crate) fn stop(mut program: Program) {
    program.signal(Signal::SIGTERM);
    program.wait();
}

fn print_row(load: &Load<'_>, figure: &str, found: &[Vec<Figures>], of: fn(&Figures) -> f64) {
    let cells: Vec<String> = found
        .iter()
        .map(|figures| {
            let mut values: Vec<f64> = figures.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let median = values[values.len() / 2];
            if median < 100.0 { format!("{median:.1}") } else { format!("{median:.0}") }
        })
        .collect();
    println!("| {} | {figure} | {} |", load.name, cells.join(" | "));
}

fn measure(load: &Load<'_>, competitor: &Competitor, seconds: u32) -> Figures {
    let cpu = || competitor.program.as_ref().map_or(Duration::ZERO, |it| family_cpu(it.pid()));
    let before = cpu();
    let mut wrk = Command::new("wrk");
    wrk.args(["--latency", "-t", "1", "-c", &load.connections.to_string()]);
    wrk.args(["-d", &format!("{seconds}s")]);
    if let Some(header) = load.header {
        wrk.args(["-H", header]);
    }
    let url = format!("http://127.0.0.1:{}{}", competitor.port, load.path);
    let output = wrk.arg(url).output().unwrap();
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
