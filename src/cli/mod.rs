//! The command line: turns what the user typed into `Options`, and each error into one line.
//!
//! There are three command lines in one program: the subcommands below, and the spellings of spiped
//! and spipe (`spiped`), which are chosen by the name of the program, or by a first argument that
//! is a flag. A configuration file (`config`) is another form of the first.
//!
//! Nothing here opens a socket; `run` does.

#![allow(rustdoc::broken_intra_doc_links, reason = "help texts have [ip]:port and the like")]

mod admin_cmd;
mod check_args;
mod check_cmd;
mod config;
mod connection_args;
mod disguise_args;
mod errors;
mod firewall_args;
mod firewall_backend_args;
mod firewall_cmd;
mod gate_args;
mod gate_cmd;
mod habits;
mod http_args;
mod http_target;
mod key_cmd;
mod knock_cmd;
mod knock_limit_args;
mod knockd_args;
mod knockd_cmd;
mod loops;
mod output;
mod pipe_cmd;
mod plain_args;
mod process_args;
mod receive_knock_args;
mod redis_knocking;
mod renamed;
mod run_cmd;
mod service_args;
mod site_args;
mod spiped;
mod store_args;
mod target_args;
mod target_tls_args;
mod times;
mod token_cmd;
mod tokens;
mod tunnel_args;
mod values;
mod variables;
mod verify_args;
mod web_args;
mod wish_args;

use std::any::TypeId;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, Parser, Subcommand, ValueHint};

use self::tunnel_args::{DecryptArgs, EncryptArgs, Standalone, TunnelArgs};
use self::variables::Filled;
use crate::run::{self, Failure, Outcome};
use crate::sys::keeper;

/// Description of the program.
const ABOUT: &str = "\
Carries TCP connections between two hosts that share a key, sealed on the way.

'knockpipe encrypt' runs next to the clients and seals what they send. 'knockpipe decrypt' runs
next to the server, lets no one through without the key, and forwards the rest.

  client --plain--> knockpipe encrypt ==sealed==> knockpipe decrypt --plain--> server
         (on the client's host)                  (on the server's host)";

/// The example under the commands.
const EXAMPLE: &str = "\
Example: Redis on db.example.org, used from another host
  Make a key, and copy it to both hosts. Its holders get through, no one else:
    knockpipe keygen redis.key
    scp -p redis.key db.example.org:
  On db.example.org, where Redis listens on 127.0.0.1:6379:
    knockpipe decrypt -s '[0.0.0.0]:6380' -t '[127.0.0.1]:6379' -k redis.key
  On the client's host:
    knockpipe encrypt -s '[127.0.0.1]:6379' -t db.example.org:6380 -k redis.key
  There, clients use Redis as if it were local:
    redis-cli -h 127.0.0.1 ping

A spiped command line works with the name changed: 'knockpipe -e ...', 'knockpipe -d ...', or a
link to this program named spiped or spipe. See 'knockpipe -e --help'.

Exit status: 0 all went well, 1 it failed at run time, 2 the command line or a key file is wrong,
3 a gate command or kick found nothing to change, 128 + N signal N ended pipe.";

/// Examples under the flags of `encrypt`.
const ENCRYPT_EXAMPLES: &str = "\
Examples:
  Redis clients connect here, the decrypt end is on db.example.org:
    knockpipe encrypt -s '[127.0.0.1]:6379' -t db.example.org:6380 -k redis.key
  Over a unix socket, for one of several services behind the same decrypt end:
    knockpipe encrypt -s /run/mysql.sock -t db.example.org:6380 --service mysql -k db.key
  From a laptop, through a gate that opens for who holds the key (decrypt --knock):
    knockpipe encrypt -s '[127.0.0.1]:6379' -t db.example.org:6380 -k redis.key --knock
  Rotation: dial with the new key, while the far end accepts both:
    knockpipe encrypt -s '[127.0.0.1]:6379' -t db.example.org:6380 -k new.key -k old.key";

/// Examples under the flags of `decrypt`.
const DECRYPT_EXAMPLES: &str = "\
Examples:
  In front of Redis, for all holders of the key:
    knockpipe decrypt -s '[0.0.0.0]:6380' -t '[127.0.0.1]:6379' -k redis.key
  Redis and MySQL behind one port; clients choose with --service:
    knockpipe decrypt -s '[::]:6380' -t redis='[127.0.0.1]:6379' -t mysql=/run/mysqld.sock -k db.key
  A second Redis for when the first does not answer PING:
    knockpipe decrypt -s '[0.0.0.0]:6380' -t redis-a:6379 -t redis-b:6379 --check redis -k redis.key
  Bind and read the key as root, then run as nobody:
    knockpipe decrypt -s '[0.0.0.0]:443' -t redis.internal:6379 -k redis.key -u nobody";

