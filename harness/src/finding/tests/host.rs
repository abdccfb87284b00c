//! Cases of the host: IOMMU, boot, initramfs.

use super::drivers::blacklist_of_package;
use super::*;
use crate::lab::Firmware;
use crate::probe::host_config::SyntaxError;
use crate::probe::kernel_log::{LogLine, LogTopic};

pub(super) fn platform(book: &mut FactBook) -> &mut crate::probe::platform::PlatformFacts {
    book.facts.platform.as_mut().unwrap()
}

pub(super) fn config(book: &mut FactBook) -> &mut crate::probe::host_config::HostConfigFacts {
    book.facts.host_config.as_mut().unwrap()
}

fn no_tables(book: &mut FactBook) {
    platform(book).acpi_tables.retain(|table| table != "DMAR");
}

fn log(book: &mut FactBook, topic: LogTopic, message: &str) {
    book.facts.kernel_log.as_mut().unwrap().lines.push(LogLine {
        topic,
        device: None,
        message: message.to_owned(),
    });
}

const REFUSAL: &str = "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param \
    \"allow_unsafe_interrupts\" to enable VFIO IOMMU support on this platform";

/// Linux's words on a table that describes no IOMMU it could use.
const BROKEN: [&str; 2] = [
    "DMAR: [Firmware Bug]: Your BIOS is broken; DMAR reported at address fed90000 returns all ones!",
    "BIOS vendor: American Megatrends Inc.; Ver: F4; Product Version: To be filled by O.E.M.",
];

fn broken_table(book: &mut FactBook) {
    no_iommu(book);
    for line in BROKEN {
        log(book, LogTopic::Iommu, line);
    }
}

fn without_flags(book: &mut FactBook) {
    for place in [words, grub, entry] {
        place(book, "quiet");
    }
}

pub(super) fn grub(book: &mut FactBook, words: &str) {
    let name = "GRUB_CMDLINE_LINUX_DEFAULT".to_owned();
    config(book).grub_defaults.insert(name, words.to_owned());
}

pub(super) fn entry(book: &mut FactBook, words: &str) {
    config(book).grub_entries[0] = words.split(' ').map(str::to_owned).collect();
}

fn kernel_cmdline(book: &mut FactBook, words: &str) {
    config(book).kernel_cmdline = Some(words.split(' ').map(str::to_owned).collect());
}

/// Proxmox with its root in ZFS and UEFI: systemd-boot, looked after by `proxmox-boot-tool`.
fn systemd_boot(book: &mut FactBook) {
    words(
        book,
        "initrd=\\EFI\\proxmox\\6.14.8-2-pve\\initrd.img-6.14.8-2-pve root=ZFS=rpool/ROOT/pve-1 intel_iommu=on iommu=pt",
    );
    book.facts.cmdline.as_mut().unwrap().boot_image = None;
    platform(book).firmware = Firmware::Uefi;
    platform(book).loader = Some("systemd-boot 257.7".to_owned());
    config(book).boot_tool_partitions = 2;
    kernel_cmdline(book, "root=ZFS=rpool/ROOT/pve-1 intel_iommu=on iommu=pt");
}

/// The write-up's blacklist, in force.
pub(super) fn blacklist(book: &mut FactBook) {
    for module in ["ahci", "libahci"] {
        rule_on_disk(book, &format!("blacklist {module}"), true);
        unload(book, module);
    }
}

fn image_written_after_boot(book: &mut FactBook) {
    let image = "/boot/initrd.img-6.12.117+deb13-amd64".to_owned();
    config(book).written.insert(image, 1_753_000_500);
}

