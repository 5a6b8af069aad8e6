//! What must be true when nothing has gone wrong for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use futures::executor::block_on;
use lb_allocator::engine::Conflict;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    api_server::objects::{Stored, WATCHER, shown},
    liar::LIAR,
    limits::{Addresses, room},
    pools::{Asker, Pool, allowed},
    rpc::Grant,
    workload::asks,
    world::World,
};

/// An address, and the Service and uid that hold it.
type Held = BTreeMap<(String, String, String), (String, BTreeSet<IpAddr>)>;

/// Everything that is not as it should be.
pub async fn problems(world: &World) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(process) = &world.allocator else {
        return vec!["the allocator does not run".to_owned()];
    };
    let Ok(inspection) = process.writer.inspect().await else {
        return vec!["the allocator has no state".to_owned()];
    };
    let mut held = Held::new();
    let mut taken: BTreeMap<IpAddr, (String, Option<(String, String)>)> = BTreeMap::new();
    let mut all = Addresses::new();
    let mut allocations: Vec<_> = inspection.engine.allocations().collect();
    allocations.sort_by(|a, b| (a.address, &a.key).cmp(&(b.address, &b.key)));
    for allocation in allocations {
        let key = &allocation.key;
        let name = format!("{}/{}/{}", key.cluster, key.namespace, key.name);
        let shares = allocation
            .holder
            .sharing
            .as_ref()
            .map(|terms| terms.key.to_string());
        let shares = shares.map(|of| (key.cluster.to_string(), of));
        let before = taken.insert(allocation.address, (name.clone(), shares.clone()));
        if let Some((other, _)) = before.filter(|(_, with)| with.is_none() || *with != shares) {
            problems.push(format!(
                "{} is held by {other} and {name}",
                allocation.address
            ));
        }
        let uid = allocation.holder.uid.as_ref().map(ToString::to_string);
        let key = (
            key.cluster.to_string(),
            key.namespace.to_string(),
            key.name.to_string(),
        );
        all.insert((allocation.address, key.clone()));
        if key.0 == LIAR {
            continue;
        }
        let entry = held.entry(key).or_default();
        entry.0 = uid.unwrap_or_default();
        entry.1.insert(allocation.address);
    }
    let reserved: BTreeMap<_, _> = inspection
        .engine
        .reservations()
        .map(|reserved| (reserved.address, reserved))
        .collect();
    let mut visible = BTreeSet::new();
    for server in &world.clusters {
        server.objects(|objects| {
            let services = objects.services.values();
            visible.extend(services.flat_map(|stored| shown(&stored.object)));
        });
    }
    // What somebody who lies says that it shows is kept for it; `lies` tells how much.
    let of_liar = inspection.engine.conflicts();
    let of_liar = of_liar.filter(|of| of.key.cluster.as_str() == LIAR && of.keeps_away());
    let kept: BTreeSet<IpAddr> = of_liar.map(|of| of.address).collect();
    let free = |address: &IpAddr| {
        !taken.contains_key(address)
            && !reserved.contains_key(address)
            && !visible.contains(address)
            && !kept.contains(address)
    };
    let conflicts = inspection.engine.conflicts().map(|conflict| {
        let key = &conflict.key;
        let name = format!("{}/{}/{}", key.cluster, key.namespace, key.name);
        (name, conflict.address)
    });
    let conflicts: BTreeSet<_> = conflicts.collect();
    for server in &world.clusters {
        let services = server.objects(|objects| objects.services.clone());
        for ((namespace, name), stored) in services {
            let cluster = server.cluster().to_owned();
            let key = (cluster, namespace, name);
            let holding = held.remove(&key).unwrap_or_default();
            let name = format!("{}/{}/{}", key.0, key.1, key.2);
            let contested = |address: &IpAddr| conflicts.contains(&(name.clone(), *address));
            check(
                world,
                &key,
                &stored,
                &holding,
                (free, contested, &all),
                &mut problems,
            );
        }
    }
    if let Some(twin) = &world.twin {
        let services = twin.objects(|objects| objects.services.clone());
        for (key, stored) in services {
            if stored.owners.contains(WATCHER) {
                let (label, shown) = (twin.label(), shown(&stored.object));
                problems.push(format!("{label} {key:?} has {shown:?}, and no name"));
            }
        }
    }
    let over = inspection
        .engine
        .conflicts()
        .filter(|conflict| is_kept_in_vain(world, conflict));
    problems.extend(over.map(|over| format!("leaked: {over:?} is over")));
    let handed = reserved.values().filter(|it| it.from.is_some());
    problems.extend(handed.map(|it| format!("not over: {it:?}")));
    for ((cluster, namespace, name), (uid, addresses)) in held {
        problems.push(format!(
            "leaked: {addresses:?} of {cluster}/{namespace}/{name} {uid}, which is gone"
        ));
    }
    problems
}

