//! Runs of the program `nft`, each with a deadline. A run that is given up is killed.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use knockpipe_base::printable::printable;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::layout::{Commands, MARK};
use crate::backend::BackendError;

/// Time that one run may take: 100,000 elements take half a second.
const DEADLINE: Duration = Duration::from_secs(30);

/// Directories that are searched besides those of the variable PATH: users other than root often
/// lack them.
const SBIN: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The part of an error's text that is shown.
const SHOWN: usize = 200;

/// The program.
#[derive(Clone, Debug)]
pub(super) struct Nft {
    path: PathBuf,
}

/// A listed table.
#[derive(Debug)]
pub(super) enum TableText {
    /// All that is in it.
    Objects(Vec<Value>),
    /// The table is there, and `nft` does not list it as JSON.
    Unreadable {
        /// The mark of the settings that it was made by.
        mark: Option<String>,
        /// It has nothing but flags.
        is_empty: bool,
    },
}

/// Returns where `nft` is.
///
/// # Errors
/// [`BackendError`] if there is none.
pub fn find() -> Result<PathBuf, BackendError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(SBIN.into_iter().map(PathBuf::from));
    let found = all.map(|directory| directory.join("nft")).find(|file| is_program(file));
    found.ok_or_else(|| {
        BackendError::lasting(
            "there is no program nft on this host",
            "install the package nftables, or choose another --backend",
        )
    })
}

fn is_program(file: &Path) -> bool {
    file.is_absolute() && file.is_file()
}

impl Nft {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Carries out a transaction: all of it or nothing.
    pub(super) async fn apply(&self, commands: &Commands) -> Result<(), BackendError> {
        if commands.is_empty() {
            return Ok(());
        }
        let output = self.run(&["-j", "-f", "-"], commands.json()?).await?;
        self.succeeded(&output)
    }

    /// Lists a table with all that is in it; nothing if there is no such table.
    pub(super) async fn list_table(&self, table: &str) -> Result<TableText, BackendError> {
        let list = ["list", "table", "inet", table];
        let output = self.run(&[&["-j"], &list[..]].concat(), vec![]).await?;
        let is_absent = !output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains("No such file or directory");
        if is_absent {
            return Ok(TableText::Objects(vec![]));
        }
        self.succeeded(&output)?;
        if let Ok(objects) = objects(&output.stdout) {
            return Ok(TableText::Objects(objects));
        }
        // `nft` 1.0 breaks the JSON of a dormant table off.
        let output = self.run(&list, vec![]).await?;
        self.succeeded(&output)?;
        Ok(unreadable(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Lists everything, other programs' tables included, without the content of sets where `nft`
    /// can leave it out.
    pub(super) async fn list_ruleset(&self) -> Result<Vec<Value>, BackendError> {
        let output = self.run(&["-j", "-t", "list", "ruleset"], vec![]).await?;
        self.succeeded(&output)?;
        objects(&output.stdout)
    }

    async fn run(&self, arguments: &[&str], input: Vec<u8>) -> Result<Output, BackendError> {
        let mut child = Command::new(&self.path)
            .env_clear()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.not_started(&error))?;
        let stdin = child.stdin.take();
        let work = async move {
            let feed = async move {
                let mut stdin = stdin?;
                // A program that ends early says why.
                stdin.write_all(&input).await.ok()
            };
            tokio::join!(feed, child.wait_with_output()).1
        };
        match timeout(DEADLINE, work).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(self.not_started(&error)),
            Err(_) => Err(BackendError::passing(
                format!("nft did not end within {} s, and was killed", DEADLINE.as_secs()),
                "look at the load of this host; it is tried again",
            )),
        }
    }

    fn not_started(&self, error: &std::io::Error) -> BackendError {
        BackendError::passing(
            format!("cannot run {}: {error}", self.path.display()),
            "install the package nftables, or raise the limits of processes and memory",
        )
    }

    fn succeeded(&self, output: &Output) -> Result<(), BackendError> {
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        let first: String = printable(first).chars().take(SHOWN).collect();
        let remedy = match text.contains("Operation not permitted") {
            true => "run it as root, or with the capability CAP_NET_ADMIN",
            false => "see what 'nft list ruleset' shows; it is tried again",
        };
        Err(BackendError::passing(format!("nft failed: {first}"), remedy))
    }
}

/// Reads of a table as text what has to be known of one that is to be made anew.
fn unreadable(text: &str) -> TableText {
    let blocks = text.lines().skip(1).filter_map(|line| line.trim().strip_suffix(" {"));
    let blocks: Vec<&str> = blocks.collect();
    let chains = blocks.iter().filter_map(|block| block.strip_prefix("chain "));
    let mark = chains.into_iter().find(|name| name.starts_with(MARK)).map(|name| name.to_owned());
    TableText::Unreadable { mark, is_empty: blocks.is_empty() }
}

/// Reads the list that `nft -j` prints.
fn objects(text: &[u8]) -> Result<Vec<Value>, BackendError> {
    let unreadable = || {
        BackendError::passing(
            "nft printed what is no JSON of its kind",
            "install nftables 1.0 or newer",
        )
    };
    let mut listed: Value = serde_json::from_slice(text).map_err(|_| unreadable())?;
    match listed.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Err(unreadable()),
    }
}
