//! The facts of every probe as one type, and the call that reads any of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cmdline::CmdlineFacts;
use super::disk_query::DiskQueryFacts;
use super::disks::DiskFacts;
use super::dmesg::DmesgIommuFacts;
use super::host_config::HostConfigFacts;
use super::host_network::HostNetworkFacts;
use super::host_storage::HostStorageFacts;
use super::initramfs::InitramfsFacts;
use super::iommu::IommuFacts;
use super::kernel_log::KernelLogFacts;
use super::listing::GroupListingFacts;
use super::modules::ModuleFacts;
use super::pci::PciFacts;
use super::platform::PlatformFacts;
use super::pool::PoolFacts;
use super::smart::SmartFacts;
use super::text::ParseError;
use super::vm::VmFacts;
use super::vm_configs::VmConfigFacts;
use super::{
    Probe, cmdline, disk_query, disks, dmesg, host_config, host_network, host_storage, initramfs,
    iommu, kernel_log, listing, modules, pci, platform, pool, smart, vm, vm_configs,
};
use crate::guest::{Exec, Guest, GuestError};

/// What a probe read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Facts {
    /// L1: the kernel's command line.
    Cmdline(CmdlineFacts),
    /// L1: IOMMU and its groups.
    Iommu(IommuFacts),
    /// L1: PCI devices.
    Pci(PciFacts),
    /// L1: kernel modules.
    Modules(ModuleFacts),
    /// L1: the initramfs of the running kernel.
    Initramfs(InitramfsFacts),
    /// L1: block devices.
    HostDisks(DiskFacts),
    /// L1: the VM's configuration and status.
    Vm(VmFacts),
    /// L1: the write-up's check of `dmesg`.
    DmesgIommu(DmesgIommuFacts),
    /// L1: the write-up's listing of IOMMU groups.
    GroupListing(GroupListingFacts),
    /// L1: kernel, firmware, boot loader, ACPI tables, watchdogs.
    Platform(PlatformFacts),
    /// L1: GRUB's and modprobe's files.
    HostConfig(HostConfigFacts),
    /// L1: the kernel's log.
    KernelLog(KernelLogFacts),
    /// L1: every VM's configuration.
    VmConfigs(VmConfigFacts),
    /// L1: what the host uses its disks for.
    HostStorage(HostStorageFacts),
    /// L1: network interfaces.
    HostNetwork(HostNetworkFacts),
    /// L2: block devices.
    NasDisks(DiskFacts),
    /// L2: the middleware's disks.
    DiskQuery(DiskQueryFacts),
    /// L2: SMART data.
    Smart(SmartFacts),
    /// L2: ZFS pools.
    Pool(PoolFacts),
}

impl Facts {
    /// The probe that reads such facts.
    pub fn probe(&self) -> Probe {
        match self {
            Facts::Cmdline(_) => Probe::Cmdline,
            Facts::Iommu(_) => Probe::Iommu,
            Facts::Pci(_) => Probe::Pci,
            Facts::Modules(_) => Probe::Modules,
            Facts::Initramfs(_) => Probe::Initramfs,
            Facts::HostDisks(_) => Probe::HostDisks,
            Facts::Vm(_) => Probe::Vm,
            Facts::DmesgIommu(_) => Probe::DmesgIommu,
            Facts::GroupListing(_) => Probe::GroupListing,
            Facts::Platform(_) => Probe::Platform,
            Facts::HostConfig(_) => Probe::HostConfig,
            Facts::KernelLog(_) => Probe::KernelLog,
            Facts::VmConfigs(_) => Probe::VmConfigs,
            Facts::HostStorage(_) => Probe::HostStorage,
            Facts::HostNetwork(_) => Probe::HostNetwork,
            Facts::NasDisks(_) => Probe::NasDisks,
            Facts::DiskQuery(_) => Probe::DiskQuery,
            Facts::Smart(_) => Probe::Smart,
            Facts::Pool(_) => Probe::Pool,
        }
    }
}

/// What a probe read, and what it read that from.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The typed facts.
    pub facts: Facts,
    /// The guest's own words, for the run folder.
    pub raw: String,
}

