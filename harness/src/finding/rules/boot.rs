//! What was written into the host's files and is not in force, and why not.

use std::collections::BTreeSet;

use super::references::{
    GRUB_CONFIGURATION, INITRAMFS, INITRAMFS_DEBUG, PVE_BOOT_TOOL, PVE_CMDLINE,
};
use super::storage;
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{Loader, View, is_passthrough_word};
use crate::probe::host_config::HostConfigFacts;
use crate::probe::initramfs::ModprobeRule;
use crate::probe::modules::{ModuleState, canonical};
use crate::scenario::FailureKind;

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
        id: "reboot-pending",
        severity: Severity::Warning,
        summary: "the next boot is set up differently from this one",
        explanation: "Command line and initramfs take effect at boot. What is judged now is still the old state.",
        reference: PVE_CMDLINE,
        derive: reboot_pending,
    },
    Rule {
        id: "initramfs-stale",
        severity: Severity::Error,
        summary: "modprobe's rules on disk and those in the initramfs differ, and the initramfs loads the driver",
        explanation: "Drivers of storage are loaded from the initramfs, by the rules that were copied into it when it was \
            built. A blacklist that is only on the disk comes too late.",
        reference: INITRAMFS,
        derive: initramfs_stale,
    },
    Rule {
        id: "initramfs-update-interrupted",
        severity: Severity::Warning,
        summary: "an update of the initramfs was cut off",
        explanation: "update-initramfs writes a .new file and renames it when it is whole. One that is left over means that \
            the host boots with the image from before.",
        reference: INITRAMFS,
        derive: initramfs_update_interrupted,
    },
    Rule {
        id: "root-not-found",
        severity: Severity::Error,
        summary: "the host's initramfs does not find the root file system",
        explanation: "The disk with the root file system did not appear: its driver was not loaded, its controller was \
            given away, or the disk is gone. The initramfs ends in a shell.",
        reference: INITRAMFS_DEBUG,
        derive: root_not_found,
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
    Some(
        Draft::new(cause)
            .proof(
                "host-config",
                format!("/etc/default/grub: {}", wanted.join(" ")),
            )
            .proof(
                "host-config",
                format!("/boot/grub/grub.cfg: {}", entry.join(" ")),
            )
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
    let words = words.join(" ");
    let cause = format!(
        "`{words}` is in {wrong_file}, which {name}, this host's boot loader, does not read"
    );
    let draft = Draft::new(cause)
        .proof(source, quote)
        .proof("host-config", format!("{wrong_file}: {words}"))
        .proof("cmdline", running.words.join(" "))
        .fix("proxmox-boot-tool status")
        .fix(format!("# put {words} into {right_file}"));
    let refresh = match loader {
        Loader::Grub if config.boot_tool_partitions == 0 => "update-grub",
        _ => "proxmox-boot-tool refresh",
    };
    Some(draft.fix(refresh).fix("reboot"))
}

fn boot_entry_not_refreshed(view: &View<'_>) -> Option<Draft> {
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

fn reboot_pending(view: &View<'_>) -> Option<Draft> {
    // The facts are from before a reboot that then failed.
    if view
        .run()
        .is_some_and(|run| run.failure == Some(FailureKind::Boot))
    {
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
    for (rule, module) in blacklisted_and_loaded(view) {
        if !in_force_since_boot(view, rule)? {
            pending = true;
            draft = draft
                .proof("host-config", format!("{}: blacklist {module}", rule.file))
                .proof("modules", format!("{module} is loaded since before that"));
        }
    }
    pending.then(|| draft.fix("reboot"))
}

/// Blacklists of modules that are loaded all the same, where the initramfs has the rule too.
pub(super) fn blacklisted_and_loaded<'a>(view: &View<'a>) -> Vec<(&'a ModprobeRule, &'a str)> {
    let facts = view.facts();
    let (Some(config), Some(modules), Some(initramfs)) =
        (&facts.host_config, &facts.modules, &facts.initramfs)
    else {
        return Vec::new();
    };
    config
        .rules
        .iter()
        .filter(|rule| rule.command == "blacklist")
        .filter(|rule| modules.state(&rule.module) == ModuleState::Loaded)
        .filter(|rule| initramfs.blacklists(&rule.module))
        .map(|rule| (rule, rule.module.as_str()))
        .collect()
}

/// Whether a rule, and the initramfs that has it, were written before this boot; `None` where times are
/// not known.
pub(super) fn in_force_since_boot(view: &View<'_>, rule: &ModprobeRule) -> Option<bool> {
    let facts = view.facts();
    let (config, platform) = (facts.host_config.as_ref()?, facts.platform.as_ref()?);
    let image = format!("/boot/initrd.img-{}", platform.kernel);
    let image = *config.written.get(&image)?;
    // A file of a package is as old as its package.
    let file = config.written.get(&rule.file).copied().unwrap_or_default();
    Some(image.max(file) < platform.booted_at)
}

fn initramfs_stale(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let (config, initramfs) = (facts.host_config.as_ref()?, facts.initramfs.as_ref()?);
    // Options of other modules are none of passthrough's business, and a file without .conf is no file.
    let own = |rule: &&ModprobeRule| {
        let file = rule.file.trim_start_matches('/');
        let about = rule.command != "options" || rule.module.starts_with("vfio");
        about
            && file.starts_with("etc/modprobe.d/")
            && file.ends_with(".conf")
            && initramfs.drivers.contains(&canonical(&rule.module))
    };
    let key = |rule: &ModprobeRule| format!("{} {} {}", rule.command, rule.module, rule.rest);
    let keys = |rules: &[ModprobeRule]| -> BTreeSet<String> { rules.iter().map(key).collect() };
    let (on_disk, in_image) = (keys(&config.rules), keys(&initramfs.rules));
    let missing = config
        .rules
        .iter()
        .filter(own)
        .filter(|rule| !in_image.contains(&key(rule)));
    let left_over = initramfs
        .rules
        .iter()
        .filter(own)
        .filter(|rule| !on_disk.contains(&key(rule)));
    let (missing, left_over): (Vec<_>, Vec<_>) = (missing.collect(), left_over.collect());
    let cause = match (missing.first(), left_over.first()) {
        (Some(rule), _) => format!(
            "`{}` is on the disk and not in the initramfs, which loads the driver",
            key(rule).trim_end()
        ),
        (None, Some(rule)) => format!(
            "`{}` was taken away and is still in the initramfs",
            key(rule).trim_end()
        ),
        (None, None) => return None,
    };
    let module = missing
        .iter()
        .chain(&left_over)
        .next()
        .map(|rule| rule.module.clone());
    let module = module.unwrap_or_default();
    let quote = |rule: &&ModprobeRule| format!("{}: {}", rule.file, key(rule).trim_end());
    let holds = facts
        .pci
        .iter()
        .flat_map(|pci| &pci.devices)
        .filter(|device| canonical(&String::from(device.driver.clone())) == module);
    Some(
        Draft::new(cause)
            .proofs("host-config", missing.iter().map(quote))
            .proofs("initramfs", left_over.iter().map(quote))
            .proof(
                "initramfs",
                format!("initrd.img-{} holds {module}", initramfs.kernel),
            )
            .proofs("pci", holds.map(crate::finding::view::describe))
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}

fn initramfs_update_interrupted(view: &View<'_>) -> Option<Draft> {
    let config = view.facts().host_config.as_ref()?;
    let left_over = config
        .written
        .keys()
        .find(|file| file.starts_with("/boot/initrd.img-") && file.ends_with(".new"))?;
    let image = left_over.trim_end_matches(".new");
    Some(
        Draft::new(format!(
            "the last update of {image} was cut off, so the image is the one from before"
        ))
        .proof("host-config", format!("{left_over} was left over"))
        .fix(format!("rm {}", word(left_over)))
        .fix("update-initramfs -u -k all")
        .fix("reboot"),
    )
}

fn root_not_found(view: &View<'_>) -> Option<Draft> {
    let line = view
        .console("Gave up waiting for root")
        .or_else(|| view.console("Unable to mount root"))?;
    if storage::boots_from_controller(view).is_some() {
        return None;
    }
    Some(
        Draft::new("the initramfs does not find the host's root file system")
            .proof("run", line.clone())
            .fix("# in the initramfs shell: cat /proc/cmdline; cat /proc/modules; ls /dev/disk/by-uuid")
            .fix("# load the driver by its name there, and go on with: exit"),
    )
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
