//! The listening sockets of tunnels: bound, handed over by systemd or by the
//! process that ran before, and kept for whoever listens there next.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use tracing::warn;

use super::about;
use super::startup::{BACKLOG, Startup};
use crate::addr::Source;
use crate::net::{AsyncListener, BindError, Listener, SocketOptions};
use crate::sys::activation::Inherited;
use crate::sys::handover::Given;
use crate::tunnel::Options;

/// The sockets of a source, and the tunnel that they were opened for.
#[derive(Clone)]
pub(super) struct Door {
    owner: Option<Arc<str>>,
    source: Source,
    pub(super) listeners: Vec<Arc<AsyncListener>>,
}

/// The same before they are watched.
pub(super) struct Bound {
    owner: Option<Arc<str>>,
    source: Source,
    listeners: Vec<Listener>,
}

impl Door {
    /// Whether this is the source of that tunnel. Port 0 is another port for each.
    pub(super) fn fits(&self, options: &Options, source: &Source) -> bool {
        let owner = self.owner.as_deref().unwrap_or_default();
        let is_current = |address| self.listeners.iter().all(|one| one.is_current(address));
        fits((owner, &self.source.to_string()), options, source)
            && source.address().is_none_or(is_current)
    }

    /// Its sockets once more, for a successor of the process.
    pub(super) fn given(&self) -> impl Iterator<Item = io::Result<Given>> {
        let owner = self.owner.as_deref().unwrap_or_default();
        let name = format!("{owner}\t{}", self.source);
        self.listeners
            .iter()
            .map(move |listener| Ok(Given { name: name.clone(), socket: listener.share()? }))
    }
}

impl Bound {
    fn new(options: &Options, source: &Source, listeners: Vec<Listener>) -> Self {
        Self { owner: options.name.clone(), source: source.clone(), listeners }
    }

    fn is_of(&self, options: &Options) -> bool {
        self.owner == options.name
    }
}

/// As [`Door::fits`], by the names that two processes use.
fn fits((owner, there): (&str, &str), options: &Options, source: &Source) -> bool {
    let is_same = source.to_string() == there;
    let is_own = owner == options.name.as_deref().unwrap_or_default();
    is_same && (is_own || !source.is_any_port())
}

/// Every source of a plan.
pub(super) fn sources(plan: &[Options]) -> Vec<Source> {
    plan.iter().flat_map(|options| options.sources.clone()).collect()
}

/// Binds every source that was not handed to us. Names come first, so that
/// nothing is created while one is waited for.
pub(super) async fn bind_first(
    plan: &[Options],
    (mut given, systemd): (Vec<Given>, &Inherited),
    startup: &mut Startup,
) -> anyhow::Result<Vec<Bound>> {
    let all = sources(plan);
    let (mut bound, mut missing) = (vec![], vec![]);
    for is_literal in [false, true] {
        for options in plan {
            for source in options.sources.iter().filter(|one| one.is_literal() == is_literal) {
                let mut listeners = about(options, adopt(&mut given, options, source))?;
                if listeners.is_empty() {
                    let new = match source {
                        Source::Address(address) if options.wait_for_dns => {
                            startup.bind_patiently(address, &all).await
                        }
                        _ => listen(source, &all, systemd).await,
                    };
                    match new.map_err(may_be_missing) {
                        Ok(new) => listeners = new,
                        Err(Ok(error)) => {
                            missing.push((options, error));
                            continue;
                        }
                        Err(Err(error)) => return about(options, Err(error)),
                    }
                }
                bound.push(Bound::new(options, source, listeners));
            }
        }
    }
    let has_another = |options: &Options| bound.iter().any(|one| one.is_of(options));
    tell_missing(missing, has_another)?;
    let used = all.iter().filter_map(Source::inherited).collect::<Vec<_>>();
    let names = systemd.unused(&used);
    if !names.is_empty() {
        let detail = "clients of it wait in vain; add -s systemd:NAME, or take it out of the unit";
        warn!(names, detail, "a socket of systemd's is not used");
    }
    Ok(bound)
}

