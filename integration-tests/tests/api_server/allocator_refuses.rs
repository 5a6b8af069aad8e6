//! An allocator that refuses parts of what a watcher tells or asks: nobody asks for an
//! address before a Sync was accepted.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use integration_tests::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    service::service,
    site::random_class,
    watcher::{Options, Watcher},
};
use lb_proto::v1::{
    self, WatchResponse,
    allocator_service_server::{AllocatorService, AllocatorServiceServer},
    sync_request::Part,
    watch_response::{Event, PoolsChanged, Started},
};
use parking_lot::Mutex;
use prost::Message;
use prost_types::Any;
use tokio::{sync::watch, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::pb;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refuses {
    Nothing,
    Watch,
    Sync,
    /// For a reason that no watcher knows.
    Acquire,
    /// Streams that are open end with SLOW_CONSUMER.
    SlowConsumer,
}

/// An allocator that grants one address and nothing else.
#[derive(Clone)]
struct Fake {
    refuses: watch::Sender<Refuses>,
    /// Whether a Sync is answered, or waits.
    answers: watch::Sender<bool>,
    calls: Arc<Mutex<Vec<(Instant, &'static str)>>>,
    /// Whom an address was asked for.
    asked_for: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Fake {
    fn called(&self, method: &'static str) {
        self.calls.lock().push((Instant::now(), method));
    }

    /// When it was called so, since then.
    fn calls(&self, method: &str, since: Instant) -> Vec<Instant> {
        let calls = self.calls.lock();
        let of = calls
            .iter()
            .filter(|(at, of)| *of == method && *at >= since);
        of.map(|(at, _)| *at).collect()
    }

    async fn is_called(&self, method: &str, since: Instant) -> Instant {
        eventually(DEADLINE, format!("{method} is called"), async || {
            let calls = self.calls(method, since);
            calls.first().copied().ok_or("not yet")
        })
        .await
    }

    fn refuse(&self, refuses: Refuses) -> Instant {
        self.refuses.send_replace(refuses);
        Instant::now()
    }

    async fn serve(refuses: Refuses) -> (Self, String) {
        let fake = Self {
            refuses: watch::Sender::new(refuses),
            answers: watch::Sender::new(true),
            calls: Arc::default(),
            asked_for: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .add_service(AllocatorServiceServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (fake, url)
    }
}

fn refusal(code: Code, reason: &str, retry: v1::Retry) -> Status {
    let instructions = v1::Instructions {
        action: v1::StatusAction::Keep.into(),
        reason: reason.to_owned(),
        message: "for a test; do nothing".to_owned(),
        retry: retry.into(),
        ..v1::Instructions::default()
    };
    let details = pb::Status {
        details: vec![Any {
            type_url: lb_proto::INSTRUCTIONS_TYPE.to_owned(),
            value: instructions.encode_to_vec(),
        }],
        ..pb::Status::default()
    };
    Status::with_details(code, "for a test", details.encode_to_vec().into())
}

fn message(event: Event) -> Result<WatchResponse, Status> {
    Ok(WatchResponse {
        revision: 1,
        event: Some(event),
    })
}

#[tonic::async_trait]
impl AllocatorService for Fake {
    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        self.called("Acquire");
        let name = request.into_inner().service.unwrap_or_default().name;
        self.asked_for.lock().push((Instant::now(), name));
        if *self.refuses.borrow() == Refuses::Acquire {
            let on_notice = v1::Retry::OnNotice;
            return Err(refusal(Code::Aborted, "OF_TOMORROW", on_notice));
        }
        Ok(Response::new(v1::AcquireResponse {
            revision: 1,
            instructions: Some(v1::Instructions {
                action: v1::StatusAction::Show.into(),
                addresses: vec!["192.0.2.1".into()],
                satisfied: true,
                reason: "Satisfied".into(),
                message: "192.0.2.1 from pool p".into(),
                retry: v1::Retry::AfterEdit.into(),
                transient: false,
            }),
            ..v1::AcquireResponse::default()
        }))
    }

    async fn release(
        &self,
        _: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        self.called("Release");
        Ok(Response::new(v1::ReleaseResponse::default()))
    }

    type SyncStream = Messages<v1::SyncResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.called("Sync");
        let mut parts = request.into_inner();
        let mut had_wish = false;
        while let Some(message) = parts.message().await? {
            if let Some(Part::Services(part)) = message.part {
                had_wish |= part.services.iter().any(|service| service.wish.is_some());
            }
        }
        if had_wish {
            self.called("Sync with a wish");
        }
        if *self.refuses.borrow() == Refuses::Sync {
            let after_edit = v1::Retry::AfterEdit;
            return Err(refusal(
                Code::InvalidArgument,
                "INVALID_REQUEST",
                after_edit,
            ));
        }
        let mut answers = self.answers.subscribe();
        let answers = answers.wait_for(|answers| *answers).await;
        answers.map_err(|_| Status::internal("it is over"))?;
        let page = v1::SyncResponse {
            revision: 1,
            ..v1::SyncResponse::default()
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(page)]))))
    }

    type WatchStream = Messages<WatchResponse>;

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.called("Watch");
        let refuses = self.refuses.subscribe();
        if *refuses.borrow() == Refuses::Watch {
            return Err(Status::unimplemented("no Watch"));
        }
        let started = stream::iter([message(Event::Started(Started {
            acting: true,
            ..Started::default()
        }))]);
        let told = stream::unfold(refuses, async |mut refuses| {
            refuses.changed().await.ok()?;
            let told = match *refuses.borrow_and_update() {
                Refuses::SlowConsumer => {
                    let code = Code::ResourceExhausted;
                    Err(refusal(code, "SLOW_CONSUMER", v1::Retry::Soon))
                }
                Refuses::Nothing | Refuses::Watch | Refuses::Sync | Refuses::Acquire => {
                    message(Event::PoolsChanged(PoolsChanged {}))
                }
            };
            Some((told, refuses))
        });
        Ok(Response::new(Box::pin(started.chain(told))))
    }
}

