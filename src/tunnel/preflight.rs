//! Trying a tunnel without serving: each step on the way to its targets, until
//! one fails. For an operator who wants to know before clients do.
//!
//! Whether the far end's gate or its lack of a key keeps this end out cannot be
//! told apart from here: an acceptor is silent to both. Nothing is sent to a service
//! but what its check says: what is as long as a full record is the padding of Open.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::caller::{Background, CallError, Called, Caller, Patience};
use super::dialling::{Dialling, look_up_once};
use super::health::{converse, take_leave};
use super::options::{Options, Role};
use super::relay::dismiss;
use super::report::told_by_the_far_end;
use super::secure::{Terms, await_opened, say_open};
use super::unmade::Unmade;
use crate::addr::{Address, ClientAddr, ServiceName, Source};
use crate::gate::StoreOptions;
use crate::gate::redis_store::LONGEST_WAY;
use crate::keys::KeyId;
use crate::net::{DialError, Listener, Path, Stream, Target};
use crate::probe::Verdict;
use crate::proto::message::Open;
use crate::proto::record::{MAX_PLAINTEXT, MAX_RECORD};
use crate::proto::{Padding, Session};
use crate::reason::CloseReason;

/// The backlog of a socket that is bound only to see whether it can be.
const BACKLOG: i32 = 1;

/// What was found on the way to one target.
#[derive(Debug)]
pub struct Finding {
    /// Which: an address, or the gate's store.
    pub target: String,
    /// The steps that went well, in order.
    pub passed: Vec<Passed>,
    /// The step that did not, and why; `None` when all is well.
    pub failed: Option<Failed>,
}

/// A step that went well.
#[derive(Debug)]
pub struct Passed {
    /// Which.
    pub step: &'static str,
    /// A note about it; may be empty.
    pub note: String,
}

/// A step that did not.
#[derive(Debug)]
pub struct Failed {
    /// Which.
    pub step: &'static str,
    /// Cause and remedy.
    pub why: String,
}

/// Tries every target of a tunnel, and the store of its gate.
pub async fn trial(options: &Options) -> Vec<Finding> {
    let mut findings = vec![];
    if let Some(gate) = &options.gate
        && !matches!(gate.store, StoreOptions::None)
    {
        findings.push(Finding::of_store(gate.store.clone(), options.timeout).await);
    }
    match &options.role {
        Role::Encrypt { targets, service, .. } => {
            for target in targets {
                let mut finding = Finding::of(target);
                finding.failed = finding.far_end(options, target, service).await.err();
                findings.push(finding);
            }
        }
        Role::Decrypt { targets } => {
            for target in targets {
                let mut finding = Finding::of(&target.1);
                finding.failed = finding.target(options, target).await.err();
                findings.push(finding);
            }
        }
    }
    findings
}

