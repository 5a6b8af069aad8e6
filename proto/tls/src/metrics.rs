//! What an operator sees of the files.

use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};

/// Set by whoever reads the files.
#[derive(Clone, Debug, Default)]
pub struct TlsMetrics {
    certificate_ends: Gauge,
    authority_ends: Gauge,
    last_reload_successful: Gauge,
}

impl TlsMetrics {
    /// Under the registry's own prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate in force ends, in seconds since 1970",
            Unit::Seconds,
            metrics.certificate_ends.clone(),
        );
        registry.register_with_unit(
            "ca_certificate_expiry_timestamp",
            "When the first of the authorities in force ends, in seconds since 1970",
            Unit::Seconds,
            metrics.authority_ends.clone(),
        );
        registry.register(
            "tls_last_reload_successful",
            "1 if the certificate files as they are now are in force, 0 if they were refused",
            metrics.last_reload_successful.clone(),
        );
        metrics
    }

    pub(crate) fn in_force(&self, certificate_ends: i64, authority_ends: i64) {
        self.certificate_ends.set(certificate_ends);
        self.authority_ends.set(authority_ends);
    }

    pub(crate) fn read(&self, good: bool) {
        self.last_reload_successful.set(i64::from(good));
    }
}
