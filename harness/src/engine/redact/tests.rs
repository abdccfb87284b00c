//! One snapshot serves every lane: facts that differ only as lanes differ give the same text, facts
//! that differ otherwise do not.

use super::*;
use crate::probe::{
    cmdline as cmdlines, disk_query as queries, disks as blocks, dmesg as messages,
    initramfs as images, iommu as iommus, listing as listings, modules as kernel_modules,
    pci as devices, pool as pools, smart as smarts,
};

macro_rules! sample {
    ($file:literal) => {
        include_str!(concat!("../../probe/samples/", $file))
    };
}

fn redactor(iommu: &str) -> Redactor {
    let lab = format!("summary = \"x\"\niommu = \"{iommu}\"\n");
    Redactor::new(&toml::from_str(&lab).unwrap())
}

fn text(facts: &Facts) -> String {
    redactor("intel").snapshot_text(facts).unwrap()
}

/// Both give the same snapshot, and it is not an empty one.
fn same(here: Facts, there: Facts) {
    assert_ne!(here, there, "the two lanes are one");
    let snapshot = text(&here);
    assert_eq!(snapshot, text(&there));
    assert!(snapshot.len() > 10, "{snapshot}");
}

/// They give two snapshots.
fn different(here: Facts, there: Facts) {
    assert_ne!(text(&here), text(&there));
}

#[test]
fn kernel_and_root_are_not_in_the_command_lines_snapshot() {
    let line = |kernel: &str, uuid: &str, flag: &str| {
        let line = format!("BOOT_IMAGE=/boot/vmlinuz-{kernel} root=UUID={uuid} ro quiet {flag}\n");
        Facts::Cmdline(cmdlines::parse(&line).unwrap())
    };
    let first = "6f1a2b3c-0000-4000-8000-a1b2c3d4e5f6";
    let second = "11111111-2222-4333-8444-555555555555";
    let here = line("6.12.117+deb13-amd64", first, "iommu=pt");
    same(
        here.clone(),
        line("6.12.43+deb13-amd64", second, "iommu=pt"),
    );
    different(here, line("6.12.117+deb13-amd64", first, "iommu=on"));
}

#[test]
fn numbers_of_groups_move_and_members_do_not() {
    let iommu = |output: &str| Facts::Iommu(iommus::parse(output).unwrap());
    let here = sample!("iommu-q35-intel.txt");
    same(
        iommu(here),
        iommu(
            &here
                .replace("group\t6", "group\t16")
                .replace("group\t0", "group\t7"),
        ),
    );
    different(iommu(here), iommu(&here.replace(" 0000:00:1f.3", "")));
    different(iommu(here), iommu(&here.replace("identity", "DMA-FQ")));
    different(iommu(here), iommu(sample!("iommu-q35-amd.txt")));

    let listing = |output: &str| Facts::GroupListing(listings::parse(output).unwrap());
    let here = sample!("listing-q35-intel.txt");
    let renamed = here
        .replace("Intel Corporation 82801IR/IO/IH", "Intel 82801I")
        .replace("(rev 02)", "(rev 03)");
    same(
        listing(here),
        listing(&renamed.replace("member\t0\t", "member\t9\t")),
    );
    different(
        listing(here),
        listing(&here.replace("[8086:2922]", "[8086:2923]")),
    );
    different(
        listing(here),
        listing(&here.replace("member\t6\t0000:00:1f.3\n", "")),
    );
    assert!(text(&listing(sample!("listing-q35-no-iommu.txt"))).contains("IOMMU Group * 00:00.0"));
}

#[test]
fn interrupt_mode_addresses_and_widths_are_not_in_dmesgs_snapshot() {
    let dmesg = |output: &str| Facts::DmesgIommu(messages::parse(output).unwrap());
    let here = sample!("dmesg-q35-intel.txt");
    // Written by hand: KVM's lane has an x2APIC, another build of QEMU another address width.
    let there = here
        .replace("xapic", "x2apic")
        .replace(
            "DMAR-IR: dmar0 does not support EIM",
            "DMAR-IR: Queued invalidation will be enabled to support x2apic and Intr-remapping.",
        )
        .replace("width 48", "width 39")
        .replace("80d2008c222f0606", "d2008c222f0686");
    same(dmesg(here), dmesg(&there));
    different(
        dmesg(here),
        dmesg(&here.replace("DMAR: IOMMU enabled", "DMAR: IOMMU disabled")),
    );
}

#[test]
fn drivers_and_module_states_count_and_the_cpus_kvm_does_not() {
    let pci = |output: &str| Facts::Pci(devices::parse(output).unwrap());
    let here = sample!("pci-q35-intel-vfio.txt");
    same(
        pci(here),
        pci(&here.replace("virtio-pci\t(null)\t3\t", "virtio-pci\t(null)\t3\tpm")),
    );
    different(
        pci(here),
        pci(&here.replace("vfio-pci\tvfio-pci", "ahci\tvfio-pci")),
    );

    let modules = |output: &str| Facts::Modules(kernel_modules::parse(output).unwrap());
    let here = sample!("modules-debian13.txt");
    let intel = here.replace(
        "/proc/modules:",
        "/proc/modules:kvm_intel 1 0 - Live 0x0\n/proc/modules:",
    );
    same(
        modules(here),
        modules(&intel.replace("6.12.117", "6.12.43")),
    );
    different(
        modules(here),
        modules(&here.replace("/proc/modules:ahci ", "/proc/modules:other ")),
    );

    let initramfs = |output: &str| Facts::Initramfs(images::parse(output).unwrap());
    let watchdogs =
        "rule\tlib/modprobe.d/blacklist_6.12.117+deb13-amd64.conf\tblacklist\tiTCO_wdt\nend\n";
    let here = &sample!("initramfs-debian13.txt").replace("end\n", watchdogs);
    same(
        initramfs(here),
        initramfs(
            &here
                .replace("radeonfb", "amdfb")
                .replace("6.12.117", "6.12.43"),
        ),
    );
    let rule = "rule\tetc/modprobe.d/blacklist.conf\tblacklist\tahci\nend\n";
    different(initramfs(here), initramfs(&here.replace("end\n", rule)));
}

