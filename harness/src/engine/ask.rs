//! Asks the guests for facts: both at once, since each has processors of its own, and each one thing after the
//! other.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::run::Runner;
use crate::checkpoint::{Recorder, Replay};
use crate::finding::{HOST_PROBES, NAS_PROBES};
use crate::guest::GuestError;
use crate::machine::Machine;
use crate::plan::Key;
use crate::probe::{self, Probe, ProbeError, Reading};
use crate::scenario::GuestName;

/// What guests answered so far.
#[derive(Default)]
pub(super) struct Answers(Mutex<Vec<Answer>>);

/// What came of a probe.
pub(super) type Answer = (Probe, Result<Reading, ProbeError>);

impl Answers {
    fn add(&self, answer: Answer) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(answer);
    }

    /// All answers, in the order of these probes.
    pub(super) fn in_order_of(self, probes: &[Probe]) -> Vec<Answer> {
        let mut all = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.sort_by_key(|(probe, _)| probes.iter().position(|one| one == probe));
        all
    }
}

/// What a probe's time is remembered by.
pub(super) fn probe_digest(probe: Probe) -> String {
    format!("probe-{probe}")
}

impl Runner<'_> {
    /// Asks the guests for these facts. A guest whose channel broke is asked nothing more; what the other one and it
    /// have said is among the answers.
    ///
    /// # Errors
    /// The channel that broke, the host's before its guest's.
    pub(super) async fn ask(
        &self,
        machine: &Machine,
        probes: &[Probe],
        key: Option<&Key>,
        answers: &Answers,
    ) -> Result<(), GuestError> {
        let lane = async |guest| {
            for probe in probes.iter().filter(|probe| probe.guest() == guest) {
                let answer = self.ask_one(machine, *probe, key).await;
                if let Err(ProbeError::Guest {
                    source: source @ GuestError::Broken { .. },
                    ..
                }) = answer
                {
                    return Err(source);
                }
                answers.add((*probe, answer));
            }
            Ok(())
        };
        let (pve, nas) = tokio::join!(lane(GuestName::Pve), lane(GuestName::Nas));
        pve.and(nas)
    }

    async fn ask_one(
        &self,
        machine: &Machine,
        probe: Probe,
        key: Option<&Key>,
    ) -> Result<Reading, ProbeError> {
        let limit = self.session.ground.deadlines().command;
        let pve = Recorder::new(machine.agent(), self.stands_at());
        let nas = self
            .nas
            .as_ref()
            .filter(|_| probe.guest() == GuestName::Nas);
        let nas = nas.map(|nas| Recorder::new(&nas.guest, self.stands_at()));
        let start = Instant::now();
        let answer = probe::read(probe, &pve, nas.as_ref(), limit).await;
        let timings = self.session.ground.timings();
        timings.note(probe_digest(probe), start.elapsed().as_secs_f64());
        if let Some((key, records)) = key.zip(self.session.ground.records()) {
            let mut recording = pve.finish();
            if let Some(nas) = nas {
                recording.merge(nas.finish());
            }
            records.add(key, recording);
        }
        answer
    }

    /// What findings are derived from.
    pub(super) fn finding_probes(&self) -> Vec<Probe> {
        let mut probes = HOST_PROBES.to_vec();
        if self.nas.is_some() {
            probes.extend(NAS_PROBES);
        }
        probes
    }

    /// The checkpoint at which this machine stands; empty where it has moved on since, or there is none.
    pub(super) fn stands_at(&self) -> &str {
        self.stands_at.as_deref().unwrap_or_default()
    }

    /// What is on record of this very machine, and which of the probes are not. An answer that made no sense is asked for
    /// again.
    pub(super) async fn on_record(
        &self,
        key: Option<&Key>,
        probes: Vec<Probe>,
    ) -> (Vec<Answer>, Vec<Probe>) {
        let key = key.filter(|_| self.goes_by_records());
        let records = key.zip(self.session.ground.records());
        let Some(((key, records), checkpoint)) = records.zip(self.stands_at.as_deref()) else {
            return (Vec::new(), probes);
        };
        let limit = self.session.ground.deadlines().command;
        let recording = records.get(key).at(checkpoint);
        let [pve, nas] = ["pve", "nas"].map(|name| Replay::new(name, &recording));
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for probe in probes {
            match probe::read(probe, &pve, Some(&nas), limit).await {
                Ok(reading) => known.push((probe, Ok(reading))),
                Err(_) => unknown.push(probe),
            }
        }
        (known, unknown)
    }
}
