//! What a configuration comes to once it is loaded.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use libknock::config::diagnostic::SourceText;
use libknock::config::load::{Loaded, Options, load, parse};
use libknock::config::{
    Command, Config, Door, Family, Forward, GuardMode, Holes, LogFormat, LogLevel, Mechanism,
    OnExit, Recognition, Settings,
};
use libknock::proto::flags::{FlagTest, TcpFlags};

fn names(interfaces: &[impl ToString]) -> String {
    interfaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn config(text: &str) -> Config {
    let Loaded { config, .. } =
        parse(&SourceText::new("knockd.conf", text)).unwrap_or_else(|report| panic!("{report}"));
    config
}

fn door(text: &str) -> Door {
    let mut config = config(text);
    assert_eq!(config.doors.len(), 1);
    config.doors.remove(0)
}

/// A door of these lines and a sequence.
fn door_of(lines: &str) -> Door {
    let lines = lines.replace('\n', "\n    ");
    door(&format!("doors:\n  ssh:\n    sequence: [7000, 8000/udp]\n    {lines}\n"))
}

/// The argument vector of a command for a source, a port and half a minute.
fn argv(command: Option<&Command>, source: &str) -> Option<Vec<String>> {
    let holes = Holes {
        network: source.parse().unwrap(),
        door: &"ssh".parse().unwrap(),
        client: None,
        port: Some("22/tcp".parse().unwrap()),
        seconds: 30,
    };
    command.map(|command| command.render(&holes).argv)
}

fn shell(text: &str) -> Option<Vec<String>> {
    Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// What opens and closes for either family, as text.
fn commands(door: &Door) -> [Option<String>; 4] {
    let commands = door.opening.commands().unwrap();
    let (v4, v6) = (commands.of(Family::V4), commands.of(Family::V6));
    [&v4.open, &v4.close, &v6.open, &v6.close]
        .map(|command| command.as_ref().map(ToString::to_string))
}

fn some(texts: [&str; 4]) -> [Option<String>; 4] {
    texts.map(|text| (text != "-").then(|| text.to_owned()))
}

#[test]
fn a_door_has_the_documented_defaults() {
    let Door { recognition, opening, .. } = door_of("open: [22]\nvia: nft");
    let expected = Recognition {
        sequence: vec!["7000/tcp".parse().unwrap(), "8000/udp".parse().unwrap()],
        seq_timeout: Duration::from_secs(25),
        flags: FlagTest::SYN,
        target: None,
        trip_wires: 16,
        opens: vec!["22/tcp".parse().unwrap()],
        ..Recognition::new("ssh".parse().unwrap())
    };
    assert_eq!(recognition, expected);
    assert_eq!(opening.ports, expected.opens);
    assert_eq!(opening.open_for, Duration::from_secs(30));
}

#[test]
fn a_range_is_one_entry_of_what_a_door_opens() {
    let Door { recognition, opening, .. } = door_of("open: [60000-61000/udp, 22]");
    let ports: Vec<_> = opening.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["60000-61000/udp", "22/tcp"]);
    assert_eq!(recognition.opens, opening.ports);
}

#[test]
fn a_forward_leads_to_the_same_port_unless_it_says_another() {
    let Door { recognition, opening, .. } = door_of(
        "forward: [{on: 2222, to: 192.168.1.10, port: 22, masquerade: true}, {on: 53/udp, to: '2001:db8::53'}]",
    );
    let forward = |on: &str, to: &str, port: u16, masquerade| Forward {
        on: on.parse().unwrap(),
        to: to.parse().unwrap(),
        port: port.try_into().unwrap(),
        masquerade,
    };
    let expected =
        [forward("2222", "192.168.1.10", 22, true), forward("53/udp", "2001:db8::53", 53, false)];
    assert_eq!(opening.forwards, expected);
    assert_eq!(recognition.forwards, expected);
    assert_eq!(opening.mechanism, Mechanism::Guard);
    assert!(opening.ports.is_empty() && recognition.opens.is_empty());
}

#[test]
fn a_door_that_only_forwards_is_for_the_families_of_its_hosts() {
    let v4 = "192.0.2.2".parse().unwrap();
    let v6 = "2001:db8::2".parse().unwrap();
    let only = door_of("forward: [{on: 2222, to: 192.168.1.10}]").opening;
    assert!(only.is_for(v4) && !only.is_for(v6));
    let both = door_of("forward: [{on: 2222, to: 192.168.1.10}]\nopen: [22]").opening;
    assert!(both.is_for(v4) && both.is_for(v6));
}

#[test]
fn a_door_that_only_forwards_has_no_port_to_lock() {
    let text = "knockd: {guard: observe}\ndoors: {in: {sequence: [1, 3, 2], forward: {on: 2222, to: 192.168.1.10}}}";
    let mut config = parse(&SourceText::new("f.yaml", text)).unwrap().config;
    let why = config.lock(&"in".parse().unwrap()).unwrap_err();
    assert_eq!(why, "door 'in' only forwards: it has no port to lock");
    let opening = &config.doors[0].opening;
    assert!(!opening.is_locked() && !opening.is_observed());
}

#[test]
fn a_door_with_commands_of_its_own_closes_after_ten_seconds_as_in_the_classic() {
    let door = door_of("start_command: a\nstop_command: b");
    assert_eq!(door.opening.open_for, Duration::from_secs(10));
    assert!(door.opening.ports.is_empty() && door.recognition.opens.is_empty());
}

#[test]
fn every_key_of_a_door_is_taken() {
    let door = door_of(
        "seq_timeout: 1m30s\ntcpflags: [fin, \"!ack\"]\ntarget: 2001:db8::10\ntrip_wires: 0\n\
         start_command: a\nstop_command: b\nopen_for: 2m",
    );
    let Recognition { seq_timeout, flags, target, trip_wires, .. } = door.recognition;
    assert_eq!(seq_timeout, Duration::from_secs(90));
    assert_eq!(flags, FlagTest { set: TcpFlags::FIN, clear: TcpFlags::ACK });
    assert_eq!(target, Some("2001:db8::10".parse::<IpAddr>().unwrap()));
    assert_eq!(trip_wires, 0);
    assert_eq!(door.opening.open_for, Duration::from_secs(120));
}

#[test]
fn cmd_timeout_is_another_name_for_open_for() {
    let door = door_of("start_command: a\nstop_command: b\ncmd_timeout: 7");
    assert_eq!(door.opening.open_for, Duration::from_secs(7));
}

#[test]
fn flags_are_a_list_or_the_text_of_the_classic() {
    for (given, expected) in [
        ("[syn, \"!ack\"]", FlagTest::SYN),
        ("syn,!ack", FlagTest::SYN),
        ("[]", FlagTest::ANY),
        ("[URG]", FlagTest { set: TcpFlags::URG, clear: TcpFlags(0) }),
    ] {
        let door = door_of(&format!("start_command: a\ntcpflags: {given}"));
        assert_eq!(door.recognition.flags, expected, "{given}");
    }
}

#[test]
fn ipv6_has_the_ipv4_command_where_its_own_is_absent_and_none_where_it_is_empty() {
    for (lines, expected) in [
        ("start_command: a\nstop_command: b", ["a", "b", "a", "b"]),
        ("start_command: a\nstop_command: b\nstart_command_6: c", ["a", "b", "c", "b"]),
        (
            "start_command: a\nstop_command: b\nstart_command_6: c\nstop_command_6: d",
            ["a", "b", "c", "d"],
        ),
        ("start_command: a\nstop_command: b\nstart_command_6:", ["a", "b", "-", "-"]),
        ("start_command: a\nstop_command: b\nstart_command_6: ''", ["a", "b", "-", "-"]),
        ("start_command: a\nstop_command: b\nstop_command_6: ~", ["a", "b", "a", "-"]),
        ("start_command_6: c", ["-", "-", "c", "-"]),
        ("start_command: a", ["a", "-", "a", "-"]),
    ] {
        assert_eq!(commands(&door_of(lines)), some(expected), "{lines}");
    }
}

#[test]
fn what_looks_whether_a_door_is_open_is_inherited_like_what_opens_it() {
    for (lines, expected) in [
        ("verify_command: v", [Some("v"), Some("v")]),
        ("verify_command: v\nverify_command_6: w", [Some("v"), Some("w")]),
        ("verify_command: v\nverify_command_6:", [Some("v"), None]),
        ("verify_command: v\nstop_command_6:", [Some("v"), None]),
        ("verify_command_6: w", [None, Some("w")]),
    ] {
        let door = door_of(&format!("start_command: a\nstop_command: b\n{lines}"));
        let commands = door.opening.commands().unwrap();
        let verify = |family| commands.of(family).verify.as_ref().map(ToString::to_string);
        assert_eq!([Family::V4, Family::V6].map(verify), expected.map(|it| it.map(String::from)));
    }
}

#[test]
fn text_runs_under_the_shell_and_a_list_as_it_is() {
    let door = door_of("start_command: echo '%IP%' $(id)\nstop_command: [echo, '$(id) %IP%']");
    let pair = door.opening.commands().unwrap().of(Family::V4);
    assert_eq!(argv(pair.open.as_ref(), "192.0.2.2"), shell("echo '192.0.2.2' $(id)"));
    let list = vec!["echo".to_owned(), "$(id) 192.0.2.2".to_owned()];
    assert_eq!(argv(pair.close.as_ref(), "192.0.2.2"), Some(list));
}

#[test]
fn the_built_in_iptables_knows_both_families() {
    let door = door_of("open: [22/tcp]\nvia: iptables");
    for (source, program) in [("192.0.2.2", "iptables"), ("2001:db8::2", "ip6tables")] {
        let pair = door.opening.commands().unwrap().of(Family::of(source.parse().unwrap()));
        for (command, action) in [(&pair.open, "-I"), (&pair.close, "-D")] {
            let line = argv(command.as_ref(), source).unwrap().join(" ");
            let expected = format!(
                "{program} -w 5 {action} INPUT -s {source} -p tcp --dport 22 \
                 -m comment --comment knockd ssh -j ACCEPT"
            );
            assert_eq!(line, expected);
        }
    }
}

#[test]
fn an_administrators_template_takes_the_place_of_a_built_in_one() {
    let door = door(
        "templates: {nft: {open: mine %PORT%}}\n\
         doors: {ssh: {sequence: [1, 3, 2], open: [22], via: nft}}",
    );
    assert_eq!(commands(&door), some(["mine %PORT%", "-", "mine %PORT%", "-"]));
}

#[test]
fn a_template_without_a_port_needs_no_open() {
    let door = door(
        "templates: {all: {open: allow %IP%, close: deny %IP%}}\n\
         doors: {ssh: {sequence: [1, 3, 2], via: all}}",
    );
    assert!(door.opening.ports.is_empty());
}

#[test]
fn every_setting_is_taken() {
    let settings = config(
        "knockd:
  interfaces: [eth0, wg0]
  only_ipv4: true
  user: _knock
  state_dir: /srv/state
  run_dir: /srv/run
  log: {syslog: local3, file: /srv/log, level: debug, format: json}
  track: {sources: 1024}
  trusted: [192.0.2.0/24, \"2001:db8::1\"]
  on_exit: remove
  guard: observe
  alert: {email: admin@example.com}
",
    )
    .settings;
    assert_eq!(names(&settings.interfaces), "eth0 wg0");
    assert!(settings.only_ipv4);
    assert_eq!(settings.user.as_deref(), Some("_knock"));
    assert_eq!(settings.state_dir, Path::new("/srv/state"));
    assert_eq!(settings.run_dir, Path::new("/srv/run"));
    assert_eq!(settings.pid_file, Path::new("/srv/run/knockd.pid"));
    assert_eq!(settings.log.syslog.as_deref(), Some("local3"));
    assert_eq!(settings.log.file.as_deref(), Some(Path::new("/srv/log")));
    assert_eq!((settings.log.level, settings.log.format), (LogLevel::Debug, LogFormat::Json));
    assert_eq!(settings.track_sources, 1024);
    let trusted: Vec<_> = settings.trusted.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["192.0.2.0/24", "2001:db8::1"]);
    assert_eq!(settings.on_exit, OnExit::Remove);
    assert_eq!(settings.guard, GuardMode::Observe);
    assert_eq!(settings.alert.unwrap().to_string(), "admin@example.com");
}

#[test]
fn a_door_observes_where_it_says_so_or_nothing_else_and_the_guard_does() {
    let doors = "doors:
  a: {sequence: [1, 3, 2], open: [22]}
  b: {sequence: [4, 6, 5], open: [23], guard: lock}
  c: {sequence: [7, 9, 8], open: [24], guard: observe}
  d: {sequence: [11, 13, 12], start_command: a}
";
    let observed = |text: &str| {
        let doors = config(text).doors.into_iter();
        doors.map(|door| door.opening.is_observed()).collect::<Vec<_>>()
    };
    assert_eq!(observed(doors), [false, false, true, false]);
    let whole = format!("knockd: {{guard: observe}}\n{doors}");
    assert_eq!(observed(&whole), [true, false, true, false]);
}

#[test]
fn a_pid_file_that_is_named_need_not_be_in_the_run_directory() {
    let settings = config("knockd: {pid_file: /srv/pid, run_dir: /srv/run}").settings;
    assert_eq!(settings.pid_file, Path::new("/srv/pid"));
}

#[test]
fn doors_are_in_the_order_of_their_names() {
    let text = "doors:
  c: {sequence: [1], start_command: a}
  a: {sequence: [2], start_command: a}
  B: {sequence: [3], start_command: a}
";
    let names: Vec<_> = config(text).doors.iter().map(|door| door.name().to_string()).collect();
    assert_eq!(names, ["B", "a", "c"]);
}

#[test]
fn the_files_of_a_directory_are_put_together() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("10-doors.yaml", "doors: {a: {sequence: [1], open: [22], via: t}}\nknockd: {user: u}"),
        ("20-more.yaml", "doors: {b: {sequence: [2], start_command: x}}"),
        ("90-templates.yaml", "templates: {t: {open: echo %PORT%}}\nknockd: {only_ipv4: true}"),
        ("empty.yaml", "# nothing\n"),
        (".hidden.yaml", "doors: ["),
        ("doors.yaml~", "doors: ["),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let config = load(directory.path(), &Options::default()).unwrap().config;
    assert_eq!(config.doors.len(), 2);
    assert_eq!(config.settings.user.as_deref(), Some("u"));
    assert!(config.settings.only_ipv4);
}

