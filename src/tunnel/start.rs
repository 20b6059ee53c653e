//! From options to a tunnel that can serve: limits that can be met, names that resolve.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::decrypt::{Exit, Target};
use super::encrypt::Entrance;
use super::options::{Options, Role};
use super::pool::{self, Pool};
use super::secure::{Caller, Doorkeeper, Terms};
use super::serve::{Shared, Tunnel, Way};
use crate::addr::Address;
use crate::gate::Gate;
use crate::gate::store::StoreError;
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
    /// Peers at once that have proven nothing. At the dialer those that it waits
    /// for or sends away; zero without a gate and without load balancers.
    pub handshakes: usize,
    /// Tunnels without a session: at the dialer those of its pool, at the acceptor
    /// those that wait to be opened.
    pub unopened: usize,
    /// File descriptors.
    pub descriptors: u64,
}

/// Too few file descriptors for a single session.
#[derive(Debug, thiserror::Error)]
#[error("{0} file descriptors are too few for a session; raise the limit with ulimit -n")]
pub struct TooFewDescriptors(u64);

/// Why a tunnel cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A target's name does not resolve.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The gate's file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Capacity {
    /// What `options` ask for, as far as `descriptors` allow. Strangers get at
    /// most a quarter of them, and tunnels without a session an eighth, so that
    /// they cannot take the sessions'.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn of(options: &Options, descriptors: u64) -> Result<Self, TooFewDescriptors> {
        let part = |of: u64| usize::try_from(descriptors / of).unwrap_or(usize::MAX);
        let unopened = options.limits.unopened.min(part(8));
        let handshakes = match options.role {
            Role::Encrypt { .. } if options.gate.is_none() && options.proxy_from.is_empty() => 0,
            _ => options.limits.handshakes.min(part(4)),
        };
        // A pool makes some more before it lets as many go.
        let making = match options.role {
            Role::Encrypt { .. } if unopened > 0 => pool::AT_ONCE,
            _ => 0,
        };
        let fit = sessions_that_fit(descriptors, handshakes + unopened + making);
        if fit == 0 {
            return Err(TooFewDescriptors(descriptors));
        }
        let sessions = options.limits.sessions.map_or(fit, |asked| asked.min(fit));
        Ok(Self { sessions, handshakes, unopened, descriptors })
    }

    /// Says what was asked for and cannot be met.
    pub fn warn_if_less_than(&self, options: &Options) {
        let Self { sessions, handshakes, unopened, descriptors } = *self;
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
                detail = "raise ulimit -n, or lower --max-handshakes",
                "not enough file descriptors for the limit of handshakes"
            );
        }
        let asked = options.limits.unopened;
        if asked > unopened {
            let detail = match options.role {
                Role::Encrypt { .. } => "raise ulimit -n, or lower --pool",
                Role::Decrypt { .. } => "raise ulimit -n, or lower --max-unopened",
            };
            tracing::warn!(
                asked,
                unopened,
                descriptors,
                detail,
                "not enough file descriptors for as many warm tunnels"
            );
        }
    }
}

impl Tunnel {
    /// A tunnel that holds what `capacity` says. Resolves its targets.
    ///
    /// # Errors
    /// [`StartError`] when a target's name does not resolve, unless told to wait,
    /// or the gate's file cannot be used.
    pub async fn start(options: &Options, capacity: Capacity) -> Result<Self, StartError> {
        let terms = Terms {
            keys: options.keys.clone(),
            suites: options.suites.and(suites_of_this_machine()),
            padding: options.padding,
        };
        let way = match &options.role {
            Role::Encrypt { target, service } => Way::In(Arc::new(Entrance {
                caller: Caller::new(terms),
                far_end: resolver(target, options).await?,
                far_end_name: target.to_string(),
                service: service.clone(),
                pool: Pool::new(capacity.unopened),
            })),
            Role::Decrypt { .. } => Way::Out(Arc::new(Exit {
                door: Doorkeeper::new(terms),
                unopened: Slots::new(capacity.unopened),
                targets: targets(options).await?,
            })),
        };
        Ok(Self { shared: Arc::new(shared(options, capacity)?), way, tasks: TaskTracker::new() })
    }
}

fn shared(options: &Options, capacity: Capacity) -> Result<Shared, StoreError> {
    let per_source = options.limits.per_source;
    Ok(Shared {
        slots: Slots::new(capacity.sessions),
        places: Handshakes::new(capacity.handshakes),
        limit_reached: Notify::new(),
        arrivals: per_source.and_then(|per| {
            per.per_second.map(|rate| Sources::new(usize::MAX, Some(rate), Instant::now()))
        }),
        guests: per_source.map(|per| Sources::new(per.sessions, None, Instant::now())),
        failures: Failures::new(),
        gate: options.gate.clone().map(Gate::start).transpose()?,
        proxy_to_target: options.proxy_to_target,
        proxy_from: Arc::clone(&options.proxy_from),
        drain: options.drain,
        socket: SocketOptions { keepalive: options.keepalive },
        bind: options.bind,
        timeout: options.timeout,
        stop: CancellationToken::new(),
        cut: CancellationToken::new(),
    })
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
