//! What this process knows of each Service beyond the object: whom it asked for,
//! what the allocator last said, what the Service waits for. All of it can be
//! learned again: a restart loses nothing but time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    grant::Grant,
    key::Key,
    reason::{Refusal, Remedy},
    wish::Family,
};

/// How often an address list that somebody else wrote is put back within
/// [`PUT_BACK_WINDOW`], before whoever writes it counts as another controller.
const PUT_BACK_LIMIT: usize = 3;
const PUT_BACK_WINDOW: Duration = Duration::from_secs(600);
/// After this time an event of a Service asks the allocator again. Not longer than
/// the slow retry of a Service that waits, which is to ask in earnest.
pub const ANSWER_LIFETIME: Duration = Duration::from_secs(240);

/// For how long it is remembered that a Service went: longer than it takes until
/// another replica leads.
const DEPARTED: Duration = Duration::from_secs(60);

/// Shared by all tasks.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<Key, Record>,
    /// Services that went while another replica led, within [`DEPARTED`], the
    /// longest ago first.
    departures: VecDeque<(Instant, Key, String)>,
    /// Grows with each loss of the allocator: what it said before has to be
    /// confirmed.
    epoch: u64,
    /// Grows with each thing the allocator tells: an answer that was under way
    /// meanwhile may be outdated.
    news: u64,
    /// Grows with each Sync that the allocator answered: what it gave while that was
    /// under way, the Sync may have changed.
    syncs: u64,
}

/// One Service.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The uid we last acquired for, or the one that the allocator knows.
    pub uid: String,
    /// What that uid holds.
    pub held: Vec<IpAddr>,
    /// Addresses that were seen in place in the status.
    pub published: Vec<IpAddr>,
    /// What the allocator last said.
    pub reply: Option<Reply>,
    /// Since when the Service has no address, and what it waits for.
    pub waiting: Option<Waiting>,
    /// The allocator took back what the status may still show.
    lost: bool,
    /// In this epoch the allocator granted what is held.
    granted_in: Option<u64>,
    /// The status has shown what is held.
    was_published: bool,
    /// When the address list was put back lately.
    put_back: Vec<Instant>,
    /// Why the status cannot say what it should.
    obstacle: Option<Hindered>,
}

/// Why the status of a Service cannot say what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Obstacle {
    /// Another controller writes the address list.
    Conflict,
    /// The API server refuses the write, as by an admission policy.
    Rejected,
    /// The API server takes the write, and stores something else.
    Altered,
    /// The watcher's account has no right to write.
    Forbidden,
}

impl Obstacle {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Conflict,
        Self::Rejected,
        Self::Altered,
        Self::Forbidden,
    ];

    /// For metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
            Self::Altered => "altered",
            Self::Forbidden => "forbidden",
        }
    }
}

/// A Service whose status cannot say what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hindered {
    /// Why.
    pub by: Obstacle,
    /// Since then, seconds since 1970.
    pub since: i64,
    /// Whether the status shows no address at all.
    pub pending: bool,
}

/// An answer of the allocator.
#[derive(Clone, Debug)]
pub struct Reply {
    /// To this wish.
    pub wish: u64,
    /// What it was.
    pub outcome: Result<Grant, Refusal>,
    epoch: u64,
    until: Instant,
}

/// A Service that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// For what.
    pub remedy: Remedy,
    /// For addresses of these families.
    pub families: Vec<Family>,
    /// Since then, seconds since 1970.
    pub since: i64,
    /// Whether it holds nothing.
    pub pending: bool,
}

/// Read before a question is asked, to tell afterwards whether the answer can be
/// relied on.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    epoch: u64,
    news: u64,
    syncs: u64,
}

/// How many Services hold an address, how many wait for one, and since when the
/// first of these does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Services that hold an address.
    pub held: usize,
    /// Services that have none.
    pub pending: usize,
    /// Seconds since 1970.
    pub oldest: Option<i64>,
    /// Services whose status cannot say what it should, by what hinders it.
    pub hindered: BTreeMap<Obstacle, usize>,
}

