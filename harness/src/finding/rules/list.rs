//! The list of rules, and all findings of a fact book.

use super::{blacklist, boot, drivers, group, health, initramfs, iommu, storage, vm};
use crate::finding::book::FactBook;
use crate::finding::model::{Finding, Rule};
use crate::finding::view::View;
use crate::scenario::nearest::nearest;

const ALL: [&[Rule]; 9] = [
    iommu::RULES,
    boot::RULES,
    initramfs::RULES,
    blacklist::RULES,
    drivers::RULES,
    group::RULES,
    vm::RULES,
    storage::RULES,
    health::RULES,
];

/// Every rule, in the order in which a host comes up.
pub fn rules() -> impl Iterator<Item = &'static Rule> + Clone {
    ALL.into_iter().flatten()
}

/// The rule of this name.
pub fn rule(id: &str) -> Option<&'static Rule> {
    rules().find(|rule| rule.id == id)
}

/// Advice for a name that no rule has.
pub fn advice(id: &str) -> Option<String> {
    nearest(id, rules().map(|rule| rule.id)).map(|near| format!("did you mean `{near}`?"))
}

/// Everything that the facts prove: the worst first, within one severity in the order in which a host
/// comes up.
pub fn derive(book: &FactBook) -> Vec<Finding> {
    let view = View::new(book);
    let mut findings: Vec<Finding> = rules().filter_map(|rule| rule.apply(&view)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}
