//! The API server away: retries, and everything is right when it is back.

use integration_tests::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::Namespace,
    rpc::acquire,
    service::service,
    site::Site,
};
use std::time::Duration;

async fn is_right(ns: &Namespace, site: &Site) {
    ns.gets("held", ["192.0.2.1"]).await;
    ns.was_written("held", 1).await;
    ns.create(site.service("afterwards")).await;
    let address = ns.gets_any("afterwards").await;
    let allocations = site.allocator.allocations().await;
    let held: Vec<_> = allocations.iter().map(|a| a.address.as_str()).collect();
    assert_eq!(held, ["192.0.2.1", address.as_str()]);
}

async fn start() -> (ControlPlane, Namespace, Site) {
    let control_plane = ControlPlane::start("away").await.unwrap();
    let ns = control_plane.namespace().await;
    let site = Site::start(
        &control_plane,
        format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:192.0.2.3"),
    )
    .await;
    ns.create(site.service("held")).await;
    ns.gets("held", ["192.0.2.1"]).await;
    (control_plane, ns, site)
}

#[tokio::test]
async fn an_api_server_that_hangs_for_some_seconds_is_waited_for() {
    let (control_plane, ns, site) = start().await;
    control_plane.pause();
    // Longer than the deadline of one call, so that at least one has failed.
    tokio::time::sleep(Duration::from_secs(12)).await;
    control_plane.resume();
    is_right(&ns, &site).await;
}

#[tokio::test]
async fn an_api_server_that_crashed_and_came_back_finds_everything_right() {
    let (mut control_plane, ns, site) = start().await;
    ns.create(site.service("deleted-later")).await;
    ns.gets("deleted-later", ["192.0.2.2"]).await;
    for _ in 0..2 {
        control_plane.kill_all_and_restart_etcd().unwrap();
        control_plane.start_apiserver().await.unwrap();
    }
    ns.delete("deleted-later").await;
    eventually(DEADLINE, "the deleted one is released", async || match site
        .allocator
        .allocations()
        .await
        .len()
    {
        1 => Ok(()),
        held => Err(held),
    })
    .await;
    is_right(&ns, &site).await;
}

#[tokio::test]
async fn addresses_granted_while_the_status_could_not_be_written_are_shown_afterwards() {
    let (mut control_plane, ns, mut site) = start().await;
    // The allocator hangs, so that the answer comes when the API server is away.
    site.allocator.process().stop().await;
    ns.create(service("fresh").class(&site.class)).await;
    control_plane.kill_apiserver();
    site.allocator
        .process()
        .signal(rustix::process::Signal::CONT);
    control_plane.start_apiserver().await.unwrap();
    ns.gets("fresh", ["192.0.2.2"]).await;
    let other = site
        .allocator
        .client()
        .await
        .acquire(acquire(&ns.to_string(), "outside"))
        .await
        .unwrap();
    assert_eq!(integration_tests::rpc::held(other.get_ref()), ["192.0.2.3"]);
}
