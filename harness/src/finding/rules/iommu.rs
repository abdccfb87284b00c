//! Whether there is an IOMMU, and what it can do.

use super::boot;
use super::references::{
    KERNEL_IOMMU, KERNEL_PARAMETERS, KERNEL_VFIO, PVE_CMDLINE, PVE_PASSTHROUGH,
    PVE_PASSTHROUGH_WIKI,
};
use crate::finding::model::{Draft, Rule, Severity};
use crate::finding::view::{View, describe, is_passthrough_word};
use crate::probe::kernel_log::{KernelLogFacts, LogTopic};
use crate::probe::platform::PlatformFacts;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "iommu-off-on-cmdline",
        severity: Severity::Error,
        summary: "the kernel was told to leave the IOMMU off",
        explanation: "A word such as intel_iommu=off on the kernel's command line turns the IOMMU off whatever the \
            firmware says. Lines with DMAR in dmesg are printed all the same, so only /sys/class/iommu tells.",
        reference: KERNEL_PARAMETERS,
        derive: off_on_cmdline,
    },
    Rule {
        id: "vt-d-off",
        severity: Severity::Error,
        summary: "the firmware describes no IOMMU: VT-d or AMD-Vi is off in its setup, or the board has none",
        explanation: "The kernel learns of an IOMMU from an ACPI table (DMAR for Intel, IVRS for AMD). Without the table \
            no word on the command line helps, and `DMAR: IOMMU enabled` in dmesg only repeats that word.",
        reference: PVE_PASSTHROUGH,
        derive: off_in_firmware,
    },
    Rule {
        id: "iommu-not-enabled",
        severity: Severity::Error,
        summary: "the firmware offers an IOMMU, and nothing tells the kernel to use it",
        explanation: "Intel's IOMMU is off by default in Proxmox VE's kernels before 8.2's 6.8; there intel_iommu=on has \
            to be on the command line. Debian's own kernels have it on.",
        reference: PVE_CMDLINE,
        derive: not_enabled,
    },
    Rule {
        id: "iommu-absent",
        severity: Severity::Error,
        summary: "the IOMMU is there and meant to be used, and the kernel still did not take it into use",
        explanation: "The firmware has the table, and the command line has the word (AMD's needs none) or the kernel's log \
            calls the table broken. Something is wrong that no word on the command line mends; the log says what. An \
            update of the firmware is the usual cure.",
        reference: KERNEL_IOMMU,
        derive: absent,
    },
    Rule {
        id: "controller-without-group",
        severity: Severity::Error,
        summary: "the IOMMU is on, and the controller is in none of its groups",
        explanation: "Most IOMMUs sort all devices into groups as they start. A virtio-iommu's driver may start later, and \
            then sorts a device only when a driver takes it. A controller whose driver is blacklisted is never taken, so \
            there is no group that VFIO could open.",
        reference: KERNEL_VFIO,
        derive: without_group,
    },
    Rule {
        id: "no-interrupt-remapping",
        severity: Severity::Error,
        summary: "the IOMMU does not remap interrupts, so VFIO refuses to give devices away",
        explanation: "Without remapping a guest could forge interrupts for the host. The kernel therefore refuses, and \
            `qm start` ends with `Operation not permitted`.",
        reference: PVE_PASSTHROUGH_WIKI,
        derive: no_interrupt_remapping,
    },
    Rule {
        id: "unsafe-interrupts",
        severity: Severity::Warning,
        summary: "VFIO was told to go on without remapped interrupts",
        explanation: "With allow_unsafe_interrupts a guest that owns a device can send the host any interrupt, and so \
            disturb it or break into it. That is for guests that are trusted.",
        reference: KERNEL_VFIO,
        derive: unsafe_interrupts,
    },
    Rule {
        id: "acs-override",
        severity: Severity::Warning,
        summary: "IOMMU groups were to be split by force, not because the hardware keeps the devices apart",
        explanation: "pcie_acs_override makes the kernel believe that devices cannot reach each other. They still can, so a \
            guest's device may write to one of the host's. It is a patch of Proxmox VE's kernels; others do not know it, and \
            it leaves a chipset's functions that are no PCI Express devices, such as its SATA controller, in their group.",
        reference: PVE_PASSTHROUGH_WIKI,
        derive: acs_override,
    },
    Rule {
        id: "dma-fault",
        severity: Severity::Note,
        summary: "a device reached for memory that it was not given, and the IOMMU stopped it",
        explanation: "One such line when a VM stops is harmless: its controller was still at work. Many of them while it \
            runs mean that device or driver do not bear passthrough.",
        reference: KERNEL_IOMMU,
        derive: dma_fault,
    },
];

