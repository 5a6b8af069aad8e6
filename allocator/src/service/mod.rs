//! The only tonic: parse a request, ask the writer or the published state,
//! answer. One file a service.

mod admin;
mod allocator;
mod convert;
mod fault;
mod gate;
mod layer;
mod page;
mod pool;
mod request;
mod sync;

use std::{sync::Arc, time::Duration};

use lb_proto::v1::{
    admin_service_server::AdminServiceServer, allocator_service_server::AllocatorServiceServer,
    pool_service_server::PoolServiceServer,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::server::{Router, Server},
};

use self::{admin::Admin, allocator::Allocator, layer::RpcLayer, pool::PoolReader};
pub use self::{
    convert::{allocation, pools, reservation},
    gate::{Gate, Trust},
};
use crate::{
    config::Source, metrics::RpcMetrics, published::Published, store::HistoryReader, writer::Writer,
};

/// The largest request message, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// RPCs that are worked on at one time; one more is RESOURCE_EXHAUSTED.
const MAX_IN_FLIGHT: usize = 4096;
/// HTTP/2 streams of one connection; tonic's own default of 200 would queue
/// callers that share a connection.
const MAX_STREAMS: u32 = 1024;
/// After this long an RPC ends, so that a caller that never sends its message
/// holds nothing up. Streams are bounded only until they begin.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What the services work with.
#[derive(Clone)]
pub struct Parts {
    pub writer: Writer,
    pub published: Arc<Published>,
    pub history: HistoryReader,
    pub source: Source,
    pub gate: Gate,
    pub shutdown: CancellationToken,
}

/// What every RPC goes through.
pub type Layers = tower::layer::util::Stack<RpcLayer, tower::layer::util::Identity>;

/// The gRPC server with everything it serves.
///
/// # Errors
/// As [`routes`].
pub async fn router(
    parts: Parts,
    metrics: RpcMetrics,
) -> Result<Router<Layers>, tonic_reflection::server::Error> {
    let gate = parts.gate.clone();
    Ok(server(metrics, gate).add_routes(routes(parts).await?))
}

/// The gRPC server with its limits.
pub fn server(metrics: RpcMetrics, gate: Gate) -> Server<Layers> {
    Server::builder()
        .timeout(TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(RpcLayer::new(MAX_IN_FLIGHT, metrics, gate))
}

/// Every gRPC service of the allocator: its own, health and reflection.
///
/// # Errors
/// If the compiled contract cannot be read.
pub async fn routes(parts: Parts) -> Result<Routes, tonic_reflection::server::Error> {
    let Parts {
        writer,
        published,
        history,
        source,
        gate,
        shutdown,
    } = parts;
    let (health, health_service) = tonic_health::server::health_reporter();
    let allocator = AllocatorServiceServer::new(Allocator::new(
        writer.clone(),
        Arc::clone(&published),
        gate.clone(),
        shutdown,
    ))
    .max_decoding_message_size(MAX_MESSAGE);
    let admin = AdminServiceServer::new(Admin::new(
        writer.clone(),
        Arc::clone(&published),
        history.clone(),
        source,
        gate.clone(),
    ))
    .max_decoding_message_size(MAX_MESSAGE);
    let pools = PoolServiceServer::new(PoolReader::new(published, history, gate.clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    health
        .set_serving::<AllocatorServiceServer<Allocator>>()
        .await;
    health.set_serving::<AdminServiceServer<Admin>>().await;
    health.set_serving::<PoolServiceServer<PoolReader>>().await;

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(lb_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl shows the details of a refusal in words.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(allocator)
        .add_service(admin)
        .add_service(pools))
}
