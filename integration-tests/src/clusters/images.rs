//! The images that go into clusters, as archives for `kind load image-archive`.

use std::path::PathBuf;

use crate::{commands::script, scratch::Scratch};

/// The server that says who it is, for what answers behind an address.
pub const HELLO: &str = "kubernetes-lb-controller/hello:test";

/// Archives, which go with this value.
#[derive(Debug)]
pub struct Images(Scratch);

impl Images {
    /// Builds all of them.
    ///
    /// # Panics
    /// When one cannot be built.
    pub async fn build() -> Self {
        let folder = Scratch::new("images").unwrap_or_else(|error| panic!("{error:#}"));
        let this = Self(folder);
        let ours = script("deploy/build-images").args(["--output"]);
        ours.args([this.0.path()]).gives().await;
        let hello = script("integration-tests/hello/build").args([HELLO]);
        hello.args([this.hello()]).gives().await;
        this
    }

    /// lb-allocator and lb-watcher.
    #[must_use]
    pub fn ours(&self) -> [PathBuf; 2] {
        ["lb-allocator.tar", "lb-watcher.tar"].map(|name| self.0.path().join(name))
    }

    /// [`HELLO`].
    #[must_use]
    pub fn hello(&self) -> PathBuf {
        self.0.path().join("hello.tar")
    }
}
