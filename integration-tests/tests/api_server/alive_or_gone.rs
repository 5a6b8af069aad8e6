//! A watcher whose any part has ended ends, and another one takes over: it never
//! keeps the role of the one that acts and does nothing.

use integration_tests::{
    allocator::{self, Allocator},
    certificates::Authority,
    control_plane::ControlPlane,
    eventually::DEADLINE,
    secret::Secret,
    site::{CLUSTER, Site, random_class},
    watcher::{Options, Watcher},
};
use rustix::process::Signal;

#[tokio::test]
async fn whichever_task_ends_or_panics_the_process_ends_and_names_it() {
    if !cfg!(debug_assertions) {
        // A release build has no way to make a task end.
        return;
    }
    let control_plane = ControlPlane::shared().await;
    let authority = Authority::new("test").unwrap();
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let uri = "spiffe://test/cluster/one/role/watcher";
    let client = Secret::new(&authority.caller(uri).unwrap(), &authority.certificate);
    let options = allocator::Options::ip_list("web:192.0.2.1").tls(server.files());
    let allocator = Allocator::start(options).await;
    for task in [
        "namespace watch",
        "service watch",
        "history watch",
        "worker",
        "session",
        "beat",
        "events",
        "admin",
        "certificates",
        "reconnect",
    ] {
        for fault in ["panic", "end"] {
            let options = Options::cluster(CLUSTER).class(&random_class());
            let options = options.tls(client.files());
            let options = options.env("LB_TEST_FAULT", &format!("{fault}:{task}"));
            let mut watcher = Watcher::prepare(control_plane, &allocator.url(), options);
            watcher.start_unready();
            let ended = watcher.process().ends(DEADLINE).await;
            let (status, errors) = (ended.unwrap(), watcher.process().errors());
            assert_eq!(status.code(), Some(1), "{fault} {task}: {errors}");
            let told = errors
                .lines()
                .filter(|line| line.contains("it cannot do without"));
            let [line] = told.collect::<Vec<_>>()[..] else {
                panic!("{fault} {task}: {errors}")
            };
            assert!(line.contains("ERROR"), "{line}");
            assert!(line.contains(&format!("task {task:?}")), "{line}");
            assert!(line.contains("panicked") == (fault == "panic"), "{line}");
        }
    }
}

#[tokio::test]
async fn sighup_ends_nothing() {
    let (ns, mut site) = Site::of("192.0.2.1").await;
    site.watcher.process().signal(Signal::HUP);
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    assert_eq!(site.watcher.process().status().unwrap(), None);
}
