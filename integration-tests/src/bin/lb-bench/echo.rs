//! A server that answers every Acquire at once, with an answer of the usual size:
//! what the transport can do when nothing is decided and nothing is kept.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Context as _, Result, anyhow};
use integration_tests::{
    allocator::connect,
    eventually::{DEADLINE, within},
    logs,
    ports::free_port,
    process::Process,
};
use lb_proto::v1::{AcquireRequest, AcquireResponse, HeldAddress, IpFamily};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

/// As many streams of a connection as the allocator allows.
const MAX_STREAMS: u32 = 1024;

type Answered<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Serves until the process is ended.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(port: u16) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let incoming = TcpIncoming::bind(address)
        .with_context(|| format!("cannot listen on {address}"))?
        .with_nodelay(Some(true));
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(Echo);
    Ok(server.serve_with_incoming(incoming).await?)
}

/// The server in a process of its own, as the allocator is, and a connection to it.
///
/// # Errors
/// When it does not start.
pub async fn start() -> Result<(Process, Channel)> {
    let port = free_port()?;
    let args = ["echo".to_owned(), port.to_string()];
    let binary = std::env::current_exe()?;
    let name = format!("echo-{port}");
    let process = Process::start(&name, &binary, &args, &[], &logs::folder()?)?;
    let url = format!("http://127.0.0.1:{port}");
    let connected = within(DEADLINE, || {
        let url = url.clone();
        async move { connect(&url).await.map_err(|error| format!("{error:#}")) }
    });
    let channel = connected.await.map_err(|error| anyhow!(error))?;
    Ok((process, channel))
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "lballocator.v1.AllocatorService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let codec = ProstCodec::<AcquireResponse, AcquireRequest>::default();
            Ok(Grpc::new(codec).unary(Acquire, request).await)
        })
    }
}

struct Acquire;

impl UnaryService<AcquireRequest> for Acquire {
    type Response = AcquireResponse;
    type Future = Answered<Response<AcquireResponse>, Status>;

    fn call(&mut self, _: Request<AcquireRequest>) -> Self::Future {
        Box::pin(async {
            Ok(Response::new(AcquireResponse {
                revision: 1_000_000,
                addresses: vec![HeldAddress {
                    address: "10.15.100.200".to_owned(),
                    family: IpFamily::Ipv4.into(),
                    pool: "bench".to_owned(),
                }],
                satisfied: true,
                ..AcquireResponse::default()
            }))
        })
    }
}
