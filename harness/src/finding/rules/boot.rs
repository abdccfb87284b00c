//! The command line and its boot loader: what was written into their files and is not in force, and why not.

use super::blacklist::{held_by, loaded_all_the_same};
use super::initramfs::in_force_since_boot;
use super::references::{GRUB_CONFIGURATION, KERNEL_PARAMETERS, PVE_BOOT_TOOL, PVE_CMDLINE};
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{Loader, PASSTHROUGH_NAMES, View, is_passthrough_word};
use crate::probe::host_config::HostConfigFacts;
use crate::scenario::FailureKind;
use crate::scenario::nearest::nearest;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "grub-syntax-error",
        severity: Severity::Error,
        summary: "a file of GRUB's defaults is not what a shell can read",
        explanation: "update-grub reads /etc/default/grub as a shell script. A quote that is not closed ends it before it \
            writes anything, so the host goes on booting with its old configuration.",
        reference: GRUB_CONFIGURATION,
        derive: grub_syntax_error,
    },
    Rule {
        id: "grub-not-updated",
        severity: Severity::Error,
        summary: "/etc/default/grub was changed, and GRUB's configuration was not written anew",
        explanation: "GRUB reads /boot/grub/grub.cfg only. What is in /etc/default/grub gets there by update-grub.",
        reference: PVE_CMDLINE,
        derive: grub_not_updated,
    },
    Rule {
        id: "wrong-bootloader-file",
        severity: Severity::Error,
        summary: "the command line was changed in the file of a boot loader that this host does not use",
        explanation: "Proxmox VE boots by GRUB (/etc/default/grub) or, with ZFS and UEFI, by systemd-boot \
            (/etc/kernel/cmdline). Each ignores the other's file.",
        reference: PVE_BOOT_TOOL,
        derive: wrong_bootloader_file,
    },
    Rule {
        id: "boot-entry-not-refreshed",
        severity: Severity::Warning,
        summary: "the command line's file has words that the running kernel was not given",
        explanation: "Where proxmox-boot-tool looks after the boot partitions, a changed command line gets there by \
            `proxmox-boot-tool refresh`, and into the kernel by a reboot.",
        reference: PVE_CMDLINE,
        derive: boot_entry_not_refreshed,
    },
    Rule {
        id: "kernel-cmdline-not-one-line",
        severity: Severity::Error,
        summary: "/etc/kernel/cmdline has more than one line, and only the first counts",
        explanation: "proxmox-boot-tool puts the whole file behind the word `options` of a boot entry. systemd-boot reads \
            that entry line by line: what is on a second line is no option any more, and nothing complains.",
        reference: PVE_CMDLINE,
        derive: kernel_cmdline_not_one_line,
    },
    Rule {
        id: "unknown-parameter",
        severity: Severity::Error,
        summary: "a word of the command line is not one of the kernel's, and looks like one that is",
        explanation: "The kernel does not refuse a parameter that it does not know: it hands it on to the first process, \
            and one line of its log says so.",
        reference: KERNEL_PARAMETERS,
        derive: unknown_parameter,
    },
    Rule {
        id: "reboot-pending",
        severity: Severity::Warning,
        summary: "the next boot is set up differently from this one",
        explanation: "Command line and initramfs take effect at boot. What is judged now is still the old state.",
        reference: PVE_CMDLINE,
        derive: reboot_pending,
    },
    Rule {
        id: "no-boot-loader",
        severity: Severity::Error,
        summary: "the firmware finds no boot loader and shows its own shell",
        explanation: "UEFI starts what is on an EFI system partition, a BIOS what is in a disk's first sectors. A host that \
            was installed for the one does not start by the other, and settings that are loaded anew, in the same setup \
            where VT-d is switched on, can change which of them it is.",
        reference: PVE_BOOT_TOOL,
        derive: no_boot_loader,
    },
];

fn grub_syntax_error(view: &View<'_>) -> Option<Draft> {
    let config = view.facts().host_config.as_ref()?;
    let error = config.grub_syntax_errors.first()?;
    let unused = matches!(view.loader(), Some((Loader::SystemdBoot, ..)));
    let cause = format!(
        "{} has a syntax error, so update-grub cannot take it over",
        error.file
    );
    Some(
        Draft::new(cause)
            .severity_if(unused, Severity::Note)
            .proof("host-config", error.message.clone())
            .fix(format!("sh -n {}", word(&error.file)))
            .fix(format!("# close the quote in {}", error.file))
            .fix("update-grub")
            .fix("reboot"),
    )
}

