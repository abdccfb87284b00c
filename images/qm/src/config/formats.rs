//! The property formats of the keys that a storage VM uses (qemu-server: PCI.pm, Drive.pm, CPUConfig.pm, Network.pm).

use super::property::{Format, Key, Kind};

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

/// `hostpci0` … `hostpci15`.
pub const HOSTPCI: Format = Format {
    default_key: Some("host"),
    required: &[],
    keys: &[&[
        key(
            "host",
            Kind::Pattern(|text| text.split(';').all(is_pci_prefix)),
        ),
        key(
            "mapping",
            Kind::Named(is_config_id, "invalid configuration ID"),
        ),
        key("rombar", Kind::Boolean),
        key(
            "romfile",
            Kind::Pattern(|text| !text.is_empty() && !text.contains(';')),
        ),
        key("pcie", Kind::Boolean),
        key("x-vga", Kind::Boolean),
        key("legacy-igd", Kind::Boolean),
        key(
            "mdev",
            Kind::Pattern(|text| !text.is_empty() && !text.contains(['/', '.', ':'])),
        ),
        key("driver", Kind::Enum(&["vfio", "keep"])),
        key("vendor-id", Kind::Pattern(is_hex_id)),
        key("device-id", Kind::Pattern(is_hex_id)),
        key("sub-vendor-id", Kind::Pattern(is_hex_id)),
        key("sub-device-id", Kind::Pattern(is_hex_id)),
    ]],
};

/// `cpu`.
pub const CPU: Format = Format {
    default_key: Some("cputype"),
    required: &[],
    keys: &[&[
        key("cputype", Kind::Text),
        key("hidden", Kind::Boolean),
        key("hv-vendor-id", Kind::Text),
        key(
            "flags",
            Kind::Pattern(|text| {
                text.split(';')
                    .all(|flag| flag.len() > 1 && flag.starts_with(['+', '-']))
            }),
        ),
        key("guest-phys-bits", Kind::Integer(32)),
        key("phys-bits", Kind::Text),
    ]],
};

/// `net0` … `net31`.
pub const NET: Format = Format {
    default_key: Some("model"),
    required: &["model"],
    keys: &[
        &[
            key("model", Kind::Enum(NET_MODELS)),
            key("macaddr", Kind::Text),
            key("bridge", Kind::Text),
            key("queues", Kind::Integer(0)),
            key("rate", Kind::Number),
            key("tag", Kind::Integer(1)),
            key("trunks", Kind::Text),
            key("firewall", Kind::Boolean),
            key("link_down", Kind::Boolean),
            key("mtu", Kind::Integer(1)),
            key("host-managed", Kind::Boolean),
        ],
        &[
            key("virtio", Kind::KeyAlias("macaddr", "model")),
            key("e1000", Kind::KeyAlias("macaddr", "model")),
            key("e1000e", Kind::KeyAlias("macaddr", "model")),
            key("rtl8139", Kind::KeyAlias("macaddr", "model")),
            key("vmxnet3", Kind::KeyAlias("macaddr", "model")),
        ],
    ],
};

/// The network cards that QEMU has here.
pub const NET_MODELS: &[&str] = &["e1000", "e1000e", "rtl8139", "virtio", "vmxnet3"];

/// `smbios1`.
pub const SMBIOS1: Format = Format {
    default_key: None,
    required: &[],
    keys: &[&[
        key("uuid", Kind::Text),
        key("manufacturer", Kind::Text),
        key("product", Kind::Text),
        key("version", Kind::Text),
        key("serial", Kind::Text),
        key("sku", Kind::Text),
        key("family", Kind::Text),
        key("base64", Kind::Boolean),
    ]],
};

