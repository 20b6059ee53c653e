//! Builds a tunnel from its options: limits that can be met, names that resolve.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::capacity::Capacity;
use super::context::TunnelContext;
use super::decrypt::DecryptEnd;
use super::dial_far_end::DialerHandshake;
use super::encrypt::EncryptEnd;
use super::handshake::{AcceptorHandshake, HandshakeConfig};
use super::options::{Options, Role, SentKnockOptions, by_service};
use super::pool::Pool;
use super::replay_state::ReplayState;
use super::serve::{Mode, Tunnel};
use crate::addr::ServiceName;
use crate::frontend::FrontendParts;
use crate::gate::Gate;
use crate::knock::{KnockReceiver, ReceiverOptions, ReceiverParts};
use crate::net::{ResolveError, Slots};
use crate::observe::metrics::Meters;
use crate::upstream::Targets;

/// Longest pause between two probes of a target that is down. They are cheap: the target never
/// notices them.
const LOOK_AT_TARGETS: Duration = Duration::from_secs(5);

/// The same for far ends, where each probe is a handshake that may fail.
const LOOK_AT_FAR_ENDS: Duration = Duration::from_secs(30);

/// Everything that a tunnel needs beside its options and that may fail to be made: the addresses of
/// its targets, a gate, its counters.
pub struct Prepared {
    upstreams: Upstreams,
    gate: Option<Gate>,
    meters: Arc<Meters>,
}

/// The places that a tunnel forwards to.
enum Upstreams {
    FarEnds(Arc<Targets>),
    /// Targets by service, and the memory of first messages that were answered.
    Services(BTreeMap<ServiceName, Arc<Targets>>, Arc<ReplayState>),
}

impl Prepared {
    /// Resolves the targets of the tunnel named in `meters`, which uses the process's `memory` of
    /// first messages.
    ///
    /// # Errors
    /// [`ResolveError`] when a name does not resolve, unless the options say to wait.
    pub async fn get(
        options: &Options,
        gate: Option<Gate>,
        meters: Arc<Meters>,
        memory: &Arc<ReplayState>,
    ) -> Result<Self, ResolveError> {
        let upstreams = match &options.role {
            Role::Encrypt { targets, service, .. } => {
                let far_ends = options.upstream(service, targets, LOOK_AT_FAR_ENDS);
                Upstreams::FarEnds(Arc::new(Targets::start(far_ends).await?))
            }
            Role::Decrypt { targets } => {
                let mut started = BTreeMap::new();
                for (service, addresses) in by_service(targets) {
                    let targets = options.upstream(service, &addresses, LOOK_AT_TARGETS);
                    started.insert(service.clone(), Arc::new(Targets::start(targets).await?));
                }
                Upstreams::Services(started, Arc::clone(memory))
            }
        };
        Ok(Self { upstreams, gate, meters })
    }
}

impl Tunnel {
    /// Creates a tunnel with the limits of `capacity`. Where it replaces `before`, it continues the
    /// slots, handshake slots and counts that are in use there, and its gate judges the clients
    /// that were admitted there.
    pub fn new(
        options: &Options,
        parts: Prepared,
        capacity: Capacity,
        before: Option<&Self>,
    ) -> Self {
        let tasks = TaskTracker::new();
        let Prepared { upstreams, gate, meters } = parts;
        let mut knocks_with = None;
        let mode = match upstreams {
            Upstreams::FarEnds(far_ends) => {
                let pool = Pool::new(
                    capacity.unopened,
                    options.name.clone(),
                    meters.pool.clone(),
                    tasks.clone(),
                );
                let knocks = options.knocks(Arc::clone(&meters.sent_knocks));
                Mode::Encrypt(Arc::new(encrypt_end(options, far_ends, pool, knocks, before)))
            }
            Upstreams::Services(targets, memory) => {
                take_over(&targets, before);
                knocks_with = options.knock.clone().map(|knock| (knock, Arc::clone(&memory)));
                Mode::Decrypt(Arc::new(DecryptEnd {
                    handshake: AcceptorHandshake::new(options.handshake(), memory),
                    unopened: Slots::new(capacity.unopened),
                    targets,
                    is_looked_at: options.knock.is_some(),
                }))
            }
        };
        let gate = gate.map(|gate| match before.and_then(Self::gate) {
            Some(old) => gate.succeeding(old),
            None => gate.another(),
        });
        let parts = FrontendParts { gate, meters, tasks };
        let before = before.map(|before| &*before.context);
        let context = TunnelContext::new(options, capacity, parts, before);
        let knocks = knocks_with
            .zip(context.frontend.gate.clone())
            .map(|((knock, memory), gate)| knock_receiver(options, knock, memory, gate, &context));
        let context = Arc::new(context);
        let tunnel = Self { context, mode, listening: Mutex::default(), knocks };
        tunnel.set_capacity(capacity);
        tunnel
    }

