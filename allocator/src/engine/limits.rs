//! Whether one more address keeps the limits of its pool, together with what else
//! the same request takes and gives back.

use std::net::IpAddr;

use super::{
    Engine,
    acquire::Acquire,
    address::Family,
    choose::{Choice, Choices},
    key::ServiceKey,
    pools::{Located, PoolIndex},
    quota::Weight,
    refusal::Refusal,
};

/// What a request does beside giving an address to the family that is looked at.
pub(super) struct Beside {
    /// Families whose address goes.
    pub(super) leaving: Vec<Family>,
    pub(super) taken: Vec<(IpAddr, PoolIndex)>,
}

impl Engine {
    /// What the rest of a request does, as far as it is known.
    pub(super) fn beside(&self, acquire: &Acquire, choices: &Choices, family: Family) -> Beside {
        let goes = |other: &Family| {
            let choice = choices.iter().find(|(of, _)| of == other);
            let moves = match choice {
                Some((_, Choice::Take { .. } | Choice::Open(_))) | None => true,
                Some((_, Choice::Keep(_) | Choice::Refused(_))) => *other == family,
            };
            let held = self.held_by(&acquire.key, *other);
            moves || held.is_some_and(|held| self.may_not_stay(held, acquire).is_some())
        };
        Beside {
            leaving: Family::ALL.into_iter().filter(goes).collect(),
            taken: taken(choices),
        }
    }

    /// Whether limits let a Service have an address in place of the one that it holds.
    pub(super) fn has_room(&self, key: &ServiceKey, address: IpAddr) -> Result<(), Refusal> {
        let Located::In(pool) = self.pools.locate(address) else {
            return Err(Refusal::AddressNotInPool {
                address,
                pool: None,
            });
        };
        let joining = Weight::of_joining(key, self.held.get(address));
        let given_back = self
            .held_by(key, Family::of(address))
            .filter(|held| self.pools.locate(held.address) == Located::In(pool))
            .and_then(|held| self.held.get(held.address))
            .map(|holders| Weight::of_leaving(key, holders))
            .unwrap_or_default();
        self.keeps_limits(key, pool, joining, (Weight::default(), given_back))
    }

    /// Whether one more address keeps the limits of its pool.
    pub(super) fn fits(
        &self,
        acquire: &Acquire,
        beside: &Beside,
        address: IpAddr,
        pool: PoolIndex,
    ) -> Result<(), Refusal> {
        let joining = Weight::of_joining(&acquire.key, self.held.get(address));
        self.within_quota(acquire, beside, pool, joining)
    }

    pub(super) fn within_quota(
        &self,
        acquire: &Acquire,
        beside: &Beside,
        pool: PoolIndex,
        joining: Weight,
    ) -> Result<(), Refusal> {
        let key = &acquire.key;
        let given_back = beside
            .leaving
            .iter()
            .filter_map(|family| self.held_by(key, *family))
            .filter(|held| self.pools.locate(held.address) == Located::In(pool))
            .filter_map(|held| self.held.get(held.address))
            .map(|holders| Weight::of_leaving(key, holders))
            .fold(Weight::default(), Weight::plus);
        let taken = beside
            .taken
            .iter()
            .filter(|(_, from)| *from == pool)
            .map(|(address, _)| Weight::of_joining(key, self.held.get(*address)))
            .fold(Weight::default(), Weight::plus);
        self.keeps_limits(key, pool, joining, (taken, given_back))
    }

    fn keeps_limits(
        &self,
        key: &ServiceKey,
        pool: PoolIndex,
        joining: Weight,
        beside: (Weight, Weight),
    ) -> Result<(), Refusal> {
        let spec = self.pools.spec(pool);
        match self.quotas.reached(spec, pool, key, joining, beside) {
            None => Ok(()),
            Some(reached) => Err(Refusal::QuotaExceeded {
                pool: spec.name.clone(),
                reached,
            }),
        }
    }
}

fn taken(choices: &Choices) -> Vec<(IpAddr, PoolIndex)> {
    let taken = choices.iter().filter_map(|(_, choice)| match choice {
        Choice::Take { address, pool } => Some((*address, *pool)),
        Choice::Keep(_) | Choice::Open(_) | Choice::Refused(_) => None,
    });
    taken.collect()
}
