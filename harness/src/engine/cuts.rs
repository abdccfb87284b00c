//! Power cuts at random moments while the NAS writes: what it had acknowledged must be there after each.
//!
//! A moment is a machine whose time is stopped: the numbers that were acknowledged so far, and how long the
//! log of each disk is. What a cut at that moment leaves is made from the logs afterwards, so many moments
//! come from one run; the last of them is a real cut.

mod records;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::records::{READER, RECORD, WRITER, last_acknowledged};
use super::act::last_lines;
use super::failure::{Failure, StepError, chain};
use super::nas;
use super::run::Runner;
use crate::dice::Dice;
use crate::guest::{Exec, Exit, Guest};
use crate::machine::{Bay, CONSOLE_LOG, CutDisk, MachineError, WriteLog, bay};
use crate::poll::{Pace, poll};
use crate::scenario::{FailureKind, Flushes, PowerCuts};

/// Between two moments, in milliseconds: at least, and at most.
const GAP: (u64, u64) = (20, 400);

/// How many cuts tell something by what all of them have in common.
const TELLING: usize = 8;

/// The exit code of a look at a pool that cannot be imported.
const NOT_IMPORTED: i32 = 70;

/// The state of things when the power went.
struct Moment {
    /// The last number that had been acknowledged.
    acknowledged: u64,
    /// The length of each disk's log.
    lengths: Vec<u64>,
}

/// What was recorded.
struct Recording {
    bays: Vec<Bay>,
    logs: Vec<PathBuf>,
    moments: Vec<Moment>,
}

