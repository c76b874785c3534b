//! Parts of the benchmark of captured tables.

pub(crate) mod live;
pub(crate) mod null;
