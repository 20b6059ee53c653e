//! The store that a command works on, and its name for people.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::super::admin_cmd::unexpected_reply;
use super::super::output::notice;
use super::find_gate::{MemoryGate, Source, SourceArgs};
use crate::admin::protocol::{EditRequest, Reply, Request};
use crate::gate::StoreOptions;
use crate::gate::any_store::AnyStore;
use crate::gate::memory_store::MemoryStore;
use crate::gate::redis_store::Servers;
use crate::gate::store::{AddressRecord, Edit, EditResult, StoreError};
use crate::run::Failure;

/// Batches of a listing that may wait to be printed.
const BATCHES: usize = 4;

/// Treatment of a store that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// A file is made.
    Make,
    /// A file that is missing is a mistyped path, not an empty store.
    Refuse,
}

/// A store and its names.
pub(super) struct OpenedStore {
    /// Of one in the memory of a process, a copy.
    store: AnyStore,
    process: Option<MemoryGate>,
    /// Its name in the flags.
    name: String,
    /// The server that was named, if it was a single one.
    named: Option<String>,
    db: i64,
    /// The key of the allow-set, if other programs write it too.
    set: Option<String>,
}

impl OpenedStore {
    /// Opens the store of the gate that the flags name.
    ///
    /// # Errors
    /// [`Failure`] of the flags or the file.
    pub(super) fn open(args: &SourceArgs, absent: Absent) -> Result<Self, Failure> {
        Self::of(args.find()?, absent)
    }

    /// Opens the store of a gate.
    ///
    /// # Errors
    /// [`Failure`] of the file.
    pub(super) fn of(source: Source, absent: Absent) -> Result<Self, Failure> {
        if let Some(process) = source.process {
            return Self::in_process(process);
        }
        let options = source.store;
        let mut named = None;
        let mut db = 0;
        let mut set = None;
        let name = match &options {
            StoreOptions::None => return Err(Failure::Usage(StoreError::NoStore.into())),
            StoreOptions::File(path) if absent == Absent::Refuse && !path.exists() => {
                let path = path.display();
                return Err(Failure::Runtime(anyhow::anyhow!(
                    "there is no gate file {path}; check the path, or make it with 'knockpipe gate allow'"
                )));
            }
            StoreOptions::File(path) => format!("file {}", path.display()),
            // Only a running process has one, and it is asked there.
            StoreOptions::Memory(_) => return Err(in_memory()),
            StoreOptions::Redis(redis) => {
                db = redis.address.db;
                set = Some(redis.keys.allow_set.clone());
                if let Servers::One(node) = &redis.address.servers {
                    named = Some(node.to_string());
                }
                called(&redis.address.servers)
            }
        };
        Ok(Self { store: options.open().map_err(runtime)?, process: None, name, named, db, set })
    }

    /// Copies the content of a store that is in the memory of a process.
    fn in_process(process: MemoryGate) -> Result<Self, Failure> {
        let Reply::Entries(entries) = process.ask(|tunnel| Request::Entries { tunnel })? else {
            return Err(unexpected_reply());
        };
        if entries.more > 0 {
            notice(&format!("{} more entries do not fit into an answer", entries.more));
        }
        let store = AnyStore::Memory(MemoryStore::of_lines(&process.name, &entries.lines));
        let name = format!("memory {}", process.name);
        Ok(Self { store, process: Some(process), name, named: None, db: 0, set: None })
    }

    /// Makes several changes, as many together as the store can, and reports each.
    ///
    /// # Errors
    /// [`Failure::Runtime`], with the number of changes that were made before.
    pub(super) async fn edit_all(
        &self,
        edits: Vec<Edit>,
        mut told: impl FnMut(EditResult),
    ) -> Result<(), Failure> {
        let all = edits.len();
        let mut made = 0;
        let mut note = |receipt| {
            made += 1;
            told(receipt);
        };
        let mut edits = edits.into_iter();
        loop {
            let together = self.store.most_together().min(edits.len());
            if together == 0 {
                return Ok(());
            }
            let part: Vec<Edit> = edits.by_ref().take(together).collect();
            let plain = part.iter().cloned().map(without_note);
            if let Some(process) = &self.process {
                part.iter().try_for_each(|edit| change(process, edit).map(&mut note))?;
                continue;
            }
            let mut done = self.store.edit_all(part.clone(), &mut note).await;
            if let Err(error @ StoreError::NoNote { .. }) = &done {
                // To let an address in matters more than to note who did.
                notice(&format!("entries are written without notes: {error}"));
                done = self.store.edit_all(plain.collect(), &mut note).await;
            }
            if let Err(error) = done {
                return Err(self.undone(error, made, all));
            }
        }
    }

