//! `check`: shows the effect of a configuration file, or tries one tunnel step by step without a
//! file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};
use nix::unistd::{Gid, Uid};

use super::check_args::{CheckArgs, NamedCheck};
use super::config::{Config, show};
use super::gate_args::AcceptorGateArgs;
use super::loops;
use super::misspellings;
use super::output::{notice, print};
use super::receive_knock_args::ReceiveKnockArgs;
use super::run_cmd::DEFAULT_FILE;
use super::times;
use super::tunnel_args::{
    DEFAULT_HANDSHAKES, DEFAULT_UNOPENED, DecryptArgs, EncryptArgs, LazyArgs, ServerArgs,
    TunnelArgs,
};
use super::values::{HandshakeLimit, PoolSize, SuiteChoice, Target};
use super::wish_args::KnockWishArgs;
use crate::addr::{Address, BindAddress, ServiceName, Source};
use crate::net::{look_up, missing_family};
use crate::printable::printable;
use crate::run::{self, Failure};
use crate::service::ServiceOptions;
use crate::tunnel::Options;
use crate::tunnel::preflight::{CheckResult, Failed, Passed};

/// The text under the flags.
pub(super) const EXAMPLES: &str = "\
With -t it needs no file, and tries one tunnel step by step, until one fails: name, connect, key or
gate, clock, service, target, MTU; with -s, which makes it a decrypt end, listen, name, connect,
check. Gates, limits and --padding are not tried; they do not keep this end from connecting.

Exit status: 0 all is well, 1 something that was tried does not work or a name does not resolve,
2 the command line, the file or something that it names is wrong.

Examples:
  Why does my encrypt end not get through?
    knockpipe check -t db.example.org:6380 -k redis.key
  Can a decrypt end run here?
    knockpipe check -s '[0.0.0.0]:6380' -t '[127.0.0.1]:6379' -k redis.key --check redis
  A file, and all that its tunnels connect to:
    knockpipe check -c /etc/knockpipe/knockpipe.toml --connect";

/// `knockpipe check`.
#[derive(Debug, Args)]
pub(super) struct CommandArgs {
    /// The configuration file [default: /etc/knockpipe/knockpipe.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "OneArgs")]
    config: Option<PathBuf>,

    /// Also try each far end and target of the file
    #[arg(long, conflicts_with = "OneArgs")]
    connect: bool,

    #[command(flatten)]
    one: OneArgs,
}

/// One tunnel without a file.
#[derive(Debug, Args)]
struct OneArgs {
    /// Address that an encrypt end would dial, or with -s a decrypt end; repeatable
    #[arg(short, long = "target", value_name = "[NAME=]ADDR", requires = "keys")]
    targets: Vec<Target>,

    /// Key file, or - for standard input; the first of several is used
    #[arg(short, long = "key", value_name = "FILE", requires = "targets")]
    keys: Vec<PathBuf>,

    /// Address where a decrypt end would listen; repeatable
    #[arg(short, long = "source", value_name = "ADDR", requires = "targets")]
    sources: Vec<Source>,

    /// The service to ask the decrypt end for, instead of its default target
    #[arg(long, value_name = "NAME", requires = "targets", conflicts_with = "sources")]
    service: Option<ServiceName>,

    /// With -s: health checks of targets, as for decrypt; repeatable
    #[arg(
        long = "check",
        value_name = "[NAME=]WHAT[/INTERVAL]",
        requires = "sources",
        allow_hyphen_values = true
    )]
    checks: Vec<NamedCheck>,

    /// Deadline of each connection, and of a handshake [default: 5s]
    #[arg(
        short = 'o', long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, requires = "targets"
    )]
    timeout: Option<Duration>,

    /// Local address of outgoing connections: ip, [ip] or [ip]:port
    #[arg(short, long, value_name = "ADDR", requires = "targets")]
    bind: Option<BindAddress>,

    /// Cipher of the records: auto, chacha20-poly1305 or aes-256-gcm [default: auto]
    #[arg(long, value_name = "SUITE", requires = "targets")]
    suite: Option<SuiteChoice>,

    /// Accept a key file that its group or others can read or change
    #[arg(long, requires = "targets")]
    allow_readable_key: bool,

    /// Ask the gate of the decrypt end to let this host in, as --knock of encrypt does
    #[arg(long, requires = "targets", conflicts_with = "sources")]
    knock: bool,

    /// Gate that --knock asks for
    #[arg(long, value_name = "NAME", requires = "knock")]
    knock_gate: Option<ServiceName>,
}

