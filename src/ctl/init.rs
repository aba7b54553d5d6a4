//! `knockctl init`: the first door, the first client, and a start on trial.

mod first_door;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use super::args::{self, JsonArgs, trial_time};
use super::check::guard::SshConnection;
use super::clients::enroll::{self, EnrollArgs};
use super::edit::{make_directory, write_new};
use super::{Error, Target, check, host, say, status, trial};
use crate::config::{Name, PATH, load};
use crate::control::{CONFIG, TrialTime};
use crate::keeper::trial_file::TrialFile;
use crate::log::escape;
use crate::proto::{Knock, KnockError, Network, NetworkError, duration};
use crate::sys::{clock, privileges};
use first_door::{FirstDoor, Means};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The ports to lock and to open for whoever knocks, such as 22/tcp or 22,443
    #[arg(long, value_name = "PORTS", value_parser = opened_ports)]
    open: Option<Box<[Knock]>>,
    /// What you will knock with
    #[arg(long, value_name = "MEANS")]
    by: Option<Means>,
    /// The address or network that you are connected from, which need not knock; or none
    #[arg(long, value_name = "ADDRESS", value_parser = trusted)]
    from: Option<TrustedSource>,
    /// The name of the client [default: phone or laptop]
    #[arg(long, value_name = "CLIENT")]
    name: Option<Name>,
    /// The name or address by which clients reach this host [default: as you have reached it]
    #[arg(long, value_name = "HOST", value_parser = args::host)]
    host: Option<String>,
    /// For how long it is on trial, 10s to 1h
    #[arg(long = "for", value_name = "D", default_value = "5m", value_parser = trial_time)]
    time: TrialTime,
    /// Print what would be written, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Who need not knock, if anybody.
type TrustedSource = Option<Network>;

fn opened_ports(text: &str) -> Result<Box<[Knock]>, KnockError> {
    let mut ports = Vec::new();
    for port in text.split(',') {
        let port = port.trim().parse()?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports.into())
}

fn trusted(text: &str) -> Result<TrustedSource, NetworkError> {
    (text != "none").then(|| text.parse()).transpose()
}

pub(super) fn run(target: &Target, args: &InitArgs) -> Result<(), Error> {
    if !args.dry_run && !privileges::is_root() {
        return Err(Error::unfit("this takes root; --dry-run prints what would be written"));
    }
    let time = duration::format(args.time.into());
    let by_hand = target.command("knockd", &format!("-d --try {time}"));
    nothing_is_there(target, &by_hand)?;
    let ssh = host::ssh_connection().and_then(|text| SshConnection::parse(&text));
    let ssh = ssh.filter(|ssh| !ssh.client.is_loopback());
    let port = ssh.map_or_else(|| "22/tcp".to_owned(), |ssh| ssh.port.to_string());
    let source = ssh.map_or_else(|| "none".to_owned(), |ssh| ssh.client.to_string());
    let open = "What is to be opened for whoever knocks? Ports, such as 22/tcp";
    let by = "What will you knock with? phone: the codes of an authenticator app\n\
              laptop: the program knock; plain: anything, a sequence that stays the same";
    let from = "From where are you connected? This need not knock; none: it has to";
    let open = args.open.clone().map_or_else(|| ask("--open", open, &port, opened_ports), Ok)?;
    let means = |text: &str| {
        let none = |_| format!("'{text}' is none of phone, laptop and plain");
        Means::from_str(text, true).map_err(none)
    };
    let by = args.by.map_or_else(|| ask("--by", by, "laptop", means), Ok)?;
    let from = args.from.map_or_else(|| ask("--from", from, &source, trusted), Ok)?;
    if by == Means::Plain && args.name.is_some() {
        return Err(Error::unfit("a sequence has no client: leave out --name"));
    }
    let host = args.host.clone().or_else(|| Some(ssh?.server.to_string()));
    let listening = host::look(&[]).listening;
    // Where a client gets files, the name in them.
    let own = nix::unistd::gethostname().unwrap_or_default();
    let own = if by == Means::Laptop { own.to_string_lossy() } else { "HOST".into() };
    let known_as = host.as_deref().unwrap_or(&own);
    let door = FirstDoor::draw(&open, by, from, known_as, &listening, getrandom::u64)?;
    let client = (by != Means::Plain).then(|| {
        let usual = if by == Means::Phone { "phone" } else { "laptop" };
        let name = args.name.clone().unwrap_or_else(|| Name::closest(usual));
        EnrollArgs::first(name, door.name.clone(), by == Means::Phone, host)
    });
    let file = target.config.join(format!("door-{}.yaml", door.name));
    if args.dry_run {
        let client = client.map(|it| format!("\n# client-{}.yaml, secrets in keys/", it.client));
        let client = client.unwrap_or_default();
        writeln!(io::stdout(), "# {}, but for the ports\n{}{client}", file.display(), door.text)?;
        return Ok(());
    }
    let (settings, _) = load::settings(&target.config, &target.options());
    let (directory, keys) = (target.config.clone(), target.config.join("keys"));
    let mut new = vec![directory, keys, settings.spa.key_file, file.clone()];
    new.retain(|path| !path.exists());
    write(target, &file, &door.text, client.as_ref()).map_err(|why| {
        let remove = |path: &&PathBuf| fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        let left = new.iter().rev().filter(|path| remove(path).is_err() && path.exists());
        let left: String = left.map(|path| format!(", but for {}", path.display())).collect();
        let so = format!("nothing has been started, and no file is left{left}");
        Error::NotInForce { why: why.into(), so }
    })?;
    check::run(target, &JsonArgs { json: false })?;
    let until = start(target, &settings.state_dir, args.time).map_err(|why| {
        let so = "not on trial, but the files are whole: once that is mended, go on with";
        let so = format!("{so} '{by_hand}'");
        Error::NotInForce { why: why.into(), so }
    })?;
    let trusted = from.map_or_else(String::new, |from| format!(" ({from} need not)"));
    let boots = is_service(target).then(|| "systemctl enable knockd".to_owned());
    let boots = boots.unwrap_or_else(|| target.command("knockd", "-d"));
    Ok(write!(
        io::stdout(),
        "on trial until {}: nothing is locked any more then, unless you confirm\n\
         1. leave this connection open, and knock from elsewhere{trusted}: {}\n\
         2. where a NEW connection gets in then: {}\n\
         3. for the next start of this machine: {boots}\n",
        trial::end(until),
        door.knock,
        target.command("knockctl", "confirm"),
    )?)
}

