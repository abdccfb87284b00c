//! Trees: what mmdebstrap makes of a recipe's packages, as a tar archive that keeps owners without needing them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::manifest::{Facts, parse_deb_names, parse_dpkg_status};
use crate::merge::{self, Overlay};
use crate::mmdebstrap::Mmdebstrap;
use crate::privilege::Privilege;
use crate::recipe::{Recipe, Variant};

/// A mirror of the user's own, in place of mmdebstrap's default.
const MIRROR: &str = "LAB_DEBIAN_MIRROR";

/// The copy of a recipe's keyring, with the ending by which apt knows its format.
const KEYRING: &str = "archive.asc";

/// Every file in an image is at most this old, and the same on each build: October 2025.
pub(crate) const EPOCH: u64 = 1_760_000_000;

/// What building a tree needs of the host.
pub(crate) struct TreeBuilder<'a> {
    pub(crate) mmdebstrap: &'a Mmdebstrap,
    /// An archive of packages to install after the recipe's own.
    pub(crate) packages: Option<PathBuf>,
    pub(crate) privilege: Privilege,
    pub(crate) cancel: &'a Cancel,
    /// Lower than the others', for work that the rest does not wait for.
    pub(crate) nice: bool,
}

impl TreeBuilder<'_> {
    /// Builds the recipe's tree, or the file that it keeps of it, as `target`, working in `work`.
    pub(crate) fn build(
        &self,
        recipe: &Recipe,
        work: &Path,
        target: &Path,
        log: &Path,
        line: &dyn Fn(&str),
    ) -> Result<Facts> {
        let hooks = Hooks::write(recipe, self.packages.as_deref(), work)?;
        let scratch = work.join("scratch");
        fs::create_dir(&scratch).map_err(Error::io("make the folder", &scratch))?;
        let archive = if recipe.tree.keep.is_some() {
            None
        } else {
            Some(target)
        };
        let argv = self.argv(recipe, &hooks, &scratch, archive);
        let argv: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
        self.privilege
            .job(format!("mmdebstrap for {}", recipe.dir.display()), &argv)
            .run(log, self.cancel, line)?;
        if let Some(archive) = archive {
            self.own(archive, log)?;
        } else {
            self.own(&hooks.kept(), log)?;
            fs::rename(hooks.kept(), target).map_err(Error::io("move into place", target))?;
        }
        hooks.facts(recipe.tree.variant)
    }

    fn own(&self, path: &Path, log: &Path) -> Result<()> {
        if self.privilege != Privilege::Sudo {
            return Ok(());
        }
        let owner = self.privilege.owner();
        let argv = ["chown".as_ref(), owner.as_ref(), path.as_os_str()];
        self.privilege
            .job("chown", &argv)
            .run(log, self.cancel, &|_| {})
    }

    fn argv(
        &self,
        recipe: &Recipe,
        hooks: &Hooks,
        scratch: &Path,
        archive: Option<&Path>,
    ) -> Vec<OsString> {
        let tree = &recipe.tree;
        let mut argv: Vec<OsString> = Vec::new();
        if self.nice {
            argv.extend(["nice".into(), "-n5".into()]);
        }
        argv.push("env".into());
        argv.extend(self.mmdebstrap.environment());
        argv.push("LC_ALL=C.UTF-8".into());
        argv.push(option("TMPDIR=", scratch));
        argv.push(format!("SOURCE_DATE_EPOCH={EPOCH}").into());
        argv.extend(self.mmdebstrap.argv(hooks.keyring(recipe).as_deref()));
        argv.push("--mode=root".into());
        argv.push(format!("--variant={}", tree.variant).into());
        argv.push(format!("--components={}", tree.components.join(",")).into());
        argv.push(format!("--include={}", tree.packages.join(",")).into());
        for aptopt in [
            "APT::Install-Recommends \"false\"",
            "Acquire::Languages \"none\"",
            "Acquire::Retries \"3\"",
        ] {
            argv.push(format!("--aptopt={aptopt}").into());
        }
        if let Some(suite) = &tree.prefer {
            argv.push(format!("--aptopt=APT::Default-Release \"{suite}\"").into());
        }
        // The tree is thrown away if the machine stops, and a recipe's own configuration files stay.
        for dpkgopt in ["force-unsafe-io", "force-confold"] {
            argv.push(format!("--dpkgopt={dpkgopt}").into());
        }
        if self.privilege == Privilege::UserNamespace {
            // A namespace without a network of its own may not mount sysfs, and no package needs it.
            argv.push("--skip=chroot/mount/sys".into());
        }
        argv.push(option("--setup-hook=", &hooks.script("setup")));
        argv.push(option("--essential-hook=", &hooks.script("early")));
        let (kind, scripts) = match tree.variant {
            Variant::Extract => ("--extract-hook=", &tree.extract_hooks),
            Variant::Minbase => ("--customize-hook=", &tree.customize_hooks),
        };
        if self.packages.is_some() {
            argv.push(option(kind, &hooks.script("packages")));
        }
        for script in scripts {
            argv.push(option(kind, &recipe.dir.join(script)));
        }
        argv.push(option(kind, &hooks.script("describe")));
        argv.push(if archive.is_some() {
            "--format=tar".into()
        } else {
            "--format=null".into()
        });
        argv.push(tree.archive_of.as_ref().unwrap_or(&tree.suite).into());
        argv.push(archive.map_or("-".into(), |path| path.as_os_str().to_owned()));
        let mirror = std::env::var_os(MIRROR).filter(|mirror| !mirror.is_empty());
        if tree.keyring.is_none() {
            argv.extend(mirror);
        }
        argv
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push(path);
    word
}

