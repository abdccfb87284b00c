//! Doors: virtio-serial ports of the host through which a person comes in. They are part of every lab's
//! machine, so that checkpoints fit whoever looks in later; nothing listens at them until somebody knocks.
//!
//! What goes through a door is the caller's business ([`crate::held`]).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;

use super::power::Machine;
use super::status::Status;
use crate::guest::Agent;

/// How many there are: so many callers can be inside at a time.
pub const DOORS: usize = 2;

/// A door's id, as QMP's `VSERPORT_CHANGE` names it.
pub(super) fn id(number: usize) -> String {
    format!("door{number}")
}

/// The name by which a guest knows a door.
pub fn port_name(number: usize) -> String {
    format!("lab.door.{number}")
}

/// L0's end of a door.
pub(super) fn socket(sockets: &Path, number: usize) -> PathBuf {
    sockets.join(id(number))
}

/// The doors of a running machine, for tasks that outlive a borrow of it.
#[derive(Debug, Clone)]
pub struct Doors {
    sockets: PathBuf,
    status: watch::Receiver<Status>,
    agent: Agent,
    command: Duration,
}

/// A door that somebody stands in. The guest sees a hang-up when it is dropped.
#[derive(Debug)]
pub struct Door {
    /// What goes in and comes out.
    pub stream: UnixStream,
    /// What the guest does with its end.
    pub guest: GuestEnd,
}

/// The guest's end of a door.
#[derive(Debug)]
pub struct GuestEnd {
    id: String,
    closings: u32,
    status: watch::Receiver<Status>,
}

impl Machine {
    /// Its doors.
    pub fn doors(&self) -> Doors {
        Doors {
            sockets: self.sockets.clone(),
            status: self.status.clone(),
            agent: self.agent.clone(),
            command: self.deadlines.command,
        }
    }
}

impl Doors {
    /// Stands in a door, before anything in the guest opens it: a port without anybody outside reads as
    /// one that has hung up.
    ///
    /// # Errors
    /// When QEMU does not let anybody in, because it has ended.
    pub async fn enter(&self, number: usize) -> io::Result<Door> {
        let id = id(number);
        let closings = self.status.borrow().doors.closings(&id);
        let stream = UnixStream::connect(socket(&self.sockets, number)).await?;
        let status = self.status.clone();
        Ok(Door {
            stream,
            guest: GuestEnd {
                id,
                closings,
                status,
            },
        })
    }

    /// The host's guest agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// How long a command in a guest may take.
    pub fn command_limit(&self) -> Duration {
        self.command
    }
}

impl GuestEnd {
    /// Waits until the guest has closed its end after it had opened it, by itself or because it went down.
    /// It may be told up to a second later.
    pub async fn closed(&mut self) {
        let (id, before) = (&self.id, self.closings);
        let closed = |status: &Status| status.doors.closings(id) > before;
        // The events end with QEMU, and everything with it.
        let _ = self.status.wait_for(closed).await;
    }
}
