//! What processes take up.

use std::fs;

use super::Knockd;

/// The keeper and its watchers.
pub(crate) fn processes(knockd: &Knockd) -> Vec<i32> {
    [knockd.pid()].into_iter().chain(knockd.watchers()).collect()
}

/// Resident memory of a process in KiB, the mapped rings included; 0 where it has ended.
pub(crate) fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().unwrap())
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
