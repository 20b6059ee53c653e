//! The flags of `knockd`, and their options.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use hyper::header::HeaderValue;
use nix::unistd::Uid;

use super::disguise_args::{DisguiseArgs, DisguiseError, Secretly};
use super::errors::UsageError;
use super::gate_args::StoreRuleArgs;
use super::key_cmd;
use super::knock_limit_args::{KNOCK, KnockLimitArgs};
use super::plain_args::PlainArgs;
use super::receive_knock_args::{DatagramAddress, KnockRuleArgs};
use super::tokens::read_tokens;
use super::tunnel_args::LIMITS;
use super::values::HandshakeLimit;
use super::verify_args::VerifyArgs;
use super::web_args::WebArgs;
use crate::knockd::tokens::Tokens;
use crate::knockd::{Options, Signed};
use crate::run::Failure;
use crate::web::ConnectionLimit;

/// `--allowed-origin`.
#[derive(Clone, Debug)]
struct Origin(HeaderValue);

/// A text that does not fit its flag.
#[derive(Debug, thiserror::Error)]
enum BadKnockdValue {
    /// Not an origin.
    #[error("'{0}' is not an origin; write https://HOST, with :PORT if it has one, or *")]
    Origin(String),
}

/// No `--tokens`, and no secret in their place.
#[derive(Debug, thiserror::Error)]
#[error(
    "--tokens is missing; add it: 'knockpipe knockd token new NAME --tokens FILE' makes the file"
)]
struct NoTokens;

impl From<NoTokens> for Failure {
    fn from(error: NoTokens) -> Self {
        Self::Usage(error.into())
    }
}

/// The flags of a service of knocks over HTTP.
#[derive(Debug, Args)]
pub(super) struct KnockdArgs {
    #[command(flatten)]
    pub(super) web: WebArgs,

    /// File of the tokens that may knock, which 'knockpipe knockd token' makes; read again on a
    /// reload
    #[arg(long, value_name = "FILE", help_heading = KNOCK)]
    tokens: Option<PathBuf>,

    /// Receive signed knocks as well, as 'decrypt --knock' does: UDP datagrams to this address under
    /// a key of -k; repeatable
    #[arg(long, value_name = "ADDR", requires = "keys", help_heading = KNOCK)]
    udp: Vec<DatagramAddress>,

    /// Key file of those who send signed knocks, or -; repeatable
    #[arg(short, long = "key", value_name = "FILE", requires = "udp", help_heading = KNOCK)]
    keys: Vec<PathBuf>,

    #[command(flatten)]
    rules: KnockRuleArgs,

    #[command(flatten)]
    limits: KnockLimitArgs,

    /// Origin of the web pages that may knock with a browser, or * for any
    /// [default: *]
    #[arg(long, value_name = "ORIGIN", help_heading = KNOCK)]
    allowed_origin: Option<Origin>,

    /// Serve the OpenAPI document at /openapi.json, for anybody
    #[arg(long, help_heading = KNOCK)]
    openapi: bool,

    #[command(flatten)]
    plain: PlainArgs,

    #[command(flatten)]
    verify: VerifyArgs,

    #[command(flatten)]
    disguise: DisguiseArgs,

    /// Connections at once; beyond it the source with most loses one
    #[arg(
        short = 'n', long, value_name = "N", default_value = "1024",
        allow_negative_numbers = true, help_heading = LIMITS
    )]
    max_sessions: HandshakeLimit,

    #[command(flatten)]
    pub(super) gate: StoreRuleArgs,
}

impl KnockdArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let own = self.tokens.iter().chain(&self.keys).chain(self.disguise.files());
        self.web.files().chain(self.gate.files()).chain(own).cloned().collect()
    }

    /// Returns the service that these arguments describe, by this name.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, or of the files that they name.
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
    ) -> Result<Options, Failure> {
        let connections = ConnectionLimit::Evict(Some(self.max_sessions.0));
        let gate = self.gate.options(self.web.access(user))?;
        let gate = gate.ok_or(UsageError::NoStore)?;
        let signed = self.signed(name.as_deref(), user)?;
        let gates = self.rules.gates(name.as_deref());
        let web = self.web.options(name, user, connections)?;
        let access = self.web.access(user);
        let secretly = self.disguise.options(web.name.as_deref(), &web.trusted_proxies, access)?;
        let (tokens, disguise) = match secretly {
            Some(Secretly { disguise, token }) => {
                self.refuse_endpoints()?;
                (Tokens::single(token), Some(disguise))
            }
            None => (self.tokens(user)?, None),
        };
        Ok(Options {
            plain: self.plain.options(&web)?,
            signed,
            rules: self.limits.rules(tokens, gates),
            disguise,
            excluded: Arc::new(self.verify.exclude_path.iter().cloned().collect()),
            web,
            gate,
            allowed_origin: match &self.allowed_origin {
                Some(Origin(origin)) => origin.clone(),
                None => HeaderValue::from_static("*"),
            },
            has_openapi: self.openapi,
        })
    }

    /// Refuses flags of endpoints that a service in disguise does not have.
    fn refuse_endpoints(&self) -> Result<(), DisguiseError> {
        let flags = [
            ("--tokens", self.tokens.is_some()),
            ("--openapi", self.openapi),
            ("--exclude-path", !self.verify.exclude_path.is_empty()),
            ("--allowed-origin", self.allowed_origin.is_some()),
            ("--knock-gate", self.udp.is_empty() && !self.rules.knock_gate.is_empty()),
        ];
        let given = flags.into_iter().find(|(_, given)| *given);
        given.map_or(Ok(()), |(flag, _)| Err(DisguiseError::Elsewhere(flag)))
    }

    /// Returns the receiver of signed knocks, where there is one.
    fn signed(&self, name: Option<&str>, user: Option<Uid>) -> Result<Option<Signed>, Failure> {
        if self.udp.is_empty() {
            // The names of the gate are those of knocks over HTTP as well.
            let mut rules = self.rules.clone();
            rules.knock_gate.clear();
            rules.refuse("--udp ADDR")?;
            return Ok(None);
        }
        let keys = key_cmd::ring(&self.keys, self.web.access(user))?;
        let addresses = self.udp.iter().map(|udp| udp.0.clone()).collect();
        let receiver = self.rules.options(addresses, name, &keys)?;
        Ok(Some(Signed { receiver, keys }))
    }

    fn tokens(&self, user: Option<Uid>) -> Result<Tokens, Failure> {
        // Not the parser's: `[defaults]` is parsed without it.
        let path = self.tokens.as_deref().ok_or(NoTokens)?;
        read_tokens(path, self.web.access(user))
    }
}

impl FromStr for Origin {
    type Err = BadKnockdValue;

    fn from_str(text: &str) -> Result<Self, BadKnockdValue> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_plain = |host: &str| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte))
        };
        let is_origin = text == "*" || host.is_some_and(is_plain);
        let value = HeaderValue::from_str(text).ok().filter(|_| is_origin);
        value.map(Self).ok_or_else(|| BadKnockdValue::Origin(text.to_owned()))
    }
}
