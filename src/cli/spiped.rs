//! The command lines of spiped and spipe, with their original meaning.
//!
//! One source, one target, one key, each flag at most once; `-o 0` and `-r 0` mean the default;
//! without `-F` the process goes to the background and writes `SOURCE.pid`. Every refusal has a
//! reason: there is no weak mode (`-f`). Our own long options may be added.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Command, Parser};

use super::check_args::CheckArgs;
use super::errors::UsageError;
use super::gate_args::AcceptorGateArgs;
use super::pipe_cmd::SharedPipeArgs;
use super::process_args::{ProcessArgs, Reloading};
use super::times;
use super::tunnel_args::{
    DEFAULT_HANDSHAKES, DEFAULT_UNOPENED, EndArgs, LazyArgs, ServerArgs, reread,
};
use super::values::{AsTyped, HandshakeLimit};
use super::{Done, key_cmd, loops};
use crate::addr::{Address, ServiceName};
use crate::run::{Failure, Ports};
use crate::sys::background::{self, BackgroundError, Readiness, Side};
use crate::tunnel::Role;

/// Notes and examples under the flags of `spiped`.
const SPIPED_EXAMPLES: &str = "\
Without -F the command returns once ports are bound and SOURCE.pid is written.
With -F a pid file is written only where -p asks for one.

Example: Redis on db.example.org for clients on another host
  db.example.org:   knockpipe -d -s '[0.0.0.0]:6380' -t '[127.0.0.1]:6379' -k redis.key
  client's host:    knockpipe -e -s '[127.0.0.1]:6379' -t db.example.org:6380 -k redis.key";

/// Example under the flags of `spipe`.
const SPIPE_EXAMPLES: &str = "\
Example: ssh through a tunnel
  ssh -o ProxyCommand='spipe -t %h:8022 -k ~/.ssh/tunnel_key' db.example.org";

/// Carry TCP connections through an encrypted tunnel (the spelling of spiped).
#[derive(Debug, Parser)]
#[command(after_help = SPIPED_EXAMPLES)]
pub(super) struct SpipedArgs {
    /// Encrypt: plain connections in, sealed connections out
    #[arg(short = 'e')]
    encrypt: bool,

    /// Decrypt: sealed connections in, plain connections out
    #[arg(short = 'd')]
    decrypt: bool,

    /// Address to listen on: host:port, [ip]:port, /path/to/socket or (with -F) systemd:NAME
    #[arg(short, value_name = "ADDR", required_unless_present = "version")]
    source: Option<AsTyped>,

    /// Address to forward to: host:port, [ip]:port or /path/to/socket
    #[arg(short, value_name = "ADDR", required_unless_present = "version")]
    target: Option<Address>,

    /// Key file, or - for standard input
    #[arg(short, value_name = "FILE", required_unless_present = "version")]
    key: Option<PathBuf>,

    /// Stay in the foreground
    #[arg(short = 'F')]
    foreground: bool,

    /// Print the version to standard error
    #[arg(short = 'v')]
    version: bool,

    #[command(flatten)]
    mode: ModeArgs,

    /// (-e) Ask the decrypt end for this service instead of its default target
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,

    /// (-d) Connections at once that have not proven the key [default: 1024]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Limits")]
    max_handshakes: Option<HandshakeLimit>,

    #[command(flatten)]
    lazy: LazyArgs,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    process: ProcessArgs,

    #[command(flatten)]
    acceptor: AcceptorGateArgs,

    #[command(flatten)]
    check: CheckArgs,
}

/// Carry standard input and output through an encrypted tunnel (the spelling of spipe).
#[derive(Debug, Parser)]
#[command(after_help = SPIPE_EXAMPLES)]
pub(super) struct SpipeArgs {
    /// Address of the decrypt end: host:port, [ip]:port or /path/to/socket
    #[arg(short, value_name = "ADDR", required_unless_present = "version")]
    target: Option<Address>,

    /// Key file, or - for standard input (then there is nothing left to send)
    #[arg(short, value_name = "FILE", required_unless_present = "version")]
    key: Option<PathBuf>,

    /// Print the version to standard error
    #[arg(short = 'v')]
    version: bool,

    #[command(flatten)]
    mode: ModeArgs,

    #[command(flatten)]
    shared: SharedPipeArgs,
}

/// spiped's choice of handshakes; only one exists here.
#[derive(Debug, clap::Args)]
struct ModeArgs {
    /// Refused: a handshake without forward secrecy does not exist here
    #[arg(short = 'f')]
    weak: bool,

    /// Require forward secrecy; it is always on
    #[arg(short = 'g')]
    forward_secrecy: bool,
}

/// Lets the flags of spiped take seconds without a unit. Everywhere else a duration needs one.
pub(super) fn with_bare_seconds(command: Command) -> Command {
    command.mut_args(|arg| match arg.get_id().as_str() {
        "timeout" | "resolve_every" => {
            arg.value_parser(times::parse_spiped).value_name("SECONDS|DURATION")
        }
        _ => arg,
    })
}

