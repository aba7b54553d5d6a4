//! Pages that `knockctl page` makes, in real browsers, against a `knockd` on the other side of a
//! cable.
//!
//! Needs root, `chromium` and `firefox-esr`. What the pages look like is put into
//! `target/screenshots`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libknock::proto::knock::Knock;
use libknock::proto::totp::{Digits, Scheme, TotpMode};
use serde_json::Value;

use super::totp::{PHONE, be_silent, opened, sequence, start, start_for, wait_until_opened};
use crate::support::browser::{Accessible, Browser, BrowserKind, ColorScheme};
use crate::support::mounts::in_own_mounts;
use crate::support::{
    Beside, CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, command, eventually, must,
    needs,
};

/// Short steps, since a page waits for the next one when it has used one; and many of them hold,
/// since a busy machine is slow.
const DOOR: &str = "{mode: code, base: 7000, step: 2s, skew: 10}";
const STEP: u32 = 2;
const NAME: &str = "gw.example.com";
const PASSPHRASE: &str = "correct horse battery staple";

fn by_code(step: u32) -> Scheme {
    let mode = TotpMode::Code { base: 7000, digits: Digits::Six };
    Scheme::new(mode, step, 10).unwrap()
}

/// The code of so many steps from now, as an authenticator app shows it.
fn code(scheme: Scheme, secret: &str, off: i64) -> String {
    let pair = |knock: &Knock| format!("{:02}", knock.port.get() - 7000);
    sequence(scheme, secret, off).iter().map(pair).collect()
}

/// A page for the door of a daemon, made on its host.
struct Page {
    path: PathBuf,
    /// What `knockctl` said.
    said: String,
}

impl Page {
    fn new(net: &Net, knockd: &Knockd, arguments: &[&str]) -> Self {
        let path = knockd.directory.path().join("knock.html");
        let mut knockctl = net.server.command(env!("CARGO_BIN_EXE_knockctl"));
        knockctl.arg("-c").arg(&knockd.config).args(["page", "--door", "ssh", "--out"]).arg(&path);
        knockctl.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = knockctl.spawn().unwrap();
        let _ = writeln!(child.stdin.take().unwrap(), "{PASSPHRASE}");
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        Self { path, said }
    }

    fn open(&self, browser: &mut Browser) {
        browser.open(&format!("file://{}", self.path.display()));
    }
}

fn screenshot(browser: &mut Browser, name: &str) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{:?}-{name}.png", browser.kind).to_lowercase());
    browser.screenshot(&path);
    // Not eprintln!, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "screenshot: {}", path.display());
}

/// Undoes [`be_silent`].
fn not_be_silent(net: &Net) {
    for iptables in ["iptables", "ip6tables"] {
        net.server.must(iptables, &["-F", "INPUT"]);
    }
}

/// Counts the connections of a host to any other than the server, over a route that leads
/// everywhere.
fn watch_others(net: &Net) {
    for (version, server) in [("-4", SERVER), ("-6", SERVER_6)] {
        net.client.must("ip", &[version, "route", "add", "default", "via", server]);
    }
    let rules = format!(
        "table inet t {{
             counter others {{ }}
             chain out {{
                 type filter hook output priority 0;
                 oifname lo accept
                 ip daddr {SERVER} accept
                 ip6 daddr {SERVER_6} accept
                 tcp flags syn counter name others
             }}
         }}"
    );
    net.client.must("nft", &[&rules]);
}

/// Whether a host has connected to others since.
fn has_met_others(net: &Net) -> bool {
    let counter = net.client.must("nft", &["list", "counter", "inet", "t", "others"]);
    !counter.contains("packets 0 ")
}

/// Has a page remember what its policy forbids it.
fn remember_violations(browser: &mut Browser) {
    browser.eval(
        "addEventListener('securitypolicyviolation', event => {
             document.documentElement.dataset.violation = event.violatedDirective;
         })",
    );
}

/// What the policy has forbidden the page, or nothing.
fn violation(browser: &mut Browser) -> Value {
    browser.eval("return document.documentElement.dataset.violation ?? null")
}

