//! Virtual disks and CD drives (qemu-server: Drive.pm, DriveDevice.pm, Blockdev.pm).

use serde_json::{Value, json};

use super::{CommandError, Facts, Parts, boot::Order, decoded, value_error};
use crate::config::{
    DRIVE_IDE, DRIVE_SATA, DRIVE_SCSI, DRIVE_VIRTIO, Format, Properties, Section, parse_properties,
};

/// The kinds of drives in the order in which they are added.
const INTERFACES: &[(&str, u32, &Format)] = &[
    ("ide", 4, &DRIVE_IDE),
    ("scsi", 31, &DRIVE_SCSI),
    ("virtio", 16, &DRIVE_VIRTIO),
    ("sata", 6, &DRIVE_SATA),
];

/// One virtual drive.
#[derive(Debug, Clone)]
pub struct Drive {
    interface: &'static str,
    index: u32,
    properties: Properties,
}

impl Drive {
    /// `scsi0`.
    pub fn id(&self) -> String {
        format!("{}{}", self.interface, self.index)
    }

    /// A property's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// Whether it is a CD drive.
    pub fn is_cdrom(&self) -> bool {
        self.get("media") == Some("cdrom")
    }

    /// The volume or path, unless the drive is empty.
    pub fn file(&self) -> Option<&str> {
        self.get("file")
            .filter(|file| *file != "none" && *file != "cdrom")
    }

    fn is(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }
}

/// The drives of a configuration, in the order in which QEMU gets them.
pub fn drives(config: &Section) -> Result<Vec<Drive>, CommandError> {
    let mut found = Vec::new();
    for (interface, count, format) in INTERFACES {
        for index in 0..*count {
            let id = format!("{interface}{index}");
            if let Some(value) = config.get(&id) {
                let properties = parse_properties(format, value).map_err(value_error(&id))?;
                found.push(Drive {
                    interface,
                    index,
                    properties,
                });
            }
        }
    }
    Ok(found)
}

/// The path of a drive's file: an absolute path as it is, a volume of the storage `local` in its folder.
pub fn image_path(file: &str, cdrom: bool) -> Result<String, CommandError> {
    if file.starts_with('/') {
        return Ok(file.to_owned());
    }
    match file.split_once(':') {
        Some(("local", volume)) if cdrom || volume.starts_with("iso/") => {
            Ok(format!("/var/lib/vz/template/{volume}"))
        }
        Some(("local", volume)) => Ok(format!("/var/lib/vz/images/{volume}")),
        Some((storage, _)) => Err(CommandError::NoStorage(storage.to_owned())),
        None => Err(CommandError::NoStorage(file.to_owned())),
    }
}

/// Adds the controllers and drives.
pub fn add(
    config: &Section,
    facts: &Facts,
    order: &Order,
    q35: bool,
    parts: &mut Parts,
) -> Result<(), CommandError> {
    let mut controllers = std::collections::BTreeSet::new();
    for drive in drives(config)? {
        if drive.interface == "virtio" && drive.is("iothread") {
            parts.option("-object", format!("iothread,id=iothread-{}", drive.id()));
        }
        if let Some(name) = controller(config, &drive)
            && controllers.insert(name.clone())
        {
            add_controller(config, &drive, &name, parts);
        }
        if let Some(file) = drive.file() {
            let node = block_node(&drive, &image_path(file, drive.is_cdrom())?, facts);
            parts
                .devices
                .extend(["-blockdev".to_owned(), node.to_string()]);
        }
        let device = device(config, &drive, q35, parts);
        parts.device(finish(&drive, order, device));
    }
    Ok(())
}

fn scsi_hardware(config: &Section) -> &str {
    config.get("scsihw").unwrap_or("lsi")
}

/// How many drives a SCSI controller takes.
fn scsi_width(hardware: &str) -> u32 {
    match hardware {
        "virtio-scsi-single" => 1,
        hardware if hardware.starts_with("lsi") => 7,
        _ => 256,
    }
}

fn controller(config: &Section, drive: &Drive) -> Option<String> {
    match drive.interface {
        "scsi" => {
            let hardware = scsi_hardware(config);
            let prefix = if hardware == "virtio-scsi-single" {
                "virtioscsi"
            } else {
                "scsihw"
            };
            Some(format!("{prefix}{}", drive.index / scsi_width(hardware)))
        }
        "sata" => Some("ahci0".to_owned()),
        _ => None,
    }
}

fn add_controller(config: &Section, drive: &Drive, name: &str, parts: &mut Parts) {
    let address = parts.address(name);
    if drive.interface == "sata" {
        parts.device(format!("ahci,id={name},multifunction=on{address}"));
        return;
    }
    let single = scsi_hardware(config) == "virtio-scsi-single";
    let hardware = if single {
        "virtio-scsi-pci"
    } else {
        scsi_hardware(config)
    };
    let mut device = format!("{hardware},id={name}{address}");
    if single && drive.is("iothread") {
        parts.option("-object", format!("iothread,id=iothread-{name}"));
        device.push_str(&format!(",iothread=iothread-{name}"));
    }
    if let Some(queues) = drive.get("queues").filter(|_| single) {
        device.push_str(&format!(",num_queues={queues}"));
    }
    parts.device(device);
}

