//! Resolves an [`Address`] to endpoints to dial, at start and at intervals.
//!
//! A [`Resolver`] always holds the last good answer: a name server that fails for an hour costs a
//! warning and no connection. No connection waits for a look-up.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::service_files;
use super::zone;
use crate::addr::Address;
use crate::tasks::{blocking, restarting};

/// Pause between attempts while a name never resolved yet.
const RETRY: Duration = Duration::from_secs(1);

/// File that defines the names of ports.
const SERVICES: &str = "/etc/services";

/// An address to dial. Cloning copies a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses in order of preference, at least one.
    Ips(Arc<[Endpoint]>),
    /// A unix stream socket.
    Unix(Arc<Path>),
}

/// An IP address to dial. The zone of a link-local address is kept by its name: an interface that
/// is recreated has another number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addr: SocketAddr,
    zone: Option<Arc<str>>,
}

/// Schedule by which a [`Resolver`] keeps itself up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveOptions {
    /// Interval at which names are looked up again; `None` is never.
    pub every: Option<Duration>,
    /// Start although the name does not resolve, and retry every second.
    pub wait: bool,
}

/// Reason why there is nothing to dial.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name has no address.
    #[error("cannot resolve {address}: {cause}; correct the name, or check name service")]
    Failed {
        /// As it was written.
        address: Address,
        /// The error of the system's resolver.
        cause: Arc<io::Error>,
    },
    /// The name never resolved so far; a lookup each second goes on.
    #[error("{0} does not resolve yet; it is looked up again every second")]
    NotYet(Address),
}

/// One address, kept resolved in the background until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    address: Address,
    current: Arc<Current>,
    task: Option<AbortHandle>,
}

type Lookup = Arc<dyn Fn(Address) -> Answer + Send + Sync>;

type Answer = Pin<Box<dyn Future<Output = io::Result<Target>> + Send>>;

/// The last good answer. Locked only while a pointer is copied.
#[derive(Debug, Default)]
struct Current(Mutex<Option<Target>>);

/// State of the background task.
#[derive(Clone)]
struct Refresh {
    address: Address,
    current: Arc<Current>,
    lookup: Lookup,
    every: Option<Duration>,
    failing: bool,
}

// === impl Endpoint ===

impl Endpoint {
    /// Returns the address with the number that its zone has now.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn now(&self) -> io::Result<SocketAddr> {
        match (self.addr, &self.zone) {
            (SocketAddr::V6(mut addr), Some(zone)) => {
                addr.set_scope_id(zone::number(zone)?);
                Ok(addr.into())
            }
            (addr, _) => Ok(addr),
        }
    }

    /// Returns whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.addr.is_ipv4()
    }
}

impl From<SocketAddr> for Endpoint {
    /// Keeps the name of a zone where its number has one.
    fn from(addr: SocketAddr) -> Self {
        let zone = match addr {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => zone::name(v6.scope_id()),
            _ => None,
        };
        Self { addr, zone: zone.map(Arc::from) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "[{}%{zone}]:{}", self.addr.ip(), self.addr.port()),
            None => self.addr.fmt(f),
        }
    }
}

// === impl Resolver ===

impl Resolver {
    /// Looks `address` up and, if it is a name, repeats that at intervals.
    ///
    /// # Errors
    /// [`ResolveError::Failed`] if the first lookup fails, unless
    /// [`ResolveOptions::wait`] is set.
    pub async fn start(address: Address, options: ResolveOptions) -> Result<Self, ResolveError> {
        Self::start_with(address, options, Arc::new(|address| Box::pin(look_up_apart(address))))
            .await
    }

    async fn start_with(
        address: Address,
        options: ResolveOptions,
        lookup: Lookup,
    ) -> Result<Self, ResolveError> {
        let current = Arc::new(Current::default());
        let mut refresh = Refresh {
            address: address.clone(),
            current: Arc::clone(&current),
            lookup,
            every: options.every.filter(|_| !address.is_literal()),
            failing: false,
        };
        match refresh.ask().await {
            Ok(target) => current.set(target),
            Err(error) if options.wait => refresh.failed(&error),
            Err(error) => return Err(ResolveError::Failed { address, cause: error.into() }),
        }
        let again = refresh.pause().is_some();
        let task = again.then(|| {
            let following = restarting("the addresses of a name", move || refresh.clone().run());
            tokio::spawn(following).abort_handle()
        });
        Ok(Self { address, current, task })
    }

