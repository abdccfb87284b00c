//! The matrix as a person reads it: a table, the reasons below it, and what came of leaving out several
//! things at once. As Markdown, or drawn for a terminal.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use strum::IntoEnumIterator;

use super::ingredient::{Dropped, Environment, Ingredient};
use super::outcome::Outcome;
use super::results::Results;
use super::select::Outcomes;
use super::verdict::{Verdict, differences, interact, judge, why};

/// On what the matrix was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// L0: its processors and memory.
    pub machine: String,
    /// QEMU's version, KVM or TCG, and the host's CPU model.
    pub emulator: String,
    /// The images, with the beginnings of their digests.
    pub images: String,
}

/// The matrix, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    heading: Vec<[String; 2]>,
    columns: Vec<Environment>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
    together: Vec<String>,
}

/// What stands for a run that was not asked for.
const NOT_MEASURED: &str = "–";

impl Report {
    /// The table of what was measured: a row for each ingredient and a column for each machine that has
    /// anything, the write-up as it is first.
    pub fn new(results: &Results, heading: Heading) -> Self {
        let machines: Vec<(Environment, Outcomes)> = Environment::all()
            .map(|environment| (environment, results.outcomes(environment)))
            .filter(|(_, outcomes)| outcomes.contains_key(&Dropped::new()))
            .collect();
        let mut notes = Notes::default();
        let mut rows = Vec::new();
        let mut whole = vec!["nothing: the write-up as it is".to_owned()];
        for (_, outcomes) in &machines {
            whole.push(match &outcomes[&Dropped::new()] {
                Outcome { failure: None, .. } => "works".to_owned(),
                base => notes.cell("fails", base.failure.as_ref().map(|stop| why(stop, base))),
            });
        }
        rows.push(whole);
        for ingredient in Ingredient::all() {
            let mut row = vec![ingredient.text().to_owned()];
            let alone = Dropped::from([ingredient]);
            for (_, outcomes) in &machines {
                row.push(match outcomes.get(&alone) {
                    None => NOT_MEASURED.to_owned(),
                    Some(outcome) => {
                        let judgement = judge(&outcomes[&Dropped::new()], outcome);
                        notes.cell(&judgement.verdict.to_string(), judgement.reason)
                    }
                });
            }
            if row[1..].iter().any(|cell| cell != NOT_MEASURED) {
                rows.push(row);
            }
        }
        Report {
            heading: heading_lines(results, heading, &machines),
            columns: machines
                .iter()
                .map(|(environment, _)| *environment)
                .collect(),
            rows,
            notes: notes.0,
            together: together(&machines),
        }
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut table = self.table();
        table.load_preset(presets::ASCII_MARKDOWN);
        self.around(&table)
    }

    /// For a terminal, as wide as that is.
    pub fn terminal(&self) -> String {
        let mut table = self.table();
        table
            .load_preset(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic);
        self.around(&table)
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        let titles = self.columns.iter().map(|column| column.title());
        table.set_header(std::iter::once("left out").chain(titles));
        // A bar would end a cell of Markdown.
        let safe = |cell: &String| cell.replace('|', "\\|");
        for row in &self.rows {
            table.add_row(row.iter().map(safe));
        }
        table
    }

    fn around(&self, table: &Table) -> String {
        // Writing to a string cannot fail.
        let mut text = String::new();
        for [name, value] in &self.heading {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let _ = writeln!(text, "\n{table}\n");
        for verdict in Verdict::iter() {
            let _ = writeln!(text, "- *{verdict}*: {}", verdict.meaning());
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for (index, note) in self.notes.iter().enumerate() {
            let _ = writeln!(text, "{}. {note}", index + 1);
        }
        if !self.together.is_empty() {
            text.push_str("\nLeft out together:\n\n");
        }
        for line in &self.together {
            let _ = writeln!(text, "- {line}");
        }
        text
    }
}

/// The reasons, each once, in the order in which they come up.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    /// A cell that refers to its reason.
    fn cell(&mut self, word: &str, reason: Option<String>) -> String {
        let Some(reason) = reason else {
            return word.to_owned();
        };
        let known = self.0.iter().position(|note| *note == reason);
        let index = known.unwrap_or_else(|| {
            self.0.push(reason);
            self.0.len() - 1
        });
        format!("{word} ({})", index + 1)
    }
}

fn heading_lines(
    results: &Results,
    heading: Heading,
    machines: &[(Environment, Outcomes)],
) -> Vec<[String; 2]> {
    let days = results
        .all()
        .map(|one| one.taken.strftime("%F").to_string());
    let mut days: Vec<String> = days.collect();
    days.sort();
    let days = match (days.first(), days.last()) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (first, _) => first.cloned().unwrap_or_default(),
    };
    let mut kernels: Vec<String> = Vec::new();
    for (environment, _) in machines {
        for kernel in results.kernels(*environment) {
            if !kernels.iter().any(|known| known == kernel) {
                kernels.push(kernel.to_owned());
            }
        }
    }
    [
        ("measured", days),
        ("on", heading.machine),
        ("by", heading.emulator),
        ("images", heading.images),
        ("kernels", kernels.join(", ")),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .to_vec()
}

/// What came of leaving out several things at once, the machines with the same in one line.
fn together(machines: &[(Environment, Outcomes)]) -> Vec<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for (environment, outcomes) in machines {
        for (dropped, outcome) in outcomes.iter().filter(|(dropped, _)| dropped.len() > 1) {
            let Some(line) = line(dropped, outcome, outcomes) else {
                continue;
            };
            match lines.iter_mut().find(|(known, _)| *known == line) {
                Some((_, titles)) => titles.push(environment.title()),
                None => lines.push((line, vec![environment.title()])),
            }
        }
    }
    let told = |(line, titles): (String, Vec<&str>)| format!("{}: {line}", titles.join("; "));
    lines.into_iter().map(told).collect()
}

