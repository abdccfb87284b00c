//! Network cards. The host has no network: a card without a bridge is plugged into nothing, and a bridge that does not
//! exist fails as Proxmox's own script does.

use super::{CommandError, Facts, Parts, boot::Order, value_error};
use crate::config::{NET, Section, parse_properties};

/// Adds `net0` to `net31`.
pub fn add(
    config: &Section,
    facts: &Facts,
    order: &Order,
    parts: &mut Parts,
) -> Result<(), CommandError> {
    for index in 0..32 {
        let id = format!("net{index}");
        let Some(value) = config.get(&id) else {
            continue;
        };
        let card = parse_properties(&NET, value).map_err(value_error(&id))?;
        if let Some(bridge) = card
            .get("bridge")
            .filter(|bridge| !facts.bridges.contains(*bridge))
        {
            return Err(CommandError::NoBridge(bridge.clone()));
        }
        let model = match card.get("model").map(String::as_str) {
            Some("virtio") | None => "virtio-net-pci",
            Some(model) => model,
        };
        parts.devices.extend([
            "-netdev".to_owned(),
            format!("hubport,id={id},hubid={index}"),
        ]);
        let mac = card
            .get("macaddr")
            .map(|mac| format!(",mac={mac}"))
            .unwrap_or_default();
        let address = parts.address(&id);
        let boot = order
            .get(&id)
            .map(|index| format!(",bootindex={index}"))
            .unwrap_or_default();
        // The boot ROMs are a package of their own, which a host without network does not have.
        parts.device(format!(
            "{model}{mac},netdev={id}{address},id={id}{boot},romfile="
        ));
    }
    Ok(())
}
