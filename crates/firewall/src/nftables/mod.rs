//! The packet filter of the kernel, through the program `nft`: a table of its own with sets of
//! networks, and a chain that lets these through to the guarded ports.
//!
//! Each change is one transaction of the kernel, so that there is no moment in which the ports are
//! open to all, or closed to those that may connect. Nothing outside the table is ever changed.
//! `nft` and not the kernel's own messages: its JSON is documented and stays the same.

mod elements;
mod generation;
mod layout;
mod obstacles;
mod program;
mod shape;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use self::elements::Listed;
use self::generation::Generation;
use self::layout::SetOf;
use self::program::{Nft, TableText};
use self::shape::Shape;
use crate::backend::{AtExit, Backend, BackendError, Keeps};
use crate::entries::Entries;
use crate::ports::Ports;
use crate::reconcile::Step;

pub use program::find;

/// Longest delay of an element's end, as it is read back: timeouts are whole seconds, and so is the
/// rest of them.
const LATE: Duration = Duration::from_secs(3);

/// Pause between looks at the number of the rule set.
const LOOK: Duration = Duration::from_millis(200);

/// Reading what is there takes at most this part of the time, so that others who change rules
/// all day keep no processor busy here.
const SHARE: u32 = 4;

/// Interval at which the table is read although nothing points to a change.
const LOOK_ANYWAY: Duration = Duration::from_secs(300);

/// Time in which another process that keeps the same table makes it its own again.
const CONTEST: Duration = Duration::from_secs(10);

/// Reads until nothing changes meanwhile.
const MOST_READS: usize = 3;

/// Settings of the packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftablesOptions {
    /// The program.
    pub program: PathBuf,
    /// Name of the table, which is all ours.
    pub table: String,
    /// Ports that are guarded.
    pub ports: Ports,
    /// Where packets are looked at.
    pub hooks: Hooks,
    /// Connections of an address that may not connect any more end.
    pub cut: bool,
    /// Packets of strangers are answered with an error.
    pub reject: bool,
}

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Packets for programs of this host.
    pub input: bool,
    /// Packets that this host redirects to another address, as Docker's published ports.
    pub forward: bool,
}

/// The packet filter.
#[derive(Debug)]
pub struct Nftables {
    options: NftablesOptions,
    nft: Nft,
    generation: Generation,
    /// Number of the rule set that the memory is about.
    known: Option<u32>,
    /// A fault of the table, apart from its elements.
    damage: Option<String>,
    /// The shape of the right table where this `nft` lists it in another way than it is written.
    learned: Option<Shape>,
    /// The settings that the table was made by before.
    taken: Option<Taken>,
    /// The mark that the table had when it was last read.
    mark: Option<String>,
    /// Settings of another process, which keeps the table.
    yielded: Option<String>,
    /// The sets of the table. One that is not needed any more stays.
    sets: BTreeSet<SetOf>,
    /// Entries that were read and not asked for yet.
    read: Option<Entries>,
    last_read: Option<LastRead>,
    /// The last look at the number of the rule set.
    looked: Instant,
}

/// Cost of reading what is there.
#[derive(Clone, Copy, Debug)]
struct LastRead {
    end: Instant,
    took: Duration,
}

/// A table that was made by other settings and taken over.
#[derive(Clone, Debug)]
struct Taken {
    mark: String,
    at: Instant,
}

/// Content of the table.
#[derive(Debug, Default)]
struct Content {
    /// Its shape, if it could be read.
    shape: Option<Shape>,
    /// The mark of the settings that it was made by.
    mark: Option<String>,
    is_empty: bool,
    listed: Listed,
    generation: Option<u32>,
}

impl Content {
    fn new(text: TableText) -> Self {
        match text {
            TableText::Objects(objects) => {
                let shape = Shape::listed(&objects);
                let mark = shape.mark().map(str::to_owned);
                let is_empty = shape.is_empty();
                // What cannot be read is no element of ours.
                match elements::listed(&objects) {
                    Ok(listed) => {
                        Self { shape: Some(shape), mark, is_empty, listed, generation: None }
                    }
                    Err(_) => Self { mark, is_empty, ..Self::default() },
                }
            }
            TableText::Unreadable { mark, is_empty } => Self { mark, is_empty, ..Self::default() },
        }
    }
}

