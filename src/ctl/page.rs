//! `knockctl page`: one HTML file with which a browser knocks.

mod seal;

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::edit::replace;
use super::{Error, Target, args, say, sequence};
use crate::client::prompt_hidden;
use crate::config::lint::bad_ports;
use crate::config::{Door, Name};
use crate::proto::Protocol;
use crate::proto::totp::TotpMode;
use crate::sys::clock;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const TEXTS: &str = include_str!("page/texts.json");

/// Ports of [`bad_ports`] to which Chromium connects all the same, and Firefox does not.
const REFUSED_BY_SOME: [u16; 2] = [4190, 6679];
/// What links may lead to: nothing that runs what stands in the link.
const SCHEMES: [&str; 6] = ["http://", "https://", "rdp://", "sftp://", "ssh://", "vnc://"];
/// How long a page may take from the first to the last of four knocks: see page.js.
const SLOWEST: Duration = Duration::from_secs(3);
/// A shorter passphrase, of so many characters, is found by trying.
const SHORTEST: usize = 12;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct PageArgs {
    /// The door at which it knocks
    #[arg(long, value_name = "NAME")]
    door: Name,
    /// Have it work out this client's codes, with the secret encrypted under a passphrase
    #[arg(long, value_name = "NAME")]
    client: Option<Name>,
    /// Write it to this file, which is replaced; - is standard output
    #[arg(long)]
    out: PathBuf,
    /// Where it knocks: the name or address of this host, for the browser
    #[arg(long, value_parser = args::host)]
    host: Option<String>,
    /// Knock over IPv6, where the name has addresses of both families
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Lead there after a knock, instead of to what the door opens
    #[arg(long, value_name = "URL", value_parser = link)]
    link: Option<String>,
}

