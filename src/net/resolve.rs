//! From an [`Address`] to what can be dialled, now and every so often again.
//!
//! A [`Resolver`] always holds the last good answer: a name server that fails
//! for an hour costs a warning and not one connection. Nothing here waits for a
//! lookup on the way to a connection.

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
use crate::tasks::{blocking, lasting};

/// Pause between attempts while a name never resolved yet.
const RETRY: Duration = Duration::from_secs(1);

/// Where names of ports are defined.
const SERVICES: &str = "/etc/services";

/// What to dial. Cloning copies a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses in order of preference, at least one.
    Ips(Arc<[Endpoint]>),
    /// A unix stream socket.
    Unix(Arc<Path>),
}

/// An IP address to dial. The zone of a link-local address is kept by its name: an
/// interface that is made anew has another number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addr: SocketAddr,
    zone: Option<Arc<str>>,
}

/// How a [`Resolver`] keeps itself up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveOptions {
    /// Look names up again this often; `None` is never.
    pub every: Option<Duration>,
    /// Start although the name does not resolve, and retry every second.
    pub wait: bool,
}

/// Why there is nothing to dial.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name has no address.
    #[error("cannot resolve {address}: {cause}; correct the name, or check name service")]
    Failed {
        /// As it was written.
        address: Address,
        /// The words of the system's resolver.
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

/// The last good answer. Locked for as long as a pointer takes to copy.
#[derive(Debug, Default)]
struct Current(Mutex<Option<Target>>);

/// What the background task needs.
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
    /// The address with the number that its zone has now.
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

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.addr.is_ipv4()
    }
}

impl From<SocketAddr> for Endpoint {
    /// Where the number of a zone has a name, that is kept.
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
    /// Looks `address` up and, if it is a name, keeps doing so.
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
            let following = lasting("the addresses of a name", move || refresh.clone().run());
            tokio::spawn(following).abort_handle()
        });
        Ok(Self { address, current, task })
    }

    /// The last good answer.
    ///
    /// # Errors
    /// [`ResolveError::NotYet`] while waiting for the first one.
    pub fn current(&self) -> Result<Target, ResolveError> {
        self.current.get().ok_or_else(|| ResolveError::NotYet(self.address.clone()))
    }

    /// The address as it was written.
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

    /// Until the next lookup; `None` when there is no need for one.
    fn pause(&self) -> Option<Duration> {
        if self.current.get().is_none() { Some(RETRY) } else { self.every }
    }

    /// One lookup. Awaited before the next one starts, so that a dead name server
    /// cannot pile threads up.
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
                warn!(address = %self.address, %error, "target does not resolve any more; keeping its last addresses");
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

/// All addresses of a host, each once, in the system's order of preference.
/// Blocks for as long as the system's resolver does.
///
/// # Errors
/// The resolver's, or `NotFound` for a port name that nobody knows.
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