impl Runner<'_> {
    pub(super) async fn power_cuts(&mut self, cuts: &PowerCuts) -> Result<(), StepError> {
        let mut dice = Dice::new(cuts.seed);
        let start = Instant::now();
        self.freeze_layers(self.disks()?.all()).await?;
        // A real cut ends the machine, and whatever else is wrong with it.
        let faulty = self.faulty && cuts.flushes == Flushes::Ignored;
        let recording = self.take_moments(cuts, &mut dice).await?;
        self.phase("the moments are recorded", start);
        let logs = read_logs(&recording.logs)?;
        // The last one is looked at first: its disks are in the machine that boots after a real cut.
        let last = recording.moments.len() - 1;
        let order = || std::iter::once(last).chain(0..last);
        let mut disks = Vec::new();
        for number in order() {
            disks.push(self.after(&recording, &logs, number, cuts, dice.roll())?);
        }
        self.make_files(&disks[0])?;
        match cuts.flushes {
            Flushes::Obeyed => {
                self.cut_power(&disks[0]).await?;
                let deadlines = self.session.ground.deadlines();
                let start = Instant::now();
                let (nas, _) = nas::start(self.running()?, nas::NAS, deadlines).await?;
                self.nas = Some(nas);
                self.phase("the NAS is up", start);
            }
            Flushes::Ignored => {
                self.put_pool_away(&cuts.pool).await?;
                self.insert(&disks[0]).await?;
            }
        }
        let lost = disks.iter().flatten().map(CutDisk::lost).sum();
        harmless(&recording.moments, lost)?;
        let start = Instant::now();
        self.verify(cuts, &recording.moments[last], last).await?;
        for (number, left) in order().zip(&disks).skip(1) {
            self.make_files(left)?;
            self.insert(left).await?;
            self.verify(cuts, &recording.moments[number], number)
                .await?;
            self.put_back(&disks[0], left).await?;
        }
        self.phase("every cut is looked at", start);
        for disk in &disks[0] {
            let chain = &mut self.disks_mut()?.chains[disk.bay.number];
            chain.active.clone_from(&disk.file);
        }
        self.faulty = faulty;
        let import = self.import(&cuts.pool);
        self.shell_in_nas("the pool's import", &import).await?;
        let numbers = recording.moments.iter().map(|one| one.acknowledged);
        let (least, most) = (numbers.clone().min(), numbers.max());
        let seen = format!(
            "{} cuts, the first after {} records and the last after {}, with {lost} writes lost that nothing had \
             flushed: every acknowledged record is there",
            recording.moments.len(),
            least.unwrap_or(0),
            most.unwrap_or(0)
        );
        self.note("nas.acknowledged", seen);
        Ok(())
    }

    /// Has the NAS write, and takes the moments. With flushes obeyed the machine is dead after the last.
    async fn take_moments(
        &mut self,
        cuts: &PowerCuts,
        dice: &mut Dice,
    ) -> Result<Recording, StepError> {
        let bays: Vec<Bay> = self
            .lab
            .disks()
            .filter_map(|disk| bay(&self.lab, &disk.serial))
            .collect();
        let folder = self.folder.disks();
        let logs: Vec<PathBuf> = bays
            .iter()
            .map(|bay| folder.join(format!("{}.log", bay.device)))
            .collect();
        self.faulty = true;
        if let Some(machine) = &mut self.machine {
            for (bay, log) in bays.iter().zip(&logs) {
                machine.log_writes(bay, log).await?;
            }
        }
        let console = self.folder.path().join(CONSOLE_LOG);
        let before = length(&console)?;
        self.start_writer(&cuts.pool).await?;
        let machine = self.running()?;
        let limit = self.session.ground.deadlines().command;
        let acknowledged = || last_acknowledged(&console, before);
        let what = "the first acknowledged record";
        let first = poll::<_, MachineError, _>(what, limit, Pace::QUICK, async || {
            Ok((acknowledged() > 0).then_some(()))
        });
        machine.watched(what, limit, first).await?;
        let mut moments = Vec::new();
        for number in 1..=cuts.cuts {
            let at = Instant::now() + Duration::from_millis(dice.between(GAP.0, GAP.1));
            let what = "the moment of the cut";
            let moment = poll::<_, MachineError, _>(what, limit, Pace::QUICK, async || {
                Ok((Instant::now() >= at).then_some(()))
            });
            machine.watched(what, limit, moment).await?;
            machine.hold_breath().await?;
            let lengths: Result<Vec<u64>, StepError> = logs.iter().map(|log| length(log)).collect();
            moments.push(Moment {
                acknowledged: acknowledged(),
                lengths: lengths?,
            });
            // Nothing more is written after the last moment of a real cut: what comes next is its end.
            if number < cuts.cuts || cuts.flushes == Flushes::Ignored {
                machine.breathe();
            }
        }
        Ok(Recording {
            bays,
            logs,
            moments,
        })
    }

    /// Starts the writer, and has what the NAS tells its console come to the host's at once.
    async fn start_writer(&self, pool: &str) -> Result<(), StepError> {
        let machine = self.running()?;
        let limit = self.session.ground.deadlines().command;
        let script = format!("{RECORD}{WRITER}");
        let words = [nas::NAS.to_string(), script, pool.to_owned()];
        let start = format!(
            "setsid -f tail -n0 -f {} >/dev/ttyS0 2>/dev/null </dev/null\n\
             exec env {} qm guest exec \"$1\" --synchronous 0 -- flock /run/writer perl -e \"$2\" \"$3\"",
            nas::CONSOLE_LOG,
            machine.agent().qm_patience(),
        );
        let words = ["-c".to_owned(), start, "sh".to_owned()]
            .into_iter()
            .chain(words);
        let run = machine.agent().run(Exec::new("/bin/sh", words, limit));
        machine.watched("the writer's start", limit, run).await?;
        Ok(())
    }

    /// The disks after the cut at a moment.
    fn after(
        &self,
        recording: &Recording,
        logs: &[Arc<WriteLog>],
        number: usize,
        cuts: &PowerCuts,
        seed: u64,
    ) -> Result<Vec<CutDisk>, StepError> {
        let lengths = &recording.moments[number].lengths;
        let all = recording.bays.iter().zip(logs).zip(lengths);
        let mut disks = Vec::new();
        for (index, ((bay, log), length)) in all.enumerate() {
            let chain = &self.disks()?.chains[bay.number];
            disks.push(CutDisk {
                bay: bay.clone(),
                node: format!("{}.cut{number}", bay.device),
                file: self
                    .folder
                    .disks()
                    .join(format!("cut{number}-{index}.qcow2")),
                below: chain.frozen(),
                log: Arc::clone(log),
                length: *length,
                flushes: cuts.flushes,
                seed: seed.wrapping_add(index as u64),
            });
        }
        Ok(disks)
    }

    /// Ends the writer of a machine that runs on, and exports its pool.
    async fn put_pool_away(&self, pool: &str) -> Result<(), StepError> {
        let script =
            format!("touch /run/stop-writing; flock /run/writer true; zpool export {pool}");
        self.shell_in_nas("the pool's export", &script).await
    }

    /// Imports the pool that a cut left, and compares every acknowledged record byte by byte.
    async fn verify(
        &self,
        cuts: &PowerCuts,
        moment: &Moment,
        number: usize,
    ) -> Result<(), StepError> {
        let limit = self.session.ground.deadlines().command;
        let pool = &cuts.pool;
        let look = format!(
            "{}\n[ $? = 0 ] || exit {NOT_IMPORTED}\nperl -e \"$1\" {pool} && zpool export {pool}",
            self.import(pool)
        );
        let words = [
            "-c".to_owned(),
            look,
            "sh".to_owned(),
            format!("{RECORD}{READER}"),
        ];
        let machine = self.running()?;
        let run = self.nas()?.exec(Exec::new("/bin/sh", words, limit));
        let output = machine
            .watched("the records to be read", limit, run)
            .await?;
        let text = output.stdout_text();
        let there = text.trim().parse::<u64>().ok();
        let said = match (output.exit, there) {
            (Exit::Code(0), Some(there)) if there >= moment.acknowledged => return Ok(()),
            (Exit::Code(0), Some(there)) => format!("{there} are there"),
            (Exit::Code(NOT_IMPORTED), _) => {
                format!(
                    "the pool cannot be imported: {}",
                    last_lines(&output.stderr_text(), 12)
                )
            }
            (exit, _) => format!(
                "they cannot be read ({exit}): {}",
                last_lines(&output.stderr_text(), 12)
            ),
        };
        let message = format!(
            "after cut {} of {}, {} records had been acknowledged, and {said}",
            number + 1,
            cuts.cuts,
            moment.acknowledged
        );
        Err(Failure::new(FailureKind::Output, message).into())
    }

    /// Imports a pool from the partitions that ZFS made on the lab's disks: a search through all of
    /// `/dev/disk/by-id` took 3.6 s in place of 2.3. What the kernel remembers of the disks is of those that
    /// were there before.
    fn import(&self, pool: &str) -> String {
        let serials: Vec<&str> = self.lab.disks().map(|disk| disk.serial.as_str()).collect();
        format!(
            "from=\n\
             for serial in {}; do\n\
             for disk in /dev/disk/by-id/*_$serial; do\n\
             blockdev --flushbufs \"$disk\" \"$disk-part1\"\n\
             from=\"$from -d $disk-part1\"\n\
             done\n\
             done\n\
             zpool import $from {pool}",
            serials.join(" ")
        )
    }

    async fn shell_in_nas(&self, what: &str, script: &str) -> Result<(), StepError> {
        let limit = self.session.ground.deadlines().command;
        let run = self.nas()?.run(Exec::shell(script, limit));
        self.running()?.watched(what, limit, run).await?;
        Ok(())
    }

    fn make_files(&self, left: &[CutDisk]) -> Result<(), StepError> {
        let blanks = self.session.blanks();
        for disk in left {
            let bytes = self.disks()?.chains[disk.bay.number].bytes;
            let made = blanks.make(&disk.file, bytes);
            made.map_err(|error| StepError::SetUp(chain(&error)))?;
        }
        Ok(())
    }

    /// Gives the machine these disks in place of those that it has.
    async fn insert(&mut self, left: &[CutDisk]) -> Result<(), StepError> {
        if let Some(machine) = &mut self.machine {
            for disk in left {
                machine.insert_cut(disk).await?;
            }
        }
        Ok(())
    }

    /// Gives the machine disks that it had before, and throws those away that it has.
    async fn put_back(&mut self, kept: &[CutDisk], left: &[CutDisk]) -> Result<(), StepError> {
        if let Some(machine) = &mut self.machine {
            for (kept, left) in kept.iter().zip(left) {
                machine.put_back(kept, left).await?;
                // Room only; the folder goes with the scenario.
                let _ = std::fs::remove_file(&left.file);
            }
        }
        Ok(())
    }
}

