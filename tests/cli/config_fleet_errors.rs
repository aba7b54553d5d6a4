//! What a person reads who has made a mistake about a fleet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use libknock::config::lint::{HostFacts, lint};
use libknock::config::load::{Loaded, Options, load};
use libknock::config::{FleetSettings, StoreAddress, WhenLost};
use snapbox::{IntoData, assert_data_eq, str};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
const DOOR: &str = "doors: {ssh: {sequence: [7000], open: [22], fleet: true}}";

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Loads a configuration, which names files of this directory as DIR.
fn read(directory: &Path, text: &str) -> Result<Loaded, String> {
    write(&directory.join("key"), KEY, 0o600);
    write(&directory.join("short"), "AQEB\n", 0o600);
    write(&directory.join("open"), KEY, 0o640);
    write(&directory.join("password"), "hunter2\n", 0o600);
    write(&directory.join("ca"), CERTIFICATE, 0o644);
    let path = directory.join("c.yaml");
    write(&path, &text.replace("DIR", directory.to_str().unwrap()), 0o600);
    load(&path, &Options::default()).map_err(|report| report.to_string())
}

/// What is printed of a configuration, without where the directory is.
fn said(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let said = match read(directory.path(), text) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(errors) => errors,
    };
    said.replace(&format!("{}/", directory.path().display()), "")
}

/// The lines of `knockd.fleet` below a door, without which nothing is shared.
fn fleet(lines: &str) -> String {
    format!("{DOOR}\nknockd:\n  fleet:\n    {}\n", lines.replace('\n', "\n    "))
}

/// What is printed of a fleet that is good but for its store.
fn said_of_store(store: &str) -> String {
    said(&fleet(&format!("name: gw1\nstore: {store}\nkey_file: DIR/key")))
}

fn settings(lines: &str) -> FleetSettings {
    let directory = tempfile::tempdir().unwrap();
    read(directory.path(), &fleet(lines)).unwrap().config.settings.fleet.unwrap()
}

fn store(store: &str) -> Vec<StoreAddress> {
    settings(&format!("name: gw1\nstore: {store}\nkey_file: DIR/key")).store.addresses
}

fn tcp(user: Option<&str>, host: &str, port: u16, tls: bool) -> StoreAddress {
    let user = user.map(str::to_owned);
    StoreAddress::Tcp { user, host: host.to_owned(), port, tls, service: None }
}

#[test]
fn a_fleet_says_who_it_is_where_its_store_is_and_what_its_gateways_share() {
    let fleet = settings(
        "name: gw1\nstore: rediss://gw1@valkey.example.net:6380\npassword_file: DIR/password\n\
         key_file: DIR/key\nca_file: DIR/ca\nwait: 5ms\nwhen_lost: refuse",
    );
    assert_eq!(fleet.name.as_str(), "gw1");
    assert_eq!(fleet.store.addresses, [tcp(Some("gw1"), "valkey.example.net", 6380, true)]);
    assert_eq!(fleet.store.password.as_ref().unwrap().expose(), b"hunter2");
    assert_eq!(fleet.store.authorities.as_deref(), Some(CERTIFICATE));
    assert_eq!(fleet.key.encode().as_str(), KEY.trim_end());
    assert_eq!((fleet.wait, fleet.when_lost), (Duration::from_millis(5), WhenLost::Refuse));
    let shown = format!("{fleet:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
}

#[test]
fn a_request_waits_20_ms_and_then_the_gateway_decides_alone_unless_that_is_written() {
    let fleet = settings("name: gw1\nstore: unix:/run/valkey.sock\nkey_file: DIR/key");
    assert_eq!((fleet.wait, fleet.when_lost), (Duration::from_millis(20), WhenLost::Alone));
}

#[test]
fn a_store_is_a_socket_or_a_host_or_several_sentinels() {
    assert_eq!(store("unix:/run/v.sock"), [StoreAddress::Unix("/run/v.sock".into())]);
    assert_eq!(store("redis://localhost"), [tcp(None, "localhost", 6379, false)]);
    assert_eq!(store("rediss://192.0.2.1:7000"), [tcp(None, "192.0.2.1", 7000, true)]);
    let ipv6 = tcp(Some("a"), "2001:db8::1", 7000, true);
    assert_eq!(store("'rediss://a@[2001:db8::1]:7000'"), [ipv6]);
    assert_eq!(store("'rediss://[2001:db8::1]'"), [tcp(None, "2001:db8::1", 6379, true)]);
    let sentinel = |host: &str| StoreAddress::Tcp {
        user: None,
        host: host.to_owned(),
        port: 26379,
        tls: true,
        service: Some("knock".to_owned()),
    };
    let all = "[rediss://a:26379/knock, rediss://b:26379/knock]";
    assert_eq!(store(all), [sentinel("a"), sentinel("b")]);
}

#[test]
fn the_files_of_a_fleet_are_among_those_that_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let lines = "name: gw1\nstore: rediss://a\npassword_file: DIR/password\nkey_file: DIR/key\n\
                 ca_file: DIR/ca";
    let files = read(directory.path(), &fleet(lines)).unwrap().secret_files;
    assert_eq!(files, ["password", "key", "ca"].map(|name| directory.path().join(name)));
}

