//! How long an RPC may take: as long as its caller says, and no longer than the
//! allocator allows.

use std::time::Duration;

use http::HeaderMap;

use super::TIMEOUT;
use crate::auth::Rpc;

/// A Sync sends what a whole cluster has, over whatever network; each of its messages
/// has [`TIMEOUT`].
const SYNC: Duration = Duration::from_secs(10 * 60);
const HEADER: &str = "grpc-timeout";

/// What the RPC is given. tonic has the same timer and answers CANCELLED; a timer that
/// is made from this before tonic's own ends no later, and is looked at first.
pub fn of(headers: &HeaderMap, rpc: Option<Rpc>) -> Duration {
    let allowed = match rpc {
        Some(Rpc::Sync) => SYNC,
        Some(_) | None => TIMEOUT,
    };
    asked(headers).map_or(allowed, |asked| asked.min(allowed))
}

/// What the caller says; nothing where it is none of gRPC's.
fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let unit = text.get(text.len().checked_sub(1)?..)?;
    let digits = text.strip_suffix(unit)?;
    // So many at most, by the protocol.
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 60 * 60),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_the_caller_counts_where_it_is_shorter() {
        for (header, expected) in [
            ("100m", Duration::from_millis(100)),
            ("3S", Duration::from_secs(3)),
            ("0n", Duration::ZERO),
            ("99999999u", TIMEOUT),
            ("1H", TIMEOUT),
            ("100000000m", TIMEOUT),
            ("", TIMEOUT),
            ("S", TIMEOUT),
            ("+5S", TIMEOUT),
            ("5s", TIMEOUT),
            ("5\u{e4}", TIMEOUT),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, header.try_into().unwrap());
            assert_eq!(of(&headers, Some(Rpc::Acquire)), expected, "{header:?}");
        }
        assert_eq!(of(&HeaderMap::new(), None), TIMEOUT);
    }
}