/// The kernel's words on parameters that it does not know.
fn unknown(book: &mut FactBook, words: &str) {
    let told = format!(
        "Unknown kernel command line parameters \"{words}\", will be passed to user space."
    );
    log(book, LogTopic::UnknownParameters, &told);
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        error("iommu-off-on-cmdline", |book| {
            no_iommu(book);
            words(book, "quiet intel_iommu=off");
            grub(book, "quiet intel_iommu=off");
            entry(book, "console=ttyS0 quiet intel_iommu=off");
        }),
        error("vt-d-off", |book| {
            no_iommu(book);
            no_tables(book);
        }),
        error("iommu-not-enabled", |book| {
            no_iommu(book);
            without_flags(book);
        }),
        error("iommu-absent", no_iommu),
        error("iommu-absent", broken_table),
        error("iommu-absent", |book| {
            // Many kernels want it without any word. No word helps against a table that is broken.
            broken_table(book);
            without_flags(book);
        }),
        error("controller-without-group", |book| {
            let devices = &mut book.facts.pci.as_mut().unwrap().devices;
            let at = address("00:1f.2");
            let controller = devices.iter_mut().find(|one| one.address == at);
            controller.unwrap().iommu_group = None;
        }),
        error("no-interrupt-remapping", |book| {
            platform(book)
                .intel_capabilities
                .insert("dmar0".to_owned(), 0xf0_0f42);
            start_said(
                book,
                "kvm: -device vfio-pci,host=0000:00:1f.2: vfio 0000:00:1f.2: Failed to set iommu for container: Operation not permitted",
            );
        }),
        error("no-interrupt-remapping", |book| {
            log(book, LogTopic::NoInterruptRemapping, REFUSAL);
        }),
        warning("unsafe-interrupts", |book| {
            log(book, LogTopic::NoInterruptRemapping, REFUSAL);
            let parameters = &mut book.facts.modules.as_mut().unwrap().parameters;
            parameters.insert(
                "vfio_iommu_type1.allow_unsafe_interrupts".to_owned(),
                "Y".to_owned(),
            );
        }),
        warning("acs-override", |book| {
            let added = "quiet intel_iommu=on iommu=pt pcie_acs_override=downstream,multifunction";
            words(book, added);
            grub(book, added);
            entry(book, added);
        }),
        warning("acs-override", |book| {
            let added = "quiet intel_iommu=on iommu=pt pcie_acs_override=downstream,multifunction";
            words(book, added);
            grub(book, added);
            entry(book, added);
            unknown(
                book,
                "BOOT_IMAGE=/vmlinuz pcie_acs_override=downstream,multifunction",
            );
        }),
        error("unknown-parameter", |book| {
            unknown(book, "splash intel_iomu=on");
        }),
        note("dma-fault", |book| {
            log(
                book,
                LogTopic::DmaFault,
                "DMAR: [DMA Read NO_PASID] Request device [00:1f.2] fault addr 0xff7d0000",
            );
        }),
        error("grub-syntax-error", |book| {
            config(book).grub_syntax_errors.push(SyntaxError {
                file: "/etc/default/grub".to_owned(),
                message: "/etc/default/grub: 12: Syntax error: Unterminated quoted string"
                    .to_owned(),
            });
        }),
        // The IOMMU is on without the words, and has what the VM claims.
        warning("grub-not-updated", |book| {
            words(book, "quiet");
            entry(book, "console=ttyS0 quiet");
        }),
        warning("grub-not-updated", |book| grub(book, "quiet")),
        error("grub-not-updated", |book| {
            grub(book, "quiet intel_iommu=on iommu=pt vfio-pci.ids=8086:2922");
        }),
        error("grub-not-updated", |book| {
            // No VM shows that it works.
            vm(book, "memory: 512");
            words(book, "quiet");
            entry(book, "console=ttyS0 quiet");
        }),
        Case {
            besides: &["iommu-not-enabled"],
            ..error("grub-not-updated", |book| {
                no_iommu(book);
                words(book, "quiet");
                entry(book, "console=ttyS0 quiet");
            })
        },
        warning("wrong-bootloader-file", |book| {
            without_flags(book);
            kernel_cmdline(book, "root=UUID=1 quiet amd_iommu=on iommu.passthrough=1");
        }),
        warning("wrong-bootloader-file", |book| {
            systemd_boot(book);
            words(book, "initrd=\\EFI\\proxmox\\x root=ZFS=rpool/ROOT/pve-1");
            kernel_cmdline(book, "root=ZFS=rpool/ROOT/pve-1");
        }),
        error("wrong-bootloader-file", |book| {
            kernel_cmdline(book, "root=UUID=1 quiet modprobe.blacklist=ahci");
        }),
        error("wrong-bootloader-file", |book| {
            without_flags(book);
            kernel_cmdline(book, "root=UUID=1 quiet intel_iommu=on");
            book.facts.vm_configs = None;
        }),
        warning("boot-entry-not-refreshed", |book| {
            systemd_boot(book);
            words(book, "initrd=\\EFI\\proxmox\\x root=ZFS=rpool/ROOT/pve-1");
        }),
        warning("boot-entry-not-refreshed", |book| {
            config(book).boot_tool_partitions = 2;
            words(book, "quiet");
        }),
        warning("reboot-pending", |book| words(book, "quiet")),
        warning("reboot-pending", |book| {
            // The initramfs has the blacklist, and was built after this boot.
            rule_on_disk(book, "blacklist ahci", true);
            bind(book, "00:1f.2", "ahci");
            image_written_after_boot(book);
        }),
        error("initramfs-stale", |book| {
            rule_on_disk(book, "blacklist ahci", false);
            bind(book, "00:1f.2", "ahci");
        }),
        error("initramfs-stale", |book| {
            rule_on_disk(book, "blacklist smartpqi", false);
            let drivers = &mut book.facts.initramfs.as_mut().unwrap().drivers;
            drivers.insert("smartpqi".to_owned());
            bind(book, "00:1f.2", "smartpqi");
        }),
        error("initramfs-stale", |book| {
            // Taken away on the disk only.
            let rules = &mut book.facts.initramfs.as_mut().unwrap().rules;
            rules.push(modprobe("etc/modprobe.d/blacklist.conf", "blacklist ahci"));
        }),
        warning("initramfs-update-interrupted", |book| {
            let file = "/boot/initrd.img-6.12.117+deb13-amd64.new".to_owned();
            config(book).written.insert(file, 1_752_500_000);
        }),
        error("root-not-found", |book| {
            run(book)
                .console
                .push("Gave up waiting for root file system device.  Common problems:".to_owned());
        }),
        error("root-not-found", |book| {
            let told = "No root device specified. Boot arguments must include a root= parameter.";
            run(book).console.push(told.to_owned());
        }),
        error("root-not-found", |book| {
            // Before the reboot that would show it.
            systemd_boot(book);
            kernel_cmdline(book, "quiet intel_iommu=on iommu=pt");
        }),
        error("kernel-cmdline-not-one-line", |book| {
            systemd_boot(book);
            let more = ["intel_iommu=on iommu=pt".to_owned()];
            config(book).kernel_cmdline_more.extend(more);
        }),
        error("no-boot-loader", |book| {
            run(book).console.push("Shell> ".to_owned());
        }),
    ]
}

