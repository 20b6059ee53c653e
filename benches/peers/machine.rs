//! Description of the machine and the programs of a run.

use std::fs;
use std::process::Command;

use testkit::end::binary;

/// Returns the day in UTC.
pub(crate) fn date() -> String {
    first_line("date", &["-u", "+%F"])
}

/// Returns processor, memory and kernel.
pub(crate) fn description() -> String {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let gib = (kib as f64 / f64::from(1 << 20)).round();
    format!("{cores} cores of {cpu}, {gib} GiB, Linux {kernel}")
}

/// Returns the versions of all competitors.
pub(crate) fn versions() -> String {
    let ours = first_line(&binary().display().to_string(), &["--version"]);
    let haproxy = first_line("haproxy", &["-v"]);
    let haproxy: Vec<&str> = haproxy.split(' ').take(3).collect();
    let stunnel = first_line("stunnel", &["-version"]);
    let stunnel = stunnel.split(" on ").next().unwrap_or_default();
    let redis = first_line("redis-server", &["--version"]);
    let redis = redis.split("v=").nth(1).and_then(|rest| rest.split(' ').next());
    format!(
        "{ours}, {}, {}, {stunnel}, Redis {}",
        haproxy.join(" "),
        first_line("spiped", &["-v"]),
        redis.unwrap_or_default()
    )
}

/// Returns the first line of a command, on either of its outputs, that names a version.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let Ok(output) = output else { return format!("{program} of unknown version") };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines().filter(|line| line.bytes().any(|b| b.is_ascii_digit()));
    lines.next().unwrap_or_default().trim().to_owned()
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