/// Cuts that could not have cost anything prove nothing: of a NAS that had stopped writing, or at moments when no write
/// was under way. Of a few cuts that may be so by chance.
fn harmless(moments: &[Moment], lost: usize) -> Result<(), StepError> {
    let at = |number: usize| moments.get(number).map_or(0, |one| one.acknowledged);
    if moments.len() < TELLING {
        return Ok(());
    }
    let (half, last) = (moments.len() / 2, moments.len() - 1);
    let why = match (at(last) > at(half), lost > 0) {
        (true, true) => return Ok(()),
        (false, _) => format!(
            "the NAS stopped writing: it had acknowledged {} records at the middle one of {} moments, and {} at the last",
            at(half),
            moments.len(),
            at(last)
        ),
        (true, false) => "none of the cuts lost a write, so that they prove nothing".to_owned(),
    };
    Err(Failure::new(FailureKind::Command, why).into())
}

fn read_logs(files: &[PathBuf]) -> Result<Vec<Arc<WriteLog>>, StepError> {
    let set_up = |file: &Path, error: &dyn std::error::Error| {
        StepError::SetUp(format!(
            "failed to read {}: {}",
            file.display(),
            chain(error)
        ))
    };
    let mut logs = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).map_err(|error| set_up(file, &error))?;
        let log = WriteLog::parse(bytes).map_err(|error| set_up(file, &error))?;
        logs.push(Arc::new(log));
        // It is in memory now.
        let _ = std::fs::remove_file(file);
    }
    Ok(logs)
}

fn length(file: &Path) -> Result<u64, StepError> {
    let data = std::fs::metadata(file).map_err(|error| {
        StepError::SetUp(format!("failed to look at {}: {error}", file.display()))
    })?;
    Ok(data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_that_could_cost_nothing_prove_nothing() {
        let moments = |numbers: &[u64]| -> Vec<Moment> {
            let moment = |acknowledged: &u64| Moment {
                acknowledged: *acknowledged,
                lengths: Vec::new(),
            };
            numbers.iter().map(moment).collect()
        };
        assert!(harmless(&moments(&[1, 1, 2, 2, 2, 2, 2, 3]), 1).is_ok());
        assert!(harmless(&moments(&[1, 1]), 0).is_ok());
        for (numbers, lost, words) in [
            (&[1, 2, 3, 3, 3, 3, 3, 3][..], 5, "stopped writing"),
            (&[1, 2, 3, 4, 5, 6, 7, 8], 0, "none of the cuts"),
        ] {
            let Err(StepError::Failed(failure)) = harmless(&moments(numbers), lost) else {
                panic!("{numbers:?}");
            };
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
