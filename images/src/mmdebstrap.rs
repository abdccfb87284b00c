//! mmdebstrap: the host's own, or one fetched with apt and unpacked into the cache. Nothing is installed on the host.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::process::Job;

/// Modules that mmdebstrap loads and `perl-base` does not have.
const PERL_MODULES: &[&str] = &[
    "Pod::Usage",
    "File::Find",
    "Term::ANSIColor",
    "Math::BigInt",
    "Text::ParseWords",
    "Time::HiRes",
    "English",
];

/// The keyring that mmdebstrap looks for by itself.
const KEYRING: &str = "usr/share/keyrings/debian-archive-keyring.gpg";

/// How to run mmdebstrap here.
#[derive(Debug, Clone)]
pub(crate) struct Mmdebstrap {
    program: PathBuf,
    /// Where a fetched one is, with what it needs.
    private: Option<PathBuf>,
    keyring: Option<PathBuf>,
}

impl Mmdebstrap {
    /// The host's mmdebstrap, or the one in the cache, fetched now if need be. `note` hears which it is.
    pub(crate) fn find(cache: &Cache, cancel: &Cancel, note: &dyn Fn(String)) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb", "tar", "perl", "unshare"] {
            if !in_path(program) {
                return Err(Error::MissingProgram {
                    program: program.to_owned(),
                    remedy: "the images are built with Debian's own tools, so run the lab on Debian or Ubuntu, or in a container of \
                             one (docker run --privileged debian:13)"
                        .to_owned(),
                });
            }
        }
        let mut packages = Vec::new();
        let installed = in_path("mmdebstrap");
        if !installed {
            packages.push("mmdebstrap");
        }
        if !installed && !perl_is_whole() {
            packages.push("perl");
        }
        if !Path::new("/").join(KEYRING).exists() {
            packages.push("debian-archive-keyring");
        }
        if packages.is_empty() {
            return Ok(Self {
                program: "mmdebstrap".into(),
                private: None,
                keyring: None,
            });
        }

        let dir = cache
            .tools()
            .join(format!("{}-{}", host_release(), packages.join("-")));
        let _lock = cache.lock("tools", cancel, || {
            note("another build is fetching mmdebstrap; waiting".to_owned())
        })?;
        if !dir.exists() {
            let fetched = fetch(cache, &packages, &dir, cancel)?;
            note(format!(
                "not installed here, so fetched with apt and unpacked into the cache: {}",
                fetched.join(", ")
            ));
        }
        let keyring = dir.join(KEYRING);
        Ok(Self {
            program: if installed {
                "mmdebstrap".into()
            } else {
                dir.join("usr/bin/mmdebstrap")
            },
            keyring: keyring.exists().then_some(keyring),
            private: Some(dir),
        })
    }

    /// The start of the command line, for an archive that is signed with a key in `keyring`; without one for Debian's.
    pub(crate) fn argv(&self, keyring: Option<&Path>) -> Vec<OsString> {
        let mut argv = vec![self.program.clone().into_os_string()];
        if let Some(keyring) = keyring.or(self.keyring.as_deref()) {
            let mut option = OsString::from("--keyring=");
            option.push(keyring);
            argv.push(option);
        }
        argv
    }

    /// The environment, as words for `env`, since sudo passes none on.
    pub(crate) fn environment(&self) -> Vec<OsString> {
        let mut path = OsString::new();
        let mut words = Vec::new();
        if let Some(dir) = &self.private {
            path.push(dir.join("usr/bin"));
            path.push(":");
            let libraries: Vec<_> = perl_folders(dir);
            if !libraries.is_empty() {
                words.push(joined("PERL5LIB=", &libraries));
                words.push(joined(
                    "LD_LIBRARY_PATH=",
                    &[dir.join("usr/lib/x86_64-linux-gnu")],
                ));
            }
        }
        path.push(std::env::var_os("PATH").unwrap_or_default());
        // A user's PATH may lack the folders of chroot and of dpkg's helpers.
        path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        let mut word = OsString::from("PATH=");
        word.push(path);
        words.push(word);
        for name in [
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
        ] {
            if let Some(value) = std::env::var_os(name) {
                let mut word = OsString::from(format!("{name}="));
                word.push(value);
                words.push(word);
            }
        }
        words
    }
}

