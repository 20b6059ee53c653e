//! Checks targets in the background, while no client waits for the result.
//!
//! With `--check` a target is asked in its own protocol, at intervals. Without, only a target that
//! is down is probed, after a pause that grows: a service by a TCP handshake that it never notices,
//! anything else in a way that the caller hands in. `health_state` decides the consequences; a
//! check never touches a live connection.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::dial_options::DialOptions;
use super::error::ConnectFailure;
use super::probe::{Probe, Step, Verdict};
use super::target::Target;
use super::targets::Targets;
use crate::addr::ClientAddr;
use crate::net::Stream;
use crate::reason::CloseReason;
use crate::tasks::restarting;

/// Time after a refused login in which only the port is probed: a refused login counts
/// at the service as an aborted connection.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);

/// Time for a service to hang up after the last bytes.
const GOODBYE: Duration = Duration::from_secs(1);

/// Time for running checks to finish when the tunnel is stopped.
const LAST_CHECKS: Duration = Duration::from_millis(500);

/// Settings of the checks of one tunnel's targets.
#[derive(Clone)]
pub struct HealthChecks {
    /// Options of the dials.
    pub dial: DialOptions,
    /// Time limit of a look at a single target.
    pub timeout: Duration,
    /// Cancelled when the checks have to end.
    pub stop: CancellationToken,
    /// Tasks in which connections are closed; nothing waits for them.
    pub tasks: TaskTracker,
    /// Look at a target, given its place, where a probe of its port is not enough.
    pub look: Option<Look>,
}

/// Function that finds out whether the target at a place works.
pub type Look = Arc<dyn Fn(usize) -> Looking + Send + Sync>;

/// Result of a [`Look`], once there is one.
pub type Looking = Pin<Box<dyn Future<Output = Result<(), ConnectFailure>> + Send>>;

/// Check of one target.
#[derive(Clone)]
struct HealthCheck {
    checks: Arc<HealthChecks>,
    targets: Arc<Targets>,
    place: usize,
    /// End of the time in which no login is tried.
    no_login_until: Option<Instant>,
}

/// Answer of a target to a probe.
pub struct ProbeAnswer {
    /// Bytes that end the conversation.
    pub last_words: Vec<u8>,
    /// Its health.
    pub verdict: Verdict,
}

// === impl HealthChecks ===

