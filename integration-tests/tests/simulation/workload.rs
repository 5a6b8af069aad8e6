//! What users do: they create, edit and delete Services, and change pools.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::{
    api_server::objects::{Key, shown},
    chaos::pick,
    pools::{self, NAMESPACES},
    world::World,
};

const IPS: &str = "lb-allocator.io/ips";
const POOL: &str = "lb-allocator.io/pool";
const NAMES: [&str; 4] = ["web", "api", "mail", "dns"];

/// One thing that a user does.
pub async fn act(world: &mut World) {
    let cluster = fastrand::usize(..world.clusters.len());
    let server = world.clusters[cluster].clone();
    let name = server.cluster().to_owned();
    let now = world.chaos.time();
    let mut key: Key = (pick(&NAMESPACES).to_owned(), pick(&NAMES).to_owned());
    let exists = server.objects(|objects| objects.services.contains_key(&key));
    let action = fastrand::u8(..20);
    if !exists && action < 16 {
        let annotations = annotations(world);
        let (namespace, service) = &key;
        let spec = spec();
        let words = format!("{annotations} {}", spec["ipFamilies"]);
        let uid = server.change(|objects| objects.create(&key, &name, &now, annotations, spec));
        world.chaos.count("Service created");
        world.chaos.note(format_args!(
            "user: {name}/{namespace}/{service} {uid} is created, asking for {words}"
        ));
        return;
    }
    if !exists {
        let some = server.objects(|o| o.services.keys().cloned().collect::<Vec<_>>());
        if some.is_empty() {
            return;
        }
        key = pick(&some);
    }
    let what = match action {
        0..=5 => {
            server.change(|objects| objects.delete(&key));
            "Service deleted"
        }
        6..=7 => {
            let annotations = annotations(world);
            server.change(|objects| objects.delete(&key));
            server.change(|objects| objects.create(&key, &name, &now, annotations, spec()));
            "Service created again"
        }
        8..=10 => {
            let annotations = annotations(world);
            server.change(|objects| {
                objects.edit(&key, |service| {
                    service["metadata"]["annotations"] = annotations
                });
            });
            "Service edited"
        }
        11..=13 => {
            server.change(|objects| objects.edit(&key, toggle));
            "type changed"
        }
        14 => {
            server.change(|objects| objects.clear_status(&key));
            "status cleared by hand"
        }
        15..=17 => {
            let pools = pools::edited(&world.pools, !world.forgets);
            world.has_excluded |= pools.iter().any(|pool| !pool.excluded.is_empty());
            world.configure(pools).await;
            world.chaos.count("pools changed");
            return;
        }
        _ => {
            server.change(|objects| {
                objects.edit(&key, |service| {
                    service["spec"]["ports"][0]["port"] = json!(fastrand::u16(1..1000));
                });
            });
            "ports changed"
        }
    };
    world.chaos.count(what);
    let (namespace, service) = &key;
    world
        .chaos
        .note(format_args!("user: {name}/{namespace}/{service}: {what}"));
}

/// A Service is told to have another address, and one of any cluster to have the one
/// that it shows.
pub fn trade(world: &mut World) {
    let mut held = Vec::new();
    let mut services = Vec::new();
    for server in &world.clusters {
        server.objects(|objects| {
            for (key, stored) in &objects.services {
                let service = &stored.object;
                let of = |address| (server.clone(), key.clone(), address);
                held.extend(shown(service).into_iter().map(of));
                services.push((server.clone(), key.clone(), asks(service).0));
            }
        });
    }
    if held.is_empty() {
        return;
    }
    let (giver, given, address) = pick(&held);
    let pool = &world.pools[fastrand::usize(..world.pools.len())];
    let mut wanted = pool.addresses.clone();
    wanted.retain(|other| other.is_ipv4() == address.is_ipv4());
    // The families of a Service do not change.
    services.retain(|(_, _, families)| families.contains(&address.is_ipv4()));
    let (taker, taken, _) = pick(&services);
    for (server, key, asked) in [(giver, given, pick(&wanted)), (taker, taken, address)] {
        server.change(|objects| {
            objects.edit(&key, |service| {
                service["metadata"]["annotations"] = json!({IPS: asked.to_string()});
            });
        });
        let (cluster, (namespace, name)) = (server.cluster(), &key);
        world.chaos.note(format_args!(
            "user: {cluster}/{namespace}/{name} asks for {asked}"
        ));
    }
    world.chaos.count("address traded");
}

fn toggle(service: &mut Value) {
    let balanced = service["spec"]["type"] == "LoadBalancer";
    service["spec"]["type"] = json!(if balanced {
        "ClusterIP"
    } else {
        "LoadBalancer"
    });
}

fn annotations(world: &World) -> Value {
    let mut annotations = Map::new();
    let pool = &world.pools[fastrand::usize(..world.pools.len())];
    match fastrand::u8(..8) {
        0 | 1 => {
            let address: IpAddr = pick(&pool.addresses);
            annotations.insert(IPS.to_owned(), json!(address.to_string()));
        }
        2 => {
            annotations.insert(POOL.to_owned(), json!(pool.name));
        }
        _ => {}
    }
    annotations.into()
}

fn spec() -> Value {
    let (families, policy) = match fastrand::u8(..10) {
        0..=5 => (json!(["IPv4"]), "SingleStack"),
        6 => (json!(["IPv6"]), "SingleStack"),
        7 | 8 => (json!(["IPv4", "IPv6"]), "PreferDualStack"),
        _ => (json!(["IPv6", "IPv4"]), "RequireDualStack"),
    };
    json!({
        "type": "LoadBalancer", "clusterIP": format!("10.0.0.{}", fastrand::u8(1..)),
        "ipFamilies": families, "ipFamilyPolicy": policy,
        "externalTrafficPolicy": "Cluster", "selector": {"app": "x"},
        "ports": [{"port": 80, "protocol": "TCP"}],
    })
}

/// What a Service asks for, for the checks.
pub fn asks(service: &Value) -> (Vec<bool>, &str, Option<&str>, Vec<IpAddr>) {
    let families = service["spec"]["ipFamilies"].as_array();
    let is_v4 = families
        .into_iter()
        .flatten()
        .map(|family| family == "IPv4");
    let annotations = &service["metadata"]["annotations"];
    let address = annotations[IPS].as_str().and_then(|text| text.parse().ok());
    (
        is_v4.collect(),
        service["spec"]["ipFamilyPolicy"]
            .as_str()
            .unwrap_or_default(),
        annotations[POOL].as_str(),
        address.into_iter().collect(),
    )
}
