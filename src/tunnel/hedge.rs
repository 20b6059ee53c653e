//! Which tunnel a client gets: a warm one, or one that is made for it, or whichever of
//! both works first.
//!
//! A warm tunnel that owes an answer is not waited for alone: another is made meanwhile.
//! The one that is not used is dismissed before anything of the client's went into it, so
//! a target may be dialled twice and hears of one client only.

use std::pin::pin;

use tracing::debug;

use super::encrypt::{Entrance, NOT_ANSWERED, is_of_the_target};
use super::introduce::Farewell;
use super::shared::Shared;
use super::targets::Unreached;
use super::unmade::Unmade;
use super::warm::{Answer, Asked, Opened};
use crate::net::Stream;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// A tunnel for a client, or why there is none.
type Made = Result<Opened, Unreached>;

/// How it stands with a tunnel that was asked.
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
        let made = tokio::select! {
            made = self.make_tunnel(shared, Some(client)) => made,
            reason = farewell => Err(self.not_wanted(reason)),
        };
        let (far_end, made) = made?;
        self.pool.encourage();
        Ok(Opened::made(far_end, made))
    }

    /// The one that was asked, if it answers yet, or another.
    async fn hedged(
        &self,
        mut asked: Box<Asked>,
        shared: &Shared,
        (client, farewell): (&Stream, &mut Farewell),
    ) -> Made {
        if asked.is_dead() {
            self.pool.distrust(asked.far_end(), asked.since);
        }
        let deadline = asked.since + shared.timeout;
        let mut another = pin!(self.made_for(shared, (client, farewell)));
        let mut failed = None;
        loop {
            let answer = tokio::select! {
                biased;
                made = &mut another, if failed.is_none() => {
                    let error = made.as_ref().err().map(|unreached| unreached.why.reason);
                    if error.is_some_and(is_of_the_far_end) {
                        failed = Some(made);
                        continue;
                    }
                    asked.dismiss(error.unwrap_or(CloseReason::Unopened), &shared.tasks);
                    return made;
                }
                answer = asked.late_answer(client, deadline) => answer,
            };
            match self.settle(asked, answer, shared) {
                Settled::Done(done) => return *done,
                Settled::Silent(last) => last.dismiss(CloseReason::Unopened, &shared.tasks),
                Settled::Dead => {}
            }
            return match failed {
                Some(failed) => failed,
                None => another.await,
            };
        }
    }

    /// What becomes of one that was asked.
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
