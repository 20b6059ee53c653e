//! Metrics as text, written from the registry for each scrape.
//!
//! Nothing is stored for it: a tunnel that is gone is missing from the next scrape. No label is an
//! address, a client or a key, so that a dashboard does not show who connects.
//! docs/operating/metrics.md lists every metric, and `tests/suite/metrics.rs` compares.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as Families;

use super::answers::unix;
use super::media_type::Form;
use super::registry::{Registry, TunnelView};
use super::text_format::plain;
use crate::gate::GateStatus;
use crate::observe::firewall::FirewallStatus;
use crate::observe::metrics::{ByReason, Timer};
use crate::observe::{HttpKnockResult, KnockReason, KnockResult, Meters};
use crate::reason::CloseReason;
use crate::service::Kind;
use crate::sys::nofile;
use crate::tunnel::{Level, PoolLevel, Status};
use crate::upstream::State;

/// Every stance of a gate.
const STANCES: [&str; 4] = ["fresh", "stale", "open", "closed"];

/// Writes the current metrics of the process.
pub(super) fn exposition(registry: &Registry, form: Form) -> String {
    let mut families = Families::with_prefix("knockpipe");
    families.register_collector(Box::new(MetricsSnapshot::of(registry)));
    let mut text = String::new();
    encode(&mut text, &families).expect("a string takes all that is written");
    match form {
        Form::Text => plain(&text),
        Form::OpenMetrics => text,
    }
}

/// The process at one moment.
struct MetricsSnapshot {
    tunnels: Vec<TunnelView>,
    process: Process,
}

/// Values of the process itself.
struct Process {
    started_s: f64,
    is_ready: bool,
    descriptors: Option<u64>,
    descriptor_limit: u64,
    reload: Option<LastReload>,
}

/// The last reload.
#[derive(Clone, Copy)]
struct LastReload {
    /// Unix seconds.
    at_s: f64,
    is_done: bool,
}

/// Name and help of a family of metrics.
#[derive(Clone, Copy)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
}

/// The labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// Writes families of metrics.
struct Writer<'a>(DescriptorEncoder<'a>);

impl MetricsSnapshot {
    fn of(registry: &Registry) -> Self {
        let reload = registry.last_reload();
        Self {
            tunnels: registry.tunnels(),
            process: Process {
                started_s: unix(registry.started.at).as_secs_f64(),
                is_ready: registry.ready().is_ok(),
                descriptors: nofile::used(),
                descriptor_limit: registry.descriptors,
                reload: reload.map(|last| LastReload {
                    at_s: unix(last.at).as_secs_f64(),
                    is_done: last.result.is_ok(),
                }),
            },
        }
    }
}

impl fmt::Debug for MetricsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsSnapshot").finish_non_exhaustive()
    }
}

impl Collector for MetricsSnapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        out.process(&self.process)?;
        out.levels(&self.tunnels)?;
        out.targets(&self.tunnels)?;
        out.connections(&self.tunnels)?;
        out.pool(&self.tunnels)?;
        out.sent_knocks(&self.tunnels)?;
        out.gate(&self.tunnels)?;
        out.firewall(&self.tunnels)?;
        out.knocks(&self.tunnels)
    }
}

