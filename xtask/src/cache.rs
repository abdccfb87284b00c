//! `cargo xtask cache`: the checkpoints.

use std::path::PathBuf;

use anstream::println;
use clap::{Args, Subcommand};
use harness::checkpoint::Store;
use harness::engine::CHECKPOINT_BUDGET;
use images::Cache;
use indicatif::HumanBytes;

use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct CacheCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// Folder of images and evidence; the user's cache folder when not given.
    #[arg(long, value_name = "DIR", env = "LAB_CACHE", global = true)]
    cache: Option<PathBuf>,
    /// What all checkpoints together may take on disk, in GiB.
    #[arg(long, value_name = "GiB", default_value_t = CHECKPOINT_BUDGET >> 30, env = "LAB_CACHE_BUDGET", global = true)]
    cache_budget: u64,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Removes every checkpoint that no run uses.
    Clear,
}

pub fn run(command: CacheCommand) -> anyhow::Result<Exit> {
    let cache = Cache::open(command.cache)?;
    let store = Store::open(cache.root(), command.cache_budget << 30)?;
    if let Some(Action::Clear) = command.action {
        println!("removed {} checkpoints", store.clear());
    }
    let usage = store.usage();
    let count = usage.running + usage.off;
    println!(
        "folder       {}",
        cache.root().join("checkpoints").display()
    );
    println!(
        "checkpoints  {count}: {} of running machines, {} of machines that are off",
        usage.running, usage.off
    );
    println!(
        "on disk      {} of a budget of {}; the longest unused give way first",
        HumanBytes(usage.bytes),
        HumanBytes(usage.budget)
    );
    if count > 0 {
        println!("on average   {}", HumanBytes(usage.bytes / count as u64));
    }
    Ok(Exit::Held)
}
