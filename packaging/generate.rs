//! Writes the man pages and the completions of the shells, from the same
//! definitions that parse the command line.
//!
//!     cargo run --example generate -- DIRECTORY DATE
//!
//! `make packages` does it. The program itself carries none of this: nobody
//! needs it at run time, and it would be another thing to keep small.
//!
//! ```text
//! DIRECTORY/man/knockpipe.1, knockpipe-encrypt.1, knockpipe-gate-allow.1, knockpipe-spiped.1 ...
//! DIRECTORY/completions/knockpipe.bash, _knockpipe (zsh), knockpipe.fish
//! ```

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use knockpipe::cli;

/// The manual's section of commands that every user may run.
const SECTION: &str = "1";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [directory, date] = &arguments[..] else {
        eprintln!("give a directory for man/ and completions/, and the date of the pages");
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

/// Everything, below `directory`. The date (2026-01-31) is given, so that the
/// same sources make the same pages.
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
    let mut knockpipe = for_pages(cli::command());
    // Writes the full name (knockpipe-gate-allow) into every command below.
    knockpipe.build();
    write_pages(knockpipe, date, &man)?;
    cli::spiped_commands().into_iter().try_for_each(|command| {
        // spiped's own package has the pages spiped.1 and spipe.1.
        let name = format!("knockpipe-{}", command.get_name());
        write_pages(command.display_name(name), date, &man)
    })
}

/// Without `help`, which needs no page, and with one line behind the name.
fn for_pages(command: Command) -> Command {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let (first, rest) = about.split_once('\n').unwrap_or((&about, ""));
    let first = first.trim_end_matches('.').to_owned();
    let command = if rest.is_empty() { command } else { command.long_about(about).about(first) };
    command.disable_help_subcommand(true).mut_subcommands(for_pages)
}

/// The page of `command` and those of the commands below it.
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
    let text = polished(&String::from_utf8_lossy(&text));
    fs::write(directory.join(format!("{name}.{SECTION}")), text)
}

/// What clap_mangen leaves to be wished: breaks around a blank line, which mandoc
/// calls needless, and examples that are filled like prose, under "EXTRA".
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
