//! Traces, as a collector gets them. The collector is one of ours that keeps what it
//! is sent.

mod collector;

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use integration_tests::{
    allocator::{Allocator, Options},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::Namespace,
    rpc::release,
    service::service,
    site::{CLUSTER, random_class},
    watcher::{self, Watcher},
};
use kube::ResourceExt;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use self::collector::{Collector, Seen};

/// An allocator and a watcher that send their traces there, after so many
/// milliseconds at most.
struct Traced {
    class: String,
    allocator: Allocator,
    watcher: Watcher,
}

impl Traced {
    async fn start(ns: &Namespace, endpoint: &str, delay: u32) -> Self {
        let control_plane = ControlPlane::shared().await;
        Self::start_on(control_plane, ns, endpoint, delay).await
    }

    async fn start_on(
        control_plane: &ControlPlane,
        ns: &Namespace,
        endpoint: &str,
        delay: u32,
    ) -> Self {
        let delay = delay.to_string();
        let class = random_class();
        let list = (1..=9).map(|host| format!("{ns}:192.0.2.{host}"));
        let options = Options::ip_list(list.collect::<Vec<_>>().join(" "))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_BSP_SCHEDULE_DELAY", &delay)
            // In milliseconds: whom a collector keeps waiting, waits.
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")
            .env("OTEL_SERVICE_NAME", "addresses");
        let allocator = Allocator::start(options).await;
        let options = watcher::Options::cluster(CLUSTER)
            .class(&class)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_BSP_SCHEDULE_DELAY", &delay);
        let watcher = Watcher::start(control_plane, &allocator.url(), options).await;
        Self {
            class,
            allocator,
            watcher,
        }
    }
}

/// From the look at a Service to the commit of its address.
#[derive(Debug)]
struct Chain<'a> {
    sync: &'a Seen,
    client: &'a Seen,
    server: &'a Seen,
    commit: &'a Seen,
}

/// The chain that begins with the look at the Service of this uid which ended in an
/// address.
fn chain<'a>(spans: &'a [Seen], uid: &str) -> Option<Chain<'a>> {
    let find = |is_it: &dyn Fn(&Seen) -> bool| spans.iter().find(|span| is_it(span));
    let child_of = |parent: &Seen, service: &str, name: &str| {
        find(&|seen| {
            seen.span.parent_span_id == parent.span.span_id
                && seen.service == service
                && seen.span.name == name
        })
    };
    let syncs = spans
        .iter()
        .filter(|seen| seen.span.name == "sync" && seen.attributes()["uid"] == uid);
    let mut chains = syncs.filter_map(|sync| {
        let client = child_of(sync, "lb-watcher", "Acquire")?;
        let acquire = "lballocator.v1.AllocatorService/Acquire";
        let server = child_of(client, "addresses", acquire)?;
        let commit = find(&|seen| {
            let links = &seen.span.links;
            seen.span.name == "commit"
                && links.iter().any(|link| {
                    (&link.trace_id, &link.span_id) == (&server.span.trace_id, &server.span.span_id)
                })
        })?;
        Some(Chain {
            sync,
            client,
            server,
            commit,
        })
    });
    chains.next()
}

