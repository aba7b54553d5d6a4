//! `knockctl page`: what is in the file, who may read it, and what it says before it makes none.

use std::fs;
use std::io::Write;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use data_encoding::{BASE32_NOPAD, BASE64};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::pbkdf2;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::output::{complained, said, text};
use crate::support::command;

const DOORS: &str = "
knockd: {interfaces: [lo], spa: {key_file: DIR/server.key}}
doors:
  web: {totp: {mode: code, base: 7000}, spa: true, open: [443/tcp]}
  irc: {totp: {mode: code, base: 6600, digits: 8, step: 60s}, open: [8080/tcp]}
  ssh: {totp: {ports: 20000-29999}, open: [22/tcp]}
  plain: {sequence: [7113, 9218, 8127], open: [25/tcp]}
  fast: {totp: {mode: code, base: 7200}, seq_timeout: 2s, open: [8443/tcp]}
clients:
  phone: {doors: [web, irc], totp: {secret_file: DIR/phone.totp}}
  gone: {doors: [fast], expires: 2020-01-01, totp: {secret_file: DIR/gone.totp}}
  tablet: {doors: [ssh], totp: {secret_file: DIR/phone.totp}}
  laptop: {doors: [web], spa: {public_key: 4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=}}
";
const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const PASSPHRASE: &str = "four words of mine";

/// A configuration, and room for pages.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        let directory = files.directory.path().display().to_string();
        files.write("phone.totp", SECRET);
        files.write("gone.totp", &SECRET.replace('J', "K"));
        files.write("doors.yaml", &DOORS.replace("DIR", &directory));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// `knockctl page` with these arguments, in this directory, which gets this to read.
    fn make(&self, line: &str, input: &str) -> Output {
        let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
        knockctl.args(["-c", "doors.yaml", "page"]).args(line.split_whitespace());
        knockctl.current_dir(self.directory.path());
        knockctl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = knockctl.spawn().unwrap();
        // It reads nothing where it needs no passphrase.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The page that is printed.
    fn page(&self, line: &str, input: &str) -> String {
        said(self.make(&format!("{line} --out - --host 192.0.2.1"), input)).0
    }
}

/// What stands between two texts; each is there once.
fn between<'a>(page: &'a str, begin: &str, end: &str) -> &'a str {
    let [_, rest] = page.split(begin).collect::<Vec<_>>()[..] else { panic!("{begin} in {page}") };
    rest.split_once(end).unwrap().0
}

fn data<'a>(page: &'a str, id: &str) -> &'a str {
    between(page, &format!("<script type=\"application/json\" id=\"{id}\">"), "</script>")
}

fn json(page: &str, id: &str) -> Value {
    serde_json::from_str(data(page, id)).unwrap()
}

/// What the sealed secret of a page is for one who knows this passphrase.
fn opened(page: &str, passphrase: &str, with: &str) -> Option<Vec<u8>> {
    let sealed = json(page, "sealed");
    let bytes = |key: &str| BASE64.decode(sealed[key].as_str().unwrap().as_bytes()).unwrap();
    let rounds = u32::try_from(sealed["rounds"].as_u64().unwrap()).unwrap();
    assert_eq!(rounds, 600_000);
    let (rounds, mut key) = (NonZeroU32::new(rounds).unwrap(), [0; 32]);
    let hash = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(hash, rounds, &bytes("salt"), passphrase.as_bytes(), &mut key);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&bytes("nonce")).unwrap();
    let mut secret = bytes("secret");
    Some(key.open_in_place(nonce, Aad::from(with), &mut secret).ok()?.to_vec())
}

#[test]
fn a_page_runs_nothing_but_its_own_script_and_reaches_nothing_but_the_door() {
    let files = Files::new();
    let page = files.page("--door web --client phone", PASSPHRASE);
    assert!(page.len() < 50_000, "{}", page.len());
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    let (style, script) = (between(&page, "<style>", "</style>"), between(&page, "<script>", "</"));
    assert_eq!(
        between(&page, "http-equiv=\"Content-Security-Policy\" content=\"", "\""),
        format!(
            "default-src 'none'; connect-src http://192.0.2.1:*; style-src {}; script-src {}; \
             base-uri 'none'; form-action 'none'",
            hash(style),
            hash(script)
        )
    );
    // What is put in is data, and the elements have neither handlers nor styles nor addresses.
    let markup = page.replace(script, "").replace(style, "").replace(data(&page, "texts"), "");
    for wrong in [" on", " style=", " src=", " href=", "<!--"] {
        assert!(!markup.contains(wrong), "{wrong} in {markup}");
    }
    let addresses: Vec<_> = page.match_indices("://").collect();
    // The policy's, the link to the service, and the one of which the script makes those it knocks at.
    assert_eq!(addresses.len(), 3, "{page}");
    assert!(script.contains("`${scheme}://${door.at}:${port}/`"));
}

#[test]
fn a_page_knows_of_its_door_what_it_takes_to_knock() {
    let files = Files::new();
    let page = files.page("--door irc --link https://irc.example.com/<b>", "");
    let expected = serde_json::json!({
        "name": "irc", "client": null, "host": "192.0.2.1", "at": "192.0.2.1", "family": 4,
        "base": 6600, "digits": 8, "step": 60, "refused": [6665, 6666, 6667, 6668, 6669, 6679, 6697],
        "link": "https://irc.example.com/<b>",
    });
    assert_eq!(json(&page, "door"), expected);
    assert_eq!(json(&page, "sealed"), Value::Null);
    let link = |line: &str| json(&files.page(line, ""), "door")["link"].clone();
    assert_eq!(link("--door web"), "https://192.0.2.1/");
    assert_eq!(link("--door irc"), Value::Null);
}

