//! Random histories: few Services, few addresses, every kind of wish.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_allocator::engine::{
    Acquire, Backend, Command, Family, Handover, LabelMap, Labels, Namespace, PerFamily, Permitted,
    Policy, PoolName, Port, Protocol, Release, Reserve, Resolve, ServiceKey, SharingKey, Terms,
    Timestamp, Uid, Winner, Wish,
};
use proptest::{collection::vec, option::weighted, prelude::*, sample::select};

use crate::pools::{Edit, POOLS, Plan, addresses, any_edit, any_plan};

pub const STEPS: usize = 200;

#[derive(Clone)]
pub struct History {
    pub pools: Plan,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub enum Step {
    Run(Box<Command>),
    /// Milliseconds; less than 0 where a clock is set back.
    Clock(i64),
    Configure(Vec<Edit>),
    /// From what the engine says a database would hold.
    RestartFromSnapshot,
    /// From what was written down of the changes.
    RestartFromChanges,
}

pub fn any_history() -> impl Strategy<Value = History> {
    (any_plan(), vec(any_step(), 1..STEPS)).prop_map(|(pools, steps)| History { pools, steps })
}

fn any_step() -> impl Strategy<Value = Step> {
    let run = |command| Step::Run(Box::new(command));
    prop_oneof![
        20 => any_acquire().prop_map(Command::Acquire).prop_map(run),
        7 => any_release().prop_map(Command::Release).prop_map(run),
        2 => any_reserve().prop_map(Command::Reserve).prop_map(run),
        1 => select(addresses()).prop_map(Command::Unreserve).prop_map(run),
        2 => any_handover().prop_map(Command::Handover).prop_map(run),
        1 => any_resolve().prop_map(Command::Resolve).prop_map(run),
        3 => prop_oneof![6 => 1i64..80, 1 => 80i64..400, 1 => -60i64..0].prop_map(Step::Clock),
        2 => vec(any_edit(), 1..4).prop_map(Step::Configure),
        1 => Just(Step::RestartFromSnapshot),
        1 => Just(Step::RestartFromChanges),
    ]
}

fn any_key() -> impl Strategy<Value = ServiceKey> {
    (
        select(vec!["a", "a", "b"]),
        select(vec!["default", "default", "web"]),
        select(vec!["s0", "s1", "s2", "s3"]),
    )
        .prop_map(|(cluster, namespace, name)| {
            ServiceKey::parse(cluster, namespace, name).expect("a key")
        })
}

fn any_uid() -> impl Strategy<Value = Option<Uid>> {
    let uid = select(vec!["u0", "u1", "u2"]).prop_map(|uid| Uid::parse(uid).expect("a uid"));
    weighted(0.6, uid)
}

fn any_acquire() -> impl Strategy<Value = Acquire> {
    (
        any_key(),
        any_uid(),
        weighted(0.2, select(vec!["172.16.0.1", "172.16.0.2"])),
        any_wish(),
    )
        .prop_map(|(key, uid, cluster_ip, wish)| Acquire {
            created: None,
            key: Arc::new(key),
            uid,
            cluster_ip: cluster_ip.map(|text| text.parse().expect("an address")),
            was_allocated: false,
            shown_by_others: false,
            wish,
        })
}

pub fn any_wish() -> impl Strategy<Value = Wish> {
    use Family::{V4, V6};
    let families = select(vec![
        (vec![V4], Policy::All),
        (vec![V4], Policy::All),
        (vec![V6], Policy::All),
        (vec![V4, V6], Policy::All),
        (vec![V6, V4], Policy::All),
        (vec![V4, V6], Policy::Any),
        (vec![V6, V4], Policy::Any),
        (vec![V4], Policy::Any),
    ]);
    let pool = select(vec![POOLS[0], POOLS[1], POOLS[2], POOLS[3], "nope"]);
    let asked = || weighted(0.12, any_address());
    (
        families,
        (asked(), asked()),
        weighted(0.15, pool),
        weighted(0.35, any_terms()),
        prop_oneof![6 => vec(any_address(), 0..1), 1 => vec(any_address(), 1..4)],
        any_labels(),
    )
        .prop_map(
            |((families, policy), asked, pool, sharing, current, labels)| {
                let mut requested = PerFamily::default();
                for address in [asked.0, asked.1].into_iter().flatten() {
                    if families.contains(&Family::of(address)) {
                        *requested.get_mut(Family::of(address)) = Some(address);
                    }
                }
                Wish {
                    families,
                    policy,
                    requested,
                    pool: pool.map(|pool| PoolName::parse(pool).expect("a name")),
                    sharing: sharing.map(Arc::new),
                    current,
                    labels: Arc::new(labels),
                }
            },
        )
}

/// Mostly of pools.
pub fn any_address() -> impl Strategy<Value = IpAddr> {
    let mut all = addresses();
    all.push("192.0.2.99".parse().expect("an address"));
    select(all)
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let ports = select(vec![
        (Protocol::Tcp, 80),
        (Protocol::Udp, 80),
        (Protocol::Tcp, 81),
        (Protocol::Tcp, 82),
        (Protocol::Sctp, 83),
    ]);
    let ports = ports.prop_map(|(protocol, number)| Port { protocol, number });
    let only = |texts: &[&str]| {
        let namespaces = texts.iter().map(|text| Namespace::parse(text));
        let namespaces = namespaces.collect::<Result<BTreeSet<_>, _>>();
        Permitted::Only(namespaces.expect("namespaces"))
    };
    let permitted = select(vec![
        Permitted::All,
        only(&["default", "web"]),
        only(&["web"]),
        only(&[]),
    ]);
    let selector = |text: &str| LabelMap::from([("app".to_owned(), text.to_owned())]);
    let backend = select(vec![
        Backend::Cluster,
        Backend::Cluster,
        Backend::Cluster,
        Backend::Local(selector("x")),
        Backend::Local(selector("y")),
        Backend::Local(LabelMap::new()),
    ]);
    (
        select(vec!["k1", "k1", "k2"]),
        permitted,
        prop::collection::btree_set(ports, 0..3),
        backend,
    )
        .prop_map(|(key, permitted, ports, backend)| Terms {
            key: SharingKey::parse(key).expect("a sharing key"),
            permitted,
            ports,
            backend,
        })
}

fn any_labels() -> impl Strategy<Value = Labels> {
    let labels = |name: &'static str, values: &[&'static str]| {
        let value = weighted(0.5, select(values.to_vec()));
        value.prop_map(move |value| {
            let label = value.map(|value| (name.to_owned(), value.to_owned()));
            label.into_iter().collect::<LabelMap>()
        })
    };
    (labels("tier", &["web", "db"]), labels("team", &["x", "y"]))
        .prop_map(|(service, namespace)| Labels { service, namespace })
}