/// Examples under the flags of `pipe`.
const PIPE_EXAMPLES: &str = "\
Examples:
  ssh through a tunnel:
    ssh -o ProxyCommand='knockpipe pipe -t %h:8022 -k ~/.ssh/tunnel.key' db.example.org
  The same through a gate that opens for who holds the key (decrypt --knock):
    ssh -o ProxyCommand='knockpipe pipe -t %h:8022 -k ~/.ssh/tunnel.key --knock' db.example.org
  One request from the shell:
    printf 'PING\\r\\n' | knockpipe pipe -t db.example.org:6380 -k redis.key

Exit status: 0 both directions ended well, 1 it failed at run time, 2 the command line or a key
file is wrong, 128 + N signal N ended it: 129 is SIGHUP, 130 SIGINT, 143 SIGTERM.";

/// Notes and examples under the arguments of `keygen`.
const KEYGEN_EXAMPLES: &str = "\
The file is readable by you alone. Copy it to the other end as it is, over a safe way such as scp;
'knockpipe key-id' shows the same 8 digits for both copies. An existing file is never overwritten.

Example:
  knockpipe keygen redis.key";

/// Notes and examples under the arguments of `key-id`.
const KEY_ID_EXAMPLES: &str = "\
The id tells keys apart and reveals nothing about them. Any file of at least 32 bytes is a key,
as with spiped, unless it is a damaged file of 'knockpipe keygen'.

Example:
  knockpipe key-id redis.key";

#[derive(Debug, Parser)]
#[command(name = "knockpipe", version, about = ABOUT, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Make a new key file
    #[command(after_help = KEYGEN_EXAMPLES)]
    Keygen(key_cmd::KeygenArgs),
    /// Print the short public id of a key
    #[command(after_help = KEY_ID_EXAMPLES)]
    KeyId(key_cmd::KeyIdArgs),
    /// Run the end next to the clients: plain in, sealed out
    #[command(after_help = ENCRYPT_EXAMPLES)]
    Encrypt(Box<Standalone<EncryptArgs>>),
    /// Run the end next to the server: sealed in, plain out
    #[command(after_help = DECRYPT_EXAMPLES)]
    Decrypt(Box<Standalone<DecryptArgs>>),
    /// Carry standard input and output through a tunnel
    #[command(after_help = PIPE_EXAMPLES)]
    Pipe(pipe_cmd::PipeArgs),
    /// Ask the gate of a decrypt end to let this host in
    #[command(after_help = knock_cmd::EXAMPLES)]
    Knock(Box<knock_cmd::KnockCommandArgs>),
    /// Let in who knocks over HTTP: tokens, forward-auth, a page
    #[command(after_help = knockd_cmd::EXAMPLES)]
    Knockd(Box<knockd_cmd::KnockdCommandArgs>),
    /// Run a gate in front of a web server: only requests of addresses in the store get through
    #[command(after_help = http_args::EXAMPLES)]
    Http(Box<http_args::HttpCommandArgs>),
    /// Keep a firewall in step with the store: ports that do not exist until somebody is let in
    #[command(after_help = firewall_cmd::EXAMPLES)]
    Firewall(Box<firewall_cmd::FirewallCommandArgs>),
    /// Run all services of a configuration file; SIGHUP reloads it
    #[command(after_help = run_cmd::RUN_EXAMPLES)]
    Run(run_cmd::RunArgs),
    /// Check a configuration file and show its effect, or try one tunnel step by step
    #[command(after_help = check_cmd::EXAMPLES)]
    Check(Box<check_cmd::CommandArgs>),
    /// Manage the allow-set and bans in the store of 'decrypt --gate'
    #[command(after_help = gate_cmd::EXAMPLES)]
    Gate(Box<gate_cmd::CommandArgs>),
    /// Show the state of a running process: its tunnels, limits, refusals, pool and gate
    #[command(after_help = admin_cmd::STATUS_EXAMPLES)]
    Status(admin_cmd::StatusArgs),
    /// List the live connections of a running process
    #[command(after_help = admin_cmd::WHO_EXAMPLES)]
    Who(admin_cmd::WhoArgs),
    /// End live connections of a running process
    #[command(after_help = admin_cmd::KICK_EXAMPLES)]
    Kick(admin_cmd::KickArgs),
    /// Make a running process read its configuration again
    #[command(after_help = admin_cmd::RELOAD_EXAMPLES)]
    Reload(admin_cmd::OrderArgs),
    /// Make a running process finish its connections and end
    #[command(after_help = admin_cmd::DRAIN_EXAMPLES)]
    Drain(admin_cmd::OrderArgs),
    /// See a tunnel work on this machine, and what it keeps out
    Demo,
}

