//! The documents are true where a machine can tell: what they name exists, and
//! the flags, defaults, log messages, close reasons and dependencies that they
//! explain are those of the program, none missing and none invented.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::binary;
use testkit::tree::{read, sources};

/// A set of words, in an order that makes a difference readable.
type Words = BTreeSet<String>;

/// Directories with documents.
const PLACES: [&str; 4] = [".", "keys", "docs", PAGES];

/// The directory of the pages for operators.
const PAGES: &str = "docs/operating";

/// Every document of the repository, by its path.
pub(super) fn documents() -> Vec<String> {
    let found: Vec<String> = PLACES.iter().flat_map(|place| documents_in(place)).collect();
    assert!(found.len() > 25, "only {found:?}");
    found
}

fn documents_in(place: &str) -> Vec<String> {
    let files = fs::read_dir(place).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut found: Vec<String> = files.map(path).collect();
    found.iter_mut().for_each(|path| *path = path.trim_start_matches("./").to_owned());
    found.sort();
    found
}

fn pages() -> Vec<String> {
    documents_in(PAGES)
}

/// The text of all pages for operators.
pub(super) fn operating() -> String {
    pages().iter().map(read).collect()
}

/// The text of the section under `heading`, up to the next heading of its level or above.
fn section(text: &str, heading: &str) -> String {
    let level = |line: &str| line.len() - line.trim_start_matches('#').len();
    let ends = |line: &str| (1..=level(heading)).contains(&level(line));
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "no section {heading}");
    lines.take_while(|line| !ends(line)).map(|line| format!("{line}\n")).collect()
}

/// The rows of all tables in `text`, as cells; headings are left out.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &str| line.starts_with("| ") || line.starts_with("|-");
    let is_heading = |i: usize| lines.get(i + 1).is_some_and(|next| next.starts_with("|-"));
    let body = (0..lines.len())
        .filter(|&i| is_row(lines[i]) && !lines[i].starts_with("|-") && !is_heading(i));
    body.map(|i| cells(lines[i])).collect()
}

