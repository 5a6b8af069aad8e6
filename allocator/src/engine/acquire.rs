//! Acquire: from a wish to addresses.
//!
//! 1. What the key holds is kept, as long as the wish asks for nothing else and
//!    whoever shares it still may.
//! 2. Every family that needs an address gets a [`Choice`] (see `choose`): an address
//!    that was asked for, or whatever the pools that serve it have.
//! 3. (See `settle`.) The latter is one reserved for it, one of its sharing key, the
//!    one its status shows, the one it held last; else both families are served
//!    from one pool if one can give both, or each from the first that can: the
//!    lowest address nobody has a claim to, and only when there is none, the
//!    lowest that is kept for its last holder.
//! 4. All that the policy demands is granted, or nothing changes; only an address
//!    that may not be shared any more is lost in any case, and one of a family that
//!    the wish does not have: nobody could tell its holder of it.
//! 5. (See `shown`.) What it shows and does not hold, or gives up, is kept from all
//!    others.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Reply,
    address::{Family, PerFamily},
    change::{Allocation, ChangeKind, Holder, Timestamp, Transition},
    choose::{Choice, Choices},
    key::{PoolName, ServiceKey, Uid},
    labels::Labels,
    pools::PoolIndex,
    refusal::Refusal,
    sharing::{Clash, Terms},
};

/// As in `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Every family of the wish, or nothing: one family, or a required second.
    All,
    /// As many families as can be had, at least one.
    Any,
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// One or two different families, the primary one first.
    pub families: Vec<Family>,
    pub policy: Policy,
    pub requested: PerFamily<Option<IpAddr>>,
    pub pool: Option<PoolName>,
    /// `None`: it shares with nobody.
    pub sharing: Option<Arc<Terms>>,
    /// Addresses that its status shows.
    pub current: Vec<IpAddr>,
    pub labels: Arc<Labels>,
}

/// Give `key` what it wishes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    pub key: Arc<ServiceKey>,
    pub uid: Option<Uid>,
    /// When the Service was created.
    pub created: Option<Timestamp>,
    pub cluster_ip: Option<IpAddr>,
    /// The Service says that it was given what it shows.
    pub was_allocated: bool,
    /// Whether others than its watcher wrote what its status shows.
    pub shown_by_others: bool,
    pub wish: Wish,
}

/// A part of a wish that was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    pub family: Family,
    pub refusal: Refusal,
}

/// What a key holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// In the order of the wish's families.
    pub addresses: Vec<Arc<Allocation>>,
    /// In the order of the wish's families.
    pub unmet: Vec<Unmet>,
    /// Whether the wish is granted as far as its policy demands.
    pub satisfied: bool,
}

/// What a wish comes to, before anything is changed.
struct Decision {
    choices: Vec<(Family, Choice)>,
    refused: Vec<Unmet>,
    /// Everything that the policy demands is granted.
    satisfied: bool,
}

impl Acquire {
    /// Nothing is known but that the Service is there.
    pub(super) fn is_mere_presence(&self) -> bool {
        self.wish.families.is_empty() && self.wish.current.is_empty()
    }

    /// Whether a cluster that has this Service may have the holder as well, or has
    /// not heard of it yet. A cluster that was told what the holder has knows which of
    /// the two is there, where their times do not tell.
    pub(super) fn accounts_for(&self, holder: &Holder, is_known: bool) -> bool {
        let is_the_holder = self.uid.is_none() || self.uid == holder.uid;
        is_the_holder
            || if is_known {
                self.created_before(holder) == Some(true)
            } else {
                self.is_before(holder)
            }
    }

    /// Whether it is of a Service that was deleted before the holder, which has its
    /// name, was created.
    pub(super) fn is_before(&self, holder: &Holder) -> bool {
        if self.uid.is_none() || self.uid == holder.uid {
            return false;
        }
        self.created_before(holder)
            .unwrap_or_else(|| holder.transition.replaced_uid() == self.uid.as_ref())
    }

    /// `None`: nobody knows, or both were created within one second, which is all that
    /// Kubernetes tells.
    fn created_before(&self, holder: &Holder) -> Option<bool> {
        let (own, other) = (self.created?, holder.created?);
        (own != other).then_some(own < other)
    }
}