#[test]
fn no_text_that_is_no_store_shows_the_password_in_it() {
    for store in [
        "rediss://gw1:hunter2@valkey.example.net",
        "rediss://:hunter2@valkey.example.net:6379/knock",
        "'redis://gw1:hunter2@[2001:db8::1]'",
        "redis:/gw1:hunter2@valkey",
        "[rediss://a/knock, 'rediss://b:hunter2@c/knock']",
        "{password: hunter2}",
    ] {
        let said = said_of_store(store);
        assert!(said.contains("c.yaml:5:") && !said.contains("hunter2"), "{store}: {said}");
    }
    // What is wrong is beside it.
    let one = "fleet: {nam: gw1, store: 'rediss://gw1:hunter2@a', key_file: DIR/key}";
    let said = said(&format!("{DOOR}\nknockd:\n  {one}\n"));
    assert!(said.contains("did you mean 'name'?") && !said.contains("hunter2"), "{said}");
}

macro_rules! says {
    ($($name:ident: $said:expr => $expected:expr;)*) => {
        $(#[test]
        fn $name() {
            assert_data_eq!($said, $expected.raw());
        })*
    };
}

says! {
    a_good_fleet_has_nothing_said_of_it: said_of_store("rediss://gw1@valkey.example.net") => str![];
    a_fleet_that_is_no_mapping: said(&format!("{DOOR}\nknockd: {{fleet: gw1}}")) => str![[r#"
c.yaml:2:17: error: a mapping with name, store and key_file, belongs here, not a word
    knockd: {fleet: gw1}
                    ^^^
"#]];
    a_fleet_without_anything: said(&format!("{DOOR}\nknockd: {{fleet: {{}}}}")) => str![[r#"
c.yaml:2:17: error: fleet has no 'name'
    knockd: {fleet: {}}
                    ^
    write a name for this gateway that no other of the fleet has, such as name: gw1
c.yaml:2:17: error: fleet has no 'store'
    knockd: {fleet: {}}
                    ^
    write where Valkey or Redis is: store: rediss://gw1@valkey.example.net:6379
c.yaml:2:17: error: fleet has no 'key_file'
    knockd: {fleet: {}}
                    ^
    let 'knockctl fleet-key' make one, and copy it to every gateway of the fleet
"#]];
    keys_that_are_misspelt: said(&fleet("nam: gw1\nstores: rediss://a\nkeyfile: DIR/key\nwhen_los: alone")) => str![[r#"
c.yaml:4:5: error: 'nam' is not a key of fleet: did you mean 'name'?
        nam: gw1
        ^^^
c.yaml:5:5: error: 'stores' is not a key of fleet: did you mean 'store'?
        stores: rediss://a
        ^^^^^^
c.yaml:6:5: error: 'keyfile' is not a key of fleet: did you mean 'key_file'?
        keyfile: key
        ^^^^^^^
c.yaml:7:5: error: 'when_los' is not a key of fleet: did you mean 'when_lost'?
        when_los: alone
        ^^^^^^^^
"#]];
    a_password_that_is_written_out: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key\npassword: hunter2")) => str![[r#"
c.yaml:7:5: error: 'password' is not a key of fleet
    its keys are: name, store, password_file, key_file, ca_file, wait, when_lost
"#]];
    a_name_that_is_none: said(&fleet("name: gw 1\nstore: rediss://a\nkey_file: DIR/key")) => str![[r#"
c.yaml:4:11: error: a name is 1 to 32 of the characters A-Z a-z 0-9 _ . -
        name: gw 1
              ^^^^
"#]];
    a_store_of_another_kind: said_of_store("valkey.example.net:6379") => str!["c.yaml:5:12: error: a store is unix:/PATH, rediss://[USER@]HOST[:PORT] by TLS, or redis://[USER@]HOST[:PORT]; an IPv6 address stands in brackets"];
    a_store_whose_socket_has_no_whole_path: said_of_store("unix:valkey.sock") => str!["c.yaml:5:12: error: a store is unix:/PATH, rediss://[USER@]HOST[:PORT] by TLS, or redis://[USER@]HOST[:PORT]; an IPv6 address stands in brackets"];
    a_store_with_a_port_that_is_none: said_of_store("rediss://a:0") => str!["c.yaml:5:12: error: a store is unix:/PATH, rediss://[USER@]HOST[:PORT] by TLS, or redis://[USER@]HOST[:PORT]; an IPv6 address stands in brackets"];
    a_store_with_an_ipv6_address_without_brackets: said_of_store("rediss://2001:db8::1") => str!["c.yaml:5:12: error: a store is unix:/PATH, rediss://[USER@]HOST[:PORT] by TLS, or redis://[USER@]HOST[:PORT]; an IPv6 address stands in brackets"];
    a_store_with_a_bracket_that_is_not_closed: said_of_store("'rediss://[2001:db8::1'") => str!["c.yaml:5:12: error: a store is unix:/PATH, rediss://[USER@]HOST[:PORT] by TLS, or redis://[USER@]HOST[:PORT]; an IPv6 address stands in brackets"];
    a_store_with_a_database: said_of_store("rediss://a/0") => str!["c.yaml:5:12: error: what follows a host is what a Sentinel calls the store; its database is always 0"];
    a_store_with_a_password: said_of_store("rediss://gw1:hunter2@a") => str!["c.yaml:5:12: error: a password does not belong here: write it to a file, and name that as password_file"];
    no_store_in_a_list: said_of_store("[]") => str![[r#"
c.yaml:4:5: error: fleet has no 'store'
        name: gw1
        ^
    write where Valkey or Redis is: store: rediss://gw1@valkey.example.net:6379
"#]];
    several_stores_that_are_no_sentinels: said_of_store("[rediss://a/knock, rediss://b]") => str![[r#"
c.yaml:5:31: error: several stores are Sentinels, and this one names no service
        store: [rediss://a/knock, rediss://b]
                                  ^^^^^^^^^^
    write what they call it: rediss://HOST:26379/SERVICE
"#]];
    a_connection_that_others_read: said_of_store("redis://gw1@192.0.2.1") => str![[r#"
c.yaml:5:12: warning: whoever is on the way to 192.0.2.1 reads the store's password, and can hold back what gateways tell each other
        store: redis://gw1@192.0.2.1
               ^^^^^^^^^^^^^^^^^^^^^
    write rediss:// for TLS

"#]];
    a_connection_that_nobody_else_reads: said_of_store("redis://127.0.0.1") => str![];
    a_key_of_the_wrong_length: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/short")) => str![[r#"
c.yaml:6:15: error: a key has 44 characters of base64, this has 4: copy it whole, with the '=' at its end
        key_file: short
                  ^^^^^^^^^^^^^^^^^^^^^
"#]];
    a_key_that_others_can_read: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/open")) => str![[r#"
c.yaml:6:15: error: open: others than its owner can read it (mode 0640)
        key_file: open
                  ^^^^^^^^^^^^^^^^^^^^
    run: chmod go-rwx open; --insecure-permissions reads it as it is
"#]];
    a_key_that_is_not_there: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/none")) => str![[r#"
c.yaml:6:15: error: none: cannot be read: No such file or directory (os error 2)
        key_file: none
                  ^^^^^^^^^^^^^^^^^^^^
"#]];
    a_password_that_is_not_there: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key\npassword_file: DIR/none")) => str![[r#"
c.yaml:7:20: error: none: cannot be read: No such file or directory (os error 2)
        password_file: none
                       ^^^^^^^^^^^^^^^^^^^^
"#]];
    certificates_that_are_none: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key\nca_file: DIR/key")) => str![[r#"
c.yaml:7:14: error: key holds no certificate in PEM
        ca_file: key
                 ^^^^^^^^^^^^^^^^^^^
"#]];
    certificates_that_nobody_asks_for: said(&fleet("name: gw1\nstore: unix:/a\nkey_file: DIR/key\nca_file: DIR/ca")) => str![[r#"
c.yaml:7:5: warning: 'ca_file' has no effect: only rediss:// is by TLS
        ca_file: ca
        ^^^^^^^
    remove it

"#]];
    a_wait_that_is_longer_than_anybody_waits: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key\nwait: 2s")) => str![[r#"
c.yaml:7:11: error: wait is 1s at the most
        wait: 2s
              ^^
"#]];
    a_wait_of_no_time: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key\nwait: 0")) => str![[r#"
c.yaml:7:11: error: wait cannot be zero
        wait: 0
              ^
"#]];
    a_word_for_what_to_do_alone: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key\nwhen_lost: refused")) => str![[r#"
c.yaml:7:16: error: 'refused' is none of alone, refuse: did you mean 'refuse'?
        when_lost: refused
                   ^^^^^^^
"#]];
    a_door_of_no_fleet: said(DOOR) => str![[r#"
c.yaml:1:45: warning: 'fleet' has no effect: 'knockd:' has no fleet
    doors: {ssh: {sequence: [7000], open: [22], fleet: true}}
                                                ^^^^^
    remove it

"#]];
    a_door_of_a_fleet_that_never_closes: said(&fleet("name: gw1\nstore: rediss://a\nkey_file: DIR/key").replace("open: [22]", "start_command: 'true'")) => str![[r#"
c.yaml:1:56: warning: 'fleet' has no effect: what never closes opens here alone
    doors: {ssh: {sequence: [7000], start_command: 'true', fleet: true}}
                                                           ^^^^^
    remove it

"#]];
}

/// What `check` says besides of clients at doors of a fleet.
fn doubts(clients: &str, rest: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let lines = format!("name: gw1\nstore: rediss://a\nkey_file: DIR/key{rest}");
    let text = fleet(&lines).replace("sequence: [7000]", "spa: true, fwknop: true");
    let loaded = read(directory.path(), &format!("{text}clients:\n{clients}")).unwrap();
    let warnings = lint(&loaded, &HostFacts::default());
    let said: String = warnings.iter().map(|warning| format!("{warning}\n")).collect();
    said.replace(&format!("{}/", directory.path().display()), "")
}

const PHONE: &str =
    "  phone: {doors: ssh, spa: {public_key: ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=}}\n";
const ROUTER: &str = "  router: {doors: ssh, fwknop: {key: a, hmac_key: b}}\n";

says! {
    who_may_ask_for_the_address_that_is_seen: doubts(&format!("{PHONE}{ROUTER}"), "") => str![[r#"
c.yaml:8:3: warning: while the store is lost, whoever has caught a request of 'phone', 'router' is let in by it at another gateway
      phone: {doors: ssh, spa: {public_key: ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=}}
      ^^^^^
    write address: explicit for each that names its own; or fleet: {when_lost: refuse}

"#]];
    who_is_refused_while_the_store_is_lost: doubts(PHONE, "\nwhen_lost: refuse") => str![];
    who_has_to_name_an_address: doubts(&PHONE.replace("}}", ", address: explicit}}"), "") => str![];
}