    /// Adds owners to entries that are there. No request to a process adds one: there an entry is
    /// that of the owner who grants it for longest.
    ///
    /// # Errors
    /// [`Failure::Runtime`]
    pub(super) async fn edit_owners(&self, grants: Vec<Edit>) -> Result<(), Failure> {
        if self.process.is_some() && !grants.is_empty() {
            notice(
                "entries in the memory of a process are noted for the one who grants them for longest",
            );
            return Ok(());
        }
        self.edit_all(grants, drop).await
    }

    /// Adds to an error the number of the `all` changes that were made before it.
    fn undone(&self, error: StoreError, made: usize, all: usize) -> Failure {
        if made > 0 {
            return Failure::Runtime(anyhow::anyhow!(
                "{error}; {made} of {all} were done before, the same command again does the rest"
            ));
        }
        match &self.store {
            AnyStore::Embedded(_) if all > 1 => {
                Failure::Runtime(anyhow::anyhow!("{error}; nothing was changed"))
            }
            _ => runtime(error),
        }
    }

    /// Looks one address up in the store.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) async fn address_record(
        &self,
        ip: IpAddr,
        findtime: Option<std::time::Duration>,
    ) -> Result<AddressRecord, StoreError> {
        self.store.address_record(ip, findtime).await
    }

    /// Returns the name that the flags give the store.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key of the allow-set, if other programs write it too.
    pub(super) fn set(&self) -> Option<&str> {
        self.set.as_deref()
    }

    /// Returns the store, for listings.
    pub(super) fn store(&self) -> &AnyStore {
        &self.store
    }

    /// Describes the place of a change, for people.
    pub(super) fn location(&self, receipt: &EditResult) -> String {
        let EditResult { server, key, .. } = receipt;
        let db = if self.db == 0 { String::new() } else { format!(" db {}", self.db) };
        let of = self.asked(receipt).map(|asked| format!(" (master of {asked})"));
        format!("key {key} on {server}{db}{}", of.unwrap_or_default())
    }

    /// Returns the notice about other programs once a member with an end is in the set: their SADD
    /// fails from now on.
    pub(super) fn of_an_end(&self, receipt: &EditResult) -> &'static str {
        let in_set = self.set.as_ref() == Some(&receipt.key);
        if in_set { " (a sorted set now: other writers must use ZADD)" } else { "" }
    }

    /// Describes the place of a change, as fields of JSON.
    pub(super) fn fields(&self, receipt: &EditResult) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("server".to_owned(), json!(receipt.server));
        fields.insert("key".to_owned(), json!(receipt.key));
        if matches!(self.store, AnyStore::Redis(_)) {
            fields.insert("db".to_owned(), json!(self.db));
        }
        if let Some(asked) = self.asked(receipt) {
            fields.insert("asked".to_owned(), json!(asked));
        }
        fields
    }

    /// Returns the replica that was named, when its master took the change.
    fn asked(&self, receipt: &EditResult) -> Option<&str> {
        self.named.as_deref().filter(|named| *named != receipt.server)
    }
}

/// Passes the batches of a listing to `take`; returns what the listing says of its end, such as
/// the number of garbage entries.
///
/// # Errors
/// The error of the listing or of `take`.
pub(super) async fn each<T, E, F>(
    listing: impl FnOnce(mpsc::Sender<Vec<T>>) -> F,
    mut take: impl FnMut(Vec<T>) -> Result<(), Failure>,
) -> Result<E, Failure>
where
    F: Future<Output = Result<E, StoreError>>,
{
    let (to, mut from) = mpsc::channel(BATCHES);
    let taking = async move {
        while let Some(batch) = from.recv().await {
            take(batch)?;
        }
        Ok::<(), Failure>(())
    };
    let (listed, taken) = tokio::join!(listing(to), taking);
    taken?;
    listed.map_err(runtime)
}

fn called(servers: &Servers) -> String {
    match servers {
        Servers::One(node) => node.to_string(),
        Servers::Sentinel { master, .. } => format!("the master {master}"),
        Servers::Cluster(_) => "the cluster".to_owned(),
    }
}

/// Makes a change in the memory of a process.
fn change(process: &MemoryGate, edit: &Edit) -> Result<EditResult, Failure> {
    // Of the changes that a command makes, all have a request.
    let edit = EditRequest::of(edit).ok_or_else(unexpected_reply)?;
    match process.ask(|tunnel| Request::Change { tunnel, edit })? {
        Reply::Changed(changed) => Ok(changed.into()),
        _ => Err(unexpected_reply()),
    }
}

/// Makes the error about a store that this process cannot have.
fn in_memory() -> Failure {
    Failure::Usage(anyhow::anyhow!(
        "the gate is in the memory of the running process (--knock without --gate); name that with --admin PATH"
    ))
}

/// Returns the same edit, of an entry without a note.
fn without_note(edit: Edit) -> Edit {
    match edit {
        Edit::Allow { member, lasting, .. } => Edit::Allow { member, lasting, note: None },
        edit => edit,
    }
}

/// Turns an error of the store into a failure at run time.
pub(super) fn runtime(error: StoreError) -> Failure {
    Failure::Runtime(error.into())
}