const DRIVE_BASE: &[Key] = &[
    key("file", Kind::Text),
    key("volume", Kind::Alias("file")),
    key("media", Kind::Enum(&["cdrom", "disk"])),
    key("cyls", Kind::Integer(i64::MIN)),
    key("heads", Kind::Integer(i64::MIN)),
    key("secs", Kind::Integer(i64::MIN)),
    key("trans", Kind::Enum(&["none", "lba", "auto"])),
    key("snapshot", Kind::Boolean),
    key(
        "cache",
        Kind::Enum(&["none", "writethrough", "writeback", "unsafe", "directsync"]),
    ),
    key(
        "format",
        Kind::Enum(&["raw", "qcow", "qed", "qcow2", "vmdk", "cloop"]),
    ),
    key(
        "size",
        Kind::Named(
            |text| parse_size(text).is_some(),
            "value does not look like a valid disk size",
        ),
    ),
    key("backup", Kind::Boolean),
    key("replicate", Kind::Boolean),
    key("rerror", Kind::Enum(&["ignore", "report", "stop"])),
    key(
        "werror",
        Kind::Enum(&["enospc", "ignore", "report", "stop"]),
    ),
    key("aio", Kind::Enum(&["native", "threads", "io_uring"])),
    key("discard", Kind::Enum(&["ignore", "on"])),
    key("detect_zeroes", Kind::Boolean),
    key("serial", Kind::Pattern(|text| text.len() <= 60)),
    key("shared", Kind::Boolean),
    key("iops", Kind::Integer(0)),
    key("iops_rd", Kind::Integer(0)),
    key("iops_wr", Kind::Integer(0)),
    key("mbps", Kind::Number),
    key("mbps_rd", Kind::Number),
    key("mbps_wr", Kind::Number),
];
const DRIVE_THREAD: &[Key] = &[key("iothread", Kind::Boolean)];
const DRIVE_READ_ONLY: &[Key] = &[key("ro", Kind::Boolean)];
const DRIVE_SSD: &[Key] = &[key("ssd", Kind::Boolean), key("wwn", Kind::Pattern(is_wwn))];

/// `ide0` … `ide3`.
pub const DRIVE_IDE: Format = Format {
    default_key: Some("file"),
    required: &["file"],
    keys: &[
        DRIVE_BASE,
        DRIVE_SSD,
        &[key("model", Kind::Pattern(|text| text.len() <= 120))],
    ],
};
/// `sata0` … `sata5`.
pub const DRIVE_SATA: Format = Format {
    default_key: Some("file"),
    required: &["file"],
    keys: &[DRIVE_BASE, DRIVE_SSD],
};
/// `scsi0` … `scsi30`.
pub const DRIVE_SCSI: Format = Format {
    default_key: Some("file"),
    required: &["file"],
    keys: &[
        DRIVE_BASE,
        DRIVE_THREAD,
        DRIVE_READ_ONLY,
        DRIVE_SSD,
        &[
            key("product", Kind::Pattern(|text| text.len() <= 16)),
            key("vendor", Kind::Pattern(|text| text.len() <= 8)),
            key("queues", Kind::Integer(2)),
            key("scsiblock", Kind::Boolean),
        ],
    ],
};
/// `virtio0` … `virtio15`.
pub const DRIVE_VIRTIO: Format = Format {
    default_key: Some("file"),
    required: &["file"],
    keys: &[DRIVE_BASE, DRIVE_THREAD, DRIVE_READ_ONLY],
};

/// `agent`.
pub const AGENT: Format = Format {
    default_key: Some("enabled"),
    required: &["enabled"],
    keys: &[&[
        key("enabled", Kind::Boolean),
        key("fstrim_cloned_disks", Kind::Boolean),
        key("freeze-fs-on-backup", Kind::Boolean),
        key("freeze-fs", Kind::Boolean),
        key("type", Kind::Enum(&["virtio", "isa"])),
    ]],
};

/// `machine`.
pub const MACHINE: Format = Format {
    default_key: Some("type"),
    required: &[],
    keys: &[&[
        key("type", Kind::Pattern(is_machine)),
        key("viommu", Kind::Enum(&["intel", "virtio"])),
        key("aw-bits", Kind::Integer(32)),
        key("enable-s3", Kind::Boolean),
        key("enable-s4", Kind::Boolean),
    ]],
};

