//! Way of one admitted request to the server, and of the answer back.

use std::fmt::Display;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, EXPECT, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode, Version};
use tokio::sync::Notify;
use tracing::warn;

use super::answers::Failure;
use super::body::{Client, Line, ResponseBody};
use super::ends::{Ending, Held, Stall};
use super::forwarded::{self, Hop};
use super::gate::HttpGate;
use super::head::{self, Facts, HostOfServer, Length};
use super::hold::Hold;
use super::hop;
use super::options::TargetHost;
use super::server::{Answer, NoAnswer, Outgoing};
use super::upgrade::BothSides;
use super::upload::{RequestBody, Upload};
use crate::addr::ClientAddr;
use crate::gate::{Peer, Permit};
use crate::http::Body;
use crate::observe::failures::Logged;
use crate::reason::CloseReason;
use crate::web::Visitor;

/// A request on its way.
pub(super) struct Passage {
    pub(super) gate: Arc<HttpGate>,
    pub(super) visitor: Arc<Visitor>,
    /// The gate's view of the client.
    pub(super) peer: Peer,
}

impl Passage {
    /// Passes a request with these facts on, and returns the answer; `None` where the connection
    /// has to end.
    pub(super) async fn pass(
        self,
        mut request: Request<Incoming>,
        facts: Facts,
        permit: Option<Permit>,
    ) -> Option<Response<Body>> {
        let Some(slot) = self.gate.slots.try_acquire() else {
            self.gate.count_failure(CloseReason::LimitReached, Some(self.peer), &self.visitor);
            return Some(Failure::Full.answer());
        };
        let mut ending = permit.map(|permit| Box::pin(self.gate.revoked(permit)) as Ending);
        let line = self.gate.line(&request, &self.visitor);
        let client_upgrade = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let slot = Arc::new(slot);
        let upload_ending = match &ending {
            Some(_) if !body.is_end_stream() => self.gate.another_ending(self.peer).await,
            _ => None,
        };
        let held = Held { ending: upload_ending, slot: Arc::clone(&slot) };
        let outgoing = self.outgoing(head, body, &facts, held);
        let answered = match &mut ending {
            Some(ending) => tokio::select! {
                biased;
                _revoked = ending => {
                    if line == Line::Client {
                        self.visitor.end();
                    }
                    return None;
                }
                answered = self.gate.server.exchange(outgoing) => answered,
            },
            None => self.gate.server.exchange(outgoing).await,
        };
        let held = Held { ending, slot };
        match answered {
            Ok(Answer { response, lease }) => {
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return self.change(response, &facts, client_upgrade, held);
                }
                let (mut head, body) = response.into_parts();
                head::to_client(&mut head.headers);
                head.version = Version::HTTP_11;
                let idle = self.gate.idle_time;
                let client = Client { visitor: self.visitor, line };
                let body = ResponseBody::new(body, lease, held, idle, client);
                Some(Response::from_parts(head, body.map_err(Into::into).boxed_unsync()))
            }
            Err(cause) => self.failed(&cause),
        }
    }

    /// Makes the request for the server.
    fn outgoing(
        &self,
        mut head: hyper::http::request::Parts,
        body: Incoming,
        facts: &Facts,
        held: Held,
    ) -> Outgoing {
        let length = match body.size_hint().exact() {
            _ if body.is_end_stream() => Length::Nothing,
            Some(bytes) => Length::Bytes(bytes),
            None => Length::Unknown,
        };
        let host = match &self.gate.host {
            TargetHost::Clients(own) => HostOfServer::Clients(own),
            TargetHost::Own(own) => HostOfServer::Own(own),
        };
        let own = self.gate.client_header();
        head::to_server(&mut head, facts, &host, length, own);
        let peer = match self.visitor.address() {
            ClientAddr::Ip(address) => Some(address.ip()),
            _ => None,
        };
        let hop = Hop {
            peer,
            is_trusted: self.gate.trusts(&self.visitor),
            client: self.peer.ip(),
            is_encrypted: self.visitor.is_encrypted(),
            host: facts.host.as_ref(),
        };
        forwarded::set(&mut head.headers, hop, own);
        let is_empty = length == Length::Nothing;
        if is_empty {
            // There is nothing to wait for.
            head.headers.remove(EXPECT);
            let is_repeatable = head.method.is_idempotent() && facts.upgrade.is_none();
            let request = Request::from_parts(head, RequestBody::nothing());
            return Outgoing { request, is_repeatable, hold: None, sent: None };
        }
        let hold = facts.is_expecting.then(Hold::default);
        let sent = Arc::new(Notify::new());
        let upload = Upload {
            body,
            hold: hold.clone(),
            stall: Stall::new(self.gate.idle_time),
            sent: Arc::clone(&sent),
            client_header: own.cloned(),
            held,
        };
        let mut request = Request::from_parts(head, RequestBody::from(upload));
        if let Some(hold) = hold.clone() {
            hyper::ext::on_informational(&mut request, move |word| {
                if word.status() == StatusCode::CONTINUE {
                    hold.open();
                }
            });
        }
        Outgoing { request, is_repeatable: false, hold, sent: Some(sent) }
    }

    /// Answers a request that got no answer of the server.
    fn failed(&self, cause: &NoAnswer) -> Option<Response<Body>> {
        if cause.is_clients() {
            // It has left, or sent no more of its request.
            return None;
        }
        Some(self.fail(cause.reason(), cause, Failure::from(cause)))
    }

    /// Counts and logs a failure of the server; returns the answer.
    fn fail(&self, reason: CloseReason, cause: &dyn Display, failure: Failure) -> Response<Body> {
        let gate = &self.gate;
        let source = self.visitor.address();
        if gate.failures.failed_unless_first(reason, &source) == Logged::Now {
            let tunnel = gate.name();
            let client = self.peer.ip().map(tracing::field::display);
            warn!(tunnel, client, %reason, error = %cause, "request failed");
        }
        failure.answer()
    }

    /// Changes both connections to the protocol that the client asked for and the server agrees on.
    fn change(
        self,
        mut response: Response<Incoming>,
        facts: &Facts,
        client: hyper::upgrade::OnUpgrade,
        held: Held,
    ) -> Option<Response<Body>> {
        let agreed = hop::upgrade(response.headers());
        let is_asked_for = |protocol: &HeaderValue| {
            let asked = facts.upgrade.as_ref();
            asked.is_some_and(|asked| protocol.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        };
        let Some(protocol) = agreed.filter(is_asked_for) else {
            let cause = "the server changes to a protocol that the client did not ask for";
            return Some(self.fail(CloseReason::PlainReset, &cause, Failure::Broken));
        };
        let sides = BothSides { client, server: hyper::upgrade::on(&mut response) };
        let idle = self.gate.idle_time;
        let visitor = Arc::clone(&self.visitor);
        self.visitor.tasks().spawn(async move {
            let Held { ending, slot } = held;
            let ended = async {
                tokio::select! {
                    () = visitor.cut() => CloseReason::Shutdown,
                    () = visitor.revoked() => CloseReason::Revoked,
                    reason = unless_none(ending) => reason,
                }
            };
            let reason = sides.relay(ended, idle).await;
            tracing::debug!(client = %visitor.address(), %reason, "upgraded connection ended");
            drop(slot);
        });
        let (mut head, _) = response.into_parts();
        head::to_client(&mut head.headers);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
        Some(Response::from_parts(head, crate::http::empty()))
    }
}

async fn unless_none(ending: Option<Ending>) -> CloseReason {
    match ending {
        Some(ending) => ending.await,
        None => std::future::pending().await,
    }
}