/// What several ingredients do together; nothing where what they do alone is not known.
fn line(dropped: &Dropped, outcome: &Outcome, outcomes: &Outcomes) -> Option<String> {
    let base = &outcomes[&Dropped::new()];
    let alone = dropped
        .iter()
        .map(|one| outcomes.get(&Dropped::from([*one])));
    let alone: Vec<&Outcome> = alone.collect::<Option<_>>()?;
    let list: Vec<&str> = dropped.iter().map(|one| one.text()).collect();
    let list = list.join(", ");
    let changes = !differences(base, outcome).is_empty();
    Some(match (interact(base, &alone, outcome), changes) {
        (false, false) if base.works() => format!("{list}: nothing differs"),
        (false, false) => format!("{list}: it fails in the same way"),
        (false, true) => format!("{list}: as each of them alone"),
        (true, false) => format!("{list}: they undo each other, nothing differs"),
        (true, true) => {
            let judgement = judge(base, outcome);
            let reason = judgement.reason.unwrap_or_default();
            format!("{list}, **other than each of them alone**: {reason}")
        }
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::family::Cell;
    use super::super::results::Measured;
    use super::super::testing::{ahci_first, changed, dropped, fails, works};
    use super::*;

    fn heading() -> Heading {
        Heading {
            machine: "2 processors".to_owned(),
            emulator: "QEMU 11.1.3, TCG".to_owned(),
            images: "proxmox-like 5df4fe601fa3".to_owned(),
        }
    }

    fn results(list: Vec<(Environment, &[Ingredient], Outcome)>) -> Results {
        let mut results = Results::default();
        for (number, (environment, ingredients, outcome)) in list.into_iter().enumerate() {
            let day = 86_400 * (number as i64 % 2);
            let measured = Measured {
                outcome,
                taken: Timestamp::from_second(1_795_500_000 + day).unwrap(),
                kernel: Some(format!(
                    "6.{}",
                    if environment < Environment::Pve8 {
                        12
                    } else {
                        1
                    }
                )),
            };
            let dropped = dropped(ingredients);
            results.insert(
                Cell {
                    environment,
                    dropped,
                },
                measured,
            );
        }
        results
    }

    #[test]
    fn the_matrix_as_markdown() {
        use Ingredient::{BlacklistAhci, FirstReboot, Hostpci, Pcie, UpdateInitramfs, VfioVirqfd};
        let silent = changed(|before| before.modules_failed.clear());
        let results = results(vec![
            (Environment::Pve9, &[], works()),
            (Environment::Pve9, &[FirstReboot], works()),
            (Environment::Pve9, &[VfioVirqfd], silent),
            (Environment::Pve9, &[BlacklistAhci], ahci_first()),
            (Environment::Pve9, &[UpdateInitramfs], ahci_first()),
            (Environment::Pve9, &[Hostpci], fails("no | disks")),
            (Environment::Pve9, &[Pcie], works()),
            (Environment::Pve9, &[FirstReboot, Pcie], works()),
            (
                Environment::Pve9,
                &[BlacklistAhci, UpdateInitramfs],
                ahci_first(),
            ),
            (Environment::Pve8, &[], works()),
            (Environment::Pve8, &[FirstReboot], works()),
            (Environment::Pve8, &[BlacklistAhci], ahci_first()),
            (Environment::Pve8, &[Pcie], works()),
            (Environment::Pve8, &[FirstReboot, Pcie], fails("not both")),
            (Environment::Pve8NoVtd, &[], fails("IOMMU not present")),
            (Environment::Pve8NoVtd, &[Hostpci], fails("no disks")),
            (Environment::Pve8NoVtd, &[Pcie], fails("IOMMU not present")),
            (
                Environment::Pve8NoVtd,
                &[FirstReboot],
                fails("IOMMU not present"),
            ),
            (
                Environment::Pve8NoVtd,
                &[FirstReboot, Pcie],
                fails("IOMMU not present"),
            ),
        ]);
        insta::assert_snapshot!(Report::new(&results, heading()).markdown());
    }

    #[test]
    fn a_bar_in_a_cell_does_not_end_it() {
        let results = results(vec![(Environment::Pve9, &[], works())]);
        let mut report = Report::new(&results, heading());
        report.rows[0][0] = "a | b".to_owned();
        assert!(report.markdown().contains("| a \\| b "));
    }

    #[test]
    fn a_machine_of_which_nothing_is_known_has_no_column() {
        let results = results(vec![(Environment::Pve8, &[], works())]);
        let text = Report::new(&results, heading()).terminal();
        assert!(text.contains("Proxmox 8-like, VT-d"), "{text}");
        assert!(!text.contains("Proxmox 9-like"), "{text}");
    }
}
