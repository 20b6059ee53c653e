//! Finds tunnels that would dial themselves, by their sources and targets.
//!
//! Seen is what one command line or one file tells, with what names mean now. A chain
//! of tunnels is meant now and then (a relay, a tunnel in a tunnel), so only a circle is
//! refused: a client that came in would go round until all limits are reached. A circle
//! over several processes is noticed while it serves, by `src/tunnel/loops.rs`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::slice;

use super::errors::UsageError;
use crate::addr::{Address, ServiceName, Source};
use crate::net::{is_own, look_up, port_number};
use crate::service::ServiceOptions;
use crate::tunnel::{Options, Role};

/// A tunnel of a plan; for a decrypt end also one of its services.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop<'p> {
    tunnel: usize,
    service: &'p ServiceName,
}

/// Refuses a plan in which a connection comes back to where it was.
///
/// # Errors
/// [`UsageError::Ring`]
pub(super) fn refuse(plan: &[Options]) -> Result<(), UsageError> {
    let mut done: Vec<Stop<'_>> = vec![];
    for stop in plan.iter().enumerate().flat_map(|(tunnel, options)| stops(tunnel, options)) {
        let mut way = vec![];
        if let Some(ring) = follow(plan, &stop, &mut way, &mut done) {
            return Err(UsageError::Ring(ring));
        }
    }
    Ok(())
}

/// Refuses services of which tunnels bring a connection back to where it was.
///
/// # Errors
/// [`UsageError::Ring`]
pub(super) fn refuse_all(plan: &[ServiceOptions]) -> Result<(), UsageError> {
    let tunnels: Vec<Options> =
        plan.iter().filter_map(ServiceOptions::as_tunnel).cloned().collect();
    refuse(&tunnels)
}

/// Returns the plan of one tunnel.
///
/// # Errors
/// [`UsageError::Ring`]
pub(super) fn plan_of(options: Options) -> Result<Vec<ServiceOptions>, UsageError> {
    refuse(slice::from_ref(&options))?;
    Ok(vec![options.into()])
}

/// Lists the stops of a connection that arrives at a tunnel.
fn stops(tunnel: usize, options: &Options) -> Vec<Stop<'_>> {
    let mut stops: Vec<Stop<'_>> = match &options.role {
        Role::Encrypt { service, .. } => vec![Stop { tunnel, service }],
        Role::Decrypt { targets } => {
            targets.iter().map(|(service, _)| Stop { tunnel, service }).collect()
        }
    };
    stops.dedup();
    stops
}

/// Continues from `stop`, along a `way` of stops and the targets that they dial, until it comes
/// back.
fn follow<'p>(
    plan: &'p [Options],
    stop: &Stop<'p>,
    way: &mut Vec<(Stop<'p>, &'p Address)>,
    done: &mut Vec<Stop<'p>>,
) -> Option<String> {
    if let Some(first) = way.iter().position(|(earlier, _)| earlier == stop) {
        return Some(told(plan, &way[first..]));
    }
    if done.contains(stop) {
        return None;
    }
    for target in dialled(&plan[stop.tunnel], stop) {
        for next in reached(plan, stop, target) {
            way.push((stop.clone(), target));
            let ring = follow(plan, &next, way, done);
            way.pop();
            if ring.is_some() {
                return ring;
            }
        }
    }
    done.push(stop.clone());
    None
}

fn dialled<'p>(options: &'p Options, stop: &Stop<'p>) -> Vec<&'p Address> {
    match &options.role {
        Role::Encrypt { targets, .. } => targets.iter().collect(),
        Role::Decrypt { targets } => {
            let of_service = targets.iter().filter(|(service, _)| service == stop.service);
            of_service.map(|(_, target)| target).collect()
        }
    }
}

