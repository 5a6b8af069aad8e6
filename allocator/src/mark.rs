//! Marks: how far a database has come, in a form that nobody else can make. A cluster that
//! shows one that is ahead of the database proves that the database was restored from a
//! backup; a bare number would prove nothing, and anybody can send one.
//!
//! ```text
//!   database id . revision . HMAC-SHA256 of both, by a secret of the database
//! ```

use std::{fmt, sync::Arc};

use ring::hmac;

use crate::engine::Revision;

/// Bytes of a database's id, and of a mark's end.
const ID: usize = 16;
const MAC: usize = 32;

/// What a database is known by, made with it and copied with it.
#[derive(Clone)]
pub struct DatabaseIdentity {
    /// Lower-case hexadecimal.
    pub id: String,
    pub secret: Vec<u8>,
}

/// Makes marks of one database, and knows them again.
#[derive(Clone)]
pub struct Marks(Arc<Database>);

struct Database {
    id: String,
    key: hmac::Key,
}

/// What a text that should be a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    /// A true mark of this database.
    Ours(Revision),
    /// A mark of another database, true or not.
    OfAnother,
    /// None that this database made, though it says so, or none at all.
    False,
}

impl Marks {
    pub fn new(identity: &DatabaseIdentity) -> Self {
        let DatabaseIdentity { id, secret } = identity;
        Self(Arc::new(Database {
            id: id.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }))
    }

    /// The mark of this revision.
    pub fn of(&self, Revision(revision): Revision) -> String {
        let Database { id, key } = &*self.0;
        let told = format!("{id}.{revision}");
        let mac = hmac::sign(key, told.as_bytes());
        format!("{told}.{}", hex(mac.as_ref()))
    }

    pub fn read(&self, text: &str) -> Shown {
        if text.is_empty() {
            return Shown::Nothing;
        }
        let Database { id, key } = &*self.0;
        let Some((told, mac)) = text.rsplit_once('.') else {
            return Shown::False;
        };
        let (Some((of, revision)), Some(mac)) = (told.split_once('.'), unhex(mac, MAC)) else {
            return Shown::False;
        };
        let (Ok(revision), Some(_)) = (revision.parse(), unhex(of, ID)) else {
            return Shown::False;
        };
        if of != id {
            return Shown::OfAnother;
        }
        match hmac::verify(key, told.as_bytes(), &mac) {
            Ok(()) => Shown::Ours(Revision(revision)),
            Err(ring::error::Unspecified) => Shown::False,
        }
    }
}

/// Without the secret.
impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Marks").field(&self.0.id).finish()
    }
}

impl fmt::Debug for DatabaseIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DatabaseIdentity").field(&self.id).finish()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` unless it is this many bytes.
fn unhex(text: &str, length: usize) -> Option<Vec<u8>> {
    let is_hex = text.len() == 2 * length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = text.as_bytes().chunks(2).filter(|_| is_hex);
    let bytes: Vec<u8> = digits
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    (bytes.len() == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(id: u8, secret: u8) -> Marks {
        Marks::new(&DatabaseIdentity {
            id: hex(&[id; ID]),
            secret: vec![secret; 32],
        })
    }

    #[test]
    fn a_mark_tells_its_revision_to_the_database_that_made_it_and_to_a_copy() {
        let mark = marks(1, 1).of(Revision(42));
        assert!(mark.len() <= 256, "{mark}");
        assert_eq!(marks(1, 1).read(&mark), Shown::Ours(Revision(42)));
        assert_eq!(marks(2, 2).read(&mark), Shown::OfAnother);
        assert_eq!(marks(1, 1).read(""), Shown::Nothing);
    }

    #[test]
    fn a_mark_that_somebody_else_made_is_false() {
        let ours = marks(1, 1);
        let mark = ours.of(Revision(42));
        let (told, mac) = mark.rsplit_once('.').unwrap();
        let (id, _) = told.split_once('.').unwrap();
        for forged in [
            marks(1, 2).of(Revision(42)),
            format!("{id}.43.{mac}"),
            format!("{id}.042.{mac}"),
            format!("{id}.{mac}"),
            format!("{told}.{}", &mac[2..]),
            format!("{told}.{}é", &mac[2..]),
            format!("{told}."),
            "9223372036854775807".to_owned(),
            ".".to_owned(),
            format!("x.9223372036854775807.{mac}"),
        ] {
            assert_eq!(ours.read(&forged), Shown::False, "{forged}");
        }
    }
}
