//! An lb-allocator that asks its callers for certificates.

use anyhow::Result;
use tonic::transport::Channel;

use super::{Allocator, Options, connect_with};
use crate::{
    certificates::{Authority, Identity},
    secret::Secret,
};

/// The allocator, and the authority that it and its callers trust.
pub struct Secured {
    /// The running allocator.
    pub allocator: Allocator,
    /// Signs its certificate and those of its callers.
    pub authority: Authority,
    _server: Secret,
}

impl Secured {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready, or the system gives no randomness.
    pub async fn start(options: Options) -> Self {
        let made = Authority::new("test").and_then(|authority| {
            let server = Secret::new(&authority.server()?, &authority.certificate);
            Ok((authority, server))
        });
        match made {
            Ok((authority, server)) => Self {
                allocator: Allocator::start(options.tls(server.files())).await,
                authority,
                _server: server,
            },
            Err(error) => panic!("no certificates can be made: {error:#}"),
        }
    }

    /// The certificate files of a caller with this URI.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn secret(&self, uri: &str) -> Result<Secret> {
        let identity = self.authority.caller(uri)?;
        Ok(Secret::new(&identity, &self.authority.certificate))
    }

    /// A connection with this certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn connect(&self, identity: &Identity) -> Result<Channel> {
        let secret = Secret::new(identity, &self.authority.certificate);
        connect_with(&self.allocator.url(), secret.files()).await
    }

    /// A connection with a new certificate of this URI.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn caller(&self, uri: &str) -> Channel {
        let connected = async { self.connect(&self.authority.caller(uri)?).await };
        match connected.await {
            Ok(channel) => channel,
            Err(error) => panic!("{uri} cannot connect: {error:#}"),
        }
    }
}
