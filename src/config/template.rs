//! Firewall commands with holes, and what fills them.
//!
//! What fills a hole is typed, so nothing that came off the wire as text reaches a command.

use std::borrow::Cow;
use std::sync::Arc;

use derive_more::Display;
use serde::{Deserialize, Serialize};

use crate::proto::name::Name;
use crate::proto::port_range::show;
use crate::proto::words::words;
use crate::proto::{Family, Network, OpenPorts};

/// The commands of a door, for both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    pub v4: Pair,
    pub v6: Pair,
}

/// A command that opens and one that closes. Without `open` the family cannot be opened; without
/// `close` the door is an act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub open: Option<Command>,
    pub close: Option<Command>,
    /// Exits 0 while what `open` did is there. Only beside `close`.
    pub verify: Option<Command>,
}

impl Commands {
    /// Those that there are.
    pub fn all(&self) -> impl Iterator<Item = &Command> {
        let pairs = [&self.v4, &self.v6].into_iter();
        pairs.flat_map(|pair| [&pair.open, &pair.close, &pair.verify]).flatten()
    }

    pub const fn of(&self, family: Family) -> &Pair {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// One command, its holes still open. Copies share its text: a template has thousands of doors.
#[derive(Clone, Debug, Display, PartialEq, Eq)]
pub enum Command {
    /// Runs under `/bin/sh -c`.
    Shell(CommandText),
    /// Runs as it is. Never empty.
    #[display("{}", typed(_0))]
    Exec(Arc<[CommandText]>),
}

/// Literal text and holes, shown as they are written in a configuration: every percent sign is of a
/// hole or of `%%`.
#[derive(Clone, Debug, Default, Display, PartialEq, Eq)]
pub struct CommandText(Arc<str>);

enum Piece<'a> {
    Literal(&'a str),
    Hole(Hole),
}

words! {
/// A hole in a command, filled when it runs: written as `%IP%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hole {
    /// Of a network its first address.
    Ip = "IP",
    /// The network; of a single address the same as `%IP%`.
    Net = "NET",
    Family = "FAMILY",
    /// The ports as iptables and ufw write them: `22`, `60000:61000`.
    Port = "PORT",
    PortLow = "PORT_LOW",
    PortHigh = "PORT_HIGH",
    /// The ports as nft, ipset and firewalld write them: `22`, `60000-61000`.
    PortRange = "PORT_RANGE",
    Proto = "PROTO",
    Door = "DOOR",
    Client = "CLIENT",
    Seconds = "SECONDS",
}
}

impl Hole {
    /// The variable of a command's environment that holds the same value.
    pub fn variable(self) -> String {
        format!("KNOCK_{}", self.as_str())
    }
}

/// The reason why a text is no command. The message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("unknown hole %{name}%: {}", match .meant {
        Some(meant) => format!("did you mean %{meant}%?"),
        None => format!(
            "the holes are {}, and %% is a percent sign",
            Hole::ALL.map(|hole| format!("%{}%", hole.as_str())).join(" "),
        ),
    })]
    UnknownHole { name: String, meant: Option<&'static str> },
    #[error("a lone percent sign: write %% for a percent sign")]
    LonePercent,
    #[error("a command cannot hold a NUL character")]
    Nul,
}

impl CommandText {
    /// Reads a text with holes; `%%` is a percent sign.
    ///
    /// # Errors
    /// [`TextError`] if a hole is unknown or a percent sign stands alone.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        if text.contains('\0') {
            return Err(TextError::Nul);
        }
        pieces(text).try_for_each(|piece| piece.map(|_| ()))?;
        Ok(Self(text.into()))
    }

    /// Reads a command of a classic `knockd.conf`: its only hole is `%IP%`, and every other percent
    /// sign stands for itself.
    pub fn classic(text: &str) -> Self {
        let literals: Vec<_> = text.split("%IP%").map(|text| text.replace('%', "%%")).collect();
        Self(literals.join("%IP%").into())
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        // It was read without an error.
        pieces(&self.0).flatten()
    }

    /// The text, where it has no holes.
    pub fn literal(&self) -> Option<String> {
        self.holes().next().is_none().then(|| self.0.replace("%%", "%"))
    }

    pub fn holes(&self) -> impl Iterator<Item = Hole> + '_ {
        self.pieces().filter_map(|piece| match piece {
            Piece::Hole(hole) => Some(hole),
            Piece::Literal(_) => None,
        })
    }

    fn render(&self, holes: &Holes<'_>) -> String {
        self.pieces()
            .map(|piece| match piece {
                Piece::Literal(text) => Cow::Borrowed(text),
                Piece::Hole(hole) => Cow::Owned(holes.value(hole).unwrap_or_default()),
            })
            .collect()
    }
}