impl Ledger {
    /// What is known.
    pub fn get(&self, key: &Key) -> Option<Record> {
        self.state.lock().records.get(key).cloned()
    }

    /// Whether anything is known.
    pub fn knows(&self, key: &Key) -> bool {
        self.state.lock().records.contains_key(key)
    }

    /// Every Service of which something is known.
    pub fn keys(&self) -> Vec<Key> {
        self.state.lock().records.keys().cloned().collect()
    }

    /// Nothing is known any more.
    pub fn forget(&self, key: &Key) {
        self.state.lock().records.remove(key);
    }

    /// Nothing is known of any Service any more, but that some went lately: whoever
    /// led until now may not have lived to see to them. Returns those of which
    /// `is_gone` is true.
    pub fn begin_term(&self, is_gone: impl Fn(&Key, &str) -> bool) -> Vec<Key> {
        let mut state = self.state.lock();
        state.news += 1;
        state.records.clear();
        state.forget_departures();
        let gone: Vec<_> = state
            .departures
            .iter()
            .filter(|(_, key, uid)| is_gone(key, uid))
            .map(|(_, key, uid)| (key.clone(), uid.clone()))
            .collect();
        let keys = gone.iter().map(|(key, _)| key.clone()).collect();
        let records = gone.into_iter().map(|(key, uid)| (key, Record::of(&uid)));
        state.records.extend(records);
        keys
    }

    /// A Service is gone that may have been granted something before this process
    /// began.
    pub fn departed(&self, key: &Key, uid: &str) {
        let mut state = self.state.lock();
        let record = state.records.entry(key.clone());
        record.or_insert_with(|| Record::of(uid));
    }

    /// The same, while another replica leads.
    pub fn departed_meanwhile(&self, key: &Key, uid: &str) {
        let mut state = self.state.lock();
        state.forget_departures();
        let departure = (Instant::now(), key.clone(), uid.to_owned());
        state.departures.push_back(departure);
    }

    /// Now.
    pub fn moment(&self) -> Moment {
        let State {
            epoch, news, syncs, ..
        } = *self.state.lock();
        Moment { epoch, news, syncs }
    }

    /// The last answer to this wish of this uid, if it can still be relied on.
    pub fn answer(&self, record: &Record, uid: &str, wish: u64) -> Option<Result<Grant, Refusal>> {
        let epoch = self.state.lock().epoch;
        record
            .reply
            .as_ref()
            .filter(|_| record.uid == uid)
            .filter(|r| r.wish == wish && r.epoch == epoch && Instant::now() < r.until)
            .map(|r| r.outcome.clone())
    }

    /// The allocator granted addresses. Says whether the answer stands: it does not
    /// when the allocator told something that matters while it was under way.
    pub fn granted(&self, key: &Key, uid: &str, wish: u64, grant: &Grant, asked: Moment) -> bool {
        let mut state = self.state.lock();
        let stands =
            state.syncs == asked.syncs && (state.news == asked.news || grant.unmet.is_empty());
        let record = state.record(key, uid);
        record.held = grant.addresses();
        record.lost = false;
        record.granted_in = Some(asked.epoch);
        record.reply = Some(Reply::new(wish, Ok(grant.clone()), asked, stands));
        stands
    }

