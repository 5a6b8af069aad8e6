//! Who waits for an address, as far as they asked since the start: for telling
//! what another configuration would do for them, and them of an address that is
//! reserved for them.

use std::{collections::BTreeMap, sync::Arc};

use crate::engine::{Acquire, Command, Reply, ServiceKey};

/// Beyond this many, further ones are not remembered.
const LIMIT: usize = 100_000;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Pending(BTreeMap<Arc<ServiceKey>, Acquire>);

impl Pending {
    /// Takes note of what a command came to.
    pub fn note(&mut self, command: Command, reply: &Reply) {
        match command {
            Command::Acquire(acquire) => {
                let waits = match reply {
                    Reply::Refused(_) => true,
                    Reply::Acquired(acquired) => !acquired.unmet.is_empty(),
                    Reply::Released(_) | Reply::Reserved(_) | Reply::Unreserved(_) => false,
                };
                if !waits {
                    self.0.remove(&acquire.key);
                } else if self.0.len() < LIMIT || self.0.contains_key(&acquire.key) {
                    self.0.insert(Arc::clone(&acquire.key), acquire);
                }
            }
            Command::Release(release) => {
                self.0.remove(&release.key);
            }
            Command::Reserve(_) | Command::Unreserve(_) => {}
        }
    }

    /// Whether this is a reservation for somebody who waits.
    pub fn is_served_by(&self, reply: &Reply) -> bool {
        match reply {
            Reply::Reserved(reservation) => {
                let key = reservation.key.as_ref();
                key.is_some_and(|key| self.0.contains_key(key))
            }
            Reply::Acquired(_) | Reply::Refused(_) | Reply::Released(_) | Reply::Unreserved(_) => {
                false
            }
        }
    }

    /// In the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = &Acquire> {
        self.0.values()
    }
}
