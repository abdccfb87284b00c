//! Cases of the host's drivers: blacklists, ids, modules, watchdogs.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::host::{blacklist, config, entry, grub, platform};
use super::*;
use crate::finding::Incident;
use crate::probe::platform::Watchdog;

fn watchdog(book: &mut FactBook, state: &str) {
    platform(book).watchdogs.push(Watchdog {
        name: "watchdog0".to_owned(),
        identity: "iTCO_wdt".to_owned(),
        state: state.to_owned(),
        nowayout: Some(true),
    });
}

/// A blacklist that came with a package, of a module that is loaded, and before all others.
pub(super) fn blacklist_of_package(book: &mut FactBook, module: &str) {
    let file = "usr/lib/modprobe.d/blacklist_watchdog.conf";
    let line = format!("blacklist {module}");
    config(book)
        .rules
        .insert(0, modprobe(&format!("/{file}"), &line));
    let facts = &mut book.facts;
    let in_image = modprobe(file, &line);
    facts.initramfs.as_mut().unwrap().rules.push(in_image);
    let loaded = &mut facts.modules.as_mut().unwrap().loaded;
    loaded.insert(module.to_owned());
}

fn modules(book: &mut FactBook) -> &mut crate::probe::modules::ModuleFacts {
    book.facts.modules.as_mut().unwrap()
}

fn loaded(book: &mut FactBook) -> &mut BTreeSet<String> {
    &mut modules(book).loaded
}

fn list(book: &mut FactBook, module: &str) {
    let listed = crate::probe::modules::ListedModule {
        module: module.to_owned(),
        file: "/etc/modules".to_owned(),
    };
    modules(book).listed.push(listed);
}

/// A second controller, with the disk that the host boots from.
fn add_boot_disk(book: &mut FactBook, driver: &str) {
    add_twin(book, "02:00.0", driver);
    let disks = &mut book.facts.host_storage.as_mut().unwrap().disks;
    disks[0].controller = Some(address("02:00.0"));
}

/// Only because its initramfs loads the blacklisted driver by name does the host find its disk.
fn boots_by_name(book: &mut FactBook) {
    rule_on_disk(book, "blacklist ahci", true);
    let modules = &mut book.facts.initramfs.as_mut().unwrap().modules;
    modules.push("ahci".to_owned());
    add_boot_disk(book, "ahci");
}

type Change = fn(&mut FactBook);

pub(super) fn cases() -> Vec<Case> {
    vec![
        warning("blacklist-bypassed", |book| {
            rule_on_disk(book, "blacklist ahci", true);
        }),
        error("blacklist-bypassed", |book| {
            rule_on_disk(book, "blacklist ahci", true);
            bind(book, "00:1f.2", "ahci");
        }),
        error("blacklist-bypassed", |book| {
            // Another module, of no harm, comes first.
            rule_on_disk(book, "blacklist libahci", true);
            rule_on_disk(book, "blacklist ahci", true);
            bind(book, "00:1f.2", "ahci");
        }),
        error("blacklist-bypassed", |book| {
            blacklist_of_package(book, "ahci");
            bind(book, "00:1f.2", "ahci");
        }),
        warning("blacklist-bypassed", |book| {
            blacklist_of_package(book, "iTCO_wdt");
            rule_on_disk(book, "blacklist ahci", true);
        }),
        note("blacklist-covers-other-controllers", |book| {
            blacklist(book);
            add_twin(book, "02:00.0", "none");
        }),
        warning("ids-match-two-controllers", |book| {
            rule_on_disk(book, "options vfio_pci ids=8086:2922", true);
            add_twin(book, "02:00.0", "vfio-pci");
        }),
        error("ids-match-two-controllers", |book| {
            words(
                book,
                "quiet intel_iommu=on iommu=pt vfio-pci.ids=10de:1b80,8086:2922",
            );
            grub(
                book,
                "intel_iommu=on iommu=pt vfio-pci.ids=10de:1b80,8086:2922",
            );
            entry(
                book,
                "intel_iommu=on iommu=pt vfio-pci.ids=10de:1b80,8086:2922",
            );
            add_twin(book, "02:00.0", "ahci");
            let disks = &mut book.facts.host_storage.as_mut().unwrap().disks;
            let mut disk = disks[0].clone();
            disk.controller = Some(address("02:00.0"));
            disk.uses.clear();
            disks.push(disk);
        }),
        note("vfio-virqfd-gone", |_| {}),
        error("watchdog-armed", |book| watchdog(book, "active")),
        warning("watchdog-armed", |book| {
            watchdog(book, "active");
            platform(book).watchdogs[0].nowayout = None;
        }),
        error("watchdog-armed", |book| {
            run(book).incidents.push(Incident::Watchdog {
                action: "reset".to_owned(),
            });
        }),
        warning("blacklist-bypassed", |book| {
            rule_on_disk(book, "blacklist ahci\r", true);
        }),
        error("blacklist-bypassed", |book| {
            // A line that is harmless comes first.
            rule_on_disk(book, "blacklist sg", true);
            rule_on_disk(book, "blacklist ahci\r", false);
            bind(book, "00:1f.2", "ahci");
        }),
        Case {
            besides: &["host-boots-from-controller"],
            ..error("blacklist-bypassed", |book| {
                boots_by_name(book);
                bind(book, "00:1f.2", "ahci");
            })
        },
    ]
}

