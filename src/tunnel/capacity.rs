//! Capacity of a tunnel, given the file descriptors of the process.
//!
//! What is asked for and what is given go by one account, so that a tunnel that
//! gets all it asked for holds all it was told to.

use std::sync::Arc;

use super::caller::SECOND_ATTEMPTS;
use super::options::{Limits, Options, Role, by_service};
use super::pool;
use crate::gate::GateOptions;
use crate::net::{PER_SESSION, RESERVED, sessions_that_fit};

/// What this process can hold, given its file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions at once.
    pub sessions: usize,
    /// Peers at once that have proven nothing. At the dialer those that it waits
    /// for or sends away; zero without a gate and without load balancers.
    pub handshakes: usize,
    /// Tunnels without a session: at the dialer those of its pool, at the acceptor
    /// those that wait to be opened.
    pub unopened: usize,
    /// Second attempts at once at a far end that says nothing; zero at the acceptor.
    pub second_attempts: usize,
    /// File descriptors.
    pub descriptors: u64,
    /// Descriptors that the stores of the gates may take and that are not kept for them.
    pub lacking: u64,
}

/// Descriptors for the stores of all gates of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stores {
    kept: u64,
    lacking: u64,
}

/// Numbers that a tunnel would like to hold. All but sessions take one descriptor each.
struct Need {
    /// `None` is as many as there is room for.
    sessions: Option<usize>,
    handshakes: usize,
    unopened: usize,
    /// Tunnels that a pool makes before it lets as many go.
    making: usize,
    /// Second attempts at a far end that says nothing.
    second_attempts: usize,
    /// Targets that are checked, or looked at while they are down.
    watched: usize,
}

/// Too few file descriptors for a single session.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} file descriptors are too few for a session; raise the limit with ulimit -n, or LimitNOFILE= of a unit"
)]
pub struct TooFewDescriptors(u64);

impl Stores {
    /// What the stores may take, at most a quarter of all. Tunnels with equal gates share
    /// one. So few connections as to one server are among those that are [`RESERVED`].
    fn of(plan: &[Options], descriptors: u64) -> Self {
        let mut gates: Vec<&Arc<GateOptions>> = vec![];
        for gate in plan.iter().filter_map(|options| options.gate.as_ref()) {
            if takes_many(gate) && !gates.contains(&gate) {
                gates.push(gate);
            }
        }
        let asked: usize = gates.iter().map(|gate| gate.store.most_connections()).sum();
        let asked = u64::try_from(asked).unwrap_or(u64::MAX);
        let kept = asked.min(descriptors / 4);
        Self { kept, lacking: asked - kept }
    }
}

fn takes_many(gate: &GateOptions) -> bool {
    gate.store.most_connections() > 2
}

impl Need {
    fn of(options: &Options) -> Self {
        let Limits { sessions, handshakes, unopened, .. } = options.limits;
        let lets_all_in = options.gate.is_none() && options.proxy_from.is_empty();
        match &options.role {
            Role::Encrypt { targets, .. } => Self {
                sessions,
                handshakes: if lets_all_in { 0 } else { handshakes },
                unopened,
                making: if unopened > 0 { pool::AT_ONCE } else { 0 },
                second_attempts: sessions
                    .map_or(SECOND_ATTEMPTS, |most| (most / 16).clamp(4, SECOND_ATTEMPTS)),
                watched: if targets.len() > 1 { targets.len() } else { 0 },
            },
            Role::Decrypt { targets } => {
                let by_service = by_service(targets);
                let watched = by_service.iter().filter(|(service, addresses)| {
                    addresses.len() > 1 || options.checks.contains_key(service)
                });
                let watched = watched.map(|(_, addresses)| addresses.len()).sum();
                Self { sessions, handshakes, unopened, making: 0, second_attempts: 0, watched }
            }
        }
    }

    /// Number of descriptors that it takes.
    fn descriptors(&self) -> u64 {
        let Self { sessions, handshakes, unopened, making, second_attempts, watched } = *self;
        let Some(sessions) = sessions else { return u64::MAX };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let beside = count(handshakes + unopened + making + second_attempts + watched);
        let asked = RESERVED + count(sessions).saturating_mul(PER_SESSION) + beside;
        // Strangers and unopened tunnels get theirs only as a part of all.
        asked.max(4 * count(handshakes)).max(8 * count(unopened))
    }
}