/// `vga`.
pub const VGA: Format = Format {
    default_key: Some("type"),
    required: &[],
    keys: &[&[
        key(
            "type",
            Kind::Enum(&[
                "cirrus",
                "qxl",
                "qxl2",
                "qxl3",
                "qxl4",
                "none",
                "serial0",
                "serial1",
                "serial2",
                "serial3",
                "std",
                "virtio",
                "virtio-gl",
                "vmware",
            ]),
        ),
        key("memory", Kind::Integer(4)),
        key("clipboard", Kind::Enum(&["vnc"])),
    ]],
};

/// `boot`.
pub const BOOT: Format = Format {
    default_key: Some("legacy"),
    required: &[],
    keys: &[&[
        key(
            "legacy",
            Kind::Pattern(|text| {
                text.len() <= 4 && text.chars().all(|drive| "acdn".contains(drive))
            }),
        ),
        key("order", Kind::Text),
    ]],
};

/// `memory`.
pub const MEMORY: Format = Format {
    default_key: Some("current"),
    required: &["current"],
    keys: &[&[key("current", Kind::Integer(16))]],
};

/// The bytes of a size such as `32G`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, factor) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 1u64 << 10),
        (at, 'M') => (&text[..at], 1 << 20),
        (at, 'G') => (&text[..at], 1 << 30),
        (at, 'T') => (&text[..at], 1 << 40),
        _ => (text, 1),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, rest)) if digits(whole) && digits(rest) => number
            .parse::<f64>()
            .ok()
            .map(|n| (n * factor as f64) as u64),
        None if digits(number) => number.parse::<u64>().ok()?.checked_mul(factor),
        _ => None,
    }
}

/// `[domain:]bus:slot[.function]`, lower-case hex: an address, or the beginning of one.
pub fn is_pci_prefix(text: &str) -> bool {
    let hex = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&part.len())
            && part
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (slots, function) = match text.split_once('.') {
        Some((slots, function)) => (slots, Some(function)),
        None => (text, None),
    };
    let parts: Vec<&str> = slots.split(':').collect();
    let address = match parts.as_slice() {
        [domain, bus, slot] => hex(domain, 4..=8) && hex(bus, 2..=2) && hex(slot, 2..=2),
        [bus, slot] => hex(bus, 2..=2) && hex(slot, 2..=2),
        _ => false,
    };
    address && function.is_none_or(|function| hex(function, 1..=1))
}

fn is_hex_id(text: &str) -> bool {
    text.strip_prefix("0x")
        .is_some_and(|id| id.len() == 4 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_wwn(text: &str) -> bool {
    text.strip_prefix("0x").is_some_and(|id| {
        id.len() >= 16 && id.bytes().take(16).all(|byte| byte.is_ascii_hexdigit())
    })
}

fn is_config_id(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
}

fn is_machine(text: &str) -> bool {
    let base = text.split("+pve").next().unwrap_or(text);
    let versioned = |name: &str| {
        base.strip_prefix(name).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix('-').is_some_and(|version| {
                    !version.is_empty()
                        && version
                            .bytes()
                            .all(|byte| byte.is_ascii_digit() || byte == b'.')
                })
        })
    };
    base == "pc" || base == "q35" || versioned("pc-i440fx") || versioned("pc-q35")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_prefixes() {
        for good in [
            "00:1f.2",
            "0000:00:1f.2",
            "00:1f",
            "0000:01:00",
            "10000:e1:00.0",
        ] {
            assert!(is_pci_prefix(good), "{good}");
        }
        for bad in [
            "",
            "00:1F.2",
            "1f.2",
            "00:1f.",
            "00:1f.10",
            "0000:00:1f.2 ",
            "zz:1f",
            "0:1f.2",
        ] {
            assert!(!is_pci_prefix(bad), "{bad}");
        }
    }

    #[test]
    fn sizes_and_machines() {
        assert_eq!(parse_size("32G"), Some(32 << 30));
        assert_eq!(parse_size("1.5K"), Some(1536));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("G"), None);
        for good in [
            "q35",
            "pc",
            "pc-q35-10.0",
            "pc-i440fx-8.1+pve0",
            "pc-q35-9.2+pve1",
        ] {
            assert!(is_machine(good), "{good}");
        }
        for bad in ["q36", "pc-q35-", "virt", ""] {
            assert!(!is_machine(bad), "{bad}");
        }
    }
}
