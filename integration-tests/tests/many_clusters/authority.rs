//! A watcher without the right certificate, or of a cluster out of service, gets
//! nothing, and people are told.

use std::fmt::Display;

use integration_tests::{
    certificates::{Authority, Identity},
    eventually::{DEADLINE, eventually},
};
use lb_proto::v1::{DecommissionClusterRequest, ListAllocationsRequest};

use crate::{
    fleet::{Cluster, Fleet},
    record::{Record, nobody_was_moved, shown},
};

async fn is_denied(fleet: &Fleet, what: impl Display, why: &str, caller: &str) {
    eventually(DEADLINE, what, async || {
        let denials = fleet.denials().await;
        let found = denials
            .iter()
            .any(|denial| denial.why == why && denial.caller == caller);
        if found {
            Ok(())
        } else {
            Err(format!("{denials:#?}"))
        }
    })
    .await
}

/// A watcher that shows this gets nothing; with the right certificate, and nothing
/// started again, it does.
struct Wrong {
    fleet: Fleet,
    cluster: Cluster,
}

impl Wrong {
    async fn start(identity: impl FnOnce(&Fleet) -> Identity) -> Self {
        let fleet = Fleet::start("pools: [{name: p, addresses: [192.0.2.1]}]").await;
        let identity = identity(&fleet);
        let mut cluster = fleet.prepare("a", 0, &identity).await;
        cluster.watcher.start_unready();
        cluster.ns.create(fleet.service("web")).await;
        Self { fleet, cluster }
    }

    async fn recovers_with_the_right_one(mut self) {
        assert!(self.fleet.holders().await.is_empty());
        let right = self.fleet.identity("a");
        let Cluster {
            ns,
            watcher,
            secret,
            ..
        } = &mut self.cluster;
        assert!(ns.status_writes("web").len() <= 1, "it was told once");
        secret.swap(&right, &self.fleet.authority.certificate);
        ns.gets("web", ["192.0.2.1"]).await;
        assert!(watcher.process().status().unwrap().is_none(), "it ended");
    }
}