impl Engine {
    pub(super) fn acquire(&mut self, acquire: &Acquire, outcome: &mut Outcome) -> Reply {
        let Acquire { key, wish, .. } = acquire;
        for conflict in self.past_conflicts(acquire) {
            self.commit(ChangeKind::ConflictEnded(conflict), outcome);
        }
        if let Some(refusal) = self.barred(acquire) {
            if !self.clusters.is_decommissioned(&key.cluster) {
                // What it shows beside the address that it is in conflict about.
                let holder = self.next_holder(acquire);
                self.keep_all_shown(acquire, &holder, outcome);
            }
            return Reply::Refused(refusal);
        }
        if self.is_late(acquire) {
            return self.unchanged(acquire);
        }
        // Before anything is let go, so that nothing is forgotten of who held it.
        let holder = self.next_holder(acquire);
        // And this before the decision: what it frees may be what the wish needs.
        self.release_handed_over(acquire, &holder, outcome);
        self.release_other_families(acquire, &holder, outcome);
        for past in self.shown_no_more(acquire) {
            self.commit(ChangeKind::ConflictEnded(past), outcome);
        }
        let Decision {
            choices,
            refused,
            satisfied,
        } = self.decide(acquire);
        self.release_what_may_not_stay(acquire, &holder, outcome);
        let taken: Vec<_> = choices
            .into_iter()
            .filter_map(|(_, choice)| match choice {
                Choice::Take { address, pool } => Some((address, pool)),
                Choice::Keep(_) | Choice::Open(_) | Choice::Refused(_) => None,
            })
            .filter(|_| satisfied)
            .collect();
        for place in taken {
            self.move_to(acquire, &holder, place, outcome);
        }
        self.update_holder(key, &holder, outcome);
        let has_news = self.keep_all_shown(acquire, &holder, outcome);
        if has_news || !self.shown_no_more(acquire).is_empty() {
            // What it shows is known only now, or is what it got. Asked once more it would
            // be answered by that, and a request that is repeated has the effect of one.
            return self.acquire(acquire, outcome);
        }
        self.answer(key, wish, refused, satisfied)
    }

    fn decide(&self, acquire: &Acquire) -> Decision {
        let wish = &acquire.wish;
        let mut choices: Vec<(Family, Choice)> = wish
            .families
            .iter()
            .map(|family| (*family, self.choose(acquire, *family)))
            .collect();
        self.settle(acquire, &mut choices);
        self.wait_for_clusters(&mut choices);
        let refused = refusals(&choices);
        let satisfied = match wish.policy {
            Policy::All => refused.is_empty(),
            // A family may go without an address, a request may not.
            Policy::Any => {
                refused.len() < choices.len()
                    && refused
                        .iter()
                        .all(|unmet| wish.requested.get(unmet.family).is_none())
            }
        };
        Decision {
            choices,
            refused,
            satisfied,
        }
    }

    /// While clusters are awaited, or nobody knows which there are, any address may be held
    /// by one of their Services.
    fn wait_for_clusters(&self, choices: &mut Choices) {
        let awaited = self.clusters.awaited();
        if awaited.is_empty() && !self.is_opening() {
            return;
        }
        for (_, choice) in choices {
            // Who is refused may be so because of somebody who holds nothing any
            // more, or may be one of those who hold what it shows.
            if matches!(choice, Choice::Take { .. } | Choice::Refused(_)) {
                *choice = Choice::Refused(Refusal::AwaitingSync {
                    clusters: awaited.iter().cloned().collect(),
                    until: self.opens_at().filter(|at| *at > self.now),
                });
            }
        }
    }

    fn answer(&self, key: &ServiceKey, wish: &Wish, refused: Vec<Unmet>, satisfied: bool) -> Reply {
        match refused.first() {
            Some(first) if !satisfied && self.holding(key).next().is_none() => {
                Reply::Refused(first.refusal.clone())
            }
            Some(_) | None => self.acquired(key, wish, refused, satisfied),
        }
    }

    /// The answer to a request that comes too late: what is held under the key. It cannot do
    /// harm, because whoever asks guards its writes with the uid and version of the Service.
    pub fn unchanged(&self, acquire: &Acquire) -> Reply {
        self.acquired(&acquire.key, &acquire.wish, Vec::new(), true)
    }

    /// A request of a Service that was deleted, and whose key a new one has
    /// taken over since.
    fn is_late(&self, acquire: &Acquire) -> bool {
        self.holding(&acquire.key)
            .any(|held| acquire.is_before(&held.holder) && !self.is_of_the_cluster_before(held))
    }

    /// Why the key may not go on holding an address on the terms of this wish.
    pub(super) fn may_not_stay(&self, held: &Allocation, acquire: &Acquire) -> Option<Clash> {
        let holders = self.held.get(held.address)?;
        holders
            .admit(&acquire.key, acquire.wish.sharing.as_deref())
            .err()
    }

