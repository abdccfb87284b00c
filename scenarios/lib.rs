//! The catalogue: one TOML file a scenario in this folder, its lab under `labs/`, its snapshots
//! under `snapshots/`. The target `catalogue` runs them all as tests.

use std::path::Path;

/// This folder, as it was when the program was built.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
