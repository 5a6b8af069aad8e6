//! What another pools file would do, before it is in force.

use std::fs;

use integration_tests::{
    allocator::run,
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    rpc::{key, refusal},
    scratch::Scratch,
    site::Site,
};
use lb_proto::v1::{PlanConfigurationRequest, PlanConfigurationResponse};
use tonic::Status;

/// By the command; its standard output, or its errors.
async fn check(site: &Site, pools: &str) -> Result<String, String> {
    let scratch = Scratch::new("plan").unwrap();
    let file = scratch.path().join("pools.yaml");
    fs::write(&file, pools).unwrap();
    let file = file.to_str().unwrap();
    let url = site.allocator.url();
    let (status, out, errors) = run(&["check-config", file, "--against", &url], &[]).await;
    if status.success() {
        Ok(out)
    } else {
        Err(errors)
    }
}

/// By the RPC.
async fn plan(site: &Site, pools: &str) -> Result<PlanConfigurationResponse, Status> {
    let request = PlanConfigurationRequest {
        pools_file: pools.to_owned(),
    };
    let mut admin = site.allocator.admin_client().await;
    Ok(admin.plan_configuration(request).await?.into_inner())
}

#[tokio::test]
async fn a_dry_run_lists_who_would_be_stranded_and_unstranded_and_served_and_changes_nothing() {
    let before = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.3]}]";
    let without = "pools: [{name: p, addresses: [192.0.2.2-192.0.2.3]}]";
    let other = "pools: [{name: q, addresses: [192.0.2.1-192.0.2.2, 192.0.2.9]}]";
    let (ns, site) = Site::of_pools(before).await;
    for host in 1..=3 {
        let name = format!("held-{host}");
        ns.create(site.service(&name)).await;
        ns.gets(&name, [format!("192.0.2.{host}").as_str()]).await;
    }
    ns.create(site.service("waits").ips("192.0.2.9")).await;
    ns.is_pending("waits", "ADDRESS_NOT_IN_POOL").await;
    ns.create(site.service("gone").ips("192.0.2.9")).await;
    ns.is_pending("gone", "ADDRESS_NOT_IN_POOL").await;
    ns.delete("gone").await;

    // The first one is stranded; then it would not be, and another one would.
    site.allocator.write_config(without);
    eventually(DEADLINE, "one is stranded", async || {
        let held = site.allocator.allocations().await;
        let stranded = held.iter().filter(|held| held.stranded).count();
        if stranded == 1 { Ok(()) } else { Err(stranded) }
    })
    .await;
    let planned = plan(&site, other).await.unwrap();
    let places = |allocations: &[lb_proto::v1::Allocation]| {
        let place = |a: &lb_proto::v1::Allocation| (a.address.clone(), a.service.clone().unwrap());
        allocations.iter().map(place).collect::<Vec<_>>()
    };
    let service = |name| key(&ns.to_string(), name);
    assert_eq!(planned.stranded_count, 1);
    let stranded = [("192.0.2.3".to_owned(), service("held-3"))];
    assert_eq!(places(&planned.stranded), stranded);
    assert_eq!(planned.unstranded_count, 1);
    let unstranded = [("192.0.2.1".to_owned(), service("held-1"))];
    assert_eq!(places(&planned.unstranded), unstranded);
    assert_eq!(planned.servable_count, 1);
    assert_eq!(planned.servable[0].service, Some(service("waits")));
    assert_eq!(planned.servable[0].addresses, ["192.0.2.9"]);

    let told = check(&site, other).await.unwrap();
    let expected = format!(
        "1 Services would be stranded (they keep their address)\n\
         \x20 192.0.2.3 one/{ns}/held-3\n\
         1 Services would not be stranded any more\n\
         \x20 192.0.2.1 one/{ns}/held-1\n\
         1 Services that wait would be served\n\
         \x20 192.0.2.9 one/{ns}/waits\n"
    );
    assert_eq!(told, expected);
    let nothing = check(&site, without).await.unwrap();
    assert!(!nothing.contains("192.0.2"), "{nothing}");

    // Nothing was changed by asking, and the plan comes true.
    assert_eq!(plan(&site, other).await.unwrap(), planned);
    ns.is_pending("waits", "ADDRESS_NOT_IN_POOL").await;
    site.allocator.write_config(other);
    ns.gets("waits", ["192.0.2.9"]).await;
    let held = site.allocator.allocations().await;
    let stranded: Vec<_> = held.into_iter().filter(|held| held.stranded).collect();
    assert_eq!(stranded.len(), 1);
    assert_eq!(stranded[0].address, "192.0.2.3");
    ns.gets("held-3", ["192.0.2.3"]).await;
}

#[tokio::test]
async fn a_dry_run_of_a_bad_file_tells_line_pool_and_key() {
    let control_plane = ControlPlane::shared().await;
    let site = Site::with_pools(control_plane, "pools: [{name: p, addresses: [192.0.2.1]}]").await;
    let bad = "pools:\n- name: web\n  addresses: [192.0.2.1]\n  cooldown: soon\n";
    let words = [
        "line 4",
        "\"web\"",
        "cooldown",
        "\"soon\" is not a duration",
    ];
    let refused = plan(&site, bad).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "INVALID_CONFIGURATION");
    let errors = check(&site, bad).await.unwrap_err();
    for word in words {
        assert!(refused.message().contains(word), "{word}: {refused}");
        assert!(errors.contains(word), "{word}: {errors}");
    }
}
