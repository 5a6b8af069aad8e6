//! The stream of Sync: nothing counts before its last message.

use std::{collections::HashSet, sync::Arc};

use lb_proto::v1::{self, sync_request::Part};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, Streaming};

use super::{
    TIMEOUT,
    fault::{deadline_exceeded, invalid, overloaded},
    request::{self, at_most},
};
use crate::{
    engine::{Acquire, Claim, ClusterName, Loss, Revision, ServiceKey, Sync, Synced},
    mark::{Marks, Shown},
};

const MAX_SERVICES: usize = 200_000;
/// Of the messages of one Sync.
pub const MAX_BYTES: usize = 128 * MIB;
/// Of all at one time.
pub const MAX_BYTES_OF_ALL: usize = 256 * MIB;
const MIB: usize = 1024 * 1024;
/// Room is taken in pieces of so many bytes.
const PIECE: usize = 1024;
/// Services in one message of the answer.
const PAGE: usize = 1000;

type Messages = Streaming<v1::SyncRequest>;

/// The first message.
pub struct Begun {
    /// The cluster.
    pub name: ClusterName,
    /// Who says that it is its own.
    pub claim: Option<Claim>,
    /// What it shows as a mark.
    pub mark: Shown,
    seen: Option<Revision>,
}

/// What all streams together may gather; a clone is the same.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BYTES_OF_ALL / PIECE)))
    }
}

/// What a stream has told so far.
struct Gathered {
    begun: Begun,
    services: Vec<Acquire>,
    keys: HashSet<Arc<ServiceKey>>,
    bytes: usize,
    taken: OwnedSemaphorePermit,
}

/// Reads whose stream it is.
pub async fn begin(mut stream: Messages, marks: &Marks) -> Result<(Begun, Messages), Status> {
    let first = tokio::time::timeout(TIMEOUT, stream.message()).await;
    let first = first.map_err(|_| deadline_exceeded())??;
    let first = first.and_then(|message| message.part);
    let Some(Part::Begin(begin)) = first else {
        return Err(invalid("begin", "has to come first"));
    };
    let name = request::cluster("begin.cluster", &begin.cluster)?;
    let begun = Begun {
        claim: request::claim(&name, &begin.cluster_uid)?,
        mark: marks.read(&begin.mark),
        name,
        seen: Some(Revision(begin.seen_revision)).filter(|seen| seen.0 > 0),
    };
    Ok((begun, stream))
}

/// Reads the rest of it. `now` is how far the database has come. The room is taken until
/// the permit is dropped.
pub async fn gather(
    begun: Begun,
    now: Revision,
    mut stream: Messages,
    room: &Room,
) -> Result<(Sync, OwnedSemaphorePermit), Status> {
    let mut gathered = Gathered {
        begun,
        services: Vec::new(),
        keys: HashSet::new(),
        bytes: 0,
        taken: room.take(0)?,
    };
    loop {
        let message = tokio::time::timeout(TIMEOUT, stream.message()).await;
        let message = message.map_err(|_| deadline_exceeded())??;
        match message.and_then(|message| message.part) {
            Some(Part::Services(services)) => {
                gathered.make_room(services.encoded_len(), room)?;
                gathered.add(services)?;
            }
            Some(Part::End(end)) => return gathered.end(end.count, now),
            Some(Part::Begin(_)) => return Err(invalid("begin", "came twice")),
            None => return Err(invalid("end", "is missing: the stream was cut short")),
        }
    }
}

impl Room {
    fn take(&self, pieces: usize) -> Result<OwnedSemaphorePermit, Status> {
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.0).try_acquire_many_owned(pieces);
        taken.map_err(|_| overloaded())
    }
}

impl Gathered {
    fn make_room(&mut self, bytes: usize, room: &Room) -> Result<(), Status> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            let message = format!("has more than {MAX_BYTES} bytes in all");
            return Err(invalid("services.services", message));
        }
        let pieces = self.bytes.div_ceil(PIECE) - self.taken.num_permits();
        self.taken.merge(room.take(pieces)?);
        Ok(())
    }

    fn add(&mut self, part: v1::sync_request::Services) -> Result<(), Status> {
        let field = "services.services";
        at_most(
            field,
            self.services.len() + part.services.len(),
            MAX_SERVICES,
        )?;
        for service in part.services {
            let acquire = request::present(service)?;
            if acquire.key.cluster != self.begun.name {
                let message = format!("{} is not of cluster {}", acquire.key, self.begun.name);
                return Err(invalid(field, message));
            }
            if !self.keys.insert(Arc::clone(&acquire.key)) {
                return Err(invalid(field, format!("{} came twice", acquire.key)));
            }
            self.services.push(acquire);
        }
        Ok(())
    }

    fn end(self, count: i64, now: Revision) -> Result<(Sync, OwnedSemaphorePermit), Status> {
        let came = self.services.len();
        if usize::try_from(count) != Ok(came) {
            return Err(invalid(
                "end.count",
                format!("{count} were sent, {came} came"),
            ));
        }
        let sync = Sync {
            cluster: self.begun.name,
            services: self.services,
            seen: self.begun.seen,
            proves: match self.begun.mark {
                Shown::Ours(revision) => (revision > now).then_some(Loss::Restored),
                Shown::OfAnother => Some(Loss::Another),
                Shown::Nothing | Shown::False => None,
            },
        };
        Ok((sync, self.taken))
    }
}

/// The answer; at least one page, for its revision, and the mark of that on the last one.
pub fn pages(synced: &[Synced], revision: Revision, mark: String) -> Vec<v1::SyncResponse> {
    let page = |synced: &[Synced]| v1::SyncResponse {
        revision: revision.0,
        services: synced.iter().map(super::convert::synced).collect(),
        mark: String::new(),
    };
    let mut pages: Vec<_> = synced.chunks(PAGE).map(page).collect();
    if pages.is_empty() {
        pages.push(page(&[]));
    }
    if let Some(last) = pages.last_mut() {
        last.mark = mark;
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_syncs_gather_together_is_limited_and_given_back() {
        let room = Room::default();
        let gathered = || Gathered {
            begun: Begun {
                name: ClusterName::parse("one").unwrap(),
                claim: None,
                mark: Shown::Nothing,
                seen: None,
            },
            services: Vec::new(),
            keys: HashSet::new(),
            bytes: 0,
            taken: room.take(0).unwrap(),
        };
        let (mut one, mut other, mut late) = (gathered(), gathered(), gathered());
        for _ in 0..MAX_BYTES / MIB {
            one.make_room(MIB, &room).unwrap();
            other.make_room(MIB, &room).unwrap();
        }
        let too_much = one.make_room(1, &room).unwrap_err();
        assert_eq!(too_much.code(), tonic::Code::InvalidArgument);
        let full = late.make_room(1, &room).unwrap_err();
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
        drop(other);
        late.make_room(1, &room).unwrap();
    }
}
