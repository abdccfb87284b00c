//! Which steps of the write-up matter: a family of scenarios that leave its steps out one by one, what each
//! of them showed, and what that says of the step. Pure but for the folder of what was measured; the engine
//! runs the family, the command line prints the table.

mod family;
mod ingredient;
mod outcome;
mod record;
mod report;
mod results;
mod select;
mod verdict;

pub use family::{Cell, NoLab};
pub use ingredient::{Dropped, Environment, Ingredient};
pub use outcome::{BeforeStart, Fact, Outcome, Stop};
pub use record::{Fault, Record, RecordError, Records};
pub use report::{Heading, Report};
pub use results::{Measured, Results};
pub use select::{Outcomes, wanted};
pub use verdict::{Difference, Judgement, Verdict, differences, interact, judge};

#[cfg(test)]
mod testing;
