//! Capacity of a tunnel, given the file descriptors of the process.
//!
//! The request and the grant use one calculation, so that a tunnel that gets all it asked for can
//! hold all that its options say.

use super::dial_far_end::SECOND_ATTEMPTS;
use super::options::{Limits, Options, Role, by_service};
use super::pool;
use crate::gate::GateOptions;
use crate::net::{PER_SESSION, RESERVED, TooFewDescriptors, sessions_that_fit};

/// Limits that the file descriptors of this process allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions at once.
    pub sessions: usize,
    /// Peers at once that have proven nothing. At the dialer those that it waits for or rejects;
    /// zero without a gate and without load balancers.
    pub handshakes: usize,
    /// Tunnels without a session: at the dialer those of its pool, at the acceptor
    /// those that wait to be opened.
    pub unopened: usize,
    /// Second attempts at once at a far end that says nothing; zero at the acceptor.
    pub second_attempts: usize,
    /// File descriptors.
    pub descriptors: u64,
    /// Descriptors that the stores of the gates may take and that are not reserved.
    pub lacking: u64,
}

/// Numbers that a tunnel asks for. All but sessions take one descriptor each.
struct Need {
    /// `None` is as many as the descriptors allow.
    sessions: Option<usize>,
    handshakes: usize,
    unopened: usize,
    /// Tunnels that a pool makes before it drops as many.
    making: usize,
    /// Second attempts at a far end that says nothing.
    second_attempts: usize,
    /// Targets that are checked, or looked at while they are down.
    watched: usize,
    /// Descriptors of the sender or the receiver of knocks.
    knocks: usize,
}

/// Sockets of an end that knocks: one that watches this host's addresses, one that sends.
const SENDER: usize = 2;

/// Descriptors of the runtime of the thread that reads knocks.
const KNOCK_RUNTIME: usize = 4;

/// Returns true for a gate with a store that takes more descriptors than are [`RESERVED`].
pub fn takes_many(gate: &GateOptions) -> bool {
    gate.store.most_connections() > 2
}

impl Need {
    fn of(options: &Options) -> Self {
        let Limits { sessions, handshakes, unopened, .. } = options.limits;
        let lets_all_in = options.gate.is_none() && options.proxy_from.is_empty();
        match &options.role {
            Role::Encrypt { targets, knock, .. } => Self {
                sessions,
                handshakes: if lets_all_in { 0 } else { handshakes },
                unopened,
                making: if unopened > 0 { pool::AT_ONCE } else { 0 },
                second_attempts: sessions
                    .map_or(SECOND_ATTEMPTS, |most| (most / 16).clamp(4, SECOND_ATTEMPTS)),
                watched: if targets.len() > 1 { targets.len() } else { 0 },
                knocks: if knock.is_some() { SENDER } else { 0 },
            },
            Role::Decrypt { targets } => {
                let by_service = by_service(targets);
                let watched = by_service.iter().filter(|(service, addresses)| {
                    addresses.len() > 1 || options.checks.contains_key(service)
                });
                let watched = watched.map(|(_, addresses)| addresses.len()).sum();
                let knocks = options.knock.as_ref().map_or(0, |knock| {
                    let places = knock.addresses.len().max(options.sources.len());
                    // Each socket is held twice. A name may be an address of each family.
                    KNOCK_RUNTIME + 2 * 2 * places
                });
                let (making, second_attempts) = (0, 0);
                Self { sessions, handshakes, unopened, making, second_attempts, watched, knocks }
            }
        }
    }

    /// Returns the number of descriptors for it.
    fn descriptors(&self) -> u64 {
        let Self { sessions, handshakes, unopened, making, second_attempts, watched, knocks } =
            *self;
        let Some(sessions) = sessions else { return u64::MAX };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let beside = count(handshakes + unopened + making + second_attempts + watched + knocks);
        let asked = RESERVED + count(sessions).saturating_mul(PER_SESSION) + beside;
        // Strangers and unopened tunnels get only a share of the total.
        asked.max(4 * count(handshakes)).max(8 * count(unopened))
    }
}

impl Capacity {
    /// Returns the number of descriptors that a tunnel asks for; `u64::MAX` is as many as
    /// there are.
    pub fn asked(options: &Options) -> u64 {
        Need::of(options).descriptors()
    }

