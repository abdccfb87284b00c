//! The channels against fakes that behave badly: they stall, answer late, die, and say what nobody
//! asked for. Every deadline here is of milliseconds, so the whole takes a second.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on ends by panicking"
)]

mod agent;
mod fake;
mod guest;
mod nested;
mod qmp;
mod real;