/// # Errors
/// Where there is a door or a client: what to do instead.
fn nothing_is_there(target: &Target, by_hand: &str) -> Result<(), Error> {
    let is_yaml = |entry: fs::DirEntry| entry.path().extension() == Some("yaml".as_ref());
    let has_any = |entries: fs::ReadDir| entries.flatten().any(is_yaml);
    if target.config.is_file() || fs::read_dir(&target.config).is_ok_and(has_any) {
        let places = target.load()?.places;
        let clients = places.clients.iter().map(|client| &client.name);
        if let Some(at) = places.doors.iter().map(|door| &door.name).chain(clients).next() {
            return Err(Error::Unfit(format!(
                "there is a configuration already, at {at}: nothing is overwritten\n    start it \
                 with '{by_hand}'; add doors by hand, and clients with 'knockctl enroll'\n    to \
                 begin anew, move {} away",
                target.config.display()
            )));
        }
    }
    Ok(())
}

/// What is typed at the terminal, asked for until it is an answer.
fn ask<T, E: ToString>(
    option: &str,
    question: &str,
    default: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Error> {
    if !io::stdin().is_terminal() {
        let why = format!("nobody is there to be asked: add for example {option} {default}");
        return Err(Error::Unfit(why));
    }
    loop {
        write!(io::stderr(), "{question} [{default}]: ")?;
        let mut line = String::new();
        if io::stdin().read_line(&mut line).map_err(Error::unfit)? == 0 {
            return Err(Error::unfit("no answer, so nothing has been done"));
        }
        match read(Some(line.trim()).filter(|typed| !typed.is_empty()).unwrap_or(default)) {
            Ok(answer) => return Ok(answer),
            Err(why) => say(&escape(&why.to_string())),
        }
    }
}

/// Writes all that knockd needs.
fn write(target: &Target, to: &Path, door: &str, client: Option<&EnrollArgs>) -> Result<(), Error> {
    make_directory(&target.config)?;
    write_new(to, door)?;
    say(&format!("written: {}", to.display()));
    // By its settings, which have to be there.
    if status::ask(target).is_ok() {
        return Err(Error::unfit("a knockd runs already: stop it first"));
    }
    check::examine(&target.config, target.options(), |_| ())?;
    client.map_or(Ok(()), |client| enroll::run(target, client))
}

/// Starts knockd on trial, and says until when that is, in seconds since 1970-01-01 UTC.
fn start(target: &Target, state_dir: &Path, time: TrialTime) -> Result<f64, Error> {
    if is_service(target) {
        // systemd gives it no option: it goes on with the trial that it finds.
        make_directory(state_dir)?;
        let trial = TrialFile::new(state_dir, clock::boot_id().map_err(Error::unfit)?);
        let until = clock::now().monotonic + std::time::Duration::from(time);
        trial.hand_over(until).map_err(Error::unfit)?;
        let started = finish(command("systemctl".as_ref()).args(["start", "knockd.service"]));
        started.inspect_err(|_| trial.clear())?;
    } else {
        let program = std::env::current_exe().map_err(Error::unfit)?.with_file_name("knockd");
        let mut knockd = command(&program);
        knockd.args(["-d", "--try", &duration::format(time.into()), "-c"]).arg(&target.config);
        finish(knockd.args(target.run_dir.iter().flat_map(|path| [Path::new("--run-dir"), path])))?;
    }
    let until = status::ask(target)?.on_trial_until;
    until.ok_or_else(|| Error::unfit("knockd runs, but not on trial: see 'knockctl status'"))
}

/// Whether systemd knows our knockd, and starts it with this configuration.
fn is_service(target: &Target) -> bool {
    // Classic knockd's unit has the other one's name.
    let is_known =
        || finish(command("systemctl".as_ref()).args(["cat", "knockd-lock.service"])).is_ok();
    target.config == Path::new(CONFIG) && Path::new("/run/systemd/system").exists() && is_known()
}

fn command(program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "knockd is started")]
    let mut command = Command::new(program);
    command.env("PATH", PATH);
    command
}

/// Runs a program until it has ended, or has left a daemon behind.
///
/// # Errors
/// What it said where it failed.
fn finish(command: &mut Command) -> Result<(), Error> {
    let output = command.output().map_err(|why| {
        Error::Unfit(format!("cannot run {}: {why}", command.get_program().display()))
    })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Refused(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}
