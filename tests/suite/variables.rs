//! Environment variables of flags, with the real program.

use std::process::Command;

use super::cli::{PROGRAM, complaint, place, stdout, write};
use testkit::address::refusing;
use testkit::{Program, Target};

fn with(dir: &tempfile::TempDir, line: &str, variables: &[(&str, &str)]) -> std::process::Output {
    let mut command = Command::new(PROGRAM);
    command.args(line.split_whitespace()).current_dir(dir.path());
    command.envs(variables.iter().copied()).output().unwrap()
}

/// Every long flag of every command, in its help.
#[test]
fn every_flag_names_its_variable() {
    let dir = place();
    let commands = [
        "encrypt",
        "decrypt",
        "pipe",
        "run",
        "check",
        "key-id",
        "status",
        "who",
        "kick",
        "reload",
        "drain",
        "gate allow",
        "gate ban",
        "gate list",
        "gate why",
        "gate reap",
        "gate import",
    ];
    for command in commands {
        let help = with(&dir, &format!("{command} --help"), &[]);
        // A flag stands at an indent of two, or of six when it is only long.
        let is_flag = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
        // These choose the action of the command, so that they are typed.
        let typed = [("check", 4), ("kick", 3)].iter().find(|(name, _)| *name == command);
        let typed = typed.map_or(0, |(_, count)| *count);
        let flags = stdout(&help).lines().filter(is_flag).count() - 1 - typed;
        let named = stdout(&help).matches("[env: KNOCKPIPE_").count()
            + stdout(&help).matches("[env:\n").count();
        assert_eq!(named, flags, "{command}: {}", stdout(&help));
    }
}

#[test]
fn mistakes_in_a_variable_name_it() {
    let dir = place();
    let line = "encrypt -s a:1 -t b:1 -k key";
    for (line, variables, parts) in [
        (
            line,
            &[("KNOCKPIPE_TIMEOUT", "x")][..],
            &["KNOCKPIPE_TIMEOUT: 'x' is not a duration"][..],
        ),
        (line, &[("KNOCKPIPE_TIMEOUT", "0s")], &["KNOCKPIPE_TIMEOUT: 0 seconds"]),
        (line, &[("KNOCKPIPE_SYSLOG", "maybe")], &["KNOCKPIPE_SYSLOG: 'maybe'", "true"]),
        (
            line,
            &[("KNOCKPIPE_NO_RESOLVE", "1"), ("KNOCKPIPE_RESOLVE_EVERY", "5s")],
            &["exclude each other", "KNOCKPIPE_NO_RESOLVE", "KNOCKPIPE_RESOLVE_EVERY"],
        ),
        ("encrypt -s a:1 -k key", &[("KNOCKPIPE_TARGET", "")], &["-t ADDR (where to forward) is"]),
        ("encrypt -s a:1 -k key", &[("KNOCKPIPE_TARGET", "a:1")], &["KNOCKPIPE_TARGET"]),
        (
            "decrypt -s a:1 -k key",
            &[("KNOCKPIPE_TARGET", "x=b:1 y=http://b")],
            &["KNOCKPIPE_TARGET: ", "write b:PORT"],
        ),
        ("encrypt -s a:1 -t b:1", &[("KNOCKPIPE_KEY", "none")], &["no key file none"]),
    ] {
        let said = complaint(&with(&dir, line, variables), 2, line);
        assert!(parts.iter().all(|part| said.contains(part)), "{variables:?}: {said}");
    }
}

