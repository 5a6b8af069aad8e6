//! A Service whose addresses another controller wrote, and never we.
//!
//! Where the allocator confirms exactly these, the Service is ours from then on: so a
//! cluster moves here from another load balancer. Where it does not, the other
//! controller serves the Service, and no address is taken for it.

use super::{Answer, Syncer, net};
use crate::{
    grant::Grant,
    ledger::Record,
    queue::Next,
    reason::{Refusal, Remedy},
    view::View,
    wish::Wish,
};

/// What the allocator says of the addresses.
enum Confirmation {
    /// They are the Service's.
    Yes(Grant),
    /// They are not, for this reason.
    No(String),
    /// It says nothing now, or something that matters more.
    Refused(Refusal),
}

impl Syncer {
    /// Makes the Service ours, or leaves it to `manager`. `record` is what is known of
    /// its key.
    pub(super) async fn take_over(
        &self,
        view: &View<'_>,
        manager: &str,
        record: Option<&Record>,
        failures: u32,
    ) -> Next {
        if view.is_deleted() {
            self.ledger.waits_no_more(view.key);
            return Next::Done;
        }
        if let Some(next) = self.give_back(view, record).await {
            return next;
        }
        let why = match view.claim() {
            None => String::new(),
            Some(claim) => match self.confirm(view, &claim).await {
                Confirmation::Yes(grant) => {
                    let given = self
                        .give(view, &grant, &Answer::now(Ok(grant.clone())))
                        .await;
                    // It may ask for more, or for something else.
                    return if given == Next::Done {
                        Next::Again
                    } else {
                        given
                    };
                }
                Confirmation::No(why) => format!("; lb-allocator does not confirm it: {why}"),
                Confirmation::Refused(refusal) => {
                    return self.refuse(view, &refusal, false, failures).await;
                }
            },
        };
        let waiting = view.waits_for(Remedy::WaitForEither);
        self.ledger.waits(view.key, &view.uid, waiting);
        let message = format!("another controller writes status.loadBalancer: {manager}{why}");
        match self.writer.yields(view, &message).await {
            Next::After(_) => Next::After(net()),
            next @ (Next::Done | Next::Again | Next::Retry | Next::RetryAfter(_)) => next,
        }
    }

    /// Gives back what was granted and never shown: the other controller was faster.
    async fn give_back(&self, view: &View<'_>, record: Option<&Record>) -> Option<Next> {
        let record = record?;
        let shown = |held| view.shown.contains(held);
        if record.uid == view.uid && record.held.iter().all(shown) {
            return None;
        }
        match self.release(view.key, &record.uid).await {
            Ok(()) => {
                self.ledger.gave_back(view.key);
                None
            }
            Err(refusal) => {
                self.log(&refusal, "not released");
                Some(Next::Retry)
            }
        }
    }

    async fn confirm(&self, view: &View<'_>, claim: &Wish) -> Confirmation {
        if let Some(refusal) = self.link.borrow().refusal() {
            return Confirmation::Refused(refusal);
        }
        let asked = self.ledger.moment();
        let View {
            key, uid, shown, ..
        } = view;
        let answer = self.allocator.acquire(key, view.service, claim, shown);
        match answer.await {
            Ok(grant) if grant.addresses() == *shown => {
                let fingerprint = claim.fingerprint();
                self.ledger.granted(key, uid, fingerprint, &grant, asked);
                Confirmation::Yes(grant)
            }
            Ok(grant) => {
                let unmet = grant.unmet.first().map(|unmet| unmet.message.clone());
                Confirmation::No(unmet.unwrap_or_else(|| "the Service has another".to_owned()))
            }
            Err(refusal) if refusal.keeps_the_address() => Confirmation::Refused(refusal),
            Err(refusal) => match refusal.remedy {
                Remedy::RetrySoon | Remedy::RetrySeldom => {
                    self.log(&refusal, "not confirmed");
                    Confirmation::Refused(refusal)
                }
                Remedy::WaitForFreed
                | Remedy::WaitForPools
                | Remedy::WaitForEither
                | Remedy::WaitForEdit => Confirmation::No(refusal.message),
            },
        }
    }
}
