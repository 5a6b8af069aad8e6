//! Certificates of lb-allocator and its clients. Three PEM files (a certificate,
//! its key, the authority of the other side) become a configuration of rustls,
//! and a new one each time they change: cert-manager rotates them, a Secret
//! swaps a symlink. Who already has a connection keeps it, as long as an authority
//! that is trusted vouches for its certificate.
//!
//! ```text
//!   files ──read──► Material ──build──► ServerConfig or ClientConfig
//!     ▲                                        │
//!     └── each second ── Reloading ──────► watch channel ──► next connections
//! ```
//!
//! Start reading at [`reload`].

pub mod client;
pub mod facts;
pub mod files;
pub mod metrics;
pub mod reload;

pub use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};

/// Everything here works with ring; other crates that use rustls ask for the
/// default, of which there has to be exactly one. Call it first thing in main.
pub fn install_provider() {
    // Fails when there is one already, and then there is nothing to do.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}
