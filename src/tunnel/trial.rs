//! Trying a tunnel without serving: each step on the way to its targets, until
//! one fails. For an operator who wants to know before clients do.
//!
//! Whether the far end's gate or its lack of a key keeps this end out cannot be
//! told apart from here: an acceptor is silent to both.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::encrypt::WHAT_TO_CHECK;
use super::open::told;
use super::options::{Options, Role};
use super::relay::dismiss;
use super::report::told_by_the_far_end;
use super::secure::{Caller, Terms, next_event};
use crate::addr::{Address, ClientAddr, ServiceName};
use crate::gate::StoreOptions;
use crate::net::{ResolveOptions, Resolver, SocketOptions, Stream, dial};
use crate::proto::Session;
use crate::proto::aead::suites_of_this_machine;
use crate::proto::inbound::Event;
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
    pub failed: Option<(&'static str, String)>,
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
        Role::Encrypt { targets, service } => {
            for target in targets {
                let mut finding = Finding::of(target);
                finding.failed = finding.far_end(options, target, service).await.err();
                findings.push(finding);
            }
        }
        Role::Decrypt { targets } => {
            for (_, target) in targets {
                let mut finding = Finding::of(target);
                finding.failed = finding.reach(options, target).await.err();
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
        let failed = match timeout(patience, asked).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(("store", error.to_string())),
            Err(_) => Some(("store", "no answer in time; see that it can be reached".to_owned())),
        };
        let passed = if failed.is_none() { vec!["store"] } else { vec![] };
        Self { target, passed, failed }
    }

    async fn reach(
        &mut self,
        options: &Options,
        target: &Address,
    ) -> Result<Stream, (&'static str, String)> {
        let once = ResolveOptions { every: None, wait: false };
        let resolver = Resolver::start(target.clone(), once).await;
        let addresses = resolver.and_then(|resolver| resolver.current());
        let addresses = addresses.map_err(|error| ("name", error.to_string()))?;
        self.passed.push("name");
        let socket = SocketOptions { keepalive: options.keepalive };
        let deadline = Instant::now() + options.timeout;
        let dialled = dial(&addresses, options.bind, &socket, deadline).await;
        let stream = dialled.map_err(|error| ("connect", error.to_string()))?;
        self.passed.push("connect");
        Ok(stream)
    }

    async fn far_end(
        &mut self,
        options: &Options,
        target: &Address,
        service: &ServiceName,
    ) -> Result<(), (&'static str, String)> {
        let mut stream = self.reach(options, target).await?;
        let caller = Caller::new(Terms {
            keys: options.keys.clone(),
            suites: options.suites.and(suites_of_this_machine()),
            padding: options.padding,
        });
        let called = timeout(options.timeout, caller.call(&mut stream)).await;
        let no_answer = || ("key or gate", format!("no answer; {WHAT_TO_CHECK}"));
        let mut session = called.ok().and_then(Result::ok).ok_or_else(no_answer)?;
        self.passed.push("key");
        self.passed.push("gate");
        let open = Open { service: service.clone(), client: ClientAddr::Unix };
        // The far end may spend its whole deadline on the target.
        let opened = timeout(options.timeout * 2, ask(&mut stream, &mut session, &open)).await;
        let reason = match opened {
            Ok(Ok(())) => CloseReason::PlainReset,
            Ok(Err(reason)) => return Err(("target", explained(reason))),
            Err(_) => {
                return Err(("target", "the far end does not say whether it is there".into()));
            }
        };
        self.passed.push("target");
        dismiss(&mut stream, &mut session, reason).await;
        Ok(())
    }
}

/// Asks for the target, and waits for the answer.
async fn ask(stream: &mut Stream, session: &mut Session, open: &Open) -> Result<(), CloseReason> {
    let mut record = vec![];
    session.outbound.open(open, &mut record).map_err(|_| CloseReason::LocalError)?;
    stream.write_all(&record).await.map_err(|_| CloseReason::PeerLost)?;
    match next_event(stream, session, &mut vec![]).await? {
        Event::Opened => Ok(()),
        Event::Reset(reason) => Err(told(reason)),
        _ => Err(CloseReason::ProtocolError),
    }
}

fn explained(reason: CloseReason) -> String {
    match told_by_the_far_end(reason) {
        Some(advice) => format!("{reason}: {advice}"),
        None => format!("{reason}; the log of the far end tells more"),
    }
}
