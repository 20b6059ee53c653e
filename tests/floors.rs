//! The floors of `src/lib.rs` hold: no module reaches up. Of the crates in `crates/` Cargo says
//! what each may use, and its `clippy.toml` what it may not call.

use std::path::Path;

use testkit::tree;

/// A floor: path prefixes below `src/`, what they may import of ours, and words
/// that must not stand in them.
struct Floor {
    paths: &'static [&'static str],
    may_import: &'static [&'static str],
    forbidden: &'static [&'static str],
}

const PURE: &[&str] =
    &["tokio", "std::net::Tcp", "std::fs", "std::env", "Instant", "SystemTime", "SysRng", "rand::"];

const FLOORS: &[Floor] = &[
    Floor {
        paths: &["upstream/probe", "upstream/health_state.rs"],
        may_import: &["duration", "printable"],
        forbidden: &[
            "tokio",
            "std::net::Tcp",
            "std::fs",
            "std::env",
            "Instant::now",
            "SystemTime",
            "SysRng",
            "rand::",
        ],
    },
    Floor { paths: &["tunnel/foreign_protocol.rs"], may_import: &[], forbidden: PURE },
    Floor { paths: &["proxy_protocol"], may_import: &["addr", "proxy_protocol"], forbidden: PURE },
    Floor {
        paths: &[
            "gate/admission.rs",
            "gate/denied.rs",
            "gate/granting.rs",
            "gate/inquiry",
            "gate/knocks.rs",
            "gate/live.rs",
            "gate/mirror",
            "gate/mod.rs",
            "gate/recorder.rs",
            "gate/revoker.rs",
            "gate/shared.rs",
            "gate/successes.rs",
            "gate/watching.rs",
        ],
        // Of keys the ids only: a grant is renewed by the sessions of keys that may knock.
        may_import: &["addr", "duration", "unix_time", "gate", "keys", "net", "tasks"],
        forbidden: &["clap", "anyhow"],
    },
    Floor {
        paths: &["gate/bans.rs"],
        may_import: &["duration", "unix_time", "gate", "observe"],
        forbidden: &["clap", "anyhow"],
    },
    Floor {
        paths: &[
            "gate/any_store.rs",
            "gate/embedded_store",
            "gate/memory_store.rs",
            "gate/options.rs",
            "gate/state_answers.rs",
            "gate/status.rs",
            "gate/redis_store",
        ],
        may_import: &[
            "addr",
            "duration",
            "printable",
            "secret",
            "unix_time",
            "files",
            "gate",
            "net",
            "tasks",
        ],
        forbidden: &["clap", "anyhow"],
    },
    Floor { paths: &["files"], may_import: &["files"], forbidden: &["clap", "anyhow", "tokio"] },
    Floor {
        paths: &["random.rs"],
        may_import: &["secret"],
        forbidden: &["clap", "anyhow", "tokio"],
    },
    Floor { paths: &["tasks"], may_import: &["tasks"], forbidden: &["clap", "anyhow", "nix::"] },
    Floor {
        paths: &["net"],
        may_import: &["addr", "unix_time", "files", "net", "tasks"],
        forbidden: &["proto::", "keys::"],
    },
    Floor { paths: &["http/client_address.rs"], may_import: &["addr", "gate"], forbidden: PURE },
    Floor {
        paths: &["http"],
        may_import: &["addr", "printable", "files", "net", "http"],
        forbidden: &["clap", "anyhow"],
    },
    Floor {
        paths: &["observe"],
        may_import: &["addr", "printable", "reason", "proto", "keys", "observe"],
        forbidden: &["tokio"],
    },
    Floor {
        paths: &["frontend"],
        may_import: &[
            "addr",
            "reason",
            "proxy_protocol",
            "gate",
            "keys",
            "net",
            "observe",
            "tasks",
            "frontend",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor { paths: &["knockd/paths.rs"], may_import: &[], forbidden: PURE },
    Floor {
        paths: &["knocker"],
        may_import: &["addr", "proto", "keys", "net", "observe", "random", "knocker"],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["upstream"],
        may_import: &["addr", "reason", "proxy_protocol", "net", "tasks", "upstream"],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["knock"],
        may_import: &["addr", "proto", "keys", "gate", "net", "observe", "tasks", "knock"],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["firewall"],
        may_import: &[
            "addr",
            "duration",
            "unix_time",
            "gate",
            "http",
            "observe",
            "frontend",
            "tasks",
            "firewall",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["tunnel"],
        may_import: &[
            "addr",
            "secret",
            "reason",
            "proto",
            "proxy_protocol",
            "keys",
            "gate",
            "net",
            "observe",
            "random",
            "tasks",
            "frontend",
            "knocker",
            "upstream",
            "knock",
            "tunnel",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["knockd/limits.rs", "knockd/policy", "knockd/tokens.rs"],
        may_import: &["addr", "duration", "proto", "gate", "knockd"],
        forbidden: &["tokio", "std::fs", "std::env", "Instant::now", "SystemTime", "SysRng"],
    },
    Floor {
        paths: &["web"],
        may_import: &[
            "addr", "reason", "gate", "net", "http", "observe", "tasks", "frontend", "upstream",
            "knock", "web",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["knockd"],
        may_import: &[
            "addr",
            "duration",
            "unix_time",
            "proto",
            "gate",
            "keys",
            "net",
            "http",
            "observe",
            "knock",
            "web",
            "knockd",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["httpgate/hold.rs", "httpgate/redirect.rs"],
        may_import: &["httpgate"],
        forbidden: PURE,
    },
    // Of http the table of fields, and the check of a head.
    Floor {
        paths: &["httpgate/head.rs", "httpgate/forwarded.rs", "httpgate/hop.rs"],
        may_import: &["http", "httpgate"],
        forbidden: PURE,
    },
    Floor {
        paths: &["httpgate"],
        may_import: &[
            "addr",
            "reason",
            "printable",
            "gate",
            "net",
            "http",
            "observe",
            "tasks",
            "upstream",
            "web",
            // Its page to knock on.
            "knockd",
            "httpgate",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["service"],
        may_import: &[
            "addr", "firewall", "frontend", "gate", "httpgate", "keys", "knock", "knockd", "net",
            "observe", "tunnel", "upstream", "web", "service",
        ],
        forbidden: &["clap", "anyhow", "nix::"],
    },
    Floor {
        paths: &["sys"],
        may_import: &["addr", "printable", "secret", "reason", "keys", "files", "tasks", "sys"],
        forbidden: &["clap", "anyhow"],
    },
    Floor {
        paths: &["admin"],
        may_import: &[
            "addr",
            "reason",
            "printable",
            "gate",
            "files",
            "net",
            "http",
            "observe",
            "tasks",
            "frontend",
            "upstream",
            "tunnel",
            "service",
            "sys",
            "admin",
        ],
        forbidden: &["clap", "anyhow"],
    },
    Floor {
        paths: &["run", "demo"],
        may_import: &[
            "addr",
            "printable",
            "secret",
            "proto",
            "keys",
            "files",
            "firewall",
            "gate",
            "knock",
            "net",
            "observe",
            "tasks",
            "frontend",
            "http",
            "httpgate",
            "knocker",
            "knockd",
            "tunnel",
            "web",
            "service",
            "sys",
            "admin",
            "run",
            "demo",
        ],
        forbidden: &["clap"],
    },
    Floor {
        paths: &["cli", "main.rs", "lib.rs"],
        may_import: &[
            "addr",
            "civil",
            "firewall",
            "duration",
            "printable",
            "secret",
            "proto",
            "proxy_protocol",
            "keys",
            "gate",
            "files",
            "net",
            "observe",
            "random",
            "tasks",
            "frontend",
            "knocker",
            "upstream",
            "knock",
            "http",
            "httpgate",
            "knockd",
            "tunnel",
            "web",
            "service",
            "sys",
            "admin",
            "run",
            "cli",
        ],
        forbidden: &[],
    },
];

#[test]
fn no_module_reaches_up() {
    let mut checked = 0;
    for file in tree::sources(Path::new("src")) {
        let name = file.strip_prefix("src").unwrap().to_str().unwrap();
        let floor = floor(name).unwrap_or_else(|| panic!("{name} stands on no floor; give it one"));
        check(name, &tree::read(&file), floor);
        checked += 1;
    }
    assert!(checked > 40, "only {checked} files were found");
}

#[test]
fn a_module_that_reaches_up_is_found() {
    let probe = floor("upstream/probe/mod.rs").unwrap();
    for bad in ["use crate::net::Stream;", "crate::tunnel::x()", "tokio::spawn(", "Instant::now()"]
    {
        assert!(problem(bad, probe).is_some(), "{bad}");
    }
    assert_eq!(problem("use crate::duration::parse; // tokio", probe), None);
}

/// The crates of this workspace, each with the one module that names it.
const CRATES: &[(&str, &str)] = &[
    ("knockpipe_base", "src/lib.rs"),
    ("knockpipe_proto", "src/lib.rs"),
    ("knockpipe_gate", "src/gate/mod.rs"),
];

/// Otherwise a module could evade its floor: `problem` looks for `crate::`.
#[test]
fn only_one_module_names_each_crate() {
    for file in tree::sources(Path::new("src")) {
        let text = tree::read(&file);
        let named = |(name, by): &&(&str, &str)| text.contains(*name) && !file.ends_with(*by);
        assert_eq!(CRATES.iter().find(named), None, "{}", file.display());
    }
}

/// Calls that panic when the system gives no thread.
const THREADS: &[&str] =
    &["spawn_blocking", "block_in_place", "lookup_host", "tokio::fs", "thread::spawn("];

#[test]
fn nothing_panics_for_want_of_a_thread() {
    for file in tree::sources(Path::new("src")) {
        let name = file.strip_prefix("src").unwrap().to_str().unwrap();
        for (number, line) in code(name, &tree::read(&file)) {
            let line = line.split("//").next().unwrap_or_default();
            let found = THREADS.iter().find(|word| line.contains(**word));
            let is_tokios_input = line.contains("tokio::io") && line.contains("stdin");
            assert!(
                found.is_none() && !is_tokios_input,
                "src/{name}:{number}: {line}; use tasks::blocking, which waits or gives an error"
            );
        }
    }
}

/// Returns the floor of a file: the one that names it, or its directory, most closely.
fn floor(name: &str) -> Option<&'static Floor> {
    let all = FLOORS.iter().flat_map(|floor| floor.paths.iter().map(move |path| (path, floor)));
    let names_it = all.filter(|(path, _)| name.starts_with(**path));
    names_it.max_by_key(|(path, _)| path.len()).map(|(_, floor)| floor)
}

fn check(name: &str, text: &str, floor: &Floor) {
    for (number, line) in code(name, text) {
        if let Some(problem) = problem(line, floor) {
            panic!("src/{name}:{number}: {problem}");
        }
    }
}

/// Returns the lines of a file before its tests, with their numbers.
fn code<'a>(name: &str, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let is_test_file = name.ends_with("_tests.rs");
    let lines =
        text.lines().take_while(move |line| !line.starts_with("#[cfg(test)]") && !is_test_file);
    (1..).zip(lines)
}

fn problem(line: &str, floor: &Floor) -> Option<String> {
    let code = line.split("//").next().unwrap_or_default();
    for rest in code.split("crate::").skip(1) {
        let module: String =
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !module.is_empty() && !floor.may_import.contains(&module.as_str()) {
            return Some(format!("imports crate::{module}"));
        }
    }
    let forbidden = floor.forbidden.iter().find(|word| code.contains(**word));
    forbidden.map(|word| format!("contains {word}"))
}