fn any_release() -> impl Strategy<Value = Release> {
    (any_key(), any_uid(), vec(any_address(), 0..2)).prop_map(|(key, uid, current)| Release {
        key,
        uid,
        current,
    })
}

/// Expiry is told as time from now on.
pub fn any_handover() -> impl Strategy<Value = Handover> {
    let expires = prop_oneof![9 => 1i64..300, 1 => -20i64..1];
    (any_address(), any_key(), any_key(), expires).prop_map(|(address, from, to, expires)| {
        Handover {
            address,
            from: Arc::new(from),
            to: Arc::new(to),
            expires: Timestamp(expires),
            comment: String::new(),
        }
    })
}

fn any_resolve() -> impl Strategy<Value = Resolve> {
    let winner = select(vec![Winner::Holder, Winner::Nobody]);
    (any_address(), any_key(), winner).prop_map(|(address, key, winner)| Resolve {
        address,
        key: Arc::new(key),
        winner,
    })
}

/// Expiry is told as time from now on.
fn any_reserve() -> impl Strategy<Value = Reserve> {
    let expires = weighted(0.5, prop_oneof![9 => 1i64..200, 1 => -20i64..1]);
    let comment = select(vec!["", "the router"]);
    (any_address(), weighted(0.6, any_key()), expires, comment).prop_map(
        |(address, key, expires, comment)| Reserve {
            address,
            key: key.map(Arc::new),
            expires: expires.map(Timestamp),
            comment: comment.to_owned(),
        },
    )
}
