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
    /// L1's disk where it is to be the older Debian.
    #[strum(serialize = "proxmox-8-like")]
    Proxmox8Like,
    /// The same with a kernel of Ubuntu's.
    #[strum(serialize = "proxmox-8.0-like")]
    Proxmox80Like,
    /// L2's disk.
    TruenasLike,
}

impl ImageName {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 5] = [
        Self::Toolbox,
        Self::ProxmoxLike,
        Self::TruenasLike,
        Self::Proxmox8Like,
        Self::Proxmox80Like,
    ];

    /// The artifact that is the image.
    pub fn artifact(self) -> Artifact {
        match self {
            Self::Toolbox => Artifact::Toolbox,
            Self::ProxmoxLike => Artifact::ProxmoxLike,
            Self::Proxmox8Like => Artifact::Proxmox8Like,
            Self::Proxmox80Like => Artifact::Proxmox80Like,
            Self::TruenasLike => Artifact::TruenasLike,
        }
    }
}

/// The hosts that a lab can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostImage {
    /// Debian 13, which Proxmox VE 9 is made from.
    ProxmoxLike,
    /// Debian 12, which Proxmox VE 8 is made from.
    Proxmox8Like,
    /// Debian 12 with the Ubuntu kernel that Proxmox VE 8.0's is made from.
    Proxmox80Like,
}

impl HostImage {
    /// The image.
    pub fn name(self) -> ImageName {
        match self {
            Self::ProxmoxLike => ImageName::ProxmoxLike,
            Self::Proxmox8Like => ImageName::Proxmox8Like,
            Self::Proxmox80Like => ImageName::Proxmox80Like,
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
    /// The packages of the older host.
    #[strum(serialize = "proxmox-8-tree")]
    Proxmox8Tree,
    /// The older L1's disk.
    #[strum(serialize = "proxmox-8-like")]
    Proxmox8Like,
    /// The packages of a kernel of Ubuntu's.
    UbuntuKernel,
    /// The packages of the older host, and that kernel.
    #[strum(serialize = "proxmox-8.0-tree")]
    Proxmox80Tree,
    /// The older L1's disk with that kernel.
    #[strum(serialize = "proxmox-8.0-like")]
    Proxmox80Like,
    /// The packages of the TrueNAS-like guest.
    TruenasTree,
    /// ZFS compiled for the kernel of Debian 13, which that guest and the host have.
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
