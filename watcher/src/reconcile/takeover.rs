//! A Service whose addresses another controller wrote, and never we.
//!
//! Where the allocator confirms exactly these, the Service is ours from then on: so a
//! cluster moves here from another load balancer. Where it does not, the other
//! controller serves the Service, and no address is taken for it.

use super::{Reconciler, slow_retry};
use crate::{denial::Retry, ledger::Record, queue::Requeue, reconcile::view::View};

impl Reconciler {
    /// Makes the Service ours, or leaves it to `manager`. `record` is what is known of
    /// its key.
    pub(super) async fn take_over(
        &self,
        view: &View<'_>,
        manager: &str,
        record: Option<&Record>,
        failures: u32,
    ) -> Requeue {
        if view.is_deleted() {
            self.ledger.waits_no_more(view.key);
            return Requeue::Done;
        }
        if let Some(next) = self.give_back(view, record).await {
            return next;
        }
        let why = match view.claim() {
            None => String::new(),
            Some(claim) => match self.ask(view, &claim).await {
                Ok(grant) if grant.addresses == view.shown => {
                    let given = self.apply_grant(view, &grant).await;
                    // It may ask for more, or for something else.
                    return if given == Requeue::Done {
                        Requeue::Again
                    } else {
                        given
                    };
                }
                Ok(grant) => grant.message,
                Err(denial) => match denial.retry {
                    Retry::Soon | Retry::Seldom => {
                        return self.apply_denial(view, &denial, failures).await;
                    }
                    Retry::OnNotice | Retry::AfterEdit => denial.message,
                },
            },
        };
        self.ledger.waits(view.key, &view.uid, view.waiting());
        let confirmation = match &*why {
            "" => String::new(),
            why => format!("; lb-allocator does not confirm it: {why}"),
        };
        let message =
            format!("another controller writes status.loadBalancer: {manager}{confirmation}");
        match self.writer.yields(view, &message).await {
            Requeue::After(_) => Requeue::After(slow_retry()),
            next @ (Requeue::Done | Requeue::Again | Requeue::Retry | Requeue::RetryAfter(_)) => {
                next
            }
        }
    }

    /// Gives back what was granted and never shown: the other controller was faster.
    async fn give_back(&self, view: &View<'_>, record: Option<&Record>) -> Option<Requeue> {
        let record = record?;
        let shown = |held| view.shown.contains(held);
        if record.uid == view.uid && record.held.iter().all(shown) {
            return None;
        }
        match self.release(view.key, &record.uid, &view.shown).await {
            Ok(()) => {
                self.ledger.gave_back(view.key);
                None
            }
            Err(denial) => {
                self.log(&denial, "not released");
                Some(Requeue::Retry)
            }
        }
    }
}