/// Why a probe has no facts.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The probe reads the NAS guest, and that one is not running.
    #[error("the probe `{probe}` reads the nas, which is not running")]
    NoNas {
        /// Which probe.
        probe: Probe,
    },
    /// The guest did not do what the probe asked of it.
    #[error("the probe `{probe}` could not read {guest}")]
    Guest {
        /// Which probe.
        probe: Probe,
        /// Which guest.
        guest: &'static str,
        /// The cause.
        #[source]
        source: GuestError,
    },
    /// The guest answered something else than was asked for.
    #[error("the probe `{probe}` does not understand what {guest} answered")]
    Parse {
        /// Which probe.
        probe: Probe,
        /// Which guest.
        guest: &'static str,
        /// What is wrong with the answer.
        #[source]
        source: ParseError,
        /// The answer, for the run folder.
        raw: String,
    },
}

/// Reads one probe's facts from the guest that it belongs to; `nas` is only needed by the probes of L2.
///
/// # Errors
/// [`ProbeError`]; `limit` is the time for the whole of it.
pub async fn read<P: Guest, N: Guest>(
    probe: Probe,
    pve: &P,
    nas: Option<&N>,
    limit: Duration,
) -> Result<Reading, ProbeError> {
    let nas = || nas.ok_or(ProbeError::NoNas { probe });
    fn reading<T>((facts, raw): (T, String), wrap: fn(T) -> Facts) -> Reading {
        Reading {
            facts: wrap(facts),
            raw,
        }
    }
    Ok(match probe {
        Probe::Cmdline => reading(cmdline::read(pve, limit).await?, Facts::Cmdline),
        Probe::Iommu => reading(iommu::read(pve, limit).await?, Facts::Iommu),
        Probe::Pci => reading(pci::read(pve, limit).await?, Facts::Pci),
        Probe::Modules => reading(modules::read(pve, limit).await?, Facts::Modules),
        Probe::Initramfs => reading(initramfs::read(pve, limit).await?, Facts::Initramfs),
        Probe::HostDisks => reading(disks::read_host(pve, limit).await?, Facts::HostDisks),
        Probe::Vm => reading(vm::read(pve, vm::STORAGE_VM, limit).await?, Facts::Vm),
        Probe::DmesgIommu => reading(dmesg::read(pve, limit).await?, Facts::DmesgIommu),
        Probe::GroupListing => reading(listing::read(pve, limit).await?, Facts::GroupListing),
        Probe::Platform => reading(platform::read(pve, limit).await?, Facts::Platform),
        Probe::HostConfig => reading(host_config::read(pve, limit).await?, Facts::HostConfig),
        Probe::KernelLog => reading(kernel_log::read(pve, limit).await?, Facts::KernelLog),
        Probe::VmConfigs => reading(vm_configs::read(pve, limit).await?, Facts::VmConfigs),
        Probe::HostStorage => reading(host_storage::read(pve, limit).await?, Facts::HostStorage),
        Probe::HostNetwork => reading(host_network::read(pve, limit).await?, Facts::HostNetwork),
        Probe::NasDisks => reading(disks::read_nas(nas()?, limit).await?, Facts::NasDisks),
        Probe::DiskQuery => reading(disk_query::read(nas()?, limit).await?, Facts::DiskQuery),
        Probe::Smart => reading(smart::read(nas()?, limit).await?, Facts::Smart),
        Probe::Pool => reading(pool::read(nas()?, limit).await?, Facts::Pool),
    })
}

/// Runs a command that has to succeed and parses what it prints.
pub(super) async fn ask<G: Guest, T>(
    probe: Probe,
    guest: &G,
    exec: Exec,
    parse: impl FnOnce(&str) -> Result<T, ParseError>,
) -> Result<(T, String), ProbeError> {
    let output = guest.run(exec).await.map_err(|source| ProbeError::Guest {
        probe,
        guest: guest.name(),
        source,
    })?;
    understand(probe, guest.name(), output.stdout_text(), parse)
}

/// Parses an answer and keeps it, whichever way that goes.
pub(super) fn understand<T>(
    probe: Probe,
    guest: &'static str,
    raw: String,
    parse: impl FnOnce(&str) -> Result<T, ParseError>,
) -> Result<(T, String), ProbeError> {
    match parse(&raw) {
        Ok(facts) => Ok((facts, raw)),
        Err(source) => Err(ProbeError::Parse {
            probe,
            guest,
            source,
            raw,
        }),
    }
}
