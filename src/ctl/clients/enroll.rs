//! `knockctl enroll`: a client gets its secrets, and the server its configuration.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::client_file::ClientFile;
use super::site::Site;
use super::{bundle, stanza};
use crate::config::{Client, Config, Door, Name};
use crate::ctl::args::host;
use crate::ctl::edit::Edit;
use crate::ctl::{Error, Target, say};
use crate::proto::link::{FWKNOP_KEYS, FwknopWay, Link, LinkEntry, Way};
use crate::proto::spa::{KEY_LEN, PORTS, PrivateKey, PublicKey};
use crate::proto::totp::{SECRET_BYTES, encode_secret};
use crate::proto::{Method, Protocol, Secret, duration};
use crate::sys::clock;

#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("rotated").args(["totp", "fwknop"]).multiple(true))]
pub(in crate::ctl) struct EnrollArgs {
    /// The name of the client, new or known
    pub(in crate::ctl) client: Name,
    /// A door that it may open; may be given again for more
    #[arg(long = "door", value_name = "DOOR")]
    doors: Vec<Name>,
    /// Give it a new TOTP secret; one that it has is replaced
    #[arg(long)]
    totp: bool,
    /// Give it new keys for fwknop's own client or app; those that it has are replaced
    #[arg(long)]
    fwknop: bool,
    /// For how long the TOTP secret, or the keys for fwknop, before hold too, such as 10m
    #[arg(long, value_name = "D", requires = "rotated", value_parser = duration::parse)]
    grace: Option<Duration>,
    /// Give it a public key for SPA, of 'knock --keygen'; without one a new pair is made for it
    #[arg(long, value_name = "PUBLIC_KEY", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "whether it was given, and whether with a key")]
    spa: Option<Option<PublicKey>>,
    /// Drop the public keys that it has
    #[arg(long, requires = "spa")]
    replace: bool,
    /// Print what is new as a QR code too
    #[arg(long)]
    qr: bool,
    /// The name or address by which the client reaches this host [default: its own name]
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Option<String>,
}

impl EnrollArgs {
    /// The first client: with a secret and its QR code, or with a key.
    pub(in crate::ctl) fn first(client: Name, door: Name, qr: bool, host: Option<String>) -> Self {
        let spa = (!qr).then_some(None);
        let (doors, totp, fwknop, grace, replace) = (vec![door], qr, false, None, false);
        Self { client, doors, totp, fwknop, grace, spa, replace, qr, host }
    }

    /// The methods for which the client gets something.
    fn gives(&self) -> Vec<Method> {
        let gives = METHODS.into_iter().zip([self.totp, self.spa.is_some(), self.fwknop]);
        gives.filter(|(_, gives)| *gives).map(|(method, _)| method).collect()
    }
}

/// The methods for which a client has something of its own.
const METHODS: [Method; 3] = [Method::Totp, Method::Spa, Method::Fwknop];

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut random = Zeroizing::new([0; N]);
    getrandom::fill(&mut *random)?;
    Ok(random)
}

