//! `knockctl page`: one HTML file with which a browser knocks.

mod seal;

use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv6Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Error, Target, args, say, sequence};
use crate::config::{Door, Family, Name};
use crate::proto::Protocol;
use crate::proto::totp::TotpMode;
use crate::sys::files;
use seal::Sealed;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// After so long no connection comes any more that a browser makes for one visit: it makes the last
/// after 250 ms.
const PAUSE: Duration = Duration::from_millis(400);
/// So long a page waits for an answer; after a second the same connection would be tried again.
const LIMIT: Duration = Duration::from_millis(700);
/// A shorter passphrase can be found by trying.
const SHORTEST: usize = 12;
/// The schemes of links to a service: nothing that runs or shows what stands in the link.
const SCHEMES: [&str; 6] = ["http", "https", "rdp", "sftp", "ssh", "vnc"];

/// The ports that browsers connect to for no page: the Fetch standard, "port blocking".
#[rustfmt::skip]
const REFUSED: [u16; 82] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465,
    512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993,
    995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668,
    6669, 6679, 6697, 10080,
];

#[derive(Clone, Debug, clap::Args)]
pub(super) struct PageArgs {
    /// The door at which it knocks
    #[arg(long, value_name = "NAME")]
    door: Name,
    /// Have it work out this client's codes, from the secret encrypted under a passphrase
    #[arg(long, value_name = "NAME")]
    client: Option<Name>,
    /// Write it to this file, which is replaced; - is standard output
    #[arg(short, long)]
    out: PathBuf,
    /// Where it knocks: the name or address of this host, for the browser
    #[arg(long, value_parser = args::host)]
    host: Option<String>,
    /// Knock over IPv4, where the name has addresses of both families; so it is unless told
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Knock over IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Lead there after a knock, instead of to what the door opens
    #[arg(long, value_name = "URL", value_parser = link)]
    link: Option<String>,
}

/// What a page says and needs to know of its door. Its secret is sealed together with it.
#[derive(Debug, Serialize)]
struct PageDoor<'a> {
    name: &'a Name,
    client: Option<&'a Name>,
    /// As people call it.
    host: &'a str,
    #[serde(flatten)]
    to: Destination,
    base: u16,
    digits: usize,
    /// Seconds.
    step: u32,
    /// Ports among those of its codes that browsers refuse.
    refused: Vec<u16>,
    /// Milliseconds.
    pause: u128,
    limit: u128,
    link: Option<String>,
}

/// Where a page knocks, as this host sees it.
#[derive(Debug, PartialEq, Serialize)]
struct Destination {
    /// The host's part of a URL.
    at: String,
    /// The version of IP, as far as that is known.
    family: Option<u8>,
    /// Whether browsers may ask before they go there.
    local: bool,
}

pub(super) fn run(target: &Target, args: &PageArgs) -> Result<(), Error> {
    let config = target.load()?.config;
    let name = &args.door;
    let door = config.door(name).ok_or_else(|| Error::no_door(&config, name))?;
    let scheme = door.recognition.totp;
    let Some((scheme, TotpMode::Code { base, digits })) = scheme.map(|it| (it, it.mode())) else {
        return Err(Error::Unfit(format!(
            "a browser can knock nothing but codes, and '{name}' takes none\n    \
             add this to the door: totp: {{mode: code, base: 7000}}"
        )));
    };
    let client = args.client.as_ref();
    let client = client.map(|client| sequence::find(&config, name, Some(client))).transpose()?;
    let secret = client.and_then(|(_, client)| client?.totp.as_ref());
    let own = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    if args.host.is_none() {
        say(&format!("the page knocks at '{own}'; --host names another address"));
    }
    let host = args.host.as_ref().unwrap_or(&own);
    let page = PageDoor {
        name,
        client: args.client.as_ref(),
        host,
        to: destination(host, args, door)?,
        base,
        digits: digits.count(),
        step: scheme.step(),
        refused: refused(base),
        pause: PAUSE.as_millis(),
        limit: LIMIT.as_millis(),
        link: args.link.clone().or_else(|| service(door, host)),
    };
    warn(&page, door.recognition.seq_timeout);
    let described = json(&page);
    let sealed = secret.map(|totp| Sealed::new(&totp.secret, &*passphrase()?, &described));
    let text = html(&described, &json(&sealed.transpose()?), &page.to);
    write(&args.out, &text, if secret.is_some() { 0o600 } else { 0o644 })
}

