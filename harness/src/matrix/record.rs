//! What is kept of a run: the facts themselves and how it ended, under the key of its last state. What they
//! mean is understood anew each time, as with everything that a guest has answered.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::family::BEFORE_START;
use super::outcome::Stop;
use crate::engine::Observation;
use crate::event;
use crate::finding::{FactBook, FactSet};
use crate::plan::Key;
use crate::scenario::FailureKind;

/// Raised when the family looks at something else, so that older records are not used.
const FORMAT: u32 = 1;

/// A run that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The key of its last state: images, QEMU, accelerator, CPU model, lab and every step are in it.
    pub key: Key,
    /// The name of its scenario.
    pub cell: String,
    /// When it was over.
    pub taken: Timestamp,
    /// The first step that failed.
    pub failure: Option<Stop>,
    /// The facts of the host before the VM's start, where it came so far.
    pub before: Option<FactSet>,
    /// What `qm start` complained of.
    pub start_words: String,
    /// All facts of the end.
    pub end: FactBook,
}

/// Why a run says nothing of the procedure, and is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The lab could not do its part.
    #[error("the lab could not be set up: {0}")]
    SetUp(String),
    /// A deadline has passed: whether the machine is slow or the guest hangs is not known.
    #[error("a deadline has passed; {0}")]
    TimedOut(String),
    /// This machine cannot run it.
    #[error("it was skipped: {0}")]
    Skipped(String),
    /// Somebody stopped it.
    #[error("interrupted")]
    Interrupted,
    /// It was held against what is expected of it, and only its verdict is known.
    #[error("it was judged in place of being observed")]
    Judged,
}

/// A record that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not on this disk.
    #[error("failed to write in {}", folder.display())]
    Io {
        /// The folder of the records.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Record {
    /// What is kept of a run that has just been observed.
    ///
    /// # Errors
    /// [`Fault`] where it says nothing of the procedure.
    pub fn new(cell: String, key: Key, observation: Observation) -> Result<Self, Fault> {
        let failure = match observation.verdict {
            event::Verdict::Measured { failure } => failure.map(|failure| Stop::of(&failure)),
            event::Verdict::SetUpFailed { message } => return Err(Fault::SetUp(message)),
            event::Verdict::Skipped { reason } => return Err(Fault::Skipped(reason)),
            event::Verdict::Interrupted => return Err(Fault::Interrupted),
            event::Verdict::Held
            | event::Verdict::FailedAsExpected { .. }
            | event::Verdict::Failed { .. } => return Err(Fault::Judged),
        };
        if let Some(stop) = &failure
            && stop.kind == FailureKind::Timeout
        {
            return Err(Fault::TimedOut(stop.to_string()));
        }
        let mut observed = observation.observed;
        Ok(Record {
            format: FORMAT,
            key,
            cell,
            taken: Timestamp::now(),
            failure,
            before: observed.steps.remove(BEFORE_START),
            start_words: observed.start_words,
            end: observed.book,
        })
    }
}

/// The records below a cache, one file a run.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    not_before: Option<Timestamp>,
}

impl Records {
    /// The records below a cache. Where all is to be measured anew, those that are there already count as
    /// none.
    ///
    /// # Errors
    /// When their folder cannot be made.
    pub fn open(cache: &Path, anew: bool) -> Result<Self, RecordError> {
        let folder = cache.join("matrix");
        let not_before = anew.then(Timestamp::now);
        let records = Records { folder, not_before };
        fs::create_dir_all(&records.folder).map_err(|source| records.failed(source))?;
        Ok(records)
    }

