//! A target, and the one way to connect to it.

use std::sync::Arc;

use tokio::time::Instant;

use super::dial_options::DialOptions;
use crate::addr::Address;
use crate::net::{self, DialError, ResolveError, ResolveOptions, Resolver, Stream, probe_port};

/// A target.
pub struct Target {
    resolver: Resolver,
    /// Its name in the log: the address as it was written.
    pub name: Arc<str>,
}

impl Target {
    /// Resolves an address, and repeats that at intervals if so configured.
    ///
    /// # Errors
    /// [`ResolveError`], unless the options say to wait.
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

    /// Returns its address as it was written.
    pub(super) fn address(&self) -> &Address {
        self.resolver.address()
    }

    /// Returns its current addresses.
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

    /// Checks whether it has a listener, without the listener noticing.
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
