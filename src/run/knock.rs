//! `knock`: knocks at a gate without a tunnel, once or for as long as the process runs.
//!
//! A knock has no answer. So all that can be told is whether it left this host, whether a host on
//! the way refused it, and with a port to wait for whether that opened.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Failure, KnockingOptions, Outcome, Prepared, runtime};
use crate::addr::Address;
use crate::knocker::port::{Closed, is_open};
use crate::knocker::{Knocker, KnockerParts, Occasion, Schedule, SentTo, now};
use crate::net::far_clock::FarClock;
use crate::net::{HostChange, HostChanges, Names, Target};
use crate::observe::KnockReason;
use crate::sys::signals::{Caught, Signals};

/// Time in which a host on the way can refuse a knock.
const REFUSAL: Duration = Duration::from_millis(300);

/// Longest attempt to connect to a port that may open: after a knock a new one gets through sooner.
const CONNECT: Duration = Duration::from_secs(1);

/// Pause between two such attempts, at first.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Interval at which one who stays compares the clocks.
const LOOK: Duration = Duration::from_secs(1);

/// An event to tell the user.
#[derive(Debug)]
pub enum KnockEvent {
    /// A knock left this host.
    Sent {
        /// Address of the gate.
        to: SocketAddr,
        /// Address of this host.
        from: IpAddr,
        /// Its reason.
        reason: KnockReason,
    },
    /// A knock did not leave, or was refused on the way.
    Failed {
        /// Address of the gate, or its name.
        to: String,
        /// Cause.
        error: String,
    },
    /// The port opened.
    Opened(String),
    /// The port did not open.
    Closed {
        /// The port.
        port: String,
        /// Cause.
        error: String,
    },
}

/// Function that tells the user.
pub type Report<'a> = dyn FnMut(KnockEvent) -> Result<(), Failure> + 'a;

/// Knocks, in a process that is `prepared`.
///
/// # Errors
/// [`Failure`] if no knock was sent, or the port did not open.
pub fn knock(
    options: &KnockingOptions,
    prepared: &Prepared,
    report: &mut Report<'_>,
) -> Result<Outcome, Failure> {
    prepared.announce();
    let runtime = runtime().map_err(Failure::Runtime)?;
    let done = runtime.block_on(async {
        let signals = Signals::catch().context("cannot catch signals").map_err(Failure::Runtime)?;
        let visitor = Visitor::new(options);
        match options.keeps {
            true => visitor.stay(signals, report).await,
            false => visitor.once(signals, report).await,
        }
    });
    // A look-up at a name server that hangs must not delay the end.
    runtime.shutdown_background();
    done
}

/// One who knocks.
struct Visitor<'a> {
    options: &'a KnockingOptions,
    knocker: Knocker,
    names: Names,
}

/// Reason why a knock did not work: it was not sent, or the port did not open.
struct Unmet(anyhow::Error);

impl<'a> Visitor<'a> {
    fn new(options: &'a KnockingOptions) -> Self {
        let knocker = Knocker::new(KnockerParts {
            wish: options.wish.clone(),
            key: options.keys.first().clone(),
            far_clock: Arc::new(FarClock::unknown()),
            bind: options.bind,
            tunnel: None,
            meters: Arc::default(),
        });
        Self { options, knocker, names: Names::default() }
    }

    async fn once(
        &self,
        mut signals: Signals,
        report: &mut Report<'_>,
    ) -> Result<Outcome, Failure> {
        let visited = tokio::select! {
            biased;
            signal = signals.ending() => return Ok(Outcome::Signalled(signal.status())),
            visited = self.visit(KnockReason::Start, report) => visited?,
        };
        visited.map(|()| Outcome::Clean).map_err(|Unmet(error)| Failure::Runtime(error))
    }

    /// Knocks again and again until a signal to stop.
    async fn stay(
        &self,
        mut signals: Signals,
        report: &mut Report<'_>,
    ) -> Result<Outcome, Failure> {
        let mut schedule = Schedule::new(self.knocker.lasting(), now());
        let mut changes = HostChanges::watch().unwrap_or_else(|error| {
            let detail = "a change of addresses is noticed with the next knock";
            warn!(%error, detail, "cannot watch the addresses of this host");
            HostChanges::unwatched()
        });
        let mut is_in_trouble = false;
        loop {
            if let Some(reason) = schedule.due(now()) {
                let done = tokio::select! {
                    biased;
                    _ = signals.stop() => return Ok(Outcome::Clean),
                    done = self.visit(reason, report) => done?,
                };
                let jitter = rand::rng().random_range(0.0..1.0);
                match done {
                    Ok(()) => schedule.sent(now(), jitter),
                    Err(_) => schedule.failed(now(), jitter),
                }
                tell(done, &mut is_in_trouble);
            }
            tokio::select! {
                biased;
                caught = signals.next() => match caught {
                    Caught::Stop(_) => return Ok(Outcome::Clean),
                    Caught::Reload => schedule.event(KnockReason::Request, now()),
                },
                change = changes.next() => {
                    if change == HostChange::Address || self.has_moved().await {
                        schedule.event(KnockReason::AddressChange, now());
                    }
                }
                () = sleep(schedule.wait(now()).min(LOOK)) => {}
            }
        }
    }

