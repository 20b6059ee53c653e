//! Additions of a package to the program: man pages, completions and units. Each is read by its
//! real readers: mandoc and groff, the shells, systemd. `deployment.rs` tests what the files tell
//! the program to do, and `make check-packages` that a package installs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use knockpipe::cli;
use tempfile::TempDir;

use testkit::program::install;
use testkit::tree::read;

#[expect(dead_code, reason = "its main is the only thing that `make packages` calls and we do not")]
#[path = "../../packaging/generate.rs"]
mod generate;

/// Makes the files that `make packages` puts into a package.
pub(super) fn generated() -> TempDir {
    let dir = TempDir::new().unwrap();
    generate::write_all(dir.path(), "2026-01-31").unwrap();
    dir
}

/// Runs a program that `make install-test-tools` installs; it must succeed.
#[track_caller]
pub(super) fn run(program: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; run make install-test-tools"));
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{program} {args:?}:\n{stdout}{stderr}");
    assert_eq!(stderr, "", "{program} {args:?}");
    stdout
}

// === dependencies ===

/// `make deps` asks for advisories, and tolerates the lack of a network. The database is out of
/// reach of tests, so a substitute for cargo-deny answers as it does: 1 for a finding, 1 for a
/// database that cannot be fetched.
#[test]
fn advisories_are_checked_where_there_is_a_network() {
    let makefile = read("Makefile");
    let deps = makefile.split("\ndeps: ").nth(1).unwrap().split("\n\n").next().unwrap();
    assert!(deps.contains("\t@scripts/check-advisories.sh"), "{deps}");
    assert!(read("deny.toml").contains("\n[advisories]\n"));
    let dir = TempDir::new().unwrap();
    let cargo = dir.path().join("cargo");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let check = |fetch: u8, finding: u8| {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n\
             'deny --locked fetch db') echo '[ERROR] failed to fetch https://x' >&2; exit {fetch} ;;\n\
             'deny --locked check --disable-fetch advisories') echo asked; exit {finding} ;;\n\
             esac\nexit 9\n"
        );
        let draft = dir.path().join("draft");
        fs::write(&draft, script).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        install(&draft, &cargo);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-advisories.sh");
        let output = Command::new(script).env("PATH", &path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(check(0, 0), (Some(0), "asked\n".to_owned()));
    assert_eq!(check(0, 1), (Some(1), "asked\n".to_owned()), "a finding fails");
    let (status, said) = check(1, 1);
    assert_eq!(status, Some(0));
    assert!(said.starts_with("advisories were not checked, "), "{said}");
    assert!(said.contains("failed to fetch") && said.lines().count() == 1, "{said}");
}

// === man pages ===

/// Collects `knockpipe`, `knockpipe-gate`, `knockpipe-gate-allow` and so on.
fn names(command: &clap::Command, above: &str, all: &mut BTreeSet<String>) {
    let name = format!("{above}{}", command.get_name());
    for below in command.get_subcommands() {
        names(below, &format!("{name}-"), all);
    }
    all.insert(name);
}

