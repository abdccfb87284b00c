//! Checkpoints: frozen states of whole labs, kept in the cache and found again by their key.
//!
//! A checkpoint is a folder: the disks' layers, RAM and devices if the machine was on, and `meta.json`, which is
//! written last. It is made beside and renamed. What is in it is checked by digest before a machine goes
//! on from it; what is damaged is thrown away and made anew. How a machine is frozen is
//! [`crate::machine`]'s business, when it is done [`crate::engine`]'s.

mod devices;
mod hashing;
mod meta;
mod packed;
mod ram;
mod records;
mod store;

pub use devices::{load_devices, save_devices};
pub use meta::{FileMeta, Frozen, FrozenDisk, LayerRef, Meta, Nas};
pub use ram::{load_ram, save_ram};
pub use records::{Recorder, Recording, Records, Replay};
pub use store::{Checkpoint, Draft, Store, StoreError, Usage};
