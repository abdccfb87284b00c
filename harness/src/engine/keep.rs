//! What is kept of a run as evidence, in its folder.

use super::failure::{Failure, StepError, chain};
use super::run::Runner;
use super::{nas, silence};
use crate::guest::{Exec, Guest};
use crate::machine::{Console, Machine, MachineError};
use crate::scenario::FailureKind;

/// The boot that the NAS says it is in.
async fn boot_of(machine: &Machine, nas: &nas::Running) -> Result<String, MachineError> {
    let limit = machine.limits().agent_answer;
    let ask = nas.guest.run(Exec::boot_id(limit));
    let answer = machine.watched("the boot of the NAS", limit, ask).await?;
    Ok(answer.stdout_text().trim().to_owned())
}

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
        let console = Console::default();
        console.feed(nas::since_last_boot(&text).as_bytes());
        Some(console.tail())
    }

    /// The failure of a NAS that was reset since it came up. None also when it does not say in which boot it is.
    pub(super) async fn reset_of_nas(&self) -> Option<Failure> {
        let (machine, nas) = self.answering().zip(self.nas.as_ref())?;
        let now = boot_of(machine, nas).await.ok()?;
        (now != nas.boot_id).then(Failure::reset_of_nas)
    }

    /// What is wrong with the NAS at a scenario's end: it was reset, or it runs and does not answer.
    pub(super) async fn nas_is_lost(&self) -> Option<Failure> {
        let (machine, nas) = self.answering().zip(self.nas.as_ref())?;
        let error = match boot_of(machine, nas).await {
            Ok(now) => return (now != nas.boot_id).then(Failure::reset_of_nas),
            Err(error) => error,
        };
        let limit = machine.limits().command;
        let status = Exec::new("qm", ["status".to_owned(), nas.vm.to_string()], limit);
        let status = machine.watched("the state of the NAS", limit, machine.agent().run(status));
        let runs = status
            .await
            .is_ok_and(|said| said.stdout_text().contains("running"));
        let message = || {
            format!(
                "VM {} runs and does not answer at the end: {}",
                nas.vm,
                chain(&error)
            )
        };
        runs.then(|| Failure::new(FailureKind::Timeout, message()))
    }

    /// A NAS that did not do what it was asked for because it was reset is named so.
    pub(super) async fn name_reset(&self, failure: &mut Failure) {
        let lost = matches!(
            failure.kind,
            FailureKind::Crash | FailureKind::Timeout | FailureKind::Command
        );
        if lost
            && !failure.is_reset_of_nas()
            && let Some(reset) = self.reset_of_nas().await
        {
            failure.message = format!("{}: {}", reset.message, failure.message);
            failure.kind = reset.kind;
        }
    }

    /// Evidence of what a guest does that answers no more: the host, or if that is well, the NAS.
    pub(super) async fn keep_processors(&self) {
        if let Some(machine) = self.answering() {
            self.keep_nas_processor(machine).await;
        } else if let Some(machine) = &self.machine
            && let Ok(seen) = machine.processors(self.lab.cpus).await
        {
            // The failure itself is worse than that this cannot be kept.
            let _ = self.keep("pve-processors.txt", &seen);
        }
    }

    async fn keep_nas_processor(&self, machine: &Machine) {
        let limit = self.session.ground.deadlines().agent_answer;
        let read = async {
            Ok::<_, MachineError>(silence::processor(machine.agent(), nas::NAS, limit).await)
        };
        let seen = machine.watched("the processor of the NAS", limit, read);
        if let Ok(seen) = seen.await
            && !seen.is_empty()
        {
            // As above.
            let _ = self.keep("nas-processor.txt", &seen);
        }
    }
}
