//! What is kept of a run as evidence, in its folder.

use super::act::last_lines;
use super::failure::{StepError, chain};
use super::run::Runner;
use super::{nas, silence};
use crate::machine::{Machine, MachineError};

impl Runner<'_> {
    /// Keeps a file of evidence.
    pub(super) fn keep(&self, name: &str, content: &str) -> Result<(), StepError> {
        self.folder
            .write(name, content)
            .map_err(|error| StepError::SetUp(chain(&error)))
    }

    /// The machine, unless its agent is silent: whatever it were asked would be waited for in vain.
    pub(super) fn answering(&self) -> Option<&Machine> {
        self.machine
            .as_ref()
            .filter(|machine| !machine.agent().is_silent())
    }

    /// Keeps what the NAS has written to its console, and gives the last lines of its last boot. None when it
    /// cannot be read.
    pub(super) async fn keep_nas_console(&self) -> Option<Vec<String>> {
        let machine = self.answering()?;
        let limit = self.session.ground.deadlines().agent_answer;
        let read = async { Ok::<_, MachineError>(nas::console(machine.agent()).await) };
        // The watch does not ask a host that is gone.
        let bytes = machine
            .watched("the console of the NAS", limit, read)
            .await
            .ok()??;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.keep("nas-console.log", &text).ok()?;
        Some(
            last_lines(nas::since_last_boot(&text), 40)
                .lines()
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Evidence of what a NAS does that answers no more.
    pub(super) async fn keep_nas_processor(&self) {
        let Some(machine) = self.answering() else {
            return;
        };
        let limit = self.session.ground.deadlines().agent_answer;
        let read = async {
            Ok::<_, MachineError>(silence::processor(machine.agent(), nas::NAS, limit).await)
        };
        let seen = machine.watched("the processor of the NAS", limit, read);
        if let Ok(seen) = seen.await
            && !seen.is_empty()
        {
            // The failure itself is worse than that this cannot be kept.
            let _ = self.keep("nas-processor.txt", &seen);
        }
    }
}