/// Words that turn an IOMMU off.
const OFF: [&str; 3] = ["intel_iommu=off", "amd_iommu=off", "iommu=off"];
/// Words that ask for one. AMD's is on without any.
const ON: [&str; 2] = ["intel_iommu=on", "iommu=force"];

/// The words of one list that are on the running kernel's command line, where `/sys/class/iommu` is
/// known to be empty.
fn without_iommu(view: &View<'_>, words: &[&str]) -> Option<Vec<String>> {
    let facts = view.facts();
    let (iommu, cmdline) = (facts.iommu.as_ref()?, facts.cmdline.as_ref()?);
    // One parameter may have several values: intel_iommu=on,sm_on.
    let says = |word: &&String| {
        let (name, values) = word.split_once('=').unwrap_or((word, ""));
        let mut values = values.split(',');
        values.any(|value| words.contains(&format!("{name}={value}").as_str()))
    };
    let there = cmdline.words.iter().filter(says);
    iommu.units.is_empty().then(|| there.cloned().collect())
}

/// Without anybody who wants passthrough, no IOMMU is nothing bad. That nobody does is only known where the
/// VMs are.
fn wanted(view: &View<'_>) -> bool {
    let asked = without_iommu(view, &ON).is_some_and(|words| !words.is_empty());
    asked || !view.claims().is_empty() || view.facts().vm_configs.is_none()
}

const NO_UNIT: &str = "/sys/class/iommu is empty";

fn off_on_cmdline(view: &View<'_>) -> Option<Draft> {
    let off = without_iommu(view, &OFF)?;
    let word = off.first()?;
    let draft = Draft::new(format!(
        "`{word}` on the kernel's command line keeps the IOMMU off"
    ));
    Some(
        draft
            .severity_if(!wanted(view), Severity::Note)
            .proof("iommu", NO_UNIT)
            .proofs("cmdline", off.clone())
            .fix(format!("# take {word} out of {}", boot::line_of(view)))
            .fix(boot::refresh(view))
            .fix("reboot"),
    )
}

fn off_in_firmware(view: &View<'_>) -> Option<Draft> {
    let platform = view.facts().platform.as_ref()?;
    let off = without_iommu(view, &OFF)?;
    if !off.is_empty() || platform.describes_iommu() || platform.acpi_tables.is_empty() {
        return None;
    }
    let feature = match platform.cpu_vendor.as_deref() {
        Some("GenuineIntel") => "VT-d",
        Some("AuthenticAMD") => "AMD-Vi (IOMMU)",
        _ => "VT-d or AMD-Vi",
    };
    let cause = format!(
        "the firmware describes no IOMMU to the kernel: {feature} is off in its setup, or not there"
    );
    Some(
        Draft::new(cause)
            .severity_if(!wanted(view), Severity::Note)
            .proof("iommu", NO_UNIT)
            .proof(
                "platform",
                format!("ACPI tables: {}", platform.acpi_tables.join(" ")),
            )
            .fix(format!(
                "# turn on {feature} in the firmware's setup, and power the machine off and on"
            )),
    )
}

