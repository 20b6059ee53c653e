//! The flags of `firewall` that concern one kind of firewall, and their options.
//!
//! A flag of another kind than the chosen one is refused, not ignored.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use knockpipe_firewall::{Ports, exec, firewalld, lighthouse};
use zeroize::Zeroizing;

use super::times;
use crate::firewall::LighthouseOptions;
use crate::http::{BadUrl, CaFile, ClientTls, WebUrl};
use crate::run::Failure;
use crate::sys::credentials;
use crate::sys::keyfile::Access;

/// Variable with the content of a credentials file, where no file can be provided.
pub(super) const ENVIRONMENT: &str = "KNOCKPIPE_LIGHTHOUSE_CREDENTIALS";

/// Heading of the flags of firewalls.
pub(super) const FIREWALL: &str = "Firewall";

/// Heading of the flags of the cloud.
const LIGHTHOUSE: &str = "Firewall of Tencent Cloud Lighthouse";

/// Beginning of the descriptions of rules.
const PREFIX: &str = "knockpipe-";

/// Zone of firewalld.
const ZONE: &str = "knockpipe";

/// Longest time of a call of a program.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest name of a zone.
const LONGEST_ZONE: usize = 64;

/// `--backend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BackendChoice {
    Nftables,
    Firewalld,
    Lighthouse,
    Exec(PathBuf),
}

/// A text that names no firewall.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no firewall; write nftables, firewalld, lighthouse or exec:PROGRAM")]
pub(super) struct BadBackend(String);

/// The flags of firewalld, of a cloud and of a program.
#[derive(Debug, Args)]
pub(super) struct BackendArgs {
    /// Zone of firewalld that judges the packets, which exists [default: knockpipe]
    #[arg(long, value_name = "ZONE", help_heading = FIREWALL)]
    firewalld_zone: Option<ZoneName>,

    /// Longest time of a call of the program; then it is killed with all that it started
    /// [default: 10s]
    #[arg(
        long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = FIREWALL
    )]
    exec_deadline: Option<Duration>,

    /// Instances on which rules are made, of one region
    #[arg(
        long, value_name = "ID[,ID]", value_delimiter = ',', help_heading = LIGHTHOUSE
    )]
    lighthouse_instances: Vec<InstanceId>,

    /// Region of the instances, such as ap-shanghai
    #[arg(long, value_name = "REGION", help_heading = LIGHTHOUSE)]
    lighthouse_region: Option<Word>,

    /// File with the SecretId of the account in its first line, the SecretKey in its second and,
    /// if they are temporary, the token in its third; or the same in the environment variable
    /// KNOCKPIPE_LIGHTHOUSE_CREDENTIALS
    #[arg(long, value_name = "FILE", help_heading = LIGHTHOUSE)]
    lighthouse_credentials: Option<PathBuf>,

    /// Address of the API; http:// for this host only
    /// [default: https://lighthouse.tencentcloudapi.com]
    #[arg(long, value_name = "URL", help_heading = LIGHTHOUSE)]
    lighthouse_endpoint: Option<Endpoint>,

    /// Certificates (PEM) to check the API's server with, instead of the system's
    #[arg(long, value_name = "FILE", help_heading = LIGHTHOUSE)]
    lighthouse_ca: Option<PathBuf>,

    /// Beginning of the descriptions of rules, which is this service's alone [default: knockpipe-]
    #[arg(long, value_name = "TEXT", help_heading = LIGHTHOUSE)]
    lighthouse_prefix: Option<lighthouse::Prefix>,

    /// Age at which a rule with the prefix goes that no entry stands for, where another program
    /// makes rules with the same prefix; 0: at once [default: 0]
    #[arg(long, value_name = "DAYS", help_heading = LIGHTHOUSE)]
    lighthouse_days: Option<u32>,
}

/// `--firewalld-zone`.
#[derive(Clone, Debug)]
struct ZoneName(String);

/// `--lighthouse-instances`.
#[derive(Clone, Debug)]
struct InstanceId(String);

/// `--lighthouse-region`.
#[derive(Clone, Debug)]
struct Word(String);

/// `--lighthouse-endpoint`.
#[derive(Clone, Debug)]
struct Endpoint(WebUrl);

/// A value of these flags that is none.
#[derive(Debug, thiserror::Error)]
enum BadValue {
    #[error(
        "'{0}' is no name of a zone; write letters, digits and _ - . :, at most {LONGEST_ZONE}"
    )]
    Zone(String),
    #[error("'{0}' is no id of an instance; write one such as lhins-a0b1c2d3")]
    Instance(String),
    #[error("'{0}' is no region; write one such as ap-shanghai")]
    Region(String),
    #[error(
        "it would carry rules over the network in plain text; write https://HOST/, or http:// for an address of 127.0.0.0/8 or ::1 only"
    )]
    Plain,
    #[error("it is no address of an API; write https://HOST/")]
    Endpoint,
}

