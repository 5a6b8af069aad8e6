//! Servers of the one RPC that is measured, to compare the allocator with: one that
//! answers at once, which is what the transport can do when nothing is decided and
//! nothing is kept, and the naive design.

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
use lb_proto::v1::{
    AcquireRequest, AcquireResponse, HeldAddress, Instructions, IpFamily, Retry, StatusAction,
};
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

/// How a server answers.
pub trait Answer: Clone + Send + Sync + 'static {
    /// The address that a Service gets.
    fn acquire(
        &self,
        request: AcquireRequest,
    ) -> impl Future<Output = Result<String, Status>> + Send;
}

/// Answers with the same address, at once.
#[derive(Clone)]
pub struct Echo;

impl Answer for Echo {
    async fn acquire(&self, _: AcquireRequest) -> Result<String, Status> {
        Ok("10.15.100.200".to_owned())
    }
}

/// Serves until the process is ended.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(port: u16, answer: impl Answer) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let incoming = TcpIncoming::bind(address)
        .with_context(|| format!("cannot listen on {address}"))?
        .with_nodelay(Some(true));
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(StandIn(answer));
    Ok(server.serve_with_incoming(incoming).await?)
}

/// This program as such a server, in a process of its own as the allocator is, and a
/// connection to it.
///
/// # Errors
/// When it does not start.
pub async fn start(command: &str, more: &[String]) -> Result<(Process, Channel)> {
    let port = free_port()?;
    let mut args = vec![command.to_owned(), port.to_string()];
    args.extend_from_slice(more);
    let binary = std::env::current_exe()?;
    let name = format!("{command}-{port}");
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
struct StandIn<A>(A);

impl<A> NamedService for StandIn<A> {
    const NAME: &'static str = "lballocator.v1.AllocatorService";
}

impl<A: Answer> Service<http::Request<Body>> for StandIn<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Acquire(self.0.clone());
        Box::pin(async {
            let codec = ProstCodec::<AcquireResponse, AcquireRequest>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

struct Acquire<A>(A);

impl<A: Answer> UnaryService<AcquireRequest> for Acquire<A> {
    type Response = AcquireResponse;
    type Future = Answered<Response<AcquireResponse>, Status>;

    fn call(&mut self, request: Request<AcquireRequest>) -> Self::Future {
        let answer = self.0.clone();
        Box::pin(async move {
            let address = answer.acquire(request.into_inner()).await?;
            let instructions = Instructions {
                action: StatusAction::Show.into(),
                addresses: vec![address.clone()],
                satisfied: true,
                reason: "Satisfied".to_owned(),
                message: format!("{address} from pool bench"),
                retry: Retry::AfterEdit.into(),
                transient: false,
            };
            Ok(Response::new(AcquireResponse {
                revision: 1_000_000,
                instructions: Some(instructions),
                addresses: vec![HeldAddress {
                    address,
                    family: IpFamily::Ipv4.into(),
                    pool: "bench".to_owned(),
                }],
                satisfied: true,
                ..AcquireResponse::default()
            }))
        })
    }
}
