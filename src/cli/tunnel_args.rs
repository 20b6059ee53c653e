//! The flags of `encrypt` and `decrypt`, and how they become `Options`.
//!
//! Doc comments of fields are the help texts. The shared groups are also used
//! by `pipe` and by the spiped spelling, so a flag is written down once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::unistd::Uid;

use super::check_args::CheckArgs;
use super::errors::UsageError;
use super::gate_args::{AcceptorGateArgs, GateArgs};
use super::key_cmd;
use super::loops;
use super::process_args::{PROCESS, ProcessArgs};
use super::target_args::{by_service, without_service};
use super::values::{
    self, HandshakeLimit, HeartbeatTime, IdleTimeout, PoolSize, SessionLimit, SourceLimit,
    SuiteChoice, Target,
};
use crate::addr::{BindAddress, ServiceName, Source};
use crate::keys::KeyRing;
use crate::proto::Padding;
use crate::run::{Failure, Outcome, Plan, Ports, Reread};
use crate::sys::background::Readiness;
use crate::sys::keyfile::{self, Access};
use crate::tunnel::{Limits, Options, Remark, Role};
use crate::upstream::probe::Check;

/// The deadline of a dial, and of a handshake, unless `-o` says otherwise.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often names are resolved again unless `-r` says otherwise.
const DEFAULT_RESOLVE: Duration = Duration::from_secs(60);

/// Handshakes at once unless `--max-handshakes` says otherwise.
pub(super) const DEFAULT_HANDSHAKES: usize = 1024;

/// Unopened tunnels at once at an acceptor unless `--max-unopened` says otherwise.
pub(super) const DEFAULT_UNOPENED: usize = 256;

/// Heading of the flags about single connections.
const CONNECTIONS: &str = "Connections";

/// Heading of the flags about numbers.
const LIMITS: &str = "Limits";

/// Heading of the flags about names.
const NAMES: &str = "Host names";

/// One tunnel by itself, with the process around it: `knockpipe encrypt` and
/// `knockpipe decrypt`.
#[derive(Debug, Args)]
pub(super) struct Alone<T: Args> {
    #[command(flatten)]
    tunnel: T,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The flags of a tunnel, whichever end it is.
#[derive(Debug)]
pub(super) enum TunnelArgs {
    Encrypt(Box<EncryptArgs>),
    Decrypt(Box<DecryptArgs>),
}

/// The flags of an encrypt end.
#[derive(Debug, Args)]
pub(super) struct EncryptArgs {
    /// Where clients connect, plain: host:port, [ip]:port, /path/to/socket or systemd:NAME;
    /// repeatable
    #[arg(short, long = "source", value_name = "ADDR", required = true)]
    pub(super) sources: Vec<Source>,

    /// Where the decrypt end listens: host:port, [ip]:port or /path/to/socket; of several the first
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
    pub(super) server: ServerArgs,
}

/// The moment when an encrypt end asks for the service.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct LazyArgs {
    /// Ask for the service at the client's first byte, or after a second: who connects and leaves
    /// (a health check) never reaches it, and one that speaks first does so a second later
    #[arg(long, help_heading = CONNECTIONS)]
    pub(super) lazy: bool,
}

/// The flags of a decrypt end.
#[derive(Debug, Args)]
pub(super) struct DecryptArgs {
    /// Where encrypt ends connect, sealed: host:port, [ip]:port, /path/to/socket or
    /// systemd:NAME; repeatable
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

    /// Start although a name does not resolve yet, and try again every second
    #[arg(short = 'D', long, help_heading = NAMES)]
    pub(super) wait_for_dns: bool,

    /// Resolve target names again every so often [default: 60]
    #[arg(
        short = 'r', long, value_name = "SECONDS", value_parser = values::seconds,
        allow_negative_numbers = true, conflicts_with = "no_resolve", help_heading = NAMES
    )]
    pub(super) resolve_every: Option<Duration>,

    /// Resolve target names at start only
    #[arg(short = 'R', long, help_heading = NAMES)]
    pub(super) no_resolve: bool,

    /// How long sessions may finish after SIGTERM or SIGINT; a second signal ends them at once
    #[arg(
        long, value_name = "SECONDS", default_value = "30", value_parser = values::seconds,
        allow_negative_numbers = true, help_heading = PROCESS
    )]
    pub(super) drain: Duration,

    #[command(flatten)]
    pub(super) gate: GateArgs,
}

/// Flags of every command that opens connections.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Accept key files, and the gate's password file, that their group or others can read or change
    #[arg(long)]
    pub(super) allow_readable_key: bool,

    /// Deadline of a dial, and of a handshake; fractions are allowed [default: 5]
    #[arg(
        short = 'o', long, value_name = "SECONDS", value_parser = values::seconds,
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) timeout: Option<Duration>,

    /// Local address of outgoing connections: ip, [ip] or [ip]:port
    #[arg(short, long, value_name = "ADDR", help_heading = CONNECTIONS)]
    pub(super) bind: Option<BindAddress>,

    /// Do not probe idle connections; only --heartbeat notices a vanished peer then
    #[arg(short = 'j', long, help_heading = CONNECTIONS)]
    pub(super) no_keepalive: bool,

    /// Give a sign of life on sessions that were silent for so long, and end those whose other
    /// end misses three of its own; the shorter time of both ends counts
    #[arg(
        long, value_name = "DURATION|off", default_value = "60s",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) heartbeat: HeartbeatTime,

    /// End sessions without application data, either way, for so long
    #[arg(
        long, value_name = "DURATION|off", default_value = "off",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    pub(super) idle_timeout: IdleTimeout,

    /// Hide lengths: pad what is sent to a multiple of this many bytes
    #[arg(long, value_name = "none|BYTES", default_value_t, help_heading = CONNECTIONS)]
    pub(super) padding: Padding,

    /// Cipher of the records: auto, chacha20-poly1305 or aes-256-gcm
    #[arg(long, value_name = "SUITE", default_value = "auto", help_heading = CONNECTIONS)]
    pub(super) suite: SuiteChoice,
}

