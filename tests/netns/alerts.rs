//! Telling somebody that a door was opened or closed. Needs root for its namespaces.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{CLIENT, Host, Knockd, PATIENCE, command, eventually, needs};

/// One door, `ssh`, opened by hand.
fn configuration(settings: &str, door: &str) -> String {
    format!(
        "knockd: {{interfaces: [lo], run_dir: DIR/run, state_dir: DIR/state, user: nobody{settings}}}\n\
         doors:\n  ssh: {{sequence: [7000, 8000, 9000], start_command: 'true', stop_command: 'true'{door}}}\n"
    )
}

fn knockctl(knockd: &Knockd, arguments: &[&str]) {
    let output = command(env!("CARGO_BIN_EXE_knockctl"))
        .arg("-c")
        .arg(&knockd.config)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn read(knockd: &Knockd, file: &str) -> String {
    fs::read_to_string(knockd.directory.path().join(file)).unwrap_or_default()
}

#[test]
fn a_command_that_hangs_or_fails_holds_no_door_up() {
    needs!("on_open hangs");
    let host = Host::new("s");
    let door = ", open_for: 1h, on_open: echo %IP% >> DIR/told; sleep 60, on_close: exit 3";
    let knockd = Knockd::start(&host, &configuration("", door));
    // Each returns when the door is open.
    knockctl(&knockd, &["open", "ssh", CLIENT]);
    knockctl(&knockd, &["open", "ssh", "192.0.2.9"]);
    assert!(eventually(PATIENCE, || read(&knockd, "told") == format!("{CLIENT}\n")));
    knockctl(&knockd, &["close", "ssh", CLIENT]);
    knockd.wait_for(&format!("{CLIENT}: ssh: closed by hand"));
    knockd.wait_for("ssh: command returned non-zero status code (3)");
}

#[test]
fn a_door_that_is_open_from_before_tells_that_it_closes() {
    needs!("on_close, restart");
    let host = Host::new("s");
    let door = ", open_for: 1h, on_close: echo %IP% >> DIR/closed";
    let mut knockd = Knockd::start(&host, &configuration("", door));
    knockctl(&knockd, &["open", "ssh", CLIENT]);
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let knockd = knockd.start_again(&host);
    knockd.wait_for("starting up");
    knockctl(&knockd, &["close", "ssh", CLIENT]);
    assert!(eventually(PATIENCE, || read(&knockd, "closed") == format!("{CLIENT}\n")));
}

#[test]
fn what_closes_as_knockd_stops_is_told() {
    needs!("on_close, stop");
    let host = Host::new("s");
    let door = ", open_for: 1h, on_close: sleep 0.3; echo %IP% >> DIR/closed";
    let mut knockd = Knockd::start(&host, &configuration("", door));
    knockctl(&knockd, &["open", "ssh", CLIENT]);
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    assert_eq!(read(&knockd, "closed"), format!("{CLIENT}\n"));
}

fn mails(directory: &Path) -> Vec<String> {
    let mails = fs::read_dir(directory.join("mails")).unwrap();
    // A mail that is being written has no name yet.
    let done = mails.map(|mail| mail.unwrap().path()).filter(|path| path.extension().is_some());
    let mut mails: Vec<String> = done.map(|path| fs::read_to_string(path).unwrap()).collect();
    mails.sort();
    mails
}

#[test]
fn mail_is_sent_when_a_door_is_opened_and_closed_at_a_limited_rate() {
    needs!("mail");
    let host = Host::new("s");
    let directory = tempfile::tempdir().unwrap();
    for name in ["sbin", "mails"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    let sendmail = directory.path().join("sbin/sendmail");
    let mail = directory.path().join("mails").display().to_string();
    let script = format!(
        "#!/bin/sh\n{{ echo \"arguments: $*\"; cat; }} > {mail}/$$ && mv {mail}/$$ {mail}/$$.mail\n"
    );
    fs::write(&sendmail, script).unwrap();
    fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755)).unwrap();
    let configuration = configuration(", alert: {email: root@example.com}", ", open_for: 1h");
    let knockd = Knockd::start_with_programs(&host, directory, &configuration);

    knockctl(&knockd, &["open", "ssh", CLIENT]);
    knockctl(&knockd, &["close", "ssh", CLIENT]);
    let directory = knockd.directory.path();
    assert!(eventually(PATIENCE, || mails(directory).len() == 2));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let mail = |what: &str| {
        format!(
            "arguments: -i -- root@example.com\nTo: root@example.com\n\
             Subject: {host}: knockd: ssh {what} for {CLIENT}\nAuto-Submitted: auto-generated\n\n\
             ssh was {what} for {CLIENT}.\n\nhost: {host}\nopened by: knockctl\n"
        )
    };
    let [closed, opened] = &mails(directory)[..] else { panic!("two mails") };
    assert_eq!(*closed, mail("closed"));
    let until = opened.strip_prefix(&mail("opened")).unwrap();
    assert!(until.starts_with("until: 20") && until.lines().count() == 1, "{until}");

    for last in 10..25 {
        knockctl(&knockd, &["open", "ssh", &format!("192.0.2.{last}")]);
    }
    assert!(eventually(PATIENCE, || mails(directory).len() == 10));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(mails(directory).len(), 10);
}
