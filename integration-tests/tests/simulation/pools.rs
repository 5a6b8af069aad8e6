//! The pools of a run, as a file for the allocator and as a plain model for the
//! checks, which share no code with the engine.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use crate::chaos::pick;

/// Namespaces of every cluster.
pub const NAMESPACES: [&str; 3] = ["open", "team-a", "team-b"];

/// A pool.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: &'static str,
    pub addresses: Vec<IpAddr>,
    pub excluded: BTreeSet<IpAddr>,
    /// Empty: all.
    pub namespaces: Vec<&'static str>,
    /// Empty: all.
    pub clusters: Vec<&'static str>,
    pub auto_assign: bool,
    pub disabled: bool,
    pub priority: Option<u8>,
    pub cooldown: u8,
    /// How many addresses a cluster may hold.
    pub quota: Option<u8>,
    /// How many a namespace of a cluster may hold.
    pub namespace_quota: Option<u8>,
}

/// What a Service asks for that pools look at.
#[derive(Debug)]
pub struct Asker<'a> {
    pub cluster: &'a str,
    pub namespace: &'a str,
    pub pool: Option<&'a str>,
    pub addresses: Vec<IpAddr>,
}

fn pool(name: &'static str, v4: &str, count: u8) -> Pool {
    let v6 = u16::from(v4.as_bytes()[0]);
    let v4 = (1..=count).map(|host| format!("{v4}.{host}").parse().unwrap());
    let v6 = (1..=count).map(|host| IpAddr::from([0x2001, 0xdb8, v6, 0, 0, 0, 0, host.into()]));
    Pool {
        name,
        addresses: v4.chain(v6).collect(),
        excluded: BTreeSet::new(),
        namespaces: Vec::new(),
        clusters: Vec::new(),
        auto_assign: true,
        disabled: false,
        priority: None,
        cooldown: 0,
        quota: None,
        namespace_quota: None,
    }
}

/// The pools of the start: few addresses, so that many Services wait.
pub fn first() -> Vec<Pool> {
    let mut shared = pool("shared", "192.0.2", fastrand::u8(2..=6));
    shared.quota = pick(&[None, None, None, Some(3)]);
    shared.namespace_quota = pick(&[None, None, None, Some(2)]);
    let mut bound = pool("bound", "98.51.100", fastrand::u8(1..=3));
    bound.namespaces = vec!["team-a"];
    bound.clusters = pick(&[vec![], vec![], vec!["c0"], vec!["c0", "c1"]]);
    let mut manual = pool("manual", "203.0.113", 2);
    manual.auto_assign = false;
    vec![shared, bound, manual]
}

/// Other pools, one step away from these. Never for other clusters: what a cluster
/// shows that may not use a pool is not taken for its own when a database is lost.
pub fn edited(pools: &[Pool], may_exclude: bool) -> Vec<Pool> {
    let mut pools = pools.to_vec();
    let at = fastrand::usize(..pools.len());
    let pool = &mut pools[at];
    match fastrand::u8(..6) {
        0 => pool.disabled = !pool.disabled,
        1 if may_exclude => {
            let address = pick(&pool.addresses);
            if !pool.excluded.remove(&address) {
                pool.excluded.insert(address);
            }
        }
        2 => pool.namespaces = pick(&[vec![], vec!["team-a"], vec!["open", "team-b"]]),
        3 => pool.priority = pick(&[None, Some(1), Some(5)]),
        4 => pool.cooldown = pick(&[0, 0, 5, 30]),
        _ => pool.auto_assign = !pool.auto_assign,
    }
    pools
}

/// The text of a pools file. A new database waits for all these clusters, if there are
/// any.
pub fn file(pools: &[Pool], clusters: &[&str]) -> String {
    let join = |addresses: &mut dyn Iterator<Item = &IpAddr>| {
        addresses
            .map(|a| format!("\"{a}\""))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut text = String::from("orphanGrace: 30s\n");
    if !clusters.is_empty() {
        let _ = writeln!(text, "clusters: [{}]", clusters.join(", "));
    }
    text.push_str("pools:\n");
    for pool in pools {
        let _ = writeln!(text, "- name: {}", pool.name);
        let _ = writeln!(text, "  addresses: [{}]", join(&mut pool.addresses.iter()));
        let _ = writeln!(text, "  exclude: [{}]", join(&mut pool.excluded.iter()));
        let _ = writeln!(text, "  autoAssign: {}", pool.auto_assign);
        let _ = writeln!(text, "  disabled: {}", pool.disabled);
        let _ = writeln!(text, "  cooldown: {}s", pool.cooldown);
        if !pool.namespaces.is_empty() {
            let _ = writeln!(text, "  namespaces: [{}]", pool.namespaces.join(", "));
        }
        if !pool.clusters.is_empty() {
            let _ = writeln!(text, "  clusters: [{}]", pool.clusters.join(", "));
        }
        if let Some(quota) = pool.quota {
            let _ = writeln!(text, "  maxPerCluster: {quota}");
        }
        if let Some(quota) = pool.namespace_quota {
            let _ = writeln!(text, "  maxPerNamespace: {quota}");
        }
        if let Some(priority) = pool.priority {
            let _ = writeln!(text, "  priority: {priority}");
        }
    }
    text
}

/// Addresses that this Service may be given, of either family, by pools that have room for
/// both.
pub fn allowed(
    pools: &[Pool],
    asker: &Asker<'_>,
    has_room: impl Fn(&Pool) -> bool,
) -> BTreeSet<IpAddr> {
    let serves = |pool: &&Pool| {
        !pool.disabled
            && has_room(pool)
            && (pool.namespaces.is_empty() || pool.namespaces.contains(&asker.namespace))
            && (pool.clusters.is_empty() || pool.clusters.contains(&asker.cluster))
            && asker.pool.is_none_or(|name| name == pool.name)
    };
    let mut allowed = BTreeSet::new();
    for pool in pools.iter().filter(serves) {
        for address in &pool.addresses {
            let named = asker.addresses.contains(address);
            let same_family = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
            let other_named = asker.addresses.iter().any(|a| same_family(&a)) && !named;
            let unasked = pool.auto_assign || named || asker.pool.is_some();
            if !pool.excluded.contains(address) && !other_named && unasked {
                allowed.insert(*address);
            }
        }
    }
    allowed
}
