//! What is known of each cluster as a whole: whether it has told what it has, and
//! whether it is being taken out of service. Look-ups are O(log clusters); which
//! decommissioning ends next, and whether anybody is awaited, O(1). Whether a uid is
//! known by another name is found in O(clusters), when it comes with a new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    change::Timestamp,
    identity::Identity,
    key::{ClusterName, Uid},
};

/// See [`ClusterRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// It has come, and has not told what it has; nobody waits for that.
    Unsynced,
    /// It may hold addresses that this database does not know of: nothing is given
    /// to anybody new until it has told them.
    Awaited,
    /// It has told what it has.
    Synced,
    /// Its requests are refused. What it holds is taken back at this time; `None`:
    /// it has been.
    Decommissioned { release_at: Option<Timestamp> },
}

/// A cluster and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRecord {
    pub name: ClusterName,
    pub state: ClusterState,
    /// `None`: nobody has told whose name it is.
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug, Default)]
pub struct Clusters {
    records: BTreeMap<ClusterName, Arc<ClusterRecord>>,
    awaited: BTreeSet<ClusterName>,
    ends: BTreeSet<(Timestamp, ClusterName)>,
}

impl Clusters {
    pub fn state(&self, name: &ClusterName) -> Option<ClusterState> {
        self.records.get(name).map(|record| record.state)
    }

    pub fn is_decommissioned(&self, name: &ClusterName) -> bool {
        matches!(self.state(name), Some(ClusterState::Decommissioned { .. }))
    }

    pub fn identity(&self, name: &ClusterName) -> Option<&Identity> {
        self.records.get(name)?.identity.as_ref()
    }

    /// Another name, in service, of the cluster with this uid.
    pub fn other_name(&self, name: &ClusterName, uid: &Uid) -> Option<(&ClusterName, &Identity)> {
        let others = self.records.values().filter(|record| {
            record.name != *name && !matches!(record.state, ClusterState::Decommissioned { .. })
        });
        let mut known = others.filter_map(|of| Some((&of.name, of.identity.as_ref()?)));
        known.find(|(_, identity)| identity.uid == *uid)
    }

    /// In the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ClusterRecord>> {
        self.records.values()
    }

    /// Clusters that have to tell what they have first, in the order of names.
    pub const fn awaited(&self) -> &BTreeSet<ClusterName> {
        &self.awaited
    }

    /// When the next decommissioning ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// A cluster whose addresses are to be taken back by `now`.
    pub fn ended(&self, now: Timestamp) -> Option<ClusterName> {
        let (end, name) = self.ends.first()?;
        (*end <= now).then(|| name.clone())
    }

    pub fn set(&mut self, record: Arc<ClusterRecord>) {
        let name = record.name.clone();
        self.awaited.remove(&name);
        if let Some(ClusterState::Decommissioned {
            release_at: Some(end),
        }) = self.state(&name)
        {
            self.ends.remove(&(end, name.clone()));
        }
        match record.state {
            ClusterState::Awaited => {
                self.awaited.insert(name.clone());
            }
            ClusterState::Unsynced
            | ClusterState::Synced
            | ClusterState::Decommissioned { release_at: None } => {}
            ClusterState::Decommissioned {
                release_at: Some(end),
            } => {
                self.ends.insert((end, name.clone()));
            }
        }
        self.records.insert(name, record);
    }
}
