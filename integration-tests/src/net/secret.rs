//! Certificate files as Kubernetes mounts a Secret: links to links, which change
//! to other contents all at once.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use lb_tls::files::Files;

use crate::{certificates::Identity, scratch::Scratch};

/// The files of one side.
#[derive(Debug)]
pub struct Secret {
    folder: Scratch,
    version: AtomicUsize,
}

impl Secret {
    /// With a certificate, its key, and the authorities of the other side.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn new(identity: &Identity, authorities: &str) -> Self {
        let made = Scratch::new("secret").and_then(|folder| {
            for name in ["tls.crt", "tls.key", "ca.crt"] {
                symlink(format!("..data/{name}"), folder.path().join(name))?;
            }
            Ok(folder)
        });
        match made {
            Ok(folder) => {
                let this = Self {
                    folder,
                    version: AtomicUsize::new(0),
                };
                this.swap(identity, authorities);
                this
            }
            Err(error) => panic!("a secret cannot be made: {error:#}"),
        }
    }

    /// Puts others in their place.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn swap(&self, identity: &Identity, authorities: &str) {
        if let Err(error) = self.try_swap(identity, authorities) {
            panic!("a secret cannot be changed: {error:#}");
        }
    }

    fn try_swap(&self, identity: &Identity, authorities: &str) -> Result<()> {
        let folder = self.folder.path();
        let version = format!("..v{}", self.version.fetch_add(1, Ordering::Relaxed));
        let contents = folder.join(&version);
        fs::create_dir(&contents)?;
        fs::write(contents.join("tls.crt"), &identity.certificate)?;
        fs::write(contents.join("tls.key"), &identity.key)?;
        fs::write(contents.join("ca.crt"), authorities)?;
        let link = folder.join("..new");
        symlink(&version, &link)?;
        fs::rename(link, folder.join("..data"))?;
        Ok(())
    }

    /// Where they are.
    #[must_use]
    pub fn files(&self) -> Files {
        files_in(self.folder())
    }

    /// The folder that has them.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The files of a secret in this folder.
#[must_use]
pub fn files_in(folder: &Path) -> Files {
    Files {
        cert: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        ca: folder.join("ca.crt"),
    }
}
