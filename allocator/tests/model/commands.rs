//! The other commands of the model.

use lb_allocator::engine::{
    Change, Command, PoolName, Refusal, Release, Reply, Reserve, Timestamp,
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
            Command::Sync(_)
            | Command::Handover(_)
            | Command::Resolve(_)
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
        let mut moves = self.moves(&release.key);
        for held in self.holding(&release.key) {
            let (asked, known) = (&release.uid, &held.holder.uid);
            if asked.is_none() || known.is_none() || asked == known {
                released.push(self.shown(&held));
                changes.push(self.release(&held));
            } else {
                moves.clear();
            }
        }
        for moved in moves {
            changes.extend(self.unreserve(moved.address));
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
        let mover = self.reservation(address).filter(|kept| kept.is_moved);
        let holders = self.holders(address).into_iter().map(|held| &held.key);
        let mut users = holders.chain(mover.and_then(|kept| kept.key.as_ref()));
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
            is_moved: false,
        };
        let shown = kept.shown();
        if self.reservation(address).map(Kept::shown).as_ref() == Some(&shown) {
            return (Reply::Reserved(shown), Vec::new());
        }
        let change = self.reserve(kept);
        (Reply::Reserved(shown), vec![change])
    }
}
