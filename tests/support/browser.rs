//! Real browsers without windows: Debian's Chromium and Firefox, told what to do over the protocol
//! that each has for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::{fs, thread};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Host, PATIENCE, eventually};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrowserKind {
    /// Spoken to over the Chrome DevTools Protocol, on two pipes.
    Chromium,
    /// Spoken to over Marionette, on a port of the loopback interface.
    Firefox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColorScheme {
    Light,
    Dark,
}

/// A thing of a page, as a screen reader tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accessible {
    pub role: String,
    pub name: String,
    pub description: String,
}

/// What Firefox does by itself and not for a page, switched off; and where it is spoken to.
const PREFERENCES: &str = r#"
user_pref("marionette.port", 2828);
user_pref("network.proxy.type", 0);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.safebrowsing.downloads.remote.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.normandy.enabled", false);
"#;
const MARIONETTE: &str = "127.0.0.1:2828";

/// A running browser with one page; ended when it goes out of scope.
pub(crate) struct Browser {
    pub kind: BrowserKind,
    child: Child,
    _profile: tempfile::TempDir,
    to: Box<dyn Write>,
    from: Receiver<Value>,
    /// Of the latest command.
    number: u64,
    /// Chromium's name for the page.
    session: Option<Value>,
    /// How many times Chromium has loaded a page.
    loads: usize,
}

impl BrowserKind {
    pub(crate) const ALL: [Self; 2] = [Self::Chromium, Self::Firefox];
}

impl Browser {
    /// Starts one in a namespace, as the only one of its kind there.
    pub(crate) fn start(kind: BrowserKind, host: &Host) -> Self {
        let profile = tempfile::tempdir().unwrap();
        match kind {
            BrowserKind::Chromium => Self::chromium(host, profile),
            BrowserKind::Firefox => Self::firefox(host, profile),
        }
    }