    /// Returns the last good answer.
    ///
    /// # Errors
    /// [`ResolveError::NotYet`] while waiting for the first one.
    pub fn current(&self) -> Result<Target, ResolveError> {
        self.current.get().ok_or_else(|| ResolveError::NotYet(self.address.clone()))
    }

    /// Returns the address as it was written.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

// === impl Refresh ===

impl Refresh {
    async fn run(mut self) {
        while let Some(pause) = self.pause() {
            sleep(pause).await;
            match self.ask().await {
                Ok(target) => self.succeeded(target),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Returns the time until the next look-up; `None` when there is no need for one.
    fn pause(&self) -> Option<Duration> {
        if self.current.get().is_none() { Some(RETRY) } else { self.every }
    }

    /// Looks the name up once. Awaited before the next look-up starts, so that a dead name server
    /// does not occupy one thread after another.
    async fn ask(&self) -> io::Result<Target> {
        (self.lookup)(self.address.clone()).await
    }

    fn succeeded(&mut self, target: Target) {
        if self.failing {
            info!(address = %self.address, "target resolves again");
        } else {
            debug!(address = %self.address, ?target, "target resolved");
        }
        self.failing = false;
        self.current.set(target);
    }

    fn failed(&mut self, error: &io::Error) {
        if self.failing {
            return;
        }
        self.failing = true;
        match self.current.get() {
            Some(_) => {
                warn!(address = %self.address, %error, "target no longer resolves; keeping its last addresses");
            }
            None => {
                warn!(address = %self.address, %error, "target does not resolve yet; retrying every second");
            }
        }
    }
}

// === impl Current ===

impl Current {
    fn get(&self) -> Option<Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, target: Target) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }
}

// === lookups, all blocking ===

fn look_up_target(address: &Address) -> io::Result<Target> {
    match address {
        Address::Tcp { host, port } => {
            let addrs = look_up(host, port)?;
            if addrs.iter().any(|addr| addr.port() == 0) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "port 0 cannot be dialled",
                ));
            }
            Ok(Target::Ips(addrs.into_iter().map(Endpoint::from).collect()))
        }
        Address::Unix(path) => Ok(Target::Unix(path.as_path().into())),
    }
}

/// Looks `address` up once, on a thread that may block.
///
/// # Errors
/// The resolver's.
pub async fn look_up_apart(address: Address) -> io::Result<Target> {
    if address.is_literal() {
        return look_up_target(&address);
    }
    blocking(move || look_up_target(&address)).await?
}

/// Returns all addresses of a host, each once, in the system's order of preference. Blocks for as
/// long as the system's resolver does.
///
/// # Errors
/// The resolver's, or `NotFound` for an unknown port name.
pub fn look_up(host: &str, port: &str) -> io::Result<Vec<SocketAddr>> {
    let port = port_number(port)?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    if let Some(found) = zone::literal(host, port) {
        return Ok(vec![found?]);
    }
    let mut addrs = Vec::new();
    for addr in (host, port).to_socket_addrs().map_err(service_files::explain)? {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addrs)
}

/// Returns the number of a port that is one, or that /etc/services names.
///
/// # Errors
/// `NotFound` for an unknown name.
pub fn port_number(port: &str) -> io::Result<u16> {
    if let Ok(number) = port.parse() {
        return Ok(number);
    }
    let services = std::fs::read(SERVICES)
        .map_err(|e| io::Error::new(e.kind(), format!("no port {port}: {SERVICES}: {e}")))?;
    port_named(port, &String::from_utf8_lossy(&services)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no TCP port {port} in {SERVICES}"))
    })
}

/// Finds a TCP port by name or alias in the text of /etc/services. The standard
/// library resolves hosts but no port names, and one line of awk's work is no
/// reason for a dependency.
fn port_named(name: &str, services: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let official = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?.parse().ok()?;
        (official == name || words.any(|alias| alias == name)).then_some(port)
    })
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