/// The hook scripts that every tree needs, written for one build.
struct Hooks {
    dir: PathBuf,
}

impl Hooks {
    fn write(recipe: &Recipe, packages: Option<&Path>, work: &Path) -> Result<Self> {
        let dir = work.join("hooks");
        fs::create_dir(&dir).map_err(Error::io("make the folder", &dir))?;
        let hooks = Self { dir };
        let tree = &recipe.tree;

        // Suites come from the mirror that mmdebstrap chose, so no recipe names one.
        let mut suites = String::new();
        if let Some(known) = &tree.archive_of {
            suites.push_str(&format!(
                "sed -i 's|^\\(deb .*\\) {known}\\([- ]\\)|\\1 {}\\2|' \"$1/etc/apt/sources.list\"\n",
                tree.suite
            ));
        }
        for suite in &tree.also_suites {
            suites.push_str(&format!(
                "sed -n 's|^\\(deb .*\\) {} \\(.*\\)$|\\1 {suite} \\2|p' \"$1/etc/apt/sources.list\" \
                 >\"$1/etc/apt/sources.list.d/{suite}.list\"\n",
                tree.suite
            ));
        }
        hooks.add("setup", &suites)?;

        let mut early = String::new();
        if let Some(files) = &tree.early_files {
            let archive = hooks.dir.join("early.tar");
            let overlay = Overlay::from_folder(&recipe.dir.join(files))?;
            merge::write(&archive, &[], merge::Wins::Later, &overlay, &[])?;
            early.push_str("tar --extract --directory \"$1\" --file \"$here/early.tar\"\n");
        }
        hooks.add("early", &early)?;

        if let Some(keyring) = &tree.keyring {
            // The user that apt checks signatures as can read the scratch folder's neighbours if it can read anything here; a
            // checkout in a home folder it cannot.
            let (from, to) = (recipe.dir.join(keyring), hooks.dir.join(KEYRING));
            fs::copy(&from, to).map_err(Error::io("copy", &from))?;
        }

        if let Some(packages) = packages {
            let to = hooks.dir.join("packages.tar");
            fs::copy(packages, to).map_err(Error::io("copy", packages))?;
            let install = "mkdir \"$1/packages\"\n\
                 tar --extract --directory \"$1/packages\" --file \"$here/packages.tar\"\n\
                 chroot \"$1\" sh -c 'dpkg --install /packages/*.deb'\n\
                 rm -r \"$1/packages\"\n";
            hooks.add("packages", install)?;
        }

        let mut describe = match tree.variant {
            Variant::Extract => "ls \"$1/var/cache/apt/archives\" >\"$here/packages\"\n".to_owned(),
            Variant::Minbase => "cp \"$1/var/lib/dpkg/status\" \"$here/packages\"\n".to_owned(),
        };
        describe.push_str("ls \"$1/usr/lib/modules\" >\"$here/kernel\" 2>/dev/null || true\n");
        if let Some(keep) = &tree.keep {
            describe.push_str(&format!("cp \"$1/{}\" \"$here/kept\"\n", keep.display()));
        }
        describe.push_str("chmod a+r \"$here\"/*\n");
        hooks.add("describe", &describe)?;
        Ok(hooks)
    }

    fn add(&self, name: &str, body: &str) -> Result<()> {
        let path = self.script(name);
        fs::write(&path, format!("#!/bin/sh\nset -eu\nhere=${{0%/*}}\n{body}"))
            .map_err(Error::io("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(Error::io("write", &path))
    }

    fn script(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The key of an archive that is not Debian's.
    fn keyring(&self, recipe: &Recipe) -> Option<PathBuf> {
        let own = recipe.tree.keyring.as_ref();
        own.map(|_| self.dir.join(KEYRING))
    }

    fn kept(&self) -> PathBuf {
        self.dir.join("kept")
    }

    fn facts(&self, variant: Variant) -> Result<Facts> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            fs::read_to_string(&path).map_err(Error::io("read", &path))
        };
        let packages = read("packages")?;
        let packages = match variant {
            Variant::Extract => parse_deb_names(&packages),
            Variant::Minbase => parse_dpkg_status(&packages),
        };
        if packages.is_empty() {
            return Err(Error::Unusable {
                what: "mmdebstrap's result".to_owned(),
                reason: "it lists no package".to_owned(),
            });
        }
        let kernels = read("kernel")?;
        let mut kernels = kernels.lines();
        let kernel = kernels.next().map(str::to_owned);
        if let Some(second) = kernels.next() {
            return Err(Error::Unusable {
                what: "mmdebstrap's result".to_owned(),
                reason: format!(
                    "it has two kernels, {} and {second}",
                    kernel.unwrap_or_default()
                ),
            });
        }
        Ok(Facts {
            kernel,
            packages,
            ..Facts::default()
        })
    }
}
