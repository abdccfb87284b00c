//! A lab that is held up for a person: who holds it, how it is found, and how a person gets in.
//!
//! `lab up` starts a process of its own, which owns the machine and listens at a private socket
//! ([`supervise`]). The other commands find it by a notice in the cache ([`Notice`]). A terminal or a copy is
//! OpenSSH's business: its client on L0 and its server in a guest, with one of the machine's doors
//! between them, so that nothing listens on a network and no guest needs a card.

mod entry;
mod keys;
mod notice;
mod place;
mod serve;
mod supervise;
mod talk;

pub use keys::{KeyError, Keys};
pub use notice::{Notice, NoticeError, Seat};
pub use place::{Place, PlaceError};
pub use serve::End;
pub use supervise::{SuperviseError, supervise};
pub use talk::{Answer, Request, TalkError, ask, wire};
