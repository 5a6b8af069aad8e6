//! The socket for gRPC.

use std::{
    io,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::TcpIncoming;

use crate::args::Listen;

/// Why nothing can be answered.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot listen on {listen}; is another process there already?")]
    Bind { listen: Listen, source: io::Error },
    #[error("{} exists and is no socket; give another path", path.display())]
    NotASocket { path: PathBuf },
}

/// Connections to come.
pub enum Incoming {
    Tcp(TcpIncoming),
    Unix(UnixListenerStream),
}

/// Must be called inside a tokio runtime.
///
/// # Errors
/// If the address is taken, or is not ours to take.
pub fn bind(listen: &Listen) -> Result<Incoming, ListenError> {
    let failed = |source| ListenError::Bind {
        listen: listen.clone(),
        source,
    };
    match listen {
        // Without TCP_NODELAY small answers wait up to 40 ms for a delayed ACK.
        Listen::Tcp(address) => Ok(Incoming::Tcp(
            TcpIncoming::bind(*address)
                .map_err(failed)?
                .with_nodelay(Some(true)),
        )),
        Listen::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path).map_err(failed)?;
            Ok(Incoming::Unix(UnixListenerStream::new(listener)))
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