const CLASSIC: &str = "
# As the manual has it, in any case.
[options]
\tUseSyslog
\tlogfile = /var/log/knockd.log
\tPIDFILE = /var/run/knockd.pid
\tInterface = eth0

[opencloseSSH]
\tsequence      = 2222:udp,3333:tcp, 4444
\tseq_timeout   = 15
\ttcpflags      = syn,!ack
\tTarget        = 192.0.2.10
\tstart_command = echo %IP% 100% $(date +%s)
\tcmd_timeout   = 5
\tstop_command  = echo bye %IP%
";

#[test]
fn a_classic_file_is_read_as_it_is() {
    let Config { settings, doors, .. } = config(CLASSIC);
    assert_eq!(names(&settings.interfaces), "eth0");
    assert_eq!(settings.log.syslog.as_deref(), Some("daemon"));
    assert_eq!(settings.log.file.as_deref(), Some(Path::new("/var/log/knockd.log")));
    assert_eq!(settings.pid_file, Path::new("/var/run/knockd.pid"));
    let Recognition { name, sequence, seq_timeout, flags, target, .. } = &doors[0].recognition;
    assert_eq!(name.as_str(), "opencloseSSH");
    let sequence: Vec<_> = sequence.iter().map(ToString::to_string).collect();
    assert_eq!(sequence, ["2222/udp", "3333/tcp", "4444/tcp"]);
    assert_eq!(*seq_timeout, Duration::from_secs(15));
    assert_eq!(*flags, FlagTest::SYN);
    assert_eq!(*target, Some("192.0.2.10".parse().unwrap()));
    assert_eq!(doors[0].opening.open_for, Duration::from_secs(5));
    let pair = doors[0].opening.commands().unwrap().of(Family::V6);
    let open = argv(pair.open.as_ref(), "2001:db8::2");
    assert_eq!(open, shell("echo 2001:db8::2 100% $(date +%s)"));
}

