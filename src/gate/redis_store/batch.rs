//! Several edits that belong together, as one transaction.
//!
//! Redis undoes nothing: when one command fails, the others are done all the same. So no command
//! is sent that is known to fail, and the type of the set is watched until then.
//! In a Cluster only keys of one slot can be in a transaction.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redis::{Cmd, Pipeline};

use super::super::grant::GrantNote;
use super::super::member::Member;
use super::super::store::{Edit, EditResult, StoreError};
use super::RedisStore;
use super::attempt::{Attempt, Done, Failed, Mode, count, set_for};
use super::connections::{Connections, SetType};
use super::error::{Kind, RedisFailure};
use super::keys::spellings;
use super::list::{Found, ban_keys, with_prefix};
use super::members::{Wanted, denied_note, unnoting};

/// Edits in one transaction. The server does nothing else while it makes them.
pub const MOST_TOGETHER: usize = 10_000;

/// The time that a server may take for that many.
const ANSWER: Duration = Duration::from_secs(10);

/// Commands that are sent at once where they are no transaction.
const AT_ONCE: usize = 500;

/// Looks at the set, each with a transaction that another change may undo.
const MOST_TRIES: usize = 10;

/// The most changes for which members are named to followers; more make them read all.
const MOST_NAMED: usize = 1_000;

/// A command of an edit.
struct Step {
    /// The place of its edit.
    edit: usize,
    key: String,
    command: Cmd,
    effect: Effect,
}

/// The meaning of the answer to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It counts the changes.
    Counted,
    /// None: it always changes something.
    Always,
    /// None: it is about a note, and that is no change by itself.
    Note,
}

/// The steps of all edits, and what is known of the results.
struct Plan {
    steps: Vec<Step>,
    made: Vec<Done>,
}

impl RedisStore {
    /// Makes up to [`MOST_TOGETHER`] changes as one transaction, and passes each result to
    /// `report`. In a Cluster a transaction is about one key: there the changes of the set are
    /// one, and each key beside it is changed by itself.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached, after one retry.
    pub async fn edit_all(
        &self,
        edits: &[Edit],
        report: &mut dyn FnMut(EditResult),
    ) -> Result<(), StoreError> {
        let is_plain = |edit: &Edit| {
            matches!(edit, Edit::Allow { .. } | Edit::Remove(_) | Edit::Ban(..) | Edit::Unban(_))
        };
        if !edits.iter().all(is_plain) {
            // Each depends on the present content by itself.
            for edit in edits {
                report(self.edit(edit).await?);
            }
            return Ok(());
        }
        if !edits.is_empty() {
            self.make(edits, Mode::Together).await?.into_iter().for_each(report);
        }
        Ok(())
    }
}

/// Makes edits of members and bans, one try.
pub(super) async fn make(
    store: &RedisStore,
    connections: &Connections,
    edits: &[Edit],
) -> Result<Vec<Done>, Failed> {
    Batch { store, connections, edits }.make().await
}

/// One try to make edits.
struct Batch<'a> {
    store: &'a RedisStore,
    connections: &'a Connections,
    edits: &'a [Edit],
}

