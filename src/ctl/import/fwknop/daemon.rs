//! The parts of `fwknopd.conf` that matter here.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{Files, atoi, unreadable};
use super::lines::read_lines;
use super::nat::Translation;
use super::variables::{Switch, VariableFate, find};
use crate::config::yaml_writer::YamlWriter;
use crate::config::{Diagnostic, Place, Problems, SourceText};
use crate::proto::knock::parse_port;
use crate::proto::{InterfaceName, duration, port_range};

/// `fwknopd.conf`, as far as it matters here.
#[derive(Default)]
pub(super) struct FwknopdConf {
    /// `knockd:`, where it says something for it.
    pub(super) page: YamlWriter,
    /// The folder that is read instead of the file, and where it is named.
    pub(super) folder: Option<(Place, PathBuf)>,
    pub(super) translation: Translation,
}

/// Reads the `fwknopd.conf` beside an `access.conf`, where there is one.
pub(super) fn import(access: &Path, files: &dyn Files, notes: &mut Problems) -> FwknopdConf {
    let path = access.with_file_name("fwknopd.conf");
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let none = "there is none: the defaults of fwknopd are taken to hold";
            notes.push(match error.kind() {
                io::ErrorKind::NotFound => Diagnostic::file(path, none).into_warning(),
                _ => unreadable(&path, &error),
            });
            return FwknopdConf::default();
        }
    };
    let source = SourceText::new(&path, String::from_utf8_lossy(&bytes));
    let mut settings = FwknopdVariables { given: HashMap::new(), notes };
    for line in read_lines(&source, &bytes) {
        let Some((at, line)) = settings.notes.ok_or_report(line) else { continue };
        let value = String::from_utf8_lossy(line.value).into_owned();
        settings.note(line.name, &value, &at);
        settings.given.insert(line.name.replace("FIREWD", "IPT"), (at, value));
    }
    settings.write(access)
}

struct FwknopdVariables<'a> {
    given: HashMap<String, (Place, String)>,
    notes: &'a mut Problems,
}

