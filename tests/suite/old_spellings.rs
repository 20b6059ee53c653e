//! Spellings of before are refused at each place where they can stand, and the answer names the
//! new one.

use std::fs;
use std::process::Command;

use testkit::binary;

/// The complaint about a command line, which ends with status 2.
fn refused(args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(binary());
    command.args(args).env_clear().envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    said
}

const ENCRYPT: [&str; 7] = ["encrypt", "-s", "a:1", "-t", "b:1", "-k", "key"];

#[test]
fn an_old_flag_is_refused_and_the_new_one_named() {
    for base in [&ENCRYPT[..], &["gate", "why", "203.0.113.7"]] {
        let said = refused(&[base, &["--gate-away", "open"]].concat(), &[]);
        assert!(said.contains("there is no flag '--gate-away'; write --gate-failure"), "{said}");
    }
    let said = refused(&["run", "--gate-away=open"], &[]);
    assert!(said.contains("'--gate-away'; write 'gate-failure' to a table [tunnels."), "{said}");
    let said = refused(&["-e", "-s", "a:1", "-t", "b:1", "-k", "key", "--gate-away", "open"], &[]);
    assert!(said.contains("write --gate-failure"), "{said}");
}

#[test]
fn an_old_value_is_refused_and_the_new_one_named() {
    let said = refused(&[&ENCRYPT[..], &["--denied", "hold"]].concat(), &[]);
    assert!(said.contains("--denied: 'hold' is now 'tarpit'; write --denied tarpit"), "{said}");
    let said = refused(&ENCRYPT, &[("KNOCKPIPE_DENIED", "hold")]);
    assert!(said.contains("KNOCKPIPE_DENIED: 'hold' is now 'tarpit'"), "{said}");
}

#[test]
fn an_old_variable_is_refused_and_the_new_one_named() {
    let old = [("KNOCKPIPE_GATE_AWAY", "open")];
    let said = refused(&ENCRYPT, &old);
    assert!(
        said.contains("there is no variable KNOCKPIPE_GATE_AWAY; write KNOCKPIPE_GATE_FAILURE"),
        "{said}"
    );
    // What is typed goes before every variable, and an empty one is none.
    let said = refused(&[&ENCRYPT[..], &["--gate-failure", "open"]].concat(), &old);
    assert!(!said.contains("GATE_AWAY"), "{said}");
    let said = refused(&ENCRYPT, &[("KNOCKPIPE_GATE_AWAY", "")]);
    assert!(!said.contains("GATE_AWAY"), "{said}");
}

#[test]
fn an_old_key_of_a_file_is_refused_and_the_new_one_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("knockpipe.toml");
    let table = "[tunnels.a]\nmode='encrypt'\nsource='127.0.0.1:1'\ntarget='b:1'\nkey='k'\n";
    for (more, expected) in [
        ("gate-away='open'\n", "there is no key 'gate-away' for encrypt; write gate-failure"),
        ("denied='hold'\n", "'hold' is now 'tarpit'"),
        (
            "[gates.g]\ngate-away='open'\n",
            "there is no key 'gate-away' for [gates]; write gate-failure",
        ),
        ("[defaults]\ngate-away='open'\n", "write gate-failure"),
    ] {
        fs::write(&file, format!("{table}{more}")).unwrap();
        let said = refused(&["check", "-c", file.to_str().unwrap()], &[]);
        assert!(said.contains(expected), "{said}");
    }
}

/// A bare number is seconds in spiped's spelling only.
#[test]
fn a_duration_without_a_unit_is_refused_and_the_unit_named() {
    for (more, remedy) in [
        (["-o", "5"], "-o/--timeout: '5' has no unit; write 5s"),
        (["-o", "0.5"], "write 500ms"),
        (["-r", "60"], "-r/--resolve-every: '60' has no unit; write 60s"),
        (["--drain", "30"], "--drain: '30' has no unit; write 30s"),
        (["--drain-accept", "0"], "--drain-accept: '0' has no unit; write 0s"),
    ] {
        let said = refused(&[&ENCRYPT[..], &more].concat(), &[]);
        assert!(said.contains(remedy), "{said}");
    }
    let said = refused(&["-e", "-s", "a:1", "-t", "b:1", "-k", "no.key", "-F", "-o", "5"], &[]);
    assert!(!said.contains("unit"), "{said}");
    let said = refused(&["-e", "-s", "a:1", "-t", "b:1", "-k", "key", "--drain", "5"], &[]);
    assert!(said.contains("--drain: '5' has no unit; write 5s"), "{said}");
}
