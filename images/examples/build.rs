//! Builds the images by hand: `cargo run -p images --example build [toolbox|proxmox-like|truenas-like]...`.
#![expect(clippy::print_stderr, reason = "a program for people")]

use std::str::FromStr;

use images::{BuildEvent, Cache, Cancel, ImageName};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names: Result<Vec<_>, _> = std::env::args()
        .skip(1)
        .map(|name| ImageName::from_str(&name))
        .collect();
    let start = std::time::Instant::now();
    let observer = |event: BuildEvent| eprintln!("{:6.2} {event:?}", start.elapsed().as_secs_f64());
    let cache = Cache::open(None)?;
    let images = images::ensure(&cache, &names?, &observer, &Cancel::new())?;
    eprintln!(
        "{:6.2} QEMU {} {images:#?}",
        start.elapsed().as_secs_f64(),
        images.toolbox.qemu_version()
    );
    Ok(())
}