#[test]
fn classic_names_that_are_alike_here_get_a_number() {
    let long = "x".repeat(32);
    let names =
        ["open ssh".to_owned(), "open_ssh".to_owned(), format!("{long}1"), format!("{long}2")];
    let door = |name: &String| format!("[{name}]\nSequence = 7000\nCommand = true\n");
    let text: String = names.iter().map(door).collect();
    let loaded = parse(&SourceText::new("knockd.conf", text)).unwrap();
    let found = loaded.config.doors.iter().map(|door| door.name().to_string());
    let found: BTreeSet<_> = found.collect();
    let numbered = long[..30].to_owned() + "-2";
    assert_eq!(found, ["open_ssh", "open_ssh-2", &long, &numbered].map(str::to_owned).into());
    let warned = loaded.warnings.iter().filter(|it| it.message.contains("is called"));
    // The one whose name is a name as it stands keeps it.
    assert_eq!(warned.count(), 3);
}

#[test]
fn classic_files_and_pid_files_keep_daemons_apart() {
    let places = |file: &str, options: &str| {
        let text = format!("[options]\n{options}\n[a]\nSequence = 1,2\nCommand = x\n");
        let Settings { state_dir, run_dir, pid_file, .. } =
            parse(&SourceText::new(file, text)).unwrap().config.settings;
        [state_dir, run_dir, pid_file].map(|path| path.display().to_string())
    };
    let plain = ["/var/lib/knockd", "/run/knockd", "/run/knockd/knockd.pid"];
    assert_eq!(places("/etc/knockd.conf", ""), plain);
    let pid = "PidFile = /var/run/knockd.pid";
    assert_eq!(places("/etc/knockd.conf", pid), [plain[0], plain[1], "/var/run/knockd.pid"]);
    let of = |name: &str, pid: &str| {
        [
            format!("{}/instances/{name}", plain[0]),
            format!("{}/instances/{name}", plain[1]),
            pid.to_owned(),
        ]
    };
    let pid_file = "/run/knockd/instances/knockd-wan/knockd.pid";
    assert_eq!(places("/etc/knockd-wan.conf", ""), of("knockd-wan", pid_file));
    assert_eq!(places("/etc/knockd.conf", "PidFile = /run/lan.pid"), of("lan", "/run/lan.pid"));
    assert_eq!(places("/etc/wan.conf", "PidFile = /run/lan.pid"), of("wan+lan", "/run/lan.pid"));
}

