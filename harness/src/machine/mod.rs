//! placeholder

pub mod qmp;
pub mod transcript;
pub(crate) mod wire;