#[test]
fn the_order_in_which_disks_are_found_is_not_in_a_snapshot() {
    let swap = |text: &str| {
        text.replace("sda", "sdX")
            .replace("sdb", "sda")
            .replace("sdX", "sdb")
    };
    let lsblk = |output: &str| Facts::NasDisks(blocks::parse(output).unwrap());
    let here = sample!("lsblk-q35.json");
    same(
        lsblk(here),
        lsblk(&swap(here).replace("4294967296", "5368709120")),
    );
    different(
        lsblk(here),
        lsblk(&here.replace("12000138625024", "12000138625536")),
    );
    different(lsblk(here), lsblk(&here.replace("ZTM093QT", "ZTM093QU")));

    let query = |output: &str| Facts::DiskQuery(queries::parse(output).unwrap());
    let here = sample!("disk-query.json");
    same(query(here), query(&swap(here)));
    different(query(here), query(&here.replace("7200", "5400")));

    let smart = |output: &str| Facts::Smart(smarts::parse(output).unwrap());
    let here = sample!("smart-q35.json");
    let warmer = here.replace("\"value\": 522125343", "\"value\": 522125350");
    same(
        smart(here),
        smart(&swap(&warmer).replace("\"11.1.3\"", "\"10.0.2\"")),
    );
    different(
        smart(here),
        smart(&here.replace("\"passed\": true", "\"passed\": false")),
    );
    different(
        smart(here),
        smart(&here.replace("\"critical_warning\": 0", "\"critical_warning\": 4")),
    );

    let pool = |output: &str| Facts::Pool(pools::parse(output).unwrap());
    let by_id = sample!("zpool-online.json");
    let here = &["ZTM09FD7", "ZLM2BF4E", "ZTM093QT"]
        .iter()
        .zip(["sda", "sdb", "sdc"])
        .fold(by_id.to_owned(), |text, (serial, name)| {
            text.replace(&format!("ata-ST12000NM0008-2H3101_{serial}"), name)
        });
    same(pool(here), pool(&here.replace("sdc", "sdd")));
    different(pool(here), pool(by_id));
    let here = by_id;
    different(pool(here), pool(sample!("zpool-degraded.json")));
}

#[test]
fn facts_without_content_make_no_snapshot() {
    let empty = Facts::DmesgIommu(messages::parse("").unwrap());
    let error = redactor("intel")
        .snapshot_text(&empty)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the probe `dmesg-iommu` found no line on DMAR or IOMMU in dmesg"
    );
    for iommu in ["none", "amd"] {
        assert_eq!(redactor(iommu).snapshot_text(&empty).unwrap(), "[]\n");
    }

    let none = Facts::Iommu(iommus::parse(sample!("iommu-q35-no-iommu.txt")).unwrap());
    for iommu in ["intel", "amd"] {
        assert!(redactor(iommu).snapshot_text(&none).is_err());
    }
    assert!(
        redactor("none")
            .snapshot_text(&none)
            .unwrap()
            .contains("none")
    );

    let torn = Facts::Iommu(iommus::parse("unit\tdmar0\tintel\nend\n").unwrap());
    let error = redactor("intel")
        .snapshot_text(&torn)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "the probe `iommu` found 1 IOMMUs with 0 groups");

    let no_pool = Facts::Pool(pools::PoolFacts::default());
    assert!(redactor("none").snapshot_text(&no_pool).is_err());
}

#[test]
fn facts_survive_being_recorded() {
    for facts in [
        Facts::Iommu(iommus::parse(sample!("iommu-q35-intel.txt")).unwrap()),
        Facts::Pci(devices::parse(sample!("pci-q35-intel-vfio.txt")).unwrap()),
        Facts::Modules(kernel_modules::parse(sample!("modules-debian13.txt")).unwrap()),
        Facts::Initramfs(images::parse(sample!("initramfs-debian13.txt")).unwrap()),
        Facts::HostDisks(blocks::parse(sample!("lsblk-q35.json")).unwrap()),
        Facts::DiskQuery(queries::parse(sample!("disk-query.json")).unwrap()),
        Facts::Smart(smarts::parse(sample!("smart-q35.json")).unwrap()),
        Facts::Pool(pools::parse(sample!("zpool-degraded.json")).unwrap()),
    ] {
        let recorded = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&recorded).unwrap(), facts);
        assert!(
            recorded.starts_with(&format!("{{\"{}\":", facts.probe())),
            "{recorded}"
        );
    }
}
