//! Who waits for an address, and who is told when one becomes free. Kept in memory
//! alone: after a restart whoever waits asks again.
//!
//! A Service waits in a [`Line`] for each thing that may serve it. What becomes free
//! is offered to one Service at a time, the one that has waited longest in that
//! line. When it has asked and got something else or nothing, or does not ask in
//! time, the offer goes on to the next, as long as there is something to have. So
//! one freed address wakes one Service, not all that wait in all clusters.
//!
//! Every step costs O(log n) in the number of Services that wait, and O(clusters) where
//! it looks for the next in a line.
//!
//! How many may wait, and what is kept of them, is bounded for each cluster: whoever
//! fills its part is not told of what becomes free, and asks again by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::engine::{
    Acquire, Acquired, Backend, ClusterName, Family, Freed, LabelMap, Permitted, Policy, PoolName,
    Refusal, Reply, ServiceKey, SharingKey,
};

/// Services that may wait in all.
const PLACES: usize = 250_000;
/// Services of one cluster that may wait.
const PLACES_OF_A_CLUSTER: usize = 50_000;
/// Bytes of what is kept of those of one cluster.
const BYTES_OF_A_CLUSTER: usize = 32 * 1024 * 1024;
/// What a Service that waits costs, besides its texts.
const BYTES_OF_A_PLACE: usize = 512;
/// How long a Service has to ask for what it was offered.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What a Service can wait for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// Any address of a pool.
    Pool(PoolName, Family),
    /// This address.
    Address(IpAddr),
    /// That its cluster holds less of a pool.
    Quota(PoolName, ClusterName),
    /// That others who share under a key make room.
    Group(ClusterName, SharingKey),
}

/// A place in a line: since when, and who.
type Place = (u64, Arc<ServiceKey>);

#[derive(Clone, Debug)]
struct Waiter {
    acquire: Acquire,
    since: u64,
    /// When it asked last.
    asked: Instant,
    lines: Vec<Line>,
    bytes: usize,
    offered: Option<(Line, Instant)>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    waiters: BTreeMap<Arc<ServiceKey>, Waiter>,
    lines: HashMap<Line, Queue>,
    offers: BTreeSet<(Instant, Arc<ServiceKey>)>,
    shares: HashMap<ClusterName, Share>,
    sequence: u64,
}

/// Who waits in one line.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Those that nothing is offered to, by cluster: one whose watcher does not
    /// listen is passed over in one step.
    ready: BTreeMap<ClusterName, BTreeSet<Place>>,
    offered: usize,
}

/// What the Services of one cluster take.
#[derive(Clone, Debug, Default)]
struct Share {
    keys: BTreeSet<Arc<ServiceKey>>,
    bytes: usize,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// What the Service was offered and did not take.
    pub onward: Option<Onward>,
    /// It asked in vain, and its cluster has too many that wait.
    pub dropped: bool,
}

/// Somebody who is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub line: Line,
    pub key: Arc<ServiceKey>,
}

/// Where an offer goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onward {
    line: Line,
    after: Option<Place>,
}

impl Waiting {
    /// Takes note of what a Service got.
    ///
    /// `pools_for` says which pools could serve a family of the wish; of an address that is
    /// asked for, its pool.
    pub fn asked(
        &mut self,
        acquire: Acquire,
        reply: &Reply,
        now: Instant,
        pools_for: impl Fn(&Acquire, Family) -> Vec<PoolName>,
    ) -> Noted {
        let key = Arc::clone(&acquire.key);
        let before = self.remove(&key);
        let mut dropped = false;
        if reply.refusals().next().is_some() {
            let bytes = bytes(&acquire);
            dropped = !self.has_room(&key.cluster, bytes);
            if !dropped {
                let since = before.as_ref().map(|waiter| waiter.since);
                let since = since.unwrap_or_else(|| {
                    self.sequence += 1;
                    self.sequence
                });
                self.add(Waiter {
                    lines: lines(&acquire, reply, pools_for),
                    acquire,
                    since,
                    asked: now,
                    bytes,
                    offered: None,
                });
            }
        }
        let onward = before.and_then(|before| declined(before, reply));
        Noted { onward, dropped }
    }

