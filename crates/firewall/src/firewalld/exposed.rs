//! Obstacles in firewalld's zones: a zone that judges no packet, and zones that let all hosts in
//! to the ports.

use std::collections::HashMap;

use knockpipe_base::printable::printable;
use zbus::zvariant::OwnedValue;

use super::bus::Bus;
use crate::ports::Ports;

/// Finds it, each in one line.
pub(super) async fn find(bus: &Bus, zone: &str, ports: &Ports) -> zbus::Result<Vec<String>> {
    let default = bus.main.default_zone().await?;
    let mut active = bus.zone.active_zones().await?;
    active.entry(default.clone()).or_default();
    let mut lines = vec![];
    let name = printable(zone);
    match active.get(zone) {
        None => lines.push(format!(
            "zone {name} has no interface and no source, so that it judges no packet; run 'firewall-cmd --zone={name} --change-interface=INTERFACE'"
        )),
        Some(bound) => {
            let sources = bound.get("sources").filter(|sources| !sources.is_empty());
            if let Some(sources) = sources {
                lines.push(format!(
                    "zone {name} judges packets from {} only, and keeps no other host out; bind an interface to it for all hosts",
                    printable(&sources.join(", "))
                ));
            }
        }
    }
    let mut names: Vec<&String> = active.keys().collect();
    names.sort_unstable();
    for other in names {
        let settings = bus.zone.settings(other).await?;
        if let Some(what) = opens(bus, &settings, ports).await? {
            let other_name = printable(other);
            lines.push(match other == zone {
                true => format!(
                    "zone {name} itself lets every host in to {what}, after each reload of firewalld until the rules are made anew; remove that from it"
                ),
                false => format!(
                    "zone {other_name} lets every host in to {what}; remove that from it, or guard it as well with --firewalld-zone {other_name}"
                ),
            });
        }
    }
    Ok(lines)
}

/// Returns the first port that a zone opens, or what opens all.
async fn opens(
    bus: &Bus,
    settings: &HashMap<String, OwnedValue>,
    ports: &Ports,
) -> zbus::Result<Option<String>> {
    if settings.get("target").and_then(text).is_some_and(|target| target == "ACCEPT") {
        return Ok(Some("all ports".to_owned()));
    }
    let mut open = pairs(settings);
    let services = settings.get("services").and_then(|value| value.try_clone().ok());
    let services: Vec<String> =
        services.and_then(|value| value.try_into().ok()).unwrap_or_default();
    for service in services {
        open.extend(pairs(&bus.main.service_settings(&service).await?));
    }
    let hit = open.iter().find_map(|(port, protocol)| {
        let open = format!("{port}/{protocol}").parse::<Ports>().ok()?;
        let open = open.ranges().first()?;
        ports.ranges().iter().find(|range| {
            range.protocol == open.protocol && range.first <= open.last && open.first <= range.last
        })
    });
    Ok(hit.map(ToString::to_string))
}

/// Returns the ports of settings, with their protocols.
fn pairs(settings: &HashMap<String, OwnedValue>) -> Vec<(String, String)> {
    let ports = settings.get("ports").and_then(|value| value.try_clone().ok());
    ports.and_then(|value| value.try_into().ok()).unwrap_or_default()
}

fn text(value: &OwnedValue) -> Option<&str> {
    value.downcast_ref::<&str>().ok()
}