    fn chromium(host: &Host, profile: tempfile::TempDir) -> Self {
        let mut command = host.command("sh");
        // It reads from descriptor 3 and writes to 4.
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", "chromium"]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update"]);
        command.args(["--no-proxy-server", "--remote-debugging-pipe"]);
        command.arg("--ignore-certificate-errors");
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let to = Box::new(child.stdin.take().unwrap());
        let from = heard(BufReader::new(child.stdout.take().unwrap()), |from| {
            let mut message = Vec::new();
            from.read_until(0, &mut message).ok()?;
            message.pop()?;
            Some(message)
        });
        let kind = BrowserKind::Chromium;
        let mut browser =
            Self { kind, child, _profile: profile, to, from, number: 0, session: None, loads: 0 };
        let page = browser.command("Target.createTarget", json!({"url": "about:blank"}));
        let page = json!({"targetId": page["targetId"], "flatten": true});
        browser.session = Some(browser.command("Target.attachToTarget", page)["sessionId"].clone());
        browser.command("Page.enable", json!({}));
        browser
    }

    fn firefox(host: &Host, profile: tempfile::TempDir) -> Self {
        fs::write(profile.path().join("user.js"), PREFERENCES).unwrap();
        let mut command = host.command("firefox-esr");
        command.args([
            "--headless",
            "--marionette",
            "--remote-allow-system-access",
            "--no-remote",
            "--profile",
        ]);
        // Nor does it start for root in the home of somebody else.
        command.arg(profile.path()).env("HOME", profile.path());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let mut stream = None;
        let listens = eventually(2 * PATIENCE, || {
            stream = host.enter(|| TcpStream::connect(MARIONETTE).ok());
            stream.is_some()
        });
        assert!(listens, "Firefox does not listen");
        let stream = stream.unwrap();
        let from = heard(BufReader::new(stream.try_clone().unwrap()), |from| {
            let mut length = Vec::new();
            from.read_until(b':', &mut length).ok()?;
            length.pop()?;
            let length = String::from_utf8(length).ok()?.parse().ok()?;
            let mut message = vec![0; length];
            from.read_exact(&mut message).ok()?;
            Some(message)
        });
        let kind = BrowserKind::Firefox;
        let to = Box::new(stream);
        let mut browser =
            Self { kind, child, _profile: profile, to, from, number: 0, session: None, loads: 0 };
        // It says first who it is.
        browser.next();
        browser.command("WebDriver:NewSession", json!({"acceptInsecureCerts": true}));
        browser
    }

    /// Opens a page and waits until it is there.
    pub(crate) fn open(&mut self, url: &str) {
        let before = self.loads;
        let reply = self.command(self.navigate(), json!({"url": url}));
        assert!(reply["errorText"].is_null(), "{url}: {reply}");
        while self.kind == BrowserKind::Chromium && self.loads == before {
            self.next();
        }
    }

    /// Goes to an address, as a person does who types it, and does not wait for what comes.
    pub(crate) fn visit(&mut self, url: &str) {
        self.send(self.navigate(), &json!({"url": url}));
    }

    const fn navigate(&self) -> &'static str {
        match self.kind {
            BrowserKind::Chromium => "Page.navigate",
            BrowserKind::Firefox => "WebDriver:Navigate",
        }
    }

    /// What the body of an async function returns in the page.
    pub(crate) fn eval(&mut self, body: &str) -> Value {
        match self.kind {
            BrowserKind::Chromium => {
                let expression = format!("(async () => {{{body}}})()");
                let wanted =
                    json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
                let result = self.command("Runtime.evaluate", wanted);
                assert!(result["exceptionDetails"].is_null(), "{body}: {result}");
                result["result"]["value"].clone()
            }
            BrowserKind::Firefox => {
                let script = format!("return (async () => {{{body}}})()");
                let wanted = json!({"script": script, "args": []});
                self.command("WebDriver:ExecuteScript", wanted)["value"].clone()
            }
        }
    }

    /// Types into a field, in place of what it holds, and presses Enter there.
    pub(crate) fn enter(&mut self, selector: &str, text: &str) {
        self.eval(&format!(
            "const it = document.querySelector('{selector}'); it.focus(); it.select();"
        ));
        match self.kind {
            BrowserKind::Chromium => {
                self.command("Input.insertText", json!({"text": text}));
                for event in ["keyDown", "keyUp"] {
                    let key = json!({"type": event, "key": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
                    self.command("Input.dispatchKeyEvent", key);
                }
            }
            BrowserKind::Firefox => {
                let mut actions = Vec::new();
                for key in text.chars().chain(['\u{e007}']) {
                    actions.push(json!({"type": "keyDown", "value": key}));
                    actions.push(json!({"type": "keyUp", "value": key}));
                }
                let keys = json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]});
                self.command("WebDriver:PerformActions", keys);
            }
        }
    }

    /// What a page shows in an element, or nothing.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let shown = self.eval(&format!("return document.querySelector('{selector}')?.innerText"));
        shown.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element shows this.
    pub(crate) fn wait_for(&mut self, selector: &str, text: &str) {
        let mut last = String::new();
        let shown = eventually(2 * PATIENCE, || {
            last = self.text(selector);
            last.contains(text)
        });
        assert!(shown, "{:?}: no {text:?} in {selector}: {last:?}", self.kind);
    }

    /// Sets what the next page is shown in.
    pub(crate) fn look(&mut self, language: &str, scheme: ColorScheme, width: u32) {
        let dark = scheme == ColorScheme::Dark;
        match self.kind {
            BrowserKind::Chromium => {
                let agent = self.command("Browser.getVersion", json!({}))["userAgent"].clone();
                let agent = json!({"userAgent": agent, "acceptLanguage": language});
                self.command("Emulation.setUserAgentOverride", agent);
                let value = if dark { "dark" } else { "light" };
                let features =
                    json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
                self.command("Emulation.setEmulatedMedia", features);
                let size = json!({"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 600});
                self.command("Emulation.setDeviceMetricsOverride", size);
            }
            BrowserKind::Firefox => {
                self.command("Marionette:SetContext", json!({"value": "chrome"}));
                let script = format!(
                    "Services.prefs.setStringPref('intl.accept_languages', '{language}');
                     Services.prefs.setIntPref('layout.css.prefers-color-scheme.content-override', {});",
                    u8::from(!dark)
                );
                self.command("WebDriver:ExecuteScript", json!({"script": script, "args": []}));
                self.command("Marionette:SetContext", json!({"value": "content"}));
                let size = json!({"width": width, "height": 740});
                self.command("WebDriver:SetWindowRect", size);
            }
        }
    }

    /// Writes down what the page looks like.
    pub(crate) fn screenshot(&mut self, path: &Path) {
        let picture = match self.kind {
            BrowserKind::Chromium => {
                self.command("Page.captureScreenshot", json!({}))["data"].clone()
            }
            BrowserKind::Firefox => {
                self.command("WebDriver:TakeScreenshot", json!({"full": false}))["value"].clone()
            }
        };
        let picture = data_encoding::BASE64.decode(picture.as_str().unwrap().as_bytes()).unwrap();
        fs::write(path, picture).unwrap();
    }

    /// What Chromium shows to a screen reader.
    pub(crate) fn accessible(&mut self) -> Vec<Accessible> {
        let tree = self.command("Accessibility.getFullAXTree", json!({}));
        let shown = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true);
        let of = |node: &Value, what| node[what]["value"].as_str().unwrap_or_default().to_owned();
        shown
            .map(|node| Accessible {
                role: of(node, "role"),
                name: of(node, "name"),
                description: of(node, "description"),
            })
            .collect()
    }

    /// Has a command done, and gives its result.
    fn command(&mut self, name: &str, parameters: Value) -> Value {
        let number = self.send(name, &parameters);
        loop {
            let mut reply = self.next();
            let (its, error, result) = match self.kind {
                BrowserKind::Chromium => {
                    (reply["id"].take(), reply["error"].take(), reply["result"].take())
                }
                BrowserKind::Firefox => (reply[1].take(), reply[2].take(), reply[3].take()),
            };
            if its == number {
                assert!(error.is_null(), "{name}: {error}");
                return result;
            }
        }
    }

    /// Sends a command, and gives the number that its reply will have.
    fn send(&mut self, name: &str, parameters: &Value) -> u64 {
        self.number += 1;
        let number = self.number;
        let message = match self.kind {
            BrowserKind::Chromium => {
                let mut message = json!({"id": number, "method": name, "params": parameters});
                if let Some(session) = &self.session {
                    message["sessionId"] = session.clone();
                }
                format!("{message}\0")
            }
            BrowserKind::Firefox => {
                let message = json!([0, number, name, parameters]).to_string();
                format!("{}:{message}", message.len())
            }
        };
        self.to.write_all(message.as_bytes()).unwrap();
        self.to.flush().unwrap();
        number
    }

    fn next(&mut self) -> Value {
        let message = self.from.recv_timeout(2 * PATIENCE);
        let message = message.unwrap_or_else(|error| panic!("{:?}: {error}", self.kind));
        self.loads += usize::from(message["method"] == "Page.loadEventFired");
        message
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Messages as they come, read by a thread that ends with them.
fn heard<R: BufRead + Send + 'static>(
    mut from: R,
    read: impl Fn(&mut R) -> Option<Vec<u8>> + Send + 'static,
) -> Receiver<Value> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Some(message) = read(&mut from) {
            if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                break;
            }
        }
    });
    receiver
}
