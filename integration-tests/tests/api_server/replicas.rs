//! Replicas of one watcher: one acts, the others stand by and follow it when it
//! ends, hangs or is cut off, and nobody sees it but in the log.

use std::time::{Duration, Instant};

use integration_tests::{
    account::Account,
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually, within},
    namespace::{Namespace, addresses},
    relay::Relay,
    service::{ServiceBuilder, service},
    site::{CLUSTER, random_class},
    watcher::{Options, Watcher},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::ListParams};
use rustix::process::Signal;
use serde_json::{Value, json};

/// All that passes until a fresh Service is served by the one that follows.
const HAND_OVER: Duration = Duration::from_secs(15);

/// A leader and one that stands by.
struct Pair {
    ns: Namespace,
    allocator: Allocator,
    class: String,
    leader: Watcher,
    other: Watcher,
}

impl Pair {
    /// With this many addresses.
    async fn start(addresses: usize) -> Self {
        Self::on(ControlPlane::shared().await, addresses, |options| options).await
    }

    async fn on(
        control_plane: &ControlPlane,
        addresses: usize,
        of_leader: impl FnOnce(Options) -> Options,
    ) -> Self {
        let ns = control_plane.namespace().await;
        let list: Vec<_> = (1..=addresses)
            .map(|host| format!("{ns}:192.0.2.{host}"))
            .collect();
        let allocator = Allocator::start(AllocatorOptions::ip_list(list.join(" "))).await;
        let class = random_class();
        let options = Options::cluster(CLUSTER).class(&class);
        let leader =
            Watcher::start(control_plane, &allocator.url(), of_leader(options.clone())).await;
        leads(&leader).await;
        let other = Watcher::start(control_plane, &allocator.url(), options).await;
        stands_by(&other).await;
        Self {
            ns,
            allocator,
            class,
            leader,
            other,
        }
    }

    fn service(&self, name: &str) -> ServiceBuilder {
        service(name).class(&self.class)
    }

    /// Services `s0` and so on, with an address each.
    async fn served(&self, count: usize) {
        for number in 0..count {
            self.ns.create(self.service(&format!("s{number}"))).await;
        }
        for number in 0..count {
            let name = format!("s{number}");
            self.ns.gets_any(&name).await;
            // Events come behind the addresses; one that was not sent when its leader
            // ended is not made good.
            self.ns.was_told(&name, ["AddressAssigned"]).await;
        }
    }

    /// Nobody wrote to them, or told of them, but the one that served them.
    async fn are_as_served(&self, count: usize) {
        for number in 0..count {
            let name = format!("s{number}");
            self.ns.was_written(&name, 1).await;
            self.ns.was_told(&name, ["AddressAssigned"]).await;
        }
    }

    /// A Service created now is served in time.
    async fn serves(&self, name: &str, deadline: Duration) {
        let begin = Instant::now();
        self.ns.create(self.service(name)).await;
        let what = format!("{name} is served");
        eventually(deadline, what, async || {
            match &addresses(&self.ns.get(name).await)[..] {
                [_] => Ok(()),
                _ => Err("no address"),
            }
        })
        .await;
        println!("{name} was served after {:?}", begin.elapsed());
    }
}

async fn role(watcher: &Watcher) -> Result<String, String> {
    let text = watcher.admin().get("/readyz?verbose").await;
    let text = text.map_err(|error| format!("{error:#}"))?;
    let line = text.lines().find(|line| line.contains("leader-election"));
    Ok(line.unwrap_or_default().to_owned())
}

