//! What the running kernel's initramfs holds of the drivers and modprobe rules that decide who gets
//! the controller first.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::modules::{WATCH_LIST, canonical};
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// The initramfs of the running kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InitramfsFacts {
    /// The running kernel's release.
    pub kernel: String,
    /// Which modules of the [`WATCH_LIST`] are in it, and which drivers of storage that a rule names, be it here or on
    /// the disk.
    pub drivers: BTreeSet<String>,
    /// The lines of its `modprobe.d` folders that stop or steer a module.
    pub rules: Vec<ModprobeRule>,
    /// The modules that it loads by name, from its `conf/modules`.
    pub modules: Vec<String>,
}

/// A line of a file in a `modprobe.d` folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModprobeRule {
    /// The file, without a slash first.
    pub file: String,
    /// `blacklist`, `options`, `softdep`, `install` or `remove`.
    pub command: String,
    /// The module it is about, with a carriage return that ends the line: modprobe takes that for a part of the name.
    pub module: String,
    /// The rest of the line.
    pub rest: String,
}

impl ModprobeRule {
    /// A command and what follows it. `None` where that names no module: modprobe skips such a line.
    pub(super) fn parse(file: &str, command: &str, rest: &str) -> Option<Self> {
        const BLANKS: [char; 2] = [' ', '\t'];
        let rest = rest.trim_matches(BLANKS);
        let (module, rest) = rest.split_once(BLANKS).unwrap_or((rest, ""));
        (!module.is_empty()).then(|| ModprobeRule {
            file: file.to_owned(),
            command: command.to_owned(),
            module: canonical(module),
            rest: rest.trim_start_matches(BLANKS).to_owned(),
        })
    }
}

impl InitramfsFacts {
    /// Whether a module is kept from loading by alias.
    pub fn blacklists(&self, module: &str) -> bool {
        let module = canonical(module);
        self.rules
            .iter()
            .any(|rule| rule.command == "blacklist" && rule.module == module)
    }
}

/// An initramfs is some uncompressed cpio archives, which hold microcode and modules that are compressed
/// already, and a compressed one with all the rest. Unpacking all of it, as `unmkinitramfs` does,
/// writes 150 MB; here each archive is read once and only what is asked for is written, to memory, so
/// that no disk of a real host is touched. GNU cpio leaves
/// the file where its archive ends, as long as it reads no more than 512 bytes at once, and `fdinfo`
/// tells where that is.
pub fn script() -> String {
    let watched = WATCH_LIST
        .iter()
        .map(|module| format!("'*/{}.ko*'", module.replace('_', "?")));
    let folders = STORAGE_FOLDERS
        .iter()
        .map(|folder| format!("'*/kernel/drivers/{folder}/*.ko*'"));
    let drivers: Vec<String> = watched.chain(folders).collect();
    UNPACK.replace("DRIVERS", &drivers.join(" ")) + LIST
}

/// Where Linux has the drivers of storage controllers.
const STORAGE_FOLDERS: [&str; 4] = ["ata", "message/fusion", "nvme", "scsi"];

const UNPACK: &str = r#"
read -r kernel </proc/sys/kernel/osrelease
image=/boot/initrd.img-$kernel
printf 'kernel\t%s\n' "$kernel"
out=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) || exit
trap 'cd /; rm -rf "$out"' EXIT
take() {
    cpio --extract --quiet --io-size=$1 --make-directories --directory="$out" '*conf/initramfs.conf' '*conf/modules' \
        '*etc/modprobe.d/*' '*lib/modprobe.d/*' DRIVERS
}
exec 3<"$image" || exit
at=0
while :; do
    magic=$(od -An -tx1 -N6 -j$at "$image") || exit
    case $magic in
    ' 30 37 30 37 30 31') take 512 <&3 || exit ;;
    ' 00 00 00 00 00 00') dd bs=512 count=1 status=none of=/dev/null <&3 || exit ;;
    *) break ;;
    esac
    while read -r key value; do [ "$key" = pos: ] && at=$value; done </proc/self/fdinfo/3
