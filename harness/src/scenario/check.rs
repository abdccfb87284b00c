//! What a schema cannot say about a scenario: the sense of it, step after step.

mod closing;
mod faults;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Node};
use super::edit::vm_key;
use super::file::{ACTIONS, Ending, RunTable, RunValue, ScenarioFile, StepTable};
use super::labs::Labs;
use super::nearest::advice;
use super::step::{Action, GuestName, Rewire, Run, Scenario, Step};
use crate::lab::Lab;
use crate::probe::Probe;

/// Walks through a scenario as the engine will, and notes what cannot be meant.
pub(super) struct Checker<'a> {
    document: &'a Document<'a>,
    labs: &'a Labs,
    lab: Option<&'a Lab>,
    /// Whether a `start` has come and nothing has ended the guest since.
    nas_runs: bool,
    /// Names of outputs that are kept, and of snapshots.
    saved: BTreeSet<String>,
    snapshots: BTreeMap<String, usize>,
    /// Checks that are made anywhere.
    checks: BTreeSet<&'static str>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(document: &'a Document<'a>, labs: &'a Labs) -> Self {
        Checker {
            document,
            labs,
            lab: None,
            nas_runs: false,
            saved: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            checks: BTreeSet::new(),
        }
    }

    /// The scenario that a file describes. Problems are noted in the document.
    pub(super) fn scenario(mut self, name: String, file: ScenarioFile) -> Option<Scenario> {
        let root = self.document.root();
        let first_lab = self.lab_called(&root.get("lab"), &file.lab);
        self.lab = first_lab;
        if file.summary.trim().is_empty() {
            self.note(&root.get("summary"), "the summary says nothing", None);
        }
        if file.draft.as_ref().is_some_and(|why| why.trim().is_empty()) {
            let help = Some("say why it is none of a run's, or leave the key out".to_owned());
            self.note(&root.get("draft"), "a draft needs a reason", help);
        }
        if file.steps.is_empty() {
            let help = "a step begins with the line [[step]]".to_owned();
            self.note(&root, "this scenario has no steps", Some(help));
        }
        let mut steps = Vec::new();
        for (index, table) in file.steps.into_iter().enumerate() {
            let node = root.get("step").item(index);
            let line = self.document.line(&node.key);
            let title = table.title.clone();
            if let Some(action) = self.action(&node, table, line) {
                let title = title.unwrap_or_else(|| action.title());
                steps.push(Step {
                    title,
                    action,
                    line,
                });
            }
        }
        let closing = root.get("expect");
        self.findings(&closing, &file.expect);
        let Ending {
            expect,
            findings,
            failure,
        } = file.expect.split();
        self.expect(&closing, &expect);
        if let Some(failure) = &failure {
            self.failure(&closing.get("failure"), failure, &steps);
        }
        Some(Scenario {
            name,
            path: self.document.path().to_owned(),
            summary: file.summary,
            draft: file.draft,
            lab_name: file.lab,
            lab: first_lab?.clone(),
            steps,
            expect,
            findings,
            failure,
        })
    }

    fn action(&mut self, node: &Node<'_>, table: StepTable, line: usize) -> Option<Action> {
        let actions: Vec<_> = node
            .entries()
            .filter(|(key, _)| ACTIONS.contains(&key.as_ref()))
            .collect();
        let of = match actions.as_slice() {
            [] => {
                let known: Vec<String> = ACTIONS.iter().map(|name| format!("`{name}`")).collect();
                let help = format!("give it one of {}", known.join(", "));
                self.note(node, "this step does nothing", Some(help));
                return None;
            }
            [(_, of)] => of.clone(),
            [(first, _), (second, place), ..] => {
                let message = format!("this step does two things, `{first}` and `{second}`");
                let problem = self.document.problem(place.key.clone(), message);
                self.document.note(problem.help("make a [[step]] of each"));
                return None;
            }
        };
        if table
            .title
            .as_ref()
            .is_some_and(|title| title.trim().is_empty())
        {
            self.note(&node.get("title"), "this title says nothing", None);
        }
        if table.snapshot.is_some() && table.probe.is_none() {
            self.note(
                &node.get("as"),
                "`as` names the snapshots of a `probe`, and this step has none",
                None,
            );
        }
        self.one(node, &of, table, line)
    }

    fn one(
        &mut self,
        node: &Node<'_>,
        of: &Node<'_>,
        table: StepTable,
        line: usize,
    ) -> Option<Action> {
        if let Some(set) = table.set {
            self.host_file(&of.get("file"), &set.file);
            self.shell_name(&of.get("key"), &set.key);
            self.text(&of.get("value"), &set.value);
            return Some(Action::Set {
                file: set.file,
                key: set.key,
                value: set.value,
            });
        }
        if let Some(append) = table.append {
            self.host_file(&of.get("file"), &append.file);
            let lines = of.get("lines");
            if append.lines.is_empty() {
                self.note(&lines, "no lines to append", None);
            }
            for (index, line) in append.lines.iter().enumerate() {
                self.line(&lines.item(index), line);
            }
            return Some(Action::Append {
                file: append.file,
                lines: append.lines,
            });
        }
        if let Some(write) = table.write {
            self.host_file(&of.get("file"), &write.file);
            self.text(&of.get("content"), &write.content);
            return Some(Action::Write {
                file: write.file,
                content: write.content,
            });
        }
        if let Some(run) = table.run {
            return Some(Action::Run(self.run(of, run)));
        }
        if let Some(reboot) = table.reboot {
            self.yes(of, "reboot", reboot);
            self.nas_runs = false;
            return Some(Action::Reboot);
        }
        if let Some(config) = table.config {
            let place = of.get("line");
            self.line(&place, &config.line);
            if vm_key(&config.line).is_none() {
                let help = "write it as in the file: \"hostpci0: 0000:01:00.0,pcie=1\"".to_owned();
                self.note(
                    &place,
                    "this is not a `key: value` line of a VM's configuration",
                    Some(help),
                );
            }
            return Some(Action::VmConfig {
                vm: config.vm,
                line: config.line,
            });
        }
        if let Some(vm) = table.start {
            self.nas_runs = true;
            return Some(Action::Start(vm));
        }
        if let Some(vm) = table.stop {
            self.nas_runs = false;
            return Some(Action::Stop(vm));
        }
        if let Some(serials) = table.swap_serials {
            return self.swap(of, serials);
        }
        if let Some(name) = table.rewire {
            return self.rewire(of, name);
        }
        if let Some(fault) = self.fault(of, &table) {
            return Some(fault);
        }
        if let Some(probes) = table.probe {
            return self.probe(node, of, probes, table.snapshot, line);
        }
        let expect = table.expect?;
        if expect.checks().is_empty() {
            self.note(of, "this expects nothing", None);
        }
        self.expect(of, &expect);
        Some(Action::Expect(Box::new(expect)))
    }

    fn run(&mut self, of: &Node<'_>, run: RunValue) -> Run {
        let (place, table) = match run {
            RunValue::Line(command) => (
                of.clone(),
                RunTable {
                    command,
                    on: GuestName::Pve,
                    exit: 0,
                    save: None,
                    same_as: None,
                },
            ),
            RunValue::Table(table) => (of.get("command"), table),
        };
        if table.command.trim().is_empty() {
            self.note(&place, "there is no command to run", None);
        }
        self.text(&place, &table.command);
        if table.on == GuestName::Nas {
            self.needs_nas(&of.get("on"), "this runs in the NAS guest");
        }
        if let Some(name) = &table.same_as {
            self.was_saved(&of.get("same-as"), name);
        }
        if let Some(name) = &table.save {
            self.saves(&of.get("save"), name);
        }
        Run {
            command: table.command,
            on: table.on,
            exit: table.exit,
            save: table.save,
            same_as: table.same_as,
        }
    }

    fn was_saved(&self, place: &Node<'_>, name: &str) {
        if !self.saved.contains(name) {
            let help = advice(name, self.saved.iter().map(String::as_str));
            let message = format!("no earlier step keeps an output as `{name}`");
            let help = help.or_else(|| Some(format!("give an earlier step save = \"{name}\"")));
            self.note(place, message, help);
        }
    }

    fn saves(&mut self, place: &Node<'_>, name: &str) {
        self.kebab(place, name);
        if !self.saved.insert(name.to_owned()) {
            let message = format!("an earlier step keeps an output as `{name}` already");
            self.note(place, message, None);
        }
    }

    fn swap(&mut self, of: &Node<'_>, serials: Vec<String>) -> Option<Action> {
        self.nas_runs = false;
        self.serials(of, &serials);
        match <[String; 2]>::try_from(serials) {
            Ok(pair) if pair[0] != pair[1] => Some(Action::SwapSerials(pair)),
            _ => {
                self.note(of, "`swap-serials` takes two different serials", None);
                None
            }
        }
    }

    fn rewire(&mut self, of: &Node<'_>, name: String) -> Option<Action> {
        self.nas_runs = false;
        let Some(lab) = self.lab_called(of, &name) else {
            // What comes after cannot be held against a lab that is not known.
            self.lab = None;
            return None;
        };
        if self.lab == Some(lab) {
            self.note(of, "this is the lab that the machine has already", None);
        }
        if let Some(before) = self.lab
            && before.host != lab.host
        {
            let message = format!(
                "this lab's host is {}, and the root disk stays, which has {}",
                lab.host, before.host
            );
            self.note(of, message, None);
        }
        self.lab = Some(lab);
        let lab = lab.clone();
        Some(Action::Rewire(Box::new(Rewire { name, lab })))
    }

    fn lab_called(&self, place: &Node<'_>, name: &str) -> Option<&'a Lab> {
        let lab = self.labs.get(name);
        if lab.is_none() && !self.labs.are_unknown() {
            let message = format!("there is no lab `{name}`");
            self.note(place, message, advice(name, self.labs.names()));
        }
        lab
    }

    fn probe(
        &mut self,
        node: &Node<'_>,
        of: &Node<'_>,
        probes: Vec<Probe>,
        name: Option<String>,
        line: usize,
    ) -> Option<Action> {
        if probes.is_empty() {
            self.note(of, "no facts to read", None);
        }
        let mut seen = BTreeSet::new();
        for (index, probe) in probes.iter().enumerate() {
            if !seen.insert(*probe) {
                self.note(
                    &of.item(index),
                    format!("`{probe}` is in this list already"),
                    None,
                );
            }
            if probe.guest() == GuestName::Nas {
                self.needs_nas(
                    &of.item(index),
                    &format!("`{probe}` is read in the NAS guest"),
                );
            }
        }
        let Some(name) = name else {
            let help = "add as = \"after-reboot\", or whatever says which moment it is".to_owned();
            let problem = self
                .document
                .problem(of.key.clone(), "this probe's snapshots need a name");
            self.document.note(problem.help(help));
            return None;
        };
        self.kebab(&node.get("as"), &name);
        if let Some(other) = self.snapshots.insert(name.clone(), line) {
            let message = format!("the step on line {other} names its snapshots `{name}` already");
            self.note(&node.get("as"), message, None);
        }
        Some(Action::Probe { name, probes })
    }

    fn note(&self, place: &Node<'_>, message: impl Into<String>, help: Option<String>) {
        let problem = self.document.problem(place.span.clone(), message);
        self.document.note(problem.maybe_help(help));
    }
}
