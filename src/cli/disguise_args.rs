//! The flags of `knockd` about the disguised knock, and their options.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::values;
use crate::duration;
use crate::http::{ClientRules, TrustedProxies, X_FORWARDED_FOR};
use crate::knockd::tokens::{DEFAULT_MAX_TTL, Token, TokenHash, disguise_name};
use crate::knockd::{Answers, Disguise};
use crate::run::Failure;
use crate::sys::credentials;
use crate::sys::keyfile::Access;

/// Heading of the flags about the disguise.
const DISGUISE: &str = "Disguise";

/// Type of the bodies unless `--disguise-content-type` says otherwise.
const DEFAULT_TYPE: HeaderValue = HeaderValue::from_static("text/html; charset=UTF-8");

/// Least number of bytes of a secret.
const SHORTEST_SECRET: usize = 8;

/// A disguised knock.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct DisguiseArgs {
    /// Answer everything alike, and let in who asks for this path with the secret in a header; the
    /// service has no other endpoint then
    #[arg(long, value_name = "PATH", help_heading = DISGUISE)]
    disguise: Option<KnockPath>,

    /// File with the secret in its first line
    #[arg(long, value_name = "FILE", help_heading = DISGUISE)]
    disguise_secret: Option<PathBuf>,

    /// Header with the secret [default: Referer]
    #[arg(
        long, value_name = "NAME", value_parser = values::header_name, help_heading = DISGUISE
    )]
    disguise_secret_header: Option<HeaderName>,

    /// Header with the label of the entry [default: Location]
    #[arg(
        long, value_name = "NAME", value_parser = values::header_name, help_heading = DISGUISE
    )]
    disguise_label_header: Option<HeaderName>,

    /// Header in which --trusted-proxies tell the client's address, before X-Forwarded-For; give
    /// it only if they set it themselves [default: none]
    #[arg(
        long, value_name = "NAME", value_parser = values::header_name, help_heading = DISGUISE
    )]
    disguise_address_header: Option<HeaderName>,

    /// Header in which who knows the secret names the address to let in [default: none, the
    /// client's own]
    #[arg(
        long, value_name = "NAME", value_parser = values::header_name, help_heading = DISGUISE
    )]
    disguise_claim_header: Option<HeaderName>,

    /// Lifetime of an entry [default: 12h]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse,
        allow_hyphen_values = true, help_heading = DISGUISE
    )]
    disguise_ttl: Option<Duration>,

    /// Status of all answers [default: 500]
    #[arg(long, value_name = "CODE", help_heading = DISGUISE)]
    disguise_status: Option<Status>,

    /// Type of the bodies [default: text/html; charset=UTF-8]
    #[arg(
        long, value_name = "TYPE", value_parser = values::header_value, help_heading = DISGUISE
    )]
    disguise_content_type: Option<HeaderValue>,

    /// Body of all answers [default: the status and its name]
    #[arg(long, value_name = "TEXT", help_heading = DISGUISE)]
    disguise_body: Option<String>,

    /// Another body for a knock that let an address in, once the store has the entry [default: the
    /// same]
    #[arg(long, value_name = "TEXT", help_heading = DISGUISE)]
    disguise_success: Option<String>,
}

/// A disguise with its secret.
pub(super) struct Secretly {
    pub(super) disguise: Arc<Disguise>,
    /// Its secret, as the token that it is.
    pub(super) token: Token,
}

/// `--disguise`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KnockPath(String);

/// `--disguise-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(StatusCode);

/// A text that does not fit its flag.
#[derive(Debug, thiserror::Error)]
enum BadDisguiseValue {
    /// Not a path.
    #[error("'{0}' is not a path; write one with / in front, such as /favico.ico")]
    NoPath(String),
    /// Characters that no request has in a path.
    #[error(
        "'{0}' has more than a path; leave out ?, # and blanks, and write other characters as %XX"
    )]
    MoreThanPath(String),
    /// Not a status of an answer with a body.
    #[error(
        "'{0}' is not the status of an answer with a body; give a number from 200 to 599, but not 204, 205 or 304"
    )]
    Status(String),
}

/// Flags about the disguise that make no sense together, and a secret that is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum DisguiseError {
    /// A flag about the disguise without one.
    #[error("{0} is about the disguised knock; add --disguise PATH, or leave it out")]
    NoDisguise(&'static str),
    /// No secret.
    #[error("--disguise needs a secret; name its file with --disguise-secret FILE")]
    NoSecret,
    /// A flag of an endpoint that a disguised service does not have.
    #[error(
        "{0} is for an endpoint that a service with --disguise does not have; leave it out, or run two services"
    )]
    Elsewhere(&'static str),
    /// A header of proxies without proxies.
    #[error(
        "--disguise-address-header is what proxies say; name these with --trusted-proxies, or leave it out"
    )]
    NoProxies,
    /// The file holds no secret.
    #[error("{file} holds no secret; write it into the first line: 8 characters or more that may stand in a header", file = .0.display())]
    BadSecret(PathBuf),
    /// One header for two things.
    #[error("{0} is named for two things; give each its own header")]
    SameHeader(HeaderName),
}

impl From<DisguiseError> for Failure {
    fn from(error: DisguiseError) -> Self {
        Self::Usage(error.into())
    }
}