#[test]
fn the_command_line_goes_first_and_an_empty_variable_is_none() {
    let dir = place();
    let id = |variables: &[(&str, &str)], line: &str| {
        write(&dir, "open", 0o644, &[7; 32]);
        with(&dir, line, variables).status.code()
    };
    assert_eq!(id(&[], "key-id open"), Some(2));
    for (value, status) in [("1", 0), ("yes", 0), ("TRUE", 0), ("", 2), ("0", 2), ("no", 2)] {
        let variables = [("KNOCKPIPE_ALLOW_READABLE_KEY", value)];
        assert_eq!(id(&variables, "key-id open"), Some(status), "{value}");
    }
    let bad = [("KNOCKPIPE_TIMEOUT", "x"), ("KNOCKPIPE_NO_RESOLVE", "x")];
    let line = "encrypt -s a:1 -t a:1 -k key -o 1s -r 5s";
    let said = complaint(&with(&dir, line, &bad), 2, line);
    assert!(said.contains("round for ever: encrypt -> -t a:1"), "{said}");
}

#[test]
fn a_tunnel_can_be_described_by_variables_alone() {
    let dir = place();
    let target = Target::echo();
    let socket = dir.path().join("sealed.sock");
    let variables = [
        ("KNOCKPIPE_SOURCE", socket.to_str().unwrap()),
        ("KNOCKPIPE_KEY", "key"),
        ("KNOCKPIPE_TARGET", &target.addr().to_string()),
        ("KNOCKPIPE_CHECK", " tcp/1s, "),
        ("KNOCKPIPE_LOG_FORMAT", "json"),
        ("KNOCKPIPE_TIMOUT", "3"),
    ];
    let mut command = Command::new(PROGRAM);
    command.arg("decrypt").current_dir(dir.path()).envs(variables);
    let end = Program::spawn("decrypt", &mut command);
    let slip = end.wait_line("a slip", |line| line.message() == "unknown environment variable");
    assert_eq!(slip.field("meant").as_deref(), Some("KNOCKPIPE_TIMEOUT"));
    end.wait_line("ready", |line| line.message() == "ready");
}

