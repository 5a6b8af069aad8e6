//! Counts for operators.

use super::{Storage, WriterTask, waiting::Line};
use crate::{
    engine::Family,
    metrics::{Census, Counted},
};

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