/// Whether an address is kept for a Service that gave it up, and does not show it.
fn is_kept_in_vain(world: &World, conflict: &Conflict) -> bool {
    let key = &conflict.key;
    if conflict.is_claim() || key.cluster.as_str() == LIAR {
        return false;
    }
    let place = (key.namespace.to_string(), key.name.to_string());
    let mut servers = world.clusters.iter();
    let server = servers.find(|server| server.cluster() == key.cluster.as_str());
    let service =
        server.and_then(|server| server.objects(|objects| objects.services.get(&place).cloned()));
    // One whose wish cannot be read does not ask.
    service.is_none_or(|stored| {
        let reason = &stored.object["status"]["conditions"][0]["reason"];
        !shown(&stored.object).contains(&conflict.address) && reason != "INVALID_REQUEST"
    })
}

fn check(
    world: &World,
    key: &(String, String, String),
    stored: &Stored,
    (holder, held): &(String, BTreeSet<IpAddr>),
    (free, contested, all): (
        impl Fn(&IpAddr) -> bool,
        impl Fn(&IpAddr) -> bool,
        &Addresses,
    ),
    problems: &mut Vec<String>,
) {
    let (cluster, namespace, name) = key;
    let service = &stored.object;
    let uid = service["metadata"]["uid"].as_str().unwrap_or_default();
    let mut problem = |what: String| {
        problems.push(format!("{cluster}/{namespace}/{name} {uid} {what}"));
    };
    let shown = shown(service);
    if !held.is_empty() && holder != uid {
        problem(format!(
            "leaked: {held:?} are held by its predecessor {holder}"
        ));
    }
    if service["spec"]["type"] != "LoadBalancer" {
        if !held.is_empty() {
            problem(format!("leaked: it holds {held:?} and is of another type"));
        }
        if !service["status"]["conditions"].is_null() {
            problem("is of another type and has our condition".to_owned());
        }
        return;
    }
    // What another controller wrote is left to it.
    if !stored.owners.is_empty() && !stored.owners.contains(WATCHER) {
        return;
    }
    // After a restore, a Service may show what another one holds by now: that is told
    // to people, and it keeps working until they decide.
    if shown.difference(held).any(&contested) && world.forgets {
        return;
    }
    // One whose wish cannot be read does not ask, and so does not hear of an address
    // that it got when the answer was lost.
    let unreadable = service["status"]["conditions"][0]["reason"] == "INVALID_REQUEST";
    if unreadable && shown.is_empty() {
        return;
    }
    if shown != *held {
        problem(format!("shows {shown:?} and holds {held:?}"));
    }
    let condition = &service["status"]["conditions"][0];
    if condition.is_null() {
        problem("has no condition".to_owned());
    }
    if !world.is_watched(cluster) {
        return;
    }
    let (families, policy, pool, addresses) = asks(service);
    let asker = Asker {
        cluster,
        namespace,
        pool,
        addresses: addresses.clone(),
    };
    // For two families, or one beside what it moves from.
    let has_room = |pool: &Pool| {
        let mut candidates = pool.addresses.iter().filter(|it| !held.contains(it));
        candidates.all(|address| room(pool, all, *address, key) >= 2)
    };
    let allowed = allowed(&world.pools, &asker, has_room);
    // A family is served, could be served, or neither.
    let has = |v4: bool| held.iter().any(|address| address.is_ipv4() == v4);
    // Nothing else is handed out instead of an address that was asked for.
    let asks_in_vain = addresses
        .iter()
        .filter(|asked| !held.contains(asked))
        .any(|asked| !allowed.contains(asked) || !free(asked));
    let could = |v4: bool| {
        let of_family = |address: &&IpAddr| address.is_ipv4() == v4;
        // An address that it asks for, of a family that it does not want, refuses
        // the whole wish.
        let wrong = addresses.iter().any(|a| !families.contains(&a.is_ipv4()));
        let mut candidates = allowed.iter().filter(of_family);
        !wrong && candidates.any(&free)
    };
    // What it holds of another pool than it asks for is kept, and does not serve it.
    let in_named_pool = |address: &IpAddr| {
        let mut pools = world.pools.iter();
        pool.is_none_or(|name| pools.any(|it| it.name == name && it.addresses.contains(address)))
    };
    let is_served = |v4: bool| {
        let mut held = held.iter().filter(|address| address.is_ipv4() == v4);
        held.any(in_named_pool)
    };
    let servable = match policy {
        "RequireDualStack" => families.iter().all(|v4| is_served(*v4) || could(*v4)),
        _ => true,
    } && !asks_in_vain;
    for v4 in families.iter().copied() {
        if servable && !has(v4) && could(v4) {
            problem(format!(
                "could have an address and has none: {}",
                condition["message"]
            ));
        }
        let asked = addresses.iter().find(|address| address.is_ipv4() == v4);
        let movable = asked.filter(|a| allowed.contains(a) && free(a));
        if let Some(asked) = movable.filter(|_| servable) {
            problem(format!(
                "could have the {asked} it asks for and has {held:?}"
            ));
        }
    }
}

