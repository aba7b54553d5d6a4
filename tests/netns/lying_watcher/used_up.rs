//! What a taken-over watcher uses up, and when whoever holds the credentials gets in again.

use std::fs;
use std::process::Command;
use std::time::Duration;

use libknock::proto::spa::PrivateKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SECRET, Scene, acts, configuration, make, write_private};
use crate::support::{Knockd, Net, PATIENCE, SERVER, eventually, needs};

/// `knock`, by the client, with its credentials.
fn knock(net: &Net, knockd: &Knockd, arguments: &[&str]) {
    let mut command: Command = net.client.command(env!("CARGO_BIN_EXE_knock"));
    let output = command.current_dir(knockd.directory.path()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_honest_client_gets_in_within_its_credentials_windows_and_the_list_is_not_used_up() {
    needs!("burnt credentials");
    let net = Net::new();
    let command = net.server.command(env!("CARGO_BIN_EXE_knockd"));
    let knockd = Scene::new("burns").run_by(command, &configuration("eth0"));
    knockd.wait_for("starting up, listening on");
    let times = |act: &str| acts(&knockd).lines().filter(|line| *line == act).count();
    // Each line that is used up brings another watcher, which burns all it can as well.
    let refused = || {
        let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
        status["counters"]["too-many"].as_u64() > Some(0)
    };
    assert!(eventually(PATIENCE, refused), "{}", knockd.log().join("\n"));
    assert!(eventually(PATIENCE, || times("once 192.0.2.7") == 10), "{}", acts(&knockd));
    assert!(times("spa 192.0.2.7") > 0 && times("code 192.0.2.7") > 0, "{}", acts(&knockd));
    make(&knockd, "honest");
    knockd.watchers().iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
    knockd.wait_for("another starts in");
    let directory = knockd.directory.path();
    write_private(&directory.join("key"), &PrivateKey::from([1; 32]).encode());
    write_private(&directory.join("secret"), SECRET);
    let server: PrivateKey =
        fs::read_to_string(directory.join("server.key")).unwrap().parse().unwrap();
    let server = server.public().to_string();
    let spa = ["--spa", "--door", "spa", "--key", "key", "--server-key", &server, SERVER];
    let code = [
        "--totp",
        "--door",
        "code",
        "--base",
        "7100",
        "--step",
        "2s",
        "--secret-file",
        "secret",
        SERVER,
    ];
    for (arguments, act) in [(&spa[..], "spa 192.0.2.2"), (&code[..], "code 192.0.2.2")] {
        let opens = || {
            knock(&net, &knockd, arguments);
            eventually(Duration::from_millis(500), || times(act) > 0)
        };
        assert!(eventually(PATIENCE, opens), "{act}: {}", knockd.log().join("\n"));
    }
    let list = fs::read_to_string(directory.join("once")).unwrap();
    assert_eq!(list.lines().filter(|line| !line.starts_with('#')).count(), 20);
    assert_eq!(times("once 192.0.2.7"), 10, "one a minute after ten");
}
