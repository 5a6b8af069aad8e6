//! Somebody with a watcher's certificate who makes up what is there: revisions that
//! nobody was told, addresses that no Service shows. It may take what is free, within
//! the limits of its own cluster, and nothing else.

use std::{net::IpAddr, sync::Arc, time::Duration};

use lb_proto::v1::{self, allocator_service_client::AllocatorServiceClient, sync_request::Part};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use crate::{
    chaos::{Chaos, pick},
    pools::{NAMESPACES, Pool},
};

/// Its cluster, which no pools file names.
pub const LIAR: &str = "liar";
/// How often it repeats itself when all others have their peace.
const AGAIN: Duration = Duration::from_secs(45);

pub struct Liar {
    client: AllocatorServiceClient<Channel>,
    chaos: Chaos,
    tasks: JoinSet<()>,
    /// The last one that it was told.
    mark: Arc<Mutex<String>>,
}

/// What it says.
#[derive(Clone)]
enum Lie {
    Sync(Vec<v1::SyncRequest>),
    Acquire(Box<v1::AcquireRequest>),
    Release(v1::ReleaseRequest),
}

impl Liar {
    pub fn new(channel: Channel, chaos: Chaos) -> Self {
        Self {
            client: AllocatorServiceClient::new(channel),
            chaos,
            tasks: JoinSet::new(),
            mark: Arc::default(),
        }
    }

    /// Says something that is not so, and does not wait for the answer.
    pub fn lie(&mut self, pools: &[Pool]) {
        let lie = match fastrand::u8(..6) {
            0..=2 => Lie::Sync(sync(pools, &self.mark.lock())),
            3 | 4 => Lie::Acquire(Box::new(acquire(pools))),
            _ => Lie::Release(v1::ReleaseRequest {
                service: Some(key()),
                ..Default::default()
            }),
        };
        self.chaos.count("lie told");
        let client = self.client.clone();
        self.tasks.spawn(tell(client, lie, self.mark.clone()));
    }

    /// Says the same again and again from now on.
    pub fn insist(&mut self, pools: &[Pool]) {
        let lie = Lie::Sync(sync(pools, &self.mark.lock()));
        let (client, mark) = (self.client.clone(), self.mark.clone());
        self.tasks.spawn(async move {
            loop {
                tell(client.clone(), lie.clone(), mark.clone()).await;
                sleep(AGAIN).await;
            }
        });
    }
}

async fn tell(mut client: AllocatorServiceClient<Channel>, lie: Lie, mark: Arc<Mutex<String>>) {
    let said = async {
        match lie {
            Lie::Sync(messages) => {
                let answer = client.sync(futures::stream::iter(messages)).await;
                if let Ok(answer) = answer {
                    let mut pages = answer.into_inner();
                    while let Ok(Some(page)) = pages.message().await {
                        *mark.lock() = page.mark;
                    }
                }
            }
            Lie::Acquire(request) => drop(client.acquire(*request).await),
            Lie::Release(request) => drop(client.release(request).await),
        }
    };
    let _ = timeout(Duration::from_secs(20), said).await;
}

fn key() -> v1::ServiceKey {
    v1::ServiceKey {
        cluster: LIAR.to_owned(),
        namespace: pick(&NAMESPACES).to_owned(),
        name: format!("lie-{}", fastrand::u8(..4)),
    }
}

/// A mark of what was never reached, as far as one can be made without the secret.
fn forged(told: &str) -> String {
    let parts: Vec<&str> = told.split('.').collect();
    let [database, _, code] = parts[..] else {
        return pick(&["", "x", "database.1000.code"]).to_owned();
    };
    pick(&[
        told.to_owned(),
        format!("{database}.1000.{code}"),
        format!("another.1000.{code}"),
    ])
}

fn sync(pools: &[Pool], mark: &str) -> Vec<v1::SyncRequest> {
    let mut services: Vec<v1::AcquireRequest> = Vec::new();
    for _ in 0..fastrand::usize(..6) {
        let acquire = acquire(pools);
        if !services
            .iter()
            .any(|other| other.service == acquire.service)
        {
            services.push(acquire);
        }
    }
    let count = i64::try_from(services.len()).unwrap();
    let begin = v1::sync_request::Begin {
        cluster: LIAR.to_owned(),
        seen_revision: pick(&[0, 1, 1_000, i64::MAX]),
        cluster_uid: pick(&["", "liar", "liar", "another"]).to_owned(),
        mark: forged(mark),
    };
    let parts = [
        Part::Begin(begin),
        Part::Services(v1::sync_request::Services { services }),
        Part::End(v1::sync_request::End { count }),
    ];
    let message = |part| v1::SyncRequest { part: Some(part) };
    parts.map(message).to_vec()
}

fn acquire(pools: &[Pool]) -> v1::AcquireRequest {
    let mut shown: Vec<IpAddr> = Vec::new();
    for v4 in [true, false] {
        let addresses = pools.iter().flat_map(|pool| pool.addresses.iter().copied());
        let of_family: Vec<IpAddr> = addresses.filter(|it| it.is_ipv4() == v4).collect();
        if fastrand::bool() {
            shown.push(pick(&of_family));
        }
    }
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let wish = v1::Wish {
        families: vec![v1::IpFamily::Ipv4.into(), v1::IpFamily::Ipv6.into()],
        ip_family_policy: v1::IpFamilyPolicy::PreferDualStack.into(),
        addresses: if fastrand::u8(..3) == 0 {
            shown.clone()
        } else {
            Vec::new()
        },
        current_addresses: shown,
        ..Default::default()
    };
    v1::AcquireRequest {
        service: Some(key()),
        uid: format!("lie-{}", fastrand::u8(..3)),
        was_allocated: fastrand::bool(),
        wish: Some(wish),
        ..Default::default()
    }
}
