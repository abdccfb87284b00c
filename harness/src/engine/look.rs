//! Probes and expectations: what a scenario sees of its lab, read there or taken from the record of
//! what was answered when the state was reached.

use std::future::Future;
use std::time::Duration;

use super::failure::{Failure, StepError, chain};
use super::redact::Redactor;
use super::run::Runner;
use super::{checks, snapshot};
use crate::checkpoint::{Recorder, Recording, Replay};
use crate::event::EventKind;
use crate::guest::{GuestError, Nested};
use crate::plan::{Key, RouteLeg};
use crate::probe::{self, Probe, ProbeError, Reading};
use crate::scenario::{Action, Expect, FailureKind, GuestName};

/// Where facts come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The guests, which are in this state now.
    Live(&'a Key),
    /// What they answered then.
    Recorded(&'a Recording),
}

impl Runner<'_> {
    /// Looks at the state that a step ends in.
    pub(super) async fn look(
        &mut self,
        leg: &RouteLeg,
        source: Source<'_>,
    ) -> Result<(), StepError> {
        match self.action(leg.step) {
            Some(Action::Probe { name, probes }) => {
                self.probe(leg.step, name, probes, source).await
            }
            Some(Action::Expect(expect)) => self.expect(expect, source).await,
            _ => {
                let scenario = self.scenario;
                self.expect(&scenario.expect, source).await?;
                // The last state is always reached, by a checkpoint if not by steps.
                if let Source::Live(key) = source {
                    self.check_findings(key).await?;
                }
                Ok(())
            }
        }
    }

    /// Whether all that a step looks at was recorded.
    pub(super) async fn is_recorded(&self, leg: &RouteLeg, recording: &Recording) -> bool {
        let (probes, with_loop) = match self.action(leg.step) {
            Some(Action::Probe { probes, .. }) => (probes.iter().copied().collect(), false),
            Some(Action::Expect(expect)) => (checks::needs(expect), checks::needs_loop(expect)),
            _ => {
                let expect = &self.scenario.expect;
                (checks::needs(expect), checks::needs_loop(expect))
            }
        };
        let limit = self.session.ground.deadlines().command;
        let [pve, nas] = replays(recording);
        for one in probes {
            let read = probe::read(one, &pve, Some(&nas), limit).await;
            if matches!(read, Err(ProbeError::Guest { .. })) {
                return false;
            }
        }
        !with_loop
            || !matches!(
                probe::listing::run_write_up_loop(&pve, limit).await,
                Err(ProbeError::Guest { .. })
            )
    }

    async fn probe(
        &mut self,
        number: usize,
        name: &str,
        probes: &[Probe],
        source: Source<'_>,
    ) -> Result<(), StepError> {
        let folder = self.session.ground.snapshots();
        for probe in probes {
            self.read(number, name, *probe, source).await?;
            let facts = &self.facts[probe];
            if let Some(observed) = &mut self.observed {
                observed.note(name, facts);
                continue;
            }
            let text = Redactor::new(&self.judged)
                .snapshot_text(facts)
                .map_err(|error| {
                    Failure::new(
                        FailureKind::Snapshot,
                        format!(
                            "the facts of `{probe}` cannot be held against a snapshot: {}",
                            chain(&error)
                        ),
                    )
                })?;
            self.keep(
                &format!("{}.snapshot.json", fact_file(number, name, *probe)),
                &text,
            )?;
            let snapshot = format!("{}__{name}__{probe}", self.scenario.name);
            let about = format!("{}: {probe}, {name}", self.scenario.name);
            snapshot::compare(&folder, &snapshot, &about, &text)
                .map_err(|message| Failure::new(FailureKind::Snapshot, message))?;
        }
        Ok(())
    }

    /// Reads facts, unless nothing has changed since they were read.
    async fn read(
        &mut self,
        number: usize,
        name: &str,
        probe: Probe,
        source: Source<'_>,
    ) -> Result<(), StepError> {
        if self.facts.contains_key(&probe) {
            return Ok(());
        }
        let limit = self.session.ground.deadlines().command;
        let file = fact_file(number, name, probe);
        let what = format!("the probe `{probe}`");
        let reading: Reading = match source {
            Source::Recorded(recording) => {
                let [pve, nas] = replays(recording);
                let answer = probe::read(probe, &pve, Some(&nas), limit).await;
                self.sense(&what, &file, answer)?
            }
            Source::Live(key) => {
                let machine = self.running()?;
                let pve = Recorder::new(machine.agent());
                let nas = match probe.guest() {
                    GuestName::Nas => Some(Recorder::new(self.nas()?)),
                    GuestName::Pve => None,
                };
                let read = probe::read(probe, &pve, nas.as_ref(), limit);
                let answer = self.answered(&what, limit, read).await?;
                self.record(key, pve, nas);
                self.sense(&what, &file, answer)?
            }
        };
        self.keep(&format!("{file}.raw.txt"), &reading.raw)?;
        let json = serde_json::to_string_pretty(&reading.facts)
            .map_err(|error| StepError::SetUp(chain(&error)))?;
        self.keep(&format!("{file}.json"), &json)?;
        self.memory.note(&reading.facts);
        self.facts.insert(probe, reading.facts);
        Ok(())
    }

    fn record(
        &self,
        key: &Key,
        pve: Recorder<'_, crate::guest::Agent>,
        nas: Option<Recorder<'_, Nested>>,
    ) {
        if let Some(records) = self.session.ground.records() {
            let mut recording = pve.finish();
            if let Some(nas) = nas {
                recording.merge(nas.finish());
            }
            records.add(key, recording);
        }
    }

    async fn expect(&mut self, expect: &Expect, source: Source<'_>) -> Result<(), StepError> {
        let number = self.scenario.steps.len() + 1;
        for probe in checks::needs(expect) {
            self.read(number, "expect", probe, source).await?;
        }
        let loop_output = if checks::needs_loop(expect) {
            Some(self.write_up_loop(source).await?)
        } else {
            None
        };
        for held in checks::judge(expect, &self.judged, &self.facts, loop_output.as_deref())? {
            self.session.events().emit(EventKind::CheckHeld {
                scenario: self.scenario.name.clone(),
                check: held.check.to_owned(),
                seen: held.seen,
            });
        }
        Ok(())
    }

    async fn write_up_loop(&self, source: Source<'_>) -> Result<String, StepError> {
        let what = "the write-up's loop over the IOMMU groups";
        let limit = self.session.ground.deadlines().command;
        let answer = match source {
            Source::Recorded(recording) => {
                let [pve, _] = replays(recording);
                probe::listing::run_write_up_loop(&pve, limit).await
            }
            Source::Live(key) => {
                let pve = Recorder::new(self.running()?.agent());
                let run = probe::listing::run_write_up_loop(&pve, limit);
                let answer = self.answered(what, limit, run).await?;
                self.record(key, pve, None);
                answer
            }
        };
        self.sense(what, "loop", answer)
    }

    /// Waits for a probe of a guest. A guest that does not answer is a failure apart from one whose
    /// answer makes no sense.
    async fn answered<T>(
        &self,
        what: &str,
        limit: Duration,
        probe: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<Result<T, ProbeError>, StepError> {
        let answer = self
            .running()?
            .watched(what, limit, async {
                match probe.await {
                    Err(ProbeError::Guest { source, .. }) => Err::<_, GuestError>(source),
                    other => Ok(other),
                }
            })
            .await?;
        Ok(answer)
    }

    /// What a probe understood; an answer that makes no sense is kept.
    fn sense<T>(
        &self,
        what: &str,
        file: &str,
        answer: Result<T, ProbeError>,
    ) -> Result<T, StepError> {
        answer.or_else(|error| {
            if let ProbeError::Parse { raw, .. } = &error {
                self.keep(&format!("{file}.raw.txt"), raw)?;
            }
            let message = format!("the answer to {what} makes no sense: {}", chain(&error));
            Err(Failure::new(FailureKind::Command, message).into())
        })
    }
}

fn replays(recording: &Recording) -> [Replay<'_>; 2] {
    ["pve", "nas"].map(|name| Replay::new(name, recording))
}

fn fact_file(number: usize, name: &str, probe: Probe) -> String {
    format!("facts/{number:02}-{name}-{probe}")
}