#[test]
fn an_iommu_that_is_off_has_one_name() {
    silent("iommu-off-on-cmdline", |book| {
        words(book, "intel_iommu=off")
    });
    silent("iommu-off-on-cmdline", no_iommu);
    // A host without any access to its tables' folder shows none of them.
    silent("vt-d-off", |book| {
        no_iommu(book);
        platform(book).acpi_tables.clear();
    });
    silent("vt-d-off", no_iommu);
    silent("vt-d-off", no_tables);
    silent("iommu-not-enabled", no_iommu);
    silent("iommu-not-enabled", |book| words(book, "quiet"));
    silent("iommu-absent", |_| {});
    silent("iommu-absent", |book| {
        no_iommu(book);
        no_tables(book);
    });
    // Other words on the firmware are of other faults.
    silent("iommu-absent", |book| {
        no_iommu(book);
        without_flags(book);
        let words = "DMAR: [Firmware Bug]: No firmware reserved region can cover this RMRR [0x00000000df000000-0x00000000df1fffff], contact BIOS vendor for fixes";
        log(book, LogTopic::Iommu, words);
    });
    silent("iommu-absent", |book| {
        broken_table(book);
        words(book, "quiet intel_iommu=off");
    });
    // Nobody wants passthrough here.
    let plain = changed(|book| {
        no_iommu(book);
        no_tables(book);
        vm(book, "memory: 512");
        without_flags(book);
    });
    let off = derive(&plain)
        .into_iter()
        .find(|one| one.id == "vt-d-off")
        .unwrap();
    assert_eq!(off.severity, Severity::Note);
}

#[test]
fn a_broken_table_is_quoted() {
    let findings = derive(&changed(broken_table));
    let absent = findings.iter().find(|one| one.id == "iommu-absent");
    let absent = absent.unwrap();
    assert!(absent.cause.contains("broken"), "{}", absent.cause);
    let log = absent.proof.iter().filter(|one| one.source == "kernel-log");
    let quotes: Vec<&str> = log.map(|one| one.quote.as_str()).collect();
    assert_eq!(quotes, BROKEN);
}

