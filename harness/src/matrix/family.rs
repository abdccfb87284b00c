//! The family: the write-up as a scenario, with some of its ingredients left out and the rest in its order.

use std::path::PathBuf;

use super::ingredient::{Dropped, Environment, Ingredient};
use crate::engine::NAS;
use crate::lab::PciAddress;
use crate::probe::Probe;
use crate::scenario::{
    Action, Expect, ExpectNas, GuestName, Labs, Run, Scenario, SmartVerdict, Step,
};

/// The write-up's controller.
pub(super) const CONTROLLER: PciAddress = PciAddress {
    domain: 0,
    bus: 0,
    device: 0x1f,
    function: 2,
};

/// The step that reads the host as it is before the VM starts. It has no title of its own in the write-up.
pub(super) const BEFORE_START: &str = "before-start";

/// What is read of the host then.
const PROBES: [Probe; 4] = [Probe::Iommu, Probe::Pci, Probe::Modules, Probe::HostDisks];

/// One run: the write-up with these ingredients left out, on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The machine.
    pub environment: Environment,
    /// What is left out.
    pub dropped: Dropped,
}

/// A machine of the matrix has no file.
#[derive(Debug, thiserror::Error)]
#[error("there is no lab `{lab}`, which is the machine of {}", environment.title())]
pub struct NoLab {
    /// The machine.
    pub environment: Environment,
    /// The name of its lab.
    pub lab: &'static str,
}

impl Cell {
    /// The name of its scenario, and of its folder among the evidence.
    pub fn name(&self) -> String {
        let dropped: Vec<String> = self.dropped.iter().map(Ingredient::to_string).collect();
        match dropped.as_slice() {
            [] => self.environment.to_string(),
            list => format!("{}-without-{}", self.environment, list.join("-and-")),
        }
    }

    /// Its scenario. It ends by looking at the NAS's disks in three ways, whatever that shows.
    ///
    /// # Errors
    /// [`NoLab`].
    pub fn scenario(&self, labs: &Labs) -> Result<Scenario, NoLab> {
        let (environment, lab) = (self.environment, self.environment.lab());
        let machine = labs.get(lab).ok_or(NoLab { environment, lab })?;
        let step = |(title, action): (&str, Action)| Step {
            title: title.to_owned(),
            action,
            line: 0,
        };
        let serials = machine.disks().map(|disk| disk.serial.clone()).collect();
        Ok(Scenario {
            name: self.name(),
            path: PathBuf::new(),
            summary: "The write-up with some of it left out".to_owned(),
            draft: None,
            lab_name: lab.to_owned(),
            lab: machine.clone(),
            steps: actions(&self.dropped).into_iter().map(step).collect(),
            expect: Expect {
                pve: None,
                nas: Some(ExpectNas {
                    disks: Some(serials),
                    smart: Some(SmartVerdict::Passed),
                    ..ExpectNas::default()
                }),
            },
            findings: None,
            failure: None,
        })
    }
}

/// The write-up's actions without what is left out. A step of which nothing is left is none.
fn actions(dropped: &Dropped) -> Vec<(&'static str, Action)> {
    let kept = |ingredient: Ingredient| !dropped.contains(&ingredient);
    let of = |list: &[(Ingredient, &str)]| -> Vec<String> {
        let kept = list.iter().filter(|(one, _)| kept(*one));
        kept.map(|(_, text)| (*text).to_owned()).collect()
    };
    let flags = of(&[
        (Ingredient::IntelIommu, "intel_iommu=on"),
        (Ingredient::IommuPt, "iommu=pt"),
    ]);
    let modules = of(&[
        (Ingredient::Vfio, "vfio"),
        (Ingredient::VfioIommuType1, "vfio_iommu_type1"),
        (Ingredient::VfioPci, "vfio_pci"),
        (Ingredient::VfioVirqfd, "vfio_virqfd"),
    ]);
    let blacklist = of(&[
        (Ingredient::BlacklistAhci, "blacklist ahci"),
        (Ingredient::BlacklistLibahci, "blacklist libahci"),
    ]);
    let pcie = if kept(Ingredient::Pcie) {
        ",pcie=1"
    } else {
        ""
    };
    let append = |file: &str, lines: &[String]| Action::Append {
        file: file.to_owned(),
        lines: lines.to_vec(),
    };
    let steps = [
        (
            !flags.is_empty(),
            "Put the IOMMU's flags on the kernel command line",
            Action::Set {
                file: "/etc/default/grub".to_owned(),
                key: "GRUB_CMDLINE_LINUX_DEFAULT".to_owned(),
                value: format!("quiet {}", flags.join(" ")),
            },
        ),
        (
            kept(Ingredient::UpdateGrub),
            "Write GRUB's configuration anew",
            run("update-grub"),
        ),
        (
            kept(Ingredient::FirstReboot),
            "Reboot into the new command line",
            Action::Reboot,
        ),
        (
            !modules.is_empty(),
            "Have the VFIO modules loaded at boot",
            append("/etc/modules", &modules),
        ),
        (
            !blacklist.is_empty(),
            "Blacklist the host's SATA driver",
            append("/etc/modprobe.d/blacklist.conf", &blacklist),
        ),
        (
            kept(Ingredient::UpdateInitramfs),
            "Rebuild the initramfs of every kernel",
            run("update-initramfs -u -k all"),
        ),
        (
            kept(Ingredient::SecondReboot),
            "Reboot with the blacklist in force",
            Action::Reboot,
        ),
        // The line of the VM's configuration changes nothing of what is read here, so that what differs
        // only in it shares the reading's state.
        (
            true,
            "Read IOMMU, drivers, modules and disks of the host",
            Action::Probe {
                name: BEFORE_START.to_owned(),
                probes: PROBES.to_vec(),
            },
        ),
        (
            kept(Ingredient::Hostpci),
            "Give the controller to the VM",
            Action::VmConfig {
                vm: NAS,
                line: format!("hostpci0: {CONTROLLER}{pcie}"),
            },
        ),
        (true, "Start the NAS", Action::Start(NAS)),
    ];
    steps
        .into_iter()
        .filter_map(|(kept, title, action)| kept.then_some((title, action)))
        .collect()
}

