//! Holding a lab, from its first step to its end.

use std::io;
use std::path::Path;

use tokio::net::UnixListener;

use super::keys::{KeyError, Keys};
use super::notice::{Notice, NoticeError, Seat};
use super::place::described;
use super::serve::{End, serve};
use crate::engine::{HoldError, Session};
use crate::report::render_failure;
use crate::scenario::Scenario;

/// A lab that could not be held.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// It did not come up.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// There is no way into it.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// It cannot be made known.
    #[error(transparent)]
    Notice(#[from] NoticeError),
    /// Its socket cannot be used.
    #[error("failed to use the lab's control socket")]
    Control(#[source] io::Error),
}

/// Brings a scenario's lab up to a step, makes it known, and serves it until it is to end. `program` is
/// the command line, which has the command that carries bytes; `ready` is called when all can be used.
///
/// # Errors
/// [`SuperviseError`].
pub async fn supervise(
    session: &Session,
    scenario: &Scenario,
    step: usize,
    seat: &Seat,
    program: &Path,
    ready: impl FnOnce(&Notice),
) -> Result<End, SuperviseError> {
    let stay = async |held: crate::engine::Held<'_>| {
        let control = held.sockets.join("control");
        let listener = UnixListener::bind(&control).map_err(SuperviseError::Control)?;
        let (program, at) = (program.to_string_lossy(), control.to_string_lossy());
        let knock = [&*program, "lab", "wire", &*at, "%h"];
        let keys = Keys::make(held.sockets, session.toolbox(), &knock)?;
        let notice = Notice {
            process: std::process::id(),
            scenario: scenario.name.clone(),
            place: described(scenario, held.step),
            stopped_by: held
                .stopped_by
                .map(|failure| render_failure(failure, held.folder)),
            folder: held.folder.to_owned(),
            ssh: keys.ssh.clone(),
            scp: keys.scp.clone(),
            control: control.clone(),
        };
        seat.announce(&notice)?;
        ready(&notice);
        serve(&held, &listener, keys)
            .await
            .map_err(SuperviseError::Control)
    };
    session.hold(scenario, step, stay).await?
}
