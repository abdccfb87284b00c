//! Nobody: writes down what it is asked to run and runs nothing, so that commands can be shown before
//! they are run.

use std::sync::{Mutex, PoisonError};

use super::exec::{Exec, Guest, GuestError, Output};

/// A guest that refuses everything and remembers what it was.
#[derive(Debug, Default)]
pub struct Rehearsal {
    commands: Mutex<Vec<String>>,
}

impl Rehearsal {
    /// The commands so far.
    pub fn commands(&self) -> Vec<String> {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn refuse(&self, request: String) -> GuestError {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.push(request.clone());
        GuestError::Refused {
            guest: self.name(),
            request,
            message: "this is a rehearsal".to_owned(),
        }
    }
}

impl Guest for Rehearsal {
    fn name(&self) -> &'static str {
        "the rehearsal"
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        Err(self.refuse(exec.command_line()))
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        Err(self.refuse(format!("cat {path}")))
    }

    async fn write_file(&self, path: &str, _: &[u8]) -> Result<(), GuestError> {
        Err(self.refuse(format!("write {path}")))
    }
}
