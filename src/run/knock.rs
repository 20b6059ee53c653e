//! `knock`: knocks at a gate without a tunnel, once or for as long as the process runs.
//!
//! A datagram has no answer. So all that can be told is whether it left this host, whether a host
//! on the way refused it, and with a port to wait for whether that opened. A service of HTTP
//! answers what it granted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::web_knocks::{Granted, WebKnocks};
use super::{Failure, KnockAt, KnockingOptions, Outcome, Prepared, runtime};
use crate::addr::Address;
use crate::http::HttpClient;
use crate::knocker::port::{Closed, is_open};
use crate::knocker::{DEFAULT_LASTING, Knocker, KnockerParts, Occasion, Schedule, SentTo, now};
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
    /// A service answered with a grant.
    Granted {
        /// Address of the service.
        by: String,
        /// Address or network that was let in.
        entry: String,
        /// Duration of the grant.
        lasting: Duration,
        /// Its end in unix seconds.
        expires_at: u64,
        /// Reason of the knock.
        reason: KnockReason,
    },
    /// A knock did not leave, or was refused.
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
    way: Way<'a>,
    names: Names,
}

/// Way of the knocks.
enum Way<'a> {
    /// Datagrams to the gate.
    Datagrams { gate: &'a Address, knocker: Box<Knocker> },
    /// Requests to a service.
    Web(Box<WebKnocks<'a>>),
}

/// Reason why a knock did not work: it was not sent, or the port did not open.
struct Unmet(anyhow::Error);

impl<'a> Visitor<'a> {
    fn new(options: &'a KnockingOptions) -> Self {
        let way = match &options.at {
            KnockAt::Gate { target, keys } => Way::Datagrams {
                gate: target,
                knocker: Box::new(Knocker::new(KnockerParts {
                    wish: options.wish.clone(),
                    key: keys.first().clone(),
                    far_clock: Arc::new(FarClock::unknown()),
                    bind: options.bind,
                    tunnel: None,
                    meters: Arc::default(),
                })),
            },
            KnockAt::Web { url, token, tls } => {
                let client = HttpClient::new(tls.clone(), options.bind, options.timeout);
                Way::Web(Box::new(WebKnocks::new(url, token.clone(), client, options)))
            }
        };
        Self { options, way, names: Names::default() }
    }

    /// Returns the duration of grants, until one is known.
    fn lasting(&self) -> Duration {
        match &self.way {
            Way::Datagrams { knocker, .. } => knocker.lasting(),
            Way::Web(_) => DEFAULT_LASTING,
        }
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
        visited.map(|_| Outcome::Clean).map_err(|Unmet(error)| Failure::Runtime(error))
    }

    /// Knocks again and again until a signal to stop.
    async fn stay(
        &self,
        mut signals: Signals,
        report: &mut Report<'_>,
    ) -> Result<Outcome, Failure> {
        let mut schedule = Schedule::new(self.lasting(), now());
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
                match &done {
                    Ok(granted) => {
                        granted.iter().for_each(|lasting| schedule.lasts(*lasting));
                        schedule.sent(now(), jitter);
                    }
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

    /// Knocks once, and waits for the port. Returns the duration of the grant, where it is told.
    async fn visit(
        &self,
        reason: KnockReason,
        report: &mut Report<'_>,
    ) -> Result<Result<Option<Duration>, Unmet>, Failure> {
        let granted = match &self.way {
            Way::Datagrams { gate, knocker } => {
                self.send(gate, knocker, reason, report).await?.map(|()| None)
            }
            Way::Web(web) => ask(web, reason, report).await?.map(Some),
        };
        let granted = match granted {
            Ok(granted) => granted,
            Err(error) => return Ok(Err(Unmet(error))),
        };
        let Some(port) = &self.options.wait_for else { return Ok(Ok(granted)) };
        match self.wait_for(port).await {
            Ok(()) => {
                if let Way::Datagrams { knocker, .. } = &self.way {
                    knocker.answered();
                }
                report(KnockEvent::Opened(port.to_string()))?;
                Ok(Ok(granted))
            }
            Err(error) => {
                let (port, text) = (port.to_string(), format!("{error:#}"));
                report(KnockEvent::Closed { port, error: text })?;
                Ok(Err(Unmet(error)))
            }
        }
    }

    /// Sends datagrams to every address of the gate. The inner error says why none was sent.
    async fn send(
        &self,
        gate: &Address,
        knocker: &Knocker,
        reason: KnockReason,
        report: &mut Report<'_>,
    ) -> Result<anyhow::Result<()>, Failure> {
        let target = match self.find(gate).await {
            Ok(target) => target,
            Err(error) => {
                let text = format!("{error:#}");
                report(KnockEvent::Failed { to: gate.to_string(), error: text })?;
                return Ok(Err(error));
            }
        };
        let mut sent = vec![];
        let mut first_error = None;
        for knock in knocker.knock(&target, Occasion::Changed, reason) {
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
        Ok(Err(anyhow!("cannot knock at {gate}: {why}; {remedy}")))
    }

    /// Waits for a port to open. Datagrams are sent again while it is closed: one may be lost.
    async fn wait_for(&self, port: &Address) -> anyhow::Result<()> {
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
            if let Way::Datagrams { gate, knocker } = &self.way {
                let gate = self.find(gate).await?;
                knocker.knock(&gate, Occasion::Denied, KnockReason::Retry);
            }
        }
    }

    async fn find(&self, address: &Address) -> anyhow::Result<Target> {
        let found = self.names.find(address, self.options.timeout).await;
        found.map_err(|error| {
            anyhow!("cannot resolve {address}: {error}; correct the name, or check name service")
        })
    }

    async fn has_moved(&self) -> bool {
        match &self.way {
            Way::Datagrams { gate, knocker } => {
                let found = timeout(LOOK, self.names.find(gate, LOOK)).await;
                matches!(found, Ok(Ok(target)) if knocker.has_moved(&target))
            }
            Way::Web(web) => timeout(LOOK, web.has_moved()).await.unwrap_or(false),
        }
    }
}

/// Asks a service once. The inner error says why it grants nothing.
async fn ask(
    web: &WebKnocks<'_>,
    reason: KnockReason,
    report: &mut Report<'_>,
) -> Result<anyhow::Result<Duration>, Failure> {
    let by = web.url().to_string();
    match web.knock().await {
        Ok(Granted { entry, lasting, expires_at }) => {
            info!(by, entry, granted_s = lasting.as_secs(), %reason, "knocked");
            report(KnockEvent::Granted { by, entry, lasting, expires_at, reason })?;
            Ok(Ok(lasting))
        }
        Err(error) => {
            report(KnockEvent::Failed { to: by, error: format!("{error:#}") })?;
            Ok(Err(error))
        }
    }
}

fn did_not_open(port: &Address, within: Duration, closed: &Closed) -> anyhow::Error {
    let seconds = within.as_secs_f64();
    let remedy = "check the key, both clocks, and that the gate there grants what was asked for";
    anyhow!("{port} did not open within {seconds} s ({closed}); {remedy}")
}

/// Logs where trouble begins and ends.
fn tell<T>(done: Result<T, Unmet>, is_in_trouble: &mut bool) {
    match done {
        Ok(_) if std::mem::take(is_in_trouble) => info!("knocking works again"),
        Ok(_) => {}
        Err(Unmet(error)) => {
            if !std::mem::replace(is_in_trouble, true) {
                warn!(error = format!("{error:#}"), "knocking does not work; it is tried again");
            }
        }
    }
}
