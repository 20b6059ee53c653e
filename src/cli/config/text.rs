//! Turns TOML into settings: tables, keys and values as text, each with its line.
//!
//! Knows the tables of the file, but no flags.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use crate::cli::habits;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) line: usize,
}

impl Setting {
    /// Returns whether it accepts secrets that others can read.
    pub(super) fn accepts_others(&self) -> bool {
        self.key == "allow-readable-key" && self.value == Value::Switch(true)
    }
}

/// A value in the form of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `true` or `false`.
    Switch(bool),
    /// A text or number; several of an array; `NAME=VALUE` of a table.
    Words(Vec<String>),
}

/// Kind of a named table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// `[gates.NAME]`
    Gates,
    /// `[tunnels.NAME]`
    Tunnels,
    /// `[knockd.NAME]`
    Knockd,
    /// `[http.NAME]`
    Http,
    /// `[firewalls.NAME]`
    Firewalls,
}

impl Section {
    /// Returns the word for one of its tables.
    pub(super) fn one(self) -> &'static str {
        match self {
            Self::Gates => "gate",
            Self::Tunnels => "tunnel",
            Self::Knockd => "knockd",
            Self::Http => "http",
            Self::Firewalls => "firewall",
        }
    }

    /// Returns the key of its tables.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Gates => "gates",
            Self::Tunnels => "tunnels",
            Self::Knockd => "knockd",
            Self::Http => "http",
            Self::Firewalls => "firewalls",
        }
    }
}

/// A named table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) section: Section,
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) settings: Vec<Setting>,
}

impl Table {
    /// Returns its kind and name, as in "tunnel office".
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.section.one(), self.name)
    }
}

/// All tables of the file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// `[process]`
    pub(super) process: Vec<Setting>,
    /// `[keys]`: a name for each key file.
    pub(super) keys: Vec<Setting>,
    /// `[defaults]`: for every service that has such a flag.
    pub(super) defaults: Vec<Setting>,
    /// `[gates.NAME]`
    pub(super) gates: Vec<Table>,
    /// `[tunnels.NAME]`, `[knockd.NAME]`, `[http.NAME]`, `[firewalls.NAME]`
    pub(super) services: Vec<Table>,
}

/// Names at the top level.
const TABLES: [&str; 8] =
    ["process", "keys", "defaults", "gates", "tunnels", "knockd", "http", "firewalls"];

/// Tables and keys of the top level.
const TOP: &str = "[process], [keys], [defaults], [gates.NAME], [tunnels.NAME], [knockd.NAME], \
                   [http.NAME] and [firewalls.NAME]";

/// The variable with the directory of a service's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Prefix of a key file's name in that directory, where `LoadCredential=key:` loads the directory
/// of the keys. Without credentials it stands for the files themselves, so that a check of the file
/// reads the keys of the service.
const KEY: &str = "/key_";

/// The longest name.
const LONGEST_NAME: usize = 64;

impl Tables {
    /// Parses a file. `keys` is the directory of the key files of a service that gets them as
    /// credentials.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub(super) fn parse(text: &str, keys: &Path) -> Result<Self, ConfigError> {
        let reader = Reader { text, keys };
        let top = DeTable::parse(text).map_err(|error| reader.not_toml(&error))?;
        let mut tables = Self::default();
        for (key, value) in top.get_ref() {
            let line = reader.line(&key.span());
            match key.get_ref().as_ref() {
                "process" => tables.process = reader.settings(value)?,
                "keys" => tables.keys = reader.files(value)?,
                "defaults" => tables.defaults = reader.settings(value)?,
                "gates" => tables.gates = reader.named(Section::Gates, value)?,
                "tunnels" => tables.services.extend(reader.named(Section::Tunnels, value)?),
                "knockd" => tables.services.extend(reader.named(Section::Knockd, value)?),
                "http" => tables.services.extend(reader.named(Section::Http, value)?),
                "firewalls" => tables.services.extend(reader.named(Section::Firewalls, value)?),
                other => {
                    let near = habits::near(other, TABLES);
                    let near =
                        near.map_or_else(String::new, |near| format!("did you mean '{near}'? "));
                    let what =
                        format!("there is no table or key '{other}' here; {near}there are {TOP}");
                    return Err(ConfigError::new(line, what));
                }
            }
        }
        // The parser sorts by name; people look for the order of the file.
        tables.services.sort_by_key(|table| table.line);
        refuse_twins(&tables.services)?;
        Ok(tables)
    }
}

/// Refuses two services of one name: log lines, metrics and commands name them.
fn refuse_twins(services: &[Table]) -> Result<(), ConfigError> {
    let is_twin = |place: usize| {
        let table: &Table = &services[place];
        services[..place].iter().any(|earlier| earlier.name == table.name).then_some(table)
    };
    match (0..services.len()).find_map(is_twin) {
        Some(Table { name, line, .. }) => {
            let what = format!("there is another service called '{name}'; choose another name");
            Err(ConfigError::new(*line, what))
        }
        None => Ok(()),
    }
}

