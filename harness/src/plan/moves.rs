//! What changes a lab's state, apart from what only looks at it.

use serde::Serialize;

use crate::lab::Lab;
use crate::scenario::{Action, Scenario};

/// Something that changes the state of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Move {
    /// The machine is switched on with this hardware, and comes up.
    PowerOn {
        /// The hardware. Its summary is empty: it changes nothing.
        lab: Box<Lab>,
        /// What becomes of the disks.
        bays: Bays,
    },
    /// The host shuts down and the machine is off.
    PowerOff,
    /// A step of the scenario, the machine being on.
    Act(Box<Action>),
}

/// Which disks a machine has that is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bays {
    /// Disks as their images are, and empty ones. The host gets VM 100's first configuration.
    New,
    /// Each disk stays where it is, whatever its label says now.
    Kept,
    /// The disks of a new machine are those with the same serial numbers.
    BySerial,
}

impl Move {
    /// Its name in the memory of how long things take.
    pub fn digest(&self) -> String {
        match self {
            Move::PowerOn { .. } => "power-on".to_owned(),
            Move::PowerOff => "power-off".to_owned(),
            // Not the step's own name: a step can be more than one move.
            Move::Act(action) => format!("move-{}", action.digest()),
        }
    }

    /// What a person calls it.
    pub fn title(&self) -> String {
        match self {
            Move::PowerOn { lab, .. } => format!("switch on a machine with {}", lab.in_short()),
            Move::PowerOff => "shut the host down".to_owned(),
            Move::Act(action) => action.title(),
        }
    }

    /// Whether the machine is off after it.
    pub fn leaves_off(&self) -> bool {
        matches!(self, Move::PowerOff)
    }
}

/// One step of a scenario, as what it changes and whether it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The step's number, from 1; one more than there are for the closing expectations.
    pub step: usize,
    /// What it changes, in this order.
    pub moves: Vec<Move>,
    /// Whether it reads facts after that.
    pub looks: bool,
}

/// A scenario as its legs. The first of them begins with the machine being switched on.
pub fn legs(scenario: &Scenario) -> Vec<Leg> {
    let mut lab = bare(&scenario.lab);
    let mut on = false;
    let mut legs = Vec::with_capacity(scenario.steps.len() + 1);
    for (index, step) in scenario.steps.iter().enumerate() {
        let mut moves = Vec::new();
        let rewired = rewire(&mut lab, &step.action);
        if on && rewired.is_some() {
            moves.push(Move::PowerOff);
        }
        if !on || rewired.is_some() {
            let lab = Box::new(lab.clone());
            let bays = rewired.filter(|_| on).unwrap_or(Bays::New);
            moves.push(Move::PowerOn { lab, bays });
            on = true;
        }
        if rewired.is_none() && !step.action.only_looks() {
            moves.push(Move::Act(Box::new(step.action.clone())));
        }
        legs.push(Leg {
            step: index + 1,
            moves,
            looks: step.action.only_looks(),
        });
    }
    if scenario.checks_at_the_end() {
        let moves = match on {
            true => Vec::new(),
            false => vec![Move::PowerOn {
                lab: Box::new(lab),
                bays: Bays::New,
            }],
        };
        legs.push(Leg {
            step: scenario.steps.len() + 1,
            moves,
            looks: true,
        });
    }
    legs
}

/// The lab of the machine that a scenario begins with, whose images its disks begin as.
pub fn first_lab(scenario: &Scenario) -> &Lab {
    match scenario.steps.first().map(|step| &step.action) {
        Some(Action::Rewire(other)) => &other.lab,
        _ => &scenario.lab,
    }
}

fn bare(lab: &Lab) -> Lab {
    Lab {
        summary: String::new(),
        ..lab.clone()
    }
}

/// Changes the hardware if that is what the action does, and says what becomes of the disks.
fn rewire(lab: &mut Lab, action: &Action) -> Option<Bays> {
    match action {
        Action::Rewire(other) => {
            *lab = bare(&other.lab);
            Some(Bays::BySerial)
        }
        Action::SwapSerials(pair) => {
            lab.swap_serials(pair);
            Some(Bays::Kept)
        }
        _ => None,
    }
}
