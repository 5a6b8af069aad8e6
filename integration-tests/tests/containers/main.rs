//! The images by themselves, each in a container of its own. Needs a Docker engine and
//! the images that `deploy/build-images` builds; `cargo test` runs these only when they
//! are asked for, with `--test containers`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod container;
mod durability;
mod full_volume;
mod image;
mod inside;
mod names;
mod start;
mod tls;
mod volume;