impl Capacity {
    /// What each of several tunnels in one process can hold, next to the stores of their
    /// gates. Where all together ask
    /// for more than there is, those that ask for no more than an equal part get it,
    /// and the others share the rest alike.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn of_all(plan: &[Options], descriptors: u64) -> Result<Vec<Self>, TooFewDescriptors> {
        let Stores { kept, lacking } = Stores::of(plan, descriptors);
        let descriptors = descriptors - kept;
        let of = |options, share| Ok(Self { lacking, ..Self::of(options, share)? });
        // One alone may use what it did not ask for.
        if let [only] = plan {
            return Ok(vec![of(only, descriptors)?]);
        }
        let asked: Vec<u64> = plan.iter().map(|options| Need::of(options).descriptors()).collect();
        let shares = shares(&asked, descriptors);
        plan.iter().zip(shares).map(|(options, share)| of(options, share)).collect()
    }

    /// Capacity that `options` ask for, as far as `descriptors` allow. Strangers get at
    /// most a quarter of them, and tunnels without a session an eighth, so that
    /// they cannot take the sessions'.
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
        let beside = handshakes + unopened + making + second_attempts + need.watched;
        let fit = sessions_that_fit(descriptors, beside);
        if fit == 0 {
            return Err(TooFewDescriptors(descriptors));
        }
        let sessions = need.sessions.map_or(fit, |asked| asked.min(fit));
        Ok(Self { sessions, handshakes, unopened, second_attempts, descriptors, lacking: 0 })
    }

    /// Says what was asked for and cannot be met.
    pub fn warn_if_less_than(&self, options: &Options) {
        let Self { sessions, handshakes, unopened, descriptors, lacking, .. } = *self;
        let tunnel = options.name.as_deref();
        if lacking > 0 && options.gate.as_deref().is_some_and(takes_many) {
            tracing::warn!(
                tunnel,
                lacking,
                descriptors,
                detail = "raise ulimit -n (LimitNOFILE= of a unit); a store with many masters may take those of sessions",
                "not enough file descriptors for the gate's store"
            );
        }
        if let Some(asked) = options.limits.sessions.filter(|asked| *asked > sessions) {
            tracing::warn!(
                tunnel,
                asked,
                sessions,
                descriptors,
                detail = "raise ulimit -n (LimitNOFILE= of a unit), or lower -n",
                "not enough file descriptors for the limit of sessions"
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
                "not enough file descriptors for the limit of handshakes"
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
                "not enough file descriptors for as many warm tunnels"
            );
        }
    }
}