pub(in crate::ctl) fn run(target: &Target, args: &EnrollArgs) -> Result<(), Error> {
    let site = Site::open(target)?;
    let known = site.client(&args.client)?;
    check(site.config(), args, known.as_ref())?;
    let now = Timestamp::from_nanosecond(clock::now().wall.as_nanos().into()).unwrap_or_default();

    let mut client = known.clone().unwrap_or_else(|| ClientFile::new(args.client.clone()));
    client.forget_expired(now);
    client.add_doors(&args.doors);
    let before = site.config().client(&args.client);
    let link = link(&site, args, &client, before)?;
    let address = before.and_then(|it| Some(it.fwknop.as_ref()?.address)).unwrap_or_default();
    let qr = args.qr.then(|| io::stdout().is_terminal());
    let mut text = bundle::text(&args.client, &link, qr)?;
    text.push_str(&stanza::show(&args.client, &link, address, qr));
    let mut edit = Edit::default();
    let mut rotate = |method, secrets: Vec<(_, &str, Zeroizing<String>)>| {
        let mut files = Vec::new();
        for (key, end, secret) in secrets {
            let path = site.new_secret_file(&args.client, end)?;
            edit.write(path.clone(), Zeroizing::new(format!("{}\n", *secret)));
            files.push((key, path));
        }
        client.rotate(method, files, now, args.grace.unwrap_or_default());
        Ok::<_, Error>(())
    };
    if let Some(secret) = &link.secret {
        rotate(Method::Totp, vec![("secret_file", "totp", encode_secret(secret))])?;
    }
    if let Some([key, hmac_key]) = link.fwknop_keys() {
        let keys = [("key_base64_file", "fwknop", key), ("hmac_key_base64_file", "hmac", hmac_key)];
        rotate(Method::Fwknop, keys.into())?;
    }
    if let Some(key) = args.spa.flatten().or(link.key.as_ref().map(PrivateKey::public)) {
        client.add_key(key, args.replace);
    }
    edit.write(site.client_file(&args.client), client.text());
    site.commit(edit)?;
    tell(args, known.as_ref(), &client);
    let over = known.iter().flat_map(ClientFile::secret_files);
    site.forget(over.filter(|path| !client.secret_files().any(|kept| kept == *path)))?;
    let reloaded = site.reload();

    // Whatever has become of knockd, the client's secrets are shown this once only.
    if args.host.is_none() {
        let host = &link.host;
        say(&format!("the client is told to knock at '{host}'; --host names another address"));
    }
    if link.secret.is_some() || link.key.is_some() || args.fwknop {
        say("what follows holds a secret, and is shown this once: it is for the client alone");
    }
    let shown = io::stdout().write_all(text.as_bytes());
    reloaded?;
    Ok(shown?)
}

/// Whether the client can be given that, and comes to something by it.
///
/// # Errors
/// When there is nothing to be done, or a door could not be opened with what the client has then.
fn check(config: &Config, args: &EnrollArgs, known: Option<&ClientFile>) -> Result<(), Error> {
    let (name, doors) = (&args.client, &config.doors);
    if let Some(unknown) = args.doors.iter().find(|wanted| config.door(wanted).is_none()) {
        return Err(Error::no_door(config, unknown));
    }
    let gets = args.gives();
    let has = |method: &Method| gets.contains(method) || known.is_some_and(|it| it.has(*method));
    let has: Vec<Method> = METHODS.into_iter().filter(has).collect();
    let had = known.map_or(&[][..], |known| &known.doors);
    let is_named = |door: &&Door| args.doors.contains(door.name());
    let all = |door: &&Door| is_named(door) || had.contains(door.name());
    let all: Vec<&Door> = doors.iter().filter(all).collect();
    let none_fits = |door: &&&Door| !has.iter().any(|&method| fits(door, method));
    let fits_nowhere = |method: &&Method| !all.iter().any(|door| fits(door, **method));
    Err(Error::Unfit(match known {
        None if args.doors.is_empty() => {
            format!("'{name}' is new: name the doors that it may open, with --door")
        }
        None if gets.is_empty() => format!(
            "'{name}' is new: say what it gets\n    \
             --totp a secret for sequences that rotate, --spa a key for datagrams, \
             --fwknop keys for fwknop's own client"
        ),
        Some(_) if args.doors.is_empty() && gets.is_empty() => format!(
            "'{name}' is known already, and nothing is to be added\n    \
             --door lets it open another door; --totp gives it a new secret; \
             --spa adds a public key; --fwknop gives it new keys"
        ),
        _ if args.fwknop && args.host.as_ref().is_some_and(|host| host.contains(':')) => {
            "fwknop's clients send over IPv4 only\n    \
             name an IPv4 address with --host, or a name that has one"
                .to_owned()
        }
        _ => {
            let named: Vec<&Door> = doors.iter().filter(is_named).collect();
            if let Some(door) = named.iter().find(none_fits) {
                fits_not(&[door], &has, &has)
            } else if let Some(method) = gets.iter().find(fits_nowhere) {
                fits_not(&all, &[*method], &has)
            } else {
                return Ok(());
            }
        }
    }))
}

