//! The open Watch streams, by cluster. What is told is put into a bounded buffer
//! of each stream; a stream whose reader lets it fill up is cut off, and whoever
//! reads it has to open another one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};

use crate::engine::{ClusterName, Family, Identity, PoolName, Refusal, Revision, ServiceKey, Uid};

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

/// Something that may let waiting Services be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
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
    pub told: Told,
}

/// A new stream.
#[derive(Debug)]
pub struct Stream {
    pub messages: mpsc::Receiver<Message>,
    /// To be kept for as long as the stream is open.
    pub presence: Presence,
    /// Nothing was told to anybody since the revision that was asked about.
    pub resumed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Streams {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    by_cluster: BTreeMap<ClusterName, Vec<Open>>,
    /// When a stream of a cluster was last closed, as long as that is not long ago.
    closed: BTreeMap<ClusterName, Instant>,
    /// Streams that have seen this revision have missed nothing.
    last_told: Revision,
}

#[derive(Debug)]
struct Open {
    sender: mpsc::Sender<Message>,
    /// Of the cluster, where it was told.
    uid: Option<Uid>,
}

/// Of an open stream; dropped with it.
#[derive(Debug)]
pub struct Presence {
    streams: Arc<Streams>,
    cluster: ClusterName,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.streams.state.lock();
        state.closed.retain(|_, at| now - *at < VACANT);
        state.closed.insert(self.cluster.clone(), now);
    }
}

impl State {
    fn open_streams(&self, cluster: &ClusterName) -> usize {
        let streams = self.by_cluster.get(cluster).into_iter().flatten();
        streams.filter(|of| !of.sender.is_closed()).count()
    }
}

impl Streams {
    /// Nobody can have missed nothing that saw an earlier process: what that told
    /// last is not known.
    pub fn new(revision: Revision) -> Self {
        Self {
            state: Mutex::new(State {
                by_cluster: BTreeMap::new(),
                closed: BTreeMap::new(),
                last_told: revision.next(),
            }),
            began: Instant::now(),
        }
    }

    /// Opens a stream, of the cluster with this uid.
    ///
    /// # Errors
    /// If there are too many.
    pub fn open(
        self: &Arc<Self>,
        cluster: ClusterName,
        uid: Option<Uid>,
        seen: Option<Revision>,
    ) -> Result<Stream, TooMany> {
        let (sender, messages) = mpsc::channel(BUFFER);
        let mut state = self.state.lock();
        // Where nothing is told for long, readers come and go all the same.
        state.by_cluster.retain(|_, streams| {
            streams.retain(|stream| !stream.sender.is_closed());
            !streams.is_empty()
        });
        let open: usize = state.by_cluster.values().map(Vec::len).sum();
        let of_cluster = state.by_cluster.get(&cluster).map_or(0, Vec::len);
        if open >= MAX_OPEN || of_cluster >= MAX_OF_CLUSTER {
            return Err(TooMany);
        }
        let streams = state.by_cluster.entry(cluster.clone()).or_default();
        streams.push(Open { sender, uid });
        Ok(Stream {
            messages,
            presence: Presence {
                streams: Arc::clone(self),
                cluster,
            },
            resumed: seen.is_some_and(|seen| seen >= state.last_told),
        })
    }

    /// How many streams of a cluster are open.
    pub fn count(&self, cluster: &ClusterName) -> usize {
        let state = self.state.lock();
        state.open_streams(cluster)
    }

    /// Whether no stream of a cluster has been open for a while.
    pub fn is_vacant(&self, cluster: &ClusterName) -> bool {
        let now = Instant::now();
        let state = self.state.lock();
        let last = state.closed.get(cluster).copied();
        state.open_streams(cluster) == 0 && now - last.unwrap_or(self.began) >= VACANT
    }

    /// Ends the streams of clusters that had the name before this one.
    pub fn end_others(&self, cluster: &ClusterName, owner: &Identity, revision: Revision) {
        let mut state = self.state.lock();
        let Some(streams) = state.by_cluster.get_mut(cluster) else {
            return;
        };
        streams.retain(|Open { sender, uid }| {
            let Some(uid) = uid.as_ref().filter(|uid| **uid != owner.uid) else {
                return true;
            };
            let refusal = Refusal::ClusterNameInUse {
                cluster: cluster.clone(),
                uid: uid.clone(),
                owner: owner.clone(),
            };
            // Where there is no room for it the stream is cut, which is as good.
            let _ = sender.try_send(Message {
                revision,
                told: Told::Ended(Box::new(refusal)),
            });
            false
        });
    }

    /// Every cluster that has an open stream, in the order of names.
    pub fn clusters(&self) -> Vec<ClusterName> {
        self.state.lock().by_cluster.keys().cloned().collect()
    }

    /// Tells all streams of a cluster. `false` if there are none.
    pub fn tell(&self, cluster: &ClusterName, message: &Message) -> bool {
        let mut state = self.state.lock();
        state.last_told = message.revision;
        let Some(streams) = state.by_cluster.get_mut(cluster) else {
            return false;
        };
        streams.retain(|stream| stream.sender.try_send(message.clone()).is_ok());
        let heard = !streams.is_empty();
        if !heard {
            state.by_cluster.remove(cluster);
        }
        heard
    }

    /// Tells everybody.
    pub fn tell_all(&self, message: &Message) {
        let mut state = self.state.lock();
        state.last_told = message.revision;
        state.by_cluster.retain(|_, streams| {
            streams.retain(|stream| stream.sender.try_send(message.clone()).is_ok());
            !streams.is_empty()
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
            told: Told::PoolsChanged,
        }
    }

    #[test]
    fn a_reader_that_falls_behind_is_cut_off_and_others_are_not() {
        let streams = Arc::new(Streams::new(Revision(0)));
        let mut slow = streams.open(cluster("a"), None, None).unwrap().messages;
        let mut quick = streams.open(cluster("a"), None, None).unwrap().messages;
        for revision in 0..=BUFFER as i64 {
            assert!(streams.tell(&cluster("a"), &at(revision)));
            assert_eq!(quick.try_recv(), Ok(at(revision)));
        }
        assert_eq!(streams.count(&cluster("a")), 1);
        for revision in 0..BUFFER as i64 {
            assert_eq!(slow.try_recv(), Ok(at(revision)));
        }
        assert_eq!(
            slow.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn a_stream_is_resumed_when_nothing_was_told_since_in_this_process() {
        let streams = Arc::new(Streams::new(Revision(7)));
        assert!(!streams.open(cluster("a"), None, None).unwrap().resumed);
        assert!(
            !streams
                .open(cluster("a"), None, Some(Revision(7)))
                .unwrap()
                .resumed
        );
        streams.tell_all(&at(9));
        assert!(
            !streams
                .open(cluster("a"), None, Some(Revision(8)))
                .unwrap()
                .resumed
        );
        assert!(
            streams
                .open(cluster("a"), None, Some(Revision(9)))
                .unwrap()
                .resumed
        );
        assert!(!streams.tell(&cluster("b"), &at(12)), "nobody listens");
        assert!(
            !streams
                .open(cluster("b"), None, Some(Revision(9)))
                .unwrap()
                .resumed
        );
    }

    #[test]
    fn one_cluster_cannot_have_all_the_streams_and_closed_ones_do_not_count() {
        let streams = Arc::new(Streams::new(Revision(0)));
        let open = |name: &str| streams.open(cluster(name), None, None);
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
