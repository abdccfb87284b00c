//! The scenario file as it is written. Its documentation comments are what editors show to authors.

use schemars::JsonSchema;
use serde::Deserialize;

use super::expect::{Expect, ExpectNas, ExpectPve, ExpectedFailure, ExpectedFindings};
use super::fault::{Awaited, CutDuring, DiskError, Measure, NvmeWarning, PowerCuts};
use super::step::{GuestName, Vmid};
use crate::finding;
use crate::lab::PciAddress;
use crate::probe::Probe;

/// A scenario: a lab, the steps that are taken in it, and what must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(rename = "Scenario")]
pub(super) struct ScenarioFile {
    /// One sentence on what this scenario shows.
    pub summary: String,
    /// Why this scenario is not part of a run yet. It is read and checked as any other, and runs where it
    /// is asked for by its whole name; as a test it is an ignored one.
    pub draft: Option<String>,
    /// The machine it runs on: the name of a file in `labs/`, without `.toml`.
    pub lab: String,
    /// What is done, in this order. Each step is one action and, if you like, a title.
    #[serde(default, rename = "step")]
    pub steps: Vec<StepTable>,
    /// What must hold when all steps are done.
    #[serde(default)]
    pub expect: Closing,
}

/// What must hold when all steps are done, and the one failure that a scenario may be about.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Closing {
    /// What must hold on the Proxmox host.
    pub pve: Option<ExpectPve>,
    /// What must hold in the NAS guest.
    pub nas: Option<ExpectNas>,
    /// The findings that the facts must prove at the end, also where the scenario fails as it should:
    /// exactly these errors and warnings. Notes need not be named; one that is named has to be there.
    #[serde(default)]
    #[schemars(schema_with = "finding_ids")]
    pub findings: Option<Vec<String>>,
    /// Findings that may be there besides, for a scenario whose damage is another one each time.
    #[serde(default)]
    #[schemars(schema_with = "finding_ids")]
    pub possible_findings: Option<Vec<String>>,
    /// The failure that this scenario is about. It passes only if exactly this one happens.
    pub failure: Option<ExpectedFailure>,
}

/// What a scenario says of its end.
pub(super) struct Ending {
    pub expect: Expect,
    pub findings: Option<ExpectedFindings>,
    pub failure: Option<ExpectedFailure>,
}

impl Closing {
    /// What must hold, the findings, and the failure.
    pub(super) fn split(self) -> Ending {
        Ending {
            expect: Expect {
                pve: self.pve,
                nas: self.nas,
            },
            findings: self.findings.map(|named| ExpectedFindings {
                named,
                possible: self.possible_findings.unwrap_or_default(),
            }),
            failure: self.failure,
        }
    }
}

/// The names of all rules: an editor completes them, and one that is not among them is a mistake.
fn finding_ids(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let ids: Vec<&str> = finding::rules().map(|rule| rule.id).collect();
    schemars::json_schema!({
        "type": ["array", "null"],
        "items": { "enum": ids },
        "uniqueItems": true,
    })
}

