//! `knockctl enroll`: a client gets its secrets, and the server its configuration.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::bundle::{Bundle, HostsEntry, HostsMode, ServerName};
use super::client_file::ClientFile;
use super::site::Site;
use crate::config::{Client, Config, Door, Name, SpaSettings};
use crate::ctl::args::host;
use crate::ctl::edit::Edit;
use crate::ctl::error::{Error, say};
use crate::ctl::target::Target;
use crate::proto::duration;
use crate::proto::knock::Protocol;
use crate::proto::method::Method;
use crate::proto::secret::Secret;
use crate::proto::spa::{KEY_LEN, PORT, PrivateKey, PublicKey};
use crate::proto::totp::{SECRET_BYTES, encode_secret};
use crate::sys::clock;

#[derive(Clone, Debug, clap::Args)]
pub(in crate::ctl) struct EnrollArgs {
    /// The name of the client, new or known
    pub(in crate::ctl) client: Name,
    /// A door that it may open; may be given again for more
    #[arg(long = "door", value_name = "DOOR")]
    doors: Vec<Name>,
    /// Give it a new TOTP secret; one that it has is replaced
    #[arg(long)]
    totp: bool,
    /// For how long the TOTP secret before holds too, such as 10m
    #[arg(long, value_name = "D", requires = "totp", value_parser = duration::parse)]
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
        Self { client, doors: vec![door], totp: qr, grace: None, spa, replace: false, qr, host }
    }
}

/// The credentials that a client is given now.
struct IssuedCredentials {
    totp: Option<Secret>,
    spa: Option<PublicKey>,
    /// The private key to that, where it was made here.
    private_key: Option<Zeroizing<String>>,
    /// The server's, if the client has a key for datagrams.
    server_key: Option<PublicKey>,
}

