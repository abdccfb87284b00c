//! `cargo xtask images`: builds, lists, checks and removes images.

use std::path::PathBuf;

use anstream::println;
use anyhow::Context;
use clap::{Args, Subcommand};
use harness::report::Lines;
use images::{Cache, Cancel, ImageName, Keep};
use indicatif::HumanBytes;

use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct ImagesCommand {
    #[command(subcommand)]
    action: Action,
    /// Folder of images and evidence; the user's cache folder when not given.
    #[arg(long, value_name = "DIR", env = "LAB_CACHE", global = true)]
    cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Builds what is missing or damaged.
    Build {
        /// Which images; all when none is named.
        #[arg(value_name = "IMAGE")]
        images: Vec<ImageName>,
    },
    /// Lists what is in the cache.
    List,
    /// Reads every image and holds it against its digest.
    Verify,
    /// Removes what the recipes as they are now do not need.
    Clean {
        /// Removes the current images too.
        #[arg(long)]
        all: bool,
    },
}

pub fn run(command: ImagesCommand) -> anyhow::Result<Exit> {
    let cache = Cache::open(command.cache)?;
    let cancel = cancel_on_signals()?;
    match command.action {
        Action::Build { images } => build(&cache, &images, &cancel),
        Action::List => list(&cache),
        Action::Verify => verify(&cache, &cancel),
        Action::Clean { all } => {
            let keep = if all { Keep::Nothing } else { Keep::Current };
            let freed = images::clean(&cache, keep)?;
            println!("freed {} in {}", HumanBytes(freed), cache.root().display());
            Ok(Exit::Held)
        }
    }
}

fn build(cache: &Cache, which: &[ImageName], cancel: &Cancel) -> anyhow::Result<Exit> {
    let which = if which.is_empty() {
        &ImageName::ALL
    } else {
        which
    };
    match images::ensure(cache, which, &Lines::to_stdout(), cancel) {
        Ok(_) => {
            println!("ready in {}", cache.root().display());
            Ok(Exit::Held)
        }
        Err(_) if cancel.is_cancelled() => Ok(Exit::Interrupted),
        Err(error) => Err(error.into()),
    }
}

fn list(cache: &Cache) -> anyhow::Result<Exit> {
    for entry in images::list(cache)? {
        let state = match (&entry.manifest, entry.current) {
            (None, _) => "half-built",
            (Some(_), true) => "current",
            (Some(_), false) => "stale",
        };
        let built = entry.manifest.as_ref().map(|manifest| {
            let kernel = manifest
                .kernel
                .as_ref()
                .map(|kernel| format!(", kernel {kernel}"));
            format!(
                "built {} in {:.0} s, {} packages{}",
                manifest.built_at.strftime("%F %R"),
                manifest.seconds,
                manifest.packages.len(),
                kernel.unwrap_or_default()
            )
        });
        println!(
            "{:<16} {:.12}  {:<10} {:>10}  {}",
            entry.artifact.to_string(),
            entry.key,
            state,
            HumanBytes(entry.bytes).to_string(),
            built.unwrap_or_default()
        );
    }
    println!("in {}", cache.root().display());
    Ok(Exit::Held)
}

fn verify(cache: &Cache, cancel: &Cancel) -> anyhow::Result<Exit> {
    let verdicts = images::verify(cache, cancel, &mut |verdict| {
        let word = verdict.problem.as_deref().unwrap_or("whole");
        println!(
            "{:<16} {:.12}  {word}",
            verdict.entry.artifact.to_string(),
            verdict.entry.key
        );
    })?;
    let damaged = verdicts
        .iter()
        .filter(|verdict| verdict.problem.is_some())
        .count();
    match (verdicts.len(), damaged) {
        (0, _) => {
            println!("nothing to verify; `cargo xtask images build` builds the images");
            Ok(Exit::NothingRan)
        }
        (_, 0) => Ok(Exit::Held),
        (_, damaged) => {
            println!("{damaged} damaged; the next build makes them anew");
            Ok(Exit::Failed)
        }
    }
}

/// A cancel that Ctrl-C and SIGTERM pull.
fn cancel_on_signals() -> anyhow::Result<Cancel> {
    let cancel = Cancel::new();
    let pulled = cancel.clone();
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    let mut stop = {
        let _inside = runtime.enter();
        harness::signals::stop_on_signals().context("failed to catch signals")?
    };
    std::thread::spawn(move || {
        // A sender that is gone can pull nothing.
        if runtime.block_on(stop.wait_for(|stop| *stop)).is_ok() {
            pulled.cancel();
        }
        // The runtime stays: it catches the second signal.
        runtime.block_on(std::future::pending::<()>());
    });
    Ok(cancel)
}
