//! The programs that live inside the guests: built by cargo as static binaries, in a target folder of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::digest::{KeyHasher, file_digest};
use crate::error::{Error, Result};
use crate::manifest::FORMAT;
use crate::process::Job;
use crate::recipe::{add_files, checkout_dir, short};

/// Their packages, in folders of the same names beside this crate.
pub(crate) const PROGRAMS: &[&str] = &["qm", "midclt", "disturb"];

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "guest";

/// The key of the programs: their sources, and what the workspace says of how they are built.
pub(crate) fn key() -> Result<String> {
    let mut hasher = KeyHasher::default();
    hasher.add("format", FORMAT.to_le_bytes());
    for file in ["Cargo.toml", "Cargo.lock"] {
        add_files(&mut hasher, &checkout_dir().join(file))?;
    }
    for program in PROGRAMS {
        for part in ["Cargo.toml", "src"] {
            hasher.add("program", program);
            add_files(
                &mut hasher,
                &checkout_dir().join("images").join(program).join(part),
            )?;
        }
    }
    Ok(short(hasher))
}

/// Builds all programs into `content`.
pub(crate) fn build(
    cache: &Cache,
    content: &Path,
    log: &Path,
    cancel: &Cancel,
    line: &dyn Fn(&str),
) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_else(|_| "/.cargo".to_owned());
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/lab", checkout_dir().display()),
        format!("--remap-path-prefix={home}=/cargo"),
    ];
    let mut job = Job::new("cargo build of the guest programs", cargo)
        .args([
            "build",
            "--locked",
            "--profile",
            PROFILE,
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(cache.cargo_target())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .current_dir(checkout_dir());
    for program in PROGRAMS {
        job = job.args(["--package", program]);
    }
    job.run(log, cancel, line)?;
    for program in PROGRAMS {
        let from = cache
            .cargo_target()
            .join(TARGET)
            .join(PROFILE)
            .join(program);
        let bytes = fs::read(&from).map_err(Error::io("read", &from))?;
        if let Some(reason) = not_static(&bytes) {
            return Err(Error::Unusable {
                what: format!("the guest program `{program}`"),
                reason,
            });
        }
        let to = content.join(program);
        fs::copy(&from, &to).map_err(Error::io("write", &to))?;
    }
    Ok(())
}

/// The built programs in `dir`, with the digests that go into the images' keys.
pub(crate) fn digests(dir: &Path, cancel: &Cancel) -> Result<BTreeMap<String, (PathBuf, String)>> {
    PROGRAMS
        .iter()
        .map(|program| {
            let path = dir.join(program);
            let digest = file_digest(&path, cancel)?;
            Ok(((*program).to_owned(), (path, digest)))
        })
        .collect()
}

/// Why these bytes are not a static ELF program for x86-64: one that asks for an interpreter needs the guest's libraries.
fn not_static(bytes: &[u8]) -> Option<String> {
    const INTERPRETER: u32 = 3;
    let number = |offset: usize, length: usize| -> Option<u64> {
        let bytes = bytes.get(offset..offset.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    };
    if bytes.get(..5) != Some(b"\x7fELF\x02") || number(18, 2) != Some(62) {
        return Some("it is not a 64-bit x86 program".to_owned());
    }
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return Some("its ELF header is cut off".to_owned());
    };
    for index in 0..count {
        let Some(kind) = usize::try_from(table + index * size)
            .ok()
            .and_then(|offset| number(offset, 4))
        else {
            return Some("its program headers are cut off".to_owned());
        };
        if kind == u64::from(INTERPRETER) {
            return Some("it is linked dynamically".to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_is_dynamic_and_text_is_no_program() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(
            not_static(&own).as_deref(),
            Some("it is linked dynamically")
        );
        assert!(not_static(b"#!/bin/sh\n").unwrap().contains("not a 64-bit"));
        assert!(not_static(&own[..60]).unwrap().contains("cut off"));
    }
}