async fn is(watcher: &Watcher, role_line: &str, metric: f64) {
    let what = format!("{role_line} in /readyz, {metric} in /metrics");
    eventually(DEADLINE, what, async || {
        let seen = (
            role(watcher).await?,
            watcher
                .admin()
                .metric("lb_watcher_leader", &[])
                .await
                .map_err(|error| format!("{error:#}"))?,
        );
        if seen == (role_line.to_owned(), metric) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

async fn leads(watcher: &Watcher) {
    is(watcher, "[+]leader-election leading", 1.0).await;
}

async fn stands_by(watcher: &Watcher) {
    is(watcher, "[+]leader-election standby", 0.0).await;
}

fn decisions(watcher: &mut Watcher, ns: &Namespace) -> Vec<String> {
    let output = watcher.process().output();
    let of = format!(" namespace:{ns} ");
    let lines = output.lines().filter(|line| line.contains(&of));
    lines.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn only_the_leader_acts_and_writes_and_tells_each_thing_once() {
    let mut pair = Pair::start(30).await;
    pair.served(30).await;
    pair.ns.create(pair.service("waiting")).await;
    pair.ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    pair.are_as_served(30).await;
    pair.ns.was_written("waiting", 1).await;
    pair.ns.was_told("waiting", ["AllocationFailed"]).await;

    assert_eq!(pair.allocator.allocations().await.len(), 30);
    assert_eq!(decisions(&mut pair.leader, &pair.ns).len(), 31);
    assert_eq!(decisions(&mut pair.other, &pair.ns), [""; 0]);
    let admin = pair.other.admin();
    let acquired = admin.metric("lb_watcher_allocator_rpcs_total", &[("method", "Acquire")]);
    assert_eq!(acquired.await.unwrap(), 0.0);
}

#[tokio::test]
async fn a_killed_leader_is_followed_in_time_and_what_is_right_stays_untouched() {
    let mut pair = Pair::start(10).await;
    pair.served(9).await;
    pair.ns.create(pair.service("goes")).await;
    pair.ns.gets_any("goes").await;
    pair.ns.create(pair.service("waits")).await;
    pair.ns.is_pending("waits", "POOL_EXHAUSTED").await;
    pair.ns.was_told("waits", ["AllocationFailed"]).await;

    pair.leader.kill();
    // Nobody saw it go.
    pair.ns.delete("goes").await;
    let freed = within(HAND_OVER, async || {
        match addresses(&pair.ns.get("waits").await).len() {
            1 => Ok(()),
            none => Err(none),
        }
    });
    freed.await.unwrap();
    leads(&pair.other).await;
    pair.are_as_served(9).await;
    pair.ns
        .was_told("waits", ["AllocationFailed", "AddressAssigned"])
        .await;
    assert_eq!(pair.allocator.allocations().await.len(), 10);

    // And the other way round.
    pair.leader.start_again().await;
    stands_by(&pair.leader).await;
    pair.ns.delete("waits").await;
    eventually(DEADLINE, "one address is free", async || {
        match pair.allocator.allocations().await.len() {
            9 => Ok(()),
            held => Err(held),
        }
    })
    .await;
    pair.other.kill();
    pair.serves("fresh", HAND_OVER).await;
    pair.are_as_served(9).await;
    pair.ns.was_written("fresh", 1).await;
    pair.ns.was_told("fresh", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn on_sigterm_the_other_follows_at_once() {
    let mut pair = Pair::start(5).await;
    pair.served(4).await;
    let status = pair.leader.terminate(Duration::from_secs(5)).await;
    assert!(status.success(), "{status}");
    pair.serves("fresh", Duration::from_secs(3)).await;
    pair.are_as_served(4).await;
    pair.ns.was_told("fresh", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn a_hand_over_amid_creations_writes_each_status_once_and_repeats_no_event() {
    let mut pair = Pair::start(60).await;
    let (ns, class) = (&pair.ns, &pair.class);
    let creations = async {
        for number in 0..60 {
            ns.create(service(&format!("s{number}")).class(class)).await;
        }
    };
    let hand_over = async {
        ns.sees("the first is there", "s20", |_| true).await;
        pair.leader.terminate(Duration::from_secs(10)).await
    };
    let ((), status) = tokio::join!(creations, hand_over);
    assert!(status.success(), "{status}");
    // The Events of the one that ended came before, and those of the other are sent
    // in turn.
    ns.was_told("s59", ["AddressAssigned"]).await;
    for number in 0..60 {
        let name = format!("s{number}");
        ns.gets_any(&name).await;
        let told = ns.told(&name).await;
        assert!(told.len() <= 1, "{told:?}");
        // One that comes from an outdated cache is refused.
        let writes = ns.status_writes(&name);
        let done = writes.iter().filter(|write| write.code == 200);
        assert_eq!(done.count(), 1, "{writes:#?}");
    }
    eventually(DEADLINE, "both logged, each decision once", async || {
        let told = [
            decisions(&mut pair.leader, ns).len(),
            decisions(&mut pair.other, ns).len(),
        ];
        match told {
            [0, _] | [_, 0] => Err(format!("{told:?}")),
            [before, after] if before + after == 60 => Ok(()),
            _ => Err(format!("{told:?}")),
        }
    })
    .await;
}

/// Stopped while it waits for the allocator's answer, it has it at hand when it
/// goes on.
#[tokio::test]
async fn a_leader_that_was_stopped_does_no_harm_when_it_goes_on() {
    // Its workers wait for the allocator: other tests' Services may not keep them busy.
    let control_plane = ControlPlane::start("stopped").await.unwrap();
    let mut pair = Pair::on(&control_plane, 6, |options| options).await;
    pair.served(4).await;
    pair.allocator.process().stop().await;
    for name in ["under-way", "also-under-way"] {
        pair.ns.create(pair.service(name)).await;
    }
    // It is refused without the allocator, and after its turn the others had theirs.
    pair.ns.create(pair.service("last").ips("nonsense")).await;
    let before = eventually(DEADLINE, "it is told of the last", async || {
        let lines = decisions(&mut pair.leader, &pair.ns);
        let told = lines.iter().any(|line| line.contains("service:last "));
        if told {
            Ok(lines)
        } else {
            Err(lines.join("\n"))
        }
    })
    .await;
    pair.leader.process().stop().await;
    pair.allocator.process().signal(Signal::CONT);
    for name in ["under-way", "also-under-way"] {
        let what = format!("{name} is served by the other");
        eventually(HAND_OVER, what, async || {
            match addresses(&pair.ns.get(name).await).len() {
                1 => Ok(()),
                none => Err(none),
            }
        })
        .await;
    }
    pair.ns.delete("s3").await;
    pair.serves("fresh", DEADLINE).await;

    pair.leader.process().signal(Signal::CONT);
    stands_by(&pair.leader).await;
    leads(&pair.other).await;
    pair.ns.delete("fresh").await;
    pair.serves("afterwards", DEADLINE).await;
    pair.are_as_served(3).await;
    for name in ["under-way", "also-under-way", "afterwards"] {
        pair.ns.was_written(name, 1).await;
        pair.ns.was_told(name, ["AddressAssigned"]).await;
    }
    assert_eq!(decisions(&mut pair.leader, &pair.ns), before);
    assert_eq!(pair.allocator.allocations().await.len(), 6);
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stands_by_before_the_other_follows() {
    let control_plane = ControlPlane::shared().await;
    let relay = Relay::start(control_plane.port()).await.unwrap();
    let kubeconfig = control_plane.kubeconfig_by(relay.port);
    let pair = Pair::on(control_plane, 5, |options| options.kubeconfig(kubeconfig)).await;
    pair.served(3).await;
    relay.cut();
    let both = async {
        loop {
            // Asked in this order, so that a change in between is no overlap.
            let lead = (
                role(&pair.other).await.unwrap().contains("leading"),
                role(&pair.leader).await.unwrap().contains("leading"),
            );
            assert_ne!(lead, (true, true), "both lead");
            if lead.0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let served = pair.serves("fresh", HAND_OVER);
    tokio::join!(both, served);

    relay.mend();
    stands_by(&pair.leader).await;
    pair.serves("afterwards", DEADLINE).await;
    pair.are_as_served(3).await;
    for name in ["fresh", "afterwards"] {
        pair.ns.was_written(name, 1).await;
        pair.ns.was_told(name, ["AddressAssigned"]).await;
    }
}

#[tokio::test]
async fn one_that_was_cut_off_alone_leads_again_and_writes_nothing_that_is_right() {
    let control_plane = ControlPlane::shared().await;
    let relay = Relay::start(control_plane.port()).await.unwrap();
    let kubeconfig = control_plane.kubeconfig_by(relay.port);
    let mut pair = Pair::on(control_plane, 4, |options| options.kubeconfig(kubeconfig)).await;
    pair.other.kill();
    pair.served(3).await;
    relay.cut();
    stands_by(&pair.leader).await;
    relay.mend();
    leads(&pair.leader).await;
    pair.serves("afterwards", DEADLINE).await;
    pair.are_as_served(3).await;
    pair.ns.was_told("afterwards", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn watchers_that_serve_different_classes_are_no_replicas_of_each_other() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2");
    let allocator = Allocator::start(AllocatorOptions::ip_list(list)).await;
    let classes = [random_class(), random_class()];
    let mut watchers = Vec::new();
    for class in &classes {
        let options = Options::cluster(CLUSTER).class(class);
        let watcher = Watcher::start(control_plane, &allocator.url(), options).await;
        watchers.push(watcher);
    }
    for (watcher, class) in watchers.iter().zip(&classes) {
        leads(watcher).await;
        let name = class.split_once('/').unwrap().1;
        ns.create(service(name).class(class)).await;
        ns.gets_any(name).await;
    }
}

#[tokio::test]
async fn the_lease_is_where_it_was_told_to_be_and_is_free_after_sigterm() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let leases: Api<Lease> = Api::namespaced(control_plane.client().await, &ns.to_string());
    let class = random_class();
    let options = Options::cluster(CLUSTER).class(&class);
    let nowhere = options.clone().lease_namespace("nowhere");
    let mut nowhere = Watcher::prepare(control_plane, &allocator.url(), nowhere);
    nowhere.start_unready();
    let process = nowhere.process();
    eventually(DEADLINE, "it says what to do", async || {
        let errors = process.errors();
        if errors.contains("--leader-elect-lease-namespace") {
            Ok(())
        } else {
            Err(errors)
        }
    })
    .await;

    let options = options.lease_namespace(&ns.to_string());
    let mut watcher = Watcher::start(control_plane, &allocator.url(), options).await;
    leads(&watcher).await;
    let holder = async || {
        let all = leases.list(&ListParams::default()).await.unwrap().items;
        let [lease] = &all[..] else {
            panic!("{all:?}");
        };
        let spec = lease.spec.clone().unwrap();
        (spec.holder_identity.unwrap(), spec.lease_duration_seconds)
    };
    let (name, duration) = holder().await;
    assert!(name.starts_with("lb-watcher_"), "{name}");
    assert_eq!(duration, Some(10));
    watcher.terminate(Duration::from_secs(5)).await;
    assert_eq!(holder().await, (String::new(), Some(1)));
}

/// What a watcher needs beside the lease.
fn rights() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ])
}

#[tokio::test]
async fn without_the_right_to_leases_it_says_what_is_missing_and_goes_on_once_it_has_it() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let account = Account::new(control_plane, &ns.to_string()).await.unwrap();
    account.may_everywhere(rights()).await.unwrap();
    let class = random_class();
    let options = Options::cluster(CLUSTER)
        .class(&class)
        .kubeconfig(account.kubeconfig.clone());
    let mut watcher = Watcher::prepare(control_plane, &allocator.url(), options);
    watcher.start_unready();
    ns.create(service("a").class(&class)).await;

    let parts = [
        "Role in namespace kube-system",
        "get, create and update on leases of coordination.k8s.io",
        "--leader-elect=false",
    ];
    let admin = watcher.admin();
    eventually(
        DEADLINE,
        "the page says what is missing",
        async || match admin.get("/readyz").await {
            Err(page) if parts.iter().all(|part| page.to_string().contains(part)) => Ok(()),
            page => Err(format!("{page:?}")),
        },
    )
    .await;
    let process = watcher.process();
    eventually(DEADLINE, "the log says it, once", async || {
        let errors = process.errors();
        let told = errors.lines().filter(|line| line.contains(parts[1]));
        match told.count() {
            1 => Ok(()),
            _ => Err(errors),
        }
    })
    .await;
    assert_eq!(ns.status_writes("a"), []);

    let lease = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                        "verbs": ["get", "create", "update"]}]);
    account.may_in("kube-system", lease).await.unwrap();
    ns.gets("a", ["192.0.2.1"]).await;
    leads(&watcher).await;
}