/// Takes a text apart: between two percent signs stands a hole, or nothing for a percent sign.
fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, TextError>> {
    let last = text.matches('%').count();
    text.split('%').enumerate().map(move |(place, part)| match part {
        _ if place % 2 == 0 => Ok(Piece::Literal(part)),
        _ if place == last => Err(TextError::LonePercent),
        "" => Ok(Piece::Literal("%")),
        name => {
            let hole = Hole::ALL.into_iter().find(|hole| hole.as_str() == name);
            hole.map(Piece::Hole).ok_or_else(|| unknown_hole(name))
        }
    })
}

fn unknown_hole(name: &str) -> TextError {
    if !name.chars().all(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return TextError::LonePercent;
    }
    let meant = Hole::ALL
        .into_iter()
        .map(Hole::as_str)
        .find(|known| strsim::damerau_levenshtein(&name.to_ascii_uppercase(), known) <= 1);
    TextError::UnknownHole { name: name.to_owned(), meant }
}

/// The values for the holes of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holes<'a> {
    pub network: Network,
    pub door: &'a Name,
    pub client: Option<&'a Name>,
    pub port: Option<OpenPorts>,
    /// How long the door will be open.
    pub seconds: u64,
}

impl Holes<'_> {
    fn value(&self, hole: Hole) -> Option<String> {
        match hole {
            Hole::Ip => Some(self.network.address().to_string()),
            Hole::Net => Some(self.network.to_string()),
            Hole::Family => {
                Some(if self.network.address().is_ipv4() { "4" } else { "6" }.to_owned())
            }
            Hole::Port => self.port.map(|ports| show(&ports.range(), ':')),
            Hole::PortLow => self.port.map(|ports| ports.range().start().to_string()),
            Hole::PortHigh => self.port.map(|ports| ports.range().end().to_string()),
            Hole::PortRange => self.port.map(|ports| show(&ports.range(), '-')),
            Hole::Proto => self.port.map(|ports| ports.protocol().to_string()),
            Hole::Door => Some(self.door.to_string()),
            Hole::Client => self.client.map(ToString::to_string),
            Hole::Seconds => Some(self.seconds.to_string()),
        }
    }
}

const SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl Command {
    pub fn holes(&self) -> impl Iterator<Item = Hole> + '_ {
        let texts = match self {
            Self::Shell(text) => std::slice::from_ref(text),
            Self::Exec(words) => words.as_ref(),
        };
        texts.iter().flat_map(CommandText::holes)
    }

    /// Whether it has a hole.
    pub fn has(&self, hole: Hole) -> bool {
        self.holes().any(|found| found == hole)
    }

    /// Whether it is told for how long the door opens.
    pub fn is_timed(&self) -> bool {
        self.is_told(Hole::Seconds)
    }

    /// Whether it is told of one address where it should be told of a network.
    pub fn is_for_one_address(&self) -> bool {
        self.is_told(Hole::Ip) && !self.is_told(Hole::Net)
    }

    fn is_told(&self, hole: Hole) -> bool {
        self.has(hole) || self.to_string().contains(&hole.variable())
    }

    /// Fills the holes. One that has no value becomes empty; loading lets through only `%CLIENT%`.
    pub fn render(&self, holes: &Holes<'_>) -> Rendered {
        let argv = match self {
            Self::Shell(text) => {
                SHELL.map(str::to_owned).into_iter().chain([text.render(holes)]).collect()
            }
            Self::Exec(words) => words.iter().map(|word| word.render(holes)).collect(),
        };
        let environment = Hole::ALL
            .into_iter()
            .filter_map(|hole| Some((hole.variable(), holes.value(hole)?)))
            .collect();
        Rendered { argv, environment }
    }
}

/// A command that can be run; as text, what a person would type into a shell.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[display("{}", self.typed())]
pub struct Rendered {
    /// The program and its arguments; `/bin/sh -c TEXT` for a shell command.
    pub argv: Vec<String>,
    /// `KNOCK_IP` and the others: the same values as in the holes.
    pub environment: Vec<(String, String)>,
}

impl Rendered {
    fn typed(&self) -> String {
        match self.argv.as_slice() {
            [shell, option, text] if [shell, option] == SHELL => text.clone(),
            words => typed(words),
        }
    }
}

