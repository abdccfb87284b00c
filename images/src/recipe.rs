//! Recipes: what each image is made of, as files under `images/recipes/`, and the keys that follow from them.

mod like;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use walkdir::WalkDir;

use crate::Artifact;
use crate::correction::Correction;
use crate::digest::KeyHasher;
use crate::disk::GRUB_MODULES;
use crate::error::{Error, Result};
use crate::manifest::FORMAT;

/// This crate's folder in the checkout it was compiled from.
const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// The folder of all recipes.
pub(crate) fn recipes_dir() -> PathBuf {
    Path::new(CRATE).join("recipes")
}

/// The checkout's own folder, where the workspace's manifest is.
pub(crate) fn checkout_dir() -> &'static Path {
    let crate_dir = Path::new(CRATE);
    crate_dir.parent().unwrap_or(crate_dir)
}

/// One `recipe.toml` and the folder that its files stand in: its own, or that of the recipe which it is like in the end.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) dir: PathBuf,
    pub(crate) tree: TreeRecipe,
    pub(crate) disk: Option<DiskRecipe>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecipeFile {
    #[expect(dead_code, reason = "for people who read the recipe")]
    summary: String,
    tree: TreeRecipe,
    disk: Option<DiskRecipe>,
}

/// The packages of a tree: what mmdebstrap is asked for.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TreeRecipe {
    /// The suite that packages are taken from.
    pub(crate) suite: String,
    /// A suite of the same archive by which mmdebstrap knows where that is. It knows old ones by itself, and newer ones of
    /// other archives than Debian's only from the host's package `distro-info-data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) archive_of: Option<String>,
    /// Further suites of the same mirror.
    #[serde(default)]
    pub(crate) also_suites: Vec<String>,
    /// The suite whose packages win.
    pub(crate) prefer: Option<String>,
    pub(crate) components: Vec<String>,
    pub(crate) variant: Variant,
    pub(crate) packages: Vec<String>,
    /// The key that signs the archive, where that is not Debian's: a file beside the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keyring: Option<PathBuf>,
    /// The recipe whose kept file, an archive of packages, is installed after these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) packages_from: Option<String>,
    /// A folder copied into the tree before packages are configured.
    pub(crate) early_files: Option<PathBuf>,
    /// Scripts that run when the packages are unpacked.
    #[serde(default)]
    pub(crate) extract_hooks: Vec<PathBuf>,
    /// Scripts that run when the packages are installed.
    #[serde(default)]
    pub(crate) customize_hooks: Vec<PathBuf>,
    /// Paths that a tree which is unpacked here does without; a `*` at the end matches all below.
    #[serde(default)]
    pub(crate) leave_out: Vec<String>,
    /// The one file of the tree that is kept, in place of the tree.
    pub(crate) keep: Option<PathBuf>,
    /// What is corrected in the programs of a tree which is unpacked here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) corrections: Vec<Correction>,
}

/// How far mmdebstrap goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Variant {
    /// Packages are unpacked, not configured.
    Extract,
    /// A system of essential packages, apt, and what is asked for.
    Minbase,
}

/// What is put on top of a tree when it becomes a disk.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DiskRecipe {
    pub(crate) size_mib: u64,
    /// The size of an EFI system partition after the root file system; what is on it is whoever boots by UEFI's business.
    pub(crate) esp_mib: Option<u64>,
    /// The root file system's UUID.
    pub(crate) uuid: String,
    /// A folder laid over the tree.
    pub(crate) files: PathBuf,
    /// Paths of the tree that the disk does without; a `*` at the end matches all below.
    #[serde(default)]
    pub(crate) leave_out: Vec<String>,
    /// Guest programs and where they go.
    #[serde(default)]
    pub(crate) programs: BTreeMap<String, String>,
    /// The recipe whose kernel modules go in.
    pub(crate) modules_from: Option<String>,
    /// Whether the index of the tree's own modules stays, for a tree whose modules are not the files that the other
    /// recipe's index names. What comes from there is then found after a `depmod`.
    #[serde(default)]
    pub(crate) own_module_index: bool,
    /// systemd units to mask.
    #[serde(default)]
    pub(crate) mask: Vec<String>,
}

impl Recipe {
    pub(crate) fn load(name: &str) -> Result<Self> {
        Self::load_from(&recipes_dir().join(name))
    }

    fn load_from(dir: &Path) -> Result<Self> {
        let path = dir.join("recipe.toml");
        let unusable = |reason: String| Error::Recipe {
            path: path.clone(),
            reason,
        };
        let (dir, table) = whole_table(dir, &mut Vec::new())?;
        let file = RecipeFile::deserialize(table).map_err(|error| unusable(error.to_string()))?;
        let recipe = Self {
            dir,
            tree: file.tree,
            disk: file.disk,
        };
        if let Some(reason) = recipe.problem() {
            return Err(Error::Recipe { path, reason });
        }
        Ok(recipe)
    }

