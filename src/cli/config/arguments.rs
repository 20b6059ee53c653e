//! A setting as arguments of a command, and an error about arguments as one about a setting.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::ConfigError;
use super::text::{Setting, Value};
use crate::cli::errors::one_line;
use crate::cli::variables;

/// Writes a setting as arguments.
pub(super) fn to_arguments(
    arg: &Arg,
    setting: &Setting,
    base: &Path,
) -> Result<Vec<OsString>, ConfigError> {
    let Setting { key, value, line } = setting;
    let takes_value = !matches!(arg.get_action(), ArgAction::SetTrue);
    match value {
        // A flag that may stand without its value.
        Value::Switch(on) if !takes_value || variables::may_be_bare(arg) => {
            Ok(if *on { vec![format!("--{key}").into()] } else { vec![] })
        }
        Value::Switch(_) => {
            Err(ConfigError::new(*line, format!("'{key}' is not a switch; write a value")))
        }
        Value::Words(_) if !takes_value => {
            Err(ConfigError::new(*line, format!("'{key}' is a switch; write true or false")))
        }
        Value::Words(words) => {
            let may_repeat = matches!(arg.get_action(), ArgAction::Append);
            if words.len() != 1 && !may_repeat {
                let remedy = match key.as_str() {
                    "service" => "write one, and a table [tunnels.NAME] for each further service",
                    _ => "write one",
                };
                return Err(ConfigError::new(*line, format!("'{key}' has one value; {remedy}")));
            }
            Ok(words.iter().map(|word| argument(arg, key, word, base)).collect())
        }
    }
}

fn argument(arg: &Arg, key: &str, word: &str, base: &Path) -> OsString {
    let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    let placed = |path: &str| base.join(path).into_os_string();
    let value = match word.strip_prefix("file:") {
        _ if is_path => placed(word),
        Some(path) if key == "gate" => {
            let mut value = OsString::from("file:");
            value.push(placed(path));
            value
        }
        _ => word.into(),
    };
    let mut argument = OsString::from(format!("--{key}="));
    argument.push(value);
    argument
}

/// Turns an error of `clap` into one with the line of the setting that it is about.
pub(super) fn blame(error: &clap::Error, command: &Command, settings: &[Setting]) -> ConfigError {
    let about = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let keys: Vec<&str> = about
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| word.split(['=', '<']).next().unwrap_or(word))
        .collect();
    if error.kind() == ErrorKind::MissingRequiredArgument {
        return ConfigError::of_table(format!("lacks {}; add it", keys.join(", ")));
    }
    let line = settings.iter().find(|setting| keys.contains(&&*setting.key));
    let first = settings.iter().map(|setting| setting.line).min().unwrap_or(1);
    let name = format!("knockpipe {}", command.get_name());
    let what = one_line(error, command, &name).to_string();
    ConfigError::new(line.map_or(first, |setting| setting.line), what)
}
