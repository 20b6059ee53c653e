//! A tunnel that serves connections: its background tasks, and the ways to end it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::context::TunnelContext;
use super::decrypt::DecryptEnd;
use super::encrypt::EncryptEnd;
use crate::frontend::workers;
use crate::net::AsyncListener;
use crate::tasks::restarting;
use crate::upstream::health_check::Look;
use crate::upstream::{HealthChecks, Targets};

/// Interval at which due summaries of failures are written.
const SUMMARY_TICK: Duration = Duration::from_secs(1);

/// End of a tunnel, with the state that only this end needs.
pub(super) enum Mode {
    Encrypt(Arc<EncryptEnd>),
    Decrypt(Arc<DecryptEnd>),
}

/// A tunnel end that serves connections.
pub struct Tunnel {
    pub(super) context: Arc<TunnelContext>,
    pub(super) mode: Mode,
    /// Addresses of its listeners.
    pub(super) listening: Mutex<Vec<String>>,
}

impl Tunnel {
    /// Starts its background tasks: summaries, warm tunnels, checks.
    pub fn begin(self: &Arc<Self>) {
        self.keep_up("summaries of failures", Self::summarize);
        self.keep_up("the watch on the limit of sessions", Self::watch_limit);
        self.keep_up("the pool", Self::keep_warm);
        self.keep_up("the watch on targets", Self::check_targets);
        self.context.frontend.tasks.spawn(Arc::clone(self).look_at_start());
    }

    /// Accepts on `listener` until the tunnel is stopped.
    pub fn serve(self: &Arc<Self>, listener: Arc<AsyncListener>) {
        self.listens(&listener);
        let accept = move |tunnel: Arc<Self>| tunnel.accept(Arc::clone(&listener));
        let _on_the_thread_that_accepts = workers::accepting().enter();
        self.keep_up("accepting connections", accept);
    }

    /// Runs a task as long as the tunnel exists, and restarts it after a panic.
    fn keep_up<F>(
        self: &Arc<Self>,
        task: &'static str,
        begin: impl Fn(Arc<Self>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let tunnel = Arc::clone(self);
        self.context.frontend.tasks.spawn(restarting(task, move || begin(Arc::clone(&tunnel))));
    }

    /// Accepts connections until the tunnel is stopped.
    async fn accept(self: Arc<Self>, listener: Arc<AsyncListener>) {
        let frontend = &self.context.frontend;
        let context = Arc::clone(&self.context);
        match &self.mode {
            Mode::Encrypt(end) => {
                let end = Arc::clone(end);
                let serve = move |accepted| Arc::clone(&end).serve(Arc::clone(&context), accepted);
                frontend.accept_all(Arc::clone(&listener), serve).await;
            }
            Mode::Decrypt(end) => {
                let end = Arc::clone(end);
                let serve = move |accepted| Arc::clone(&end).serve(Arc::clone(&context), accepted);
                frontend.accept_all(Arc::clone(&listener), serve).await;
            }
        }
        self.listens_no_more(&listener);
    }

    /// Stops accepting. Sessions continue; unproven handshakes have a second.
    pub fn stop(&self) {
        self.context.frontend.stop.cancel();
        self.context.frontend.tasks.close();
    }

    /// Waits until every connection of a stopped tunnel has ended.
    pub async fn finished(&self) {
        self.context.frontend.tasks.wait().await;
    }

    /// Returns true when it is stopped and every connection has ended.
    pub fn is_finished(&self) -> bool {
        let tasks = &self.context.frontend.tasks;
        tasks.is_closed() && tasks.is_empty()
    }

    /// Logs every failure, and every ban, that was counted and not logged yet.
    pub fn flush_failures(&self) {
        self.context.frontend.failures.flush();
        if let Some(gate) = self.gate() {
            gate.flush_bans();
        }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.context.frontend.cut.cancel();
    }

    /// Waits for [`Self::cut`].
    pub async fn is_cut(&self) {
        self.context.frontend.cut.cancelled().await;
    }

    /// Returns the number of sessions now.
    pub fn sessions(&self) -> usize {
        self.context.frontend.slots.used()
    }

    /// Returns the highest number of sessions at once so far.
    pub fn most_sessions(&self) -> usize {
        self.context.frontend.slots.high_water()
    }

    /// Returns the targets of all services, or the far ends.
    pub(super) fn targets(&self) -> Vec<Arc<Targets>> {
        match &self.mode {
            Mode::Encrypt(end) => vec![Arc::clone(&end.far_ends)],
            Mode::Decrypt(end) => end.targets.values().cloned().collect(),
        }
    }

    /// Warns at start of targets that cannot be reached. A pool finds that out by itself.
    async fn look_at_start(self: Arc<Self>) {
        match &self.mode {
            Mode::Encrypt(end) if end.pool.warm().size > 0 => {}
            _ => self.health_checks().warn_if_unreachable(&self.targets()).await,
        }
    }

    /// Checks every target until the tunnel is stopped.
    async fn check_targets(self: Arc<Self>) {
        self.health_checks().run(self.targets()).await;
    }

    /// Returns the checks: a target is checked by its port or its protocol, a far end by a tunnel
    /// that is never opened.
    fn health_checks(&self) -> HealthChecks {
        let context = &self.context;
        let look = match &self.mode {
            Mode::Encrypt(end) => Some(look(Arc::clone(end), Arc::clone(context))),
            Mode::Decrypt(_) => None,
        };
        HealthChecks {
            dial: context.dial_options,
            timeout: context.timeout,
            stop: context.frontend.stop.clone(),
            tasks: context.frontend.tasks.clone(),
            look,
        }
    }

    /// Warns when the limit of sessions is reached, until the tunnel is stopped.
    async fn watch_limit(self: Arc<Self>) {
        self.context.frontend.watch_limit().await;
    }

    /// Keeps the pool of an encrypt end full until the tunnel is stopped.
    async fn keep_warm(self: Arc<Self>) {
        let Mode::Encrypt(end) = &self.mode else { return };
        let warm_up = || Arc::clone(end).warm_up(Arc::clone(&self.context));
        end.pool.keep(warm_up, self.context.frontend.stop.cancelled()).await;
    }

    async fn summarize(self: Arc<Self>) {
        let frontend = &self.context.frontend;
        let ticks = async {
            loop {
                sleep(SUMMARY_TICK).await;
                frontend.failures.tick();
            }
        };
        tokio::select! {
            () = frontend.stop.cancelled() => {}
            () = ticks => {}
        }
    }
}

fn look(end: Arc<EncryptEnd>, context: Arc<TunnelContext>) -> Look {
    Arc::new(move |far_end| {
        let end = Arc::clone(&end);
        let context = Arc::clone(&context);
        Box::pin(async move { end.look_at(far_end, &context).await })
    })
}