    fn problem(&self) -> Option<String> {
        let relative = |path: &Path| {
            path.components()
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        let tree = &self.tree;
        if tree.packages.is_empty() || tree.components.is_empty() {
            return Some("it names no package or no component".to_owned());
        }
        if tree.variant == Variant::Extract && !tree.customize_hooks.is_empty() {
            return Some(
                "customize-hooks do not run in a tree that is only unpacked; use extract-hooks"
                    .to_owned(),
            );
        }
        let disk = self.disk.as_ref();
        let inside = tree
            .extract_hooks
            .iter()
            .chain(&tree.customize_hooks)
            .chain(&tree.early_files)
            .chain(&tree.keyring);
        for path in inside.chain(disk.map(|disk| &disk.files)) {
            if !relative(path) || !self.dir.join(path).exists() {
                return Some(format!(
                    "`{}` is not in the recipe's folder",
                    path.display()
                ));
            }
        }
        let targets = disk.into_iter().flat_map(|disk| disk.programs.values());
        for path in targets.map(Path::new).chain(tree.keep.as_deref()) {
            if !relative(path) {
                return Some(format!(
                    "`{}` must be a plain path without a leading slash",
                    path.display()
                ));
            }
        }
        None
    }

    /// The key of the tree: everything that mmdebstrap's result depends on, save the archive's own state.
    pub(crate) fn tree_key(&self) -> Result<String> {
        let mut hasher = KeyHasher::default();
        hasher
            .add("format", FORMAT.to_le_bytes())
            .add("tree", to_json(&self.tree, &self.dir)?);
        for path in self
            .tree
            .extract_hooks
            .iter()
            .chain(&self.tree.customize_hooks)
            .chain(&self.tree.early_files)
            .chain(&self.tree.keyring)
        {
            add_files(&mut hasher, &self.dir.join(path))?;
        }
        if let Some(name) = &self.tree.packages_from {
            hasher.add("packages-from", Self::load(name)?.tree_key()?);
        }
        Ok(short(hasher))
    }

    /// The key of the disk: the tree's, and what is laid over it.
    pub(crate) fn disk_key(&self, sources: &BTreeMap<String, String>) -> Result<String> {
        let Some(disk) = &self.disk else {
            return Err(Error::Recipe {
                path: self.dir.join("recipe.toml"),
                reason: "it describes no disk".to_owned(),
            });
        };
        let mut hasher = KeyHasher::default();
        hasher
            .add("tree", self.tree_key()?)
            .add("disk", to_json(disk, &self.dir)?)
            .add("grub-modules", GRUB_MODULES.join(" "));
        add_files(&mut hasher, &self.dir.join(&disk.files))?;
        for (name, digest) in sources {
            hasher.add(name, digest);
        }
        Ok(short(hasher))
    }
}

/// What a recipe says with all that it is like, and the folder of the one that is like no other.
fn whole_table(dir: &Path, seen: &mut Vec<PathBuf>) -> Result<(PathBuf, Table)> {
    let path = dir.join("recipe.toml");
    let unusable = |reason: String| Error::Recipe {
        path: path.clone(),
        reason,
    };
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let own: Table = toml::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let Some(name) = own.get("like").and_then(Value::as_str) else {
        return Ok((dir.to_owned(), own));
    };
    let other = dir.with_file_name(name);
    seen.push(dir.to_owned());
    if seen.contains(&other) {
        return Err(unusable(format!("it is like `{name}`, which is like it")));
    }
    let (root, base) = whole_table(&other, seen)?;
    Ok((root, like::derived(base, own).map_err(unusable)?))
}

/// The recipe that an artifact is made by.
pub(crate) fn recipe_of(artifact: Artifact) -> Result<Recipe> {
    Recipe::load(match artifact {
        Artifact::Toolbox => "toolbox",
        Artifact::ProxmoxTree | Artifact::ProxmoxLike => "proxmox-like",
        Artifact::Proxmox8Tree | Artifact::Proxmox8Like => "proxmox-8-like",
        Artifact::Proxmox80Tree | Artifact::Proxmox80Like => "proxmox-8.0-like",
        Artifact::UbuntuKernel => "ubuntu-kernel",
        Artifact::TruenasTree | Artifact::TruenasLike => "truenas-like",
        Artifact::ZfsModule => "zfs-module",
        Artifact::GuestPrograms => {
            return Err(Error::Unusable {
                what: artifact.to_string(),
                reason: "guest programs have no recipe".to_owned(),
            });
        }
    })
}

/// Half a SHA-256 is plenty for a folder's name.
pub(crate) fn short(hasher: KeyHasher) -> String {
    let mut key = hasher.finish();
    key.truncate(32);
    key
}

fn to_json<T: Serialize>(value: &T, dir: &Path) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::Recipe {
        path: dir.join("recipe.toml"),
        reason: error.to_string(),
    })
}

