//! Freezing a machine and going on from what was frozen: its disks by new layers over them, its RAM by reading and
//! filling the file that it is, its devices by QEMU's migration through a Unix socket, whose other end is the caller's.
//!
//! What the bytes become is the caller's business ([`crate::checkpoint`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;
use std::time::Duration;

use qapi::qmp;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::argv::Placement;
use super::console::Console;
use super::memory::Memory;
use super::power::{Machine, MachineError};
use super::status::Status;
use crate::accel::Deadlines;
use crate::lab::Lab;
use crate::poll::{Pace, TimedOut, poll};

/// QEMU's own limit is for networks; this is none.
const NO_LIMIT: u64 = 1 << 40;

/// What a machine goes on from. Each works on a thread of its own.
#[derive(Debug)]
pub struct Saved<R, D> {
    /// Fills the file that its RAM is, which is all zero.
    pub ram: R,
    /// Gives the stream of the devices that [`Machine::save`] gave.
    pub devices: D,
}

impl Machine {
    /// Why QEMU cannot save this machine's RAM, in QEMU's words; `None` when it can.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn unsavable(&self) -> Result<Option<String>, MachineError> {
        let answer = self.monitor("query-migrate", json!({})).await?;
        let reasons: Vec<&str> = answer["blocked-reasons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        Ok((!reasons.is_empty()).then(|| reasons.join("; ")))
    }

