//! A lab that is held up for a person: who holds it, how it is found, and how a person gets in.
//!
//! `lab up` starts a process of its own, which owns the machine and listens at a private socket
//! ([`serve`]). The other commands find it by a notice in the cache ([`Notice`]). A terminal or a copy is
//! OpenSSH's business: its client on L0 and its server in a guest, with one of the machine's doors
//! between them, so that nothing listens on a network and no guest needs a card.

mod entry;
mod keys;
mod notice;
mod serve;
mod talk;

pub use keys::{KeyError, Keys};
pub use notice::{Notice, NoticeError, Seat};
pub use serve::{End, serve};
pub use talk::{Answer, Request, TalkError, ask, wire};
