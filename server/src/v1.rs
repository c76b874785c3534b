//! The package `ledger.v1`: messages, clients, and the traits that servers implement, generated
//! from `proto/ledger/v1/`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated; the comments of the protos are its documentation"
)]

tonic::include_proto!("ledger.v1");

/// The protos in compiled form, as reflection serves them: an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("ledger.v1");