    /// The allocator refused. Says whether the answer stands.
    ///
    /// Who is refused holds nothing. An allocator that has lost its database may
    /// refuse a holder only because its pools are not what they were, and nobody
    /// else has the address: then only one that granted it before is believed.
    pub fn refused(
        &self,
        key: &Key,
        uid: &str,
        wish: u64,
        refusal: &Refusal,
        asked: Moment,
    ) -> bool {
        let mut state = self.state.lock();
        let stands = state.news == asked.news;
        let reply = Reply::new(wish, Err(refusal.clone()), asked, stands);
        let epoch = state.epoch;
        let record = state.record(key, uid);
        record.reply = Some(reply);
        let decided = match refusal.remedy {
            Remedy::WaitForFreed | Remedy::WaitForPools | Remedy::WaitForEither => true,
            Remedy::WaitForEdit | Remedy::RetrySoon | Remedy::RetrySeldom => false,
        };
        let decided = decided && !refusal.keeps_the_address();
        let believed = record.granted_in == Some(epoch) || !refusal.is_about_pools();
        if decided && believed {
            record.lost = true;
            record.granted_in = None;
            record.held.clear();
        }
        stands
    }

    /// Whether the allocator took back what the status of this uid may still show.
    pub fn is_lost(&self, key: &Key, uid: &str) -> bool {
        let state = self.state.lock();
        let record = state.records.get(key);
        record.is_some_and(|record| record.uid == uid && record.lost)
    }

    /// What the Service waits for from now on.
    pub fn waits(&self, key: &Key, uid: &str, waiting: Waiting) {
        let mut state = self.state.lock();
        let record = state.records.entry(key.clone());
        let record = record.or_insert_with(|| Record::of(uid));
        record.waiting = Some(waiting);
    }

    /// The Service waits for nothing.
    pub fn waits_no_more(&self, key: &Key) {
        if let Some(record) = self.state.lock().records.get_mut(key) {
            record.waiting = None;
        }
    }

    /// The status shows these addresses of ours.
    pub fn published(&self, key: &Key, addresses: &[IpAddr]) {
        if let Some(record) = self.state.lock().records.get_mut(key) {
            record.was_published = true;
            if record.published != addresses {
                record.published = addresses.to_vec();
            }
        }
    }

    /// Somebody else claims the status, or what it showed was taken back.
    pub fn unpublished(&self, key: &Key) {
        if let Some(record) = self.state.lock().records.get_mut(key) {
            record.published.clear();
        }
    }

    /// What was granted to this uid and was never shown was given back.
    pub fn gave_back(&self, key: &Key) {
        if let Some(record) = self.state.lock().records.get_mut(key) {
            record.held.clear();
            record.reply = None;
        }
    }

