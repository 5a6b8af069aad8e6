//! The other commands of the model.

use lb_allocator::engine::{
    Change, Command, Family, Handover, PoolName, Refusal, Release, Reply, Reserve, Resolve,
    ServiceKey, Timestamp, Uid, Winner,
};

use crate::book::{Book, Kept, Place};

impl Book {
    /// The reply, and what changed for it; what ended by itself comes first.
    pub fn run(&mut self, command: &Command, now: Timestamp) -> (Reply, Vec<Change>) {
        let mut changes = self.pass(now);
        let (reply, more) = match command {
            Command::Acquire(acquire) => self.acquire(acquire),
            Command::Release(release) => self.release_all(release),
            Command::Reserve(reserve) => self.keep(reserve),
            Command::Unreserve(address) => {
                let kept = self.reservation(*address).map(Kept::shown);
                let change = self.unreserve(*address);
                (Reply::Unreserved(kept), change.into_iter().collect())
            }
            Command::Handover(handover) => self.hand_over(handover),
            Command::Resolve(resolve) => self.resolve(resolve),
            Command::Sync(_)
            | Command::Decommission(_)
            | Command::Recommission(_)
            | Command::Attach(_)
            | Command::ReplaceCluster(_) => unreachable!("histories have none of these"),
        };
        changes.extend(more);
        (reply, changes)
    }

    /// With a uid, only what the Service of that uid holds.
    fn release_all(&mut self, release: &Release) -> (Reply, Vec<Change>) {
        let mut released = Vec::new();
        let mut changes = Vec::new();
        let is_it =
            |known: &Option<Uid>| release.uid.is_none() || known.is_none() || release.uid == *known;
        let holding = self.holding(&release.key);
        let is_the_holder =
            !holding.is_empty() && holding.iter().all(|held| is_it(&held.holder.uid));
        for held in holding {
            if is_it(&held.holder.uid) {
                released.push(self.shown(&held));
                self.give_up(&held, (&release.current, &held.holder), &mut changes);
            }
        }
        let mut past = self.shown_by(&release.key);
        past.retain(|shown| !release.current.contains(&shown.address));
        for shown in past {
            if is_the_holder || is_it(&shown.holder.uid) {
                changes.push(self.shows_no_more(&shown));
            }
        }
        (Reply::Released(released), changes)
    }

    fn keep(&mut self, reserve: &Reserve) -> (Reply, Vec<Change>) {
        let address = reserve.address;
        let refused = |refusal| (Reply::Refused(refusal), Vec::new());
        let pool: PoolName = match self.place(address) {
            Place::Usable(pool) => pool.name.clone(),
            Place::Excluded(pool) => {
                let pool = pool.name.clone();
                return refused(Refusal::AddressExcluded { address, pool });
            }
            Place::Nowhere => {
                let pool = None;
                return refused(Refusal::AddressNotInPool { address, pool });
            }
        };
        let showing = self.showing(address).into_iter().map(|shown| &shown.key);
        let holders = self.holders(address).into_iter().map(|held| &held.key);
        let mut users = holders.chain(showing);
        if let Some(other) = users.find(|other| Some(*other) != reserve.key.as_deref()) {
            let holder = Some(other.clone().into());
            return refused(Refusal::AddressInUse {
                address,
                pool,
                holder,
            });
        }
        let kept = Kept {
            address,
            key: reserve.key.as_deref().cloned(),
            expires: reserve.expires,
            comment: reserve.comment.clone(),
            from: None,
        };
        let shown = kept.shown();
        if self.reservation(address).map(Kept::shown).as_ref() == Some(&shown) {
            return (Reply::Reserved(shown), Vec::new());
        }
        let change = self.reserve(kept);
        (Reply::Reserved(shown), vec![change])
    }

