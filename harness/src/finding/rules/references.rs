//! The documentation that rules point to.

use crate::finding::model::Reference;

const fn reference(title: &'static str, url: &'static str) -> Reference {
    Reference { title, url }
}

pub(super) const PVE_PASSTHROUGH: Reference = reference(
    "Proxmox VE Administration Guide, PCI(e) Passthrough",
    "https://pve.proxmox.com/pve-docs/chapter-qm.html#qm_pci_passthrough",
);
pub(super) const PVE_PASSTHROUGH_WIKI: Reference = reference(
    "Proxmox VE Wiki, PCI Passthrough",
    "https://pve.proxmox.com/wiki/PCI_Passthrough",
);
pub(super) const PVE_CMDLINE: Reference = reference(
    "Proxmox VE Administration Guide, Editing the Kernel Commandline",
    "https://pve.proxmox.com/pve-docs/chapter-sysadmin.html#sysboot_edit_kernel_cmdline",
);
pub(super) const PVE_BOOT_TOOL: Reference = reference(
    "Proxmox VE Administration Guide, Determine which Bootloader is Used",
    "https://pve.proxmox.com/pve-docs/chapter-sysadmin.html#sysboot_determine_bootloader_used",
);
pub(super) const PVE_MAPPINGS: Reference = reference(
    "Proxmox VE Administration Guide, Resource Mapping",
    "https://pve.proxmox.com/pve-docs/chapter-qm.html#resource_mapping",
);
pub(super) const PVE_CONFIG: Reference = reference(
    "Proxmox VE, qm.conf(5)",
    "https://pve.proxmox.com/pve-docs/qm.conf.5.html",
);
pub(super) const PVE_DISKS: Reference = reference(
    "Proxmox VE Wiki, Passthrough Physical Disk to Virtual Machine (VM)",
    "https://pve.proxmox.com/wiki/Passthrough_Physical_Disk_to_Virtual_Machine_(VM)",
);
pub(super) const PVE_BACKUP: Reference = reference(
    "Proxmox VE Administration Guide, Backup and Restore",
    "https://pve.proxmox.com/pve-docs/chapter-vzdump.html",
);
pub(super) const PVE_WATCHDOG: Reference = reference(
    "Proxmox VE Administration Guide, Configure Hardware Watchdog",
    "https://pve.proxmox.com/pve-docs/chapter-ha-manager.html#_configure_hardware_watchdog",
);
pub(super) const KERNEL_PARAMETERS: Reference = reference(
    "Linux, The kernel's command-line parameters",
    "https://docs.kernel.org/admin-guide/kernel-parameters.html",
);
pub(super) const KERNEL_VFIO: Reference = reference(
    "Linux, VFIO - Virtual Function I/O",
    "https://docs.kernel.org/driver-api/vfio.html",
);
pub(super) const KERNEL_IOMMU: Reference = reference(
    "Linux, x86 IOMMU Support",
    "https://docs.kernel.org/arch/x86/iommu.html",
);
pub(super) const KERNEL_SYSFS_PCI: Reference = reference(
    "Linux, Documentation/ABI/testing/sysfs-bus-pci (reset_method)",
    "https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-bus-pci",
);
pub(super) const KERNEL_PANIC: Reference = reference(
    "Linux, Bug hunting",
    "https://docs.kernel.org/admin-guide/bug-hunting.html",
);
pub(super) const TRIPLE_FAULT: Reference = reference(
    "Linux, KVM API (KVM_EXIT_SHUTDOWN)",
    "https://docs.kernel.org/virt/kvm/api.html",
);
pub(super) const GRUB_CONFIGURATION: Reference = reference(
    "GNU GRUB Manual, Simple configuration handling",
    "https://www.gnu.org/software/grub/manual/grub/html_node/Simple-configuration.html",
);
pub(super) const INITRAMFS: Reference = reference(
    "Debian, update-initramfs(8)",
    "https://manpages.debian.org/trixie/initramfs-tools/update-initramfs.8.en.html",
);
pub(super) const INITRAMFS_DEBUG: Reference = reference(
    "Debian Wiki, InitramfsDebug",
    "https://wiki.debian.org/InitramfsDebug",
);
pub(super) const MODPROBE: Reference = reference(
    "Linux, modprobe.d(5)",
    "https://man7.org/linux/man-pages/man5/modprobe.d.5.html",
);
pub(super) const ZFS_IMPORT: Reference = reference(
    "OpenZFS, zpool-import(8)",
    "https://openzfs.github.io/openzfs-docs/man/master/8/zpool-import.8.html",
);
pub(super) const ZFS_FAILURES: Reference = reference(
    "OpenZFS, zpoolconcepts(7), Device Failure and Recovery",
    "https://openzfs.github.io/openzfs-docs/man/master/7/zpoolconcepts.7.html",
);
pub(super) const ZFS_DATA_LOST: Reference = reference(
    "OpenZFS, message ZFS-8000-8A",
    "https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-8A/",
);
pub(super) const SMART: Reference = reference(
    "smartmontools, smartctl(8)",
    "https://man7.org/linux/man-pages/man8/smartctl.8.html",
);
