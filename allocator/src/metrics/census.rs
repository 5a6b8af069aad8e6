//! What only the writer knows and operators ask for, counted when they do.

use std::collections::HashMap;

use crate::engine::{Family, PoolName};

/// Counts as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Services that asked in vain.
    pub waiting: u64,
    pub pools: HashMap<(PoolName, Family), Counted>,
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
