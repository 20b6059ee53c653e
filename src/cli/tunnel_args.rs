//! The flags of `encrypt` and `decrypt`, and their `Options`.
//!
//! Doc comments of fields are the help texts. The shared groups are also used by `pipe` and by the
//! spiped spelling, so each flag is defined once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::unistd::Uid;

use super::check_args::CheckArgs;
use super::connection_args::{CONNECTIONS, ConnectionArgs};
use super::errors::UsageError;
use super::gate_args::{AcceptorGateArgs, GateArgs};
use super::key_cmd;
use super::loops;
use super::process_args::{PROCESS, ProcessArgs, Reloading};
use super::receive_knock_args::{ReceiveKnockArgs, Surroundings};
use super::target_args::{by_service, without_service};
use super::times;
use super::values::{HandshakeLimit, PoolSize, SessionLimit, SourceLimit, Target};
use super::wish_args::KnockWishArgs;
use crate::addr::{ServiceName, Source};
use crate::keys::KeyRing;
use crate::run::{Failure, Outcome, Plan, Ports, Reread};
use crate::sys::background::Readiness;
use crate::sys::keyfile;
use crate::tunnel::{ConfigWarning, Limits, Options, Role};
use crate::upstream::probe::Check;

/// Time between look-ups of a name unless `-r` says otherwise.
pub(super) const DEFAULT_RESOLVE: Duration = Duration::from_secs(60);

/// Handshakes at once unless `--max-handshakes` says otherwise.
pub(super) const DEFAULT_HANDSHAKES: usize = 1024;

/// Unopened tunnels at once at an acceptor unless `--max-unopened` says otherwise.
pub(super) const DEFAULT_UNOPENED: usize = 256;

/// Heading of the flags about numbers.
pub(super) const LIMITS: &str = "Limits";

/// Heading of the flags about names.
pub(super) const NAMES: &str = "Host names";

/// One tunnel by itself, with the process around it: `knockpipe encrypt` and
/// `knockpipe decrypt`.
#[derive(Debug, Args)]
pub(super) struct Standalone<T: Args> {
    #[command(flatten)]
    tunnel: T,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The flags of either end of a tunnel.
#[derive(Debug)]
pub(super) enum TunnelArgs {
    Encrypt(Box<EncryptArgs>),
    Decrypt(Box<DecryptArgs>),
}

/// The flags of an encrypt end.
#[derive(Debug, Args)]
pub(super) struct EncryptArgs {
    /// Address to listen on for plain connections of clients: host:port, [ip]:port,
    /// /path/to/socket or systemd:NAME; repeatable
    #[arg(short, long = "source", value_name = "ADDR", required = true)]
    pub(super) sources: Vec<Source>,

    /// Address of the decrypt end: host:port, [ip]:port or /path/to/socket; repeatable: the first
    /// that works is used
    #[arg(short, long = "target", value_name = "ADDR", required = true)]
    pub(super) targets: Vec<Target>,

    /// Key file, or - for standard input; the first of several is used here
    #[arg(short, long = "key", value_name = "FILE", required = true)]
    pub(super) keys: Vec<PathBuf>,

    /// Ask the decrypt end for this service (its -t NAME=ADDR) instead of its default target
    #[arg(long, value_name = "NAME")]
    pub(super) service: Option<ServiceName>,

    /// Keep this many tunnels ready, so that connecting costs no round trip of its own
    #[arg(
        long, value_name = "N", default_value = "0",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) pool: PoolSize,

    #[command(flatten)]
    pub(super) lazy: LazyArgs,

    #[command(flatten)]
    pub(super) knock: KnockWishArgs,

    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// Moment when an encrypt end asks for the service.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct LazyArgs {
    /// Ask for the service at the client's first byte, or after a second: a client that only
    /// connects and leaves (a health check) never reaches it, and a service that speaks first
    /// does so a second later
    #[arg(long, help_heading = CONNECTIONS)]
    pub(super) lazy: bool,
}

/// The flags of a decrypt end.
#[derive(Debug, Args)]
pub(super) struct DecryptArgs {
    /// Address to listen on for sealed connections of encrypt ends: host:port, [ip]:port,
    /// /path/to/socket or systemd:NAME; repeatable
    #[arg(short, long = "source", value_name = "ADDR", required = true)]
    pub(super) sources: Vec<Source>,

    /// The server to forward to; repeatable: with NAME= to serve several from one port, and of
    /// several with one name, or without, the first that works is used
    #[arg(short, long = "target", value_name = "[NAME=]ADDR", required = true)]
    pub(super) targets: Vec<Target>,

    /// Key file, or - for standard input; repeatable: every one of them is accepted
    #[arg(short, long = "key", value_name = "FILE", required = true)]
    pub(super) keys: Vec<PathBuf>,

