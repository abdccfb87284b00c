//! What a build tells whoever watches it.

use std::time::Duration;

use strum::{Display, EnumIter, EnumString};

/// The images that a lab needs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, EnumIter,
)]
#[strum(serialize_all = "kebab-case")]
pub enum ImageName {
    /// QEMU and the image makers.
    Toolbox,
    /// L1's disk.
    ProxmoxLike,
    /// L2's disk.
    TruenasLike,
}

impl ImageName {
    /// All three, in the order in which they are made.
    pub const ALL: [Self; 3] = [Self::Toolbox, Self::ProxmoxLike, Self::TruenasLike];

    /// The artifact that is the image.
    pub fn artifact(self) -> Artifact {
        match self {
            Self::Toolbox => Artifact::Toolbox,
            Self::ProxmoxLike => Artifact::ProxmoxLike,
            Self::TruenasLike => Artifact::TruenasLike,
        }
    }
}

/// Everything that is built and cached: the images, and what they are made from.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, EnumIter,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Artifact {
    /// QEMU and the image makers.
    Toolbox,
    /// `qm` and `midclt`.
    GuestPrograms,
    /// The packages of the Proxmox-like host.
    ProxmoxTree,
    /// L1's disk.
    ProxmoxLike,
    /// The packages of the TrueNAS-like guest.
    TruenasTree,
    /// ZFS compiled for that guest's kernel.
    ZfsModule,
    /// L2's disk.
    TruenasLike,
}

/// One thing that happened during a build.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum BuildEvent {
    /// A remark about the build as a whole, such as how it gets its rights.
    Note(String),
    /// Another process builds this; it is waited for.
    Waiting(Artifact),
    /// A build begins.
    Started {
        /// What is built.
        artifact: Artifact,
        /// Why what is there does not do.
        reason: String,
    },
    /// A line of output of a program that takes part.
    Line {
        /// What is built.
        artifact: Artifact,
        /// The line.
        line: String,
    },
    /// An artifact is ready.
    Finished {
        /// Which.
        artifact: Artifact,
        /// What it takes on disk.
        bytes: u64,
        /// How long that took now.
        elapsed: Duration,
        /// It was there already.
        cached: bool,
    },
    /// A build failed; the error follows as the result of the whole.
    Failed(Artifact),
}

/// Hears of a build's progress, from several threads at once.
pub trait Observer: Send + Sync {
    /// Called for each event, in order for each artifact.
    fn event(&self, event: BuildEvent);
}

impl<F: Fn(BuildEvent) + Send + Sync> Observer for F {
    fn event(&self, event: BuildEvent) {
        self(event);
    }
}

impl Observer for () {
    fn event(&self, _: BuildEvent) {}
}