fn in_each_browser(test: fn(BrowserKind)) {
    BrowserKind::ALL.into_iter().for_each(test);
}

#[test]
fn codes_that_are_typed_into_a_page_open_the_door() {
    needs!("page-typed", "chromium", "firefox-esr", "nft", "iptables");
    in_each_browser(|kind| {
        let net = Net::new();
        watch_others(&net);
        let knockd = start(&net.server, DOOR);
        let page =
            Page::new(&net, &knockd, &["--host", SERVER, "--link", "https://192.0.2.1/mail"]);
        let mut browser = Browser::start(kind, &net.client);
        page.open(&mut browser);
        remember_violations(&mut browser);
        for count in 1..=6 {
            if count == 4 {
                be_silent(&net);
            }
            let code = code(by_code(STEP), PHONE, count);
            let (first, second) = code.split_at(3);
            browser.enter("#code", &format!("{first} {second}"));
            wait_until_opened(&knockd, usize::try_from(count).unwrap());
            browser.wait_for("#status", "A page cannot see");
        }
        assert_eq!(opened(&knockd), vec![format!("{CLIENT} phone"); 6], "{kind:?}");
        assert_eq!(knockd.count("failed too often"), 0, "{kind:?}");
        let link = browser.eval("return document.querySelector('#service').href");
        assert_eq!(link, "https://192.0.2.1/mail");
        assert!(browser.text("#service").contains("https://192.0.2.1/mail"));
        assert_eq!(violation(&mut browser), Value::Null, "{kind:?}");
        let asked = "return performance.getEntriesByType('resource').map(it => it.name)";
        let asked: Vec<String> = serde_json::from_value(browser.eval(asked)).unwrap();
        assert_eq!(asked.len(), 18, "{kind:?}");
        let of_door = format!("http://{SERVER}:70");
        assert!(asked.iter().all(|url| url.starts_with(&of_door)), "{kind:?}: {asked:?}");
        assert!(!has_met_others(&net), "{kind:?}");
        screenshot(&mut browser, "sent");
    });
}

#[test]
fn a_page_can_reach_nothing_but_the_door() {
    needs!("page-policy", "chromium", "firefox-esr", "nft");
    in_each_browser(|kind| {
        let net = Net::new();
        watch_others(&net);
        let knockd = start(&net.server, DOOR);
        let page = Page::new(&net, &knockd, &["--host", SERVER]);
        let mut browser = Browser::start(kind, &net.client);
        for (attempt, directive) in [
            (
                "await fetch('http://192.0.2.9:7000/', {mode: 'no-cors'}).catch(() => {})",
                "connect-src",
            ),
            (
                "document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.9/'}))",
                "img-src",
            ),
            (
                "document.body.setAttribute('onclick', 'alert()'); document.body.click()",
                "script-src",
            ),
            ("document.body.setAttribute('style', 'color: red')", "style-src"),
        ] {
            page.open(&mut browser);
            remember_violations(&mut browser);
            browser.eval(attempt);
            let forbidden = eventually(PATIENCE, || {
                violation(&mut browser).as_str().is_some_and(|it| it.starts_with(directive))
            });
            assert!(forbidden, "{kind:?} {attempt}: {}", violation(&mut browser));
        }
        assert!(!has_met_others(&net), "{kind:?}");
    });
}

