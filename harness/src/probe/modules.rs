//! Kernel modules: what is loaded, what was asked for at boot, and what of that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// The modules that passing through a storage controller is about: those of VFIO, the drivers that
/// could hold a controller or its group, the watchdog, KVM, and ZFS on the host.
pub const WATCH_LIST: [&str; 16] = [
    "vfio",
    "vfio_iommu_type1",
    "vfio_pci",
    "vfio_pci_core",
    "vfio_virqfd",
    "ahci",
    "libahci",
    "nvme",
    "mpt3sas",
    "megaraid_sas",
    "lpc_ich",
    "i2c_i801",
    "iTCO_wdt",
    "kvm_intel",
    "kvm_amd",
    "zfs",
];

/// The modules of L1. Names are written as the kernel writes them, with `_`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleFacts {
    /// The running kernel's release.
    pub kernel: String,
    /// All that is loaded, from `/proc/modules`.
    pub loaded: BTreeSet<String>,
    /// The loaded modules that need a module, for each that another one needs. Empty in recordings from before this was
    /// kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used_by: BTreeMap<String, BTreeSet<String>>,
    /// All that is built into the kernel.
    pub builtin: BTreeSet<String>,
    /// What files name to be loaded at boot, in the order of the files and their lines.
    pub listed: Vec<ListedModule>,
    /// Whether systemd-modules-load did its work at this boot: `active`, `failed` or `inactive`.
    pub loader: String,
    /// What it said that it could not load.
    pub failed: Vec<FailedModule>,
    /// Parameters of VFIO's modules, as `module.parameter`.
    pub parameters: BTreeMap<String, String>,
}

/// A line of `/etc/modules` or of a file in `/etc/modules-load.d`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ListedModule {
    /// The module.
    pub module: String,
    /// The file.
    pub file: String,
}

/// A module that was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedModule {
    /// The module.
    pub module: String,
    /// Why.
    pub reason: String,
}

/// Where a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ModuleState {
    /// Loaded.
    Loaded,
    /// Part of the kernel itself.
    Builtin,
    /// Neither.
    Absent,
}

impl ModuleFacts {
    /// Whether a module is there to be used, loaded or built in.
    pub fn is_loaded(&self, module: &str) -> bool {
        self.state(module) != ModuleState::Absent
    }

    /// The modules that files name and that are not there, whatever the loader said of them.
    pub fn missing(&self) -> impl Iterator<Item = &ListedModule> {
        self.listed
            .iter()
            .filter(|listed| !self.is_loaded(&listed.module))
    }

    /// Where a module is; `-` and `_` in its name are one.
    pub fn state(&self, module: &str) -> ModuleState {
        let module = canonical(module);
        if self.loaded.contains(&module) {
            ModuleState::Loaded
        } else if self.builtin.contains(&module) {
            ModuleState::Builtin
        } else {
            ModuleState::Absent
        }
    }
}

/// A module's name as the kernel writes it.
pub(crate) fn canonical(module: &str) -> String {
    module.replace('-', "_")
}

