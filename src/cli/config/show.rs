//! The effective configuration, as a file that would have the same effect: the resulting settings
//! of each service. A flag that it does not name has the default that `--help` shows.
//!
//! It contains no secrets: keys and passwords are in separate files, which are named and not shown.

use std::fmt::{self, Write};

use clap::{ArgAction, ArgMatches, Command};

use super::text::Section;
use super::{Config, ServiceTable};
use crate::printable::printable_toml;
use crate::service::ServiceOptions;

/// Shows the process and all services, with the settings from their gates and the defaults.
pub(in crate::cli) fn show(config: &Config, plan: &[ServiceOptions]) -> String {
    let mut text = "[process]\n".to_owned();
    // Writing to a String cannot fail.
    let _ = values(&mut text, &config.flags.process, &config.process_values);
    text.push('\n');
    for (service, options) in config.services.iter().zip(plan) {
        let _ = one(&mut text, config, service, options);
    }
    for unused in &config.unused {
        let _ = writeln!(text, "# no tunnel uses {} of line {}", unused.what, unused.line);
    }
    text
}

fn one(
    text: &mut String,
    config: &Config,
    service: &ServiceTable,
    options: &ServiceOptions,
) -> fmt::Result {
    let name = service.args.command();
    writeln!(text, "[{}.{}]", service.section.key(), quoted_name(&service.name))?;
    if service.section == Section::Tunnels {
        writeln!(text, "mode = {}", quoted(name))?;
    }
    if let Some(command) = config.flags.of_command(name) {
        values(text, command, &service.values)?;
    }
    if let Some(keys) = options.keys() {
        let ids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
        writeln!(text, "# ids of the keys: {}", ids.join(" "))?;
    }
    writeln!(text)
}

/// Writes the flags of `command` as keys.
fn values(text: &mut String, command: &Command, all: &ArgMatches) -> fmt::Result {
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        let values = all.get_raw(arg.get_id().as_str());
        let values: Vec<String> =
            values.into_iter().flatten().map(|value| quoted(&value.to_string_lossy())).collect();
        match (arg.get_action(), &values[..]) {
            (ArgAction::SetTrue, _) if all.get_flag(arg.get_id().as_str()) => {
                writeln!(text, "{long} = true")?;
            }
            (ArgAction::SetTrue, _) | (_, []) => {}
            (ArgAction::Append, all) => writeln!(text, "{long} = [{}]", all.join(", "))?,
            (_, all) => writeln!(text, "{long} = {}", all.join(", "))?,
        }
    }
    Ok(())
}

/// Quotes a text for TOML, where a JSON string is a string too.
fn quoted(text: &str) -> String {
    printable_toml(&serde_json::Value::from(text).to_string()).into_owned()
}

fn quoted_name(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_owned() }
}
