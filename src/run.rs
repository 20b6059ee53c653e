//! The process around a tunnel: descriptors, listeners, pid file, privileges,
//! signals and drain, in this order. The only place that knows all of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::demo;
use crate::net::{AsyncListener, BindError, Listener, SocketOptions};
use crate::sys::background::Readiness;
use crate::sys::nofile;
use crate::sys::pidfile::PidFile;
use crate::sys::privileges::User;
use crate::sys::signals::StopSignals;
use crate::tunnel::{self, Capacity, Options, PipeOptions, Role, Tunnel};

/// Connections that the kernel may hold for us; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause before a listening name that does not resolve yet is tried again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// How long sessions that were cut may take to say goodbye.
const GOODBYES: Duration = Duration::from_secs(2);

/// What the process around a tunnel is told.
#[derive(Debug)]
pub struct Process {
    /// Where to write the pid.
    pub pid_file: Option<PathBuf>,
    /// Who to become after binding.
    pub user: Option<User>,
    /// Whom to tell when ready.
    pub readiness: Readiness,
}

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was finished: exit status 0.
    Clean,
    /// Some sessions were cut, as the log told: exit status 1.
    SessionsCut,
}

/// Why a run failed: one line that names cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for makes no sense, or a key file is bad: exit status 2.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// It made sense but did not work: exit status 1.
    #[error("{0:#}")]
    Runtime(anyhow::Error),
}

/// Runs one tunnel end until it is stopped.
///
/// # Errors
/// [`Failure`]; nothing is left behind then.
pub fn tunnel(options: Options, process: Process) -> Result<Outcome, Failure> {
    serve(options, process).map_err(Failure::Runtime)
}

/// Carries standard input and output through a tunnel.
///
/// # Errors
/// [`Failure`]
pub fn pipe(options: PipeOptions) -> Result<Outcome, Failure> {
    let runtime = runtime().map_err(Failure::Runtime)?;
    let piped = runtime.block_on(tunnel::pipe::run(options));
    // A read of standard input cannot be called back; it must not hold us.
    runtime.shutdown_background();
    match piped {
        Ok(()) => Ok(Outcome::Clean),
        Err(error) => Err(Failure::Runtime(error.into())),
    }
}

/// Shows what a tunnel does, on standard output.
///
/// # Errors
/// [`Failure`] when something did not go as shown.
pub fn demo() -> Result<Outcome, Failure> {
    let shown = || {
        runtime()?.block_on(async {
            let mut signals = StopSignals::catch().context("cannot catch signals")?;
            let mut out = std::io::stdout();
            tokio::select! {
                shown = demo::run(&mut out) => shown,
                // Dropping the demo ends its redis-server.
                signal = signals.next() => anyhow::bail!("stopped by {signal}"),
            }
        })
    };
    shown().map(|()| Outcome::Clean).map_err(Failure::Runtime)
}

fn serve(options: Options, process: Process) -> anyhow::Result<Outcome> {
    let descriptors = nofile::raise().context("cannot read the limit of file descriptors")?;
    let capacity = Capacity::of(&options, descriptors)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        // Before anything is created, so that a signal leaves nothing behind.
        let mut signals = StopSignals::catch().context("cannot catch signals")?;
        let mut startup = Startup::new(process);
        let started = tokio::select! {
            started = start(&options, capacity, &mut startup) => started?,
            // A name server can take its time, and with -D for ever.
            signal = signals.next() => {
                info!(signal, "stopped before it was ready");
                return Ok(Outcome::Clean);
            }
        };
        let (tunnel, listeners) = started;
        announce(&options, capacity, &listeners);
        tunnel.serve(listeners);
        startup.release()?;
        Ok(until_stopped(&tunnel, signals, options.drain).await)
    });
    // A lookup in a name server that hangs must not hold us.
    runtime.shutdown_background();
    outcome
}

/// Everything between the command line and the first connection.
async fn start(
    options: &Options,
    capacity: Capacity,
    startup: &mut Startup,
) -> anyhow::Result<(Arc<Tunnel>, Vec<AsyncListener>)> {
    let listeners = bind(options, startup).await?;
    startup.write_pid_file()?;
    startup.drop_privileges()?;
    let tunnel = Arc::new(Tunnel::start(options, capacity).await?);
    let socket = SocketOptions { keepalive: options.keepalive };
    let listeners = listeners.into_iter().map(|listener| listener.into_async(&socket));
    let listeners = listeners.collect::<Result<Vec<_>, _>>().context("cannot listen")?;
    Ok((tunnel, listeners))
}

/// What is due once on the way to ready, and undone at the end.
struct Startup {
    process: Process,
    pid_file: Option<PidFile>,
}

