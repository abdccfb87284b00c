//! Whether a checkpoint of a state pays.

use super::ask::probe_digest;
use super::failure::StepError;
use super::run::Runner;
use crate::finding::HOST_PROBES;
use crate::plan::{NodeId, Wish};

/// Seconds of work after which a checkpoint pays, by how much it is wished for. Taking one and going on
/// from it costs some three seconds in all.
const fn pays_after(wish: Wish) -> f64 {
    match wish {
        Wish::Branch => 1.0,
        Wish::ForTheNextRun => 3.0,
        Wish::IfDear => 25.0,
    }
}

/// The same of a machine that is off, whatever it is wished for: without RAM, taking one and going on from it are moments.
/// It is all that is kept of a way whose later machine cannot be saved while it runs.
const OFF_PAYS_AFTER: f64 = 5.0;

impl Runner<'_> {
    /// Takes a checkpoint of the state that was just reached, if that pays.
    pub(super) async fn checkpoint(&mut self, node: NodeId) -> Result<(), StepError> {
        let wish = self.plan.wish(node);
        let saves = self.spent - self.frozen_at + self.questions_at_the_end(node);
        let enough = match self.machine {
            Some(_) => pays_after(wish),
            None => pays_after(wish).min(OFF_PAYS_AFTER),
        };
        let pays = self.keeps(wish) && saves >= enough;
        if pays && !self.better_comes_soon(node, wish) {
            self.checkpoint_now(node).await?;
        }
        Ok(())
    }

    /// How long it takes to ask the host for what findings are derived from, in seconds, if that is done here at the
    /// scenario's end: a machine that goes on from a checkpoint of this state need not be asked.
    fn questions_at_the_end(&self, node: NodeId) -> f64 {
        let last = self.route().legs.last();
        let here = last.is_some_and(|leg| leg.looks && leg.at == node);
        if !here || !self.wants_findings() {
            return 0.0;
        }
        let timings = self.session.ground.timings();
        let known = HOST_PROBES
            .iter()
            .filter_map(|one| timings.last(&probe_digest(*one)));
        known.sum()
    }

    /// Whether a state that is wished for more comes so soon that it would have no checkpoint if this one had: the last
    /// time, what leads there took less than what pays.
    fn better_comes_soon(&self, node: NodeId, wish: Wish) -> bool {
        let mut seconds = 0.0;
        for leg in self.legs_after(node) {
            let Some(last) = self.session.ground.timings().last(&self.digest(leg)) else {
                return false;
            };
            seconds += last;
            let better = leg.nodes.iter().map(|node| self.plan.wish(*node)).max();
            if let Some(better) = better.filter(|better| *better > wish) {
                return seconds < pays_after(better);
            }
        }
        false
    }
}
