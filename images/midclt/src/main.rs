//! The `midclt` of the guest.

fn main() {}
