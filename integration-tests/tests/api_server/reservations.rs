//! Addresses that are kept: for one Service, or for nobody.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use integration_tests::{
    eventually::{DEADLINE, eventually},
    namespace::Namespace,
    rpc::{key, refusal},
    site::Site,
};
use lb_proto::v1::{
    ChangeKind, ListReservationsRequest, Reservation, ReserveRequest, ServiceKey, UnreserveRequest,
};
use tonic::Status;

async fn start(addresses: &str) -> (Namespace, Site) {
    let pools = format!("pools: [{{name: p, addresses: [{addresses}]}}]");
    Site::of_pools(&pools).await
}

fn of(address: &str) -> ReserveRequest {
    ReserveRequest {
        address: address.to_owned(),
        ..ReserveRequest::default()
    }
}

async fn reserve(site: &Site, request: ReserveRequest) -> Result<Reservation, Status> {
    let answer = site.allocator.admin_client().await.reserve(request).await?;
    Ok(answer.into_inner().reservation.unwrap())
}

async fn unreserve(site: &Site, address: &str) -> Option<Reservation> {
    let address = address.to_owned();
    let request = UnreserveRequest { address };
    let answer = site.allocator.admin_client().await.unreserve(request).await;
    answer.unwrap().into_inner().reservation
}

async fn reservations(site: &Site) -> Vec<Reservation> {
    let request = ListReservationsRequest::default();
    let mut admin = site.allocator.admin_client().await;
    let listed = admin.list_reservations(request).await;
    listed.unwrap().into_inner().reservations
}

/// The cells of the address's line in the routes file.
async fn route_is(site: &Site, expected: [&str; 5]) {
    let what = format!("the routes show {expected:?}");
    eventually(DEADLINE, what, async || {
        let routes = fs::read_to_string(site.allocator.routes_file()).unwrap_or_default();
        let shown = routes.lines().any(|line| {
            let cells = line.trim_matches('|').split('|').map(str::trim);
            cells.eq(expected)
        });
        if shown { Ok(()) } else { Err(routes) }
    })
    .await;
}

async fn history_is<const N: usize>(site: &Site, address: &str, expected: [ChangeKind; N]) {
    let entries = site.allocator.history(address).await;
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind()).collect();
    assert_eq!(kinds, expected, "{entries:#?}");
}

#[tokio::test]
async fn an_address_reserved_for_nobody_is_given_to_nobody_and_counts_as_used() {
    let (ns, site) = start("192.0.2.1-192.0.2.2").await;
    let request = ReserveRequest {
        comment: "the router".to_owned(),
        ..of("192.0.2.1")
    };
    let reserved = reserve(&site, request.clone()).await.unwrap();
    assert_eq!(
        (&*reserved.address, &*reserved.comment),
        ("192.0.2.1", "the router")
    );
    assert_eq!(reserve(&site, request).await.unwrap(), reserved, "repeated");
    assert_eq!(reservations(&site).await, [reserved]);

    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.2"]).await;
    ns.create(site.service("more")).await;
    ns.is_pending("more", "POOL_EXHAUSTED").await;
    ns.create(site.service("asking").ips("192.0.2.1")).await;
    let condition = ns.is_pending("asking", "ADDRESS_IN_USE").await;
    assert!(
        condition.message.contains("reserved"),
        "{}",
        condition.message
    );

    let usage = &site.allocator.pools().await[0].usage[0];
    assert_eq!((usage.size, usage.used, usage.free), (2, 2, 0));
    route_is(&site, ["192.0.2.1", "y", "None", "None", "None"]).await;
    history_is(&site, "192.0.2.1", [ChangeKind::Reserved]).await;

    // The end of the reservation is told to those who wait.
    ns.delete("more").await;
    assert!(unreserve(&site, "192.0.2.1").await.is_some());
    ns.gets("asking", ["192.0.2.1"]).await;
    assert_eq!(unreserve(&site, "192.0.2.1").await, None, "repeated");
    let expected = [
        ChangeKind::Allocated,
        ChangeKind::Unreserved,
        ChangeKind::Reserved,
    ];
    history_is(&site, "192.0.2.1", expected).await;
}

