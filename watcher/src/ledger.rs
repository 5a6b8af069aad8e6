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

use crate::{denial::Denial, kube::key::Key, status::grant::Grant};

/// How often an address list that somebody else wrote is put back within
/// [`PUT_BACK_WINDOW`], before whoever writes it counts as another controller.
const PUT_BACK_LIMIT: usize = 3;
const PUT_BACK_WINDOW: Duration = Duration::from_secs(600);

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
    /// What the allocator last granted, for when it is away; nothing where it refused since.
    pub grant: Option<Grant>,
    /// Since when the Service waits for something.
    pub waiting: Option<Waiting>,
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

/// A Service that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since then, seconds since 1970.
    pub since: i64,
    /// Whether it holds nothing.
    pub pending: bool,
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

    /// The allocator granted addresses.
    pub fn granted(&self, key: &Key, uid: &str, grant: &Grant) {
        let mut state = self.state.lock();
        let record = state.record(key, uid);
        record.held.clone_from(&grant.addresses);
        record.grant = Some(grant.clone());
    }

    /// The allocator decided that there is nothing, or not what the Service shows.
    pub fn refused(&self, key: &Key, uid: &str, denial: &Denial) {
        let mut state = self.state.lock();
        let record = state.record(key, uid);
        record.grant = None;
        if denial.takes_off {
            record.held.clear();
        }
    }

    /// The Service is gone or of another type. Where it becomes ours again, the allocator
    /// decides anew what it has.
    pub fn serves_no_more(&self, key: &Key) {
        if let Some(record) = self.state.lock().records.get_mut(key) {
            record.grant = None;
        }
    }

    /// The Service waits for something from now on.
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
            record.grant = None;
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

    /// The Services that wait.
    pub fn waiting(&self) -> Vec<Key> {
        let state = self.state.lock();
        let waiting = state
            .records
            .iter()
            .filter(|(_, record)| record.waiting.is_some());
        waiting.map(|(key, _)| key.clone()).collect()
    }

    /// Of the Services that the allocator says to hold this, those that hold something else
    /// than they were granted last, or wait and hold something.
    pub fn differ(&self, held: impl IntoIterator<Item = (Key, Vec<IpAddr>)>) -> Vec<Key> {
        let state = self.state.lock();
        let differs = |(key, held): &(Key, Vec<IpAddr>)| {
            let record = state.records.get(key);
            record.is_some_and(|record| {
                let granted = &record.held;
                let is_same =
                    held.len() == granted.len() && held.iter().all(|a| granted.contains(a));
                let waits = record.waiting.is_some() && !held.is_empty();
                !is_same && (record.grant.is_some() || waits)
            })
        };
        let differ = held.into_iter().filter(differs);
        differ.map(|(key, _)| key).collect()
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
    use crate::denial::{Reason, Retry};

    fn key() -> Key {
        Key {
            namespace: "ns".into(),
            name: "svc".into(),
        }
    }

    fn grant() -> Grant {
        Grant {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            satisfied: true,
            reason: "Satisfied".into(),
            message: "192.0.2.1 from pool red".into(),
            retry: Retry::AfterEdit,
        }
    }

    fn denial(takes_off: bool) -> Denial {
        Denial {
            takes_off,
            ..Denial::new(Reason::PermissionDenied, "why")
        }
    }

    fn waits(ledger: &Ledger) {
        let waiting = Waiting {
            since: 42,
            pending: true,
        };
        ledger.waits(&key(), "u", waiting);
    }

    #[test]
    fn a_grant_is_remembered_until_the_allocator_refuses_or_another_uid_comes() {
        let ledger = Ledger::default();
        let known = |ledger: &Ledger| {
            let record = ledger.get(&key()).unwrap();
            (record.grant.is_some(), record.held.is_empty())
        };
        ledger.granted(&key(), "u", &grant());
        assert_eq!(known(&ledger), (true, false));
        ledger.refused(&key(), "u", &denial(false));
        assert_eq!(
            known(&ledger),
            (false, false),
            "it goes on with what it has"
        );
        ledger.refused(&key(), "u", &denial(true));
        assert_eq!(known(&ledger), (false, true));
        ledger.granted(&key(), "u", &grant());
        ledger.refused(&key(), "other", &denial(false));
        assert_eq!(known(&ledger), (false, true));
    }

    #[test]
    fn who_holds_something_else_after_a_sync_asks_again() {
        let told = |address: &str| [(key(), vec![address.parse().unwrap()])];
        let ledger = Ledger::default();
        assert_eq!(ledger.differ(told("192.0.2.1")), [], "nothing was granted");
        ledger.granted(&key(), "u", &grant());
        assert_eq!(ledger.differ(told("192.0.2.1")), []);
        assert_eq!(ledger.differ(told("192.0.2.2")), [key()]);
        assert_eq!(ledger.differ([(key(), Vec::new())]), [key()]);
    }

    #[test]
    fn who_waits_and_holds_something_after_a_sync_asks_again() {
        let told = |held: &[&str]| {
            let held = held.iter().map(|address| address.parse().unwrap());
            [(key(), held.collect())]
        };
        let ledger = Ledger::default();
        ledger.refused(&key(), "u", &denial(false));
        waits(&ledger);
        assert_eq!(ledger.differ(told(&["192.0.2.1"])), [key()]);
        assert_eq!(ledger.differ(told(&[])), []);
    }

    #[test]
    fn what_was_granted_is_not_put_back_on_a_service_that_was_of_another_type_since() {
        let ledger = Ledger::default();
        ledger.granted(&key(), "u", &grant());
        ledger.serves_no_more(&key());
        let record = ledger.get(&key()).unwrap();
        assert!(record.grant.is_none());
        assert_eq!(record.held, grant().addresses, "it is still to be released");
    }

    #[test]
    fn who_waits_is_known_until_it_waits_no_more() {
        let ledger = Ledger::default();
        ledger.granted(&key(), "u", &grant());
        assert_eq!(ledger.waiting(), []);
        waits(&ledger);
        assert_eq!(ledger.waiting(), [key()]);
        ledger.waits_no_more(&key());
        assert_eq!(ledger.waiting(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_list_is_put_back_three_times_in_ten_minutes() {
        let ledger = Ledger::default();
        assert!(ledger.puts_back(&key()).is_err(), "nothing of it is known");
        ledger.granted(&key(), "u", &grant());
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
        ledger.granted(&key(), "u", &grant());
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
        waits(&ledger);
        let census = ledger.census();
        assert_eq!(
            (census.held, census.pending, census.oldest),
            (0, 1, Some(42))
        );
        ledger.waits_no_more(&key());
        ledger.granted(&key(), "u", &grant());
        let census = ledger.census();
        assert_eq!((census.held, census.pending, census.oldest), (1, 0, None));
    }
}
