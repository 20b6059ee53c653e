//! The effective configuration, as a file that would have the same effect.
//!
//! There is nothing to hide in it: keys and passwords are in files of their own,
//! which are named and not read out.

use std::fmt::{self, Write};

use clap::{ArgAction, ArgMatches, Command};

use super::flags::{is_of_process, process_command, tunnel_command};
use super::{Args, Config, Tunnel};
use crate::tunnel::Options;

/// The process and all tunnels with all their values, also those that the file leaves out.
pub(in crate::cli) fn show(config: &Config, plan: &[Options]) -> String {
    let mut text = "[process]\n".to_owned();
    // Writing to a String cannot fail.
    let _ = values(&mut text, &process_command(), &config.process_values, |_| true);
    text.push('\n');
    for (tunnel, options) in config.tunnels.iter().zip(plan) {
        let _ = one(&mut text, tunnel, options);
    }
    text
}

fn one(text: &mut String, tunnel: &Tunnel, options: &Options) -> fmt::Result {
    let mode = match tunnel.args {
        Args::Encrypt(_) => "encrypt",
        Args::Decrypt(_) => "decrypt",
    };
    writeln!(text, "[tunnels.{}]", quoted_name(&tunnel.name))?;
    writeln!(text, "mode = {}", quoted(mode))?;
    let command = tunnel_command(mode).unwrap_or_default();
    values(text, &command, &tunnel.values, |long| !is_of_process(long))?;
    let ids: Vec<String> = options.keys.iter().map(|key| key.id().to_string()).collect();
    writeln!(text, "# ids of the keys: {}\n", ids.join(" "))
}

/// The flags of `command` that are wanted, as keys.
fn values(
    text: &mut String,
    command: &Command,
    all: &ArgMatches,
    is_wanted: impl Fn(&str) -> bool,
) -> fmt::Result {
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long().filter(|long| is_wanted(long)) else { continue };
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

/// A JSON string is a TOML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_name(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_owned() }
}
