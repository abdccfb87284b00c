//! What the host is: kernel, firmware, boot loader, ACPI tables, what its IOMMUs can do, watchdogs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::Firmware;

/// The host under the procedure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlatformFacts {
    /// The running kernel's release.
    pub kernel: String,
    /// The host's name.
    pub host_name: String,
    /// When the kernel started, by the clock that dates its files, in seconds since 1970.
    pub booted_at: u64,
    /// The processor's vendor, such as `GenuineIntel`.
    pub cpu_vendor: Option<String>,
    /// What the firmware is.
    pub firmware: Firmware,
    /// What the boot loader called itself in its EFI variable, such as `systemd-boot 257.7`.
    pub loader: Option<String>,
    /// The ACPI tables that the firmware gave, such as `DMAR` (Intel) or `IVRS` (AMD).
    pub acpi_tables: Vec<String>,
    /// The extended capability registers of Intel's IOMMUs, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intel_capabilities: BTreeMap<String, u64>,
    /// Hardware and software watchdogs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watchdogs: Vec<Watchdog>,
    /// Proxmox VE's own word on its version.
    pub proxmox: Option<String>,
}

/// A watchdog timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Watchdog {
    /// The kernel's name, such as `watchdog0`.
    pub name: String,
    /// The chip or program, such as `iTCO_wdt`.
    pub identity: String,
    /// Whether it counts: `active` or `inactive`.
    pub state: String,
    /// Whether nothing may stop it once it counts, its driver as it goes not either. None where that was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nowayout: Option<bool>,
}

impl PlatformFacts {
    /// Whether the firmware describes an IOMMU to the kernel.
    pub fn describes_iommu(&self) -> bool {
        ["DMAR", "IVRS", "VIOT"]
            .iter()
            .any(|name| self.acpi_tables.iter().any(|table| table == name))
    }

    /// The IOMMUs of Intel that cannot remap interrupts: bit 3 of the register is clear.
    pub fn without_interrupt_remapping(&self) -> impl Iterator<Item = (&str, u64)> {
        const INTERRUPT_REMAPPING: u64 = 1 << 3;
        self.intel_capabilities
            .iter()
            .filter(|(_, register)| **register & INTERRUPT_REMAPPING == 0)
            .map(|(name, register)| (name.as_str(), *register))
    }
}

/// The EFI variable of the boot loader is UTF-16 behind four bytes of flags; its printable bytes are its
/// text. `pveversion` is there on a real Proxmox VE host only.
///
/// The kernel says when it started by its clock of now. When that clock was set forward since, by NTP or
/// because a checkpoint was restored, all that was written before seems to be from before the boot. The
/// birth of `/run`, which every boot makes anew, was dated by the clock of then: the earlier one counts.
pub const SCRIPT: &str = r#"
read -r kernel </proc/sys/kernel/osrelease
read -r host </proc/sys/kernel/hostname
printf 'kernel\t%s\nhost\t%s\n' "$kernel" "$host"
boot=
while read -r key value; do
    [ "$key" = btime ] && boot=$value
done </proc/stat
born=$(stat -c %W /run)
[ "${born:-0}" -gt 0 ] && [ "$born" -lt "$boot" ] && boot=$born
printf 'boot-time\t%s\n' "$boot"
while IFS=: read -r key value; do
    case $key in vendor_id*) printf 'cpu\t%s\n' "${value# }"; break ;; esac
done </proc/cpuinfo
if [ -d /sys/firmware/efi ]; then printf 'firmware\tuefi\n'; else printf 'firmware\tbios\n'; fi
for file in /sys/firmware/efi/efivars/LoaderInfo-*; do
    [ -r "$file" ] && printf 'loader\t%s\n' "$(tr -cd '[:print:]' <"$file")"
done
for table in /sys/firmware/acpi/tables/*; do
    [ -f "$table" ] && printf 'acpi\t%s\n' "${table##*/}"
done
for unit in /sys/class/iommu/*; do
    [ -r "$unit/intel-iommu/ecap" ] || continue
    read -r ecap <"$unit/intel-iommu/ecap"
    printf 'intel\t%s\t%s\n' "${unit##*/}" "$ecap"
done
for dog in /sys/class/watchdog/*; do
    [ -r "$dog/identity" ] || continue
    state=unknown
    read -r identity <"$dog/identity"
    nowayout=unknown
    [ -r "$dog/state" ] && read -r state <"$dog/state"
    [ -r "$dog/nowayout" ] && read -r nowayout <"$dog/nowayout"
    printf 'watchdog\t%s\t%s\t%s\t%s\n' "${dog##*/}" "$identity" "$state" "$nowayout"
done
command -v pveversion >/dev/null && printf 'proxmox\t%s\n' "$(pveversion)"
echo end
"#;

