//! The order in which the firmware tries devices (qemu-server, `device_bootorder`).

use std::collections::BTreeMap;

use super::{CommandError, drive::drives, value_error};
use crate::config::{BOOT, Section, parse_properties};

/// Boot indexes by device.
pub type Order = BTreeMap<String, u32>;

/// The order that `boot` gives. The old form (`cdn`, also the default) counts disks from 100, CD drives from 200 and
/// network cards from 300; of disks it boots `bootdisk` only. A configuration with neither `boot` nor `bootdisk` boots
/// its first disk, which Proxmox's wizard would have written down.
pub fn order(config: &Section) -> Result<Order, CommandError> {
    let mut boot = match config.get("boot") {
        Some(value) => parse_properties(&BOOT, value).map_err(value_error("boot"))?,
        None => Default::default(),
    };
    if let Some(devices) = boot.remove("order") {
        let known = devices
            .split(';')
            .map(str::trim)
            .filter(|device| !device.is_empty());
        return Ok(known.map(str::to_owned).zip(100..).collect());
    }
    let legacy = boot.remove("legacy").unwrap_or_else(|| "cdn".to_owned());
    let mut order = Order::new();
    let mut next: BTreeMap<char, u32> = legacy
        .chars()
        .zip(1u32..)
        .map(|(kind, place)| (kind, place * 100))
        .collect();
    let mut take = |kind: char| {
        let index = next.get_mut(&kind)?;
        *index += 1;
        Some(*index - 1)
    };
    let drives = drives(config)?;
    let first = drives
        .iter()
        .find(|drive| !drive.is_cdrom())
        .map(|drive| drive.id());
    let boot_disk = config
        .get("bootdisk")
        .map(str::to_owned)
        .or(first.filter(|_| config.get("boot").is_none()));
    for drive in &drives {
        let kind = if drive.is_cdrom() { 'd' } else { 'c' };
        let index = take(kind);
        if drive.is_cdrom() || boot_disk.as_deref() == Some(drive.id().as_str()) {
            order.extend(index.map(|index| (drive.id(), index)));
        }
    }
    for card in (0..32)
        .map(|index| format!("net{index}"))
        .filter(|card| config.get(card).is_some())
    {
        order.extend(take('n').map(|index| (card, index)));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, u32)]) {
        let (config, _) = crate::config::parse(100, text);
        let order = order(&config.main).unwrap();
        assert_eq!(
            order
                .iter()
                .map(|(id, index)| (id.as_str(), *index))
                .collect::<Vec<_>>(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn orders() {
        let disks = "scsi0: /a\nscsi1: /b\nide2: none,media=cdrom\nnet0: virtio\n";
        check(
            &format!("{disks}boot: order=scsi1;net0\n"),
            &[("net0", 101), ("scsi1", 100)],
        );
        check(
            &format!("{disks}bootdisk: scsi1\nboot: cdn\n"),
            &[("ide2", 200), ("net0", 300), ("scsi1", 101)],
        );
        check(&format!("{disks}boot: c\n"), &[]);
        check(disks, &[("ide2", 200), ("net0", 300), ("scsi0", 100)]);
    }
}