impl FwknopdVariables<'_> {
    fn note(&mut self, name: &str, value: &str, at: &Place) {
        let known = find("fwknopd", &name.replace("FIREWD", "IPT"), value.as_bytes());
        let Some((_, fate)) = known else {
            let error = at.error(format!("left out: '{name}' is not a variable of fwknopd's"));
            return self.notes.push(error.help(if name.ends_with("_TIMEOUT") {
                "in access.conf, below a SOURCE, it would have an effect"
            } else {
                "fwknopd says that it ignores it, so it had no effect until now"
            }));
        };
        self.notes.extend(match fate {
            Some(VariableFate::LeftOut(why)) => Some(at.warning(format!("{name} {why}: left out"))),
            Some(VariableFate::Refused(_, help)) => {
                Some(at.error(format!("{name} is not carried over")).help(help))
            }
            Some(VariableFate::Carried(_)) | None => None,
        });
    }

    /// The value of a variable; it may begin with another one.
    fn text(&mut self, name: &str) -> Option<(Place, String)> {
        let (at, value) = self.given.get(name)?.clone();
        let Some(other) = value.strip_prefix('$') else { return Some((at, value)) };
        let (other, rest) = other.split_at(other.find('/').unwrap_or(other.len()));
        match self.given.get(other) {
            Some((_, other)) if !other.starts_with('$') => Some((at, format!("{other}{rest}"))),
            _ => {
                let message = format!("left out, as by fwknopd: {other} has no value of its own");
                self.notes.push(at.error(message).help("write the value itself"));
                None
            }
        }
    }

    fn is_yes(&self, name: &str) -> bool {
        self.given.get(name).is_some_and(|(_, value)| Switch::read(value.as_bytes()) == Switch::On)
    }

    fn translation(&mut self) -> Translation {
        let asked = ["ENABLE_IPT_FORWARDING", "ENABLE_IPT_LOCAL_NAT"].into_iter();
        let asked = asked.filter(|name| self.is_yes(name)).map(|name| self.given[name].0.clone());
        Translation {
            asked: asked.collect(),
            snat: self.is_yes("ENABLE_IPT_SNAT"),
            from: self.text("SNAT_TRANSLATE_IP").map(|(_, from)| from),
        }
    }

    fn write(mut self, access: &Path) -> FwknopdConf {
        let folder = self.text("ACCESS_FOLDER").map(|(at, folder)| (at, PathBuf::from(folder)));
        if let Some((at, folder)) = &folder {
            let (folder, file) = (folder.display(), access.display());
            let message = format!("fwknopd reads {folder} instead of {file}: so does this");
            self.notes.push(at.warning(message));
        } else if let Some((at, value)) = self.text("ACCESS_FILE")
            && Path::new(&value).file_name() != access.file_name()
        {
            let message = format!("fwknopd reads {value}, and this was made of another file");
            self.notes.push(at.error(message).help("import that file"));
        }
        let [mut page, mut knockd, mut log, mut fwknop] = [(); 4].map(|()| YamlWriter::default());
        if let Some((at, name)) = self.text("PCAP_INTF") {
            let read = name.trim_end().parse::<InterfaceName>();
            if let Some(name) =
                self.notes.ok_or_report(read.map_err(|why| at.error(why.to_string())))
            {
                knockd.list(1, "interfaces", &[name]);
            }
        }
        log.optional(2, "syslog", self.facility());
        let verbose = self.text("VERBOSE").filter(|(_, level)| level != "0");
        log.optional(2, "level", verbose.map(|_| "debug"));
        fwknop.optional(2, "port", self.port());
        fwknop.optional(2, "max_age", self.max_age().map(duration::format));
        knockd.section(1, "log", &log);
        knockd.section(1, "fwknop", &fwknop);
        page.section(0, "knockd", &knockd);
        FwknopdConf { page, folder, translation: self.translation() }
    }

    /// Where requests are listened for, if it is said: a port, or some that follow each other.
    fn port(&mut self) -> Option<String> {
        let name = if self.is_yes("ENABLE_UDP_SERVER") {
            "UDPSERV_PORT"
        } else if self.is_yes("ENABLE_NFQ_CAPTURE") {
            "NFQ_PORT"
        } else {
            "PCAP_FILTER"
        };
        for other in ["UDPSERV_PORT", "NFQ_PORT", "PCAP_FILTER"] {
            if let (true, Some((at, _))) = (other != name, self.given.get(other)) {
                let message =
                    format!("{other} has no effect, since fwknopd goes by {name}: left out");
                self.notes.push(at.warning(message));
            }
        }
        let (at, text) = self.text(name)?;
        let words = text.split_whitespace().filter(|word| !["and", "dst"].contains(word));
        let ports = match (name, words.collect::<Vec<_>>().as_slice()) {
            ("PCAP_FILTER", ["udp", "portrange", ports]) => port_range::parse(ports).ok(),
            ("PCAP_FILTER", ["udp", "port", port]) | ("UDPSERV_PORT" | "NFQ_PORT", [port]) => {
                parse_port(port).ok().map(|port| port..=port)
            }
            _ => None,
        };
        if ports.is_none() {
            let help = "requests come to one UDP port here, or to a range of them: write knockd: \
                        {fwknop: {port: 62201}}";
            self.notes.push(at.error(format!("{name} is not carried over")).help(help));
        }
        ports.map(|ports| port_range::show(&ports, '-'))
    }

    fn max_age(&mut self) -> Option<Duration> {
        let (at, text) = self.text("MAX_SPA_PACKET_AGE")?;
        let seconds = u64::try_from(atoi(&text)).ok();
        let seconds = seconds.filter(|seconds| (1..=100_000).contains(seconds));
        if seconds.is_none() {
            let message = format!("left out: '{text}' is not a number of seconds from 1 to 100000");
            self.notes.push(at.error(message));
        }
        if let Some(read) = seconds.filter(|seconds| seconds.to_string() != text) {
            self.notes.push(at.warning(format!("fwknopd reads '{text}' as {read}")));
        }
        seconds.map(Duration::from_secs)
    }

    fn facility(&mut self) -> Option<String> {
        let (at, text) = self.text("SYSLOG_FACILITY")?;
        let known = "daemon local0 local1 local2 local3 local4 local5 local6 local7";
        let is_known = |name: &&str| known.split(' ').any(|known| known == *name);
        let lower = text.to_ascii_lowercase();
        if let Some(name) = lower.strip_prefix("log_").filter(is_known) {
            return Some(name.to_owned());
        }
        self.notes.push(at.error(format!("left out: '{text}' is not a facility of fwknopd")));
        None
    }
}
