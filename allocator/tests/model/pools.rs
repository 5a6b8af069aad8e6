//! Random pools over few addresses, and random edits of them.

use std::{net::IpAddr, time::Duration};

use lb_allocator::engine::{
    AddressRange, ClusterName, Family, Namespace, PoolName, PoolSpec, Requirement, Selector,
};
use proptest::{collection::vec, option::weighted, prelude::*, sample::select};

pub const POOLS: [&str; 4] = ["p0", "p1", "p2", "p3"];

/// Every address that pools are made of.
pub fn addresses() -> Vec<IpAddr> {
    let v4 = ["10.0.0.252", "10.0.0.253", "10.0.0.254", "10.0.0.255"];
    let more = ["10.0.1.0", "10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"];
    let v6 = ["2001:db8::", "2001:db8::1", "2001:db8::2", "2001:db8::3"];
    let last = ["2001:db8::4", "2001:db8::ff"];
    let all = v4.into_iter().chain(more).chain(v6).chain(last);
    all.map(|text| text.parse().expect("an address")).collect()
}

/// A configuration before it is written down.
#[derive(Clone)]
pub struct Plan {
    /// The pool of each address.
    owners: Vec<Option<usize>>,
    excluded: Vec<bool>,
    rules: Vec<PoolSpec>,
    /// By how much names are shifted: a pool keeps its addresses and gets the
    /// name of another one.
    renamed: usize,
}

#[derive(Clone)]
pub enum Edit {
    /// An address goes to another pool, or to none.
    Move(usize, Option<usize>),
    /// Excludes an address, or includes it again.
    Exclude(usize),
    Rules(usize, Box<PoolSpec>),
    Rename,
}

impl Plan {
    pub fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::Move(index, owner) => self.owners[*index] = *owner,
            Edit::Exclude(index) => self.excluded[*index] = !self.excluded[*index],
            Edit::Rules(pool, rules) => self.rules[*pool] = (**rules).clone(),
            Edit::Rename => self.renamed += 1,
        }
    }

    pub fn specs(&self) -> Vec<PoolSpec> {
        let all = addresses();
        let mut specs = Vec::new();
        for (number, rules) in self.rules.iter().enumerate() {
            let name = POOLS[(number + self.renamed) % POOLS.len()];
            let mut spec = PoolSpec {
                name: PoolName::parse(name).expect("a name"),
                ..rules.clone()
            };
            for (index, address) in all.iter().enumerate() {
                if self.owners[index] != Some(number) {
                    continue;
                }
                if self.excluded[index] {
                    spec.exclude.push(AddressRange::single(*address));
                }
                match spec.addresses.last_mut() {
                    Some(range) if is_next(range.last(), *address) => {
                        *range = AddressRange::new(range.first(), *address).expect("in order");
                    }
                    Some(_) | None => spec.addresses.push(AddressRange::single(*address)),
                }
            }
            specs.push(spec);
        }
        specs
    }
}

fn is_next(before: IpAddr, after: IpAddr) -> bool {
    Family::of(before) == Family::of(after) && Family::number(before) + 1 == Family::number(after)
}

pub fn any_plan() -> impl Strategy<Value = Plan> {
    let count = addresses().len();
    (
        vec(weighted(0.95, 0..POOLS.len()), count),
        vec(prop::bool::weighted(0.05), count),
        vec(any_rules(), POOLS.len()),
    )
        .prop_map(|(owners, excluded, rules)| Plan {
            owners,
            excluded,
            rules,
            renamed: 0,
        })
}

pub fn any_edit() -> impl Strategy<Value = Edit> {
    let count = addresses().len();
    prop_oneof![
        3 => (0..count, weighted(0.8, 0..POOLS.len()))
            .prop_map(|(index, owner)| Edit::Move(index, owner)),
        1 => (0..count).prop_map(Edit::Exclude),
        3 => (0..POOLS.len(), any_rules())
            .prop_map(|(pool, rules)| Edit::Rules(pool, Box::new(rules))),
        1 => Just(Edit::Rename),
    ]
}

fn millis(choices: &[u64]) -> impl Strategy<Value = Duration> + use<> {
    select(choices.to_vec()).prop_map(Duration::from_millis)
}

/// A pool without addresses.
fn any_rules() -> impl Strategy<Value = PoolSpec> {
    let namespaces =
        select(vec!["default", "web"]).prop_map(|n| Namespace::parse(n).expect("name"));
    let clusters = select(vec!["a", "b"]).prop_map(|n| ClusterName::parse(n).expect("name"));
    let whom = (
        weighted(0.15, prop::collection::btree_set(namespaces, 1..3)),
        weighted(0.1, prop::collection::btree_set(clusters, 1..3)),
        weighted(0.1, any_selector("team", &["x", "y"])),
        weighted(0.1, any_selector("tier", &["web", "db"])),
    );
    let times = (
        millis(&[0, 0, 0, 20, 60]),
        millis(&[0, 30, 100, 24 * 60 * 60 * 1000]),
    );
    let limits = (weighted(0.25, 1u64..4), weighted(0.25, 1u64..5));
    let rest = (
        weighted(0.4, -1i64..2),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.08),
    );
    (whom, times, limits, rest).prop_map(|(whom, times, limits, rest)| PoolSpec {
        namespaces: whom.0,
        clusters: whom.1,
        namespace_selector: whom.2,
        service_selector: whom.3,
        cooldown: times.0,
        sticky_for: times.1,
        max_per_namespace: limits.0,
        max_per_cluster: limits.1,
        priority: rest.0,
        auto_assign: !rest.1,
        avoid_buggy_ips: rest.2,
        fenced: rest.3,
        disabled: rest.4,
        ..PoolSpec::new(PoolName::parse("p").expect("a name"), Vec::new())
    })
}

fn any_selector(label: &'static str, values: &'static [&'static str]) -> BoxedStrategy<Selector> {
    let name = label.to_owned();
    let values = prop::collection::btree_set(select(values).prop_map(str::to_owned), 1..3);
    (values, 0..4)
        .prop_map(move |(values, kind)| {
            let name = name.clone();
            Selector(vec![match kind {
                0 => Requirement::In(name, values),
                1 => Requirement::NotIn(name, values),
                2 => Requirement::Exists(name),
                _ => Requirement::DoesNotExist(name),
            }])
        })
        .boxed()
}
