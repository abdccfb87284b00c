//! `cargo xtask schema`: the JSON Schemas that editors check scenario files against.

use anstream::println;
use anyhow::Context;
use harness::scenario;

use crate::exit::Exit;

pub fn run() -> anyhow::Result<Exit> {
    for (name, text) in scenario::schemas() {
        let path = scenarios::folder().join(name);
        std::fs::write(&path, text)
            .with_context(|| format!("failed to write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(Exit::Held)
}