#[test]
fn the_classic_may_ask_for_syslog_twice() {
    let text = "[options]\nUseSyslog\nusesyslog\n[ssh]\nSequence = 7000\nCommand = true\n";
    assert_eq!(config(text).settings.log.syslog.as_deref(), Some("daemon"));
}

#[test]
fn a_classic_file_has_the_defaults_of_the_classic() {
    let config = config("[a]\nSequence = 1,2\nCommand = x\nStop_Command = y\n");
    let classic_file = Some("knockd.conf".into());
    assert_eq!(config.settings, Settings { classic_file, ..Settings::default() });
    let Door { recognition, opening, .. } = &config.doors[0];
    assert_eq!(recognition.flags, FlagTest::ANY);
    assert_eq!(recognition.seq_timeout, Duration::from_secs(25));
    assert_eq!(recognition.trip_wires, 16);
    assert_eq!(opening.open_for, Duration::from_secs(10));
}

#[test]
fn the_other_names_of_the_classic_are_known() {
    let door = door("[a]\nSequence = 1\nTimeout = 3\nCommand = x\nCommand_6 = y\n");
    assert_eq!(door.recognition.seq_timeout, Duration::from_secs(3));
    assert_eq!(commands(&door), some(["x", "-", "y", "-"]));
}

#[test]
fn a_door_cools_down_for_the_time_of_its_key_or_of_the_forks_directive() {
    assert_eq!(door_of("start_command: /bin/true").opening.cooldown, Duration::ZERO);
    let with = door_of("start_command: /bin/true\ncooldown: 60s");
    assert_eq!(with.opening.cooldown, Duration::from_secs(60));
    for (given, seconds) in [("5", 5), ("0", 0)] {
        let text = format!("[a]\nsequence = 8211:udp\nseq_cooldown = {given}\ncommand = true\n");
        assert_eq!(door(&text).opening.cooldown, Duration::from_secs(seconds));
    }
}