done
case $magic in
' 28 b5 2f fd'*) unpack=zstd ;;
' 1f 8b'*) unpack=gzip ;;
' fd 37 7a 58 5a 00') unpack=xz ;;
' 02 21 4c 18'*) unpack=lz4 ;;
*) echo "$image has no compressed archive at $at:$magic" >&2; exit 1 ;;
esac
$unpack -dc <&3 | take 65536 || exit
cd "$out" || exit
"#;

/// `sed` ends no line that has no end in its file.
const LIST: &str = r#"
for name in $(sed -n -E 's/^[[:space:]]*(blacklist|options|softdep|install|remove)[[:space:]]+([[:alnum:]_-]+).*/\2/p' \
    /etc/modprobe.d/*.conf 2>/dev/null); do
    printf 'named\t%s\n' "$name"
done
[ -e conf/initramfs.conf ] && echo 'main'
for driver in usr/lib/modules/*/kernel lib/modules/*/kernel; do
    [ -d "$driver" ] && find "$driver" -name '*.ko*' -printf 'driver\t%f\n'
done
if [ -e conf/modules ]; then
    while read -r line || [ -n "$line" ]; do printf 'module\t%s\n' "$line"; done <conf/modules
fi
for folder in etc/modprobe.d usr/lib/modprobe.d lib/modprobe.d; do
    for file in "$folder"/*; do
        [ -f "$file" ] || continue
        while read -r command rest || [ -n "$command" ]; do
            case $command in
            blacklist | options | softdep | install | remove) printf 'rule\t%s\t%s\t%s\n' "$file" "$command" "$rest" ;;
            esac
        done <"$file"
    done
done
echo end
"#;

/// Reads the initramfs of the running kernel.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(InitramfsFacts, String), ProbeError> {
    ask(Probe::Initramfs, pve, Exec::shell(&script(), limit), parse).await
}

/// Parses what [`script`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and where the archive that every initramfs has
/// was not found in it.
pub fn parse(output: &str) -> Result<InitramfsFacts, ParseError> {
    let mut kernel = None;
    let mut main = false;
    let mut drivers = BTreeSet::new();
    let mut named: BTreeSet<String> = WATCH_LIST.map(str::to_owned).into();
    let mut rules = Vec::new();
    let mut modules = Vec::new();
    for record in records(output)? {
        match record.keyword {
            "kernel" => kernel = Some(record.one()?.to_owned()),
            "main" => main = true,
            "named" => drop(named.insert(canonical(record.one()?))),
            "driver" => {
                let file = record.one()?;
                let (module, _) = file
                    .split_once(".ko")
                    .ok_or_else(|| record.refuse("a file that ends with .ko was expected"))?;
                drivers.insert(canonical(module));
            }
            "module" => {
                let line = record.one()?.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    modules.push(line.to_owned());
                }
            }
            "rule" => {
                let [file, command, rest] = record.fields_and_rest()?;
                rules.extend(ModprobeRule::parse(file, command, rest));
            }
            _ => return Err(record.unknown()),
        }
    }
    if !main {
        return Err(ParseError::missing("conf/initramfs.conf in the initramfs"));
    }
    named.extend(rules.iter().map(|rule| rule.module.clone()));
    drivers.retain(|driver| named.contains(driver));
    Ok(InitramfsFacts {
        kernel: kernel.ok_or_else(|| ParseError::missing("the kernel's release"))?,
        drivers,
        rules,
        modules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = include_str!("samples/initramfs-debian13.txt");

    #[test]
    fn drivers_and_rules_are_found() {
        let facts = parse(DEBIAN).unwrap();
        assert_eq!(facts.kernel, "6.12.117+deb13-amd64");
        assert!(facts.drivers.contains("ahci") && facts.drivers.contains("i2c_i801"));
        assert!(!facts.drivers.contains("vfio_pci"));
        assert!(facts.blacklists("radeonfb") && !facts.blacklists("ahci"));

        let blacklist = "rule\tetc/modprobe.d/blacklist.conf\tblacklist\tahci\nend\n";
        let softdep = "rule\tetc/modprobe.d/vfio.conf\tsoftdep\tahci pre: vfio-pci\nmodule\tvfio-pci ids=8086:2922\n";
        let facts = parse(&DEBIAN.replace("end\n", &format!("{softdep}{blacklist}"))).unwrap();
        assert!(facts.blacklists("ahci"));
        assert_eq!(facts.modules, ["vfio-pci ids=8086:2922"]);
        let rule = facts
            .rules
            .iter()
            .find(|rule| rule.command == "softdep")
            .unwrap();
        assert_eq!(
            (rule.module.as_str(), rule.rest.as_str()),
            ("ahci", "pre: vfio-pci")
        );
    }

    #[test]
    fn the_script_asks_for_every_watched_driver_and_for_those_of_storage() {
        let script = script();
        assert!(script.contains("'*/i2c?i801.ko*'") && script.contains("'*/ahci.ko*'"));
        assert!(script.contains("'*/kernel/drivers/scsi/*.ko*'"));
        assert!(!script.contains("DRIVERS"));
    }

    #[test]
    fn a_driver_of_storage_counts_where_a_rule_names_it() {
        let drivers = "driver\tsmartpqi.ko.xz\ndriver\tpm80xx.ko.xz\ndriver\tsata_sil24.ko.xz\n";
        let held = |lines: &str| {
            let output = DEBIAN.replace("end\n", &format!("{drivers}{lines}end\n"));
            let facts = parse(&output).unwrap();
            let watched = |driver: &String| WATCH_LIST.contains(&driver.as_str());
            facts
                .drivers
                .into_iter()
                .filter(|one| !watched(one))
                .collect::<Vec<_>>()
        };
        assert_eq!(held(""), [""; 0]);
        assert_eq!(
            held("named\tsmartpqi\nnamed\tsata-sil24\n"),
            ["sata_sil24", "smartpqi"]
        );
        assert_eq!(
            held("rule\tetc/modprobe.d/own.conf\tblacklist\tpm80xx\n"),
            ["pm80xx"]
        );
    }

    #[test]
    fn every_line_of_an_unpacked_initramfs_is_read() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("conf/initramfs.conf", "MODULES=most\n"),
            ("conf/modules", "# first\nvfio-pci\nahci"),
            (
                "etc/modprobe.d/own.conf",
                "blacklist\n# options\nblacklist nvme\r\nsoftdep\tahci  pre: vfio-pci\nblacklist ahci",
            ),
            ("usr/lib/modules/6.12/kernel/drivers/ata/ahci.ko.xz", ""),
            ("usr/lib/modules/6.12/kernel/drivers/scsi/hpsa.ko.xz", ""),
            ("usr/lib/modules/6.12/kernel/drivers/scsi/isci.ko.xz", ""),
            ("disk/own.conf", "options\nblacklist\thpsa"),
        ] {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let list = LIST.replace(
            "/etc/modprobe.d",
            &root.path().join("disk").display().to_string(),
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf 'kernel\\t6.12\\n'\n{list}")])
            .current_dir(root.path())
            .output()
            .unwrap();
        let facts = parse(&String::from_utf8(output.stdout).unwrap()).unwrap();
        assert_eq!(facts.modules, ["vfio-pci", "ahci"]);
        assert_eq!(
            facts.drivers,
            BTreeSet::from(["ahci".to_owned(), "hpsa".to_owned()])
        );
        let rules = facts.rules.iter();
        let rules: Vec<_> = rules
            .map(|rule| {
                (
                    rule.command.as_str(),
                    rule.module.as_str(),
                    rule.rest.as_str(),
                )
            })
            .collect();
        assert_eq!(
            rules,
            [
                ("blacklist", "nvme\r", ""),
                ("softdep", "ahci", "pre: vfio-pci"),
                ("blacklist", "ahci", ""),
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            (String::new(), "no output"),
            ("kernel\t6.12\n".to_owned(), "breaks off"),
            ("kernel\t6.12\nend\n".to_owned(), "conf/initramfs.conf"),
            ("main\nend\n".to_owned(), "kernel's release"),
            (DEBIAN.replace("nvme.ko.xz", "nvme"), ".ko was expected"),
            (DEBIAN.replace("\tblacklist\tarkfb", ""), "3 fields"),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