/// One `grep` prints all files with their names before each line. The link `modules-load.d/modules.conf`
/// of Debian is `/etc/modules` once more. The loader runs beside the start of the journal, so what it
/// says may come by way of the kernel's log, which keeps the name of the program and not of the unit.
/// It says nothing where there was nothing to do; that it ran is asked of systemd.
pub const SCRIPT: &str = r#"
read -r kernel </proc/sys/kernel/osrelease
printf 'kernel\t%s\n' "$kernel"
set -- /proc/modules "/lib/modules/$kernel/modules.builtin" /sys/module/vfio*/parameters/*
for file in /etc/modules /etc/modules-load.d/*.conf; do
    [ "$file" -ef /etc/modules ] && [ "$file" != /etc/modules ] || set -- "$@" "$file"
done
echo files
grep -sH '' "$@"
echo journal
systemctl show --property=ActiveState systemd-modules-load.service || exit
journalctl --boot --identifier=systemd-modules-load --output=cat --no-pager || exit
echo end
"#;

/// Reads the modules' state.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(pve: &G, limit: Duration) -> Result<(ModuleFacts, String), ProbeError> {
    ask(Probe::Modules, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and for a kernel without modules.
pub fn parse(output: &str) -> Result<ModuleFacts, ParseError> {
    enum Part {
        Head,
        Files,
        Journal,
    }
    let mut part = Part::Head;
    let mut kernel = None;
    let mut facts = ModuleFacts {
        kernel: String::new(),
        loaded: BTreeSet::new(),
        used_by: BTreeMap::new(),
        builtin: BTreeSet::new(),
        listed: Vec::new(),
        loader: String::new(),
        failed: Vec::new(),
        parameters: BTreeMap::new(),
    };
    for record in records(output)? {
        match (&part, record.text) {
            (Part::Head, "files") => part = Part::Files,
            (Part::Head, _) if record.keyword == "kernel" => {
                kernel = Some(record.one()?.to_owned())
            }
            (Part::Head, _) => return Err(record.unknown()),
            (Part::Files, "journal") => part = Part::Journal,
            (Part::Files, line) => {
                let (file, line) = line.split_once(':').ok_or_else(|| {
                    record.refuse("a file's name, a colon and a line were expected")
                })?;
                facts
                    .file_line(file, line)
                    .map_err(|why| record.refuse(why))?;
            }
            (Part::Journal, line) if line.starts_with("-- ") => {}
            (Part::Journal, line) => match line.strip_prefix("ActiveState=") {
                Some(state) => facts.loader = state.to_owned(),
                None => facts.failed.extend(failure(line)),
            },
        }
    }
    facts.kernel = kernel.ok_or_else(|| ParseError::missing("the kernel's release"))?;
    for (what, there) in [
        ("any line of /proc/modules", !facts.loaded.is_empty()),
        ("any line of modules.builtin", !facts.builtin.is_empty()),
        (
            "the state of systemd-modules-load",
            !facts.loader.is_empty(),
        ),
    ] {
        if !there {
            return Err(ParseError::missing(what));
        }
    }
    Ok(facts)
}

impl ModuleFacts {
    fn file_line(&mut self, file: &str, line: &str) -> Result<(), String> {
        if file == "/proc/modules" {
            let mut columns = line.split(' ');
            let name = columns.next().filter(|name| !name.is_empty());
            let name = name.ok_or("the module has no name")?.to_owned();
            // After size and count: names with a comma after each, of which `[permanent]` is none, or `-`.
            let users = columns.nth(2).unwrap_or("-").split(',');
            let users =
                users.filter(|user| !user.is_empty() && *user != "-" && !user.starts_with('['));
            let users: BTreeSet<String> = users.map(str::to_owned).collect();
            if !users.is_empty() {
                self.used_by.insert(name.clone(), users);
            }
            self.loaded.insert(name);
        } else if file.ends_with("/modules.builtin") {
            let name = line
                .rsplit('/')
                .next()
                .and_then(|name| name.strip_suffix(".ko"));
            self.builtin.insert(canonical(
                name.ok_or("a path that ends with .ko was expected")?,
            ));
        } else if let Some(path) = file.strip_prefix("/sys/module/") {
            let (module, parameter) = path
                .split_once("/parameters/")
                .ok_or("no such file was asked for")?;
            self.parameters
                .insert(format!("{module}.{parameter}"), line.to_owned());
        } else if file.starts_with("/etc/") {
            // A line is a module's name; what follows it are parameters.
            let name = line.split_whitespace().next();
            if let Some(name) = name.filter(|name| !name.starts_with(['#', ';'])) {
                self.listed.push(ListedModule {
                    module: canonical(name),
                    file: file.to_owned(),
                });
            }
        } else {
            return Err(format!("the file `{file}` was not asked for"));
        }
        Ok(())
    }
}

/// systemd-modules-load's words for a module that it did not load.
fn failure(message: &str) -> Option<FailedModule> {
    let quoted = |rest: &str| -> Option<(String, String)> {
        let (module, rest) = rest.strip_prefix('\'')?.split_once('\'')?;
        Some((
            canonical(module),
            rest.trim_start_matches(':').trim().to_owned(),
        ))
    };
    if let Some((module, _)) = message
        .strip_prefix("Failed to find module ")
        .and_then(quoted)
    {
        return Some(FailedModule {
            module,
            reason: "not found".to_owned(),
        });
    }
    let rest = message.strip_prefix("Failed to insert module ")?;
    let (module, reason) = quoted(rest)?;
    Some(FailedModule { module, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = include_str!("samples/modules-debian13.txt");

    #[test]
    fn what_is_loaded_listed_and_failed_is_told_apart() {
        let facts = parse(DEBIAN).unwrap();
        assert_eq!(facts.kernel, "6.12.117+deb13-amd64");
        assert_eq!(facts.state("vfio-pci"), ModuleState::Loaded);
        assert_eq!(facts.state("ahci"), ModuleState::Loaded);
        assert_eq!(facts.state("vfio_virqfd"), ModuleState::Absent);
        assert!(!facts.builtin.is_empty());
        let builtin = facts
            .builtin
            .iter()
            .find(|module| !facts.loaded.contains(*module))
            .unwrap();
        assert_eq!(facts.state(builtin), ModuleState::Builtin);

        let listed: Vec<&str> = facts.listed.iter().map(|one| one.module.as_str()).collect();
        assert_eq!(
            listed,
            ["vfio", "vfio_iommu_type1", "vfio_pci", "vfio_virqfd"]
        );
        assert!(facts.listed.iter().all(|one| one.file == "/etc/modules"));
        assert_eq!(facts.loader, "active");
        assert_eq!(
            facts.failed,
            [FailedModule {
                module: "vfio_virqfd".to_owned(),
                reason: "not found".to_owned()
            }]
        );
        assert_eq!(
            facts
                .missing()
                .map(|one| one.module.as_str())
                .collect::<Vec<_>>(),
            ["vfio_virqfd"]
        );
        assert_eq!(
            facts.parameters["vfio_iommu_type1.allow_unsafe_interrupts"],
            "N"
        );
    }

    #[test]
    fn a_module_that_others_need_names_them() {
        let line = "/proc/modules:libsas 1 3 pm80xx,isci,[permanent], Live 0x0\n/proc/modules:loop 1 0 [permanent], Live 0x0\n";
        let facts = parse(&DEBIAN.replacen("/proc/modules:", &format!("{line}/proc/modules:"), 1));
        let facts = facts.unwrap();
        let users = |module: &str| -> Vec<&str> {
            let users = facts.used_by.get(module).into_iter().flatten();
            users.map(String::as_str).collect()
        };
        assert_eq!(users("libahci"), ["ahci"]);
        assert_eq!(users("libsas"), ["isci", "pm80xx"]);
        assert_eq!(users("loop"), [""; 0]);
        assert_eq!(users("sg"), [""; 0]);
    }

    #[test]
    fn the_loaders_words_are_understood() {
        for (message, module, reason) in [
            (
                "Failed to find module 'vfio-virqfd'",
                "vfio_virqfd",
                "not found",
            ),
            (
                "Failed to insert module 'kvm_intel': Operation not supported",
                "kvm_intel",
                "Operation not supported",
            ),
        ] {
            let failed = failure(message).unwrap();
            assert_eq!(
                (failed.module.as_str(), failed.reason.as_str()),
                (module, reason)
            );
        }
        assert_eq!(failure("Inserted module 'vfio'"), None);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let cut = |from: &str, to: &str| {
            let (start, end) = (DEBIAN.find(from).unwrap(), DEBIAN.find(to).unwrap());
            format!("{}{}", &DEBIAN[..start], &DEBIAN[end..])
        };
        for (output, says) in [
            (String::new(), "no output"),
            (DEBIAN[..DEBIAN.len() - 4].to_owned(), "breaks off"),
            (cut("kernel", "files"), "kernel's release"),
            (cut("/proc/modules", "/lib/modules"), "/proc/modules"),
            (
                cut("ActiveState", "Inserted"),
                "state of systemd-modules-load",
            ),
            (
                DEBIAN.replace("files\n", "files\n/var/x:y\n"),
                "`/var/x` was not asked for",
            ),
            (DEBIAN.replace("files\n", "filez\n"), "`filez`"),
        ] {
            match parse(&output) {
                Ok(_) => assert_eq!(says, ""),
                Err(error) => assert!(error.to_string().contains(says), "{says}: {error}"),
            }
        }
    }
}
