//! Which scenario runs when: side by side where machines fit, and none that would do again what another
//! is just doing.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

use super::ground::{SessionError, lock, memory_of, unmet};
use super::session::Session;
use crate::event::Verdict;
use crate::host;
use crate::plan::{Plan, first_lab};
use crate::scenario::Scenario;

/// How far each scenario under way has come: the moves that it has behind it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    depths: Mutex<HashMap<String, usize>>,
    changed: Notify,
}

impl Progress {
    /// A scenario has so many moves behind it, and a checkpoint of where it is has been taken if there
    /// will be one.
    pub(super) fn note(&self, scenario: &str, depth: usize) {
        lock(&self.depths).insert(scenario.to_owned(), depth);
        self.changed.notify_waiters();
    }

    fn depth(&self, scenario: &str) -> usize {
        lock(&self.depths).get(scenario).copied().unwrap_or(0)
    }
}

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    memory: u64,
    cpus: usize,
}

impl Room {
    /// What a scenario's machine takes. A machine that boots keeps little more than half of its processors
    /// busy: on two cores under TCG, two machines of two processors each side by side took 0.93 of the time
    /// that they took one after the other.
    fn of(scenario: &Scenario) -> Self {
        Room {
            memory: memory_of(&scenario.lab),
            cpus: usize::from(scenario.lab.cpus).div_ceil(2),
        }
    }

    fn holds(&self, other: &Room) -> bool {
        self.memory >= other.memory && self.cpus >= other.cpus
    }

    fn less(&self, other: &Room) -> Room {
        Room {
            memory: self.memory.saturating_sub(other.memory),
            cpus: self.cpus.saturating_sub(other.cpus),
        }
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = usize> + 'a>>;

impl Session {
    /// Runs scenarios, those with the most in common one after the other and independent ones side by
    /// side as long as their machines fit into memory and processors. At most `jobs` at a time; without
    /// it the machine decides. Ends early when somebody asks for it. Gives each verdict by its scenario's
    /// name; what was not begun has none.
    ///
    /// # Errors
    /// When it is stopped before the first begins. An image that only some of them need and that cannot be had is in
    /// the verdicts of those.
    pub async fn run_all(
        &self,
        scenarios: &[&Scenario],
        jobs: Option<usize>,
    ) -> Result<HashMap<String, Verdict>, SessionError> {
        let verdicts: Mutex<HashMap<String, Verdict>> = Mutex::default();
        let run = async |scenario: &Scenario| {
            let verdict = self.run(scenario).await;
            lock(&verdicts).insert(scenario.name.clone(), verdict);
        };
        self.each(scenarios, jobs, run).await?;
        Ok(verdicts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// The same with something else to do with each of them than to judge it.
    pub(super) async fn each(
        &self,
        scenarios: &[&Scenario],
        jobs: Option<usize>,
        work: impl AsyncFn(&Scenario),
    ) -> Result<(), SessionError> {
        let work = &work;
        let mut able = Vec::new();
        self.ground.fetch_hosts(scenarios).await;
        for scenario in scenarios {
            match self.ground.fetch_host(first_lab(scenario)).await {
                Ok(()) => able.push(*scenario),
                Err(SessionError::Interrupted) => return Err(SessionError::Interrupted),
                // Its verdict says why; the others do without that image.
                Err(_) => work(scenario).await,
            }
        }
        let scenarios = &able[..];
        let plan = self.plan(scenarios.iter().copied()).await?;
        let mut waiting = plan.in_order();
        let mut running: Vec<usize> = Vec::new();
        let mut futures: FuturesUnordered<Running<'_>> = FuturesUnordered::new();
        // A machine that cannot be asked is taken to have room for one.
        let memory = host::memory().map_or(0, |memory| memory.available);
        let cpus = match jobs {
            Some(_) => usize::MAX,
            None => host::cpus(),
        };
        let all = Room { memory, cpus };
        while !self.stopped() && (!waiting.is_empty() || !futures.is_empty()) {
            let changed = self.progress().changed.notified();
            let mut room = all;
            for one in &running {
                room = room.less(&Room::of(scenarios[*one]));
            }
            let below_limit = jobs.is_none_or(|jobs| running.len() < jobs.max(1));
            let next = waiting.iter().position(|one| {
                let fits = room.holds(&Room::of(scenarios[*one]));
                let beside = below_limit && fits && self.is_free(&plan, *one, &running);
                // What else there is on this machine may need more by now; then it waits, and is not skipped.
                running.is_empty()
                    || (beside && unmet(&scenarios[*one].lab, self.folder()).is_none())
            });
            if let Some(next) = next {
                let one = waiting.remove(next);
                running.push(one);
                futures.push(Box::pin(async move {
                    work(scenarios[one]).await;
                    one
                }));
                continue;
            }
            tokio::select! {
                Some(done) = futures.next() => running.retain(|one| *one != done),
                () = changed => {}
            }
        }
        // Those under way end by themselves when the run is stopped, and tidy up.
        while futures.next().await.is_some() {}
        Ok(())
    }

    /// Whether a scenario shares nothing more with those under way: they have passed the last state that
    /// both lead through, so that its checkpoint is there.
    fn is_free(&self, plan: &Arc<Plan>, one: usize, running: &[usize]) -> bool {
        running.iter().all(|other| {
            let (one, other) = (&plan.routes()[one], &plan.routes()[*other]);
            let shared = plan.shared(one, other);
            let depth = shared.map_or(0, |node| plan.nodes()[node].depth);
            self.progress().depth(&other.scenario) >= depth
        })
    }
}