pub(super) fn run(target: &Target, args: &PageArgs) -> Result<(), Error> {
    let config = target.load()?.config;
    let name = &args.door;
    let door = config.door(name).ok_or_else(|| Error::no_door(&config, name))?;
    let scheme = door.recognition.totp;
    let Some((scheme, TotpMode::Code { base, digits })) = scheme.map(|it| (it, it.mode())) else {
        return Err(Error::Unfit(format!(
            "a browser can knock codes only, and '{name}' takes none\n    \
             add this to the door: totp: {{mode: code, base: 7000}}\n    \
             of a classic knockd.conf 'knockctl import' makes the YAML that may say so"
        )));
    };
    let client = args.client.as_ref().map(|client| sequence::find(&config, name, Some(client)));
    let client = client.transpose()?.and_then(|(_, client)| client);
    let totp = client.and_then(|client| client.totp.as_ref());
    if client.and_then(|it| it.expires).is_some_and(|expires| expires <= clock::now().wall) {
        say("warning: the client has expired: knockd takes none of its codes");
    }
    if door.recognition.seq_timeout < SLOWEST {
        say(&format!(
            "warning: a page may take {SLOWEST:?}, and seq_timeout is less: it opens nothing then"
        ));
    }
    let own = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    if args.host.is_none() {
        say(&format!("the page knocks at '{own}'; --host names another address"));
    }
    let host = args.host.as_ref().unwrap_or(&own);
    let over_v6 = args.ipv6 || door.recognition.target.is_some_and(|target| target.is_ipv6());
    let (at, address) = destination(host, over_v6)?;
    let described = script_text(&json!({
        "name": name, "client": args.client, "host": host, "at": at,
        "family": address.map(|address| if address.is_ipv4() { 4 } else { 6 }),
        "base": base, "digits": digits.count(), "step": scheme.step(), "refused": refused(base),
        "link": args.link.clone().or_else(|| service(door, host)),
    }));
    let sealed = match totp {
        Some(totp) => seal::seal(&totp.secret, &passphrase()?, &described)?,
        None => Value::Null,
    };
    let text = html(&described, &script_text(&sealed), &at);
    if args.out == Path::new("-") {
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    Ok(replace(&args.out, &text, if totp.is_some() { 0o600 } else { 0o644 })?)
}

/// The host's part of a URL at which a page knocks, and the address, where that is known. It is an
/// address where the name has both families: a browser would try both, and a code opens for one.
///
/// # Errors
/// When it has no IPv6 address and is to have one, or cannot stand in a page.
fn destination(host: &str, over_v6: bool) -> Result<(String, Option<IpAddr>), Error> {
    let is_literal = host.parse::<IpAddr>().is_ok();
    // A policy of a browser takes no other name, and what ends in a number is an address to it.
    let is_label = |it: &str| it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
    let is_name = host.split('.').all(|it| !it.is_empty() && is_label(it));
    let last = host.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_number = last.starts_with("0x") || last.bytes().all(|it| it.is_ascii_digit());
    if !is_literal && (!is_name || is_number) {
        return Err(Error::Unfit(format!(
            "a page cannot knock at '{host}': write an address, or a name of letters, digits and \
             hyphens, with dots between them"
        )));
    }
    let found = (host, 0).to_socket_addrs().into_iter().flatten();
    let found = found.map(|it| it.ip().to_canonical());
    // By its own name a host is led to itself, and nobody else is.
    choose(host, &found.filter(|it| is_literal || !it.is_loopback()).collect::<Vec<_>>(), over_v6)
}

fn choose(host: &str, found: &[IpAddr], over_v6: bool) -> Result<(String, Option<IpAddr>), Error> {
    let wanted = found.iter().copied().find(|it| it.is_ipv6() == over_v6);
    match (wanted, found.first().copied()) {
        (None, _) if over_v6 => Err(Error::Unfit(format!(
            "no IPv6 address of '{host}' is known here\n    name one with --host"
        ))),
        (Some(address), _) if found.iter().any(|it| it.is_ipv6() != over_v6) => {
            say(&format!(
                "'{host}' has addresses of both families: the page knocks at {address} only, and \
                 has to be made anew when that changes"
            ));
            Ok((in_url(&address.to_string()), wanted))
        }
        (_, any) => {
            if any.is_none() {
                say(&format!("no address of '{host}' is known here: the browser has to find one"));
            }
            Ok((in_url(host), any))
        }
    }
}

/// A host as it stands in a URL.
pub(super) fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A link to the first service that a door opens, of those that links lead to.
fn service(door: &Door, host: &str) -> Option<String> {
    let ports = door.opening.ports.iter().map(|ports| ports.first());
    let mut ports = ports.chain(door.opening.forwards.iter().map(|forward| forward.on));
    let scheme = ports.find_map(|knock| match (knock.protocol, knock.port.get()) {
        (Protocol::Tcp, 22) => Some("ssh"),
        (Protocol::Tcp, 80) => Some("http"),
        (Protocol::Tcp, 443) => Some("https"),
        _ => None,
    })?;
    Some(format!("{scheme}://{}/", in_url(host)))
}

/// A link that a page may have.
fn link(text: &str) -> Result<String, String> {
    let is_known = SCHEMES.iter().any(|scheme| text.starts_with(scheme));
    if is_known && !text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Ok(text.to_owned());
    }
    Err(format!("write a URL that begins with one of: {}", SCHEMES.join(", ")))
}

/// The ports of codes that browsers refuse; says so where there are any.
fn refused(base: u16) -> Vec<u16> {
    let refused = bad_ports(base);
    if !refused.is_empty() {
        let some = refused.iter().filter(|port| REFUSED_BY_SOME.contains(port));
        let some = some.map(|port| format!(" (Chromium connects to {port}, Firefox does not)"));
        say(&format!(
            "warning: browsers connect to none of the ports {refused:?}{}: a code that has one \
             cannot be knocked with them, as the page says then\n    another base for the door \
             avoids it",
            some.collect::<String>()
        ));
    }
    refused
}

/// The passphrase for a page, asked for twice at a terminal.
fn passphrase() -> Result<Zeroizing<String>, Error> {
    let is_typed = io::stdin().is_terminal();
    let ask = |prompt| match is_typed {
        true => prompt_hidden(prompt),
        false => io::read_to_string(io::stdin()).map(Zeroizing::new),
    };
    let unread = |error| Error::Unfit(format!("cannot read the passphrase: {error}"));
    let mut passphrase = ask("Passphrase for the page: ").map_err(unread)?;
    if is_typed && passphrase != ask("Once more: ").map_err(unread)? {
        return Err(Error::unfit("the two are not the same: try again"));
    }
    let length = passphrase.lines().next().map_or(0, str::len);
    passphrase.truncate(length);
    if passphrase.chars().count() < SHORTEST {
        return Err(Error::Unfit(format!(
            "a passphrase of less than {SHORTEST} characters can be found by whoever gets the page: \
             nothing limits how often they try\n    take some words that do not belong together"
        )));
    }
    Ok(passphrase)
}

