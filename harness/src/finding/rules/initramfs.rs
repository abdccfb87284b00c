//! The initramfs: what it holds, whether it was written anew, and whether it finds the root file system.

use std::collections::BTreeSet;

use super::boot;
use super::references::{INITRAMFS, INITRAMFS_DEBUG};
use super::storage;
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{Loader, View};
use crate::probe::initramfs::ModprobeRule;
use crate::probe::modules::canonical;

pub(super) const RULES: &[Rule] = &[
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
            given away, or the disk is gone; or the command line does not say which it is, since /etc/kernel/cmdline, \
            unlike /etc/default/grub, has to name root= itself. The initramfs ends in a shell.",
        reference: INITRAMFS_DEBUG,
        derive: root_not_found,
    },
];

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
    if let Some(draft) = root_not_named(view) {
        return Some(draft);
    }
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

/// The next boot, or the one that failed, has a command line without `root=`.
fn root_not_named(view: &View<'_>) -> Option<Draft> {
    const KEY: &str = "root=";
    let seen = view.console("No root device specified");
    let config = view.facts().host_config.as_ref();
    let line = match view.loader() {
        Some((Loader::SystemdBoot, ..)) => config.and_then(|one| one.kernel_cmdline.as_ref()),
        _ => None,
    };
    let line = line.filter(|words| !words.iter().any(|word| word.starts_with(KEY)));
    if line.is_none() && seen.is_none() {
        return None;
    }
    let mut draft = Draft::new(match line {
        Some(_) => "/etc/kernel/cmdline names no root=, so that a boot with it ends in the initramfs's shell",
        None => "the kernel's command line names no root=, so the initramfs does not know what to mount",
    })
    .proofs("run", seen.cloned());
    if let Some(words) = line {
        draft = draft.proof(
            "host-config",
            format!("/etc/kernel/cmdline: {}", words.join(" ")),
        );
    }
    // What this kernel was started with, or the last one that could be asked.
    let running = view.facts().cmdline.iter().flat_map(|one| &one.words);
    let root = running.clone().find(|word| word.starts_with(KEY));
    if let Some(root) = root {
        draft = draft
            .proof(
                "cmdline",
                running.map(String::as_str).collect::<Vec<_>>().join(" "),
            )
            .fix("# if the host is down: `e` in the boot menu, and at the end of the line")
            .fix(format!("# {root}"));
    }
    let root = root.map_or("root=…", String::as_str);
    let file = match view.loader() {
        Some((Loader::SystemdBoot, ..)) => "/etc/kernel/cmdline",
        _ => "what /boot/grub/grub.cfg is made from",
    };
    Some(
        draft
            .fix(format!("# put {root} back into {file}"))
            .fix(boot::refresh(view))
            .fix("reboot"),
    )
}
