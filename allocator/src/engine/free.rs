//! Which addresses are free, and who held them last.
//!
//! A released address goes through up to three stages: *cooling* (only its last
//! holder gets it), *sticky* (others get it when nothing else is free), *fresh*
//! (anybody's). What each index pays for:
//! - `fresh`: the lowest address that nobody has a claim to, O(log holes);
//! - `sticky`: the lowest address that is kept for its last holder, O(log n);
//! - `cooling`: when the first of them ends, O(log n);
//! - `by_key`: the address that a Service held last, O(1);
//! - `by_address`: whose mark goes when an address is taken, O(1);
//! - `ends`: which stages end by now, so that nothing ever scans for them,
//!   O(log n) for each that ends.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    address::{Family, PerFamily},
    change::{LastHeld, Timestamp},
    key::ServiceKey,
    pools::{Located, PoolIndex, Pools},
    ranges::RangeSet,
};

/// The free addresses of one pool.
#[derive(Clone, Debug, Default)]
struct PoolFree {
    fresh: PerFamily<RangeSet>,
    sticky: PerFamily<BTreeSet<u128>>,
    cooling: PerFamily<BTreeSet<(Timestamp, u128)>>,
}

/// What is remembered of the last holder of a free address.
#[derive(Clone, Debug)]
struct Mark {
    address: IpAddr,
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
    by_key: HashMap<Arc<ServiceKey>, PerFamily<Option<Mark>>>,
    by_address: HashMap<IpAddr, Arc<ServiceKey>>,
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
        let Some(mark) = self.mark(address) else {
            return Availability::Taken;
        };
        match mark.stages {
            Some(stages)
                if free
                    .cooling
                    .get(family)
                    .contains(&(stages.cooling_until, number)) =>
            {
                if self.last_held(key, family) == Some(address) {
                    Availability::Free
                } else {
                    Availability::Cooling(stages.cooling_until)
                }
            }
            Some(_) | None => Availability::Taken,
        }
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

    /// The address that `key` held last, if nobody took it since.
    pub fn last_held(&self, key: &ServiceKey, family: Family) -> Option<IpAddr> {
        let mark = self.by_key.get(key)?.get(family).as_ref()?;
        Some(mark.address)
    }

    /// Everything that is remembered of last holders, in no order.
    pub fn marks(&self) -> impl Iterator<Item = LastHeld> {
        self.by_key.iter().flat_map(|(key, marks)| {
            marks
                .iter()
                .filter_map(|(_, mark)| mark.as_ref())
                .map(|mark| LastHeld {
                    address: mark.address,
                    key: Arc::clone(key),
                    released_at: mark.released_at,
                })
        })
    }

    /// The address is not free from now on; whoever held it last loses the claim.
    pub fn take(&mut self, pools: &Pools, address: IpAddr) {
        if let Some(key) = self.by_address.get(&address).cloned() {
            self.forget(&key, Family::of(address));
        }
        if let Located::In(pool) = pools.locate(address)
            && let Some(free) = self.pools.get_mut(pool.position())
        {
            let (family, number) = (Family::of(address), Family::number(address));
            free.fresh.get_mut(family).remove(number);
        }
    }

    /// The address is anybody's from now on.
    pub fn give(&mut self, pools: &Pools, address: IpAddr) {
        if let Located::In(pool) = pools.locate(address)
            && let Some(free) = self.pools.get_mut(pool.position())
        {
            let (family, number) = (Family::of(address), Family::number(address));
            free.fresh.get_mut(family).insert(number);
        }
    }

    /// The address is free from now on, and its last holder may claim it back.
    /// What that Service could claim before is anybody's.
    pub fn give_back(&mut self, pools: &Pools, last: LastHeld, now: Timestamp) {
        let LastHeld {
            address,
            key,
            released_at,
        } = last;
        let family = Family::of(address);
        if let Some(older) = self.last_held(&key, family) {
            self.forget(&key, family);
            self.give(pools, older);
        }
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
        self.take(pools, address);
        self.by_address.insert(address, Arc::clone(&key));
        *self.by_key.entry(key).or_default().get_mut(family) = Some(Mark {
            address,
            released_at,
            stages,
        });
        if let Some(stages) = stages {
            self.enter_stage(address, stages, now);
        }
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
            let Some(stages) = self.mark(address).and_then(|mark| mark.stages) else {
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

    /// Forgets the last holder of an address, which is in no stage then.
    fn forget(&mut self, key: &ServiceKey, family: Family) {
        let Some(marks) = self.by_key.get_mut(key) else {
            return;
        };
        let mark = marks.get_mut(family).take();
        if marks.iter().all(|(_, mark)| mark.is_none()) {
            self.by_key.remove(key);
        }
        let Some(mark) = mark else { return };
        self.by_address.remove(&mark.address);
        if let Some(stages) = mark.stages {
            self.leave_stages(mark.address, stages);
            for end in [stages.cooling_until, stages.sticky_until] {
                self.ends.remove(&(end, mark.address));
            }
        }
    }

    fn mark(&self, address: IpAddr) -> Option<&Mark> {
        let key = self.by_address.get(&address)?;
        self.by_key.get(key)?.get(Family::of(address)).as_ref()
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
