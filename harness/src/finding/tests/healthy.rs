//! The facts of a host on which everything is as it should be: the lab's q35 with the chipset's SATA
//! controller at a running NAS. PCI, groups, modules, initramfs, disks, SMART and pool are captures; what
//! has no capture yet is written by hand.

use std::sync::LazyLock;

use crate::finding::FactBook;
use crate::probe::{
    Facts, cmdline, disk_query, disks, host_config, host_network, host_storage, initramfs, iommu,
    kernel_log, modules, pci, platform, pool, smart, vm_configs,
};
use crate::scenario::DriverState;

const PLATFORM: &str = "kernel\t6.12.117+deb13-amd64\nhost\tnode7\nboot-time\t1753000000\ncpu\tGenuineIntel\n\
    firmware\tbios\nacpi\tAPIC\nacpi\tDMAR\nacpi\tFACP\nintel\tdmar0\tf00f4a\nend\n";

const CMDLINE: &str = "BOOT_IMAGE=/boot/vmlinuz-6.12.117+deb13-amd64 \
    root=UUID=6d1c2f0e-31d5-4b57-9a5e-5f0a1c9b7e01 ro console=ttyS0 quiet intel_iommu=on iommu=pt\n";

const CONFIG: &str = "grub\t/etc/default/grub
grub-line\tGRUB_CMDLINE_LINUX_DEFAULT=\"quiet intel_iommu=on iommu=pt\"
grub-line\tGRUB_CMDLINE_LINUX=\"console=ttyS0\"
entry\t/boot/vmlinuz-6.12.117+deb13-amd64 root=UUID=6d1c2f0e-31d5-4b57-9a5e-5f0a1c9b7e01 ro console=ttyS0 quiet intel_iommu=on iommu=pt
entry\t/boot/vmlinuz-6.12.117+deb13-amd64 root=UUID=6d1c2f0e-31d5-4b57-9a5e-5f0a1c9b7e01 ro single console=ttyS0
written\t1752000000\t/boot/initrd.img-6.12.117+deb13-amd64
written\t1752000000\t/boot/grub/grub.cfg
end
";

const VMS: &str = "vm\t100\trunning
line\tagent: 1
line\tboot: order=scsi0
line\thostpci0: 0000:00:1f.2,pcie=1
line\tmachine: q35
line\tonboot: 1
line\tscsi0: /dev/disk/by-id/virtio-nas-system
line\tscsihw: virtio-scsi-pci
vm\t101\tstopped
line\tmemory: 512
line\tscsi0: local-lvm:vm-101-disk-0
end
";

const STORAGE: &str = "path\tvda\t/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda
zfs
lsblk
{\"blockdevices\": [
 {\"name\":\"vda\",\"type\":\"disk\",\"size\":4294967296,\"model\":null,\"serial\":\"pve-system\",\"fstype\":null,\"mountpoints\":[],
  \"children\":[{\"name\":\"vda1\",\"type\":\"part\",\"size\":4293918720,\"model\":null,\"serial\":null,\"fstype\":\"ext4\",\"mountpoints\":[\"/\"]}]}
]}
end
";

const NETWORK: &str = "interface\teno1\t/sys/devices/pci0000:00/0000:00:03.0\tvmbr0
interface\tvmbr0\t-\t-
route\tvmbr0\t00000000
route\tvmbr0\t0000A8C0
end
";

/// The book; without errors and warnings.
pub(super) fn healthy() -> FactBook {
    static BOOK: LazyLock<FactBook> = LazyLock::new(read);
    BOOK.clone()
}

fn read() -> FactBook {
    let mut devices =
        pci::parse(include_str!("../../probe/samples/pci-q35-intel-vfio.txt")).unwrap();
    for device in &mut devices.devices {
        // `qm start` binds the whole group; the capture was made by hand.
        if device.iommu_group == Some(6) {
            device.driver = DriverState::Bound("vfio-pci".to_owned());
        }
    }
    let log = include_str!("../../probe/samples/dmesg-q35-intel.txt");
    FactBook::of([
        Facts::Platform(platform::parse(PLATFORM).unwrap()),
        Facts::Cmdline(cmdline::parse(CMDLINE).unwrap()),
        Facts::HostConfig(host_config::parse(CONFIG).unwrap()),
        Facts::Iommu(
            iommu::parse(include_str!("../../probe/samples/iommu-q35-intel.txt")).unwrap(),
        ),
        Facts::Pci(devices),
        Facts::Modules(
            modules::parse(include_str!("../../probe/samples/modules-debian13.txt")).unwrap(),
        ),
        Facts::Initramfs(
            initramfs::parse(include_str!("../../probe/samples/initramfs-debian13.txt")).unwrap(),
        ),
        Facts::KernelLog(kernel_log::parse(&format!("{log}end\n")).unwrap()),
        Facts::VmConfigs(vm_configs::parse(VMS).unwrap()),
        Facts::HostStorage(host_storage::parse(STORAGE).unwrap()),
        Facts::HostNetwork(host_network::parse(NETWORK).unwrap()),
        Facts::NasDisks(disks::parse(include_str!("../../probe/samples/lsblk-nas.json")).unwrap()),
        Facts::DiskQuery(
            disk_query::parse(include_str!("../../probe/samples/disk-query.json")).unwrap(),
        ),
        Facts::Smart(smart::parse(include_str!("../../probe/samples/smart-q35.json")).unwrap()),
        Facts::Pool(pool::parse(include_str!("../../probe/samples/zpool-online.json")).unwrap()),
    ])
}
