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
