//! One place to connect to, and the one way to connect to it.

use std::sync::Arc;

use tokio::time::Instant;

use super::dial_options::DialOptions;
use crate::addr::Address;
use crate::net::{self, DialError, ResolveError, ResolveOptions, Resolver, Stream, probe_port};

/// One place to connect to.
pub struct Target {
    resolver: Resolver,
    /// Its name in the log: the address as it was written.
    pub name: Arc<str>,
}

impl Target {
    /// Resolves an address, again and again where that is wanted.
    ///
    /// # Errors
    /// [`ResolveError`], unless told to wait.
    pub(super) async fn start(
        address: &Address,
        resolve: ResolveOptions,
    ) -> Result<Self, ResolveError> {
        let resolver = Resolver::start(address.clone(), resolve).await?;
        Ok(Self { resolver, name: address.to_string().into() })
    }

    /// Resolves an address once, for a single connection.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn once(address: &Address) -> Result<Self, ResolveError> {
        Self::start(address, ResolveOptions { every: None, wait: false }).await
    }

    /// Its address as it was written.
    pub(super) fn address(&self) -> &Address {
        self.resolver.address()
    }

    /// The addresses that it has now.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn current(&self) -> Result<net::Target, ResolveError> {
        self.resolver.current()
    }

    /// Connects to it.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn connect(
        &self,
        options: &DialOptions,
        deadline: Instant,
    ) -> Result<Stream, DialError> {
        net::dial(&self.current()?, options.bind, &options.socket, deadline).await
    }

    /// Finds out whether a listener is there, which does not notice.
    ///
    /// # Errors
    /// [`DialError`] when there is none.
    pub async fn probe_port(
        &self,
        options: &DialOptions,
        deadline: Instant,
    ) -> Result<(), DialError> {
        probe_port(&self.current()?, options.bind, deadline).await
    }
}
