//! The part of firewalld's interface on D-Bus that is used. Nothing is started by a call.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;

use zbus::export::futures_core::Stream;
use zbus::fdo::DBusProxy;
use zbus::message::Type;
use zbus::names::BusName;
use zbus::zvariant::OwnedValue;
use zbus::{Connection, MatchRule, Message, MessageStream, connection, proxy};

/// Name of firewalld on the bus.
const NAME: &str = "org.fedoraproject.FirewallD1";

/// Signals that wait to be taken here; more wait at the bus.
const SIGNALS: usize = 64;

#[proxy(
    interface = "org.fedoraproject.FirewallD1",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1"
)]
pub(super) trait Main {
    #[zbus(name = "getDefaultZone")]
    fn default_zone(&self) -> zbus::Result<String>;
    #[zbus(name = "getServiceSettings2")]
    fn service_settings(&self, service: &str) -> zbus::Result<HashMap<String, OwnedValue>>;
    #[zbus(property(emits_changed_signal = "false"), name = "version")]
    fn version(&self) -> zbus::Result<String>;
}

#[proxy(
    interface = "org.fedoraproject.FirewallD1.zone",
    default_service = "org.fedoraproject.FirewallD1",
    default_path = "/org/fedoraproject/FirewallD1"
)]
pub(super) trait Zone {
    #[zbus(name = "getZones")]
    fn zones(&self) -> zbus::Result<Vec<String>>;
    #[zbus(name = "getActiveZones")]
    fn active_zones(&self) -> zbus::Result<HashMap<String, HashMap<String, Vec<String>>>>;
    #[zbus(name = "getZoneSettings2")]
    fn settings(&self, zone: &str) -> zbus::Result<HashMap<String, OwnedValue>>;
    #[zbus(name = "getRichRules")]
    fn rich_rules(&self, zone: &str) -> zbus::Result<Vec<String>>;
    #[zbus(name = "addRichRule")]
    fn add_rich_rule(&self, zone: &str, rule: &str, timeout: i32) -> zbus::Result<String>;
    #[zbus(name = "removeRichRule")]
    fn remove_rich_rule(&self, zone: &str, rule: &str) -> zbus::Result<String>;
}

/// Connections to the bus: one for calls and one for firewalld's signals. A connection reads on only
/// once its signals are taken, and they are not while a call waits for its answer.
pub(super) struct Bus {
    calls: Connection,
    pub(super) main: MainProxy<'static>,
    pub(super) zone: ZoneProxy<'static>,
    signals: MessageStream,
    owners: MessageStream,
}

/// A signal that concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// All rules may be gone: a reload, a new process, the end of one or of the bus.
    Anew,
    /// A rich rule of a zone was removed.
    Removed { zone: String, rule: String },
}

impl Bus {
    /// Connects to the system's bus, or the one at `address`.
    pub(super) async fn connect(address: Option<&str>) -> zbus::Result<Self> {
        let calls = open(address).await?;
        let listening = open(address).await?;
        let of_firewalld = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(NAME)?
            .path("/org/fedoraproject/FirewallD1")?
            .build();
        let of_the_bus = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")?
            .interface("org.freedesktop.DBus")?
            .member("NameOwnerChanged")?
            .arg(0, NAME)?
            .build();
        let stream = |rule| MessageStream::for_match_rule(rule, &listening, Some(SIGNALS));
        Ok(Self {
            main: MainProxy::new(&calls).await?,
            zone: ZoneProxy::new(&calls).await?,
            signals: stream(of_firewalld).await?,
            owners: stream(of_the_bus).await?,
            calls,
        })
    }

    /// Returns true if firewalld runs.
    pub(super) async fn is_there(&self) -> zbus::Result<bool> {
        let bus = DBusProxy::new(&self.calls).await?;
        Ok(bus.name_has_owner(BusName::try_from(NAME)?).await?)
    }

    /// Waits for the next signal that may concern us.
    pub(super) async fn signal(&mut self) -> Signal {
        loop {
            let message = tokio::select! {
                _ = next(&mut self.owners) => return Signal::Anew,
                message = next(&mut self.signals) => message,
            };
            let Some(Ok(message)) = message else { return Signal::Anew };
            if let Some(signal) = read(&message) {
                return signal;
            }
        }
    }
}

async fn open(address: Option<&str>) -> zbus::Result<Connection> {
    let builder = match address {
        None => connection::Builder::system()?,
        Some(address) => connection::Builder::address(address)?,
    };
    builder.build().await
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

fn read(message: &Message) -> Option<Signal> {
    let header = message.header();
    match header.member()?.as_str() {
        "Reloaded" => Some(Signal::Anew),
        "RichRuleRemoved" => {
            let body = message.body();
            let (zone, rule): (String, String) = body.deserialize().ok()?;
            Some(Signal::Removed { zone, rule })
        }
        _ => None,
    }
}
