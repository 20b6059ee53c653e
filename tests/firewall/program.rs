//! A program of the operator as the firewall.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use testkit::redis::Redis;
use testkit::{Launch, Program, eventually};

/// A store, and a program that writes its calls to a file, one argument in each line.
struct Site {
    redis: Redis,
    dir: TempDir,
}

impl Site {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let text = format!(
            "#!/bin/sh\nd=${{0%/*}}\nfor one; do printf '<%s>' \"$one\"; done >> \"$d/calls\"\n\
             echo >> \"$d/calls\"\n{script}\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Self { redis: Redis::start(), dir }
    }

    fn start(&self, args: &[&str]) -> Program {
        let program = format!("exec:{}", self.dir.path().join("program").display());
        Launch::new("firewall")
            .args(["--backend", &program, "--ports", "22", "--gate", &self.redis.url()])
            .args(args)
            .spawn()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }
}

#[test]
fn members_that_look_like_options_or_commands_reach_no_program() {
    let site = Site::new("");
    let hostile = [
        "-x",
        "--help",
        "203.0.113.9;touch$IFS/tmp/x",
        "$(reboot)",
        "203.0.113.9 -j ACCEPT",
        "add",
        "../../etc/passwd",
        "203.0.113.9\n-x",
        "fe80::1%-x",
    ];
    let mut redis = site.redis.direct();
    for member in hostile {
        redis.ask(&["SADD", "ip-allowed", member]);
    }
    redis.ask(&["SADD", "ip-allowed", "203.0.113.7", "::ffff:203.0.113.8", "2001:DB8::/64"]);
    let firewall = site.start(&[]);
    firewall.wait_line("in step", |line| line.is("firewall in step"));
    redis.ask(&["SREM", "ip-allowed", "203.0.113.7"]);
    let all = "<add><203.0.113.7><0>\n<add><203.0.113.8><0>\n<add><2001:db8::/64><0>\n\
               <remove><203.0.113.7><0>\n";
    eventually("the calls come", || site.calls() == all);
}

#[test]
fn an_entry_that_ends_is_removed_and_at_exit_all_are_if_asked() {
    let site = Site::new("");
    let firewall = site.start(&["--allow-prefix", "allow:", "--at-exit", "remove"]);
    firewall.wait_line("in step", |line| line.is("firewall in step"));
    site.redis.ask("SET allow:203.0.113.7 1 PX 1500");
    site.redis.ask("SET allow:203.0.113.8 1");
    eventually("the end is told", || site.calls().contains("<remove><203.0.113.7><0>"));
    assert!(site.calls().contains("<add><203.0.113.7><2>"), "{}", site.calls());
    firewall.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("all go", || site.calls().contains("<remove><203.0.113.8><0>"));
}

#[test]
fn a_program_that_hangs_or_fails_is_reported_once_and_called_again() {
    let site = Site::new(
        "[ -e \"$d/well\" ] && exit\n[ -e \"$d/fails\" ] && { echo no luck >&2; exit 3; }\nsleep 1000",
    );
    site.redis.ask("SADD ip-allowed 203.0.113.7");
    let firewall = site.start(&["--exec-deadline", "200ms"]);
    let not_in_step = |piece: &str| {
        firewall.wait_line(piece, |line| {
            line.is("firewall not in step") && line.text().contains(piece)
        });
    };
    not_in_step("did not end within 0.2 s and was killed");
    fs::write(site.dir.path().join("fails"), "").unwrap();
    not_in_step("failed with exit status: 3: no luck");
    let before = site.calls().lines().count();
    eventually("it is called again", || site.calls().lines().count() > before + 1);
    fs::write(site.dir.path().join("well"), "").unwrap();
    firewall.wait_line("in step", |line| line.is("firewall in step"));
    let failures = firewall.log().iter().filter(|line| line.is("firewall not in step")).count();
    assert_eq!(failures, 2, "each state is one line");
}
