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

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use self::elements::Listed;
use self::generation::Generation;
use self::layout::SetOf;
use self::program::Nft;
use crate::backend::{AtExit, Backend, BackendError, Keeps};
use crate::entries::Entries;
use crate::ports::Ports;
use crate::reconcile::Step;

pub use program::find;

/// How much later than it should the kernel ends an element, as it is read back: timeouts are
/// whole seconds, and so is what is left of them.
const LATE: Duration = Duration::from_secs(3);

/// Pause between looks at the number of the rule set.
const LOOK: Duration = Duration::from_millis(200);

/// Reading what is there takes at most this part of the time, so that others who change rules
/// all day keep no processor busy here.
const SHARE: u32 = 4;

/// Interval at which the table is read although nothing points to a change.
const LOOK_ANYWAY: Duration = Duration::from_secs(300);

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
    /// Packets that this host sends on to another address, as Docker's published ports.
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
    /// The table's chains and rules, as they are listed once they are right.
    layout: Option<Vec<Value>>,
    /// The sets of the table. One that is not needed any more stays.
    sets: BTreeSet<SetOf>,
    /// Entries that were read and not asked for yet.
    read: Option<Entries>,
    last_read: Option<LastRead>,
}

/// Cost of reading what is there.
#[derive(Clone, Copy, Debug)]
struct LastRead {
    end: Instant,
    took: Duration,
}

/// Content of the table.
#[derive(Debug, Default)]
struct Content {
    layout: Vec<Value>,
    listed: Listed,
    generation: Option<u32>,
}

impl Nftables {
    /// Creates the back end. Nothing is read or changed yet.
    pub fn new(options: NftablesOptions) -> Self {
        Self {
            nft: Nft::new(options.program.clone()),
            options,
            generation: Generation::default(),
            known: None,
            layout: None,
            sets: BTreeSet::new(),
            read: None,
            last_read: None,
        }
    }

    /// Reads the table.
    async fn content(&mut self) -> Result<Content, BackendError> {
        let began = Instant::now();
        let mut content = Content::default();
        for _ in 0..MOST_READS {
            let before = self.generation.now();
            let listed = self.nft.list_table(&self.options.table).await?;
            content = Content {
                layout: layout::listed(&listed),
                listed: elements::listed(&listed)?,
                generation: before,
            };
            if before == self.generation.now() {
                break;
            }
        }
        self.last_read = Some(LastRead { end: Instant::now(), took: began.elapsed() });
        Ok(content)
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

    async fn prepare(&mut self) -> Result<(), BackendError> {
        let mut content = self.content().await?;
        // Also those of another process that keeps the same table.
        self.sets = content.listed.sets;
        if content.layout.is_empty() || self.layout.as_ref() != Some(&content.layout) {
            self.nft.apply(&layout::commands(&self.options, &self.sets)).await?;
            content = self.content().await?;
            self.layout = Some(content.layout);
            self.sets = content.listed.sets;
        }
        self.known = content.generation;
        self.read = Some(content.listed.entries);
        Ok(())
    }

    async fn present(&mut self) -> Result<Entries, BackendError> {
        if let Some(entries) = self.read.take() {
            return Ok(entries);
        }
        let content = self.content().await?;
        self.known = content.generation;
        Ok(content.listed.entries)
    }

    async fn apply(&mut self, steps: &[Step]) -> Result<(), BackendError> {
        self.read = None;
        let commands = elements::commands(&self.options.table, steps, &self.sets);
        self.commit(&commands).await?;
        let sets = self.sets.len();
        self.sets.extend(steps.iter().map(|step| SetOf::of(step.network())));
        if self.sets.len() > sets {
            // It has rules now that were never listed.
            self.layout = None;
        }
        Ok(())
    }

    async fn altered(&mut self) {
        if let Some(LastRead { end, took }) = self.last_read {
            sleep((took * SHARE).saturating_sub(end.elapsed())).await;
        }
        loop {
            sleep(LOOK).await;
            let now = self.generation.now();
            if now.is_none() || now != self.known {
                return;
            }
        }
    }

    async fn at_exit(&mut self, wish: AtExit) -> Result<(), BackendError> {
        match wish {
            AtExit::Keep => Ok(()),
            AtExit::Remove => self.nft.apply(&layout::removal(&self.options.table)).await,
        }
    }

    fn describe(&self, steps: &[Step]) -> Vec<String> {
        let table = layout::commands(&self.options, &BTreeSet::new());
        let elements = elements::commands(&self.options.table, steps, &layout::addresses());
        [table, elements].iter().flat_map(layout::Commands::lines).collect()
    }

    async fn obstacles(&mut self) -> Result<Vec<String>, BackendError> {
        let listed = self.nft.list_ruleset().await?;
        Ok(obstacles::find(&listed, &self.options))
    }
}
