//! What the allocator granted, read once from its answer. Pure.

use std::net::IpAddr;

use lb_proto::v1;

use crate::{
    denial::{Denial, Retry, is_reason},
    request::parse_address,
};

/// The addresses a Service holds, and what its condition says of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// At least one, in the order of the request's families.
    pub addresses: Vec<IpAddr>,
    /// Whether that is all that the policy demands.
    pub satisfied: bool,
    /// `Satisfied`, or why not.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When to ask for more.
    pub retry: Retry,
}

impl Grant {
    /// Reads an answer. A malformed one counts as no answer: it is the fault of
    /// the allocator or of something between.
    pub fn read(response: v1::AcquireResponse) -> Result<Self, Denial> {
        let Some(told) = response.instructions else {
            return Err(Denial::no_answer("it granted without instructions"));
        };
        let retry = told.retry().into();
        let addresses = told.addresses.iter().map(|text| {
            parse_address(text)
                .ok_or_else(|| Denial::no_answer(format_args!("{text:?} for an address")))
        });
        let addresses = addresses.collect::<Result<Vec<_>, Denial>>()?;
        let is_word = told.satisfied || is_reason(&told.reason);
        if addresses.is_empty() || !is_word {
            return Err(Denial::no_answer("it granted no address"));
        }
        Ok(Self {
            addresses,
            satisfied: told.satisfied,
            reason: told.reason,
            message: told.message,
            retry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(addresses: &[&str], satisfied: bool, reason: &str) -> v1::AcquireResponse {
        let told = v1::Instructions {
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            satisfied,
            reason: reason.to_owned(),
            message: "words".to_owned(),
            retry: v1::Retry::OnNotice.into(),
            ..v1::Instructions::default()
        };
        v1::AcquireResponse {
            instructions: Some(told),
            ..v1::AcquireResponse::default()
        }
    }

    #[test]
    fn a_grant_is_copied_whatever_the_reason_is_why_it_is_not_all() {
        for (satisfied, reason) in [(true, "Satisfied"), (false, "OF_TOMORROW")] {
            let grant = Grant::read(answer(&["192.0.2.1"], satisfied, reason)).unwrap();
            assert_eq!(grant.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
            assert_eq!((grant.satisfied, &*grant.reason), (satisfied, reason));
            assert_eq!((&*grant.message, grant.retry), ("words", Retry::OnNotice));
        }
    }

    #[test]
    fn a_grant_that_cannot_be_read_counts_as_no_answer() {
        for answer in [
            v1::AcquireResponse::default(),
            answer(&[], true, "Satisfied"),
            answer(&["nonsense"], true, "Satisfied"),
            answer(&["192.0.2.1"], false, "not a word"),
        ] {
            let denial = Grant::read(answer).unwrap_err();
            assert_eq!(denial.reason, "ALLOCATOR_UNAVAILABLE");
        }
    }
}