#[test]
fn an_empty_ipv6_command_of_the_classic_does_nothing() {
    let door = door("[a]\nSequence = 1\nStart_Command = x\nStop_Command = y\nStart_Command_6 =\n");
    assert_eq!(commands(&door), some(["x", "y", "-", "-"]));
}

#[test]
fn a_classic_file_is_told_by_its_content() {
    for text in [
        "[options]\n",
        "# doors:\n\n  [a]\nSequence = 1\nCommand = x\n",
        "\u{feff}[a]\r\nSequence = 1\r\nCommand = x\r\n",
    ] {
        assert!(libknock::config::classic::is_classic(text), "{text:?}");
    }
    for text in ["", "# [a]\n", "doors:\n", "---\n", "knockd: {user: a}\n", "{doors: {}}\n"] {
        assert!(!libknock::config::classic::is_classic(text), "{text:?}");
    }
}

#[test]
fn a_door_with_ports_is_opened_by_the_guard_for_half_a_minute() {
    for lines in ["open: [22/tcp]", "open: [22/tcp]\nvia: guard"] {
        let opening = door_of(lines).opening;
        assert_eq!(opening.mechanism, Mechanism::Guard);
        assert_eq!(opening.open_for, Duration::from_secs(30));
        assert_eq!(opening.single_port(), Some("22/tcp".parse().unwrap()));
        assert_eq!((opening.on_open, opening.on_close), (None, None));
    }
}