    fn has_room(&self, cluster: &ClusterName, bytes: usize) -> bool {
        let share = self.shares.get(cluster);
        self.waiters.len() < PLACES
            && share.is_none_or(|share| {
                share.keys.len() < PLACES_OF_A_CLUSTER && share.bytes + bytes <= BYTES_OF_A_CLUSTER
            })
    }

    fn add(&mut self, waiter: Waiter) {
        let key = Arc::clone(&waiter.acquire.key);
        let share = self.shares.entry(key.cluster.clone()).or_default();
        share.keys.insert(Arc::clone(&key));
        share.bytes += waiter.bytes;
        for line in &waiter.lines {
            let queue = self.lines.entry(line.clone()).or_default();
            queue.make_ready((waiter.since, Arc::clone(&key)));
        }
        self.waiters.insert(key, waiter);
    }

    /// A cluster told what it has. Returns what was offered to those that it does not have
    /// any more, and had asked before it made that up.
    pub fn forget_absent(
        &mut self,
        cluster: &ClusterName,
        since: Instant,
        is_live: impl Fn(&ServiceKey) -> bool,
    ) -> Vec<Onward> {
        let asked_before = |key: &ServiceKey| {
            let waiter = self.waiters.get(key);
            waiter.is_some_and(|waiter| waiter.asked < since)
        };
        let of_it = self.shares.get(cluster).into_iter();
        let absent: Vec<_> = of_it
            .flat_map(|share| &share.keys)
            .filter(|key| !is_live(key) && asked_before(key))
            .cloned()
            .collect();
        absent.iter().filter_map(|key| self.gone(key)).collect()
    }

    /// The Service is gone. Returns what it was offered.
    pub fn gone(&mut self, key: &ServiceKey) -> Option<Onward> {
        let waiter = self.remove(key)?;
        let (line, _) = waiter.offered?;
        let after = Some((waiter.since, waiter.acquire.key));
        Some(Onward { line, after })
    }

    /// Where an offer of what was freed starts.
    pub fn freed(freed: &Freed) -> Vec<Onward> {
        let Freed {
            pool,
            family,
            address,
            by,
            shared,
        } = freed;
        let mut lines = vec![
            Line::Address(*address),
            match shared {
                Some((cluster, key)) => Line::Group(cluster.clone(), key.clone()),
                None => Line::Pool(pool.clone(), *family),
            },
        ];
        lines.extend(by.clone().map(|cluster| Line::Quota(pool.clone(), cluster)));
        let starts = lines.into_iter();
        starts.map(|line| Onward { line, after: None }).collect()
    }

    /// Offers to the next in line of whom `listens` is true of its cluster.
    pub fn offer(
        &mut self,
        onward: Onward,
        now: Instant,
        listens: impl Fn(&ClusterName) -> bool,
    ) -> Option<Offer> {
        let Onward { line, after } = onward;
        let (_, key) = self.lines.get(&line)?.next(after, listens)?;
        let waiter = self.waiters.get_mut(&key)?;
        waiter.offered = Some((line.clone(), now + PATIENCE));
        for other in &waiter.lines {
            if let Some(queue) = self.lines.get_mut(other) {
                queue.take(&(waiter.since, Arc::clone(&key)));
                queue.offered += 1;
            }
        }
        self.offers.insert((now + PATIENCE, Arc::clone(&key)));
        Some(Offer { line, key })
    }

