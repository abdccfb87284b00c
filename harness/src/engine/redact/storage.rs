//! The stable part of what tools say of disks and pools.

use serde_json::{Value, json};

use super::text::{hide_addresses, hide_kernel_disk};
use crate::probe::disk_query::DiskQueryFacts;
use crate::probe::disks::DiskFacts;
use crate::probe::pool::{Pool, PoolFacts, Vdev};
use crate::probe::smart::{Protocol, SmartDisk, SmartFacts};

/// Stands for the kernel's name of a disk, which is the order in which it was found.
const DISK: &str = "[disk]";
/// Stands for the size of a disk that is an image's and not the lab's.
const IMAGE_SIZE: &str = "[image-size]";
/// Stands for a firmware revision that is QEMU's own version.
const FIRMWARE: &str = "[firmware]";

/// A disk of the lab has a World Wide Name; one without is an image, whose size is that of its packages.
pub(super) fn disks(facts: &DiskFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (&a.serial, &a.model, a.size).cmp(&(&b.serial, &b.model, b.size)));
    disks
        .into_iter()
        .map(|disk| {
            let mut value = json!({
                "model": disk.model,
                "serial": disk.serial,
                "holds-root": disk.holds_root,
                "size": IMAGE_SIZE,
            });
            if disk.wwn.is_some() {
                value["wwn"] = json!(disk.wwn);
                value["size"] = json!(disk.size);
                value["rotational"] = json!(disk.rotational);
                value["transport"] = json!(disk.transport);
                value["physical-sector"] = json!(disk.physical_sector);
                value["logical-sector"] = json!(disk.logical_sector);
            }
            value
        })
        .collect()
}

pub(super) fn disk_query(facts: &DiskQueryFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (&a.serial, &a.model, a.size).cmp(&(&b.serial, &b.model, b.size)));
    disks
        .into_iter()
        .map(|disk| {
            let identifier = match disk.identifier.strip_prefix("{devicename}") {
                Some(_) => format!("{{devicename}}{DISK}"),
                None => hide_addresses(&disk.identifier),
            };
            let mut value = json!({
                "identifier": identifier,
                "model": disk.model,
                "serial": disk.serial,
                "pool": disk.pool,
                "size": IMAGE_SIZE,
            });
            if disk.lunid.is_some() {
                value["lunid"] = json!(disk.lunid);
                value["size"] = json!(disk.size);
                value["type"] = json!(disk.kind);
                value["rotationrate"] = json!(disk.rotationrate);
                value["bus"] = json!(disk.bus);
            }
            value
        })
        .collect()
}

/// Attributes by number only: their values count hours, starts and degrees, and their names are the
/// drive database's.
pub(super) fn smart(facts: &SmartFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (&a.serial, &a.model, a.bytes).cmp(&(&b.serial, &b.model, b.bytes)));
    disks.into_iter().map(smart_disk).collect()
}

fn smart_disk(disk: &SmartDisk) -> Value {
    let mut value = json!({
        "protocol": disk.protocol,
        "model": disk.model,
        "serial": disk.serial,
        "available": disk.available,
        "passed": disk.passed,
    });
    let ids = |failed: bool| -> Vec<u8> {
        disk.attributes
            .iter()
            .filter(|a| !failed || a.failed.is_some())
            .map(|a| a.id)
            .collect()
    };
    if disk.protocol == Protocol::Ata {
        value["attributes"] = json!(ids(false));
        value["failed-attributes"] = json!(ids(true));
        value["logged-errors"] = json!(disk.logged_errors);
    }
    if disk.protocol == Protocol::Nvme {
        value["critical-warning"] = json!(disk.critical_warning);
        value["firmware"] = json!(FIRMWARE);
    }
    // A disk that is not the lab's has QEMU's own name, and what else it says is QEMU's as well.
    if disk.wwn.is_some() || !disk.model.starts_with("QEMU ") {
        value["wwn"] = json!(disk.wwn);
        value["family"] = json!(disk.family);
        value["firmware"] = json!(disk.firmware);
        value["bytes"] = json!(disk.bytes);
        value["logical-sector"] = json!(disk.logical_sector);
        value["physical-sector"] = json!(disk.physical_sector);
        value["rotation-rate"] = json!(disk.rotation_rate);
        value["enabled"] = json!(disk.enabled);
        value["exit-status"] = json!(disk.exit_status);
    }
    value
}

pub(super) fn pool_list(facts: &PoolFacts) -> Value {
    let pool = |pool: &Pool| {
        json!({
            "name": pool.name,
            "state": pool.state,
            "scan": pool.scan,
            "data-errors": pool.data_errors,
            "vdevs": vdevs(&pool.vdevs),
            "classes": pool.classes.iter().map(|(class, list)| (class.clone(), vdevs(list))).collect::<serde_json::Map<_, _>>(),
        })
    };
    facts.pools.iter().map(pool).collect()
}

/// Disks that ZFS names by the kernel's names are one like the other, so that their order is not seen.
fn vdevs(list: &[Vdev]) -> Value {
    let mut values: Vec<(String, Value)> = list
        .iter()
        .map(|vdev| {
            let name = hide_kernel_disk(&vdev.name, DISK);
            let value = json!({
                "name": name,
                "kind": vdev.kind,
                "state": vdev.state,
                "errors": [vdev.read_errors, vdev.write_errors, vdev.checksum_errors],
                "vdevs": vdevs(&vdev.vdevs),
            });
            (format!("{name} {value}"), value)
        })
        .collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values.into_iter().map(|(_, value)| value).collect()
}
