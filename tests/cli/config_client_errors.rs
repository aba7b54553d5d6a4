//! What a person reads who has made a mistake about clients, and about the doors that they open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use libknock::config::diagnostic::SourceText;
use libknock::config::lint::{HostFacts, lint};
use libknock::config::load::{Loaded, Options, load, parse};
use libknock::config::{AddressPolicy, Config};
use libknock::time::Wall;
use proptest::prelude::*;
use snapbox::{IntoData, assert_data_eq, str};

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const OTHER_SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
const PUBLIC_KEY: &str = "ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=";

/// A door that takes what these clients have.
fn with_door(clients: &str) -> String {
    let mut text = format!("clients:\n  {}\ndoors:\n  ssh:\n", clients.replace('\n', "\n  "));
    for (credential, way) in [
        ("totp:", "totp: {ports: 20000-29999}"),
        ("spa:", "spa: true"),
        ("fwknop:", "fwknop: true"),
    ] {
        if clients.contains(credential) {
            text.push_str(&format!("    {way}\n"));
        }
    }
    text + "    start_command: 'true'\n"
}

fn shown(loaded: Result<Loaded, String>) -> String {
    match loaded {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(errors) => errors,
    }
}

fn read(text: &str) -> Result<Loaded, String> {
    parse(&SourceText::new("c.yaml", text)).map_err(|report| report.to_string())
}

/// What is printed of clients at a door that takes what they have.
fn said(clients: &str) -> String {
    shown(read(&with_door(clients)))
}

/// What is printed of a door.
fn said_of_door(lines: &str) -> String {
    shown(read(&format!("doors:\n  ssh:\n    {}\n", lines.replace('\n', "\n    "))))
}