    /// Whether the address list was put back as often lately as it may be.
    pub fn is_contested(&self, key: &Key) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let record = state.records.get_mut(key);
        record.is_some_and(|record| record.may_put_back_at(now) > now)
    }

    /// The address list is about to be put back: notes it.
    ///
    /// # Errors
    /// When that was done too often lately: how long it has to rest.
    pub fn puts_back(&self, key: &Key) -> Result<(), Duration> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(record) = state.records.get_mut(key) else {
            return Err(PUT_BACK_WINDOW);
        };
        let at = record.may_put_back_at(now);
        if at > now {
            return Err(at - now);
        }
        record.put_back.push(now);
        Ok(())
    }

    /// The status cannot say what it should. Says whether that is news.
    pub fn hindered(&self, key: &Key, uid: &str, by: Obstacle, now: i64, pending: bool) -> bool {
        let mut state = self.state.lock();
        let record = state.records.entry(key.clone());
        let record = record.or_insert_with(|| Record::of(uid));
        let before = record.obstacle;
        record.obstacle = Some(Hindered {
            by,
            since: before.map_or(now, |before| before.since),
            pending,
        });
        before.map(|before| before.by) != Some(by)
    }

    /// The status says what it should.
    pub fn in_place(&self, key: &Key) {
        if let Some(record) = self.state.lock().records.get_mut(key) {
            record.obstacle = None;
        }
    }

    /// The allocator is lost.
    pub fn lost(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.news += 1;
    }

    /// The allocator told something. Returns the Services that `matter`, whose
    /// last answer is outdated now.
    pub fn wake(&self, matter: impl Fn(&Waiting) -> bool) -> Vec<Key> {
        let mut state = self.state.lock();
        state.news += 1;
        let waiting = state
            .records
            .iter_mut()
            .filter(|(_, record)| record.waiting.as_ref().is_some_and(&matter));
        waiting
            .map(|(key, record)| {
                record.reply = None;
                key.clone()
            })
            .collect()
    }

    /// The allocator told something about these Services: their last answers are
    /// outdated.
    pub fn outdate<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        let mut state = self.state.lock();
        // An answer may be under way that was given before.
        state.news += 1;
        for key in keys {
            if let Some(record) = state.records.get_mut(key) {
                record.reply = None;
            }
        }
    }

    /// The last answer still holds where the allocator is away, and is asked for again
    /// where it is not.
    pub fn expire(&self, key: &Key) {
        let mut state = self.state.lock();
        let record = state.records.get_mut(key);
        if let Some(reply) = record.and_then(|record| record.reply.as_mut()) {
            reply.until = Instant::now();
        }
    }

    /// The allocator knows what this cluster has, and told what these Services hold.
    /// Returns those that hold something else than they were granted last: what the
    /// Sync said of them was older than that grant.
    pub fn synced(&self, held: impl IntoIterator<Item = (Key, Vec<IpAddr>)>) -> Vec<Key> {
        let mut state = self.state.lock();
        state.news += 1;
        state.syncs += 1;
        let mut differ = Vec::new();
        for (key, held) in held {
            let record = state.records.get_mut(&key).filter(|r| r.reply.is_some());
            if let Some(record) = record
                && !(held.iter().all(|address| record.held.contains(address))
                    && record.held.len() == held.len())
            {
                record.reply = None;
                differ.push(key);
            }
        }
        differ
    }

    /// Counts. Linear in the number of Services: for scrapes.
    pub fn census(&self) -> Census {
        let state = self.state.lock();
        let mut census = Census::default();
        for record in state.records.values() {
            let waiting = record.waiting.as_ref().filter(|waiting| waiting.pending);
            let mut since = waiting.map(|waiting| waiting.since);
            if let Some(hindered) = record.obstacle {
                *census.hindered.entry(hindered.by).or_default() += 1;
                if hindered.pending {
                    since = since.or(Some(hindered.since));
                }
            }
            match since {
                Some(since) => {
                    census.pending += 1;
                    census.oldest = Some(census.oldest.unwrap_or(since).min(since));
                }
                None => census.held += usize::from(!record.held.is_empty()),
            }
        }
        census
    }
}

impl Reply {
    /// One that does not stand may be remembered, but not relied on.
    fn new(wish: u64, outcome: Result<Grant, Refusal>, asked: Moment, stands: bool) -> Self {
        let lifetime = if stands {
            ANSWER_LIFETIME
        } else {
            Duration::ZERO
        };
        Self {
            wish,
            outcome,
            epoch: asked.epoch,
            until: Instant::now() + lifetime,
        }
    }
}

impl Record {
    fn of(uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            ..Self::default()
        }
    }

    /// The status has shown what this uid holds.
    pub fn was_published(&self) -> bool {
        self.was_published
    }

    /// The status could not say what it should when it was written last.
    pub fn is_hindered(&self) -> bool {
        self.obstacle.is_some()
    }

    /// When the address list may be put back once more; in the past, if now.
    fn may_put_back_at(&mut self, now: Instant) -> Instant {
        self.put_back.retain(|at| now < *at + PUT_BACK_WINDOW);
        match self.put_back.first() {
            Some(first) if self.put_back.len() >= PUT_BACK_LIMIT => *first + PUT_BACK_WINDOW,
            Some(_) | None => now,
        }
    }
}

impl State {
    fn forget_departures(&mut self) {
        let now = Instant::now();
        while let Some((at, _, _)) = self.departures.front()
            && now >= *at + DEPARTED
        {
            self.departures.pop_front();
        }
    }

