//! The files that decide how the host's next boot goes: GRUB's defaults and what was made of them, the
//! other boot loader's command line, modprobe's rules, and when the initramfs was built.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::initramfs::ModprobeRule;
use super::modules::canonical;
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::scenario::edit;

/// What the host is configured to do at its next boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostConfigFacts {
    /// `GRUB_…` variables of `/etc/default/grub` and `/etc/default/grub.d`, as a shell would have them
    /// in the end. One whose value only running a command could tell is not here.
    pub grub_defaults: BTreeMap<String, String>,
    /// Files of GRUB's defaults that the shell cannot read, with its words on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grub_syntax_errors: Vec<SyntaxError>,
    /// The words after the kernel's file of each `linux` line in `/boot/grub/grub.cfg`, in their order.
    pub grub_entries: Vec<Vec<String>>,
    /// The words of the first line of `/etc/kernel/cmdline`, which systemd-boot is set up from.
    pub kernel_cmdline: Option<Vec<String>>,
    /// Its other lines, as far as they are not empty. `proxmox-boot-tool` copies the file as it is, and in a boot
    /// entry each line stands for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_cmdline_more: Vec<String>,
    /// How many EFI system partitions `proxmox-boot-tool` looks after.
    #[serde(default)]
    pub boot_tool_partitions: usize,
    /// modprobe's rules that are in force for modules loaded after the initramfs, by precedence.
    pub rules: Vec<ModprobeRule>,
    /// The watchdog driver that `/etc/default/pve-ha-manager` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog_module: Option<String>,
    /// When files were last written, in seconds since 1970: images and what they are made from.
    pub written: BTreeMap<String, u64>,
}

/// A file that the shell cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SyntaxError {
    /// The file.
    pub file: String,
    /// The shell's words.
    pub message: String,
}

impl HostConfigFacts {
    /// The words that GRUB's defaults add to the command line of the first menu entry.
    pub fn grub_words(&self) -> Vec<&str> {
        ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"]
            .iter()
            .filter_map(|name| self.grub_defaults.get(*name))
            .flat_map(|value| value.split_whitespace())
            .collect()
    }

    /// The watchdog driver that Proxmox's `watchdog-mux` loads by its name.
    pub fn watchdog(&self) -> &str {
        self.watchdog_module.as_deref().unwrap_or("softdog")
    }

    /// Whether a rule keeps a module from loading by alias.
    pub fn blacklist_of(&self, module: &str) -> Option<&ModprobeRule> {
        let module = canonical(module);
        self.rules
            .iter()
            .find(|rule| rule.command == "blacklist" && rule.module == module)
    }
}

