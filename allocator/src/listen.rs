//! The socket for gRPC, and who may reach it how.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use lb_tls::files::Files;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use crate::{args::Listen, connections::Listener, tls::Handshakes};

/// Why the gRPC port cannot be served.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot listen on {listen}; is another process there already?")]
    Bind { listen: Listen, source: io::Error },
    #[error(
        "refusing to serve {listen} without TLS, because every client would have full access; set \
         --tls-cert, --tls-key and --client-ca (lb-allocator certs makes such files), or \
         --insecure-plaintext if the network itself keeps other clients out"
    )]
    Exposed { listen: Listen },
    #[error("{listen} needs no TLS, because its file permissions protect it; remove --tls-cert")]
    TlsOnSocket { listen: Listen },
    #[error("--insecure-plaintext and --tls-cert contradict each other; remove one")]
    Contradiction,
    #[error("{} exists and is not a socket; choose another path", path.display())]
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
            if let Ok(metadata) = path.symlink_metadata() {
                if !metadata.file_type().is_socket() {
                    return Err(ListenError::NotASocket {
                        path: path.to_owned(),
                    });
                }
                // One that nobody answers on is left over from a process that was killed.
                if UnixStream::connect(path).is_ok() {
                    return Err(failed(ErrorKind::AddrInUse.into()));
                }
            }
            bind_private(path).map(Listener::Unix).map_err(failed)
        }
    }
}

/// A socket for its owner alone, whatever the umask. Its mode is set where nobody else
/// gets to, and it is at its path from then on: nobody can connect in between.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    // A short name: a path of a socket has 108 bytes at most.
    let private = tempfile::Builder::new()
        .prefix(".")
        .rand_bytes(6)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent.unwrap_or(Path::new(".")))?;
    let socket = private.path().join("s");
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
    fs::rename(&socket, path)?;
    Ok(listener)
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
