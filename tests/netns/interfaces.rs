//! Interfaces by their names: what no name can be, and names that move while `knockd` runs.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, eventually, needs, run};

const KNOCKD: &str = env!("CARGO_BIN_EXE_knockd");
const KNOCKCTL: &str = env!("CARGO_BIN_EXE_knockctl");
const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];

fn configuration(interfaces: &str, door: &str) -> String {
    format!(
        "knockd: {{interfaces: [{interfaces}], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors: {{ssh: {{sequence: [7000, 8000, 9000], {door}}}}}\n"
    )
}

const ACT: &str = "start_command: 'true'";

fn client() -> IpAddr {
    CLIENT.parse().unwrap()
}

fn knock(net: &Net) {
    net.client.knock_from(client(), SERVER, &SEQUENCE, Duration::from_millis(10));
}

fn ip(host: &crate::support::Host, arguments: &str) {
    host.must("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Gives an interface that is up another name: without taking it down, where Linux lets one.
fn rename(host: &crate::support::Host, from: &str, to: &str) {
    let renamed = host.run("ip", &["link", "set", from, "name", to]);
    if !renamed.status.success() {
        ip(host, &format!("link set {from} down"));
        ip(host, &format!("link set {from} name {to}"));
        ip(host, &format!("link set {to} up"));
    }
}

/// What the program says of a name of an interface, given in each way that there is.
fn said_of(name: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = |called: &str, text: String| {
        let path = directory.path().join(called);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let yaml_name = serde_json::to_string(name).unwrap();
    let yaml = file("doors.yaml", configuration(&yaml_name, ACT));
    let good = file("good.yaml", configuration("eth0", ACT));
    let classic = file(
        "knockd.conf",
        format!("[options]\nInterface = {name}\n[ssh]\nSequence = 7,8,9\nCommand = true\n"),
    );
    fs::create_dir(directory.path().join("fwknop")).unwrap();
    let access = file("fwknop/access.conf", "SOURCE ANY\nKEY abcdefgh\nOPEN_PORTS tcp/22\n".into());
    file("fwknop/fwknopd.conf", format!("PCAP_INTF {name};\n"));
    let runs: [(&str, &[&str]); 5] = [
        (KNOCKCTL, &["-c", &yaml, "--insecure-permissions", "check"]),
        (KNOCKCTL, &["-c", &classic, "--insecure-permissions", "check"]),
        (KNOCKD, &["-t", "--insecure-permissions", "-c", &good, "-i", name]),
        (KNOCKCTL, &["import", &classic]),
        (KNOCKCTL, &["import", &access]),
    ];
    let said = runs.map(|(program, arguments)| {
        let output = run(program, arguments);
        assert!(!output.status.success(), "{program} {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    });
    said.into()
}

#[test]
fn a_name_that_cannot_be_is_an_error_wherever_it_is_written() {
    for (name, why) in [
        ("s0, lo", "it is several"),
        ("eth0 # lan", "a comment belongs on a line of its own"),
        ("'eth0'", "quotes are taken as they are here"),
        ("abcdefghijklmnop", "a name has no more than 15 bytes"),
        ("eth0 lo", "a name has no blanks"),
        ("net/eth0", "a name has no slash"),
    ] {
        for said in said_of(name) {
            assert!(said.contains("is not the name of an interface: "), "{said}");
            assert!(said.contains(why), "{name}: {said}");
        }
    }
}

#[test]
fn a_name_that_moves_to_another_interface_is_followed() {
    needs!("renamed interfaces");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration("eth0, eth7", ACT));
    // The cable keeps working under its new name, but is not asked for.
    rename(&net.server, "eth0", "lan0");
    knockd.wait_for("eth0 has gone; waiting for it");
    // What begins within a millisecond is still the old watcher's, which sees it to its end.
    std::thread::sleep(Duration::from_millis(50));
    knock(&net);
    // Another takes over the name while it is up.
    rename(&net.server, "lan0", "eth7");
    knockd.wait_for("eth7 is back, listening on it");
    assert_eq!(knockd.count("Stage"), 0, "{}", knockd.log().join("\n"));
    let heard = eventually(PATIENCE, || {
        knock(&net);
        knockd.count("192.0.2.2: ssh: OPEN SESAME") > 0
    });
    assert!(heard);
}

#[test]
fn a_card_that_takes_over_a_name_is_listened_on_at_once() {
    needs!("a name that is taken over");
    let net = Net::new();
    ip(&net.server, "link add other0 type bridge");
    rename(&net.server, "eth0", "cable0");
    ip(&net.server, "link set other0 name eth0");
    ip(&net.server, "link set eth0 up");
    let knockd = Knockd::start(&net.server, &configuration("eth0", ACT));
    knock(&net);
    // Both names move: the card that had the name stays where it is, and up.
    let swap = "ip link set eth0 name old0 || { ip link set eth0 down; ip link set eth0 name old0; \
                ip link set old0 up; }; ip link set cable0 name eth0 || { ip link set cable0 down; \
                ip link set cable0 name eth0; ip link set eth0 up; }";
    net.server.must("sh", &["-c", swap]);
    let heard = eventually(PATIENCE, || {
        knock(&net);
        knockd.count("192.0.2.2: ssh: OPEN SESAME") > 0
    });
    assert!(heard, "{}", knockd.log().join("\n"));
}

#[test]
fn an_interface_that_is_moved_to_another_namespace_is_heard_again_when_it_is_back() {
    needs!("moved interface");
    let net = Net::new();
    let elsewhere = crate::support::Host::new("elsewhere");
    let knockd = Knockd::start(&net.server, &configuration("eth0", ACT));
    let move_to = |from: &crate::support::Host, to: &crate::support::Host| {
        ip(from, &format!("link set eth0 netns {}", to.name));
        ip(to, &format!("addr add {SERVER}/24 dev eth0"));
        ip(to, "link set eth0 up");
    };
    move_to(&net.server, &elsewhere);
    knockd.wait_for("eth0 has gone; waiting for it");
    // Knocks at another machine are none of its business.
    assert!(eventually(PATIENCE, || net.client.reaches(SERVER)));
    knock(&net);
    move_to(&elsewhere, &net.server);
    knockd.wait_for("eth0 is back, listening on it");
    assert_eq!(knockd.count("Stage"), 0, "{}", knockd.log().join("\n"));
    let heard = eventually(PATIENCE, || {
        knock(&net);
        knockd.count("192.0.2.2: ssh: OPEN SESAME") > 0
    });
    assert!(heard, "{}", knockd.log().join("\n"));
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 1));
}

#[test]
fn other_names_of_an_interface_are_known() {
    needs!("other names");
    let net = Net::new();
    ip(&net.server, "link property add dev eth0 altname uplink");
    ip(&net.server, "link property add dev lo altname loop");
    let knockd = Knockd::start(&net.server, &configuration("uplink, loop", ACT));
    knockd.wait_for("starting up, listening on uplink, loop");
    knock(&net);
    knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    net.server.knock_from(here, "127.0.0.1", &SEQUENCE, Duration::from_millis(10));
    knockd.wait_for("127.0.0.1: ssh: OPEN SESAME");
    let config = knockd.config.display().to_string();
    let checked = net.server.run(KNOCKCTL, &["-c", &config, "check"]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!said.contains("there is no interface"), "{said}");
    // It is waited for under such a name, too.
    ip(&net.server, "link property del dev eth0 altname uplink");
    knockd.wait_for("uplink has gone; waiting for it");
    ip(&net.server, "link property add dev eth0 altname uplink");
    knockd.wait_for("uplink is back, listening on it");
}

#[test]
fn who_listens_nowhere_says_so() {
    needs!("listening nowhere");
    let net = Net::new();
    let guarded = configuration("late7", "open: [22]");
    let knockd = Knockd::start(&net.server, &guarded);
    let loud = "listening on nothing: nobody can knock, and the guarded ports stay locked";
    knockd.wait_for(loud);
    let config = knockd.config.display().to_string();
    let status = || {
        let output = net.server.run(KNOCKCTL, &["-c", &config, "status"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = status();
    let nothing = "nothing: nobody can knock, and the guarded ports stay locked";
    assert!(said.contains(nothing), "{said}");
    ip(&net.server, "link add late7 type bridge");
    ip(&net.server, "link set late7 up");
    knockd.wait_for("late7 is back, listening on it");
    assert!(!status().contains("nothing: "), "{}", status());
    ip(&net.server, "link del late7");
    knockd.wait_for_count(loud, 2);
}

#[test]
fn knocks_behind_any_number_of_tags_are_seen_everywhere() {
    needs!("stacked tags");
    let net = Net::new();
    for (interface, first) in [("eth0", 10), ("any", 20)] {
        let knockd = Knockd::start(&net.server, &configuration(interface, ACT));
        for tags in 1..=3 {
            // libpcap's filter for Ethernet looks behind two at most.
            if tags == 3 && interface == "eth0" {
                continue;
            }
            let last = first + tags;
            for (number, port) in (0..).zip([7000, 8000, 9000]) {
                let frame =
                    crate::support::tagged_syn(tags.into(), [192, 0, 2, last], port, number);
                net.client.enter(move || {
                    let mut cable = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
                    cable.sendpacket(frame).unwrap();
                });
            }
            knockd.wait_for(&format!("192.0.2.{last}: ssh: OPEN SESAME"));
        }
        let counters = &knockd.ask(r#"{"do":"status"}"#)[0]["counters"];
        assert!(counters["malformed"].is_null(), "{interface}: {counters}");
    }
}
