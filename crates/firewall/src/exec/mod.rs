//! A program of the operator as a firewall: `PROGRAM add|remove ADDRESS SECONDS-LEFT`.
//!
//! For everything that has no back end of its own. No shell reads its arguments, and they are typed
//! networks and numbers, so that nothing from a store can be an option or a second command. One
//! call runs at a time. What was added is known to this process only: after a restart everything
//! that is wanted is added again, and what ended in between is for the program to end by the
//! seconds that it was told.

mod call;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use knockpipe_base::printable::printable;
use knockpipe_base::unix_time::{Expiry, UnixMillis};
use tokio::time::sleep;

use crate::backend::{AtExit, Backend, BackendError, Keeps, Retry};
use crate::clock::now;
use crate::entries::{Entries, Entry, Lasting};
use crate::ports::Ports;
use crate::reconcile::Step;

use call::{Call, CallError};

/// Difference of ends that is not worth a call.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Pause before a program that cannot be started is tried again.
const PAUSE: Duration = Duration::from_secs(30);

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Path of the program, absolute.
    pub program: PathBuf,
    /// Ports that are guarded, which the program finds in `KNOCKPIPE_PORTS`.
    pub ports: Ports,
    /// Longest time of a call; then it is killed with all that it started.
    pub deadline: Duration,
}

/// The program with what it was told.
#[derive(Debug)]
pub struct Exec {
    options: Options,
    there: Entries,
}

impl Exec {
    /// Creates the firewall; nothing is called yet.
    pub fn new(options: Options) -> Self {
        Self { options, there: Entries::default() }
    }

    /// Carries one step out.
    async fn step(&mut self, step: &Step) -> Result<(), CallError> {
        let Options { program, ports, deadline } = &self.options;
        let ports = ports.to_string();
        Call { program, arguments: &arguments(step, now()), ports: &ports }.run(*deadline).await?;
        self.there.take(std::slice::from_ref(step));
        Ok(())
    }

    /// Returns a failed call as one line with a remedy.
    fn error(&self, step: &Step, error: &CallError) -> BackendError {
        // Without the seconds, so that the same failure is the same line.
        let [verb, address, _] = arguments(step, now());
        let program = self.options.program.to_string_lossy();
        let call = format!("{} {verb} {address}", printable(&program));
        match error {
            CallError::Start(why) => BackendError {
                cause: format!("cannot start {call}: {why}"),
                remedy: "check its path, that it is executable, and that its first line names an interpreter".to_owned(),
                retry: Retry::After(PAUSE),
            },
            CallError::Hung(deadline) => BackendError::passing(
                format!("{call} did not end within {} s and was killed", deadline.as_secs_f64()),
                "find out what it waits for; it is called again",
            ),
            CallError::Failed { status, said } => BackendError::passing(
                format!("{call} failed with {status}{}", shown(said)),
                "correct the program; it is called again",
            ),
        }
    }

    /// Returns a call as a line that people read.
    fn line(&self, step: &Step) -> String {
        let program = self.options.program.to_string_lossy();
        format!("{} {}", printable(&program), arguments(step, now()).join(" "))
    }
}

impl Backend for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn keeps(&self) -> Keeps {
        Keeps { ends: Some(TOLERANCE), labels: false }
    }

    async fn prepare(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn present(&mut self) -> Result<Entries, BackendError> {
        Ok(self.there.clone())
    }

    /// Calls the program for each step, also after one has failed, but not after one has hung.
    async fn apply(&mut self, steps: &[Step]) -> Result<(), BackendError> {
        let mut first = Ok(());
        for step in steps {
            let Err(error) = self.step(step).await else { continue };
            if first.is_ok() {
                first = Err(self.error(step, &error));
            }
            if !matches!(error, CallError::Failed { .. }) {
                break;
            }
        }
        first
    }

    /// Waits until an entry has ended: the program is told to remove it then.
    async fn altered(&mut self) {
        let ends = self.there.iter().filter_map(|(_, lasting)| lasting.end.left(now()));
        match ends.min() {
            Some(left) => sleep(left).await,
            None => std::future::pending().await,
        }
    }

    async fn at_exit(&mut self, wish: AtExit) -> Result<(), BackendError> {
        if wish == AtExit::Keep {
            return Ok(());
        }
        let all: Vec<Step> = self.there.iter().map(|(network, _)| Step::Remove(*network)).collect();
        self.apply(&all).await
    }

    fn describe(&self, steps: &[Step]) -> Vec<String> {
        steps.iter().map(|step| self.line(step)).collect()
    }

    async fn obstacles(&mut self) -> Result<Vec<String>, BackendError> {
        Ok(vec![])
    }
}

/// Returns the arguments of a call.
fn arguments(step: &Step, now: UnixMillis) -> [String; 3] {
    match step {
        Step::Add(Entry { network, lasting: Lasting { end, .. } })
        | Step::Change(Entry { network, lasting: Lasting { end, .. } }) => {
            ["add".to_owned(), address(*network), seconds_left(*end, now).to_string()]
        }
        Step::Remove(network) => ["remove".to_owned(), address(*network), "0".to_owned()],
    }
}

/// Returns an address alone, or a network with its length.
fn address(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

/// Returns the seconds until an end, at least one; 0 where there is none.
fn seconds_left(end: Expiry, now: UnixMillis) -> u64 {
    end.left(now)
        .map_or(0, |left| left.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX))
}

/// Returns what a program said, as the end of a line.
fn shown(said: &str) -> String {
    let line = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(String::new, |line| format!(": {}", printable(line)))
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
