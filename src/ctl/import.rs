//! `knockctl import`: the configuration of classic knockd or of fwknopd, as YAML.

mod fwknop;
mod knockd_conf;
mod side_by_side;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str;

use jiff::tz::TimeZone;
use side_by_side::ImportedPart;

use super::error::Error;
use crate::client::complain;
use crate::config::classic::is_classic;
use crate::config::yaml_writer::YamlWriter;
use crate::config::{Diagnosed, Diagnostic, Problems, SourceText, cannot_be_read, list_directory};
use crate::proto::{Knock, KnockError};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// A knockd.conf, or an access.conf of fwknop
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The ports that a client may open whose stanza in access.conf does not name any
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port_to_open)]
    open: Vec<Knock>,

    /// Say what each part of the file allowed and what it allows now, instead of the YAML
    #[arg(long)]
    explain: bool,
}

/// Takes `22`, `22/tcp` and fwknop's `tcp/22`.
fn port_to_open(text: &str) -> Result<Knock, KnockError> {
    match text.split_once('/') {
        Some((protocol, port)) if ["tcp", "udp"].contains(&protocol) => {
            format!("{port}/{protocol}").parse()
        }
        _ => text.parse(),
    }
}

/// Prints the YAML on standard output and the notes on standard error.
///
/// Fails if something was not carried over as it stands.
pub(super) fn run(args: &ImportArgs) -> Result<(), Error> {
    let Imported { yaml, parts, notes, complete } =
        import(&args.file, &Disk, &TimeZone::system(), &args.open)?;
    // Who reads only the notes is told them nevertheless.
    let mut output = io::stdout().lock();
    let written = if args.explain {
        side_by_side::write(&mut output, &parts, yaml, &notes)
    } else {
        output.write_all(yaml.as_bytes())
    };
    let written = written.and_then(|()| output.flush());
    notes.iter().for_each(|note| complain(&note.to_string()));
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ if complete => Ok(()),
        _ => {
            let summary = "not everything is carried over as it stands: see above";
            Err(Diagnostic::file(&args.file, summary).into())
        }
    }
}

/// The source of the files that an import reads.
pub trait Files {
    /// # Errors
    /// Says why a file cannot be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What a directory holds, in byte order.
    ///
    /// # Errors
    /// Says why a directory cannot be read.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
}

struct Disk;

/// A file larger than this is none that a person wrote.
const MAX_SIZE: u64 = 16 << 20;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_SIZE) {
            return Err(io::Error::other("too large for a configuration"));
        }
        Ok(bytes)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        list_directory(directory)
    }
}

/// The YAML that a file has become.
#[derive(Debug)]
pub struct Imported {
    /// A configuration that loads. It holds keys where the file does.
    pub yaml: String,
    /// What its parts say.
    pub parts: Vec<ImportedPart>,
    /// First what is not carried over as it stands, then what is worth knowing. They hold no key.
    pub notes: Vec<Diagnostic>,
    /// Whether everything is carried over as it stands.
    pub complete: bool,
}

/// Reads a `knockd.conf` or an `access.conf`, told by what is in it, and the files that it names;
/// `zone` is the time zone of its dates, `open` what a client may open whose stanza says nothing.
///
/// # Errors
/// Says why there is nothing to be made of the file.
pub fn import(
    path: &Path,
    files: &dyn Files,
    zone: &TimeZone,
    open: &[Knock],
) -> Diagnosed<Imported> {
    let bytes = files.read(path).map_err(|error| unreadable(path, &error))?;
    let mut notes = Problems::default();
    let (page, parts) = match kind(path, &bytes) {
        ImportFormat::Knockd => {
            knockd_conf::import(&SourceText::new(path, text(path, &bytes, &mut notes)), &mut notes)
        }
        ImportFormat::Access => fwknop::import(path, files, zone, open, &mut notes),
        ImportFormat::Other(help) => {
            let message = "this is neither a knockd.conf nor an access.conf of fwknop";
            return Err(Diagnostic::file(path, message).help(help));
        }
    };
    let mut whole = YamlWriter::default();
    whole.comment(0, &format!("Made of {} by knockctl import.", path.display()));
    whole.append(&page);
    let complete = !notes.has_errors();
    Ok(Imported { yaml: whole.into_text(), parts, notes: notes.into_sorted(), complete })
}

/// The number at the beginning of a text as C reads it, 0 where there is none.
fn atoi(text: &str) -> i64 {
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = digits.bytes().take_while(u8::is_ascii_digit).fold(0i64, |number, digit| {
        number.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    if text.starts_with('-') { -number } else { number }
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let diagnostic = cannot_be_read(path, error);
    match error.kind() {
        io::ErrorKind::IsADirectory => diagnostic.help("name the file in it"),
        _ => diagnostic,
    }
}

enum ImportFormat {
    Knockd,
    Access,
    /// And what to do with it.
    Other(&'static str),
}

fn kind(path: &Path, bytes: &[u8]) -> ImportFormat {
    let text = String::from_utf8_lossy(bytes);
    let has = |names: &[&str]| {
        let words = text.lines().filter_map(|line| line.split_whitespace().next());
        words.map(|word| word.trim_end_matches(':')).any(|word| names.contains(&word))
    };
    let is_uci = text.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(*words, ["config", "access" | "config" | "global" | "network", ..])
    });
    if is_uci {
        ImportFormat::Other(
            "name what OpenWrt makes of it: /var/etc/access.conf, once fwknopd has started; with \
             uci_enabled off, /etc/fwknop/access.conf",
        )
    } else if has(&["SPA_SERVER", "USE_HMAC", "ALLOW_IP"]) {
        ImportFormat::Other("a client's .fwknoprc is read by knock itself: knock --fwknoprc NAME")
    } else if is_classic(&text) {
        ImportFormat::Knockd
    } else if has(&["SOURCE", "%include", "%include_folder"]) || path.ends_with("access.conf") {
        // Of one that says nothing a folder may be read instead.
        ImportFormat::Access
    } else if has(&["PCAP_INTF", "PCAP_FILTER", "MAX_SPA_PACKET_AGE", "ENABLE_UDP_SERVER"]) {
        ImportFormat::Other("name the access.conf: the fwknopd.conf beside it is read with it")
    } else if has(&["doors", "knockd", "clients", "templates"]) {
        ImportFormat::Other("knockd reads it as it is: put it into /etc/knock.d")
    } else {
        ImportFormat::Other(
            "a knockd.conf begins with a [section], a stanza of access.conf with SOURCE",
        )
    }
}

/// The text of a file. A line that is no UTF-8 is left out, unless it begins a section: what
/// follows would go to the one before.
fn text(path: &Path, bytes: &[u8], notes: &mut Problems) -> String {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len());
    for (number, line) in (1u32..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        match (str::from_utf8(line), line.trim_ascii_start().first()) {
            (Ok(line), _) => text.push_str(line),
            (Err(_), Some(b'[')) => text.push_str(&String::from_utf8_lossy(line)),
            (Err(_), first) => {
                text.push('\n');
                if first != Some(&b'#') {
                    let place = SourceText::new(path, "").place(number, 1, 1);
                    notes.push(place.error("this line is not UTF-8 text: left out"));
                }
            }
        }
    }
    text
}