#[test]
fn a_page_with_a_secret_opens_the_door_for_the_family_that_it_names() {
    needs!("page-derived", "chromium", "firefox-esr", "iptables");
    in_own_mounts("page-derived", || {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, format!("{SERVER_6} {NAME}\n{SERVER} {NAME}\n")).unwrap();
        must("mount", &["--bind", hosts.to_str().unwrap(), "/etc/hosts"]);
        in_each_browser(|kind| {
            let net = Net::new();
            be_silent(&net);
            let knockd = start(&net.server, DOOR);
            let arguments = ["--host", NAME, "--client", "laptop"];
            let page = Page::new(&net, &knockd, &arguments);
            assert!(page.said.contains("both families: the page knocks at 192.0.2.1 only"));
            let mut browser = Browser::start(kind, &net.client);
            page.open(&mut browser);
            assert!(browser.text("[data-text=about]").contains("Your IPv4 address"));
            remember_violations(&mut browser);
            browser.enter("#passphrase", "wrong horse battery staple");
            browser.wait_for("#problem", "not the passphrase of this page");
            screenshot(&mut browser, "wrong");
            for count in 1..=6 {
                if count == 4 {
                    assert_eq!(violation(&mut browser), Value::Null, "{kind:?}");
                    not_be_silent(&net);
                    let page = Page::new(&net, &knockd, &[&arguments[..], &["-6"]].concat());
                    page.open(&mut browser);
                    remember_violations(&mut browser);
                    let about = browser.text("[data-text=about]");
                    assert!(about.contains("Your IPv6 address"), "{about}");
                }
                browser.enter("#passphrase", PASSPHRASE);
                wait_until_opened(&knockd, count);
                browser.wait_for("#status", "A page cannot see");
            }
            assert_eq!(violation(&mut browser), Value::Null, "{kind:?}");
            let by_family = [CLIENT, CLIENT_6].map(|it| vec![format!("{it} laptop"); 3]).concat();
            assert_eq!(opened(&knockd), by_family, "{kind:?}");
            assert_eq!(knockd.count("failed too often"), 0, "{kind:?}");
        });
    });
}

#[test]
fn a_page_of_a_server_knocks_too_and_takes_a_code_where_the_browser_decrypts_nothing() {
    needs!("page-served", "chromium", "firefox-esr", "python3", "openssl");
    in_each_browser(|kind| {
        let net = Net::new();
        let knockd = start(&net.server, DOOR);
        let page = Page::new(&net, &knockd, &["--host", SERVER, "--client", "phone"]);
        let served = tempfile::tempdir().unwrap();
        fs::copy(&page.path, served.path().join("knock.html")).unwrap();
        let in_it = |mut command: Command| {
            command.current_dir(served.path());
            command
        };
        let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out cert -subj /CN=page -days 2";
        let made = in_it(command("openssl")).args(made.split(' ')).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut by_http = in_it(net.client.command("python3"));
        let _by_http = Beside::start(by_http.args(["-m", "http.server", "8000"]));
        let mut by_tls = in_it(net.client.command("openssl"));
        let by_tls = by_tls.args("s_server -accept 8443 -cert cert -key key -WWW".split(' '));
        let _by_tls = Beside::start(by_tls);
        for port in [8000, 8443] {
            let answers =
                || net.client.enter(move || TcpStream::connect(("127.0.0.1", port)).is_ok());
            assert!(eventually(PATIENCE, answers), "{port}");
        }
        let mut browser = Browser::start(kind, &net.client);
        let derives = ["http://127.0.0.1:8000".to_owned(), format!("https://{CLIENT}:8443")];
        for (count, from) in (1..).zip(derives) {
            browser.open(&format!("{from}/knock.html"));
            remember_violations(&mut browser);
            browser.enter("#passphrase", PASSPHRASE);
            wait_until_opened(&knockd, count);
            browser.wait_for("#status", "A page cannot see");
            assert_eq!(violation(&mut browser), Value::Null, "{kind:?} {from}");
        }
        browser.open(&format!("http://{CLIENT}:8000/knock.html"));
        browser.wait_for("#problem", "open it from a file or by https");
        browser.enter("#code", &code(by_code(STEP), PHONE, 5));
        wait_until_opened(&knockd, 3);
        assert_eq!(opened(&knockd), vec![format!("{CLIENT} phone"); 3], "{kind:?}");
    });
}

/// A secret with three codes in which pairs of digits follow themselves, and their steps from now.
fn with_equal_pairs(scheme: Scheme) -> (String, [String; 3]) {
    for number in 0u64.. {
        let mut secret = [7; 20];
        secret[..8].copy_from_slice(&number.to_be_bytes());
        let secret = data_encoding::BASE32.encode(&secret);
        let codes: Vec<String> = (-9..=9).map(|off| code(scheme, &secret, off)).collect();
        let find = |wanted: fn(&str, &str, &str) -> bool| {
            codes.iter().find(|it| wanted(&it[..2], &it[2..4], &it[4..])).cloned()
        };
        let all = find(|one, two, three| one == two && two == three);
        let first = find(|one, two, three| one == two && two != three);
        let last = find(|one, two, three| one != two && two == three);
        if let (Some(first), Some(all), Some(last)) = (first, all, last) {
            return (secret, [first, all, last]);
        }
    }
    unreachable!("one in some ten thousand has them")
}