impl HealthChecks {
    /// Probes once each target that has no check, and warns of those that cannot be reached. The
    /// targets do not notice.
    pub async fn warn_if_unreachable(&self, all: &[Arc<Targets>]) {
        let look = async {
            for targets in all.iter().filter(|targets| targets.check.is_none()) {
                for place in 0..targets.count() {
                    let deadline = Instant::now() + self.timeout;
                    targets.warn_if_unreachable(place, &self.dial, deadline).await;
                }
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = look => {}
        }
    }

    /// Checks every target until the tunnel is stopped.
    pub async fn run(self, all: Vec<Arc<Targets>>) {
        let checks = Arc::new(self);
        // Dropping it ends all of them.
        let mut running = JoinSet::new();
        for targets in all.into_iter().filter(|targets| targets.is_watched()) {
            for place in 0..targets.count() {
                let check = HealthCheck {
                    checks: Arc::clone(&checks),
                    targets: Arc::clone(&targets),
                    place,
                    no_login_until: None,
                };
                running.spawn(restarting("the watch on a target", move || check.clone().run()));
            }
        }
        checks.stop.cancelled().await;
        // A server counts an aborted check against this host.
        let last = async { while running.join_next().await.is_some() {} };
        let _ = timeout(LAST_CHECKS, last).await;
    }
}

// === impl HealthCheck ===

impl HealthCheck {
    /// Repeats the check. Checks begin at once and at fixed intervals; a look at a target that is
    /// down comes after its pause.
    async fn run(mut self) {
        let stop = self.checks.stop.clone();
        let mut last = Instant::now();
        let mut at_once = self.targets.check.is_some();
        loop {
            let due = async {
                if !std::mem::take(&mut at_once) {
                    let pause = self.targets.pause(self.place).await;
                    let from = if self.targets.check.is_some() { last } else { Instant::now() };
                    sleep_until(from + pause).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = due => {}
            }
            last = Instant::now();
            let found = self.look().await;
            self.targets.checked(self.place, found.as_ref().copied());
        }
    }

    /// Finds out whether the target works.
    async fn look(&mut self) -> Result<(), ConnectFailure> {
        if let Some(look) = &self.checks.look {
            let looked = timeout_at(self.deadline(None), look(self.place));
            let late = || Err(ConnectFailure::new(CloseReason::NoAnswer, "no answer in time"));
            return looked.await.unwrap_or_else(|_| late());
        }
        let Some(check) = &self.targets.check else {
            return self.probe_port(self.deadline(None)).await;
        };
        let deadline = self.deadline(Some(check.every));
        let may_log_in = self.no_login_until.is_none_or(|until| Instant::now() >= until);
        let Some(probe) = check.kind.probe().filter(|_| may_log_in) else {
            return self.probe_port(deadline).await;
        };
        match self.ask(probe, deadline).await? {
            Verdict::Healthy => {
                self.no_login_until = None;
                Ok(())
            }
            Verdict::AuthRejected { error, remedy } => {
                self.login_rejected(&error, &remedy);
                Ok(())
            }
            Verdict::Unhealthy(error) => {
                Err(ConnectFailure::new(CloseReason::TargetRefused, error))
            }
        }
    }

    /// Returns the deadline of a look that begins now: that of a client, but before the next look.
    fn deadline(&self, every: Option<Duration>) -> Instant {
        let is_one_of_several = self.targets.count() > 1;
        let limit = if is_one_of_several { self.targets.head_start } else { self.checks.timeout };
        Instant::now() + every.map_or(limit, |every| limit.min(every))
    }

    async fn probe_port(&self, deadline: Instant) -> Result<(), ConnectFailure> {
        let probed = self.target().probe_port(&self.checks.dial, deadline).await;
        probed.map_err(|error| ConnectFailure::target(&error))
    }

    /// Asks the target, after a PROXY header without a client's address if it expects one.
    async fn ask(&self, probe: Probe, deadline: Instant) -> Result<Verdict, ConnectFailure> {
        let options = &self.checks.dial;
        let dialled = self.target().connect(options, deadline).await;
        let mut stream = dialled.map_err(|error| ConnectFailure::target(&error))?;
        options.send_proxy_header(ClientAddr::Unix, &mut stream, deadline).await?;
        let ProbeAnswer { last_words, verdict } = ask(&mut stream, probe, deadline).await?;
        self.checks.tasks.spawn(take_leave(stream, last_words));
        Ok(verdict)
    }

    fn target(&self) -> &Target {
        self.targets.at(self.place)
    }

    /// Logs once that the login of the check was rejected.
    fn login_rejected(&mut self, error: &str, remedy: &str) {
        if self.no_login_until.is_none() {
            let tunnel = self.targets.tunnel.as_deref();
            let target = &*self.target().name;
            let detail = format!("it is up, and only its port is looked at now; {remedy}");
            warn!(tunnel, target, error, detail, "health check login rejected");
        }
        self.no_login_until = Some(Instant::now() + LOGIN_PAUSE);
    }
}

/// Asks a connected target.
///
/// # Errors
/// [`ConnectFailure`] when it hangs up, or does not answer in time.
pub async fn ask(
    stream: &mut Stream,
    mut probe: Probe,
    deadline: Instant,
) -> Result<ProbeAnswer, ConnectFailure> {
    match timeout_at(deadline, converse(stream, &mut probe)).await {
        Ok(Ok(heard)) => Ok(heard),
        Ok(Err(error)) => {
            let detail = format!("it hung up on the check: {error}");
            Err(ConnectFailure::new(CloseReason::TargetRefused, detail))
        }
        Err(_) => {
            let detail = "it accepts, but did not answer the check in time";
            Err(ConnectFailure::new(CloseReason::TargetTimeout, detail))
        }
    }
}

async fn converse(stream: &mut Stream, probe: &mut Probe) -> io::Result<ProbeAnswer> {
    stream.write_all(probe.first_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        let step = match stream.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => probe.on_bytes(&buffer[..length]),
        };
        match step {
            Step::Read => {}
            Step::Write(words) => stream.write_all(&words).await?,
            Step::Done(last_words, verdict) => return Ok(ProbeAnswer { last_words, verdict }),
        }
    }
}

/// Ends the connection in a way that the service does not count as a failure: after its last bytes,
/// and not before it has read ours.
pub async fn take_leave(mut stream: Stream, last_words: Vec<u8>) {
    let leave = async {
        stream.write_all(&last_words).await?;
        stream.shutdown().await?;
        let mut buffer = [0; 256];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // The verdict does not depend on how the connection ends.
    let _ = timeout_at(Instant::now() + GOODBYE, leave).await;
    stream.close();
}
