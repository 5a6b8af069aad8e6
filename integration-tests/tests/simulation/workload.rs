//! What users do: they create, edit and delete Services, and change pools.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::{
    api_server::{
        ApiServer,
        objects::{Key, METALLB, shown},
    },
    chaos::pick,
    pools::{self, NAMESPACES},
    world::World,
};

const IPS: &str = "lb-allocator.io/ips";
const POOL: &str = "lb-allocator.io/pool";
const SHARING_KEY: &str = "lb-allocator.io/sharing-key";
const SHARING_NAMESPACES: &str = "lb-allocator.io/sharing-namespaces";
const NAMES: [&str; 4] = ["web", "api", "mail", "dns"];

/// One thing that a user does.
pub async fn act(world: &mut World) {
    let cluster = fastrand::usize(..world.clusters.len());
    let server = world.clusters[cluster].clone();
    let name = server.label().to_owned();
    let now = world.chaos.time();
    let mut key: Key = (pick(&NAMESPACES).to_owned(), pick(&NAMES).to_owned());
    let exists = server.objects(|objects| objects.services.contains_key(&key));
    let action = fastrand::u8(..22);
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
        15 if world.cast.foreign_writer => {
            write(world, &server, &key);
            "status written by another controller"
        }
        16 if world.cast.foreign_writer => {
            let written = server.objects(|objects| shown(&objects.services[&key].object));
            let written: Vec<_> = written.into_iter().collect();
            server.change(|objects| objects.write_status(&key, Some((METALLB, &written))));
            "status taken over by another controller"
        }
        15..=19 => {
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

/// Somebody else writes an address of a pool into the status of a Service.
fn write(world: &World, server: &ApiServer, key: &Key) {
    let families = server.objects(|objects| asks(&objects.services[key].object).0);
    let balanced = server.objects(|objects| is_balanced(&objects.services[key].object));
    let pool = &world.pools[fastrand::usize(..world.pools.len())];
    let fits = |address: &&IpAddr| families.contains(&address.is_ipv4());
    let fitting: Vec<_> = pool.addresses.iter().filter(fits).copied().collect();
    if !balanced || fitting.is_empty() {
        return;
    }
    let address = pick(&fitting);
    let manager = pick(&[METALLB, "kubectl-edit"]);
    server.change(|objects| objects.write_status(key, Some((manager, &[address]))));
    world.chaos.note(format_args!(
        "{manager}: {}/{}/{} shows {address}",
        server.cluster(),
        key.0,
        key.1
    ));
}

/// Services that another controller served until today.
pub fn migrate(world: &World, server: &ApiServer) {
    let (name, now) = (server.cluster().to_owned(), world.chaos.time());
    for service in &NAMES[..fastrand::usize(1..NAMES.len())] {
        let key: Key = (pick(&NAMESPACES).to_owned(), (*service).to_owned());
        server.change(|objects| objects.create(&key, &name, &now, annotations(world), spec()));
        if fastrand::bool() {
            write(world, server, &key);
        }
    }
}

fn is_balanced(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer"
}

/// One more Service, of the first cluster.
pub fn newcomer(world: &World) {
    let (server, now) = (&world.clusters[0], world.chaos.time());
    let key: Key = ("open".to_owned(), "newcomer".to_owned());
    let label = server.label().to_owned();
    server.change(|objects| objects.create(&key, &label, &now, json!({}), spec()));
    world.chaos.note("user: a newcomer is created");
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
    service["spec"]["type"] = json!(if is_balanced(service) {
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
        3 => {
            annotations.insert(SHARING_KEY.to_owned(), json!(pick(&["k", "l"])));
            if fastrand::bool() {
                annotations.insert(SHARING_NAMESPACES.to_owned(), json!("*"));
            }
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
        "ports": [{"port": fastrand::u8(80..84), "protocol": "TCP"}],
    })
}

/// The key under which a Service shares its address.
pub fn asks_to_share(service: &Value) -> Option<&str> {
    service["metadata"]["annotations"][SHARING_KEY].as_str()
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