/// Tries whether this host can listen on the sources of a tunnel.
pub async fn bind_all(options: &Options) -> Vec<Finding> {
    let mut findings = vec![];
    for source in &options.sources {
        let Source::Address(address) = source else { continue };
        let mut finding = Finding::of(address);
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

impl Failed {
    fn new(step: &'static str, why: impl Into<String>) -> Self {
        Self { step, why: why.into() }
    }
}

impl Finding {
    fn of(target: &Address) -> Self {
        Self { target: target.to_string(), passed: vec![], failed: None }
    }

    fn pass(&mut self, step: &'static str, note: impl Into<String>) {
        self.passed.push(Passed { step, note: note.into() });
    }

    /// What comes of asking a gate's store about an address.
    async fn of_store(store: StoreOptions, patience: Duration) -> Self {
        let target = "the gate's store".to_owned();
        let mut finding = Self { target, passed: vec![], failed: None };
        let asked = async { store.open()?.standing(Ipv4Addr::UNSPECIFIED.into(), None).await };
        // Each step has a time of its own, and says which it was.
        match timeout(patience.max(LONGEST_WAY * 2), asked).await {
            Ok(Ok(_)) => finding.pass("store", "it can be read"),
            Ok(Err(error)) => finding.failed = Some(Failed::new("store", error.to_string())),
            Err(_) => {
                let why = "no answer in time; see that it can be reached";
                finding.failed = Some(Failed::new("store", why));
            }
        }
        finding
    }

    /// What a name means now.
    async fn look_up(&mut self, target: &Address, patience: Duration) -> Result<Target, Failed> {
        let found = timeout(patience, look_up_once(target.clone())).await;
        let found = found.map_err(|_| {
            let seconds = patience.as_secs_f64();
            let why =
                format!("looking up {target}: no answer within {seconds} s; check name service");
            Failed::new("name", why)
        })?;
        let found = found.map_err(|error| Failed::new("name", error.to_string()))?;
        let addresses = match &found {
            Target::Ips(addresses) => {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            Target::Unix(path) => path.display().to_string(),
        };
        self.pass("name", addresses);
        Ok(found)
    }

    /// The connection, once it was made or tried.
    fn connected<T>(
        &mut self,
        to: &Target,
        (began, ended): (Instant, Instant),
        dialled: Result<T, DialError>,
    ) -> Result<T, Failed> {
        let connected = dialled.map_err(|error| Failed::new("connect", error.to_string()))?;
        let over = if matches!(to, Target::Unix(_)) { "unix socket" } else { "TCP" };
        self.pass("connect", format!("{over}, {}", milliseconds(ended - began)));
        Ok(connected)
    }

    /// A target as its check finds it, which is a look at it where there is none.
    async fn target(
        &mut self,
        options: &Options,
        (service, target): &(ServiceName, Address),
    ) -> Result<(), Failed> {
        let dialling = Dialling::from(options);
        let target = self.look_up(target, options.timeout).await?;
        let began = Instant::now();
        let deadline = began + options.timeout;
        let check = options.checks.get(service);
        let Some(talk) = check.and_then(|check| check.question.talk()) else {
            let touched = dialling.touch(&target, deadline).await;
            return self.connected(&target, (began, Instant::now()), touched);
        };
        let dialled = dialling.dial(&target, deadline).await;
        let mut stream = self.connected(&target, (began, Instant::now()), dialled)?;
        let asked = async {
            dialling.announce(ClientAddr::Unix, &mut stream, deadline).await?;
            converse(&mut stream, talk, deadline).await
        };
        let asked = asked.await.map_err(|why| Failed::new("check", why.detail));
        let (last_words, verdict) = asked?;
        take_leave(stream, last_words).await;
        match verdict {
            Verdict::Ready => {}
            Verdict::Unready(error) => return Err(Failed::new("check", error)),
            Verdict::Unwelcome { error, remedy } => {
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
        target: &Address,
        service: &ServiceName,
    ) -> Result<(), Failed> {
        let target = self.look_up(target, options.timeout).await?;
        let began = Instant::now();
        let dialling = Dialling::from(options);
        // So that Open is a full record, and so is what answers it.
        let padding = u16::try_from(MAX_PLAINTEXT).ok().and_then(Padding::block);
        let padding = padding.unwrap_or(options.padding);
        let terms = Terms::of(options.keys.clone(), options.suites, padding, options.heartbeat);
        let dial = |deadline| dialling.dial(&target, deadline);
        let patience = Patience { deadline: began + options.timeout, answer: options.timeout };
        let background = Background::default();
        let called = Caller::new(terms).call(dial, patience, &background).await;
        background.finish().await;
        let called = match called {
            Err(CallError::Dial(error)) => {
                return self.connected(&target, (began, Instant::now()), Err(error));
            }
            // When it was there is not known, as there is no handshake that would tell.
            Err(error) => {
                self.pass("connect", "");
                return Err(Failed::new("key or gate", Unmade::from(error).detail));
            }
            Ok(called) => called,
        };
        let Called { stream, session, dialled, ahead_ms } = called;
        self.connected(&target, (began, dialled), Ok(()))?;
        self.answered(session.key, ahead_ms);
        let open = Open { service: service.clone(), client: ClientAddr::Unix };
        self.opened((stream, session), &open, options.timeout).await
    }

    /// The far end has answered: it has the key, and lets this host in.
    fn answered(&mut self, key: KeyId, ahead_ms: i64) {
        self.pass("key or gate", format!("key {key}"));
        let apart = milliseconds(Duration::from_millis(ahead_ms.unsigned_abs()));
        let (side, most) = (if ahead_ms < 0 { "behind" } else { "ahead" }, 120);
        let note = format!("the far end's is {apart} {side}; {most} s are allowed");
        self.pass("clock", note);
    }

    /// Asks for the target, and sees that full records get there and back.
    async fn opened(
        &mut self,
        (mut stream, mut session): (Stream, Session),
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
        dismiss(&mut stream, &mut session, reason).await;
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
    match told_by_the_far_end(reason) {
        Some(advice) => format!("{reason}: {advice}"),
        None => format!("{reason}; the log of the far end tells more"),
    }
}
