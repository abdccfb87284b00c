//! `cargo xtask doctor`: what this machine can do, and what would be skipped on it.

use anstream::println;
use anyhow::Context;
use clap::Args;
use harness::engine::{toolbox_qemu, unmet};
use harness::{accel, host};
use images::{Cache, Cancel, ImageName, State};
use indicatif::HumanBytes;
use scenarios::Machine;
use tokio::runtime::Runtime;

use crate::doctor_host::{self, HostOptions};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct DoctorCommand {
    #[command(flatten)]
    host: HostOptions,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(command: DoctorCommand) -> anyhow::Result<Exit> {
    if command.host.wanted() {
        return doctor_host::run(command.host);
    }
    let machine = command.machine;
    let cache = machine.cache.open()?;
    let mut good = true;
    row("cache", &cache.root().display().to_string());
    for image in ImageName::ALL {
        let state = match images::status(&cache, image)? {
            State::Ready(manifest) => {
                let mut text = format!(
                    "ready, {}, built {}",
                    HumanBytes(manifest.bytes),
                    manifest.built_at.strftime("%F %R")
                );
                for correction in manifest.corrections.keys() {
                    text += &format!(", corrected: {correction}");
                }
                text
            }
            State::Missing(reason) => format!("will be built ({reason})"),
        };
        row(&image.to_string(), &state);
    }
    row("builds", &privilege());
    good &= accelerator(&machine, &cache)?;
    let memory = host::memory()?;
    row("processors", &host::cpus().to_string());
    row(
        "memory",
        &format!(
            "{} free of {}",
            HumanBytes(memory.available),
            HumanBytes(memory.total)
        ),
    );
    row(
        "disk space",
        &format!("{} free", HumanBytes(host::free_space(cache.root())?)),
    );
    good &= skips(&machine, &cache)?;
    Ok(if good { Exit::Held } else { Exit::SetUpFailed })
}

fn privilege() -> String {
    match images::Privilege::detect() {
        Ok(privilege) => privilege.to_string(),
        Err(error) => format!("not possible: {error}"),
    }
}

/// The toolbox has the QEMU that proves the accelerator; building it takes seconds.
fn accelerator(machine: &Machine, cache: &Cache) -> anyhow::Result<bool> {
    let qemu = match &machine.qemu {
        Some(path) => accel::QemuProgram::installed(path)?,
        None => {
            let built = images::ensure(cache, &[ImageName::Toolbox], &(), &Cancel::new())?;
            toolbox_qemu(&built.toolbox)
        }
    };
    row("QEMU", qemu.version());
    let runtime = Runtime::new().context("failed to start the runtime")?;
    match runtime.block_on(accel::probe(&qemu, machine.accel, cache.root())) {
        Ok(choice) => row(
            "accelerator",
            &format!("{}: {}", choice.accelerator, choice.reason),
        ),
        Err(error) => {
            row("accelerator", &error.to_string());
            return Ok(false);
        }
    }
    Ok(true)
}

fn skips(machine: &Machine, cache: &Cache) -> anyhow::Result<bool> {
    let scenarios = machine.load_scenarios()?;
    let skipped: Vec<(String, String)> = scenarios
        .iter()
        .filter_map(|one| unmet(&one.lab, cache.root()).map(|reason| (one.name.clone(), reason)))
        .collect();
    row(
        "scenarios",
        &format!(
            "{}, of which {} would be skipped",
            scenarios.len(),
            skipped.len()
        ),
    );
    for (name, reason) in &skipped {
        row("", &format!("{name}: {reason}"));
    }
    Ok(skipped.is_empty())
}

fn row(what: &str, value: &str) {
    println!("{what:<16} {value}");
}