    /// Computes the capacity that `options` ask for, as far as `descriptors` allow. Strangers get
    /// at most a quarter of them, and tunnels without a session an eighth, so that they cannot use
    /// up those of sessions.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn of(options: &Options, descriptors: u64) -> Result<Self, TooFewDescriptors> {
        let part = |of: u64| usize::try_from(descriptors / of).unwrap_or(usize::MAX);
        let need = Need::of(options);
        let handshakes = need.handshakes.min(part(4));
        let unopened = need.unopened.min(part(8));
        let making = if unopened > 0 { need.making } else { 0 };
        let second_attempts = need.second_attempts.min(part(16));
        let beside = handshakes + unopened + making + second_attempts + need.watched + need.knocks;
        let fit = sessions_that_fit(descriptors, beside);
        if fit == 0 {
            return Err(TooFewDescriptors(descriptors));
        }
        let sessions = need.sessions.map_or(fit, |asked| asked.min(fit));
        Ok(Self { sessions, handshakes, unopened, second_attempts, descriptors, lacking: 0 })
    }

    /// Warns about limits that cannot be met.
    pub fn warn_if_less_than(&self, options: &Options) {
        let Self { sessions, handshakes, unopened, descriptors, lacking, .. } = *self;
        let tunnel = options.name.as_deref();
        if lacking > 0 && options.gate.as_deref().is_some_and(takes_many) {
            tracing::warn!(
                tunnel,
                lacking,
                descriptors,
                detail = "raise ulimit -n (LimitNOFILE= of a unit); a store with many masters may take those of sessions",
                "not enough file descriptors for the gate store"
            );
        }
        if let Some(asked) = options.limits.sessions.filter(|asked| *asked > sessions) {
            tracing::warn!(
                tunnel,
                asked,
                sessions,
                descriptors,
                detail = "raise ulimit -n (LimitNOFILE= of a unit), or lower -n",
                "not enough file descriptors for the session limit"
            );
        }
        let asked = options.limits.handshakes;
        if matches!(options.role, Role::Decrypt { .. }) && asked > handshakes {
            tracing::warn!(
                tunnel,
                asked,
                handshakes,
                descriptors,
                detail = "raise ulimit -n (LimitNOFILE= of a unit), or lower --max-handshakes",
                "not enough file descriptors for the handshake limit"
            );
        }
        let asked = options.limits.unopened;
        if asked > unopened {
            let detail = match options.role {
                Role::Encrypt { .. } => "raise ulimit -n (LimitNOFILE= of a unit), or lower --pool",
                Role::Decrypt { .. } => {
                    "raise ulimit -n (LimitNOFILE= of a unit), or lower --max-unopened"
                }
            };
            tracing::warn!(
                tunnel,
                asked,
                unopened,
                descriptors,
                detail,
                "not enough file descriptors for the pool"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::addr::ServiceName;
    use crate::keys::{Key, KeyRing};
    use crate::knocker::KnockWish;
    use crate::proto::{Padding, SuiteSet};
    use crate::secret::Secret;

    /// Options of a command line without flags.
    fn options(role: Role) -> Options {
        let unopened = if matches!(role, Role::Encrypt { .. }) { 0 } else { 256 };
        Options {
            name: None,
            role,
            sources: vec![],
            keys: KeyRing::new(vec![Key::new(Secret::take(&mut [7; 32]))]).unwrap(),
            bind: None,
            limits: Limits { sessions: Some(1024), handshakes: 1024, unopened, per_source: None },
            timeout: Duration::from_secs(5),
            resolve_every: None,
            wait_for_dns: false,
            keepalive: true,
            padding: Padding::default(),
            suites: SuiteSet::BOTH,
            drain: Duration::ZERO,
            gate: None,
            knock: None,
            proxy_from: Arc::default(),
            checks: BTreeMap::new(),
            close_on_target_down: false,
            proxy_to_target: None,
            heartbeat: None,
            idle_timeout: None,
            warnings: vec![],
        }
    }

    fn encrypt(far_ends: usize) -> Options {
        let targets = (0..far_ends).map(|i| format!("a{i}:1").parse().unwrap()).collect();
        options(Role::Encrypt {
            targets,
            service: ServiceName::default(),
            lazy: false,
            knock: None,
        })
    }

    fn decrypt(targets: usize) -> Options {
        let target = |i| (ServiceName::default(), format!("a{i}:1").parse().unwrap());
        options(Role::Decrypt { targets: (0..targets).map(target).collect() })
    }

    /// The descriptors that are asked for are enough for the request, and fewer are not.
    #[test]
    fn a_tunnel_asks_for_as_many_descriptors_as_it_can_use() {
        let mut pooled = encrypt(1);
        pooled.limits.unopened = 16;
        let mut knocking = encrypt(1);
        if let Role::Encrypt { knock, .. } = &mut knocking.role {
            *knock = Some(KnockWish::default());
        }
        for (options, needs) in [
            (encrypt(1), 2144),
            (encrypt(2), 2146),
            (knocking, 2146),
            (pooled, 2144 + 16 + 8),
            (decrypt(1), 4096),
        ] {
            assert_eq!(Need::of(&options).descriptors(), needs);
            let capacity = Capacity::of(&options, needs).unwrap();
            assert_eq!(capacity.sessions, 1024, "{:?}", options.role);
            assert_eq!(capacity.unopened, options.limits.unopened);
        }
        let few = Capacity::of(&encrypt(2), 2145).unwrap();
        assert_eq!(few.sessions, 1023);
    }

    /// A single target is probed only where it has a check.
    #[test]
    fn targets_that_are_watched_take_descriptors() {
        let mut checked = decrypt(1);
        let tcp = "tcp".parse().unwrap();
        checked.checks.insert(ServiceName::default(), tcp);
        let watched = [decrypt(1), checked, decrypt(3)].map(|options| Need::of(&options).watched);
        assert_eq!(watched, [0, 1, 3]);
    }
}
