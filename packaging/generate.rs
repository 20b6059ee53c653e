//! Writes the man pages, the completions of the shells and `docs/FLAGS.md`, from the
//! same definitions that parse the command line.
//!
//!     cargo run --example generate -- DIRECTORY DATE
//!     cargo run --example generate -- flags >docs/FLAGS.md
//!
//! `make packages` does the first. The program itself carries none of this:
//! it is not needed at run time, and would make the program larger.
//!
//! ```text
//! DIRECTORY/man/knockpipe.1, knockpipe-encrypt.1, knockpipe-gate-allow.1, knockpipe-spiped.1 ...
//! DIRECTORY/man/knockpipe.toml.5
//! DIRECTORY/completions/knockpipe.bash, _knockpipe (zsh), knockpipe.fish
//! ```

#[path = "flags.rs"]
pub(crate) mod flags;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use knockpipe::cli;

/// The manual's section of commands that every user may run.
const SECTION: &str = "1";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments == ["flags"] {
        print!("{}", flags::document());
        return ExitCode::SUCCESS;
    }
    let [directory, date] = &arguments[..] else {
        eprintln!(
            "give a directory for man/ and completions/ and the date of the pages, or 'flags'"
        );
        return ExitCode::from(2);
    };
    match write_all(Path::new(directory), &date.to_string_lossy()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes pages and completions below `directory`. The date (2026-01-31) is given, so
/// that the same sources make the same pages.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write_all(directory: &Path, date: &str) -> std::io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut cli::command(), "knockpipe", &completions)?;
    }
    fs::write(man.join("knockpipe.toml.5"), file_page(date))?;
    let mut knockpipe = for_pages(cli::documented_command());
    // Writes the full name (knockpipe-gate-allow) into every command below.
    knockpipe.build();
    write_pages(knockpipe, date, &man)?;
    cli::spiped_commands().into_iter().try_for_each(|command| {
        // spiped's own package has the pages spiped.1 and spipe.1.
        let name = format!("knockpipe-{}", command.get_name());
        write_pages(command.display_name(name), date, &man)
    })
}

/// Returns a command without `help`, which needs no page, and with one line behind
/// the name.
fn for_pages(command: Command) -> Command {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let (first, rest) = about.split_once('\n').unwrap_or((&about, ""));
    let first = first.trim_end_matches('.').to_owned();
    let command = if rest.is_empty() { command } else { command.long_about(about).about(first) };
    command.disable_help_subcommand(true).mut_subcommands(for_pages)
}

/// Writes the page of `command` and those of the commands below it.
fn write_pages(command: Command, date: &str, directory: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands() {
        write_pages(below.clone(), date, directory)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let page = Man::new(command)
        .title(name.to_uppercase())
        .section(SECTION)
        .date(date)
        .manual("knockpipe")
        .source(format!("knockpipe {}", env!("CARGO_PKG_VERSION")));
    let mut text = vec![];
    page.render(&mut text)?;
    let text = polished(&String::from_utf8_lossy(&text)) + &sections(&name);
    fs::write(directory.join(format!("{name}.{SECTION}")), text)
}

/// Returns the sections of a page that clap does not know.
fn sections(name: &str) -> String {
    let mut text = String::new();
    let runs = ["knockpipe-encrypt", "knockpipe-decrypt", "knockpipe-run"].contains(&name);
    if !["knockpipe-spiped", "knockpipe-spipe"].contains(&name) {
        text += ENVIRONMENT;
    }
    if runs || name == "knockpipe" {
        text += FILES;
        text += SIGNALS;
    }
    text += EXIT_STATUS;
    let others = if name == "knockpipe" { "knockpipe\\-encrypt" } else { "knockpipe" };
    text + &format!(".SH \"SEE ALSO\"\n.BR {others} (1),\n.BR knockpipe.toml (5)\n")
}

const ENVIRONMENT: &str = r#".SH ENVIRONMENT
Each long flag has a variable, which the text of the flag names: KNOCKPIPE_TIMEOUT stands for \-\-timeout.
The command line goes before the variable, and an empty variable is none.
A flag that may be repeated takes several values with commas or blanks between them; a switch is true or false.
.TP
.B KNOCKPIPE_GATE_CREDENTIALS
The content of a file for \-\-gate\-credentials, where there is no place for a file.
.TP
.B KNOCKPIPE_LIGHTHOUSE_CREDENTIALS
The same for \-\-lighthouse\-credentials.
"#;

const FILES: &str = r#".SH FILES
.TP
.I /etc/knockpipe/knockpipe.toml
The configuration file of knockpipe run and knockpipe check, unless \-c says otherwise.
.TP
.I /run/knockpipe/admin.sock
The socket at which knockpipe status and the like look for a running process, unless \-\-admin says otherwise.
"#;

const SIGNALS: &str = r#".SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
No new connections; sessions may finish for \-\-drain seconds. A second one does not wait.
.TP
.B SIGHUP
Reads the configuration file, keys and other files again. With a mistake in them nothing changes.
"#;

const EXIT_STATUS: &str = r#".SH "EXIT STATUS"
.TP
.B 0
All went well.
.TP
.B 1
It failed at run time, or sessions were cut at the end of the drain.
.TP
.B 2
The command line, the configuration file or a key file is wrong.
.TP
.B 3
A gate command found nothing to change, or kick no such connection.
.TP
.RI 128+ N
Signal
.I N
ended pipe: 129 is SIGHUP, 130 SIGINT, 143 SIGTERM.
"#;

/// Returns knockpipe.toml(5), made of the flags that are the keys of the file.
fn file_page(date: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH KNOCKPIPE.TOML 5 {date} \"knockpipe {version}\" knockpipe\n{}",
        FILE_DESCRIPTION
    );
    for (table, command) in cli::file_tables() {
        page += &format!(".SS {}\n", roff(&format!("\"{}\"", table.replace('"', "\"\""))));
        for arg in command.get_arguments() {
            page += &key(arg);
        }
    }
    page + FILE_END
}

