//! What the process that holds a lab does until it is to end: listens at its socket and lets people in.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::entry;
use super::keys::Keys;
use super::talk::{Answer, Request};
use crate::engine::Held;
use crate::machine::{DOORS, Doors};
use crate::scenario::GuestName;

/// What a guest wrote before it closed its door is let out for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a held lab ended.
#[derive(Debug)]
pub enum End {
    /// Somebody asked for it.
    Down,
    /// The machine was switched off, or QEMU died.
    MachineEnded(ExitStatus),
}

/// Serves whoever comes to `listener` until the lab is to end.
///
/// # Errors
/// When the socket cannot be listened at.
pub async fn serve(held: &Held<'_>, listener: &UnixListener, keys: Keys) -> io::Result<End> {
    let (down, mut downs) = watch::channel(false);
    let house = House {
        doors: held.machine.doors(),
        keys: Arc::new(keys),
        uses: watch::Sender::default(),
        down,
    };
    // Whoever is inside is put out when this goes.
    let mut guests = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            status = held.machine.ended() => return Ok(End::MachineEnded(status)),
            Ok(_) = downs.wait_for(|down| *down) => return Ok(End::Down),
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                guests.spawn(house.clone().receive(stream));
            }
            Some(_) = guests.join_next() => {}
        }
    }
}

/// What one caller is served with.
#[derive(Clone)]
struct House {
    doors: Doors,
    keys: Arc<Keys>,
    uses: watch::Sender<[Use; DOORS]>,
    down: watch::Sender<bool>,
}

impl House {
    async fn receive(self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        // Who says nothing, or no sense, is not answered.
        if stream.read_line(&mut line).await.is_err() {
            return;
        }
        match serde_json::from_str(&line) {
            Ok(Request::Knock { guest }) => {
                let answer = self.knock(guest).await;
                let _ = tell(&mut stream, answer).await;
            }
            Ok(Request::Enter { guest }) => self.let_in(stream, guest).await,
            Ok(Request::Down) => {
                let _ = tell(&mut stream, Answer::Yes).await;
                self.down.send_replace(true);
            }
            Err(_) => {}
        }
    }

    async fn knock(self, guest: GuestName) -> Answer {
        if all_taken(&self.uses.borrow()) {
            return full();
        }
        match entry::is_there(&self.doors, guest).await {
            Ok(()) => Answer::Yes,
            Err(error) => refused(&error),
        }
    }

    async fn let_in(self, mut caller: BufReader<UnixStream>, guest: GuestName) {
        let Some(taken) = self.take_door().await else {
            let _ = tell(&mut caller, full()).await;
            return;
        };
        let number = taken.number;
        let mut door = match self.doors.enter(number).await {
            Ok(door) => door,
            Err(error) => {
                let _ = tell(&mut caller, refused(&error)).await;
                return;
            }
        };
        if let Err(error) = entry::open(&self.doors, number, guest, &self.keys).await {
            let _ = tell(&mut caller, refused(&error)).await;
            return;
        }
        if tell(&mut caller, Answer::Yes).await.is_ok() {
            // However the carrying ends, both sides are told by the hang-up below.
            let mut carrying = std::pin::pin!(copy_bidirectional(&mut caller, &mut door.stream));
            let closed = tokio::select! {
                _ = &mut carrying => false,
                () = door.guest.closed() => true,
            };
            if closed {
                let _ = timeout(LAST_WORDS, carrying).await;
                return;
            }
        }
        drop(door.stream);
        drop(caller);
        taken.leave();
        // A host that cannot be asked any more lets go of nothing, and is waited for below like any other.
        let _ = entry::leave(&self.doors, number).await;
        // The door is free again when the guest has let go of it.
        let _ = timeout(self.doors.agent().answer_limit(), door.guest.closed()).await;
    }

    /// Takes a door that nobody stands in; waits for one that was just left.
    async fn take_door(&self) -> Option<Taken> {
        let mut uses = self.uses.subscribe();
        loop {
            // Marked as seen before the try: a door that is left during it is news to the wait below.
            if all_taken(&uses.borrow_and_update()) {
                return None;
            }
            let mut taken = None;
            self.uses.send_if_modified(|uses| {
                taken = uses.iter().position(|one| *one == Use::Free);
                if let Some(number) = taken {
                    uses[number] = Use::Taken;
                }
                taken.is_some()
            });
            if let Some(number) = taken {
                let uses = self.uses.clone();
                return Some(Taken { number, uses });
            }
            // The sender is this house's own.
            let _ = uses.changed().await;
        }
    }
}

/// What becomes of a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Use {
    #[default]
    Free,
    Taken,
    /// Left, and the guest has still to close its end.
    Left,
}

fn all_taken(uses: &[Use; DOORS]) -> bool {
    uses.iter().all(|one| *one == Use::Taken)
}

/// A door that somebody stands in, free again when this goes.
struct Taken {
    number: usize,
    uses: watch::Sender<[Use; DOORS]>,
}

impl Taken {
    fn leave(&self) {
        self.uses.send_modify(|uses| uses[self.number] = Use::Left);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.uses.send_modify(|uses| uses[self.number] = Use::Free);
    }
}

fn full() -> Answer {
    Answer::No {
        reason: format!(
            "all {DOORS} doors of the lab are in use by other shells or copies; end one of them first"
        ),
    }
}

fn refused(error: &dyn std::error::Error) -> Answer {
    Answer::No {
        reason: crate::engine::chain(error),
    }
}

async fn tell(stream: &mut BufReader<UnixStream>, answer: Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
