//! `knockd --lock-only`: the guarded ports are locked before knockd runs, and where it cannot.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs, run,
};

/// An address of the client's that need not knock.
const TRUSTED: &str = "192.0.2.77";

fn configuration(settings: &str, door: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, \
         trusted: [{TRUSTED}]{settings}}}\n\
         doors:\n  ssh: {{sequence: [7000, 8000, 9000], open: [22], open_for: 1h{door}}}\n"
    )
}

/// A server on whose port 22 somebody listens, and which nothing locks yet.
fn net() -> Net {
    let net = Net::new();
    net.server.listen(22);
    net.client.must("ip", &["addr", "add", &format!("{TRUSTED}/24"), "dev", "eth0"]);
    net
}

/// A directory with a configuration, as before a first start.
fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("knock.conf");
    fs::write(&config, text.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    (directory, config)
}

fn lock_only(host: &Host, config: &Path) -> (Option<i32>, String) {
    let config = config.to_str().unwrap();
    said(&host.run(env!("CARGO_BIN_EXE_knockd"), &["--lock-only", "-c", config]))
}

/// The same where the directory of the configuration cannot be written.
fn lock_only_without_writing(host: &Host, config: &Path) -> (Option<i32>, String) {
    // `ip netns exec` gives it a mount namespace of its own.
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && \
                  exec \"$@\"";
    let directory = config.parent().unwrap().to_str().unwrap();
    let program = [env!("CARGO_BIN_EXE_knockd"), "--lock-only", "-c", config.to_str().unwrap()];
    let arguments = ["-c", script, "sh", directory].into_iter().chain(program);
    said(&host.run("sh", &arguments.collect::<Vec<_>>()))
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a reboot takes away.
fn reboot(net: &Net) {
    net.server.must("nft", &["delete", "table", "inet", "knockd"]);
    assert!(net.client.can_connect(SERVER, 22));
}

fn is_locked(net: &Net) -> bool {
    let trusted = TRUSTED.parse().unwrap();
    assert!(net.client.can_connect_from(Some(trusted), SERVER, 22), "who is trusted is shut out");
    [(CLIENT, SERVER), (CLIENT_6, SERVER_6)].into_iter().all(|(from, to)| {
        let from = from.parse().unwrap();
        !net.client.can_connect_from(Some(from), to, 22)
    })
}

fn knock(net: &Net) {
    let from = CLIENT.parse().unwrap();
    net.client.knock_from(from, SERVER, &["7000", "8000", "9000"], Duration::from_millis(10));
}

fn lets_in(net: &Net) -> bool {
    let from = CLIENT.parse().unwrap();
    eventually(PATIENCE, || net.client.can_connect_from(Some(from), SERVER, 22))
}

#[test]
fn ports_are_locked_before_knockd_runs_which_then_takes_them_over() {
    needs!("lock only", "nft");
    let net = net();
    let (directory, config) = written(&configuration("", ""));
    assert!(net.client.can_connect(SERVER, 22));
    let (status, said) = lock_only_without_writing(&net.server, &config);
    assert_eq!((status, &*said), (Some(0), "knockd: locked 1 port\n"));
    assert!(is_locked(&net));
    assert!(!directory.path().join("run").exists() && !directory.path().join("state").exists());
    let knockd = Knockd::run(&net.server, directory, config, &[], &[]);
    knockd.wait_for("starting up");
    assert!(is_locked(&net));
    knock(&net);
    assert!(lets_in(&net), "{}", knockd.log().join("\n"));
}

#[test]
fn where_the_configuration_is_broken_what_the_last_good_one_guarded_is_locked() {
    needs!("lock only, broken", "nft");
    let net = net();
    let mut knockd = Knockd::start(&net.server, &configuration("", ""));
    let (config, copy) = (knockd.config.clone(), knockd.directory.path().join("state/guard"));
    assert!(eventually(PATIENCE, || copy.exists()));
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
    let good = fs::read_to_string(&config).unwrap();
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    // What is no YAML from some line on, what is none at all, and what only makes no sense.
    for broken in [
        format!("{good}  web: {{open: [80\n"),
        format!("doors: [\n{good}"),
        good.replace("sequence", "sequenze"),
    ] {
        reboot(&net);
        fs::write(&config, broken).unwrap();
        let (status, said) = lock_only_without_writing(&net.server, &config);
        assert_eq!(status, Some(0), "{said}");
        let wrong =
            format!("knockd: the configuration is wrong, so by the copy {}", copy.display());
        assert!(said.starts_with(config.to_str().unwrap()), "{said}");
        assert!(said.contains(&wrong) && said.ends_with(" UTC: locked 1 port\n"), "{said}");
        assert!(is_locked(&net), "{said}");
    }
    let mut knockd = knockd.start_again(&net.server);
    assert_eq!(knockd.ended().code(), Some(3), "{:?}", knockd.log());
    assert!(is_locked(&net), "a knockd that cannot start unlocks");
}

#[test]
fn without_a_whole_copy_nothing_is_locked_and_the_status_tells_a_wrong_configuration() {
    needs!("lock only, no copy", "nft");
    let net = net();
    let (directory, config) = written(&configuration("", ", opens: [23]"));
    let (status, said) = lock_only(&net.server, &config);
    assert_eq!(status, Some(3), "{said}");
    let copy = directory.path().join("state/guard");
    let what = "knockd: nothing has been locked: the configuration is wrong, and there is no copy";
    assert!(said.contains(what) && said.contains(&format!("{}: cannot be read", copy.display())));
    fs::create_dir(copy.parent().unwrap()).unwrap();
    fs::write(&copy, r#"{"doors":{"ssh":{"ports":["22/tcp"],"target":null}}"#).unwrap();
    let (status, said) = lock_only(&net.server, &config);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("state/guard: is not a whole copy"), "{said}");
    assert!(net.client.can_connect(SERVER, 22));
}

#[test]
fn where_no_door_is_guarded_nothing_is_locked() {
    needs!("lock only, no guard", "nft");
    let host = Host::new("s");
    let text = configuration("", "").replace("open: [22], open_for: 1h", "start_command: 'true'");
    let (_directory, config) = written(&text);
    let (status, said) = lock_only(&host, &config);
    let nothing = "knockd: nothing to lock, since the guard locks no door\n";
    assert_eq!((status, &*said), (Some(0), nothing));
    assert_eq!(host.must("nft", &["list", "tables"]), "");
}

#[test]
fn a_knockd_that_runs_and_whom_it_has_let_in_are_not_disturbed() {
    needs!("lock only, running", "nft");
    let net = net();
    let knockd = Knockd::start(&net.server, &configuration("", ""));
    knock(&net);
    assert!(lets_in(&net));
    let good = fs::read_to_string(&knockd.config).unwrap();
    for text in [good.clone(), good + "  web: {open: [80\n"] {
        fs::write(&knockd.config, text).unwrap();
        let (status, said) = lock_only(&net.server, &knockd.config);
        assert_eq!(status, Some(0), "{said}");
        let left = "knockd: left as it is: a knockd is at work, and its ports are locked\n";
        assert!(said.ends_with(left), "{said}");
    }
    assert!(lets_in(&net));
    let status = knockd.ask(r#"{"do":"status"}"#);
    assert_eq!(status[0]["grants"][0]["state"], "open");
    assert_eq!(knockd.count("it is restored"), 0, "{:?}", knockd.log());
}

#[test]
fn whom_a_dead_knockd_has_let_in_stays_so() {
    needs!("lock only, dead", "nft");
    let net = net();
    let mut knockd = Knockd::start(&net.server, &configuration("", ""));
    knock(&net);
    assert!(lets_in(&net));
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let good = fs::read_to_string(&knockd.config).unwrap();
    for text in [good.clone(), good.clone() + "  web: {open: [80\n"] {
        fs::write(&knockd.config, text).unwrap();
        let (status, said) = lock_only(&net.server, &knockd.config);
        assert!(status == Some(0) && said.ends_with("locked 1 port\n"), "{said}");
        assert!(lets_in(&net), "the grant is gone");
        assert!(!net.client.can_connect(SERVER_6, 22), "the lock is gone");
    }
    fs::write(&knockd.config, good).unwrap();
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("192.0.2.2: ssh: still open from before");
    knockd.wait_for("starting up");
    assert!(lets_in(&net));
}

#[test]
fn what_is_on_trial_is_locked_no_longer_than_that_and_not_kept_before_it_is_confirmed() {
    needs!("lock only, trial", "nft");
    let net = net();
    let text = configuration("", "");
    let mut knockd = Knockd::spawn(&net.server, &text, &["--try", "1h"]);
    knockd.wait_for("starting up");
    let copy = knockd.directory.path().join("state/guard");
    assert!(!copy.exists(), "what nobody has confirmed is kept");
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let (status, said) = lock_only(&net.server, &knockd.config);
    assert_eq!(status, Some(0), "{said}");
    let guarded = net.server.must("nft", &["list", "set", "inet", "knockd", "guarded"]);
    assert!(guarded.contains("expires"), "locked for good: {guarded}");
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up");
    assert_eq!(knockd.ask(r#"{"do":"confirm"}"#)[0]["reply"], "done");
    assert!(fs::read_to_string(&copy).unwrap().contains(r#""ports":["22/tcp"]"#));
}

#[test]
fn a_reload_keeps_what_it_guards_and_one_that_fails_does_not() {
    needs!("guard copy", "nft");
    let net = net();
    let knockd = Knockd::start(&net.server, &configuration("", ""));
    let copy = knockd.directory.path().join("state/guard");
    let has = |port: &str| fs::read_to_string(&copy).is_ok_and(|text| text.contains(port));
    knockd.configure(&configuration("", "").replace("[22]", "[22, 80]"));
    knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || has(r#""ports":["22/tcp","80/tcp"]"#)));
    knockd.configure(&configuration("", ", opens: [23]").replace("[22]", "[22, 81]"));
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("the old configuration stays");
    assert!(has("80/tcp") && !has("81/tcp"));
    // What cannot be written is said, and ends nothing.
    fs::remove_file(&copy).unwrap();
    fs::create_dir(&copy).unwrap();
    knockd.configure(&configuration("", "").replace("[22]", "[22, 82]"));
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("'knockd --lock-only' would not know these ports");
    assert!(eventually(PATIENCE, || net.server.must("nft", &["list", "ruleset"]).contains("82")));
}

#[test]
fn an_option_of_the_daemon_has_no_place_beside_it() {
    for options in [&["-i", "eth0"][..], &["-d"], &["-t"], &["--try", "2m"], &["-D"], &["-p", "x"]]
    {
        let output = run(env!("CARGO_BIN_EXE_knockd"), &[&["--lock-only"], options].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}");
    }
}
