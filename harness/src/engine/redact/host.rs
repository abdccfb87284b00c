//! The stable part of what is read of the host's configuration and hardware.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::text::hide_addresses;
use crate::probe::host_config::HostConfigFacts;
use crate::probe::host_network::HostNetworkFacts;
use crate::probe::host_storage::HostStorageFacts;
use crate::probe::initramfs::ModprobeRule;
use crate::probe::kernel_log::{KernelLogFacts, LogTopic};
use crate::probe::modules::WATCH_LIST;
use crate::probe::platform::PlatformFacts;
use crate::probe::vm_configs::{VmConfigFacts, VmSection};

/// Without versions, times, names and registers; of the ACPI tables only those of an IOMMU.
pub(super) fn platform(facts: &PlatformFacts) -> Value {
    let tables = ["DMAR", "IVRS", "VIOT"];
    let tables: Vec<&str> = tables
        .into_iter()
        .filter(|name| facts.acpi_tables.iter().any(|table| table == name))
        .collect();
    let watchdogs: Vec<_> = facts
        .watchdogs
        .iter()
        .map(|dog| format!("{} {}", dog.identity, dog.state))
        .collect();
    json!({ "firmware": facts.firmware, "iommu-tables": tables, "watchdogs": watchdogs })
}

/// Without times, and only rules on watched modules.
pub(super) fn config(facts: &HostConfigFacts) -> Value {
    let words = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| hide_addresses(word)).collect()
    };
    let watched = |rule: &&ModprobeRule| WATCH_LIST.contains(&rule.module.as_str());
    let rule = |rule: &ModprobeRule| {
        let line = format!("{} {} {}", rule.command, rule.module, rule.rest);
        format!("{}: {}", rule.file, line.trim_end())
    };
    json!({
        "grub-words": facts.grub_words(),
        "grub-syntax-errors": facts.grub_syntax_errors,
        "first-entry": facts.grub_entries.first().map(|entry| words(entry)),
        "kernel-cmdline": facts.kernel_cmdline.as_deref().map(words),
        "kernel-cmdline-more": facts.kernel_cmdline_more,
        "boot-tool-partitions": facts.boot_tool_partitions,
        "rules": facts.rules.iter().filter(watched).map(rule).collect::<Vec<_>>(),
    })
}

/// The kernel's words differ from lane to lane: what counts is whether it says anything bad.
pub(super) fn log(facts: &KernelLogFacts) -> Value {
    let bad = [LogTopic::DmaFault, LogTopic::NoInterruptRemapping];
    let topics: BTreeSet<String> = facts
        .lines
        .iter()
        .filter(|line| bad.contains(&line.topic))
        .map(|line| match line.device {
            Some(device) => format!("{} by {device}", line.topic),
            None => line.topic.to_string(),
        })
        .collect();
    json!({ "bad": topics })
}

pub(super) fn vm_configs(facts: &VmConfigFacts) -> Value {
    let section = |section: &VmSection| {
        let lines: Vec<String> = section
            .lines
            .iter()
            .map(|line| format!("{}: {}", line.key, hide_addresses(&line.value)))
            .collect();
        json!({ "name": section.name, "lines": lines })
    };
    let vms: Vec<Value> = facts
        .vms
        .iter()
        .map(|vm| {
            let sections: Vec<Value> = vm.sections.iter().map(section).collect();
            json!({
                "vmid": vm.vmid,
                "running": vm.running,
                "sections": sections,
                "warnings": vm.warnings,
            })
        })
        .collect();
    json!({ "vms": vms, "mappings": facts.mappings })
}

/// Without the kernel's names and without sizes, some of which are those of images.
pub(super) fn storage(facts: &HostStorageFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (a.controller, &a.serial).cmp(&(b.controller, &b.serial)));
    let disks: Vec<Value> = disks
        .into_iter()
        .map(|disk| {
            json!({
                "controller": disk.controller,
                "model": disk.model,
                "serial": disk.serial,
                "uses": disk.uses,
            })
        })
        .collect();
    let pools: Option<Vec<Value>> = facts.pools.as_ref().map(|pools| {
        let pool = |pool: &crate::probe::host_storage::HostPool| {
            json!({ "name": pool.name, "health": pool.health, "disks": pool.disks.len() })
        };
        pools.iter().map(pool).collect()
    });
    json!({ "disks": disks, "pools": pools })
}

