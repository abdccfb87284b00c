//! PCI addresses.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hexadecimal;

/// A PCI address, `domain:bus:device.function` in hexadecimal; the domain may be left out when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI domain (segment). Linux counts those of firmware up to 0xffff, and Intel's VMD from 0x10000 on.
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let mut parts = rest.rsplit(':');
            let device = hexadecimal(parts.next()?, 2).filter(|device| *device < 32)?;
            let bus = hexadecimal(parts.next()?, 2)?;
            let domain = match parts.next() {
                Some(digits) => hexadecimal(digits, digits.len().clamp(4, 8))?,
                None => 0,
            };
            let function = hexadecimal(function, 1).filter(|function| *function < 8)?;
            parts.next().is_none().then_some(PciAddress {
                domain: u32::try_from(domain).ok()?,
                bus: u8::try_from(bus).ok()?,
                device: u8::try_from(device).ok()?,
                function: u8::try_from(function).ok()?,
            })
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a PCI address: write domain:bus:device.function, such as 0000:00:1f.2")
        })
    }
}

impl Serialize for PciAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PciAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PciAddress".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "pci-address",
            "pattern": "^([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\\.[0-7]$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_round_trip_and_default_the_domain() {
        let full: PciAddress = "0000:00:1f.2".parse().unwrap();
        assert_eq!("00:1f.2".parse::<PciAddress>().unwrap(), full);
        assert_eq!(full.to_string(), "0000:00:1f.2");
        let behind_vmd: PciAddress = "10000:e1:00.0".parse().unwrap();
        assert_eq!(behind_vmd.to_string(), "10000:e1:00.0");
        for wrong in [
            "123456789:00:1f.2",
            "",
            "00:1f",
            "00:20.0",
            "00:1f.8",
            "0000:0000:00:00.0",
            "zz:00.0",
            "0:1f.2",
            "+0:1f.2",
            "000:00:1f.2",
            "00:1f.02",
        ] {
            assert!(wrong.parse::<PciAddress>().is_err(), "{wrong}");
        }
    }
}