/// The number of a port that is one, or that /etc/services names.
///
/// # Errors
/// `NotFound` for a name that nobody knows.
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    fn name() -> Address {
        "db.example:6379".parse().unwrap()
    }

    fn ips(last: u8) -> Target {
        Target::Ips(Arc::new([SocketAddr::from(([192, 0, 2, last], 6379)).into()]))
    }

    /// Answers `script[n]` to lookup number `n`, and the last one from then on.
    fn scripted(script: &'static [Option<u8>]) -> (Lookup, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup = move |_: Address| -> Answer {
            let n = count.fetch_add(1, Ordering::SeqCst).min(script.len() - 1);
            let answer = script[n].map(ips).ok_or_else(|| io::Error::other("no such host"));
            Box::pin(std::future::ready(answer))
        };
        (Arc::new(lookup), asked)
    }

    fn every(seconds: u64, wait: bool) -> ResolveOptions {
        ResolveOptions { every: Some(Duration::from_secs(seconds)), wait }
    }

    async fn until(resolver: &Resolver, want: &Target) -> Duration {
        let start = Instant::now();
        while resolver.current().ok().as_ref() != Some(want) {
            assert!(start.elapsed() < Duration::from_secs(3600), "never became {want:?}");
            sleep(Duration::from_millis(100)).await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_is_kept() {
        let (lookup, asked) = scripted(&[Some(1), None, None, Some(2)]);
        let resolver = Resolver::start_with(name(), every(60, false), lookup).await.unwrap();
        while asked.load(Ordering::SeqCst) < 3 {
            assert_eq!(resolver.current().unwrap(), ips(1));
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(resolver.current().unwrap(), ips(1), "two failures later");
        until(&resolver, &ips(2)).await;
    }

    /// The addresses of a target are needed for ever.
    #[tokio::test(start_paused = true)]
    async fn a_name_is_followed_also_after_a_panic() {
        let asked = Arc::new(AtomicUsize::new(0));
        let lookup: Lookup = Arc::new(move |_| -> Answer {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            assert!(n == 0 || n > 3, "a mistake, made on purpose");
            Box::pin(std::future::ready(Ok(ips(if n == 0 { 1 } else { 2 }))))
        });
        let resolver = Resolver::start_with(name(), every(60, false), lookup).await.unwrap();
        assert_eq!(resolver.current().unwrap(), ips(1));
        until(&resolver, &ips(2)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_unresolvable_name_is_an_error_unless_waited_for() {
        let (lookup, _) = scripted(&[None]);
        let error = Resolver::start_with(name(), every(60, false), lookup).await.unwrap_err();
        assert!(error.to_string().contains("db.example:6379: no such host; "), "{error}");

        let (lookup, _) = scripted(&[None, None, None, Some(7)]);
        let options = ResolveOptions { every: None, wait: true };
        let resolver = Resolver::start_with(name(), options, lookup).await.unwrap();
        assert!(matches!(resolver.current(), Err(ResolveError::NotYet(_))));
        let took = until(&resolver, &ips(7)).await;
        assert!((2900..3300).contains(&took.as_millis()), "third retry, took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_twice_without_need() {
        let cases = [
            ("1.2.3.4:1", every(1, true)),
            ("db.example:1", ResolveOptions { every: None, wait: true }),
        ];
        for (text, options) in cases {
            let (lookup, asked) = scripted(&[Some(1)]);
            let address = text.parse().unwrap();
            let resolver = Resolver::start_with(address, options, lookup).await.unwrap();
            sleep(Duration::from_secs(1000)).await;
            assert_eq!(
                (asked.load(Ordering::SeqCst), resolver.task.is_none()),
                (1, true),
                "{text}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_its_resolver() {
        let (lookup, _) = scripted(&[Some(1)]);
        let resolver = Resolver::start_with(name(), every(1, false), lookup).await.unwrap();
        let current = Arc::downgrade(&resolver.current);
        drop(resolver);
        while current.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_real_resolver_knows_localhost_and_paths() {
        let start = |text: &str| Resolver::start(text.parse().unwrap(), every(60, false));
        let Target::Ips(addrs) = start("localhost:7").await.unwrap().current().unwrap() else {
            panic!("not IP addresses");
        };
        let addrs = addrs.iter().map(|addr| addr.now().unwrap());
        assert!(addrs.clone().all(|addr| addr.ip().is_loopback() && addr.port() == 7));
        assert!(addrs.len() > 0);
        let unix = start("/tmp/x").await.unwrap().current().unwrap();
        assert_eq!(unix, Target::Unix(Path::new("/tmp/x").into()));
        assert!(start("localhost:no-such-port").await.is_err());
        assert!(start("127.0.0.1:0").await.is_err(), "port 0 cannot be dialled");
    }

    #[test]
    fn an_address_comes_once() {
        let addrs = look_up("localhost", "80").unwrap();
        let mut unique = addrs.clone();
        unique.dedup();
        assert_eq!(addrs, unique);
    }

    #[test]
    fn zones_are_understood() {
        let addrs = look_up("fe80::1%lo", "80").unwrap();
        assert!(matches!(addrs[..], [SocketAddr::V6(v6)] if v6.scope_id() > 0), "{addrs:?}");
        let kept = Endpoint::from(addrs[0]);
        assert_eq!((kept.to_string().as_str(), kept.now().unwrap()), ("[fe80::1%lo]:80", addrs[0]));
        let error = look_up("fe80::1%no-such-zone", "80").unwrap_err().to_string();
        assert!(error.contains("no-such-zone"), "{error}");
    }

    #[test]
    fn port_names_come_from_services() {
        let text =
            "# comment\nwww 80/udp\nhttp\t80/tcp\twww web # World Wide Web\nredis 6379/tcp\n";
        assert_eq!(port_named("http", text), Some(80));
        assert_eq!(port_named("web", text), Some(80));
        assert_eq!(port_named("redis", text), Some(6379));
        assert_eq!(port_named("World", text), None);
        assert_eq!(port_named("#", text), None);
    }
}
