//! Power cuts: logs of what is written to disks, a machine that stands still for a moment, and disks that
//! hold what a cut left on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::argv::Bay;
use super::nbd::Nbd;
use super::power::{Machine, MachineError};
use super::write_log::{Kind, WriteLog};
use crate::dice::Dice;
use crate::scenario::Flushes;

/// A disk after a power cut.
#[derive(Debug, Clone)]
pub struct CutDisk {
    /// Where it is.
    pub bay: Bay,
    /// What its block node is called.
    pub node: String,
    /// An empty file, to take what is left of the writes.
    pub file: PathBuf,
    /// What was on the disk when the log began.
    pub below: Option<Value>,
    /// What was written since.
    pub log: Arc<WriteLog>,
    /// How long the log was when the power went.
    pub length: u64,
    /// What the disk did when it was asked to flush.
    pub flushes: Flushes,
    /// Which of the unflushed writes are lost.
    pub seed: u64,
}

impl CutDisk {
    /// How many writes the cut has lost.
    pub fn lost(&self) -> usize {
        let mut dice = Dice::new(self.seed);
        self.log.lost(self.length, self.flushes, &mut dice)
    }
}

impl Machine {
    /// Logs every write to a disk in a new file from now on. It costs a second write of everything.
    ///
    /// # Errors
    /// When the file cannot be made, or QEMU refuses or does not answer.
    pub async fn log_writes(&mut self, bay: &Bay, file: &Path) -> Result<(), MachineError> {
        std::fs::File::create(file).map_err(|source| MachineError::SetUp {
            what: "log of writes",
            source,
        })?;
        let log = json!({
            "driver": "file", "filename": file.to_string_lossy(), "cache": { "no-flush": true },
        });
        let filter = json!({ "driver": "blklogwrites", "log": log });
        self.put_over(bay, "file", filter).await.map(drop)
    }

    /// Stops the machine's time: nothing of QEMU runs when this returns.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn hold_breath(&self) -> Result<(), MachineError> {
        self.process.halt(self.deadlines.qmp).await?;
        Ok(())
    }

    /// Lets the machine's time go on.
    pub fn breathe(&self) {
        self.process.go_on();
    }

    /// Gives a drive the disk that a power cut left.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer, or the disk cannot be written.
    pub async fn insert_cut(&mut self, disk: &CutDisk) -> Result<(), MachineError> {
        let file = json!({
            "driver": "file", "filename": disk.file.to_string_lossy(), "cache": { "no-flush": true },
        });
        let node = json!({
            "driver": "qcow2", "node-name": disk.node, "discard": "unmap", "file": file,
            "cache": { "no-flush": true }, "backing": disk.below,
        });
        self.monitor("blockdev-add", node).await?;
        self.write_survivors(disk).await?;
        self.attach(&disk.bay, &disk.node).await
    }

    /// Gives a drive a disk again that it had before, and forgets the one that it has.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn put_back(&mut self, kept: &CutDisk, left: &CutDisk) -> Result<(), MachineError> {
        self.attach(&kept.bay, &kept.node).await?;
        self.monitor("blockdev-del", json!({ "node-name": left.node }))
            .await?;
        Ok(())
    }

    async fn write_survivors(&self, disk: &CutDisk) -> Result<(), MachineError> {
        let socket = self.sockets.join("nbd");
        let address = json!({ "type": "unix", "data": { "path": socket.to_string_lossy() } });
        self.monitor("nbd-server-start", json!({ "addr": address }))
            .await?;
        let export = json!({
            "type": "nbd", "id": "cut", "node-name": disk.node, "name": "cut", "writable": true,
        });
        self.monitor("block-export-add", export).await?;
        let limit = self.deadlines.qmp;
        let (log, flushes, length) = (Arc::clone(&disk.log), disk.flushes, disk.length);
        let mut dice = Dice::new(disk.seed);
        let path = socket.clone();
        let write = move || {
            let mut nbd = Nbd::connect(&path, "cut", limit)?;
            for entry in log.survivors(length, flushes, &mut dice) {
                match &entry.kind {
                    Kind::Write { offset, data, .. } => nbd.write(*offset, log.data(data))?,
                    Kind::Discard { offset, length } => nbd.zero(*offset, *length)?,
                    Kind::Flush => {}
                }
            }
            nbd.close()
        };
        let written = tokio::task::spawn_blocking(write).await;
        let written = written.map_err(std::io::Error::from).flatten();
        // Ends the export too.
        self.monitor("nbd-server-stop", json!({})).await?;
        // QEMU may have removed it.
        let _ = std::fs::remove_file(&socket);
        written.map_err(|source| MachineError::SetUp {
            what: "disk after a power cut",
            source,
        })
    }
}
