//! What fuzz targets share.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use libknock::config::Config;
use libknock::config::diagnostic::SourceText;
use libknock::config::load;
use libknock::engine::Local;
use libknock::engine::spa::{ServerKey, SpaServer};
use libknock::proto::spa::PrivateKey;
use libknock::time::{Monotonic, Now, Wall};

pub mod frame;

/// A moment some time after the start of a machine.
pub const NOW: Now = Now {
    monotonic: Monotonic::from_nanos(10_000_000_000_000),
    wall: Wall::from_nanos(1_700_000_000_000_000_000),
};

/// The private key of the server, as bytes.
pub const SERVER: [u8; 32] = [1; 32];
/// The private key of the client that has one, as bytes.
pub const CLIENT: [u8; 32] = [2; 32];

/// A configuration with a door of each kind, and with clients for them.
///
/// # Panics
/// If it is not valid.
pub fn house() -> Config {
    let public = PrivateKey::from(CLIENT).public();
    config(&format!(
        "knockd: {{interfaces: [eth0], lockout: {{failures: 10, within: 10m, for: 1h}}}}\n\
         clients:\n\
         \x20 alice:\n\
         \x20   doors: [code, ports, spa, fwknop]\n\
         \x20   totp: {{secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ}}\n\
         \x20   spa: {{public_key: {public}}}\n\
         \x20   fwknop: {{key: testkey, hmac_key: hmackey}}\n\
         \x20 bob:\n\
         \x20   doors: [fwknop]\n\
         \x20   fwknop: {{key: another, without_hmac: true, from: [192.0.2.0/24], address: explicit}}\n\
         doors:\n\
         \x20 plain: {{sequence: [7000, 8000/udp, 9000], open: [22]}}\n\
         \x20 code: {{totp: {{mode: code, base: 7100}}, open: [22], open_for: 30s, lockout: {{failures: 3, within: 1m, for: 1h}}}}\n\
         \x20 ports: {{totp: {{mode: ports, ports: 20000-20999, length: 4}}, open: [22]}}\n\
         \x20 spa: {{spa: true, open: [22], open_for: 30s, open_for_max: 1h, width: {{ipv4: 24, ipv6: 64}}}}\n\
         \x20 fwknop: {{fwknop: true, open: [22], open_for: 30s, open_for_max: 5m}}\n"
    ))
}

/// A configuration that is known to be valid.
///
/// # Panics
/// If it is not.
pub fn config(text: &str) -> Config {
    match load::parse(&SourceText::new("fuzz.yaml", text)) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{report}"),
    }
}

/// The server's side of native SPA that goes with a configuration.
pub fn server(config: &Config) -> SpaServer {
    let key = ServerKey { key: PrivateKey::from(SERVER), until: None };
    SpaServer::new(&config.settings.spa, vec![key])
}

/// The addresses of a host.
pub fn local() -> Local {
    let v6 = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
    Local::Addresses(BTreeSet::from([[192, 0, 2, 1].into(), v6.into()]))
}

/// A port; 1 for 0.
pub const fn port(number: u16) -> NonZeroU16 {
    match NonZeroU16::new(number) {
        Some(port) => port,
        None => NonZeroU16::MIN,
    }
}

/// Takes so many bytes off the front, with zeros for those that are missing.
pub fn take<const LEN: usize>(input: &mut &[u8]) -> [u8; LEN] {
    let (head, rest) = input.split_at(input.len().min(LEN));
    *input = rest;
    let mut taken = [0; LEN];
    taken[..head.len()].copy_from_slice(head);
    taken
}

/// Whether a text is fit for a terminal: no control character but the ends of its lines.
pub fn is_clean(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n')
}

/// The secrets that a file plainly gives, of which nothing may be shown: what these keys have for a
/// value, where it looks like one and stands nowhere else.
pub fn secrets<'a>(text: &'a str, keys: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let looks_like_one = |value: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        value.len() >= 12 && value.bytes().all(letters) && value.contains(char::is_numeric)
    };
    text.lines().filter_map(move |line| {
        let (key, value) = line.trim().split_once(' ')?;
        let is_one = keys.contains(&key) && looks_like_one(value.trim());
        (is_one && text.matches(value.trim()).count() == 1).then_some(value.trim())
    })
}

/// The keys of secrets in YAML.
pub const YAML_SECRETS: [&str; 5] =
    ["secret:", "key:", "key_base64:", "hmac_key:", "hmac_key_base64:"];
/// The variables of secrets in fwknop's files.
pub const FWKNOP_SECRETS: [&str; 4] = ["KEY", "KEY_BASE64", "HMAC_KEY", "HMAC_KEY_BASE64"];

/// The system's random numbers, for which these stand in: from them come the keys by which maps
/// hash, and with them which way a run takes. One seed then gives the same runs each time.
///
/// # Safety
/// As of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _: u32) -> isize {
    // SAFETY: the caller has so much room there.
    unsafe { buffer.write_bytes(7, length) };
    length.cast_signed()
}