fn block_node(drive: &Drive, path: &str, facts: &Facts) -> Value {
    let read_only = drive.is_cdrom() || drive.is("ro");
    // Proxmox's defaults: no host page cache for disks, the cache for CD images.
    let cache = drive.get("cache").unwrap_or(if drive.is_cdrom() {
        "writeback"
    } else {
        "none"
    });
    let direct = matches!(cache, "none" | "directsync");
    let host_device = facts.block_devices.contains(path);
    let aio = drive.get("aio").unwrap_or("io_uring");
    let cache = json!({"direct": direct, "no-flush": cache == "unsafe"});
    let mut file = json!({
        "driver": match (host_device, drive.is_cdrom()) {
            (true, true) => "host_cdrom",
            (true, false) => "host_device",
            (false, _) => "file",
        },
        "filename": path,
        "aio": aio,
        "cache": cache,
        "read-only": read_only,
    });
    let format = drive.get("format").unwrap_or(match path.rsplit_once('.') {
        // Volumes of a storage name their format; other files are raw unless `format=` says otherwise.
        Some((_, "qcow2")) if drive.file().is_some_and(|file| !file.starts_with('/')) => "qcow2",
        _ => "raw",
    });
    let mut node = json!({
        "driver": format,
        "node-name": format!("drive-{}", drive.id()),
        "cache": cache,
        "read-only": read_only,
    });
    if !drive.is_cdrom() {
        let discard = drive.get("discard") == Some("on");
        let zeroes = match (drive.get("detect_zeroes"), discard) {
            (Some("0"), _) => "off",
            (_, true) => "unmap",
            (_, false) => "on",
        };
        for part in [&mut file, &mut node] {
            part["discard"] = json!(if discard { "unmap" } else { "ignore" });
            part["detect-zeroes"] = json!(zeroes);
        }
    }
    node["file"] = file;
    node
}

fn device(config: &Section, drive: &Drive, q35: bool, parts: &mut Parts) -> String {
    let id = drive.id();
    let node = if drive.file().is_some() {
        format!(",drive=drive-{id}")
    } else {
        String::new()
    };
    let kind = if drive.is_cdrom() { "cd" } else { "hd" };
    match drive.interface {
        "virtio" => {
            let address = parts.address(&id);
            let thread = if drive.is("iothread") {
                format!(",iothread=iothread-{id}")
            } else {
                String::new()
            };
            format!("virtio-blk-pci{node},id={id}{address}{thread}")
        }
        "scsi" => {
            let hardware = scsi_hardware(config);
            let width = scsi_width(hardware);
            let controller = controller(config, drive).unwrap_or_default();
            let kind = if drive.is("scsiblock") && !drive.is_cdrom() {
                "block"
            } else {
                kind
            };
            let place = if hardware.starts_with("lsi") || hardware == "pvscsi" {
                format!("scsi-id={}", drive.index % width)
            } else {
                format!("channel=0,scsi-id=0,lun={}", drive.index)
            };
            let device_id = if kind == "block" {
                String::new()
            } else {
                format!(",device_id=drive-{id}")
            };
            format!("scsi-{kind},bus={controller}.0,{place}{node},id={id}{device_id}")
        }
        "sata" => format!("ide-{kind},bus=ahci0.{}{node},id={id}", drive.index),
        _ => {
            // A q35's IDE buses have one unit each; odd drives move up by two buses.
            let (bus, unit) = match (drive.index / 2, drive.index % 2) {
                (bus, unit) if q35 => (bus + 2 * unit, 0),
                place => place,
            };
            format!("ide-{kind},bus=ide.{bus},unit={unit}{node},id={id}")
        }
    }
}

fn finish(drive: &Drive, order: &Order, mut device: String) -> String {
    let block = drive.is("scsiblock");
    let disk = !drive.is_cdrom();
    if let Some(model) = drive.get("model").filter(|_| disk) {
        device.push_str(&format!(",model={}", decoded(model)));
    }
    if drive.is("ssd") && disk {
        device.push_str(",rotation_rate=1");
    }
    for name in ["wwn", "vendor", "product"] {
        if let Some(value) = drive.get(name).filter(|_| name == "wwn" || !block) {
            device.push_str(&format!(",{name}={}", super::escape(value)));
        }
    }
    if let Some(index) = order.get(&drive.id()) {
        device.push_str(&format!(",bootindex={index}"));
    }
    if let Some(serial) = drive.get("serial") {
        device.push_str(&format!(",serial={}", decoded(serial)));
    }
    if disk && !block {
        let through = matches!(drive.get("cache"), Some("writethrough" | "directsync"));
        device.push_str(if through {
            ",write-cache=off"
        } else {
            ",write-cache=on"
        });
    }
    for name in ["rerror", "werror"] {
        if let Some(value) = drive.get(name) {
            device.push_str(&format!(",{name}={value}"));
        }
    }
    device
}
