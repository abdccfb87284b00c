//! Where on a scenario's way a lab is to be held, as a person writes it: `SCENARIO[@STEP]`.

use std::str::FromStr;

use crate::scenario::Scenario;

/// A scenario's name and, if not its end is meant, one of its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The scenario.
    pub scenario: String,
    /// The step: its number, or a part of its title.
    pub step: Option<String>,
}

/// A scenario has no such step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It has fewer.
    #[error(
        "{scenario} has no step {number}: its steps are 1 to {last}, and 0 is the machine as it is switched on"
    )]
    NoSuchNumber {
        /// The scenario.
        scenario: String,
        /// What was asked for.
        number: usize,
        /// How many there are.
        last: usize,
    },
    /// No title has that in it.
    #[error("no step of {scenario} has `{words}` in its title; its steps are\n{titles}")]
    NoSuchTitle {
        /// The scenario.
        scenario: String,
        /// What was asked for.
        words: String,
        /// All titles.
        titles: String,
    },
    /// Several titles have that in them.
    #[error(
        "several steps of {scenario} have `{words}` in their titles; give more of it, or a number:\n{titles}"
    )]
    Ambiguous {
        /// The scenario.
        scenario: String,
        /// What was asked for.
        words: String,
        /// Those titles.
        titles: String,
    },
}

impl FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scenario, step) = match text.split_once('@') {
            Some((scenario, step)) => (scenario, Some(step.trim().to_owned())),
            None => (text, None),
        };
        Ok(Place {
            scenario: scenario.trim().to_owned(),
            step: step.filter(|step| !step.is_empty()),
        })
    }
}

impl Place {
    /// The number of the step after which the lab is to stand; 0 when it is only to be switched on.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn step_of(&self, scenario: &Scenario) -> Result<usize, PlaceError> {
        let steps = &scenario.steps;
        let Some(words) = &self.step else {
            return Ok(steps.len());
        };
        if let Ok(number) = words.parse::<usize>() {
            return match number <= steps.len() {
                true => Ok(number),
                false => Err(PlaceError::NoSuchNumber {
                    scenario: scenario.name.clone(),
                    number,
                    last: steps.len(),
                }),
            };
        }
        let wanted = words.to_lowercase();
        let titles = || steps.iter().map(|step| step.title.as_str()).enumerate();
        let hits: Vec<usize> = titles()
            .filter(|(_, title)| title.to_lowercase().contains(&wanted))
            .map(|(index, _)| index)
            .collect();
        let list = |chosen: &dyn Fn(usize) -> bool| {
            titles()
                .filter(|(index, _)| chosen(*index))
                .map(|(index, title)| format!("  {:>3}  {title}", index + 1))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let (scenario, words) = (scenario.name.clone(), words.clone());
        match hits.as_slice() {
            [one] => Ok(one + 1),
            [] => Err(PlaceError::NoSuchTitle {
                scenario,
                words,
                titles: list(&|_| true),
            }),
            several => Err(PlaceError::Ambiguous {
                scenario,
                words,
                titles: list(&|index| several.contains(&index)),
            }),
        }
    }
}

/// A place, in the words of the scenario.
pub(super) fn described(scenario: &Scenario, step: usize) -> String {
    match step
        .checked_sub(1)
        .and_then(|index| scenario.steps.get(index))
    {
        Some(one) => format!(
            "after step {step} of {} ({})",
            scenario.steps.len(),
            one.title
        ),
        None => "switched on, before its first step".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Labs, load_file};

    /// A scenario with three steps.
    fn scenario() -> Scenario {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("labs")).unwrap();
        let lab = "summary = \"No controller\"\niommu = \"none\"\n";
        std::fs::write(folder.path().join("labs/bare.toml"), lab).unwrap();
        let text = "summary = \"x\"\nlab = \"bare\"\n
            [[step]]\ntitle = \"Write GRUB's configuration\"\nrun = \"true\"
            [[step]]\ntitle = \"Reboot into the configuration\"\nreboot = true
            [[step]]\ntitle = \"Rebuild the initramfs\"\nrun = \"true\"\n";
        let path = folder.path().join("one.toml");
        std::fs::write(&path, text).unwrap();
        let labs = Labs::load(&folder.path().join("labs")).unwrap();
        load_file(&path, &labs).unwrap()
    }

    fn check(text: &str, expected: Result<usize, &str>) {
        let place: Place = text.parse().unwrap();
        match (place.step_of(&scenario()), expected) {
            (Ok(step), Ok(expected)) => assert_eq!(step, expected, "{text}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{text}: {error}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn a_step_is_named_by_its_number_or_by_a_part_of_its_title() {
        check("one", Ok(3));
        check("one@", Ok(3));
        check("one@0", Ok(0));
        check("one@2", Ok(2));
        check("one@reboot", Ok(2));
        check("one@INITRAMFS", Ok(3));
        check("one@4", Err("its steps are 1 to 3"));
        check(
            "one@configuration",
            Err("  1  Write GRUB's configuration\n    2  Reboot"),
        );
        check("one@snapshot", Err("  3  Rebuild the initramfs"));
    }
}