fn cells(row: &str) -> Vec<String> {
    let row = row.replace("\\|", "\u{1}");
    let inner = row.trim().trim_matches('|');
    inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// Returns the texts in backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The directories of the crates that are published, the program's among them.
fn published() -> Vec<PathBuf> {
    let crates = fs::read_dir("crates").unwrap().map(|entry| entry.unwrap().path());
    let all = crates.chain([PathBuf::from(".")]);
    all.filter(|path| !read(path.join("Cargo.toml")).contains("publish = false")).collect()
}

fn difference(left: &Words, right: &Words) -> Vec<String> {
    left.symmetric_difference(right).cloned().collect()
}

// === files and functions ===

/// Directories of files that documents name.
const TREES: [&str; 5] = ["src/", "crates/", "tests/", "packaging/", "scripts/"];

/// Every `src/...`, `tests/...` and so on in `text`, with the name behind `::`, if any.
fn places(text: &str) -> BTreeSet<(String, Option<String>)> {
    let words = text.split(|c: char| c.is_whitespace() || "`()|,;".contains(c));
    let named = words.filter(|word| TREES.iter().any(|tree| word.starts_with(tree)));
    named
        .filter(|word| !word.contains('*'))
        .map(|word| {
            let word = word.trim_end_matches(['.', ':']);
            match word.split_once("::") {
                Some((path, name)) => (path.to_owned(), Some(name.to_owned())),
                None => (word.to_owned(), None),
            }
        })
        .collect()
}

/// Returns whether `code` defines `name`.
fn defines(code: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait", "const", "type"].iter().any(|kind| {
        code.match_indices(&format!("{kind} {name}")).any(|(at, found)| {
            let next = code[at + found.len()..].chars().next();
            !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    })
}

/// Returns whether `name` is a test in `code` that is run.
fn is_test(code: &str, name: &str) -> bool {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let declaration = format!("fn {name}(");
    let Some(at) = lines.iter().position(|line| line.contains(&declaration)) else {
        return false;
    };
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    let attributes: Vec<_> = attributes.collect();
    let has = |start: &str| attributes.iter().any(|line| line.starts_with(start));
    (has("#[test]") || has("#[tokio::test")) && !has("#[ignore")
}

#[test]
fn every_file_and_function_that_a_document_names_exists() {
    let mut named = BTreeMap::new();
    for document in documents() {
        let places = places(&read(&document));
        for (path, name) in &places {
            assert!(Path::new(path).exists(), "{document} names {path}, which does not exist");
            let Some(name) = name else { continue };
            assert!(defines(&read(path), name), "{document}: {path} has no {name}");
        }
        named.insert(document, places.iter().filter(|(_, name)| name.is_some()).count());
    }
    assert!(named["docs/ARCHITECTURE.md"] > 40, "{named:?}");
    assert!(named["docs/THREATS.md"] > 60, "{named:?}");
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read("Makefile");
    let mut named = 0;
    for document in documents() {
        let text = read(&document);
        let spans = spans(&text).chain(text.lines().filter_map(|line| line.strip_prefix("    ")));
        let targets = spans.filter_map(|code| code.strip_prefix("make "));
        for target in targets.filter_map(|behind| behind.split_whitespace().next()) {
            assert!(makefile.contains(&format!("\n{target}:")), "{document}: no make {target}");
            named += 1;
        }
    }
    assert!(named > 20, "only {named}");
}

#[test]
fn every_threat_that_is_stopped_names_its_tests() {
    let text = read("docs/THREATS.md");
    let (stopped, rest) = text.split_once("\n## A holder of the key").unwrap();
    assert!(rest.contains("\n## What is not stopped"));
    let mut tests = 0;
    for row in rows(stopped) {
        let [attack, defence, proof] = &row[..] else { panic!("not three cells: {row:?}") };
        assert!(!defence.contains("::"), "{attack}: a test among the defences");
        let proofs = places(proof);
        assert!(!proofs.is_empty(), "{attack}: nothing shows that it is stopped");
        for (path, name) in proofs {
            let name = name.unwrap_or_else(|| panic!("{attack}: {path} without a test"));
            assert!(is_test(&read(&path), &name), "{attack}: {path}::{name} is no test that runs");
            tests += 1;
        }
    }
    assert!(tests > 60, "only {tests} tests are named");
}

#[test]
fn what_does_not_exist_is_found() {
    let code = "#[test]\n    fn one() {}\n#[test]\n#[ignore]\nfn two() {}\nfn three() {}\n";
    assert!(is_test(code, "one") && defines(code, "three"));
    assert!(!is_test(code, "two") && !is_test(code, "three") && !is_test(code, "on"));
    assert!(!defines(code, "on") && !defines(code, "four"));
    let found = places("see `src/a.rs::b`, (tests/c.rs) and src/d.rs.");
    let found: Vec<_> = found.iter().map(|(path, name)| (path.as_str(), name.as_deref())).collect();
    assert_eq!(found, [("src/a.rs", Some("b")), ("src/d.rs", None), ("tests/c.rs", None)]);
    assert_eq!(rows("| h | i |\n|---|---|\n| `a\\|b` | c |\n"), [["`a|b`", "c"]]);
}

// === links ===

/// The anchor that a heading gets: lower case, no punctuation, hyphens for blanks.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("https://") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let here = Path::new(&document);
            let path = match path {
                "" => here.to_owned(),
                path => here.parent().unwrap().join(path),
            };
            assert!(path.exists(), "{document} links to {target}, which does not exist");
            let there = read(&path);
            let mut headings = there.lines().filter(|line| line.starts_with('#'));
            let found =
                headings.any(|line| anchor(line.trim_start_matches('#').trim()) == fragment);
            assert!(fragment.is_empty() || found, "{document}: no heading for {target}");
            links += 1;
        }
    }
    assert!(links > 60, "only {links} links were found");
}

// === flags ===

/// A flag as `--help` prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    short: String,
    long: String,
    default: String,
}

