//! Content of the manual pages beyond help, and limits of the completions.

use std::collections::BTreeSet;
use std::fs;

use clap::Command;
use knockpipe::cli;

use super::packaging::{completed_by_bash, generated, run};

/// Returns the page in plain text.
fn page(name: &str) -> String {
    let dir = generated();
    let page = dir.path().join("man").join(name);
    let text = run("mandoc", &["-T", "utf8", page.to_str().unwrap()]);
    // Bold is each letter twice with a backspace between.
    let mut plain = String::new();
    for c in text.chars() {
        if c == '\u{8}' {
            plain.pop();
        } else {
            plain.push(c)
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_of_the_file_has_every_key() {
    let text = page("knockpipe.toml.5");
    let mut keys = BTreeSet::new();
    let of = |command: &Command| {
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        longs.map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["encrypt", "decrypt"] {
        keys.extend(of(cli::command().find_subcommand(name).unwrap()));
    }
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        let text = text.replace('\u{2010}', "-");
        assert!(text.contains(&format!(" {key} = ")), "{key} is not in {text}");
    }
    for table in ["[process]", "[keys]", "[gates.NAME]", "[defaults]", "[tunnels.NAME]"] {
        assert!(text.contains(table), "{table} is not in {text}");
    }
}

#[test]
fn pages_have_the_sections_that_clap_knows_nothing_of() {
    let text = page("knockpipe-decrypt.1");
    for section in ["ENVIRONMENT", "FILES", "SIGNALS", "EXIT STATUS", "SEE ALSO"] {
        assert!(text.contains(section), "{section} is not in {text}");
    }
    assert!(text.contains("KNOCKPIPE_TIMEOUT") && text.contains("SIGHUP"), "{text}");
    let cargo = fs::read_to_string("Cargo.toml").unwrap();
    assert!(cargo.contains("man/*.5.gz\", \"usr/share/man/man5/\""));
}

/// Words, addresses and times are not completed with files; keys are.
#[test]
fn completions_offer_files_where_files_are_meant() {
    let offered = |words: &[&str]| completed_by_bash(&[&["knockpipe"], words].concat());
    for words in [
        &["encrypt", "--source", ""][..],
        &["encrypt", "--timeout", ""],
        &["decrypt", "--gate", ""],
        &["gate", "allow", "--ttl", ""],
    ] {
        let found = offered(words);
        assert!(!found.iter().any(|word| word == "Cargo.toml"), "{words:?}: {found:?}");
    }
    for words in [&["encrypt", "--key", "Cargo.t"][..], &["run", "--config", "Cargo.t"]] {
        assert_eq!(offered(words), ["Cargo.toml"], "{words:?}");
    }
}
