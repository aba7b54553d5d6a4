//! What README, docs/ and the manual's examples tell people to type does what they say.

use std::path::Path;
use std::process::Stdio;

use crate::support::{command, must, needs};

#[test]
fn every_command_of_every_page_runs_as_it_stands_in_a_clean_system() {
    needs!(
        "pages", "fwknop", "iptables", "jq", "make", "nft", "oathtool", "python3", "ssh", "sshd",
        "tcpdump", "unshare"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(env!("CARGO_BIN_EXE_knock")).parent().unwrap().to_str().unwrap();
    let make = root.to_str().unwrap();
    must("make", &["-s", "-C", make, "notices", &format!("BUILT={programs}")]);
    let mut run = command("tests/pages/run");
    run.current_dir(root).arg(programs).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = run.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    // Not println!, which the test harness swallows: what is not run is told, and why.
    use std::io::Write;
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}