#[test]
fn a_page_knocks_a_port_again_that_comes_twice_in_a_row() {
    needs!("page-twice", "chromium", "firefox-esr", "iptables");
    in_each_browser(|kind| {
        let (secret, codes) = with_equal_pairs(by_code(3600));
        let net = Net::new();
        be_silent(&net);
        let door = "{mode: code, base: 7000, step: 1h, skew: 10}";
        let knockd = start_for(&net.server, door, &secret);
        let page = Page::new(&net, &knockd, &["--host", SERVER]);
        let mut browser = Browser::start(kind, &net.client);
        page.open(&mut browser);
        for (count, code) in (1..).zip(&codes) {
            browser.enter("#code", code);
            wait_until_opened(&knockd, count);
            browser.wait_for("#status", "A page cannot see");
        }
        assert_eq!(opened(&knockd), vec![format!("{CLIENT} phone"); 3], "{kind:?} {codes:?}");
    });
}

#[test]
fn a_page_says_what_cannot_be_knocked() {
    needs!("page-wrong", "chromium", "firefox-esr");
    in_each_browser(|kind| {
        let net = Net::new();
        let knockd = start(&net.server, "{mode: code, base: 6600, step: 1h}");
        let page = Page::new(&net, &knockd, &["--host", SERVER]);
        assert!(page.said.contains("[6665, 6666"), "{}", page.said);
        let mut browser = Browser::start(kind, &net.client);
        page.open(&mut browser);
        for (typed, told) in [
            ("12 34 5", "A code is 6 digits"),
            ("1234567", "A code is 6 digits"),
            ("12345x", "A code is 6 digits"),
            ("016502", "do not connect to port 6665"),
        ] {
            browser.enter("#code", typed);
            browser.wait_for("#problem", told);
            assert_eq!(browser.eval("return document.querySelector('#code').ariaInvalid"), "true");
        }
        assert_eq!(browser.text("#status"), "");
        browser.enter("#code", "010203");
        browser.wait_for("#status", "A page cannot see");
        assert_eq!(browser.text("#problem"), "");
        assert_eq!(knockd.count("Stage"), 0);
    });
}

#[test]
fn a_page_whose_script_does_not_run_says_so_and_asks_for_nothing() {
    needs!("page-script", "chromium", "firefox-esr");
    in_each_browser(|kind| {
        let net = Net::new();
        let knockd = start(&net.server, DOOR);
        let page = Page::new(&net, &knockd, &["--host", SERVER]);
        let text = fs::read_to_string(&page.path).unwrap();
        // Its policy lets no other script run than the one that it was made with.
        fs::write(&page.path, text.replace("\"use strict\";", "\"use strict\"; ")).unwrap();
        let mut browser = Browser::start(kind, &net.client);
        page.open(&mut browser);
        assert!(browser.text("body").contains("JavaScript, which does not run here"), "{kind:?}");
        let is_shown = "return document.querySelector('form').getClientRects().length > 0";
        assert_eq!(browser.eval(is_shown), false, "{kind:?}");
    });
}