/// What differs between the two ends and between spellings.
pub(super) struct End {
    /// What the log calls it, where there are several.
    pub(super) name: Option<Arc<str>>,
    /// The user that the process becomes.
    pub(super) user: Option<Uid>,
    /// Which end, with its targets.
    pub(super) role: Role,
    /// Where to listen.
    pub(super) sources: Vec<Source>,
    /// The keys in order.
    pub(super) keys: KeyRing,
    /// Unproven handshakes at once.
    pub(super) handshakes: usize,
    /// Tunnels without a session.
    pub(super) unopened: usize,
    /// What of the gate only an acceptor has.
    pub(super) acceptor: AcceptorGateArgs,
    /// How targets are checked.
    pub(super) checks: BTreeMap<ServiceName, Check>,
    /// Sessions on a target that goes down are ended.
    pub(super) close_on_target_down: bool,
}

impl<T: Args> Alone<T> {
    /// Runs the tunnel until it is stopped.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, the keys or the run.
    pub(super) fn run(self, which: fn(Box<T>) -> TunnelArgs) -> Result<Outcome, Failure> {
        let Self { tunnel, process } = self;
        let tunnel = which(Box::new(tunnel));
        let user = process.uid();
        let (plan, files) = (loops::plan_of(tunnel.options(None, user)?)?, tunnel.files());
        let keys = tunnel.keys().to_vec();
        let reread = reread(&keys, move || tunnel.options(None, user));
        process.run(Readiness::foreground(), plan, (reread, files, Ports::Fixed))
    }
}

impl TunnelArgs {
    /// `encrypt` or `decrypt`.
    pub(super) fn mode(&self) -> &'static str {
        match self {
            Self::Encrypt(_) => "encrypt",
            Self::Decrypt(_) => "decrypt",
        }
    }

    /// The files that are read again on a reload.
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

    /// The tunnel that these arguments describe, by this name; the keys are read,
    /// which may belong to the `user` that the process becomes.
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
        self.server.refuse_zero()?;
        self.server.options(End {
            name,
            user,
            role: Role::Encrypt { targets, service, lazy: self.lazy.lazy },
            sources: self.sources.clone(),
            keys: key_cmd::ring(&self.keys, self.server.connection.access(user))?,
            handshakes: DEFAULT_HANDSHAKES,
            unopened: self.pool.0,
            acceptor: AcceptorGateArgs::default(),
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
        self.server.options(End {
            name,
            user,
            role,
            sources: self.sources.clone(),
            keys: key_cmd::ring(&self.keys, self.server.connection.access(user))?,
            handshakes: self.max_handshakes.0,
            unopened: self.max_unopened.0,
            acceptor: self.acceptor,
            checks,
            close_on_target_down,
        })
    }
}

impl ServerArgs {
    /// The files that are read again on a reload, keys among them.
    pub(super) fn files(&self, keys: &[PathBuf]) -> Vec<PathBuf> {
        keys.iter().chain(self.gate.files()).cloned().collect()
    }

    /// What the tunnel is told. A time of zero means its default, as in spiped;
    /// the subcommands refuse it before with [`Self::refuse_zero`].
    ///
    /// # Errors
    /// [`Failure`] of the addresses, or of the gate's flags.
    pub(super) fn options(&self, end: End) -> Result<Options, Failure> {
        let resolve_every = self.resolve_every.filter(|time| !time.is_zero());
        Ok(Options {
            remarks: self.remarks(&end),
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
            gate: self.gate.options(end.acceptor, self.connection.access(end.user))?,
            proxy_from: self.gate.proxies(),
            checks: end.checks,
            close_on_target_down: end.close_on_target_down,
            proxy_to_target: end.acceptor.proxy_to_target,
        })
    }

    fn remarks(&self, end: &End) -> Vec<Remark> {
        let mut remarks = self.gate.remarks(&end.role);
        remarks.extend(end.acceptor.remark(&end.role, self.connection.bind));
        remarks
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

/// How one tunnel is read again; not where a key came from standard input.
pub(super) fn reread(
    keys: &[PathBuf],
    options: impl Fn() -> Result<Options, Failure> + Send + Sync + 'static,
) -> Reread {
    let from_stdin = keys.iter().any(|key| keyfile::is_stdin(key));
    Arc::new(move || match from_stdin {
        true => Err(UsageError::KeyReadOnce.into()),
        false => Ok(Plan { tunnels: loops::plan_of(options()?)?, restart: vec![] }),
    })
}

impl ConnectionArgs {
    /// The reach of others to files with a secret that is put up with.
    pub(super) fn access(&self, user: Option<Uid>) -> Access {
        Access { by_others: self.allow_readable_key, user }
    }

    /// The deadline; zero means the default, as in spiped.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.filter(|time| !time.is_zero()).unwrap_or(DEFAULT_TIMEOUT)
    }

    /// Refuses what only the spiped spelling takes for the default.
    ///
    /// # Errors
    /// [`UsageError::ZeroSeconds`].
    pub(super) fn refuse_zero(&self) -> Result<(), UsageError> {
        if self.timeout.is_some_and(|time| time.is_zero()) {
            let remedy = "give a time such as 5, or leave it out";
            return Err(UsageError::ZeroSeconds { flag: "-o/--timeout", remedy });
        }
        Ok(())
    }
}