#[test]
fn every_command_has_a_man_page_and_every_page_a_command() {
    let mut commands = BTreeSet::new();
    names(&cli::command(), "", &mut commands);
    commands.extend(["knockpipe-spiped", "knockpipe-spipe", "knockpipe.toml"].map(str::to_owned));
    assert!(commands.len() > 15, "only {commands:?}");
    let dir = generated();
    let pages = fs::read_dir(dir.path().join("man")).unwrap();
    let pages = pages.map(|page| page.unwrap().path());
    let pages: BTreeSet<String> =
        pages.map(|page| page.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(pages, commands);
}

#[test]
fn the_man_pages_are_clean_and_say_what_help_says() {
    let dir = generated();
    for page in fs::read_dir(dir.path().join("man")).unwrap() {
        let page = page.unwrap().path();
        let page = page.to_str().unwrap();
        assert_eq!(run("mandoc", &["-T", "lint", "-W", "warning", page]), "");
        // Not one line: the pages must not contain anything that groff complains about.
        let text = run("groff", &["-man", "-ww", "-K", "utf8", "-T", "utf8", "-P", "-cbou", page]);
        assert!(text.contains("SYNOPSIS") && text.contains("DESCRIPTION"), "{page}");
    }
    let page = dir.path().join("man/knockpipe-decrypt.1");
    let text = run("mandoc", &["-T", "ascii", page.to_str().unwrap()]);
    // Bold is each letter twice with a backspace between.
    let text = text.split('\u{8}').collect::<Vec<_>>().concat();
    for word in
        ["knockpipe-decrypt - Run the end next to the server", "max-sessions", "Redis and MySQL"]
    {
        let doubled: String = word.chars().flat_map(|c| [c, c]).collect();
        assert!(text.contains(word) || text.contains(&doubled), "{word} is not in\n{text}");
    }
}

// === completions ===

/// Returns the completions of bash behind `words`, by the way that bash itself takes.
pub(super) fn completed_by_bash(words: &[&str]) -> Vec<String> {
    let dir = generated();
    let file = dir.path().join("completions/knockpipe.bash");
    let script = r#"
        set -u
        compopt() { :; }  # It works while a shell completes, and only then.
        source "$1"
        shift
        # "complete -F _knockpipe -o ... knockpipe" names the function.
        [[ $(complete -p knockpipe) =~ -F\ ([^ ]+) ]]
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        "${BASH_REMATCH[1]}" "$1" "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut args = vec!["--norc", "-c", script, "bash", file.to_str().unwrap()];
    args.extend(words);
    run("bash", &args).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    assert_eq!(completed_by_bash(&["knockpipe", "encr"]), ["encrypt"]);
    assert_eq!(completed_by_bash(&["knockpipe", "gate", "unb"]), ["unban"]);
    assert_eq!(completed_by_bash(&["knockpipe", "decrypt", "--max-h"]), ["--max-handshakes"]);
    let levels = completed_by_bash(&["knockpipe", "encrypt", "--log-level", ""]);
    assert_eq!(levels, ["error", "warn", "info", "debug", "trace"]);
}

#[test]
fn zsh_takes_its_completions() {
    let dir = generated();
    let functions = dir.path().join("completions");
    run("zsh", &["-n", functions.join("_knockpipe").to_str().unwrap()]);
    // Found by its name in the path of functions, as in a package, and loaded.
    let script = "fpath=($1 $fpath); autoload -Uz compinit; compinit -D -u
        print $_comps[knockpipe]; autoload +X _knockpipe; which -w _knockpipe";
    let said = run("zsh", &["-f", "-c", script, "zsh", functions.to_str().unwrap()]);
    assert_eq!(said, "_knockpipe\n_knockpipe: function\n");
}

#[test]
fn fish_completes_commands_and_flags() {
    let dir = generated();
    let file = dir.path().join("completions/knockpipe.fish");
    let complete = |line: &str| {
        let script = format!("source {}; complete -C '{line}'", file.display());
        let text = run("fish", &["--no-config", "-c", &script]);
        text.lines().map(|l| l.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(complete("knockpipe encr"), ["encrypt"]);
    assert_eq!(complete("knockpipe gate unb"), ["unban"]);
    assert_eq!(complete("knockpipe decrypt --max-h"), ["--max-handshakes"]);
}

// === documents ===

#[test]
fn the_document_of_the_flags_is_what_the_definitions_say() {
    let (written, wanted) = (read("docs/FLAGS.md"), generate::flags::document());
    let differs = written.lines().zip(wanted.lines()).find(|(old, new)| old != new);
    assert!(written == wanted, "run '{}': {differs:?}", generate::flags::RENEW);
}

/// Returns the files of the package that come from this tree, with their places there.
fn assets() -> Vec<(String, String)> {
    let text = read("Cargo.toml");
    let manifest = toml::de::DeTable::parse(&text).unwrap();
    let deb = &manifest.get_ref()["package"].get_ref()["metadata"].get_ref()["deb"];
    let rows = deb.get_ref()["assets"].get_ref().as_array().unwrap();
    let mut assets = vec![];
    for row in rows.iter().map(|row| row.get_ref().as_array().unwrap()) {
        let word = |at: usize| row[at].get_ref().as_str().unwrap();
        let (from, to) = (word(0), word(1));
        if from.starts_with("target/") {
            continue;
        }
        let (dir, name) = from.rsplit_once('/').unwrap_or((".", from));
        let (start, end) = name.split_once('*').unwrap_or((name, ""));
        for file in fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
            let found = file.file_name().unwrap().to_str().unwrap();
            let fits = if name.contains('*') {
                found.starts_with(start) && found.ends_with(end)
            } else {
                found == name
            };
            if fits {
                let place = if to.ends_with('/') { format!("{to}{found}") } else { to.to_owned() };
                assets.push((file.to_str().unwrap().to_owned(), place));
            }
        }
    }
    assets
}

#[test]
fn what_the_documents_of_the_package_name_is_in_it() {
    let assets = assets();
    let places: BTreeSet<&str> = assets.iter().map(|(_, place)| place.as_str()).collect();
    let mut links = 0;
    for (file, place) in assets.iter().filter(|(file, _)| file.ends_with(".md")) {
        let dir = Path::new(place).parent().unwrap();
        for target in read(file).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || target.starts_with("https://") {
                continue;
            }
            let mut there = dir;
            let mut path = path;
            while let Some(above) = path.strip_prefix("../") {
                path = above;
                there = there.parent().unwrap();
            }
            let path = there.join(path);
            assert!(places.contains(path.to_str().unwrap()), "{place} links to {target}");
            links += 1;
        }
    }
    assert!(links > 15, "only {links} links were found");
    for file in ["alerts.yaml", "grafana-dashboard.json", "OPERATING.md", "operating/log.md"] {
        let place = format!("usr/share/doc/knockpipe/docs/{file}");
        assert!(places.contains(place.as_str()), "{file} is not in the package");
    }
    for file in UNITS[..2].iter().chain(&["packaging/knockpipe.toml"]) {
        let text = read(file);
        let named = text.split("/usr/share/doc/").nth(1).unwrap().split_whitespace().next();
        let place = format!("usr/share/doc/{}", named.unwrap());
        assert!(places.contains(place.as_str()), "{file} names /{place}");
    }
}

// === maintainer scripts ===

/// Runs the `postinst` for services that run, with a systemctl that only prints.
#[test]
fn an_upgrade_reloads_what_can_hand_over_and_restarts_what_cannot() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let script = |name: &str, text: &str| {
        fs::write(path("draft"), format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(path("draft"), fs::Permissions::from_mode(0o755)).unwrap();
        install(&path("draft"), &path(name));
    };
    let log = path("done");
    script(
        "systemctl",
        &format!(
            "case \"$1\" in\nlist-units) case \"$*\" in *knockpipe.service*knockpipe@*) \
             printf '%s loaded active running x\\n' knockpipe.service knockpipe@a.service knockpipe@b.service ;; esac ;;\n\
             show) case \"$*\" in *@a*) echo knockpipe-a ;; *@b*) echo knockpipe-b ;; *) echo knockpipe ;; esac ;;\n\
             *) echo \"$@\" >>{0}; case \"$*\" in 'reload knockpipe@a.service') exit 1 ;; esac ;; esac",
            log.display()
        ),
    );
    script("deb-systemd-invoke", &format!("echo \"$@\" >>{}", log.display()));
    fs::create_dir_all(path("run/systemd/system")).unwrap();
    for service in ["knockpipe", "knockpipe-a"] {
        fs::create_dir_all(path("run").join(service)).unwrap();
        std::os::unix::net::UnixListener::bind(path("run").join(service).join("handover")).unwrap();
    }
    let text = read("packaging/debian/postinst");
    let text = text.replace("/run/", &format!("{}/run/", dir.path().display()));
    let text = text.replace("/etc/", &format!("{}/etc/", dir.path().display()));
    script("postinst", text.strip_prefix("#!/bin/sh\n").unwrap());
    let postinst = |args: &[&str]| {
        let _ = fs::remove_file(&log);
        let path_variable = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new(path("postinst")).args(args).env("PATH", path_variable).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let done = fs::read_to_string(&log).unwrap_or_default();
        (done, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(postinst(&["configure"]), (String::new(), String::new()), "a new installation");
    for _ in 0..2 {
        let (done, said) = postinst(&["configure", "0.0.9-1"]);
        let expected = "daemon-reload\nreload knockpipe.service\nreload knockpipe@a.service\n\
                        try-restart knockpipe@b.service\n";
        assert_eq!(done, expected);
        assert!(said.contains("knockpipe@a.service goes on with the program before"), "{said}");
    }
    fs::remove_dir_all(path("run/systemd")).unwrap();
    assert_eq!(postinst(&["configure", "0.0.9-1"]).0, "", "where no systemd runs");
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("restart-after-upgrade = false, stop-on-upgrade = false"));
}

// === units ===

const UNITS: [&str; 4] = [
    "packaging/systemd/knockpipe.service",
    "packaging/systemd/knockpipe@.service",
    "packaging/systemd/knockpipe-firewall@.service",
    "packaging/examples/knockpipe.socket",
];

/// The unit that users start for themselves.
const KNOCK_UNIT: &str = "packaging/systemd-user/knockpipe-knock@.service";

/// The most that `systemd-analyze security` may find, of 10.
const EXPOSURE: f64 = 2.0;

/// Writes the units into a directory of their own, with a program that exists here.
fn units() -> TempDir {
    let dir = TempDir::new().unwrap();
    for unit in UNITS {
        let text = read(unit).replace("/usr/bin/knockpipe", env!("CARGO_BIN_EXE_knockpipe"));
        let give_keys = format!("{}/packaging/give-keys", env!("CARGO_MANIFEST_DIR"));
        let text = text.replace("/usr/lib/knockpipe/give-keys", &give_keys);
        fs::write(dir.path().join(Path::new(unit).file_name().unwrap()), text).unwrap();
    }
    dir
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let dir = units();
    let unit = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let names = [
        "knockpipe.service",
        "knockpipe@office.service",
        "knockpipe-firewall@home.service",
        "knockpipe.socket",
    ]
    .map(unit);
    let names = names.each_ref().map(String::as_str);
    // Our man pages, which they name, are not installed here.
    run("systemd-analyze", &[&["verify", "--man=no"], &names[..]].concat());
}

#[test]
fn the_services_are_locked_up() {
    let dir = units();
    for name in ["knockpipe.service", "knockpipe@.service", "knockpipe-firewall@.service"] {
        let path = dir.path().join(name);
        let args = ["security", "--offline=true", "--no-pager", path.to_str().unwrap()];
        let table = run("systemd-analyze", &args);
        let score = table.split_once("Overall exposure level for ").unwrap().1;
        let score = score.split_once(": ").unwrap().1.split(' ').next().unwrap();
        println!("{name}: exposure {score}");
        assert!(score.parse::<f64>().unwrap() < EXPOSURE, "{table}");
    }
}

/// The unit of users: by the words that it is started with, and by systemd itself.
#[test]
fn the_unit_of_users_knocks_and_is_accepted_by_systemd() {
    let text = read(KNOCK_UNIT);
    let dir = TempDir::new().unwrap();
    let unit = text.replace("/usr/bin/knockpipe", env!("CARGO_BIN_EXE_knockpipe"));
    let config = dir.path().join("config");
    fs::create_dir_all(config.join("knockpipe")).unwrap();
    let unit = unit.replace("%E", config.to_str().unwrap());
    let path = dir.path().join("knockpipe-knock@redis.service");
    fs::write(&path, unit).unwrap();
    // A manager of a user has a directory for what runs, which a login makes.
    let runtime = format!("XDG_RUNTIME_DIR={}", dir.path().display());
    let path = path.to_str().unwrap();
    run("env", &[&runtime, "systemd-analyze", "verify", "--man=no", "--user", path]);
    let setting = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name}= in the unit"))
    };
    assert_eq!(setting("RestartPreventExitStatus"), "2");
    let words: Vec<&str> = setting("ExecStart").split(' ').collect();
    let words = words.iter().map(|word| word.replace("${GATE}", "db.example.org:6380"));
    let words: Vec<String> = words.chain(["--key=f".to_owned()]).collect();
    assert!(words[0].ends_with("/knockpipe"));
    cli::command().try_get_matches_from(words).unwrap();
    let places: BTreeSet<String> = assets().into_iter().map(|(_, place)| place).collect();
    assert!(places.contains("usr/lib/systemd/user/knockpipe-knock@.service"), "{places:?}");
    let named = text.split("/usr/share/doc/").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(places.contains(&format!("usr/share/doc/{named}")), "{named}");
}

/// One service for one file, and one for each of several; both have the same restrictions.
#[test]
fn the_services_differ_in_nothing_but_their_names() {
    let settings = |unit: &str| -> Vec<String> {
        let text = read(unit);
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    let (one, each) = (settings(UNITS[0]), settings(UNITS[1]));
    assert_eq!(one.len(), each.len());
    let differ = one.iter().zip(&each).filter(|(a, b)| a != b);
    let differ: Vec<_> = differ.map(|(_, line)| line.as_str()).collect();
    assert!(differ.iter().all(|line| line.contains("%i")), "{differ:?}");
    assert_eq!(differ.len(), 9, "{differ:?}");
}
