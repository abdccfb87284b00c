//! Laying files over a tree without unpacking it: archives in, one archive out. No rights are needed, and owners are kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};
use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::tree::EPOCH;

/// Keeps an empty folder in git; not a file of the image.
const KEEP: &str = ".keep";

/// Files of root's to lay over a tree, by path without a leading slash.
#[derive(Debug, Default)]
pub(crate) struct Overlay(BTreeMap<PathBuf, Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Folder,
    File { from: PathBuf, executable: bool },
    Text(String),
    Link(PathBuf),
}

impl Overlay {
    /// All files below a folder.
    pub(crate) fn from_folder(root: &Path) -> Result<Self> {
        let mut overlay = Self::default();
        for entry in WalkDir::new(root).min_depth(1).sort_by_file_name() {
            let entry = entry.map_err(|error| Error::io("read", root)(error.into()))?;
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap_or(path);
            let kind = entry.file_type();
            if entry.file_name() == KEEP {
                continue;
            } else if kind.is_dir() {
                overlay.0.insert(name.to_owned(), Node::Folder);
            } else if kind.is_symlink() {
                let target = fs::read_link(path).map_err(Error::io("read the link", path))?;
                overlay.0.insert(name.to_owned(), Node::Link(target));
            } else {
                let meta = entry
                    .metadata()
                    .map_err(|error| Error::io("read", path)(error.into()))?;
                let executable = meta.permissions().mode() & 0o100 != 0;
                overlay.0.insert(
                    name.to_owned(),
                    Node::File {
                        from: path.to_owned(),
                        executable,
                    },
                );
            }
        }
        Ok(overlay)
    }

    pub(crate) fn add_program(&mut self, name: &str, from: PathBuf) {
        self.add(
            name,
            Node::File {
                from,
                executable: true,
            },
        );
    }

    pub(crate) fn add_text(&mut self, name: &str, text: impl Into<String>) {
        self.add(name, Node::Text(text.into()));
    }

    pub(crate) fn add_link(&mut self, name: &str, target: &str) {
        self.add(name, Node::Link(target.into()));
    }

    fn add(&mut self, name: &str, node: Node) {
        let path = PathBuf::from(name);
        for folder in path
            .ancestors()
            .skip(1)
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            self.0.entry(folder.to_owned()).or_insert(Node::Folder);
        }
        self.0.insert(path, node);
    }
}

/// Which file stays where two archives have one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wins {
    /// That of the first archive.
    First,
    /// That of a later one.
    Later,
}

/// Writes `target`: the archives in `from`, without what `leave_out` names, then the overlay.
pub(crate) fn write(
    target: &Path,
    from: &[&Path],
    wins: Wins,
    overlay: &Overlay,
    leave_out: &[String],
) -> Result<()> {
    let file = File::create(target).map_err(Error::io("write", target))?;
    let mut builder = Builder::new(BufWriter::with_capacity(1 << 20, file));
    let mut winners: Vec<PathBuf> = Vec::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    let winning = |index: usize| (index == 0) == (wins == Wins::First);
    // What stays has to be known first.
    for (_, archive) in from.iter().enumerate().filter(|(index, _)| winning(*index)) {
        for entry in open(archive)?
            .entries()
            .map_err(Error::io("read", *archive))?
        {
            let entry = entry.map_err(Error::io("read", *archive))?;
            if entry.header().entry_type() != EntryType::Directory {
                winners.push(clean(&entry.path().map_err(Error::io("read", *archive))?));
            }
        }
    }
    winners.sort();
    for (index, archive) in from.iter().enumerate() {
        for entry in open(archive)?
            .entries()
            .map_err(Error::io("read", *archive))?
        {
            let mut entry = entry.map_err(Error::io("read", *archive))?;
            let path = clean(&entry.path().map_err(Error::io("read", *archive))?);
            let replaced = !winning(index) && winners.binary_search(&path).is_ok();
            let is_folder = entry.header().entry_type() == EntryType::Directory;
            let covered = overlay
                .0
                .get(&path)
                .is_some_and(|node| *node != Node::Folder);
            if replaced || covered || is_left_out(&path, leave_out) {
                continue;
            }
            if is_folder {
                if folders.contains(&path) {
                    continue;
                }
                if overlay.0.contains_key(&path) {
                    folders.push(path.clone());
                }
            }
            copy(&mut builder, &mut entry, &path).map_err(Error::io("copy a file of", *archive))?;
        }
    }
    for (path, node) in &overlay.0 {
        if *node == Node::Folder && folders.contains(path) {
            continue;
        }
        add(&mut builder, path, node).map_err(Error::io("add to the archive", path))?;
    }
    let mut file = builder.into_inner().map_err(Error::io("write", target))?;
    file.flush().map_err(Error::io("write", target))
}

/// Copies the files below `folder` in an archive into `target`, flat.
pub(crate) fn extract_flat(archive: &Path, folder: &str, target: &Path) -> Result<()> {
    for entry in open(archive)?
        .entries()
        .map_err(Error::io("read", archive))?
    {
        let mut entry = entry.map_err(Error::io("read", archive))?;
        let path = clean(&entry.path().map_err(Error::io("read", archive))?);
        if entry.header().entry_type().is_file()
            && let Ok(name) = path.strip_prefix(folder)
        {
            let to = target.join(name);
            entry.unpack(&to).map_err(Error::io("write", &to))?;
        }
    }
    Ok(())
}

