//! The images of the lab: the toolbox, the Proxmox-like hosts and the TrueNAS-like guest. They are built from the recipes
//! under `images/recipes/`, kept in a cache outside the checkout, and handed out as paths with their digests.
//!
//! [`ensure`] is the whole of it: it returns at once when everything is there, and builds what is missing or damaged.
//! This crate knows nothing of how the images are used.

mod build;
mod cache;
mod cancel;
mod correction;
mod digest;
mod disk;
mod error;
mod event;
mod guest_programs;
mod maintain;
mod manifest;
mod merge;
mod mmdebstrap;
mod privilege;
mod process;
mod recipe;
mod toolbox;
mod tree;
mod workshop;

pub use build::{DiskImage, ImageSet, Images, ensure, ensure_all};
pub use cache::Cache;
pub use cancel::Cancel;
pub use error::{Error, Result};
pub use event::{Artifact, BuildEvent, HostImage, ImageName, Observer};
pub use maintain::{Entry, Keep, State, Verdict, clean, list, status, verify};
pub use manifest::Manifest;
pub use privilege::Privilege;
pub use toolbox::Toolbox;
