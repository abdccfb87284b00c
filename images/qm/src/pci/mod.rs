//! PCI passthrough: which devices `hostpciN` means, who has them reserved, and how they come to vfio-pci.

mod address;
mod bind;
mod hostpci;
mod mapping;
mod reservation;
mod sysfs;
#[cfg(test)]
pub(crate) mod testing;

pub use address::{PciAddresses, pci_address, pcie_address, root_port};
pub use bind::prepare;
pub use hostpci::{HostPci, choose, parse_all};
pub use reservation::{Holder, Reservations, release, reserve};
pub use sysfs::{PciDevice, Sysfs};

/// Why a device cannot be passed through, in Proxmox's words.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// `pcie=1` without a q35 machine.
    #[error("q35 machine model is not enabled")]
    NotQ35,
    /// No device has this address, or one that begins so.
    #[error("no PCI device found for '{0}'")]
    NotFound(String),
    /// Both ways of naming a device are used.
    #[error("Cannot set both 'host' and 'mapping'.")]
    HostAndMapping,
    /// Neither way is used.
    #[error("Either 'host' or 'mapping' must be set.")]
    NeitherHostNorMapping,
    /// The mapping has no entry for this node.
    #[error("PCI device mapping not found for '{0}'")]
    MappingNotFound(String),
    /// The mapping does not fit the device that is there.
    #[error("PCI device mapping invalid (hardware probably changed): {0}")]
    MappingInvalid(String),
    /// Two `hostpciN` want the same device.
    #[error("device '{0}' assigned more than once")]
    AssignedTwice(String),
    /// No alternative of a mapping is free.
    #[error("could not find a free device for '{0}'")]
    NoneFree(String),
    /// Another VM runs with it.
    #[error("PCI device '{id}' already in use by VMID '{vmid}'")]
    InUse {
        /// The device.
        id: String,
        /// The VM that has it.
        vmid: u32,
    },
    /// Another VM is being started with it.
    #[error("PCI device '{id}' is currently reserved for use by VMID '{vmid}'")]
    Reserved {
        /// The device.
        id: String,
        /// The VM that wants it.
        vmid: u32,
    },
    /// `/sys/class/iommu` is empty.
    #[error("cannot prepare PCI pass-through, IOMMU not present")]
    NoIommu,
    /// The device is in no state to be looked at.
    #[error("no pci device info for device '{0}'")]
    NoInfo(String),
    /// The device has no IOMMU group.
    #[error("Cannot open iommu_group: {0}")]
    NoGroup(std::io::Error),
    /// A member of the group could not be bound.
    #[error("Cannot bind {0} to vfio")]
    CannotBind(String),
    /// The module is not there.
    #[error("Cannot find vfio-pci module!")]
    NoVfio,
    /// A rule of legacy-igd or mdev is broken.
    #[error("{0}")]
    Rule(String),
    /// The value does not parse.
    #[error(transparent)]
    Format(#[from] crate::config::FormatError),
    /// The reservations cannot be locked.
    #[error(transparent)]
    Lock(#[from] crate::config::LockError),
    /// The reservations cannot be read or written.
    #[error("can't access '{path}' - {source}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}