/// Unpacks an archive as the user who runs this, without what `leave_out` names.
pub(crate) fn unpack(archive: &Path, leave_out: &[String], target: &Path) -> Result<()> {
    fs::create_dir(target).map_err(Error::io("make the folder", target))?;
    for entry in open(archive)?
        .entries()
        .map_err(Error::io("read", archive))?
    {
        let mut entry = entry.map_err(Error::io("read", archive))?;
        let path = clean(&entry.path().map_err(Error::io("read", archive))?);
        if path.as_os_str().is_empty() || is_left_out(&path, leave_out) {
            continue;
        }
        entry
            .unpack_in(target)
            .map_err(Error::io("unpack", target.join(path)))?;
    }
    Ok(())
}

fn open(archive: &Path) -> Result<Archive<BufReader<File>>> {
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    Ok(Archive::new(BufReader::with_capacity(1 << 20, file)))
}

/// `./usr/bin/` as `usr/bin`.
fn clean(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)))
        .collect()
}

fn is_left_out(path: &Path, leave_out: &[String]) -> bool {
    let path = path.as_os_str().as_bytes();
    leave_out
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => path.len() > prefix.len() && path.starts_with(prefix.as_bytes()),
            None => path == pattern.as_bytes(),
        })
}

fn copy<R: Read, W: Write>(
    builder: &mut Builder<W>,
    entry: &mut tar::Entry<'_, R>,
    path: &Path,
) -> std::io::Result<()> {
    let mut header = entry.header().clone();
    if header.mtime()? > EPOCH {
        header.set_mtime(EPOCH);
    }
    // The root folder's own entry.
    let path = if path.as_os_str().is_empty() {
        Path::new("./")
    } else {
        path
    };
    match entry.link_name()? {
        Some(target) if header.entry_type() == EntryType::Link => {
            builder.append_link(&mut header, path, clean(&target))
        }
        Some(target) => {
            let target = target.into_owned();
            builder.append_link(&mut header, path, target)
        }
        None => builder.append_data(&mut header, path, entry),
    }
}

fn add<W: Write>(builder: &mut Builder<W>, path: &Path, node: &Node) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH);
    header.set_mode(0o644);
    header.set_size(0);
    match node {
        Node::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, path, std::io::empty())
        }
        Node::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, path, target)
        }
        Node::Text(text) => {
            header.set_size(text.len() as u64);
            builder.append_data(&mut header, path, text.as_bytes())
        }
        Node::File { from, executable } => {
            let file = File::open(from)?;
            header.set_size(file.metadata()?.len());
            if *executable {
                header.set_mode(0o755);
            }
            builder.append_data(&mut header, path, file)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(archive: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in open(archive).unwrap().entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mode = entry.header().mode().unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let target = entry
                .link_name()
                .unwrap()
                .map(|target| format!(" -> {}", target.display()));
            lines.push(
                format!("{path} {mode:o} {text}{}", target.unwrap_or_default())
                    .trim_end()
                    .to_owned(),
            );
        }
        lines.sort();
        lines
    }

    fn archive(path: &Path, files: &[(&str, &str)]) {
        let mut overlay = Overlay::default();
        for (name, text) in files {
            overlay.add_text(name, *text);
        }
        write(path, &[], Wins::Later, &overlay, &[]).unwrap();
    }

    #[test]
    fn later_wins_and_the_overlay_most() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        archive(
            &at("tree.tar"),
            &[
                ("etc/a", "tree"),
                ("etc/b", "tree"),
                ("etc/c", "tree"),
                ("usr/share/doc/x/y", ""),
            ],
        );
        archive(
            &at("modules.tar"),
            &[("etc/b", "modules"), ("etc/c", "modules")],
        );
        fs::write(at("qm"), "program").unwrap();
        let mut overlay = Overlay::default();
        overlay.add_text("etc/c", "overlay");
        overlay.add_program("usr/sbin/qm", at("qm"));
        overlay.add_link("etc/systemd/system/x.timer", "/dev/null");
        let (tree, modules) = (at("tree.tar"), at("modules.tar"));
        let write_with = |wins, name: &str| {
            let leave_out = ["usr/share/doc/*".to_owned()];
            write(&at(name), &[&tree, &modules], wins, &overlay, &leave_out).unwrap();
        };
        write_with(Wins::First, "first.tar");
        assert!(listing(&at("first.tar")).contains(&"etc/b 644 tree".to_owned()));
        write_with(Wins::Later, "out.tar");
        assert_eq!(
            listing(&at("out.tar")),
            [
                "etc 755",
                "etc/a 644 tree",
                "etc/b 644 modules",
                "etc/c 644 overlay",
                "etc/systemd 755",
                "etc/systemd/system 755",
                "etc/systemd/system/x.timer 777  -> /dev/null",
                "usr 755",
                "usr/sbin 755",
                "usr/sbin/qm 755 program",
                "usr/share 755",
                "usr/share/doc 755",
            ]
        );
    }

    #[test]
    fn a_keep_file_stands_for_an_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("files/etc/pve/qemu-server")).unwrap();
        fs::write(dir.path().join("files/etc/pve/qemu-server/.keep"), "").unwrap();
        let overlay = Overlay::from_folder(&dir.path().join("files")).unwrap();
        write(&dir.path().join("out.tar"), &[], Wins::Later, &overlay, &[]).unwrap();
        assert_eq!(
            listing(&dir.path().join("out.tar")),
            ["etc 755", "etc/pve 755", "etc/pve/qemu-server 755"]
        );
    }
}
