//! Replicas of one watcher: the allocator says which one acts. The others stand by and
//! follow it when it ends, hangs or is cut off, and nobody sees it but in the log.

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
use rustix::process::Signal;
use serde_json::{Value, json};

/// All that passes until a fresh Service is served by the one that follows, on a busy
/// machine.
const HAND_OVER: Duration = Duration::from_secs(15);

/// One that acts and one that stands by.
struct Pair {
    ns: Namespace,
    allocator: Allocator,
    class: String,
    acting: Watcher,
    other: Watcher,
    /// Between the acting one and the allocator, where it was asked for.
    relay: Option<Relay>,
}

impl Pair {
    /// With this many addresses.
    async fn start(addresses: usize) -> Self {
        Self::on(ControlPlane::shared().await, addresses, |options| options).await
    }

    async fn on(
        control_plane: &ControlPlane,
        addresses: usize,
        of_acting: impl FnOnce(Options) -> Options,
    ) -> Self {
        Self::with(
            control_plane,
            addresses,
            of_acting,
            |options| options,
            false,
        )
        .await
    }

    /// The acting one reaches the allocator by a relay.
    async fn by_relay(control_plane: &ControlPlane, addresses: usize) -> Self {
        Self::with(
            control_plane,
            addresses,
            |options| options,
            |options| options,
            true,
        )
        .await
    }

