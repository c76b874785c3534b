//! The cases, by what they are about.

pub(super) mod control;
pub(super) mod follow;
pub(super) mod history;
pub(super) mod promote;
pub(super) mod verify;
