//! A running firewall service: its start, its end, and its state for operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use knockpipe_firewall::exec::Exec;
use knockpipe_firewall::firewalld::Firewalld;
use knockpipe_firewall::nftables::Nftables;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cloud::lighthouse;
use super::keeper::{self, Place};
use super::options::{BackendOptions, Options};
use crate::frontend::Balancers;
use crate::gate::Gate;
use crate::observe::Meters;
use crate::observe::firewall::{FirewallMeters, FirewallStatus};
use crate::tasks::restarting;

/// Time in which the last change may finish at the end.
pub const LAST_CHANGE: Duration = Duration::from_secs(40);

/// Descriptors that it needs: a question to the kernel, and the pipes of a program that runs.
pub const DESCRIPTORS: u64 = 16;

/// A firewall that is kept in step with a gate.
pub struct Firewall {
    gate: Gate,
    meters: Arc<Meters>,
    state: Arc<FirewallMeters>,
    /// No load balancer announces clients to it.
    balancers: Balancers,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    /// Another service or process goes on with the firewall, which is left as it is.
    is_taken_over: Arc<AtomicBool>,
}

impl Firewall {
    /// Creates the service. Where it replaces `before`, that one changes nothing from now on.
    pub fn new(options: &Options, gate: Gate, meters: Arc<Meters>, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            before.leave();
            before.stop();
        }
        Self {
            gate,
            meters,
            state: Arc::new(FirewallMeters::new(options.backend.name())),
            balancers: Balancers::default(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            is_taken_over: Arc::default(),
        }
    }

    /// Keeps the firewall in step from now on.
    pub fn begin(&self, options: &Options) {
        let place = Place {
            tunnel: options.name.clone(),
            gate: self.gate.clone(),
            content: self.gate.watch(),
            state: Arc::clone(&self.state),
            stop: self.stop.clone(),
            is_taken_over: Arc::clone(&self.is_taken_over),
            at_exit: options.at_exit,
        };
        let backend = options.backend.clone();
        let keep = move || {
            let (place, backend) = (place.clone(), backend.clone());
            async move {
                match backend {
                    BackendOptions::Nftables(options) => {
                        keeper::keep(place, Nftables::new(options)).await;
                    }
                    BackendOptions::Firewalld(options) => {
                        keeper::keep(place, Firewalld::new(options)).await;
                    }
                    BackendOptions::Lighthouse(options) => {
                        keeper::keep(place, lighthouse(*options)).await;
                    }
                    BackendOptions::Exec(options) => {
                        keeper::keep(place, Exec::new(options)).await;
                    }
                }
            }
        };
        self.tasks.spawn(restarting("keeping a firewall in step", keep));
    }

    /// Leaves the firewall as it is at the end: another one goes on with it.
    pub fn leave(&self) {
        self.is_taken_over.store(true, Ordering::Relaxed);
    }

    /// Ends the work, and leaves the firewall as its options say.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Waits until the firewall is left as it will stay.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }

    /// Returns true if it is stopped and has finished.
    pub fn is_finished(&self) -> bool {
        self.tasks.is_closed() && self.tasks.is_empty()
    }

    /// Notes that the end does not wait any longer.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until [`Self::cut`] is called.
    pub async fn is_cut(&self) {
        self.cut.cancelled().await;
    }

    /// Returns its gate.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Returns its counters, of which those of connections stay zero.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Returns the load balancers that announce clients: none.
    pub fn balancers(&self) -> &Balancers {
        &self.balancers
    }

    /// Returns true once it is stopped.
    pub fn is_draining(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Returns the state of the firewall.
    pub fn status(&self) -> FirewallStatus {
        self.state.status()
    }
}
