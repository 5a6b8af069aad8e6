//! The bearer token that is read from a file, with the white space around it left out, as
//! kubectl does: editors and shells end a file with a new-line, and no header can carry one.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, header::AUTHORIZATION};
use kube::config::AuthInfo;
use parking_lot::Mutex;
use tracing::warn;

/// Tokens are made anew in place, and the old one is good for a while.
const LIFETIME: Duration = Duration::from_secs(60);

/// Takes the file out of what kube is to authenticate with, which would send it as it is.
pub fn take_file(auth: &mut AuthInfo) -> Option<PathBuf> {
    // In kube's order of precedence.
    let first = auth.token.is_some() || auth.username.is_some() || auth.auth_provider.is_some();
    let file = auth.token_file.take_if(|_| !first)?;
    Some(file.into())
}

/// Puts the token on each request.
#[derive(Clone, Debug)]
pub struct Bearer {
    file: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    header: HeaderValue,
    until: Instant,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The file cannot be read.
    #[error("cannot read the token file {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It has something else in it.
    #[error(
        "the token file {0} is empty, or has more than one line or other characters than a token has"
    )]
    Malformed(PathBuf),
}

impl Bearer {
    /// With the token that the file has now.
    ///
    /// # Errors
    /// When it has none.
    pub fn read_from(file: PathBuf) -> Result<Self, BearerError> {
        let state = State {
            header: read(&file)?,
            until: Instant::now() + LIFETIME,
        };
        let state = Arc::new(Mutex::new(state));
        Ok(Self { file, state })
    }

    /// Puts the token on a request.
    pub fn sign<B>(&self, mut request: Request<B>) -> Request<B> {
        let header = self.state.lock().current(&self.file);
        request.headers_mut().insert(AUTHORIZATION, header);
        request
    }
}

impl State {
    /// Where the file cannot be read again, the last token is good as long as it is.
    fn current(&mut self, file: &PathBuf) -> HeaderValue {
        let now = Instant::now();
        if now >= self.until {
            self.until = now + LIFETIME;
            match read(file) {
                Ok(header) => self.header = header,
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "the last token is used once more"
                ),
            }
        }
        self.header.clone()
    }
}

fn read(file: &PathBuf) -> Result<HeaderValue, BearerError> {
    let text = fs::read_to_string(file).map_err(|error| BearerError::Read(file.clone(), error))?;
    let token = text.trim();
    let malformed = || BearerError::Malformed(file.clone());
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(malformed());
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| malformed())?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<String, BearerError> {
        let file = std::env::temp_dir().join(format!("token-{:016x}", fastrand::u64(..)));
        fs::write(&file, text).unwrap();
        let bearer = Bearer::read_from(file.clone());
        fs::remove_file(&file).unwrap();
        let request = bearer?.sign(Request::new(()));
        Ok(request.headers()[AUTHORIZATION]
            .to_str()
            .unwrap()
            .to_owned())
    }

    #[test]
    fn the_white_space_around_a_token_is_not_part_of_it() {
        for text in ["abc.def", "abc.def\n", " abc.def\r\n\n"] {
            assert_eq!(header(text).unwrap(), "Bearer abc.def", "{text:?}");
        }
        for text in ["", "\n", "two\nlines", "\u{1}"] {
            assert!(header(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_token_file_counts_where_nothing_else_comes_first() {
        let auth = |fields: AuthInfo| AuthInfo {
            token_file: Some("/f".into()),
            ..fields
        };
        let mut alone = auth(AuthInfo::default());
        assert_eq!(take_file(&mut alone), Some(PathBuf::from("/f")));
        assert_eq!(alone.token_file, None);
        let mut second = auth(AuthInfo {
            username: Some("u".into()),
            ..AuthInfo::default()
        });
        assert_eq!(take_file(&mut second), None);
        assert!(second.token_file.is_some());
    }
}
