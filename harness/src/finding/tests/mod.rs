//! Every rule fires on facts that prove it and on nothing like them.

mod drivers;
mod guest;
mod health;
mod healthy;
mod host;
mod mask;
mod storage;
mod vm;

use std::collections::{BTreeMap, BTreeSet};

use super::{FactBook, Finding, RunContext, Severity, derive, rule, rules};
use crate::lab::PciAddress;
use crate::probe::Probe;
use crate::probe::initramfs::ModprobeRule;
use crate::probe::pci::PciDevice;
use crate::scenario::DriverState;
use healthy::healthy;

/// What every rule is tried on: what has to be proven, and books that prove it or nearly do.
struct Case {
    id: &'static str,
    book: FactBook,
    severity: Severity,
    /// Errors and warnings that are proven besides.
    besides: &'static [&'static str],
}

fn changed(change: impl FnOnce(&mut FactBook)) -> FactBook {
    let mut book = healthy();
    change(&mut book);
    book
}

fn error(id: &'static str, change: impl FnOnce(&mut FactBook)) -> Case {
    Case {
        id,
        book: changed(change),
        severity: Severity::Error,
        besides: &[],
    }
}

fn warning(id: &'static str, change: impl FnOnce(&mut FactBook)) -> Case {
    Case {
        severity: Severity::Warning,
        ..error(id, change)
    }
}

fn note(id: &'static str, change: impl FnOnce(&mut FactBook)) -> Case {
    Case {
        severity: Severity::Note,
        ..error(id, change)
    }
}