#[test]
fn browsers_refuse_the_ports_that_are_told_when_a_page_is_made() {
    needs!("page-ports", "chromium", "firefox-esr", "nft");
    in_each_browser(|kind| {
        let net = Net::new();
        let rules = "table inet t {
                         set knocked { type inet_service; flags dynamic; }
                         chain in {
                             type filter hook input priority 0;
                             tcp flags syn add @knocked { tcp dport }
                         }
                     }";
        net.server.must("nft", &[rules]);
        let knockd = start(&net.server, "{mode: code, base: 6600, step: 1h}");
        let page = Page::new(&net, &knockd, &["--host", SERVER]);
        let but = "Chromium connects to 6679, Firefox does not";
        assert!(page.said.contains(but), "{}", page.said);
        let mut browser = Browser::start(kind, &net.client);
        page.open(&mut browser);
        let refused = "return JSON.parse(document.querySelector('#door').textContent).refused";
        let refused: Vec<u16> = serde_json::from_value(browser.eval(refused)).unwrap();
        assert!(page.said.contains(&format!("{refused:?}")), "{}", page.said);
        browser.eval(&format!(
            "for (let port = 6600; port < 6700; port++)
                 await fetch(`http://{SERVER}:${{port}}/`, {{mode: 'no-cors'}}).catch(() => {{}});"
        ));
        let knocked = net.server.must("nft", &["-j", "list", "set", "inet", "t", "knocked"]);
        let knocked: Value = serde_json::from_str(&knocked).unwrap();
        let knocked: BTreeSet<u16> = knocked["nftables"][1]["set"]["elem"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port.as_u64().unwrap().try_into().unwrap())
            .collect();
        let mut expected: BTreeSet<u16> = (6600..6700).filter(|it| !refused.contains(it)).collect();
        if kind == BrowserKind::Chromium {
            expected.insert(6679);
        }
        assert_eq!(knocked, expected, "{kind:?}");
    });
}

#[test]
fn a_page_speaks_the_language_of_the_browser_and_is_dark_where_people_like_it() {
    needs!("page-look", "chromium", "firefox-esr");
    in_each_browser(|kind| {
        let net = Net::new();
        let knockd = start(&net.server, DOOR);
        let page = Page::new(&net, &knockd, &["--host", SERVER, "--client", "phone"]);
        let mut browser = Browser::start(kind, &net.client);
        let shades = [
            ("en", ColorScheme::Light, 1000, "Your IPv4 address"),
            ("en", ColorScheme::Dark, 360, "Your IPv4 address"),
            ("de", ColorScheme::Dark, 1000, "Anklopfen"),
            ("de-AT", ColorScheme::Light, 360, "Anklopfen"),
            ("fr", ColorScheme::Light, 1000, "Your IPv4 address"),
        ]
        .map(|(language, scheme, width, word)| {
            browser.look(language, scheme, width);
            page.open(&mut browser);
            let shown = browser.text("body");
            assert!(shown.contains(word), "{kind:?} {language}: {shown}");
            let spoken = browser.eval("return document.documentElement.lang");
            assert_eq!(spoken, if language.starts_with("de") { "de" } else { "en" });
            let overflow = "return document.documentElement.scrollWidth > innerWidth";
            assert_eq!(browser.eval(overflow), false, "{kind:?} {width}");
            screenshot(&mut browser, &format!("{language}-{scheme:?}-{width}"));
            browser.eval("return getComputedStyle(document.body).backgroundColor")
        });
        assert_ne!(shades[0], shades[1]);
        assert_eq!([&shades[0], &shades[1]], [&shades[3], &shades[2]]);
    });
}

#[test]
fn a_screen_reader_is_told_of_the_field_its_problems_and_the_progress() {
    needs!("page-accessible", "chromium");
    let net = Net::new();
    let knockd = start(&net.server, DOOR);
    let page = Page::new(&net, &knockd, &["--host", SERVER]);
    let mut browser = Browser::start(BrowserKind::Chromium, &net.client);
    page.open(&mut browser);
    let expected = [
        ("heading", "Knock at 192.0.2.1", ""),
        ("textbox", "Code", "The 6 digits that your authenticator app shows now."),
        ("button", "Knock", ""),
        ("status", "", ""),
        ("alert", "", ""),
    ];
    let tree = browser.accessible();
    for (role, name, description) in expected {
        let node =
            Accessible { role: role.into(), name: name.into(), description: description.into() };
        assert!(tree.contains(&node), "{node:?} in {tree:#?}");
    }
    browser.enter("#code", "123");
    browser.wait_for("#problem", "6 digits");
    let told =
        "The 6 digits that your authenticator app shows now. A code is 6 digits, and nothing else.";
    let tree = browser.accessible();
    let field = tree.iter().find(|node| node.role == "textbox").unwrap();
    assert_eq!(field.description, told);
}
