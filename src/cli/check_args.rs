//! `--check`: health checks of targets, by service.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::errors::UsageError;
use crate::addr::ServiceName;
use crate::tunnel::Role;
use crate::upstream::probe::{Check, CheckError};

/// Checks of targets.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Health checks of targets: tcp, redis, mysql or mysql:USER, every INTERVAL (5s where none
    /// is given); with NAME= those of one service; repeatable [default: none]
    #[arg(
        long = "check",
        value_name = "[NAME=]WHAT[/INTERVAL]",
        allow_hyphen_values = true,
        help_heading = "Connections"
    )]
    pub(super) checks: Vec<NamedCheck>,

    /// Action on sessions when their target goes down: keep them, or close them, so that their
    /// clients reconnect and get another target [default: keep]
    #[arg(long, value_name = "WHAT", help_heading = "Connections")]
    pub(super) on_target_down: Option<OnTargetDown>,
}

/// `--on-target-down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnTargetDown {
    Keep,
    Close,
}

/// `--check [NAME=]WHAT[/INTERVAL]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedCheck {
    /// `None` is every service that no other check names.
    service: Option<ServiceName>,
    check: Check,
}

impl FromStr for NamedCheck {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        // An account may have '=' in its name; the text before it is then no service.
        let named =
            text.split_once('=').and_then(|(name, check)| Some((name.parse().ok()?, check)));
        let (service, check) = named.map_or((None, text), |(name, check)| (Some(name), check));
        Ok(Self { service, check: check.parse()? })
    }
}

impl CheckArgs {
    /// Returns the first flag that is given, if there is any.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--check", !self.checks.is_empty()),
            ("--on-target-down", self.on_target_down.is_some()),
        ];
        flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// Returns whether sessions on a target that goes down are ended.
    ///
    /// # Errors
    /// [`UsageError::NeverDown`] where no target is ever found to be down.
    pub(super) fn closes(&self, role: &Role) -> Result<bool, UsageError> {
        let Some(what) = self.on_target_down else { return Ok(false) };
        let Role::Decrypt { targets } = role else { return Ok(false) };
        let mut names: Vec<_> = targets.iter().map(|(service, _)| service).collect();
        names.sort_unstable();
        let has_several = names.windows(2).any(|two| two[0] == two[1]);
        if self.checks.is_empty() && !has_several {
            return Err(UsageError::NeverDown);
        }
        Ok(what == OnTargetDown::Close)
    }

    /// Returns the check of each service of `role` that has one.
    ///
    /// # Errors
    /// [`UsageError`] about services that do not exist, or are named twice.
    pub(super) fn by_service(
        &self,
        role: &Role,
    ) -> Result<BTreeMap<ServiceName, Check>, UsageError> {
        let Role::Decrypt { targets } = role else { return Ok(BTreeMap::new()) };
        let mut by_service = BTreeMap::new();
        let mut for_others = None;
        for NamedCheck { service, check } in &self.checks {
            let before = match service {
                Some(name) if !targets.iter().any(|(service, _)| service == name) => {
                    return Err(UsageError::CheckOfNothing(name.clone()));
                }
                Some(name) => by_service.insert(name.clone(), check.clone()),
                None => for_others.replace(check.clone()),
            };
            if before.is_some() {
                return Err(UsageError::TwoChecks);
            }
        }
        if let Some(check) = for_others {
            for (service, _) in targets {
                by_service.entry(service.clone()).or_insert_with(|| check.clone());
            }
        }
        Ok(by_service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(services: &[&str], given: &[&str]) -> Result<Vec<String>, UsageError> {
        let name = |text: &&str| text.parse::<ServiceName>().unwrap_or_default();
        let targets = services.iter().map(|text| (name(text), "a:1".parse().unwrap())).collect();
        let checks = given.iter().map(|text| text.parse().unwrap()).collect();
        let by_service =
            CheckArgs { checks, on_target_down: None }.by_service(&Role::Decrypt { targets })?;
        let shown = |(name, check): (&ServiceName, &Check)| format!("{name} {:?}", check.kind);
        Ok(by_service.iter().map(shown).collect())
    }

    #[test]
    fn a_check_without_a_name_is_for_every_service_that_has_none() {
        assert_eq!(checks(&["", "", "x"], &[]).unwrap(), [""; 0]);
        assert_eq!(checks(&["", "x", "x"], &["redis"]).unwrap(), [" Redis", "x Redis"]);
        let both = checks(&["", "x", "y"], &["x=tcp/1s", "redis"]).unwrap();
        assert_eq!(both, [" Redis", "x Tcp", "y Redis"]);
        assert_eq!(checks(&["", "x"], &["x=tcp"]).unwrap(), ["x Tcp"]);
        assert_eq!(checks(&[""], &["mysql:a=b"]).unwrap(), [r#" Mysql { user: "a=b" }"#]);
    }

    #[test]
    fn checks_that_make_no_sense_are_refused() {
        assert!(matches!(checks(&["x"], &["y=tcp"]), Err(UsageError::CheckOfNothing(_))));
        for twice in [["tcp", "redis"], ["x=tcp", "x=redis"]] {
            assert!(matches!(checks(&["x"], &twice), Err(UsageError::TwoChecks)));
        }
    }
}