impl FromStr for BackendChoice {
    type Err = BadBackend;

    fn from_str(text: &str) -> Result<Self, BadBackend> {
        match text.split_once(':') {
            Some(("exec", program)) if !program.is_empty() => {
                let program = std::path::absolute(program);
                program.map(Self::Exec).map_err(|_| BadBackend(text.to_owned()))
            }
            _ => match text {
                "nftables" => Ok(Self::Nftables),
                "firewalld" => Ok(Self::Firewalld),
                "lighthouse" => Ok(Self::Lighthouse),
                _ => Err(BadBackend(text.to_owned())),
            },
        }
    }
}

impl BackendChoice {
    /// Returns its name without a program.
    fn name(&self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Firewalld => "firewalld",
            Self::Lighthouse => "lighthouse",
            Self::Exec(_) => "exec",
        }
    }

    /// Refuses flags that have no meaning for it: each with whether it is given, and the names of
    /// those that it is for.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn refuse(&self, flags: &[(&str, bool, &[&str])]) -> Result<(), Failure> {
        let unfit = flags.iter().find(|(_, is_given, of)| *is_given && !of.contains(&self.name()));
        match unfit {
            None => Ok(()),
            Some((flag, _, of)) => Err(Failure::Usage(anyhow!(
                "{flag} has no meaning for --backend {}; leave it out, it is for {}",
                self.name(),
                of.join(" and ")
            ))),
        }
    }
}

impl BackendArgs {
    /// Refuses flags that are not for this firewall.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn refuse_unfit(&self, choice: &BackendChoice) -> Result<(), Failure> {
        let Self { firewalld_zone, exec_deadline, lighthouse_instances, lighthouse_region, .. } =
            self;
        let cloud: &[&str] = &["lighthouse"];
        choice.refuse(&[
            ("--firewalld-zone", firewalld_zone.is_some(), &["firewalld"]),
            ("--exec-deadline", exec_deadline.is_some(), &["exec"]),
            ("--lighthouse-instances", !lighthouse_instances.is_empty(), cloud),
            ("--lighthouse-region", lighthouse_region.is_some(), cloud),
            ("--lighthouse-credentials", self.lighthouse_credentials.is_some(), cloud),
            ("--lighthouse-endpoint", self.lighthouse_endpoint.is_some(), cloud),
            ("--lighthouse-ca", self.lighthouse_ca.is_some(), cloud),
            ("--lighthouse-prefix", self.lighthouse_prefix.is_some(), cloud),
            ("--lighthouse-days", self.lighthouse_days.is_some(), cloud),
        ])
    }

    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.lighthouse_credentials.iter().chain(&self.lighthouse_ca)
    }

    /// Returns the settings for firewalld.
    pub(super) fn firewalld(&self, ports: Ports, reject: bool) -> firewalld::Options {
        let zone = self.firewalld_zone.as_ref().map_or(ZONE, |ZoneName(zone)| zone).to_owned();
        firewalld::Options { zone, ports, reject, bus: None }
    }

    /// Returns the settings for a program.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn exec(&self, program: &Path, ports: Ports) -> Result<exec::Options, Failure> {
        let deadline = self.exec_deadline.unwrap_or(DEADLINE);
        if deadline.is_zero() {
            return Err(Failure::Usage(anyhow!(
                "--exec-deadline is 0; give the program some time, such as 10s"
            )));
        }
        Ok(exec::Options { program: program.to_owned(), ports, deadline })
    }

    /// Returns the settings for a cloud.
    ///
    /// # Errors
    /// [`Failure`] of the flags, or of the files that they name.
    pub(super) fn lighthouse(
        &self,
        ports: Ports,
        access: Access,
    ) -> Result<LighthouseOptions, Failure> {
        let usage = |text: &str| Failure::Usage(anyhow!("{text}"));
        let ids = self.lighthouse_instances.iter().map(|InstanceId(id)| id.clone());
        let instances: Vec<String> = ids.filter(|id| !id.is_empty()).collect();
        if instances.is_empty() {
            return Err(usage(
                "--lighthouse-instances is missing; add the ids of instances such as lhins-a0b1c2d3",
            ));
        }
        let region = self.lighthouse_region.as_ref().map(|Word(region)| region.clone());
        let region = region
            .ok_or_else(|| usage("--lighthouse-region is missing; add the one of the instances"))?;
        let endpoint = match &self.lighthouse_endpoint {
            Some(Endpoint(url)) => url.clone(),
            None => "https://lighthouse.tencentcloudapi.com"
                .parse()
                .map_err(anyhow::Error::new)
                .map_err(Failure::Usage)?,
        };
        if !ClientTls::IS_BUILT && endpoint.is_encrypted() {
            return Err(usage(
                "this build lacks aws-lc and so TLS; use one with it for --backend lighthouse",
            ));
        }
        let prefix = match &self.lighthouse_prefix {
            Some(prefix) => prefix.clone(),
            None => PREFIX.parse().map_err(anyhow::Error::new).map_err(Failure::Usage)?,
        };
        let ca = self.lighthouse_ca.as_deref().map(|path| CaFile { flag: "--lighthouse-ca", path });
        let tls = ClientTls::read(ca).map_err(|error| Failure::Usage(error.into()))?;
        let credentials = self.credentials(access)?;
        let days = self.lighthouse_days.unwrap_or_default();
        let rules = lighthouse::Options { instances, region, credentials, prefix, days, ports };
        Ok(LighthouseOptions { rules, endpoint, tls })
    }

    fn credentials(&self, access: Access) -> Result<lighthouse::Credentials, Failure> {
        let (name, text) = match &self.lighthouse_credentials {
            Some(path) => {
                let text = credentials::read(path, access);
                let text = text.map_err(|error| Failure::Usage(error.into()))?;
                (format!("--lighthouse-credentials {}", path.display()), text)
            }
            None => {
                let text = std::env::var(ENVIRONMENT).ok().filter(|text| !text.is_empty());
                let text = text.ok_or_else(|| Failure::Usage(anyhow!(
                    "--lighthouse-credentials is missing; name a file with SecretId and SecretKey, or set {ENVIRONMENT}"
                )))?;
                (ENVIRONMENT.to_owned(), Zeroizing::new(text))
            }
        };
        let parsed = lighthouse::Credentials::parse(&text);
        parsed.map_err(|error| Failure::Usage(anyhow!("{name}: {error}")))
    }
}

