//! All typed facts of one moment, and of a lab run what was seen while it ran, as one JSON document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::guest::GuestError;
use crate::probe::cmdline::CmdlineFacts;
use crate::probe::disk_query::DiskQueryFacts;
use crate::probe::disks::DiskFacts;
use crate::probe::dmesg::DmesgIommuFacts;
use crate::probe::host_config::HostConfigFacts;
use crate::probe::host_network::HostNetworkFacts;
use crate::probe::host_storage::HostStorageFacts;
use crate::probe::initramfs::InitramfsFacts;
use crate::probe::iommu::IommuFacts;
use crate::probe::kernel_log::{KernelLogFacts, PciIdentity};
use crate::probe::listing::GroupListingFacts;
use crate::probe::modules::ModuleFacts;
use crate::probe::pci::PciFacts;
use crate::probe::platform::PlatformFacts;
use crate::probe::pool::PoolFacts;
use crate::probe::smart::SmartFacts;
use crate::probe::vm::VmFacts;
use crate::probe::vm_configs::VmConfigFacts;
use crate::probe::{Facts, Probe, ProbeError, Reading};
use crate::scenario::FailureKind;

/// The version of the document's format that this program writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// All facts of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FactBook {
    /// The version of the document's format.
    pub format: u32,
    /// What was read.
    pub facts: FactSet,
    /// What could not be read, and why not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreadable: BTreeMap<Probe, String>,
    /// What was seen while a scenario ran; a real host has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunContext>,
}

/// Why a document is no fact book.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Not JSON, or JSON of another shape.
    #[error("this is not a record of facts")]
    Json(#[source] serde_json::Error),
    /// Written by another version of the lab.
    #[error("these facts are in format {found}; this version of the lab reads format {FORMAT}")]
    Format {
        /// The format that the document says it has.
        found: u64,
    },
}

/// What a scenario's run knows beside facts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RunContext {
    /// In which way it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
    /// What the failure says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What `qm start` printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_words: Option<String>,
    /// What QEMU told of the host, unasked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
    /// The last lines of the host's console.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
    /// The last lines of the NAS guest's console.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nas_console: Vec<String>,
    /// The PCI devices that the host had before the hardware was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier_devices: Vec<PciIdentity>,
}

/// Something that happened to the host or its guest and that nobody had asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "incident", rename_all = "kebab-case")]
pub enum Incident {
    /// A watchdog ran out.
    Watchdog {
        /// What QEMU did about it, such as `reset`.
        action: String,
    },
    /// The host was reset.
    Reset {
        /// Such as `guest-reset`.
        reason: String,
    },
    /// The host went down.
    Shutdown {
        /// Such as `guest-shutdown`.
        reason: String,
    },
    /// The host's kernel panicked.
    Panicked {
        /// What QEMU did about it, such as `pause`.
        action: String,
    },
    /// The NAS guest was reset, or its kernel was.
    NasReset,
}

/// Makes [`FactSet`] and what goes with it: a field for each probe.
macro_rules! fact_set {
    ($($(#[$doc:meta])* $field:ident: $kind:ident($type:ty),)*) => {
        /// The facts of each probe that was read.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct FactSet {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl FactSet {
            /// Takes in one probe's facts, in place of older ones.
            pub fn insert(&mut self, facts: Facts) {
                match facts {
                    $(Facts::$kind(facts) => self.$field = Some(facts),)*
                }
            }

            /// The probes whose facts are here.
            pub fn probes(&self) -> Vec<Probe> {
                let mut probes = Vec::new();
                $(if self.$field.is_some() { probes.push(Probe::$kind); })*
                probes
            }
        }
    };
}

fact_set! {
    /// The kernel's command line.
    cmdline: Cmdline(CmdlineFacts),
    /// IOMMU and groups.
    iommu: Iommu(IommuFacts),
    /// PCI devices.
    pci: Pci(PciFacts),
    /// Kernel modules.
    modules: Modules(ModuleFacts),
    /// The running kernel's initramfs.
    initramfs: Initramfs(InitramfsFacts),
    /// The host's block devices.
    host_disks: HostDisks(DiskFacts),
    /// The lab's VM.
    vm: Vm(VmFacts),
    /// The write-up's check of `dmesg`.
    dmesg_iommu: DmesgIommu(DmesgIommuFacts),
    /// The write-up's listing of groups.
    group_listing: GroupListing(GroupListingFacts),
    /// Kernel, firmware, boot loader, ACPI tables, watchdogs.
    platform: Platform(PlatformFacts),
    /// GRUB's and modprobe's files.
    host_config: HostConfig(HostConfigFacts),
    /// The kernel's log.
    kernel_log: KernelLog(KernelLogFacts),
    /// Every VM's configuration.
    vm_configs: VmConfigs(VmConfigFacts),
    /// What the host uses its disks for.
    host_storage: HostStorage(HostStorageFacts),
    /// Network interfaces.
    host_network: HostNetwork(HostNetworkFacts),
    /// The NAS guest's block devices.
    nas_disks: NasDisks(DiskFacts),
    /// The middleware's disks.
    disk_query: DiskQuery(DiskQueryFacts),
    /// SMART data.
    smart: Smart(SmartFacts),
    /// The NAS guest's pools.
    pool: Pool(PoolFacts),
}

impl Default for FactBook {
    fn default() -> Self {
        FactBook {
            format: FORMAT,
            facts: FactSet::default(),
            unreadable: BTreeMap::new(),
            run: None,
        }
    }
}

impl FactBook {
    /// A book of facts that were read one by one.
    pub fn of(facts: impl IntoIterator<Item = Facts>) -> Self {
        let mut book = FactBook::default();
        for one in facts {
            book.facts.insert(one);
        }
        book
    }

    /// Takes in what a probe answered: its facts, or why there are none.
    ///
    /// # Errors
    /// Only where the channel itself is gone, so that nothing further can be read.
    pub fn take(
        &mut self,
        probe: Probe,
        answer: Result<Reading, ProbeError>,
    ) -> Result<(), GuestError> {
        match answer {
            Ok(reading) => self.facts.insert(reading.facts),
            Err(ProbeError::Guest {
                source: source @ GuestError::Broken { .. },
                ..
            }) => return Err(source),
            Err(error) => drop(self.unreadable.insert(probe, words(&error))),
        }
        Ok(())
    }

    /// The document.
    pub fn to_json(&self) -> String {
        // JSON can hold whatever these types can: all keys of their maps are strings.
        let text = serde_json::to_string_pretty(self).expect("facts are JSON");
        format!("{text}\n")
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn from_json(text: &str) -> Result<Self, BookError> {
        // The format first: another one's shape would be refused for the wrong reason.
        let value: serde_json::Value = serde_json::from_str(text).map_err(BookError::Json)?;
        match value["format"].as_u64() {
            Some(found) if found != u64::from(FORMAT) => Err(BookError::Format { found }),
            _ => serde_json::from_value(value).map_err(BookError::Json),
        }
    }
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
        ProbeError::Guest {
            source: GuestError::Refused { message, .. },
            ..
        } => message.clone(),
        ProbeError::Guest {
            source: GuestError::Timeout { limit, .. },
            ..
        } => format!("no answer within {} s", limit.as_secs()),
        ProbeError::Parse { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}
