//! What README, docs/ and the manual's examples tell people to type does what they say.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::support::{command, must, needs};

#[test]
fn every_command_of_every_page_runs_as_it_stands_in_a_clean_system() {
    needs!(
        "pages",
        "fwknop",
        "git",
        "iptables",
        "jq",
        "keepalived",
        "make",
        "nft",
        "oathtool",
        "openssl",
        "python3",
        "redis-sentinel",
        "rsync",
        "ssh",
        "sshd",
        "tcpdump",
        "unshare"
    );
    let root = env!("CARGO_MANIFEST_DIR");
    let programs = Path::new(env!("CARGO_BIN_EXE_knock")).parent().unwrap().to_str().unwrap();
    must("make", &["-s", "-C", root, "notices", &format!("BUILT={programs}")]);
    let mut run = command(&format!("{root}/tests/pages/run"));
    let output = run.arg(programs).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // Not println!, which the test harness swallows: how many are not run, and why.
    std::io::stderr().write_all(&output.stdout).unwrap();
}
