//! The socket for gRPC, and who may reach it how.

use std::{
    io,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use lb_tls::files::Files;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use crate::{args::Listen, connections::Listener, tls::Handshakes};

/// Why nothing can be answered.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot listen on {listen}; is another process there already?")]
    Bind { listen: Listen, source: io::Error },
    #[error(
        "others than this machine may connect to {listen}, and may do everything there without \
         TLS; give --tls-cert, --tls-key and --client-ca (lb-allocator certs makes some), or \
         say --insecure-plaintext where the network itself keeps others out"
    )]
    Exposed { listen: Listen },
    #[error("{listen} needs no TLS, its file permissions protect it; leave out --tls-cert")]
    TlsOnSocket { listen: Listen },
    #[error("--insecure-plaintext and --tls-cert contradict each other; leave out one")]
    Contradiction,
    #[error("{} exists and is no socket; give another path", path.display())]
    NotASocket { path: PathBuf },
}

/// What protects the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Certificates on both sides.
    Tls(Files),
    /// Only this machine reaches it.
    Local,
    /// Nothing: whoever reaches it may do everything.
    None,
}

/// # Errors
/// If nothing would protect it and nobody said that this is meant.
pub fn protection(
    listen: &Listen,
    files: Option<Files>,
    insecure_plaintext: bool,
) -> Result<Protection, ListenError> {
    match (listen, files) {
        (Listen::Unix(_), Some(_)) => Err(ListenError::TlsOnSocket {
            listen: listen.clone(),
        }),
        (Listen::Tcp(_), Some(_)) if insecure_plaintext => Err(ListenError::Contradiction),
        (Listen::Tcp(_), Some(files)) => Ok(Protection::Tls(files)),
        (Listen::Unix(_), None) => Ok(Protection::Local),
        (Listen::Tcp(address), None) if address.ip().to_canonical().is_loopback() => {
            Ok(Protection::Local)
        }
        (Listen::Tcp(_), None) if insecure_plaintext => Ok(Protection::None),
        (Listen::Tcp(_), None) => Err(ListenError::Exposed {
            listen: listen.clone(),
        }),
    }
}

/// Must be called inside a tokio runtime.
///
/// # Errors
/// If the address is taken, or is not ours to take.
pub async fn bind(
    listen: &Listen,
    handshakes: Option<Handshakes>,
) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Bind {
        listen: listen.clone(),
        source,
    };
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            Ok(match handshakes {
                Some(handshakes) => Listener::Tls(listener, handshakes),
                None => Listener::Tcp(listener),
            })
        }
        Listen::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path).map_err(failed)?;
            Ok(Listener::Unix(listener))
        }
    }
}

/// A socket that nobody answers on is left over from a process that was killed.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            path: path.to_owned(),
        });
    }
    if UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).map_err(|source| ListenError::Bind {
            listen: Listen::Unix(path.to_owned()),
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_this_machine_is_served_unless_somebody_insists() {
        let files = || {
            Some(Files {
                cert: "c".into(),
                key: "k".into(),
                ca: "a".into(),
            })
        };
        let check = |listen: &str, files, insecure| {
            let listen = listen.parse().unwrap();
            protection(&listen, files, insecure)
        };
        for local in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "unix:///x",
        ] {
            for insecure in [false, true] {
                let protection = check(local, None, insecure).unwrap();
                assert_eq!(protection, Protection::Local, "{local}");
            }
        }
        for open in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            let refused = check(open, None, false).unwrap_err().to_string();
            assert!(refused.contains("--insecure-plaintext"), "{refused}");
            assert_eq!(check(open, None, true).unwrap(), Protection::None);
            let tls = check(open, files(), false).unwrap();
            assert_eq!(tls, Protection::Tls(files().unwrap()));
            assert!(check(open, files(), true).is_err());
        }
        let tls = check("127.0.0.1:1", files(), false).unwrap();
        assert_eq!(tls, Protection::Tls(files().unwrap()));
        assert!(check("unix:///x", files(), false).is_err());
    }
}
