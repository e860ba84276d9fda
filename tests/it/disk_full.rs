//! A full disk: a clear error, nothing lost, and it resumes once there is room.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::args;
use crate::support::home::{Home, address, number};
use crate::support::tree::{MIB, allocated, assert_no_wrong_byte, assert_same, random_file};

/// A file system of its own size, for as long as this lives.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// The reason why there can be none here, or the mount.
    pub fn mount(at: &Path, size: &str) -> Result<Tmpfs, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can mount a tmpfs".into());
        }
        std::fs::create_dir_all(at).unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "dunlin-test"])
            .arg(at))?;
        Ok(Tmpfs(at.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn resize(&self, size: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0)).unwrap();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot run mount: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_fetch_to_a_full_disk_says_so_and_resumes_when_there_is_room() {
    let (a, b) = (Home::new(), Home::new());
    let small = match Tmpfs::mount(&b.join("small"), "24m") {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: {why}"),
    };
    let (file, dest) = (a.join("file"), small.0.join("copy"));
    let part = small.0.join("copy.part");
    random_file(&file, 1, 64 * MIB);
    let (_daemon, line) = a.daemon(&[]);
    let cid = a.ok(&args!["add", "-q", &file]).stdout.trim_end().to_owned();
    let fetch = args!["get", &cid, "-q", "-o", &dest, "--peer", address(&line), "--timeout", "60"];

    let full = b.start(&fetch).wait().code(1);
    assert!(full.error().contains("disk full") || full.error().contains("No space"), "{}", full.error());
    assert!(part.exists() && !dest.exists());
    assert_no_wrong_byte(&file, &part);
    let (kept, sent) = (allocated(&part), number(&a.status(), "uploaded"));
    assert!(kept > 8 * MIB, "only {kept} bytes were kept");

    // A second try on the full disk loses nothing either.
    b.start(&fetch).wait().code(1);
    assert!(allocated(&part) >= kept);
    let sent_in_vain = number(&a.status(), "uploaded") - sent;

    small.resize("128m");
    b.start(&fetch).wait().ok();
    assert_same(&file, &dest);
    let sent = number(&a.status(), "uploaded") - sent - sent_in_vain;
    assert!(sent <= 64 * MIB - kept + 16 * MIB, "{sent} bytes sent, {kept} were there");
}

#[test]
fn a_data_directory_on_a_full_disk_is_a_clear_error() {
    let home = Home::new();
    let full = match Tmpfs::mount(&home.join("data"), "4m") {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: {why}"),
    };
    home.ok(&args!["id"]);
    let ballast = full.0.join("ballast");
    let mut size = 4 * MIB;
    // Fill it to the last page.
    while size >= 4_096 {
        let mut file = std::fs::File::options().create(true).append(true).open(&ballast).unwrap();
        if std::io::Write::write_all(&mut file, &vec![1; size as usize]).is_err() {
            size /= 2;
        }
    }
    std::fs::create_dir(home.join("tree")).unwrap();
    for i in 0..300 {
        std::fs::write(home.join(&format!("tree/{i}")), format!("file {i}")).unwrap();
    }
    let done = home.run(&args!["add", "-q", "tree"]).code(1);
    assert!(!done.error().contains("panicked"), "{}", done.stderr);
    std::fs::remove_file(&ballast).unwrap();
    full.resize("64m");
    home.ok(&args!["add", "-q", "tree"]);
}
