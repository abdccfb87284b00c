//! All rules, by what they are about.

mod blacklist;
mod boot;
mod drivers;
mod group;
mod health;
mod initramfs;
mod iommu;
mod list;
mod references;
mod storage;
mod vm;

pub use list::{advice, derive, rule, rules};
