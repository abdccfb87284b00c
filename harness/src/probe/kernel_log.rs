//! What the kernel's log says of IOMMUs, VFIO, resets, PCI errors and watchdogs, each line with its
//! topic and its device. Also which PCI devices the boot before this one found, where the journal still
//! has it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::PciAddress;

/// The lines that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KernelLogFacts {
    /// In the kernel's order, the newest last.
    pub lines: Vec<LogLine>,
    /// PCI devices of the boot before this one; empty where no journal was kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_devices: Vec<PciIdentity>,
}

/// A line of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogLine {
    /// What it is about.
    pub topic: LogTopic,
    /// The device that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PciAddress>,
    /// The line without its time.
    pub message: String,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum LogTopic {
    /// Words of the command line that the kernel does not know, which it hands on to the first process.
    UnknownParameters,
    /// A device reached for memory that it was not given.
    DmaFault,
    /// VFIO refuses, because interrupts are not remapped.
    NoInterruptRemapping,
    /// Anything else about interrupt remapping.
    InterruptRemapping,
    /// Anything else about IOMMUs.
    Iommu,
    /// A reset of a device.
    Reset,
    /// VFIO.
    Vfio,
    /// PCI Express error reporting.
    PciError,
    /// A watchdog.
    Watchdog,
}

/// What a device is, wherever it sits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PciIdentity {
    /// Where it sits.
    pub address: PciAddress,
    /// Vendor id: four hexadecimal digits.
    pub vendor: String,
    /// Device id: four hexadecimal digits.
    pub device: String,
    /// Class: six hexadecimal digits.
    pub class: String,
}

impl KernelLogFacts {
    /// The line that tells of [`unknown_parameters`](Self::unknown_parameters).
    pub fn unknown_line(&self) -> Option<String> {
        let line = self.on(LogTopic::UnknownParameters).next();
        line.map(|line| line.message.clone())
    }

    /// Words of the command line that the kernel does not know, as far as its log still tells.
    pub fn unknown_parameters(&self) -> Vec<&str> {
        self.on(LogTopic::UnknownParameters)
            .filter_map(|line| {
                line.message
                    .strip_prefix(UNKNOWN_PARAMETERS)?
                    .rsplit_once('"')
            })
            .flat_map(|(words, _)| words.split_whitespace())
            .collect()
    }

    /// The lines that call the table of the IOMMUs broken, and name the firmware that made it.
    pub fn broken_table(&self) -> Vec<&str> {
        let lines = || self.on(LogTopic::Iommu).map(|line| line.message.as_str());
        if !lines().any(|line| line.contains(BROKEN_TABLE)) {
            return Vec::new();
        }
        lines()
            .filter(|line| line.contains(BROKEN_TABLE) || line.starts_with(TABLES_FIRMWARE))
            .collect()
    }

    /// The lines on a topic.
    pub fn on(&self, topic: LogTopic) -> impl Iterator<Item = &LogLine> {
        self.lines.iter().filter(move |line| line.topic == topic)
    }
}

/// grep that finds nothing has still answered; a `dmesg` that is refused has not. A journal of the boot
/// before may not be there.
pub const SCRIPT: &str = r#"
dmesg >/dev/null || exit
dmesg | grep -E -e 'Unknown kernel command line|DMAR|AMD-Vi|IOMMU|iommu|BIOS vendor: |vfio|VFIO|AER: |iTCO|watchdog|reset' |
    tail -n 500
if command -v journalctl >/dev/null; then
    journalctl --dmesg --boot=-1 --output=cat --no-pager 2>/dev/null |
        grep -E '^pci [0-9a-f:.]+: \[[0-9a-f]{4}:[0-9a-f]{4}\] type' | sed 's/^/previous\t/'
fi
echo end
"#;

