use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::reconcile::reconcile;

/// A program that writes its calls to a file, with its environment.
struct Site {
    dir: TempDir,
    firewall: Exec,
}

impl Site {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("a program");
        let text = format!("#!/bin/sh\nd=${{0%/*}}\necho \"$@\" >> \"$d/calls\"\n{script}\n");
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let ports = "22,514/udp".parse().unwrap();
        let deadline = Duration::from_secs(20);
        let firewall = Exec::new(Options { program, ports, deadline });
        Self { dir, firewall }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// Does what the program does: read, compare, apply.
    async fn follow(&mut self, wanted: &Entries) -> Result<(), BackendError> {
        let present = self.firewall.present().await?;
        let steps = reconcile(wanted, &present, self.firewall.keeps());
        self.firewall.apply(&steps).await
    }
}

fn entry(network: &str, end: Expiry) -> Entry {
    Entry::new(network.parse().unwrap(), end)
}

fn after(seconds: u64) -> Expiry {
    Expiry::after(now(), Some(Duration::from_secs(seconds)))
}

fn entries<const N: usize>(all: [(&str, Expiry); N]) -> Entries {
    all.into_iter().map(|(network, end)| entry(network, end)).collect()
}

#[tokio::test]
async fn a_program_is_called_with_networks_and_seconds_and_nothing_of_ours() {
    let mut site = Site::new("env > \"$d/env\"; pwd > \"$d/pwd\"; cat > \"$d/stdin\"");
    let wanted = entries([
        ("203.0.113.7/32", after(3600)),
        ("2001:db8::/64", Expiry::Never),
        ("198.51.100.0/24", after(0)),
    ]);
    site.follow(&wanted).await.unwrap();
    site.follow(&wanted).await.unwrap();
    let calls = site.file("calls");
    let lines: Vec<&str> = calls.lines().collect();
    assert_eq!((lines[0], lines[2]), ("add 198.51.100.0/24 1", "add 2001:db8::/64 0"));
    let left: u64 = lines[1].strip_prefix("add 203.0.113.7 ").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&left) && lines.len() == 3, "{calls}");
    let environment = site.file("env");
    let names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    let of_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    let given: Vec<&&str> = names.iter().filter(|name| !of_the_shell.contains(name)).collect();
    assert_eq!(given.len(), 2, "{environment}");
    assert!(environment.contains("KNOCKPIPE_PORTS=22/tcp,514/udp\n"), "{environment}");
    assert_eq!((site.file("pwd"), site.file("stdin")), ("/\n".to_owned(), String::new()));
    // A later end is told, and what is not wanted any more is removed.
    site.follow(&entries([("203.0.113.7/32", after(7200))])).await.unwrap();
    let new = site.file("calls").split_off(calls.len());
    let lines: Vec<&str> = new.lines().collect();
    assert!(lines[0].starts_with("add 203.0.113.7 7"), "{new}");
    assert_eq!(lines[1..], ["remove 198.51.100.0/24 0", "remove 2001:db8::/64 0"]);
}