/// Returns the entry of one key.
fn key(arg: &Arg) -> String {
    let Some(long) = arg.get_long() else { return String::new() };
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    let value = match arg.get_action() {
        ArgAction::SetTrue => "true|false".to_owned(),
        ArgAction::Append => format!("{value}, or [{value}, ...]"),
        _ => value,
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = default.collect::<Vec<_>>().join(" ");
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    format!(".TP\n.BR {} \" = {}\"\n{}\n", roff(long), roff(&value), roff(&(help + &default)))
}

/// Returns `text` escaped for roff.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let is_command = text.starts_with(['.', '\'']);
    if is_command { format!("\\&{text}") } else { text }
}

const FILE_DESCRIPTION: &str = r#".SH NAME
knockpipe.toml \- configuration file of knockpipe
.SH SYNOPSIS
.I /etc/knockpipe/knockpipe.toml
.SH DESCRIPTION
The file, in TOML, defines the tunnels of a process of
.BR "knockpipe run" .
A key is the long name of a flag, and its value means what it means on the command line.
.SS [process]
The process and its log. Variables of the environment fill in keys that are missing here.
.SS [keys]
A name for each key file, for the key of tunnels.
.SS [gates.NAME]
A gate, which tunnels name with gate = "NAME".
.SS [defaults]
Values for every tunnel that has such a key and does not set it itself.
.SS [tunnels.NAME]
One tunnel. Its mode is "encrypt" next to the clients, or "decrypt" next to the server.
.SS Values
Switches are true or false. Keys that may be repeated take a text or a list of texts, and target also a table:
{ NAME = ADDR }. A path is taken from the directory of the file. ${NAME} in a text is the variable NAME of the environment.
.SH KEYS
"#;

const FILE_END: &str = r#".SH EXAMPLES
.nf
[keys]
office = "office.key"

[gates.staff]
gate = "file:/var/lib/knockpipe/gate"

[defaults]
key = "office"

[tunnels.services]
mode = "decrypt"
source = ["0.0.0.0:6380", "[::]:6380"]
target = { redis = "127.0.0.1:6379", mysql = "/run/mysqld/mysqld.sock" }
gate = "staff"
.fi
.SH FILES
.TP
.I /etc/knockpipe/knockpipe.toml
.SH "SEE ALSO"
.BR knockpipe (1),
.BR knockpipe\-run (1),
.BR knockpipe\-check (1)
"#;

/// Mends the output of clap_mangen: breaks around a blank line, which mandoc calls
/// needless, and examples that are filled like prose, under "EXTRA".
fn polished(page: &str) -> String {
    let page = page.replace(".br\n\n.br\n", "\n");
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else {
        return page;
    };
    let (notes, after) = match extra.split_once("\n.SH ") {
        Some((notes, after)) => (notes, format!(".SH {after}")),
        None => (extra.trim_end(), String::new()),
    };
    format!("{before}.SH NOTES\n.nf\n{notes}\n.fi\n{after}")
}