/// Reads the log.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(KernelLogFacts, String), ProbeError> {
    ask(Probe::KernelLog, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off, and for a device of the boot before without its ids.
pub fn parse(output: &str) -> Result<KernelLogFacts, ParseError> {
    let mut facts = KernelLogFacts::default();
    for record in records(output)? {
        if record.keyword == "previous" {
            let identity = identity(record.one()?);
            let identity = identity
                .ok_or_else(|| record.refuse("a PCI device with ids and class was expected"))?;
            facts.previous_devices.push(identity);
            continue;
        }
        let message = match record
            .text
            .strip_prefix('[')
            .and_then(|r| r.split_once("] "))
        {
            Some((_, message)) => message.trim_end(),
            // A further line of a message.
            None if record.text.starts_with(' ') => record.text.trim(),
            None => return Err(record.refuse("it does not start with a time stamp")),
        };
        if let Some(topic) = topic(message) {
            facts.lines.push(LogLine {
                topic,
                device: device(message),
                message: message.to_owned(),
            });
        }
    }
    Ok(facts)
}

/// Linux says so since 5.14 (init/main.c, `print_unknown_bootoptions`).
const UNKNOWN_PARAMETERS: &str = "Unknown kernel command line parameters \"";

/// Linux's words on a DMAR table that describes a unit where there is none (drivers/iommu/intel/dmar.c,
/// `warn_invalid_dmar`), and the beginning of the line that comes after them.
const BROKEN_TABLE: &str = "DMAR reported at address";
const TABLES_FIRMWARE: &str = "BIOS vendor: ";

fn topic(message: &str) -> Option<LogTopic> {
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    Some(if message.starts_with(UNKNOWN_PARAMETERS) {
        LogTopic::UnknownParameters
    } else if says(&["IO_PAGE_FAULT"]) || (says(&["DMAR: "]) && says(&["fault addr"])) {
        LogTopic::DmaFault
    } else if says(&["No interrupt remapping"]) {
        LogTopic::NoInterruptRemapping
    } else if says(&["DMAR-IR", "nterrupt remapping"]) {
        LogTopic::InterruptRemapping
    } else if says(&["AER: "]) {
        LogTopic::PciError
    } else if says(&["iTCO", "watchdog"]) {
        LogTopic::Watchdog
    } else if says(&["DMAR", "AMD-Vi", "IOMMU", "iommu: ", TABLES_FIRMWARE]) {
        LogTopic::Iommu
    } else if says(&["reset"]) {
        // Other drivers reset links and ports all the time: only a named PCI device counts.
        device(message)?;
        LogTopic::Reset
    } else if says(&["vfio", "VFIO"]) {
        LogTopic::Vfio
    } else {
        return None;
    })
}

/// The last PCI address in a message: the device that an error came from, where a port reports it.
fn device(message: &str) -> Option<PciAddress> {
    message
        .split(|c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.'))
        .map(|word| word.trim_end_matches([':', '.']))
        .filter_map(|word| word.parse().ok())
        .next_back()
}

/// `pci 0000:00:1f.2: [8086:2922] type 00 class 0x010601 …`
fn identity(line: &str) -> Option<PciIdentity> {
    let (address, rest) = line.strip_prefix("pci ")?.split_once(": [")?;
    let (ids, rest) = rest.split_once(']')?;
    let (vendor, device) = ids.split_once(':')?;
    let (_, class) = rest.split_once("class 0x")?;
    Some(PciIdentity {
        address: address.parse().ok()?,
        vendor: vendor.to_owned(),
        device: device.to_owned(),
        class: class.get(..6)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_topic_and_device() {
        use LogTopic::*;
        // Lines of Linux 6.1 to 6.14, from the lab and from the kernel's sources.
        for (message, topic_is, device_is) in [
            ("DMAR: IOMMU enabled", Some(Iommu), None),
            (
                "Unknown kernel command line parameters \"intel_iomu=on\", will be passed to user space.",
                Some(UnknownParameters),
                None,
            ),
            (
                "DMAR-IR: Enabled IRQ remapping in xapic mode",
                Some(InterruptRemapping),
                None,
            ),
            (
                "AMD-Vi: Interrupt remapping enabled",
                Some(InterruptRemapping),
                None,
            ),
            (
                "DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0xff7d0000 [fault reason 0x06] PTE Read access is not set",
                Some(DmaFault),
                Some("0000:01:00.0"),
            ),
            ("DMAR: DRHD: handling fault status reg 2", Some(Iommu), None),
            // Two lines of one message.
            (
                "DMAR: [Firmware Bug]: Your BIOS is broken; DMAR reported at address 0!",
                Some(Iommu),
                None,
            ),
            (
                "BIOS vendor: American Megatrends Inc.; Ver: F4; Product Version: To be filled by O.E.M.",
                Some(Iommu),
                None,
            ),
            (
                "DMAR: [Firmware Bug]: Your BIOS is broken; DMAR reported at address fed90000 returns all ones!",
                Some(Iommu),
                None,
            ),
            (
                "vfio-pci 0000:0f:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000f address=0x40 flags=0x0000]",
                Some(DmaFault),
                Some("0000:0f:00.0"),
            ),
            (
                "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param \"allow_unsafe_interrupts\" to enable VFIO IOMMU support on this platform",
                Some(NoInterruptRemapping),
                None,
            ),
            (
                "vfio-pci 0000:01:00.0: resetting",
                Some(Reset),
                Some("0000:01:00.0"),
            ),
            (
                "VFIO - User Level meta-driver version: 0.3",
                Some(Vfio),
                None,
            ),
            (
                "vfio_pci: add [8086:2922[ffffffff:ffffffff]] class 0x000000/00000000",
                Some(Vfio),
                None,
            ),
            (
                "pcieport 0000:00:1c.0: AER: Correctable error message received from 0000:01:00.0",
                Some(PciError),
                Some("0000:01:00.0"),
            ),
            (
                "watchdog: watchdog0: watchdog did not stop!",
                Some(Watchdog),
                None,
            ),
            ("usb 1-1: reset high-speed USB device number 2", None, None),
        ] {
            assert_eq!(topic(message), topic_is, "{message}");
            if topic_is.is_some() {
                let found = device(message).map(|one| one.to_string());
                assert_eq!(found.as_deref(), device_is, "{message}");
            }
        }
    }

    #[test]
    fn the_labs_log_and_the_boot_before_it() {
        let output = format!(
            "{}previous\tpci 0000:00:1f.2: [8086:2922] type 00 class 0x010601 conventional PCI endpoint\nend\n",
            include_str!("samples/dmesg-q35-intel.txt")
        );
        let facts = parse(&output).unwrap();
        assert_eq!(facts.on(LogTopic::InterruptRemapping).count(), 3);
        assert_eq!(facts.on(LogTopic::DmaFault).count(), 0);
        assert_eq!(facts.previous_devices[0].class, "010601");
        assert!(parse("end\n").unwrap().lines.is_empty());
    }

    #[test]
    fn a_message_may_have_several_lines() {
        let broken = "DMAR: [Firmware Bug]: Your BIOS is broken; DMAR reported at address 0!";
        let firmware = "BIOS vendor: SeaBIOS; Ver: 1.16; Product Version: pc-q35";
        // As dmesg prints it from /dev/kmsg, and as from the system call.
        for prefix in ["               ", "[    0.012345] "] {
            let output = format!("[    0.012345] {broken}\n{prefix}{firmware}\nend\n");
            let facts = parse(&output).unwrap();
            assert_eq!(facts.on(LogTopic::Iommu).count(), 2);
            assert_eq!(facts.broken_table(), [broken, firmware]);
        }
        assert!(SCRIPT.contains(TABLES_FIRMWARE));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("[    0.1] DMAR: IOMMU enabled\n", "breaks off"),
            ("dmesg: read kernel buffer failed\nend\n", "time stamp"),
            ("previous\tpci 0000:00:1f.2: BAR 5\nend\n", "ids and class"),
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }
}