/// Without the names of interfaces, which follow from where their cards sit.
pub(super) fn network(facts: &HostNetworkFacts) -> Value {
    let cards = facts.interfaces.iter().filter(|one| one.device.is_some());
    cards
        .map(|one| {
            json!({
                "device": one.device,
                "carries-address": one.carries_address,
                "default-route": one.default_route,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{host_config, host_network, host_storage, kernel_log, platform, vm_configs};

    /// Two hosts that differ in versions, times, names, sizes and identifiers look alike.
    #[test]
    fn what_differs_from_lane_to_lane_is_not_seen() {
        let pair = |one: &str, changes: &[(&str, &str)]| {
            let mut other = one.to_owned();
            for (from, to) in changes {
                assert!(other.contains(from), "{from}");
                other = other.replace(from, to);
            }
            [one.to_owned(), other]
        };
        let hosts = pair(
            "kernel\t6.12.1\nhost\tpve\nboot-time\t1\nfirmware\tbios\nacpi\tAPIC\nacpi\tDMAR\nintel\tdmar0\tf00f4a\n\
             watchdog\twatchdog0\tiTCO_wdt\tactive\t1\nend\n",
            &[
                ("6.12.1", "6.14.8-2-pve"),
                ("\tpve\n", "\tnode7\n"),
                ("boot-time\t1", "boot-time\t2"),
                ("acpi\tAPIC\n", ""),
            ],
        );
        let [one, other] = hosts.map(|text| platform(&platform::parse(&text).unwrap()));
        assert_eq!(one, other);
        assert_eq!(one["iommu-tables"], json!(["DMAR"]));

        let hosts = pair(
            "grub\t/etc/default/grub\ngrub-line\tGRUB_CMDLINE_LINUX=\"quiet\"\n\
             entry\t/vmlinuz-6.12 root=UUID=6d1c2f0e-31d5-4b57-9a5e-5f0a1c9b7e01 ro quiet\n\
             modprobe\t/etc/modprobe.d/own.conf\nrule\tblacklist\tahci\nrule\tblacklist\tarkfb\n\
             written\t1\t/boot/initrd.img-6.12\nend\n",
            &[
                ("6.12", "6.14"),
                ("6d1c2f0e", "00000000"),
                ("rule\tblacklist\tarkfb\n", ""),
                ("written\t1", "written\t2"),
            ],
        );
        let [one, other] = hosts.map(|text| config(&host_config::parse(&text).unwrap()));
        assert_eq!(one, other);
        assert_eq!(
            one["first-entry"],
            json!(["root=UUID=[uuid]", "ro", "quiet"])
        );
        assert_eq!(
            one["rules"],
            json!(["/etc/modprobe.d/own.conf: blacklist ahci"])
        );

        let hosts = pair(
            "path\tsda\t/sys/devices/pci0000:00/0000:00:1f.2/ata1/block/sda\nlsblk\n{\"blockdevices\": [{\"name\":\"sda\",\
             \"type\":\"disk\",\"size\":1,\"model\":null,\"serial\":\"X\",\"mountpoints\":[\"/\"]}]}\nend\n",
            &[("sda", "sdb"), ("\"size\":1", "\"size\":2")],
        );
        let [one, other] = hosts.map(|text| storage(&host_storage::parse(&text).unwrap()));
        assert_eq!(one, other);
        assert_eq!(one["disks"][0]["uses"][0]["kind"], "root");
    }

    #[test]
    fn what_counts_is_seen() {
        let text = "[    0.1] DMAR: IOMMU enabled\n\
             [    9.1] DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0xff7d0000\nend\n";
        let seen = log(&kernel_log::parse(text).unwrap());
        assert_eq!(seen, json!({ "bad": ["dma-fault by 0000:01:00.0"] }));

        let text = "vm\t100\trunning\nline\thostpci0: 00:1f.2 pcie=1\nline\tvirtio0: mac=BC:24:11:AB:CD:EF\nend\n";
        let seen = vm_configs(&vm_configs::parse(text).unwrap());
        assert_eq!(
            seen["vms"][0]["sections"][0]["lines"][1],
            "virtio0: mac=[mac]"
        );
        assert_eq!(seen["vms"][0]["warnings"].as_array().unwrap().len(), 1);

        let text = "interface\tens5\t/sys/devices/pci0000:00/0000:00:05.0/virtio2\t-\nroute\tens5\t0000000A\nend\n";
        let seen = network(&host_network::parse(text).unwrap());
        assert_eq!(
            seen,
            json!([{ "device": "0000:00:05.0", "carries-address": true, "default-route": false }])
        );
    }
}
