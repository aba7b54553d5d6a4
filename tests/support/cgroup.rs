//! A control group, in which no process can be started while a test says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::skipped;

/// A control group of processes; removed when it goes out of scope, if they have ended.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one; says loudly when this machine has none to give.
    pub(crate) fn new(test: &str) -> Option<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!("knock-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        // Where there is one tree for all controllers, this one may have to be asked for.
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+pids");
        for parent in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let path = Path::new(parent).join(&name);
            if fs::create_dir(&path).is_ok() {
                let group = Self(path);
                if group.0.join("pids.max").exists() {
                    return Some(group);
                }
            }
        }
        skipped(test, "this machine lets root limit no group's number of processes");
        None
    }

    pub(crate) fn take(&self, processes: &[i32]) {
        for pid in processes {
            fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    /// No process of the group can start another one.
    pub(crate) fn forbid_forks(&self) {
        fs::write(self.0.join("pids.max"), "0").unwrap();
    }

    pub(crate) fn allow_forks(&self) {
        fs::write(self.0.join("pids.max"), "max").unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
