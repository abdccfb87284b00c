//! Which settings exist and what their values must be (qemu-server, QemuServer.pm).

use super::{
    cpus::check_cpu,
    formats::{
        AGENT, BOOT, CPU, DRIVE_IDE, DRIVE_SATA, DRIVE_SCSI, DRIVE_VIRTIO, HOSTPCI, MACHINE,
        MEMORY, NET, SMBIOS1, VGA,
    },
    property::{Format, FormatError, parse_boolean, parse_properties},
};

/// What a setting's value is.
#[derive(Debug, Clone, Copy)]
pub enum SettingKind {
    /// Any text.
    Text,
    /// Normalised to `0` or `1`.
    Boolean,
    /// Digits.
    Integer,
    /// Digits with an optional fraction.
    Number,
    /// One of these; checked when it is set, not when it is read.
    Enum(&'static [&'static str]),
    /// Text for which this holds; checked when it is set, not when it is read.
    Pattern(fn(&str) -> bool),
    /// A property string.
    Properties(&'static Format),
}

/// A setting that a configuration may have.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its kind.
    pub kind: SettingKind,
    /// Whether it takes effect on a running VM without more ado.
    pub fast: bool,
}

const SCSI_CONTROLLERS: &[&str] = &[
    "lsi",
    "lsi53c810",
    "virtio-scsi-pci",
    "virtio-scsi-single",
    "megasas",
    "pvscsi",
];
const OS_TYPES: &[&str] = &[
    "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24",
    "l26", "solaris",
];
const LOCKS: &[&str] = &[
    "backup",
    "clone",
    "create",
    "migrate",
    "rollback",
    "snapshot",
    "snapshot-delete",
    "suspending",
    "suspended",
];

/// Numbered settings: name, how many, and kind.
const NUMBERED: &[(&str, u32, SettingKind)] = &[
    ("hostpci", 16, SettingKind::Properties(&HOSTPCI)),
    ("scsi", 31, SettingKind::Properties(&DRIVE_SCSI)),
    ("virtio", 16, SettingKind::Properties(&DRIVE_VIRTIO)),
    ("sata", 6, SettingKind::Properties(&DRIVE_SATA)),
    ("ide", 4, SettingKind::Properties(&DRIVE_IDE)),
    ("net", 32, SettingKind::Properties(&NET)),
    (
        "serial",
        4,
        SettingKind::Pattern(|text| text == "socket" || text.starts_with("/dev/")),
    ),
    ("unused", 256, SettingKind::Text),
    ("usb", 14, SettingKind::Text),
    ("numa", 8, SettingKind::Text),
    ("parallel", 3, SettingKind::Text),
    ("ipconfig", 32, SettingKind::Text),
    ("virtiofs", 10, SettingKind::Text),
    ("efidisk", 1, SettingKind::Text),
    ("tpmstate", 1, SettingKind::Text),
    ("audio", 1, SettingKind::Text),
    ("rng", 1, SettingKind::Text),
];

/// The setting of this name, if there is one.
pub fn setting(name: &str) -> Option<Setting> {
    use SettingKind::{Boolean, Enum, Integer, Number, Pattern, Properties, Text};
    let kind = match name {
        "acpi" | "autostart" | "ciupgrade" | "freeze" | "keephugepages" | "kvm" | "localtime"
        | "numa" | "onboot" | "protection" | "reboot" | "tablet" | "tdf" | "template"
        | "allow-ksm" => Boolean,
        "balloon" | "cores" | "cpuunits" | "migrate_speed" | "shares" | "smp" | "snaptime"
        | "sockets" | "vcpus" => Integer,
        "cpulimit" | "migrate_downtime" => Number,
        "bios" => Enum(&["seabios", "ovmf"]),
        "arch" => Enum(&["x86_64", "aarch64"]),
        "ostype" => Enum(OS_TYPES),
        "scsihw" => Enum(SCSI_CONTROLLERS),
        "lock" => Enum(LOCKS),
        "hugepages" => Enum(&["any", "2", "1024"]),
        "name" => Pattern(is_dns_name),
        "vmgenid" => Pattern(|text| text == "0" || text == "1" || is_uuid(text)),
        "smbios1" => Properties(&SMBIOS1),
        "cpu" => Properties(&CPU),
        "agent" => Properties(&AGENT),
        "machine" => Properties(&MACHINE),
        "vga" => Properties(&VGA),
        "boot" => Properties(&BOOT),
        "memory" => Properties(&MEMORY),
        "cdrom" => Properties(&DRIVE_IDE),
        "affinity"
        | "amd-sev"
        | "args"
        | "bootdisk"
        | "cicustom"
        | "cipassword"
        | "citype"
        | "ciuser"
        | "description"
        | "hookscript"
        | "hotplug"
        | "intel-tdx"
        | "ivshmem"
        | "keyboard"
        | "meta"
        | "nameserver"
        | "parent"
        | "running-nets-host-mtu"
        | "runningcpu"
        | "runningmachine"
        | "searchdomain"
        | "spice_enhancements"
        | "sshkeys"
        | "startdate"
        | "startup"
        | "tags"
        | "vmstate"
        | "vmstatestorage"
        | "watchdog" => Text,
        _ => numbered(name)?,
    };
    let fast = matches!(
        name,
        "lock"
            | "name"
            | "onboot"
            | "shares"
            | "startup"
            | "description"
            | "protection"
            | "vmstatestorage"
            | "hookscript"
            | "tags"
    );
    Some(Setting { kind, fast })
}

