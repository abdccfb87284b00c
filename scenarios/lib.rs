//! The catalogue: one TOML file a scenario. `procedure/` has the write-up and its variants, `wrong/` what
//! goes wrong, `faults/` what happens while it runs. Their machines are under `labs/`, their snapshots
//! under `snapshots/`, and under `facts/` what the findings of each were derived from in the last run
//! that was taken over. The target `catalogue` runs them all as tests.
//!
//! [`Machine`] is what `cargo xtask` and those tests can be told of the machine they run on.

mod machine;

use std::path::Path;

pub use machine::{CacheFolder, Machine, ScenariosFolder};

/// This folder, as it was when the program was built.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
