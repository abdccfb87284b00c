//! The run as lines: one for each step that is over, and at a terminal a live one for the step
//! under way.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use console::style;
use images::{BuildEvent, Observer};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::failure::render_failure;
use crate::event::{Event, EventKind, Listener, Measurement, Verdict};
use crate::finding::one_line;

/// Writes lines that stay, and at a terminal a live one to standard error.
pub struct Lines {
    to_stderr: bool,
    live: Option<ProgressBar>,
    state: Mutex<State>,
}

/// The scenarios under way.
#[derive(Default)]
struct State(BTreeMap<String, UnderWay>);

#[derive(Default)]
struct UnderWay {
    steps: usize,
    title: String,
    phases: Vec<String>,
}

impl State {
    fn of(&mut self, scenario: &str) -> &mut UnderWay {
        self.0.entry(scenario.to_owned()).or_default()
    }

    /// What a scenario's lines begin with: its name, where others run beside it.
    fn margin(&self, scenario: &str) -> String {
        match self.0.len() {
            0 | 1 => String::new(),
            _ => format!("{scenario:<20} "),
        }
    }
}

impl Lines {
    /// Lines to standard output, for a command whose result they are.
    pub fn to_stdout() -> Self {
        Self::new(false)
    }

    /// Lines to standard error, for a test whose standard output is the test runner's.
    pub fn to_stderr() -> Self {
        Self::new(true)
    }

    fn new(to_stderr: bool) -> Self {
        let live = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        Lines {
            to_stderr,
            live,
            state: Mutex::default(),
        }
    }

