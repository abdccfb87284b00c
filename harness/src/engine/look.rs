//! Probes and expectations: what a scenario sees of its lab, read there or taken from the record of
//! what was answered when the state was reached.

use std::future::Future;
use std::time::Duration;

use super::ask::{Answer, Answers};
use super::failure::{Failure, StepError, chain};
use super::redact::Redactor;
use super::run::Runner;
use super::snapshot::Unlike;
use super::{checks, snapshot};
use crate::checkpoint::{Recorder, Recording, Replay};
use crate::event::EventKind;
use crate::finding::HOST_PROBES;
use crate::guest::GuestError;
use crate::machine::MachineError;
use crate::plan::{Key, RouteLeg};
use crate::probe::{self, Probe, ProbeError};
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
            Some(Action::Expect(expect)) => self.expect(expect, source, Vec::new()).await,
            _ => {
                let scenario = self.scenario;
                let also = match source {
                    Source::Live(key) if self.wants_findings() => {
                        self.on_record(Some(key), HOST_PROBES.to_vec()).await.1
                    }
                    _ => Vec::new(),
                };
                self.expect(&scenario.expect, source, also).await?;
                if let (Source::Live(_), Some(lost)) = (source, self.nas_is_lost().await) {
                    return Err(lost.into());
                }
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
            // What made no sense is asked for again.
            if probe::read(one, &pve, Some(&nas), limit).await.is_err() {
                return false;
            }
        }
        !with_loop || probe::listing::run_write_up_loop(&pve, limit).await.is_ok()
    }

    async fn probe(
        &mut self,
        number: usize,
        name: &str,
        probes: &[Probe],
        source: Source<'_>,
    ) -> Result<(), StepError> {
        let folder = self.session.ground.snapshots();
        self.read(number, name, probes, &[], source).await?;
        let mut different = None;
        for probe in probes {
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
            match snapshot::compare(&folder, &snapshot, &about, &text) {
                Ok(()) => {}
                // All that a scenario lacks are written in one run, to be accepted together.
                Err(Unlike::Missing(file)) => self.unaccepted.push(file),
                Err(Unlike::Different(message)) => different = different.or(Some(message)),
            }
        }
        match different {
            Some(message) => Err(Failure::new(FailureKind::Snapshot, message).into()),
            None => Ok(()),
        }
    }

    /// Reads facts, unless nothing has changed since they were read. Those that are wanted `also` are read with them
    /// where they can be; they are asked for again by whom they are needed.
    async fn read(
        &mut self,
        number: usize,
        name: &str,
        needed: &[Probe],
        also: &[Probe],
        source: Source<'_>,
    ) -> Result<(), StepError> {
        let unread = |probe: &&Probe| !self.facts.contains_key(probe);
        let mut probes: Vec<Probe> = needed.iter().filter(unread).copied().collect();
        let answers = match source {
            Source::Recorded(recording) => {
                let limit = self.session.ground.deadlines().command;
                let [pve, nas] = replays(recording);
                let mut answers = Vec::new();
                for probe in probes {
                    let answer = probe::read(probe, &pve, Some(&nas), limit).await;
                    answers.push((probe, answer));
                }
                answers
            }
            Source::Live(key) => {
                let further = also.iter().filter(unread);
                probes.extend(further.filter(|one| !needed.contains(one)));
                self.live(&probes, needed, key).await?
            }
        };
        for (probe, answer) in answers {
            let file = fact_file(number, name, probe);
            let reading = match answer {
                Err(_) if !needed.contains(&probe) => continue,
                Err(ProbeError::Guest { source, .. }) => {
                    return Err(MachineError::from(source).into());
                }
                answer => self.sense(&format!("the probe `{probe}`"), &file, answer)?,
            };
            self.keep(&format!("{file}.raw.txt"), &reading.raw)?;
            let json = serde_json::to_string_pretty(&reading.facts)
                .map_err(|error| StepError::SetUp(chain(&error)))?;
            self.keep(&format!("{file}.json"), &json)?;
            self.memory.note(&reading.facts);
            self.facts.insert(probe, reading.facts);
        }
        Ok(())
    }

    async fn live(
        &self,
        probes: &[Probe],
        needed: &[Probe],
        key: &Key,
    ) -> Result<Vec<Answer>, StepError> {
        if probes.is_empty() {
            return Ok(Vec::new());
        }
        let machine = self.running()?;
        if probes.iter().any(|probe| probe.guest() == GuestName::Nas) {
            self.nas()?;
        }
        let what = match probes {
            [one] => format!("the probe `{one}`"),
            _ => "the probes".to_owned(),
        };
        let limit = self.session.ground.deadlines().command;
        let answers = Answers::default();
        let asked = self.ask(machine, probes, Some(key), &answers);
        let trouble = machine.watched(&what, limit, asked).await.err();
        let answers = answers.in_order_of(probes);
        let answered = |probe: &Probe| answers.iter().any(|(one, _)| one == probe);
        let mut asked_for = probes.iter().filter(|probe| needed.contains(probe));
        match trouble {
            Some(error) if !asked_for.all(answered) => Err(error.into()),
            _ => Ok(answers),
        }
    }

    async fn expect(
        &mut self,
        expect: &Expect,
        source: Source<'_>,
        also: Vec<Probe>,
    ) -> Result<(), StepError> {
        let number = self.scenario.steps.len() + 1;
        let needed: Vec<Probe> = checks::needs(expect).into_iter().collect();
        self.read(number, "expect", &needed, &also, source).await?;
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
                let machine = self.running()?;
                let pve = Recorder::new(machine.agent(), self.stands_at());
                let run = probe::listing::run_write_up_loop(&pve, limit);
                let answer = self.answered(what, limit, run).await?;
                if let Some(records) = self.session.ground.records() {
                    records.add(key, pve.finish());
                }
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
