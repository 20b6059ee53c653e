//! The flag of services that take tokens about plain HTTP, and the refusal of a service that has it
//! by mistake.

use clap::Args;

use super::web_args::HTTP;
use crate::addr::{Address, Source};
use crate::knockd::PlainHttp;
use crate::run::Failure;
use crate::web::WebOptions;

/// Peers that plain HTTP is served to.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct PlainArgs {
    /// Serve plain HTTP to all hosts, without --tls-cert: who is on the path can read tokens and
    /// use them. Without it that is served to this host, --trusted-proxies and --proxy-from only
    #[arg(long, help_heading = HTTP)]
    allow_plain_http: bool,
}

/// A service without TLS that would serve no peer.
#[derive(Debug, thiserror::Error)]
#[error(
    "-s {0} is for other hosts, and without TLS a token could be read on the way; add --tls-cert and --tls-key, name the proxies that have the TLS with --trusted-proxies, or write --allow-plain-http"
)]
struct NoTls(Address);

impl PlainArgs {
    /// Returns the flag, if it was given.
    pub(super) fn given(self) -> Option<&'static str> {
        self.allow_plain_http.then_some("--allow-plain-http")
    }

    /// Returns the peers that plain HTTP is served to.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a source could serve no peer.
    pub(super) fn options(self, web: &WebOptions) -> Result<PlainHttp, Failure> {
        if self.allow_plain_http {
            return Ok(PlainHttp::Anybody);
        }
        let has_others =
            web.tls.is_some() || !web.trusted_proxies.is_empty() || !web.proxy_from.is_empty();
        let far = web.sources.iter().filter_map(Source::address).find(|address| !is_near(address));
        match far.filter(|_| !has_others) {
            Some(address) => Err(Failure::Usage(NoTls(address.clone()).into())),
            None => Ok(PlainHttp::Near),
        }
    }
}

/// Returns true for an address that only this host reaches, as far as the text shows.
fn is_near(address: &Address) -> bool {
    match address {
        Address::Tcp { host, .. } => {
            let ip = host.parse::<std::net::IpAddr>();
            host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
        Address::Unix(_) => true,
    }
}
