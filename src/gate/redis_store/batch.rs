//! Several edits that belong together, as one transaction.
//!
//! Redis undoes nothing: when one command fails, the others are done all the same. So no command
//! is sent that is known to fail, and the type of the set is watched until then.
//! In a Cluster only keys of one slot can be in a transaction.

use std::collections::HashSet;
use std::time::Duration;

use redis::{Cmd, Pipeline};

use super::super::member::Member;
use super::super::store::{Edit, EditResult, StoreError};
use super::RedisStore;
use super::connections::{Connections, SetType};
use super::error::{Kind, RedisFailure};
use super::keys::spellings;
use super::list::{Found, ban_keys, with_prefix};
use super::write::{Done, Failed, Mode, count, score, set_for};

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
    /// True if its answer counts the changes; otherwise it always changes something.
    counts: bool,
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
        Ok(made)
    }

    /// Makes all, if the set lets one of some tries through.
    async fn transact(&self) -> Result<Option<Vec<Done>>, Failed> {
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
            let (steps, mut made) = self.steps(set_type)?;
            if self.send(steps, &mut made).await? {
                return Ok(Some(made));
            }
        }
        Ok(None)
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
    fn steps(&self, mut set_type: SetType) -> Result<(Vec<Step>, Vec<Done>), Failed> {
        let keys = &self.store.keys;
        let mut steps = Vec::with_capacity(self.edits.len());
        let mut made = Vec::with_capacity(self.edits.len());
        for (edit, what) in self.edits.iter().enumerate() {
            let mut step = |key: &str, command: Cmd, counts| {
                steps.push(Step { edit, key: key.to_owned(), command, counts });
            };
            let key = match what {
                Edit::Allow { member, lasting, .. } => {
                    let (key, command) = self.allow(*member, *lasting, &mut set_type)?;
                    step(&key, command, key == keys.allow_set);
                    key
                }
                Edit::Remove(member) => {
                    let command = take_out(set_type, &keys.allow_set, &spellings(*member));
                    command.into_iter().for_each(|command| step(&keys.allow_set, command, true));
                    if let (Member::Address(ip), Some(prefix)) = (member, &keys.allow_prefix) {
                        for key in with_prefix(prefix, *ip) {
                            step(&key, delete(&key), true);
                        }
                    }
                    keys.allow_set.clone()
                }
                Edit::Ban(member, time) => {
                    let key = keys.ban_key(*member);
                    step(&key, set_for(&key, *time), false);
                    key
                }
                Edit::Unban(member) => {
                    for (_, key) in ban_keys(&keys.ban_prefix, *member) {
                        step(&key, delete(&key), true);
                    }
                    keys.ban_key(*member)
                }
                _ => unreachable!("others are made singly"),
            };
            made.push(Done { key, changed: false, count: None });
        }
        Ok((steps, made))
    }

    /// The command that lets a member in, its key, and what it makes of the set.
    fn allow(
        &self,
        member: Member,
        ttl: Option<Duration>,
        set_type: &mut SetType,
    ) -> Result<(String, Cmd), Failed> {
        let set = &self.store.keys.allow_set;
        let own_key = match member {
            Member::Address(ip) => self.store.keys.allow_key(ip),
            Member::Network(_) => None,
        };
        match (*set_type, ttl, own_key) {
            (SetType::Absent | SetType::Set, None, _) => {
                *set_type = SetType::Set;
                let mut add = redis::cmd("SADD");
                add.arg(set).arg(member.to_string());
                Ok((set.clone(), add))
            }
            (SetType::Absent | SetType::Set, Some(ttl), Some(key)) => {
                let set = set_for(&key, ttl);
                Ok((key, set))
            }
            (SetType::Set, Some(_), None) => {
                let server = self.connections.node_of(set).to_string();
                Err(Failed::For(StoreError::NoExpiry { server, key: set.clone() }))
            }
            (SetType::Sorted | SetType::Absent, ttl, _) => {
                *set_type = SetType::Sorted;
                let mut add = redis::cmd("ZADD");
                add.arg(set).arg("CH").arg(score(ttl)).arg(member.to_string());
                Ok((set.clone(), add))
            }
        }
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
        let changes = !step.counts || count > Some(0);
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