/// What each gets of `all`, beginning with whoever asks for least.
fn shares(asked: &[u64], all: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|&who| asked[who]);
    let (mut shares, mut left) = (vec![0; asked.len()], all);
    for (who, others) in order.into_iter().zip((1..=asked.len() as u64).rev()) {
        shares[who] = asked[who].min(left / others);
        left -= shares[who];
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::addr::ServiceName;
    use crate::gate::redis_store::{Keys, RedisOptions};
    use crate::gate::{Denied, OnRevoke, Rules, StoreName, StoreOptions};
    use crate::keys::{Key, KeyRing};
    use crate::proto::{Padding, SuiteSet};
    use crate::secret::Secret;

    /// As the command line has it without flags.
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
            proxy_from: Arc::default(),
            checks: BTreeMap::new(),
            close_on_target_down: false,
            proxy_to_target: None,
            heartbeat: None,
            idle_timeout: None,
            remarks: vec![],
        }
    }

    fn encrypt(far_ends: usize) -> Options {
        let targets = (0..far_ends).map(|i| format!("a{i}:1").parse().unwrap()).collect();
        options(Role::Encrypt { targets, service: ServiceName::default(), lazy: false })
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
        for (options, needs) in
            [(encrypt(1), 2144), (encrypt(2), 2146), (pooled, 2144 + 16 + 8), (decrypt(1), 4096)]
        {
            assert_eq!(Need::of(&options).descriptors(), needs);
            let capacity = Capacity::of(&options, needs).unwrap();
            assert_eq!(capacity.sessions, 1024, "{:?}", options.role);
            assert_eq!(capacity.unopened, options.limits.unopened);
        }
        let few = Capacity::of(&encrypt(2), 2145).unwrap();
        assert_eq!(few.sessions, 1023);
    }

    /// Two encrypt ends without a gate: neither asks for handshakes that it has not.
    #[test]
    fn tunnels_share_what_they_can_use() {
        let both = Capacity::of_all(&[encrypt(1), encrypt(1)], 4288).unwrap();
        assert!(both.iter().all(|capacity| capacity.sessions == 1024), "{both:?}");
        let mut checked = decrypt(1);
        let tcp = "tcp".parse().unwrap();
        checked.checks.insert(ServiceName::default(), tcp);
        let watched = [decrypt(1), checked, decrypt(3)].map(|options| Need::of(&options).watched);
        assert_eq!(watched, [0, 1, 3]);
    }

    fn gate(url: &str) -> Option<Arc<GateOptions>> {
        let store = StoreOptions::Redis(Box::new(RedisOptions {
            address: url.parse().unwrap(),
            credentials: None,
            sentinel_credentials: None,
            tls: None,
            keys: Keys::default(),
        }));
        let (denied, on_revoke) = (Denied::default(), OnRevoke::default());
        let (rules, named) = (Rules::default(), StoreName::default());
        let options = GateOptions {
            store,
            rules,
            denied,
            on_revoke,
            ban_after: None,
            reap_idle: None,
            named,
        };
        Some(Arc::new(options))
    }

    /// Else its connections would take the descriptors of sessions.
    #[test]
    fn descriptors_are_kept_for_the_masters_of_a_cluster() {
        let with = |url| Options { gate: gate(url), ..decrypt(1) };
        let cluster = || with("redis+cluster://a:1");
        let sessions = |plan: &[Options], descriptors| {
            let all = Capacity::of_all(plan, descriptors).unwrap();
            (all.iter().map(|capacity| capacity.sessions).sum::<usize>(), all[0].lacking)
        };
        let most = |mut options: Options| {
            options.limits.sessions = None;
            options
        };
        let (one, _) = sessions(&[most(with("redis://a:1"))], 10_000);
        assert_eq!(sessions(&[most(decrypt(1))], 10_000), (one, 0));
        // Two to each of 64 masters, and to 16 who know them.
        assert_eq!(sessions(&[most(cluster())], 10_000), (one - 80, 0));
        assert_eq!(sessions(&[most(with("redis+sentinel://a:1,b:1/m"))], 10_000), (one - 3, 0));
        // Tunnels with one gate have one store, and others have one more.
        let two = [most(decrypt(1)), most(decrypt(1))];
        let (plain, _) = sessions(&two, 10_000);
        assert_eq!(sessions(&[most(cluster()), most(cluster())], 10_000), (plain - 80, 0));
        let other = most(with("redis+cluster://b:1"));
        assert_eq!(sessions(&[most(cluster()), other], 10_000), (plain - 160, 0));
        // Of few descriptors the tunnel keeps three quarters, and it is told.
        let (few, lacking) = sessions(&[most(cluster())], 400);
        assert!(few > 0 && lacking == 60, "{few} {lacking}");
    }

    /// Forty tunnels in one service, as an operator's first large file has them.
    #[test]
    fn the_limit_of_the_units_is_enough_for_forty_tunnels() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/knockpipe.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
        // Less what the process itself takes.
        let descriptors = limit.parse::<u64>().unwrap() - 1000;
        for options in [encrypt as fn(usize) -> Options, decrypt] {
            let plan: Vec<_> = (0..40).map(|_| options(1)).collect();
            for capacity in Capacity::of_all(&plan, descriptors).unwrap() {
                let has = (capacity.sessions, capacity.unopened);
                assert_eq!(has, (1024, plan[0].limits.unopened));
            }
        }
    }

    /// A large number of tunnels that could use all does not starve the modest.
    #[test]
    fn whoever_asks_for_less_than_an_equal_part_gets_it() {
        assert_eq!(shares(&[], 10), [0; 0]);
        assert_eq!(shares(&[3, 4], 10), [3, 4], "enough for all");
        assert_eq!(shares(&[8, 2, 6], 10), [4, 2, 4]);
        assert_eq!(shares(&[u64::MAX, 1, u64::MAX], 10), [4, 1, 5]);
        let mut plan: Vec<_> = (0..100).flat_map(|_| [encrypt(1), decrypt(1)]).collect();
        for options in &mut plan {
            options.limits.sessions = Some(16);
        }
        let all = Capacity::of_all(&plan, 20_000).unwrap();
        assert!(all.iter().all(|capacity| capacity.sessions == 16), "{:?}", &all[..2]);
    }
}