    /// Writes a line that stays.
    pub fn say(&self, line: &str) {
        let write = || {
            // A closed output ends the writing, not the run.
            let _ = if self.to_stderr {
                writeln!(io::stderr().lock(), "{line}")
            } else {
                writeln!(io::stdout().lock(), "{line}")
            };
        };
        match &self.live {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn under_way(&self, message: String) {
        if let Some(bar) = &self.live {
            bar.reset_elapsed();
            bar.set_message(message);
            bar.enable_steady_tick(Duration::from_millis(120));
        }
    }

    /// Another message; the clock goes on.
    fn under_way_now(&self, message: &str) {
        if let Some(bar) = &self.live {
            bar.set_message(message.chars().take(100).collect::<String>());
        }
    }

    fn rest(&self) {
        if let Some(bar) = &self.live {
            bar.disable_steady_tick();
            bar.set_message("");
        }
    }

    fn tell(&self, kind: &EventKind, state: &mut State) {
        let Some(scenario) = kind.scenario() else {
            return self.tell_of_the_run(kind);
        };
        let margin = state.margin(scenario);
        let say = |line: String| self.say(&format!("{margin}{line}"));
        match kind {
            EventKind::ScenarioStarted { steps, .. } => {
                state.of(scenario).steps = *steps;
                self.say(&format!("\n{}", style(scenario).bold()));
            }
            EventKind::Restored {
                checkpoint,
                taken,
                steps,
                worth,
                seconds,
                ..
            } => {
                let (checkpoint, taken) = (short(checkpoint), taken.strftime("%F %H:%M UTC"));
                say(format!(
                    "          {seconds:>6.1} s  {steps} steps from checkpoint {checkpoint} of {taken}, in place of {worth:.0} s"
                ));
            }
            EventKind::CheckpointTaken {
                checkpoint,
                seconds,
                bytes,
                ..
            } => {
                let (checkpoint, bytes) = (short(checkpoint), HumanBytes(*bytes));
                let line = format!("          {seconds:>6.1} s  checkpoint {checkpoint}, {bytes}");
                say(style(line).dim().to_string());
            }
            EventKind::NoCheckpoint { reason, .. } => {
                say(format!("                  no checkpoint: {reason}"));
            }
            EventKind::CheckpointUnusable {
                checkpoint, reason, ..
            } => {
                let checkpoint = short(checkpoint);
                say(format!(
                    "                  checkpoint {checkpoint} is of no use and is made anew: {reason}"
                ));
            }
            EventKind::RecordDoubted { step, reason, .. } => {
                say(format!(
                    "                  step {step} is looked at again, for by what is on record it does not hold: {reason}"
                ));
            }
            EventKind::StepStarted { title, last, .. } => {
                let under_way = state.of(scenario);
                title.clone_into(&mut under_way.title);
                under_way.phases.clear();
                let last = last
                    .map(|last| format!(" (last time {last:.0} s)"))
                    .unwrap_or_default();
                self.under_way(format!("{margin}{title}{last}"));
            }
            EventKind::Phase { phase, seconds, .. } => {
                let phases = &mut state.of(scenario).phases;
                phases.push(format!("{phase}: {seconds:.1} s"));
            }
            EventKind::StepFinished {
                step,
                seconds,
                recorded,
                ..
            } => {
                let under_way = state.of(scenario);
                if *recorded {
                    under_way.phases.push("as it was read then".to_owned());
                }
                let phases = match under_way.phases.as_slice() {
                    [] => String::new(),
                    phases => format!("  {}", style(format!("[{}]", phases.join("; "))).dim()),
                };
                let (title, steps) = (&under_way.title, under_way.steps);
                say(format!(
                    "  {step:>2}/{steps}  {seconds:>6.1} s  {title}{phases}"
                ));
            }
            EventKind::CheckHeld { check, seen, .. } => {
                say(format!(
                    "                  {} {check}: {seen}",
                    style("✓").green()
                ));
            }
            EventKind::Measured {
                measurement,
                recorded,
                ..
            } => {
                let Measurement {
                    time,
                    disk,
                    emulated,
                    speeds,
                    against,
                    ratios,
                } = measurement;
                let note = if *emulated {
                    " (emulated: nothing like real hardware)"
                } else {
                    ""
                };
                let when = if *recorded {
                    format!(", measured {}", time.strftime("%Y-%m-%d %H:%M UTC"))
                } else {
                    String::new()
                };
                say(format!("                  {disk}{note}{when}"));
                for (way, speed) in speeds {
                    let unit = if way.starts_with("random") {
                        "operations/s"
                    } else {
                        "MiB/s"
                    };
                    let ratio = ratios.as_ref().and_then(|ratios| ratios.get(way));
                    let ratio = ratio
                        .zip(against.as_ref())
                        .map_or_else(String::new, |(ratio, name)| {
                            format!("; {name} is {ratio:.2} times as fast")
                        });
                    say(format!(
                        "                    {way}: {speed:.1} {unit}{ratio}"
                    ));
                }
            }
            EventKind::ScenarioFinished {
                verdict,
                seconds,
                folder,
                ..
            } => {
                self.rest();
                state.0.remove(scenario);
                self.tell_verdict(scenario, verdict, *seconds, folder);
            }
            _ => {}
        }
    }

    fn tell_of_the_run(&self, kind: &EventKind) {
        match kind {
            EventKind::RunStarted {
                accelerator,
                reason,
                cpu,
                qemu,
                images,
                folder,
                ..
            } => {
                self.say(&format!("accelerator  {accelerator}: {reason}"));
                let images: Vec<String> = images
                    .iter()
                    .map(|(name, digest)| format!("{name} {}", short(digest)))
                    .collect();
                self.say(&format!(
                    "machine      QEMU {qemu}, CPU {cpu}, {}",
                    images.join(", ")
                ));
                self.say(&format!("evidence     {}", folder.display()));
            }
            EventKind::RunFinished {
                held,
                measured,
                failed,
                skipped,
                seconds,
            } => {
                self.rest();
                let measured = match measured {
                    0 => String::new(),
                    count => format!("{count} measured, "),
                };
                self.say(&format!(
                    "\n{measured}{held} held, {failed} failed, {skipped} skipped in {seconds:.1} s"
                ));
            }
            _ => {}
        }
    }

    fn tell_verdict(&self, scenario: &str, verdict: &Verdict, seconds: f64, folder: &Path) {
        let (word, note) = match verdict {
            Verdict::Held => (style("held").green(), String::new()),
            Verdict::FailedAsExpected { failure } => (
                style("held").green(),
                format!(", failing as it must: {}", failure.message),
            ),
            Verdict::Measured { failure: None } => {
                (style("measured").green(), ", it works".to_owned())
            }
            Verdict::Measured {
                failure: Some(failure),
            } => {
                let (title, message) = (&failure.title, one_line(&failure.message));
                let note = format!(", it fails at `{title}`: {message}");
                (style("measured").green(), note)
            }
            Verdict::Failed { .. } => (style("FAILED").red(), String::new()),
            Verdict::SetUpFailed { .. } => (style("SET-UP FAILED").red(), String::new()),
            Verdict::Interrupted => (style("INTERRUPTED").yellow(), String::new()),
            Verdict::Skipped { reason } => (style("skipped").yellow(), format!(": {reason}")),
        };
        self.say(&format!("  {word} {scenario} in {seconds:.1} s{note}"));
        for line in render_failure(verdict, folder).lines() {
            self.say(&format!("    {line}"));
        }
    }
}

impl Listener for Lines {
    fn hear(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&event.kind, &mut state);
    }
}

impl Observer for Lines {
    fn event(&self, event: BuildEvent) {
        match event {
            BuildEvent::Note(note) => self.say(&format!("images       {note}")),
            BuildEvent::Waiting(artifact) => {
                self.say(&format!(
                    "images       {artifact}: another process builds it; waiting"
                ));
            }
            BuildEvent::Started { artifact, reason } => {
                self.say(&format!("images       {artifact}: building ({reason})"));
                self.under_way("building images".to_owned());
            }
            BuildEvent::Line { artifact, line } => {
                self.under_way_now(&format!("{artifact}: {line}"))
            }
            BuildEvent::Finished { cached: true, .. } => {}
            BuildEvent::Finished {
                artifact,
                bytes,
                elapsed,
                ..
            } => self.say(&format!(
                "images       {artifact}: ready, {} in {:.0} s",
                HumanBytes(bytes),
                elapsed.as_secs_f64()
            )),
            BuildEvent::Failed(artifact) => self.say(&format!("images       {artifact}: failed")),
            // Kinds that are new are of no use to a person before somebody has given them words.
            _ => {}
        }
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