    /// The record of this uid. What another uid held is what this one takes over
    /// when it is granted something, and what is to be released when it is not.
    fn record(&mut self, key: &Key, uid: &str) -> &mut Record {
        let record = self.records.entry(key.clone()).or_default();
        if record.uid != uid {
            *record = Record::of(uid);
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{grant::Held, reason::Reason};

    fn key() -> Key {
        Key {
            namespace: "ns".into(),
            name: "svc".into(),
        }
    }

    fn grant() -> Grant {
        Grant {
            held: vec![Held {
                address: "192.0.2.1".parse().unwrap(),
                pool: "red".into(),
            }],
            satisfied: true,
            unmet: vec![],
        }
    }

    fn freed(ledger: &Ledger) -> Vec<Key> {
        ledger.wake(|waiting| waiting.remedy == Remedy::WaitForFreed)
    }

    fn exhausted(ledger: &Ledger, asked: Moment) -> bool {
        let refusal = Refusal::new(Reason::PoolExhausted, "full");
        let stands = ledger.refused(&key(), "u", 7, &refusal, asked);
        let waiting = Waiting {
            remedy: refusal.remedy,
            families: vec![Family::V4],
            since: 42,
            pending: true,
        };
        ledger.waits(&key(), "u", waiting);
        stands
    }

    fn answered(ledger: &Ledger, uid: &str, wish: u64) -> bool {
        let record = ledger.get(&key()).unwrap();
        ledger.answer(&record, uid, wish).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_serves_the_same_question_until_the_allocator_is_lost_or_time_passes() {
        let ledger = Ledger::default();
        assert!(ledger.granted(&key(), "u", 7, &grant(), ledger.moment()));
        assert!(answered(&ledger, "u", 7));
        assert!(!answered(&ledger, "u", 8), "another wish");
        assert!(!answered(&ledger, "other", 7), "another uid");
        tokio::time::advance(ANSWER_LIFETIME).await;
        assert!(!answered(&ledger, "u", 7), "old");
        ledger.granted(&key(), "u", 7, &grant(), ledger.moment());
        ledger.lost();
        assert!(!answered(&ledger, "u", 7), "lost");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_allocator_tells_outdates_the_refusals_that_it_concerns() {
        let ledger = Ledger::default();
        assert!(exhausted(&ledger, ledger.moment()));
        assert!(answered(&ledger, "u", 7));
        assert!(
            ledger
                .wake(|waiting| waiting.remedy == Remedy::WaitForPools)
                .is_empty()
        );
        assert!(answered(&ledger, "u", 7));
        assert_eq!(freed(&ledger), [key()]);
        assert!(!answered(&ledger, "u", 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_does_not_stand_if_something_was_freed_while_it_was_under_way() {
        let ledger = Ledger::default();
        let asked = ledger.moment();
        assert!(freed(&ledger).is_empty());
        assert!(!exhausted(&ledger, asked));
        assert!(!answered(&ledger, "u", 7));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_something_else_after_a_sync_asks_again() {
        let told = |address: &str| [(key(), vec![address.parse().unwrap()])];
        let ledger = Ledger::default();
        let asked = ledger.moment();
        assert_eq!(ledger.synced(told("192.0.2.1")), [], "nothing was granted");
        assert!(
            !ledger.granted(&key(), "u", 7, &grant(), asked),
            "the Sync may have been later"
        );
        assert!(ledger.granted(&key(), "u", 7, &grant(), ledger.moment()));
        assert_eq!(ledger.synced(told("192.0.2.1")), []);
        assert!(answered(&ledger, "u", 7));
        assert_eq!(ledger.synced(told("192.0.2.2")), [key()]);
        assert!(!answered(&ledger, "u", 7));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_list_is_put_back_three_times_in_ten_minutes() {
        let ledger = Ledger::default();
        assert!(ledger.puts_back(&key()).is_err(), "nothing of it is known");
        ledger.granted(&key(), "u", 7, &grant(), ledger.moment());
        for _ in 0..PUT_BACK_LIMIT {
            assert!(!ledger.is_contested(&key()));
            assert_eq!(ledger.puts_back(&key()), Ok(()));
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        assert!(ledger.is_contested(&key()));
        let rest = PUT_BACK_WINDOW - Duration::from_secs(180);
        assert_eq!(ledger.puts_back(&key()), Err(rest));
        tokio::time::advance(rest).await;
        assert_eq!(ledger.puts_back(&key()), Ok(()));
        assert!(ledger.is_contested(&key()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_whose_status_cannot_be_written_counts_as_pending_while_it_shows_nothing() {
        let ledger = Ledger::default();
        ledger.granted(&key(), "u", 7, &grant(), ledger.moment());
        assert!(ledger.hindered(&key(), "u", Obstacle::Rejected, 42, true));
        assert!(!ledger.hindered(&key(), "u", Obstacle::Rejected, 50, true));
        let census = ledger.census();
        assert_eq!(
            (census.held, census.pending, census.oldest),
            (0, 1, Some(42))
        );
        assert_eq!(census.hindered, BTreeMap::from([(Obstacle::Rejected, 1)]));
        assert!(ledger.hindered(&key(), "u", Obstacle::Conflict, 60, false));
        assert_eq!((ledger.census().held, ledger.census().pending), (1, 0));
        ledger.in_place(&key());
        assert_eq!(ledger.census().hindered, BTreeMap::new());
    }

    #[tokio::test(start_paused = true)]
    async fn the_census_tells_holders_from_pending_ones() {
        let ledger = Ledger::default();
        exhausted(&ledger, ledger.moment());
        let census = ledger.census();
        assert_eq!(
            (census.held, census.pending, census.oldest),
            (0, 1, Some(42))
        );
        ledger.waits_no_more(&key());
        ledger.granted(&key(), "u", 7, &grant(), ledger.moment());
        let census = ledger.census();
        assert_eq!((census.held, census.pending, census.oldest), (1, 0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_has_lost_what_it_held_unless_only_the_pools_may_be_to_blame() {
        #[derive(Clone, Copy, PartialEq, Debug)]
        enum Before {
            Nothing,
            Granted,
            GrantedByAnAllocatorThatWasLost,
        }
        use Before::{Granted, GrantedByAnAllocatorThatWasLost as Unproven, Nothing};
        for (before, reason, lost) in [
            (Granted, Reason::PoolExhausted, true),
            (Granted, Reason::SharingPortClash, true),
            (Granted, Reason::NoPool, true),
            (Granted, Reason::AddressNotInPool, true),
            (Granted, Reason::InvalidRequest, false),
            (Granted, Reason::ConflictingRequest, false),
            (Granted, Reason::PermissionDenied, false),
            (Unproven, Reason::PoolExhausted, true),
            (Unproven, Reason::AddressInUse, true),
            (Unproven, Reason::SharingKeyMismatch, true),
            (Unproven, Reason::NoPool, false),
            (Unproven, Reason::PoolDisabled, false),
            (Unproven, Reason::AddressNotInPool, false),
            (Nothing, Reason::SharingNotPermitted, true),
            (Nothing, Reason::PoolNotFound, false),
        ] {
            let ledger = Ledger::default();
            if before != Nothing {
                ledger.granted(&key(), "u", 7, &grant(), ledger.moment());
            }
            if before == Unproven {
                ledger.lost();
            }
            let refusal = Refusal::new(reason, "why");
            ledger.refused(&key(), "u", 8, &refusal, ledger.moment());
            assert_eq!(ledger.is_lost(&key(), "u"), lost, "{before:?} {reason:?}");
            assert!(!ledger.is_lost(&key(), "other"));
            let held = &ledger.get(&key()).unwrap().held;
            assert_eq!(
                held.is_empty(),
                lost || before == Nothing,
                "{before:?} {reason:?}"
            );
            ledger.granted(&key(), "u", 8, &grant(), ledger.moment());
            assert!(!ledger.is_lost(&key(), "u"));
        }
    }
}
