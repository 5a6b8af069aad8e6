//! Statuses that the API server does not take as they are written: people hear of it, by
//! whom it was refused, and the Service is served soon after nothing is in the way.

use std::time::Duration;

use integration_tests::{
    account::Account,
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    eventually::eventually,
    namespace::{Namespace, addresses, condition},
    policy::Policy,
    site::{CLUSTER, Site, random_class},
    watcher::{Options, Watcher},
};
use serde_json::json;

/// What was refused is tried again after a minute at most.
const SOON: Duration = Duration::from_secs(100);

async fn start() -> (Namespace, Site) {
    Site::of("192.0.2.1").await
}

async fn counts(site: &Site, cause: &str, pending: f64, held: f64) {
    let admin = site.watcher.admin();
    let cause = [("cause", cause)];
    let name = "lb_watcher_services_not_written";
    admin.sees(name, &cause, |count| count == pending).await;
    admin
        .sees("lb_watcher_services_pending", &[], |count| count == pending)
        .await;
    admin
        .sees("lb_watcher_services_held", &[], |count| count == held)
        .await;
}

async fn is_served_soon(ns: &Namespace, site: &Site, cause: &str) {
    let what = "it is served soon after nothing is in the way";
    eventually(SOON, what, async || {
        let service = ns.get("a").await;
        let satisfied = condition(&service).is_some_and(|condition| condition.status == "True");
        if addresses(&service) == ["192.0.2.1"] && satisfied {
            Ok(())
        } else {
            Err(format!("{:?}", service.status))
        }
    })
    .await;
    let told = ns
        .was_told("a", ["AllocationFailed", "AddressAssigned"])
        .await;
    assert_eq!(told[0].kind, "Warning");
    counts(site, cause, 0.0, 1.0).await;
}

#[tokio::test]
async fn a_policy_that_refuses_the_address_is_named_and_it_is_served_when_the_policy_is_gone() {
    let (ns, site) = start().await;
    let control_plane = ControlPlane::shared().await;
    let none = "!has(object.status.loadBalancer.ingress)";
    let policy = Policy::refusing(control_plane, &ns, none, "no addresses today").await;
    ns.create(site.service("a")).await;
    let message = ns.is_pending("a", "STATUS_REJECTED").await.message;
    let told = ns.was_told("a", ["AllocationFailed"]).await;
    for words in [message.as_str(), told[0].note.as_str()] {
        assert!(words.contains(&policy.name), "{words}");
        assert!(words.contains("no addresses today"), "{words}");
    }
    counts(&site, "rejected", 1.0, 0.0).await;
    policy.remove().await;
    is_served_soon(&ns, &site, "rejected").await;
}

#[tokio::test]
async fn a_policy_that_refuses_every_write_is_told_by_an_event() {
    let (ns, site) = start().await;
    let control_plane = ControlPlane::shared().await;
    let policy = Policy::refusing(control_plane, &ns, "false", "nothing at all").await;
    ns.create(site.service("a")).await;
    let told = ns.was_told("a", ["AllocationFailed"]).await;
    let note = &told[0].note;
    for words in ["STATUS_REJECTED", policy.name.as_str(), "nothing at all"] {
        assert!(note.contains(words), "{note}");
    }
    counts(&site, "rejected", 1.0, 0.0).await;
    assert_eq!(condition(&ns.get("a").await), None);
    policy.remove().await;
    is_served_soon(&ns, &site, "rejected").await;
}