#[tokio::test]
async fn a_service_is_one_trace_from_the_look_at_it_to_the_commit_of_its_address() {
    let ns = ControlPlane::shared().await.namespace().await;
    let collector = Collector::start().await;
    let traced = Traced::start(&ns, collector.endpoint(), 100).await;
    let created = ns.create(service("a").class(&traced.class)).await;
    ns.gets("a", ["192.0.2.1"]).await;
    let uid = created.uid().unwrap();
    let spans = eventually(DEADLINE, "the whole chain is sent", async || {
        let spans = collector.spans();
        match chain(&spans, &uid) {
            Some(_) => Ok(spans),
            None => Err(format!("{spans:#?}")),
        }
    })
    .await;
    let Chain {
        sync,
        client,
        server,
        commit,
    } = chain(&spans, &uid).unwrap();
    assert_eq!(sync.service, "lb-watcher");
    for span in [client, server] {
        assert_eq!(span.span.trace_id, sync.span.trace_id);
    }
    assert_eq!(client.span.kind(), SpanKind::Client);
    assert_eq!(server.span.kind(), SpanKind::Server);
    let links = server.span.links.iter();
    let links: Vec<_> = links.map(|link| &link.span_id).collect();
    assert_eq!(links, [&commit.span.span_id]);
    assert_eq!(commit.service, "addresses");

    let attributes = sync.attributes();
    let expected = [
        ("cluster", CLUSTER.to_owned()),
        ("namespace", ns.to_string()),
        ("service", "a".to_owned()),
        ("uid", uid),
        ("outcome", "done".to_owned()),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value));
    assert_eq!(attributes, BTreeMap::from(expected));
    assert_eq!(server.attributes()["rpc.grpc.status_code"], "0");
    // What the watcher asks about the Services of other tests may share the commit.
    let requests = commit.span.links.len().to_string();
    assert_eq!(commit.attributes()["requests"], requests);
}

#[tokio::test]
async fn what_is_left_is_sent_when_a_process_ends() {
    // Of its own: with the Services of all tests a batch would be full before the end.
    let control_plane = ControlPlane::start("traces").await.unwrap();
    let ns = control_plane.namespace().await;
    let collector = Collector::start().await;
    let hour = 3_600_000;
    let mut traced = Traced::start_on(&control_plane, &ns, collector.endpoint(), hour).await;
    let created = ns.create(service("a").class(&traced.class)).await;
    ns.gets("a", ["192.0.2.1"]).await;
    assert_eq!(collector.spans().len(), 0);
    let limit = Duration::from_secs(10);
    assert!(traced.watcher.terminate(limit).await.success());
    assert!(traced.allocator.terminate(limit).await.success());
    let spans = collector.spans();
    assert!(
        chain(&spans, &created.uid().unwrap()).is_some(),
        "{spans:#?}"
    );
}

#[tokio::test]
async fn a_collector_that_hangs_changes_nothing_and_what_it_misses_is_counted() {
    let ns = ControlPlane::shared().await.namespace().await;
    let collector = Collector::hanging().await;
    let mut traced = Traced::start(&ns, collector.endpoint(), 100).await;
    let client = traced.allocator.client().await;
    let admin = traced.allocator.admin();
    let dropped = [("outcome", "dropped")];
    let name = "lb_allocator_trace_spans_total";
    assert_eq!(admin.metric(name, &dropped).await.unwrap(), 0.0);
    // More than may wait, and than are being sent meanwhile.
    eventually(DEADLINE, "spans are dropped", async || {
        let releases = stream::iter(0..1000).map(|_| {
            let mut client = client.clone();
            async move { client.release(release("web", "nobody")).await.unwrap() }
        });
        releases.buffer_unordered(64).count().await;
        let seen = admin.metric(name, &dropped).await.unwrap();
        if seen > 0.0 { Ok(()) } else { Err("none") }
    })
    .await;
    assert!(collector.calls() > 0, "the collector was asked");
    ns.create(service("a").class(&traced.class)).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.delete("a").await;
    admin.get("/readyz").await.unwrap();
    let limit = Duration::from_secs(10);
    assert!(traced.watcher.terminate(limit).await.success());
    assert!(traced.allocator.terminate(limit).await.success());
}

#[tokio::test]
async fn an_endpoint_that_is_none_costs_the_traces_and_nothing_else() {
    let ns = ControlPlane::shared().await.namespace().await;
    let mut traced = Traced::start(&ns, "https://127.0.0.1:1", 100).await;
    ns.create(service("a").class(&traced.class)).await;
    ns.gets("a", ["192.0.2.1"]).await;
    for process in [traced.allocator.process(), traced.watcher.process()] {
        let errors = process.errors();
        assert!(errors.contains("there are no traces"), "{errors}");
    }
}
