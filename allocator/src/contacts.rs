//! What was heard of clusters since the start of this process: when they called, who was
//! refused for using the name of another one, and who showed what is not so. There is an
//! entry only for clusters that something was committed of.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::engine::{ClusterName, Timestamp, Uid};

/// The log repeats itself at most this often about a cluster.
const REPEAT: Duration = Duration::from_secs(60);

/// What was heard of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// It told what it has.
    pub synced_at: Option<Timestamp>,
    /// It came with its uid.
    pub heard_at: Option<Timestamp>,
    /// Who was refused last, since the name was last taken over.
    pub refused: Option<Refused>,
    /// How many requests were refused.
    pub refusals: u64,
    pub false_marks: u64,
    pub false_mark_at: Option<Timestamp>,
    pub proved_loss_at: Option<Timestamp>,
    warned_at: Option<Timestamp>,
}

/// A cluster that used the name of another one, or that has another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub uid: Uid,
    /// The name that it used.
    pub name: ClusterName,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub count: u64,
}

#[derive(Debug, Default)]
pub struct Contacts(Mutex<BTreeMap<ClusterName, Contact>>);

impl Contacts {
    pub fn of(&self, cluster: &ClusterName) -> Contact {
        self.0.lock().get(cluster).cloned().unwrap_or_default()
    }

    pub fn synced(&self, cluster: &ClusterName, now: Timestamp) {
        self.note(cluster, |contact| contact.synced_at = Some(now));
    }

    pub fn heard(&self, cluster: &ClusterName, now: Timestamp) {
        self.note(cluster, |contact| contact.heard_at = Some(now));
    }

    pub fn proved_loss(&self, cluster: &ClusterName, now: Timestamp) {
        self.note(cluster, |contact| contact.proved_loss_at = Some(now));
    }

    /// Another cluster has the name now: who was refused for that is not any more.
    pub fn taken_over(&self, cluster: &ClusterName) {
        self.note(cluster, |contact| {
            contact.refused = None;
            contact.heard_at = None;
        });
    }

    /// Somebody showed a mark that nobody made. Whether the log should say so.
    pub fn showed_false_mark(&self, cluster: &ClusterName, now: Timestamp) -> bool {
        self.note(cluster, |contact| {
            contact.false_marks += 1;
            contact.false_mark_at = Some(now);
            contact.warns(now)
        })
    }

    /// The cluster of `uid` was refused, because `cluster` is known with another uid or as
    /// another name than `name`. Whether the log should say so.
    pub fn refused(
        &self,
        cluster: &ClusterName,
        name: &ClusterName,
        uid: &Uid,
        now: Timestamp,
    ) -> bool {
        self.note(cluster, |contact| {
            contact.refusals += 1;
            let before = contact.refused.take();
            let before = before.filter(|before| before.uid == *uid && before.name == *name);
            let is_new = before.is_none();
            contact.refused = Some(Refused {
                uid: uid.clone(),
                name: name.clone(),
                first_at: before.as_ref().map_or(now, |before| before.first_at),
                last_at: now,
                count: before.map_or(0, |before| before.count) + 1,
            });
            contact.warns(now) || is_new
        })
    }

    fn note<T>(&self, cluster: &ClusterName, change: impl FnOnce(&mut Contact) -> T) -> T {
        let mut contacts = self.0.lock();
        match contacts.get_mut(cluster) {
            Some(contact) => change(contact),
            None => change(contacts.entry(cluster.clone()).or_default()),
        }
    }
}

impl Contact {
    fn warns(&mut self, now: Timestamp) -> bool {
        let is_due = self.warned_at.is_none_or(|at| now >= at.after(REPEAT));
        if is_due {
            self.warned_at = Some(now);
        }
        is_due
    }
}
