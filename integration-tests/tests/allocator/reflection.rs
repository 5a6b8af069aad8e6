//! grpcurl needs no proto files, and probes need no code of ours.

use std::process::{Command, Output};

use integration_tests::{
    allocator::{Allocator, Options},
    binaries::control_plane_binaries,
    rpc::acquire,
};
use serde_json::{Value, json};

fn grpcurl(allocator: &Allocator, data: Option<Value>, what: &[&str]) -> Output {
    let [grpcurl] = control_plane_binaries(["grpcurl"]).unwrap();
    let mut command = Command::new(grpcurl);
    command.arg("-plaintext");
    if let Some(data) = data {
        command.args(["-d", &data.to_string()]);
    }
    command
        .arg(allocator.address())
        .args(what)
        .output()
        .unwrap()
}

fn ask(allocator: &Allocator, method: &str, data: Value) -> Value {
    let output = grpcurl(allocator, Some(data), &[method]);
    assert!(
        output.status.success(),
        "{method}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn grpcurl_lists_and_describes_the_services() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let output = grpcurl(&allocator, None, &["list"]);
    assert!(output.status.success());
    let listed = String::from_utf8(output.stdout).unwrap();
    for service in [
        "lballocator.v1.AllocatorService",
        "lballocator.v1.PoolService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            listed.lines().any(|line| line == service),
            "{service}: {listed}"
        );
    }
    let described = grpcurl(
        &allocator,
        None,
        &["describe", "lballocator.v1.AcquireRequest"],
    );
    assert!(
        String::from_utf8(described.stdout)
            .unwrap()
            .contains("Wish wish")
    );
}

#[tokio::test]
async fn grpcurl_asks_for_pools_allocations_and_history() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1 web:192.0.2.2")).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    let pools = ask(
        &allocator,
        "lballocator.v1.PoolService/ListPools",
        json!({}),
    );
    assert_eq!(
        pools["pools"][0]["usage"][0],
        json!({"family": "IP_FAMILY_IPV4", "size": "2", "used": "1", "free": "1"})
    );
    let held = ask(
        &allocator,
        "lballocator.v1.PoolService/GetAllocation",
        json!({"address": "192.0.2.1"}),
    );
    assert_eq!(
        held["allocations"][0]["service"],
        json!({"cluster": "one", "namespace": "web", "name": "a"})
    );
    let history = ask(
        &allocator,
        "lballocator.v1.PoolService/ListHistory",
        json!({"namespace": "web"}),
    );
    assert_eq!(history["entries"][0]["kind"], "CHANGE_KIND_ALLOCATED");
}

#[tokio::test]
async fn the_health_service_and_the_admin_port_say_that_it_serves() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    for service in [
        "",
        "lballocator.v1.AllocatorService",
        "lballocator.v1.PoolService",
    ] {
        let health = ask(
            &allocator,
            "grpc.health.v1.Health/Check",
            json!({"service": service}),
        );
        assert_eq!(health["status"], "SERVING", "{service:?}");
    }
    allocator.admin().get("/healthz").await.unwrap();
    allocator.admin().get("/readyz").await.unwrap();
    assert!(allocator.admin().get("/nowhere").await.is_err());
}

#[tokio::test]
async fn metrics_count_what_was_asked_and_how_full_the_pools_are() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    client.acquire(acquire("web", "b")).await.unwrap_err();
    let metrics = allocator.admin().get("/metrics").await.unwrap();
    assert!(
        metrics.lines().any(|line| line.starts_with("# TYPE ")),
        "{metrics}"
    );
    assert!(
        !metrics.contains("uid-of-a") && !metrics.contains("\"b\""),
        "a Service's name is no label"
    );
    for needle in ["POOL_EXHAUSTED", "ip-list-web", "Acquire"] {
        assert!(metrics.contains(needle), "{needle}: {metrics}");
    }
}