impl IssuedCredentials {
    fn of(args: &EnrollArgs, server_key: Option<PublicKey>) -> Result<Self, Error> {
        let totp = args.totp.then(random::<SECRET_BYTES>).transpose()?;
        let new_key = (args.spa == Some(None)).then(random::<KEY_LEN>).transpose()?;
        let new_key = new_key.map(|bytes| PrivateKey::from(*bytes));
        Ok(Self {
            totp: totp.map(|bytes| Secret::from(*bytes)),
            spa: args.spa.flatten().or(new_key.as_ref().map(PrivateKey::public)),
            private_key: new_key.map(|key| key.encode()),
            server_key,
        })
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut random = Zeroizing::new([0; N]);
    getrandom::fill(&mut *random)?;
    Ok(random)
}

pub(in crate::ctl) fn run(target: &Target, args: &EnrollArgs) -> Result<(), Error> {
    let site = Site::open(target)?;
    let known = site.client(&args.client)?;
    check(site.config(), args, known.as_ref())?;
    let has_spa = args.spa.is_some() || known.as_ref().is_some_and(|known| known.spa.is_some());
    let server_key = if has_spa { Some(site.server_key()?) } else { None };
    let given = IssuedCredentials::of(args, server_key)?;
    let now = Timestamp::from_nanosecond(clock::now().wall.as_nanos().into()).unwrap_or_default();

    let mut client = known.clone().unwrap_or_else(|| ClientFile::new(args.client.clone()));
    client.forget_expired(now);
    client.add_doors(&args.doors);
    let mut edit = Edit::default();
    if let Some(secret) = &given.totp {
        let path = site.new_secret_file(&args.client)?;
        edit.write(path.clone(), Zeroizing::new(format!("{}\n", *encode_secret(secret))));
        client.rotate(path, now, args.grace.unwrap_or_default());
    }
    if let Some(key) = given.spa {
        client.add_key(key, args.replace);
    }
    edit.write(site.client_file(&args.client), client.text());
    let config = site.commit(edit)?;
    tell(args, known.as_ref(), &client);
    let over = known.iter().flat_map(ClientFile::secret_files);
    site.forget(over.filter(|path| !client.secret_files().any(|kept| kept == *path)))?;
    let reloaded = site.reload();

    // Whatever has become of knockd, the client's secrets are shown this once only. What is new
    // counts at all doors of the client.
    let only_new = given.totp.is_some() || given.spa.is_some();
    let doors = if only_new { &client.doors } else { &args.doors };
    let doors: Vec<&Door> =
        config.doors.iter().filter(|door| doors.contains(door.name())).collect();
    let shown = given.show(args, &doors, &config);
    reloaded.and(shown)
}

/// Whether the client can be given that, and comes to something by it.
///
/// # Errors
/// When there is nothing to be done, or a door could not be opened with what the client has then.
fn check(config: &Config, args: &EnrollArgs, known: Option<&ClientFile>) -> Result<(), Error> {
    let (name, doors) = (&args.client, &config.doors);
    let unknown = |wanted: &&Name| config.doors.iter().all(|door| door.name() != *wanted);
    if let Some(unknown) = args.doors.iter().find(unknown) {
        return Err(Error::no_door(config, unknown));
    }
    let (gets_totp, gets_spa) = (args.totp, args.spa.is_some());
    match known {
        None if args.doors.is_empty() => {
            return Err(Error::Unfit(format!(
                "'{name}' is new: name the doors that it may open, with --door"
            )));
        }
        None if !gets_totp && !gets_spa => {
            return Err(Error::Unfit(format!(
                "'{name}' is new: say what it gets\n    \
                 --totp a secret for sequences that rotate, --spa a key for datagrams"
            )));
        }
        Some(_) if args.doors.is_empty() && !gets_totp && !gets_spa => {
            return Err(Error::Unfit(format!(
                "'{name}' is known already, and nothing is to be added\n    \
                 --door lets it open another door; --totp gives it a new secret; \
                 --spa adds a public key"
            )));
        }
        _ => {}
    }
    let has = |method, gets, had: fn(&ClientFile) -> bool| {
        (gets || known.is_some_and(had)).then_some(method)
    };
    let totp = has(Method::Totp, gets_totp, |known| known.totp.is_some());
    let spa = has(Method::Spa, gets_spa, |known| known.spa.is_some());
    let methods: Vec<Method> = totp.into_iter().chain(spa).collect();
    let mut named = doors.iter().filter(|door| args.doors.contains(door.name()));
    if let Some(door) = named.find(|door| !methods.iter().any(|&method| door.takes(method))) {
        return Err(Error::Unfit(takes_none(door, name, &methods)));
    }
    let had = known.map_or(&[][..], |known| &known.doors);
    let all = |door: &&Door| args.doors.contains(door.name()) || had.contains(door.name());
    for (gets, method) in [(gets_totp, Method::Totp), (gets_spa, Method::Spa)] {
        if gets && !doors.iter().filter(all).any(|door| door.takes(method)) {
            let names: Vec<_> = doors.iter().filter(all).map(|door| door.name().as_str()).collect();
            return Err(Error::Unfit(takes_not(&names.join("', '"), method)));
        }
    }
    Ok(())
}

fn takes_not(door: &str, method: Method) -> String {
    match method {
        Method::Totp => format!(
            "'{door}' takes no sequences that rotate\n    \
             add this to the door: totp: {{mode: ports, ports: 20000-29999}}"
        ),
        _ => format!("'{door}' takes no SPA datagrams\n    add this to the door: spa: true"),
    }
}

fn takes_none(door: &Door, client: &Name, methods: &[Method]) -> String {
    let name = door.name();
    let &[method] = methods else {
        return format!(
            "nothing that '{client}' could be given opens '{name}'\n    \
             add to the door one of: totp: {{mode: ports, ports: 20000-29999}}, spa: true"
        );
    };
    let other = match method {
        Method::Totp if door.takes(Method::Spa) => "\n    or give the client a key for it: --spa",
        Method::Spa if door.takes(Method::Totp) => {
            "\n    or give the client a secret for it: --totp"
        }
        _ => "",
    };
    takes_not(name.as_str(), method) + other
}

/// Says what has become of the client, for whoever enrols it.
fn tell(args: &EnrollArgs, known: Option<&ClientFile>, client: &ClientFile) {
    let name = &args.client;
    match known {
        None => say(&format!("'{name}' is enrolled")),
        Some(_) => say(&format!("'{name}' was enrolled already, and has something new now")),
    }
    if args.totp && known.is_some_and(|known| known.totp.is_some()) {
        match client.totp.as_ref().and_then(|totp| totp.old.as_ref()) {
            Some((_, until)) => {
                let until = until.to_zoned(TimeZone::system());
                let until = until.strftime("%Y-%m-%d %H:%M:%S");
                say(&format!("its TOTP secret is a new one; the old one holds until {until} too"));
            }
            None => say(
                "its TOTP secret is a new one, and the old one holds no longer (--grace 10m would \
                 let both hold for a while)",
            ),
        }
    }
}

impl IssuedCredentials {
    /// Shows the client what it is given, and where it knocks.
    fn show(&self, args: &EnrollArgs, doors: &[&Door], config: &Config) -> Result<(), Error> {
        let own = nix::unistd::gethostname().unwrap_or_default();
        let own = own.to_string_lossy();
        if args.host.is_none() {
            say(&format!("the client is told to knock at '{own}'; --host names another address"));
        }
        let server = ServerName::new(args.host.as_deref(), &own);
        let entries = self.entries(args, doors, config);
        let bundle = Bundle {
            client: &args.client,
            server: &server,
            entries: &entries,
            secret: self.totp.as_ref(),
            key: self.private_key.as_ref().map(|key| key.as_str()),
        };
        let output = io::stdout();
        let text = bundle.text(args.qr, output.is_terminal())?;
        if bundle.secret.is_some() || bundle.key.is_some() {
            say("what follows holds a secret, and is shown this once: it is for the client alone");
        }
        Ok(output.lock().write_all(text.as_bytes())?)
    }

