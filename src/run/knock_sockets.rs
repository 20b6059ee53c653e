//! Sockets for knocks: bound beside the listening sockets of their service, handed over by a
//! predecessor, and kept for the next service with the same place.
//!
//! Systemd hands none over: beside a listening socket of systemd's this process binds one itself.

use std::io;
use std::sync::Arc;

use anyhow::Context;

use super::about;
use super::listeners::SourceListeners;
use crate::addr::{Address, Source};
use crate::net::{DatagramSocket, Place};
use crate::service::ServiceOptions;
use crate::sys::handover::Given;
use crate::tasks::blocking;

/// Beginning of the name under which a socket for knocks is handed over. No service has a colon in
/// its name, so that no listening socket is called so.
const KNOCK: &str = "knock:\t";

/// The sockets for knocks of one place, and the service that they were opened for.
#[derive(Clone)]
pub(super) struct KnockSockets {
    owner: Option<Arc<str>>,
    place: KnockPlace,
    pub(super) sockets: Vec<Arc<DatagramSocket>>,
}

/// Place at which a service receives knocks.
#[derive(Clone, Debug, PartialEq)]
enum KnockPlace {
    /// The addresses of one of its sources.
    Beside(Source),
    /// An address of its own.
    At(Address),
}

impl KnockPlace {
    /// Lists the places of a service.
    fn all(options: &ServiceOptions) -> Vec<Self> {
        let Some(knock) = options.knock() else { return vec![] };
        if knock.addresses.is_empty() {
            return options.sources().iter().cloned().map(Self::Beside).collect();
        }
        knock.addresses.iter().cloned().map(Self::At).collect()
    }

    /// Returns its name for another process; sockets beside a source and at its address are the
    /// same.
    fn text(&self) -> String {
        match self {
            Self::Beside(source) => source.to_string(),
            Self::At(address) => address.to_string(),
        }
    }

    fn address(&self) -> Option<&Address> {
        match self {
            Self::Beside(source) => source.address(),
            Self::At(address) => Some(address),
        }
    }

    /// Port 0 is another port for each service.
    fn is_any_port(&self) -> bool {
        self.address().is_some_and(Address::is_any_port)
    }
}

impl KnockSockets {
    fn fits(&self, options: &ServiceOptions, place: &KnockPlace) -> bool {
        let is_own = self.owner.as_ref() == options.name();
        let is_current = |address| self.sockets.iter().all(|one| one.is_current(address));
        self.place.text() == place.text()
            && (is_own || !place.is_any_port())
            && place.address().is_none_or(is_current)
    }

    /// Shares its sockets with a successor of the process.
    pub(super) fn given(&self) -> impl Iterator<Item = io::Result<Given>> {
        let owner = self.owner.as_deref().unwrap_or_default();
        let name = format!("{KNOCK}{owner}\t{}", self.place.text());
        self.sockets
            .iter()
            .map(move |socket| Ok(Given { name: name.clone(), socket: socket.share()? }))
    }
}

/// Takes the sockets for knocks out of those that a predecessor handed over.
pub(super) fn take_given(given: &mut Vec<Given>) -> Vec<Given> {
    given.extract_if(.., |given| given.name.starts_with(KNOCK)).collect()
}

/// Adopts the sockets of a place that a predecessor had.
fn adopt(
    given: &mut Vec<Given>,
    options: &ServiceOptions,
    place: &KnockPlace,
) -> anyhow::Result<Vec<Arc<DatagramSocket>>> {
    let is_ours = |given: &mut Given| {
        let name = given.name.strip_prefix(KNOCK).and_then(|name| name.split_once('\t'));
        name.is_some_and(|(owner, there)| {
            let is_own = owner == options.name().map_or("", |name| name);
            there == place.text() && (is_own || !place.is_any_port())
        })
    };
    let taken = given.extract_if(.., is_ours);
    let adopted: io::Result<Vec<_>> =
        taken.map(|given| DatagramSocket::adopt(given.socket)).collect();
    let mut adopted = adopted.context("cannot take a socket for knocks over")?;
    if let Some(address) = place.address() {
        adopted.retain(|socket| socket.is_current(address));
    }
    Ok(adopted.into_iter().map(Arc::new).collect())
}

/// Sockets that there are already for a plan.
pub(super) struct Known<'a> {
    /// Sockets for knocks that a predecessor handed over.
    pub(super) given: Vec<Given>,
    /// Open sockets for knocks.
    pub(super) open: Vec<&'a KnockSockets>,
    /// All sources of the process.
    pub(super) all: Vec<Source>,
}

/// Opens the sockets for knocks of a service next to its `listeners`, unless they are known.
///
/// # Errors
/// The reason why one cannot be bound, or that there is no place for any.
pub(super) async fn open(
    options: &ServiceOptions,
    listeners: &[SourceListeners],
    known: &mut Known<'_>,
) -> anyhow::Result<Vec<KnockSockets>> {
    let mut opened: Vec<KnockSockets> = vec![];
    let places = KnockPlace::all(options);
    for place in &places {
        if let Some(there) = known.open.iter().find(|there| there.fits(options, place)) {
            opened.push((*there).clone());
            continue;
        }
        let mut sockets = about(options, adopt(&mut known.given, options, place))?;
        if sockets.is_empty() {
            let bound = bind(options, place, listeners, &known.all).await;
            sockets = about(options, bound)?.into_iter().map(Arc::new).collect();
        }
        if !sockets.is_empty() {
            opened.push(KnockSockets {
                owner: options.name().cloned(),
                place: place.clone(),
                sockets,
            });
        }
    }
    if opened.is_empty() && !places.is_empty() {
        let why =
            "no source has an IP address, so there is no place for knocks; write --knock HOST:PORT";
        return about(options, Err(anyhow::anyhow!(why)));
    }
    Ok(opened)
}

async fn bind(
    options: &ServiceOptions,
    place: &KnockPlace,
    listeners: &[SourceListeners],
    all: &[Source],
) -> anyhow::Result<Vec<DatagramSocket>> {
    match place {
        KnockPlace::Beside(source) => {
            let of_source = listeners.iter().filter(|one| one.fits(options, source));
            let places: io::Result<Vec<Option<Place>>> =
                of_source.flat_map(|one| &one.listeners).map(|one| one.place()).collect();
            let places = places.context("cannot find the place for knocks")?;
            let bound: Result<Vec<_>, _> =
                places.into_iter().flatten().map(DatagramSocket::at).collect();
            Ok(bound?)
        }
        KnockPlace::At(address) => {
            let address = address.clone();
            let all = all.to_vec();
            Ok(blocking(move || DatagramSocket::bind(&address, &all)).await??)
        }
    }
}
