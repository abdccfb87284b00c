//! The shape of `smartctl`'s JSON, as far as it is needed.

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Smartctl {
    pub(super) smartctl: Run,
    pub(super) device: Option<Device>,
    pub(super) model_family: Option<String>,
    pub(super) model_name: Option<String>,
    pub(super) scsi_product: Option<String>,
    pub(super) serial_number: Option<String>,
    pub(super) wwn: Option<RawWwn>,
    pub(super) logical_unit_id: Option<String>,
    pub(super) firmware_version: Option<String>,
    pub(super) scsi_revision: Option<String>,
    pub(super) user_capacity: Option<Capacity>,
    pub(super) logical_block_size: Option<u32>,
    pub(super) physical_block_size: Option<u32>,
    pub(super) rotation_rate: Option<u32>,
    pub(super) smart_support: Option<Support>,
    pub(super) smart_status: Option<Passed>,
    pub(super) ata_smart_attributes: Option<Attributes>,
    pub(super) ata_smart_error_log: Option<ErrorLog>,
    pub(super) ata_smart_self_test_log: Option<SelfTestLog>,
    pub(super) nvme_smart_health_information_log: Option<Health>,
    #[serde(default)]
    pub(super) nvme_namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
pub(super) struct Namespace {
    pub(super) eui64: Option<Eui64>,
}

#[derive(Deserialize)]
pub(super) struct Eui64 {
    pub(super) oui: u64,
    pub(super) ext_id: u64,
}

#[derive(Deserialize)]
pub(super) struct Run {
    pub(super) exit_status: u8,
    #[serde(default)]
    pub(super) argv: Vec<String>,
    #[serde(default)]
    pub(super) messages: Vec<Message>,
}

#[derive(Deserialize)]
pub(super) struct Message {
    pub(super) string: String,
}

#[derive(Deserialize)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) protocol: String,
}

#[derive(Deserialize)]
pub(super) struct RawWwn {
    pub(super) naa: u64,
    pub(super) oui: u64,
    pub(super) id: u64,
}

#[derive(Deserialize)]
pub(super) struct Capacity {
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
pub(super) struct Support {
    pub(super) available: bool,
    pub(super) enabled: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Passed {
    pub(super) passed: bool,
}

#[derive(Deserialize)]
pub(super) struct Attributes {
    pub(super) table: Vec<RawAttribute>,
}

#[derive(Deserialize)]
pub(super) struct RawAttribute {
    pub(super) id: u8,
    pub(super) name: String,
    pub(super) value: u8,
    pub(super) worst: Option<u8>,
    pub(super) thresh: Option<u8>,
    pub(super) when_failed: String,
    pub(super) raw: Raw,
}

#[derive(Deserialize)]
pub(super) struct Raw {
    pub(super) value: u64,
}

#[derive(Deserialize)]
pub(super) struct ErrorLog {
    pub(super) summary: Count,
}

#[derive(Deserialize)]
pub(super) struct SelfTestLog {
    pub(super) standard: Count,
}

#[derive(Deserialize)]
pub(super) struct Count {
    pub(super) count: u64,
}

#[derive(Deserialize)]
pub(super) struct Health {
    pub(super) critical_warning: u8,
}