fn run(command: &str) -> Action {
    Action::Run(Run {
        command: command.to_owned(),
        on: GuestName::Pve,
        exit: 0,
        save: None,
        same_as: None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::scenario::load_dir;

    fn catalogue() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios"))
    }

    fn cell(environment: Environment, dropped: &[Ingredient]) -> Cell {
        Cell {
            environment,
            dropped: dropped.iter().copied().collect(),
        }
    }

    fn titles(dropped: &[Ingredient]) -> Vec<String> {
        let actions = actions(&dropped.iter().copied().collect());
        let deeds = actions.iter().filter(|(_, action)| !action.only_looks());
        deeds.map(|(_, action)| action.title()).collect()
    }

    #[test]
    fn with_nothing_left_out_it_is_the_procedure_of_the_catalogue() {
        let scenarios = load_dir(catalogue()).unwrap();
        let procedure = scenarios
            .iter()
            .find(|one| one.name == "procedure")
            .unwrap();
        let labs = Labs::load(&catalogue().join("labs")).unwrap();
        let base = cell(Environment::Pve9, &[]).scenario(&labs).unwrap();
        let deeds = |scenario: &Scenario| -> Vec<Action> {
            let actions = scenario.steps.iter().map(|step| step.action.clone());
            let mut deeds: Vec<Action> = actions.filter(|one| !one.only_looks()).collect();
            let start = deeds.iter().position(|one| matches!(one, Action::Start(_)));
            deeds.truncate(start.unwrap() + 1);
            deeds
        };
        assert_eq!(deeds(&base), deeds(procedure));
        assert_eq!(base.lab, procedure.lab);
        let nas = procedure.expect.nas.as_ref().unwrap();
        let own = base.expect.nas.as_ref().unwrap();
        assert_eq!((&own.disks, own.smart), (&nas.disks, nas.smart));
    }

    #[test]
    fn every_ingredient_that_is_left_out_changes_the_steps_and_nothing_else() {
        let base = actions(&Dropped::new());
        for one in Ingredient::all() {
            let mut left = actions(&Dropped::from([one])).into_iter().peekable();
            // What is not as it was is one step: gone, or with less in it.
            let mut lost = 0;
            for step in &base {
                let same = left.next_if_eq(step).is_some();
                let less = !same && left.next_if(|next| next.0 == step.0).is_some();
                lost += usize::from(!same);
                let part = matches!(step.1, Action::Set { .. } | Action::Append { .. });
                assert!(!less || part || one == Ingredient::Pcie, "{one}: {step:?}");
            }
            assert_eq!((lost, left.next()), (1, None), "{one}");
        }
        let all: Vec<Ingredient> = Ingredient::all().collect();
        assert_eq!(titles(&all), ["start VM 100"]);
    }

    #[test]
    fn the_two_reboots_are_told_apart_by_what_is_between_them() {
        let reboots_before = |dropped, title: &str| {
            let titles = titles(&[dropped]);
            let at = titles.iter().position(|one| one == title).unwrap();
            titles[..at].iter().filter(|one| *one == "reboot").count()
        };
        let initramfs = "run update-initramfs -u -k all";
        assert_eq!(reboots_before(Ingredient::FirstReboot, initramfs), 0);
        assert_eq!(reboots_before(Ingredient::SecondReboot, initramfs), 1);
    }

    #[test]
    fn every_machine_has_its_lab_and_the_write_ups_controller() {
        let labs = Labs::load(&catalogue().join("labs")).unwrap();
        for environment in Environment::all() {
            let lab = &cell(environment, &[]).scenario(&labs).unwrap().lab;
            let serials: Vec<&str> = lab.disks().map(|disk| disk.serial.as_str()).collect();
            assert_eq!(
                serials,
                ["ZTM09FD7", "ZLM2BF4E", "ZTM093QT"],
                "{environment}"
            );
            let vtd = lab.iommu == crate::lab::Iommu::Intel;
            assert_eq!(vtd, !environment.to_string().ends_with("no-vtd"));
        }
        let missing = cell(Environment::Pve8, &[]).scenario(&Labs::default());
        assert!(missing.unwrap_err().to_string().contains("debian-12"));
    }

    #[test]
    fn names_are_folders_and_say_what_is_missing() {
        let name = cell(
            Environment::Pve8NoVtd,
            &[Ingredient::VfioIommuType1, Ingredient::IommuPt],
        )
        .name();
        assert_eq!(name, "pve8-no-vtd-without-iommu-pt-and-vfio-iommu-type1");
        let all = cell(
            Environment::Pve8NoVtd,
            &Ingredient::all().collect::<Vec<_>>(),
        );
        assert!(all.name().len() < 250);
    }
}
