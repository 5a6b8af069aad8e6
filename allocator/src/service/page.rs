//! Pages of a list: how large, and where the next one starts.

use tonic::Status;

use super::fault::invalid;

const DEFAULT_SIZE: usize = 100;
pub const MAX_SIZE: usize = 1000;
/// Entries that one call looks at, however few of them its filter lets through,
/// so that no call is expensive.
pub const MAX_SCAN: usize = 10_000;

pub fn size(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Err(_) => Err(invalid("page_size", "is negative")),
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
    }
}

pub fn bad_token(token: &str) -> Status {
    invalid(
        "page_token",
        format!("{token:?} is not a page_token of this list"),
    )
}