#[test]
fn every_text_is_there_in_each_language_and_has_the_same_holes() {
    let files = Files::new();
    let texts = json(&files.page("--door web", ""), "texts");
    let holes = |text: &Value| {
        let parts = text.as_str().unwrap().split('{').skip(1);
        let mut holes: Vec<String> =
            parts.map(|part| part.split_once('}').unwrap().0.to_owned()).collect();
        holes.sort();
        holes
    };
    let (english, german) = (texts["en"].as_object().unwrap(), texts["de"].as_object().unwrap());
    assert!(english.keys().eq(german.keys()));
    for (key, text) in english {
        assert_eq!(holes(text), holes(&german[key]), "{key}");
    }
}

#[test]
fn a_secret_opens_with_the_passphrase_and_for_this_door_only() {
    let files = Files::new();
    let page = files.page("--door web --client phone", &format!("{PASSPHRASE}\nmore\n"));
    let door = data(&page, "door");
    let secret = BASE32_NOPAD.decode(SECRET.as_bytes()).unwrap();
    assert_eq!(opened(&page, PASSPHRASE, door).as_deref(), Some(&secret[..]));
    assert_eq!(opened(&page, "four words of his", door), None);
    assert_eq!(opened(&page, PASSPHRASE, &door.replace("192.0.2.1", "192.0.2.9")), None);
    assert!(!page.contains(SECRET));
    let again = files.page("--door web --client phone", PASSPHRASE);
    assert_ne!(data(&again, "sealed"), data(&page, "sealed"));
}

#[test]
fn a_page_with_a_secret_is_for_its_owner_and_one_without_for_everyone() {
    let files = Files::new();
    let mode = || fs::metadata(files.path("knock.html")).unwrap().permissions().mode() & 0o777;
    for (line, expected) in [("--client phone", 0o600), ("", 0o644)] {
        let line = format!("--door web --host 192.0.2.1 --out knock.html {line}");
        let (printed, _) = said(files.make(&line, PASSPHRASE));
        assert_eq!((printed, mode()), (String::new(), expected), "{line}");
    }
    let page = fs::read_to_string(files.path("knock.html")).unwrap();
    assert_eq!(json(&page, "sealed"), Value::Null, "the page before is replaced");
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let files = Files::new();
    std::os::unix::fs::symlink("phone.totp", files.path("knock.html")).unwrap();
    let error = complained(files.make("--door web --host 192.0.2.1 --out knock.html", ""));
    assert!(error.contains("cannot write knock.html: it is no plain file"), "{error}");
    assert_eq!(fs::read_to_string(files.path("phone.totp")).unwrap(), SECRET);
}

#[test]
fn a_page_that_would_not_work_is_not_made_and_what_to_do_is_said() {
    let files = Files::new();
    for (line, input, expected) in [
        (
            "--door nosuch",
            "",
            "there is no door 'nosuch'\n    the doors are: fast, irc, plain, ssh, web",
        ),
        ("--door plain", "", "'plain' takes none\n    add this to the door: totp: {mode: code"),
        ("--door ssh", "", "a browser can knock codes only, and 'ssh' takes none"),
        ("--door web --client nosuch", PASSPHRASE, "there is no client 'nosuch'"),
        ("--door web --client laptop", PASSPHRASE, "'laptop' has no TOTP secret\n    knockctl enr"),
        ("--door web --client tablet", PASSPHRASE, "'tablet' may not open 'web'"),
        ("--door web --host ::1 --client phone", "", "less than 12 characters"),
        (
            "--door web --host ::1 --client phone",
            "elevenlong!\n",
            "nothing limits how often they try",
        ),
        ("--door web -6 --host 192.0.2.1", "", "no IPv6 address of '192.0.2.1' is known here"),
        ("--door web --host g_w", "", "a page cannot knock at 'g_w': write an address, or a name"),
    ] {
        let error = complained(files.make(&format!("{line} --out knock.html"), input));
        assert!(error.contains(expected), "{line}: {error}");
        assert!(!files.path("knock.html").exists(), "{line}");
    }
    for link in ["javascript:alert(1)", "data:text/html,x", "gw.example.com"] {
        let output = files.make(&format!("--door web --out - --link {link}"), "");
        assert_eq!(output.status.code(), Some(2), "{link}");
        assert!(text(output.stderr).contains("begins with one of: http://, https://"), "{link}");
    }
}

#[test]
fn a_page_that_would_open_nothing_is_warned_of() {
    let files = Files::new();
    let line = "--door fast --client gone --host 192.0.2.1 --out -";
    let (_, beside) = said(files.make(line, PASSPHRASE));
    assert!(beside.contains("warning: the client has expired"), "{beside}");
    assert!(beside.contains("warning: a page may take 3s, and seq_timeout is less"), "{beside}");
}

#[test]
fn ports_that_browsers_refuse_are_told_when_the_page_is_made() {
    let files = Files::new();
    let (_, beside) = said(files.make("--door irc --host 192.0.2.1 --out -", ""));
    let expected = "connect to none of the ports [6665, 6666, 6667, 6668, 6669, 6679, 6697] (Chromium connects to 6679, Firefox does not): ";
    assert!(beside.contains(expected), "{beside}");
    let (_, beside) = said(files.make("--door web --host 192.0.2.1 --out -", ""));
    assert_eq!(beside, "");
}

#[test]
fn a_host_that_is_not_known_here_is_left_to_the_browser() {
    let files = Files::new();
    // That it is this host says nothing to others.
    let (page, beside) = said(files.make("--door web --host localhost --out -", ""));
    assert!(beside.contains("no address of 'localhost' is known here"), "{beside}");
    let door = json(&page, "door");
    assert_eq!((door["at"].as_str(), &door["family"]), (Some("localhost"), &Value::Null));
}
