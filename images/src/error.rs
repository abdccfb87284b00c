//! What can go wrong while images are made, worded for the person who has to act on it: what, why, and the next command.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be made, found or checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// There is no home folder to put the cache in.
    #[error(
        "no place for the image cache: neither LAB_CACHE, XDG_CACHE_HOME nor HOME is set; set LAB_CACHE to a folder"
    )]
    NoCacheFolder,

    /// The file system that holds the cache is full, or nearly so.
    #[error(
        "{} has {free_mib} MiB free, and building the images needs {needed_mib} MiB; free some space, or set LAB_CACHE to a folder \
         on another file system",
        path.display()
    )]
    NoSpace {
        /// The cache.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What a build needs.
        needed_mib: u64,
    },

    /// A program that building needs is not installed.
    #[error("`{program}` is not installed; {remedy}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The command that helps.
        remedy: String,
    },

    /// None of root, user namespaces and passwordless sudo works.
    #[error(
        "building images needs root, user namespaces or passwordless sudo, and none of them works here\n{}",
        reasons.iter().map(|reason| format!("  - {reason}")).collect::<Vec<_>>().join("\n")
    )]
    NoPrivilege {
        /// For each way, why not, and what would change that.
        reasons: Vec<String>,
    },

    /// mmdebstrap could not be fetched.
    #[error(
        "mmdebstrap is not installed and could not be fetched with apt: {reason}\nnext: sudo apt-get update && sudo apt-get install mmdebstrap"
    )]
    NoMmdebstrap {
        /// apt's own words.
        reason: String,
    },

    /// An archive does not answer.
    #[error(
        "cannot reach the archive of packages ({reason}); check the network and the proxy settings (http_proxy); LAB_DEBIAN_MIRROR=URL names another mirror of Debian's"
    )]
    Network {
        /// apt's own words.
        reason: String,
    },

    /// apt refused what an archive sent.
    #[error(
        "apt could not verify the signature of the archive of packages ({reason}); if it is Debian's, the host's keyring may be \
         too old: sudo apt-get install debian-archive-keyring, and if LAB_DEBIAN_MIRROR is set, try without it"
    )]
    Signature {
        /// apt's own words.
        reason: String,
    },

    /// A program that takes part in a build failed.
    #[error("{what} failed ({status}); its output is in {}\n{tail}", log.display())]
    Command {
        /// What was being done.
        what: String,
        /// How the program ended.
        status: String,
        /// The whole output.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },

    /// A program could not be started.
    #[error("cannot start `{program}`")]
    Spawn {
        /// The program.
        program: String,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A recipe is not what it should be.
    #[error("the recipe {} is wrong: {reason}", path.display())]
    Recipe {
        /// The recipe's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Something built does not hold what it must.
    #[error("{what} is not usable: {reason}")]
    Unusable {
        /// Which artifact or file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The kernel of the guest and the kernel that ZFS was compiled for stay different.
    #[error(
        "the archive's kernel moved while the images were built (truenas-like has {tree}, ZFS is for {module}); \
         run the same command again"
    )]
    KernelMoved {
        /// The guest's kernel.
        tree: String,
        /// The module's kernel.
        module: String,
    },

    /// Another part of the same build failed first, or the user stopped it.
    #[error("stopped")]
    Cancelled,

    /// The same failure, already reported to whoever asked first.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Error>),
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Whether the build was stopped from outside, rather than having failed.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Shared(inner) => inner.is_cancelled(),
            _ => false,
        }
    }
}