#[test]
fn a_set_of_nftables_has_a_table_and_one_name_a_family() {
    let how = |set: &str| door_of(&format!("via: {{nft_set: {set}}}")).opening.mechanism;
    let both = how("{table: inet filter, set4: ssh4, set6: ssh6}");
    assert_eq!(both.to_string(), "nft_set inet filter ssh4 ssh6");
    assert!(both.opens(Family::V4) && both.opens(Family::V6));
    let one = how("{table: '  ip6   my-table ', set6: ssh6}");
    assert_eq!(one.to_string(), "nft_set ip6 my-table ssh6");
    assert!(!one.opens(Family::V4) && one.opens(Family::V6));
}

#[test]
fn a_door_says_by_what_it_is_opened() {
    assert_eq!(door_of("open: [22]").opening.mechanism.to_string(), "guard");
    assert_eq!(door_of("open: [22]\nvia: iptables").opening.mechanism.to_string(), "iptables");
    assert_eq!(door_of("start_command: x").opening.mechanism.to_string(), "commands");
}

#[test]
fn what_runs_after_opening_and_closing_is_the_same_for_both_families() {
    let hooks = "on_open: echo %IP%:%PORT%\non_close: [echo, \"%DOOR%\"]\nopen: [22]";
    for via in ["guard", "iptables", "{nft_set: {table: inet filter, set4: a}}"] {
        let opening = door_of(&format!("{hooks}\nvia: {via}")).opening;
        assert_eq!(argv(opening.on_open.as_ref(), "192.0.2.2"), shell("echo 192.0.2.2:22"));
        let close = argv(opening.on_close.as_ref(), "2001:db8::2").unwrap();
        assert_eq!(close, ["echo", "ssh"]);
    }
}