impl DisguiseArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.disguise_secret.iter()
    }

    /// Returns the disguise of the service by this name that the flags describe; `None` when there
    /// is none. Reads the secret.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(
        &self,
        service: Option<&str>,
        proxies: &TrustedProxies,
        access: Access,
    ) -> Result<Option<Secretly>, Failure> {
        let Some(KnockPath(path)) = &self.disguise else {
            return self.refuse_flags().map(|()| None).map_err(Failure::from);
        };
        let file = self.disguise_secret.as_deref().ok_or(DisguiseError::NoSecret)?;
        if self.disguise_address_header.is_some() && proxies.is_empty() {
            return Err(DisguiseError::NoProxies.into());
        }
        let headers = self.disguise_address_header.iter().cloned();
        let clients = ClientRules {
            proxies: proxies.clone(),
            headers: headers.chain([X_FORWARDED_FOR]).collect(),
        };
        let disguise = Disguise {
            path: path.clone(),
            secret: self.disguise_secret_header.clone().unwrap_or(hyper::header::REFERER),
            label: self.disguise_label_header.clone().unwrap_or(hyper::header::LOCATION),
            claim: self.disguise_claim_header.clone(),
            clients,
            answers: self.answers(),
        };
        refuse_same_header(&disguise)?;
        let token = Token {
            name: disguise_name(service),
            hash: TokenHash::of(secret(file, access)?.as_bytes()),
            gates: vec![],
            max_ttl: self.disguise_ttl.unwrap_or(DEFAULT_MAX_TTL),
            any_address: disguise.claim.is_some(),
            one_address: false,
            sees_grants: false,
        };
        Ok(Some(Secretly { disguise: Arc::new(disguise), token }))
    }

    fn answers(&self) -> Answers {
        let status = self.disguise_status.map_or(StatusCode::INTERNAL_SERVER_ERROR, |it| it.0);
        let failure = self.disguise_body.clone().unwrap_or_else(|| {
            let reason = status.canonical_reason().unwrap_or("Unknown");
            format!("{} {reason}", status.as_u16())
        });
        let success = self.disguise_success.clone().unwrap_or_else(|| failure.clone());
        Answers {
            status,
            content_type: self.disguise_content_type.clone().unwrap_or(DEFAULT_TYPE),
            failure: Bytes::from(failure),
            success: Bytes::from(success),
        }
    }

    fn refuse_flags(&self) -> Result<(), DisguiseError> {
        // Names all of them, so that a new one cannot be forgotten.
        let Self {
            disguise: _,
            disguise_secret,
            disguise_secret_header,
            disguise_label_header,
            disguise_address_header,
            disguise_claim_header,
            disguise_ttl,
            disguise_status,
            disguise_content_type,
            disguise_body,
            disguise_success,
        } = self;
        let flags = [
            ("--disguise-secret", disguise_secret.is_some()),
            ("--disguise-secret-header", disguise_secret_header.is_some()),
            ("--disguise-label-header", disguise_label_header.is_some()),
            ("--disguise-address-header", disguise_address_header.is_some()),
            ("--disguise-claim-header", disguise_claim_header.is_some()),
            ("--disguise-ttl", disguise_ttl.is_some()),
            ("--disguise-status", disguise_status.is_some()),
            ("--disguise-content-type", disguise_content_type.is_some()),
            ("--disguise-body", disguise_body.is_some()),
            ("--disguise-success", disguise_success.is_some()),
        ];
        match flags.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(DisguiseError::NoDisguise(flag)),
            None => Ok(()),
        }
    }
}

fn refuse_same_header(disguise: &Disguise) -> Result<(), DisguiseError> {
    let Disguise { secret, label, claim, clients, .. } = disguise;
    let names: Vec<&HeaderName> =
        [secret, label].into_iter().chain(claim).chain(&clients.headers).collect();
    let twice = (1..names.len()).find(|at| names[..*at].contains(&names[*at]));
    twice.map_or(Ok(()), |at| Err(DisguiseError::SameHeader(names[at].clone())))
}

/// Reads the secret.
fn secret(file: &Path, access: Access) -> Result<Zeroizing<String>, Failure> {
    let text = credentials::read(file, access).map_err(|error| Failure::Usage(error.into()))?;
    let line = Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_owned());
    let is_secret = line.len() >= SHORTEST_SECRET && HeaderValue::from_str(&line).is_ok();
    is_secret.then_some(line).ok_or_else(|| DisguiseError::BadSecret(file.to_owned()).into())
}

impl FromStr for KnockPath {
    type Err = BadDisguiseValue;

    fn from_str(text: &str) -> Result<Self, BadDisguiseValue> {
        if !text.starts_with('/') {
            return Err(BadDisguiseValue::NoPath(text.to_owned()));
        }
        let is_part = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
        if text.bytes().all(is_part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadDisguiseValue::MoreThanPath(text.to_owned()))
        }
    }
}

impl FromStr for Status {
    type Err = BadDisguiseValue;

    fn from_str(text: &str) -> Result<Self, BadDisguiseValue> {
        let has_body = |status: &StatusCode| {
            let number = status.as_u16();
            (200..600).contains(&number) && ![204, 205, 304].contains(&number)
        };
        let status = text.parse().ok().filter(has_body);
        status.map(Self).ok_or_else(|| BadDisguiseValue::Status(text.to_owned()))
    }
}