    fn release_other_families(
        &mut self,
        acquire: &Acquire,
        holder: &Holder,
        outcome: &mut Outcome,
    ) {
        let gone: Vec<_> = self
            .holding(&acquire.key)
            .filter(|held| !acquire.wish.families.contains(&held.family()))
            .cloned()
            .collect();
        for allocation in gone {
            self.give_up(allocation, (&acquire.wish.current, holder), outcome);
        }
    }

    /// An address is never held on terms that those who share it did not agree to.
    fn release_what_may_not_stay(
        &mut self,
        acquire: &Acquire,
        holder: &Holder,
        outcome: &mut Outcome,
    ) {
        let gone: Vec<_> = self
            .holding(&acquire.key)
            .filter(|held| self.may_not_stay(held, acquire).is_some())
            .cloned()
            .collect();
        for allocation in gone {
            self.give_up(allocation, (&acquire.wish.current, holder), outcome);
        }
    }

    fn move_to(
        &mut self,
        acquire: &Acquire,
        holder: &Holder,
        (address, pool): (IpAddr, PoolIndex),
        outcome: &mut Outcome,
    ) {
        let key = &acquire.key;
        if let Some(held) = self.held_by(key, Family::of(address)).cloned() {
            self.give_up(held, (&acquire.wish.current, holder), outcome);
        }
        self.allocate(key, address, pool, holder.clone(), outcome);
    }

    pub(super) fn allocate(
        &mut self,
        key: &Arc<ServiceKey>,
        address: IpAddr,
        pool: PoolIndex,
        holder: Holder,
        outcome: &mut Outcome,
    ) {
        let allocation = Arc::new(Allocation {
            address,
            pool: self.pools.spec(pool).name.clone(),
            key: Arc::clone(key),
            holder,
            since: self.now,
            revision: self.revision.next(),
        });
        self.commit(ChangeKind::Allocated(Arc::clone(&allocation)), outcome);
        self.arrived(&allocation, outcome);
        if let Some(over) = self.conflicts.get(key, address).cloned() {
            self.commit(ChangeKind::ConflictEnded(over), outcome);
        }
    }

    pub(super) fn update(&mut self, held: &Allocation, holder: Holder, outcome: &mut Outcome) {
        let updated = Arc::new(Allocation {
            holder,
            revision: self.revision.next(),
            ..held.clone()
        });
        self.commit(ChangeKind::Updated(updated), outcome);
    }

    /// Tells every address that the key keeps of what is new about the holder.
    fn update_holder(&mut self, key: &ServiceKey, holder: &Holder, outcome: &mut Outcome) {
        let stale: Vec<_> = self
            .holding(key)
            .filter(|held| held.holder != *holder)
            .cloned()
            .collect();
        for held in stale {
            self.update(&held, holder.clone(), outcome);
        }
    }

    /// The holder after this request: whoever asks without a uid or a cluster
    /// IP does not erase what is known of it.
    pub(super) fn next_holder(&self, acquire: &Acquire) -> Holder {
        let known = self
            .holding(&acquire.key)
            .max_by_key(|held| held.revision)
            .map(|held| held.holder.clone())
            .unwrap_or_default();
        let known_uid = known.uid.clone();
        let uid = acquire.uid.clone().or_else(|| known.uid.clone());
        let replaced_uid = if known.uid.is_some() && known.uid != uid {
            known.uid
        } else {
            known.transition.replaced_uid().cloned()
        };
        let Wish {
            families,
            labels,
            sharing,
            ..
        } = &acquire.wish;
        // Of a wish that could not be read, nothing but what is shown is known.
        let is_read = !families.is_empty();
        let created = acquire.created;
        Holder {
            created: created.or(known.created.filter(|_| known_uid == uid)),
            uid,
            cluster_ip: acquire.cluster_ip.or(known.cluster_ip),
            labels: if is_read {
                self.pools.relevant(labels)
            } else {
                known.labels
            },
            sharing: if is_read {
                sharing.clone()
            } else {
                known.sharing
            },
            transition: Transition::new(replaced_uid, None),
        }
    }

    fn acquired(&self, key: &ServiceKey, wish: &Wish, unmet: Vec<Unmet>, satisfied: bool) -> Reply {
        Reply::Acquired(Acquired {
            addresses: wish
                .families
                .iter()
                .filter_map(|family| self.held_by(key, *family).cloned())
                .collect(),
            unmet,
            satisfied,
        })
    }
}

fn refusals(choices: &Choices) -> Vec<Unmet> {
    let refused = choices.iter().filter_map(|(family, choice)| match choice {
        Choice::Refused(refusal) => Some(Unmet {
            family: *family,
            refusal: refusal.clone(),
        }),
        Choice::Keep(_) | Choice::Take { .. } | Choice::Open(_) => None,
    });
    refused.collect()
}
