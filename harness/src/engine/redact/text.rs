//! Placeholders inside texts: pure functions from one line to another.

use crate::lab::PciAddress;

/// Stands for a kernel's release.
pub(super) const KERNEL: &str = "[kernel-version]";
/// Stands for a UUID.
const UUID: &str = "[uuid]";
/// Stands for a network card's address.
const MAC: &str = "[mac]";

/// Replaces UUIDs and the addresses of network cards.
pub(super) fn hide_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let is_part = |character: char| character.is_ascii_hexdigit() || matches!(character, '-' | ':');
    for character in text.chars() {
        if is_part(character) {
            word.push(character);
        } else {
            flush(&mut word, &mut out);
            out.push(character);
        }
    }
    flush(&mut word, &mut out);
    out
}

fn flush(word: &mut String, out: &mut String) {
    let shape = |separator: char| word.split(separator).map(str::len).collect::<Vec<_>>();
    out.push_str(match () {
        () if !word.contains(':') && shape('-') == [8, 4, 4, 4, 12] => UUID,
        () if !word.contains('-') && shape(':') == [2; 6] => MAC,
        () => word,
    });
    word.clear();
}

/// Replaces a disk's name if it is one that the kernel gave, such as `sda`, `sda1` or `nvme0n1p2`.
pub(super) fn hide_kernel_disk(name: &str, placeholder: &str) -> String {
    let letters = |rest: &str| {
        let rest = rest.trim_end_matches(|c: char| c.is_ascii_digit());
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    let scsi = ["sd", "vd"]
        .iter()
        .filter_map(|kind| name.strip_prefix(kind))
        .any(letters);
    let nvme = name.strip_prefix("nvme").is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_digit())
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_digit() || matches!(byte, b'n' | b'p'))
    });
    if scsi || nvme {
        placeholder.to_owned()
    } else {
        name.to_owned()
    }
}

/// A line of the listing of IOMMU groups: its device for sorting, and the line without the group's
/// number, the device's name and its revision. A line of another form stays as it is.
pub(super) fn lspci_line(line: &str) -> (Option<PciAddress>, String) {
    let stable = || {
        let (group, device) = match line.strip_prefix("IOMMU Group ") {
            Some(rest) => {
                let (number, device) = rest.split_once(' ')?;
                (
                    if number == "*" {
                        "IOMMU Group * "
                    } else {
                        "IOMMU Group [group] "
                    },
                    device,
                )
            }
            None => ("", line),
        };
        let (address, rest) = device.split_once(' ')?;
        let (class, name) = rest.split_once("]: ")?;
        let (_, ids) = name.rsplit_once(" [")?;
        let (ids, _) = ids.split_once(']')?;
        let line = format!("{group}{address} {class}]: [device-name] [{ids}]");
        Some((address.parse().ok(), line))
    };
    stable().unwrap_or_else(|| (None, line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_and_network_addresses_are_hidden_and_nothing_else() {
        for (text, hidden) in [
            (
                "root=UUID=6f1a2b3c-0000-4000-8000-a1b2c3d4e5f6",
                "root=UUID=[uuid]",
            ),
            (
                "uuid=6F1A2B3C-0000-4000-8000-A1B2C3D4E5F6,base64=1",
                "uuid=[uuid],base64=1",
            ),
            (
                "virtio=BC:24:11:AB:CD:EF,bridge=vmbr0",
                "virtio=[mac],bridge=vmbr0",
            ),
            ("0000:00:1f.2,pcie=1", "0000:00:1f.2,pcie=1"),
            (
                "{serial_lunid}ZTM09FD7_5000c500a1b2c3d4",
                "{serial_lunid}ZTM09FD7_5000c500a1b2c3d4",
            ),
            ("quiet", "quiet"),
        ] {
            assert_eq!(hide_addresses(text), hidden);
        }
    }

    #[test]
    fn only_the_kernels_names_of_disks_are_hidden() {
        for name in ["sda", "sdb1", "sdaa", "vda", "nvme0n1", "nvme0n1p2"] {
            assert_eq!(hide_kernel_disk(name, "[disk]"), "[disk]");
        }
        for name in [
            "raidz1-0",
            "wwn-0x5000c500a1b2c3d4",
            "mirror-1",
            "tank",
            "nvme-QEMU_1",
            "sd",
        ] {
            assert_eq!(hide_kernel_disk(name, "[disk]"), name);
        }
    }

    #[test]
    fn a_listed_device_keeps_address_class_and_ids() {
        for (line, stable) in [
            (
                "IOMMU Group 6 00:1f.2 SATA controller [0106]: Intel Corporation 82801IR/IO/IH (ICH9R/DO/DH) 6 port SATA Controller [AHCI mode] [8086:2922] (rev 02)",
                "IOMMU Group [group] 00:1f.2 SATA controller [0106]: [device-name] [8086:2922]",
            ),
            (
                "IOMMU Group * 00:00.0 Host bridge [0600]: Intel Corporation 82G33 [8086:29c0]",
                "IOMMU Group * 00:00.0 Host bridge [0600]: [device-name] [8086:29c0]",
            ),
            (
                "00:01.0 Class [ffff]: Device [1af4:1045] (rev 01)",
                "00:01.0 Class [ffff]: [device-name] [1af4:1045]",
            ),
            // A line that lspci does not print stays as it is.
            ("lspci: Unknown", "lspci: Unknown"),
        ] {
            assert_eq!(lspci_line(line).1, stable);
        }
    }
}
