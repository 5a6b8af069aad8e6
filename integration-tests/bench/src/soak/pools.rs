//! The pools of a soak: as a file for the allocator, and what a Service may have of
//! them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where Services compete for [`Pool`]s that are too small for all.
pub const SCARCE: [&str; 2] = ["web", "edge"];
/// Where there is room for every Service at any time.
pub const ROOMY: &str = "roomy";
pub const NAMESPACES: [&str; 3] = [SCARCE[0], SCARCE[1], ROOMY];

pub struct Pool {
    name: &'static str,
    /// The third byte of IPv4, and the third group of IPv6.
    net: u8,
    v4: u8,
    v6: u8,
    /// Left out: all.
    namespace: Option<&'static str>,
    auto_assign: bool,
}

pub const POOLS: [Pool; 4] = [
    Pool {
        name: "public",
        net: 1,
        v4: 28,
        v6: 14,
        namespace: None,
        auto_assign: true,
    },
    Pool {
        name: "edge",
        net: 2,
        v4: 12,
        v6: 0,
        namespace: Some("edge"),
        auto_assign: true,
    },
    Pool {
        name: "on-request",
        net: 3,
        v4: 6,
        v6: 0,
        namespace: None,
        auto_assign: false,
    },
    Pool {
        name: ROOMY,
        net: 4,
        v4: 250,
        v6: 0,
        namespace: Some(ROOMY),
        auto_assign: true,
    },
];

impl Pool {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let Self { net, v4, v6, .. } = *self;
        let v4 = (1..=v4).map(move |host| IpAddr::from(Ipv4Addr::new(198, 18, net, host)));
        let net = u16::from(net);
        let v6 = (1..=v6).map(move |host| {
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host.into()))
        });
        v4.chain(v6)
    }

    fn serves(&self, namespace: &str) -> bool {
        self.namespace.is_none_or(|only| only == namespace)
    }
}

/// The text of the pools file. A Service that went while nobody looked is not missed
/// for long.
pub fn file(clusters: &[&str]) -> String {
    let clusters = clusters.join(", ");
    let mut text = format!("clusters: [{clusters}]\norphanGrace: 3s\npools:\n");
    for pool in &POOLS {
        let addresses: Vec<_> = pool.addresses().map(|a| format!("\"{a}\"")).collect();
        let Pool {
            name, auto_assign, ..
        } = pool;
        let addresses = addresses.join(", ");
        let namespaces = pool.namespace.map(|only| format!(", namespaces: [{only}]"));
        let namespaces = namespaces.unwrap_or_default();
        text += &format!(
            "- {{name: {name}, addresses: [{addresses}], autoAssign: {auto_assign}{namespaces}}}\n"
        );
    }
    text
}

/// An address that a Service may ask for.
pub fn any_address(namespace: &str, rng: &mut fastrand::Rng) -> Option<IpAddr> {
    let pools = POOLS.iter().filter(|pool| pool.serves(namespace));
    let v4: Vec<_> = pools
        .flat_map(Pool::addresses)
        .filter(IpAddr::is_ipv4)
        .collect();
    rng.choice(v4)
}

/// Addresses of a family that a Service of this namespace may be given, unasked or
/// as `asked`.
pub fn allowed(namespace: &str, v4: bool, asked: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    POOLS
        .iter()
        .filter(move |pool| pool.serves(namespace) && (pool.auto_assign || asked.is_some()))
        .flat_map(Pool::addresses)
        .filter(move |address| address.is_ipv4() == v4)
        .filter(move |address| asked.is_none_or(|asked| asked == *address))
}