    fn hand_over(&mut self, handover: &Handover) -> (Reply, Vec<Change>) {
        let Handover {
            address,
            from,
            to,
            expires,
            comment,
        } = handover;
        let address = *address;
        let refused = |refusal| (Reply::Refused(refusal), Vec::new());
        let Place::Usable(spec) = self.place(address) else {
            let pool = None;
            return refused(Refusal::AddressNotInPool { address, pool });
        };
        let pool = spec.name.clone();
        if !self.may_arrive(to, &pool) {
            let namespace = to.namespace.clone();
            return refused(Refusal::PoolNotAllowed { pool, namespace });
        }
        if spec.disabled {
            return refused(Refusal::PoolDisabled { pool });
        }
        let reserved = self.reservation(address);
        if reserved.is_some_and(|kept| kept.key.as_ref() != Some(&**to)) {
            return refused(Refusal::AddressReserved { address, pool });
        }
        let mut waits_for = self.kept.clone();
        waits_for.retain(|kept| {
            kept.from.is_some()
                && kept.key.as_ref() == Some(&**to)
                && kept.address != address
                && Family::of(kept.address) == Family::of(address)
        });
        if let Some(address) = waits_for.iter().map(|kept| kept.address).min() {
            let of_other = self.pool_of(address).map(|pool| pool.name.clone());
            let pool = of_other.unwrap_or(pool);
            return refused(Refusal::AddressReserved { address, pool });
        }
        let holders = self.holders(address);
        if !holders.iter().any(|held| held.key == **from) {
            let key = from.clone();
            return refused(Refusal::NotTheHolder { address, key });
        }
        if let Some(other) = holders.iter().find(|held| held.key != **from) {
            let holder = Some(other.key.clone().into());
            return refused(Refusal::AddressInUse {
                address,
                pool,
                holder,
            });
        }
        let showing = self.showing(address);
        if reserved.is_none()
            && showing.iter().all(|shown| shown.key != **to)
            && let Some(other) = showing.first()
        {
            let by = Some(other.key.clone().into());
            return refused(Refusal::AddressShown { address, pool, by });
        }
        let kept = Kept {
            address,
            key: Some((**to).clone()),
            expires: Some(*expires),
            comment: comment.clone(),
            from: Some((**from).clone()),
        };
        let shown = kept.shown();
        if self.reservation(address).map(Kept::shown).as_ref() == Some(&shown) {
            return (Reply::Reserved(shown), Vec::new());
        }
        let change = self.reserve(kept);
        (Reply::Reserved(shown), vec![change])
    }

    /// As far as is known: of a Service that holds and shows nothing no labels are.
    fn may_arrive(&self, to: &ServiceKey, pool: &PoolName) -> bool {
        let pool = self.pool(pool).expect("it has the address");
        let held = self.holding(to).into_iter().map(|held| held.holder);
        let shown = self.shown_by(to).into_iter().map(|shown| shown.holder);
        if let Some(holder) = held.chain(shown).next() {
            return self.serves(pool, to, &holder.labels.unwrap_or_default());
        }
        let names = |pool: &lb_allocator::engine::PoolSpec| {
            let namespaces = pool.namespaces.as_ref();
            let clusters = pool.clusters.as_ref();
            namespaces.is_none_or(|names| names.contains(&to.namespace))
                && clusters.is_none_or(|names| names.contains(&to.cluster))
        };
        let mut fences = self.pools.iter().filter(|pool| pool.fenced);
        let is_fenced = fences.any(|pool| pool.namespace_selector.is_none() && names(pool));
        names(pool) && (pool.fenced || !is_fenced)
    }

    fn resolve(&mut self, resolve: &Resolve) -> (Reply, Vec<Change>) {
        let shown = self.shown_by(&resolve.key).into_iter();
        let Some(shown) = shown.into_iter().find(|s| s.address == resolve.address) else {
            return (
                Reply::Refused(Refusal::NoConflict {
                    address: resolve.address,
                    key: resolve.key.clone(),
                }),
                Vec::new(),
            );
        };
        let changes = match resolve.winner {
            Winner::Holder => Vec::new(),
            Winner::Nobody => vec![self.shows_no_more(&shown)],
            Winner::Shower { .. } => unreachable!("histories have none of these"),
        };
        (Reply::Resolved(shown.told()), changes)
    }
}