/// What a script element holds: nothing in it ends the element.
fn script_text(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// The page, whole. What is not ours comes last: nothing is looked for in it.
fn html(described: &str, sealed: &str, at: &str) -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    // No source can name an IPv6 address. One of http goes for https as well.
    let door = if at.contains(':') { "http:".to_owned() } else { format!("http://{at}:*") };
    let (style, script) = (hash(STYLE), hash(SCRIPT));
    let policy = format!(
        "default-src 'none'; connect-src {door}; style-src {style}; script-src {script}; \
         base-uri 'none'; form-action 'none'"
    );
    HTML.replace("<!--policy-->", &policy)
        .replace("<!--style-->", STYLE)
        .replace("<!--script-->", SCRIPT)
        .replace("<!--texts-->", TEXTS)
        .replace("<!--sealed-->", sealed)
        .replace("<!--door-->", described)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "192.0.2.1";
    const V6: &str = "2001:db8::1";

    fn chosen(host: &str, found: &[&str], over_v6: bool) -> Option<(String, Option<String>)> {
        let found: Vec<IpAddr> = found.iter().map(|it| it.parse().unwrap()).collect();
        let (at, address) = choose(host, &found, over_v6).ok()?;
        Some((at, address.map(|address| address.to_string())))
    }

    #[test]
    fn a_name_stands_in_the_page_unless_it_has_addresses_of_both_families() {
        for (found, over_v6, at, address) in [
            (&[V4][..], false, "gw", Some(V4)),
            (&[V6], false, "gw", Some(V6)),
            (&[V6], true, "gw", Some(V6)),
            (&[], false, "gw", None),
            (&[V6, V4], false, V4, Some(V4)),
            (&[V4, V6], true, "[2001:db8::1]", Some(V6)),
        ] {
            let expected = (at.to_owned(), address.map(str::to_owned));
            assert_eq!(chosen("gw", found, over_v6), Some(expected), "{found:?} {over_v6}");
        }
        assert_eq!(chosen("gw", &[V4], true), None);
        assert_eq!(chosen("gw", &[], true), None);
    }

    #[test]
    fn an_address_is_told_in_the_form_of_a_url() {
        let of = |host| destination(host, false).unwrap().0;
        assert_eq!((of(V4), of(V6), of("::1")), (V4.into(), format!("[{V6}]"), "[::1]".into()));
    }

    #[test]
    fn what_could_end_a_policy_or_has_no_place_in_one_is_no_host() {
        for host in [
            "a;b",
            "a b",
            "'self'",
            "*",
            "a,b",
            "fe80::1%eth0",
            "[::1]",
            "gw\u{e4}",
            "g_w.example",
            "gw.example.",
            "gw..example",
            ".",
            "192.0.513",
            "3221225985",
            "gw.7",
            "0xc0000201",
        ] {
            let error = destination(host, false).unwrap_err().to_string();
            assert!(error.contains("cannot knock at"), "{host}: {error}");
        }
        for host in ["7.example", "gw2", "xn--bcher-kva.example"] {
            assert_eq!(destination(host, false).unwrap().0, host);
        }
    }

    #[test]
    fn no_source_names_an_ipv6_address() {
        assert!(html("", "", "gw").contains("connect-src http://gw:*; "));
        assert!(html("", "", "[::1]").contains("connect-src http:; "));
    }

    #[test]
    fn the_refused_ports_among_a_hundred_are_found() {
        assert_eq!(refused(7000), [0; 0]);
        assert_eq!(refused(5000), [5060, 5061]);
        assert_eq!(refused(4946), [0; 0]);
        assert_eq!(refused(10080), [10080]);
        assert_eq!(refused(9981), [10080]);
    }

    proptest! {
        #[test]
        fn a_link_leads_to_a_service_and_runs_nothing(text in "(java|https?:|ssh:)?(//)?.{0,20}") {
            if let Ok(link) = link(&text) {
                let (scheme, _) = link.split_once("://").unwrap();
                prop_assert!(["http", "https", "rdp", "sftp", "ssh", "vnc"].contains(&scheme));
                prop_assert!(!link.contains([' ', '\n', '\t']));
            }
        }

        #[test]
        fn nothing_that_is_put_in_ends_its_element(text in "(<|/|script|>|!|-){0,12}") {
            let written = script_text(&json!({ "link": text }));
            prop_assert!(!written.contains('<'));
            let read: Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read["link"].as_str(), Some(&*text));
        }
    }
}
