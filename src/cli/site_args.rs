//! The flags of `http` about its page to knock on, and the refusal of what belongs to it alone.

use std::path::PathBuf;

use clap::Args;

use super::knock_limit_args::{KNOCK, KnockLimitArgs};
use super::plain_args::PlainArgs;
use super::receive_knock_args::default_gate;
use super::store_args::GATE;
use super::tokens::read_tokens;
use crate::gate::{GateOptions, StoreOptions};
use crate::knockd::SiteOptions;
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::web::WebOptions;

/// The page to knock on.
#[derive(Clone, Debug, Args)]
pub(super) struct SiteArgs {
    /// Show denied browsers a page on which they get in with a token, instead of closing their
    /// connection; it takes the path /.knockpipe/ of the web server
    #[arg(long, conflicts_with = "redirect", help_heading = GATE)]
    knock_page: bool,

    /// File of the tokens that may knock on the page, which 'knockpipe knockd token' makes; read
    /// again on a reload
    #[arg(long, value_name = "FILE", help_heading = KNOCK)]
    tokens: Option<PathBuf>,

    #[command(flatten)]
    limits: KnockLimitArgs,

    #[command(flatten)]
    plain: PlainArgs,
}

/// Flags of the page that make no sense together.
#[derive(Debug, thiserror::Error)]
enum SiteFlagError {
    /// There is no page.
    #[error("{0} is about the page to knock on; add --knock-page, or leave it out")]
    Pageless(&'static str),
    /// There are no tokens to knock with.
    #[error(
        "--knock-page needs tokens; add --tokens FILE: 'knockpipe knockd token new NAME --tokens FILE' makes it"
    )]
    NoTokens,
    /// Nothing keeps who knocked.
    #[error("--knock-page needs a store to write; add --gate redis://HOST, or --gate file:PATH")]
    NoStore,
}

impl From<SiteFlagError> for Failure {
    fn from(error: SiteFlagError) -> Self {
        Self::Usage(error.into())
    }
}

impl SiteArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.tokens.iter()
    }

    /// Returns true if there is a page.
    pub(super) fn has_page(&self) -> bool {
        self.knock_page
    }

    /// Returns the page of a service; `None` where there is none. Reads the tokens.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, or of the file of the tokens.
    pub(super) fn options(
        &self,
        web: &WebOptions,
        gate: &GateOptions,
        access: Access,
    ) -> Result<Option<SiteOptions>, Failure> {
        if !self.knock_page {
            let own = self.tokens.as_ref().map(|_| "--tokens").or_else(|| self.limits.given());
            return match own.or_else(|| self.plain.given()) {
                Some(flag) => Err(SiteFlagError::Pageless(flag).into()),
                None => Ok(None),
            };
        }
        let path = self.tokens.as_deref().ok_or(SiteFlagError::NoTokens)?;
        if matches!(gate.store, StoreOptions::None) {
            return Err(SiteFlagError::NoStore.into());
        }
        let tokens = read_tokens(path, access)?;
        let gates = default_gate(web.name.as_deref());
        let plain = self.plain.options(web)?;
        Ok(Some(SiteOptions { rules: self.limits.rules(tokens, gates), plain }))
    }
}
