//! Connections to an allocator that shows its certificate and wants ours.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::files::{Files, TlsError};

/// The port where a URL names none.
const HTTPS: u16 = 443;

/// Why nobody can be asked.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("an https:// URL needs a certificate, its key and the server's CA")]
    NoFiles,
    #[error(transparent)]
    Files(#[from] TlsError),
    #[error(transparent)]
    Connect(#[from] tonic::transport::Error),
}

/// Connects once, to `http://HOST:PORT`, `https://HOST:PORT` or `unix:///PATH`.
/// The files count for `https://` only.
///
/// # Errors
/// If the files cannot be used, or nobody answers.
pub async fn connect(url: &str, files: Option<Files>) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    if !url.starts_with("https://") {
        return Ok(endpoint.connect().await?);
    }
    let files = files.ok_or(ConnectError::NoFiles)?;
    let config = files.parse(&files.read()?)?.client()?;
    let (_sender, config) = watch::channel(Arc::new(config));
    Ok(endpoint
        .connect_with_connector(Connector::new(config))
        .await?)
}

/// Makes each connection with the configuration that is in force then.
#[derive(Clone, Debug)]
pub struct Connector {
    config: watch::Receiver<Arc<ClientConfig>>,
}

impl Connector {
    /// With what is in force.
    pub const fn new(config: watch::Receiver<Arc<ClientConfig>>) -> Self {
        Self { config }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = Arc::clone(&self.config.borrow());
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            // An IPv6 address has brackets in a URL and nowhere else.
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(HTTPS))).await?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(TokioIo::new(stream))
        })
    }
}