/// Grants that were acknowledged and that the database knows nothing of.
pub fn lost_grants(database: &Path, grants: &[Grant]) -> Vec<String> {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true);
    let mut connection = block_on(SqliteConnection::connect_with(&options)).unwrap();
    let rows = sqlx::query(
        "SELECT revision, kind, address, cluster || '/' || namespace || '/' || name AS service
         FROM history WHERE kind IN ('ALLOCATED', 'RELEASED') ORDER BY revision",
    );
    let rows = block_on(rows.fetch_all(&mut connection)).unwrap();
    let mut given: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut now: BTreeSet<(String, String)> = BTreeSet::new();
    for row in rows {
        let place = (row.get::<String, _>("address"), row.get("service"));
        match row.get("kind") {
            "ALLOCATED" => {
                given
                    .entry(place.clone())
                    .or_insert_with(|| row.get("revision"));
                now.insert(place);
            }
            _ => {
                now.remove(&place);
            }
        }
    }
    let held = sqlx::query(
        "SELECT address, cluster || '/' || namespace || '/' || name AS service FROM allocations",
    );
    let held = block_on(held.fetch_all(&mut connection)).unwrap();
    let held = held
        .iter()
        .map(|row| (row.get("address"), row.get("service")));
    let mut problems = Vec::new();
    if held.collect::<BTreeSet<(String, String)>>() != now {
        problems.push("what is held is not what history tells".to_owned());
    }
    for Grant {
        service,
        uid,
        addresses,
        revision,
    } in grants
    {
        let service = format!("{}/{}/{}", service.cluster, service.namespace, service.name);
        for address in addresses {
            let known = given.get(&(address.clone(), service.clone()));
            if known.is_none_or(|since| since > revision) {
                problems.push(format!(
                    "lost: {address} was granted to {service} {uid} at {revision}"
                ));
            }
        }
    }
    block_on(connection.close()).unwrap();
    problems
}