/// Where a host's boot loader has the command line from.
pub(super) fn line_of(view: &View<'_>) -> &'static str {
    match view.loader() {
        Some((Loader::SystemdBoot, ..)) => "the line of /etc/kernel/cmdline",
        _ => "GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub",
    }
}

/// What takes a changed command line over.
pub(super) fn refresh(view: &View<'_>) -> &'static str {
    let config = view.facts().host_config.as_ref();
    let partitions = config.map_or(0, |one| one.boot_tool_partitions);
    match view.loader() {
        Some((Loader::SystemdBoot, ..)) => "proxmox-boot-tool refresh",
        _ if partitions > 0 => "proxmox-boot-tool refresh",
        _ => "update-grub",
    }
}

/// Words on passthrough that one side has and the other lacks.
fn lacking<'w, S: AsRef<str>>(
    here: impl IntoIterator<Item = &'w str>,
    there: &[S],
) -> Vec<&'w str> {
    here.into_iter()
        .filter(|word| is_passthrough_word(word) && !there.iter().any(|one| one.as_ref() == *word))
        .collect()
}

fn strs(words: &[String]) -> impl Iterator<Item = &str> {
    words.iter().map(String::as_str)
}

/// The host's configuration, where its own `grub.cfg` is what GRUB reads.
fn plain_grub<'a>(view: &View<'a>) -> Option<&'a HostConfigFacts> {
    let config = view.facts().host_config.as_ref()?;
    let grub = matches!(view.loader(), Some((Loader::Grub, ..)));
    (grub && config.boot_tool_partitions == 0 && config.grub_syntax_errors.is_empty())
        .then_some(config)
}

/// What proves that passthrough works without these words: they only switch the IOMMU on or leave the host's own devices
/// alone, and it is on and has a device that a VM claims in a group.
fn works_without<'w>(
    view: &View<'_>,
    words: impl IntoIterator<Item = &'w &'w str>,
) -> Option<String> {
    let switches_on = |word: &&str| match word.split_once('=') {
        Some(("intel_iommu" | "amd_iommu", value)) => value.starts_with("on"),
        Some(("iommu", value)) => value == "pt",
        Some((name, _)) => name == "iommu.passthrough",
        None => false,
    };
    let unit = view.facts().iommu.as_ref()?.units.first()?;
    let mut claimed = view.claimed().into_iter();
    let (device, group) =
        claimed.find_map(|one| Some((one.address, view.group_of(one.address)?.id)))?;
    let proof = format!("{} is on, and {device} is in group {group}", unit.name);
    words.into_iter().all(switches_on).then_some(proof)
}

fn grub_not_updated(view: &View<'_>) -> Option<Draft> {
    let config = plain_grub(view)?;
    let entry = config.grub_entries.first()?;
    let wanted = config.grub_words();
    let missing = lacking(wanted.iter().copied(), entry);
    let left_over = lacking(strs(entry), &wanted);
    if missing.is_empty() && left_over.is_empty() {
        return None;
    }
    let cause = match missing.as_slice() {
        [] => format!(
            "`{}` was taken out of /etc/default/grub, and grub.cfg still has it",
            left_over.join(" ")
        ),
        missing => format!(
            "/etc/default/grub has `{}`, and /boot/grub/grub.cfg was not written since",
            missing.join(" ")
        ),
    };
    let works = works_without(view, missing.iter().chain(&left_over));
    Some(
        Draft::new(cause)
            .severity_if(works.is_some(), Severity::Warning)
            .proof(
                "host-config",
                format!("/etc/default/grub: {}", wanted.join(" ")),
            )
            .proof(
                "host-config",
                format!("/boot/grub/grub.cfg: {}", entry.join(" ")),
            )
            .proofs("iommu", works)
            .fix("update-grub")
            .fix("reboot"),
    )
}

fn wrong_bootloader_file(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let (config, running) = (facts.host_config.as_ref()?, facts.cmdline.as_ref()?);
    let (loader, source, quote) = view.loader()?;
    let kernel: Vec<&str> = config
        .kernel_cmdline
        .iter()
        .flat_map(|words| strs(words))
        .collect();
    let grub = config.grub_words();
    let (wrong, right, wrong_file, right_file, name) = match loader {
        Loader::Grub => (
            kernel,
            grub,
            "/etc/kernel/cmdline",
            "/etc/default/grub",
            "GRUB",
        ),
        Loader::SystemdBoot => (
            grub,
            kernel,
            "/etc/default/grub",
            "/etc/kernel/cmdline",
            "systemd-boot",
        ),
    };
    let words: Vec<&str> = lacking(lacking(wrong, &right), &running.words);
    if words.is_empty() {
        return None;
    }
    let works = works_without(view, &words);
    let words = words.join(" ");
    let cause = format!(
        "`{words}` is in {wrong_file}, which {name}, this host's boot loader, does not read"
    );
    let draft = Draft::new(cause)
        .severity_if(works.is_some(), Severity::Warning)
        .proof(source, quote)
        .proof("host-config", format!("{wrong_file}: {words}"))
        .proof("cmdline", running.words.join(" "))
        .proofs("iommu", works)
        .fix("proxmox-boot-tool status")
        .fix(format!("# put {words} into {right_file}"));
    Some(draft.fix(refresh(view)).fix("reboot"))
}

/// Whether the facts are from before a reboot that then failed: what waited for it is no news.
fn is_before_failed_boot(view: &View<'_>) -> bool {
    let run = view.run();
    run.is_some_and(|run| run.failure == Some(FailureKind::Boot))
}