    async fn with(
        control_plane: &ControlPlane,
        addresses: usize,
        of_acting: impl FnOnce(Options) -> Options,
        of_other: impl FnOnce(Options) -> Options,
        by_relay: bool,
    ) -> Self {
        let ns = control_plane.namespace().await;
        let list: Vec<_> = (1..=addresses)
            .map(|host| format!("{ns}:192.0.2.{host}"))
            .collect();
        let allocator = Allocator::start(AllocatorOptions::ip_list(list.join(" "))).await;
        let class = random_class();
        let options = Options::cluster(CLUSTER).class(&class);
        let mut relay = None;
        let mut url = allocator.url();
        if by_relay {
            let (_, port) = url.rsplit_once(':').unwrap();
            let started = Relay::start(port.parse().unwrap()).await.unwrap();
            url = format!("http://127.0.0.1:{}", started.port);
            relay = Some(started);
        }
        let acting = Watcher::start(control_plane, &url, of_acting(options.clone())).await;
        acts(&acting).await;
        let other = Watcher::start(control_plane, &allocator.url(), of_other(options)).await;
        stands_by(&other).await;
        Self {
            ns,
            allocator,
            class,
            acting,
            other,
            relay,
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
            // Events come behind the addresses; one that was not sent when the acting one
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
    let line = text.lines().find(|line| line.contains("]session "));
    Ok(line.unwrap_or_default().to_owned())
}

async fn is(watcher: &Watcher, role_line: &str, metric: f64) {
    let what = format!("{role_line} in /readyz, {metric} in /metrics");
    eventually(DEADLINE, what, async || {
        let seen = (
            role(watcher).await?,
            watcher
                .admin()
                .metric("lb_watcher_acting", &[])
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

async fn acts(watcher: &Watcher) {
    is(watcher, "[+]session acting", 1.0).await;
}

async fn stands_by(watcher: &Watcher) {
    is(watcher, "[+]session standby", 0.0).await;
}

fn decisions(watcher: &mut Watcher, ns: &Namespace) -> Vec<String> {
    let output = watcher.process().output();
    let of = format!(" namespace:{ns} ");
    let lines = output.lines().filter(|line| line.contains(&of));
    lines.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn only_one_acts_and_writes_and_tells_each_thing_once() {
    let mut pair = Pair::start(30).await;
    pair.served(30).await;
    pair.ns.create(pair.service("waiting")).await;
    pair.ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    pair.are_as_served(30).await;
    pair.ns.was_written("waiting", 1).await;
    pair.ns.was_told("waiting", ["AllocationFailed"]).await;

    assert_eq!(pair.allocator.allocations().await.len(), 30);
    assert_eq!(decisions(&mut pair.acting, &pair.ns).len(), 31);
    assert_eq!(decisions(&mut pair.other, &pair.ns), [""; 0]);
    let admin = pair.other.admin();
    let acquired = admin.metric("lb_watcher_allocator_rpcs_total", &[("method", "Acquire")]);
    assert_eq!(acquired.await.unwrap(), 0.0);
}

#[tokio::test]
async fn one_that_is_killed_is_followed_at_once_and_what_is_right_stays_untouched() {
    let mut pair = Pair::start(10).await;
    pair.served(9).await;
    pair.ns.create(pair.service("goes")).await;
    pair.ns.gets_any("goes").await;
    pair.ns.create(pair.service("waits")).await;
    pair.ns.is_pending("waits", "POOL_EXHAUSTED").await;
    pair.ns.was_told("waits", ["AllocationFailed"]).await;

    pair.acting.kill();
    // Nobody saw it go.
    pair.ns.delete("goes").await;
    let freed = within(Duration::from_secs(5), async || {
        match addresses(&pair.ns.get("waits").await).len() {
            1 => Ok(()),
            none => Err(none),
        }
    });
    freed.await.unwrap();
    acts(&pair.other).await;
    pair.are_as_served(9).await;
    pair.ns
        .was_told("waits", ["AllocationFailed", "AddressAssigned"])
        .await;
    assert_eq!(pair.allocator.allocations().await.len(), 10);

    // And the other way round.
    pair.acting.start_again().await;
    stands_by(&pair.acting).await;
    pair.ns.delete("waits").await;
    eventually(DEADLINE, "one address is free", async || {
        match pair.allocator.allocations().await.len() {
            9 => Ok(()),
            held => Err(held),
        }
    })
    .await;
    pair.other.kill();
    pair.serves("fresh", Duration::from_secs(5)).await;
    pair.are_as_served(9).await;
    pair.ns.was_written("fresh", 1).await;
    pair.ns.was_told("fresh", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn on_sigterm_the_other_follows_at_once() {
    let mut pair = Pair::start(5).await;
    pair.served(4).await;
    let status = pair.acting.terminate(Duration::from_secs(5)).await;
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
        pair.acting.terminate(Duration::from_secs(10)).await
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
            decisions(&mut pair.acting, ns).len(),
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

/// Stopped while it waits for the allocator's answer, it has it at hand when it goes on.
#[tokio::test]
async fn one_that_was_stopped_does_no_harm_when_it_goes_on() {
    // Its workers wait for the allocator: other tests' Services may not keep them busy.
    let control_plane = ControlPlane::start("stopped").await.unwrap();
    let mut pair = Pair::on(&control_plane, 6, |options| options).await;
    pair.served(4).await;
    pair.allocator.process().stop().await;
    for name in ["under-way", "also-under-way"] {
        pair.ns.create(pair.service(name)).await;
    }
    // Refused here without the allocator: after its turn the others had theirs.
    pair.ns.create(pair.service("last").ips("nonsense")).await;
    let before = eventually(DEADLINE, "it is told of the last", async || {
        let lines = decisions(&mut pair.acting, &pair.ns);
        let told = lines.iter().any(|line| line.contains("service:last "));
        if told {
            Ok(lines)
        } else {
            Err(lines.join("\n"))
        }
    })
    .await;
    pair.acting.process().stop().await;
    pair.allocator.process().signal(Signal::CONT);
    let begin = Instant::now();
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
    println!(
        "one that was frozen was followed after {:?}",
        begin.elapsed()
    );
    pair.ns.delete("s3").await;
    pair.serves("fresh", DEADLINE).await;

    pair.acting.process().signal(Signal::CONT);
    stands_by(&pair.acting).await;
    acts(&pair.other).await;
    pair.ns.delete("fresh").await;
    pair.serves("afterwards", DEADLINE).await;
    pair.are_as_served(3).await;
    for name in ["under-way", "also-under-way", "afterwards"] {
        pair.ns.was_written(name, 1).await;
        pair.ns.was_told(name, ["AddressAssigned"]).await;
    }
    assert_eq!(decisions(&mut pair.acting, &pair.ns), before);
    assert_eq!(pair.allocator.allocations().await.len(), 6);
}

#[tokio::test]
async fn one_that_does_not_reach_the_api_server_leaves_its_role_to_one_that_does() {
    let control_plane = ControlPlane::shared().await;
    let relay = Relay::start(control_plane.port()).await.unwrap();
    let kubeconfig = control_plane.kubeconfig_by(relay.port);
    let pair = Pair::on(control_plane, 5, |options| options.kubeconfig(kubeconfig)).await;
    pair.served(3).await;
    relay.cut();
    pair.serves("fresh", HAND_OVER + HAND_OVER).await;
    acts(&pair.other).await;
    stands_by(&pair.acting).await;

    relay.mend();
    pair.serves("afterwards", DEADLINE).await;
    pair.are_as_served(3).await;
    for name in ["fresh", "afterwards"] {
        pair.ns.was_written(name, 1).await;
        pair.ns.was_told(name, ["AddressAssigned"]).await;
    }
}

#[tokio::test]
async fn one_that_was_cut_off_from_the_api_server_alone_goes_on_and_writes_nothing_that_is_right() {
    let control_plane = ControlPlane::shared().await;
    let relay = Relay::start(control_plane.port()).await.unwrap();
    let kubeconfig = control_plane.kubeconfig_by(relay.port);
    let mut pair = Pair::on(control_plane, 4, |options| options.kubeconfig(kubeconfig)).await;
    pair.other.kill();
    pair.served(3).await;
    relay.cut();
    eventually(DEADLINE, "it lets others act", async || {
        let errors = pair.acting.process().errors();
        match errors.contains("the API server does not answer") {
            true => Ok(()),
            false => Err(errors),
        }
    })
    .await;
    relay.mend();
    acts(&pair.acting).await;
    pair.serves("afterwards", DEADLINE).await;
    pair.are_as_served(3).await;
    pair.ns.was_told("afterwards", ["AddressAssigned"]).await;
}

/// Its network to the allocator breaks, that of the other one does not.
#[tokio::test]
async fn one_that_lost_the_allocator_is_followed_and_puts_back_only_what_it_was_granted() {
    let control_plane = ControlPlane::shared().await;
    let mut pair = Pair::by_relay(control_plane, 4).await;
    let relay = pair.relay.take().unwrap();
    pair.served(2).await;
    relay.cut();
    acts(&pair.other).await;
    pair.serves("fresh", HAND_OVER).await;
    is(&pair.acting, "[-]session none", 1.0).await;
    // Both may put it back, and one of the two does.
    let address = addresses(&pair.ns.get("s0").await);
    pair.ns
        .edit_status("s0", json!({"loadBalancer": null}))
        .await;
    let put_back = format!("s0 shows {address:?} again");
    eventually(DEADLINE, put_back, async || {
        let shown = addresses(&pair.ns.get("s0").await);
        if shown == address {
            Ok(())
        } else {
            Err(format!("{shown:?}"))
        }
    })
    .await;
    // What the other one decided meanwhile stays: an address that is asked for.
    pair.ns
        .annotate("s1", "lb-allocator.io/ips", Some("192.0.2.4"))
        .await;
    pair.ns.gets("s1", ["192.0.2.4"]).await;
    let told = decisions(&mut pair.acting, &pair.ns).len();

    relay.mend();
    stands_by(&pair.acting).await;
    acts(&pair.other).await;
    pair.ns.gets("s1", ["192.0.2.4"]).await;
    assert_eq!(decisions(&mut pair.acting, &pair.ns).len(), told);
    pair.ns.was_written("fresh", 1).await;
}

#[tokio::test]
async fn without_an_allocator_who_acted_puts_back_and_who_waits_is_told_once() {
    let control_plane = ControlPlane::shared().await;
    let mut pair = Pair::on(control_plane, 4, |options| options).await;
    pair.served(2).await;
    pair.allocator.kill();
    pair.ns.create(pair.service("waits")).await;
    let address = addresses(&pair.ns.get("s0").await);
    pair.ns
        .edit_status("s0", json!({"loadBalancer": null}))
        .await;
    eventually(DEADLINE, "s0 shows its address again", async || {
        let shown = addresses(&pair.ns.get("s0").await);
        if shown == address {
            Ok(())
        } else {
            Err(format!("{shown:?}"))
        }
    })
    .await;
    pair.ns.is_pending("waits", "ALLOCATOR_UNAVAILABLE").await;
    pair.ns.was_told("waits", ["AllocationFailed"]).await;

    // The one that is left was a standby: it tells as well.
    pair.acting.kill();
    pair.ns.create(pair.service("waits-too")).await;
    pair.ns
        .is_pending("waits-too", "ALLOCATOR_UNAVAILABLE")
        .await;
    pair.allocator.start_again().await;
    acts(&pair.other).await;
    pair.ns.gets_any("waits").await;
    pair.ns.was_written("s1", 1).await;
}

#[tokio::test]
async fn a_replica_that_finds_another_one_acting_when_the_allocator_is_back_stands_by() {
    let control_plane = ControlPlane::shared().await;
    let mut pair = Pair::on(control_plane, 3, |options| options).await;
    pair.served(2).await;
    for _ in 0..3 {
        pair.allocator.kill();
        pair.allocator.start_again().await;
        eventually(DEADLINE, "one acts and one stands by", async || {
            let mut roles = [role(&pair.acting).await?, role(&pair.other).await?];
            roles.sort_unstable();
            match roles.each_ref().map(String::as_str) {
                ["[+]session acting", "[+]session standby"] => Ok(()),
                _ => Err(format!("{roles:?}")),
            }
        })
        .await;
    }
    pair.serves("fresh", HAND_OVER).await;
    pair.are_as_served(2).await;
    pair.ns.was_written("fresh", 1).await;
}

#[tokio::test]
async fn at_rest_nothing_is_written_to_the_api_server() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    // All that an account asks for is in the audit log.
    let account = Account::new(control_plane, &ns.to_string()).await.unwrap();
    account.may_everywhere(rights()).await.unwrap();
    let account_of = |options: Options| options.kubeconfig(account.kubeconfig.clone());
    let pair = Pair::with(control_plane, 3, account_of, account_of, false).await;
    pair.served(2).await;
    let user = format!("system:serviceaccount:{ns}:{}", account.name());
    let asked = || {
        let log = std::fs::read_to_string(control_plane.audit_log()).unwrap();
        let of_user = log.lines().filter(|line| line.contains(&user));
        let entries = of_user.map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.collect::<Vec<_>>()
    };
    let written = || {
        let writes = asked().into_iter().filter(|entry| {
            let verb = entry["verb"].as_str().unwrap();
            !["get", "list", "watch"].contains(&verb)
        });
        writes
            .map(|entry| entry["requestURI"].to_string())
            .collect::<Vec<_>>()
    };
    let before = written();
    assert_eq!(before.len(), 4, "a status and an Event each: {before:#?}");
    let begin = asked().len();
    eventually(
        DEADLINE,
        "they have asked whether anything is new",
        async || {
            let since = asked().len() - begin;
            if since >= 6 { Ok(()) } else { Err(since) }
        },
    )
    .await;
    assert_eq!(written(), before);
}

/// With many Services held: so many, or as many as TAKEOVER_SERVICES says.
#[tokio::test]
async fn however_many_services_are_held_a_fresh_one_is_served_soon_after_a_crash() {
    let held = std::env::var("TAKEOVER_SERVICES").map_or(200, |text| text.parse().unwrap());
    let control_plane = ControlPlane::start("takeover").await.unwrap();
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: many, addresses: [10.0.0.0/16]}]";
    let allocator = Allocator::start(AllocatorOptions::config(pools)).await;
    let class = random_class();
    let options = Options::cluster(CLUSTER).class(&class);
    let acting = Watcher::start(&control_plane, &allocator.url(), options.clone()).await;
    acts(&acting).await;
    let other = Watcher::start(&control_plane, &allocator.url(), options).await;
    stands_by(&other).await;
    let mut pair = Pair {
        ns,
        allocator,
        class,
        acting,
        other,
        relay: None,
    };
    for first in (0..held).step_by(16) {
        let create = |number| pair.ns.create(pair.service(&format!("s{number}")));
        futures::future::join_all((first..held.min(first + 16)).map(create)).await;
    }
    eventually(
        Duration::from_secs(600),
        "all are served",
        async || match pair.allocator.allocations().await.len() {
            all if all == held => Ok(()),
            some => Err(some),
        },
    )
    .await;
    pair.ns.gets_any(&format!("s{}", held - 1)).await;

    println!("{held} Services, the acting one is killed, a standby is there:");
    pair.acting.kill();
    pair.serves("after-a-crash", DEADLINE).await;
    println!("{held} Services, the only one is killed and started again:");
    pair.other.kill();
    pair.other.start_unready();
    pair.serves("after-a-start", DEADLINE).await;
    acts(&pair.other).await;
    pair.acting.start_again().await;
    stands_by(&pair.acting).await;
    println!("{held} Services, the acting one is frozen:");
    pair.other.process().stop().await;
    pair.serves("after-a-freeze", DEADLINE).await;
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
        acts(watcher).await;
        let name = class.split_once('/').unwrap().1;
        ns.create(service(name).class(class)).await;
        ns.gets_any(name).await;
    }
}

/// All that a watcher needs.
fn rights() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ])
}