fn numbered(name: &str) -> Option<SettingKind> {
    let digits = name.find(|letter: char| letter.is_ascii_digit())?;
    let (stem, number) = name.split_at(digits);
    let number: u32 = number
        .parse()
        .ok()
        .filter(|value: &u32| value.to_string() == number)?;
    NUMBERED
        .iter()
        .find(|(known, count, _)| *known == stem && number < *count)
        .map(|(_, _, kind)| *kind)
}

/// Checks a value as Proxmox does when it *reads* a configuration, and normalises it. Enumerations and patterns are not
/// looked at here, as they are not there.
pub fn check_type(name: &str, value: &str) -> Result<String, FormatError> {
    let other = |message: String| Err(FormatError::Other(message));
    let Some(setting) = setting(name) else {
        return other(format!("unknown setting '{name}'"));
    };
    match setting.kind {
        SettingKind::Boolean => match parse_boolean(value) {
            Some(value) => Ok(u8::from(value).to_string()),
            None => other(format!("type check ('boolean') failed - got '{value}'")),
        },
        SettingKind::Integer => match value.parse::<u64>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => other(format!("type check ('integer') failed - got '{value}'")),
        },
        SettingKind::Number if value.parse::<f64>().is_err() => {
            other(format!("type check ('number') failed - got '{value}'"))
        }
        SettingKind::Properties(format) => {
            let found = parse_properties(format, value)?;
            if name == "cpu" {
                check_cpu(&found)?;
            }
            Ok(value.to_owned())
        }
        _ => Ok(value
            .strip_prefix('"')
            .and_then(|inner| inner.strip_suffix('"'))
            .unwrap_or(value)
            .to_owned()),
    }
}

/// Checks a value as Proxmox does when it is *set*, and normalises it.
pub fn check_value(name: &str, value: &str) -> Result<String, FormatError> {
    let checked = check_type(name, value)?;
    match setting(name).map(|setting| setting.kind) {
        Some(SettingKind::Enum(names)) if !names.contains(&value) => {
            Err(FormatError::Other(format!(
                "value '{value}' does not have a value in the enumeration '{}'",
                names.join(", ")
            )))
        }
        Some(SettingKind::Pattern(matches)) if !matches(value) => Err(FormatError::Other(
            "value does not match the regex pattern".to_owned(),
        )),
        _ => Ok(checked),
    }
}

fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
        })
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12]
        && text
            .chars()
            .all(|letter| letter == '-' || letter.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, expected: &str) {
        let shown = check_type(name, value).unwrap_or_else(|error| error.to_string());
        assert_eq!(shown, expected, "{name}: {value}");
    }

    #[test]
    fn reading() {
        check("onboot", "Yes", "1");
        check("cores", "02", "2");
        check("cores", "-1", "type check ('integer') failed - got '-1'");
        check(
            "kvm",
            "maybe",
            "type check ('boolean') failed - got 'maybe'",
        );
        check("name", "\"nas\"", "nas");
        check("bios", "openbios", "openbios");
        check("hostpci15", "00:1f.2", "00:1f.2");
        check("hostpci16", "00:1f.2", "unknown setting 'hostpci16'");
        check("hostpci00", "00:1f.2", "unknown setting 'hostpci00'");
        check(
            "hostpci0",
            "0000:00:1G.2,pcie=1",
            "format error\nhost: value does not match the regex pattern",
        );
        check(
            "hostpci0",
            "0000:00:1f.2;pcie=1",
            "invalid key in comma-separated list property: 0000:00:1f.2;pcie",
        );
        check(
            "machine",
            "q36",
            "format error\ntype: value does not match the regex pattern",
        );
    }

    #[test]
    fn setting_is_stricter() {
        assert!(check_value("bios", "openbios").is_err());
        assert!(check_value("name", "no spaces").is_err());
        assert!(check_value("serial0", "/tmp/x").is_err());
        assert_eq!(check_value("serial0", "socket").as_deref(), Ok("socket"));
    }
}
