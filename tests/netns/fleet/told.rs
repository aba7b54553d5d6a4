//! What people are told of a fleet, and the mistakes that keep a gateway out of it.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::fleet::{
    BY_SOCKET, DOORS, Fleet, LAPTOP, NAMES, PATIENT, STORE, clients, configuration, request, seal,
};
use crate::support::{CLIENT, PATIENCE, eventually, must, needs};

const ELSEWHERE: &str = "198.51.100.7";

fn standard(name: &str) -> String {
    configuration(name, BY_SOCKET, PATIENT, &clients(), DOORS)
}

#[test]
fn knockctl_tells_the_gateways_what_they_share_and_since_when_the_store_is_lost() {
    needs!("fleet told", "redis-server", "nft");
    let mut fleet = Fleet::new();
    fleet.ask(0, "ssh");
    fleet.all_open("ssh", CLIENT);
    let gateway = &fleet.gateways[1];
    let told: serde_json::Value =
        serde_json::from_str(&gateway.says(&["fleet", "--json"])).unwrap();
    assert_eq!((&told["name"], &told["state"]), (&"gw2".into(), &"joined".into()), "{told}");
    let names: Vec<&str> = told["gateways"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["gateway"].as_str().unwrap())
        .collect();
    assert_eq!(names, NAMES);
    let said = gateway.says(&["fleet"]);
    assert!(NAMES.iter().all(|name| said.contains(name)) && said.contains("ssh"), "{said}");
    // What a gateway says of itself it says anew every other second.
    let opened = || {
        let told = gateway.fleet();
        told["gateways"].as_array().unwrap().iter().all(|it| it["open"] == 1)
    };
    assert!(eventually(PATIENCE, opened), "{}", gateway.fleet());
    let lag = |it: &serde_json::Value| it["lag_seconds"].as_f64().is_some_and(|it| it < 5.0);
    assert!(gateway.fleet()["gateways"].as_array().unwrap().iter().all(lag));
    assert!(gateway.says(&["status"]).contains("gw2"), "{}", gateway.says(&["status"]));
    let figures = || gateway.says(&["metrics"]);
    assert!(figures().contains("knockd_fleet_connected 1"), "{}", figures());
    fleet.store.kill();
    let gateway = &fleet.gateways[1];
    gateway.is_soon("alone");
    let figures = || gateway.says(&["metrics"]);
    assert!(figures().contains("knockd_fleet_connected 0"), "{}", figures());
    let said = gateway.says(&["fleet"]);
    assert!(said.contains("alone") && said.contains("since"), "{said}");
    let said = gateway.says(&["status"]);
    assert!(said.contains("alone"), "{said}");
    // One line for each change, of state or of reason, however long it lasts.
    gateway.knockd().wait_for("cannot be reached");
    let lines = gateway.knockd().log().len();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(gateway.knockd().log().len(), lines, "{:?}", gateway.knockd().log());
    fleet.store.start_again();
    fleet.joined();
}

#[test]
fn a_gateway_that_is_gone_is_told_as_one_that_was_not_heard_of() {
    needs!("fleet gone", "redis-server", "nft");
    let mut fleet = Fleet::new();
    fleet.gateways[2].end(Signal::SIGKILL);
    let unheard = || {
        let told = fleet.gateways[0].fleet();
        let all = told["gateways"].as_array().unwrap().clone();
        let gone = all.into_iter().find(|it| it["gateway"] == "gw3");
        gone.and_then(|it| it["heard_seconds_ago"].as_f64()).unwrap_or_default()
    };
    assert!(eventually(PATIENCE, || unheard() > 4.0), "{}", fleet.gateways[0].fleet());
}

#[test]
fn a_gateway_whose_clock_is_off_does_not_join_and_says_so_until_its_clock_is_right() {
    needs!("fleet clock", "redis-server", "nft");
    let mut fleet = Fleet::without_knockd("");
    let directory = tempfile::tempdir().unwrap();
    let calendar = directory.path().join("calendar");
    let set = |seconds: i32| fs::write(&calendar, seconds.to_string()).unwrap();
    // Beyond what a request may be old.
    set(300);
    for (gateway, name) in NAMES.iter().enumerate().take(2) {
        fleet.start(gateway, &standard(name));
    }
    let environment = [("KNOCKD_CALENDAR", calendar.to_str().unwrap())];
    fleet.start_in(2, &standard("gw3"), &environment);
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    gw1.is_soon("joined");
    gw2.is_soon("joined");
    gw3.is_soon("alone");
    let clock = || {
        let why = gw3.fleet()["why"].as_str().unwrap_or_default().to_owned();
        why.contains("clock")
    };
    assert!(eventually(PATIENCE, clock), "{}", gw3.fleet());
    assert!(gw3.knockd().log().iter().any(|line| line.contains("clock")));
    gw3.says(&["open", "ssh", ELSEWHERE]);
    fleet.ask(0, "ssh");
    gw2.opens("ssh", CLIENT);
    assert!(!gw3.has("ssh", CLIENT) && !gw1.has("ssh", ELSEWHERE));
    // A few seconds are within what clocks are apart.
    set(3);
    fleet.joined();
    fleet.all_open("ssh", CLIENT);
    fleet.all_open("ssh", ELSEWHERE);
}