async fn no_handshake(identity: impl FnOnce(&Fleet) -> Identity, says: [&str; 2]) {
    let mut wrong = Wrong::start(identity).await;
    let failed = "lb_allocator_tls_failed_handshakes_total";
    let admin = wrong.fleet.allocator.admin();
    admin.sees(failed, &[], |failed| failed > 0.0).await;
    let [allocator, watcher] = says;
    for (process, words) in [
        (wrong.fleet.allocator.process(), allocator),
        (wrong.cluster.watcher.process(), watcher),
    ] {
        eventually(DEADLINE, words, async || {
            let errors = process.errors();
            if errors.contains(words) {
                Ok(())
            } else {
                Err(errors)
            }
        })
        .await;
    }
    let ns = &wrong.cluster.ns;
    let told = ns.is_pending("web", "ALLOCATOR_UNAVAILABLE").await;
    let said = told.message.contains("does not answer");
    assert!(said, "{}", told.message);
    let admin = wrong.cluster.watcher.admin();
    let errors = "lb_watcher_stream_errors_total";
    admin.sees(errors, &[], |errors| errors > 0.0).await;
    admin.get("/readyz").await.unwrap_err();
    wrong.recovers_with_the_right_one().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_nothing_until_the_right_one_is_there() {
    let stranger = Authority::new("stranger").unwrap();
    let uri = "spiffe://test/cluster/a/role/watcher";
    let says = ["a TLS handshake failed", "lb-allocator is away"];
    no_handshake(|_| stranger.caller(uri).unwrap(), says).await;
}

#[tokio::test]
async fn an_expired_certificate_gets_nothing_until_the_right_one_is_there() {
    let ago = -time::Duration::hours(1);
    let uri = "spiffe://test/cluster/a/role/watcher";
    let says = ["certificate expired", "a certificate has expired"];
    let expired = |fleet: &Fleet| fleet.authority.caller_until(uri, ago).unwrap();
    no_handshake(expired, says).await;
}

async fn is_refused(uri: &str, why: &str, words: &str) {
    let wrong = Wrong::start(|fleet| fleet.authority.caller(uri).unwrap()).await;
    let told = wrong
        .cluster
        .ns
        .is_pending("web", "PERMISSION_DENIED")
        .await;
    assert!(told.message.contains(words), "{}", told.message);
    is_denied(&wrong.fleet, "it is recorded", why, uri).await;
    let admin = wrong.fleet.allocator.admin();
    let denied = "lb_allocator_denials_total";
    admin.sees(denied, &[("why", why)], |seen| seen > 0.0).await;
    wrong.recovers_with_the_right_one().await;
}

#[tokio::test]
async fn the_key_of_another_cluster_gets_nothing_until_the_right_one_is_there() {
    let uri = "spiffe://test/cluster/b/role/watcher";
    is_refused(uri, "OTHER_CLUSTER", "for cluster b").await;
}

#[tokio::test]
async fn a_certificate_of_another_role_gets_nothing_until_the_right_one_is_there() {
    let uri = "spiffe://test/cluster/a/role/viewer";
    is_refused(uri, "ROLE", "a viewer may not").await;
}

#[tokio::test]
async fn a_cluster_out_of_service_keeps_its_statuses_and_others_get_its_addresses_later() {
    let fleet = Fleet::start("pools: [{name: p, addresses: [192.0.2.1-192.0.2.3]}]").await;
    let (mut a, b) = (fleet.cluster("a", 0).await, fleet.cluster("b", 1).await);
    let names = ["s1", "s2", "s3"];
    let mut had = Vec::new();
    for name in names {
        a.ns.create(fleet.service(name)).await;
        had.push(a.ns.gets_any(name).await);
    }
    for name in names {
        b.ns.create(fleet.service(name)).await;
        b.ns.is_pending(name, "POOL_EXHAUSTED").await;
    }
    let of_a = Record::of(&a.ns).await;
    a.watcher.kill();
    let mut admin = fleet.admin().await;
    let request = |dry_run| DecommissionClusterRequest {
        cluster: "a".to_owned(),
        dry_run,
        grace: Some(prost_types::Duration {
            seconds: 4,
            nanos: 0,
        }),
    };
    let tried = admin.decommission_cluster(request(true)).await;
    assert_eq!(tried.unwrap().into_inner().allocation_count, 3);
    let done = admin.decommission_cluster(request(false)).await;
    let release_at = done.unwrap().into_inner().release_at.unwrap();
    let before = fleet.holders().await;
    assert!(before.iter().all(|(_, of)| of.starts_with("a/")));

    a.watcher.start_unready();
    let caller = "spiffe://test/cluster/a/role/watcher";
    let late = "its late watcher is refused";
    is_denied(&fleet, late, "DECOMMISSIONED", caller).await;
    a.ns.create(fleet.service("late")).await;
    a.ns.is_pending("late", "PERMISSION_DENIED").await;

    for name in names {
        b.ns.gets_any(name).await;
    }
    let mut pools = fleet.pools().await;
    let held = pools.list_allocations(ListAllocationsRequest::default());
    let held = held.await.unwrap().into_inner().allocations;
    assert_eq!(held.len(), 3);
    for held in held {
        assert_eq!(held.service.unwrap().cluster, "b");
        let at = held.allocated_at.unwrap();
        let (at, until) = (
            (at.seconds, at.nanos),
            (release_at.seconds, release_at.nanos),
        );
        assert!(at >= until, "{at:?} is within the grace, {until:?}");
    }
    let of_a = of_a.end(&a.ns).await;
    for (name, address) in names.iter().zip(had) {
        assert_eq!(shown(&of_a, name), [[address]]);
    }
    nobody_was_moved(&[of_a]);
}
