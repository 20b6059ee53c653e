//! Gates for the next set of services, while that set is prepared.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::gate::{Gate, GateOptions};

/// Gates for the next set. Each is held for no service here, so those that no service
/// takes, and that none had, end with this.
#[derive(Default)]
pub(super) struct NewGates(Vec<Gate>);

impl NewGates {
    /// Returns the gate with these options: one `there`, one of the next set, or a new one.
    pub(super) fn get<'a>(
        &mut self,
        options: Option<&Arc<GateOptions>>,
        mut there: impl Iterator<Item = &'a Gate>,
    ) -> anyhow::Result<Option<Gate>> {
        let Some(options) = options else { return Ok(None) };
        let has_options = |gate: &&Gate| gate.options() == *options;
        let found: Option<&Gate> = there.find(has_options);
        let gate = match found.or_else(|| self.0.iter().find(has_options)) {
            // Held by itself, since the service that has it may give it up.
            Some(gate) => gate.another(),
            None => Gate::start(Arc::clone(options))?,
        };
        self.0.push(gate.clone());
        Ok(Some(gate))
    }

    /// Waits until the stores were read, or could not be, for at most `patience`. Peers
    /// that are served before would be denied.
    pub(super) async fn settle(&self, patience: Duration) {
        let all = async {
            for gate in &self.0 {
                gate.settled().await;
            }
        };
        // A store that is unavailable is no reason not to serve: its policy holds.
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