impl Startup {
    fn new(process: Process) -> Self {
        Self { process, pid_file: None }
    }

    fn write_pid_file(&mut self) -> anyhow::Result<()> {
        if let Some(path) = self.process.pid_file.take() {
            self.pid_file = Some(PidFile::write(&path)?);
        }
        Ok(())
    }

    /// The system keeps an identity for each thread; the C library changes all of them.
    fn drop_privileges(&self) -> anyhow::Result<()> {
        match &self.process.user {
            Some(user) => Ok(user.become_for_good()?),
            None => Ok(()),
        }
    }

    /// Tells whoever waits that it need not wait any longer; the pid file is there by then.
    fn release(&mut self) -> anyhow::Result<()> {
        self.write_pid_file()?;
        let waiting = std::mem::replace(&mut self.process.readiness, Readiness::foreground());
        Ok(waiting.report_ready()?)
    }
}

/// Binds every source. With `wait_for_dns` a name that does not resolve is
/// tried again until it does; whoever waits for us is released before that.
/// Names come first, so that nothing is created while one is waited for.
async fn bind(options: &Options, startup: &mut Startup) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = vec![];
    let (literals, names): (Vec<_>, Vec<_>) =
        options.sources.iter().partition(|source| source.is_literal());
    for source in names.into_iter().chain(literals) {
        listeners.extend(loop {
            match Listener::bind(source, &options.sources, BACKLOG) {
                Err(error @ BindError::Unresolvable { .. }) if options.wait_for_dns => {
                    warn!(%source, %error, "waiting for DNS");
                    startup.release()?;
                    sleep(RESOLVE_AGAIN).await;
                }
                bound => break bound?,
            }
        });
    }
    Ok(listeners)
}

/// The first lines of the log: where it listens, where it forwards, its limits and keys.
fn announce(options: &Options, capacity: Capacity, listeners: &[AsyncListener]) {
    capacity.warn_if_less_than(options);
    for listener in listeners {
        info!(address = listener.local(), "listening");
    }
    let keys: Vec<String> = options.keys.iter().map(|key| key.id().to_string()).collect();
    let keys = keys.join(" ");
    let Capacity { sessions, handshakes, unopened, descriptors } = capacity;
    let padding = tracing::field::display(options.padding);
    let timeout_s = options.timeout.as_secs_f64();
    match &options.role {
        Role::Encrypt { target, service } => {
            let service = (!service.is_empty()).then(|| tracing::field::display(service));
            info!(
                mode = "encrypt", %target, service, sessions, pool = unopened, descriptors,
                timeout_s, padding, keys, "ready"
            );
        }
        Role::Decrypt { targets } => {
            let targets: Vec<String> = targets.iter().map(named).collect();
            let targets = targets.join(" ");
            info!(
                mode = "decrypt",
                targets,
                sessions,
                handshakes,
                unopened,
                descriptors,
                timeout_s,
                padding,
                keys,
                "ready"
            );
        }
    }
}

fn named((service, address): &(crate::addr::ServiceName, crate::addr::Address)) -> String {
    if service.is_empty() { address.to_string() } else { format!("{service}={address}") }
}

/// Serves until the first signal, then drains until all is finished, the
/// deadline, or a second signal.
async fn until_stopped(tunnel: &Tunnel, mut signals: StopSignals, drain: Duration) -> Outcome {
    let signal = signals.next().await;
    tunnel.stop();
    let (sessions, drain_s) = (tunnel.sessions(), drain.as_secs_f64());
    info!(signal, sessions, drain_s, "stopping: no new connections");
    tokio::select! {
        biased;
        () = tunnel.finished() => {
            tunnel.flush_failures();
            info!(most_sessions = tunnel.most_sessions(), "stopped: all sessions finished");
            return Outcome::Clean;
        }
        signal = signals.next() => warn!(signal, "second signal: ending now"),
        () = sleep(drain) => warn!(drain_s, "drain deadline reached: ending now"),
    }
    let sessions_cut = tunnel.sessions();
    tunnel.cut();
    // Best effort: the far ends should hear why.
    let _ = timeout(GOODBYES, tunnel.finished()).await;
    tunnel.flush_failures();
    let most_sessions = tunnel.most_sessions();
    if sessions_cut == 0 {
        info!(most_sessions, "stopped: all sessions finished");
        return Outcome::Clean;
    }
    warn!(sessions_cut, most_sessions, "stopped");
    Outcome::SessionsCut
}

fn runtime() -> anyhow::Result<Runtime> {
    Runtime::new().context("cannot start the runtime; check the limits of threads and memory")
}