    /// Knocks at every address of the gate, and waits for the port.
    async fn visit(
        &self,
        reason: KnockReason,
        report: &mut Report<'_>,
    ) -> Result<Result<(), Unmet>, Failure> {
        let Self { options, .. } = self;
        let target = match self.find(&options.target).await {
            Ok(target) => target,
            Err(error) => {
                let (to, text) = (options.target.to_string(), format!("{error:#}"));
                report(KnockEvent::Failed { to, error: text })?;
                return Ok(Err(Unmet(error)));
            }
        };
        if let Err(error) = self.knock(&target, reason, report).await? {
            return Ok(Err(Unmet(error)));
        }
        let Some(port) = &options.wait_for else { return Ok(Ok(())) };
        match self.wait_for(port, &target).await {
            Ok(()) => {
                self.knocker.answered();
                report(KnockEvent::Opened(port.to_string()))?;
            }
            Err(error) => {
                let (port, text) = (port.to_string(), format!("{error:#}"));
                report(KnockEvent::Closed { port, error: text })?;
                return Ok(Err(Unmet(error)));
            }
        }
        Ok(Ok(()))
    }

    /// Sends knocks. The inner error says why none was sent.
    async fn knock(
        &self,
        target: &Target,
        reason: KnockReason,
        report: &mut Report<'_>,
    ) -> Result<anyhow::Result<()>, Failure> {
        let mut sent = vec![];
        let mut first_error = None;
        for knock in self.knocker.knock(target, Occasion::Changed, reason) {
            match knock {
                Ok(knock) => sent.push(knock),
                Err(not_sent) => {
                    let error = not_sent.error.to_string();
                    first_error.get_or_insert_with(|| format!("{}: {error}", not_sent.to));
                    report(KnockEvent::Failed { to: not_sent.to, error })?;
                }
            }
        }
        if !self.options.keeps && !sent.is_empty() {
            sleep(REFUSAL).await;
        }
        let mut is_sent = false;
        for SentTo { to, from, outgoing } in sent {
            if let Some(error) = outgoing.reported() {
                first_error.get_or_insert_with(|| format!("{to}: {error}"));
                report(KnockEvent::Failed { to: to.to_string(), error: error.to_string() })?;
            } else {
                report(KnockEvent::Sent { to, from, reason })?;
                is_sent = true;
            }
        }
        if is_sent {
            return Ok(Ok(()));
        }
        let why = first_error.unwrap_or_else(|| "it has no address".to_owned());
        let remedy = "check network, address and port, and that --knock is on there";
        Ok(Err(anyhow!("cannot knock at {}: {why}; {remedy}", self.options.target)))
    }

    /// Waits for a port to open, and knocks again while it is closed.
    async fn wait_for(&self, port: &Address, gate: &Target) -> anyhow::Result<()> {
        let Self { options, .. } = self;
        let deadline = Instant::now() + options.timeout;
        let target = self.find(port).await?;
        let mut pause = PAUSE;
        loop {
            let latest = deadline.min(Instant::now() + CONNECT);
            let closed = match is_open(&target, options.bind, latest).await {
                Ok(()) => return Ok(()),
                Err(closed) => closed,
            };
            if Instant::now() + pause >= deadline {
                return Err(did_not_open(port, options.timeout, &closed));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.knocker.knock(gate, Occasion::Denied, KnockReason::Retry);
        }
    }

    async fn find(&self, address: &Address) -> anyhow::Result<Target> {
        let found = self.names.find(address, self.options.timeout).await;
        found.map_err(|error| {
            anyhow!("cannot resolve {address}: {error}; correct the name, or check name service")
        })
    }

    async fn has_moved(&self) -> bool {
        let found = timeout(LOOK, self.names.find(&self.options.target, LOOK)).await;
        matches!(found, Ok(Ok(target)) if self.knocker.has_moved(&target))
    }
}

fn did_not_open(port: &Address, within: Duration, closed: &Closed) -> anyhow::Error {
    let seconds = within.as_secs_f64();
    let remedy = "check the key, both clocks, and that the gate there grants what was asked for";
    anyhow!("{port} did not open within {seconds} s ({closed}); {remedy}")
}

/// Logs where trouble begins and ends.
fn tell(done: Result<(), Unmet>, is_in_trouble: &mut bool) {
    match done {
        Ok(()) if std::mem::take(is_in_trouble) => info!("knocking works again"),
        Ok(()) => {}
        Err(Unmet(error)) => {
            if !std::mem::replace(is_in_trouble, true) {
                warn!(error = format!("{error:#}"), "knocking does not work; it is tried again");
            }
        }
    }
}