    /// Stops the CPUs.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn pause(&self) -> Result<(), MachineError> {
        self.asked.stops.fetch_add(1, Ordering::SeqCst);
        self.qmp.execute(qmp::stop {}, self.deadlines.qmp).await?;
        Ok(())
    }

    /// Lets the CPUs run again.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn go_on(&self) -> Result<(), MachineError> {
        self.resume().await
    }

    /// Has these disks, by number, written to new files from now on; what was written to before is frozen. All in
    /// one transaction, with the CPUs stopped.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn freeze_disks(
        &mut self,
        overlays: &BTreeMap<usize, PathBuf>,
    ) -> Result<(), MachineError> {
        self.freezes += 1;
        let mut actions = Vec::new();
        let mut nodes = self.nodes.clone();
        for (number, overlay) in overlays {
            let node = &self.nodes[*number];
            let role = node.split('.').next().unwrap_or(node);
            let name = format!("{role}.live{}", self.freezes);
            let options = json!({
                "driver": "qcow2", "node-name": name, "discard": "unmap", "backing": null,
                "cache": { "no-flush": true },
                "file": {
                    "driver": "file", "filename": overlay.to_string_lossy(),
                    "cache": { "no-flush": true },
                },
            });
            self.monitor("blockdev-add", options).await?;
            actions.push(json!({
                "type": "blockdev-snapshot", "data": { "node": node, "overlay": name },
            }));
            nodes[*number] = name;
        }
        self.monitor("transaction", json!({ "actions": actions }))
            .await?;
        self.nodes = nodes;
        Ok(())
    }

    /// Saves RAM and devices of a machine whose CPUs are stopped: `devices` gets a stream of what QEMU saves, and after
    /// that `ram` the file that its RAM is, each on a thread of its own. The CPUs stay stopped.
    ///
    /// # Errors
    /// When QEMU refuses, or the stream ends early; the machine can go on in either case.
    pub async fn save<D: Send + 'static, R: Send + 'static>(
        &self,
        devices: impl FnOnce(UnixStream) -> io::Result<D> + Send + 'static,
        ram: impl FnOnce(&File) -> io::Result<R> + Send + 'static,
    ) -> Result<(D, R), MachineError> {
        let socket = self.sockets.join("save");
        let failed = |source| MachineError::SetUp {
            what: "channel for its state",
            source,
        };
        // An earlier checkpoint of this machine may have left one.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        self.prepare_migration().await?;
        let mut status = self.status.clone();
        let before = status.borrow().migrations;
        let uri = format!("unix:{}", socket.display());
        self.monitor("migrate", json!({ "uri": uri })).await?;
        let work = async {
            let accept = async {
                let (stream, _) = listener.accept().await?;
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                tokio::task::spawn_blocking(move || devices(stream)).await?
            };
            let accept = async { accept.await.map_err(Transfer::Io) };
            let (devices, ()) = tokio::try_join!(accept, migration(&mut status, before))?;
            // What a device still had for the guest is in its RAM by now.
            Ok((devices, with(&self.memory, ram).await?))
        };
        let saved = self.transfer("the state to be saved", work).await;
        let _ = std::fs::remove_file(&socket);
        saved
    }

    /// Starts QEMU with a saved state. The CPUs stay stopped, so that the caller can still decide that it is not to be
    /// used. `console` knows what the host said before.
    ///
    /// # Errors
    /// When QEMU cannot be started or does not take the state.
    pub async fn restore(
        program: Command,
        lab: &Lab,
        place: &Placement,
        evidence: &Path,
        deadlines: Deadlines,
        console: Console,
        saved: Saved<
            impl FnOnce(&File) -> io::Result<()> + Send + 'static,
            impl FnOnce(UnixStream) -> io::Result<()> + Send + 'static,
        >,
    ) -> Result<Self, MachineError> {
        let Saved { ram, devices } = saved;
        let machine = Self::connect(program, lab, place, evidence, deadlines, console).await?;
        machine.prepare_migration().await?;
        let before = machine.status.borrow().migrations;
        let socket = machine.sockets.join("load");
        let uri = format!("unix:{}", socket.display());
        let mut status = machine.status.clone();
        // Whatever QEMU has put there meanwhile is not of this state.
        machine
            .memory
            .clear()
            .map_err(|source| MachineError::SetUp {
                what: "RAM",
                source,
            })?;
        machine
            .transfer("the RAM to be filled", with(&machine.memory, ram))
            .await?;
        machine
            .monitor("migrate-incoming", json!({ "uri": uri }))
            .await?;
        let work = async {
            // QEMU listens a moment after it has answered.
            let stream = poll(
                "QEMU to take its devices",
                deadlines.qmp,
                Pace::QUICK,
                async || Ok::<_, TimedOut>(UnixStream::connect(&socket).ok()),
            )
            .await?;
            let feed = async {
                let fed = tokio::task::spawn_blocking(move || devices(stream)).await;
                fed.map_err(io::Error::from).flatten().map_err(Transfer::Io)
            };
            let ((), ()) = tokio::try_join!(feed, migration(&mut status, before))?;
            Ok(())
        };
        machine.transfer("the devices to be restored", work).await?;
        Ok(machine)
    }

    /// Tells the machine which boot it is in, and that its agent listens: a state that was restored says
    /// neither by events.
    pub fn adopt(&mut self, boot_id: &str) {
        boot_id.clone_into(&mut self.boot_id);
    }

    async fn prepare_migration(&self) -> Result<(), MachineError> {
        let on = |name| json!({ "capability": name, "state": true });
        let capabilities = json!({ "capabilities": [on("events"), on("x-ignore-shared")] });
        self.monitor("migrate-set-capabilities", capabilities)
            .await?;
        self.monitor(
            "migrate-set-parameters",
            json!({ "max-bandwidth": NO_LIMIT }),
        )
        .await?;
        Ok(())
    }

    pub(super) async fn monitor(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, MachineError> {
        let limit = self.deadlines.qmp;
        Ok(self.qmp.execute_untyped(command, arguments, limit).await?)
    }

    /// QEMU's end while it saves or takes a state. That is its answer to the state, unless somebody ended it.
    fn ended_during(&self, what: &str, status: ExitStatus) -> MachineError {
        let (what, words) = (what.to_owned(), self.process.last_words());
        let from_outside = [Signal::HUP, Signal::INT, Signal::KILL, Signal::TERM];
        match status.signal().and_then(Signal::from_named_raw) {
            Some(signal) if from_outside.contains(&signal) => MachineError::Exited {
                what,
                status,
                words,
            },
            _ => MachineError::State {
                what,
                trouble: format!("QEMU ended ({status})"),
                words,
            },
        }
    }

    async fn transfer<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Transfer>>,
    ) -> Result<T, MachineError> {
        let limit: Duration = self.deadlines.state;
        tokio::select! {
            biased;
            result = tokio::time::timeout(limit, work) => match result {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(Transfer::Late(late))) => Err(late.into()),
                Ok(Err(error)) => Err(MachineError::State {
                    what: what.to_owned(),
                    trouble: error.to_string(),
                    words: self.process.last_words(),
                }),
                Err(_) => Err(TimedOut { what: what.to_owned(), waited: limit }.into()),
            },
            status = self.process.wait() => Err(self.ended_during(what, status)),
        }
    }
}

/// What ends a transfer of a machine's state.
#[derive(Debug, thiserror::Error)]
enum Transfer {
    #[error("QEMU reports that it {0}")]
    Ended(String),
    #[error("{0}")]
    Io(io::Error),
    #[error(transparent)]
    Late(#[from] TimedOut),
}

/// Has a machine's RAM read or filled, on a thread for work that blocks.
async fn with<T: Send + 'static>(
    memory: &Memory,
    work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
) -> Result<T, Transfer> {
    let memory = memory.clone();
    let done = tokio::task::spawn_blocking(move || work(memory.file())).await;
    done.map_err(io::Error::from)
        .flatten()
        .map_err(Transfer::Io)
}

/// Waits for the end of the migration that follows so many earlier ones.
async fn migration(status: &mut watch::Receiver<Status>, earlier: u32) -> Result<(), Transfer> {
    match status.wait_for(|status| status.migrations > earlier).await {
        Ok(status) => match status.migration.as_str() {
            "completed" => Ok(()),
            other => Err(Transfer::Ended(other.to_owned())),
        },
        // QEMU's end is watched beside this.
        Err(_) => std::future::pending().await,
    }
}
