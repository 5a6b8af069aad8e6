//! Errors for people.

use std::error::Error;

/// An error and its causes in one line. Where a library repeats a cause in its own text, that
/// cause is written once.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("cannot read the file")]
    struct Plain(#[source] io::Error);

    #[derive(Debug, Error)]
    #[error("cannot read the file: {0}")]
    struct Repeating(#[source] io::Error);

    #[test]
    fn each_cause_is_written_once() {
        let cause = || io::Error::other("it is gone");
        let expected = "cannot read the file: it is gone";
        assert_eq!(in_one_line(&Plain(cause())), expected);
        assert_eq!(in_one_line(&Repeating(cause())), expected);
    }
}
