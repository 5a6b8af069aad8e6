//! The open Watch streams: the sessions of watchers, by cluster. Of the replicas that
//! serve the same Services one acts, the one whose session has been open longest.
//!
//! What is told is put into a bounded buffer of each stream; a stream whose reader lets
//! it fill up is cut off, and whoever reads it has to open another one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use crate::engine::{
    ClusterName, Family, Identity, PoolName, Refusal, Revision, ServiceKey, Timestamp, Uid,
};

/// Messages that a reader may be behind.
const BUFFER: usize = 1024;

/// Open streams of a cluster; every one of its watchers has one.
const MAX_OF_CLUSTER: usize = 32;
/// Open streams in all.
const MAX_OPEN: usize = 4096;

/// A cluster without a stream for so long is away.
const VACANT: Duration = Duration::from_secs(10);

/// As many streams are open as there may be, of the cluster or in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// What a watcher should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its replica, which stood by, acts from now on. That belongs to no revision.
    Acting,
    /// Addresses became free, and these Services should ask for them.
    Freed {
        pool: PoolName,
        family: Family,
        keys: Arc<[Arc<ServiceKey>]>,
    },
    /// These Services will get another answer than before.
    AskAgain(Arc<[Arc<ServiceKey>]>),
    /// Everybody may: other pools are in force, say.
    PoolsChanged,
    /// They should, and tell what they have: changes can be made again after they
    /// could not, or the database turned out to be an old one.
    Reloaded,
    /// The stream ends: its cluster was replaced by another one.
    Ended(Box<Refusal>),
}

/// What was told, and at which revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub revision: Revision,
    pub event: Event,
}

/// A process that may act for its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// No other process has it.
    pub name: String,
    /// Those that serve the same Services are replicas of each other.
    pub serves: String,
}

/// Who opens a stream.
#[derive(Clone, Debug)]
pub struct Opening {
    pub cluster: ClusterName,
    /// Of the cluster, where it was told.
    pub uid: Option<Uid>,
    /// Nothing where the caller only listens.
    pub replica: Option<Replica>,
    pub now: Timestamp,
}

/// A new stream.
#[derive(Debug)]
pub struct Stream {
    pub messages: mpsc::Receiver<Message>,
    /// To be kept for as long as the stream is open.
    pub presence: Presence,
    /// Whether its replica acts.
    pub acting: bool,
}

/// An open stream, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub replica: Option<Replica>,
    pub since: Timestamp,
    pub acting: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Streams {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Debug, Default)]
struct State {
    by_cluster: BTreeMap<ClusterName, Open>,
    /// When a stream of a cluster was last closed, as long as that is not long ago.
    closed: BTreeMap<ClusterName, Instant>,
    /// Of the stream that was opened last.
    number: u64,
}

/// The streams of a cluster, in the order in which they were opened.
#[derive(Debug, Default)]
struct Open(Vec<One>);

#[derive(Debug)]
struct One {
    number: u64,
    sender: mpsc::Sender<Message>,
    uid: Option<Uid>,
    session: Session,
}

/// Of an open stream; dropped with it.
#[derive(Debug)]
pub struct Presence {
    streams: Arc<Streams>,
    cluster: ClusterName,
    number: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.streams.state.lock();
        state.closed.retain(|_, at| now - *at < VACANT);
        state.closed.insert(self.cluster.clone(), now);
        state.keep(&self.cluster, |one| one.number != self.number);
    }
}

impl One {
    /// Where there is no room for it the stream ends, and its reader opens another one.
    fn send(&self, message: Message) -> bool {
        self.sender.try_send(message).is_ok()
    }
}

impl Open {
    /// Ends the others; of the replicas of one that acted, another one does.
    fn keep(&mut self, keeps: impl FnMut(&One) -> bool) {
        self.0.retain(keeps);
        while let Some(index) = self.successor() {
            let one = &mut self.0[index];
            one.session.acting = true;
            if !one.send(Message {
                revision: Revision(0),
                event: Event::Acting,
            }) {
                self.0.remove(index);
            }
        }
    }

    /// The first stream of replicas none of which acts.
    fn successor(&self) -> Option<usize> {
        self.0.iter().position(|one| {
            let replica = one.session.replica.as_ref();
            replica.is_some_and(|replica| !self.acts_for(&replica.serves))
        })
    }

    fn acts_for(&self, serves: &str) -> bool {
        let acting = self.0.iter().filter(|one| one.session.acting);
        let mut replicas = acting.filter_map(|one| one.session.replica.as_ref());
        replicas.any(|replica| replica.serves == serves)
    }