async fn nobody_asks_of(refuses: Refuses, reason: &str, told: &str) {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let (fake, url) = Fake::serve(refuses).await;
    let begun = Instant::now();
    let class = random_class();
    let options = Options::cluster("one").class(&class);
    let mut watcher = Watcher::prepare(control_plane, &url, options);
    watcher.start_unready();
    ns.create(service("s").class(&class)).await;
    let condition = ns.is_pending("s", reason).await;
    assert!(condition.message.contains(told), "{}", condition.message);
    assert_eq!(fake.calls("Acquire", begun), []);

    let mended = fake.refuse(Refuses::Nothing);
    ns.gets("s", ["192.0.2.1"]).await;
    let synced = fake.is_called("Sync", mended).await;
    assert!(fake.is_called("Acquire", begun).await > synced);
}

#[tokio::test]
async fn nobody_asks_an_allocator_that_rejects_what_the_cluster_has() {
    let told = "INVALID_REQUEST: for a test";
    nobody_asks_of(Refuses::Sync, "ALLOCATOR_UNAVAILABLE", told).await;
}

#[tokio::test]
async fn nobody_asks_an_allocator_that_tells_of_no_changes() {
    nobody_asks_of(Refuses::Watch, "PERMISSION_DENIED", "no Watch").await;
}

#[tokio::test]
async fn a_reason_that_only_a_newer_allocator_knows_is_told_and_followed() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let (fake, url) = Fake::serve(Refuses::Acquire).await;
    let class = random_class();
    let options = Options::cluster("one").class(&class);
    let _watcher = Watcher::start(control_plane, &url, options).await;
    ns.create(service("s").class(&class)).await;
    let condition = ns.is_pending("s", "OF_TOMORROW").await;
    assert_eq!(condition.message, "for a test; do nothing");
    let told = ns.was_told("s", ["AllocationFailed"]).await;
    assert_eq!(told[0].note, "OF_TOMORROW: for a test; do nothing");
    // It asks again when it is told to, whatever the reason was.
    fake.refuse(Refuses::Nothing);
    ns.gets("s", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_stream_that_was_read_too_slowly_is_opened_again_at_once_and_nobody_else_asks_anew() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let (fake, url) = Fake::serve(Refuses::Nothing).await;
    let class = random_class();
    let options = Options::cluster("one").class(&class);
    let _watcher = Watcher::start(control_plane, &url, options).await;
    ns.create(service("s").class(&class)).await;
    ns.gets("s", ["192.0.2.1"]).await;
    // What the watcher wrote there comes back to it before it hears of this one.
    ns.create(service("fence").class(&class)).await;
    ns.gets("fence", ["192.0.2.1"]).await;

    let cut = fake.refuse(Refuses::SlowConsumer);
    let again = fake.is_called("Watch", cut).await;
    let took = again - cut;
    assert!(took < Duration::from_secs(3), "{took:?}");
    fake.is_called("Sync", again).await;
    ns.create(service("t").class(&class)).await;
    ns.gets("t", ["192.0.2.1"]).await;
    let asked_for = fake.asked_for.lock();
    let since = asked_for.iter().filter(|(at, _)| *at >= cut);
    let names: Vec<_> = since.map(|(_, name)| name.as_str()).collect();
    assert!(names.contains(&"t") && !names.contains(&"s"), "{names:?}");
}

#[tokio::test]
async fn what_the_allocator_tells_is_heard_while_it_is_told_what_the_cluster_has() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let (fake, url) = Fake::serve(Refuses::Nothing).await;
    fake.answers.send_replace(false);
    let begun = Instant::now();
    let class = random_class();
    let options = Options::cluster("one").class(&class);
    let mut watcher = Watcher::prepare(control_plane, &url, options);
    watcher.start_unready();
    fake.is_called("Sync", begun).await;
    ns.create(service("s").class(&class)).await;
    // The stream ends while the Sync is not answered, and that is heard.
    let cut = fake.refuse(Refuses::SlowConsumer);
    fake.is_called("Watch", cut).await;
    assert_eq!(fake.calls("Acquire", begun), []);
    fake.answers.send_replace(true);
    ns.gets("s", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_service_that_has_nothing_wishes_for_nothing_in_a_sync() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let (fake, url) = Fake::serve(Refuses::Sync).await;
    let class = random_class();
    ns.create(service("pending").class(&class)).await;
    let begun = Instant::now();
    let options = Options::cluster("one").class(&class);
    let _watcher = Watcher::start(control_plane, &url, options).await;
    fake.is_called("Sync", begun).await;
    assert_eq!(fake.calls("Sync with a wish", begun), []);
    let shows = serde_json::json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}});
    ns.apply_status("pending", "controller", shows).await;
    fake.is_called("Sync with a wish", begun).await;
}
