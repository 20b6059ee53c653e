//! Gates for the next set of services, while that set is prepared.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::gate::{Gate, GateOptions};

/// Gates for the next set. Those that no service takes, and that none had before, end when this is
/// dropped.
#[derive(Default)]
pub(super) struct NewGates(Vec<Gate>);

impl NewGates {
    /// Returns the gate with these options: an existing one (`there`), one of the next set, or a
    /// new one.
    pub(super) fn get<'a>(
        &mut self,
        options: Option<&Arc<GateOptions>>,
        there: impl Iterator<Item = &'a Gate>,
    ) -> anyhow::Result<Option<Gate>> {
        let Some(options) = options else { return Ok(None) };
        let has_options = |gate: &&Gate| gate.options() == *options;
        let there: Vec<&Gate> = there.collect();
        let found = there.iter().copied().find(has_options);
        let has_store = |gate: &&Gate| gate.options().store.is_same_place(&options.store);
        let gate = match found.or_else(|| self.0.iter().find(has_options)) {
            // Held separately, since the service that has it may be dropped.
            Some(gate) => gate.another(),
            None => match there.iter().copied().find(has_store) {
                Some(before) => Gate::start_after(Arc::clone(options), before)?,
                None => Gate::start(Arc::clone(options))?,
            },
        };
        self.0.push(gate.clone());
        Ok(Some(gate))
    }

    /// Waits, for at most `patience`, until the stores are read or known to be unavailable. Peers
    /// that are served before would be denied.
    pub(super) async fn settle(&self, patience: Duration) {
        let all = async {
            for gate in &self.0 {
                gate.settled().await;
            }
        };
        // An unavailable store is no reason not to serve: its policy applies.
        if timeout(patience, all).await.is_err() {
            let after_s = patience.as_secs_f64();
            warn!(after_s, "gate store not synced yet; the gate is closed until then");
        }
    }
}

impl Drop for NewGates {
    fn drop(&mut self) {
        for gate in &self.0 {
            gate.dismiss();
        }
    }
}
