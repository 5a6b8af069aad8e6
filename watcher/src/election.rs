//! Who of several replicas acts. The others keep their caches warm.
//!
//! A replica that has the lease may act until [`TERM`] after it was last renewed,
//! and others can take it 10 s after that at the earliest: all that was under way
//! is long over then. With each new term it forgets what it knew of the
//! allocator's answers, and looks at every Service: what another replica did
//! meanwhile is found by looking, not by being told.

use std::{sync::Arc, time::Duration};

use kube::{Error, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    admin::Health,
    key::Key,
    leadership::Leadership,
    lease::{Candidate, Standing, is_outdated},
    ledger::Ledger,
    observed::Observed,
    queue::Queue,
    service_api::chain,
    service_store::ServiceStore,
};

/// For how long a renewal lets this process act: 3 s less than the lease lasts.
const TERM: Duration = Duration::from_secs(7);
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Whoever does not lead looks this often, and after a failure.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const CALL_DEADLINE: Duration = Duration::from_millis(2500);
/// Without an election there is one term, of a hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The task's parts.
pub struct Election {
    /// Where the terms begin and end.
    pub leadership: Arc<Leadership>,
    /// All that has to be looked at in a new term.
    pub store: Arc<ServiceStore>,
    /// Emptied before each term.
    pub ledger: Arc<Ledger>,
    /// Filled at its beginning.
    pub queue: Arc<Queue>,
    /// What readiness looks at.
    pub health: Arc<Health>,
}

/// How it stands.
#[derive(Debug, Default)]
struct Course {
    leads: bool,
    /// Who else does.
    other: Option<String>,
    /// What went wrong last, and was told.
    trouble: Option<String>,
}

/// Where the lease is, for what people are told.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Election {
    /// Leads from now on: there is nobody else.
    pub fn unopposed(&self) {
        self.health.election_works();
        self.queue.open(Vec::new);
        self.leadership.begin(Instant::now() + FOR_EVER);
    }

    /// Stands for election once the Services are known, until told to resign.
    pub async fn run(
        self,
        mut candidate: Candidate,
        place: Place,
        lists: Arc<Observed<u64>>,
        resign: CancellationToken,
    ) {
        let listed = lists.wait_for(|lists| *lists > 0);
        if resign.run_until_cancelled(listed).await.is_none() {
            return;
        }
        let mut course = Course::default();
        loop {
            let asked = Instant::now();
            let stand = tokio::time::timeout(CALL_DEADLINE, candidate.stand());
            let next = match stand.await {
                Ok(Ok(standing)) => self.stands(&mut course, standing, asked).await,
                Ok(Err(error)) if is_outdated(&error) && !is_nowhere(&error) => {
                    debug!("another replica was faster: {}", chain(&error));
                    LOOK_EVERY
                }
                Ok(Err(error)) => self.fails(&mut course, words(&error, &place)),
                Err(_) => {
                    let seconds = CALL_DEADLINE.as_secs_f32();
                    let what = format!("no answer within {seconds} s about {place}");
                    self.fails(&mut course, what)
                }
            };
            let next = tokio::time::sleep_until(asked + next);
            if resign.run_until_cancelled(next).await.is_none() {
                break;
            }
        }
        self.steps_down(&mut course);
        self.leadership.settled().await;
        match tokio::time::timeout(CALL_DEADLINE, candidate.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("cannot release {place}: {}", chain(&error)),
            Err(_) => warn!("cannot release {place} in time"),
        }
    }

    async fn stands(&self, course: &mut Course, standing: Standing, asked: Instant) -> Duration {
        self.health.election_works();
        if course.trouble.take().is_some() {
            info!("the lease can be reached again");
        }
        match standing {
            Standing::Mine => {
                let until = asked + TERM;
                if !(course.leads && self.leadership.extend(until)) {
                    self.begins(until).await;
                    info!("leading");
                }
                course.leads = true;
                course.other = None;
                RENEW_EVERY
            }
            Standing::Theirs { holder, until } => {
                if self.steps_down(course) {
                    warn!("{holder} has taken over");
                } else if course.other.as_ref() != Some(&holder) {
                    info!("standing by: {holder} leads");
                }
                course.other = Some(holder);
                let rest = until.saturating_duration_since(asked);
                LOOK_EVERY.min(rest)
            }
        }
    }

    /// The lease may still be ours for a while.
    fn fails(&self, course: &mut Course, trouble: String) -> Duration {
        if course.leads && !self.leadership.leads() {
            self.steps_down(course);
            warn!("nothing is written before the lease can be reached again");
        }
        if course.trouble.as_ref() != Some(&trouble) {
            if course.leads || course.other.is_some() {
                warn!("{trouble}");
            } else {
                error!("no Service is served: {trouble}");
            }
            self.health.election_broken(trouble.clone());
            course.trouble = Some(trouble);
        }
        LOOK_EVERY
    }

    async fn begins(&self, until: Instant) {
        self.leadership.end();
        self.leadership.settled().await;
        self.queue.stand_by();
        let gone = self.ledger.begin_term(|key, uid| {
            let there = self.store.get(key);
            there.is_none_or(|service| service.uid().as_deref() != Some(uid))
        });
        self.queue.open(|| {
            let services = self.store.all();
            let there = services.iter().map(|service| Key::of(service));
            there.chain(gone).collect()
        });
        self.leadership.begin(until);
    }

    /// Says whether it led.
    fn steps_down(&self, course: &mut Course) -> bool {
        let led = std::mem::take(&mut course.leads);
        if led {
            self.leadership.end();
            self.queue.stand_by();
        }
        led
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the Lease {}/{}", self.namespace, self.name)
    }
}

/// Whether the namespace is not there.
fn is_nowhere(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    let of = status.details.as_ref().map(|details| details.kind.as_str());
    status.code == 404 && of == Some("namespaces")
}

fn words(error: &Error, place: &Place) -> String {
    let Place { namespace, .. } = place;
    let forbidden = matches!(error, Error::Api(status) if status.is_forbidden());
    let advice = if forbidden {
        format!(
            ": the account of lb-watcher needs a Role in namespace {namespace} with the verbs get, \
             create and update on leases of coordination.k8s.io; a watcher that has no replicas \
             can do without, with --leader-elect=false"
        )
    } else if is_nowhere(error) {
        ": name one that is there with --leader-elect-lease-namespace".to_owned()
    } else {
        String::new()
    };
    format!("cannot hold {place}: {}{advice}", chain(error))
}