    /// When [`Waiting::expired`] has something to say.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.offers.first().map(|(at, _)| *at)
    }

    /// An offer that nobody answered by `now`.
    pub fn expired(&mut self, now: Instant) -> Option<Onward> {
        let (at, key) = self.offers.first().cloned()?;
        if at > now {
            return None;
        }
        self.offers.pop_first();
        let waiter = self.waiters.get_mut(&key)?;
        let (line, _) = waiter.offered.take()?;
        for other in &waiter.lines {
            if let Some(queue) = self.lines.get_mut(other) {
                queue.offered -= 1;
                queue.make_ready((waiter.since, Arc::clone(&key)));
            }
        }
        let after = Some((waiter.since, key));
        Some(Onward { line, after })
    }

    /// How many Services wait.
    pub fn count(&self) -> usize {
        self.waiters.len()
    }

    /// How many of them wait in a line.
    pub fn in_line(&self, line: &Line) -> usize {
        self.lines.get(line).map_or(0, Queue::count)
    }

    /// What waits, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = &Acquire> {
        self.waiters.values().map(|waiter| &waiter.acquire)
    }

    fn remove(&mut self, key: &ServiceKey) -> Option<Waiter> {
        let (key, waiter) = self.waiters.remove_entry(key)?;
        for line in &waiter.lines {
            if let Some(queue) = self.lines.get_mut(line) {
                if waiter.offered.is_some() {
                    queue.offered -= 1;
                } else {
                    queue.take(&(waiter.since, Arc::clone(&key)));
                }
                if queue.is_empty() {
                    self.lines.remove(line);
                }
            }
        }
        if let Some(share) = self.shares.get_mut(&key.cluster) {
            share.keys.remove(&key);
            share.bytes -= waiter.bytes;
            if share.keys.is_empty() {
                self.shares.remove(&key.cluster);
            }
        }
        if let Some((_, at)) = &waiter.offered {
            self.offers.remove(&(*at, key));
        }
        Some(waiter)
    }
}

impl Queue {
    fn make_ready(&mut self, place: Place) {
        let cluster = place.1.cluster.clone();
        self.ready.entry(cluster).or_default().insert(place);
    }

    fn take(&mut self, place: &Place) {
        if let Some(places) = self.ready.get_mut(&place.1.cluster) {
            places.remove(place);
            if places.is_empty() {
                self.ready.remove(&place.1.cluster);
            }
        }
    }

    /// The one that has waited longest, of those behind `after` whose cluster listens.
    fn next(&self, after: Option<Place>, listens: impl Fn(&ClusterName) -> bool) -> Option<Place> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let listening = self.ready.iter().filter(|(cluster, _)| listens(cluster));
        let first = listening.filter_map(|(_, places)| {
            let mut behind = places.range((after.as_ref(), Bound::Unbounded));
            behind.next()
        });
        first.min().cloned()
    }

    fn count(&self) -> usize {
        self.offered + self.ready.values().map(BTreeSet::len).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.offered == 0 && self.ready.is_empty()
    }
}

/// What was offered to a Service that got something else or nothing.
fn declined(before: Waiter, reply: &Reply) -> Option<Onward> {
    let (line, _) = before.offered?;
    let taken = reply.acquired().is_some_and(|of| took(of, &line));
    (!taken).then_some(Onward {
        line,
        after: Some((before.since, before.acquire.key)),
    })
}

/// About what it takes to keep a request.
fn bytes(acquire: &Acquire) -> usize {
    let of_labels = |labels: &LabelMap| -> usize {
        labels
            .iter()
            .map(|(key, value)| key.len() + value.len() + 64)
            .sum()
    };
    let labels = &acquire.wish.labels;
    let sharing = acquire.wish.sharing.as_deref().map_or(0, |terms| {
        let permitted = match &terms.permitted {
            Permitted::All => 0,
            Permitted::Only(names) => names.iter().map(|name| name.as_str().len() + 32).sum(),
        };
        let backend = match &terms.backend {
            Backend::Cluster => 0,
            Backend::Local(selector) => of_labels(selector),
        };
        permitted + backend + size_of_val(&terms.ports) + terms.ports.len() * 8
    });
    BYTES_OF_A_PLACE
        + acquire.key.to_string().len()
        + of_labels(&labels.service)
        + of_labels(&labels.namespace)
        + sharing
        + acquire.wish.current.len() * size_of::<IpAddr>()
}

impl Onward {
    /// What is offered.
    pub const fn line(&self) -> &Line {
        &self.line
    }
}