/// `sh -n` reads a file without running anything in it. Of two files with one name in the folders of
/// modprobe the first counts, in the order in which they are printed here; `/lib` may be `/usr/lib`.
pub const SCRIPT: &str = r#"
for file in /etc/default/grub /etc/default/grub.d/*.cfg; do
    [ -f "$file" ] || continue
    printf 'grub\t%s\n' "$file"
    words=$(sh -n "$file" 2>&1) || printf 'grub-error\t%s\n' "$(set -f; echo $words)"
    while IFS= read -r line || [ -n "$line" ]; do printf 'grub-line\t%s\n' "$line"; done <"$file"
done
if [ -f /boot/grub/grub.cfg ]; then
    sed -n -E 's/^[[:space:]]*linux(16|efi)?[[:space:]]+/entry\t/p' /boot/grub/grub.cfg || exit
fi
if [ -f /etc/kernel/cmdline ]; then
    keyword=kernel-cmdline
    while read -r line || [ -n "$line" ]; do
        printf "$keyword\t%s\n" "$line"
        keyword=kernel-cmdline-more
    done </etc/kernel/cmdline
fi
if [ -f /etc/kernel/proxmox-boot-uuids ]; then
    while read -r line || [ -n "$line" ]; do [ -n "$line" ] && echo boot-tool; done </etc/kernel/proxmox-boot-uuids
fi
for folder in /etc/modprobe.d /run/modprobe.d /usr/local/lib/modprobe.d /usr/lib/modprobe.d /lib/modprobe.d; do
    [ /lib -ef /usr/lib ] && [ "$folder" = /lib/modprobe.d ] && continue
    for file in "$folder"/*.conf; do
        [ -f "$file" ] || continue
        printf 'modprobe\t%s\n' "$file"
        while read -r command rest || [ -n "$command" ]; do
            case $command in
            blacklist | options | softdep | install | remove) printf 'rule\t%s\t%s\n' "$command" "$rest" ;;
            esac
        done <"$file"
    done
done
if [ -f /etc/default/pve-ha-manager ]; then
    while read -r line || [ -n "$line" ]; do
        case $line in WATCHDOG_MODULE=*) printf 'watchdog-module\t%s\n' "${line#*=}" ;; esac
    done </etc/default/pve-ha-manager
fi
stat --printf 'written\t%Y\t%n\n' /boot/initrd.img* /boot/grub/grub.cfg /etc/default/grub /etc/modules \
    /etc/modprobe.d/*.conf /etc/initramfs-tools/modules /etc/kernel/cmdline 2>/dev/null
echo end
"#;

/// Reads the host's configuration.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(HostConfigFacts, String), ProbeError> {
    ask(Probe::HostConfig, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown.
pub fn parse(output: &str) -> Result<HostConfigFacts, ParseError> {
    let mut facts = HostConfigFacts::default();
    let mut grub_files: Vec<(&str, String)> = Vec::new();
    let mut modprobe_file: Option<&str> = None;
    let mut taken = BTreeSet::new();
    for record in records(output)? {
        match record.keyword {
            "grub" => grub_files.push((record.one()?, String::new())),
            "grub-error" | "grub-line" => {
                let Some((file, text)) = grub_files.last_mut() else {
                    return Err(record.refuse("no file was named before"));
                };
                if record.keyword == "grub-line" {
                    text.push_str(record.one()?);
                    text.push('\n');
                } else {
                    facts.grub_syntax_errors.push(SyntaxError {
                        file: (*file).to_owned(),
                        message: record.one()?.to_owned(),
                    });
                }
            }
            "entry" => {
                let words = record.one()?.split_whitespace().skip(1);
                facts.grub_entries.push(words.map(str::to_owned).collect());
            }
            "kernel-cmdline" => {
                let words = record.one()?.split_whitespace();
                facts.kernel_cmdline = Some(words.map(str::to_owned).collect());
            }
            "kernel-cmdline-more" => {
                let line = record.one()?.trim();
                if !line.is_empty() {
                    facts.kernel_cmdline_more.push(line.to_owned());
                }
            }
            "boot-tool" => facts.boot_tool_partitions += 1,
            "modprobe" => {
                let file = record.one()?;
                let name = file.rsplit('/').next().unwrap_or(file);
                modprobe_file = taken.insert(name).then_some(file);
            }
            "rule" => {
                let [command, rest] = record.fields_and_rest()?;
                let rule = modprobe_file.and_then(|file| ModprobeRule::parse(file, command, rest));
                facts.rules.extend(rule);
            }
            "watchdog-module" => {
                let name = record.one()?.trim().trim_matches(['"', '\'']);
                facts.watchdog_module = Some(canonical(name)).filter(|name| !name.is_empty());
            }
            "written" => {
                let [seconds, file] = record.fields()?;
                let seconds = seconds.parse();
                let seconds = seconds.map_err(|_| record.refuse("the time is no number"))?;
                facts.written.insert(file.to_owned(), seconds);
            }
            _ => return Err(record.unknown()),
        }
    }
    for (file, text) in &grub_files {
        // What the shell cannot read sets nothing, and `update-grub` ends there.
        if facts.grub_syntax_errors.iter().all(|one| one.file != *file) {
            assign(&mut facts.grub_defaults, text);
        }
    }
    facts
        .grub_defaults
        .retain(|name, _| name.starts_with("GRUB_"));
    Ok(facts)
}

/// Makes a file's assignments, as far as they can be told without running anything.
fn assign(variables: &mut BTreeMap<String, String>, text: &str) {
    for (name, word) in edit::assignments(text) {
        match expand(word, variables) {
            Some(value) => drop(variables.insert(name.to_owned(), value)),
            None => drop(variables.remove(name)),
        }
    }
}

/// What the shell makes of a word: quotes taken off, variables put in. `None` where it would run a
/// command, or do more with a variable than give its value.
fn expand(word: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let mut value = String::new();
    let mut quote = None;
    let mut characters = word.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), other) => value.push(other),
            (None, '\'' | '"') => quote = Some(character),
            (_, '`') => return None,
            (_, '\\') => match (quote, characters.next()?) {
                (_, '\n') => {}
                (Some(_), other) if !"$`\"\\".contains(other) => value.extend(['\\', other]),
                (_, other) => value.push(other),
            },
            (_, '$') => {
                let braces = characters.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(part) =
                    characters.next_if(|part| part.is_ascii_alphanumeric() || *part == '_')
                {
                    name.push(part);
                }
                if name.is_empty() || (braces && characters.next() != Some('}')) {
                    return None;
                }
                value.push_str(variables.get(&name).map_or("", String::as_str));
            }
            (_, other) => value.push(other),
        }
    }
    quote.is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand, after a Proxmox VE 8 host that boots by GRUB.
    const HOST: &str = "grub\t/etc/default/grub
grub-line\t# If you change this file, run 'update-grub' afterwards
grub-line\tGRUB_DISTRIBUTOR=`( . /etc/os-release && echo ${NAME} )`
grub-line\tGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"
grub-line\tGRUB_CMDLINE_LINUX_DEFAULT=\"quiet intel_iommu=on iommu=pt\"
grub-line\tGRUB_CMDLINE_LINUX=''
grub\t/etc/default/grub.d/serial.cfg
grub-line\tGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX console=ttyS0\"
entry\t/boot/vmlinuz-6.8.12-1-pve root=/dev/mapper/pve-root ro  quiet
entry\t/boot/vmlinuz-6.8.12-1-pve root=/dev/mapper/pve-root ro single
kernel-cmdline\troot=ZFS=rpool/ROOT/pve-1 boot=zfs
kernel-cmdline-more\t
kernel-cmdline-more\tintel_iommu=on
boot-tool
modprobe\t/etc/modprobe.d/blacklist.conf
rule\tblacklist\tahci
modprobe\t/etc/modprobe.d/vfio.conf
rule\toptions\tvfio-pci ids=8086:2922 disable_vga=1
rule\tsoftdep\tahci pre: vfio-pci
modprobe\t/usr/lib/modprobe.d/blacklist.conf
rule\tblacklist\tnever
watchdog-module\t\"i6300esb\"
watchdog-module\t iTCO-wdt
written\t1753000000\t/boot/initrd.img-6.8.12-1-pve
end
";

    #[test]
    fn files_are_read_as_their_readers_read_them() {
        let facts = parse(HOST).unwrap();
        assert_eq!(
            facts.grub_words(),
            ["console=ttyS0", "quiet", "intel_iommu=on", "iommu=pt"]
        );
        assert!(!facts.grub_defaults.contains_key("GRUB_DISTRIBUTOR"));
        assert_eq!(
            facts.grub_entries[0],
            ["root=/dev/mapper/pve-root", "ro", "quiet"]
        );
        assert_eq!(facts.kernel_cmdline.as_ref().unwrap().len(), 2);
        assert_eq!(facts.kernel_cmdline_more, ["intel_iommu=on"]);
        assert_eq!(facts.boot_tool_partitions, 1);
        let rules: Vec<String> = facts
            .rules
            .iter()
            .map(|rule| format!("{} {} {}", rule.command, rule.module, rule.rest))
            .collect();
        // The second blacklist.conf is masked by the first.
        assert_eq!(
            rules,
            [
                "blacklist ahci ",
                "options vfio_pci ids=8086:2922 disable_vga=1",
                "softdep ahci pre: vfio-pci",
            ]
        );
        assert_eq!(facts.watchdog(), "iTCO_wdt");
        assert_eq!(HostConfigFacts::default().watchdog(), "softdog");
        assert!(facts.blacklist_of("ahci").is_some());
        assert!(facts.blacklist_of("never").is_none());
        assert_eq!(
            facts.written["/boot/initrd.img-6.8.12-1-pve"],
            1_753_000_000
        );
    }

    #[test]
    fn a_file_that_the_shell_cannot_read_sets_nothing() {
        let broken = HOST.replace(
            "grub\t/etc/default/grub\n",
            "grub\t/etc/default/grub\ngrub-error\t/etc/default/grub: 4: Syntax error: Unterminated quoted string\n",
        );
        let facts = parse(&broken).unwrap();
        assert_eq!(facts.grub_words(), ["console=ttyS0"]);
        assert_eq!(facts.grub_syntax_errors[0].file, "/etc/default/grub");
    }

    #[test]
    fn every_line_of_a_file_is_read_as_modprobe_reads_it() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            (
                "modprobe.d/own.conf",
                "blacklist\nblacklist nvme\r\nblacklist ahci",
            ),
            ("kernel/proxmox-boot-uuids", "1234-ABCD\n5678-EF01"),
            (
                "default/pve-ha-manager",
                "# none\n WATCHDOG_MODULE=iTCO_wdt",
            ),
        ] {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let script = SCRIPT.replace("/etc/", &format!("{}/", root.path().display()));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output();
        let facts = parse(&String::from_utf8(output.unwrap().stdout).unwrap()).unwrap();
        let own = facts
            .rules
            .iter()
            .filter(|rule| rule.file.ends_with("/own.conf"));
        let own: Vec<&str> = own.map(|rule| rule.module.as_str()).collect();
        assert_eq!(own, ["nvme\r", "ahci"]);
        assert!(facts.blacklist_of("nvme").is_none());
        assert_eq!(facts.boot_tool_partitions, 2);
        assert_eq!(facts.watchdog(), "iTCO_wdt");
    }

    #[test]
    fn words_are_what_the_shell_makes_of_them() {
        let variables = BTreeMap::from([("A".to_owned(), "one two".to_owned())]);
        for (word, value) in [
            ("plain", Some("plain")),
            ("'a $A'", Some("a $A")),
            ("\"a $A ${A}x\"", Some("a one two one twox")),
            ("\"a \\\"b\\\" \\c\"", Some("a \"b\" \\c")),
            ("a\\ b", Some("a b")),
            ("\"$UNSET\"", Some("")),
            ("`id`", None),
            ("\"$(id)\"", None),
            ("\"${A:-x}\"", None),
            ("\"open", None),
        ] {
            assert_eq!(expand(word, &variables).as_deref(), value, "{word}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("grub\t/etc/default/grub\n", "breaks off"),
            ("grub-line\tx\nend\n", "no file was named"),
            ("modprobe\t/f.conf\nrule\tblacklist\nend\n", "2 fields"),
            ("written\tsoon\t/f\nend\n", "no number"),
            ("wrong\t1\nend\n", "`wrong`"),
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }
}
