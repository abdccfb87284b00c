//! Scenarios as data: a lab, a list of steps, and what must hold. A scenario can do nothing on L0:
//! there is no host command and no host path in any of these types.

mod expect;
mod step;

pub use expect::{
    DriverState, Expect, ExpectNas, ExpectPve, ExpectedFailure, FailureKind, PoolExpectation,
    SmartVerdict,
};
pub use step::{Action, GuestName, Run, Scenario, Step, Vmid};
