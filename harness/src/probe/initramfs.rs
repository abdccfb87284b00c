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
    /// Which modules of the [`WATCH_LIST`] are in it.
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
    /// The module it is about.
    pub module: String,
    /// The rest of the line.
    pub rest: String,
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
    let drivers: Vec<String> = WATCH_LIST
        .iter()
        .map(|module| format!("'*/{}.ko*'", module.replace('_', "?")))
        .collect();
    SCRIPT.replace("DRIVERS", &drivers.join(" "))
}

const SCRIPT: &str = r#"
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
[ -e conf/initramfs.conf ] && echo 'main'
for driver in usr/lib/modules/*/kernel lib/modules/*/kernel; do
    [ -d "$driver" ] && find "$driver" -name '*.ko*' -printf 'driver\t%f\n'
done
if [ -e conf/modules ]; then
    while read -r line; do printf 'module\t%s\n' "$line"; done <conf/modules
fi
for folder in etc/modprobe.d usr/lib/modprobe.d lib/modprobe.d; do
    for file in "$folder"/*; do
        [ -f "$file" ] || continue
        while read -r command rest; do
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
    let mut rules = Vec::new();
    let mut modules = Vec::new();
    for record in records(output)? {
        match record.keyword {
            "kernel" => kernel = Some(record.one()?.to_owned()),
            "main" => main = true,
            "driver" => {
                let file = record.one()?;
                let (module, _) = file
                    .split_once(".ko")
                    .ok_or_else(|| record.refuse("a file that ends with .ko was expected"))?;
                let module = canonical(module);
                if !WATCH_LIST.contains(&module.as_str()) {
                    return Err(record.refuse("no such driver was asked for"));
                }
                drivers.insert(module);
            }
            "module" => {
                let line = record.one()?.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    modules.push(line.to_owned());
                }
            }
            "rule" => {
                let [file, command, rest] = record.fields_and_rest()?;
                let (module, rest) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
                if module.is_empty() {
                    return Err(record.refuse("the rule names no module"));
                }
                rules.push(ModprobeRule {
                    file: file.to_owned(),
                    command: command.to_owned(),
                    module: canonical(module),
                    rest: rest.trim().to_owned(),
                });
            }
            _ => return Err(record.unknown()),
        }
    }
    if !main {
        return Err(ParseError::missing("conf/initramfs.conf in the initramfs"));
    }
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
    fn the_script_asks_for_every_watched_driver() {
        let script = script();
        assert!(script.contains("'*/i2c?i801.ko*'") && script.contains("'*/ahci.ko*'"));
        assert!(!script.contains("DRIVERS"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            (String::new(), "no output"),
            ("kernel\t6.12\n".to_owned(), "breaks off"),
            ("kernel\t6.12\nend\n".to_owned(), "conf/initramfs.conf"),
            ("main\nend\n".to_owned(), "kernel's release"),
            (
                DEBIAN.replace("nvme.ko.xz", "e1000e.ko.xz"),
                "no such driver",
            ),
            (DEBIAN.replace("nvme.ko.xz", "nvme"), ".ko was expected"),
            (
                DEBIAN.replace("blacklist\tarkfb", "blacklist\t"),
                "names no module",
            ),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
