//! A watcher with a certificate.

use integration_tests::{
    allocator::{Allocator, Options},
    certificates::Authority,
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    secret::Secret,
    service::service,
    site::{CLUSTER, random_class},
    watcher::{self, Watcher},
};

const URI: &str = "spiffe://test/cluster/one/role/watcher";

#[tokio::test]
async fn a_watcher_with_a_certificate_serves_and_rotation_does_not_interrupt_it() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let (old, new) = (
        Authority::new("old").unwrap(),
        Authority::new("new").unwrap(),
    );
    let both = format!("{}{}", old.certificate, new.certificate);
    let server = Secret::new(&old.server().unwrap(), &both);
    let client = Secret::new(&old.caller(URI).unwrap(), &both);
    let list = (1..=9).map(|host| format!("{ns}:192.0.2.{host}"));
    let list = list.collect::<Vec<_>>().join(" ");
    let mut allocator = Allocator::start(Options::ip_list(list).tls(server.files())).await;
    let class = random_class();
    let options = watcher::Options::cluster(CLUSTER)
        .class(&class)
        .tls(client.files());
    let mut watcher = Watcher::start(control_plane, &allocator.url(), options).await;
    let admin = watcher.admin();
    let service = |name: &str| service(name).class(&class);
    ns.create(service("before")).await;
    ns.gets("before", ["192.0.2.1"]).await;
    let expiry = "lb_watcher_certificate_expiry_timestamp_seconds";
    admin.sees(expiry, &[], |at| at > 1e9).await;

    client.swap(&new.caller(URI).unwrap(), &both);
    eventually(
        DEADLINE,
        "the watcher took its new certificate",
        async || {
            let errors = watcher.process().errors();
            let taken = errors.contains("connecting to lb-allocator with other certificates");
            if taken { Ok(()) } else { Err(errors) }
        },
    )
    .await;
    ns.create(service("between")).await;
    ns.gets("between", ["192.0.2.2"]).await;
    server.swap(&new.server().unwrap(), &new.certificate);
    eventually(DEADLINE, "the allocator took its own", async || {
        let errors = allocator.process().errors();
        let taken = errors.contains("TLS certificates reloaded");
        if taken { Ok(()) } else { Err(errors) }
    })
    .await;
    ns.create(service("after")).await;
    ns.gets("after", ["192.0.2.3"]).await;
    ns.delete("before").await;
    let errors = watcher.process().errors();
    assert!(!errors.contains("is away"), "{errors}");
    admin
        .sees("lb_watcher_stream_errors_total", &[], |errors| {
            errors == 0.0
        })
        .await;
    ns.was_written("between", 1).await;

    // Nothing but the new certificates opens a connection now.
    allocator.kill();
    allocator.start_again().await;
    ns.create(service("later")).await;
    ns.gets("later", ["192.0.2.4"]).await;
}

#[tokio::test]
async fn bad_files_leave_the_watcher_with_its_last_good_ones() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let authority = Authority::new("test").unwrap();
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let good = authority.caller(URI).unwrap();
    let client = Secret::new(&good, &authority.certificate);
    let list = format!("{ns}:192.0.2.1");
    let allocator = Allocator::start(Options::ip_list(list).tls(server.files())).await;
    let class = random_class();
    let options = watcher::Options::cluster(CLUSTER)
        .class(&class)
        .tls(client.files());
    let watcher = Watcher::start(control_plane, &allocator.url(), options).await;
    let mut mixed = authority.caller(URI).unwrap();
    mixed.certificate.clone_from(&good.certificate);
    client.swap(&mixed, &authority.certificate);
    let reloaded = "lb_watcher_tls_last_reload_successful";
    watcher
        .admin()
        .sees(reloaded, &[], |seen| seen == 0.0)
        .await;
    let verbose = watcher.admin().get("/readyz?verbose").await.unwrap();
    assert!(verbose.contains("[-]certificates failed"), "{verbose}");
    ns.create(service("a").class(&class)).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_watcher_with_the_certificate_of_another_cluster_gets_nothing_and_says_so() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let authority = Authority::new("test").unwrap();
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let other = authority.caller("spiffe://test/cluster/two/role/watcher");
    let client = Secret::new(&other.unwrap(), &authority.certificate);
    let list = format!("{ns}:192.0.2.1");
    let allocator = Allocator::start(Options::ip_list(list).tls(server.files())).await;
    let class = random_class();
    let options = watcher::Options::cluster(CLUSTER)
        .class(&class)
        .tls(client.files());
    let mut watcher = Watcher::prepare(control_plane, &allocator.url(), options);
    watcher.start_unready();
    ns.create(service("a").class(&class)).await;
    let condition = ns.is_pending("a", "PERMISSION_DENIED").await;
    assert!(condition.message.contains("two"), "{}", condition.message);
    let labels = [("why", "OTHER_CLUSTER")];
    let admin = allocator.admin();
    admin
        .sees("lb_allocator_denials_total", &labels, |seen| seen > 0.0)
        .await;
}
