//! Choice of a client's tunnel: a warm one, a new one, or the first of both that works.
//!
//! While a warm tunnel owes an answer, another tunnel is made. The one that is not used is reset
//! before any of the client's bytes went into it, so a target may be dialled twice but only one
//! connection carries a client.

use std::pin::pin;

use tokio::time::Instant;
use tracing::debug;

use super::context::TunnelContext;
use super::encrypt::{EncryptEnd, Established, NOT_ANSWERED, WaitingClient, is_of_the_target};
use super::remote;
use super::warm::{Answer, Asked, Opened};
use crate::net::Stream;
use crate::proto::message::Open;
use crate::reason::CloseReason;
use crate::upstream::{AllFailed, ConnectFailure};

/// A tunnel for a client, or the reason why there is none.
type Found = Result<Opened, AllFailed>;

/// Result of waiting for a warm tunnel that was sent Open.
enum Settled {
    /// The choice is made: the client has this tunnel, or no tunnel.
    Done(Box<Found>),
    /// The tunnel has ended, and another has to be made.
    Dead,
    /// The tunnel still owes an answer.
    Silent(Box<Asked>),
}

impl EncryptEnd {
    /// Takes a warm tunnel, on which Open was sent, or else makes one for this client.
    pub(super) async fn tunnel(
        &self,
        context: &TunnelContext,
        client: WaitingClient<'_>,
        open: &Open,
    ) -> Found {
        let Some(warm) = self.pool.take(|far_end| self.far_ends.is_wanted(far_end)) else {
            return self.made_for(context, client).await;
        };
        let mut asked = match warm.ask(open).await {
            Ok(asked) => Box::new(asked),
            Err(reason) => {
                self.died(reason);
                return self.made_for(context, client).await;
            }
        };
        let answer = tokio::select! {
            biased;
            reason = &mut *client.termination => Answer::NotWanted(reason),
            answer = asked.answer(client.stream, context.timeout) => answer,
        };
        match self.settle(asked, answer, context) {
            Settled::Done(done) => *done,
            Settled::Dead => self.made_for(context, client).await,
            Settled::Silent(asked) => self.hedged(asked, context, client).await,
        }
    }

    /// Makes a tunnel for a client, without a warm one to compete with.
    async fn made_for(&self, context: &TunnelContext, client: WaitingClient<'_>) -> Found {
        let making = self.establish(context, Some(client.stream), None);
        tokio::select! {
            made = self.fresh(making) => made,
            reason = client.termination => Err(self.not_wanted(reason)),
        }
    }

    /// Makes a tunnel beside a silent one, to the same far end (`silent`) only where there is no
    /// other.
    async fn another(&self, context: &TunnelContext, client: &Stream, silent: usize) -> Found {
        self.fresh(self.establish(context, Some(client), Some(silent))).await
    }

    async fn fresh(&self, making: impl Future<Output = Result<Established, AllFailed>>) -> Found {
        let established = making.await?;
        self.pool.dial_succeeded();
        Ok(Opened::made(established.far_end, established.stream, established.session))
    }

    /// Notes that a far end left an Open of the time `since` unanswered for too long: older tunnels
    /// to it are not used, and other far ends are preferred, if there are any.
    pub(super) fn swallowed(&self, far_end: usize, since: Instant) {
        self.pool.distrust(far_end, since);
        if self.far_ends.count() > 1 {
            let detail = "a warm tunnel to it got no answer";
            let failure = ConnectFailure::new(CloseReason::NoAnswer, detail);
            self.far_ends.failed(far_end, &failure, since.into_std());
        }
    }

    /// Returns the warm tunnel if it answers in time, or another.
    async fn hedged(
        &self,
        mut asked: Box<Asked>,
        context: &TunnelContext,
        client: WaitingClient<'_>,
    ) -> Found {
        let tasks = &context.frontend.tasks;
        let deadline = asked.since + context.timeout;
        let mut another = pin!(self.another(context, client.stream, asked.far_end()));
        let mut failed = None;
        loop {
            // An answer that arrived before the other tunnel was ready counts: nothing is wrong
            // then.
            let answer = tokio::select! {
                biased;
                reason = &mut *client.termination => Answer::NotWanted(reason),
                answer = asked.late_answer(client.stream, deadline) => answer,
                made = &mut another, if failed.is_none() => {
                    let error = made.as_ref().err().map(|all| all.failure.reason);
                    if error.is_some_and(is_of_the_far_end) {
                        failed = Some(made);
                        continue;
                    }
                    if error.is_none() && asked.is_dead() && asked.stays_silent().await {
                        self.swallowed(asked.far_end(), asked.since);
                    }
                    asked.reset(error.unwrap_or(CloseReason::Unopened), tasks);
                    return made;
                }
            };
            match self.settle(asked, answer, context) {
                Settled::Done(done) => return *done,
                Settled::Silent(last) => last.reset(CloseReason::Unopened, tasks),
                Settled::Dead => {}
            }
            let Some(failed) = failed else {
                return tokio::select! {
                    biased;
                    reason = client.termination => Err(self.not_wanted(reason)),
                    made = another => made,
                };
            };
            return failed;
        }
    }

    /// Decides about a tunnel that was sent Open.
    fn settle(&self, asked: Box<Asked>, answer: Answer, context: &TunnelContext) -> Settled {
        let tasks = &context.frontend.tasks;
        let first = asked.far_end();
        let failure = match answer {
            Answer::Ours => return Settled::Done(Box::new(Ok(asked.opened(context.timeout)))),
            Answer::NotWanted(reason) => ConnectFailure::new(reason, NOT_ANSWERED),
            Answer::ClientGone => {
                ConnectFailure::new(CloseReason::PlainReset, "before it sent anything")
            }
            Answer::Ended(reason) if is_of_the_target(reason) => remote::failure(reason),
            Answer::Ended(reason) => {
                self.died(reason);
                asked.reset(reason, tasks);
                return Settled::Dead;
            }
            Answer::Silence => {
                self.died(CloseReason::NoAnswer);
                return Settled::Silent(asked);
            }
        };
        asked.reset(failure.reason, tasks);
        Settled::Done(Box::new(Err(AllFailed { first, failure })))
    }

    fn died(&self, reason: CloseReason) {
        debug!(%reason, "warm tunnel was dead; dialing");
        self.pool.warn_of_harm(reason);
    }

    fn not_wanted(&self, reason: CloseReason) -> AllFailed {
        let failure = ConnectFailure::new(reason, NOT_ANSWERED);
        AllFailed { first: self.far_ends.first(), failure }
    }
}

/// Returns true when a tunnel could not be made for a reason that concerns the far end only, so
/// that the warm one may still answer.
fn is_of_the_far_end(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::PeerUnreachable | CloseReason::NoAnswer | CloseReason::LocalError)
}