/// What else `check` would say of these doors.
fn doubts(doors: &str, listening: &[&str]) -> String {
    let loaded = read(&format!("doors:\n  {}\n", doors.replace('\n', "\n  "))).unwrap();
    let listening = listening.iter().map(|port| port.parse().unwrap()).collect();
    let warnings = lint(&loaded, &HostFacts { listening, ..HostFacts::default() });
    warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

macro_rules! says {
    ($($name:ident: $said:expr => $expected:expr;)*) => {
        $(#[test]
        fn $name() {
            assert_data_eq!($said, $expected.raw());
        })*
    };
}

fn good() -> String {
    format!(
        "phone: {{doors: [ssh], expires: 2027-01-31, totp: {{secret: {SECRET}}}}}
laptop: {{doors: ssh, spa: {{public_key: {PUBLIC_KEY}, address: explicit}}}}
router:
  doors: [ssh]
  fwknop: {{KEY: testkey, HMAC_KEY: hmackey, hmac_type: SHA512, from: [192.0.2.0/24], username: root}}"
    )
}

fn config(text: &str) -> Config {
    read(&with_door(text)).unwrap().config
}

#[test]
fn clients_are_in_the_order_of_their_names_and_have_what_is_written() {
    let config = config(&good());
    let names: Vec<_> = config.clients.iter().map(|client| client.name.as_str()).collect();
    assert_eq!(names, ["laptop", "phone", "router"]);
    let [laptop, phone, router] = &config.clients[..] else { panic!() };
    assert_eq!(phone.expires, Some(Wall::from_nanos(1_801_353_600_000_000_000)));
    assert_eq!(phone.totp.as_ref().unwrap().secret.expose().len(), 20);
    let spa = laptop.spa.as_ref().unwrap();
    assert_eq!((spa.keys.len(), spa.address), (1, AddressPolicy::Explicit));
    assert_eq!(laptop.doors, ["ssh".parse().unwrap()]);
    let fwknop = router.fwknop.as_ref().unwrap();
    assert_eq!(fwknop.key.expose(), b"testkey");
    assert_eq!(fwknop.username.as_deref(), Some("root"));
    assert_eq!(fwknop.hmac.as_ref().unwrap().1.to_string(), "sha512");
}

says! {
    good_clients_have_nothing_said_of_them: said(&good()) => str![];
    a_client_without_a_door: said(&format!("phone: {{totp: {{secret: {SECRET}}}}}")) => str![[r#"
c.yaml:2:3: error: client 'phone' has no door
    write for example doors: [ssh]
"#]];
    a_client_of_a_door_that_there_is_not: said(&format!("phone:\n  doors: [shs, web, ssh, ssh]\n  totp: {{secret: {SECRET}}}")) => str![[r#"
c.yaml:3:13: error: there is no door 'shs': did you mean 'ssh'?
        doors: [shs, web, ssh, ssh]
                ^^^
c.yaml:3:18: error: there is no door 'web'
        doors: [shs, web, ssh, ssh]
                     ^^^
    write it under 'doors:', or remove it here
c.yaml:3:28: error: door 'ssh' is given twice: first at c.yaml:3:23
        doors: [shs, web, ssh, ssh]
                               ^^^
"#]];
    a_client_that_has_nothing: said("phone: {doors: [ssh]}\nspa: {doors: [ssh]}") => str![[r#"
c.yaml:2:3: error: client 'phone' has nothing to prove itself with
      phone: {doors: [ssh]}
      ^^^^^
    write totp, spa or fwknop; 'knockctl enroll' does it for you
c.yaml:3:3: error: client 'spa' has nothing to prove itself with
      spa: {doors: [ssh]}
      ^^^
    write totp, spa or fwknop; 'knockctl enroll' does it for you
"#]];
    a_misspelt_credential: said("phone:\n  doors: [ssh]\n  topt: {secret_file: /x}") => str![[r#"
c.yaml:4:5: error: 'topt' is not a key of a client: did you mean 'totp'?
        topt: {secret_file: /x}
        ^^^^
c.yaml:6:3: error: nothing opens door 'ssh': it has no sequence
      ssh:
      ^^^
    write for example sequence: [7000, 8000/udp, 9000]; or one_time_sequences, totp, spa or fwknop
"#]];
    a_client_given_twice: said("a: {doors: [ssh], fwknop: {key: a, hmac_key: b}}\na: {doors: [ssh], fwknop: {key: c, hmac_key: d}}") => str!["c.yaml:3:3: error: 'a' is given twice: first at c.yaml:2:3"];
    an_expiry_that_is_no_date: said(&format!("phone:\n  doors: [ssh]\n  expires: soon\n  totp: {{secret: {SECRET}}}")) => str![[r#"
c.yaml:4:14: error: this is not a date: write 2027-01-31, or with a time 2027-01-31T12:00:00Z (RFC 3339)
        expires: soon
                 ^^^^
"#]];
    a_client_that_no_door_wants: shown(read(&format!("clients:\n  phone:\n    doors: [a, b]\n    totp:\n      secret: {SECRET}\n    spa: {{public_key: {PUBLIC_KEY}}}\n  tablet:\n    doors: [c]\n    totp:\n      secret: {OTHER_SECRET}\ndoors:\n  a: {{spa: true, start_command: 'true'}}\n  b: {{sequence: [1, 3, 2], start_command: 'true'}}\n  c: {{spa: true, start_command: 'true'}}\n"))) => str![[r#"
c.yaml:3:16: warning: door 'b' takes nothing that client 'phone' has
        doors: [a, b]
                   ^
    write totp, spa or fwknop to the door as well
c.yaml:5:7: warning: no door of client 'phone' takes totp
c.yaml:8:13: warning: door 'c' takes nothing that client 'tablet' has
        doors: [c]
                ^
    the door takes spa
c.yaml:14:12: warning: no client may open door 'c' by spa
      c: {spa: true, start_command: 'true'}
               ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you

"#]];
    doors_that_no_client_may_open: shown(read("doors:\n  ssh:\n    totp: {ports: 20000-29999}\n    spa: true\n    fwknop: true\n    start_command: 'true'\n")) => str![[r#"
c.yaml:3:11: warning: no client may open door 'ssh' by totp
        totp: {ports: 20000-29999}
              ^
    write one under 'clients:'; 'knockctl enroll' does it for you
c.yaml:4:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you
c.yaml:5:13: warning: no client may open door 'ssh' by fwknop
        fwknop: true
                ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you

"#]];
    two_clients_with_one_totp_secret: said(&format!("a: {{doors: [ssh], totp: {{secret: {SECRET}}}}}\nb: {{doors: [ssh], totp: {{secret: {}}}}}", SECRET.to_lowercase())) => str![[r#"
c.yaml:3:27: error: client 'b' has the same TOTP secret as client 'a' at c.yaml:2:27
    give each client one of its own: who knocks could not be told, nor be revoked alone
"#]];
    two_clients_with_one_public_key: said(&format!("a: {{doors: [ssh], spa: {{public_key: {PUBLIC_KEY}}}}}\nb: {{doors: [ssh], spa: {{public_key: {PUBLIC_KEY}}}}}")) => str![[r#"
c.yaml:3:39: error: client 'b' has the same public key as client 'a' at c.yaml:2:39
    give each client one of its own: who knocks could not be told, nor be revoked alone
"#]];
    two_clients_with_one_key_of_fwknops: said("a: {doors: [ssh], fwknop: {key: same, hmac_key: one}}\nb: {doors: [ssh], fwknop: {key: same, hmac_key: two}}\nc: {doors: [ssh], fwknop: {key: other, hmac_key: one}}") => str![[r#"
c.yaml:3:29: error: client 'b' has the same key of fwknop's as client 'a' at c.yaml:2:29
    give each client one of its own: who knocks could not be told, nor be revoked alone
c.yaml:4:29: error: client 'c' has the same HMAC key of fwknop's as client 'a' at c.yaml:2:29
    give each client one of its own: who knocks could not be told, nor be revoked alone
"#]];
    one_public_key_twice: said(&format!("a:\n  doors: [ssh]\n  spa:\n    public_key:\n      - {PUBLIC_KEY}\n      - {PUBLIC_KEY}")) => str![[r#"
c.yaml:7:11: error: this public key is given twice: first at c.yaml:6:11
"#]];
    no_public_key: said("a: {doors: [ssh], spa: {}}\nb: {doors: [ssh], spa: {public_key: []}}\nc: {doors: [ssh], spa: {public_key: abc, address: mine}}") => str![[r#"
c.yaml:2:26: error: spa has no public_key
    write the one that 'knock --keygen' printed
c.yaml:3:39: error: the list names no public key
      b: {doors: [ssh], spa: {public_key: []}}
                                          ^
c.yaml:4:39: error: a key has 44 characters of base64, this has 3: copy it whole, with the '=' at its end
      c: {doors: [ssh], spa: {public_key: abc, address: mine}}
                                          ^^^
c.yaml:4:53: error: 'mine' is none of any, explicit
      c: {doors: [ssh], spa: {public_key: abc, address: mine}}
                                                        ^^^^
"#]];
}

says! {
    a_secret_that_is_none: said("a:\n  doors: [ssh]\n  totp: {secret: JBSW1}\nb:\n  doors: [ssh]\n  totp: {secret: JBSW}") => str![[r#"
c.yaml:4:20: error: character 5 is not a base32 digit: a TOTP secret is letters A to Z and digits 2 to 7, in any case, with or without spaces
c.yaml:7:20: error: the TOTP secret is too short: it has 2 bytes, and 16 are the least that is safe
"#]];
    no_secret: said("a: {doors: [ssh], totp: {}}") => str![[r#"
c.yaml:2:27: error: totp has no secret
    write secret_file, or let 'knockctl enroll' make one
"#]];
    two_secrets: said("a:\n  doors: [ssh]\n  totp:\n    secret: JBSW\n    secret_file: /x") => str![[r#"
c.yaml:6:7: error: secret and secret_file exclude each other
          secret_file: /x
          ^^^^^^^^^^^
    remove one of them
"#]];
    old_keys_of_fwknops_that_are_not_whole: said("router:\n  doors: [ssh]\n  fwknop:\n    key: testkey\n    hmac_key: hmackey\n    old_until: 2027-01-01") => str![[r#"
c.yaml:7:7: error: 'old_until' without 'old_key_base64_file'
          old_until: 2027-01-01
          ^^^^^^^^^
    write old_key_base64_file too, or remove old_until
"#]];
    an_old_secret_without_its_end: said(&format!("a:\n  doors: [ssh]\n  totp:\n    secret: {SECRET}\n    old_until: 2027-01-01")) => str![[r#"
c.yaml:6:7: error: 'old_until' without 'old_secret_file'
          old_until: 2027-01-01
          ^^^^^^^^^
    write old_secret_file too, or remove old_until
"#]];
    a_secret_file_that_is_missing: said("a:\n  doors: [ssh]\n  totp: {secret_file: /nowhere/a.totp}") => str![[r#"
c.yaml:4:25: error: /nowhere/a.totp: cannot be read: No such file or directory (os error 2)
        totp: {secret_file: /nowhere/a.totp}
                            ^^^^^^^^^^^^^^^
"#]];
    a_secret_file_without_its_whole_path: said("a:\n  doors: [ssh]\n  totp: {secret_file: a.totp}") => str![[r#"
c.yaml:4:25: error: 'a.totp' depends on where knockd is started
        totp: {secret_file: a.totp}
                            ^^^^^^
    write the whole path, from / on
"#]];
    a_secret_file_that_is_a_directory: said("a:\n  doors: [ssh]\n  totp: {secret_file: /dev}") => str![[r#"
c.yaml:4:25: error: /dev: is not a file
        totp: {secret_file: /dev}
                            ^^^^
"#]];
    keys_of_fwknop_that_are_none: said("a:\n  doors: [ssh]\n  fwknop: {key_base64: '%%%', hmac_key: x}\nb:\n  doors: [ssh]\n  fwknop:\n    key: __CHANGEME__\n    hmac_key: y\nc:\n  doors: [ssh]\n  fwknop: {key: 0123456789012345678901234567890123, hmac_key: z}") => str![[r#"
c.yaml:4:26: error: the key is not base64
c.yaml:8:12: error: the key still is the placeholder __CHANGEME__: write a key of your own
c.yaml:12:19: error: invalid key length: 34 bytes, where fwknop takes 32 at most
"#]];
    fwknop_without_a_key: said("a: {doors: [ssh], fwknop: {}}") => str![[r#"
c.yaml:2:29: error: fwknop has no key
    write key or key_base64, as in fwknop's access.conf
"#]];
    fwknop_without_an_hmac_key: said("a: {doors: [ssh], fwknop: {key: x}}") => str![[r#"
c.yaml:2:29: error: fwknop has no HMAC key
    write hmac_key_base64, or without_hmac: true for a client that has none
"#]];
    fwknop_without_an_hmac_on_purpose: said("a:\n  doors: [ssh]\n  fwknop:\n    key: x\n    without_hmac: true\n    hmac_type: md5") => str![[r#"
c.yaml:6:7: warning: without an HMAC anyone may alter a datagram and see what comes of it
          without_hmac: true
          ^^^^^^^^^^^^
    give the client an HMAC key: fwknop has had them since 2.5
c.yaml:7:7: warning: hmac_type has no effect without an HMAC key
          hmac_type: md5
          ^^^^^^^^^

"#]];
    fwknop_with_and_without_an_hmac: said("a:\n  doors: [ssh]\n  fwknop:\n    key: x\n    hmac_key: y\n    without_hmac: true") => str![[r#"
c.yaml:7:7: error: without_hmac and an HMAC key exclude each other
          without_hmac: true
          ^^^^^^^^^^^^
    remove one of them
"#]];
    fwknop_with_one_key_for_both: said("a:\n  doors: [ssh]\n  fwknop:\n    key: abc\n    hmac_key_base64: YWJj") => str![[r#"
c.yaml:6:24: error: the HMAC key is the encryption key: fwknop refuses that
    let 'fwknop --key-gen' make two keys
"#]];
    legacy_mode_with_an_hmac: said("a:\n  doors: [ssh]\n  fwknop:\n    key: abc\n    hmac_key: def\n    mode: legacy") => str![[r#"
c.yaml:7:7: warning: fwknop's clients send no HMAC in legacy mode
          mode: legacy
          ^^^^
    write another mode, or without_hmac: true

"#]];
    settings_of_fwknop_that_are_none: said("a:\n  doors: [ssh]\n  fwknop:\n    key: abc\n    hmac_key: def\n    mode: gcm\n    hmac_type: sha3\n    from: [10.0.0.0/40]\n    destination: []\n    username: 'a:b'\n    Address: no") => str![[r#"
c.yaml:7:13: error: 'gcm' is not an encryption mode: write cbc, ecb, cfb, ofb, ctr or legacy
          mode: gcm
                ^^^
c.yaml:8:18: error: 'sha3' is not a hash that fwknop knows: write md5, sha1, sha256, sha384, sha512, sha3_256, sha3_512
          hmac_type: sha3
                     ^^^^
c.yaml:9:14: error: '10.0.0.0/40' is not a network: write for example 192.0.2.0/24, 2001:db8::/32 or one address
          from: [10.0.0.0/40]
                 ^^^^^^^^^^^
c.yaml:10:20: error: 'destination' names no network
          destination: []
                       ^
    write for example [192.0.2.0/24], or remove it for anywhere
c.yaml:11:17: error: no client of fwknop can send this name
          username: 'a:b'
                    ^^^^^
    it is up to 48 letters, digits, blanks and marks such as @ . - _
c.yaml:12:16: error: 'no' is none of any, explicit
          Address: no
                   ^^
"#]];
    one_key_in_both_cases: said("a:\n  doors: [ssh]\n  fwknop:\n    key: abc\n    KEY: def\n    hmac_key: ghi") => str!["c.yaml:6:7: error: this key is given twice: first at c.yaml:5:7"];
}

#[test]
fn no_mistake_shows_a_secret() {
    let wrong = [
        "totp: {secret: hunter2}",
        "totp: {secrt: hunter2}",
        "totp: {secret hunter2: }",
        "totp: hunter2",
        "totp:\n    - hunter2",
        "totp:\n    secret hunter2",
        "totp:\n    hunter2: x",
        "totp:\n    secret: |\n      hunter2\n    secret_file: /x",
        "fwknop: {key: hunter2}",
        "fwknop: {KEY_BASE64: hunter2, HMAC_KEY: hunter2}",
        "fwknop:\n    kye: hunter2",
        "fwknop:\n    hmac_key_bse64: hunter2\n    key: x",
        "fwknop:\n    key: hunter2\n    hmac_key: hunter2",
        "fwknop: [hunter2]",
        "spa: hunter2",
        "spa: {private_key hunter2: }",
        "totp: {secret: hunter2",
        "totp: {secret: 'hunter2}",
    ];
    for credential in wrong {
        let said = said(&format!("phone:\n  doors: [ssh]\n  {credential}"));
        assert!(said.contains("c.yaml:"), "{credential}: {said}");
        assert!(!said.contains("hunter"), "{credential}: {said}");
    }
}

/// The key of a secret with a slip of the finger.
fn mistyped() -> impl Strategy<Value = String> {
    let key = prop::sample::select(&["secret", "key", "key_base64", "hmac_key", "HMAC_KEY_BASE64"]);
    (key, any::<prop::sample::Index>(), "[a-z:. -]?").prop_map(|(key, at, typed)| {
        let at = at.index(key.len());
        format!("{}{typed}{}", &key[..at], &key[at + 1..])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_slip_of_the_finger_shows_a_secret(
        key in mistyped(),
        kind in prop::sample::select(&["totp", "fwknop"]),
        colon in prop::sample::select(&[": ", " : ", ":", " ", "\": "]),
        layout in 0..4,
    ) {
        let secret = "hunter2hunter2";
        let credential = match layout {
            0 => format!("{kind}: {{{key}{colon}{secret}}}"),
            1 => format!("{kind}:\n    {key}{colon}{secret}"),
            2 => format!("{kind}:\n    {key}{colon}|\n      {secret}"),
            _ => format!("{kind}: {{hmac_type: sha1, {key}{colon}'{secret}'}}"),
        };
        let said = said(&format!("phone:\n  doors: [ssh]\n  {credential}"));
        prop_assert!(!said.contains("hunter"), "{}\n{}", credential, said);
    }
}

/// A directory in which these files have these modes.
fn directory(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text, mode) in files {
        let path = directory.path().join(name);
        fs::write(&path, text.replace("DIR", &directory.path().display().to_string())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    directory
}

fn loads(path: &Path, insecure_permissions: bool) -> Result<Loaded, String> {
    load(path, &Options { insecure_permissions }).map_err(|report| report.to_string())
}

/// What is printed of a file `c.yaml` beside these.
fn said_beside(text: &str, mode: u32, files: &[(&str, &str, u32)]) -> String {
    let all: Vec<_> = files.iter().copied().chain([("c.yaml", text, mode)]).collect();
    let directory = directory(&all);
    let path = directory.path().join("c.yaml");
    // Whoever insists gets it without a word about who else may have read it.
    assert!(loads(&path, true).is_ok_and(|loaded| loaded.warnings.is_empty()) || mode == 0o600);
    shown(loads(&path, false)).replace(&directory.path().display().to_string(), "DIR")
}

const ONE_TIME: &str =
    "doors:\n  ssh:\n    one_time_sequences: DIR/ssh\n    start_command: 'true'\n";

fn inline() -> String {
    format!(
        "doors:\n  ssh: {{totp: {{mode: code, base: 7000}}, start_command: 'true'}}\nclients:\n  a: {{doors: [ssh], totp: {{secret: {SECRET}}}}}\n"
    )
}

fn in_file() -> String {
    inline().replace(&format!("secret: {SECRET}"), "secret_file: DIR/a.totp")
}

says! {
    a_secret_in_a_file_that_others_can_read: said_beside(&inline(), 0o640, &[]) => str![[r#"
DIR/c.yaml: error: holds a secret, and others than its owner can read it (mode 0640)
    run: chmod go-rwx DIR/c.yaml; --insecure-permissions reads it as it is
"#]];
    a_secret_in_a_file_of_its_owners_alone: said_beside(&inline(), 0o600, &[]) => str![];
    a_secret_file: said_beside(&in_file(), 0o644, &[("a.totp", &format!("{SECRET}\n"), 0o600)]) => str![];
    a_secret_file_that_others_can_read: said_beside(&in_file(), 0o600, &[("a.totp", SECRET, 0o604)]) => str![[r#"
DIR/c.yaml:4:41: error: DIR/a.totp: others than its owner can read it (mode 0604)
      a: {doors: [ssh], totp: {secret_file: DIR/a.totp}}
                                            ^^^^^^^^^^^^^^^^^^^^^^
    run: chmod go-rwx DIR/a.totp; --insecure-permissions reads it as it is
"#]];
    a_secret_file_that_others_can_write: said_beside(&in_file(), 0o600, &[("a.totp", SECRET, 0o620)]) => str![[r#"
DIR/c.yaml:4:41: error: DIR/a.totp: others than its owner can write it (mode 0620)
      a: {doors: [ssh], totp: {secret_file: DIR/a.totp}}
                                            ^^^^^^^^^^^^^^^^^^^^^^
    run: chmod go-rwx DIR/a.totp; --insecure-permissions reads it as it is
"#]];
    a_secret_file_of_two_lines: said_beside(&in_file(), 0o600, &[("a.totp", "a\nb\n", 0o600)]) => str![[r#"
DIR/c.yaml:4:41: error: DIR/a.totp has 2 lines, and one belongs there
      a: {doors: [ssh], totp: {secret_file: DIR/a.totp}}
                                            ^^^^^^^^^^^^^^^^^^^^^^
"#]];
    an_empty_secret_file: said_beside(&in_file(), 0o600, &[("a.totp", "", 0o600)]) => str![[r#"
DIR/c.yaml:4:41: error: DIR/a.totp is empty
      a: {doors: [ssh], totp: {secret_file: DIR/a.totp}}
                                            ^^^^^^^^^^^^^^^^^^^^^^
"#]];
    sequences_that_are_good: said_beside(ONE_TIME, 0o600, &[("ssh", "# used\n#7000,1,2\n 9000,8000:udp,7000\n", 0o644)]) => str![];
    sequences_that_others_can_write: said_beside(ONE_TIME, 0o600, &[("ssh", " 9000,8000,7000\n", 0o664)]) => str![[r#"
DIR/c.yaml:3:25: error: DIR/ssh: others than its owner can write it (mode 0664)
        one_time_sequences: DIR/ssh
                            ^^^^^^^^^^^^^^^^^^^
    run: chmod go-w DIR/ssh; --insecure-permissions reads it as it is
"#]];
    sequences_that_are_used_up: said_beside(ONE_TIME, 0o600, &[("ssh", "#9000,8000,7000\n", 0o600)]) => str![[r#"
DIR/c.yaml:3:25: warning: every sequence in DIR/ssh is used up: nobody can knock
        one_time_sequences: DIR/ssh
                            ^^^^^^^^^^^^^^^^^^^
    append new lines to it; 'knockctl one-time' makes some

"#]];
    sequences_that_are_none: said_beside(ONE_TIME, 0o600, &[("ssh", " 9000,8000,7000\n 7000,sesame\n 1,70000\n", 0o600)]) => str![[r#"
DIR/ssh:2:7: error: this is not a port: write numbers with commas between them, such as 7000,8000:udp
DIR/ssh:3:4: error: this port is out of range: ports go from 1 to 65535
"#]];
    sequences_that_a_scan_completes: said_beside(ONE_TIME, 0o600, &[("ssh", " 1,3,2\n 5,6,7\n 7,6\n 9,8,7\n 1\n", 0o600)]) => str![[r#"
DIR/c.yaml:3:25: warning: line 3 of DIR/ssh, and one more, has fewer than three knocks
        one_time_sequences: DIR/ssh
                            ^^^^^^^^^^^^^^^^^^^
    three knocks or more are hard to hit by chance
DIR/c.yaml:3:25: warning: line 2 of DIR/ssh, and 2 more, is monotone: a port scan in order completes it
        one_time_sequences: DIR/ssh
                            ^^^^^^^^^^^^^^^^^^^
    mix the order of the ports, or leave room for trip-wires between them

"#]];
}

#[test]
fn of_a_one_time_file_the_first_line_that_is_left_counts() {
    let text = "# for October\n#7113,25992,14402:udp\n\n 31003,2204:udp,17850\n 9871,40112,5230\n";
    let directory = directory(&[("ssh", text, 0o600), ("c.yaml", ONE_TIME, 0o600)]);
    let loaded = loads(&directory.path().join("c.yaml"), false).unwrap();
    let door = &loaded.config.doors[0];
    let knocks: Vec<_> = door.recognition.sequence.iter().map(ToString::to_string).collect();
    assert_eq!(knocks, ["31003/tcp", "2204/udp", "17850/tcp"]);
    let one_time = door.one_time.as_ref().unwrap();
    assert_eq!((one_time.line, one_time.left), (Some(4), 2));
}

#[test]
fn a_classic_configuration_has_one_time_sequences_too() {
    let text = "[ssh]\nOne_Time_Sequences = DIR/ssh\nCommand = true\n";
    let directory = directory(&[("ssh", " 1,3,2\n", 0o644), ("knockd.conf", text, 0o644)]);
    let loaded = loads(&directory.path().join("knockd.conf"), false).unwrap();
    assert_eq!(loaded.config.doors[0].one_time.as_ref().unwrap().left, 1);
}

says! {
    a_sequence_and_one_time_sequences: said_of_door("sequence: [7000]\none_time_sequences: /x\nstart_command: 'true'") => str![[r#"
c.yaml:4:25: error: 'one_time_sequences' and 'sequence' exclude each other
        one_time_sequences: /x
                            ^^
    remove one; the other is at c.yaml:3:5
"#]];
    totp_without_ports: said_of_door("totp: {mode: ports}\nstart_command: 'true'") => str![[r#"
c.yaml:3:11: error: totp does not say on which ports
        totp: {mode: ports}
              ^
    write for example ports: 20000-29999
"#]];
    totp_that_is_no_mapping: said_of_door("totp: true\nstart_command: 'true'") => str![[r#"
c.yaml:3:11: error: a mapping such as {mode: ports, ports: 20000-29999} belongs here, not a word
        totp: true
              ^^^^
"#]];
    totp_with_few_ports: said_of_door("totp: {ports: 7000-7098}\nstart_command: 'true'") => str![[r#"
c.yaml:3:19: error: 99 ports are too few: anyone could guess
        totp: {ports: 7000-7098}
                      ^^^^^^^^^
    name at least 100 ports that nothing else uses
"#]];
    totp_with_ports_the_wrong_way: said_of_door("totp: {ports: 8000-7000}\nstart_command: 'true'") => str![[r#"
c.yaml:3:19: error: the range 8000-7000 holds no port: write the lower port first
        totp: {ports: 8000-7000}
                      ^^^^^^^^^
"#]];
    totp_numbers_out_of_range: said_of_door("totp:\n  ports: 7000-7999\n  length: 9\n  protocol: icmp\n  step: 90ms\n  skew: 11\nstart_command: 'true'") => str![[r#"
c.yaml:5:15: error: '9' is not valid here: write a number from 3 to 8
          length: 9
                  ^
c.yaml:6:17: error: 'icmp' is not a protocol of a rotating sequence: write tcp, udp or mixed
          protocol: icmp
                    ^^^^
c.yaml:7:13: error: step has to be at least 1s
          step: 90ms
                ^^^^
c.yaml:8:13: error: '11' is not valid here: write a number from 0 to 10
          skew: 11
                ^^
"#]];
    a_step_that_is_not_whole: said_of_door("totp: {ports: 7000-7999, step: 1500ms}\nstart_command: 'true'") => str![[r#"
c.yaml:3:36: error: a step is a whole number of seconds, from 1s to 1h
        totp: {ports: 7000-7999, step: 1500ms}
                                       ^^^^^^
"#]];
    a_step_that_is_too_long: said_of_door("totp: {ports: 7000-7999, step: 2h}\nstart_command: 'true'") => str![[r#"
c.yaml:3:36: error: a step is a whole number of seconds, from 1s to 1h
        totp: {ports: 7000-7999, step: 2h}
                                       ^^
"#]];
    keys_of_the_other_mode: said_of_door("totp: {ports: 7000-7999, base: 7000}\nstart_command: 'true'") => str![[r#"
c.yaml:3:30: error: 'base' is for mode: code
        totp: {ports: 7000-7999, base: 7000}
                                 ^^^^
    write mode: code, or remove it
c.yaml:3:11: warning: no client may open door 'ssh' by totp
        totp: {ports: 7000-7999, base: 7000}
              ^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    ports_in_mode_code: said_of_door("totp: {mode: code, base: 7000, length: 4}\nstart_command: 'true'") => str![[r#"
c.yaml:3:36: error: 'length' is for mode: ports
        totp: {mode: code, base: 7000, length: 4}
                                       ^^^^^^
    a code is knocked on the 100 tcp ports from 'base' on; remove it
c.yaml:3:11: warning: no client may open door 'ssh' by totp
        totp: {mode: code, base: 7000, length: 4}
              ^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    code_without_a_base: said_of_door("totp: {mode: code}\nstart_command: 'true'") => str![[r#"
c.yaml:3:11: error: totp does not say from which port on a code is knocked
        totp: {mode: code}
              ^
    write for example base: 7000
"#]];
    a_base_too_high: said_of_door("totp: {mode: code, base: 65437}\nstart_command: 'true'") => str![[r#"
c.yaml:3:30: error: '65437' is not valid here: write a number from 1 to 65436
        totp: {mode: code, base: 65437}
                                 ^^^^^
    the 100 ports from there on are watched
"#]];
    digits_that_no_app_shows: said_of_door("totp: {mode: code, base: 7000, digits: 7}\nstart_command: 'true'") => str![[r#"
c.yaml:3:44: error: '7' is not valid here: write 6 or 8
        totp: {mode: code, base: 7000, digits: 7}
                                               ^
"#]];
    a_mode_that_there_is_not: said_of_door("totp: {mode: port}\nstart_command: 'true'") => str![[r#"
c.yaml:3:18: error: 'port' is none of ports, code: did you mean 'ports'?
        totp: {mode: port}
                     ^^^^
"#]];
    a_lockout_where_there_is_no_budget: said_of_door("sequence: [7000, 9000, 8000]\nlockout: off\nstart_command: 'true'") => str![[r#"
c.yaml:4:5: error: only a door with totp in mode: code has a lockout of its own
        lockout: off
        ^^^^^^^
    write it under 'knockd:' for all doors, or remove it
"#]];
    a_lockout_that_is_none: said_of_door("totp: {mode: code, base: 7000}\nlockout: {failures: 0, within: 0s, fro: 1h}\nstart_command: 'true'") => str![[r#"
c.yaml:4:25: error: '0' is not valid here: write a number from 1 to 1000000
        lockout: {failures: 0, within: 0s, fro: 1h}
                            ^
c.yaml:4:36: error: within cannot be zero
        lockout: {failures: 0, within: 0s, fro: 1h}
                                       ^^
c.yaml:4:40: error: 'fro' is not a key of lockout: did you mean 'for'?
        lockout: {failures: 0, within: 0s, fro: 1h}
                                           ^^^
"#]];
    a_guarded_port_within_the_range: said_of_door("totp: {ports: 7000-7999}\nopen: [7022]") => str![[r#"
c.yaml:4:12: error: 7022/tcp is both knocked on and opened by this door
        open: [7022]
               ^^^^
    knock on ports that nothing else uses
c.yaml:3:11: warning: no client may open door 'ssh' by totp
        totp: {ports: 7000-7999}
              ^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    spa_that_is_a_mapping: said_of_door("spa: {public_key: x}\nstart_command: 'true'") => str![[r#"
c.yaml:3:10: error: true or false belongs here, not a mapping
        spa: {public_key: x}
             ^
    write spa: true; who may open it is written under 'clients:'
"#]];
    a_longest_time_shorter_than_the_usual: said_of_door("spa: true\nopen: [22]\nopen_for: 1m\nopen_for_max: 30s") => str![[r#"
c.yaml:6:19: error: shorter than the door stays open anyway: 1m
        open_for_max: 30s
                      ^^^
    write at least as much as 'open_for', or remove it
"#]];
    nothing_that_opens: said_of_door("spa: false\nopen: [22]") => str![[r#"
c.yaml:2:3: error: nothing opens door 'ssh': it has no sequence
      ssh:
      ^^^
    write for example sequence: [7000, 8000/udp, 9000]; or one_time_sequences, totp, spa or fwknop
"#]];
}

/// What is printed of a door for which there is a client.
fn said_with_client(lines: &str) -> String {
    let credentials = format!("{{secret: {SECRET}}}, spa: {{public_key: {PUBLIC_KEY}}}");
    let text = format!(
        "doors:\n  ssh:\n    {}\nclients:\n  a: {{doors: [ssh], totp: {credentials}}}\n",
        lines.replace('\n', "\n    ")
    );
    shown(read(&text))
}

says! {
    a_client_fills_its_hole: said_with_client("totp: {ports: 20000-29999}\nspa: true\nstart_command: echo %CLIENT%") => str![];
    what_has_no_effect_without_a_sequence: said_with_client("totp: {ports: 20000-29999}\nspa: true\ntrip_wires: 3\nopen: [22]") => str![[r#"
c.yaml:5:5: warning: 'trip_wires' has no effect: every port of a rotating sequence is watched anyway
        trip_wires: 3
        ^^^^^^^^^^
    remove it

"#]];
    what_has_no_effect_without_knocks: shown(read(&format!("doors:\n  ssh:\n    spa: true\n    seq_timeout: 3s\n    tcpflags: syn\n    trip_wires: 3\n    open: [22]\nclients: {{a: {{doors: [ssh], spa: {{public_key: {PUBLIC_KEY}}}}}}}\n"))) => str![[r#"
c.yaml:4:5: warning: 'seq_timeout' has no effect: no sequence opens this door
        seq_timeout: 3s
        ^^^^^^^^^^^
    remove it
c.yaml:5:5: warning: 'tcpflags' has no effect: no sequence opens this door
        tcpflags: syn
        ^^^^^^^^
    remove it
c.yaml:6:5: warning: 'trip_wires' has no effect: no sequence opens this door
        trip_wires: 3
        ^^^^^^^^^^
    remove it

"#]];
    a_longest_time_that_nobody_asks_for: said_of_door("sequence: [7000, 9000, 8000]\nopen: [22]\nopen_for_max: 1h") => str![[r#"
c.yaml:5:5: warning: 'open_for_max' has no effect: only requests by SPA or fwknop ask for a time
        open_for_max: 1h
        ^^^^^^^^^^^^
    remove it

"#]];
    a_lockout_that_is_off: shown(read(&format!("doors:\n  ssh:\n    totp: {{mode: code, base: 7000}}\n    lockout: off\n    open: [22]\nclients: {{a: {{doors: [ssh], totp: {{secret: {SECRET}}}}}}}\n"))) => str![[r#"
c.yaml:4:14: warning: without a lockout anyone who keeps trying hits a code in the end, however many there are
        lockout: off
                 ^^^
    remove this line, or write for example {failures: 5}

"#]];
    settings_that_concern_no_door: shown(read("knockd:\n  spa: {port: 1000-2000}\n  fwknop: {port: 62201}\ndoors:\n  a: {sequence: [1, 3, 2], start_command: 'true'}\n")) => str![[r#"
c.yaml:2:3: warning: 'spa' has no effect: no door opens by spa
      spa: {port: 1000-2000}
      ^^^
    write spa: true to a door, or remove it
c.yaml:3:3: warning: 'fwknop' has no effect: no door opens by fwknop
      fwknop: {port: 62201}
      ^^^^^^
    write fwknop: true to a door, or remove it

"#]];
    settings_of_datagrams_that_are_none: shown(read("knockd:\n  spa: {port: 0-1, key_file: k, old_key_file: /k, max_age: 0}\n  fwknop: {port: 2-1, age: 3}\n  lockout: on\n")) => str![[r#"
c.yaml:2:15: error: port 0 is out of range: ports go from 1 to 65535
      spa: {port: 0-1, key_file: k, old_key_file: /k, max_age: 0}
                  ^^^
c.yaml:2:30: error: 'k' depends on where knockd is started
      spa: {port: 0-1, key_file: k, old_key_file: /k, max_age: 0}
                                 ^
    write the whole path, from / on
c.yaml:2:33: error: 'old_key_file' without 'old_until'
      spa: {port: 0-1, key_file: k, old_key_file: /k, max_age: 0}
                                    ^^^^^^^^^^^^
    write old_until too, or remove old_key_file
c.yaml:2:60: error: max_age cannot be zero
      spa: {port: 0-1, key_file: k, old_key_file: /k, max_age: 0}
                                                               ^
c.yaml:3:18: error: the range 2-1 holds no port: write the lower port first
      fwknop: {port: 2-1, age: 3}
                     ^^^
c.yaml:3:23: error: 'age' is not a key of fwknop
      fwknop: {port: 2-1, age: 3}
                          ^^^
    its keys are: port, max_age
c.yaml:4:12: error: off, or a mapping such as {failures: 10, within: 10m, for: 1h}, belongs here, not a word
      lockout: on
               ^^
"#]];
}

says! {
    good_rotating_doors_raise_no_doubt: doubts("a: {totp: {ports: 20000-29999}, open: [22]}\nb: {totp: {mode: code, base: 7000}, open: [23]}\nc: {sequence: [9000, 7900, 8000], totp: {ports: 20000-29999}, open: [24]}", &["80/tcp"]) => str![];
    a_code_that_browsers_refuse: doubts("a: {totp: {mode: code, base: 6600}, start_command: 'true'}\nb: {totp: {mode: code, base: 50}, start_command: 'true'}", &[]) => str![[r#"
c.yaml:2:13: warning: browsers refuse to connect to 6665, 6666, 6667, 6668, 6669 and others: they knock no code with 65 in it
      a: {totp: {mode: code, base: 6600}, start_command: 'true'}
                ^
    write for example base: 6698
c.yaml:3:13: warning: browsers refuse to connect to 53, 69, 77, 79, 87 and others: they knock no code with 03 in it
      b: {totp: {mode: code, base: 50}, start_command: 'true'}
                ^
    write for example base: 1024

"#]];
    a_range_that_is_soon_guessed: doubts("a: {totp: {ports: 20000-20999, length: 4}, start_command: 'true'}\nb: {totp: {ports: 30000-30099, length: 3}, start_command: 'true'}", &[]) => str![[r#"
c.yaml:2:13: warning: whoever knocks 100,000 times a second guesses a sequence within 39 days
      a: {totp: {ports: 20000-20999, length: 4}, start_command: 'true'}
                ^
    widen 'ports', write a greater 'length', or a 'lockout' under 'knockd:'
c.yaml:3:13: warning: whoever knocks 100,000 times a second guesses a sequence within a day
      b: {totp: {ports: 30000-30099, length: 3}, start_command: 'true'}
                ^
    widen 'ports', write a greater 'length', or a 'lockout' under 'knockd:'

"#]];
    a_range_that_is_in_use: doubts("a: {totp: {ports: 20000-29999}, start_command: 'true'}\nb: {sequence: [1, 3, 2], open: [20022]}", &["20001/tcp", "20003/udp"]) => str![[r#"
c.yaml:2:13: warning: something listens on 20001/tcp, which is in this range: whoever uses it knocks
      a: {totp: {ports: 20000-29999}, start_command: 'true'}
                ^
    name a range of ports that nothing else uses
c.yaml:2:13: warning: a door opens 20022/tcp, which is in this range: whoever uses it knocks
      a: {totp: {ports: 20000-29999}, start_command: 'true'}
                ^
    name a range of ports that nothing else uses

"#]];
    a_knock_within_a_range: doubts("a: {totp: {mode: code, base: 7000}, start_command: 'true'}\nb: {sequence: [7001, 9, 8000/udp], start_command: 'true'}", &[]) => str![[r#"
c.yaml:3:18: warning: 7001/tcp is in the range of the rotating sequences of door 'a': it breaks those off
      b: {sequence: [7001, 9, 8000/udp], start_command: 'true'}
                     ^^^^
    knock on a port outside of that range

"#]];
    ranges_that_use_up_budgets: doubts("a: {totp: {mode: code, base: 7000}, start_command: 'true'}\nb: {totp: {ports: 6000-16000}, start_command: 'true'}\nc: {totp: {mode: code, base: 7099}, start_command: 'true'}", &[]) => str![[r#"
c.yaml:2:13: warning: shares ports with door 'b': whoever knocks there fails here, and is locked out
      a: {totp: {mode: code, base: 7000}, start_command: 'true'}
                ^
    give each door a range of its own
c.yaml:4:13: warning: shares ports with door 'b': whoever knocks there fails here, and is locked out
      c: {totp: {mode: code, base: 7099}, start_command: 'true'}
                ^
    give each door a range of its own

"#]];
    datagrams_that_are_knocks: doubts("a: {spa: true, sequence: [9000, 62210/udp, 8000], start_command: 'true'}\nb: {totp: {ports: 60000-65000, protocol: mixed}, start_command: 'true'}\nc: {totp: {ports: 60000-65000}, start_command: 'true'}", &[]) => str![[r#"
c.yaml:3:13: warning: datagrams arrive at 62201/udp, which this door watches: each is a knock too
      b: {totp: {ports: 60000-65000, protocol: mixed}, start_command: 'true'}
                ^
    knock elsewhere, or write another 'port' for them
c.yaml:2:35: warning: 62210/udp is in the range of the rotating sequences of door 'b': it breaks those off
      a: {spa: true, sequence: [9000, 62210/udp, 8000], start_command: 'true'}
                                      ^^^^^^^^^
    knock on a port outside of that range

"#]];
}

#[test]
fn a_knock_within_the_range_of_fwknops_requests_is_told() {
    let with = |port: &str| {
        let loaded = read(&format!(
            "knockd: {{fwknop: {{port: {port}}}}}\ndoors:\n  \
             a: {{fwknop: true, sequence: [9000, 20001/udp, 8000], trip_wires: 0, open: [22]}}\n"
        ));
        let warnings = lint(&loaded.unwrap(), &HostFacts::default());
        let of = |warning: &String| warning.contains("datagrams arrive at");
        warnings.iter().map(ToString::to_string).filter(of).collect::<Vec<_>>()
    };
    assert_eq!(with("20002-65535"), [""; 0]);
    let [warning] = &with("20000-65535")[..] else { panic!("one warning") };
    assert!(warning.contains("at 20001/udp, which this door watches"), "{warning}");
}

#[test]
fn a_client_that_has_expired_is_told() {
    let clients =
        format!("phone: {{doors: [ssh], expires: 2027-01-31, spa: {{public_key: {PUBLIC_KEY}}}}}");
    let loaded = read(&with_door(&clients)).unwrap();
    let said_at = |seconds: u64| {
        let now = Some(Wall::from_nanos(seconds * 1_000_000_000));
        lint(&loaded, &HostFacts { now, ..HostFacts::default() }).len()
    };
    assert_eq!((said_at(1_801_353_599), said_at(1_801_353_600)), (0, 1));
}
