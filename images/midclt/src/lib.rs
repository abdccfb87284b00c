//! The `midclt` of the truenas-like guest: `midclt call disk.query`, answered as TrueNAS's middleware answers it, so that
//! the harness asks the same question here as of a real TrueNAS.
//!
//! | module | holds |
//! |---|---|
//! | [`device`] | what sysfs and udev's database say of block devices |
//! | [`disk`] | a disk as the middleware describes it |
//! | [`pool`] | which disk belongs to which pool, by `zpool status -j` |
//! | [`query`] | filters and options of a query |
//! | [`cli`] | the command line |
//!
//! Fields and rules follow the middleware as published (`plugins/device_/device_info.py`, `plugins/disk_/sync.py`,
//! `plugins/disk.py`). The middleware keeps disks in a database; here they are looked up at every call.

pub mod cli;
pub mod device;
pub mod disk;
pub mod json;
pub mod pool;
pub mod query;