#[test]
fn what_is_no_fault_of_drivers_is_silent() {
    silent("blacklist-bypassed", blacklist);
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist ahci", false)
    });
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist ahci", true);
        config(book).written.clear();
    });
    // Proxmox keeps watchdogs from loading by alias, and loads the one that it is told to by its name.
    silent("blacklist-bypassed", |book| {
        blacklist_of_package(book, "iTCO_wdt")
    });
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist ahci", true);
        config(book).watchdog_module = Some("ahci".to_owned());
    });
    // Without WATCHDOG_MODULE that is softdog.
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist softdog", true);
        loaded(book).insert("softdog".to_owned());
    });
    // What another module needs comes with it, and stopping it stops the other.
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist libahci", true);
        add_boot_disk(book, "ahci");
    });
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist libahci\r", true);
    });
    // The other line is right.
    silent("blacklist-bypassed", |book| {
        rule_on_disk(book, "blacklist ahci\r", true);
        rule_on_disk(book, "blacklist ahci", false);
    });
    silent("blacklist-covers-other-controllers", blacklist);
    silent("blacklist-covers-other-controllers", |book| {
        add_twin(book, "02:00.0", "none")
    });
    silent("ids-match-two-controllers", |book| {
        rule_on_disk(book, "options vfio_pci ids=8086:2922", true);
    });
    silent("ids-match-two-controllers", |book| {
        rule_on_disk(book, "options vfio_pci ids=8086:2922:1af4:1100", true);
        add_twin(book, "02:00.0", "ahci");
        device(book, "02:00.0").subsystem_device = "0815".to_owned();
    });
    silent("ids-match-two-controllers", |book| {
        rule_on_disk(book, "options vfio_pci ids=8086:2922", true);
        add_twin(book, "02:00.0", "vfio-pci");
        vm(
            book,
            "machine: q35\nhostpci0: 00:1f.2,pcie=1\nhostpci1: 02:00,pcie=1",
        );
    });
    silent("vfio-virqfd-gone", |book| {
        book.facts.modules.as_mut().unwrap().failed.clear()
    });
    silent("watchdog-armed", |book| watchdog(book, "inactive"));
    silent("watchdog-armed", |book| {
        watchdog(book, "active");
        platform(book).watchdogs[0].nowayout = Some(false);
    });
    silent("watchdog-armed", |book| {
        watchdog(book, "active");
        vm(book, "hostpci0: 00:01.0");
    });
    silent("watchdog-armed", |book| {
        run(book).incidents.push(Incident::Reset {
            reason: "guest-reset".to_owned(),
        });
    });
}

/// `install ahci /bin/false` takes all that ahci drives from the host.
#[test]
fn a_driver_is_stopped_only_where_a_vm_has_all_of_its_devices() {
    const INSTALL: &str = "echo 'install ahci /bin/false' >> /etc/modprobe.d/own.conf";
    let fixes = |change: Change| {
        fix("blacklist-bypassed", |book| {
            rule_on_disk(book, "blacklist ahci", true);
            bind(book, "00:1f.2", "ahci");
            change(book);
        })
    };
    let plain = fixes(|_| {});
    assert_eq!(
        plain,
        [
            "grep -rs ahci /etc/modules /etc/modules-load.d /etc/initramfs-tools/modules",
            INSTALL,
            "update-initramfs -u -k all",
            "reboot",
        ]
    );
    assert!(
        fixes(|book| list(book, "ahci")).contains(&"# take ahci out of /etc/modules".to_owned())
    );
    // Also of those that it does not drive at the moment.
    let with_install: &[Change] = &[
        |book| add_twin(book, "02:00.0", "nvme"),
        |book| bind(book, "00:1f.2", "vfio-pci"),
    ];
    for change in with_install {
        assert!(fixes(*change).contains(&INSTALL.to_owned()));
    }
    let without: &[Change] = &[
        |book| vm(book, "memory: 512"),
        |book| add_twin(book, "02:00.0", "ahci"),
        |book| add_twin(book, "02:00.0", "vfio-pci"),
        |book| add_boot_disk(book, "ahci"),
        |book| {
            // A pool of the VM's disks is imported.
            let disks = &mut book.facts.host_storage.as_mut().unwrap().disks;
            let mut disk = disks[0].clone();
            disk.controller = Some(address("00:1f.2"));
            disk.uses[0].kind = crate::probe::host_storage::UseKind::Zfs;
            disks.push(disk);
        },
        |book| book.facts.host_storage = None,
        |book| modules(book).used_by.clear(),
        |book| {
            let users = BTreeSet::from(["ahci_of_another".to_owned()]);
            modules(book).used_by.insert("ahci".to_owned(), users);
        },
    ];
    for (index, change) in without.iter().enumerate() {
        let fixes = fixes(*change);
        assert!(
            !fixes.iter().any(|one| one.contains("/bin/false")),
            "{index}: {fixes:?}"
        );
    }
}

