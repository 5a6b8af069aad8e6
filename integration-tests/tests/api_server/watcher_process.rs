//! The watcher as a process: what it is told, what it prints, what it counts.

use std::time::Duration;

use integration_tests::{
    binaries::workspace_binary,
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    logs,
    process::Process,
    settings::Given,
    site::{CLUSTER, Site},
    watcher::{Options, Watcher},
};

#[tokio::test]
async fn each_decision_is_one_classic_line_on_standard_output() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("a").ips("192.0.2.1")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.create(site.service("b").ips("192.0.2.1")).await;
    ns.is_pending("b", "ADDRESS_IN_USE").await;
    ns.annotate("a", "lb-allocator.io/ips", Some("192.0.2.2"))
        .await;
    ns.gets("b", ["192.0.2.1"]).await;
    ns.delete("a").await;

    let expected = [
        "ADDED IP OK service:a destination:192.0.2.1",
        "ADDED IP PENDING service:b reason:ADDRESS_IN_USE",
        "MODIFIED IP OK service:a destination:192.0.2.2",
        "ADDED IP OK service:b destination:192.0.2.1",
        "DELETED IP OK service:a destination:192.0.2.2",
    ];
    let namespace = format!(" namespace:{ns}");
    let process = site.watcher.process();
    eventually(DEADLINE, format!("{expected:?} is printed"), async || {
        let output = process.output();
        let decisions = output.lines().filter(|line| line.contains(&namespace));
        let mut lines: Vec<_> = decisions
            .filter_map(|line| Some(line.split_once("] ")?.1.replace(&namespace, "")))
            .collect();
        // Two Services may be told of in either order.
        lines.sort();
        let mut expected = expected;
        expected.sort_unstable();
        if lines == expected {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
}

#[tokio::test]
async fn its_metrics_count_what_it_holds_and_what_waits() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("held")).await;
    ns.gets("held", ["192.0.2.1"]).await;
    ns.create(site.service("waiting")).await;
    ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    let admin = site.watcher.admin();
    admin
        .sees("lb_watcher_services_held", &[], |held| held == 1.0)
        .await;
    admin
        .sees("lb_watcher_services_pending", &[], |pending| pending == 1.0)
        .await;
    let metrics = admin.get("/metrics").await.unwrap();
    assert!(
        !metrics.contains(&ns.to_string()),
        "a Service's name or namespace is no label"
    );
    admin.get("/healthz").await.unwrap();
}

#[tokio::test]
async fn every_flag_may_come_from_the_environment() {
    let control_plane = ControlPlane::shared().await;
    let (ns, mut site) = Site::of("192.0.2.1").await;
    site.watcher.kill();
    let mut options = Options::cluster(CLUSTER).class(&site.class);
    options.given = Given::InEnvironment;
    let _watcher = Watcher::start(control_plane, &site.allocator.url(), options).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn it_does_not_start_without_what_it_needs_and_says_so() {
    let control_plane = ControlPlane::shared().await;
    let kubeconfig = control_plane.kubeconfig().display().to_string();
    let rows: [(&[&str], &str); 5] = [
        (&["--kubeconfig", &kubeconfig], "--cluster"),
        (
            &["--cluster", "Not A Name", "--kubeconfig", &kubeconfig],
            "Not A Name",
        ),
        (
            &["--cluster", "one", "--kubeconfig", "/nowhere/kubeconfig"],
            "/nowhere/kubeconfig",
        ),
        (
            &[
                "--cluster",
                "one",
                "--kubeconfig",
                &kubeconfig,
                "--context",
                "missing",
            ],
            "missing",
        ),
        (
            &[
                "--cluster",
                "one",
                "--kubeconfig",
                &kubeconfig,
                "--allocator",
                "nonsense",
            ],
            "nonsense",
        ),
    ];
    for (number, (args, part)) in rows.into_iter().enumerate() {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let binary = workspace_binary("lb-watcher").unwrap();
        let name = format!("refused-{number}");
        let mut process =
            Process::start(&name, &binary, &args, &[], &logs::folder().unwrap()).unwrap();
        let status = process.ends(Duration::from_secs(20)).await.unwrap();
        assert!(!status.success(), "{args:?}");
        let errors = process.errors();
        assert!(errors.contains(part), "{part}: {errors}");
    }
}
