use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "lballocator/v1/admin_service.proto",
    "lballocator/v1/allocation.proto",
    "lballocator/v1/allocator_service.proto",
    "lballocator/v1/pool_service.proto",
];

/// protox compiles the files in Rust, so that no protoc has to be installed.
fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("lballocator.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=lballocator");
    Ok(())
}