/// The sockets of a source, where the process before had them.
fn adopt(
    given: &mut Vec<Given>,
    options: &Options,
    source: &Source,
) -> anyhow::Result<Vec<Listener>> {
    let adopt = |socket| match source {
        Source::Address(address) => Listener::adopt(socket, address),
        Source::Inherited(_) => Listener::inherited(socket),
    };
    let is_ours = |given: &mut Given| {
        given.name.split_once('\t').is_some_and(|there| fits(there, options, source))
    };
    let sockets = given.extract_if(.., is_ours);
    let adopted: io::Result<Vec<_>> = sockets.map(|given| adopt(given.socket)).collect();
    let mut adopted = adopted.context("cannot take a socket over")?;
    if let Some(address) = source.address() {
        adopted.retain(|socket| socket.is_current(address));
    }
    Ok(adopted)
}

/// An error that is no matter as long as a tunnel listens elsewhere, or one that is.
fn may_be_missing(error: anyhow::Error) -> Result<BindError, anyhow::Error> {
    match error.downcast::<BindError>() {
        Ok(error @ BindError::NoFamily { .. }) => Ok(error),
        Ok(error) => Err(error.into()),
        Err(error) => Err(error),
    }
}

/// Warns of what is not there for tunnels that have something else.
///
/// # Errors
/// The first that is the only one of its tunnel.
fn tell_missing(
    missing: Vec<(&Options, BindError)>,
    has_another: impl Fn(&Options) -> bool,
) -> anyhow::Result<()> {
    for (options, error) in missing {
        if !has_another(options) {
            return about(options, Err(error));
        }
        let tunnel = options.name.as_deref();
        let detail = "it listens elsewhere; reload once the address is there";
        warn!(tunnel, %error, detail, "one of a tunnel's sources is missing on this host");
    }
    Ok(())
}

/// Binds those sources of a plan that `is_open` does not know.
pub(super) async fn bind_missing(
    plan: &[Options],
    systemd: &Inherited,
    is_open: impl Fn(&Options, &Source) -> bool,
) -> anyhow::Result<Vec<Bound>> {
    let all = sources(plan);
    let (mut bound, mut missing): (Vec<Bound>, _) = (vec![], vec![]);
    for options in plan {
        for source in options.sources.iter().filter(|source| !is_open(options, source)) {
            match listen(source, &all, systemd).await.map_err(may_be_missing) {
                Ok(listeners) => bound.push(Bound::new(options, source, listeners)),
                Err(Ok(error)) => missing.push((options, error)),
                Err(Err(error)) => return about(options, Err(error)),
            }
        }
    }
    let has_another = |options: &Options| {
        bound.iter().any(|one| one.is_of(options))
            || options.sources.iter().any(|source| is_open(options, source))
    };
    tell_missing(missing, has_another)?;
    Ok(bound)
}

/// Binds a source, or takes what systemd bound.
async fn listen(
    source: &Source,
    all: &[Source],
    systemd: &Inherited,
) -> anyhow::Result<Vec<Listener>> {
    match source {
        Source::Address(address) => Ok(Listener::bind_apart(address, all, BACKLOG).await?),
        Source::Inherited(name) => {
            let listeners: io::Result<_> =
                systemd.get(name)?.into_iter().map(Listener::inherited).collect();
            listeners.with_context(|| format!("cannot listen on {source}"))
        }
    }
}

/// Has the runtime watch what was bound.
pub(super) fn open(bound: Vec<Bound>) -> anyhow::Result<Vec<Door>> {
    let mut doors = Vec::with_capacity(bound.len());
    for Bound { owner, source, listeners } in bound {
        let open =
            |listener: Listener| Ok(Arc::new(listener.into_async(&SocketOptions::default())?));
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(open).collect();
        doors.push(Door { owner, source, listeners: listeners.context("cannot listen")? });
    }
    Ok(doors)
}
