//! What only the writer knows and operators ask for, counted when they do.

use std::collections::HashMap;

use super::{Storage, WriterTask, waiting::Line};
use crate::engine::{Family, PoolName};

/// Counts as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Services that asked in vain.
    pub waiting: u64,
    pools: HashMap<(PoolName, Family), Counted>,
}

/// Of one family of one pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Free addresses that only their last holders get for now.
    pub cooling: u64,
    /// Services that any of its addresses would serve.
    pub waiting: u64,
}

impl Census {
    /// Nothing of a pool that was not there.
    pub fn of(&self, pool: &PoolName, family: Family) -> Counted {
        let counted = self.pools.get(&(pool.clone(), family));
        counted.copied().unwrap_or_default()
    }
}

impl<S: Storage> WriterTask<S> {
    /// Costs two look-ups for each pool.
    pub(super) fn census(&self) -> Option<Census> {
        let engine = self.engine.as_ref()?;
        let pools = engine.pools();
        let counted = pools.indexes().flat_map(|index| {
            Family::ALL.into_iter().map(move |family| {
                let pool = &pools.spec(index).name;
                let line = Line::Pool(pool.clone(), family);
                let counted = Counted {
                    cooling: engine.cooling(index, family) as u64,
                    waiting: self.waiting.in_line(&line) as u64,
                };
                ((pool.clone(), family), counted)
            })
        });
        Some(Census {
            waiting: self.waiting.count() as u64,
            pools: counted.collect(),
        })
    }
}
