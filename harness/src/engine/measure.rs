//! How fast a disk is in the NAS.

use std::collections::BTreeMap;

use super::act::last_lines;
use super::failure::{Failure, StepError, chain};
use super::run::Runner;
use crate::accel::Accelerator;
use crate::event::{EventKind, Measurement};
use crate::guest::{Exec, Guest};
use crate::plan::{Move, NodeId, RouteLeg};
use crate::scenario::{Action, FailureKind, Measure};

/// Writes and reads the beginning of a disk, past the kernel's cache, and prints a line for each way: its
/// name, and MiB or operations a second.
const SCRIPT: &str = r#"
use strict; use Fcntl qw(:DEFAULT O_DSYNC); use IO::Handle;
# clock_gettime(CLOCK_MONOTONIC): the module that has it is not in every Perl.
sub now { my $time = "\0" x 16; syscall(228, 1, $time) == 0 or die "clock: $!"; my ($s, $ns) = unpack "qq", $time; return $s + $ns / 1e9 }
my ($disk) = @ARGV;
my ($mib, $block, $turns) = (32, 4096, 256);
sub run { system(@_) == 0 or die "@_ failed" }
sub fresh { run("sync"); run("sh", "-c", "echo 3 >/proc/sys/vm/drop_caches") }
sub opened { my ($how) = @_; sysopen(my $file, $disk, $how) or die "$disk: $!"; return $file }
sub timed { my ($what, $count, $work) = @_; my $start = now(); $work->(); printf "%s %.3f\n", $what, $count / (now() - $start) }
my $piece = join "", map { pack "L", int rand 4294967295 } 1 .. 262144;
my @places = map { $block * int rand($mib * 1048576 / $block) } 1 .. $turns;
my $file = opened(O_WRONLY);
timed("sequential-write", $mib, sub {
    for (1 .. $mib) { syswrite($file, $piece) == length $piece or die "write: $!" }
    $file->sync or die "fsync: $!";
});
fresh();
$file = opened(O_RDONLY);
timed("sequential-read", $mib, sub {
    for (1 .. $mib) { sysread($file, my $got, 1048576) == 1048576 or die "read: $!" }
});
run("blockdev", "--setra", "0", $disk);
fresh();
$file = opened(O_RDONLY);
timed("random-read", $turns, sub {
    for (@places) { sysseek($file, $_, 0); sysread($file, my $got, $block) == $block or die "read: $!" }
});
$file = opened(O_WRONLY | O_DSYNC);
timed("random-write", $turns, sub {
    for (@places) { sysseek($file, $_, 0); syswrite($file, $piece, $block) == $block or die "write: $!" }
});
run("blockdev", "--setra", "256", $disk);
"#;

/// The ways that are measured.
const WAYS: [&str; 4] = [
    "random-read",
    "random-write",
    "sequential-read",
    "sequential-write",
];

type Speeds = BTreeMap<String, f64>;

