//! The contract of lb-allocator: messages, clients and servers generated from
//! `lballocator/v1/*.proto`. The prose is in those files: start reading at
//! `allocator_service.proto`.

/// `lballocator.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    tonic::include_proto!("lballocator.v1");
}

/// The compiled files, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lballocator.bin"));

/// `google.rpc.ErrorInfo.domain` of every refusal.
pub const ERROR_DOMAIN: &str = "lb-allocator.io";

/// `type_url` of [`v1::Instructions`] in the details of a refusal.
pub const INSTRUCTIONS_TYPE: &str = "type.googleapis.com/lballocator.v1.Instructions";
