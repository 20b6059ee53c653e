//! Takes over listening sockets that systemd made, so that clients can connect before this process
//! runs and while it restarts.
//!
//! [`Inherited::take_over`] claims all of them, once, while the process has a single thread: it
//! takes them out of the environment. Sockets for another process (`LISTEN_PID`) are left alone.
//! Only two kinds are taken: listening stream sockets (their files are systemd's and never
//! removed), and what the predecessor had systemd keep for this process.

use std::env;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use listenfd::ListenFd;
use socket2::Socket;

/// Sockets that systemd handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets by name.
    sockets: Vec<(String, Option<Socket>)>,
    /// The file that the predecessor had systemd keep, under [`KEPT`].
    kept: Option<File>,
}

/// Name of the descriptor that passes from process to process beside sockets, through systemd or a
/// handover; no socket has it.
pub const KEPT: &str = "first-messages";

/// The first descriptor that systemd hands over.
const FIRST: RawFd = 3;

/// Cause of a missing socket of a name.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// There is no socket at all.
    #[error(
        "systemd hands no sockets to this process, so there is no systemd:{0}; start it by its .socket unit, and in the foreground"
    )]
    Nothing(String),
    /// There are only others.
    #[error(
        "systemd hands over no socket of the name {name}, only {others}; give one of these, or set FileDescriptorName={name} in the .socket unit"
    )]
    OtherNames {
        /// The requested name.
        name: String,
        /// The existing names.
        others: String,
    },
    /// It is no listening stream socket.
    #[error(
        "systemd:{0} is not a stream socket that listens; the .socket unit needs ListenStream= and Accept=no"
    )]
    NoListener(String),
    /// No descriptors left.
    #[error("cannot use a socket of systemd's: {0}; raise the limit with ulimit -n")]
    Copy(io::Error),
}

impl Inherited {
    /// Takes everything that systemd handed to this process. Call it once, before any thread is
    /// started.
    pub fn take_over() -> Self {
        // Without this variable they could be another process's.
        let ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        if !ours {
            return Self::default();
        }
        // Read before the sockets, because taking these removes the variables.
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
        let mut inherited = Self::default();
        for (at, name) in (0..sockets.len()).zip(names) {
            if name == KEPT {
                inherited.kept = kept(at);
            } else {
                inherited.sockets.push((or_unknown(name), listener(&mut sockets, at)));
            }
        }
        inherited
    }

    /// Takes the file that the predecessor had systemd keep for this process. Works once.
    pub fn take_kept(&mut self) -> Option<OwnedFd> {
        self.kept.take().map(OwnedFd::from)
    }

    /// Returns the sockets called `name`, at least one. They stay here as well: systemd has
    /// them too, and a reload may ask for them again.
    ///
    /// # Errors
    /// [`ActivationError`]
    pub fn get(&self, name: &str) -> Result<Vec<OwnedFd>, ActivationError> {
        let found: Vec<_> = self.sockets.iter().filter(|(have, _)| have == name).collect();
        if found.is_empty() {
            return Err(match self.names().as_str() {
                "" => ActivationError::Nothing(name.to_owned()),
                others => {
                    ActivationError::OtherNames { name: name.to_owned(), others: others.to_owned() }
                }
            });
        }
        let no_listener = || ActivationError::NoListener(name.to_owned());
        let copy = |socket: &Option<Socket>| {
            let socket = socket.as_ref().ok_or_else(no_listener)?;
            Ok(OwnedFd::from(socket.try_clone().map_err(ActivationError::Copy)?))
        };
        found.into_iter().map(|(_, socket)| copy(socket)).collect()
    }

    /// Shares all sockets, each with its name, with a process that replaces this one in the
    /// service: systemd hands them to the first only.
    pub fn share(&self) -> impl Iterator<Item = io::Result<(&str, OwnedFd)>> {
        let there = self.sockets.iter().filter_map(|(name, socket)| Some((name, socket.as_ref()?)));
        there.map(|(name, socket)| Ok((name.as_str(), socket.try_clone()?.into())))
    }

    /// Takes sockets of [`Self::share`], unless systemd handed us some of that name.
    pub fn adopt(&mut self, shared: Vec<(String, OwnedFd)>) {
        let own: Vec<_> = self.sockets.iter().map(|(name, _)| name.clone()).collect();
        let new = shared.into_iter().filter(|(name, _)| !own.contains(name));
        self.sockets.extend(new.map(|(name, socket)| (name, Some(Socket::from(socket)))));
    }

    /// Lists the names of those sockets that are none of `used`, with commas.
    pub fn unused(&self, used: &[&str]) -> String {
        let names = self.sockets.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !used.contains(name)).collect::<Vec<_>>().join(", ")
    }

    fn names(&self) -> String {
        self.unused(&[])
    }
}

/// Opens the file of a descriptor again: the descriptor itself cannot be owned safely. `None` where
/// the system refuses.
fn kept(at: usize) -> Option<File> {
    let descriptor = FIRST.checked_add(RawFd::try_from(at).ok()?)?;
    let path = format!("/proc/self/fd/{descriptor}");
    OpenOptions::new().read(true).append(true).open(path).ok()
}

/// Replaces an empty name by systemd's word for it.
fn or_unknown(name: String) -> String {
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Returns the socket at a place, if it is a listening stream socket.
fn listener(sockets: &mut ListenFd, at: usize) -> Option<Socket> {
    let tcp = sockets.take_tcp_listener(at).ok().flatten().map(Socket::from);
    let socket = tcp.or_else(|| sockets.take_unix_listener(at).ok().flatten().map(Socket::from));
    socket.filter(|socket| socket.is_listener().unwrap_or(false))
}
