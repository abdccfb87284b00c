//! What is known of the whole matrix.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::family::Cell;
use super::ingredient::{Dropped, Environment};
use super::outcome::Outcome;
use super::record::Record;
use super::select::{Outcomes, wanted};
use crate::lab::Lab;

/// A run that was measured, as far as the table needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// What it showed.
    pub outcome: Outcome,
    /// When it was over.
    pub taken: Timestamp,
    /// The host's kernel, where it came so far that somebody read it.
    pub kernel: Option<String>,
}

/// What was measured on all machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    measured: BTreeMap<Environment, BTreeMap<Dropped, Measured>>,
}

impl Measured {
    /// What a record says of a run in this lab.
    pub fn of(record: &Record, lab: &Lab) -> Self {
        let modules = |facts: &crate::finding::FactSet| facts.modules.clone();
        let modules = record.before.as_ref().and_then(modules);
        Measured {
            outcome: Outcome::of(record, lab),
            taken: record.taken,
            kernel: modules.map(|modules| modules.kernel),
        }
    }
}

impl Results {
    /// Takes in what was measured.
    pub fn insert(&mut self, cell: Cell, measured: Measured) {
        let machine = self.measured.entry(cell.environment).or_default();
        machine.insert(cell.dropped, measured);
    }

    /// Whether a run has been measured.
    pub fn has(&self, cell: &Cell) -> bool {
        let machine = self.measured.get(&cell.environment);
        machine.is_some_and(|machine| machine.contains_key(&cell.dropped))
    }

    /// All that was measured.
    pub fn all(&self) -> impl Iterator<Item = &Measured> {
        self.measured.values().flat_map(BTreeMap::values)
    }

    /// The outcomes on one machine.
    pub fn outcomes(&self, environment: Environment) -> Outcomes {
        let machine = self.measured.get(&environment).into_iter().flatten();
        machine
            .map(|(dropped, measured)| (dropped.clone(), measured.outcome.clone()))
            .collect()
    }

    /// The kernels that one machine was seen to run.
    pub fn kernels(&self, environment: Environment) -> BTreeSet<&str> {
        let machine = self.measured.get(&environment).into_iter();
        let machine = machine.flat_map(BTreeMap::values);
        machine.filter_map(|one| one.kernel.as_deref()).collect()
    }

    /// The runs that the matrix is made of, from what is known so far: those whose names contain `only`, if
    /// that is asked for, and of each machine that has some the write-up itself, which they are held
    /// against.
    pub fn wanted(&self, only: Option<&str>) -> Vec<Cell> {
        let mut cells = Vec::new();
        for environment in Environment::all() {
            let all = wanted(&self.outcomes(environment)).into_iter();
            let all = all.map(|dropped| Cell {
                environment,
                dropped,
            });
            let hit = |cell: &Cell| only.is_none_or(|part| cell.name().contains(part));
            let chosen: Vec<Cell> = all
                .filter(|cell| cell.dropped.is_empty() || hit(cell))
                .collect();
            if chosen.iter().any(hit) {
                cells.extend(chosen);
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_filter_takes_the_write_up_along_on_each_machine_that_it_meets() {
        let names = |only: Option<&str>| -> Vec<String> {
            let cells = Results::default().wanted(only);
            cells.iter().map(Cell::name).collect()
        };
        assert_eq!(names(None).len(), 4 * 15);
        assert_eq!(
            names(Some("pve8-without-iommu-pt")),
            ["pve8", "pve8-without-iommu-pt"]
        );
        let pcie = names(Some("without-pcie"));
        assert_eq!(pcie.len(), 8);
        assert_eq!(names(Some("no-vtd")).len(), 2 * 15);
        assert!(names(Some("no-such")).is_empty());
    }

    #[test]
    fn what_is_measured_is_known_with_its_kernel() {
        let mut results = Results::default();
        let cell = Cell {
            environment: Environment::Pve9,
            dropped: Dropped::new(),
        };
        assert!(!results.has(&cell));
        let measured = Measured::of(&testing::record(), &testing::lab());
        results.insert(cell.clone(), measured);
        assert!(results.has(&cell));
        let kernels = results.kernels(Environment::Pve9);
        assert_eq!(Vec::from_iter(kernels), ["6.12.1-amd64"]);
        assert!(results.kernels(Environment::Pve8).is_empty());
        assert_eq!(results.all().count(), 1);
    }
}
