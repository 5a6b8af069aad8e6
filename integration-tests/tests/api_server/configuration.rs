//! The pools file while requests run: how a change arrives, and what a bad one
//! does.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use integration_tests::{
    allocator::Allocator,
    eventually::{DEADLINE, eventually},
    rpc::{acquire, release},
    site::Site,
};
use rustix::process::Signal;

const RELOADED: &str = "lb_allocator_config_last_reload_successful";

/// Waits until a pool of this name is there.
async fn has_pool(allocator: &Allocator, name: &str) {
    eventually(DEADLINE, format!("pool {name} is in force"), async || {
        let pools = allocator.pools().await;
        if pools.iter().any(|pool| pool.name == name) {
            Ok(())
        } else {
            Err(format!("{pools:?}"))
        }
    })
    .await;
}

/// Puts a text where the pools file is, as the kubelet does with a ConfigMap: the
/// file is a link into `..data`, itself a link that is swapped for another.
fn swap_config_map(allocator: &Allocator, version: u32, text: &str) {
    let file = allocator.pools_file();
    let volume = file.parent().unwrap();
    let data = format!("..{version}");
    fs::create_dir(volume.join(&data)).unwrap();
    fs::write(volume.join(&data).join("pools.yaml"), text).unwrap();
    symlink(&data, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if version > 1 {
        fs::remove_dir_all(volume.join(format!("..{}", version - 1))).unwrap();
    } else {
        symlink("..data/pools.yaml", volume.join("link")).unwrap();
        fs::rename(volume.join("link"), &file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_by_a_config_map_and_by_sighup_drop_no_request() {
    let pools = |version: u32| {
        let addresses = "198.51.100.0/24";
        format!(
            "pools: [{{name: v{version}, addresses: [{addresses}, 192.0.2.{version}], \
             cooldown: 0s, stickyFor: 0s}}]"
        )
    };
    let (ns, mut site) = Site::of_pools(&pools(0)).await;
    ns.create(site.service("held").ips("198.51.100.200")).await;
    ns.gets("held", ["198.51.100.200"]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let mut callers = Vec::new();
    for number in 0..4 {
        let mut client = site.allocator.client().await;
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        let name = format!("caller-{number}");
        callers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.acquire(acquire("callers", &name)).await?;
                client.release(release("callers", &name)).await?;
                answered.fetch_add(2, Ordering::Relaxed);
            }
            Ok::<_, tonic::Status>(())
        }));
    }
    for version in 1..=4 {
        let before = answered.load(Ordering::Relaxed);
        swap_config_map(&site.allocator, version, &pools(version));
        if version % 2 == 0 {
            site.allocator.process().signal(Signal::HUP);
        }
        has_pool(&site.allocator, &format!("v{version}")).await;
        eventually(DEADLINE, "requests go on", async || {
            let now = answered.load(Ordering::Relaxed);
            if now > before { Ok(()) } else { Err(now) }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    let errors = site.allocator.process().errors();
    assert!(
        errors.contains("SIGHUP: reading pools file and certificates"),
        "{errors}"
    );
    ns.gets("held", ["198.51.100.200"]).await;
    ns.was_told("held", ["AddressAssigned"]).await;
    ns.create(site.service("new").ips("192.0.2.4")).await;
    ns.gets("new", ["192.0.2.4"]).await;
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_one_in_force_and_is_told_once() {
    let good = "pools: [{name: first, addresses: [192.0.2.1-192.0.2.9]}]";
    let (ns, mut site) = Site::of_pools(good).await;
    let rows: [(&str, &[&str]); 6] = [
        (
            "pools:\n- name: a\n  addresses: [192.0.2.0/24, 192.0.2.7]\n",
            &["line 3", "pool a", "192.0.2.7", "overlap"],
        ),
        (
            "pools:\n- {name: a, addresses: [192.0.2.0/24]}\n- {name: b, addresses: [192.0.2.7]}\n",
            &["line 3", "pools a and b overlap"],
        ),
        (
            "pools:\n- {name: a, addresses: [192.0.2.1]}\n- {name: a, addresses: [192.0.2.7]}\n",
            &["line 3", "two pools have the name a"],
        ),
        (
            "pools:\n- name: a\n  adresses: [192.0.2.1]\n",
            &["line 3", "adresses"],
        ),
        (
            "pools:\n- name: a\n  addresses: [192.0.2.1]\n  maxPerCluster: 0\n",
            &["line 4", "pool \"a\"", "maxPerCluster"],
        ),
        ("pools: [", &["line 1"]),
    ];
    for (number, (bad, words)) in rows.into_iter().enumerate() {
        site.allocator.write_config(bad);
        let admin = site.allocator.admin();
        eventually(DEADLINE, format!("{bad:?} is refused"), async || {
            let ready = admin.get("/readyz?verbose").await?;
            let told = ready.contains("[-]config failed");
            let all = words.iter().all(|word| ready.contains(word));
            anyhow::ensure!(told && all, "{words:?}: {ready}");
            anyhow::Ok(())
        })
        .await;
        admin.sees(RELOADED, &[], |value| value == 0.0).await;
        // Read once more, and not told once more.
        let looks = |errors: &str| errors.matches("SIGHUP: reading").count();
        let before = looks(&site.allocator.process().errors());
        for _ in 0..2 {
            let count = looks(&site.allocator.process().errors());
            site.allocator.process().signal(Signal::HUP);
            eventually(DEADLINE, "the file was looked at", async || {
                let now = looks(&site.allocator.process().errors());
                if now > count { Ok(()) } else { Err(now) }
            })
            .await;
        }
        let errors = site.allocator.process().errors();
        assert!(looks(&errors) >= before + 2);
        let told = errors
            .matches("configuration rejected, keeping the previous one")
            .count();
        assert_eq!(told, number + 1, "{errors}");
        assert!(admin.get("/readyz").await.is_ok(), "it serves all the same");
    }
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;

    site.allocator
        .write_config("pools: [{name: second, addresses: [192.0.2.0/24]}]");
    has_pool(&site.allocator, "second").await;
    let admin = site.allocator.admin();
    admin.sees(RELOADED, &[], |value| value == 1.0).await;
    let ready = admin.get("/readyz?verbose").await.unwrap();
    assert!(ready.contains("[+]config ok"), "{ready}");
    ns.gets("web", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn no_change_of_pools_that_keeps_an_address_moves_its_holder() {
    let pools = "pools: [{name: p, addresses: [192.0.2.4-192.0.2.5]}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.4"]).await;
    ns.create(site.service("b")).await;
    ns.gets("b", ["192.0.2.5"]).await;
    for (what, name, pools) in [
        (
            "widened",
            "wide",
            "pools: [{name: p, addresses: [192.0.2.0/24]}, {name: wide, addresses: [198.51.100.1]}]"
                .to_owned(),
        ),
        (
            "renamed",
            "other",
            "pools: [{name: other, addresses: [192.0.2.0/24]}]".to_owned(),
        ),
        (
            "split",
            "lower",
            "pools: [{name: lower, addresses: [192.0.2.0-192.0.2.4]}, \
             {name: upper, addresses: [192.0.2.5-192.0.2.9]}]"
                .to_owned(),
        ),
        (
            "behind others by priority, and by a bound pool",
            "bound",
            format!(
                "pools: [{{name: bound, addresses: [198.51.100.1], namespaces: [{ns}]}}, \
                 {{name: first, addresses: [198.51.100.2], priority: 1}}, \
                 {{name: p, addresses: [192.0.2.0/24], priority: 9}}]"
            ),
        ),
        (
            "given only on request",
            "asked",
            "pools: [{name: asked, addresses: [192.0.2.0/24], autoAssign: false, \
             maxPerNamespace: 1}]"
                .to_owned(),
        ),
    ] {
        site.allocator.write_config(&pools);
        has_pool(&site.allocator, name).await;
        // A wish that is asked anew under the new pools.
        ns.edit("a", serde_json::json!({"metadata": {"labels": {"asked": name}}}))
            .await;
        ns.create(site.service("passing").ips("203.0.113.1")).await;
        ns.is_pending("passing", "ADDRESS_NOT_IN_POOL").await;
        ns.delete("passing").await;
        let held = site.allocator.allocations().await;
        assert!(held.iter().all(|held| !held.stranded), "{what}: {held:#?}");
        ns.gets("a", ["192.0.2.4"]).await;
        ns.gets("b", ["192.0.2.5"]).await;
    }
    site.fence(&ns).await;
    ns.was_told("a", ["AddressAssigned"]).await;
    ns.was_told("b", ["AddressAssigned"]).await;
}
