//! Preflight of a tunnel without serving: each step on the way to its targets, until one fails. For
//! operators who want to find problems before clients do.
//!
//! A denial by the far end's gate and a missing key look the same from here: an acceptor is silent
//! in both cases. Nothing is sent to a service but the bytes of its check: the bytes that fill a
//! full record are the padding of Open.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::dial_far_end::{Background, CallError, CallLimits, Called, DialerHandshake};
use super::handshake::{HandshakeConfig, await_opened, say_open};
use super::options::{Options, Role};
use super::relay::send_reset;
use super::reset_reasons::remote_advice;
use crate::addr::{Address, ClientAddr, ServiceName, Source};
use crate::gate::StoreOptions;
use crate::gate::redis_store::LONGEST_CONNECT;
use crate::keys::KeyId;
use crate::net::{self, DialError, Listener, Path, Stream};
use crate::proto::message::Open;
use crate::proto::record::{MAX_PLAINTEXT, MAX_RECORD};
use crate::proto::{Padding, Session};
use crate::reason::CloseReason;
use crate::upstream::Target;
use crate::upstream::health_check::{ProbeAnswer, ask, take_leave};
use crate::upstream::probe::Verdict;

/// Backlog of a socket that is bound only to test that it can be.
const BACKLOG: i32 = 1;

/// Result of the steps on the way to one target.
#[derive(Debug)]
pub struct CheckResult {
    /// Its name: an address, or the gate's store.
    pub target: String,
    /// Successful steps, in order.
    pub passed: Vec<Passed>,
    /// The failed step, with its reason; `None` when all succeeded.
    pub failed: Option<Failed>,
}

/// A successful step.
#[derive(Debug)]
pub struct Passed {
    /// Its name.
    pub step: &'static str,
    /// A note about it; may be empty.
    pub note: String,
}

/// A failed step.
#[derive(Debug)]
pub struct Failed {
    /// Its name.
    pub step: &'static str,
    /// Cause and remedy.
    pub why: String,
}

/// Tries every target of a tunnel, and the store of its gate.
pub async fn preflight(options: &Options) -> Vec<CheckResult> {
    let mut findings = vec![];
    if let Some(gate) = &options.gate
        && !matches!(gate.store, StoreOptions::None)
    {
        findings.push(CheckResult::of_store(gate.store.clone(), options.timeout).await);
    }
    match &options.role {
        Role::Encrypt { targets, service, .. } => {
            for target in targets {
                let mut finding = CheckResult::of(target);
                finding.failed = finding.far_end(options, target, service).await.err();
                findings.push(finding);
            }
        }
        Role::Decrypt { targets } => {
            for target in targets {
                let mut finding = CheckResult::of(&target.1);
                let (service, address) = target;
                finding.failed = finding.target(options, service, address).await.err();
                findings.push(finding);
            }
        }
    }
    findings
}

/// Tries to listen on the sources of a tunnel.
pub async fn bind_all(options: &Options) -> Vec<CheckResult> {
    let mut findings = vec![];
    for source in &options.sources {
        let Source::Address(address) = source else { continue };
        let mut finding = CheckResult::of(address);
        match Listener::bind_apart(address, &options.sources, BACKLOG).await {
            Ok(listeners) => {
                let local: Vec<String> = listeners.iter().map(Listener::local).collect();
                finding.pass("listen", local.join(" "));
            }
            Err(error) => finding.failed = Some(Failed::new("listen", error.to_string())),
        }
        findings.push(finding);
    }
    findings
}

/// A tunnel to a far end that has answered.
struct Tunnel {
    stream: Stream,
    session: Session,
}

impl Failed {
    fn new(step: &'static str, why: impl Into<String>) -> Self {
        Self { step, why: why.into() }
    }
}

impl CheckResult {
    fn of(target: &Address) -> Self {
        Self { target: target.to_string(), passed: vec![], failed: None }
    }

    fn pass(&mut self, step: &'static str, note: impl Into<String>) {
        self.passed.push(Passed { step, note: note.into() });
    }