fn boot_entry_not_refreshed(view: &View<'_>) -> Option<Draft> {
    if is_before_failed_boot(view) {
        return None;
    }
    let facts = view.facts();
    let (config, running) = (facts.host_config.as_ref()?, facts.cmdline.as_ref()?);
    let (loader, source, quote) = view.loader()?;
    let (wanted, file): (Vec<&str>, &str) = match loader {
        Loader::SystemdBoot => (
            strs(config.kernel_cmdline.as_ref()?).collect(),
            "/etc/kernel/cmdline",
        ),
        Loader::Grub if config.boot_tool_partitions > 0 => {
            (config.grub_words(), "/etc/default/grub")
        }
        Loader::Grub => return None,
    };
    let words = lacking(wanted, &running.words);
    if words.is_empty() {
        return None;
    }
    let words = words.join(" ");
    Some(
        Draft::new(format!(
            "{file} has `{words}`, and the running kernel was started without"
        ))
        .proof(source, quote)
        .proof("host-config", format!("{file}: {words}"))
        .proof("cmdline", running.words.join(" "))
        .fix("proxmox-boot-tool refresh")
        .fix("reboot"),
    )
}

fn kernel_cmdline_not_one_line(view: &View<'_>) -> Option<Draft> {
    let config = view.facts().host_config.as_ref()?;
    let (Loader::SystemdBoot, source, quote) = view.loader()? else {
        return None;
    };
    let first = config.kernel_cmdline.as_ref()?.join(" ");
    let more = config.kernel_cmdline_more.as_slice();
    if more.is_empty() {
        return None;
    }
    let lines = more
        .iter()
        .map(|line| format!("/etc/kernel/cmdline, a further line: {line}"));
    let cause = format!(
        "`{}` is on a further line of /etc/kernel/cmdline, where systemd-boot does not take it for options",
        more.join(" ")
    );
    Some(
        Draft::new(cause)
            .proof(source, quote)
            .proof("host-config", format!("/etc/kernel/cmdline: {first}"))
            .proofs("host-config", lines)
            .fix("# make one line of /etc/kernel/cmdline, without comments")
            .fix("proxmox-boot-tool refresh")
            .fix("reboot"),
    )
}

fn unknown_parameter(view: &View<'_>) -> Option<Draft> {
    let log = view.facts().kernel_log.as_ref()?;
    let unknown = log.unknown_parameters();
    let (word, meant) = unknown.iter().find_map(|word| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        // Words that are right, and that another kernel would know.
        if is_passthrough_word(word) {
            return None;
        }
        let meant = nearest(name, PASSTHROUGH_NAMES)?;
        let meant = match value {
            "" => meant.to_owned(),
            value => format!("{meant}={value}"),
        };
        Some((word, meant))
    })?;
    Some(
        Draft::new(format!(
            "the kernel does not know `{word}`; `{meant}` may be meant"
        ))
        .proofs("kernel-log", log.unknown_line())
        .fix(format!(
            "# in {}: {meant} in place of {word}",
            line_of(view)
        ))
        .fix(refresh(view))
        .fix("reboot"),
    )
}

fn reboot_pending(view: &View<'_>) -> Option<Draft> {
    if is_before_failed_boot(view) {
        return None;
    }
    let mut draft =
        Draft::new("the host is set up for its next boot and has not been rebooted since");
    let mut pending = false;
    if let (Some(config), Some(running)) = (plain_grub(view), view.facts().cmdline.as_ref())
        && let Some(entry) = config.grub_entries.first()
    {
        let coming = lacking(strs(entry), &running.words);
        let going = lacking(strs(&running.words), entry);
        pending = !coming.is_empty() || !going.is_empty();
        if pending {
            draft = draft
                .proof(
                    "host-config",
                    format!("/boot/grub/grub.cfg: {}", entry.join(" ")),
                )
                .proof("cmdline", running.words.join(" "));
        }
    }
    for (rule, module) in loaded_all_the_same(view) {
        // One that holds no device is loaded by its name at each boot as well, or does nothing.
        let holds = !held_by(view, module).is_empty();
        if holds && in_force_since_boot(view, rule) == Some(false) {
            pending = true;
            draft = draft
                .proof("host-config", format!("{}: blacklist {module}", rule.file))
                .proof("modules", format!("{module} is loaded since before that"));
        }
    }
    pending.then(|| draft.fix("reboot"))
}

fn no_boot_loader(view: &View<'_>) -> Option<Draft> {
    let line = view.console("Shell>")?;
    let cause = "UEFI finds no boot loader on any disk, and waits in its own shell";
    Some(
        Draft::new(cause)
            .proof("run", line.trim().to_owned())
            .fix("# in the firmware's setup: the boot mode that the host was installed for (legacy or CSM, if by BIOS)")
            .fix("# or, to start by UEFI from now on: proxmox-boot-tool format PARTITION; proxmox-boot-tool init PARTITION"),
    )
}
