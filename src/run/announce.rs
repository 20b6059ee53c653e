//! The first lines of a service in the log: its addresses, targets, limits and keys.

use std::sync::Arc;

use tracing::field::display;
use tracing::{info, warn};

use crate::addr::{Address, ServiceName};
use crate::firewall;
use crate::knockd::{self, KnockRules};
use crate::net::AsyncListener;
use crate::observe::Pairs;
use crate::service::{self, Kind, ServiceOptions};
use crate::tunnel::{Capacity, ConfigWarning, Options, Role};
use crate::web::{self, WebOptions};

/// Logs the settings of a service that starts, and suspicious ones as warnings.
pub(super) fn announce(
    options: &ServiceOptions,
    capacity: service::Capacity,
    listeners: &[&Arc<AsyncListener>],
    knocks: &[String],
) {
    capacity.warn_if_less_than(options);
    let tunnel = options.name().map(|name| &**name);
    for address in knocks {
        info!(tunnel, address, "listening for knocks");
    }
    if let ServiceOptions::Tunnel(options) = options {
        options.warnings.iter().for_each(|warning| log_warning(tunnel, warning));
    }
    options.web().iter().for_each(|options| warn_of_proxies(options));
    match options {
        ServiceOptions::Firewall(_) => {}
        ServiceOptions::Knockd(options) => {
            warn_of_excluded(tunnel, options);
            warn_of_rules(tunnel, &options.rules);
        }
        ServiceOptions::Http(options) => {
            options.page.iter().for_each(|page| warn_of_rules(tunnel, &page.rules));
        }
        ServiceOptions::Tunnel(_) => {}
    }
    for listener in listeners {
        info!(tunnel, address = listener.local(), "listening");
    }
    match (options, capacity) {
        (ServiceOptions::Tunnel(options), service::Capacity::Tunnel(capacity)) => {
            announce_tunnel(options, capacity);
        }
        (_, service::Capacity::Web(capacity)) => {
            options.web().iter().for_each(|web| announce_web(options.kind(), web, capacity));
        }
        (ServiceOptions::Firewall(options), _) => announce_firewall(options),
        (_, service::Capacity::Tunnel(_) | service::Capacity::None) => {}
    }
}

/// Warns where nearly every peer is believed about the address that it is judged by.
fn warn_of_proxies(options: &WebOptions) {
    if let Some(net) = options.trusted_proxies.widest() {
        warn!(
            tunnel = options.name.as_deref(), flag = "--trusted-proxies", %net,
            detail = "name the addresses of the proxies alone",
            "any client is a trusted proxy, and so chooses the address that it is judged by"
        );
    }
}

/// Warns where proxies let everybody through.
fn warn_of_excluded(tunnel: Option<&str>, options: &knockd::Options) {
    if options.excluded.cover_all() {
        warn!(
            tunnel,
            flag = "--exclude-path",
            detail = "name the paths that need no knock",
            "every path is excluded, so that proxies let everybody through to everything"
        );
    }
}

/// Warns where everybody may guess for ever.
fn warn_of_rules(tunnel: Option<&str>, rules: &KnockRules) {
    if rules.failures.most == 0 {
        warn!(
            tunnel,
            flag = "--most-failures",
            detail = "leave it out, or give a limit such as 30/60s",
            "nobody is locked out, however many wrong tokens they send"
        );
    }
}

fn announce_web(kind: Kind, options: &WebOptions, capacity: web::Capacity) {
    info!(
        tunnel = options.name.as_deref(),
        mode = kind.as_str(),
        tls = options.tls.is_some(),
        connections = capacity.connections(options),
        descriptors = capacity.descriptors,
        timeout_s = options.timeout.as_secs_f64(),
        "ready"
    );
}

fn announce_firewall(options: &firewall::Options) {
    info!(
        tunnel = options.name.as_deref(),
        mode = "firewall",
        backend = options.backend.name(),
        place = options.backend.place(),
        ports = %options.backend.ports(),
        "ready"
    );
}

fn announce_tunnel(options: &Options, capacity: Capacity) {
    let tunnel = options.name.as_deref();
    let keys: Vec<String> = options.keys.iter().map(|key| key.id().to_string()).collect();
    let keys = keys.join(" ");
    let Capacity { sessions, handshakes, unopened, descriptors, .. } = capacity;
    let padding = display(options.padding);
    let timeout_s = options.timeout.as_secs_f64();
    match &options.role {
        Role::Encrypt { targets, service, .. } => {
            let target = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let service = (!service.is_empty()).then(|| display(service));
            info!(
                tunnel,
                mode = "encrypt",
                target,
                service,
                sessions,
                pool = unopened,
                descriptors,
                timeout_s,
                padding,
                keys,
                "ready"
            );
        }
        Role::Decrypt { targets } => {
            let targets = by_service(targets);
            info!(
                tunnel,
                mode = "decrypt",
                targets = targets.field(),
                sessions,
                handshakes,
                unopened,
                descriptors,
                timeout_s,
                padding,
                keys,
                "ready"
            );
        }
    }
}

fn log_warning(tunnel: Option<&str>, warning: &ConfigWarning) {
    match warning {
        ConfigWarning::WideRule { flag, net } => warn!(
            tunnel, flag, %net,
            "a rule is wider than /16 (IPv6: /64); check that this is intended"
        ),
        ConfigWarning::StoreIsTarget => warn!(
            tunnel,
            detail = "give the gate a Redis of its own, or the clients an ACL user that may not write its keys",
            "gate store is also the target, so any admitted client can change the gate"
        ),
        ConfigWarning::LocalClients { target } => warn!(
            tunnel, %target,
            detail = "check that its localhost accounts are useless to them, or dial a loopback target from another address: -b 127.0.0.2",
            "clients without an announced address are localhost to the target"
        ),
    }
}

/// Groups the targets by their service, in the order in which they were given.
fn by_service(targets: &[(ServiceName, Address)]) -> Pairs {
    let mut services: Vec<(&ServiceName, Vec<String>)> = vec![];
    for (service, address) in targets {
        match services.iter_mut().find(|(name, _)| *name == service) {
            Some((_, addresses)) => addresses.push(address.to_string()),
            None => services.push((service, vec![address.to_string()])),
        }
    }
    Pairs::new(services)
}