#[test]
fn interrupts() {
    silent("no-interrupt-remapping", |book| {
        log(
            book,
            LogTopic::InterruptRemapping,
            "DMAR-IR: Enabled IRQ remapping in x2apic mode",
        );
    });
    silent("no-interrupt-remapping", |book| {
        // Other reasons have these words too.
        start_said(book, "Operation not permitted");
    });
    silent("unsafe-interrupts", |book| {
        log(book, LogTopic::NoInterruptRemapping, REFUSAL)
    });
    silent("acs-override", |book| {
        words(book, "acs=pcie_acs_override=x")
    });
    silent("unknown-parameter", |book| {
        unknown(book, "BOOT_IMAGE=/vmlinuz splash boot=zfs amd_iommu=on")
    });
    silent("dma-fault", |book| {
        log(
            book,
            LogTopic::Iommu,
            "DMAR: DRHD: handling fault status reg 2",
        )
    });
}

#[test]
fn files_of_boot_loaders() {
    silent("grub-not-updated", |book| {
        grub(book, "intel_iommu=on iommu=pt splash")
    });
    silent("grub-not-updated", |book| {
        systemd_boot(book);
        entry(book, "quiet");
    });
    // A broken file is the cause, not the forgotten command.
    silent("grub-not-updated", |book| {
        entry(book, "quiet");
        config(book).grub_syntax_errors.push(SyntaxError {
            file: "/etc/default/grub".to_owned(),
            message: "Syntax error".to_owned(),
        });
    });
    silent("wrong-bootloader-file", |book| {
        kernel_cmdline(book, "intel_iommu=on")
    });
    silent("wrong-bootloader-file", |book| {
        kernel_cmdline(book, "root=UUID=1 quiet splash")
    });
    silent("wrong-bootloader-file", systemd_boot);
    silent("root-not-found", systemd_boot);
    for rule in ["root-not-found", "kernel-cmdline-not-one-line"] {
        // GRUB does not read that file.
        silent(rule, |book| {
            kernel_cmdline(book, "quiet");
            let more = ["root=UUID=1".to_owned()];
            config(book).kernel_cmdline_more.extend(more);
        });
    }
    silent("boot-entry-not-refreshed", systemd_boot);
    silent("boot-entry-not-refreshed", |book| words(book, "quiet"));
    silent("reboot-pending", |book| {
        words(book, "quiet splash intel_iommu=on iommu=pt")
    });
    silent("reboot-pending", |book| {
        rule_on_disk(book, "blacklist ahci", true)
    });
    // Proxmox's watchdog-mux loads the watchdog by its name at each boot.
    silent("reboot-pending", |book| {
        blacklist_of_package(book, "softdog");
        image_written_after_boot(book);
    });
    silent("reboot-pending", |book| {
        rule_on_disk(book, "blacklist sg", true);
        image_written_after_boot(book);
    });
    let unused = changed(|book| {
        systemd_boot(book);
        config(book).grub_syntax_errors.push(SyntaxError {
            file: "/etc/default/grub".to_owned(),
            message: "Syntax error".to_owned(),
        });
    });
    assert_eq!(bad(&unused), BTreeSet::new());
}

#[test]
fn initramfs_and_root() {
    silent("initramfs-stale", blacklist);
    // A driver that is not in the image is loaded from the disk, by the rules there.
    silent("initramfs-stale", |book| {
        rule_on_disk(book, "blacklist nouveau", false)
    });
    silent("initramfs-stale", |book| {
        let rule = modprobe("/usr/lib/modprobe.d/pve-blacklist.conf", "blacklist ahci");
        config(book).rules.push(rule);
    });
    silent("initramfs-stale", |book| {
        rule_on_disk(book, "options ahci mobile_lpm_policy=1", false);
        let rules = &mut book.facts.initramfs.as_mut().unwrap().rules;
        rules.push(modprobe(
            "etc/modprobe.d/blacklist.conf.bak",
            "blacklist ahci",
        ));
    });
    silent("reboot-pending", |book| {
        words(book, "quiet");
        run(book).failure = Some(crate::scenario::FailureKind::Boot);
    });
    silent("boot-entry-not-refreshed", |book| {
        systemd_boot(book);
        words(book, "quiet");
        run(book).failure = Some(crate::scenario::FailureKind::Boot);
    });
    silent("initramfs-update-interrupted", |book| {
        config(book)
            .written
            .insert("/boot/initrd.img-6.1.dpkg-bak".to_owned(), 1);
    });
    silent("root-not-found", |book| {
        run(book)
            .console
            .push("Begin: Mounting root file system".to_owned())
    });
    silent("no-boot-loader", |book| {
        run(book)
            .console
            .push("BdsDxe: starting Boot0001 \"UEFI Misc Device\"".to_owned())
    });
}