impl Batch<'_> {
    async fn make(&self) -> Result<Vec<Done>, Failed> {
        let set = &self.store.keys.allow_set;
        let made = self.transact().await?;
        let mut made = made.ok_or_else(|| {
            let cause = "the set changes all the time, so that no transaction of ours is done";
            Failed::At(
                set.clone(),
                RedisFailure::new(Kind::Elsewhere, self.connections.node_of(set), cause),
            )
        })?;
        self.remove_aliases(&mut made).await?;
        self.name(&made).await;
        if self.keeps_notes() {
            let set_type = self.set_type().await?;
            self.attempt().prune(set_type).await;
        }
        Ok(made)
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt { store: self.store, connections: self.connections }
    }

    fn keeps_notes(&self) -> bool {
        self.edits.iter().any(|edit| matches!(edit, Edit::Allow { note: Some(_), .. }))
    }

    /// Makes all, if the set lets one of some tries through.
    async fn transact(&self) -> Result<Option<Vec<Done>>, Failed> {
        if self.keeps_notes() {
            self.attempt().notes_to_write().await?;
        }
        match self.transact_with(true).await {
            Err(Failed::At(_, failure)) if failure.kind == Kind::Denied => {
                if self.keeps_notes() {
                    self.probe_notes().await?;
                }
                // Notes are for people; a user that may not write them may still take members out.
                self.transact_with(false).await
            }
            done => done,
        }
    }

    /// Fails if this user may not write notes.
    async fn probe_notes(&self) -> Result<(), Failed> {
        let notes = self.connections.notes_key(&self.store.keys);
        let mut probe = redis::cmd("HDEL");
        probe.arg(&notes).arg("");
        let probed = self.connections.of(&notes).ask(&probe).await;
        probed.map(drop).map_err(|failure| denied_note(&notes, failure))
    }

    async fn transact_with(&self, notes: bool) -> Result<Option<Vec<Done>>, Failed> {
        let set = &self.store.keys.allow_set;
        let is_of_set = |edit: &Edit| matches!(edit, Edit::Allow { .. } | Edit::Remove(_));
        let watched = self.edits.iter().any(is_of_set);
        for _ in 0..MOST_TRIES {
            let mut set_type = SetType::Absent;
            if watched {
                let watching = self.connections.of(set).ask(redis::cmd("WATCH").arg(set)).await;
                watching.map_err(|failure| Failed::At(set.clone(), failure))?;
                set_type = self.set_type().await?;
            }
            let kept = self.endless(set_type).await?;
            let Plan { mut steps, mut made } = self.plan(set_type, kept)?;
            if !notes {
                steps.retain(|step| step.effect != Effect::Note);
            }
            if self.send(steps, &mut made).await? {
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    /// Members that are to be in the set for ever, and are already.
    async fn endless(
        &self,
        set_type: SetType,
    ) -> Result<HashMap<Member, Option<GrantNote>>, Failed> {
        let endless = self.edits.iter().filter_map(|edit| match edit {
            Edit::Allow { member, lasting: None, .. } => Some(*member),
            _ => None,
        });
        let endless: Vec<Member> = endless.collect();
        let keys = &self.store.keys;
        let kept = self.connections.endless(keys, set_type, &endless).await;
        kept.map_err(|failure| Failed::At(keys.allow_set.clone(), failure))
    }

    /// Sends the steps: those that may be in a transaction with the set as one, the others
    /// each by itself. Returns false if none was made.
    async fn send(&self, steps: Vec<Step>, made: &mut [Done]) -> Result<bool, Failed> {
        let set = &self.store.keys.allow_set;
        let joins = |step: &Step| self.connections.map.joins(&step.key, set);
        let (together, singly): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(joins);
        let failed = |failure| Failed::At(set.clone(), failure);
        let mut all = pipeline(&together);
        let answers = self.connections.of(set).transact(&mut all, ANSWER).await.map_err(failed)?;
        let Some(answers) = answers else { return Ok(false) };
        for (step, answer) in together.iter().zip(&answers) {
            made[step.edit].note(step, count(answer));
        }
        for (place, connection) in self.connections.all.iter().enumerate() {
            let of_link = |step: &&Step| self.connections.map.index(&step.key) == place;
            let steps: Vec<&Step> = singly.iter().filter(of_link).collect();
            for steps in steps.chunks(AT_ONCE) {
                let mut all = redis::pipe();
                for step in steps {
                    all.add_command(step.command.clone());
                }
                let answers = connection.ask_all(&all).await.map_err(failed)?;
                for (step, answer) in steps.iter().zip(&answers) {
                    made[step.edit].note(step, count(answer));
                }
            }
        }
        Ok(true)
    }

    /// The commands of all edits, each on what those before it make of the set.
    fn plan(
        &self,
        mut set_type: SetType,
        mut kept: HashMap<Member, Option<GrantNote>>,
    ) -> Result<Plan, Failed> {
        let keys = &self.store.keys;
        let mut steps = Vec::with_capacity(self.edits.len());
        let mut made = Vec::with_capacity(self.edits.len());
        for (edit, what) in self.edits.iter().enumerate() {
            let mut step = |key: &str, command: Cmd, effect| {
                steps.push(Step { edit, key: key.to_owned(), command, effect });
            };
            let key = match what {
                Edit::Allow { member, lasting, note } => {
                    let wanted = Wanted { member: *member, lasting: *lasting, note: note.as_ref() };
                    let present = kept.remove(member).filter(|_| lasting.is_none());
                    if lasting.is_none() {
                        let stays = present.as_ref().filter(|present| {
                            !GrantNote::relabels(note.as_ref(), present.as_ref())
                        });
                        kept.insert(*member, stays.cloned().unwrap_or_else(|| note.clone()));
                    }
                    self.allow(wanted, present.as_ref(), &mut set_type, &mut step)?
                }
                Edit::Remove(member) => {
                    kept.remove(member);
                    self.remove(*member, set_type, &mut step)
                }
                Edit::Ban(member, time) => {
                    let key = keys.ban_key(*member);
                    step(&key, set_for(&key, "1", *time), Effect::Always);
                    key
                }
                Edit::Unban(member) => {
                    for (_, key) in ban_keys(&keys.ban_prefix, *member) {
                        step(&key, delete(&key), Effect::Counted);
                    }
                    keys.ban_key(*member)
                }
                _ => unreachable!("others are made singly"),
            };
            made.push(Done { key, changed: false, count: None });
        }
        Ok(Plan { steps, made })
    }

    /// Plans to let a member in, unless it is `present` for ever and stays as it is. Returns
    /// the key.
    fn allow(
        &self,
        wanted: Wanted<'_>,
        present: Option<&Option<GrantNote>>,
        set_type: &mut SetType,
        step: &mut impl FnMut(&str, Cmd, Effect),
    ) -> Result<String, Failed> {
        let keys = &self.store.keys;
        let notes = self.connections.notes_key(keys);
        let adding = wanted.adding(keys, self.connections, *set_type)?;
        *set_type = adding.set_type;
        match (present, adding.note) {
            (Some(present), Some(note)) => {
                if GrantNote::relabels(wanted.note, present.as_ref()) {
                    step(&notes, note, Effect::Always);
                }
            }
            (None, Some(note)) => {
                step(&adding.key, adding.command, Effect::Counted);
                step(&notes, note, Effect::Note);
                if let (Member::Address(ip), Some(prefix), Some(_)) =
                    (wanted.member, &keys.allow_prefix, wanted.lasting)
                {
                    // From before the set was a sorted one, with another end.
                    for key in with_prefix(prefix, ip) {
                        step(&key, delete(&key), Effect::Note);
                    }
                }
            }
            (_, None) => step(&adding.key, adding.command, Effect::Always),
        }
        Ok(adding.key)
    }

    /// Plans to take a member out. Returns the key.
    fn remove(
        &self,
        member: Member,
        set_type: SetType,
        step: &mut impl FnMut(&str, Cmd, Effect),
    ) -> String {
        let keys = &self.store.keys;
        if let Some(command) = take_out(set_type, &keys.allow_set, &spellings(member)) {
            step(&keys.allow_set, command, Effect::Counted);
            let notes = self.connections.notes_key(keys);
            step(&notes, unnoting(&notes, member), Effect::Note);
        }
        if let (Member::Address(ip), Some(prefix)) = (member, &keys.allow_prefix) {
            for key in with_prefix(prefix, ip) {
                step(&key, delete(&key), Effect::Counted);
            }
        }
        keys.allow_set.clone()
    }

    /// Removes a member that was not found by a usual spelling, but may be written in
    /// another way and still hold.
    async fn remove_aliases(&self, made: &mut [Done]) -> Result<(), Failed> {
        let edits = self.edits.iter().zip(made.iter()).enumerate();
        let missing = edits.filter_map(|(place, (edit, made))| match edit {
            Edit::Remove(member) if !made.changed => Some((*member, place)),
            _ => None,
        });
        let missing: Vec<(Member, usize)> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        let set = &self.store.keys.allow_set;
        let failed = |failure| Failed::At(set.clone(), failure);
        let set_type = self.set_type().await?;
        let wanted: HashSet<Member> = missing.iter().map(|(member, _)| *member).collect();
        let is_wanted = |member: &Member| wanted.contains(member);
        let found = self.store.find_in_set(self.connections, set_type, is_wanted);
        let mut all = redis::pipe();
        let mut places = vec![];
        for Found { entry, written } in found.await.map_err(failed)? {
            let of = missing.iter().find(|(other, _)| *other == entry.member);
            if let (Some((_, place)), Some(command)) = (of, take_out(set_type, set, &[written])) {
                places.push(*place);
                all.add_command(command);
            }
        }
        let answers = self.connections.of(set).transact(&mut all, ANSWER).await.map_err(failed)?;
        for (place, answer) in places.into_iter().zip(answers.unwrap_or_default()) {
            made[place].changed |= count(&answer) > Some(0);
        }
        Ok(())
    }

    /// Names the members that changed. That the set changed is announced by Redis
    /// anyway, so that a failure here costs only speed.
    async fn name(&self, made: &[Done]) {
        let set = &self.store.keys.allow_set;
        let changed = self.edits.iter().zip(made).filter_map(|(edit, made)| match edit {
            Edit::Allow { member, .. } | Edit::Remove(member) if made.changed => Some(member),
            _ => None,
        });
        let changed: Vec<&Member> = changed.take(MOST_NAMED + 1).collect();
        if changed.len() > MOST_NAMED {
            return;
        }
        let mut all = redis::pipe();
        for member in changed {
            all.cmd("PUBLISH").arg(self.store.keys.channel()).arg(member.to_string());
        }
        let _ = self.connections.of(set).ask_all(&all).await;
    }

    async fn set_type(&self) -> Result<SetType, Failed> {
        let set_type = self.connections.set_type(&self.store.keys).await;
        set_type.map_err(|failure| Failed::At(self.store.keys.allow_set.clone(), failure))
    }
}

impl Done {
    /// The result of the step; `count` is the answer to its command.
    fn note(&mut self, step: &Step, count: Option<u64>) {
        let changes = match step.effect {
            Effect::Counted => count > Some(0),
            Effect::Always => true,
            Effect::Note => false,
        };
        if changes && !self.changed {
            self.key.clone_from(&step.key);
        }
        self.changed |= changes;
    }
}

fn pipeline(steps: &[Step]) -> Pipeline {
    let mut all = redis::pipe();
    for step in steps {
        all.add_command(step.command.clone());
    }
    all
}

/// Removes members from the set by name; nothing where there is no set.
fn take_out(set_type: SetType, set: &str, names: &[String]) -> Option<Cmd> {
    let mut command = match set_type {
        SetType::Absent => return None,
        SetType::Set => redis::cmd("SREM"),
        SetType::Sorted => redis::cmd("ZREM"),
    };
    command.arg(set).arg(names);
    Some(command)
}

fn delete(key: &str) -> Cmd {
    let mut delete = redis::cmd("DEL");
    delete.arg(key);
    delete
}