    /// What was measured of a state; nothing where the record is of another format, cut short or altered.
    pub fn get(&self, key: &Key) -> Option<Record> {
        let text = fs::read(self.file(key)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        let young = self.not_before.is_none_or(|time| record.taken >= time);
        (record.format == FORMAT && record.key == *key && young).then_some(record)
    }

    /// Keeps a record, beside and renamed, so that a run that ends now has it whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, record: &Record) -> Result<(), RecordError> {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.persist(self.file(&record.key))?;
            Ok(())
        };
        write().map_err(|source| self.failed(source))
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }

    fn failed(&self, source: std::io::Error) -> RecordError {
        RecordError::Io {
            folder: self.folder.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::collections::BTreeSet;

    use super::super::family::Cell;
    use super::super::results::Results;
    use crate::accel::Accelerator;
    use crate::engine::{Failure, Observed};
    use crate::lab::Lab;
    use crate::plan::{self, Plan, Setting};
    use crate::scenario::{Labs, Scenario};

    /// The keys of the family's runs with these images, by the runs' names.
    fn keys(host_image: &str, nas_image: &str, qemu: &str) -> BTreeSet<(String, Key)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/labs");
        let labs = Labs::load(Path::new(folder)).unwrap();
        let cells = Results::default().wanted(None);
        let scenario = |cell: &Cell| cell.scenario(&labs).unwrap();
        let scenarios: Vec<Scenario> = cells.iter().map(scenario).collect();
        let setting = |lab: &Lab| Setting {
            host_image: format!("{host_image} {}", lab.host),
            nas_image: nas_image.to_owned(),
            qemu: qemu.to_owned(),
            accelerator: Accelerator::Tcg,
            cpu: "max".to_owned(),
            processor: None,
            vm_config: "cores: 1".to_owned(),
            format: plan::FORMAT,
        };
        let plan = Plan::new(&scenarios, setting);
        let end = |route: &plan::Route| plan.nodes()[route.nodes().last().unwrap()].key;
        let routes = plan.routes().iter();
        routes
            .map(|route| (route.scenario.clone(), end(route)))
            .collect()
    }

    #[test]
    fn every_run_has_a_record_of_its_own_and_a_changed_image_measures_all_again() {
        let now = keys("host", "nas", "11.1");
        let distinct: BTreeSet<&Key> = now.iter().map(|(_, key)| key).collect();
        assert_eq!((now.len(), distinct.len()), (60, 60));
        assert_eq!(keys("host", "nas", "11.1"), now);
        for other in [
            keys("other", "nas", "11.1"),
            keys("host", "other", "11.1"),
            keys("host", "nas", "other"),
        ] {
            assert!(other.is_disjoint(&now));
        }
    }

    #[test]
    fn what_was_measured_is_found_by_its_key_and_by_no_other() {
        let cache = tempfile::tempdir().unwrap();
        let records = Records::open(cache.path(), false).unwrap();
        let record = testing::record();
        assert_eq!(records.get(&record.key), None);
        records.put(&record).unwrap();
        assert_eq!(records.get(&record.key).as_ref(), Some(&record));
        let other = record.key.failed_with("another image");
        assert_eq!(records.get(&other), None);
        // Nothing half-written is left beside it.
        let files = fs::read_dir(cache.path().join("matrix")).unwrap().count();
        assert_eq!(files, 1);
    }

    /// Facts of a real run, of all kinds.
    #[test]
    fn what_a_guest_said_is_the_same_when_it_is_read_back() {
        let facts = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/facts/");
        let text = fs::read_to_string(format!("{facts}procedure.json")).unwrap();
        let end = FactBook::from_json(&text).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let records = Records::open(cache.path(), false).unwrap();
        let before = Some(end.facts.clone());
        let record = Record {
            before,
            end,
            ..testing::record()
        };
        records.put(&record).unwrap();
        assert_eq!(records.get(&record.key), Some(record));
    }

    #[test]
    fn a_damaged_record_another_format_and_another_key_are_measured_anew() {
        let cache = tempfile::tempdir().unwrap();
        let records = Records::open(cache.path(), false).unwrap();
        let record = testing::record();
        let file = records.file(&record.key);
        let text = serde_json::to_string(&record).unwrap();
        let other = record.key.failed_with("another image");
        for bad in [
            text[..text.len() / 2].to_owned(),
            text.replace("\"format\":1,\"key\"", "\"format\":0,\"key\""),
            text.replace(&record.key.to_string(), &other.to_string()),
            text.replacen("\"cell\"", "\"sell\"", 1),
        ] {
            assert_ne!(bad, text);
            fs::write(&file, &bad).unwrap();
            assert_eq!(records.get(&record.key), None, "{bad}");
        }
        fs::write(&file, &text).unwrap();
        assert!(records.get(&record.key).is_some());
    }

    #[test]
    fn older_records_count_as_none_where_all_is_measured_anew() {
        let cache = tempfile::tempdir().unwrap();
        let old = testing::record();
        Records::open(cache.path(), false)
            .unwrap()
            .put(&old)
            .unwrap();
        let records = Records::open(cache.path(), true).unwrap();
        let new = Record {
            taken: Timestamp::now(),
            ..old.clone()
        };
        assert_eq!(records.get(&old.key), None);
        records.put(&new).unwrap();
        assert_eq!(records.get(&new.key), Some(new));
    }

    #[test]
    fn only_what_says_something_of_the_procedure_is_kept() {
        let record = |verdict| {
            let observed = Observed::default();
            let observation = Observation { verdict, observed };
            Record::new("pve9".to_owned(), testing::record().key, observation)
        };
        let failed = |kind| {
            let failure = Box::new(Failure {
                kind,
                check: None,
                step: 9,
                title: "Start the NAS".to_owned(),
                message: "so".to_owned(),
                expected: None,
                seen: None,
                console: Vec::new(),
                nas_console: Vec::new(),
                findings: Vec::new(),
            });
            event::Verdict::Measured {
                failure: Some(failure),
            }
        };
        assert_eq!(
            record(event::Verdict::Measured { failure: None })
                .unwrap()
                .failure,
            None
        );
        for kind in [FailureKind::Start, FailureKind::Check, FailureKind::Boot] {
            let stop = record(failed(kind)).unwrap().failure.unwrap();
            assert_eq!((stop.kind, stop.at.as_str()), (kind, "Start the NAS"));
        }
        assert!(matches!(
            record(failed(FailureKind::Timeout)),
            Err(Fault::TimedOut(_))
        ));
        let message = "a full disk".to_owned();
        let set_up = record(event::Verdict::SetUpFailed { message });
        assert!(matches!(set_up, Err(Fault::SetUp(_))));
        assert_eq!(record(event::Verdict::Interrupted), Err(Fault::Interrupted));
        assert_eq!(record(event::Verdict::Held), Err(Fault::Judged));
        let reason = "little memory".to_owned();
        let skipped = record(event::Verdict::Skipped { reason });
        assert!(matches!(skipped, Err(Fault::Skipped(_))));
    }
}
