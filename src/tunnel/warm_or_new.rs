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
use super::loops::Pair;
use super::reset_reasons;
use super::warm::{Answer, Asked, Opened};
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

/// The first of two tunnels for one client that came to something.
enum First {
    /// The word of the one that was asked.
    Answer(Answer),
    /// The other one, or the reason why there is none.
    Another(Box<Found>),
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
        let making = self.establish(context, client.pair, None);
        tokio::select! {
            made = self.fresh(making) => made,
            reason = client.termination => Err(self.not_wanted(reason)),
        }
    }

    /// Makes a tunnel beside a silent one, to the same far end (`silent`) only where there is no
    /// other.
    async fn another(
        &self,
        context: &TunnelContext,
        made_for: Option<Pair>,
        silent: usize,
    ) -> Found {
        self.fresh(self.establish(context, made_for, Some(silent))).await
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
        mut client: WaitingClient<'_>,
    ) -> Found {
        let deadline = asked.since + context.timeout;
        let mut another = pin!(self.another(context, client.pair, asked.far_end()));
        // An answer counts that is there when another tunnel is: nothing is wrong then.
        let first = tokio::select! {
            biased;
            answer = late_answer(&mut asked, &mut client, deadline) => First::Answer(answer),
            made = &mut another => First::Another(Box::new(made)),
        };
        match first {
            First::Answer(answer) => match self.settle_late(asked, answer, context) {
                Some(found) => found,
                None => self.unless_not_wanted(another, client).await,
            },
            // The one that was asked may still answer.
            First::Another(failed) if is_failure_of_the_far_end(&failed) => {
                let answer = late_answer(&mut asked, &mut client, deadline).await;
                self.settle_late(asked, answer, context).unwrap_or(*failed)
            }
            First::Another(made) => {
                let error = made.as_ref().as_ref().err().map(|all| all.failure.reason);
                self.replace(asked, error, context).await;
                *made
            }
        }
    }

    /// Waits for the tunnel that is being made, while its client is there.
    async fn unless_not_wanted(
        &self,
        making: impl Future<Output = Found>,
        client: WaitingClient<'_>,
    ) -> Found {
        tokio::select! {
            biased;
            reason = client.termination => Err(self.not_wanted(reason)),
            made = making => made,
        }
    }

    /// Ends one that was asked, since another was made, or failed for this `error`.
    async fn replace(
        &self,
        mut asked: Box<Asked>,
        error: Option<CloseReason>,
        context: &TunnelContext,
    ) {
        if error.is_none() && asked.is_dead() && asked.stays_silent().await {
            self.swallowed(asked.far_end(), asked.since);
        }
        asked.reset(error.unwrap_or(CloseReason::Unopened), &context.frontend.tasks);
    }

    /// As [`Self::settle`], where there is another to take its place: `None` when that is
    /// needed.
    fn settle_late(
        &self,
        asked: Box<Asked>,
        answer: Answer,
        context: &TunnelContext,
    ) -> Option<Found> {
        match self.settle(asked, answer, context) {
            Settled::Done(done) => return Some(*done),
            Settled::Silent(last) => last.reset(CloseReason::Unopened, &context.frontend.tasks),
            Settled::Dead => {}
        }
        None
    }

    /// Decides what becomes of one that was asked.
    fn settle(&self, asked: Box<Asked>, answer: Answer, context: &TunnelContext) -> Settled {
        let tasks = &context.frontend.tasks;
        let first = asked.far_end();
        let failure = match answer {
            Answer::Ours => return Settled::Done(Box::new(Ok(asked.opened(context.timeout)))),
            Answer::NotWanted(reason) => ConnectFailure::new(reason, NOT_ANSWERED),
            Answer::ClientGone => {
                ConnectFailure::new(CloseReason::PlainReset, "before it sent anything")
            }
            Answer::Ended(reason) if is_of_the_target(reason) => reset_reasons::failure(reason),
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

/// Waits for the answer of one that was asked, while its client is there.
async fn late_answer(
    asked: &mut Asked,
    client: &mut WaitingClient<'_>,
    deadline: Instant,
) -> Answer {
    tokio::select! {
        biased;
        reason = &mut *client.termination => Answer::NotWanted(reason),
        answer = asked.late_answer(client.stream, deadline) => answer,
    }
}

/// Returns true when a tunnel could not be made because of the far end, so that one that was
/// asked before may still answer.
fn is_failure_of_the_far_end(found: &Found) -> bool {
    let Err(AllFailed { failure, .. }) = found else { return false };
    matches!(
        failure.reason,
        CloseReason::PeerUnreachable | CloseReason::NoAnswer | CloseReason::LocalError
    )
}
