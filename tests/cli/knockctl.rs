//! `knockctl` and a running daemon: what is asked, what is printed, what is said where it fails.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libknock::proto::fleet::FleetKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snapbox::{assert_data_eq, str};
use tempfile::TempDir;

const STATUS: &str = r#"{"reply":"status","version":"0.1.0","pid":42,"since":1700000000.0,"configuration":"/etc/knock.d","listening":["eth0","eth1"],"waiting_for":["wg0"],"doors":[{"door":"bell","opens":[],"via":"commands","open":0},{"door":"ssh","opens":["22/tcp","80/tcp"],"via":"guard","open":1}],"grants":[{"door":"ssh","address":"192.0.2.2","client":null,"by":"sequence","state":"open","seconds_left":24.5},{"door":"ssh","address":"2001:db8::2","client":"phone","by":"knockctl","state":"closing","seconds_left":0.0}],"counters":{"duplicate":3,"trip-wire":12345},"dropped":7}"#;
const DONE: &str = r#"{"reply":"done","text":""}"#;

/// A directory with a configuration whose run directory is beside it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.configure("");
        place
    }

    fn configure(&self, rest: &str) {
        let run_dir = self.folder.path().display();
        let text = format!(
            "knockd: {{run_dir: {run_dir}}}\n\
             doors: {{ssh: {{sequence: [201, 403, 302], start_command: echo}}}}\n{rest}"
        );
        fs::write(self.folder.path().join("doors.yaml"), text).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// A daemon that says these lines to whatever is asked, one connection after the other, and
    /// tells what it was asked. After a last line of `...` it keeps the connection.
    fn daemon(&self, answers: &[&[&str]]) -> mpsc::Receiver<String> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let answers: Vec<Vec<String>> = answers
            .iter()
            .map(|lines| lines.iter().map(|&line| line.to_owned()).collect())
            .collect();
        let (asked, questions) = mpsc::channel();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for lines in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                // Not every test wants to know.
                let _ = asked.send(question.trim_end().to_owned());
                for line in &lines {
                    match line.as_str() {
                        "..." => kept.push(stream.try_clone().unwrap()),
                        // Whoever has heard enough leaves.
                        line => drop(writeln!(&stream, "{line}")),
                    }
                }
            }
            // What was kept lives as long as the test.
            thread::sleep(Duration::from_secs(60));
        });
        questions
    }

    #[expect(clippy::disallowed_methods, reason = "tests start programs")]
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knockctl"));
        command.env("TZ", "UTC").arg("-c").arg(self.folder.path().join("doors.yaml"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(&self.folder.path().display().to_string(), "DIR")
        };
        Said {
            status: output.status.code(),
            output: text(output.stdout),
            errors: text(output.stderr),
        }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }
}

struct Said {
    status: Option<i32>,
    output: String,
    errors: String,
}

impl Said {
    fn well(self) -> String {
        assert_eq!((self.status, self.errors.as_str()), (Some(0), ""));
        self.output
    }

    fn failed(self) -> String {
        assert_eq!((self.status, self.output.as_str()), (Some(1), ""));
        self.errors
    }
}