fn is_word(text: &str, others: &[u8]) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

impl FromStr for ZoneName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let fits = is_word(text, b"_-.:") && text.len() <= LONGEST_ZONE;
        fits.then(|| Self(text.to_owned())).ok_or_else(|| BadValue::Zone(text.to_owned()))
    }
}

impl FromStr for InstanceId {
    type Err = BadValue;

    /// Reads an id. An empty one, as a comma too many makes it, is none.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let text = text.trim();
        let fits = text.is_empty() || is_word(text, b"-_");
        fits.then(|| Self(text.to_owned())).ok_or_else(|| BadValue::Instance(text.to_owned()))
    }
}

impl FromStr for Word {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let fits = is_word(text, b"-");
        fits.then(|| Self(text.to_owned())).ok_or_else(|| BadValue::Region(text.to_owned()))
    }
}

impl FromStr for Endpoint {
    type Err = BadValue;

    /// Reads an address. A bare host, as other programs have it, stands for https.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let with_scheme =
            if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        match with_scheme.parse::<WebUrl>() {
            Ok(url) if url.path_of("").is_empty() || url.path_of("") == "/" => Ok(Self(url)),
            Err(BadUrl::Plain) => Err(BadValue::Plain),
            _ => Err(BadValue::Endpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firewalls_are_named_and_programs_made_absolute() {
        assert_eq!("lighthouse".parse::<BackendChoice>().unwrap(), BackendChoice::Lighthouse);
        let exec: BackendChoice = "exec:/usr/bin/a b".parse().unwrap();
        assert_eq!(exec, BackendChoice::Exec("/usr/bin/a b".into()));
        let BackendChoice::Exec(path) = "exec:x".parse().unwrap() else { panic!("it is exec") };
        assert!(path.is_absolute());
        for text in ["", "exec", "exec:", "iptables"] {
            let error = text.parse::<BackendChoice>().unwrap_err().to_string();
            assert!(error.contains("; write nftables"), "{error}");
        }
        let flags: &[(&str, bool, &[&str])] = &[("--cut", true, &["nftables"])];
        assert!(BackendChoice::Nftables.refuse(flags).is_ok());
        let error = format!("{:?}", BackendChoice::Firewalld.refuse(flags).unwrap_err());
        assert!(
            error.contains("--cut has no meaning for --backend firewalld; leave it out"),
            "{error}"
        );
    }

    #[test]
    fn an_endpoint_is_encrypted_or_on_this_host() {
        for text in [
            "lighthouse.tencentcloudapi.com",
            "https://lighthouse.test:8443/",
            "http://127.0.0.1:80",
        ] {
            assert!(text.parse::<Endpoint>().is_ok(), "{text}");
        }
        for (text, said) in [
            ("http://lighthouse.test", "plain text"),
            ("https://x/path", "write https"),
            ("ftp://x", "write https"),
            ("https://a@b", "write https"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("; "), "{error}");
        }
    }
}
