//! A database that knows nothing may be a new one, or one that takes the place of one
//! that was lost: any address may be shown by some Service then. So it gives nothing new
//! before its clusters had the time to tell what they have; and where one of them shows
//! that there was more, not before every cluster that comes has told it. Addresses that
//! Services show are adopted meanwhile.

use std::time::Duration;

use super::{
    Claim, Command, Engine, Notice, Outcome,
    acquire::Acquire,
    change::{ChangeKind, Timestamp},
    clusters::ClusterState,
    key::ClusterName,
    pools::Located,
};

/// Where a database was lost, clusters that come within this time are waited for.
const GATHERING: Duration = Duration::from_secs(30);

/// How far a database that knows nothing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// When the first session was opened, or, as long as there is none, when the first
    /// request came.
    since: Option<Timestamp>,
    has_session: bool,
    /// When a cluster showed first that there was more.
    loss: Option<Timestamp>,
}

impl Engine {
    /// When a database that knows nothing gives what is new, unless clusters are awaited
    /// by then; `None` where it does so already, or nobody has asked.
    pub(super) fn opens_at(&self) -> Option<Timestamp> {
        let Opening { since, loss, .. } = self.opening.as_ref()?;
        let window = (*since)?.after(self.pools.settings().adoption_window);
        Some(loss.map_or(window, |loss| window.max(loss.after(GATHERING))))
    }

    /// When [`Engine::open_when_due`] has something to do.
    pub(super) fn next_opening(&self) -> Option<Timestamp> {
        let waits = !self.clusters.awaited().is_empty();
        self.opens_at().filter(|_| !waits)
    }

    pub(super) const fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    pub(super) fn open_when_due(&mut self, outcome: &mut Outcome) {
        if self.next_opening().is_some_and(|at| at <= self.now) {
            self.opening = None;
            self.commit(ChangeKind::Opened, outcome);
            outcome.notices.push(Notice::AllMayAsk);
        }
    }

    /// Takes note of who comes to a database that knows nothing, and of what it shows.
    pub(super) fn note_arrival(
        &mut self,
        claim: Option<&Claim>,
        command: &Command,
        outcome: &mut Outcome,
    ) {
        if !self.is_opening() {
            return;
        }
        let loss_shown_by = self.shows_loss(command);
        let now = self.now;
        let Some(opening) = &mut self.opening else {
            return;
        };
        let is_session = matches!(command, Command::Attach(_) | Command::Sync(_));
        if !is_session && !matches!(command, Command::Acquire(_)) {
            return;
        }
        if opening.since.is_none() || (is_session && !opening.has_session) {
            opening.since = Some(now);
            opening.has_session = is_session;
        }
        if let Some(cluster) = loss_shown_by
            && opening.loss.is_none()
        {
            opening.loss = Some(now);
            outcome.notices.push(Notice::LossProved(cluster.clone()));
            self.await_who_came(outcome);
        }
        if let Some(claim) = claim {
            self.await_who_comes(&claim.cluster, outcome);
        }
    }

    /// The cluster that shows by a command that there was more.
    fn shows_loss<'a>(&self, command: &'a Command) -> Option<&'a ClusterName> {
        let (cluster, shows) = match command {
            Command::Acquire(acquire) => (&acquire.key.cluster, self.was_given(acquire)),
            Command::Sync(sync) => {
                let shows = sync.services.iter().any(|service| self.was_given(service));
                (&sync.cluster, sync.proves.is_some() || shows)
            }
            Command::Release(_)
            | Command::Reserve(_)
            | Command::Unreserve(_)
            | Command::Handover(_)
            | Command::Resolve(_)
            | Command::Decommission(_)
            | Command::Recommission(_)
            | Command::Attach(_)
            | Command::ReplaceCluster(_) => return None,
        };
        Some(cluster).filter(|_| shows)
    }

    /// Whether a Service shows what an allocator with these pools gave it.
    fn was_given(&self, acquire: &Acquire) -> bool {
        acquire.was_allocated
            && acquire.wish.current.iter().any(|shown| {
                matches!(
                    self.pools.locate(*shown),
                    Located::In(_) | Located::Excluded(_)
                )
            })
    }

    fn await_who_came(&mut self, outcome: &mut Outcome) {
        let came: Vec<_> = self
            .clusters
            .iter()
            .filter(|record| record.state == ClusterState::Unsynced)
            .map(|record| record.name.clone())
            .collect();
        for name in came {
            self.set_cluster(name, ClusterState::Awaited, outcome);
        }
    }

    fn await_who_comes(&mut self, cluster: &ClusterName, outcome: &mut Outcome) {
        let loss = self.opening.as_ref().and_then(|opening| opening.loss);
        let in_time = loss.is_some_and(|loss| self.now <= loss.after(GATHERING));
        if in_time && self.clusters.state(cluster) == Some(ClusterState::Unsynced) {
            self.set_cluster(cluster.clone(), ClusterState::Awaited, outcome);
        }
    }
}
