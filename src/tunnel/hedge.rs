//! Which tunnel a client gets: a warm one, or one that is made for it, or whichever of
//! both works first.
//!
//! A warm tunnel that owes an answer is not waited for alone: another is made meanwhile.
//! The one that is not used is dismissed before anything of the client's went into it, so
//! a target may be dialled twice and hears of one client only.

use std::pin::pin;

use tokio::time::Instant;
use tracing::debug;

use super::encrypt::{Entrance, NOT_ANSWERED, is_of_the_target};
use super::introduce::Farewell;
use super::shared::Shared;
use super::targets::Unreached;
use super::unmade::Unmade;
use super::warm::{Answer, Asked, Opened};
use crate::net::Stream;
use crate::proto::Session;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// A tunnel for a client, or why there is none.
type Made = Result<Opened, Unreached>;

/// The state of a tunnel that was asked.
enum Settled {
    /// Its client has it, or nothing at all.
    Done(Box<Made>),
    /// It has ended, and another has to be made.
    Dead,
    /// It owes an answer.
    Silent(Box<Asked>),
}

impl Entrance {
    /// A warm tunnel, which has said Open, or else one that is made for this client.
    pub(super) async fn tunnel(
        &self,
        shared: &Shared,
        (client, farewell): (&Stream, &mut Farewell),
        open: &Open,
    ) -> Made {
        let Some(warm) = self.pool.take(|far_end| self.far_ends.is_wanted(far_end)) else {
            return self.made_for(shared, (client, farewell)).await;
        };
        let mut asked = match warm.ask(open).await {
            Ok(asked) => Box::new(asked),
            Err(reason) => {
                self.died(reason);
                return self.made_for(shared, (client, farewell)).await;
            }
        };
        let answer = tokio::select! {
            biased;
            reason = &mut *farewell => Answer::NotWanted(reason),
            answer = asked.answer(client, shared.timeout) => answer,
        };
        match self.settle(asked, answer, shared) {
            Settled::Done(done) => *done,
            Settled::Dead => self.made_for(shared, (client, farewell)).await,
            Settled::Silent(asked) => self.hedged(asked, shared, (client, farewell)).await,
        }
    }

    /// One that is made for a client, and nothing else.
    async fn made_for(
        &self,
        shared: &Shared,
        (client, farewell): (&Stream, &mut Farewell),
    ) -> Made {
        tokio::select! {
            made = self.fresh(self.make_tunnel(shared, Some(client), None)) => made,
            reason = farewell => Err(self.not_wanted(reason)),
        }
    }

    /// One that is made beside one that was asked, to `silent` only where there is no other
    /// far end.
    async fn another(&self, shared: &Shared, client: &Stream, silent: usize) -> Made {
        self.fresh(self.make_tunnel(shared, Some(client), Some(silent))).await
    }

    async fn fresh(
        &self,
        making: impl Future<Output = Result<(usize, (Stream, Session)), Unreached>>,
    ) -> Made {
        let (far_end, made) = making.await?;
        self.pool.encourage();
        Ok(Opened::made(far_end, made))
    }

    /// A far end has answered nothing on a tunnel that was asked at `since`, and should have:
    /// those of before are not used, and others than this far end first, if there are any.
    pub(super) fn swallowed(&self, far_end: usize, since: Instant) {
        self.pool.distrust(far_end, since);
        if self.far_ends.count() > 1 {
            let why = Unmade::new(CloseReason::NoAnswer, "a warm tunnel to it got no answer");
            self.far_ends.failed(far_end, &why, since.into_std());
        }
    }

    /// The one that was asked, if it answers yet, or another.
    async fn hedged(
        &self,
        mut asked: Box<Asked>,
        shared: &Shared,
        (client, farewell): (&Stream, &mut Farewell),
    ) -> Made {
        let deadline = asked.since + shared.timeout;
        let mut another = pin!(self.another(shared, client, asked.far_end()));
        let mut failed = None;
        loop {
            // An answer counts that is there when another tunnel is: nothing is wrong then.
            let answer = tokio::select! {
                biased;
                reason = &mut *farewell => Answer::NotWanted(reason),
                answer = asked.late_answer(client, deadline) => answer,
                made = &mut another, if failed.is_none() => {
                    let error = made.as_ref().err().map(|unreached| unreached.why.reason);
                    if error.is_some_and(is_of_the_far_end) {
                        failed = Some(made);
                        continue;
                    }
                    if error.is_none() && asked.is_dead() && asked.stays_silent().await {
                        self.swallowed(asked.far_end(), asked.since);
                    }
                    asked.dismiss(error.unwrap_or(CloseReason::Unopened), &shared.tasks);
                    return made;
                }
            };
            match self.settle(asked, answer, shared) {
                Settled::Done(done) => return *done,
                Settled::Silent(last) => last.dismiss(CloseReason::Unopened, &shared.tasks),
                Settled::Dead => {}
            }
            let Some(failed) = failed else {
                return tokio::select! {
                    biased;
                    reason = farewell => Err(self.not_wanted(reason)),
                    made = another => made,
                };
            };
            return failed;
        }
    }

    /// Settles the fate of one that was asked.
    fn settle(&self, asked: Box<Asked>, answer: Answer, shared: &Shared) -> Settled {
        let first = asked.far_end();
        let why = match answer {
            Answer::Ours => return Settled::Done(Box::new(Ok(asked.opened(shared.timeout)))),
            Answer::NotWanted(reason) => Unmade::new(reason, NOT_ANSWERED),
            Answer::ClientGone => Unmade::new(CloseReason::PlainReset, "before it sent anything"),
            Answer::Ended(reason) if is_of_the_target(reason) => Unmade::told(reason),
            Answer::Ended(reason) => {
                self.died(reason);
                asked.dismiss(reason, &shared.tasks);
                return Settled::Dead;
            }
            Answer::Silence => {
                self.died(CloseReason::NoAnswer);
                return Settled::Silent(asked);
            }
        };
        asked.dismiss(why.reason, &shared.tasks);
        Settled::Done(Box::new(Err(Unreached { first, why })))
    }

    fn died(&self, reason: CloseReason) {
        debug!(%reason, "a warm tunnel was dead; dialling");
        self.pool.tell_of_harm(reason);
    }

    fn not_wanted(&self, reason: CloseReason) -> Unreached {
        Unreached { first: self.far_ends.first(), why: Unmade::new(reason, NOT_ANSWERED) }
    }
}

/// Whether a tunnel could not be made because of the far end, so that one that was asked
/// before may still answer.
fn is_of_the_far_end(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::PeerUnreachable | CloseReason::NoAnswer | CloseReason::LocalError)
}