#[test]
fn what_the_host_boots_by_is_left_to_it() {
    let fixes = fix("blacklist-bypassed", |book| {
        boots_by_name(book);
        bind(book, "00:1f.2", "ahci");
    });
    assert_eq!(
        fixes[0],
        "# the host has its own disks on 0000:02:00.0 by ahci: take `blacklist ahci` out of /etc/modprobe.d/own.conf"
    );
    assert!(
        fixes[1].contains("for device in 0000:00:1f.2; do"),
        "{fixes:?}"
    );
    assert!(
        !fixes.iter().any(|one| one.contains("take ahci out")),
        "{fixes:?}"
    );
}

#[test]
fn a_carriage_return_is_named() {
    let book = changed(|book| {
        rule_on_disk(book, "blacklist ahci\r", true);
        bind(book, "00:1f.2", "ahci");
    });
    let findings = derive(&book);
    let found = findings.iter().find(|one| one.id == "blacklist-bypassed");
    let found = found.unwrap();
    assert!(found.cause.contains("carriage return"), "{}", found.cause);
    assert_eq!(
        found.fix,
        [
            "sed -i 's/\\r$//' /etc/modprobe.d/own.conf",
            "update-initramfs -u -k all",
            "reboot"
        ]
    );
}

/// initramfs-tools first asks each script what has to be run before it.
#[test]
fn a_device_is_bound_by_its_address_at_each_boot() {
    let fixes = fix("ids-match-two-controllers", |book| {
        rule_on_disk(book, "options vfio_pci ids=8086:2922", true);
        add_twin(book, "02:00.0", "vfio-pci");
    });
    assert_eq!(
        fixes[0],
        "# take 8086:2922 out of ids= in /etc/modprobe.d/own.conf"
    );
    assert_eq!(
        fixes[2..],
        [
            "chmod +x /etc/initramfs-tools/scripts/init-top/bind-vfio",
            "echo vfio-pci >> /etc/initramfs-tools/modules",
            "update-initramfs -u -k all",
            "reboot",
        ]
    );
    let (_, script) = fixes[1].rsplit_once('/').unwrap();
    assert!(
        script < "udev",
        "{script} is run after the drivers were loaded"
    );

    let root = tempfile::tempdir().unwrap();
    let device = root.path().join("0000:00:1f.2");
    fs::create_dir(&device).unwrap();
    let script = root.path().join("bind-vfio");
    let write = fixes[1]
        .replace(
            "/etc/initramfs-tools/scripts/init-top",
            &root.path().display().to_string(),
        )
        .replace("/sys/bus/pci/devices", &root.path().display().to_string())
        .replace("modprobe", "echo modprobe");
    assert!(
        Command::new("sh")
            .args(["-c", &write])
            .status()
            .unwrap()
            .success()
    );
    let said = |argument: &[&str]| {
        let output = Command::new("sh")
            .arg(&script)
            .args(argument)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&["prereqs"]), "");
    assert!(!device.join("driver_override").exists());
    assert_eq!(said(&[]), "modprobe -i vfio-pci\n");
    assert_eq!(
        fs::read_to_string(device.join("driver_override")).unwrap(),
        "vfio-pci\n"
    );
}

#[test]
fn ids_are_taken_out_of_where_they_are() {
    let fixes = fix("ids-match-two-controllers", |book| {
        words(book, "quiet vfio-pci.ids=8086:2922");
        add_twin(book, "02:00.0", "vfio-pci");
    });
    assert_eq!(
        fixes[..2],
        [
            "# take 8086:2922 out of ids= in GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub",
            "update-grub"
        ]
    );
}

#[test]
fn a_watchdog_is_taken_from_what_loads_it() {
    let blacklist = "echo 'blacklist iTCO_wdt' > /etc/modprobe.d/watchdog.conf";
    let first: &[(Change, &str)] = &[
        (|_| {}, blacklist),
        (
            |book| config(book).watchdog_module = Some("i6300esb".to_owned()),
            blacklist,
        ),
        (
            |book| {
                blacklist_of_package(book, "iTCO_wdt");
                config(book).watchdog_module = Some("iTCO_wdt".to_owned());
            },
            "# take WATCHDOG_MODULE out of /etc/default/pve-ha-manager",
        ),
        (
            |book| list(book, "iTCO_wdt"),
            "# take iTCO_wdt out of /etc/modules",
        ),
        (
            |book| blacklist_of_package(book, "iTCO_wdt"),
            "grep -rs iTCO_wdt /etc/modules /etc/modules-load.d /etc/initramfs-tools/modules",
        ),
    ];
    for (change, line) in first {
        let fixes = fix("watchdog-armed", |book| {
            watchdog(book, "active");
            change(book);
        });
        assert_eq!(fixes[0], *line);
    }
}
