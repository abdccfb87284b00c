//! Reads a whole fact book. What cannot be read is noted and costs nothing else.

use std::time::Duration;

use super::book::FactBook;
use crate::guest::{Guest, GuestError};
use crate::probe::{self, Probe, ProbeError};

/// What is read of a host.
pub const HOST_PROBES: [Probe; 12] = [
    Probe::Platform,
    Probe::Cmdline,
    Probe::HostConfig,
    Probe::Iommu,
    Probe::Pci,
    Probe::Modules,
    Probe::Initramfs,
    Probe::KernelLog,
    Probe::VmConfigs,
    Probe::HostStorage,
    Probe::HostNetwork,
    Probe::GroupListing,
];

/// What is read of the NAS guest.
pub const NAS_PROBES: [Probe; 4] = [Probe::NasDisks, Probe::DiskQuery, Probe::Smart, Probe::Pool];

/// Reads these probes, one after the other; `progress` is told of each before it is read.
///
/// # Errors
/// Only where the channel itself is gone, so that nothing further can be read.
pub async fn gather<P: Guest, N: Guest>(
    probes: &[Probe],
    pve: &P,
    nas: Option<&N>,
    limit: Duration,
    mut progress: impl FnMut(Probe),
) -> Result<FactBook, GuestError> {
    let mut book = FactBook::default();
    for probe in probes {
        progress(*probe);
        match probe::read(*probe, pve, nas, limit).await {
            Ok(reading) => book.facts.insert(reading.facts),
            Err(ProbeError::Guest {
                source: source @ GuestError::Broken { .. },
                ..
            }) => return Err(source),
            Err(error) => drop(book.unreadable.insert(*probe, words(&error))),
        }
    }
    Ok(book)
}

/// An error and its causes in one line, without the script that a probe is.
fn words(error: &ProbeError) -> String {
    match error {
        ProbeError::Guest {
            source: GuestError::Failed { exit, stderr, .. },
            ..
        } => match stderr.trim() {
            "" => exit.to_string(),
            stderr => format!("{exit}: {stderr}"),
        },
        ProbeError::Parse { source, .. } => source.to_string(),
        other => {
            std::error::Error::source(other).map_or_else(|| other.to_string(), ToString::to_string)
        }
    }
}
