//! Generates messages, clients and services from the protos, without a `protoc` on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "ledger/v1/ledger.proto",
    "ledger/v1/follow.proto",
    "ledger/v1/admin.proto",
    "ledger/v1/hooks.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(folder.join("ledger.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