/// Words as a person would type them into a shell.
fn typed<T: ToString>(words: &[T]) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    let typed = |word: &T| match word.to_string() {
        word if !word.is_empty() && word.chars().all(safe) => word,
        word => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(typed).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(command: &Command) -> Rendered {
        command.render(&Holes {
            network: "192.0.2.2".parse().unwrap(),
            door: &"ssh".parse().unwrap(),
            client: None,
            port: Some("22/tcp".parse().unwrap()),
            seconds: 30,
        })
    }

    fn shell(text: &str) -> Command {
        Command::Shell(CommandText::parse(text).unwrap())
    }

    #[test]
    fn every_hole_is_filled_with_what_it_names() {
        let command = shell("%IP% %FAMILY% %PORT% %PROTO% %DOOR% %SECONDS% 100%%");
        assert_eq!(rendered(&command).argv, ["/bin/sh", "-c", "192.0.2.2 4 22 tcp ssh 30 100%"]);
    }

    #[test]
    fn a_network_is_filled_in_as_a_whole_and_by_its_first_address() {
        let (network, door) = ("192.0.2.0/24".parse().unwrap(), "ssh".parse().unwrap());
        let holes = Holes { network, door: &door, client: None, port: None, seconds: 30 };
        assert_eq!(shell("%NET% %IP%").render(&holes).to_string(), "192.0.2.0/24 192.0.2.0");
        assert_eq!(rendered(&shell("%NET% %IP%")).to_string(), "192.0.2.2 192.0.2.2");
    }

    #[test]
    fn a_range_is_written_as_each_firewall_does() {
        let network = "2001:db8::2".parse().unwrap();
        let (door, port) = ("mosh".parse().unwrap(), "60000-61000/udp".parse().ok());
        let holes = Holes { network, door: &door, client: None, port, seconds: 30 };
        let command = shell("%PORT% %PORT_RANGE% %PORT_LOW% %PORT_HIGH% %PROTO%");
        let filled = command.render(&holes);
        assert_eq!(filled.to_string(), "60000:61000 60000-61000 60000 61000 udp");
        let high = ("KNOCK_PORT_HIGH".to_owned(), "61000".to_owned());
        assert!(filled.environment.contains(&high));
        let command = shell("%PORT% %PORT_RANGE% %PORT_LOW% %PORT_HIGH%");
        assert_eq!(rendered(&command).to_string(), "22 22 22 22");
    }

    #[test]
    fn the_environment_holds_the_values_that_there_are() {
        let environment = rendered(&shell("true")).environment;
        let expected = [
            ("KNOCK_IP", "192.0.2.2"),
            ("KNOCK_NET", "192.0.2.2"),
            ("KNOCK_FAMILY", "4"),
            ("KNOCK_PORT", "22"),
            ("KNOCK_PORT_LOW", "22"),
            ("KNOCK_PORT_HIGH", "22"),
            ("KNOCK_PORT_RANGE", "22"),
            ("KNOCK_PROTO", "tcp"),
            ("KNOCK_DOOR", "ssh"),
            ("KNOCK_SECONDS", "30"),
        ];
        assert_eq!(environment, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_list_runs_as_it_is_and_is_shown_as_one_would_type_it() {
        let words = ["logger", "it's %IP%", ""].map(|word| CommandText::parse(word).unwrap());
        let rendered = rendered(&Command::Exec(words.into()));
        assert_eq!(rendered.argv, ["logger", "it's 192.0.2.2", ""]);
        assert_eq!(rendered.to_string(), r"logger 'it'\''s 192.0.2.2' ''");
    }

    #[test]
    fn a_shell_command_is_shown_as_its_text() {
        assert_eq!(rendered(&shell("echo '%IP%' | cat")).to_string(), "echo '192.0.2.2' | cat");
    }

    #[test]
    fn an_unknown_hole_names_the_one_that_was_meant() {
        let message = |text| CommandText::parse(text).unwrap_err().to_string();
        assert_eq!(message("-s %IPP%"), "unknown hole %IPP%: did you mean %IP%?");
        assert_eq!(message("-s %ip%"), "unknown hole %ip%: did you mean %IP%?");
        assert!(message("%BANANA%").contains("the holes are %IP% %NET% %FAMILY%"));
    }

    #[test]
    fn a_percent_sign_that_opens_no_hole_is_an_error() {
        for text in ["date +%s", "date '+%Y-%m'", "100%", "%"] {
            assert_eq!(CommandText::parse(text), Err(TextError::LonePercent), "{text}");
        }
    }

    #[test]
    fn the_classic_knows_one_hole_and_keeps_every_other_percent_sign() {
        let text = "echo $(date +%s) %IP%%PORT% 100% %%IP%";
        let command = Command::Shell(CommandText::classic(text));
        assert_eq!(
            rendered(&command).to_string(),
            "echo $(date +%s) 192.0.2.2%PORT% 100% %192.0.2.2"
        );
    }

    proptest! {
        #[test]
        fn a_text_is_printed_as_it_is_read(text in "([a-z %]|%%|%IP%|%PORT%){0,12}") {
            if let Ok(parsed) = CommandText::parse(&text) {
                prop_assert_eq!(CommandText::parse(&parsed.to_string()), Ok(parsed));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(?s).*") {
            let _ = CommandText::parse(&text);
            let _ = CommandText::classic(&text).to_string();
        }
    }
}