/// Variables of `[process]` fill in the settings that it omits; tunnels are the file's.
#[test]
fn a_file_says_everything_about_its_tunnels() {
    let dir = place();
    let table =
        "[tunnels.a]\nmode='encrypt'\nsource='127.0.0.1:1'\ntarget='127.0.0.1:2'\nkey='key'\n";
    write(&dir, "k.toml", 0o600, format!("[process]\nlog-format='json'\n{table}").as_bytes());
    let variables = [
        ("KNOCKPIPE_CONFIG", "k.toml"),
        ("KNOCKPIPE_LOG_LEVEL", "debug"),
        ("KNOCKPIPE_LOG_FORMAT", "text"),
        ("KNOCKPIPE_TIMEOUT", "x"),
        ("KNOCKPIPE_TIMOUT", "x"),
    ];
    let output = with(&dir, "check", &variables);
    let (shown, said) = (stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(shown.contains("log-level = \"debug\"\nlog-format = \"json\""), "{shown}");
    assert!(!shown.contains("timeout = \"x\""), "{shown}");
    assert!(said.contains("KNOCKPIPE_TIMOUT; did you mean KNOCKPIPE_TIMEOUT?"), "{said}");
    let bad = with(&dir, "check -c k.toml", &[("KNOCKPIPE_LOG_LEVEL", "loud")]);
    assert!(complaint(&bad, 2, "log level").contains("KNOCKPIPE_LOG_LEVEL: there is no 'loud'"));
}

/// An environment that is meant for `encrypt` or `decrypt` does not choose the action of other
/// commands, and lacks nothing there.
#[test]
fn variables_of_other_commands_choose_nothing() {
    let dir = place();
    let table =
        "[tunnels.a]\nmode='encrypt'\nsource='127.0.0.1:1'\ntarget='127.0.0.1:2'\nkey='key'\n";
    write(&dir, "k.toml", 0o600, table.as_bytes());
    for variable in [
        ("KNOCKPIPE_TIMEOUT", "3s"),
        ("KNOCKPIPE_BIND", "127.0.0.1"),
        ("KNOCKPIPE_SUITE", "auto"),
        ("KNOCKPIPE_KEY", "key"),
        ("KNOCKPIPE_TARGET", "127.0.0.1:2"),
        ("KNOCKPIPE_SOURCE", "127.0.0.1:1"),
        ("KNOCKPIPE_SERVICE", "x"),
        ("KNOCKPIPE_CHECK", "redis"),
        ("KNOCKPIPE_ALLOW_READABLE_KEY", "true"),
    ] {
        let output = with(&dir, "check -c k.toml", &[variable]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{variable:?}: {said}");
    }
    // That address has no listener: the encrypt end's steps fail.
    let (nowhere, _held) = refusing();
    let line = format!("check -t {nowhere} -k key");
    for variable in [
        ("KNOCKPIPE_CHECK", "redis"),
        ("KNOCKPIPE_SOURCE", "127.0.0.1:0"),
        ("KNOCKPIPE_TIMEOUT", "3s"),
        ("KNOCKPIPE_SERVICE", "x"),
    ] {
        let output = with(&dir, &line, &[variable]);
        let shown = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{variable:?}: {shown}");
        assert!(shown.contains("connect: FAIL") && !shown.contains("listen: "), "{shown}");
    }
    let key = with(&dir, &format!("check -t {nowhere}"), &[("KNOCKPIPE_KEY", "key")]);
    assert_eq!(key.status.code(), Some(1), "beside -t it counts");
    let bad = with(&dir, &line, &[("KNOCKPIPE_TIMEOUT", "x")]);
    assert!(complaint(&bad, 2, "with -t").contains("KNOCKPIPE_TIMEOUT: 'x'"));
    let run = with(&dir, "run -c none.toml", &[("KNOCKPIPE_RELOAD_OR_REPLACE", "true")]);
    assert!(complaint(&run, 2, "run").contains("none.toml"));
    let handover = dir.path().join("none.sock");
    let both = [
        ("KNOCKPIPE_RELOAD_OR_REPLACE", "true"),
        ("KNOCKPIPE_HANDOVER", handover.to_str().unwrap()),
    ];
    let run = with(&dir, "run -c k.toml", &both);
    assert!(complaint(&run, 1, "both").contains("no process listens at"));
}

/// The nearest name of a gate counts, and no variable chooses the sessions that `kick` ends.
#[test]
fn a_gate_is_found_in_one_way_and_a_kick_is_typed() {
    let dir = place();
    write(&dir, "gate.toml", 0o600, b"[gates.a]\ngate='file:one.gate'\n");
    with(&dir, "gate allow 192.0.2.1 --gate file:one.gate", &[]);
    with(&dir, "gate allow 192.0.2.2 --gate file:two.gate", &[]);
    let gate = ("KNOCKPIPE_GATE", "file:two.gate");
    let config = ("KNOCKPIPE_CONFIG", "gate.toml");
    let admin = ("KNOCKPIPE_ADMIN", "none.sock");
    let rule = ("KNOCKPIPE_ALLOW", "192.0.2.3");
    let set = ("KNOCKPIPE_SET", "x");
    for (line, variables, address) in [
        ("gate list", &[admin, config, gate][..], "192.0.2.2"),
        ("gate list", &[admin, config, set], "192.0.2.1"),
        ("gate list -c gate.toml", &[gate, admin], "192.0.2.1"),
        ("gate why 192.0.2.1", &[rule, config], "192.0.2.1"),
    ] {
        let output = with(&dir, line, variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line} {variables:?}: {said}");
        assert!(stdout(&output).contains(address), "{line} {variables:?}: {}", stdout(&output));
    }
    for variable in [("KNOCKPIPE_TUNNEL", "t"), ("KNOCKPIPE_PEER", "::1"), ("KNOCKPIPE_KEY", "k")] {
        let said = complaint(&with(&dir, "kick", &[variable]), 2, "kick");
        assert!(said.contains("--tunnel"), "{said}");
    }
}
