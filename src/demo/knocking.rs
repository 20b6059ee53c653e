//! A decrypt end that opens by knocking: one that has the key and does not knock is kept out, and one
//! that knocks gets through.

use std::sync::Arc;

use anyhow::{Context, ensure};

use super::target::Target;
use super::{PATIENCE, decrypting, encrypting, ping, start};
use crate::gate::rules::Rules;
use crate::gate::{Denied, GateOptions, OnRevoke, StoreName, StoreOptions};
use crate::keys::Key;
use crate::knock::{ReceiverOptions, SourcePolicy, WidestNetworks};
use crate::knocker::{DEFAULT_LASTING, KnockWish};
use crate::tunnel::{Options, Role};

/// Name of the gate in memory.
const GATE: &str = "demo";

/// Shows both.
pub(super) async fn knocked(key: &Key, target: &Target) -> anyhow::Result<String> {
    let gated = start(gated(decrypting(key, target.address()))).await?;
    let before = target.connections().await?;
    let without = start(encrypting(key, &gated.address)).await?;
    ensure!(ping(&without.address).await.is_err(), "the gate let in one that did not knock");
    ensure!(target.connections().await? == before, "one that did not knock reached the target");
    let with = start(knocking(encrypting(key, &gated.address))).await?;
    ping(&with.address).await.context("a knock did not open the gate")?;
    Ok("closed, until a datagram under the key".to_owned())
}

/// Has a decrypt end deny all that did not knock.
fn gated(options: Options) -> Options {
    let gate = GateOptions {
        store: StoreOptions::Memory(GATE.to_owned()),
        rules: Rules::default(),
        denied: Denied::default(),
        on_revoke: OnRevoke::default(),
        ban_after: None,
        reap_idle: None,
        named: StoreName::default(),
    };
    let knock = ReceiverOptions {
        addresses: vec![],
        ttl: DEFAULT_LASTING,
        max_ttl: DEFAULT_LASTING,
        source: SourcePolicy::Allow,
        networks: WidestNetworks::default(),
        gates: vec![],
        keys: vec![],
    };
    Options { gate: Some(Arc::new(gate)), knock: Some(Arc::new(knock)), ..options }
}

/// Has an encrypt end knock. A busy machine may take long to read its knock.
fn knocking(mut options: Options) -> Options {
    if let Role::Encrypt { knock, .. } = &mut options.role {
        *knock = Some(KnockWish::default());
    }
    Options { timeout: PATIENCE / 2, ..options }
}
