//! One scenario and its steps.

use serde::{Deserialize, Serialize};

use super::expect::{Expect, ExpectedFailure, ExpectedFindings};
use super::fault::{Awaited, CutDuring, DiskError, Measure, NvmeWarning, PowerCuts};
use crate::lab::{Lab, PciAddress};
use crate::probe::Probe;

/// A scenario: one TOML file under `scenarios/`.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file's name without its ending; the name of its test.
    pub name: String,
    /// The file it was read from.
    pub path: std::path::PathBuf,
    /// One sentence on what it shows.
    pub summary: String,
    /// Why it is not part of a run yet; none for most.
    pub draft: Option<String>,
    /// The name of its lab.
    pub lab_name: String,
    /// The machine it runs on.
    pub lab: Lab,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What must hold when all steps are done.
    pub expect: Expect,
    /// The findings at the end.
    pub findings: Option<ExpectedFindings>,
    /// The one failure that this scenario is about; it passes only on that.
    pub failure: Option<ExpectedFailure>,
}

impl Scenario {
    /// Whether something must hold when all steps are done.
    pub fn checks_at_the_end(&self) -> bool {
        self.expect != Expect::default() || self.findings.is_some()
    }
}

/// A step: one action, with a title for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What a person reads in the progress line; made from the action when the file gives none.
    pub title: String,
    /// What is done.
    pub action: Action,
    /// The line of the scenario file where it stands, from 1.
    pub line: usize,
}

/// A VM's number on the Proxmox-like host.
pub type Vmid = u32;

/// A guest of the lab.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum GuestName {
    /// The Proxmox-like host, L1.
    #[default]
    Pve,
    /// The TrueNAS-like guest inside it, L2.
    Nas,
}

/// What a step does. Its serialization is what its digest is made of, so a title is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Sets `key="value"` in a file of shell assignments such as `/etc/default/grub`, in place if the
    /// key is there, at the end if not.
    Set {
        /// Absolute path on the host.
        file: String,
        /// Name of the variable.
        key: String,
        /// Its new value, without quotes.
        value: String,
    },
    /// Appends lines to a file, made if it is not there.
    Append {
        /// Absolute path on the host.
        file: String,
        /// The lines, without line ends.
        lines: Vec<String>,
    },
    /// Writes a whole file.
    Write {
        /// Absolute path on the host.
        file: String,
        /// All of its content.
        content: String,
    },
    /// Runs a command.
    Run(Run),
    /// Reboots the host and waits until it is up again with another boot id.
    Reboot,
    /// Adds a line to a VM's configuration file, replacing one with the same key.
    VmConfig {
        /// The VM.
        vm: Vmid,
        /// `key: value`.
        line: String,
    },
    /// `qm start`, then waits until the VM's guest agent answers.
    Start(Vmid),
    /// `qm shutdown`, then waits until the VM is stopped.
    Stop(Vmid),
    /// Exchanges the serial numbers of two disks of the lab behind everybody's back, the machine
    /// powered off for it.
    SwapSerials([String; 2]),
    /// Powers the host off, changes the hardware to that of another lab, and powers it on. Disks with a
    /// serial number that both labs have keep what is on them.
    Rewire(Box<Rewire>),
    /// The machine loses its power and gets it back.
    PowerCut,
    /// The machine's reset button is pressed.
    Reset,
    /// Crashes the kernel of a VM, and waits until its console says so.
    Panic(Vmid),
    /// Pulls the card at this address out of the running machine.
    Unplug(PciAddress),
    /// Some places on a disk fail.
    DiskError(DiskError),
    /// Nothing can be read from or written to the disk with this serial number.
    DiskLost(String),
    /// An NVMe drive says how it is.
    NvmeWarning(NvmeWarning),
    /// Every SATA disk says that it has replaced so many sectors.
    ReallocatedSectors(u16),
    /// Waits for something that comes by itself.
    WaitFor(Awaited),
    /// Cuts the power in the middle of a command.
    CutDuring(CutDuring),
    /// Cuts the power at random moments while the NAS writes.
    PowerCuts(PowerCuts),
    /// Measures how fast a disk is in the NAS.
    Measure(Measure),
    /// Reads facts and holds them against their snapshots.
    Probe {
        /// The name of the snapshots.
        name: String,
        /// Which facts.
        probes: Vec<Probe>,
    },
    /// Checks what must hold at this point.
    Expect(Box<Expect>),
}

impl Action {
    /// Whether it only reads the lab's state, so that it is no part of what leads to a state.
    pub fn only_looks(&self) -> bool {
        matches!(self, Action::Probe { .. } | Action::Expect(_))
    }
}

/// Another machine for the same disks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rewire {
    /// The lab's name.
    pub name: String,
    /// The machine.
    pub lab: Lab,
}

/// A command in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// A line for `sh -c`.
    pub command: String,
    /// In which guest.
    pub on: GuestName,
    /// The exit code that it must have.
    pub exit: i32,
    /// Keeps its standard output under this name.
    pub save: Option<String>,
    /// Its standard output must equal the one that was saved under this name.
    pub same_as: Option<String>,
}
