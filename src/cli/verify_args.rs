//! The flags of `knockd` about what proxies ask.

use clap::Args;

use super::web_args::HTTP;
use crate::knockd::ExcludedPath;

/// Paths that proxies let through for anybody.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct VerifyArgs {
    /// A path that /verify lets through for all clients, with all below it: /path, HOST/path, or
    /// */path for every host that the proxy names; repeatable
    #[arg(long, value_name = "[HOST]/PATH", help_heading = HTTP)]
    pub(super) exclude_path: Vec<ExcludedPath>,
}