    /// Connections at once that have not proven the key; beyond it the source with most loses one
    #[arg(
        long, value_name = "N", default_value = "1024",
        allow_negative_numbers = true, help_heading = LIMITS
    )]
    pub(super) max_handshakes: HandshakeLimit,

    /// Tunnels at once that encrypt ends keep ready (their --pool) and have not opened
    #[arg(
        long, value_name = "N", default_value = "256",
        allow_negative_numbers = true, help_heading = LIMITS
    )]
    pub(super) max_unopened: PoolSize,

    #[command(flatten)]
    pub(super) server: ServerArgs,

    #[command(flatten)]
    pub(super) acceptor: AcceptorGateArgs,

    #[command(flatten)]
    pub(super) knock: ReceiveKnockArgs,

    #[command(flatten)]
    pub(super) check: CheckArgs,
}

/// Flags of every command that listens.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Sessions at once; 0 is as many as file descriptors allow
    #[arg(
        short = 'n', long, value_name = "N", default_value = "1024",
        allow_negative_numbers = true, help_heading = LIMITS
    )]
    pub(super) max_sessions: SessionLimit,

    /// Sessions at once, and new connections per second, of one source (an IPv4 address or an
    /// IPv6 /64) [default: no limit]
    #[arg(
        long, value_name = "SESSIONS[/PER_SECOND]", allow_negative_numbers = true,
        help_heading = LIMITS
    )]
    pub(super) max_per_source: Option<SourceLimit>,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,

    /// Start even if a name does not resolve yet, and try again every second
    #[arg(short = 'D', long, help_heading = NAMES)]
    pub(super) wait_for_dns: bool,

    /// Interval between look-ups of target names [default: 60s]
    #[arg(
        short = 'r', long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, conflicts_with = "no_resolve", help_heading = NAMES
    )]
    pub(super) resolve_every: Option<Duration>,

    /// Resolve target names at start only
    #[arg(short = 'R', long, help_heading = NAMES)]
    pub(super) no_resolve: bool,

    /// Time for sessions to finish after SIGTERM or SIGINT; a second signal ends them at once
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = PROCESS
    )]
    pub(super) drain: Duration,

    #[command(flatten)]
    pub(super) gate: GateArgs,
}

/// Settings that differ between the two ends and between spellings.
pub(super) struct EndArgs {
    /// Its name in the log, where there are several.
    pub(super) name: Option<Arc<str>>,
    /// The user that the process becomes.
    pub(super) user: Option<Uid>,
    /// The end, with its targets.
    pub(super) role: Role,
    /// Addresses to listen on.
    pub(super) sources: Vec<Source>,
    /// The keys in order.
    pub(super) keys: KeyRing,
    /// Unproven handshakes at once.
    pub(super) handshakes: usize,
    /// Tunnels without a session.
    pub(super) unopened: usize,
    /// Flags of the gate that only an acceptor has.
    pub(super) acceptor: AcceptorGateArgs,
    /// Receiver of knocks.
    pub(super) knock: ReceiveKnockArgs,
    /// Health checks of targets, by service.
    pub(super) checks: BTreeMap<ServiceName, Check>,
    /// Sessions on a target that goes down are ended.
    pub(super) close_on_target_down: bool,
}

impl<T: Args> Standalone<T> {
    /// Runs the tunnel until it is stopped.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, the keys or the run.
    pub(super) fn run(self, which: fn(Box<T>) -> TunnelArgs) -> Result<Outcome, Failure> {
        let Self { tunnel, process } = self;
        let tunnel = which(Box::new(tunnel));
        let user = process.uid();
        let plan = loops::plan_of(tunnel.options(None, user)?)?;
        let files = tunnel.files();
        let keys = tunnel.keys().to_vec();
        let reread = reread(&keys, move || tunnel.options(None, user));
        let reloading = Reloading { reread, files, ports: Ports::Fixed };
        process.run(Readiness::foreground(), plan, reloading)
    }
}

impl TunnelArgs {
    /// Returns `encrypt` or `decrypt`.
    pub(super) fn mode(&self) -> &'static str {
        match self {
            Self::Encrypt(_) => "encrypt",
            Self::Decrypt(_) => "decrypt",
        }
    }

    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Encrypt(args) => args.server.files(&args.keys),
            Self::Decrypt(args) => args.server.files(&args.keys),
        }
    }

    fn keys(&self) -> &[PathBuf] {
        match self {
            Self::Encrypt(args) => &args.keys,
            Self::Decrypt(args) => &args.keys,
        }
    }

    /// Returns the tunnel that these arguments describe, by this name. Reads the keys, which may
    /// belong to the `user` that the process becomes.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the keys.
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
    ) -> Result<Options, Failure> {
        match self {
            Self::Encrypt(args) => args.options(name, user),
            Self::Decrypt(args) => args.options(name, user),
        }
    }
}