struct Reader<'a> {
    text: &'a str,
    keys: &'a Path,
}

type Node<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or_default();
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    fn not_toml(&self, error: &toml::de::Error) -> ConfigError {
        let line = error.span().map_or(1, |span| self.line(&span));
        let cause = error.message().replace('\n', ", ");
        ConfigError::new(
            line,
            format!("this is not TOML: {cause}; see docs/operating/configuration.md for examples"),
        )
    }

    /// Tables with names.
    fn named(&self, section: Section, node: &Node<'_>) -> Result<Vec<Table>, ConfigError> {
        let mut tables = vec![];
        for (key, value) in self.table(node)? {
            let name = key.get_ref().to_string();
            let line = self.line(&key.span());
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_plain) {
                let what = format!(
                    "'{name}' is not a name; use up to {LONGEST_NAME} letters, digits, '-', '_' and '.'"
                );
                return Err(ConfigError::new(line, what));
            }
            tables.push(Table { section, name, line, settings: self.settings(value)? });
        }
        Ok(tables)
    }

    fn settings(&self, node: &Node<'_>) -> Result<Vec<Setting>, ConfigError> {
        let mut settings = vec![];
        for (key, value) in self.table(node)? {
            let line = self.line(&key.span());
            let key = key.get_ref().to_string();
            settings.push(Setting { key, line, value: self.value(value)? });
        }
        Ok(settings)
    }

    /// Names of files, each a text.
    fn files(&self, node: &Node<'_>) -> Result<Vec<Setting>, ConfigError> {
        for (key, value) in self.table(node)? {
            if value.get_ref().as_str().is_none_or(str::is_empty) {
                let line = self.line(&key.span());
                let key = key.get_ref();
                let what = format!("'{key}' names no key file; write the path of one, as a text");
                return Err(ConfigError::new(line, what));
            }
        }
        self.settings(node)
    }

    fn table<'n, 't>(&self, node: &'n Node<'t>) -> Result<&'n DeTable<'t>, ConfigError> {
        let wrong = || {
            let line = self.line(&node.span());
            ConfigError::new(line, format!("a table has to stand here; there are {TOP}"))
        };
        node.get_ref().as_table().ok_or_else(wrong)
    }

    fn value(&self, node: &Node<'_>) -> Result<Value, ConfigError> {
        Ok(match node.get_ref() {
            DeValue::Boolean(switch) => Value::Switch(*switch),
            DeValue::Array(words) => {
                Value::Words(words.iter().map(|word| self.word(word)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(services) => {
                let mut words = vec![];
                for (name, value) in services {
                    let Value::Words(values) = self.value(value)? else {
                        return Err(self.odd(value));
                    };
                    let name = name.get_ref();
                    words.extend(values.iter().map(|value| format!("{name}={value}")));
                }
                Value::Words(words)
            }
            _ => Value::Words(vec![self.word(node)?]),
        })
    }

    fn word(&self, node: &Node<'_>) -> Result<String, ConfigError> {
        match node.get_ref() {
            DeValue::String(text) => self.filled_in(text, &node.span()),
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
            DeValue::Float(number) => Ok(number.as_str().to_owned()),
            _ => Err(self.odd(node)),
        }
    }

    fn odd(&self, node: &Node<'_>) -> ConfigError {
        let line = self.line(&node.span());
        let kind = node.get_ref().type_str();
        ConfigError::new(line, format!("a value cannot be a {kind} here; write a text or a number"))
    }

    /// Replaces `${NAME}` by the variable of that name.
    fn filled_in(&self, text: &str, span: &Range<usize>) -> Result<String, ConfigError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let mistake = |what| ConfigError::new(self.line(span), what);
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| mistake(format!("'${{' without '}}' in '{text}'; close it")))?;
            filled.push_str(before);
            rest = after;
            match (std::env::var(name), after.strip_prefix(KEY)) {
                (Ok(value), _) => filled.push_str(&value),
                (Err(_), Some(key)) if name == CREDENTIALS => {
                    filled.push_str(&self.keys.join("").to_string_lossy());
                    rest = key;
                }
                (Err(_), _) if name == CREDENTIALS => {
                    return Err(mistake(format!(
                        "the environment has no variable {name}, which only a unit with LoadCredential= has; write the \
                         path of the file itself, or set it to a directory with files of these names"
                    )));
                }
                (Err(_), _) => {
                    let what = "set it, or write a value";
                    return Err(mistake(format!("the environment has no variable {name}; {what}")));
                }
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }
}