/// Whether a Service got what was offered in a line.
fn took(acquired: &Acquired, line: &Line) -> bool {
    acquired.addresses.iter().any(|held| match line {
        Line::Pool(pool, family) => held.pool == *pool && held.family() == *family,
        Line::Address(address) => held.address == *address,
        Line::Quota(pool, _) => held.pool == *pool,
        Line::Group(..) => held.holder.sharing.is_some(),
    }) && acquired.unmet.is_empty()
}

fn lines(
    acquire: &Acquire,
    reply: &Reply,
    pools_for: impl Fn(&Acquire, Family) -> Vec<PoolName>,
) -> Vec<Line> {
    let wish = &acquire.wish;
    let cluster = &acquire.key.cluster;
    let families = match reply.acquired() {
        Some(acquired) => acquired.unmet.iter().map(|unmet| unmet.family).collect(),
        None => wish.families.clone(),
    };
    // A refusal of all gives the reason of one family: the other one may wait for anything.
    let is_any = reply.acquired().is_none() && families.len() > 1;
    let mut lines = BTreeSet::new();
    for refusal in reply.refusals() {
        let over_quota = match refusal {
            Refusal::PoolExhausted { .. } | Refusal::PoolCoolingDown { .. } => None,
            Refusal::QuotaExceeded { pool, .. } => Some(pool),
            Refusal::AddressInUse { address, .. }
            | Refusal::AddressReserved { address, .. }
            | Refusal::AddressShown { address, .. }
            | Refusal::SharingPortClash { address, .. }
            | Refusal::SharingKeyMismatch { address }
            | Refusal::SharingNotPermitted { address } => {
                lines.insert(Line::Address(*address));
                None
            }
            // Only other pools or an edit help here; under `Any` the other family is enough.
            Refusal::NoPool { .. }
            | Refusal::PoolNotFound { .. }
            | Refusal::PoolNotAllowed { .. }
            | Refusal::PoolDisabled { .. }
            | Refusal::AddressNotInPool { .. }
            | Refusal::AddressExcluded { .. } => {
                if !is_any || wish.policy == Policy::All {
                    continue;
                }
                None
            }
            Refusal::AddressConflict { .. }
            | Refusal::NotTheHolder { .. }
            | Refusal::NoConflict { .. }
            | Refusal::AwaitingSync { .. }
            | Refusal::ClusterNameInUse { .. }
            | Refusal::ClusterHasOtherName { .. }
            | Refusal::NoCluster { .. }
            | Refusal::ClusterDecommissioned { .. } => continue,
        };
        lines.extend(over_quota.map(|pool| Line::Quota(pool.clone(), cluster.clone())));
        for family in &families {
            let requested = *wish.requested.get(*family);
            for pool in pools_for(acquire, *family) {
                if over_quota.is_some() || is_any {
                    lines.insert(Line::Quota(pool.clone(), cluster.clone()));
                }
                if requested.is_none() && over_quota != Some(&pool) {
                    lines.insert(Line::Pool(pool, *family));
                }
            }
            lines.extend(requested.map(Line::Address));
        }
        if let Some(terms) = &wish.sharing {
            lines.insert(Line::Group(cluster.clone(), terms.key.clone()));
        }
    }
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::engine::{PerFamily, Reached, Scope, Timestamp, Unmet, Wish};

    fn pool() -> PoolName {
        PoolName::parse("p").unwrap()
    }

    fn line() -> Line {
        Line::Pool(pool(), Family::V4)
    }

    fn onward() -> Onward {
        Onward {
            line: line(),
            after: None,
        }
    }

    fn key(cluster: &str, name: &str) -> ServiceKey {
        ServiceKey::parse(cluster, "default", name).unwrap()
    }

    fn acquire(cluster: &str, name: &str) -> Acquire {
        Acquire {
            key: Arc::new(key(cluster, name)),
            uid: None,
            created: None,
            was_allocated: false,
            shown_by_others: false,
            cluster_ip: None,
            wish: Wish {
                families: vec![Family::V4],
                policy: Policy::All,
                requested: PerFamily::default(),
                pool: None,
                sharing: None,
                current: Vec::new(),
                labels: Arc::default(),
            },
        }
    }

    fn full() -> Reply {
        Reply::Refused(Refusal::PoolExhausted {
            pools: vec![pool()],
            family: Family::V4,
        })
    }

    fn in_vain(waiting: &mut Waiting, acquire: Acquire) -> Noted {
        waiting.asked(acquire, &full(), Instant::now(), |_, _| vec![pool()])
    }

    fn offered(waiting: &mut Waiting, listens: impl Fn(&ClusterName) -> bool) -> Option<String> {
        let offer = waiting.offer(onward(), Instant::now(), listens)?;
        Some(format!("{}/{}", offer.key.cluster, offer.key.name))
    }

    #[tokio::test]
    async fn whoever_has_waited_longest_is_offered_first_and_the_next_one_when_it_declines() {
        let mut waiting = Waiting::default();
        for (cluster, name) in [("b", "1"), ("a", "2"), ("b", "3")] {
            in_vain(&mut waiting, acquire(cluster, name));
        }
        let all = |_: &ClusterName| true;
        assert_eq!(offered(&mut waiting, all).unwrap(), "b/1");
        assert_eq!(offered(&mut waiting, all).unwrap(), "a/2");
        assert_eq!(waiting.in_line(&line()), 3);
        let onward = in_vain(&mut waiting, acquire("b", "1")).onward.unwrap();
        let next = waiting.offer(onward, Instant::now(), all).unwrap();
        assert_eq!(
            *next.key,
            key("b", "3"),
            "not the same again, nor who is offered"
        );
        assert_eq!(
            offered(&mut waiting, all).unwrap(),
            "b/1",
            "but of what comes next"
        );
        assert_eq!(offered(&mut waiting, all), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_nobody_answers_goes_on_and_its_service_keeps_its_place() {
        let mut waiting = Waiting::default();
        in_vain(&mut waiting, acquire("a", "1"));
        in_vain(&mut waiting, acquire("a", "2"));
        let all = |_: &ClusterName| true;
        assert_eq!(offered(&mut waiting, all).unwrap(), "a/1");
        tokio::time::advance(PATIENCE).await;
        let onward = waiting.expired(Instant::now()).unwrap();
        let next = waiting.offer(onward, Instant::now(), all).unwrap();
        assert_eq!(*next.key, key("a", "2"));
        assert_eq!(offered(&mut waiting, all).unwrap(), "a/1");
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_listen_is_passed_over_in_one_step() {
        let mut waiting = Waiting::default();
        for number in 0..1000 {
            in_vain(&mut waiting, acquire("away", &format!("s{number}")));
        }
        in_vain(&mut waiting, acquire("here", "s"));
        let asked = Cell::new(0);
        let listens = |cluster: &ClusterName| {
            asked.set(asked.get() + 1);
            cluster.as_str() == "here"
        };
        assert_eq!(offered(&mut waiting, listens).unwrap(), "here/s");
        assert_eq!(asked.get(), 2, "once for each cluster");
    }

    #[tokio::test]
    async fn a_service_that_its_cluster_has_no_more_waits_no_more() {
        let mut waiting = Waiting::default();
        for (cluster, name) in [("a", "gone"), ("a", "live"), ("b", "gone")] {
            in_vain(&mut waiting, acquire(cluster, name));
        }
        let all = |_: &ClusterName| true;
        assert_eq!(offered(&mut waiting, all).unwrap(), "a/gone");
        let since = Instant::now();
        in_vain(&mut waiting, acquire("a", "newer"));
        let is_live = |key: &ServiceKey| key.name.as_str() == "live";
        let cluster = ClusterName::parse("a").unwrap();
        let onward = waiting.forget_absent(&cluster, since, is_live);
        let left: Vec<_> = waiting.iter().map(|wait| wait.key.to_string()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(!left.iter().any(|key| key.contains("a/default/gone")));
        assert!(
            left.iter().any(|key| key.contains("newer")),
            "the set is older"
        );
        let [onward] = onward.try_into().unwrap();
        let next = waiting.offer(onward, Instant::now(), all).unwrap();
        assert_eq!(*next.key, key("a", "live"), "what it was offered goes on");
    }

    #[tokio::test]
    async fn a_service_is_told_of_the_address_that_it_asks_for_in_a_pool_that_gives_none_unasked() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let cools = Refusal::PoolCoolingDown {
            pools: vec![pool()],
            family: Family::V4,
            until: Timestamp(1),
        };
        let is_over = Refusal::QuotaExceeded {
            pool: pool(),
            reached: Reached {
                scope: Scope::Cluster,
                limit: 1,
                used: 1,
            },
        };
        let mut waiting = Waiting::default();
        for (name, refusal) in [("cools", cools), ("over", is_over)] {
            let mut acquire = acquire("a", name);
            *acquire.wish.requested.get_mut(Family::V4) = Some(address);
            let refused = Reply::Refused(refusal);
            waiting.asked(acquire, &refused, Instant::now(), |_, _| Vec::new());
        }
        let quota = Line::Quota(pool(), ClusterName::parse("a").unwrap());
        assert_eq!(waiting.in_line(&Line::Address(address)), 2);
        assert_eq!(waiting.in_line(&quota), 1);
    }

    #[tokio::test]
    async fn a_service_that_has_an_address_of_a_family_waits_for_the_other_one_alone() {
        let mut waiting = Waiting::default();
        let mut acquire = acquire("a", "s");
        acquire.wish.families = vec![Family::V6, Family::V4];
        let unmet = Unmet {
            family: Family::V4,
            refusal: Refusal::PoolExhausted {
                pools: vec![pool()],
                family: Family::V4,
            },
        };
        let reply = Reply::Acquired(Acquired {
            addresses: Vec::new(),
            unmet: vec![unmet],
            satisfied: true,
        });
        waiting.asked(acquire, &reply, Instant::now(), |_, _| vec![pool()]);
        assert_eq!(waiting.in_line(&line()), 1);
        assert_eq!(waiting.in_line(&Line::Pool(pool(), Family::V6)), 0);
    }

    #[tokio::test]
    async fn a_service_that_one_family_would_do_waits_for_it_whatever_is_wrong_with_the_other() {
        let mut waiting = Waiting::default();
        let mut acquire = acquire("a", "s");
        acquire.wish.families = vec![Family::V6, Family::V4];
        acquire.wish.policy = Policy::Any;
        let refused = Reply::Refused(Refusal::NoPool {
            namespace: acquire.key.namespace.clone(),
            family: Family::V6,
        });
        waiting.asked(acquire, &refused, Instant::now(), |_, _| vec![pool()]);
        let quota = Line::Quota(pool(), ClusterName::parse("a").unwrap());
        for line in [line(), quota] {
            assert_eq!(waiting.in_line(&line), 1, "{line:?}");
        }
    }

    #[tokio::test]
    async fn what_waits_is_bounded_for_each_cluster_in_places_and_in_bytes() {
        let mut waiting = Waiting::default();
        for number in 0..PLACES_OF_A_CLUSTER {
            assert!(!in_vain(&mut waiting, acquire("a", &number.to_string())).dropped);
        }
        assert!(in_vain(&mut waiting, acquire("a", "more")).dropped);
        assert!(
            !in_vain(&mut waiting, acquire("a", "7")).dropped,
            "it has its place"
        );
        assert!(!in_vain(&mut waiting, acquire("b", "other")).dropped);

        let mut waiting = Waiting::default();
        let large = |name: &str| {
            let mut acquire = acquire("a", name);
            let labels = Arc::make_mut(&mut acquire.wish.labels);
            labels
                .service
                .insert("note".to_owned(), "x".repeat(1 << 20));
            acquire
        };
        let kept = (0..100).filter(|n| !in_vain(&mut waiting, large(&format!("s{n}"))).dropped);
        assert_eq!(kept.count(), 31);
        assert!(!in_vain(&mut waiting, acquire("b", "other")).dropped);
        for number in 0..100 {
            waiting.gone(&key("a", &format!("s{number}")));
        }
        assert!(
            !in_vain(&mut waiting, large("s")).dropped,
            "there is room again"
        );
        assert_eq!(waiting.count(), 2);
    }
}