impl Nftables {
    /// Creates the back end. Nothing is read or changed yet.
    pub fn new(options: NftablesOptions) -> Self {
        Self {
            nft: Nft::new(options.program.clone()),
            options,
            generation: Generation::default(),
            known: None,
            damage: None,
            learned: None,
            taken: None,
            mark: None,
            yielded: None,
            sets: BTreeSet::new(),
            read: None,
            last_read: None,
            looked: Instant::now(),
        }
    }

    /// Reads the table.
    async fn content(&mut self) -> Result<Content, BackendError> {
        let began = Instant::now();
        let mut content = Content::default();
        for _ in 0..MOST_READS {
            let before = self.generation.now();
            let listed = self.nft.list_table(&self.options.table).await?;
            content = Content::new(listed);
            content.generation = before;
            if before == self.generation.now() {
                break;
            }
        }
        self.last_read = Some(LastRead { end: Instant::now(), took: began.elapsed() });
        Ok(content)
    }

    /// Reads the table, and finds what is wrong with it. One that is not ours is an error.
    async fn look(&mut self) -> Result<Content, BackendError> {
        let content = self.content().await?;
        self.refuse_foreign(&content)?;
        // Also those of another process that keeps the same table.
        self.sets.clone_from(&content.listed.sets);
        self.known = content.generation;
        self.damage = self.damage_of(&content);
        Ok(content)
    }

    fn refuse_foreign(&self, content: &Content) -> Result<(), BackendError> {
        let table = &self.options.table;
        match &content.mark {
            None if !content.is_empty => Err(BackendError::lasting(
                format!("table inet {table} is there, and was not made by this program"),
                "choose another --table",
            )),
            _ => Ok(()),
        }
    }

    /// Leaves the table to another process that made it its own again.
    fn yield_to_another(&mut self, content: &Content) -> Result<(), BackendError> {
        let Some(mark) = content.mark.as_ref().filter(|mark| **mark != layout::mark(&self.options))
        else {
            self.yielded = None;
            return Ok(());
        };
        if self.taken.as_ref().is_some_and(|it| it.mark == *mark && it.at.elapsed() < CONTEST) {
            self.yielded = Some(mark.clone());
        }
        if self.yielded.as_ref() != Some(mark) {
            return Ok(());
        }
        let table = &self.options.table;
        Err(BackendError::lasting(
            format!("another process keeps table inet {table} with other settings"),
            "give each its own --table, or end the other one and restart this",
        ))
    }

    fn damage_of(&self, content: &Content) -> Option<String> {
        let table = &self.options.table;
        if content.mark.is_none() {
            return Some(format!("table inet {table} is missing"));
        }
        let Some(shape) = &content.shape else {
            return Some(format!("table inet {table} is dormant, or has what cannot be read"));
        };
        let is_right = *shape == self.right_shape() || self.learned.as_ref() == Some(shape);
        (!is_right).then(|| {
            format!("table inet {table} has other chains, rules or sets than these settings make")
        })
    }

    fn right_shape(&self) -> Shape {
        Shape::made_by(&layout::commands(&self.options, &self.sets))
    }

    /// Returns the commands that make the table anew with all that steps add.
    fn rebuilt(&self, steps: &[Step]) -> layout::Commands {
        let sets = steps.iter().map(|step| SetOf::of(step.network()));
        let sets: BTreeSet<SetOf> = sets.chain(layout::addresses()).collect();
        let mut commands = layout::commands(&self.options, &sets);
        commands.append(elements::commands(&self.options.table, steps, &sets));
        commands
    }

