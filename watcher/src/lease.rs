//! The Lease by which the replicas of one watcher agree on who acts: client-go's
//! algorithm. Each write carries the version that was read, so of two that write
//! only one succeeds; and how old a lease is, is measured from when it was seen to
//! change, so that the clocks of two machines are never compared.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::PostParams};
use tokio::time::Instant;

use crate::{
    metrics::{ApiCall, Metrics},
    status::MANAGER,
};

/// After this long without a change others may take the lease.
const DURATION: Duration = Duration::from_secs(10);

/// One lease, as one candidate sees it.
pub struct Candidate {
    api: Api<Lease>,
    metrics: Metrics,
    name: String,
    /// Of this process and no other one.
    identity: String,
    /// As this process last wrote it.
    mine: Option<Lease>,
    seen: Option<Seen>,
}

/// What another candidate wrote.
#[derive(Debug)]
struct Seen {
    spec: LeaseSpec,
    /// When it was seen first.
    at: Instant,
}

/// Who has the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This candidate.
    Mine,
    /// Another one.
    Theirs {
        /// Who.
        holder: String,
        /// When it may be taken, if nothing is heard of its holder.
        until: Instant,
    },
}

impl Candidate {
    /// Has written nothing yet.
    pub fn new(
        client: Client,
        metrics: Metrics,
        namespace: &str,
        name: String,
        identity: String,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            metrics,
            name,
            identity,
            mine: None,
            seen: None,
        }
    }

    /// Takes the lease if it may be taken, and renews it if it is held.
    pub async fn stand(&mut self) -> Result<Standing, Error> {
        // Once it was tried, only a look tells what became of it.
        if let Some(lease) = self.mine.take() {
            match self.write(lease).await {
                Err(error) if is_outdated(&error) => {}
                result => return result,
            }
        }
        let Some(lease) = self.get().await? else {
            return self.create().await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let now = Instant::now();
        let seen = match self.seen.take() {
            Some(seen) if seen.spec == spec => seen,
            Some(_) | None => Seen { spec, at: now },
        };
        let standing = seen.holder(&self.identity, now);
        self.seen = Some(seen);
        match standing {
            Some(theirs) => Ok(theirs),
            None => self.write(lease).await,
        }
    }

    /// Lets others take the lease at once, if it is held.
    pub async fn release(&mut self) -> Result<(), Error> {
        let lease = match self.mine.take() {
            Some(lease) => Some(lease),
            None => self.get().await?,
        };
        let Some(mut lease) = lease else {
            return Ok(());
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        lease.spec = Some(released(spec, Timestamp::now()));
        self.replace(&lease).await?;
        Ok(())
    }

    async fn create(&mut self) -> Result<Standing, Error> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(taken(
                LeaseSpec::default(),
                &self.identity,
                Timestamp::now(),
            )),
        };
        let params = params();
        let create = self.api.create(&params, &lease);
        let created = self.counted("create_lease", 201, create).await?;
        self.mine = Some(created);
        Ok(Standing::Mine)
    }

    async fn write(&mut self, mut lease: Lease) -> Result<Standing, Error> {
        let spec = lease.spec.take().unwrap_or_default();
        lease.spec = Some(taken(spec, &self.identity, Timestamp::now()));
        self.mine = Some(self.replace(&lease).await?);
        Ok(Standing::Mine)
    }

    /// Fails if the lease is another one than was read.
    async fn replace(&self, lease: &Lease) -> Result<Lease, Error> {
        let params = params();
        let replace = self.api.replace(&self.name, &params, lease);
        self.counted("update_lease", 200, replace).await
    }

    async fn get(&self) -> Result<Option<Lease>, Error> {
        let get = self.api.get(&self.name);
        match self.counted("get_lease", 200, get).await {
            Ok(lease) => Ok(Some(lease)),
            Err(Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn counted<T>(
        &self,
        kind: &'static str,
        good: u16,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let result = call.await;
        let code = match &result {
            Ok(_) => good,
            Err(Error::Api(status)) => status.code,
            Err(_) => 0,
        };
        self.metrics
            .api_call(ApiCall { kind, code }, start.elapsed());
        result
    }
}

impl Seen {
    /// Who keeps this candidate from taking the lease.
    fn holder(&self, identity: &str, now: Instant) -> Option<Standing> {
        let holder = self.spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == identity {
            return None;
        }
        let seconds = self.spec.lease_duration_seconds.unwrap_or_default();
        let duration = u64::try_from(seconds).map_or(DURATION, Duration::from_secs);
        let until = self.at + duration;
        (now < until).then(|| Standing::Theirs {
            holder: holder.to_owned(),
            until,
        })
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Another candidate was faster: the lease that was read is not there any more.
pub fn is_outdated(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 409 || status.code == 404)
}

fn taken(before: LeaseSpec, identity: &str, now: Timestamp) -> LeaseSpec {
    let same = before.holder_identity.as_deref() == Some(identity);
    let transitions = before.lease_transitions;
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: before
            .acquire_time
            .filter(|_| same)
            .or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match transitions {
            None => 0,
            Some(count) => count.saturating_add(i32::from(!same)),
        }),
        ..before
    }
}

fn released(before: LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        // Some take an empty holder's lease only when it is over; 0 is not valid.
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        ..before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_lease_counts_its_holders_and_keeps_since_when_the_present_one_has_it() {
        let first = taken(LeaseSpec::default(), "a", at(1));
        let renewed = taken(first.clone(), "a", at(3));
        let second = taken(renewed.clone(), "b", at(20));
        let free = released(second.clone(), at(22));
        let third = taken(free.clone(), "a", at(23));
        for (spec, holder, transitions, acquired, renewed, duration) in [
            (first, "a", 0, 1, 1, 10),
            (renewed, "a", 0, 1, 3, 10),
            (second, "b", 1, 20, 20, 10),
            (free, "", 1, 20, 22, 1),
            (third, "a", 2, 23, 23, 10),
        ] {
            assert_eq!(spec.holder_identity.as_deref(), Some(holder));
            assert_eq!(spec.lease_transitions, Some(transitions));
            assert_eq!(spec.acquire_time, Some(MicroTime(at(acquired))));
            assert_eq!(spec.renew_time, Some(MicroTime(at(renewed))));
            assert_eq!(spec.lease_duration_seconds, Some(duration));
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_nothing_was_heard_of_its_holder_for_its_duration() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let held = taken(LeaseSpec::default(), "other", at(0));
        let long = LeaseSpec {
            lease_duration_seconds: Some(30),
            ..held.clone()
        };
        let without = LeaseSpec {
            lease_duration_seconds: None,
            ..held.clone()
        };
        let theirs = |until| {
            Some(Standing::Theirs {
                holder: "other".into(),
                until: after(until),
            })
        };
        for (spec, seconds, expected) in [
            (held.clone(), 0, theirs(10)),
            (held.clone(), 9, theirs(10)),
            (held.clone(), 10, None),
            (long.clone(), 29, theirs(30)),
            (long, 30, None),
            (without, 0, None),
            (released(held, at(1)), 0, None),
            (taken(LeaseSpec::default(), "me", at(0)), 0, None),
            (LeaseSpec::default(), 0, None),
        ] {
            let seen = Seen {
                spec: spec.clone(),
                at: now,
            };
            assert_eq!(seen.holder("me", after(seconds)), expected, "{spec:?}");
        }
    }
}