impl EncryptArgs {
    fn options(&self, name: Option<Arc<str>>, user: Option<Uid>) -> Result<Options, Failure> {
        let targets = without_service(self.targets.clone())?;
        let service = self.service.clone().unwrap_or_default();
        let knock = self.knock.wish(&targets)?;
        self.server.refuse_zero()?;
        self.server.options(EndArgs {
            name,
            user,
            role: Role::Encrypt { targets, service, lazy: self.lazy.lazy, knock },
            sources: self.sources.clone(),
            keys: key_cmd::ring(&self.keys, self.server.connection.access(user))?,
            handshakes: DEFAULT_HANDSHAKES,
            unopened: self.pool.0,
            acceptor: AcceptorGateArgs::default(),
            knock: ReceiveKnockArgs::default(),
            checks: BTreeMap::new(),
            close_on_target_down: false,
        })
    }
}

impl DecryptArgs {
    fn options(&self, name: Option<Arc<str>>, user: Option<Uid>) -> Result<Options, Failure> {
        let role = Role::Decrypt { targets: by_service(self.targets.clone())? };
        let checks = self.check.by_service(&role)?;
        let close_on_target_down = self.check.closes(&role)?;
        self.server.refuse_zero()?;
        self.server.options(EndArgs {
            name,
            user,
            role,
            sources: self.sources.clone(),
            keys: key_cmd::ring(&self.keys, self.server.connection.access(user))?,
            handshakes: self.max_handshakes.0,
            unopened: self.max_unopened.0,
            acceptor: self.acceptor,
            knock: self.knock.clone(),
            checks,
            close_on_target_down,
        })
    }
}

impl ServerArgs {
    /// Returns the files that are read again on a reload, keys among them.
    pub(super) fn files(&self, keys: &[PathBuf]) -> Vec<PathBuf> {
        keys.iter().chain(self.gate.files()).cloned().collect()
    }

    /// Returns the options of the tunnel. A time of zero means its default, as in spiped; the
    /// subcommands refuse it before with [`Self::refuse_zero`].
    ///
    /// # Errors
    /// [`Failure`] of the addresses, or of the gate's flags.
    pub(super) fn options(&self, end: EndArgs) -> Result<Options, Failure> {
        let resolve_every = self.resolve_every.filter(|time| !time.is_zero());
        let name = end.name.as_deref();
        let around = Surroundings { name, sources: &end.sources, keys: &end.keys };
        let knock = end.knock.options(&around)?;
        let access = self.connection.access(end.user);
        let gate = self.gate.options(end.acceptor, access, end.knock.memory(name))?;
        Ok(Options {
            warnings: self.warnings(&end),
            name: end.name,
            role: end.role,
            sources: end.sources,
            keys: end.keys,
            bind: self.connection.bind,
            limits: Limits {
                sessions: self.max_sessions.0,
                handshakes: end.handshakes,
                unopened: end.unopened,
                per_source: self.max_per_source.map(|limit| limit.0),
            },
            timeout: self.connection.timeout(),
            resolve_every: (!self.no_resolve).then(|| resolve_every.unwrap_or(DEFAULT_RESOLVE)),
            wait_for_dns: self.wait_for_dns,
            keepalive: !self.connection.no_keepalive,
            padding: self.connection.padding,
            suites: self.connection.suite.0,
            heartbeat: self.connection.heartbeat.0,
            idle_timeout: self.connection.idle_timeout.0,
            drain: self.drain,
            gate,
            knock,
            proxy_from: self.gate.proxies(),
            checks: end.checks,
            close_on_target_down: end.close_on_target_down,
            proxy_to_target: end.acceptor.proxy_to_target,
        })
    }

    fn warnings(&self, end: &EndArgs) -> Vec<ConfigWarning> {
        let mut warnings = self.gate.warnings(&end.role);
        warnings.extend(end.acceptor.warning(&end.role, self.connection.bind));
        warnings
    }

    fn refuse_zero(&self) -> Result<(), UsageError> {
        self.connection.refuse_zero()?;
        if self.resolve_every.is_some_and(|time| time.is_zero()) {
            let remedy = "give a time, or -R to resolve at start only";
            return Err(UsageError::ZeroSeconds { flag: "-r/--resolve-every", remedy });
        }
        Ok(())
    }
}

/// Returns the function that reads one tunnel again; it fails where a key came from standard input.
pub(super) fn reread(
    keys: &[PathBuf],
    options: impl Fn() -> Result<Options, Failure> + Send + Sync + 'static,
) -> Reread {
    let from_stdin = keys.iter().any(|key| keyfile::is_stdin(key));
    Arc::new(move || match from_stdin {
        true => Err(UsageError::KeyReadOnce.into()),
        false => Ok(Plan { services: loops::plan_of(options()?)?, restart: vec![] }),
    })
}
