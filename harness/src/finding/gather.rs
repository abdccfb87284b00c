//! Reads a whole fact book. What cannot be read is noted and costs nothing else.

use std::time::Duration;

use super::book::FactBook;
use crate::guest::{Guest, GuestError};
use crate::probe::{self, Probe};

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
        book.take(*probe, probe::read(*probe, pve, nas, limit).await)?;
    }
    Ok(book)
}
