//! What the allocator granted, read once from its answer. Pure.

use std::net::IpAddr;

use lb_proto::v1;
use tonic::Code;

use crate::{
    reason::{Reason, Refusal, Remedy},
    wish::parse_address,
};

/// The addresses a Service holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// At least one, in the order of the wish's families.
    pub held: Vec<Held>,
    /// Whether that is all that the policy demands.
    pub satisfied: bool,
    /// What of the wish was not granted.
    pub unmet: Vec<Refusal>,
}

/// One address that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The pool it was taken from.
    pub pool: String,
}

impl Grant {
    /// Reads an answer. A malformed one counts as no answer: it is the fault of
    /// the allocator or of something between.
    pub fn read(response: v1::AcquireResponse) -> Result<Self, Refusal> {
        let held = response
            .addresses
            .into_iter()
            .map(|held| {
                let address = parse_address(&held.address).ok_or_else(|| {
                    Refusal::new(
                        Reason::AllocatorUnavailable,
                        format_args!("the allocator answered {:?} for an address", held.address),
                    )
                })?;
                let pool = held.pool;
                Ok(Held { address, pool })
            })
            .collect::<Result<Vec<_>, Refusal>>()?;
        if held.is_empty() {
            return Err(Refusal::new(
                Reason::AllocatorUnavailable,
                "the allocator answered without an address",
            ));
        }
        let unmet = response
            .unmet
            .iter()
            .map(|unmet| Refusal::named(&unmet.reason, Code::FailedPrecondition, &unmet.message))
            .collect();
        Ok(Self {
            held,
            satisfied: response.satisfied,
            unmet,
        })
    }

    /// The addresses alone.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.held.iter().map(|held| held.address).collect()
    }

    /// What the Service still waits for.
    pub fn remedy(&self) -> Option<Remedy> {
        self.unmet.first().map(|refusal| refusal.remedy)
    }
}