    /// Says whether the replica of the new stream acts: it takes the role of its earlier
    /// stream, or acts where nobody does.
    fn enters(&mut self, replica: Option<&Replica>) -> bool {
        let Some(replica) = replica else { return false };
        self.0
            .retain(|one| one.session.replica.as_ref() != Some(replica));
        !self.acts_for(&replica.serves)
    }
}

impl State {
    fn keep(&mut self, cluster: &ClusterName, keeps: impl FnMut(&One) -> bool) {
        let Some(open) = self.by_cluster.get_mut(cluster) else {
            return;
        };
        open.keep(keeps);
        if open.0.is_empty() {
            self.by_cluster.remove(cluster);
        }
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Streams {
    /// Opens a stream.
    ///
    /// # Errors
    /// If there are too many.
    pub fn open(self: &Arc<Self>, opening: Opening) -> Result<Stream, TooMany> {
        let Opening {
            cluster,
            uid,
            replica,
            now,
        } = opening;
        let (sender, messages) = mpsc::channel(BUFFER);
        let mut state = self.state.lock();
        let all: usize = state.by_cluster.values().map(|open| open.0.len()).sum();
        let of_cluster = state
            .by_cluster
            .get(&cluster)
            .map_or(0, |open| open.0.len());
        if all >= MAX_OPEN || of_cluster >= MAX_OF_CLUSTER {
            return Err(TooMany);
        }
        state.number += 1;
        let number = state.number;
        let open = state.by_cluster.entry(cluster.clone()).or_default();
        let acting = open.enters(replica.as_ref());
        open.0.push(One {
            number,
            sender,
            uid,
            session: Session {
                replica,
                since: now,
                acting,
            },
        });
        Ok(Stream {
            messages,
            presence: Presence {
                streams: Arc::clone(self),
                cluster,
                number,
            },
            acting,
        })
    }

    /// The open streams of a cluster.
    pub fn sessions(&self, cluster: &ClusterName) -> Vec<Session> {
        let state = self.state.lock();
        let open = state.by_cluster.get(cluster).into_iter();
        let open = open.flat_map(|open| &open.0);
        open.map(|one| one.session.clone()).collect()
    }

    /// How many streams of a cluster are open.
    pub fn count(&self, cluster: &ClusterName) -> usize {
        let state = self.state.lock();
        state.by_cluster.get(cluster).map_or(0, |open| open.0.len())
    }

    /// Whether no stream of a cluster has been open for a while.
    pub fn is_vacant(&self, cluster: &ClusterName) -> bool {
        let now = Instant::now();
        let state = self.state.lock();
        let last = state.closed.get(cluster).copied();
        !state.by_cluster.contains_key(cluster) && now - last.unwrap_or(self.began) >= VACANT
    }

    /// Ends the streams of clusters that had the name before this one.
    pub fn end_others(&self, cluster: &ClusterName, owner: &Identity, revision: Revision) {
        let is_other = |one: &One| one.uid.as_ref().is_some_and(|uid| *uid != owner.uid);
        let mut state = self.state.lock();
        let others = state.by_cluster.get(cluster).into_iter();
        for one in others.flat_map(|open| &open.0).filter(|one| is_other(one)) {
            let Some(uid) = one.uid.clone() else { continue };
            one.send(Message {
                revision,
                event: Event::Ended(Box::new(Refusal::ClusterNameInUse {
                    cluster: cluster.clone(),
                    uid,
                    owner: owner.clone(),
                })),
            });
        }
        state.keep(cluster, |one| !is_other(one));
    }

    /// Every cluster that has an open stream, in the order of names.
    pub fn clusters(&self) -> Vec<ClusterName> {
        self.state.lock().by_cluster.keys().cloned().collect()
    }

    /// Tells all streams of a cluster. `false` if there are none.
    pub fn send(&self, cluster: &ClusterName, message: &Message) -> bool {
        let mut state = self.state.lock();
        state.keep(cluster, |one| one.send(message.clone()));
        state.by_cluster.contains_key(cluster)
    }

    /// Tells everybody.
    pub fn send_to_all(&self, message: &Message) {
        self.state.lock().by_cluster.retain(|_, open| {
            open.keep(|one| one.send(message.clone()));
            !open.0.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::parse(name).unwrap()
    }

    fn at(revision: i64) -> Message {
        Message {
            revision: Revision(revision),
            event: Event::PoolsChanged,
        }
    }

    fn opening(name: &str, replica: Option<(&str, &str)>) -> Opening {
        Opening {
            cluster: cluster(name),
            uid: None,
            replica: replica.map(|(name, serves)| Replica {
                name: name.to_owned(),
                serves: serves.to_owned(),
            }),
            now: Timestamp(0),
        }
    }

    fn listens(name: &str) -> Opening {
        opening(name, None)
    }

    /// The names of those that act.
    fn acting(streams: &Streams) -> Vec<String> {
        let sessions = streams.sessions(&cluster("a"));
        let acting = sessions.into_iter().filter(|session| session.acting);
        acting
            .map(|session| session.replica.unwrap().name)
            .collect()
    }

    #[test]
    fn a_reader_that_falls_behind_is_cut_off_and_others_are_not() {
        let streams = Arc::new(Streams::default());
        let mut slow = streams.open(listens("a")).unwrap();
        let mut quick = streams.open(listens("a")).unwrap();
        for revision in 0..=BUFFER as i64 {
            assert!(streams.send(&cluster("a"), &at(revision)));
            assert_eq!(quick.messages.try_recv(), Ok(at(revision)));
        }
        assert_eq!(streams.count(&cluster("a")), 1);
        for revision in 0..BUFFER as i64 {
            assert_eq!(slow.messages.try_recv(), Ok(at(revision)));
        }
        assert_eq!(
            slow.messages.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn the_replica_whose_session_has_been_open_longest_acts_and_is_told_when_it_begins_to() {
        let streams = Arc::new(Streams::default());
        let open = |name| streams.open(opening("a", Some((name, "all")))).unwrap();
        let _listener = streams.open(listens("a")).unwrap();
        let (first, mut second, mut third) = (open("first"), open("second"), open("third"));
        assert_eq!(
            [first.acting, second.acting, third.acting],
            [true, false, false]
        );
        drop(first);
        assert_eq!(second.messages.try_recv().unwrap().event, Event::Acting);
        assert_eq!(acting(&streams), ["second"]);
        let again = open("first");
        assert!(!again.acting, "there is a newer one");
        drop(second);
        assert_eq!(third.messages.try_recv().unwrap().event, Event::Acting);
        assert_eq!(acting(&streams), ["third"]);
    }

    #[test]
    fn one_that_is_cut_off_acts_no_more_and_another_one_does() {
        let streams = Arc::new(Streams::default());
        let open = |name| streams.open(opening("a", Some((name, "all")))).unwrap();
        let _slow = open("slow");
        let mut quick = open("quick");
        for revision in 0..BUFFER as i64 {
            streams.send_to_all(&at(revision));
            assert_eq!(quick.messages.try_recv(), Ok(at(revision)));
        }
        streams.send(&cluster("a"), &at(9));
        assert_eq!(quick.messages.try_recv(), Ok(at(9)));
        assert_eq!(quick.messages.try_recv().unwrap().event, Event::Acting);
        assert_eq!(acting(&streams), ["quick"]);
    }

    #[test]
    fn a_second_session_of_a_replica_ends_its_first_one_and_takes_its_role() {
        let streams = Arc::new(Streams::default());
        let open = |name| streams.open(opening("a", Some((name, "all")))).unwrap();
        let mut first = open("first");
        let mut second = open("second");
        assert!(open("first").acting, "its role is its own");
        assert_eq!(
            first.messages.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
        // The new session of the first one was dropped at once.
        assert_eq!(second.messages.try_recv().unwrap().event, Event::Acting);
        drop(first);
        assert_eq!(
            acting(&streams),
            ["second"],
            "what ended before changes nothing"
        );
    }

    #[test]
    fn of_those_that_serve_other_services_or_another_cluster_each_acts() {
        let streams = Arc::new(Streams::default());
        let open = |cluster, name, serves| {
            let opened = streams.open(opening(cluster, Some((name, serves))));
            opened.unwrap()
        };
        let all = [
            open("a", "r1", "class x"),
            open("a", "r2", "class y"),
            open("b", "r3", "class x"),
        ];
        assert!(all.iter().all(|stream| stream.acting));
        assert!(
            !streams.open(listens("c")).unwrap().acting,
            "it only listens"
        );
    }

    #[test]
    fn one_cluster_cannot_have_all_the_streams_and_closed_ones_do_not_count() {
        let streams = Arc::new(Streams::default());
        let open = |name: &str| streams.open(listens(name));
        let all: Vec<_> = (0..MAX_OF_CLUSTER).map(|_| open("a").unwrap()).collect();
        assert_eq!(open("a").unwrap_err(), TooMany);
        open("b").unwrap();
        drop(all);
        let clusters = MAX_OPEN / MAX_OF_CLUSTER;
        let all: Vec<_> = (0..MAX_OPEN)
            .map(|number| open(&format!("c{}", number % clusters)).unwrap())
            .collect();
        assert_eq!(open("another").unwrap_err(), TooMany);
        drop(all);
        open("another").unwrap();
    }
}