fn not_enabled(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let platform = facts.platform.as_ref()?;
    // Whether the table is of any use is only known where the log is.
    let broken = facts.kernel_log.as_ref()?.broken_table();
    let said = without_iommu(view, &[&OFF[..], &ON].concat())?;
    if !broken.is_empty() || !said.is_empty() || !platform.describes_iommu() || is_amd(platform) {
        return None;
    }
    let word = "intel_iommu=on";
    let cause =
        format!("the firmware offers an IOMMU, and `{word}` is not on the kernel's command line");
    Some(
        Draft::new(cause)
            .severity_if(!wanted(view), Severity::Note)
            .proof("iommu", NO_UNIT)
            .proof(
                "platform",
                format!("ACPI tables: {}", platform.acpi_tables.join(" ")),
            )
            .proof("platform", format!("kernel {}", platform.kernel))
            .fix(format!("# add {word} to {}", boot::line_of(view)))
            .fix(boot::refresh(view))
            .fix("reboot"),
    )
}

/// The table is the IOMMU's; a processor may be another's in a virtual machine.
fn is_amd(platform: &PlatformFacts) -> bool {
    platform.acpi_tables.iter().any(|table| table == "IVRS")
}

fn absent(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let platform = facts.platform.as_ref()?;
    let (on, off) = (without_iommu(view, &ON)?, without_iommu(view, &OFF)?);
    let log = facts.kernel_log.as_ref();
    let broken = log.map(KernelLogFacts::broken_table).unwrap_or_default();
    let asked = !on.is_empty() || is_amd(platform) || !broken.is_empty();
    if !asked || !off.is_empty() || !platform.describes_iommu() {
        return None;
    }
    let (cause, lines) = match broken.is_empty() {
        true => (
            "the kernel has the IOMMU's table and is meant to use it, and did not",
            log.into_iter()
                .flat_map(|log| log.on(LogTopic::Iommu))
                .map(|line| line.message.as_str())
                .take(8)
                .collect(),
        ),
        false => (
            "the firmware's table of the IOMMU is broken, and the kernel leaves the IOMMU off",
            broken,
        ),
    };
    Some(
        Draft::new(cause)
            .severity_if(!wanted(view), Severity::Note)
            .proof("iommu", NO_UNIT)
            .proof(
                "platform",
                format!("ACPI tables: {}", platform.acpi_tables.join(" ")),
            )
            .proofs("cmdline", on)
            .proofs("kernel-log", lines.into_iter().map(str::to_owned))
            .fix("dmesg | grep -i -e dmar -e amd-vi -e iommu")
            .fix("# update the firmware"),
    )
}

/// Whether VFIO goes on without remapping.
fn allows_unsafe(view: &View<'_>) -> bool {
    view.facts().modules.as_ref().is_some_and(|modules| {
        let parameter = modules
            .parameters
            .get("vfio_iommu_type1.allow_unsafe_interrupts");
        parameter.is_some_and(|value| value == "Y")
    })
}

/// What proves that interrupts are not remapped.
fn unremapped(view: &View<'_>) -> Vec<(&'static str, String)> {
    let facts = view.facts();
    let mut proof = Vec::new();
    for (unit, register) in facts
        .platform
        .iter()
        .flat_map(|one| one.without_interrupt_remapping())
    {
        let quote = format!("{unit}: ecap {register:x}, bit 3 (interrupt remapping) is clear");
        proof.push(("platform", quote));
    }
    let off = |word: &&String| ["intremap=off", "nointremap"].contains(&word.as_str());
    for word in facts
        .cmdline
        .iter()
        .flat_map(|one| one.words.iter().filter(off))
    {
        proof.push(("cmdline", word.clone()));
    }
    // The kernel repeats itself for each group.
    let refusal = facts
        .kernel_log
        .iter()
        .flat_map(|log| log.on(LogTopic::NoInterruptRemapping));
    proof.extend(
        refusal
            .take(1)
            .map(|line| ("kernel-log", line.message.clone())),
    );
    proof
}