    /// The ways into these doors that are new, or all that the client has where none is.
    fn entries(&self, args: &EnrollArgs, doors: &[&Door], config: &Config) -> Vec<HostsEntry> {
        let client = config.client(&args.client);
        let (totp, spa) = if self.totp.is_some() || self.spa.is_some() {
            (self.totp.is_some(), self.spa.is_some())
        } else {
            let has = |of: fn(&Client) -> bool| client.is_some_and(of);
            (has(|client| client.totp.is_some()), has(|client| client.spa.is_some()))
        };
        let mut entries = Vec::new();
        for door in doors {
            // The first TCP port that it opens: the client can wait for it.
            let single = door.opening.ports.iter().filter_map(|ports| ports.single());
            let mut ports = single.chain(door.opening.forwards.iter().map(|forward| forward.on));
            let wait = ports.find(|knock| knock.protocol == Protocol::Tcp).map(|knock| knock.port);
            let entry = |mode| HostsEntry { door: door.name().clone(), mode, wait };
            if let Some(scheme) = door.recognition.totp.filter(|_| totp) {
                entries.push(entry(HostsMode::Totp(scheme)));
            }
            if let Some(key) = self.server_key.filter(|_| spa && door.recognition.spa) {
                entries.push(entry(HostsMode::Spa { key, port: spa_port(&config.settings.spa) }));
            }
        }
        entries
    }
}

/// Where the server listens, unless that is where all do.
fn spa_port(spa: &SpaSettings) -> Option<String> {
    let (low, high) = (spa.ports.start(), spa.ports.end());
    match (low.get(), high.get()) {
        (PORT, PORT) => None,
        _ if low == high => Some(low.to_string()),
        _ => Some(format!("{low}-{high}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load::parse;
    use crate::proto::totp::{Protocols, Scheme, TotpMode};

    const KEY: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

    /// A door for each way: `totp`, `spa`, `both`, and `plain`, which takes neither.
    fn config() -> Config {
        let door = "{sequence: [7000, 8000, 9000], start_command: 'true'}";
        let text = format!("doors: {{both: {door}, plain: {door}, spa: {door}, totp: {door}}}");
        let port = |port: u16| port.try_into().unwrap();
        let (low, high) = (port(20000), port(29999));
        let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Tcp };
        let mut config = parse(&SourceText::new("f", text)).unwrap().config;
        for door in &mut config.doors {
            let name = door.name().to_string();
            let rotates = ["both", "totp"].contains(&&*name);
            door.recognition.totp = rotates.then(|| Scheme::new(mode, 30, 1).unwrap());
            door.recognition.spa = ["both", "spa"].contains(&&*name);
        }
        config
    }

    fn known(totp: bool, doors: &[&str]) -> ClientFile {
        let mut client = ClientFile::new("phone".parse().unwrap());
        client.add_doors(&doors.iter().map(|door| door.parse().unwrap()).collect::<Vec<_>>());
        if totp {
            client.rotate("/k/phone.totp".into(), Timestamp::UNIX_EPOCH, Duration::ZERO);
        } else {
            client.add_key(KEY.parse().unwrap(), false);
        }
        client
    }

    /// The first line of what is wrong with a command line, if anything is.
    fn wrong(line: &str, known: Option<&ClientFile>) -> Option<String> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: EnrollArgs,
        }
        let words = ["enroll", "phone"].into_iter().chain(line.split_whitespace());
        let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
        let error = check(&config(), &args, known).err()?;
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
        is_refused("--door plain --totp --spa", None, "nothing that 'phone' could be given");
        is_refused("--door totp --door plain --totp", None, "'plain' takes no sequences");
        is_refused("--door totp --totp --spa", None, "'totp' takes no SPA datagrams");
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

    #[test]
    fn a_port_range_of_the_server_is_told_and_the_usual_port_is_not() {
        let spa = |low: u16, high: u16| {
            let port = |port: u16| port.try_into().unwrap();
            spa_port(&SpaSettings { ports: port(low)..=port(high), ..SpaSettings::default() })
        };
        assert_eq!(spa(PORT, PORT), None);
        assert_eq!(spa(7000, 7000).as_deref(), Some("7000"));
        assert_eq!(spa(7000, 7999).as_deref(), Some("7000-7999"));
    }
}
