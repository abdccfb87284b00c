//! Scenarios as data: a lab, a list of steps, and what must hold. A scenario can do nothing on L0:
//! there is no command and no path of the machine that runs the lab in any of these types.

mod check;
mod digest;
mod document;
pub mod edit;
mod expect;
mod fault;
mod file;
mod labs;
mod load;
pub(crate) mod nearest;
mod problem;
mod schema;
mod shape;
mod step;
mod template;
mod title;

pub(crate) use digest::of as digest_of;
pub use expect::{
    CHECKS, DriverState, Expect, ExpectNas, ExpectPve, ExpectedFailure, ExpectedFindings,
    FailureKind, PoolExpectation, SmartVerdict,
};
pub use fault::{
    Access, Awaited, CriticalWarning, CutDuring, DiskError, Flushes, Measure, NvmeWarning,
    PowerCuts,
};
pub use labs::Labs;
pub use load::{find, is_kebab, load_dir, load_file};
pub use problem::{Problem, ScenarioError};
pub use schema::{lab_schema, schema, schemas};
pub use step::{Action, GuestName, Rewire, Run, Scenario, Step, Vmid};
pub use template::template;

#[cfg(test)]
mod tests;