#[tokio::test]
async fn a_program_that_fails_is_reported_called_again_and_keeps_no_other_step() {
    let mut site = Site::new(
        "[ \"$2\" != 203.0.113.7 ] || [ -e \"$d/ready\" ] || { printf 'no\\033[2J\\nlast words\\n' >&2; exit 3; }",
    );
    let wanted = entries([("203.0.113.7/32", Expiry::Never), ("203.0.113.8/32", Expiry::Never)]);
    let error = site.follow(&wanted).await.unwrap_err();
    assert!(
        error.cause.ends_with("a program add 203.0.113.7 failed with exit status: 3: last words"),
        "{error}"
    );
    assert_eq!(error.retry, Retry::Soon);
    fs::write(site.dir.path().join("ready"), "").unwrap();
    site.follow(&wanted).await.unwrap();
    assert_eq!(site.file("calls"), "add 203.0.113.7 0\nadd 203.0.113.8 0\nadd 203.0.113.7 0\n");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let mut site = Site::new(
        "[ -e \"$d/ready\" ] && exit\necho $$ > \"$d/pids\"; sleep 1000 & echo $! >> \"$d/pids\"; wait",
    );
    site.firewall.options.deadline = Duration::from_millis(500);
    let wanted = entries([("203.0.113.7/32", Expiry::Never), ("203.0.113.8/32", Expiry::Never)]);
    let began = Instant::now();
    let error = site.follow(&wanted).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(
        error.cause.ends_with("add 203.0.113.7 did not end within 0.5 s and was killed"),
        "{error}"
    );
    expect_gone(&site.file("pids"), 2);
    // The next step was not tried: it would hang as well.
    assert_eq!(site.file("calls"), "add 203.0.113.7 0\n");
    fs::write(site.dir.path().join("ready"), "").unwrap();
    site.firewall.options.deadline = Duration::from_secs(20);
    site.follow(&wanted).await.unwrap();
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_killed() {
    let mut site = Site::new("sleep 1000 & echo $! > \"$d/pids\"; wait");
    let wanted = entries([("203.0.113.7/32", Expiry::Never)]);
    let pids = site.dir.path().join("pids");
    tokio::select! {
        _ = site.follow(&wanted) => panic!("it waits"),
        () = async { while fs::read_to_string(&pids).unwrap_or_default().is_empty() { tokio::task::yield_now().await } } => {}
    }
    expect_gone(&site.file("pids"), 1);
}

#[tokio::test]
async fn a_program_that_leaves_a_process_behind_is_not_waited_for() {
    let mut site = Site::new("sleep 1000 & echo $! > \"$d/pids\"");
    let began = Instant::now();
    site.follow(&entries([("203.0.113.7/32", Expiry::Never)])).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    let pid = site.file("pids").trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

#[tokio::test]
async fn a_program_that_is_none_is_an_error_with_a_remedy() {
    let mut site = Site::new("");
    site.firewall.options.program = "/nonexistent/x".into();
    let error = site.follow(&entries([("203.0.113.7/32", Expiry::Never)])).await.unwrap_err();
    assert!(error.cause.starts_with("cannot start /nonexistent/x add 203.0.113.7"), "{error}");
    assert_eq!(error.retry, Retry::After(PAUSE));
}

#[tokio::test]
async fn an_entry_that_ends_wakes_and_at_exit_all_go_only_if_asked() {
    let mut site = Site::new("");
    let end = Expiry::At(now().saturating_add(Duration::from_millis(300)));
    site.follow(&entries([("203.0.113.7/32", end), ("203.0.113.8/32", Expiry::Never)]))
        .await
        .unwrap();
    site.firewall.altered().await;
    assert!(end.is_past(now()));
    site.follow(&entries([("203.0.113.8/32", Expiry::Never)])).await.unwrap();
    assert_eq!(site.file("calls").lines().last(), Some("remove 203.0.113.7 0"));
    site.firewall.at_exit(AtExit::Keep).await.unwrap();
    assert_eq!(site.file("calls").lines().count(), 3);
    site.firewall.at_exit(AtExit::Remove).await.unwrap();
    assert_eq!(site.file("calls").lines().last(), Some("remove 203.0.113.8 0"));
    let lines = site.firewall.describe(&[Step::Add(entry("203.0.113.9/32", Expiry::Never))]);
    assert!(lines[0].ends_with("/a program add 203.0.113.9 0"), "{lines:?}");
}

/// Waits until these processes have ended; orphans may be zombies of another parent.
fn expect_gone(pids: &str, count: usize) {
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(pids.len(), count);
    let is_gone = |pid: &str| {
        let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
        stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    };
    testkit::eventually("they are gone", || pids.iter().all(|pid| is_gone(pid)));
}