#[tokio::test]
async fn an_address_that_a_policy_strips_is_not_said_to_be_given() {
    let (ns, site) = start().await;
    let control_plane = ControlPlane::shared().await;
    let there = "has(object.status.loadBalancer.ingress)";
    let strip = r#"[JSONPatch{op: "remove", path: "/status/loadBalancer/ingress"}]"#;
    let policy = Policy::changing(control_plane, &ns, there, strip).await;
    ns.create(site.service("a")).await;
    let message = ns.is_pending("a", "STATUS_REJECTED").await.message;
    let words = "lb-watcher wrote 192.0.2.1 to status.loadBalancer, and nothing was stored";
    assert!(message.contains(words), "{message}");
    ns.was_told("a", ["AllocationFailed"]).await;
    counts(&site, "altered", 1.0, 0.0).await;
    // What is tried again never says otherwise in between.
    let writes = ns.status_writes("a").len();
    eventually(SOON, "it is tried again", async || {
        let service = ns.get("a").await;
        let status = condition(&service).unwrap().status;
        assert_eq!(status, "False");
        match ns.status_writes("a").len() {
            more if more > writes => Ok(()),
            same => Err(same),
        }
    })
    .await;
    policy.remove().await;
    is_served_soon(&ns, &site, "altered").await;
}

#[tokio::test]
async fn a_missing_right_to_write_is_told_as_such_in_log_readiness_event_and_metric() {
    let control_plane = ControlPlane::start("no-right").await.unwrap();
    let ns = control_plane.namespace().await;
    let class = random_class();
    let account = Account::new(&control_plane, &ns.to_string()).await.unwrap();
    let rights = json!([
        {"apiGroups": [""], "resources": ["services", "namespaces"],
         "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    account.may_everywhere(rights).await.unwrap();
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let options = Options::cluster(CLUSTER).class(&class);
    let options = options.kubeconfig(account.kubeconfig.clone());
    let watcher = Watcher::start(&control_plane, &allocator.url(), options).await;
    let mut site = Site {
        class,
        allocator,
        watcher,
    };
    ns.create(site.service("a")).await;

    let told = ns.was_told("a", ["AllocationFailed"]).await;
    let note = &told[0].note;
    let right = r#"cannot patch resource "services/status""#;
    for words in ["STATUS_FORBIDDEN", "forbidden: ", right, "the verb patch"] {
        assert!(note.contains(words), "{note}");
    }
    counts(&site, "forbidden", 1.0, 0.0).await;
    let admin = site.watcher.admin();
    let page = admin.get("/readyz").await.unwrap_err().to_string();
    assert!(
        page.contains("[-]status-writable failed") && page.contains(right),
        "{page}"
    );
    let log = site.watcher.process().errors();
    assert!(log.contains("status patch failed: forbidden: "), "{log}");
    assert!(!log.contains("does not answer"), "{log}");

    let right = json!([{"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]}]);
    account.may_in(&ns.to_string(), right).await.unwrap();
    is_served_soon(&ns, &site, "forbidden").await;
    admin.get("/readyz").await.unwrap();
}

#[tokio::test]
async fn a_request_of_200_kilobytes_is_refused_in_few_words() {
    let (ns, site) = start().await;
    let long = "x".repeat(200_000);
    ns.create(site.service("a").ips(&long)).await;
    let message = ns.is_pending("a", "INVALID_REQUEST").await.message;
    assert!(
        message.len() < 400 && message.contains("lb-allocator.io/ips"),
        "{message}"
    );
    let told = ns.was_told("a", ["AllocationFailed"]).await;
    assert!(told[0].note.len() < 400, "{told:?}");
    ns.annotate("a", "lb-allocator.io/ips", None).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_name_that_no_pool_can_have_is_told_by_the_name_of_the_annotation() {
    let (ns, site) = start().await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.annotate("a", "lb-allocator.io/pool", Some("My_Pool"))
        .await;
    let service = ns.has_condition("a", "False", "INVALID_REQUEST").await;
    assert_eq!(addresses(&service), ["192.0.2.1"]);
    let message = condition(&service).unwrap().message;
    let words = "annotation lb-allocator.io/pool: \"My_Pool\" is not the name of a pool";
    assert!(
        message.starts_with("keeps 192.0.2.1") && message.contains(words),
        "{message}"
    );
}
