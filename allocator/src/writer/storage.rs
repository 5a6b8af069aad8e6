//! What the writer needs of a database.

use std::sync::Arc;

use crate::{
    engine::{Change, Engine, Pools, Retention, Revision, Timestamp},
    store::{Pruned, Store, StoreError},
};

/// A database that is ours alone. [`Store`] says what each of these means.
pub trait Storage: Send {
    fn load(
        &mut self,
        pools: Arc<Pools>,
    ) -> impl Future<Output = Result<Engine, StoreError>> + Send;

    fn commit(&mut self, changes: &[Change])
    -> impl Future<Output = Result<(), StoreError>> + Send;

    fn record_pools(
        &mut self,
        revision: Revision,
        at: Timestamp,
        pools: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn probe(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn check(&self) -> Result<(), StoreError>;

    fn last_time(&mut self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send;

    fn note_time(&mut self, now: Timestamp) -> impl Future<Output = Result<(), StoreError>> + Send;

    fn prune(
        &mut self,
        after: Revision,
        now: Timestamp,
        retention: &Retention,
    ) -> impl Future<Output = Result<Pruned, StoreError>> + Send;

    fn close(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Storage for Store {
    fn load(
        &mut self,
        pools: Arc<Pools>,
    ) -> impl Future<Output = Result<Engine, StoreError>> + Send {
        Self::load(self, pools)
    }

    fn commit(
        &mut self,
        changes: &[Change],
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        Self::commit(self, changes)
    }

    fn record_pools(
        &mut self,
        revision: Revision,
        at: Timestamp,
        pools: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        Self::record_pools(self, revision, at, pools)
    }

    fn probe(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        Self::probe(self)
    }

    fn check(&self) -> Result<(), StoreError> {
        Self::check(self)
    }

    fn last_time(&mut self) -> impl Future<Output = Result<Option<Timestamp>, StoreError>> + Send {
        Self::last_time(self)
    }

    fn note_time(&mut self, now: Timestamp) -> impl Future<Output = Result<(), StoreError>> + Send {
        Self::note_time(self, now)
    }

    fn prune(
        &mut self,
        after: Revision,
        now: Timestamp,
        retention: &Retention,
    ) -> impl Future<Output = Result<Pruned, StoreError>> + Send {
        Self::prune(self, after, now, retention)
    }

    fn close(self) -> impl Future<Output = Result<(), StoreError>> + Send {
        Self::close(self)
    }
}
