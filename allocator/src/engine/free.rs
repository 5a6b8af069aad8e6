//! Which addresses are free, and who held them last.
//!
//! A released address goes through up to three stages: *cooling* (only its last
//! holder gets it), *sticky* (others get it when nothing else is free), *fresh*
//! (anybody's). While it is reserved it is in none of them, but its time runs. What
//! each index pays for:
//! - `fresh`: the lowest address that nobody has a claim to, O(log holes);
//! - `sticky`: the lowest address that is kept for its last holder, O(log n);
//! - `cooling`: when the first of them ends, O(log n);
//! - `by_key`: what a Service held last, O(log) of those it may claim;
//! - `marks`: whose mark goes when an address is taken, O(1);
//! - `ends`: which stages end by now, so that nothing ever scans for them,
//!   O(log n) for each that ends.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hashbrown::HashMap;

use super::{
    address::{Family, PerFamily},
    change::{LastHeld, Timestamp},
    key::ServiceKey,
    pools::{Located, PoolIndex, Pools},
    ranges::RangeSet,
    sharing::TRIED,
};

/// The free addresses of one pool.
#[derive(Clone, Debug, Default)]
struct PoolFree {
    fresh: PerFamily<RangeSet>,
    sticky: PerFamily<BTreeSet<u128>>,
    cooling: PerFamily<BTreeSet<(Timestamp, u128)>>,
}

/// What is remembered of the last holder of an address that nobody holds.
#[derive(Clone, Debug)]
struct Mark {
    key: Arc<ServiceKey>,
    released_at: Timestamp,
    /// `None`: in no pool, so that there is nothing to protect.
    stages: Option<Stages>,
}

#[derive(Clone, Copy, Debug)]
struct Stages {
    pool: PoolIndex,
    cooling_until: Timestamp,
    sticky_until: Timestamp,
}

impl Stages {
    /// When the stage that lasts at `now` ends.
    fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        [self.cooling_until, self.sticky_until]
            .into_iter()
            .filter(|end| *end > now)
            .min()
    }
}

/// Free addresses of all pools, in the order of [`Pools::indexes`].
#[derive(Clone, Debug, Default)]
pub struct Free {
    pools: Vec<PoolFree>,
    marks: HashMap<IpAddr, Mark>,
    by_key: HashMap<Arc<ServiceKey>, PerFamily<BTreeSet<(Timestamp, IpAddr)>>>,
    ends: BTreeSet<(Timestamp, IpAddr)>,
}

impl Free {
    /// Everything usable is free.
    pub fn new(pools: &Pools) -> Self {
        Self {
            pools: pools
                .indexes()
                .map(|index| PoolFree {
                    fresh: pools.usable(index).clone(),
                    ..PoolFree::default()
                })
                .collect(),
            ..Self::default()
        }
    }

    /// Whether `key` may have the address now, and if not, because it cools down.
    pub fn availability(&self, pool: PoolIndex, address: IpAddr, key: &ServiceKey) -> Availability {
        let (family, number) = (Family::of(address), Family::number(address));
        let Some(free) = self.pools.get(pool.position()) else {
            return Availability::Taken;
        };
        if free.fresh.get(family).contains(number) || free.sticky.get(family).contains(&number) {
            return Availability::Free;
        }
        let Some(mark) = self.marks.get(&address) else {
            return Availability::Taken;
        };
        match mark.stages {
            Some(stages)
                if free
                    .cooling
                    .get(family)
                    .contains(&(stages.cooling_until, number)) =>
            {
                if *mark.key == *key {
                    Availability::Free
                } else {
                    Availability::Cooling(stages.cooling_until)
                }
            }
            Some(_) | None => Availability::Taken,
        }
    }