impl Writer<'_> {
    fn process(&mut self, process: &Process) -> fmt::Result {
        let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
        let aead = if cfg!(feature = "aws-lc") { "aws-lc" } else { "rustcrypto" };
        let build = vec![(vec![version, ("aead", aead.to_owned())], ())];
        self.info("build", "The program", build)?;
        let alone = |value: f64| [(vec![], value)];
        let maybe = |value: Option<f64>| value.map(|value| (vec![], value));
        let Process { started_s, is_ready, descriptors, descriptor_limit, reload } = *process;
        self.gauge("start_time_seconds", "When it started, unix time", alone(started_s))?;
        self.gauge("ready", "Whether /readyz says so", alone(f64::from(u8::from(is_ready))))?;
        let open = maybe(descriptors.map(|open| open as f64));
        self.gauge("descriptors_open", "Open file descriptors", open)?;
        let limit = alone(descriptor_limit as f64);
        self.gauge("descriptors_limit", "File descriptors that may be open", limit)?;
        let at = maybe(reload.map(|last| last.at_s));
        self.gauge("reload_time_seconds", "When it was last reloaded, unix time", at)?;
        let done = maybe(reload.map(|last| f64::from(u8::from(last.is_done))));
        self.gauge("reload_success", "Whether the last reload was done", done)
    }

    fn levels(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let mode = |TunnelView { meters, status, .. }: &TunnelView| {
            (vec![tunnel(meters), ("mode", status.mode.to_owned())], ())
        };
        self.info("tunnel", "A tunnel and which end it is", tunnels.iter().map(mode))?;
        let listeners = tunnels.iter().map(|TunnelView { meters, status, .. }| {
            (vec![tunnel(meters)], status.listeners.len() as f64)
        });
        self.gauge("listeners", "Addresses that are listened on", listeners)?;
        let about = Family { name: "sessions", help: "Sessions" };
        self.level(tunnels, about, |status| Some(status.sessions))?;
        let about = Family { name: "handshakes", help: "Connections that have proven nothing" };
        self.level(tunnels, about, |status| Some(status.handshakes))?;
        let about = Family { name: "unopened", help: "Tunnels that wait to be opened" };
        self.level(tunnels, about, |status| status.unopened)
    }

    /// Writes targets by their place in the order: their addresses are private.
    fn targets(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let samples = tunnels.iter().flat_map(|TunnelView { meters, status, .. }| {
            status.targets.iter().filter_map(|target| {
                let state = target.state?.state;
                let service = ("service", target.service.to_string());
                let place = ("target", target.place.to_string());
                let is_up = f64::from(u8::from(state != State::Down));
                Some((vec![tunnel(meters), service, place], is_up))
            })
        });
        self.gauge("target_up", "Whether a target is taken for up", samples)
    }

    /// Writes the use of a limit: now, its peak so far, and the limit.
    fn level(
        &mut self,
        tunnels: &[TunnelView],
        Family { name, help: what }: Family<'_>,
        of: impl Fn(&Status) -> Option<Level>,
    ) -> fmt::Result {
        let mut part = |name: &str, help: &str, part: fn(Level) -> usize| {
            let levels = tunnels.iter().filter_map(|TunnelView { meters, status, .. }| {
                Some((vec![tunnel(meters)], part(of(status)?) as f64))
            });
            self.gauge(name, help, levels)
        };
        part(name, &format!("{what} now"), |level| level.now)?;
        part(&format!("{name}_most"), &format!("Peak of {}", what.to_lowercase()), |level| {
            level.most
        })?;
        part(&format!("{name}_limit"), &format!("{what} that there may be"), |level| level.limit)
    }

    fn connections(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let count = |of: fn(&Meters) -> u64| {
            tunnels.iter().map(move |view| (vec![tunnel(&view.meters)], of(&view.meters)))
        };
        let accepted = count(|meters| meters.accepted.get());
        self.counter("connections_accepted", "Connections accepted", accepted)?;
        let closed = by_reason(tunnels, |meters| &meters.closed);
        self.counter("connections_closed", "Connections with a line 'closed'", closed)?;
        let refused = by_reason(tunnels, |meters| &meters.refused);
        self.counter("connections_refused", "Connections counted in a line 'refused'", refused)?;
        let bytes = tunnels.iter().flat_map(|view| {
            let (sent, received) = view.meters.bytes();
            [("sent", sent), ("received", received)].map(|(direction, bytes)| {
                (vec![tunnel(&view.meters), ("direction", direction.to_owned())], bytes)
            })
        });
        self.counter(
            "bytes",
            "Stream bytes; sent is from the plain side to the sealed one",
            bytes,
        )?;
        let ratchets = count(|meters| meters.ratchets.get());
        self.counter("key_ratchets", "Record keys replaced, in ended sessions", ratchets)?;
        let about =
            Family { name: "handshake_seconds", help: "Duration of handshakes that succeeded" };
        self.timer(tunnels, about, |meters| &meters.handshake)?;
        let about = Family { name: "dial_seconds", help: "Duration of dials that succeeded" };
        self.timer(tunnels, about, |meters| &meters.dial)?;
        let about = Family { name: "gate_seconds", help: "Duration of the gate's decisions" };
        self.timer(tunnels, about, |meters| &meters.gate)
    }

    fn pool(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let pools = || {
            let with_pool = |view: &'_ TunnelView| Some((view.meters.clone(), view.status.pool?));
            tunnels.iter().filter_map(with_pool)
        };
        let gauge = |of: fn(PoolLevel) -> usize| {
            pools().map(move |(meters, pool)| (vec![tunnel(&meters)], of(pool) as f64))
        };
        self.gauge("pool_warm", "Warm tunnels now", gauge(|pool| pool.ready))?;
        self.gauge("pool_size", "Warm tunnels that there should be", gauge(|pool| pool.size))?;
        let count = |of: fn(&Meters) -> u64| {
            pools().map(move |(meters, _)| (vec![tunnel(&meters)], of(&meters)))
        };
        let taken = count(|meters| meters.pool.taken.get());
        self.counter("pool_taken", "Clients that got a warm tunnel", taken)?;
        let missed = count(|meters| meters.pool.missed.get());
        self.counter("pool_missed", "Clients that found no warm tunnel", missed)?;
        let failed = count(|meters| meters.pool.failed.get());
        self.counter("pool_failed", "Warm tunnels that could not be made or were ended", failed)
    }

    fn sent_knocks(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let knocking = || tunnels.iter().filter(|view| view.status.is_knocking);
        let sent = knocking().flat_map(|view| {
            KnockReason::ALL.map(|reason| {
                let labels = vec![tunnel(&view.meters), ("reason", reason.as_str().to_owned())];
                (labels, view.meters.sent_knocks.get(reason))
            })
        });
        self.counter("knocks_sent", "Knocks sent to far ends", sent)?;
        let failed = knocking()
            .map(|view| (vec![tunnel(&view.meters)], view.meters.sent_knocks.failed.get()));
        self.counter("knocks_unsent", "Knocks that did not leave this host", failed)
    }

    fn gate(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let gates: Vec<(&Meters, GateStatus)> = tunnels
            .iter()
            .filter_map(|view| Some((&*view.meters, view.status.gate.clone()?)))
            .collect();
        let stances = gates.iter().flat_map(|(meters, gate)| {
            STANCES.map(|stance| {
                let holds = f64::from(u8::from(gate.policy.as_str() == stance));
                (vec![tunnel(meters), ("stance", stance.to_owned())], holds)
            })
        });
        self.gauge("gate_stance", "1 for what the store's word counts for now", stances)?;
        let gauge = |of: fn(&GateStatus) -> usize| {
            gates.iter().map(move |(meters, gate)| (vec![tunnel(meters)], of(gate) as f64))
        };
        let addresses = gauge(|gate| gate.counts.addresses);
        self.gauge("gate_addresses", "Addresses in the allow-set", addresses)?;
        let networks = gauge(|gate| gate.counts.networks);
        self.gauge("gate_networks", "Networks in the allow-set", networks)?;
        self.gauge("gate_bans", "Banned addresses", gauge(|gate| gate.counts.bans))?;
        let read = gates.iter().filter_map(|(meters, gate)| {
            Some((vec![tunnel(meters)], gate.since_read?.as_secs_f64()))
        });
        self.gauge("gate_read_age_seconds", "Time since the store was last read", read)?;
        let count = |of: fn(&GateStatus) -> u64| {
            gates.iter().map(move |(meters, gate)| (vec![tunnel(meters)], of(gate)))
        };
        self.counter("gate_denied", "Connections not let in", count(|gate| gate.denied))?;
        self.counter(
            "gate_revoked",
            "Connections cut after their permit was revoked",
            count(|g| g.revoked),
        )?;
        self.counter("gate_strikes", "Failed handshakes noted", count(|gate| gate.strikes))?;
        self.counter("gate_bans_made", "Bans made of strikes", count(|gate| gate.bans_made))
    }

    fn firewall(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let all: Vec<(&Meters, FirewallStatus)> = tunnels
            .iter()
            .filter_map(|view| Some((&*view.meters, view.status.firewall.clone()?)))
            .collect();
        let gauge = |of: fn(&FirewallStatus) -> Option<f64>| {
            all.iter().filter_map(move |(meters, it)| Some((vec![tunnel(meters)], of(it)?)))
        };
        let in_step = gauge(|it| Some(f64::from(u8::from(it.trouble.is_none()))));
        self.gauge("firewall_in_step", "Whether the firewall is as it should be", in_step)?;
        let entries = gauge(|it| Some(it.entries as f64));
        self.gauge("firewall_entries", "Addresses and networks that it lets in", entries)?;
        let success = gauge(|it| it.last_success.map(|at| unix(at).as_secs_f64()));
        self.gauge("firewall_success_time_seconds", "When it last was, unix time", success)?;
        let count = |of: fn(&FirewallStatus) -> u64| {
            all.iter().map(move |(meters, it)| (vec![tunnel(meters)], of(it)))
        };
        self.counter("firewall_steps", "Changes of entries", count(|it| it.steps))?;
        let repairs = count(|it| it.repairs);
        self.counter("firewall_repairs", "Entries that others had changed", repairs)?;
        self.counter("firewall_errors", "Attempts that failed", count(|it| it.errors))
    }

    fn knocks(&mut self, tunnels: &[TunnelView]) -> fmt::Result {
        let receiving = || tunnels.iter().filter(|view| view.status.knock_listeners.is_some());
        let listeners = receiving().map(|TunnelView { meters, status, .. }| {
            (vec![tunnel(meters)], status.knock_listeners.as_ref().map_or(0, Vec::len) as f64)
        });
        self.gauge("knock_listeners", "Addresses that knocks are read from", listeners)?;
        let results = receiving().flat_map(|TunnelView { meters, .. }| {
            KnockResult::ALL.map(|result| {
                let labels = vec![tunnel(meters), ("result", result.as_str().to_owned())];
                (labels, meters.received_knocks.get(result))
            })
        });
        self.counter("knocks", "Datagrams that arrived for knocks, and failed renewals", results)?;
        let over_http = || tunnels.iter().filter(|view| view.kind.is_web());
        let results = over_http().flat_map(|TunnelView { meters, .. }| {
            HttpKnockResult::ALL.map(|result| {
                let labels = vec![tunnel(meters), ("result", result.as_str().to_owned())];
                (labels, meters.http_knocks.get(result))
            })
        });
        self.counter("http_knocks", "Knocks over HTTP, by what became of them", results)?;
        let requests = over_http().flat_map(|TunnelView { meters, .. }| {
            let labels = |class: &str| vec![tunnel(meters), ("status", class.to_owned())];
            meters.http_requests.all().map(move |(class, count)| (labels(class), count))
        });
        self.counter("http_requests", "Requests over HTTP, by class of status", requests)?;
        let askers = tunnels.iter().filter(|view| view.kind == Kind::Knockd);
        let verified = askers.flat_map(|TunnelView { meters, .. }| {
            let labels = |result: &str| vec![tunnel(meters), ("result", result.to_owned())];
            meters.verified.all().map(move |(result, count)| (labels(result), count))
        });
        self.counter("verify", "Questions of proxies, by their answer", verified)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(Family { name, help }, MetricType::Gauge, samples)
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(Family { name, help }, MetricType::Counter, samples)
    }

    fn info(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, ())>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, ())| (vec![], Info::new(labels)));
        self.family(Family { name, help }, MetricType::Info, samples)
    }

    fn timer(
        &mut self,
        tunnels: &[TunnelView],
        about: Family<'_>,
        of: fn(&Meters) -> &Timer,
    ) -> fmt::Result {
        let samples = tunnels
            .iter()
            .map(|view| (vec![tunnel(&view.meters)], of(&view.meters).histogram().clone()));
        self.family(about, MetricType::Histogram, samples)
    }

    /// Writes a family, also without samples, so that every possible family is listed.
    fn family<M: EncodeMetric>(
        &mut self,
        about: Family<'_>,
        kind: MetricType,
        samples: impl Iterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let Family { name, help } = about;
        let mut family: MetricEncoder<'_> = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in samples {
            if labels.is_empty() {
                // A single sample: empty braces would make it another series to some readers.
                return metric.encode(family);
            }
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn tunnel(meters: &Meters) -> (&'static str, String) {
    ("tunnel", meters.tunnel().to_owned())
}

/// Lists every reason, also those that did not occur: a counter that starts at zero shows its first
/// increase.
fn by_reason(
    tunnels: &[TunnelView],
    of: fn(&Meters) -> &ByReason,
) -> impl Iterator<Item = (Labels, u64)> {
    tunnels.iter().flat_map(move |view| {
        let meters = Arc::clone(&view.meters);
        CloseReason::ALL.into_iter().map(move |reason| {
            let labels = vec![tunnel(&meters), ("reason", reason.as_str().to_owned())];
            (labels, of(&meters).get(reason))
        })
    })
}