/// Whether what a client has for a method opens a door.
fn fits(door: &Door, method: Method) -> bool {
    if method == Method::Fwknop { stanza::opens(door) } else { door.takes(method) }
}

/// What is wrong where none of `methods` opens one of these doors, for a client that `has` them.
fn fits_not(doors: &[&Door], methods: &[Method], has: &[Method]) -> String {
    let names: Vec<_> = doors.iter().map(|door| door.name().as_str()).collect();
    let words = |method: &Method| match method {
        Method::Totp => ("sequences that rotate", "totp: {mode: ports, ports: 20000-29999}"),
        Method::Fwknop if doors.iter().any(|door| door.takes(*method)) => {
            ("IPv4, and fwknop's clients send nothing else", "a target or a via for IPv4")
        }
        Method::Fwknop => ("requests of fwknop's", "fwknop: true"),
        _ => ("SPA datagrams", "spa: true"),
    };
    let (takes, add): (Vec<_>, Vec<_>) = methods.iter().map(words).unzip();
    let fits_other = |other: &Method| !has.contains(other) && fits(doors[0], *other);
    let other = match METHODS.into_iter().find(fits_other) {
        Some(Method::Totp) => "\n    or give the client a secret for it: --totp",
        Some(Method::Spa) => "\n    or give the client a key for it: --spa",
        Some(_) => "\n    or give the client keys for it: --fwknop",
        None => "",
    };
    let (names, takes, add) = (names.join("', '"), takes.join(" and no "), add.join(", or "));
    format!("'{names}' takes no {takes}\n    add this to the door: {add}{other}")
}

/// Says what has become of the client, for whoever enrols it.
fn tell(args: &EnrollArgs, known: Option<&ClientFile>, client: &ClientFile) {
    let again = "was enrolled already, and has something new now";
    say(&format!("'{}' {}", args.client, if known.is_some() { again } else { "is enrolled" }));
    for (method, new, old) in [
        (Method::Totp, "its TOTP secret is a new one", "the old one holds"),
        (Method::Fwknop, "its keys for fwknop are new ones", "the old ones hold"),
    ] {
        if !args.gives().contains(&method) || !known.is_some_and(|known| known.has(method)) {
            continue;
        }
        say(&match client.old_until(method) {
            Some(until) => {
                let until = until.to_zoned(TimeZone::system());
                format!("{new}; {old} until {} too", until.strftime("%Y-%m-%d %H:%M:%S"))
            }
            None => {
                format!("{new}, and {old} no longer (--grace 10m would let both hold for a while)")
            }
        });
    }
}