/// Whether a program of this name is on the PATH.
pub(crate) fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn joined(name: &str, dirs: &[PathBuf]) -> OsString {
    let mut word = OsString::from(name);
    for (index, dir) in dirs.iter().enumerate() {
        if index > 0 {
            word.push(":");
        }
        word.push(dir);
    }
    word
}

/// The folders of unpacked Perl packages that hold modules.
fn perl_folders(dir: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for parent in ["usr/share/perl", "usr/lib/x86_64-linux-gnu/perl"] {
        for entry in fs::read_dir(dir.join(parent))
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    folders.sort();
    folders
}

fn perl_is_whole() -> bool {
    Command::new("perl")
        .args(PERL_MODULES.iter().map(|module| format!("-M{module}")))
        .args(["-e", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Such as `debian-12`: what was fetched for one release is not used on another.
fn host_release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or("unknown").trim_matches('"').to_owned()
    };
    format!("{}-{}", field("ID"), field("VERSION_ID"))
}

/// Downloads packages as whoever we are, and unpacks them into `dir`. apt checks their signatures.
fn fetch(cache: &Cache, packages: &[&str], dir: &Path, cancel: &Cancel) -> Result<Vec<String>> {
    let work = cache.work_dir("tools")?;
    let log = cache.root().join("logs/tools.log");
    drop(fs::remove_file(&log));
    let failed = |error: Error| match error {
        Error::Command { tail, .. } => Error::NoMmdebstrap { reason: tail },
        other => other,
    };
    let mut options = Vec::new();
    if !has_candidate("mmdebstrap", &[]) {
        // The host's package lists are missing: fetch them into a place of our own, which needs no rights.
        let lists = work.path().join("lists");
        let archives = work.path().join("archives");
        for dir in [lists.join("partial"), archives.join("archives/partial")] {
            fs::create_dir_all(&dir).map_err(Error::io("make the folder", &dir))?;
        }
        options = vec![
            format!("-oDir::State::lists={}", lists.display()),
            format!("-oDir::Cache={}", archives.display()),
            "-oAPT::Sandbox::User=root".to_owned(),
        ];
        Job::new("apt-get update", "apt-get")
            .args(&options)
            .arg("update")
            .env("LC_ALL", "C")
            .run(&log, cancel, &|_| {})
            .map_err(failed)?;
        if !has_candidate("mmdebstrap", &options) {
            return Err(Error::NoMmdebstrap {
                reason:
                    "the host's apt sources do not have the package (on Ubuntu it is in `universe`)"
                        .to_owned(),
            });
        }
    }
    let mut names: Vec<String> = packages
        .iter()
        .map(|package| (*package).to_owned())
        .collect();
    if packages.contains(&"perl") {
        names.extend(perl_parts(&options));
    }
    Job::new("apt-get download", "apt-get")
        .args(&options)
        .args(["-oAPT::Sandbox::User=root", "download"])
        .args(&names)
        .env("LC_ALL", "C")
        .current_dir(work.path())
        .run(&log, cancel, &|_| {})
        .map_err(failed)?;

    let unpacked = work.path().join("unpacked");
    let mut fetched = Vec::new();
    for entry in fs::read_dir(work.path())
        .map_err(Error::io("read", work.path()))?
        .flatten()
    {
        let path = entry.path();
        if path.extension() != Some(OsStr::new("deb")) {
            continue;
        }
        Job::new("dpkg-deb", "dpkg-deb")
            .arg("-x")
            .arg(&path)
            .arg(&unpacked)
            .run(&log, cancel, &|_| {})?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('_');
        fetched.push(format!(
            "{} {}",
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default()
        ));
    }
    let parent = cache.tools();
    fs::create_dir_all(&parent).map_err(Error::io("make the folder", &parent))?;
    fs::rename(&unpacked, dir).map_err(Error::io("move into place", dir))?;
    fetched.sort();
    Ok(fetched)
}

fn has_candidate(package: &str, options: &[String]) -> bool {
    apt_cache(options, &["policy", package])
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))
        .is_some_and(|version| version.trim() != "(none)")
}

/// `perl-modules-5.NN` and `libperl5.NN`, which `perl` depends on.
fn perl_parts(options: &[String]) -> Vec<String> {
    apt_cache(options, &["depends", "perl"])
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("perl-modules-") || name.starts_with("libperl5"))
        .collect()
}

fn apt_cache(options: &[String], arguments: &[&str]) -> String {
    Command::new("apt-cache")
        .args(options)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}