/// Runs a spiped command line; `arguments` are all of the process.
///
/// # Errors
/// [`Failure`] of the arguments, the keys, the background or the run.
pub(super) fn spiped(args: SpipedArgs, arguments: &[OsString]) -> Result<Done, Failure> {
    let role = args.role()?;
    let (Some(role), Some(source), Some(key)) = (role, args.source, args.key) else {
        return print_version();
    };
    let server = args.server;
    let mut process = args.process;
    let readiness = if args.foreground {
        Readiness::foreground()
    } else {
        match background::detach(arguments).map_err(failure)? {
            Side::Parent(status) => return Ok(Done::Background(status)),
            Side::Child(readiness) => {
                let default = || PathBuf::from(format!("{}.pid", source.text));
                process.pid_file.get_or_insert_with(default);
                readiness
            }
        }
    };
    let handshakes = args.max_handshakes;
    let acceptor = args.acceptor;
    let checks = args.check.by_service(&role)?;
    let close_on_target_down = args.check.closes(&role)?;
    let keys = vec![key];
    let read = keys.clone();
    let files = server.files(&keys);
    let user = process.uid();
    let options = move || {
        server.options(EndArgs {
            name: None,
            user,
            role: role.clone(),
            sources: vec![source.source.clone()],
            keys: key_cmd::ring(&read, server.connection.access(user))?,
            handshakes: handshakes.map_or(DEFAULT_HANDSHAKES, |limit| limit.0),
            unopened: match role {
                Role::Encrypt { .. } => 0,
                Role::Decrypt { .. } => DEFAULT_UNOPENED,
            },
            acceptor,
            knock: super::receive_knock_args::ReceiveKnockArgs::default(),
            checks: checks.clone(),
            close_on_target_down,
        })
    };
    let plan = loops::plan_of(options()?)?;
    let reloading = Reloading { reread: reread(&keys, options), files, ports: Ports::Fixed };
    process.run(readiness, plan, reloading).map(Done::from)
}

/// Runs a spipe command line.
///
/// # Errors
/// [`Failure`] of the arguments, the key or the run.
pub(super) fn spipe(args: SpipeArgs) -> Result<Done, Failure> {
    let (false, Some(target), Some(key)) = (args.version, args.target, args.key) else {
        return print_version();
    };
    args.mode.refuse_weak()?;
    args.shared.run(target, &[key], None).map(Done::from)
}

impl SpipedArgs {
    /// Returns the requested end; `None` when only the version is requested.
    fn role(&self) -> Result<Option<Role>, UsageError> {
        let (false, Some(target)) = (self.version, self.target.clone()) else {
            return Ok(None);
        };
        self.mode.refuse_weak()?;
        match (self.encrypt, self.decrypt) {
            (true, true) => Err(UsageError::BothEnds),
            (false, false) => Err(UsageError::NoEnd),
            (true, false) if self.max_handshakes.is_some() => {
                Err(UsageError::DecryptOnly("--max-handshakes"))
            }
            (true, false) if self.acceptor.ban_after.is_some() => {
                Err(UsageError::DecryptOnly("--ban-after"))
            }
            (true, false) if self.check.given().is_some() => {
                Err(UsageError::DecryptOnly(self.check.given().unwrap_or_default()))
            }
            (true, false) if self.acceptor.proxy_to_target.is_some() => {
                Err(UsageError::DecryptOnly("--proxy-to-target"))
            }
            (true, false) => {
                let service = self.service.clone().unwrap_or_default();
                let lazy = self.lazy.lazy;
                Ok(Some(Role::Encrypt { targets: vec![target], service, lazy, knock: None }))
            }
            (false, true) if self.lazy.lazy => Err(UsageError::EncryptOnly("--lazy")),
            (false, true) if self.service.is_some() => Err(UsageError::EncryptOnly("--service")),
            (false, true) => {
                Ok(Some(Role::Decrypt { targets: vec![(ServiceName::default(), target)] }))
            }
        }
    }
}

impl ModeArgs {
    fn refuse_weak(&self) -> Result<(), UsageError> {
        if self.weak { Err(UsageError::WeakMode) } else { Ok(()) }
    }
}

/// Prints the version on standard error, as spiped does.
fn print_version() -> Result<Done, Failure> {
    // A version that cannot be printed is not a failure.
    let _ = writeln!(io::stderr(), "knockpipe {}", env!("CARGO_PKG_VERSION"));
    Ok(Done::Clean)
}

fn failure(error: BackgroundError) -> Failure {
    match error {
        BackgroundError::FirstProcess => Failure::Usage(error.into()),
        _ => Failure::Runtime(error.into()),
    }
}