/// Returns the tunnels that accept a connection to `target`. A sealed one goes to the service that
/// it asks for; a sealed port accepts no plain connection, so that only a tunnel's own port is an
/// error there.
fn reached<'p>(plan: &'p [Options], stop: &Stop<'p>, target: &Address) -> Vec<Stop<'p>> {
    let from = &plan[stop.tunnel];
    let is_sealed = matches!(from.role, Role::Encrypt { .. });
    let listens = |options: &Options| {
        let mut sources = options.sources.iter().filter_map(Source::address);
        sources.any(|source| meets(target, source, from.wait_for_dns))
    };
    let mut found = vec![];
    for (tunnel, options) in plan.iter().enumerate().filter(|(_, options)| listens(options)) {
        found.extend(stops(tunnel, options).into_iter().filter(|next| match options.role {
            Role::Encrypt { .. } => true,
            Role::Decrypt { .. } if is_sealed => next.service == stop.service,
            Role::Decrypt { .. } => next == stop,
        }));
    }
    found
}

/// Writes `tunnel a -> 127.0.0.1:1 -> tunnel b -> ...`
fn told(plan: &[Options], ring: &[(Stop<'_>, &Address)]) -> String {
    let name = |stop: &Stop<'_>| match &plan[stop.tunnel].name {
        Some(name) => format!("tunnel {name}"),
        None => plan[stop.tunnel].role.mode().to_owned(),
    };
    let mut text = String::new();
    for (stop, target) in ring {
        text += &format!("{} -> -t {target} -> ", name(stop));
    }
    text + &name(&ring[0].0)
}

/// Returns whether a connection to `target` reaches a listener on `source`.
fn meets(target: &Address, source: &Address, waits: bool) -> bool {
    match (target, source) {
        (Address::Unix(one), Address::Unix(other)) => place(one) == place(other),
        (Address::Tcp { host: to, port }, Address::Tcp { host: at, port: own }) => {
            let is_same = match (port_number(port), port_number(own)) {
                (Ok(port), Ok(own)) => port == own && own != 0,
                _ => false,
            };
            // The same name is the same place, even if it does not resolve yet.
            is_same
                && (to == at || {
                    let to = addresses(to, waits);
                    let at = addresses(at, waits);
                    to.iter().any(|to| at.iter().any(|at| is_there(*to, *at)))
                })
        }
        _ => false,
    }
}

/// Returns whether a listener `at` this address gets connections `to` that one.
fn is_there(to: IpAddr, at: IpAddr) -> bool {
    let to = match to.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    match at.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => to.is_ipv4() && is_own(to),
        // It takes both kinds.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => is_own(to),
        at => at == to,
    }
}

/// Looks a host up, unless the tunnel may wait for it: that would delay the start.
fn addresses(host: &str, waits: bool) -> Vec<IpAddr> {
    if let Ok(ip) = host.parse() {
        return vec![ip];
    }
    if waits && host != "localhost" {
        return vec![];
    }
    let found = look_up(host, "1").unwrap_or_default();
    found.iter().map(std::net::SocketAddr::ip).collect()
}

/// Resolves the links in the path of a socket, which need not exist.
fn place(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match (absolute.parent().map(fs::canonicalize), absolute.file_name()) {
            (Some(Ok(directory)), Some(name)) => directory.join(name),
            _ => absolute,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_meet_whatever_they_are_called() {
        for (target, source) in [
            ("127.0.0.1:6379", "0.0.0.0:6379"),
            ("localhost:6379", "0.0.0.0:6379"),
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            ("no-such-name.invalid:6379", "no-such-name.invalid:6379"),
            ("[::1]:6379", "[::]:6379"),
            ("127.0.0.1:6379", "[::]:6379"),
            ("0.0.0.0:6379", "127.0.0.1:6379"),
            ("[::ffff:127.0.0.1]:6379", "127.0.0.1:6379"),
            ("/tmp/../tmp/a.sock", "/tmp/a.sock"),
        ] {
            assert!(meets(&address(target), &address(source), false), "{target}");
        }
        for (target, source) in [
            ("127.0.0.1:6379", "127.0.0.1:6380"),
            ("127.0.0.2:6379", "127.0.0.1:6379"),
            ("192.0.2.1:6379", "0.0.0.0:6379"),
            ("[::1]:6379", "0.0.0.0:6379"),
            ("no-such-name.invalid:6379", "0.0.0.0:6379"),
            ("/tmp/a.sock", "/tmp/b.sock"),
            ("127.0.0.1:6379", "127.0.0.1:0"),
        ] {
            assert!(!meets(&address(target), &address(source), false), "{target} {source}");
        }
    }
}
