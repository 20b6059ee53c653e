//! Messages to a service manager, in systemd's protocol: one datagram of `NAME=VALUE` lines for
//! each event, to the socket that `NOTIFY_SOCKET` names.
//!
//! Without that variable nothing is sent. A manager that does not listen delays nothing: a message
//! that cannot be sent within a second is lost, and the log says so. Nothing is sent on behalf of
//! another process.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::printable::printable;

/// Environment variables with the manager's settings for a process, except the one that names the
/// process.
const SETTINGS: [&str; 3] = ["NOTIFY_SOCKET", WATCHDOG, "FDSTORE"];

/// Variable with the microseconds of silence after which it ends the process.
const WATCHDOG: &str = "WATCHDOG_USEC";

/// Variable with the pid of the process that has to send watchdog messages.
pub const WATCHED: &str = "WATCHDOG_PID";

/// Longest time until a manager accepts a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// The manager that started this process, if it wants messages.
#[derive(Clone, Debug)]
pub struct Manager(Option<SocketAddr>);

impl Manager {
    /// Returns the manager that the environment names; an invalid name counts as none.
    pub fn from_environment() -> Self {
        Self(env::var_os("NOTIFY_SOCKET").and_then(|name| address(&name)))
    }

    /// Returns true if its socket is in the abstract namespace.
    pub fn is_abstract(&self) -> bool {
        self.0.as_ref().is_some_and(|address| address.as_abstract_name().is_some())
    }

    /// Reports that the process has started or reloaded successfully.
    pub async fn ready(&self, status: &str) {
        self.tell(&["READY=1", &status_line(status)]).await;
    }

    /// Reports that a reload has begun; [`Self::ready`] ends it.
    pub async fn reloading(&self) {
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from) else { return };
        self.tell(&["RELOADING=1", &format!("MONOTONIC_USEC={}", now.as_micros())]).await;
    }

    /// Makes it keep `what` for the next process, under `name`, if it keeps descriptors at all
    /// (`FDSTORE`).
    pub async fn keep(&self, name: &str, what: &impl AsFd) {
        let keeps = env::var("FDSTORE").is_ok_and(|most| most.parse::<u32>().is_ok_and(|n| n > 0));
        if keeps {
            // Otherwise it would keep both, and hand over both.
            self.tell(&["FDSTOREREMOVE=1", &format!("FDNAME={name}")]).await;
            let lines = ["FDSTORE=1", &format!("FDNAME={name}")].join("\n");
            self.send(lines.as_bytes(), Some(what)).await;
        }
    }

    /// Reports that the process is stopping.
    pub async fn stopping(&self, status: &str) {
        self.tell(&["STOPPING=1", &status_line(status)]).await;
    }

    /// Reports that another process of the service is its main process from now on: the end of this
    /// one is not the end of the service.
    pub async fn main_process_is(&self, pid: i32) {
        self.tell(&[&format!("MAINPID={pid}")]).await;
    }

    /// Reports that the polling runtime is alive and that others `answered`, twice in each watchdog
    /// period of the manager. Returns at once when it has none.
    pub async fn keep_watchdog_quiet<F: Future>(self, answered: impl Fn() -> F) {
        let Some(period) = watchdog_period() else { return };
        let mut ticks = interval(period / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            answered().await;
            self.tell(&["WATCHDOG=1"]).await;
        }
    }

    async fn tell(&self, lines: &[&str]) {
        self.send(lines.join("\n").as_bytes(), None::<&io::Stdin>).await;
    }

    async fn send(&self, message: &[u8], along: Option<&impl AsFd>) {
        let Some(address) = &self.0 else { return };
        let sent = timeout(PATIENCE, send(address, message, along)).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            warn!(%error, "cannot notify service manager");
        }
    }
}

/// Sends from a new socket: the manager may have recreated its own by the next message.
async fn send(to: &SocketAddr, message: &[u8], along: Option<&impl AsFd>) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(to)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixDatagram::from_std(socket)?;
    let along: Vec<_> = along.iter().map(|along| along.as_fd()).collect();
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !along.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&along)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let sent = sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::empty())?;
        if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    };
    socket.async_io(Interest::WRITABLE, send).await
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}

/// Makes a status line without line breaks.
fn status_line(status: &str) -> String {
    format!("STATUS={}", printable(status))
}

/// Returns the manager's variables, for another process that replaces the main one in the same
/// service. This process only controls the service, and gets no messages for itself.
pub fn settings() -> Vec<(String, String)> {
    let is_ours = |name: &str| name != WATCHDOG || watchdog_period().is_some();
    let own = |name: &str| Some((name.to_owned(), env::var(name).ok()?));
    let settings = SETTINGS.into_iter().filter(|name| is_ours(name)).filter_map(own);
    settings.filter(|(_, value)| !value.contains('\n')).collect()
}

/// Returns true if [`settings`] has a variable of that name.
pub fn is_setting(name: &str) -> bool {
    SETTINGS.contains(&name)
}

/// Returns the silence after which the manager ends this process.
fn watchdog_period() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours =
        env::var_os(WATCHED).is_none() || number(WATCHED) == Some(std::process::id().into());
    let period = number(WATCHDOG).filter(|micros| *micros > 1);
    period.filter(|_| is_ours).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages that a manager at `name` gets from `tell`.
    async fn messages_of(tell: impl AsyncFnOnce(Manager)) -> Vec<String> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        tell(Manager(address(path.as_os_str()))).await;
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).unwrap();
        str::from_utf8(&buffer[..len]).unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_reload_is_reported_with_the_time_that_systemd_compares() {
        let now = || clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap();
        let before = now();
        let lines = messages_of(async |manager| manager.reloading().await).await;
        assert_eq!((lines.len(), lines[0].as_str()), (2, "RELOADING=1"));
        let sent: u64 = lines[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        let sent = Duration::from_micros(sent + 1);
        assert!(before <= sent && sent <= now() + Duration::from_micros(1));
    }

    #[tokio::test]
    async fn a_status_is_one_line() {
        let lines = messages_of(async |manager| manager.ready("a\nSTOPPING=1").await).await;
        assert_eq!(lines, ["READY=1", "STATUS=a\\nSTOPPING=1"]);
    }

    #[test]
    fn an_address_is_a_path_or_abstract() {
        assert!(address(OsStr::new("/run/a")).unwrap().as_pathname().is_some());
        assert_eq!(address(OsStr::new("@a")).unwrap().as_abstract_name(), Some(&b"a"[..]));
        for none in ["", "vsock:2:1", "relative"] {
            assert!(address(OsStr::new(none)).is_none(), "{none}");
        }
    }
}
