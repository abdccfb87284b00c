//! What runs the host's CPUs: KVM where it really works, QEMU's own emulation (TCG) elsewhere.
//!
//! That `/dev/kvm` opens proves nothing: there are machines where even a VM can be created and no
//! guest runs in it. So KVM is chosen by a graded [`probe`], whose last grade is a guest that runs,
//! and its verdict is remembered for as long as nothing that it depends on has changed.

mod boot_sector;
mod deadlines;
mod grade;
mod qemu;
mod verdict;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::deadlines::Deadlines;
use self::grade::Obstacle;
pub use self::qemu::{QemuError, QemuProgram};

/// What executes the instructions of a lab's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Accelerator {
    /// The machine's own CPU, through the kernel.
    Kvm,
    /// QEMU's emulation: slower, and works everywhere.
    Tcg,
}

impl Accelerator {
    /// QEMU's machine, and what of it this accelerator needs.
    ///
    /// KVM: VT-d remaps interrupts only with the I/O interrupt controller in QEMU (`kernel-irqchip=split`). Nothing
    /// here needs system management mode, and a KVM that is itself nested can fail at its first entry (bcvk#145).
    pub(crate) const fn machine(self) -> &'static str {
        match self {
            Accelerator::Kvm => "q35,kernel-irqchip=split,smm=off",
            Accelerator::Tcg => "q35",
        }
    }

    /// How long things may take.
    pub const fn deadlines(self) -> Deadlines {
        match self {
            Accelerator::Kvm => Deadlines::KVM,
            Accelerator::Tcg => Deadlines::TCG,
        }
    }
}

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Requested {
    /// KVM if it works, else TCG.
    #[default]
    Auto,
    /// KVM, or nothing.
    Kvm,
    /// TCG.
    Tcg,
}

impl FromStr for Requested {
    type Err = AccelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Requested::Auto),
            "kvm" => Ok(Requested::Kvm),
            "tcg" => Ok(Requested::Tcg),
            _ => Err(AccelError::Unknown(name.to_owned())),
        }
    }
}

/// The CPU vendor whose virtualization L1 sees, and with that which KVM module it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Vendor {
    /// VMX, `kvm_intel`.
    Intel,
    /// SVM, `kvm_amd`.
    Amd,
}

/// The CPU model for emulation: all that QEMU can emulate, without what a real CPU has for speed and an
/// emulated one pays for.
///
/// - `la57`: five-level page tables make every walk longer, and a nested walk twice so.
/// - `erms`, `fsrm`: with them Linux and the C library copy and clear memory by string instructions of
///   single bytes, which QEMU emulates byte by byte. A fork then takes half as long again, a pipe five times as
///   long.
/// - `smap`: each access of the kernel to a program's memory goes through translations of its own.
/// - `xsave` and the vectors of 256 bits that need it (`avx`, `avx2`, `f16c`, `fma`, `vaes`): QEMU saves them register by
///   register at each task switch, and ZFS measures an implementation for each of them when it is loaded. `pku` and
///   `mpx` need it too.
/// - `aes`, `pclmulqdq`, `sha-ni`: for each of them udev loads a driver, which tests itself, and nothing encrypts.
///
/// Without the last two kinds `procedure` took 0.93 of the time, in turns (ABBA) on two processors.
const TCG_CPU: &str = "max,la57=off,erms=off,fsrm=off,smap=off,pku=off,mpx=off,xsave=off,avx=off,avx2=off,f16c=off,fma=off,\
    vaes=off,aes=off,pclmulqdq=off,sha-ni=off";

/// The CPU model for KVM: the machine's own, without `fsrm`. Linux copies by `rep movsb` where that is there, also into a device's
/// registers, and KVM hands those to QEMU byte by byte, which an AHCI controller takes for as many values
/// (`dma-beyond-memory` writes such registers through sysfs).
const KVM_CPU: &str = "host,fsrm=off";

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// What runs the host's CPUs.
    pub accelerator: Accelerator,
    /// Whose virtualization L1 uses to run L2.
    pub nested_vendor: Vendor,
    /// One sentence for people.
    pub reason: String,
}

impl Choice {
    /// QEMU's name of the CPU model that the lab's host gets.
    pub const fn cpu_model(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => KVM_CPU,
            Accelerator::Tcg => TCG_CPU,
        }
    }

    /// The CPU model that the lab's host gets where a person named one. Under KVM, QEMU's named models come without nested
    /// virtualization; `host` and `max` have it.
    pub fn named_cpu_model(&self, named: String) -> String {
        let own = named
            .split(',')
            .next()
            .is_some_and(|name| matches!(name, "host" | "max"));
        let feature = match self.nested_vendor {
            Vendor::Intel => "vmx",
            Vendor::Amd => "svm",
        };
        match self.accelerator {
            Accelerator::Kvm if !own && !named.contains(feature) => format!("{named},+{feature}"),
            Accelerator::Kvm | Accelerator::Tcg => named,
        }
    }

    fn tcg(reason: String) -> Self {
        Choice {
            accelerator: Accelerator::Tcg,
            // TCG emulates SVM, and no VMX, whatever CPU it runs on.
            nested_vendor: Vendor::Amd,
            reason,
        }
    }
}

