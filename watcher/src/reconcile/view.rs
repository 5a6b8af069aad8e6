//! What can be told from one Service and from what is known of it. Pure.

use std::net::IpAddr;

use kube::ResourceExt;

use crate::{
    denial::{Denial, Retry},
    kube::{
        annotations::Peer,
        key::Key,
        service::{Service, created},
    },
    ledger::{Record, Waiting},
    request::{self, AddressRequest, Labels, ParsedRequest},
    status::{self, grant::Grant},
};

/// A Service of ours, looked at closely.
pub struct View<'a> {
    /// Which.
    pub key: &'a Key,
    /// The object.
    pub service: &'a Service,
    /// Its uid.
    pub uid: String,
    /// What is known of this very uid.
    pub known: Option<&'a Record>,
    /// The addresses that the status shows.
    pub shown: Vec<IpAddr>,
    /// What it asks for.
    pub reading: ParsedRequest,
}

impl<'a> View<'a> {
    /// `record` is what is known of its key, `peers` and `labels` are as in
    /// [`request::read`].
    pub fn new(
        key: &'a Key,
        service: &'a Service,
        record: Option<&'a Record>,
        peers: &[Peer],
        labels: &Labels,
    ) -> Self {
        let uid = service.uid().unwrap_or_default();
        let reading = request::read(service, peers, labels);
        Self {
            key,
            service,
            known: record.filter(|record| record.uid == uid),
            uid,
            shown: status::shown(service),
            reading,
        }
    }

    /// What the status shows, and what was granted and may be shown in a moment: an answer
    /// to a later request may have been lost. After a refusal nothing is shown that the status
    /// does not show already.
    pub fn may_show(&self) -> Vec<IpAddr> {
        let granted = self.granted().map_or(&[][..], |grant| &grant.addresses);
        let also = self.shown.iter().filter(|shown| !granted.contains(shown));
        granted.iter().chain(also).copied().collect()
    }

    /// It holds an address of ours, as far as can be known.
    pub fn holds(&self) -> bool {
        let marked =
            status::condition(self.service).is_some() || status::owns_addresses(self.service);
        self.known.is_some_and(|record| !record.held.is_empty())
            || (marked && !self.shown.is_empty())
    }

    /// It holds or shows an address, whosever that is.
    pub fn has_address(&self) -> bool {
        self.holds() || !self.shown.is_empty()
    }

    /// Which other controllers wrote the addresses, where nothing tells that they ever
    /// were ours.
    pub fn foreign(&self) -> Option<String> {
        let held = |record: &Record| record.was_published() && !record.held.is_empty();
        let ours = !self.published().is_empty()
            || self.known.is_some_and(held)
            || status::says_satisfied(self.service);
        status::other_owners(self.service).filter(|_| !ours)
    }

    /// The request for exactly the addresses that it shows, if a Service can have these.
    pub fn claim(&self) -> Option<AddressRequest> {
        self.reading.request.claim(&self.shown)
    }

    /// What was granted to this uid last, whatever it asks for now.
    pub fn granted(&self) -> Option<&Grant> {
        self.known?.grant.as_ref()
    }

    /// It is being deleted, and somebody's finalizer keeps it.
    pub fn is_deleted(&self) -> bool {
        self.service.metadata.deletion_timestamp.is_some()
    }

    /// The addresses that this process has seen in its status.
    pub fn published(&self) -> &[IpAddr] {
        self.known.map_or(&[], |record| &record.published)
    }

    /// For the ledger, where it waits for something.
    pub fn waiting(&self) -> Waiting {
        let since = status::condition(self.service)
            .filter(|condition| condition.status == "False")
            .map(|condition| condition.last_transition_time.0.as_second());
        Waiting {
            since: since.unwrap_or_else(|| created(self.service)),
            pending: !self.has_address(),
        }
    }

    /// Whether people should hear of a denial. While the allocator is away, or refuses to
    /// serve this watcher, a Service that has an address has all it needs; a hiccup is no
    /// news, and a reason that stands says more than one that may be over in a moment.
    pub fn is_worth_telling(&self, denial: &Denial, failures: u32) -> bool {
        match denial.retry {
            Retry::Soon => {
                let told = status::condition(self.service);
                let stands = told.is_some_and(|condition| condition.status == "False");
                !self.has_address() && failures > 0 && !(denial.transient && stands)
            }
            Retry::Seldom => !self.has_address(),
            Retry::OnNotice | Retry::AfterEdit => true,
        }
    }
}