/// Adds the names, the executable bits and the content of a file, or of all files in a folder.
pub(crate) fn add_files(hasher: &mut KeyHasher, root: &Path) -> Result<()> {
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::io("read", root)(error.into()))?;
        let path = entry.path();
        let name = path
            .strip_prefix(recipes_dir())
            .unwrap_or(path.strip_prefix(root).unwrap_or(path));
        if entry.file_type().is_symlink() {
            let target = fs::read_link(path).map_err(Error::io("read the link", path))?;
            hasher
                .add("link", name.as_os_str().as_bytes())
                .add("target", target.as_os_str().as_bytes());
        } else if entry.file_type().is_file() {
            let executable = entry
                .metadata()
                .is_ok_and(|meta| meta.permissions().mode() & 0o100 != 0);
            hasher
                .add("path", name.as_os_str().as_bytes())
                .add("executable", [u8::from(executable)]);
            hasher.add("file", fs::read(path).map_err(Error::io("read", path))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn every_recipe_of_the_checkout_is_sound() {
        for artifact in Artifact::iter().filter(|one| *one != Artifact::GuestPrograms) {
            let name = artifact.to_string();
            let recipe = recipe_of(artifact).unwrap();
            recipe.tree_key().unwrap();
            if let Some(disk) = &recipe.disk {
                recipe.disk_key(&BTreeMap::new()).unwrap();
                for file in ["boot/grub/grub.cfg", "etc/fstab"] {
                    let path = recipe.dir.join(&disk.files).join(file);
                    if path.exists() {
                        assert!(
                            fs::read_to_string(path).unwrap().contains(&disk.uuid),
                            "{name}: {file}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn recipes_name_no_mirror() {
        for entry in WalkDir::new(recipes_dir()) {
            let entry = entry.unwrap();
            if entry.file_type().is_file() {
                let text = fs::read_to_string(entry.path()).unwrap();
                assert!(
                    !text.contains("http:") && !text.contains("https:"),
                    "{}",
                    entry.path().display()
                );
            }
        }
    }

    const PLAIN: &str = r#"
        summary = "a test"
        [tree]
        suite = "trixie"
        components = ["main"]
        variant = "minbase"
        packages = ["bash"]
        customize-hooks = ["hook.sh"]
        [disk]
        size-mib = 64
        uuid = "u"
        files = "files"
        programs = { qm = "usr/sbin/qm" }
    "#;

    fn write(dir: &Path, text: &str) {
        fs::create_dir_all(dir.join("files/etc")).unwrap();
        fs::write(dir.join("files/etc/hostname"), "pve\n").unwrap();
        fs::write(dir.join("hook.sh"), "true\n").unwrap();
        fs::write(dir.join("recipe.toml"), text).unwrap();
    }

    #[test]
    fn each_input_changes_the_right_keys() {
        let dir = tempfile::tempdir().unwrap();
        let keys = |digest: &str| {
            let recipe = Recipe::load_from(dir.path()).unwrap();
            let sources = BTreeMap::from([("qm".to_owned(), digest.to_owned())]);
            (
                recipe.tree_key().unwrap(),
                recipe.disk_key(&sources).unwrap(),
            )
        };
        write(dir.path(), PLAIN);
        let plain = keys("1");
        assert_eq!(plain, keys("1"));

        let program = keys("2");
        assert_eq!(
            (&program.0, program.1 == plain.1),
            (&plain.0, false),
            "a guest program is in the disk only"
        );

        fs::write(dir.path().join("files/etc/hostname"), "other\n").unwrap();
        let overlay = keys("1");
        assert_eq!(
            (&overlay.0, overlay.1 == plain.1),
            (&plain.0, false),
            "an overlay file is in the disk only"
        );

        write(dir.path(), PLAIN);
        fs::write(dir.path().join("hook.sh"), "false\n").unwrap();
        let hook = keys("1");
        assert!(
            hook.0 != plain.0 && hook.1 != plain.1,
            "a hook is in the tree, and so in the disk"
        );

        write(dir.path(), &PLAIN.replace("[\"bash\"]", "[\"dash\"]"));
        let package = keys("1");
        assert!(
            package.0 != plain.0 && package.1 != plain.1,
            "so is a package"
        );

        write(dir.path(), &PLAIN.replace("size-mib = 64", "size-mib = 65"));
        let size = keys("1");
        assert_eq!(
            (&size.0, size.1 == plain.1),
            (&plain.0, false),
            "the size is the disk's"
        );
    }

    #[test]
    fn wrong_recipes_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let check = |from: &str, to: &str, expected: &str| {
            write(dir.path(), &PLAIN.replace(from, to));
            let error = Recipe::load_from(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("suite =", "sweet =", "unknown field `sweet`");
        check("[\"bash\"]", "[]", "no package");
        check(
            "hook.sh",
            "gone.sh",
            "`gone.sh` is not in the recipe's folder",
        );
        check("\"files\"", "\"../files\"", "is not in the recipe's folder");
        check(
            "\"usr/sbin/qm\"",
            "\"/usr/sbin/qm\"",
            "without a leading slash",
        );
        check("minbase", "extract", "use extract-hooks");
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        check(
            "summary",
            &format!("like = \"{name}\"\nsummary"),
            "which is like it",
        );
    }
}