/// Why there is no accelerator.
#[derive(Debug, thiserror::Error)]
pub enum AccelError {
    /// Not the name of one.
    #[error("`{0}` is not an accelerator: it is one of auto, kvm and tcg")]
    Unknown(String),
    /// The QEMU that was named cannot be used.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// KVM was asked for and does not work.
    #[error("KVM was asked for and cannot be used: {reason}\nnext step: {advice}")]
    NoKvm {
        /// What is in the way.
        reason: String,
        /// What a person can do about it.
        advice: String,
    },
}

impl From<Obstacle> for AccelError {
    fn from(obstacle: Obstacle) -> Self {
        AccelError::NoKvm {
            reason: obstacle.to_string(),
            advice: obstacle.advice(),
        }
    }
}

/// Chooses the accelerator. A verdict on KVM is remembered in `cache`, so that a later call costs
/// milliseconds.
///
/// # Errors
/// [`AccelError::NoKvm`] when KVM was asked for by name.
pub async fn probe(
    qemu: &QemuProgram,
    requested: Requested,
    cache: &Path,
) -> Result<Choice, AccelError> {
    if requested == Requested::Tcg {
        return Ok(Choice::tcg("TCG, as asked for".to_owned()));
    }
    match verdict::remembered_or_new(qemu, cache).await {
        Ok(vendor) => Ok(Choice {
            accelerator: Accelerator::Kvm,
            nested_vendor: vendor,
            reason: format!(
                "KVM, since a guest ran with it and it offers nested {}",
                Technology(vendor)
            ),
        }),
        Err(obstacle) if requested == Requested::Kvm => Err(obstacle.into()),
        Err(obstacle) => Ok(Choice::tcg(format!("TCG, since {obstacle}"))),
    }
}

struct Technology(Vendor);

impl fmt::Display for Technology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Vendor::Intel => "VMX",
            Vendor::Amd => "SVM",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_qemu() -> QemuProgram {
        let prefix = vec!["/no/such/qemu".into()];
        QemuProgram::unpacked(prefix, Vec::new(), "none".to_owned(), "none".to_owned())
    }

    #[tokio::test]
    async fn where_kvm_is_no_use_tcg_is_chosen_with_a_reason() {
        let cache = tempfile::tempdir().unwrap();
        let choice = probe(&no_qemu(), Requested::Auto, cache.path())
            .await
            .unwrap();
        println!("{}", choice.reason);
        assert_eq!(choice.accelerator, Accelerator::Tcg);
        assert_eq!(choice.nested_vendor, Vendor::Amd);
        assert_eq!(choice.cpu_model(), TCG_CPU);
        assert!(
            choice.reason.starts_with("TCG, since "),
            "{}",
            choice.reason
        );
    }

    #[tokio::test]
    async fn where_kvm_is_no_use_asking_for_it_is_an_error_with_a_next_step() {
        let cache = tempfile::tempdir().unwrap();
        let error = probe(&no_qemu(), Requested::Kvm, cache.path())
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("KVM was asked for") && text.contains("next step: "),
            "{text}"
        );
    }

    #[test]
    fn under_kvm_a_named_model_gets_the_nested_virtualization_that_qemu_leaves_out() {
        let choice = |accelerator, nested_vendor| Choice {
            accelerator,
            nested_vendor,
            reason: String::new(),
        };
        let intel = choice(Accelerator::Kvm, Vendor::Intel);
        for (named, expected) in [
            ("Skylake-Server", "Skylake-Server,+vmx"),
            ("Skylake-Server,vmx=on", "Skylake-Server,vmx=on"),
            ("host,la57=off", "host,la57=off"),
        ] {
            assert_eq!(intel.named_cpu_model(named.to_owned()), expected);
        }
        let amd = choice(Accelerator::Kvm, Vendor::Amd);
        assert_eq!(amd.named_cpu_model("EPYC-v4".to_owned()), "EPYC-v4,+svm");
        let tcg = choice(Accelerator::Tcg, Vendor::Amd);
        assert_eq!(tcg.named_cpu_model("EPYC-v4".to_owned()), "EPYC-v4");
    }

    #[tokio::test]
    async fn tcg_as_asked_for_needs_no_proof() {
        let choice = probe(&no_qemu(), Requested::Tcg, Path::new("/no/cache"))
            .await
            .unwrap();
        assert_eq!(choice.reason, "TCG, as asked for");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for requested in [Requested::Auto, Requested::Kvm, Requested::Tcg] {
            assert_eq!(
                requested.to_string().parse::<Requested>().unwrap(),
                requested
            );
        }
        let error = "hvf".parse::<Requested>().unwrap_err();
        assert!(error.to_string().contains("auto, kvm and tcg"), "{error}");
    }
}
