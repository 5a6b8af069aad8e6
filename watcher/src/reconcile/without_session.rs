//! A Service while this replica has no session. Another one may have, and act: so no more
//! is done than to put back what was granted here, and to tell who waits and was told
//! nothing yet.

use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use crate::{
    denial::{Denial, Retry},
    queue::Requeue,
    reconcile::view::View,
    session::link::{LONG_AWAY, Link},
    status::{self, Desired, grant::Grant},
};

impl Reconciler {
    /// How long there has been no session, and what to say about that; nothing where
    /// there is one.
    pub(super) fn away(&self) -> Option<(Duration, Denial)> {
        let link = self.link.borrow();
        match &*link {
            Link::Down { since, .. } => Some((Instant::now() - *since, link.denial()?)),
            Link::Connecting | Link::Up | Link::Refused(_) => None,
        }
    }

    pub(super) async fn without_session(
        &self,
        view: &View<'_>,
        away: Duration,
        denial: &Denial,
    ) -> Requeue {
        self.ledger.waits(view.key, &view.uid, view.waiting());
        if let Some(grant) = granted(view) {
            if self.ledger.is_contested(view.key) {
                return Requeue::Retry;
            }
            let grant = Grant {
                retry: Retry::Soon,
                ..grant.clone()
            };
            return self.apply_grant(view, &grant).await;
        }
        if view.has_address() || view.is_deleted() || status::condition(view.service).is_some() {
            return Requeue::Done;
        }
        if let Some(rest) = LONG_AWAY.checked_sub(away).filter(|rest| !rest.is_zero()) {
            return Requeue::After(rest);
        }
        match self.writer.write(view, &Desired::refused(denial)).await {
            Ok(_) => Requeue::Done,
            Err(next) => next,
        }
    }
}

/// What was granted here, where the condition is as this process wrote it, or gone: a
/// replica that acts by now writes it with every other address.
fn granted<'a>(view: &'a View<'_>) -> Option<&'a Grant> {
    let grant = view.granted()?;
    let verdict = Desired::granted(grant, view.reading.denial.as_ref()).verdict;
    let is_ours = status::condition(view.service)
        .is_none_or(|condition| verdict.is_said_by(condition))
        && view.foreign().is_none();
    is_ours.then_some(grant)
}
