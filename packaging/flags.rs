//! `docs/FLAGS.md`: every flag of every command, from the definitions of the
//! command line. Flags that several commands of a group have with the same meaning
//! are one row, which names these commands.

use clap::{Arg, ArgAction, Command};
use knockpipe::cli;

/// The command that writes the document anew.
pub(crate) const RENEW: &str = "cargo run --locked --example generate -- flags >docs/FLAGS.md";

/// Commands that share a table, under its heading.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Tunnels", &["encrypt", "decrypt", "pipe"]),
    ("Knocks", &["knock"]),
    ("Services of HTTP", &["knockd", "http"]),
    ("Firewalls", &["firewall"]),
    ("Configuration files", &["run", "check"]),
    ("Keys and the demo", &["keygen", "key-id", "demo"]),
    ("Running processes", &["status", "who", "kick", "drain", "reload"]),
];

/// Heading of the flags that have none of their own.
const GENERAL: &str = "General";

const HEAD: &str = "\
Every flag of every command. The column \"for\" names the commands of the section that have it.
[What to set](operating/settings.md) says when to use which, `knockpipe COMMAND --help` has
examples.

**Every long flag has an environment variable**: `KNOCKPIPE_TIMEOUT=2s` is `--timeout 2s`, unless
the command line gives the flag itself. The rules are few:
[environment variables](operating/settings.md#environment-variables). In a
[configuration file](operating/configuration.md) the long name is the key. A flag is given once,
unless its text says that it is repeatable. Flags that only
[spiped's spelling](operating/spiped.md) has are on a page of their own.
";

/// A flag or an argument, and the commands that have it.
struct Row {
    heading: String,
    cells: Cells,
    commands: Vec<String>,
}

/// Cells of a row.
#[derive(PartialEq, Eq)]
struct Cells {
    names: String,
    default: String,
    meaning: String,
}

/// Returns the whole document.
pub(crate) fn document() -> String {
    let command = cli::command();
    let mut text = format!("<!-- Written by: {RENEW} -->\n# Flags\n\n{HEAD}");
    for (title, names) in GROUPS {
        let members: Vec<&Command> =
            names.iter().map(|name| command.find_subcommand(name).expect("a command")).collect();
        text += &section(title, "knockpipe", &members);
    }
    let knockd = command.find_subcommand("knockd").expect("a command");
    let token = knockd.find_subcommand("token").expect("a command");
    let members: Vec<&Command> = token.get_subcommands().collect();
    text += &section("Tokens", "knockpipe knockd token", &members);
    let firewall = command.find_subcommand("firewall").expect("a command");
    let members: Vec<&Command> = firewall.get_subcommands().collect();
    text += &section("Looking at a firewall", "knockpipe firewall", &members);
    let gate = command.find_subcommand("gate").expect("a command");
    let members: Vec<&Command> = gate.get_subcommands().collect();
    text += &section("The gate", "knockpipe gate", &members);
    let known = |name: &str| name == "gate" || GROUPS.iter().any(|(_, all)| all.contains(&name));
    let missing = command.get_subcommands().find(|command| !known(command.get_name()));
    assert!(missing.is_none(), "{missing:?} is in no group");
    text
}

/// Returns the section of a group: its commands, and a table of flags for each heading.
fn section(title: &str, above: &str, commands: &[&Command]) -> String {
    let mut text = format!("\n## {title}\n\n| command | what it does |\n|---|---|\n");
    for command in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = cell(&usage(command));
        text += &format!("| `{above} {usage}` | {} |\n", cell(&about));
    }
    let rows = rows(commands);
    let mut headings: Vec<&str> = rows.iter().map(|row| row.heading.as_str()).collect();
    headings.sort_by_key(|heading| *heading != GENERAL);
    let mut written: Vec<&str> = vec![];
    for heading in headings {
        if !written.contains(&heading) {
            written.push(heading);
            text += &table(heading, &rows, commands.len());
        }
    }
    text
}

fn table(heading: &str, rows: &[Row], commands: usize) -> String {
    let mut text = format!("\n### {heading}\n\n");
    text += "| flag | for | default | meaning |\n|---|---|---|---|\n";
    for Row { cells, commands: having, .. } in rows.iter().filter(|row| row.heading == heading) {
        let having = if having.len() == commands { "all".to_owned() } else { having.join(", ") };
        text +=
            &format!("| {} | {having} | {} | {} |\n", cells.names, cells.default, cells.meaning);
    }
    text
}

/// Returns the name of a command and its arguments without a flag.
fn usage(command: &Command) -> String {
    let names = command.get_positionals().filter_map(|arg| arg.get_value_names()).flatten();
    names.fold(command.get_name().to_owned(), |usage, name| format!("{usage} {name}"))
}

fn rows(commands: &[&Command]) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![];
    for command in commands {
        let name = command.get_name().to_owned();
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let heading = arg.get_help_heading().unwrap_or(GENERAL).to_owned();
            let cells = cells(arg);
            match rows.iter_mut().find(|row| row.heading == heading && row.cells == cells) {
                Some(row) => row.commands.push(name.clone()),
                None => rows.push(Row { heading, cells, commands: vec![name.clone()] }),
            }
        }
    }
    rows
}

fn cells(arg: &Arg) -> Cells {
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let names = arg.get_value_names().filter(|_| takes).unwrap_or_default();
    let value = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    let long = arg.get_long().map(|long| format!("--{long} {value}"));
    let named = long.as_deref().unwrap_or(&value).trim_end();
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // Where a default depends on others, the text of the flag has it.
    let (help, told) = help.split_once(" [default: ").unwrap_or((&help, ""));
    let told = told.trim_end_matches(']');
    let choices = arg.get_possible_values();
    let choices: Vec<_> = choices.iter().map(|choice| format!("`{}`", choice.get_name())).collect();
    let choices = match choices.is_empty() || !takes {
        true => String::new(),
        false => format!(": {}", choices.join(", ")),
    };
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let defaults = defaults.collect::<Vec<_>>().join(" ");
    let default = match (told.is_empty(), takes && !defaults.is_empty()) {
        (false, _) => told.to_owned(),
        (true, true) => format!("`{defaults}`"),
        (true, false) => String::new(),
    };
    Cells {
        names: cell(&format!("{short}`{named}`")),
        default: cell(&default),
        meaning: cell(&format!("{help}{choices}")),
    }
}

/// Returns `text` for one cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
