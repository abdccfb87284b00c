//! What can be left out of the write-up, and on which machines.

use std::collections::BTreeSet;

use strum::IntoEnumIterator;

/// A step of the write-up, or a part of one, in its order.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumIter,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum Ingredient {
    /// `intel_iommu=on` among the kernel's parameters.
    IntelIommu,
    /// `iommu=pt` among the kernel's parameters.
    IommuPt,
    /// `update-grub`.
    UpdateGrub,
    /// The reboot after it.
    FirstReboot,
    /// `vfio` in `/etc/modules`.
    Vfio,
    /// `vfio_iommu_type1` in `/etc/modules`.
    #[strum(serialize = "vfio-iommu-type1")]
    #[serde(rename = "vfio-iommu-type1")]
    VfioIommuType1,
    /// `vfio_pci` in `/etc/modules`.
    VfioPci,
    /// `vfio_virqfd` in `/etc/modules`.
    VfioVirqfd,
    /// `blacklist ahci`.
    BlacklistAhci,
    /// `blacklist libahci`.
    BlacklistLibahci,
    /// `update-initramfs -u -k all`.
    UpdateInitramfs,
    /// The reboot after it.
    SecondReboot,
    /// The line `hostpci0` in the VM's configuration.
    Hostpci,
    /// `pcie=1` in that line.
    Pcie,
}

/// What is left out of the write-up in one run; nothing for the write-up as it is.
pub type Dropped = BTreeSet<Ingredient>;

impl Ingredient {
    /// What the write-up has for it.
    pub fn text(self) -> &'static str {
        match self {
            Ingredient::IntelIommu => "`intel_iommu=on`",
            Ingredient::IommuPt => "`iommu=pt`",
            Ingredient::UpdateGrub => "`update-grub`",
            Ingredient::FirstReboot => "the first reboot",
            Ingredient::Vfio => "`vfio` in `/etc/modules`",
            Ingredient::VfioIommuType1 => "`vfio_iommu_type1` in `/etc/modules`",
            Ingredient::VfioPci => "`vfio_pci` in `/etc/modules`",
            Ingredient::VfioVirqfd => "`vfio_virqfd` in `/etc/modules`",
            Ingredient::BlacklistAhci => "`blacklist ahci`",
            Ingredient::BlacklistLibahci => "`blacklist libahci`",
            Ingredient::UpdateInitramfs => "`update-initramfs -u -k all`",
            Ingredient::SecondReboot => "the second reboot",
            Ingredient::Hostpci => "the `hostpci0` line",
            Ingredient::Pcie => "`pcie=1`",
        }
    }

    /// All, in the order of the write-up.
    pub fn all() -> impl Iterator<Item = Ingredient> {
        Ingredient::iter()
    }
}

/// The machine that the write-up is tried on: always with the chipset's SATA controller at `0000:00:1f.2`,
/// which is the write-up's.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumIter,
    serde::Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// Debian 13 with kernel 6.12, as Proxmox VE 9 is, and VT-d.
    #[strum(serialize = "pve9")]
    Pve9,
    /// The same without an IOMMU.
    #[strum(serialize = "pve9-no-vtd")]
    Pve9NoVtd,
    /// Debian 12 with kernel 6.1, as Proxmox VE 8 is, and VT-d.
    #[strum(serialize = "pve8")]
    Pve8,
    /// The same without an IOMMU.
    #[strum(serialize = "pve8-no-vtd")]
    Pve8NoVtd,
}

impl Environment {
    /// What a person calls it.
    pub fn title(self) -> &'static str {
        match self {
            Environment::Pve9 => "Proxmox 9-like, VT-d",
            Environment::Pve9NoVtd => "Proxmox 9-like, no VT-d",
            Environment::Pve8 => "Proxmox 8-like, VT-d",
            Environment::Pve8NoVtd => "Proxmox 8-like, no VT-d",
        }
    }

    /// The lab that is this machine.
    pub fn lab(self) -> &'static str {
        match self {
            Environment::Pve9 => "q35-ich9",
            Environment::Pve9NoVtd => "no-iommu",
            Environment::Pve8 => "debian-12",
            Environment::Pve8NoVtd => "debian-12-no-iommu",
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Environment> {
        Environment::iter()
    }
}
