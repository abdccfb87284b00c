//! Faults and measurements: whether this machine can have them at this point.

use super::Checker;
use crate::lab::{Disk, Interface};
use crate::scenario::document::Node;
use crate::scenario::fault::{Awaited, CutDuring, DiskError, Measure, NvmeWarning, PowerCuts};
use crate::scenario::file::StepTable;
use crate::scenario::step::Action;

impl Checker<'_> {
    /// The fault that a step is; none when it is something else.
    pub(super) fn fault(&mut self, of: &Node<'_>, table: &StepTable) -> Option<Action> {
        if let Some(cut) = table.power_cut {
            self.yes(of, "power-cut", cut);
            self.nas_runs = false;
            return Some(Action::PowerCut);
        }
        if let Some(reset) = table.reset {
            self.yes(of, "reset", reset);
            self.nas_runs = false;
            return Some(Action::Reset);
        }
        if let Some(vm) = table.panic {
            self.needs_nas(of, "this crashes the NAS guest");
            self.nas_runs = false;
            return Some(Action::Panic(vm));
        }
        if let Some(address) = table.unplug {
            if let Some(lab) = self.lab
                && lab.behind_root_port(address).is_none()
            {
                let help =
                    "only a card or controller behind a root port can be pulled out".to_owned();
                let message = format!("nothing in this lab can be unplugged at {address}");
                self.note(of, message, Some(help));
            }
            return Some(Action::Unplug(address));
        }
        if let Some(error) = &table.disk_error {
            return Some(self.disk_error(of, error));
        }
        if let Some(serial) = &table.disk_lost {
            self.serials_at(std::slice::from_ref(serial), |_| of.clone());
            return Some(Action::DiskLost(serial.clone()));
        }
        if let Some(warning) = &table.nvme_warning {
            return Some(self.nvme_warning(of, warning));
        }
        if let Some(sectors) = table.reallocated_sectors {
            return Some(self.reallocated_sectors(of, sectors));
        }
        if let Some(awaited) = table.wait_for {
            self.nas_runs = awaited == Awaited::Nas;
            return Some(Action::WaitFor(awaited));
        }
        if let Some(cut) = &table.cut_during {
            return Some(self.cut_during(of, cut));
        }
        if let Some(cuts) = &table.power_cuts {
            return Some(self.power_cuts(of, cuts));
        }
        table
            .measure
            .as_ref()
            .map(|measure| self.measure(of, measure))
    }

    pub(super) fn yes(&self, of: &Node<'_>, name: &str, value: bool) {
        if !value {
            let help = Some("leave the step out".to_owned());
            self.note(of, format!("`{name} = false` is no action"), help);
        }
    }

    fn disk_error(&self, of: &Node<'_>, error: &DiskError) -> Action {
        self.serials_at(std::slice::from_ref(&error.serial), |_| of.get("serial"));
        Action::DiskError(error.clone())
    }

    fn nvme_warning(&self, of: &Node<'_>, warning: &NvmeWarning) -> Action {
        let place = of.get("serial");
        self.serials_at(std::slice::from_ref(&warning.serial), |_| place.clone());
        let drive = self
            .lab
            .and_then(|lab| lab.disks().find(|disk| disk.serial == warning.serial));
        if drive.is_some_and(|disk| disk.drive.data().interface != Interface::Nvme) {
            let message = format!("`{}` is no NVMe drive", warning.serial);
            self.note(&place, message, None);
        }
        for (index, one) in warning.warnings.iter().enumerate() {
            if warning.warnings[..index].contains(one) {
                let place = of.get("warnings").item(index);
                self.note(&place, format!("`{one}` is in this list already"), None);
            }
        }
        Action::NvmeWarning(warning.clone())
    }

    fn reallocated_sectors(&self, of: &Node<'_>, sectors: u16) -> Action {
        let is_sata = |disk: &Disk| disk.drive.data().interface == Interface::Sata;
        if self.lab.is_some_and(|lab| !lab.disks().any(is_sata)) {
            self.note(of, "this lab has no SATA disk", None);
        }
        Action::ReallocatedSectors(sectors)
    }

    fn cut_during(&mut self, of: &Node<'_>, cut: &CutDuring) -> Action {
        let command = of.get("command");
        if cut.command.trim().is_empty() {
            self.note(&command, "there is no command to run", None);
        }
        self.text(&command, &cut.command);
        let place = of.get("when-exists");
        self.host_file(&place, &cut.when_exists);
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+*?".contains(c);
        if !cut.when_exists.chars().all(plain) {
            let help = "use letters, digits and `/._-+`, and `*` and `?` for what is not known";
            let message = "this cannot name a file here";
            self.note(&place, message, Some(help.to_owned()));
        }
        self.nas_runs = false;
        Action::CutDuring(cut.clone())
    }

    fn power_cuts(&mut self, of: &Node<'_>, cuts: &PowerCuts) -> Action {
        self.needs_nas(of, "the NAS guest writes while the power goes");
        self.pool_name(&of.get("pool"), &cuts.pool);
        Action::PowerCuts(cuts.clone())
    }

    fn measure(&mut self, of: &Node<'_>, measure: &Measure) -> Action {
        self.needs_nas(of, "this is measured in the NAS guest");
        self.host_file(&of.get("device"), &measure.device);
        if let Some(name) = &measure.against {
            self.was_saved(&of.get("against"), name);
        }
        if let Some(name) = &measure.save {
            self.saves(&of.get("save"), name);
        }
        Action::Measure(measure.clone())
    }

    fn pool_name(&self, place: &Node<'_>, name: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if name.is_empty() || !name.chars().all(good) {
            let message = format!("`{name}` cannot name a pool here");
            let help = "use letters, digits, `_` and `-`".to_owned();
            self.note(place, message, Some(help));
        }
    }
}