/// Shows the effect of a file, or tries one tunnel.
///
/// # Errors
/// [`Failure`] of the command line or the file, or of a failed step.
pub(super) fn check(args: CommandArgs) -> Result<(), Failure> {
    if !args.one.targets.is_empty() {
        return args.one.check();
    }
    let file = args.config.unwrap_or_else(|| DEFAULT_FILE.into());
    let config = Config::load(&file)?;
    let plan = config.plan()?;
    for (variable, meant) in misspellings() {
        notice(&format!("no flag has the variable {variable}; did you mean {meant}?"));
    }
    print(&show(&config, &plan))?;
    let mut lost = 0;
    for options in &plan {
        for name in names(options) {
            let (comment, is_found) = resolved(&name);
            print(&comment)?;
            lost += usize::from(!is_found && !options.waits_for_dns());
        }
    }
    plan.iter().try_for_each(show_missing)?;
    let becomes = config.process.user.as_ref().and_then(|user| Some((user.uid()?, user.gid())));
    if let Some((user, group)) = becomes.filter(|(user, _)| *user != Uid::effective()) {
        let files = config.files();
        for unreadable in files.iter().filter(|file| !is_readable(file, user, group)) {
            line(&format!(
                "# {} cannot be read by user {user}, who reads it at a reload; give it to that user",
                unreadable.display()
            ))?;
        }
    }
    if args.connect {
        connect(&plan, &file)?;
    }
    if lost > 0 {
        return Err(Failure::Runtime(anyhow::anyhow!(
            "{lost} of the names in {} do not resolve, as told above; correct them, or check name \
             service, or set wait-for-dns",
            file.display()
        )));
    }
    Ok(())
}

impl OneArgs {
    fn check(self) -> Result<(), Failure> {
        let binds = !self.sources.is_empty();
        let options = self.tunnel()?.options(None, None)?;
        loops::refuse(slice::from_ref(&options))?;
        let findings = run::try_one(&options, binds)?;
        let several = findings.len() > 1;
        for CheckResult { target, passed, failed } in &findings {
            let place = if several { format!("{target}: ") } else { String::new() };
            for Passed { step, note } in passed {
                let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
                line(&format!("{place}{step}: ok{note}"))?;
            }
            if let Some(Failed { step, why }) = failed {
                line(&format!("{place}{step}: FAIL: {why}"))?;
            }
        }
        if findings.iter().all(|finding| finding.failed.is_none()) {
            return Ok(());
        }
        Err(Failure::Runtime(anyhow::anyhow!(
            "the tunnel does not work from here; do what the line with FAIL says, and check again"
        )))
    }

    /// Makes the tunnel that a command line with these flags would run.
    fn tunnel(self) -> Result<TunnelArgs, Failure> {
        let mut server = defaults().map_err(|error| Failure::Usage(error.into()))?;
        server.connection.timeout = self.timeout;
        server.connection.bind = self.bind;
        server.connection.allow_readable_key = self.allow_readable_key;
        if let Some(suite) = self.suite {
            server.connection.suite = suite;
        }
        let Self { sources, targets, keys, service, checks, knock, knock_gate, .. } = self;
        Ok(match sources.is_empty() {
            true => {
                let pool = PoolSize(0);
                let lazy = LazyArgs::default();
                let knock = KnockWishArgs { knock, knock_gate, ..KnockWishArgs::default() };
                let args =
                    EncryptArgs { sources, targets, keys, service, pool, lazy, knock, server };
                TunnelArgs::Encrypt(Box::new(args))
            }
            false => TunnelArgs::Decrypt(Box::new(DecryptArgs {
                sources,
                targets,
                keys,
                max_handshakes: HandshakeLimit(DEFAULT_HANDSHAKES),
                max_unopened: PoolSize(DEFAULT_UNOPENED),
                server,
                acceptor: AcceptorGateArgs::default(),
                knock: ReceiveKnockArgs::default(),
                check: CheckArgs { checks, on_target_down: None },
            })),
        })
    }
}

