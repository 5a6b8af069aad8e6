//! The only tonic: parse a request, ask the writer or the published state,
//! answer. One file a service.
//!
//! Memory is bounded, whatever is sent. The [`MAX_RPCS`] that are worked on have a
//! message of [`MAX_MESSAGE`], or a page of a list of about twice as much; whoever shows a
//! certificate has a quarter of them at most. What a Sync gathers comes to [`sync::MAX_BYTES`],
//! of all of them to [`sync::MAX_BYTES_OF_ALL`]. What is told to Watch streams
//! waits in buffers of 1,024 messages of 64 bytes, of 4,096 streams: 256 MiB; the
//! Services that it is told about are those that wait. A
//! connection without requests has about 20 KiB, so 16,384 of them 320 MiB; a request that
//! waits to be worked on about 4 KiB, so what one certificate may send at once 128 MiB. What
//! HTTP/2 holds of a connection before it is read (512 KiB at most) is read at once, or
//! thrown away with the request that is refused.

mod admin;
mod allocator;
mod convert;
mod deadline;
mod fault;
mod gate;
mod instructions;
mod layer;
mod page;
mod planning;
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
    config::Source, mark::Marks, metrics::RpcMetrics, published::Published, store::HistoryReader,
    writer::Writer,
};

/// The largest request message, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// RPCs at one time, until their answers are sent; one more is RESOURCE_EXHAUSTED.
/// Watch streams count only until they begin.
const MAX_RPCS: usize = 1024;
/// HTTP/2 streams of one connection; hyper's own default of 200 would queue
/// callers that share a connection.
pub const MAX_STREAMS: u32 = 512;
/// What a stream or connection may send before it is read. HTTP/2 counts small frames
/// against half of the connection's: with less, a connection whose streams all send at
/// once would be closed with ENHANCE_YOUR_CALM.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// Bytes of a request's headers.
const MAX_HEADERS: u32 = 8 * 1024;
/// Streams that a caller may give up before they were looked at. All of them: who
/// has a deadline gives up all at once when it passes, and means no harm.
const MAX_GIVEN_UP: usize = MAX_STREAMS as usize;
/// After this long an RPC ends, so that a caller that never sends its message
/// holds nothing up; of a Sync, each message. Streams are bounded only until they begin.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// What the services work with.
#[derive(Clone)]
pub struct Parts {
    pub writer: Writer,
    pub published: Arc<Published>,
    pub history: HistoryReader,
    pub marks: Marks,
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
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_GIVEN_UP))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(RpcLayer::new(metrics, gate))
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
        marks,
        source,
        gate,
        shutdown,
    } = parts;
    let (health, health_service) = tonic_health::server::health_reporter();
    let allocator = AllocatorServiceServer::new(Allocator::new(
        writer.clone(),
        Arc::clone(&published),
        marks,
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
    let pools = PoolServiceServer::new(PoolReader::new(
        published,
        history,
        gate.clone(),
        writer.clock(),
    ))
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
