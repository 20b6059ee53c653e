//! Divides the file descriptors of the process among its services.
//!
//! The stores of gates come first, since services with equal gates share one. Where all services
//! together ask for more than is left, a service that needs no more than an equal share gets what
//! it asks for, and the rest is split equally among the others.

use std::sync::Arc;

use crate::gate::GateOptions;
use crate::service::{Capacity, ServiceOptions, Share, TooFewDescriptors};
use crate::tunnel::takes_many;

/// Descriptors for the stores of all gates of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stores {
    kept: u64,
    lacking: u64,
}

impl Stores {
    /// Reserves the descriptors that the stores may take, at most a quarter of all. The few
    /// connections to a single server are among those that are reserved anyway.
    fn of(plan: &[ServiceOptions], descriptors: u64) -> Self {
        let mut gates: Vec<&Arc<GateOptions>> = vec![];
        for gate in plan.iter().filter_map(ServiceOptions::gate) {
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

/// Returns the capacity of each service of a plan.
///
/// # Errors
/// [`TooFewDescriptors`]
pub(super) fn share(
    plan: &[ServiceOptions],
    descriptors: u64,
) -> Result<Vec<Capacity>, TooFewDescriptors> {
    let Stores { kept, lacking } = Stores::of(plan, descriptors);
    let descriptors = descriptors - kept;
    // A single service may use more than it asked for.
    if let [only] = plan {
        return Ok(vec![only.capacity(Share { descriptors, lacking })?]);
    }
    let asked: Vec<u64> = plan.iter().map(ServiceOptions::need).collect();
    let parts = parts(&asked, descriptors);
    let with = |(options, descriptors): (&ServiceOptions, u64)| {
        options.capacity(Share { descriptors, lacking })
    };
    plan.iter().zip(parts).map(with).collect()
}

/// Returns the share of `all` for each request, beginning with the smallest.
fn parts(asked: &[u64], all: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|&place| asked[place]);
    let mut parts = vec![0; asked.len()];
    let mut left = all;
    for (place, others) in order.into_iter().zip((1..=asked.len() as u64).rev()) {
        parts[place] = asked[place].min(left / others);
        left -= parts[place];
    }
    parts
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
    use crate::tunnel::{self, Limits, Options, Role};

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

    /// The shares of tunnels.
    fn of_all(
        plan: &[Options],
        descriptors: u64,
    ) -> Result<Vec<tunnel::Capacity>, TooFewDescriptors> {
        let plan: Vec<_> = plan.iter().cloned().map(ServiceOptions::Tunnel).collect();
        let all = share(&plan, descriptors)?;
        let of_tunnel = |capacity| match capacity {
            Capacity::Tunnel(capacity) => capacity,
            Capacity::Web(_) | Capacity::None => panic!("{capacity:?}"),
        };
        Ok(all.into_iter().map(of_tunnel).collect())
    }

    /// Two encrypt ends without a gate: neither asks for handshakes, as it has none.
    #[test]
    fn tunnels_share_what_they_can_use() {
        let both = of_all(&[encrypt(1), encrypt(1)], 4288).unwrap();
        assert!(both.iter().all(|capacity| capacity.sessions == 1024), "{both:?}");
    }

    fn gate(url: &str) -> Option<Arc<GateOptions>> {
        let store = StoreOptions::Redis(Box::new(RedisOptions {
            address: url.parse().unwrap(),
            credentials: None,
            sentinel_credentials: None,
            tls: None,
            keys: Keys::default(),
        }));
        let denied = Denied::default();
        let on_revoke = OnRevoke::default();
        let rules = Rules::default();
        let named = StoreName::default();
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

    /// Otherwise its connections would take the descriptors of sessions.
    #[test]
    fn descriptors_are_kept_for_the_masters_of_a_cluster() {
        let with = |url| Options { gate: gate(url), ..decrypt(1) };
        let cluster = || with("redis+cluster://a:1");
        let sessions = |plan: &[Options], descriptors| {
            let all = of_all(plan, descriptors).unwrap();
            (all.iter().map(|capacity| capacity.sessions).sum::<usize>(), all[0].lacking)
        };
        let most = |mut options: Options| {
            options.limits.sessions = None;
            options
        };
        let (one, _) = sessions(&[most(with("redis://a:1"))], 10_000);
        assert_eq!(sessions(&[most(decrypt(1))], 10_000), (one, 0));
        // Two to each of 64 masters, and to 16 nodes that know them.
        assert_eq!(sessions(&[most(cluster())], 10_000), (one - 80, 0));
        assert_eq!(sessions(&[most(with("redis+sentinel://a:1,b:1/m"))], 10_000), (one - 3, 0));
        // Tunnels with one gate have one store, and others have one more.
        let two = [most(decrypt(1)), most(decrypt(1))];
        let (plain, _) = sessions(&two, 10_000);
        assert_eq!(sessions(&[most(cluster()), most(cluster())], 10_000), (plain - 80, 0));
        let other = most(with("redis+cluster://b:1"));
        assert_eq!(sessions(&[most(cluster()), other], 10_000), (plain - 160, 0));
        // With few descriptors the tunnel keeps three quarters, and a warning is logged.
        let (few, lacking) = sessions(&[most(cluster())], 400);
        assert!(few > 0 && lacking == 60, "{few} {lacking}");
    }

    /// Forty tunnels in one service, as an operator's first large file has them.
    #[test]
    fn the_limit_of_the_units_is_enough_for_forty_tunnels() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/knockpipe.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
        // Minus those of the process itself.
        let descriptors = limit.parse::<u64>().unwrap() - 1000;
        for options in [encrypt as fn(usize) -> Options, decrypt] {
            let plan: Vec<_> = (0..40).map(|_| options(1)).collect();
            for capacity in of_all(&plan, descriptors).unwrap() {
                let has = (capacity.sessions, capacity.unopened);
                assert_eq!(has, (1024, plan[0].limits.unopened));
            }
        }
    }

    /// A large number of tunnels that could use all descriptors does not starve those that need
    /// few.
    #[test]
    fn a_tunnel_that_asks_for_less_than_an_equal_part_gets_it() {
        assert_eq!(parts(&[], 10), [0; 0]);
        assert_eq!(parts(&[3, 4], 10), [3, 4], "enough for all");
        assert_eq!(parts(&[8, 2, 6], 10), [4, 2, 4]);
        assert_eq!(parts(&[u64::MAX, 1, u64::MAX], 10), [4, 1, 5]);
        let mut plan: Vec<_> = (0..100).flat_map(|_| [encrypt(1), decrypt(1)]).collect();
        for options in &mut plan {
            options.limits.sessions = Some(16);
        }
        let all = of_all(&plan, 20_000).unwrap();
        assert!(all.iter().all(|capacity| capacity.sessions == 16), "{:?}", &all[..2]);
    }
}
