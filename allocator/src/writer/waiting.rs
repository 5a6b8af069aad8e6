//! Who waits for an address, and who is told when one becomes free. Kept in memory
//! alone: after a restart whoever waits asks again.
//!
//! A Service waits in a [`Line`] for each thing that may serve it. What becomes free
//! is offered to one Service at a time, the one that has waited longest in that
//! line. When it has asked and got something else or nothing, or does not ask in
//! time, the offer goes on to the next, as long as there is something to have. So
//! one freed address wakes one Service, not all that wait in all clusters.
//!
//! Every step costs O(log n) in the number of Services that wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::engine::{
    Acquire, Acquired, ClusterName, Family, Freed, PoolName, Refusal, Reply, ServiceKey, SharingKey,
};

/// Beyond this many, further ones are not remembered: they ask again by themselves.
const LIMIT: usize = 250_000;
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
    lines: Vec<Line>,
    offered: Option<(Line, Instant)>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    waiters: BTreeMap<Arc<ServiceKey>, Waiter>,
    lines: HashMap<Line, BTreeSet<Place>>,
    offers: BTreeSet<(Instant, Arc<ServiceKey>)>,
    sequence: u64,
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
    /// Takes note of what a Service got. Returns what it was offered and did not
    /// take.
    ///
    /// `pools_for` says which pools could serve a family of the wish.
    pub fn asked(
        &mut self,
        acquire: Acquire,
        reply: &Reply,
        pools_for: impl Fn(&Acquire, Family) -> Vec<PoolName>,
    ) -> Option<Onward> {
        let key = Arc::clone(&acquire.key);
        let before = self.remove(&key);
        let refusals = refusals(reply);
        let since = before.as_ref().map(|waiter| waiter.since);
        if !refusals.is_empty() && self.waiters.len() < LIMIT {
            let lines = lines(&acquire, &refusals, pools_for);
            let since = since.unwrap_or_else(|| {
                self.sequence += 1;
                self.sequence
            });
            for line in &lines {
                let place = (since, Arc::clone(&key));
                self.lines.entry(line.clone()).or_default().insert(place);
            }
            let waiter = Waiter {
                acquire,
                since,
                lines,
                offered: None,
            };
            self.waiters.insert(Arc::clone(&key), waiter);
        }
        let before = before?;
        let (line, _) = before.offered?;
        let taken = match reply {
            Reply::Acquired(acquired) => took(acquired, &line),
            Reply::Refused(_)
            | Reply::Released(_)
            | Reply::Reserved(_)
            | Reply::Unreserved(_)
            | Reply::Synced(_)
            | Reply::Resolved(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned
            | Reply::Attached
            | Reply::Replaced { .. } => false,
        };
        (!taken).then_some(Onward {
            line,
            after: Some((before.since, key)),
        })
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
        let places = self.lines.get(&line)?;
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let key = places
            .range((after, Bound::Unbounded))
            .map(|(_, key)| key)
            .find(|key| {
                let waiter = self.waiters.get(*key);
                waiter.is_some_and(|waiter| waiter.offered.is_none()) && listens(&key.cluster)
            })?;
        let key = Arc::clone(key);
        if let Some(waiter) = self.waiters.get_mut(&key) {
            waiter.offered = Some((line.clone(), now + PATIENCE));
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
        let after = Some((waiter.since, key));
        Some(Onward { line, after })
    }

    /// How many Services wait.
    pub fn count(&self) -> usize {
        self.waiters.len()
    }

    /// How many of them wait in a line.
    pub fn in_line(&self, line: &Line) -> usize {
        self.lines.get(line).map_or(0, BTreeSet::len)
    }

    /// What waits, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = &Acquire> {
        self.waiters.values().map(|waiter| &waiter.acquire)
    }

    fn remove(&mut self, key: &ServiceKey) -> Option<Waiter> {
        let (key, waiter) = self.waiters.remove_entry(key)?;
        for line in &waiter.lines {
            if let Some(places) = self.lines.get_mut(line) {
                places.remove(&(waiter.since, Arc::clone(&key)));
                if places.is_empty() {
                    self.lines.remove(line);
                }
            }
        }
        if let Some((_, at)) = &waiter.offered {
            self.offers.remove(&(*at, key));
        }
        Some(waiter)
    }
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

fn refusals(reply: &Reply) -> Vec<&Refusal> {
    match reply {
        Reply::Refused(refusal) => vec![refusal],
        Reply::Acquired(acquired) => acquired.unmet.iter().map(|unmet| &unmet.refusal).collect(),
        Reply::Released(_)
        | Reply::Reserved(_)
        | Reply::Unreserved(_)
        | Reply::Synced(_)
        | Reply::Resolved(_)
        | Reply::Decommissioned(_)
        | Reply::Recommissioned
        | Reply::Attached
        | Reply::Replaced { .. } => Vec::new(),
    }
}

fn lines(
    acquire: &Acquire,
    refusals: &[&Refusal],
    pools_for: impl Fn(&Acquire, Family) -> Vec<PoolName>,
) -> Vec<Line> {
    let mut lines = BTreeSet::new();
    for refusal in refusals {
        let full = match refusal {
            Refusal::PoolExhausted { .. } | Refusal::PoolCoolingDown { .. } => None,
            Refusal::QuotaExceeded { pool, .. } => Some(pool),
            Refusal::AddressInUse { address, .. }
            | Refusal::AddressReserved { address, .. }
            | Refusal::SharingPortClash { address, .. }
            | Refusal::SharingKeyMismatch { address }
            | Refusal::SharingNotPermitted { address } => {
                lines.insert(Line::Address(*address));
                continue;
            }
            // Only other pools help, an edit, or a word of an administrator.
            Refusal::NoPool { .. }
            | Refusal::PoolNotFound { .. }
            | Refusal::PoolNotAllowed { .. }
            | Refusal::PoolDisabled { .. }
            | Refusal::AddressNotInPool { .. }
            | Refusal::AddressExcluded { .. }
            | Refusal::AddressConflict { .. }
            | Refusal::AddressHandedOver { .. }
            | Refusal::NotTheHolder { .. }
            | Refusal::NoConflict { .. }
            | Refusal::AwaitingSync { .. }
            | Refusal::ClusterNameInUse { .. }
            | Refusal::ClusterHasOtherName { .. }
            | Refusal::NoCluster { .. }
            | Refusal::ClusterDecommissioned { .. } => continue,
        };
        let cluster = &acquire.key.cluster;
        for family in &acquire.wish.families {
            for pool in pools_for(acquire, *family) {
                if full.is_some() {
                    lines.insert(Line::Quota(pool.clone(), cluster.clone()));
                }
                if full != Some(&pool) {
                    lines.insert(Line::Pool(pool, *family));
                }
            }
        }
        if let Some(terms) = &acquire.wish.sharing {
            lines.insert(Line::Group(cluster.clone(), terms.key.clone()));
        }
    }
    lines.into_iter().collect()
}