fn without_group(view: &View<'_>) -> Option<Draft> {
    let iommu = view.facts().iommu.as_ref()?;
    let unit = iommu.units.first()?;
    let claimed = view.claimed();
    let controller = claimed
        .iter()
        .find(|one| one.is_storage() && one.iommu_group.is_none())?;
    let claim = view.claim_on(controller.address)?;
    let draft = Draft::new(format!(
        "{} is on, and {} that VM {} wants is in no IOMMU group",
        unit.name, controller.address, claim.vmid
    ));
    Some(
        draft
            .proof(
                "iommu",
                format!("{} with {} groups", unit.name, iommu.groups.len()),
            )
            .proof("pci", describe(controller))
            .proof("vm-configs", claim.quote())
            .proofs("run", view.said("Cannot open iommu_group"))
            .fix("# take the blacklist of the controller's driver out of /etc/modprobe.d")
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}

fn no_interrupt_remapping(view: &View<'_>) -> Option<Draft> {
    // Whether VFIO was told to go on without is only known where its parameters are.
    view.facts().modules.as_ref()?;
    let proof = unremapped(view);
    if proof.is_empty() || allows_unsafe(view) || view.facts().iommu.as_ref()?.units.is_empty() {
        return None;
    }
    let mut draft = Draft::new(
        "the IOMMU does not remap interrupts, so VFIO refuses to give the controller away",
    )
    .severity_if(!wanted(view), Severity::Note);
    for (source, quote) in proof {
        draft = draft.proof(source, quote);
    }
    Some(
        draft
            .proofs("run", view.said("Operation not permitted"))
            .fix("# first look for interrupt remapping (x2APIC) in the firmware's setup, and for intremap=off on the command line")
            .fix("# only where the guest is trusted:")
            .fix("echo 'options vfio_iommu_type1 allow_unsafe_interrupts=1' > /etc/modprobe.d/vfio-unsafe.conf")
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}

fn unsafe_interrupts(view: &View<'_>) -> Option<Draft> {
    if !allows_unsafe(view) {
        return None;
    }
    let mut draft = Draft::new(
        "VFIO gives devices away although a guest could then forge the host's interrupts",
    )
    .proof("modules", "vfio_iommu_type1.allow_unsafe_interrupts = Y");
    for (source, quote) in unremapped(view) {
        draft = draft.proof(source, quote);
    }
    let fix = "# if the hardware remaps interrupts, take `allow_unsafe_interrupts=1` out of /etc/modprobe.d";
    Some(
        draft
            .fix(fix)
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}

fn acs_override(view: &View<'_>) -> Option<Draft> {
    let words = &view.facts().cmdline.as_ref()?.words;
    let word = words
        .iter()
        .find(|word| is_passthrough_word(word) && word.starts_with("pcie_acs_override="))?;
    let log = view.facts().kernel_log.as_ref();
    if log.is_some_and(|log| log.unknown_parameters().contains(&word.as_str())) {
        let cause = "this kernel does not know `pcie_acs_override`, and leaves the IOMMU groups as they are";
        return Some(
            Draft::new(cause)
                .proof("cmdline", word.clone())
                .proofs("kernel-log", log.into_iter().flat_map(KernelLogFacts::unknown_line))
                .fix("# take the word out, and put the controller into a slot that has a group of its own"),
        );
    }
    Some(
        Draft::new("`pcie_acs_override` splits IOMMU groups whose devices the hardware does not keep apart")
            .proof("cmdline", word.clone())
            .fix("# put the controller into a slot that has a group of its own, and take the word out"),
    )
}

fn dma_fault(view: &View<'_>) -> Option<Draft> {
    let log = view.facts().kernel_log.as_ref()?;
    let faults: Vec<_> = log.on(LogTopic::DmaFault).collect();
    let last = faults.last()?;
    let device = last
        .device
        .map_or("a device".to_owned(), |device| device.to_string());
    let cause = format!(
        "the IOMMU stopped {} accesses to memory, the last by {device}",
        faults.len()
    );
    Some(
        Draft::new(cause)
            .proof("kernel-log", last.message.clone())
            .fix("dmesg | grep -e 'fault addr' -e IO_PAGE_FAULT"),
    )
}