/// Where a page knocks for this host. It names an address where the name has both families: a
/// browser would try both, and a code opens for one.
///
/// # Errors
/// When the host has no address of the family that is asked for, or cannot stand in a page.
fn destination(host: &str, args: &PageArgs, door: &Door) -> Result<Destination, Error> {
    let literal = host.parse::<IpAddr>().is_ok();
    if !literal && !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    {
        return Err(Error::Unfit(format!(
            "'{host}' is no host that a page can name: write an address, or a name of letters, \
             digits, dots and hyphens"
        )));
    }
    let wanted = match (args.ipv4, args.ipv6) {
        (false, false) => None,
        (_, ipv6) => Some(if ipv6 { Family::V6 } else { Family::V4 }),
    };
    // What leads a host to itself leads nobody else there.
    let leads = |address: &IpAddr| literal || host == "localhost" || !address.is_loopback();
    let found = (host, 0).to_socket_addrs().into_iter().flatten().map(|it| it.ip());
    let found: Vec<IpAddr> = found.filter(leads).collect();
    let first = |family| found.iter().copied().find(|it| Family::of(*it) == family);
    let preferred = wanted.or(door.recognition.target.map(Family::of)).unwrap_or(Family::V4);
    let any = found.first().copied().filter(|_| wanted.is_none());
    let Some(address) = first(preferred).or(any) else {
        if wanted.is_some() {
            let why = format!("no such address of '{host}' is known here: name one with --host");
            return Err(Error::Unfit(why));
        }
        say(&format!("where '{host}' is cannot be looked up here: a browser will"));
        return Ok(Destination { at: host.to_owned(), family: None, local: false });
    };
    let has_both = found.iter().any(|it| it.is_ipv4() != address.is_ipv4());
    if has_both {
        say(&format!(
            "'{host}' has addresses of both families: the page knocks at {address} only, and has \
             to be made anew when that changes"
        ));
    }
    let at = if has_both { in_url(&address.to_string()) } else { in_url(host) };
    let family = Some(if address.is_ipv4() { 4 } else { 6 });
    Ok(Destination { at, family, local: is_local(address) })
}

/// Whether it is in a network that browsers ask about before a page reaches it.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => it.is_private() || it.is_loopback() || it.is_link_local(),
        IpAddr::V6(it) => it.is_unique_local() || it.is_loopback() || it.is_unicast_link_local(),
    }
}

fn in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

/// A link to the first service that a door opens, of those that links lead to.
fn service(door: &Door, host: &str) -> Option<String> {
    let ports = door.opening.ports.iter().map(|ports| ports.first());
    let ports = ports.chain(door.opening.forwards.iter().map(|forward| forward.on));
    let scheme =
        ports.filter(|knock| knock.protocol == Protocol::Tcp).find_map(|knock| {
            match knock.port.get() {
                22 => Some("ssh"),
                80 => Some("http"),
                443 => Some("https"),
                _ => None,
            }
        });
    scheme.map(|scheme| format!("{scheme}://{}/", in_url(host)))
}

/// A link that a page may have.
fn link(text: &str) -> Result<String, String> {
    let scheme = text.split_once("://").filter(|(_, rest)| !rest.is_empty()).map(|it| it.0);
    let is_known = scheme.is_some_and(|scheme| SCHEMES.contains(&scheme));
    if !is_known || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("write a URL such as https://gw.example.com/; {}", SCHEMES.join(", ")));
    }
    Ok(text.to_owned())
}

/// Says what of this door a browser cannot do, or only in time.
fn warn(page: &PageDoor<'_>, seq_timeout: Duration) {
    let longest = LIMIT * u32::try_from(page.digits / 2).unwrap_or(u32::MAX);
    if seq_timeout < longest {
        say(&format!(
            "warning: a browser may take {} s for a code, and the door's seq_timeout is shorter",
            longest.as_secs_f32()
        ));
    }
    if !page.refused.is_empty() {
        let ports: Vec<_> = page.refused.iter().map(u16::to_string).collect();
        say(&format!(
            "warning: browsers do not connect to {}: a code with such a port cannot be knocked, and \
             the page says so\n    a base that has none of them helps: see knockctl(8)",
            ports.join(", ")
        ));
    }
}

/// The passphrase for a page, asked for twice at a terminal.
fn passphrase() -> Result<Zeroizing<String>, Error> {
    let unread = |error| Error::Unfit(format!("cannot read the passphrase: {error}"));
    let ask = |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(unread);
    let passphrase = if io::stdin().is_terminal() {
        let passphrase = ask("Passphrase for the page: ")?;
        if ask("Once more: ")? != passphrase {
            return Err(Error::Unfit("the two are not the same: try again".to_owned()));
        }
        passphrase
    } else {
        let mut line = Zeroizing::new(String::with_capacity(1024));
        io::stdin().lock().take(1024).read_line(&mut line).map_err(unread)?;
        Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    if passphrase.chars().count() < SHORTEST {
        return Err(Error::Unfit(format!(
            "a passphrase of less than {SHORTEST} characters is too short: whoever gets the page \
             can try as many as they like\n    take some words that have nothing to do with each other"
        )));
    }
    Ok(passphrase)
}

/// What a script element holds: nothing in it ends the element.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names, numbers and texts").replace('<', "\\u003c")
}

/// The page, whole. The data comes last: nothing is looked for in it.
fn html(described: &str, sealed: &str, to: &Destination) -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; connect-src http://{at}:* https://{at}:*; style-src {}; script-src {}; \
         base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT),
        at = to.at
    );
    HTML.replace("<!--policy-->", &policy)
        .replace("<!--style-->", STYLE)
        .replace("<!--script-->", SCRIPT)
        .replace("<!--sealed-->", sealed)
        .replace("<!--door-->", described)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    if path == Path::new("-") {
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    let cannot = |why: String| Error::Unfit(format!("cannot write {}: {why}", path.display()));
    // What is replaced there would be more than a page.
    if fs::symlink_metadata(path).is_ok_and(|it| !it.is_file()) {
        return Err(cannot("it is no plain file\n    --out - prints the page".to_owned()));
    }
    let written = files::replace_with_mode(path, text.as_bytes(), mode);
    written.map_err(|error| cannot(error.to_string()))
}

/// The ports of a code that browsers refuse to connect to: the Fetch standard's, 2.9.
fn refused(base: u16) -> Vec<u16> {
    REFUSED.into_iter().filter(|port| (base..=base.saturating_add(99)).contains(port)).collect()
}