/// One step: exactly one action, and a title if the one that is made from the action does not do.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(rename = "Step", transform = one_action)]
pub(super) struct StepTable {
    /// What a person reads while the step runs. Made from the action when it is left out.
    pub title: Option<String>,
    /// Sets a variable in a file of shell assignments on the host, such as `/etc/default/grub`. The
    /// last active assignment is replaced; if there is none, one is added at the end.
    pub set: Option<SetTable>,
    /// Appends lines to a file on the host; the file is made if it is not there.
    pub append: Option<AppendTable>,
    /// Writes a whole file on the host.
    pub write: Option<WriteTable>,
    /// Runs a command on the host or in the NAS guest: a line for `sh -c`, or a table that says more.
    pub run: Option<RunValue>,
    /// Reboots the host and waits until it is up again. VMs do not survive it.
    pub reboot: Option<bool>,
    /// Puts a line into a VM's `/etc/pve/qemu-server/<VMID>.conf`, where one with the same key is
    /// replaced. Snapshot sections are left alone.
    pub config: Option<ConfigTable>,
    /// `qm start` of this VM, then waits until its guest agent answers.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub start: Option<Vmid>,
    /// `qm shutdown` of this VM, then waits until it is stopped.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub stop: Option<Vmid>,
    /// Powers the host off and exchanges the serial numbers of two of the lab's disks, behind the
    /// procedure's back.
    #[schemars(length(equal = 2))]
    pub swap_serials: Option<Vec<String>>,
    /// Powers the host off, changes its hardware to that of another lab (the name of a file in `labs/`,
    /// without `.toml`), and powers it on. Disks whose serial number both labs have keep what is on them.
    pub rewire: Option<String>,
    /// Cuts the power of the running machine, and gives it back at once. What a guest had not written
    /// to its disks is lost; what a disk had acknowledged is there. Ends when the host is up again.
    pub power_cut: Option<bool>,
    /// Presses the machine's reset button, and waits until the host is up again.
    pub reset: Option<bool>,
    /// Crashes the kernel of this VM by its magic SysRq key, and waits until its console shows the panic.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub panic: Option<Vmid>,
    /// Pulls the card at this PCI address, which is behind a root port, out of the running machine, and
    /// waits until both guests have let it go.
    pub unplug: Option<PciAddress>,
    /// Makes some places on a disk fail, behind everybody's back.
    pub disk_error: Option<DiskError>,
    /// Makes everything fail that is read from or written to the disk with this serial number.
    pub disk_lost: Option<String>,
    /// Sets what an NVMe drive says of its own health.
    pub nvme_warning: Option<NvmeWarning>,
    /// Has every SATA disk of the machine say that it has replaced so many sectors, while it calls itself well.
    #[schemars(range(min = 1, max = 65535))]
    pub reallocated_sectors: Option<u16>,
    /// Waits for something that comes by itself; it is a failure when it does not.
    pub wait_for: Option<Awaited>,
    /// Cuts the power in the middle of a command, as `power-cut` does.
    pub cut_during: Option<CutDuring>,
    /// Has the NAS write numbered records with `fsync`, and cuts the power at random moments, the disks'
    /// volatile caches lost with it. After each, every record that had been acknowledged must be there.
    pub power_cuts: Option<PowerCuts>,
    /// Measures how fast a disk is in the NAS, reading and writing, in sequence and at random.
    pub measure: Option<Measure>,
    /// Reads facts and holds them against the scenario's snapshots. Needs `as`.
    pub probe: Option<Vec<Probe>>,
    /// The name of the snapshots that `probe` takes, such as `after-reboot`.
    #[serde(rename = "as")]
    pub snapshot: Option<String>,
    /// What must hold at this point.
    pub expect: Option<Expect>,
}

/// Sets a variable in a file of shell assignments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SetTable {
    /// Absolute path on the host.
    pub file: String,
    /// The variable, such as `GRUB_CMDLINE_LINUX_DEFAULT`.
    pub key: String,
    /// Its new value, without the quotes that the shell needs: those are added.
    pub value: String,
}

/// Appends lines to a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AppendTable {
    /// Absolute path on the host.
    pub file: String,
    /// The lines, in this order.
    pub lines: Vec<String>,
}

/// Writes a whole file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WriteTable {
    /// Absolute path on the host.
    pub file: String,
    /// All that will be in it.
    pub content: String,
}

/// A command: its line alone, or with where it runs and what it must give.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RunValue {
    /// A line for `sh -c` on the host; it must end with exit code 0.
    Line(String),
    /// A command with more to say about it.
    Table(RunTable),
}

/// A command with more to say about it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RunTable {
    /// A line for `sh -c`.
    pub command: String,
    /// Where: `pve`, the Proxmox host (this is the default), or `nas`, the guest inside it.
    #[serde(default)]
    pub on: GuestName,
    /// The exit code that it must have; 0 when left out.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    pub exit: i32,
    /// Keeps its output under this name, for a later `same-as`.
    pub save: Option<String>,
    /// Its output must be the one that an earlier step kept under this name.
    pub same_as: Option<String>,
}

/// A line of a VM's configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ConfigTable {
    /// The VM.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub vm: Vmid,
    /// `key: value`, as it stands in the file, such as `hostpci0: 0000:00:1f.2,pcie=1`.
    pub line: String,
}

/// The keys of a step that are actions.
pub(super) const ACTIONS: &[&str] = &[
    "set",
    "append",
    "write",
    "run",
    "reboot",
    "config",
    "start",
    "stop",
    "swap-serials",
    "rewire",
    "power-cut",
    "reset",
    "panic",
    "unplug",
    "disk-error",
    "disk-lost",
    "nvme-warning",
    "reallocated-sectors",
    "wait-for",
    "cut-during",
    "power-cuts",
    "measure",
    "probe",
    "expect",
];

/// Tells editors that a step has exactly one action, and that `probe` and `as` go together.
fn one_action(schema: &mut schemars::Schema) {
    let one = |action: &&str| serde_json::json!({ "required": [action] });
    schema.insert("oneOf".into(), ACTIONS.iter().map(one).collect());
    schema.insert(
        "dependentRequired".into(),
        serde_json::json!({ "probe": ["as"], "as": ["probe"] }),
    );
}