/// The next line that a program prints.
fn line(child: &mut Child) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    let output = child.stdout.as_mut().unwrap();
    while std::io::Read::read(output, &mut byte).unwrap() == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn status_is_in_aligned_columns() {
    let place = Place::new();
    let asked = place.daemon(&[&[STATUS, DONE]]);
    let said = place.run(&["status"]).well();
    assert_eq!(asked.recv().unwrap(), r#"{"do":"status"}"#);
    assert_data_eq!(
        said,
        str![[r#"
knockd 0.1.0, process 42, running for [..], since 2023-11-14 22:13:20
configuration  /etc/knock.d
listening on   eth0, eth1
waiting for    wg0

DOOR  OPENS          VIA       OPEN FOR
bell  -              commands  nobody
ssh   22/tcp 80/tcp  guard     1 address

OPEN  ADDRESS      CLIENT  BY        CLOSES
ssh   192.0.2.2    -       sequence  [..], in 25s
ssh   2001:db8::2  phone   knockctl  closing

what came to nothing, by reason
         3  duplicate
     12345  trip-wire
         7  dropped by the kernel, unseen: more came than could be read

"#]]
    );
}

#[test]
fn status_of_some_doors_is_of_these_alone() {
    let place = Place::new();
    let answer: &[&str] = &[STATUS, DONE];
    place.daemon(&[answer; 4]);
    let said = place.run(&["status", "bell"]).well();
    assert!(said.contains("\nbell  -") && !said.contains("ssh"), "{said}");
    let said = place.run(&["status", "--open", "--json"]).well();
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(status["doors"].as_array().unwrap().len(), 1);
    assert_eq!(status["doors"][0]["door"], "ssh");
    let said = place.run(&["status", "bell", "--open"]).well();
    assert!(said.contains("no such doors") && said.contains("nothing is open"), "{said}");
    assert_eq!(
        place.run(&["status", "shh"]).failed(),
        "knockctl: error: there is no door 'shh'\n    the doors are: bell, ssh\n"
    );
}

#[test]
fn clients_are_listed_a_line_each() {
    let place = Place::new();
    let client = r#"{"client":"phone","by":["totp"],"doors":["ssh"],"last_used":1700000000.5}"#;
    let answer = format!(r#"{{"reply":"clients","clients":[{client}]}}"#);
    let none = r#"{"reply":"clients","clients":[]}"#;
    let asked = place.daemon(&[&[&answer, DONE], &[&answer, DONE], &[none, DONE]]);
    let said = place.run(&["clients"]).well();
    assert_eq!(asked.recv().unwrap(), r#"{"do":"clients"}"#);
    assert_data_eq!(
        said,
        str![[r#"
CLIENT  BY    DOORS  LAST USED            EXPIRES
phone   totp  ssh    2023-11-14 22:13:20  never

"#]]
    );
    let said = place.run(&["clients", "--json"]).well();
    assert_eq!(said, format!("{client}\n"));
    assert_eq!(place.run(&["clients"]).well().lines().count(), 1);
}

const FLEET: &str = r#"{"name":"gw1","store":"valkey.example.net port 6379","state":"joined","since":1700000000.0,"when_lost":"alone","wait_seconds":0.02,"gateways":[{"gateway":"gw1","version":"0.1.0","heard_seconds_ago":1.5,"lag_seconds":0.0012,"open":3,"is_this":true}],"doors":["ssh"],"kept":12,"stamps":34,"lag_seconds":0.001,"unsent":0,"alone":0,"namesake":true}"#;

fn fleet_reply() -> String {
    FLEET.replacen('{', r#"{"reply":"fleet","#, 1)
}

#[test]
fn a_fleet_is_told_to_people_and_to_scripts() {
    let place = Place::new();
    let reply = fleet_reply();
    let asked = place.daemon(&[&[&reply, DONE], &[&reply, DONE]]);
    let said = place.run(&["fleet"]).well();
    assert_eq!(asked.recv().unwrap(), r#"{"do":"fleet"}"#);
    assert_data_eq!(
        said,
        str![[r#"
gateway  gw1, joined since 2023-11-14 22:13:20; another gateway has this name
store    valkey.example.net port 6379; kept there: 12; waiting here: 0
shared   ssh, proofs
if lost  alone after 0.020s; requests so far: 0

GATEWAY  VERSION  HEARD     LAG    OPEN
gw1      0.1.0    this one  1.2ms  3

"#]]
    );
    assert_eq!(place.run(&["fleet", "--json"]).well(), format!("{FLEET}\n"));
}

#[test]
fn a_gateway_that_has_lost_its_store_says_so_in_its_status() {
    let place = Place::new();
    let lost = r#","fleet":{"name":"gw1","store":"/run/valkey.sock","state":"alone","since":1700000000.0,"why":"Connection refused (os error 111)"}}"#;
    place.daemon(&[&[&format!("{}{lost}", STATUS.strip_suffix('}').unwrap()), DONE]]);
    let said = place.run(&["status"]).well();
    let line =
        "fleet          gw1, alone since 2023-11-14 22:13:20: Connection refused (os error 111)";
    assert!(said.lines().any(|it| it == line), "{said}");
}

#[test]
fn check_warns_of_a_name_that_the_running_daemon_has_heard_from_another_gateway() {
    let place = Place::new();
    let secret = |name: &str, text: &str| {
        let path = place.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let key = secret("fleet.key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
    let configure = |name: &str| {
        let run_dir = place.folder.path().display();
        let fleet = format!("{{name: {name}, store: 'unix:/run/v.sock', key_file: {key}}}");
        let text = format!(
            "knockd: {{run_dir: {run_dir}, fleet: {fleet}}}\n\
             doors: {{ssh: {{sequence: [201, 403, 302], start_command: echo}}}}\n"
        );
        fs::write(place.folder.path().join("doors.yaml"), text).unwrap();
    };
    let reply = fleet_reply();
    let asked = place.daemon(&[&[&reply, DONE], &[&reply, DONE]]);
    let is_warned =
        || place.run(&["check"]).errors.contains("another gateway of the fleet is called gw1 too");
    configure("gw1");
    assert!(is_warned());
    assert_eq!(asked.recv().unwrap(), r#"{"do":"fleet"}"#);
    // The name is another one already, and has to be taken up yet.
    configure("gw2");
    assert!(!is_warned());
}

#[test]
fn the_key_of_a_fleet_is_made_once_for_its_owner_and_shown_to_nobody() {
    let place = Place::new();
    let path = place.folder.path().join("fleet.key");
    let made = place.run(&["fleet-key", path.to_str().unwrap()]);
    assert_eq!((made.status, made.output.as_str()), (Some(0), ""));
    let key = fs::read_to_string(&path).unwrap();
    assert!(key.trim_end().parse::<FleetKey>().is_ok());
    assert!(!made.errors.contains(key.trim_end()) && made.errors.contains("key_file"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = place.run(&["fleet-key", path.to_str().unwrap()]).failed();
    assert!(again.contains("DIR/fleet.key: File exists"), "{again}");
    assert_eq!(fs::read_to_string(&path).unwrap(), key);
}

#[test]
fn the_key_of_a_fleet_is_beside_those_of_clients_unless_another_file_is_named() {
    let place = Place::new();
    // Nothing of the configuration has to be right.
    fs::write(place.folder.path().join("doors.yaml"), "knockd: {fleet: {key_file: nowhere}}")
        .unwrap();
    let mut command = place.command(&["fleet-key", "-c"]);
    let made = command.arg(place.folder.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert!(place.folder.path().join("keys/fleet.key").exists());
}

#[test]
fn status_as_json_has_the_grants_and_counters() {
    let place = Place::new();
    place.daemon(&[&[STATUS, DONE]]);
    let said = place.run(&["status", "--json"]).well();
    assert_eq!(said.lines().count(), 1);
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    let grant = &status["grants"][1];
    assert_eq!(grant["door"], "ssh");
    assert_eq!(grant["address"], "2001:db8::2");
    assert_eq!(grant["client"], "phone");
    assert_eq!(grant["by"], "knockctl");
    assert_eq!(grant["seconds_left"], 0.0);
    assert_eq!(status["counters"]["trip-wire"], 12345);
}

#[test]
fn a_daemon_that_is_not_running_is_said_not_to_be() {
    let place = Place::new();
    for arguments in [
        &["status"][..],
        &["open", "ssh", "192.0.2.2"],
        &["close", "--all"],
        &["watch"],
        &["history"],
        &["explain", "--live"],
    ] {
        let said = place.run(arguments).failed();
        let expected =
            "knockctl: error: knockd is not running (nothing listens on DIR/control.sock)\n";
        assert!(said.starts_with(expected), "{arguments:?}: {said}");
        assert!(said.contains("systemctl start knockd"), "{said}");
        assert!(!said.contains("could not be read"), "{said}");
    }
}

#[test]
fn a_socket_that_is_left_over_means_the_same() {
    let place = Place::new();
    drop(UnixListener::bind(place.socket()).unwrap());
    assert!(place.run(&["status"]).failed().contains("knockd is not running"));
}

#[test]
fn a_mistake_in_the_configuration_does_not_hide_the_daemon() {
    let place = Place::new();
    place.configure("nonsense: 1\n");
    let said = place.run(&["status"]).failed();
    assert!(said.contains("knockd is not running"), "{said}");
    assert!(said.contains("DIR/doors.yaml:3:1: error: "), "{said}");

    place.daemon(&[&[STATUS, DONE]]);
    place.run(&["status"]).well();
}

#[test]
fn another_daemon_than_the_one_that_is_meant_is_never_asked() {
    let place = Place::new();
    fs::remove_file(place.folder.path().join("doors.yaml")).unwrap();
    let said = place.run(&["close", "--all"]).failed();
    assert!(said.starts_with("DIR/doors.yaml: error: cannot be read: No such file"), "{said}");
}

/// What an ordinary user is told; `None`, said loudly, where the test cannot become one.
fn as_nobody(test: &str, place: &Place, config: &Path) -> Option<Output> {
    let nobody = nix::unistd::User::from_name("nobody").unwrap();
    let (true, Some(nobody)) = (nix::unistd::geteuid().is_root(), nobody) else {
        // Not eprintln!, which the test harness swallows.
        let mut errors = std::io::stderr();
        writeln!(errors, "SKIPPED: {test}: needs root").unwrap();
        return None;
    };
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build directory may be closed to others; a copy is not.
    let program = place.folder.path().join("knockctl");
    fs::copy(env!("CARGO_BIN_EXE_knockctl"), &program).unwrap();
    #[expect(clippy::disallowed_methods, reason = "tests start programs")]
    let mut command = Command::new(&program);
    command.arg("-c").arg(config).arg("status").env("TZ", "UTC");
    Some(command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw()).output().unwrap())
}

#[test]
fn whoever_may_not_ask_is_told_who_may() {
    let place = Place::new();
    place.daemon(&[&[STATUS, DONE]]);
    fs::set_permissions(place.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    let config = place.folder.path().join("doors.yaml");
    let Some(output) = as_nobody("no permission", &place, &config) else { return };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("knockctl: error: no permission to ask knockd ("), "{said}");
    assert!(said.ends_with("be root, or a member of the group knockd\n"), "{said}");
}

#[test]
fn whoever_may_ask_need_not_be_able_to_read_the_doors() {
    let place = Place::new();
    place.daemon(&[&[STATUS, DONE]]);
    fs::set_permissions(place.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let config = place.folder.path().join("knock.d");
    fs::create_dir(&config).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = format!("knockd: {{run_dir: {}}}\n", place.folder.path().display());
    for (name, text, mode) in
        [("knockd.yaml", settings.as_str(), 0o644), ("doors.yaml", "doors: {}\n", 0o600)]
    {
        fs::write(config.join(name), text).unwrap();
        fs::set_permissions(config.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let Some(output) = as_nobody("unreadable doors", &place, &config) else { return };
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("knockd 0.1.0, process 42"));
}

#[test]
fn a_daemon_that_says_nothing_is_given_up() {
    let place = Place::new();
    place.daemon(&[&["..."]]);
    let said = place.run(&["watch"]).failed();
    assert!(
        said.starts_with("knockctl: error: knockd does not answer (DIR/control.sock)\n"),
        "{said}"
    );
}

#[test]
fn a_daemon_that_ends_or_talks_nonsense_is_no_success() {
    for (answer, expected) in [
        (&[][..], "knockctl: error: knockd has ended, "),
        (
            &["{\"reply\":\"song\"}"],
            "knockctl: error: knockd gives an answer that this knockctl does not",
        ),
        (&["what?"], "knockctl: error: knockd gives an answer that this knockctl does not"),
    ] {
        let place = Place::new();
        place.daemon(&[answer]);
        let said = place.run(&["status"]).failed();
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn an_opened_door_is_said_to_be_open_until_when() {
    let place = Place::new();
    let done = r#"{"reply":"done","text":"ssh is open for 192.0.2.2, closes in 1m30s"}"#;
    let asked = place.daemon(&[&[done]]);
    let said = place.run(&["open", "ssh", "::ffff:192.0.2.2", "--for", "1m30s"]).well();
    assert_eq!(
        asked.recv().unwrap(),
        r#"{"do":"open","door":"ssh","address":"192.0.2.2","seconds":90}"#
    );
    assert_eq!(said, "ssh is open for 192.0.2.2, closes in 1m30s\n");
}

#[test]
fn a_grant_that_is_not_as_it_should_be_is_shown_so() {
    for state in ["gone", "opened with errors"] {
        let place = Place::new();
        let status = STATUS.replace(r#""state":"open""#, &format!(r#""state":"{state}""#));
        let more = r#""counters":"#;
        let status = status.replace(more, &format!(r#""grants_not_shown":7,{more}"#));
        place.daemon(&[&[&status, DONE]]);
        let said = place.run(&["status"]).well();
        assert!(said.contains(&format!(", in 25s, {state}\n")), "{said}");
        assert!(said.contains("\nand 7 more\n"), "{said}");
    }
}

#[test]
fn what_could_not_be_closed_is_shown_without_a_time() {
    let place = Place::new();
    let status = STATUS.replace(r#""state":"open""#, r#""state":"not closed""#);
    place.daemon(&[&[&status, DONE]]);
    let said = place.run(&["status"]).well();
    assert!(said.contains("  not closed\n") && !said.contains("in 25s"), "{said}");
}

#[test]
fn a_refusal_is_shown_as_the_daemon_says_it_and_obeyed_by_no_terminal() {
    let place = Place::new();
    let why = r#"{"reply":"failed","why":"there is no door 'shh'\u001b[31m"}"#;
    place.daemon(&[&[why]]);
    let said = place.run(&["open", "shh", "192.0.2.2"]).failed();
    assert_eq!(said, "knockctl: error: there is no door 'shh'\\u{1b}[31m\n");
}

#[test]
fn a_trial_says_what_to_do_next_and_what_happens_otherwise() {
    let place = Place::new();
    let trial = STATUS.replace("\"doors\":", "\"on_trial_until\":4102444800.0,\"doors\":");
    let asked = place.daemon(&[&[&trial, DONE], &[&trial, DONE]]);
    assert_data_eq!(
        place.run(&["try", "--for", "1m"]).well(),
        str![[r#"
the configuration is in force, on trial
check from a NEW connection that you still get in, then: knockctl -c DIR/doors.yaml confirm
otherwise everything goes back at 2100-01-01 00:00:00, in [..]

"#]]
    );
    assert_eq!(asked.recv().unwrap(), r#"{"do":"try","seconds":60}"#);
    let status = place.run(&["status"]).well();
    assert!(status.contains("\non trial       until 2100-01-01 00:00:00, in "), "{status}");
}

#[test]
fn where_nothing_runs_a_trial_is_a_matter_of_starting_it() {
    let place = Place::new();
    assert_eq!(
        place.run(&["try"]).failed(),
        "knockctl: error: knockd is not running (nothing listens on DIR/control.sock), so there is \
         nothing to try\n    start it on trial with 'knockd -c DIR/doors.yaml --try 2m'; \
         systemctl starts it for good\n"
    );
}

#[test]
fn a_trial_too_short_or_too_long_is_a_usage_error() {
    for time in ["9s", "2h", "soon"] {
        let said = Place::new().run(&["try", "--for", time]);
        assert_eq!(said.status, Some(2), "{}", said.errors);
    }
}

#[test]
fn doors_are_closed_one_by_one_or_all_at_once() {
    let place = Place::new();
    let one = r#"{"reply":"done","text":"ssh closes for 2001:db8::2"}"#;
    let all = r#"{"reply":"done","text":"2 open doors close"}"#;
    let asked = place.daemon(&[&[one], &[all]]);
    let said = place.run(&["close", "ssh", "2001:db8::2"]).well();
    assert_eq!(said, "ssh closes for 2001:db8::2\n");
    let question = asked.recv().unwrap();
    assert_eq!(question, r#"{"do":"close","door":"ssh","address":"2001:db8::2"}"#);
    assert_eq!(place.run(&["close", "--all"]).well(), "2 open doors close\n");
    assert_eq!(asked.recv().unwrap(), r#"{"do":"close_all"}"#);
}

const STAGE: &str = r#"{"reply":"event","time":1700000000.123456,"source":"192.0.2.2","door":"ssh","event":"stage","stage":1}"#;
const OPEN: &str = r#"{"reply":"event","time":1700000001.0,"source":"192.0.2.2","door":"ssh","event":"open","message":"OPEN SESAME","by":"sequence","client":null}"#;
const STRANGE: &str = r#"{"reply":"event","time":1700100000.5,"source":"2001:db8::2","door":"\u009b","event":"failed","message":"a\nb\u202e"}"#;

#[test]
fn events_are_printed_as_they_happen_under_their_day() {
    let place = Place::new();
    let asked = place.daemon(&[&[STATUS, DONE], &[STAGE, OPEN, STRANGE]]);
    let said = place.run(&["watch"]);
    asked.recv().unwrap();
    assert_eq!(asked.recv().unwrap(), r#"{"do":"watch"}"#);
    assert_eq!(said.status, Some(1));
    assert!(said.errors.starts_with("knockctl: error: knockd has ended, "), "{}", said.errors);
    assert_data_eq!(
        said.output,
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.123456  192.0.2.2        ssh   stage 1
22:13:21.000000  192.0.2.2        ssh   open by sequence
Thursday, 2023-11-16, UTC
02:00:00.500000  2001:db8::2      /u{9b}  failed: a/nb/u{202e}

"#]]
    );
}

#[test]
fn events_as_json_are_an_object_a_line() {
    let place = Place::new();
    place.daemon(&[&[STATUS, DONE], &[STAGE, OPEN, STRANGE]]);
    let said = place.run(&["watch", "--json"]).output;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"time":1700000000.123456,"source":"192.0.2.2","door":"ssh","event":"stage","stage":1}"#
    );
    let open: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!((&open["event"], &open["by"]), (&"open".into(), &"sequence".into()));
    assert!(lines[2].contains(r#""door":"\u009b""#), "{}", lines[2]);
}

#[test]
fn watching_ends_well_when_asked_to() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let place = Place::new();
        place.daemon(&[&[STATUS, DONE], &[STAGE, "..."]]);
        let mut child = place.start(&["watch", "--json"]);
        assert!(line(&mut child).contains("stage"));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn watching_ends_well_when_nobody_reads_any_more_though_nothing_happens() {
    let place = Place::new();
    place.daemon(&[&[STATUS, DONE], &[STAGE, "..."]]);
    let mut child = place.start(&["watch", "--json"]);
    line(&mut child);
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn history_is_asked_for_what_is_wanted() {
    let place = Place::new();
    let asked = place.daemon(&[&[STATUS, DONE], &[STAGE, OPEN, DONE], &[DONE]]);
    let said = place.run(&[
        "history",
        "--door",
        "ssh",
        "--ip",
        "192.0.2.2",
        "--since",
        "2023-11-14 22:00",
    ]);
    assert_data_eq!(
        said.well(),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.123456  192.0.2.2        ssh   stage 1
22:13:21.000000  192.0.2.2        ssh   open by sequence

"#]]
    );
    asked.recv().unwrap();
    assert_eq!(
        asked.recv().unwrap(),
        r#"{"do":"history","door":"ssh","address":"192.0.2.2","since":1699999200.0}"#
    );
    assert_eq!(place.run(&["history", "--json"]).well(), "");
    let question = asked.recv().unwrap();
    assert_eq!(question, r#"{"do":"history","door":null,"address":null,"since":null}"#);
}

#[test]
fn knocks_of_now_are_explained_as_those_of_a_file_are() {
    let place = Place::new();
    let reset = r#"{"reply":"event","time":1700000001.0,"source":"192.0.2.2","door":"ssh","event":"reset","stage":1,"reason":"timeout"}"#;
    let ignored = r#"{"reply":"event","time":1700000002.0,"source":"192.0.2.2","event":"ignored","knock":"403/tcp","reason":"duplicate"}"#;
    let asked = place.daemon(&[&[STATUS, DONE], &[STAGE, reset, ignored]]);
    let said = place.run(&["explain", "--live", "--ip", "192.0.2.2"]);
    asked.recv().unwrap();
    assert_eq!(asked.recv().unwrap(), r#"{"do":"explain","address":"192.0.2.2"}"#);
    assert_data_eq!(
        said.output,
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.123456  192.0.2.2        ssh   stage 1 of 3 (201/tcp)
22:13:21.000000  192.0.2.2        ssh   reset at stage 1 of 3: 403/tcp did not come within 25s of the first knock
22:13:22.000000  192.0.2.2        -     403/tcp again: a retransmission, no knock of its own

"#]]
    );
}

#[test]
fn what_makes_no_sense_is_a_wrong_command_line() {
    let place = Place::new();
    for (arguments, expected) in [
        (&["open", "ssh", "gw.example.com"][..], "not an IP address"),
        (&["open", "../ssh", "192.0.2.2"], "a name is 1 to 32 of"),
        (&["open", "ssh", "192.0.2.2", "--for", "soon"], "'soon' is not a duration"),
        (&["open", "ssh", "192.0.2.2", "--for", "0"], "1s or more"),
        (&["open", "ssh", "192.0.2.2", "--for", "1500ms"], "whole seconds"),
        (&["close"], "--all"),
        (&["close", "ssh"], "<IP>"),
        (&["close", "--all", "ssh", "192.0.2.2"], "cannot be used with"),
        (&["history", "--since", "soon"], "2026-11-22"),
        (&["explain"], "<FILE.pcap>"),
        (&["explain", "--live", "knocks.pcap"], "cannot be used with"),
    ] {
        let said = place.run(arguments);
        assert_eq!(said.status, Some(2), "{arguments:?}");
        assert!(said.errors.contains(expected), "{arguments:?}: {}", said.errors);
    }
}

#[test]
fn doors_are_completed_from_the_daemon_or_else_from_the_configuration() {
    let place = Place::new();
    assert_eq!(place.run(&["completions", "doors"]).well(), "ssh\n");
    place.daemon(&[&[STATUS, DONE]]);
    assert_eq!(place.run(&["completions", "doors"]).well(), "bell\nssh\n");
}

#[test]
fn bash_completes_options_and_doors() {
    let place = Place::new();
    let script = place.run(&["completions", "bash"]).well();
    let config = place.folder.path().join("doors.yaml");
    let completed = |words: &[&str]| {
        let at = words.len() - 1;
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let program = format!(
            "{script}\nCOMP_WORDS=({}) COMP_CWORD={at}\n\
             function=$(complete -p {} | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
             $function \"${{COMP_WORDS[0]}}\" \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{at}-1]}}\"\n\
             echo \"${{COMPREPLY[*]}}\"",
            quoted.join(" "),
            words[0],
        );
        let folder = PathBuf::from(env!("CARGO_BIN_EXE_knockctl"));
        let path = format!("{}:/usr/bin:/bin", folder.parent().unwrap().display());
        #[expect(clippy::disallowed_methods, reason = "tests start programs")]
        let output =
            Command::new("bash").args(["-c", &program]).env("PATH", path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let config = config.to_str().unwrap();
    assert_eq!(completed(&["knockctl", "-c", config, "open", ""]), "ssh");
    assert_eq!(completed(&["knockctl", "-c", config, "close", "s"]), "ssh");
    assert_eq!(completed(&["knockctl", "-c", config, "history", "--door", "x"]), "");
    assert_eq!(completed(&["knockctl", "close", "--al"]), "--all");
    assert_eq!(completed(&["knockctl", "hist"]), "history");
    assert_eq!(completed(&["knock", "--dry"]), "--dry-run");
    assert_eq!(completed(&["knockd", "--daem"]), "--daemon");
    // What is not in the help is not offered.
    for (words, hidden) in [
        (["knockd", "-"], "--watcher"),
        (["knock", "-"], "--list-hosts"),
        (["knockctl", "completions"], "clients"),
    ] {
        let [program, word] = words;
        let words = if word == "-" { vec![program, word] } else { vec![program, word, ""] };
        let offered = completed(&words);
        assert!(!offered.is_empty() && !offered.contains(hidden), "{offered}");
    }
    // Whom `close` can close for.
    let config = config.to_owned();
    place.daemon(&[&[STATUS, DONE], &[STATUS, DONE], &[STATUS, DONE]]);
    let close =
        |door: &str, start: &str| completed(&["knockctl", "-c", &config, "close", door, start]);
    assert_eq!(close("ssh", ""), "192.0.2.2 2001:db8::2");
    assert_eq!(close("ssh", "192"), "192.0.2.2");
    assert!(!close("bell", "").contains("192.0.2.2"));
}

#[test]
fn bash_completes_the_hosts_of_the_hosts_file_until_there_is_one() {
    let place = Place::new();
    let hosts = place.folder.path().join("knock");
    fs::create_dir(&hosts).unwrap();
    let text = "hosts:\n  work: {host: gw.example.com, ports: [1]}\n  home: {ports: [2]}\n";
    fs::write(hosts.join("hosts.yaml"), text).unwrap();
    fs::set_permissions(hosts.join("hosts.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let script = place.run(&["completions", "bash", "knock"]).well();
    for (line, completed) in [
        ("knock ''", "work home import"),
        ("knock i", "import"),
        ("knock w", "work"),
        ("knock -v ''", "work home"),
        ("knock --proxy ''", "work home"),
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let program = format!(
            "{script}\nCOMP_WORDS=({line}) COMP_CWORD={at}\n\
             _knock_and_hosts {} {} {}\necho \"${{COMPREPLY[*]}}\"",
            words[0],
            words[words.len() - 1],
            words[words.len() - 2],
            at = words.len() - 1,
        );
        let folder = PathBuf::from(env!("CARGO_BIN_EXE_knockctl"));
        let path = format!("{}:/usr/bin:/bin", folder.parent().unwrap().display());
        #[expect(clippy::disallowed_methods, reason = "tests start programs")]
        let output = Command::new("bash")
            .args(["-c", &program])
            .env("PATH", path)
            .env("XDG_CONFIG_HOME", place.folder.path())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), completed, "{line}");
    }
    let script = place.run(&["completions", "zsh", "knock"]).well();
    assert!(script.starts_with("#compdef knock\n"));
    assert_eq!(script.matches(":_knock_hosts").count(), 2, "{script}");
}

#[test]
fn every_shell_has_a_script_for_each_program_or_for_all() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let alone: String = ["knock", "knockd", "knockctl"]
            .iter()
            .map(|program| place.run(&["completions", shell, program]).well())
            .collect();
        assert_eq!(place.run(&["completions", shell]).well(), alone);
        assert!(alone.contains(" completions "), "{shell} asks nobody for names");
    }
}
