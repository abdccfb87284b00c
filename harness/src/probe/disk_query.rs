//! Disks as TrueNAS's middleware describes them: `midclt call disk.query`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::facts::{ProbeError, ask};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// The middleware's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskQueryFacts {
    /// By serial number, then by name.
    pub disks: Vec<QueriedDisk>,
}

/// A disk of the middleware. What it may leave open is `null` there, but the field is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueriedDisk {
    /// What the middleware knows it by, such as `{serial_lunid}ZTM09FD7_5000c500a1b2c3d4`.
    pub identifier: String,
    /// The kernel's name, such as `sda`.
    pub name: String,
    /// Serial number.
    #[serde(deserialize_with = "present")]
    pub serial: Option<String>,
    /// World Wide Name without `0x`.
    #[serde(deserialize_with = "present")]
    pub lunid: Option<String>,
    /// Capacity in bytes.
    #[serde(deserialize_with = "present")]
    pub size: Option<u64>,
    /// Model.
    #[serde(deserialize_with = "present")]
    pub model: Option<String>,
    /// `HDD` or `SSD`.
    #[serde(rename = "type", deserialize_with = "present")]
    pub kind: Option<String>,
    /// Rotation rate in revolutions per minute.
    #[serde(deserialize_with = "present")]
    pub rotationrate: Option<u32>,
    /// The bus, such as `ATA`.
    pub bus: String,
    /// The pool that it is a member of; told only to who asks for it.
    #[serde(default)]
    pub pool: Option<String>,
}

impl DiskQueryFacts {
    /// The disk with this serial number.
    pub fn by_serial(&self, serial: &str) -> Option<&QueriedDisk> {
        self.disks
            .iter()
            .find(|disk| disk.serial.as_deref() == Some(serial))
    }
}

/// Without a default, unlike a bare `Option`: a field that is not there is an error.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

/// Asks the middleware.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    nas: &G,
    limit: Duration,
) -> Result<(DiskQueryFacts, String), ProbeError> {
    let exec = Exec::new("midclt", ["call", "disk.query"], limit);
    ask(Probe::DiskQuery, nas, exec, parse).await
}

/// Parses the middleware's answer; fields beyond those that are needed are let be.
///
/// # Errors
/// [`ParseError`] for anything but a list of disks with the fields that are needed, and for an empty
/// list: the guest boots from a disk.
pub fn parse(output: &str) -> Result<DiskQueryFacts, ParseError> {
    if output.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    let mut disks: Vec<QueriedDisk> = serde_json::from_str(output).map_err(ParseError::Json)?;
    if disks.is_empty() {
        return Err(ParseError::missing("any disk"));
    }
    disks.sort_by(|a, b| (&a.serial, &a.name).cmp(&(&b.serial, &b.name)));
    Ok(DiskQueryFacts { disks })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = include_str!("samples/disk-query.json");

    #[test]
    fn a_disk_has_serial_and_lun_id() {
        let facts = parse(QUERY).unwrap();
        let disk = facts.by_serial("ZTM09FD7").unwrap();
        assert_eq!(disk.lunid.as_deref(), Some("5000c500a1b2c3d0"));
        assert_eq!(disk.size, Some(12_000_138_625_024));
        assert_eq!(
            (disk.kind.as_deref(), disk.rotationrate),
            (Some("HDD"), Some(7200))
        );
        assert_eq!(disk.identifier, "{serial_lunid}ZTM09FD7_5000c500a1b2c3d0");
        let boot = facts.by_serial("drive-scsi0").unwrap();
        assert_eq!(
            (boot.lunid.as_deref(), boot.pool.as_deref()),
            (None, Some("boot-pool"))
        );
    }

    #[test]
    fn null_is_an_answer_and_a_field_that_is_not_there_is_none() {
        for (output, says) in [
            (String::new(), "no output"),
            ("[]".to_owned(), "any disk"),
            ("{}".to_owned(), "not the JSON"),
            (QUERY[..QUERY.len() - 20].to_owned(), "not the JSON"),
            (QUERY.replace("\"lunid\"", "\"lun\""), "not the JSON"),
            (QUERY.replace("\"identifier\"", "\"id\""), "not the JSON"),
            (QUERY.replace("\"type\": \"HDD\", ", ""), "not the JSON"),
            (QUERY.replace("12000138625024", "\"12T\""), "not the JSON"),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(parse(&QUERY.replace(", \"pool\": null", "")).is_ok());
    }
}