#[tokio::test]
async fn a_reserved_address_waits_for_its_service_and_outlives_it() {
    let (ns, site) = start("192.0.2.1-192.0.2.2").await;
    let mail = key(&ns.to_string(), "mail");
    let request = ReserveRequest {
        service: Some(mail.clone()),
        ..of("192.0.2.2")
    };
    reserve(&site, request).await.unwrap();
    assert_eq!(reservations(&site).await[0].service, Some(mail));
    route_is(&site, ["192.0.2.2", "y", &ns.to_string(), "mail", "None"]).await;

    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.1"]).await;
    ns.create(site.service("other")).await;
    ns.is_pending("other", "POOL_EXHAUSTED").await;
    for _ in 0..2 {
        ns.create(site.service("mail")).await;
        ns.gets("mail", ["192.0.2.2"]).await;
        let cluster_ip = ns.get("mail").await.spec.unwrap().cluster_ip.unwrap();
        let expected = ["192.0.2.2", "y", &ns.to_string(), "mail", &cluster_ip];
        route_is(&site, expected).await;
        ns.delete("mail").await;
        ns.was_told("other", ["AllocationFailed"]).await;
        route_is(&site, ["192.0.2.2", "y", &ns.to_string(), "mail", "None"]).await;
    }
    ns.is_pending("other", "POOL_EXHAUSTED").await;
}

#[tokio::test]
async fn a_reservation_is_for_one_cluster_namespace_and_name() {
    let (ns, site) = start("192.0.2.1").await;
    let other_cluster = ServiceKey {
        cluster: "two".to_owned(),
        ..key(&ns.to_string(), "web")
    };
    let other_namespace = key("elsewhere", "web");
    ns.create(site.service("holder")).await;
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.delete("holder").await;
    for service in [other_cluster, other_namespace] {
        eventually(DEADLINE, "the address can be reserved", async || {
            let service = Some(service.clone());
            let request = ReserveRequest {
                service,
                ..of("192.0.2.1")
            };
            reserve(&site, request).await
        })
        .await;
        ns.create(site.service("web")).await;
        ns.is_pending("web", "POOL_EXHAUSTED").await;
        ns.delete("web").await;
    }
}

#[tokio::test]
async fn a_reservation_with_an_expiry_ends_by_itself_and_who_waits_is_served() {
    let (ns, site) = start("192.0.2.1").await;
    let at = |time: SystemTime| ReserveRequest {
        expires_at: Some(time.into()),
        ..of("192.0.2.1")
    };
    let past = reserve(&site, at(SystemTime::now() - Duration::from_secs(60))).await;
    assert_eq!(refusal(&past.unwrap_err()).reason, "INVALID_REQUEST");

    let later = SystemTime::now() + Duration::from_secs(3600);
    let reserved = reserve(&site, at(later)).await.unwrap();
    assert!(reserved.expires_at.is_some());
    ns.create(site.service("web")).await;
    ns.is_pending("web", "POOL_EXHAUSTED").await;
    // A reservation of the same address takes the place of the other.
    let soon = SystemTime::now() + Duration::from_secs(1);
    reserve(&site, at(soon)).await.unwrap();
    ns.gets("web", ["192.0.2.1"]).await;
    assert_eq!(reservations(&site).await, []);
}

#[tokio::test]
async fn a_held_address_can_be_reserved_for_its_holder_alone() {
    let (ns, site) = start("192.0.2.1").await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;
    let with = |name| ReserveRequest {
        service: Some(key(&ns.to_string(), name)),
        ..of("192.0.2.1")
    };
    for request in [with("other"), of("192.0.2.1")] {
        let refused = reserve(&site, request).await.unwrap_err();
        assert_eq!(refusal(&refused).reason, "ADDRESS_IN_USE", "{refused}");
    }
    let outside = reserve(&site, of("203.0.113.1")).await.unwrap_err();
    assert_eq!(refusal(&outside).reason, "ADDRESS_NOT_IN_POOL");

    reserve(&site, with("web")).await.unwrap();
    unreserve(&site, "192.0.2.1").await.unwrap();
    ns.gets("web", ["192.0.2.1"]).await;
    reserve(&site, with("web")).await.unwrap();
    ns.create(site.service("other")).await;
    ns.is_pending("other", "POOL_EXHAUSTED").await;
    ns.delete("web").await;
    ns.was_told("web", ["AddressAssigned", "AddressReleased"])
        .await;
    ns.is_pending("other", "POOL_EXHAUSTED").await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn who_waits_is_served_when_an_address_is_reserved_for_it() {
    let pools = "pools: [{name: p, addresses: [192.0.2.1], autoAssign: false}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("web")).await;
    ns.is_pending("web", "NO_POOL").await;
    let request = ReserveRequest {
        service: Some(key(&ns.to_string(), "web")),
        ..of("192.0.2.1")
    };
    reserve(&site, request).await.unwrap();
    ns.gets("web", ["192.0.2.1"]).await;
}