/// Outcome of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Success.
    Clean,
    /// Sessions were cut by the drain deadline; the log says so.
    SessionsCut,
    /// Nothing had to be changed.
    Unchanged,
    /// The process continues in the background, or ended there with this status.
    Background(u8),
    /// A signal ended it, with this status.
    Signalled(u8),
    /// The command that it ran ended, with this status.
    Command(u8),
}

/// Runs the command in `arguments`, which are all of the process, its name first.
///
/// # Errors
/// [`Failure`], with a text of one line: cause and remedy.
pub fn run(arguments: &[OsString]) -> Result<Done, Failure> {
    let called = arguments.first().and_then(|path| Path::new(path).file_name());
    match called.and_then(|name| name.to_str()) {
        Some(keeper::NAME) => Ok(Done::Background(keeper::run(arguments))),
        Some(name) if name.starts_with(redis_knocking::NAME) => knocking_spelling(arguments, 1),
        Some("spiped") => spiped_spelling(arguments, "spiped"),
        Some("spipe") => parse(spipe_command(), arguments)?.map_or(Ok(Done::Clean), spiped::spipe),
        _ if redis_knocking::is_spelled(knocking_words(arguments)) => {
            knocking_spelling(arguments, arguments.len() - knocking_words(arguments).len())
        }
        _ if starts_with_spiped_flag(arguments) => spiped_spelling(arguments, "knockpipe"),
        _ => subcommand(arguments),
    }
}

/// Returns the command line, for completions: it marks the arguments that are files.
pub fn command() -> Command {
    hinted(Cli::command())
}

fn hinted(command: Command) -> Command {
    let with_hint = |arg: Arg| {
        let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        let hint = if is_path { ValueHint::FilePath } else { ValueHint::Other };
        let is_free = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
        if is_free { arg.value_hint(hint) } else { arg }
    };
    command.mut_args(with_hint).mut_subcommands(hinted)
}

/// Returns the tables of a configuration file with the flags that are their keys, for its manual
/// page.
pub fn file_tables() -> [(&'static str, Command); 7] {
    config::tables()
}

/// Returns the command line with the variables of its flags, for man pages.
pub fn documented_command() -> Command {
    variables::documented(Cli::command())
}

/// Returns the command lines of spiped and spipe, which links of these names take.
pub fn spiped_commands() -> [Command; 2] {
    [spiped_command("spiped"), spipe_command()]
}

/// Returns the arguments of `http` that a command line of redis-knocking means, for a check of the
/// documents; both with the name of the program.
///
/// # Errors
/// The cause, in one line.
pub fn of_redis_knocking(arguments: &[OsString]) -> Result<Vec<OsString>, String> {
    let translated = redis_knocking::translate(knocking_words(arguments));
    let translated = translated.map_err(|error| error.to_string())?;
    Ok([OsString::from("knockpipe")].into_iter().chain(translated.arguments).collect())
}

fn spiped_command(name: &'static str) -> Command {
    let usage = format!("{name} <-e|-d> -s ADDR -t ADDR -k FILE [OPTIONS]");
    spiped::with_bare_seconds(spiped::SpipedArgs::command()).name(name).override_usage(usage)
}

fn spipe_command() -> Command {
    let command = spiped::with_bare_seconds(spiped::SpipeArgs::command());
    command.name("spipe").override_usage("spipe -t ADDR -k FILE [OPTIONS]")
}

/// Returns whether a flag is in place of the command, apart from those of every program.
fn starts_with_spiped_flag(arguments: &[OsString]) -> bool {
    let first = arguments.get(1).map(|first| first.to_string_lossy());
    first.is_some_and(|first| {
        first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first.as_ref())
    })
}

fn spiped_spelling(arguments: &[OsString], name: &'static str) -> Result<Done, Failure> {
    match parse(spiped_command(name), arguments)? {
        Some(args) => spiped::spiped(args, arguments),
        None => Ok(Done::Clean),
    }
}

/// Returns the arguments that may be redis-knocking's: all, or those of `http`.
fn knocking_words(arguments: &[OsString]) -> &[OsString] {
    match arguments.get(1).map(|first| first.to_string_lossy()) {
        Some(first) if first == "http" => &arguments[2..],
        Some(first) if first.starts_with('-') => &arguments[1..],
        _ => &[],
    }
}

/// Runs a command line of redis-knocking, which begins at `first`.
fn knocking_spelling(arguments: &[OsString], first: usize) -> Result<Done, Failure> {
    let own = arguments.get(first..).unwrap_or_default();
    if own.iter().any(|word| ["-h", "-help", "--help"].iter().any(|help| word == help)) {
        return output::is_read(
            writeln!(io::stdout(), "{}", redis_knocking::HELP),
            "redirect it elsewhere",
        )
        .map(|_| Done::Clean);
    }
    let translated = redis_knocking::translate(own)?;
    let words = [OsString::from("knockpipe")].into_iter().chain(translated.arguments.clone());
    let parsed: Option<Cli> = parse(Cli::command(), &words.collect::<Vec<_>>())?;
    match parsed.map(|cli| cli.command) {
        Some(Commands::Http(args)) => args.run_translated(translated).map(Done::from),
        _ => Ok(Done::Clean),
    }
}

