//! The `qm` of the guest.

fn main() {}
