//! From options to a tunnel that can serve: limits that can be met, names that resolve.

use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::decrypt::{Exit, Target};
use super::encrypt::Entrance;
use super::options::{Options, Role};
use super::secure::{Caller, Doorkeeper, Terms};
use super::serve::{Shared, Tunnel, Way};
use crate::addr::Address;
use crate::net::{
    Handshakes, ResolveError, ResolveOptions, Resolver, Slots, SocketOptions, Sources,
    sessions_that_fit,
};
use crate::observe::failures::Failures;
use crate::proto::aead::suites_of_this_machine;

/// What this process can hold, given its file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions at once.
    pub sessions: usize,
    /// Unproven handshakes at once; zero at the dialer, which has none.
    pub handshakes: usize,
    /// File descriptors.
    pub descriptors: u64,
}

/// Too few file descriptors for a single session.
#[derive(Debug, thiserror::Error)]
#[error("{0} file descriptors are too few for a session; raise the limit with ulimit -n")]
pub struct TooFewDescriptors(u64);

impl Capacity {
    /// What `options` ask for, as far as `descriptors` allow. Strangers get at
    /// most a quarter of them, so that they cannot take the sessions'.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn of(options: &Options, descriptors: u64) -> Result<Self, TooFewDescriptors> {
        let quarter = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        let handshakes = match options.role {
            Role::Encrypt { .. } => 0,
            Role::Decrypt { .. } => options.limits.handshakes.min(quarter),
        };
        let fit = sessions_that_fit(descriptors, handshakes);
        if fit == 0 {
            return Err(TooFewDescriptors(descriptors));
        }
        let sessions = options.limits.sessions.map_or(fit, |asked| asked.min(fit));
        Ok(Self { sessions, handshakes, descriptors })
    }

    /// Says what was asked for and cannot be met.
    pub fn warn_if_less_than(&self, options: &Options) {
        let Self { sessions, handshakes, descriptors } = *self;
        if let Some(asked) = options.limits.sessions.filter(|asked| *asked > sessions) {
            tracing::warn!(
                asked,
                sessions,
                descriptors,
                detail = "raise ulimit -n, or lower -n",
                "not enough file descriptors for the limit of sessions"
            );
        }
        let asked = options.limits.handshakes;
        if matches!(options.role, Role::Decrypt { .. }) && asked > handshakes {
            tracing::warn!(
                asked,
                handshakes,
                descriptors,
                detail = "raise ulimit -n",
                "not enough file descriptors for the limit of handshakes"
            );
        }
    }
}

impl Tunnel {
    /// A tunnel that holds what `capacity` says. Resolves its targets.
    ///
    /// # Errors
    /// [`ResolveError`] when a target's name does not resolve, unless told to wait.
    pub async fn start(options: &Options, capacity: Capacity) -> Result<Self, ResolveError> {
        let terms = Terms {
            keys: options.keys.clone(),
            suites: options.suites.and(suites_of_this_machine()),
            padding: options.padding,
        };
        let way = match &options.role {
            Role::Encrypt { target, service } => Way::In(Entrance {
                caller: Caller::new(terms),
                far_end: resolver(target, options).await?,
                far_end_name: target.to_string(),
                service: service.clone(),
            }),
            Role::Decrypt { .. } => Way::Out(Exit {
                door: Doorkeeper::new(terms),
                handshakes: Handshakes::new(capacity.handshakes),
                targets: targets(options).await?,
            }),
        };
        Ok(Self { shared: shared(options, capacity), way, tasks: TaskTracker::new() })
    }
}

fn shared(options: &Options, capacity: Capacity) -> Shared {
    let per_source = options.limits.per_source;
    Shared {
        slots: Slots::new(capacity.sessions),
        limit_reached: Notify::new(),
        arrivals: per_source.and_then(|per| {
            per.per_second.map(|rate| Sources::new(usize::MAX, Some(rate), Instant::now()))
        }),
        guests: per_source.map(|per| Sources::new(per.sessions, None, Instant::now())),
        failures: Failures::new(),
        socket: SocketOptions { keepalive: options.keepalive },
        bind: options.bind,
        timeout: options.timeout,
        stop: CancellationToken::new(),
        cut: CancellationToken::new(),
    }
}

async fn targets(
    options: &Options,
) -> Result<std::collections::BTreeMap<crate::addr::ServiceName, Target>, ResolveError> {
    let mut resolved = std::collections::BTreeMap::new();
    if let Role::Decrypt { targets } = &options.role {
        for (service, address) in targets {
            let resolver = resolver(address, options).await?;
            resolved.insert(service.clone(), Target { resolver, name: address.to_string() });
        }
    }
    Ok(resolved)
}

async fn resolver(address: &Address, options: &Options) -> Result<Resolver, ResolveError> {
    let how = ResolveOptions { every: options.resolve_every, wait: options.wait_for_dns };
    Resolver::start(address.clone(), how).await
}
