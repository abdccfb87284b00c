//! What must hold, and the failure that a scenario may be about.

use super::Checker;
use crate::scenario::document::Node;
use crate::scenario::expect::{CHECKS, Expect, ExpectedFailure, FailureKind};
use crate::scenario::file::Closing;
use crate::scenario::labs::serial_problem;
use crate::scenario::nearest::advice;
use crate::scenario::step::{Action, Step};

impl Checker<'_> {
    pub(super) fn expect(&mut self, place: &Node<'_>, expect: &Expect) {
        self.checks.extend(expect.checks());
        if let Some(serials) = expect.pve.as_ref().and_then(|pve| pve.disks.as_ref()) {
            self.serials(&place.get("pve").get("disks"), serials);
        }
        let Some(nas) = &expect.nas else { return };
        self.needs_nas(&place.get("nas"), "this is read in the NAS guest");
        if let Some(serials) = &nas.disks {
            self.serials(&place.get("nas").get("disks"), serials);
        }
    }

    /// Names that no rule has were noted when the file was held against its schema.
    pub(super) fn findings(&self, closing: &Node<'_>, table: &Closing) {
        let named = table.findings.as_deref();
        self.each_once(&closing.get("findings"), named.unwrap_or_default());
        let Some(possible) = &table.possible_findings else {
            return;
        };
        let place = closing.get("possible-findings");
        let Some(named) = named else {
            let help = Some("add findings = [], or those that have to be there".to_owned());
            self.note(&place, "no `findings` that these could come besides", help);
            return;
        };
        self.each_once(&place, possible);
        for (index, id) in possible.iter().enumerate() {
            if named.contains(id) {
                let message = format!("`{id}` has to be there by `findings`");
                self.note(&place.item(index), message, None);
            }
        }
    }

    fn each_once(&self, place: &Node<'_>, ids: &[String]) {
        for (index, id) in ids.iter().enumerate() {
            if ids[..index].contains(id) {
                let message = format!("`{id}` is in this list already");
                self.note(&place.item(index), message, None);
            }
        }
    }

    pub(super) fn failure(&self, place: &Node<'_>, failure: &ExpectedFailure, steps: &[Step]) {
        let contains = place.get("contains");
        if failure.contains.is_empty() || failure.contains.iter().any(|part| part.trim().is_empty())
        {
            let help =
                "name what its message must say, so that no other failure passes for it".to_owned();
            self.note(&contains, "any failure would do", Some(help));
        }
        match (&failure.check, failure.kind) {
            (Some(check), FailureKind::Check) if !CHECKS.contains(&check.as_str()) => {
                let help = advice(check, CHECKS.iter().copied());
                self.note(
                    &place.get("check"),
                    format!("there is no check `{check}`"),
                    help,
                );
            }
            (Some(check), FailureKind::Check) if !self.checks.contains(check.as_str()) => {
                let message =
                    format!("nothing in this scenario expects `{check}`, so it cannot fail");
                self.note(&place.get("check"), message, None);
            }
            (Some(_), FailureKind::Check) => {}
            (Some(_), kind) => {
                let help = format!("leave it out, or make the kind `check` instead of `{kind}`");
                self.note(
                    &place.get("check"),
                    "only a failure of kind `check` has a check",
                    Some(help),
                );
            }
            (None, FailureKind::Check) => {
                let help = "add check = \"pve.driver\", or whichever it is".to_owned();
                self.note(
                    &place.get("kind"),
                    "which check fails is missing",
                    Some(help),
                );
            }
            (None, FailureKind::Start)
                if !steps
                    .iter()
                    .any(|step| matches!(step.action, Action::Start(_))) =>
            {
                self.note(
                    &place.get("kind"),
                    "no step starts a VM, so no start can fail",
                    None,
                );
            }
            (None, _) => {}
        }
    }

    pub(super) fn needs_nas(&self, place: &Node<'_>, what: &str) {
        if !self.nas_runs {
            let help =
                "it runs after `start = 100`, until `stop`, `reboot` or whatever else ends it or the host"
                    .to_owned();
            self.note(
                place,
                format!("{what}, which does not run at this point"),
                Some(help),
            );
        }
    }

    pub(super) fn serials(&self, place: &Node<'_>, serials: &[String]) {
        self.serials_at(serials, |index| place.item(index));
    }

    pub(super) fn serials_at<'d>(&self, serials: &[String], place: impl Fn(usize) -> Node<'d>) {
        for (index, serial) in serials.iter().enumerate() {
            let place = place(index);
            if let Some(message) = serial_problem(serial) {
                self.note(&place, message, None);
            } else if let Some(lab) = self.lab {
                let known: Vec<&str> = lab.disks().map(|disk| disk.serial.as_str()).collect();
                if !known.contains(&serial.as_str()) {
                    let message = format!("no disk of this lab has the serial `{serial}`");
                    self.note(&place, message, advice(serial, known.iter().copied()));
                } else if serials[..index].contains(serial) {
                    self.note(&place, format!("`{serial}` is in this list already"), None);
                }
            }
        }
    }
}
