//! Mounts that a test has for itself: a disk of its own size, a `/dev` of its own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{must, skipped};

/// Runs a test, and what it starts, in a mount namespace of their own.
pub(crate) fn in_own_mounts(test: &'static str, function: impl FnOnce() + Send + 'static) {
    // The namespace is the thread's, and goes with it.
    let thread = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            return skipped(test, "this machine does not let root make a mount namespace");
        }
        must("mount", &["--make-rprivate", "/"]);
        function();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test in which a file system of 512 KiB of its own is mounted at this path.
pub(crate) fn on_a_small_disk(test: &'static str, function: fn(&Path)) {
    in_own_mounts(test, move || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        must("mount", &["-t", "tmpfs", "-o", "size=512k,mode=0700", "knock-test", path]);
        function(directory.path());
        must("umount", &[path]);
    });
}

/// Leaves no room on a file system, in a file that is given back.
pub(crate) fn fill(disk: &Path) -> std::path::PathBuf {
    let filler = disk.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[b'x'; 512]).is_ok() {}
    filler
}

/// Mounts a `/dev` in which nobody listens at `/dev/log`; call it in mounts of its own.
pub(crate) fn own_dev() {
    let before = tempfile::tempdir().unwrap();
    let before = before.path().to_str().unwrap();
    must("mount", &["--bind", "/dev", before]);
    must("mount", &["-t", "tmpfs", "-o", "mode=0755", "knock-test", "/dev"]);
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let (from, to) = (format!("{before}/{node}"), format!("/dev/{node}"));
        File::create(&to).unwrap();
        must("mount", &["--bind", &from, &to]);
    }
    fs::create_dir("/dev/shm").unwrap();
    symlink("/proc/self/fd", "/dev/fd").unwrap();
    must("umount", &[before]);
}