impl Runner<'_> {
    pub(super) async fn measure(&mut self, measure: &Measure) -> Result<(), StepError> {
        let limit = self.session.ground.deadlines().command;
        let words = ["-e", SCRIPT, &measure.device];
        let run = self.nas()?.run(Exec::new("perl", words, limit));
        let machine = self.running()?;
        let output = machine
            .watched("the disk to be measured", limit, run)
            .await?;
        let text = output.stdout_text();
        let speeds = parse(&text).ok_or_else(|| {
            let words = last_lines(&text, 12);
            Failure::new(FailureKind::Command, format!("no speeds are in {words}"))
        })?;
        let before = measure
            .against
            .as_ref()
            .and_then(|name| self.saved.get(name));
        let before: Option<Speeds> = match before {
            Some(text) => Some(serde_json::from_str(text).map_err(|_| {
                let message = "what was kept to be measured against is no measurement";
                Failure::new(FailureKind::Command, message)
            })?),
            None => None,
        };
        let ratios = before.map(|before| times(&before, &speeds));
        let measurement = Measurement {
            time: jiff::Timestamp::now(),
            disk: measure.device.clone(),
            emulated: self.session.ground.choice().accelerator == Accelerator::Tcg,
            speeds: speeds.clone(),
            against: measure.against.clone(),
            ratios,
        };
        self.tell_measured(&measurement, false);
        self.measured.push(measurement);
        if let Some(name) = &measure.save {
            let text =
                serde_json::to_string(&speeds).map_err(|error| StepError::SetUp(chain(&error)))?;
            self.saved.insert(name.clone(), text);
        }
        Ok(())
    }

    /// Reports again what was measured before the checkpoint that this scenario went on from.
    pub(super) fn tell_what_was_measured(&self) {
        for measurement in &self.measured {
            self.tell_measured(measurement, true);
        }
    }

    fn tell_measured(&self, measurement: &Measurement, recorded: bool) {
        self.session.events().emit(EventKind::Measured {
            scenario: self.scenario.name.clone(),
            measurement: measurement.clone(),
            recorded,
        });
    }

    /// How many of these states were reached by a measurement.
    pub(super) fn measurements_among(&self, nodes: &[NodeId]) -> usize {
        let measures = |node: &&NodeId| {
            let arrival = &self.plan.nodes()[**node].arrival;
            matches!(arrival, Move::Act(action) if matches!(**action, Action::Measure(_)))
        };
        nodes.iter().filter(measures).count()
    }

    /// Whether a state lies between two measurements that are held against each other. Both belong to one run: a machine's
    /// speed is another one an hour later, with all else that it has to do.
    pub(super) fn parts_measurements(&self, node: NodeId) -> bool {
        let legs = &self.route().legs;
        let reached = legs.iter().position(|leg| leg.nodes.contains(&node));
        let (before, after) = legs.split_at(reached.map_or(0, |leg| leg + 1));
        let actions = |legs: &[RouteLeg]| -> Vec<&Action> {
            legs.iter()
                .filter_map(|leg| self.action(leg.step))
                .collect()
        };
        are_held_against_each_other(&actions(before), &actions(after))
    }
}

/// Whether one of the later actions measures against what one of the earlier ones has saved.
fn are_held_against_each_other(earlier: &[&Action], later: &[&Action]) -> bool {
    let saved = earlier.iter().filter_map(|action| match action {
        Action::Measure(measure) => measure.save.as_ref(),
        _ => None,
    });
    let wanted = |name: &String| {
        let against = |action: &&Action| matches!(action, Action::Measure(measure) if measure.against.as_ref() == Some(name));
        later.iter().any(against)
    };
    saved.into_iter().any(wanted)
}

/// Every way's speed; none if one is missing or is not a speed.
fn parse(text: &str) -> Option<Speeds> {
    let line = |line: &str| {
        let (way, speed) = line.split_once(' ')?;
        let speed = speed
            .parse::<f64>()
            .ok()
            .filter(|speed| speed.is_finite() && *speed > 0.0)?;
        Some((way.to_owned(), speed))
    };
    let speeds: Speeds = text.lines().map(line).collect::<Option<_>>()?;
    speeds.keys().eq(WAYS).then_some(speeds)
}

/// The speeds from before as multiples of these.
fn times(before: &Speeds, now: &Speeds) -> Speeds {
    let pairs = before
        .iter()
        .filter_map(|(way, speed)| Some((way.clone(), speed / now.get(way)?)));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "sequential-write 4.000\nsequential-read 8.500\nrandom-read 100.0\nrandom-write 50\n";

    #[test]
    fn speeds_are_all_of_them_or_none() {
        let speeds = parse(TEXT).unwrap();
        assert_eq!(speeds["random-read"], 100.0);
        for bad in [
            "",
            "random-read 1",
            &TEXT.replace("8.5", "x"),
            &TEXT.replace("50", "0"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_held_against_each_other_is_measured_in_one_run() {
        let measure = |save: Option<&str>, against: Option<&str>| {
            Action::Measure(Measure {
                device: "/dev/sda".to_owned(),
                save: save.map(str::to_owned),
                against: against.map(str::to_owned),
            })
        };
        let (first, second) = (measure(Some("a"), None), measure(None, Some("a")));
        let (other, last) = (measure(Some("b"), None), measure(None, None));
        let held = are_held_against_each_other;
        assert!(held(&[&Action::Reboot, &first], &[&other, &second]));
        assert!(!held(&[&Action::Reboot], &[&first, &second]));
        assert!(!held(&[&first, &second], &[&last]));
        assert!(!held(&[&other], &[&second]));
    }

    #[test]
    fn a_ratio_is_before_by_now() {
        let before = parse(TEXT).unwrap();
        let now = parse(&TEXT.replace("100.0", "40.0")).unwrap();
        let ratios = times(&before, &now);
        assert_eq!(ratios["random-read"], 2.5);
        assert_eq!(ratios["random-write"], 1.0);
    }
}
