//! Volumes that outlive containers.

use integration_tests::namespace::random_name;
use testcontainers::core::Mount;

use crate::container::docker;

/// Where the image has its database.
const DATABASE: &str = "/var/lib/lb-allocator";

/// Removed with this value: the containers that have it must be gone before.
pub struct Volume(String);

impl Volume {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// In memory, with no more room than that. It is empty whenever nobody has it.
    pub fn of_size(size: &str) -> Self {
        let options = format!("o=size={size},uid=65532,gid=65532");
        let of_memory = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt"];
        Self::with(&[&of_memory[..], &[&options]].concat())
    }

    fn with(options: &[&str]) -> Self {
        let name = random_name("lb-containers");
        let args = [&["volume", "create"], options, &[&name]].concat();
        docker(&args).unwrap();
        Self(name)
    }

    pub fn mount(&self) -> Mount {
        Mount::volume_mount(&*self.0, DATABASE)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let removed = docker(&["volume", "rm", "--force", &self.0]);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}