fn subcommand(arguments: &[OsString]) -> Result<Done, Failure> {
    let filled = variables::fill(&Cli::command(), &without_help_word(arguments), |name| {
        std::env::var_os(name)
    })?;
    let Filled { arguments: all, used } = filled;
    let parsed = parse(documented_command(), &all);
    let done = parsed.and_then(|args: Option<Cli>| {
        args.map_or(Ok(Done::Clean), |cli| carry_out(cli, arguments))
    });
    done.map_err(|failure| variables::blame(failure, &used))
}

/// Returns variables that look like a misspelling of ours, with the right name.
fn misspellings() -> Vec<(String, String)> {
    variables::misspellings(&Cli::command(), std::env::vars_os().map(|(name, _)| name))
}

/// Turns `help COMMAND --help` into `COMMAND --help`: both halves ask for the same.
fn without_help_word(arguments: &[OsString]) -> Vec<OsString> {
    let mut arguments = arguments.to_vec();
    let at = arguments.iter().take(3).position(|word| word == "help");
    let is_asked = |word: &OsString| word == "--help" || word == "-h";
    if let Some(at) = at.filter(|at| arguments[*at..].iter().any(is_asked)) {
        arguments.remove(at);
    }
    arguments
}

/// Runs the command that was parsed from `typed`, the arguments as written.
fn carry_out(Cli { command }: Cli, typed: &[OsString]) -> Result<Done, Failure> {
    match command {
        Commands::Keygen(args) => key_cmd::keygen(&args).map(|()| Done::Clean),
        Commands::KeyId(args) => key_cmd::key_id(&args).map(|()| Done::Clean),
        Commands::Encrypt(args) => args.run(TunnelArgs::Encrypt).map(Done::from),
        Commands::Decrypt(args) => args.run(TunnelArgs::Decrypt).map(Done::from),
        Commands::Pipe(args) => pipe_cmd::pipe(args).map(Done::from),
        Commands::Knock(args) => knock_cmd::knock(*args).map(Done::from),
        Commands::Knockd(args) => args.run(),
        Commands::Http(args) => args.run().map(Done::from),
        Commands::Firewall(args) => args.run(),
        Commands::Run(args) => run_cmd::run(args, typed),
        Commands::Check(args) => check_cmd::check(*args).map(|()| Done::Clean),
        Commands::Gate(args) => gate_cmd::run(*args),
        Commands::Status(args) => admin_cmd::status(&args),
        Commands::Who(args) => admin_cmd::who(&args),
        Commands::Kick(args) => admin_cmd::kick(args),
        Commands::Reload(args) => admin_cmd::reload(&args),
        Commands::Drain(args) => admin_cmd::drain(&args),
        Commands::Demo => run::demo().map(Done::from),
    }
}

/// Parses the arguments; `None` when they asked for help or version, which was printed.
fn parse<T: Parser>(mut command: Command, arguments: &[OsString]) -> Result<Option<T>, Failure> {
    let parsed = command.try_get_matches_from_mut(arguments);
    let error = match parsed.and_then(|mut matches| T::from_arg_matches_mut(&mut matches)) {
        Ok(args) => return Ok(Some(args)),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::is_read(error.print(), "redirect it elsewhere").map(|_| None)
        }
        _ => Err(errors::one_line(&error, &command, &full_name(&command, arguments))),
    }
}

/// Returns `knockpipe encrypt` when that is what was called, for a hint at its help.
fn full_name(command: &Command, arguments: &[OsString]) -> String {
    if command.get_subcommands().next().is_none() {
        return match command.get_name() {
            "knockpipe" => "knockpipe -e".to_owned(),
            name => name.to_owned(),
        };
    }
    let mut name = command.get_name().to_owned();
    let mut here = command;
    for argument in arguments.iter().skip(1) {
        let Some(below) = argument.to_str().and_then(|word| here.find_subcommand(word)) else {
            break;
        };
        // Its own help adds nothing to the one above.
        if below.get_name() == "help" {
            break;
        }
        name = format!("{name} {}", below.get_name());
        here = below;
    }
    name
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Clean => Self::Clean,
            Outcome::SessionsCut => Self::SessionsCut,
            Outcome::Signalled(status) => Self::Signalled(status),
            Outcome::Command(status) => Self::Command(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
        spiped::SpipedArgs::command().debug_assert();
        spiped::SpipeArgs::command().debug_assert();
    }
}
