//! What people are told: the line of the log and the Event.

use std::net::IpAddr;

use crate::{
    decision_log::{Decision, DecisionLog},
    kube::{key::Key, service::Service},
    reconcile::events::Events,
    status::Transition,
};

/// Tells people.
#[derive(Clone)]
pub struct Notifier {
    /// Who describe the Service.
    pub events: Events,
    /// Who read the log.
    pub decisions: DecisionLog,
}

impl Notifier {
    /// Something is new in the status of a Service that had an address before, or
    /// had none.
    pub fn transition(&self, service: &Service, transition: &Transition, had_address: bool) {
        let decision = match transition {
            Transition::Assigned(to) => Decision::Added(to),
            Transition::Changed { to, .. } => Decision::Modified(to),
            Transition::Released(had) => Decision::Deleted(had),
            Transition::Failed {
                reason, holding, ..
            } => Decision::Pending {
                reason,
                holding: *holding || had_address,
            },
        };
        self.decisions.record(&Key::of(service), &decision);
        self.events.transition(service, transition);
    }

    /// A Service, which may be gone, gave its addresses back.
    pub fn released(&self, key: &Key, uid: &str, addresses: &[IpAddr]) {
        self.decisions.record(key, &Decision::Deleted(addresses));
        self.events.released(key, uid, addresses);
    }
}
