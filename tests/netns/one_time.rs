//! Sequences that open once: a real list on a real disk, knocked between namespaces.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, can_make_namespaces, eventually,
    has_programs,
};

const SOON: Duration = Duration::from_millis(15);
const LIST: &str = "# for the road\n7000,8000:udp,9000\n7100,8100,9100\n7200,8200,9200\n";

struct Site {
    net: Net,
    knockd: Knockd,
    list: PathBuf,
    _directory: tempfile::TempDir,
}

impl Site {
    /// A guarded port, opened by the lines of a list; `None` where there can be no namespaces.
    fn new(test: &str, text: &str) -> Option<Self> {
        if !can_make_namespaces(test) || !has_programs(test, &["nft"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("ssh.sequences");
        fs::write(&list, text).unwrap();
        fs::set_permissions(&list, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let net = Net::new();
        net.server.listen(22);
        let configuration = format!(
            "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
             doors:\n  ssh: {{one_time_sequences: {}, open: [22], open_for: 1s}}\n",
            list.display()
        );
        let knockd = Knockd::start(&net.server, &configuration);
        Some(Self { net, knockd, list, _directory: directory })
    }

    fn knock(&self, from: &str, to: &str, ports: &[&str]) {
        self.net.client.knock_from(from.parse::<IpAddr>().unwrap(), to, ports, SOON);
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.list).unwrap()
    }

    fn left(&self) -> u64 {
        let status = self.knockd.ask(r#"{"do":"status"}"#);
        status[0]["doors"][0]["sequences_left"].as_u64().unwrap()
    }

    /// The next line counts from here on.
    fn has_left(&self, left: u64) {
        assert!(eventually(PATIENCE, || self.left() == left), "{} are left", self.left());
    }

    fn closes(&self) {
        assert!(eventually(PATIENCE, || !self.net.client.can_connect(SERVER, 22)));
    }
}

#[test]
fn each_line_opens_once_in_both_families_and_is_struck_out_before() {
    let Some(site) = Site::new("one-time", LIST) else { return };
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
    assert!(site.text().starts_with("# for the road\n#000,8000:udp,9000\n7100,"));
    assert!(site.net.client.can_connect(SERVER, 22));
    site.has_left(2);
    site.closes();
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.knock(CLIENT_6, SERVER_6, &["7100", "8100", "9100"]);
    site.knockd.wait_for(&format!("{CLIENT_6}: ssh: OPEN SESAME"));
    assert_eq!(site.knockd.count("OPEN SESAME"), 2, "a line that was used opened again");
    site.has_left(1);
}

#[test]
fn the_last_line_leaves_the_door_shut_and_knockd_says_so() {
    let Some(site) = Site::new("one-time-last", "7000,8000,9000\n") else { return };
    site.knock(CLIENT, SERVER, &["7000", "8000", "9000"]);
    site.knockd.wait_for("no one-time sequence is left");
    site.has_left(0);
    site.closes();
    site.knock(CLIENT, SERVER, &["7000", "8000", "9000"]);
    assert_eq!(site.knockd.count("OPEN SESAME"), 1);
    // Whoever appends a line need not tell knockd.
    fs::write(&site.list, format!("{}7300,8300,9300\n", site.text())).unwrap();
    site.has_left(1);
    site.knock(CLIENT, SERVER, &["7300", "8300", "9300"]);
    site.knockd.wait_for_count("OPEN SESAME", 2);
}

#[test]
fn a_used_line_opens_nothing_after_a_restart_even_if_somebody_writes_it_again() {
    let Some(mut site) = Site::new("one-time-restart", LIST) else { return };
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
    site.knockd.signal(Signal::SIGKILL);
    site.knockd.ended();
    fs::write(&site.list, LIST).unwrap();
    let Site { net, knockd, list, _directory } = site;
    let site = Site { knockd: knockd.start_again(&net.server), net, list, _directory };
    site.knockd.wait_for("starting up");
    site.closes();
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.knockd.wait_for("not opened: it has been used before");
    assert!(!site.net.client.can_connect(SERVER, 22));
}

#[test]
fn the_line_after_the_one_that_was_knocked_is_not_taken_for_it() {
    let Some(site) = Site::new("one-time-explain", LIST) else { return };
    let before = site.left();
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.has_left(before - 1);
    let said = site.knockd.says_while(&["explain", "--live"], || ());
    assert!(
        said.contains("ssh  stage 2 (8000/udp)\n") && said.contains("open by one_time_sequence"),
        "{said}"
    );
}

#[test]
fn a_list_that_cannot_be_written_opens_nothing() {
    let Some(site) = Site::new("one-time-immutable", LIST) else { return };
    let path = site.list.display().to_string();
    if !crate::support::run("chattr", &["+i", &path]).status.success() {
        return crate::support::skipped("one-time-immutable", "no immutable files here");
    }
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.knockd.wait_for("cannot strike out the line that was knocked");
    let open = site.net.client.can_connect(SERVER, 22);
    crate::support::must("chattr", &["-i", &path]);
    assert!(!open);
    assert_eq!(site.text(), LIST);
}

#[test]
fn a_list_that_others_could_have_put_in_place_while_it_runs_opens_nothing_until_it_is_mended() {
    let Some(site) = Site::new("one-time-foreign", LIST) else { return };
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    let other = site.list.with_extension("new");
    fs::write(&other, "7300,8300,9300\n").unwrap();
    fs::set_permissions(&other, mode(0o622)).unwrap();
    fs::rename(&other, &site.list).unwrap();
    site.knockd.wait_for("others than its owner can write it (mode 0622)");
    site.knockd.wait_for("opens to nobody until this is mended");
    site.knock(CLIENT, SERVER, &["7300", "8300", "9300"]);
    site.knock(CLIENT, SERVER, &["7000", "8000/udp", "9000"]);
    site.knockd.wait_for("could not be struck out");
    assert!(!site.net.client.can_connect(SERVER, 22));
    assert_eq!(site.text(), "7300,8300,9300\n");
    fs::set_permissions(&site.list, mode(0o600)).unwrap();
    site.has_left(1);
    site.knock(CLIENT, SERVER, &["7300", "8300", "9300"]);
    site.knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
}

#[test]
fn a_client_strikes_out_its_own_list_and_both_stay_alike() {
    let Some(site) = Site::new("knock --one-time", LIST) else { return };
    let own = tempfile::NamedTempFile::new().unwrap();
    fs::write(own.path(), LIST).unwrap();
    let list = own.path().to_str().unwrap();
    for left in [2, 1, 0] {
        let arguments = ["-d", "15", "--one-time", list, "--wait", "22", SERVER];
        site.net.client.must(env!("CARGO_BIN_EXE_knock"), &arguments);
        site.has_left(left);
        assert_eq!(fs::read_to_string(list).unwrap(), site.text());
        site.closes();
    }
    let knocked = site.net.client.run(env!("CARGO_BIN_EXE_knock"), &["--one-time", list, SERVER]);
    assert!(String::from_utf8_lossy(&knocked.stderr).contains("no line is left"));
}
