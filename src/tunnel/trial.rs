//! Trying a tunnel without serving: each step on the way to its targets, until
//! one fails. For an operator who wants to know before clients do.
//!
//! Whether the far end's gate or its lack of a key keeps this end out cannot be
//! told apart from here: an acceptor is silent to both.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::caller::{Background, CallError, Called, Caller, Patience};
use super::dialling::{Dialling, look_up_once};
use super::encrypt::WHAT_TO_CHECK;
use super::health::{converse, take_leave};
use super::options::{Options, Role};
use super::relay::dismiss;
use super::report::told_by_the_far_end;
use super::secure::{Terms, await_opened, say_open};
use crate::addr::{Address, ClientAddr, ServiceName};
use crate::gate::StoreOptions;
use crate::gate::redis_store::LONGEST_WAY;
use crate::net::{DialError, Target};
use crate::probe::Verdict;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// What was found on the way to one target.
#[derive(Debug)]
pub struct Finding {
    /// Which: an address, or the gate's store.
    pub target: String,
    /// The steps that went well, in order.
    pub passed: Vec<&'static str>,
    /// The step that did not, and why; `None` when all is well.
    pub failed: Option<Failed>,
}

/// A step, and why it failed.
type Failed = (&'static str, String);

/// Tries every target of a tunnel, and the store of its gate.
pub async fn trial(options: &Options) -> Vec<Finding> {
    let mut findings = vec![];
    if let Some(gate) = &options.gate
        && !matches!(gate.store, StoreOptions::None)
    {
        findings.push(Finding::of_store(gate.store.clone(), options.timeout).await);
    }
    match &options.role {
        Role::Encrypt { targets, service } => {
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

impl Finding {
    fn of(target: &Address) -> Self {
        Self { target: target.to_string(), passed: vec![], failed: None }
    }

    /// What comes of asking a gate's store about an address.
    async fn of_store(store: StoreOptions, patience: Duration) -> Self {
        let target = "the gate's store".to_owned();
        let asked = async { store.open()?.standing(Ipv4Addr::UNSPECIFIED.into(), None).await };
        // Each step has a time of its own, and says which it was.
        let failed = match timeout(patience.max(LONGEST_WAY * 2), asked).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(("store", error.to_string())),
            Err(_) => Some(("store", "no answer in time; see that it can be reached".to_owned())),
        };
        let passed = if failed.is_none() { vec!["store"] } else { vec![] };
        Self { target, passed, failed }
    }

    /// What a name means now.
    async fn look_up(&mut self, target: &Address, patience: Duration) -> Result<Target, Failed> {
        let found = timeout(patience, look_up_once(target.clone())).await;
        let found = found.map_err(|_| {
            let seconds = patience.as_secs_f64();
            (
                "name",
                format!("looking up {target}: no answer within {seconds} s; check name service"),
            )
        })?;
        let found = found.map_err(|error| ("name", error.to_string()))?;
        self.passed.push("name");
        Ok(found)
    }

    /// The connection, once it was made or tried.
    fn connected<T>(&mut self, dialled: Result<T, DialError>) -> Result<T, Failed> {
        let connected = dialled.map_err(|error| ("connect", error.to_string()))?;
        self.passed.push("connect");
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
        let deadline = Instant::now() + options.timeout;
        let check = options.checks.get(service);
        let Some(talk) = check.and_then(|check| check.question.talk()) else {
            return self.connected(dialling.touch(&target, deadline).await);
        };
        let mut stream = self.connected(dialling.dial(&target, deadline).await)?;
        let asked = async {
            dialling.announce(ClientAddr::Unix, &mut stream, deadline).await?;
            converse(&mut stream, talk, deadline).await
        };
        let (last_words, verdict) = asked.await.map_err(|why| ("check", why.detail))?;
        take_leave(stream, last_words).await;
        match verdict {
            Verdict::Ready => {}
            Verdict::Unready(error) => return Err(("check", error)),
            Verdict::Unwelcome { error, remedy } => {
                return Err(("check", format!("it may not log in: {error}; {remedy}")));
            }
        }
        self.passed.push("check");
        Ok(())
    }

    async fn far_end(
        &mut self,
        options: &Options,
        target: &Address,
        service: &ServiceName,
    ) -> Result<(), Failed> {
        let target = self.look_up(target, options.timeout).await?;
        let deadline = Instant::now() + options.timeout;
        let dialling = Dialling::from(options);
        let terms =
            Terms::of(options.keys.clone(), options.suites, options.padding, options.heartbeat);
        let dial = |deadline| dialling.dial(&target, deadline);
        let patience = Patience { deadline, answer: options.timeout };
        let background = Background::default();
        let called = Caller::new(terms).call(dial, patience, &background).await;
        background.finish().await;
        let called = match called {
            Err(CallError::Dial(error)) => self.connected(Err(error))?,
            other => self.connected(Ok(other))?,
        };
        let no_answer = |_| ("key or gate", format!("no answer; {WHAT_TO_CHECK}"));
        let Called { mut stream, mut session, .. } = called.map_err(no_answer)?;
        self.passed.push("key");
        self.passed.push("gate");
        let open = Open { service: service.clone(), client: ClientAddr::Unix };
        let asked = async {
            say_open(&mut stream, &mut session, &open).await?;
            await_opened(&mut stream, &mut session, &mut vec![]).await
        };
        // The far end may spend its whole deadline on the target.
        let opened = timeout(options.timeout * 2, asked).await;
        let opened = opened.unwrap_or(Err(CloseReason::Unopened));
        let reason = opened.err().unwrap_or(CloseReason::PlainReset);
        dismiss(&mut stream, &mut session, reason).await;
        opened.map_err(|reason| ("target", explained(reason)))?;
        self.passed.push("target");
        Ok(())
    }
}

fn explained(reason: CloseReason) -> String {
    if reason == CloseReason::Unopened {
        return "the far end does not say whether it is there".to_owned();
    }
    match told_by_the_far_end(reason) {
        Some(advice) => format!("{reason}: {advice}"),
        None => format!("{reason}; the log of the far end tells more"),
    }
}
