//! Listening sockets of services: bound, handed over by systemd or by a predecessor, and kept for
//! the next service with the same source.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use tracing::warn;

use super::about;
use super::startup::{BACKLOG, Startup};
use crate::addr::Source;
use crate::frontend::workers;
use crate::net::{AsyncListener, BindError, Listener, SocketOptions};
use crate::service::ServiceOptions;
use crate::sys::activation::Inherited;
use crate::sys::handover::Given;

/// The sockets of a source, and the service that they were opened for.
#[derive(Clone)]
pub(super) struct SourceListeners {
    owner: Option<Arc<str>>,
    source: Source,
    pub(super) listeners: Vec<Arc<AsyncListener>>,
}

/// The same before they are registered with the runtime.
pub(super) struct BoundSource {
    owner: Option<Arc<str>>,
    source: Source,
    listeners: Vec<Listener>,
}

/// A source of another process, by a name that both processes understand.
#[derive(Clone, Copy)]
struct SourceName<'a> {
    /// Name of the service; empty where its process has one only.
    owner: &'a str,
    source: &'a str,
}

/// A source that does not exist on this host.
struct Missing<'a> {
    options: &'a ServiceOptions,
    error: BindError,
}

impl SourceListeners {
    /// Returns true if this is the source of that service. Port 0 is another port for each.
    pub(super) fn fits(&self, options: &ServiceOptions, source: &Source) -> bool {
        let is_current = |address| self.listeners.iter().all(|one| one.is_current(address));
        let there = self.source.to_string();
        let name = SourceName { owner: self.owner_name(), source: &there };
        name.fits(options, source) && source.address().is_none_or(is_current)
    }

    /// Shares its sockets with a successor of the process, as `owner TAB source`.
    pub(super) fn given(&self) -> impl Iterator<Item = io::Result<Given>> {
        let name = format!("{}\t{}", self.owner_name(), self.source);
        self.listeners
            .iter()
            .map(move |listener| Ok(Given { name: name.clone(), socket: listener.share()? }))
    }

    fn owner_name(&self) -> &str {
        self.owner.as_deref().unwrap_or_default()
    }
}

impl BoundSource {
    fn new(options: &ServiceOptions, source: &Source, listeners: Vec<Listener>) -> Self {
        Self { owner: options.name().cloned(), source: source.clone(), listeners }
    }

    fn is_of(&self, options: &ServiceOptions) -> bool {
        self.owner.as_ref() == options.name()
    }

    /// Registers its sockets with the runtime that accepts.
    fn watch(self) -> anyhow::Result<SourceListeners> {
        let Self { owner, source, listeners } = self;
        let _on_the_thread_that_accepts = workers::accepting().enter();
        let watch =
            |listener: Listener| Ok(Arc::new(listener.into_async(&SocketOptions::default())?));
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(watch).collect();
        Ok(SourceListeners { owner, source, listeners: listeners.context("cannot listen")? })
    }
}

impl<'a> SourceName<'a> {
    /// Splits `owner TAB source`.
    fn parse(name: &'a str) -> Option<Self> {
        name.split_once('\t').map(|(owner, source)| Self { owner, source })
    }

    fn fits(self, options: &ServiceOptions, source: &Source) -> bool {
        let is_same = source.to_string() == self.source;
        let is_own = self.owner == options.name().map_or("", |name| name);
        is_same && (is_own || !source.is_any_port())
    }
}

/// Lists every source of a plan.
pub(super) fn sources(plan: &[ServiceOptions]) -> Vec<Source> {
    plan.iter().flat_map(|options| options.sources().to_vec()).collect()
}

/// Sockets that the process got: from its predecessor, and from systemd.
pub(super) struct Handed<'a> {
    pub(super) given: Vec<Given>,
    pub(super) systemd: &'a Inherited,
}