#[test]
fn a_gateway_with_another_key_is_told_that_it_has_another_key() {
    needs!("fleet another key", "redis-server", "nft");
    let mut fleet = Fleet::without_knockd("");
    for (gateway, name) in NAMES.iter().enumerate().take(2) {
        fleet.start(gateway, &standard(name));
    }
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("fleet.key");
    // What knockctl makes is one.
    must(env!("CARGO_BIN_EXE_knockctl"), &["fleet-key", file.to_str().unwrap()]);
    fleet.start(2, &standard("gw3").replace("DIR/keys/fleet.key", file.to_str().unwrap()));
    let says = |gateway: usize| {
        let log = fleet.gateways[gateway].knockd().log();
        log.iter().any(|line| line.contains("key") && line.contains("fleet"))
    };
    assert!(eventually(PATIENCE, || says(2)), "{:?}", fleet.gateways[2].knockd().log());
    fleet.ask(0, "ssh");
    fleet.gateways[1].opens("ssh", CLIENT);
    fleet.gateways[2].says(&["open", "ssh", ELSEWHERE]);
    assert!(!fleet.gateways[2].has("ssh", CLIENT) && !fleet.gateways[0].has("ssh", ELSEWHERE));
}

#[test]
fn two_gateways_of_one_name_are_told_of_each_other() {
    needs!("fleet one name", "redis-server", "nft");
    let mut fleet = Fleet::without_knockd("");
    fleet.start(0, &standard("gw1"));
    fleet.start(1, &standard("gw1"));
    let has_namesake = |gateway: usize| fleet.gateways[gateway].fleet()["namesake"] == true;
    for gateway in 0..2 {
        let told = eventually(PATIENCE, || has_namesake(gateway));
        assert!(told, "{}", fleet.gateways[gateway].fleet());
    }
    let said = fleet.gateways[0].knockctl(&["check"]);
    let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.contains("gw1") && said.contains("name"), "{said}");
    assert!(fleet.gateways[0].knockd().log().iter().any(|line| line.contains("name")));
}

/// What a gateway may do at the store, and no more: as docs/fleet.md has it.
const RULE: &str = "~knockd:* &knockd:* -@all +hello +auth +client|setname +time +subscribe +hgetall \
    +hset +zadd +publish +multi +exec +set +hlen +zcard +zremrangebyscore +eval +role +zrangebyscore \
    +hdel +zrem +zrange";

#[test]
fn gateways_share_by_tls_as_users_who_may_do_no_more_than_they_need() {
    needs!("fleet TLS", "redis-server", "openssl", "nft");
    let certificates = tempfile::tempdir().unwrap();
    let shown = |name: &str| certificates.path().join(name).display().to_string();
    let (ca, ca_key, key, request_file, certificate) = (
        shown("ca.pem"),
        shown("ca.key"),
        shown("store.key"),
        shown("store.csr"),
        shown("store.pem"),
    );
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let made =
        ["req", "-x509", "-subj", "/CN=authority", "-days", "2", "-keyout", &ca_key, "-out", &ca];
    must("openssl", &[&made[..], &curve].concat());
    let asked = ["req", "-subj", "/CN=store", "-keyout", &key, "-out", &request_file];
    must("openssl", &[&asked[..], &curve].concat());
    let names = shown("names");
    fs::write(&names, format!("subjectAltName=IP:{STORE}\n")).unwrap();
    must(
        "openssl",
        &[
            "x509",
            "-req",
            "-in",
            &request_file,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &names,
            "-out",
            &certificate,
        ],
    );
    let mut server = format!(
        "port 0\ntls-port 6379\ntls-auth-clients no\ntls-cert-file {certificate}\ntls-key-file {key}\n\
         tls-ca-cert-file {ca}\n"
    );
    for name in NAMES {
        server += &format!("user {name} on >word-of-{name} {RULE}\n");
    }
    let password = |name: &str| {
        let path = certificates.path().join(name);
        fs::write(&path, format!("word-of-{name}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let mut fleet = Fleet::by(&server, |name| {
        let settings = format!("{PATIENT}, ca_file: {ca}, password_file: {}", password(name));
        configuration(name, &format!("rediss://{name}@{STORE}"), &settings, &clients(), DOORS)
    });
    let caught = fleet.ask(0, "ssh");
    fleet.all_open("ssh", CLIENT);
    fleet.send(1, &seal(&request("local"), LAPTOP));
    fleet.gateways[1].opens("local", CLIENT);
    fleet.send(2, &caught);
    fleet.gateways[2].refuses("used-elsewhere", 1);
    let said = fleet.gateways[0].says(&["close", "ssh", CLIENT]);
    assert!(said.contains("gw2") && said.contains("gw3"), "{said}");
    fleet.all_close("ssh", CLIENT);
    // The fleet goes on after the store has been away.
    fleet.store.kill();
    fleet.gateways[0].is_soon("alone");
    fleet.store.start_again();
    fleet.joined();
}