    /// Changes the limits of sessions, strangers and warm tunnels. Present sessions and strangers
    /// stay.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.context.frontend.slots.set_limit(capacity.sessions);
        self.context.frontend.pending.set_limit(capacity.handshakes);
        match &self.mode {
            Mode::Encrypt(end) => end.pool.set_size(capacity.unopened),
            Mode::Decrypt(end) => end.unopened.set_limit(capacity.unopened),
        }
    }

    /// Returns its gate.
    pub fn gate(&self) -> Option<&Gate> {
        self.context.frontend.gate.as_ref()
    }
}

/// Makes the receiver of knocks at this gate.
fn knock_receiver(
    options: &Options,
    knock: Arc<ReceiverOptions>,
    memory: Arc<ReplayState>,
    gate: Gate,
    context: &TunnelContext,
) -> Arc<KnockReceiver> {
    let frontend = &context.frontend;
    KnockReceiver::new(ReceiverParts {
        tunnel: options.name.clone(),
        options: knock,
        keys: options.keys.clone(),
        check_fresh: Box::new(move |message, sent_ms| memory.check(message, sent_ms)),
        gate,
        meters: Arc::clone(&frontend.meters),
        stop: frontend.stop.clone(),
        tasks: frontend.tasks.clone(),
    })
}

fn encrypt_end(
    options: &Options,
    far_ends: Arc<Targets>,
    pool: Pool,
    knocks: Option<SentKnockOptions>,
    before: Option<&Tunnel>,
) -> EncryptEnd {
    let (service, is_lazy) = match &options.role {
        Role::Encrypt { service, lazy, .. } => (service.clone(), *lazy),
        Role::Decrypt { .. } => (ServiceName::default(), false),
    };
    let dialers = dialers(&options.handshake(), &far_ends, before).into_iter();
    let dialers = dialers.map(|dialer| dialer.knocking(knocks.clone())).collect();
    EncryptEnd { dialers, far_ends, service, is_lazy, pool, knock_again: Notify::new() }
}

/// Makes a dialer for each far end; the far end's clock is known if it was called before.
fn dialers(
    config: &HandshakeConfig,
    far_ends: &Targets,
    before: Option<&Tunnel>,
) -> Vec<DialerHandshake> {
    let known = match before.map(|before| &before.mode) {
        Some(Mode::Encrypt(end)) => Some(end),
        _ => None,
    };
    let dialer = |name: &str| match known.and_then(|end| end.dialer_of(name)) {
        Some(old) => DialerHandshake::succeeding(config.clone(), old),
        None => DialerHandshake::new(config.clone()),
    };
    (0..far_ends.count()).map(|place| dialer(&far_ends.at(place).name)).collect()
}

/// Has targets take over the sessions of the predecessor.
fn take_over(targets: &BTreeMap<ServiceName, Arc<Targets>>, before: Option<&Tunnel>) {
    let Some(Mode::Decrypt(before)) = before.map(|before| &before.mode) else { return };
    for (service, targets) in targets {
        if let Some(old) = before.targets.get(service) {
            targets.succeed(old);
        }
    }
}