/// Binds every source that was not handed over. Names come first, so that nothing is created while
/// the process waits for one.
pub(super) async fn bind_first(
    plan: &[ServiceOptions],
    handed: Handed<'_>,
    startup: &mut Startup,
) -> anyhow::Result<Vec<BoundSource>> {
    let Handed { mut given, systemd } = handed;
    let all = sources(plan);
    let mut bound = vec![];
    let mut missing = vec![];
    for is_literal in [false, true] {
        for options in plan {
            for source in options.sources().iter().filter(|one| one.is_literal() == is_literal) {
                let mut listeners = about(options, adopt(&mut given, options, source))?;
                if listeners.is_empty() {
                    let new = match source {
                        Source::Address(address) if options.waits_for_dns() => {
                            startup.bind_patiently(address, &all).await
                        }
                        _ => listen(source, &all, systemd).await,
                    };
                    match new.map_err(may_be_missing) {
                        Ok(new) => listeners = new,
                        Err(Ok(error)) => {
                            missing.push(Missing { options, error });
                            continue;
                        }
                        Err(Err(error)) => return about(options, Err(error)),
                    }
                }
                bound.push(BoundSource::new(options, source, listeners));
            }
        }
    }
    let has_another = |options: &ServiceOptions| bound.iter().any(|one| one.is_of(options));
    warn_of_missing(missing, has_another)?;
    warn_of_unused(systemd, &all);
    Ok(bound)
}

fn warn_of_unused(systemd: &Inherited, all: &[Source]) {
    let used = all.iter().filter_map(Source::inherited).collect::<Vec<_>>();
    let names = systemd.unused(&used);
    if !names.is_empty() {
        let detail = "its clients wait in vain; add -s systemd:NAME, or take it out of the unit";
        warn!(names, detail, "systemd socket not used");
    }
}

/// Takes over the sockets of a source, if the predecessor had them.
fn adopt(
    given: &mut Vec<Given>,
    options: &ServiceOptions,
    source: &Source,
) -> anyhow::Result<Vec<Listener>> {
    let adopt = |socket| match source {
        Source::Address(address) => Listener::adopt(socket, address),
        Source::Inherited(_) => Listener::inherited(socket),
    };
    let is_ours = |given: &mut Given| {
        SourceName::parse(&given.name).is_some_and(|there| there.fits(options, source))
    };
    let sockets = given.extract_if(.., is_ours);
    let adopted: io::Result<Vec<_>> = sockets.map(|given| adopt(given.socket)).collect();
    let mut adopted = adopted.context("cannot take a socket over")?;
    if let Some(address) = source.address() {
        adopted.retain(|socket| socket.is_current(address));
    }
    Ok(adopted)
}

/// Separates errors that do not matter as long as the service has another listener from those that
/// do.
fn may_be_missing(error: anyhow::Error) -> Result<BindError, anyhow::Error> {
    match error.downcast::<BindError>() {
        Ok(error @ BindError::NoFamily { .. }) => Ok(error),
        Ok(error) => Err(error.into()),
        Err(error) => Err(error),
    }
}

/// Warns of missing sources of services that have another one.
///
/// # Errors
/// The first that is the only source of its service.
fn warn_of_missing(
    missing: Vec<Missing<'_>>,
    has_another: impl Fn(&ServiceOptions) -> bool,
) -> anyhow::Result<()> {
    for Missing { options, error } in missing {
        if !has_another(options) {
            return about(options, Err(error));
        }
        let tunnel = options.name().map(|name| &**name);
        let detail = "it listens elsewhere; reload once the address is there";
        warn!(tunnel, %error, detail, "source address not available on this host");
    }
    Ok(())
}

/// Binds the sources of a plan that are not open yet by `is_open`.
pub(super) async fn bind_missing(
    plan: &[ServiceOptions],
    systemd: &Inherited,
    is_open: impl Fn(&ServiceOptions, &Source) -> bool,
) -> anyhow::Result<Vec<BoundSource>> {
    let all = sources(plan);
    let mut bound: Vec<BoundSource> = vec![];
    let mut missing = vec![];
    for options in plan {
        for source in options.sources().iter().filter(|source| !is_open(options, source)) {
            match listen(source, &all, systemd).await.map_err(may_be_missing) {
                Ok(listeners) => bound.push(BoundSource::new(options, source, listeners)),
                Err(Ok(error)) => missing.push(Missing { options, error }),
                Err(Err(error)) => return about(options, Err(error)),
            }
        }
    }
    let has_another = |options: &ServiceOptions| {
        bound.iter().any(|one| one.is_of(options))
            || options.sources().iter().any(|source| is_open(options, source))
    };
    warn_of_missing(missing, has_another)?;
    Ok(bound)
}

/// Binds a source, or takes the socket that systemd bound.
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

/// Registers bound sockets with the runtime.
pub(super) fn watch(bound: Vec<BoundSource>) -> anyhow::Result<Vec<SourceListeners>> {
    bound.into_iter().map(BoundSource::watch).collect()
}