/// Gives the defaults of all other flags.
fn defaults() -> Result<ServerArgs, clap::Error> {
    let command = ServerArgs::augment_args(Command::new("check"));
    ServerArgs::from_arg_matches(&command.try_get_matches_from(["check"])?)
}

fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{}\n", printable(text))).map(drop)
}

/// Returns the host names of a service, with their ports.
fn names(options: &ServiceOptions) -> Vec<Address> {
    let sources = options.sources().iter().filter_map(Source::address);
    let knocks = options.knock().into_iter().flat_map(|knock| &knock.addresses);
    let all = sources.chain(knocks).chain(options.targets());
    all.filter(|address| !address.is_literal()).cloned().collect()
}

/// Prints as a comment the sources of a service that cannot be listened on here.
///
/// # Errors
/// [`Failure::Usage`] when none can be listened on.
fn show_missing(options: &ServiceOptions) -> Result<(), Failure> {
    let missing = |source: &Source| source.address().and_then(missing_family);
    let missing: Vec<_> = options.sources().iter().filter_map(missing).collect();
    let is_all = missing.len() == options.sources().len();
    for error in missing {
        if is_all {
            let title = format!("{} {}", options.kind().as_str(), options.display_name());
            return Err(Failure::Usage(anyhow::Error::new(error).context(title)));
        }
        line(&format!("# {error}"))?;
    }
    Ok(())
}

/// Returns the current addresses of a name, as a comment, and true if there are any. Another answer
/// may be right later.
fn resolved(name: &Address) -> (String, bool) {
    let Address::Tcp { host, port } = name else { return (String::new(), true) };
    match look_up(host, port) {
        Ok(found) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            (format!("# {name} is {} now\n", found.join(" ")), true)
        }
        Err(error) => (format!("# {name} does not resolve now: {error}\n"), false),
    }
}

/// Returns whether the modes of a file and its directories let a user read it. `group` is the only
/// group that the process keeps. Access lists are ignored.
fn is_readable(file: &Path, user: Uid, group: Gid) -> bool {
    let allows = |path: &Path, bit: u32| {
        let Ok(found) = fs::metadata(path) else { return true };
        let shift = match (found.uid() == user.as_raw(), found.gid() == group.as_raw()) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        user.is_root() || found.mode() >> shift & bit != 0
    };
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    allows(&file, 4) && file.ancestors().skip(1).all(|directory| allows(directory, 1))
}

/// Tests everything that the tunnels connect to, and prints the steps.
fn connect(plan: &[ServiceOptions], file: &Path) -> Result<(), Failure> {
    let mut broken = 0;
    let tunnels: Vec<&Options> = plan.iter().filter_map(ServiceOptions::as_tunnel).collect();
    for (options, findings) in tunnels.iter().zip(run::try_all(&tunnels)?) {
        let name = options.name.as_deref().unwrap_or_default();
        for CheckResult { target, passed, failed } in findings {
            let passed: Vec<&str> = passed.iter().map(|passed| passed.step).collect();
            let passed = passed.join(", ");
            line(&match failed {
                None => format!("{name} -> {target}: ok ({passed})"),
                Some(Failed { step, why }) => {
                    broken += 1;
                    let passed = if passed.is_empty() { "none" } else { &passed };
                    format!("{name} -> {target}: FAILED at {step}: {why} (passed: {passed})")
                }
            })?;
        }
    }
    if broken == 0 {
        return Ok(());
    }
    Err(Failure::Runtime(anyhow::anyhow!(
        "{broken} of the targets of {} cannot be used; the lines above tell why",
        file.display()
    )))
}
