//! What the writer needs of a database.

use std::sync::Arc;

use crate::{
    engine::{Change, Engine, Pools, Revision, Timestamp},
    store::{Store, StoreError},
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

    fn close(self) -> impl Future<Output = Result<(), StoreError>> + Send {
        Self::close(self)
    }
}