/// Reads the platform.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(PlatformFacts, String), ProbeError> {
    ask(Probe::Platform, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and where kernel, name, time of the boot or
/// firmware are not told.
pub fn parse(output: &str) -> Result<PlatformFacts, ParseError> {
    let (mut kernel, mut host_name, mut booted_at, mut firmware) = (None, None, None, None);
    let (mut cpu_vendor, mut loader, mut proxmox) = (None, None, None);
    let (mut acpi_tables, mut watchdogs) = (Vec::new(), Vec::new());
    let mut intel_capabilities = BTreeMap::new();
    for record in records(output)? {
        match record.keyword {
            "kernel" => kernel = Some(record.one()?.to_owned()),
            "host" => host_name = Some(record.one()?.to_owned()),
            "boot-time" => {
                let seconds = record.one()?.parse();
                booted_at = Some(seconds.map_err(|_| record.refuse("the time is no number"))?);
            }
            "cpu" => cpu_vendor = Some(record.one()?.to_owned()),
            "firmware" => {
                firmware = Some(match record.one()? {
                    "uefi" => Firmware::Uefi,
                    "bios" => Firmware::Bios,
                    _ => return Err(record.refuse("`uefi` or `bios` was expected")),
                });
            }
            "loader" => {
                let text = record.one()?.trim();
                loader = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            "acpi" => acpi_tables.push(record.one()?.to_owned()),
            "intel" => {
                let [name, register] = record.fields()?;
                let register = u64::from_str_radix(register, 16)
                    .map_err(|_| record.refuse("the register is no hexadecimal number"))?;
                intel_capabilities.insert(name.to_owned(), register);
            }
            "watchdog" => {
                let [name, identity, state, nowayout] = record.fields()?.map(str::to_owned);
                watchdogs.push(Watchdog {
                    name,
                    identity,
                    state,
                    nowayout: match nowayout.as_str() {
                        "0" => Some(false),
                        "1" => Some(true),
                        _ => None,
                    },
                });
            }
            "proxmox" => proxmox = Some(record.one()?.to_owned()),
            _ => return Err(record.unknown()),
        }
    }
    Ok(PlatformFacts {
        kernel: kernel.ok_or_else(|| ParseError::missing("the kernel's release"))?,
        host_name: host_name.ok_or_else(|| ParseError::missing("the host's name"))?,
        booted_at: booted_at.ok_or_else(|| ParseError::missing("the time of the boot"))?,
        firmware: firmware.ok_or_else(|| ParseError::missing("the firmware's kind"))?,
        cpu_vendor,
        loader,
        acpi_tables,
        intel_capabilities,
        watchdogs,
        proxmox,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand, after the lab's host and a Proxmox VE 9 host with systemd-boot.
    const HOST: &str = "kernel\t6.14.8-2-pve\nhost\tpve1\nboot-time\t1753000000\ncpu\tGenuineIntel\n\
        firmware\tuefi\nloader\t\u{6}systemd-boot 257.7\nacpi\tAPIC\nacpi\tDMAR\nintel\tdmar0\tf00f42\n\
        intel\tdmar1\tf00f4a\nwatchdog\twatchdog0\tiTCO_wdt\tactive\t1\nwatchdog\twatchdog1\tSoftware Watchdog\tactive\tunknown\n\
        proxmox\tpve-manager/9.0.3/025864202ebb6109 (running kernel: 6.14.8-2-pve)\nend\n";

    #[test]
    fn a_host_says_what_it_is() {
        let facts = parse(&HOST.replace('\u{6}', "")).unwrap();
        assert_eq!(facts.firmware, Firmware::Uefi);
        assert_eq!(facts.loader.as_deref(), Some("systemd-boot 257.7"));
        assert!(facts.describes_iommu());
        // Captured from the lab with and without `intremap=on`: f00f4a and f00f42.
        let without: Vec<_> = facts.without_interrupt_remapping().collect();
        assert_eq!(without, [("dmar0", 0xf0_0f42)]);
        let watchdogs = facts.watchdogs.iter();
        let watchdogs: Vec<_> = watchdogs
            .map(|one| (one.identity.as_str(), one.nowayout))
            .collect();
        assert_eq!(
            watchdogs,
            [("iTCO_wdt", Some(true)), ("Software Watchdog", None)]
        );
        assert_eq!(facts.booted_at, 1_753_000_000);
    }

    #[test]
    fn the_script_runs_here() {
        let output = std::process::Command::new("sh")
            .args(["-c", SCRIPT])
            .output()
            .unwrap();
        let facts = parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
        assert!(facts.booted_at > 0 && !facts.kernel.is_empty());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            (String::new(), "no output"),
            (HOST.replace("end\n", ""), "breaks off"),
            (HOST.replace("kernel\t", "karnel\t"), "`karnel`"),
            (
                HOST.replace("boot-time\t1753000000\n", ""),
                "time of the boot",
            ),
            (HOST.replace("\tuefi", "\tcoreboot"), "`uefi` or `bios`"),
            (HOST.replace("f00f42", "xyz"), "hexadecimal"),
            (HOST.replace("\tactive", ""), "4 fields"),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