    /// Tests a gate's store by a query about an address.
    async fn of_store(store: StoreOptions, patience: Duration) -> Self {
        let target = "the gate's store".to_owned();
        let mut finding = Self { target, passed: vec![], failed: None };
        let asked =
            async { store.open()?.address_record(Ipv4Addr::UNSPECIFIED.into(), None).await };
        // Each step has its own time limit, and the error names the step.
        match timeout(patience.max(LONGEST_CONNECT * 2), asked).await {
            Ok(Ok(_)) => finding.pass("store", "it can be read"),
            Ok(Err(error)) => finding.failed = Some(Failed::new("store", error.to_string())),
            Err(_) => {
                let why = "no answer in time; check that it can be reached";
                finding.failed = Some(Failed::new("store", why));
            }
        }
        finding
    }

    /// Resolves the name of a target.
    async fn look_up(&mut self, address: &Address, patience: Duration) -> Result<Target, Failed> {
        let found = timeout(patience, Target::once(address)).await;
        let found = found.map_err(|_| {
            let seconds = patience.as_secs_f64();
            let why =
                format!("looking up {address}: no answer within {seconds} s; check name service");
            Failed::new("name", why)
        })?;
        let resolved = found.and_then(|target| Ok((target.current()?, target)));
        let (current, target) = resolved.map_err(|error| Failed::new("name", error.to_string()))?;
        let addresses = match &current {
            net::Target::Ips(addresses) => {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            net::Target::Unix(path) => path.display().to_string(),
        };
        self.pass("name", addresses);
        Ok(target)
    }

    /// Notes the result of connecting.
    fn connected<T>(
        &mut self,
        to: &Address,
        took: Duration,
        dialled: Result<T, DialError>,
    ) -> Result<T, Failed> {
        let connected = dialled.map_err(|error| Failed::new("connect", error.to_string()))?;
        let over = if matches!(to, Address::Unix(_)) { "unix socket" } else { "TCP" };
        self.pass("connect", format!("{over}, {}", milliseconds(took)));
        Ok(connected)
    }

    /// Tests a target as its check does; without a check, with a probe of its port.
    async fn target(
        &mut self,
        options: &Options,
        service: &ServiceName,
        address: &Address,
    ) -> Result<(), Failed> {
        let dial_options = options.dial_options();
        let target = self.look_up(address, options.timeout).await?;
        let began = Instant::now();
        let deadline = began + options.timeout;
        let check = options.checks.get(service);
        let Some(probe) = check.and_then(|check| check.kind.probe()) else {
            let probed = target.probe_port(&dial_options, deadline).await;
            return self.connected(address, began.elapsed(), probed);
        };
        let dialled = target.connect(&dial_options, deadline).await;
        let mut stream = self.connected(address, began.elapsed(), dialled)?;
        let asked = async {
            dial_options.send_proxy_header(ClientAddr::Unix, &mut stream, deadline).await?;
            ask(&mut stream, probe, deadline).await
        };
        let asked = asked.await.map_err(|failure| Failed::new("check", failure.detail));
        let ProbeAnswer { last_words, verdict } = asked?;
        take_leave(stream, last_words).await;
        match verdict {
            Verdict::Healthy => {}
            Verdict::Unhealthy(error) => return Err(Failed::new("check", error)),
            Verdict::AuthRejected { error, remedy } => {
                let why = format!("it may not log in: {error}; {remedy}");
                return Err(Failed::new("check", why));
            }
        }
        self.pass("check", "");
        Ok(())
    }

    async fn far_end(
        &mut self,
        options: &Options,
        address: &Address,
        service: &ServiceName,
    ) -> Result<(), Failed> {
        let target = self.look_up(address, options.timeout).await?;
        let began = Instant::now();
        let dial_options = options.dial_options();
        let background = Background::default();
        let knocks = options.knocks(Arc::default());
        let dialer = DialerHandshake::new(full_records(options)).knocking(knocks);
        let dial = |attempt| dialer.connect(&target, &dial_options, attempt);
        let limits = CallLimits::until(began + options.timeout, options.timeout);
        let called = dialer.call(dial, limits, &background).await;
        background.finish().await;
        let called = match called {
            Err(CallError::Dial(error)) => {
                return self.connected(address, began.elapsed(), Err(error));
            }
            // The time of the connection is not known without a handshake.
            Err(error) => {
                self.pass("connect", "");
                return Err(Failed::new("key or gate", dialer.failure(error).detail));
            }
            Ok(called) => called,
        };
        let Called { stream, session, dialled, ahead_ms } = called;
        self.connected(address, dialled - began, Ok(()))?;
        self.answered(session.key, ahead_ms);
        let open = Open { service: service.clone(), client: ClientAddr::Unix };
        self.opened(Tunnel { stream, session }, &open, options.timeout).await
    }

    /// Notes that the far end has answered: it has the key, and admits this host.
    fn answered(&mut self, key: KeyId, ahead_ms: i64) {
        self.pass("key or gate", format!("key {key}"));
        let apart = milliseconds(Duration::from_millis(ahead_ms.unsigned_abs()));
        let side = if ahead_ms < 0 { "behind" } else { "ahead" };
        let note = format!("the far end's is {apart} {side}; 120 s are allowed");
        self.pass("clock", note);
    }

    /// Asks for the target, and tests that full records arrive in both directions.
    async fn opened(
        &mut self,
        Tunnel { mut stream, mut session }: Tunnel,
        open: &Open,
        patience: Duration,
    ) -> Result<(), Failed> {
        let asked = async {
            say_open(&mut stream, &mut session, open).await?;
            await_opened(&mut stream, &mut session, &mut vec![]).await
        };
        // The far end may spend its whole deadline on the target.
        let opened = timeout(patience * 2, asked).await;
        let path = stream.path();
        let opened = opened.unwrap_or(Err(CloseReason::Unopened));
        let reason = opened.err().unwrap_or(CloseReason::PlainReset);
        send_reset(&mut stream, &mut session, reason).await;
        let is_lost = reason == CloseReason::Unopened;
        if let (true, Some(Path { is_stuck: true, mss, .. })) = (is_lost, path) {
            return Err(Failed::new("MTU", stuck(mss)));
        }
        if opened == Err(CloseReason::NoSuchService) {
            return Err(Failed::new("service", explained(CloseReason::NoSuchService)));
        }
        if !is_lost {
            self.pass("service", named(&open.service));
        }
        opened.map_err(|reason| Failed::new("target", explained(reason)))?;
        self.pass("target", "it is connected");
        if let Some(Path { mtu, mss, .. }) = path {
            let note = format!(
                "{mtu} bytes, segments of {mss}; records of {MAX_RECORD} bytes got there and back"
            );
            self.pass("MTU", note);
        }
        Ok(())
    }
}

/// Returns settings of a handshake that make Open and its answer full records.
fn full_records(options: &Options) -> HandshakeConfig {
    let padding = u16::try_from(MAX_PLAINTEXT).ok().and_then(Padding::block);
    HandshakeConfig { padding: padding.unwrap_or(options.padding), ..options.handshake() }
}

fn named(service: &ServiceName) -> String {
    match service.as_str() {
        "" => "the one without a name".to_owned(),
        name => name.to_owned(),
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn stuck(mss: u32) -> String {
    format!(
        "small packets arrive, and segments of {mss} bytes are not acknowledged; lower the MTU of \
         this host's interface, or clamp the MSS on the path"
    )
}

fn explained(reason: CloseReason) -> String {
    if reason == CloseReason::Unopened {
        return "the far end does not say whether it is there; see its log, and whether it can \
                send packets of full size"
            .to_owned();
    }
    match remote_advice(reason) {
        Some(advice) => format!("{reason}: {advice}"),
        None => format!("{reason}; the log of the far end tells more"),
    }
}