    /// Removes the table, unless another program made it.
    async fn remove(&mut self) -> Result<(), BackendError> {
        let content = self.look().await?;
        let table = &self.options.table;
        match content.mark {
            None => Ok(()),
            Some(mark) if mark == layout::mark(&self.options) => {
                self.nft.apply(&layout::removal(table)).await
            }
            Some(_) => Err(BackendError::lasting(
                format!("table inet {table} was made by another process with other settings"),
                "remove it there, or by hand",
            )),
        }
    }

    /// Makes the table anew, in one transaction.
    async fn rebuild(
        &mut self,
        steps: &[Step],
        before: Option<String>,
    ) -> Result<(), BackendError> {
        let commands = self.rebuilt(steps);
        self.commit(&commands).await?;
        if let Some(mark) = before.filter(|mark| *mark != layout::mark(&self.options)) {
            self.taken = Some(Taken { mark, at: Instant::now() });
        }
        self.damage = None;
        let known = self.known;
        let content = self.content().await?;
        self.sets = content.listed.sets;
        if known.is_some() && known == content.generation {
            let right = self.right_shape();
            self.learned = content.shape.filter(|shape| *shape != right);
        }
        Ok(())
    }

    /// Carries out a transaction, and goes on to know the rule set if no other program changed it.
    async fn commit(&mut self, commands: &layout::Commands) -> Result<(), BackendError> {
        let before = self.generation.now();
        let is_known = before.is_some() && before == self.known;
        self.known = None;
        self.nft.apply(commands).await?;
        let after = self.generation.now();
        if is_known && after == before.map(|number| number.wrapping_add(1)) {
            self.known = after;
        }
        Ok(())
    }
}

impl Backend for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn keeps(&self) -> Keeps {
        Keeps { ends: Some(LATE), labels: false }
    }

    /// Each change of the rule set is noticed; this is for a clock that runs apart from the
    /// kernel's.
    fn reread(&self) -> Duration {
        LOOK_ANYWAY
    }

    /// Reads only: the table is made with the elements in it, by [`Self::apply`].
    async fn prepare(&mut self) -> Result<(), BackendError> {
        let content = self.look().await?;
        self.yield_to_another(&content)?;
        self.mark = content.mark;
        self.read = Some(content.listed.entries);
        Ok(())
    }

    async fn present(&mut self) -> Result<Entries, BackendError> {
        match self.read.take() {
            Some(entries) => Ok(entries),
            None => Ok(self.look().await?.listed.entries),
        }
    }

    fn damage(&self) -> Option<String> {
        self.damage.clone()
    }

    async fn apply(&mut self, steps: &[Step]) -> Result<(), BackendError> {
        self.read = None;
        if self.damage.is_some() {
            let before = self.mark.take();
            return self.rebuild(steps, before).await;
        }
        let commands = elements::commands(&self.options.table, steps, &self.sets);
        self.commit(&commands).await?;
        self.sets.extend(steps.iter().map(|step| SetOf::of(step.network())));
        Ok(())
    }

    async fn altered(&mut self) {
        if let Some(LastRead { end, took }) = self.last_read {
            sleep((took * SHARE).saturating_sub(end.elapsed())).await;
        }
        loop {
            // Its deadline outlives this future, which each change of the store drops.
            sleep((self.looked + LOOK).saturating_duration_since(Instant::now())).await;
            self.looked = Instant::now();
            let now = self.generation.now();
            if now.is_none() || now != self.known {
                return;
            }
        }
    }

    async fn at_exit(&mut self, wish: AtExit) -> Result<(), BackendError> {
        match wish {
            AtExit::Keep => Ok(()),
            AtExit::Remove => self.remove().await,
        }
    }

    fn describe(&self, steps: &[Step]) -> Vec<String> {
        let commands = match self.damage {
            Some(_) => self.rebuilt(steps),
            None => elements::commands(&self.options.table, steps, &self.sets),
        };
        if commands.is_empty() {
            return vec![];
        }
        let json = commands.json().ok().and_then(|json| String::from_utf8(json).ok());
        json.into_iter().collect()
    }

    async fn obstacles(&mut self) -> Result<Vec<String>, BackendError> {
        let listed = self.nft.list_ruleset().await?;
        Ok(obstacles::find(&listed, &self.options))
    }
}
