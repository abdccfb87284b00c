//! Looking at what a scenario shows where nothing is expected of it: the facts that its steps read, what
//! `qm` said, and all facts of its end, whether it worked or failed. What that proves is somebody else's to
//! say.

use std::collections::BTreeMap;

use super::ground::SessionError;
use super::run::Runner;
use super::session::Session;
use crate::event::Verdict;
use crate::finding::{FactBook, FactSet};
use crate::plan::{Move, NodeId, Wish};
use crate::probe::Facts;
use crate::scenario::{Action, Scenario};

/// The file of evidence that findings are derived from.
const BOOK: &str = "fact-book.json";

/// What a scenario showed on its way, and at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The facts that its steps have read, by the steps' names.
    pub steps: BTreeMap<String, FactSet>,
    /// What `qm start` complained of when it did its work.
    pub start_words: String,
    /// All facts of the end.
    pub book: FactBook,
}

impl Observed {
    pub(super) fn note(&mut self, name: &str, facts: &Facts) {
        let step = self.steps.entry(name.to_owned()).or_default();
        step.insert(facts.clone());
    }
}

/// How a scenario ended of which nothing was expected, and what it showed.
#[derive(Debug)]
pub struct Observation {
    /// How it ended: [`Verdict::Measured`] where that says something about the procedure.
    pub verdict: Verdict,
    /// What it showed.
    pub observed: Observed,
}

impl Session {
    /// Runs scenarios as [`Session::run_all`] does, judges none of them, and hands over what each showed
    /// as soon as it is over. Their facts are held against no snapshots, and a VM's start is always seen: no
    /// checkpoint that was taken after it is begun from.
    ///
    /// # Errors
    /// When an image that only some of them need cannot be had.
    pub async fn observe_all(
        &self,
        scenarios: &[&Scenario],
        jobs: Option<usize>,
        take: impl Fn(&Scenario, Observation),
    ) -> Result<(), SessionError> {
        let observe = async |scenario: &Scenario| {
            let mut observed = Some(Observed::default());
            let verdict = self.drive(scenario, &mut observed).await;
            let observed = observed.unwrap_or_default();
            take(scenario, Observation { verdict, observed });
        };
        self.each(scenarios, jobs, observe).await
    }
}

impl Runner<'_> {
    /// How many of these states, the first ones of the way, a checkpoint may hold. What `qm` says while it
    /// starts a VM is in none.
    pub(super) fn may_begin_within(&self, nodes: &[NodeId]) -> usize {
        let starts = |node: &NodeId| {
            let arrival = &self.plan.nodes()[*node].arrival;
            matches!(arrival, Move::Act(action) if matches!(**action, Action::Start(_)))
        };
        let start = nodes.iter().position(starts);
        start
            .filter(|_| self.observed.is_some())
            .unwrap_or(nodes.len())
    }

    /// Whether a checkpoint is wanted that is wished for so much. What is observed is not done again, so
    /// that only those pay from which others go on.
    pub(super) fn keeps(&self, wish: Wish) -> bool {
        self.observed.is_none() || wish == Wish::Branch
    }

    /// Whether facts of the end may be those that are on record. What is observed is read from the guests.
    pub(super) fn goes_by_records(&self) -> bool {
        self.observed.is_none()
    }

    /// The book is evidence: a run's verdict does not hang on its being written.
    pub(super) fn keep_book(&mut self, book: &FactBook) {
        if let Some(observed) = &mut self.observed {
            observed.book = book.clone();
        }
        let _ = self.keep(BOOK, &book.to_json());
    }
}
