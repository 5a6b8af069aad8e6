//! The file that a database URL names. Everything that needs the file asks here, so
//! that the lock, the writer, its readers and a backup mean the same one.

use std::path::PathBuf;

use super::StoreError;

/// What begins every database URL.
const SCHEME: &str = "sqlite://";

/// The file of a database URL: all that follows `sqlite://`, as it is.
///
/// # Errors
/// If it is not of the form `sqlite://PATH`, or has in it what SQLite's own URLs give
/// a meaning: a parameter could ask for a database in memory, which is not durable,
/// and an escape would be one file to one reader of the URL and another one to the next.
pub fn file_of(url: &str) -> Result<PathBuf, StoreError> {
    let refused = |why| StoreError::Url {
        url: url.to_owned(),
        why,
    };
    let path = url
        .strip_prefix(SCHEME)
        .ok_or_else(|| refused("it does not begin with sqlite://"))?;
    let why = if path.is_empty() {
        "the path is missing"
    } else if path.starts_with(':') {
        "a database in memory is not durable"
    } else if path.starts_with("file:") {
        "the path is one of SQLite's own URLs"
    } else if path.contains('?') {
        "parameters are not supported"
    } else if path.contains('%') {
        "% is not supported in the path, nor are escapes"
    } else if path.contains('#') {
        "# is not supported in the path"
    } else if path.contains('\0') {
        "the path has a NUL character"
    } else {
        return Ok(PathBuf::from(path));
    };
    Err(refused(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_url_is_a_plain_path_and_all_else_is_refused_with_the_reason() {
        for (url, path) in [
            ("sqlite:///var/lib/lb.db", "/var/lib/lb.db"),
            ("sqlite://data/lb.db", "data/lb.db"),
            ("sqlite:///with space/ä.db", "/with space/ä.db"),
        ] {
            assert_eq!(file_of(url).unwrap(), PathBuf::from(path));
        }
        for (url, why) in [
            ("postgres://x", "does not begin with sqlite://"),
            ("sqlite::memory:", "does not begin with sqlite://"),
            ("sqlite://", "the path is missing"),
            ("sqlite://:memory:", "in memory"),
            ("sqlite:///x.db?mode=memory", "parameters"),
            ("sqlite:///x.db?mode=rwc", "parameters"),
            ("sqlite:///x.db?immutable=1&vfs=unix-none", "parameters"),
            ("sqlite:///x.db?", "parameters"),
            ("sqlite:///%41.db", "escapes"),
            ("sqlite:///100%.db", "% is not supported"),
            ("sqlite:///x.db#y", "# is not supported"),
            ("sqlite://file:x.db", "SQLite's own URLs"),
        ] {
            let text = file_of(url).unwrap_err().to_string();
            assert!(text.contains(why), "{url}: {text}");
            assert!(text.contains("write sqlite:///absolute/path"), "{text}");
        }
    }
}