/// The link for the client, with all that is drawn for it: the ways that it gets, and those that it
/// has into doors that are new to it; where it gets none, those that it has into the named ones.
///
/// # Errors
/// When there are no random numbers, or no key of the server's.
fn link(
    site: &Site<'_>,
    args: &EnrollArgs,
    client: &ClientFile,
    before: Option<&Client>,
) -> Result<Link, Error> {
    let Config { settings, doors: all, .. } = site.config();
    let gives = args.gives();
    let (range, usual) = (&settings.fwknop.ports, PORTS.start());
    let port = Some(*range.start()).filter(|_| !range.contains(usual));
    let hash = before.and_then(|it| Some(it.fwknop.as_ref()?.hmac.as_ref()?.1)).unwrap_or_default();
    let mut keys = args.fwknop.then(random::<FWKNOP_KEYS>).transpose()?;
    let mut entries = Vec::new();
    for door in all.iter().filter(|door| client.doors.contains(door.name())) {
        // What is new counts at all doors of the client, and what it has at new ones.
        let is_known = before.is_some_and(|it| it.doors.contains(door.name()));
        let is_told = if gives.is_empty() { args.doors.contains(door.name()) } else { !is_known };
        let shows = |way| gives.contains(&way) || is_told && client.has(way);
        // The first TCP port that it opens: the client can wait for it.
        let single = door.opening.ports.iter().filter_map(|ports| ports.single());
        let mut ports = single.chain(door.opening.forwards.iter().map(|forward| forward.on));
        let wait = ports.find(|knock| knock.protocol == Protocol::Tcp).map(|knock| knock.port);
        let mut add = |way| entries.push(LinkEntry { door: door.name().clone(), way, wait });
        if let Some(scheme) = door.recognition.totp.filter(|_| shows(Method::Totp)) {
            add(Way::Totp(scheme));
        }
        if door.recognition.spa && shows(Method::Spa) {
            add(Way::Spa);
        }
        if stanza::opens(door) && shows(Method::Fwknop) {
            let way = stanza::way(door, port, hash);
            let keys = keys.take().map(|keys| Secret::from(*keys));
            add(Way::Fwknop(FwknopWay { keys, ..way }));
        }
    }
    let own = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let host = args.host.as_deref().unwrap_or(&own);
    let secret = args.totp.then(random::<SECRET_BYTES>).transpose()?;
    let key = (args.spa == Some(None)).then(random::<KEY_LEN>).transpose()?;
    let range = Some(settings.spa.ports.clone()).filter(|range| *range != PORTS);
    let asks = entries.iter().any(|entry| entry.way == Way::Spa);
    let server_key = asks.then(|| site.server_key()).transpose()?;
    Ok(Link {
        host: host.to_owned(),
        label: bundle::label(host, &own),
        secret: secret.map(|bytes| Secret::from(*bytes)),
        key: key.map(|bytes| PrivateKey::from(*bytes)),
        server: server_key.map(|key| (key, range)),
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load::parse;
    use crate::proto::totp::{Protocols, Scheme, TotpMode};

    const KEY: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

    /// A door for each way: `totp`, `spa`, `both`, `fwknop`, `v6`, which is the same for IPv6 only,
    /// and `plain`, which takes none.
    fn config() -> Config {
        let door = "{sequence: [7000, 8000, 9000], start_command: 'true'}";
        let names = ["both", "fwknop", "plain", "spa", "totp", "v6"];
        let doors = names.map(|name| format!("{name}: {door}")).join(", ");
        let text = format!("doors: {{{doors}}}");
        let port = |port: u16| port.try_into().unwrap();
        let (low, high) = (port(20000), port(29999));
        let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Tcp };
        let mut config = parse(&SourceText::new("f", text)).unwrap().config;
        for door in &mut config.doors {
            let name = door.name().to_string();
            let rotates = ["both", "totp"].contains(&&*name);
            door.recognition.totp = rotates.then(|| Scheme::new(mode, 30, 1).unwrap());
            door.recognition.spa = ["both", "spa"].contains(&&*name);
            door.recognition.fwknop = ["fwknop", "v6"].contains(&&*name);
            door.recognition.target = (name == "v6").then(|| "2001:db8::1".parse().unwrap());
        }
        config
    }

    fn known(totp: bool, doors: &[&str]) -> ClientFile {
        let mut client = ClientFile::new("phone".parse().unwrap());
        client.add_doors(&doors.iter().map(|door| door.parse().unwrap()).collect::<Vec<_>>());
        if totp {
            let files = vec![("secret_file", "/k/phone.totp".into())];
            client.rotate(Method::Totp, files, Timestamp::UNIX_EPOCH, Duration::ZERO);
        } else {
            client.add_key(KEY.parse().unwrap(), false);
        }
        client
    }

    fn args(line: &str) -> EnrollArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: EnrollArgs,
        }
        let words = ["enroll", "phone"].into_iter().chain(line.split_whitespace());
        <Cli as clap::Parser>::try_parse_from(words).unwrap().args
    }

    /// The first line of what is wrong with a command line, if anything is.
    fn wrong(line: &str, known: Option<&ClientFile>) -> Option<String> {
        let error = check(&config(), &args(line), known).err()?;
        Some(error.to_string().lines().next().unwrap().to_owned())
    }

    fn is_refused(line: &str, known: Option<&ClientFile>, why: &str) {
        let error = wrong(line, known).unwrap_or_else(|| panic!("{line} is taken"));
        assert!(error.contains(why), "{line}: {error}");
    }

    #[test]
    fn a_new_client_needs_a_door_and_something_to_open_it_with() {
        for line in [
            "--door totp --totp",
            "--door spa --spa",
            "--door spa --spa 4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=",
            "--door totp --door spa --door both --totp --spa",
            "--door fwknop --fwknop --qr --host 192.0.2.1",
            "--door fwknop --door spa --fwknop --spa --host gw.example.com",
        ] {
            assert_eq!(wrong(line, None), None, "{line}");
        }
        is_refused("--totp", None, "name the doors that it may open");
        is_refused("--door totp", None, "say what it gets");
        is_refused("--door nosuch --totp", None, "there is no door 'nosuch'");
    }

    #[test]
    fn a_door_that_takes_none_of_it_says_what_to_add() {
        is_refused("--door spa --totp", None, "'spa' takes no sequences that rotate");
        is_refused("--door totp --spa", None, "'totp' takes no SPA datagrams");
        is_refused("--door plain --totp --spa", None, "no sequences that rotate and no SPA");
        is_refused("--door spa --fwknop", None, "'spa' takes no requests of fwknop's");
        is_refused("--door v6 --fwknop", None, "'v6' takes no IPv4");
        is_refused("--door fwknop --spa --fwknop", None, "'fwknop' takes no SPA datagrams");
        is_refused("--door totp --door plain --totp", None, "'plain' takes no sequences");
        is_refused("--door totp --totp --spa", None, "'totp' takes no SPA datagrams");
    }

    #[test]
    fn what_else_would_open_a_door_is_told() {
        let told = |line, known| {
            let error = check(&config(), &args(line), known).unwrap_err().to_string();
            error.lines().skip(1).map(str::trim).collect::<Vec<_>>().join("; ")
        };
        for (line, expected) in [
            ("--door plain --fwknop", "add this to the door: fwknop: true"),
            (
                "--door spa --fwknop",
                "add this to the door: fwknop: true; or give the client a key for it: --spa",
            ),
            (
                "--door fwknop --totp",
                "add this to the door: totp: {mode: ports, ports: 20000-29999}; \
                 or give the client keys for it: --fwknop",
            ),
        ] {
            assert_eq!(told(line, None), expected, "{line}");
        }
        let phone = known(true, &["totp"]);
        assert_eq!(told("--fwknop", Some(&phone)), "add this to the door: fwknop: true");
    }

    #[test]
    fn fwknops_clients_are_told_of_no_ipv6_address() {
        is_refused("--door fwknop --fwknop --host 2001:db8::1", None, "IPv4 only");
        assert_eq!(wrong("--door spa --spa --host 2001:db8::1", None), None);
    }

    #[test]
    fn a_known_client_may_get_another_door_or_another_secret() {
        let phone = known(true, &["totp"]);
        for line in ["--totp", "--door both", "--door both --spa", "--door spa --spa"] {
            assert_eq!(wrong(line, Some(&phone)), None, "{line}");
        }
        is_refused("", Some(&phone), "nothing is to be added");
        is_refused("--door spa", Some(&phone), "'spa' takes no sequences that rotate");
        is_refused("--spa", Some(&phone), "'totp' takes no SPA datagrams");
        let laptop = known(false, &["spa", "both"]);
        for line in ["--spa", "--door totp --totp", "--door spa --totp"] {
            assert_eq!(wrong(line, Some(&laptop)), None, "{line}");
        }
    }
}