    /// Until when only its last holder gets an address that nobody holds, whatever else
    /// keeps it from others.
    pub fn cooling_until(
        &self,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<(&ServiceKey, Timestamp)> {
        let mark = self.marks.get(&address)?;
        let until = mark.stages?.cooling_until;
        (until > now).then_some((&*mark.key, until))
    }

    /// The lowest address that nobody has a claim to.
    pub fn lowest_fresh(&self, pool: PoolIndex, family: Family) -> Option<IpAddr> {
        let number = self.pools.get(pool.position())?.fresh.get(family).first()?;
        Some(family.address(number))
    }

    /// The lowest free address that is kept for whoever held it last.
    pub fn lowest_sticky(&self, pool: PoolIndex, family: Family) -> Option<IpAddr> {
        let number = self
            .pools
            .get(pool.position())?
            .sticky
            .get(family)
            .first()?;
        Some(family.address(*number))
    }

    /// When the first address that cools down has done so.
    pub fn first_cooled(&self, pool: PoolIndex, family: Family) -> Option<Timestamp> {
        let (until, _) = self
            .pools
            .get(pool.position())?
            .cooling
            .get(family)
            .first()?;
        Some(*until)
    }

    /// How many addresses cool down.
    pub fn cooling(&self, pool: PoolIndex, family: Family) -> usize {
        let free = self.pools.get(pool.position());
        free.map_or(0, |free| free.cooling.get(family).len())
    }

    /// What `key` held and nobody took since, the last one first. The first of them may be
    /// in a pool that it may not use any more, while another one cools down for it alone.
    pub fn last_held(&self, key: &ServiceKey, family: Family) -> impl Iterator<Item = IpAddr> {
        let claims = self.by_key.get(key).into_iter();
        let latest = claims.flat_map(move |claims| claims.get(family).iter().rev());
        latest.map(|(_, address)| *address).take(TRIED)
    }

    /// Everything that is remembered of last holders, in no order.
    pub fn marks(&self) -> impl Iterator<Item = LastHeld> {
        self.marks.iter().map(|(address, mark)| LastHeld {
            address: *address,
            key: Arc::clone(&mark.key),
            released_at: mark.released_at,
        })
    }

    /// The address is held from now on; whoever held it last loses the claim.
    pub fn take(&mut self, pools: &Pools, address: IpAddr) {
        self.withhold(pools, address);
        self.forget(address);
    }

    /// The address is nobody's from now on, and the claim of its last holder rests.
    pub fn withhold(&mut self, pools: &Pools, address: IpAddr) {
        if let Some(stages) = self.marks.get(&address).and_then(|mark| mark.stages) {
            self.leave_stages(address, stages);
            for end in [stages.cooling_until, stages.sticky_until] {
                self.ends.remove(&(end, address));
            }
        } else if let Some((fresh, number)) = self.fresh(pools, address) {
            fresh.remove(number);
        }
    }

    /// The address is not withheld any more.
    pub fn give(&mut self, pools: &Pools, address: IpAddr, now: Timestamp) {
        match self.marks.get(&address).map(|mark| mark.stages) {
            Some(Some(stages)) => self.enter_stage(address, stages, now),
            Some(None) => {}
            None => {
                if let Some((fresh, number)) = self.fresh(pools, address) {
                    fresh.insert(number);
                }
            }
        }
    }

    /// Nobody holds the address from now on, and its last holder may claim it back.
    /// It is withheld still.
    pub fn mark(&mut self, pools: &Pools, last: LastHeld) {
        let LastHeld {
            address,
            key,
            released_at,
        } = last;
        self.take(pools, address);
        let stages = match pools.locate(address) {
            Located::In(pool) => {
                let spec = pools.spec(pool);
                Some(Stages {
                    pool,
                    cooling_until: released_at.after(spec.cooldown),
                    sticky_until: released_at.after(spec.sticky_for),
                })
            }
            Located::Excluded(_) | Located::Nowhere => None,
        };
        let claims = self.by_key.entry(Arc::clone(&key)).or_default();
        claims
            .get_mut(Family::of(address))
            .insert((released_at, address));
        self.marks.insert(
            address,
            Mark {
                key,
                released_at,
                stages,
            },
        );
    }

    /// When [`Free::end_stages`] has something to do.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Moves on every address whose stage has ended, and tells which ones others
    /// may have from now on.
    pub fn end_stages(&mut self, now: Timestamp) -> Vec<IpAddr> {
        let mut cooled = Vec::new();
        while let Some((end, address)) = self.ends.first().copied()
            && end <= now
        {
            self.ends.pop_first();
            let Some(stages) = self.marks.get(&address).and_then(|mark| mark.stages) else {
                continue;
            };
            if self.leave_stages(address, stages) {
                cooled.push(address);
            }
            self.enter_stage(address, stages, now);
        }
        cooled
    }

    fn enter_stage(&mut self, address: IpAddr, stages: Stages, now: Timestamp) {
        let (family, number) = (Family::of(address), Family::number(address));
        let Some(free) = self.pools.get_mut(stages.pool.position()) else {
            return;
        };
        if stages.cooling_until > now {
            free.cooling
                .get_mut(family)
                .insert((stages.cooling_until, number));
        } else if stages.sticky_until > now {
            free.sticky.get_mut(family).insert(number);
        } else {
            free.fresh.get_mut(family).insert(number);
        }
        if let Some(end) = stages.next_end(now) {
            self.ends.insert((end, address));
        }
    }

    /// Whether it was cooling down.
    fn leave_stages(&mut self, address: IpAddr, stages: Stages) -> bool {
        let (family, number) = (Family::of(address), Family::number(address));
        let Some(free) = self.pools.get_mut(stages.pool.position()) else {
            return false;
        };
        free.sticky.get_mut(family).remove(&number);
        free.fresh.get_mut(family).remove(number);
        free.cooling
            .get_mut(family)
            .remove(&(stages.cooling_until, number))
    }

    /// Forgets the last holder of an address that is in no stage.
    fn forget(&mut self, address: IpAddr) {
        let Some(mark) = self.marks.remove(&address) else {
            return;
        };
        if let Some(claims) = self.by_key.get_mut(&mark.key) {
            let of_family = claims.get_mut(Family::of(address));
            of_family.remove(&(mark.released_at, address));
            if claims.iter().all(|(_, of_family)| of_family.is_empty()) {
                self.by_key.remove(&mark.key);
            }
        }
    }

    fn fresh(&mut self, pools: &Pools, address: IpAddr) -> Option<(&mut RangeSet, u128)> {
        let Located::In(pool) = pools.locate(address) else {
            return None;
        };
        let family = Family::of(address);
        let free = self.pools.get_mut(pool.position())?;
        Some((free.fresh.get_mut(family), Family::number(address)))
    }
}

/// Whether a Service may have an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    Free,
    /// Others than the last holder get it at this time.
    Cooling(Timestamp),
    Taken,
}