/// Returns the output of `knockpipe COMMAND --help`.
fn help(command: &[&str]) -> String {
    let output = Command::new(binary()).args(command).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The flags in the help of `command`.
fn flags(command: &str) -> BTreeSet<Flag> {
    let help = help(&[command]);
    let options = help.split_once("Options:").unwrap().1.split("\nExample").next().unwrap();
    // A flag stands at an indent of two, or of six when it is only long.
    let starts = |line: &str| line.starts_with("  -") || line.starts_with("      --");
    let mut found: Vec<String> = vec![];
    for line in options.lines().filter(|line| !line.is_empty()) {
        match found.last_mut() {
            _ if starts(line) => found.push(line.trim().to_owned()),
            Some(last) if line.starts_with(' ') => *last += &format!(" {}", line.trim()),
            _ => {}
        }
    }
    let flags: BTreeSet<Flag> = found.iter().map(|text| flag(text)).collect();
    assert!(flags.len() > 1, "{command}: only {flags:?}");
    flags
}

/// `-n, --max-sessions <N> ... [default: 1024]`.
fn flag(text: &str) -> Flag {
    let names: Vec<&str> =
        text.split([' ', ',']).take_while(|w| w.is_empty() || w.starts_with('-')).collect();
    let name = |long: bool| names.iter().find(|w| !w.is_empty() && w.starts_with("--") == long);
    let default = text.split_once("[default: ").map(|(_, rest)| rest.split(']').next().unwrap());
    Flag {
        short: name(false).map_or("", |name| name).to_owned(),
        long: name(true).map_or("", |name| name).to_owned(),
        default: default.unwrap_or_default().to_owned(),
    }
}

/// Every spelling of `flags`.
fn names(flags: &BTreeSet<Flag>) -> Words {
    let both = flags.iter().flat_map(|flag| [&flag.short, &flag.long]);
    both.filter(|name| !name.is_empty()).cloned().collect()
}

/// The tables of flags say what the help says, and for which command.
#[test]
fn the_flag_tables_are_what_the_help_says() {
    let text = read("docs/FLAGS.md");
    let table = rows(&section(&text, "## Tunnels"));
    let table: Vec<_> = table.into_iter().filter(|row| row.len() == 4).collect();
    assert!(table.len() > 40, "only {} rows", table.len());
    for command in ["encrypt", "decrypt", "pipe"] {
        let has = |row: &[String]| row[1] == "all" || row[1].split(", ").any(|it| it == command);
        let mine = table.iter().filter(|row| has(row)).map(|row| in_table(row));
        let documented: BTreeSet<Flag> = mine.collect();
        let mut printed = flags(command);
        // clap adds it, and its definitions have no such flag.
        printed.retain(|flag| flag.long != "--help");
        let difference: Vec<_> = documented.symmetric_difference(&printed).collect();
        assert!(difference.is_empty(), "{command}: only in FLAGS or in --help: {difference:?}");
    }
}

fn in_table(row: &[String]) -> Flag {
    let spans: Vec<&str> = spans(&row[0]).map(|span| span.split(' ').next().unwrap()).collect();
    let name = |long: bool| spans.iter().find(|name| name.starts_with("--") == long);
    Flag {
        short: name(false).map_or("", |name| name).to_owned(),
        long: name(true).map_or("", |name| name).to_owned(),
        default: row[2].trim_matches('`').to_owned(),
    }
}

/// The comparison with others is not older than the program.
#[test]
fn the_comparison_denies_nothing_that_there_is() {
    let text = read("README.md");
    let table = rows(&section(&text, "## How it compares"));
    let printed = names(&flags("decrypt"));
    for (row, flag) in [
        ("limit for each source", "--max-per-source"),
        ("metrics for Prometheus", "--metrics"),
        ("PROXY protocol to the service", "--proxy-to-target"),
        ("drops privileges", "--user"),
        ("sandbox (Landlock)", "--no-sandbox"),
    ] {
        assert!(printed.contains(flag), "there is no {flag}");
        let cells = table.iter().find(|cells| cells[0] == row).expect(row);
        assert_eq!(cells[1], "yes", "{row}");
    }
    // As `tests/suite/reload.rs` shows.
    for row in ["reload", "change keys without a restart"] {
        let cells = table.iter().find(|cells| cells[0] == row).expect(row);
        assert_ne!(cells[1], "no", "{row}");
    }
}

#[test]
fn operating_names_exactly_the_flags_that_only_spipeds_spelling_has() {
    let text = read("docs/operating/spiped.md");
    let paragraph = text.split("Only in spiped's spelling:").nth(1).unwrap();
    let paragraph = paragraph.split("\n\n").next().unwrap();
    let documented: Words = spans(paragraph).map(str::to_owned).collect();
    let others = &names(&flags("encrypt")) | &names(&flags("decrypt"));
    let printed = &names(&flags("-e")) - &others;
    assert!(!documented.is_empty());
    assert_eq!(difference(&documented, &printed), [""; 0], "only in spiped.md or only in --help");
}

/// The commands of `gate`, as its help lists them.
fn gate_commands() -> Vec<String> {
    let overview = help(&["gate"]);
    let (_, commands) = overview.split_once("Commands:").unwrap();
    let lines = commands.split("\n\n").next().unwrap().lines();
    let commands = lines.filter_map(|line| line.split_whitespace().next());
    let commands: Vec<String> = commands.map(str::to_owned).collect();
    assert!(commands.len() > 10, "only {commands:?}");
    commands
}

/// Every flag in the help of a `gate` command.
fn gate_flags() -> Words {
    let mut flags = Words::new();
    for command in gate_commands() {
        let help = help(&["gate", &command]);
        let words = help.split(|c: char| c.is_whitespace() || c == ',');
        flags.extend(words.filter(|word| is_flag(word)).map(str::to_owned));
    }
    flags
}

/// Every flag in the help of the commands that ask a running process.
fn admin_flags() -> Words {
    let mut flags = Words::new();
    for command in ["status", "who", "kick", "reload", "drain"] {
        let help = help(&[command]);
        let words = help.split(|c: char| c.is_whitespace() || "[],".contains(c));
        flags.extend(words.filter(|word| is_flag(word)).map(str::to_owned));
    }
    assert!(flags.len() > 6, "only {flags:?}");
    flags
}

/// Every flag in the help of a `knockd token` command.
fn token_flags() -> Words {
    let mut flags = Words::new();
    for command in ["new", "list", "revoke"] {
        let help = help(&["knockd", "token", command]);
        let words = help.split(|c: char| c.is_whitespace() || "[],".contains(c));
        flags.extend(words.filter(|word| is_flag(word)).map(str::to_owned));
    }
    flags
}

/// The page of the gate has a row for each `gate` command.
#[test]
fn operating_names_every_gate_command() {
    let text = read("docs/operating/gate.md");
    let named = section(&text, "## Commands");
    for command in gate_commands() {
        let found =
            named.contains(&format!("gate {command}")) || named.contains(&format!("`{command} "));
        assert!(found || command == "help", "gate.md does not name 'gate {command}'");
    }
}

/// Returns the flags that a text names: code that begins with one, and all that stands
/// behind the word `knockpipe` in a line of code.
fn flags_named_in(text: &str) -> Words {
    let mut named = Words::new();
    let mut take = |code: &str| {
        let words = code.split(|c: char| c.is_whitespace() || "'\"=[]".contains(c));
        named.extend(words.filter(|word| is_flag(word)).map(str::to_owned));
    };
    for line in text.lines() {
        match (line.starts_with("    "), line.split_once("knockpipe ")) {
            (true, Some((_, behind))) => take(behind.split(" # ").next().unwrap()),
            (true, None) => {}
            (false, _) => spans(line).filter(|s| s.starts_with('-')).for_each(&mut take),
        }
    }
    named
}

fn is_flag(word: &str) -> bool {
    let letters = word.trim_start_matches('-');
    let dashes = word.len() - letters.len();
    let plain = letters.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
    plain && ((dashes == 1 && letters.len() == 1) || (dashes == 2 && letters.len() > 1))
}

/// Commands besides those that are a tunnel's end, and those of `gate`.
const OTHERS: &[&str] = &["run", "check", "knock", "knockd", "http", "firewall"];

#[test]
fn operating_explains_every_flag_and_invents_none() {
    let ours = &(&names(&flags("encrypt")) | &names(&flags("decrypt"))) | &names(&flags("pipe"));
    let known = &ours | &names(&flags("-e"));
    let known = &known | &["-V", "--version"].map(str::to_owned).into();
    let known = &(&known | &gate_flags()) | &(&admin_flags() | &token_flags());
    let known = OTHERS.iter().fold(known, |known, command| &known | &names(&flags(command)));
    for document in ["README.md", "keys/README.md"].map(str::to_owned).into_iter().chain(pages()) {
        let named = flags_named_in(&read(&document));
        let invented: Vec<_> = named.difference(&known).collect();
        assert!(invented.is_empty(), "{document} invents {invented:?}");
    }
    let named = flags_named_in(&operating());
    let all = flags("encrypt").into_iter().chain(flags("decrypt")).chain(flags("pipe"));
    let all = all.chain(OTHERS.iter().flat_map(|command| flags(command)));
    let missing = all.filter(|f| !named.contains(&f.short) && !named.contains(&f.long));
    let missing: Vec<_> = missing.map(|f| f.long).filter(|long| long != "--help").collect();
    assert!(missing.is_empty(), "OPERATING does not name {missing:?}");
}

// === pages for operators, prose ===

/// The index is short, and no page is missing in it.
#[test]
fn the_index_of_operating_has_every_page() {
    let index = read("docs/OPERATING.md");
    assert!(index.lines().count() <= 40);
    for page in pages() {
        let link = format!("]({})", page.strip_prefix("docs/").unwrap());
        assert!(index.contains(&link), "no link to {page}");
    }
}

/// Tables, code, results that a program writes and one unbroken word may be longer.
#[test]
fn prose_in_documents_wraps_at_100_columns() {
    for document in documents() {
        let (mut fenced, mut written) = (false, false);
        for line in read(&document).lines() {
            fenced ^= line.starts_with("```");
            written ^= line.ends_with(" from here -->") || line.ends_with(" to here -->");
            let is_code = fenced || line.starts_with("    ");
            let is_prose = !is_code && !written && !line.starts_with(['|', '#', '<']);
            let wraps = line.chars().count() <= 100 || !line.trim_start().contains(' ');
            assert!(!is_prose || wraps, "{document}: {line}");
        }
    }
}

// === close reasons, log messages, dependencies ===

#[test]
fn operating_explains_every_close_reason_and_invents_none() {
    let code = read("crates/base/src/reason.rs");
    let arms = code.lines().filter(|line| line.trim().starts_with("Self::"));
    let real: Words = arms.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect();
    let text = read("docs/operating/close-reasons.md");
    let table = rows(&section(&text, "# Close reasons"));
    let explained: Words = table.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert!(real.len() > 20, "only {real:?}");
    assert_eq!(table.len(), explained.len(), "a reason stands there twice");
    assert_eq!(difference(&real, &explained), [""; 0], "only in the code or only in OPERATING");
    for row in table {
        assert!(["both", "encrypt", "decrypt"].contains(&row[1].as_str()), "{row:?}");
        assert!(row[2..].iter().all(|cell| !cell.is_empty()) && row.len() == 4, "{row:?}");
    }
}

#[test]
fn every_log_message_that_operating_explains_is_one() {
    let files = published().into_iter().flat_map(|directory| sources(&directory.join("src")));
    let code: String = files.map(read).collect();
    let text = read("docs/operating/log.md");
    let table = rows(&section(&text, "## Other lines"));
    assert!(table.len() > 8, "only {} messages", table.len());
    for row in table {
        let message = row[0].trim_matches('`');
        assert!(code.contains(&format!("\"{message}")), "nothing logs {message:?}");
    }
}

#[test]
fn architecture_justifies_every_dependency_and_no_other() {
    let mut real = Words::new();
    for directory in published() {
        let manifest = read(directory.join("Cargo.toml"));
        let dependencies =
            manifest.split("\n[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let names = dependencies.lines().filter_map(|line| line.split_once(" = "));
        real.extend(names.map(|(name, _)| name.to_owned()));
    }
    real.retain(|name| !name.starts_with("knockpipe-"));
    let text = read("docs/ARCHITECTURE.md");
    let table = rows(&section(&text, "## Dependencies"));
    let named: Words = table.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert!(real.len() > 10, "only {real:?}");
    assert_eq!(difference(&real, &named), [""; 0], "only in Cargo.toml or only in ARCHITECTURE");
}

/// PROTOCOL alone is enough for another implementation, test vectors included.
#[test]
fn the_protocols_vectors_are_those_of_the_tests() {
    let text = read("docs/PROTOCOL.md");
    let json = text.split_once("```json\n").and_then(|(_, rest)| rest.split_once("```"));
    let (json, _) = json.expect("PROTOCOL has vectors");
    assert_eq!(json, read("crates/proto/vectors/knockpipe-1.json"));
}