/// All cases in which a rule fires.
fn cases() -> Vec<Case> {
    [
        host::cases(),
        drivers::cases(),
        guest::cases(),
        health::cases(),
        vm::cases(),
        storage::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The finding of a rule.
#[track_caller]
fn finding(book: &FactBook, id: &str) -> Finding {
    let mut findings = derive(book).into_iter();
    findings.find(|one| one.id == id).unwrap()
}

/// Errors and warnings.
fn bad(book: &FactBook) -> BTreeSet<&'static str> {
    let findings = derive(book).into_iter();
    findings
        .filter(|one| one.severity > Severity::Note)
        .map(|one| one.id)
        .collect()
}

#[track_caller]
fn silent(id: &str, change: impl FnOnce(&mut FactBook)) {
    assert!(rule(id).is_some(), "{id}");
    let found = derive(&changed(change))
        .into_iter()
        .find(|one| one.id == id);
    assert_eq!(found, None);
}

/// The commands that put a finding right.
#[track_caller]
fn fix(id: &str, change: impl FnOnce(&mut FactBook)) -> Vec<String> {
    let found = derive(&changed(change))
        .into_iter()
        .find(|one| one.id == id);
    found.unwrap().fix
}

#[test]
fn a_healthy_host_has_notes_only() {
    let findings = derive(&healthy());
    let ids: Vec<_> = findings.iter().map(|one| (one.severity, one.id)).collect();
    assert_eq!(
        ids,
        [
            (Severity::Note, "vfio-virqfd-gone"),
            (Severity::Note, "group-shared"),
            (Severity::Note, "no-reset-method"),
            (Severity::Note, "hostpci-not-migratable"),
            (Severity::Note, "passthrough-not-in-backups"),
        ]
    );
}

#[test]
fn nothing_read_is_nothing_found() {
    assert_eq!(derive(&FactBook::default()), []);
    let book = FactBook {
        run: Some(RunContext::default()),
        ..FactBook::default()
    };
    assert_eq!(derive(&book), []);
}

#[test]
fn every_rule_fires_on_what_proves_it_and_nothing_else_fires_with_it() {
    for Case {
        id,
        book,
        severity,
        besides,
    } in cases()
    {
        let findings = derive(&book);
        let finding: &Finding = findings
            .iter()
            .find(|one| one.id == id)
            .unwrap_or_else(|| panic!("{id} is not among {:?}", bad(&book)));
        assert_eq!(finding.severity, severity, "{id}");
        assert!(!finding.proof.is_empty() && !finding.fix.is_empty(), "{id}");
        assert!(
            finding.proof.iter().all(|one| !one.quote.trim().is_empty()),
            "{id}"
        );
        let mut expected: BTreeSet<_> = besides.iter().copied().collect();
        expected.extend(Some(id).filter(|_| severity > Severity::Note));
        assert_eq!(bad(&book), expected, "{id}");
    }
}

#[test]
fn every_rule_has_a_case() {
    let tried: BTreeSet<_> = cases().iter().map(|case| case.id).collect();
    let all: BTreeSet<_> = rules().map(|rule| rule.id).collect();
    assert_eq!(tried, all);
}

/// What could not be read proves nothing: without any of the facts there is less to be found, and never
/// more. The exceptions are milder names for the same thing.
#[test]
fn less_facts_are_less_findings() {
    let exceptions = [
        // Without what was there before, an address with nothing at it is only that.
        ("address-renumbered", "no-such-address"),
        // Without the host's disks, what the console shows is all there is.
        ("host-boots-from-controller", "root-not-found"),
    ];
    for Case { id, book, .. } in cases() {
        let all = bad(&book);
        let document = serde_json::to_value(&book).unwrap();
        for probe in book.facts.probes() {
            let mut less = document.clone();
            let facts = less["facts"].as_object_mut().unwrap();
            assert!(facts.remove(&probe.to_string()).is_some(), "{probe}");
            let less = serde_json::from_value(less).unwrap();
            for more in bad(&less).difference(&all) {
                assert!(
                    exceptions.contains(&(id, more)),
                    "{id} without {probe}: {more}"
                );
            }
        }
    }
}

#[test]
fn rules_are_named_explained_and_documented() {
    let mut seen = BTreeMap::new();
    for rule in rules() {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(rule.id.chars().all(plain), "{}", rule.id);
        assert_eq!(seen.insert(rule.id, ()), None, "{} twice", rule.id);
        assert!(
            !rule.summary.is_empty() && !rule.summary.ends_with('.'),
            "{}",
            rule.id
        );
        assert!(
            rule.explanation.ends_with('.') && !rule.explanation.contains("  "),
            "{}",
            rule.id
        );
        assert!(rule.reference.url.starts_with("https://"), "{}", rule.id);
    }
    assert!(seen.len() >= 25, "{}", seen.len());
}

#[test]
fn a_book_is_the_same_after_a_trip_through_json() {
    for Case { id, book, .. } in cases() {
        assert_eq!(FactBook::from_json(&book.to_json()).unwrap(), book, "{id}");
    }
    for (text, says) in [
        ("", "not a record"),
        ("{}", "not a record"),
        ("{\"format\": 2, \"facts\": {\"future\": 1}}", "format 2"),
        (
            "{\"format\": 1, \"facts\": {\"cmdlin\": 1}}",
            "not a record",
        ),
    ] {
        let error = FactBook::from_json(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let mut book = FactBook::default();
    book.unreadable
        .insert(Probe::Iommu, "no such folder".to_owned());
    assert_eq!(FactBook::from_json(&book.to_json()).unwrap(), book);
}

/// A recording may come from anybody: what is in it neither reaches the terminal nor becomes a command.
#[test]
fn facts_are_texts_and_nothing_more() {
    let hostile = "/srv'; rm -rf /\n\u{1b}[2Jreboot";
    let book = changed(|book| {
        let storage = book.facts.host_storage.as_mut().unwrap();
        storage.lost_mounts.push(format!("/dev/sda1 on {hostile}"));
    });
    let finding = &derive(&book)[0];
    assert_eq!(finding.id, "disk-in-use-on-host");
    let proof = finding.proof.iter().map(|one| &one.quote);
    for text in proof.chain(&finding.fix).chain([&finding.cause]) {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    assert_eq!(
        finding.fix,
        [r"umount -l '/srv'\''; rm -rf /; [2Jreboot'   # and take it out of /etc/fstab"]
    );
}

// ---- Changes that several cases make.

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn device<'b>(book: &'b mut FactBook, at: &str) -> &'b mut PciDevice {
    let devices = &mut book.facts.pci.as_mut().unwrap().devices;
    devices
        .iter_mut()
        .find(|one| one.address == address(at))
        .unwrap()
}

fn bind(book: &mut FactBook, at: &str, driver: &str) {
    device(book, at).driver = DriverState::from(driver.to_owned());
}

/// A second controller of the same kind, behind a root port.
fn add_twin(book: &mut FactBook, at: &str, driver: &str) {
    let mut twin = device(book, "00:1f.2").clone();
    twin.address = address(at);
    twin.driver = DriverState::from(driver.to_owned());
    twin.iommu_group = Some(7);
    book.facts.pci.as_mut().unwrap().devices.push(twin);
}

fn words(book: &mut FactBook, words: &str) {
    let words = words.split_whitespace().map(str::to_owned).collect();
    book.facts.cmdline.as_mut().unwrap().words = words;
}

fn no_iommu(book: &mut FactBook) {
    let iommu = book.facts.iommu.as_mut().unwrap();
    iommu.units.clear();
    iommu.groups.clear();
}

fn modprobe(file: &str, line: &str) -> ModprobeRule {
    let mut parts = line.splitn(3, ' ').map(str::to_owned);
    ModprobeRule {
        file: file.to_owned(),
        command: parts.next().unwrap(),
        module: parts.next().unwrap(),
        rest: parts.next().unwrap_or_default(),
    }
}

/// A rule on the disk, and in the initramfs too if it is in force.
fn rule_on_disk(book: &mut FactBook, line: &str, in_initramfs: bool) {
    let config = book.facts.host_config.as_mut().unwrap();
    config
        .rules
        .push(modprobe("/etc/modprobe.d/own.conf", line));
    config
        .written
        .insert("/etc/modprobe.d/own.conf".to_owned(), 1_751_000_000);
    if in_initramfs {
        let rules = &mut book.facts.initramfs.as_mut().unwrap().rules;
        rules.push(modprobe("etc/modprobe.d/own.conf", line));
    }
}

fn unload(book: &mut FactBook, module: &str) {
    book.facts.modules.as_mut().unwrap().loaded.remove(module);
}

/// VM 100's file, line for line.
fn vm(book: &mut FactBook, lines: &str) {
    let mut text = "vm\t100\trunning\n".to_owned();
    for line in lines.lines() {
        text.push_str(&format!("line\t{line}\n"));
    }
    text.push_str("end\n");
    book.facts.vm_configs = Some(crate::probe::vm_configs::parse(&text).unwrap());
}

fn run(book: &mut FactBook) -> &mut RunContext {
    book.run.get_or_insert_default()
}

fn start_said(book: &mut FactBook, words: &str) {
    run(book).start_words = Some(words.to_owned());
}
