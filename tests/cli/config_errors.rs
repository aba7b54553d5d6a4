//! What a person reads who has made a mistake in a configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use libknock::config::Family;
use libknock::config::diagnostic::SourceText;
use libknock::config::lint::{HostFacts, HostNetwork, lint};
use libknock::config::load::{Loaded, Options, load, parse};
use snapbox::{IntoData, assert_data_eq, str};

fn load_path(path: &Path) -> Result<Loaded, String> {
    load(path, &Options { insecure_permissions: false }).map_err(|report| report.to_string())
}

/// What is printed for a file of this text; its warnings if it has no errors.
fn said_of_file(name: &str, text: &str) -> String {
    match parse(&SourceText::new(name, text)) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(errors) => errors.to_string(),
    }
}

/// What is printed for a configuration.
fn said(text: &str) -> String {
    said_of_file("doors.yaml", text)
}

/// What is printed for a `knockd.conf`.
fn said_of_classic(text: &str) -> String {
    said_of_file("knockd.conf", text)
}

/// What is printed for a door that is good but for these lines.
fn said_of_door(lines: &str) -> String {
    let lines = lines.replace('\n', "\n    ");
    said(&format!("doors:\n  ssh:\n    {lines}\n"))
}

macro_rules! says {
    ($($name:ident: $said:expr => $expected:expr;)*) => {
        $(#[test]
        fn $name() {
            assert_data_eq!($said, $expected.raw());
        })*
    };
}

says! {
    a_good_door_has_nothing_said_of_it: said_of_door("sequence: [7000, 8000/udp, 9000]\nstart_command: echo %IP%") => str![];
    a_door_for_networks_has_commands_that_take_them: said_of_door("spa: true\nwidth: {ipv4: 24}\nstart_command: let-in %NET%\nstop_command: shut-out %NET%\non_open: told %IP% of %NET%") => str![[r#"
doors.yaml:3:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you

"#]];
    a_door_for_networks_whose_commands_take_one_address: said_of_door("spa: true\nwidth: {ipv4: 24}\nstart_command: let-in %NET%\nstop_command: shut-out %IP%") => str![[r#"
doors.yaml:4:12: error: door 'ssh' opens for single addresses alone, via commands
    write %NET% where its commands have %IP%, or open it via guard, or remove 'width'
doors.yaml:3:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    a_door_for_networks_whose_hook_takes_one_address: said_of_door("spa: true\nopen: [22]\nwidth: {ipv6: 64}\non_open: told $KNOCK_IP") => str![[r#"
doors.yaml:5:12: error: door 'ssh' opens for single addresses alone, via guard
    write %NET% where its commands have %IP%, or open it via guard, or remove 'width'
doors.yaml:3:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    a_door_for_networks_by_a_template_that_has_none: said_of_door("spa: true\nopen: [22]\nvia: ipset\nwidth: {ipv4: 24}") => str![[r#"
doors.yaml:6:12: error: door 'ssh' opens for single addresses alone, via ipset
    write %NET% where its commands have %IP%, or open it via guard, or remove 'width'
doors.yaml:3:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    a_door_for_networks_by_sets_of_addresses: said_of_door("spa: true\nopen: [22]\nvia: {nft_set: {table: inet filter, set4: ssh}}\nwidth: {ipv4: 24}") => str![[r#"
doors.yaml:6:12: error: door 'ssh' opens for single addresses alone, via nft_set inet filter ssh
    write %NET% where its commands have %IP%, or open it via guard, or remove 'width'
doors.yaml:3:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you
"#]];
    a_width_of_single_addresses_fits_any_door: said_of_door("spa: true\nopen: [22]\nvia: {nft_set: {table: inet filter, set4: ssh}}\nwidth: {ipv4: 32}") => str![[r#"
doors.yaml:3:10: warning: no client may open door 'ssh' by spa
        spa: true
             ^^^^
    write one under 'clients:'; 'knockctl enroll' does it for you

"#]];
    a_client_for_networks_at_a_door_for_addresses: said("doors:\n  plain: {sequence: [7000, 9000, 8000], start_command: let-in %IP%}\n  ssh: {spa: true, start_command: let-in %IP%}\n  web: {spa: true, start_command: let-in %IP%, width: {ipv4: 32}}\nclients:\n  a: {doors: [ssh, web], width: {ipv4: 24}, spa: {public_key: ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=}}\n") => str![[r#"
doors.yaml:6:33: error: door 'ssh' opens for single addresses alone, via commands
    write %NET% where its commands have %IP%, or open it via guard, or remove 'width'
"#]];
    addresses_at_a_door_that_knows_nobody: said_of_door("sequence: [7000, 9000, 8000]\nopen: [22]\naddresses: 1") => str![[r#"
doors.yaml:5:5: warning: 'addresses' has no effect: no sequence says whose it is
        addresses: 1
        ^^^^^^^^^
    remove it

"#]];
    a_command_that_sleeps_for_longer_than_it_may: said_of_door("sequence: [7000, 8000/udp, 9000]\nstart_command: ufw allow; sleep 6; sleep 1m; ufw deny\non_open: timeout 20 nc 192.0.2.9 99\nstop_command: (sleep 60; x) &") => str![[r#"
doors.yaml:4:20: warning: what runs here sleeps, and is killed after 10s
        start_command: ufw allow; sleep 6; sleep 1m; ufw deny
                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    write what comes after the sleep as what closes the door, and its time as open_for; or a longer command_limit, or command_limit: none
doors.yaml:5:14: warning: what runs here sleeps, and is killed after 10s
        on_open: timeout 20 nc 192.0.2.9 99
                 ^^^^^^^^^^^^^^^^^^^^^^^^^^
    write what comes after the sleep as what closes the door, and its time as open_for; or a longer command_limit, or command_limit: none

"#]];
    a_command_that_sleeps_for_as_long_as_it_may: said_of_door("sequence: [7000, 8000/udp, 9000]\nstart_command: sleep 60\ncommand_limit: 2m") => str![];
    a_command_that_may_sleep_without_end: said("knockd: {command_limit: 2s}\ndoors: {ssh: {sequence: [7000, 8000/udp, 9000], start_command: sleep infinity, command_limit: none}}") => str![];
    a_template_that_sleeps_for_longer_than_it_may: said("knockd: {command_limit: 5s}\ntemplates: {t: {open: sleep 4.5, close: 'true'}}\ndoors: {ssh: {sequence: [7000, 8000/udp, 9000], open: 22, via: t}}") => str![[r#"
doors.yaml:3:64: warning: what runs here sleeps, and is killed after 5s
    doors: {ssh: {sequence: [7000, 8000/udp, 9000], open: 22, via: t}}
                                                                   ^
    write what comes after the sleep as what closes the door, and its time as open_for; or a longer command_limit, or command_limit: none

"#]];
    limits_of_commands_that_are_none: said("knockd: {command_limit: never}\ndoors: {ssh: {sequence: [7000, 8000/udp, 9000], start_command: echo, command_limit: 0}}") => str![[r#"
doors.yaml:1:25: error: 'never' is not a duration: write 30s, 5m, 1h30m, or a number of seconds
    knockd: {command_limit: never}
                            ^^^^^
doors.yaml:2:85: error: command_limit cannot be zero
    doors: {ssh: {sequence: [7000, 8000/udp, 9000], start_command: echo, command_limit: 0}}
                                                                                        ^
"#]];
    privileges_where_no_command_runs: said("knockd: {no_new_privs: true}\ndoors: {ssh: {sequence: [7000, 8000/udp, 9000], open: 22, no_new_privs: true}}") => str![[r#"
doors.yaml:1:10: warning: 'no_new_privs' has no effect: no door runs a command
    knockd: {no_new_privs: true}
             ^^^^^^^^^^^^
    remove it
doors.yaml:2:59: warning: 'no_new_privs' has no effect: this door runs no command
    doors: {ssh: {sequence: [7000, 8000/udp, 9000], open: 22, no_new_privs: true}}
                                                              ^^^^^^^^^^^^
    remove it

"#]];
    a_limit_where_no_command_runs: said("knockd: {command_limit: none}\ndoors: {ssh: {sequence: [7000, 8000/udp, 9000], open: 22, command_limit: 1m}}") => str![[r#"
doors.yaml:1:10: warning: 'command_limit' has no effect: no door runs a command
    knockd: {command_limit: none}
             ^^^^^^^^^^^^^
    remove it
doors.yaml:2:59: warning: 'command_limit' has no effect: this door runs no command
    doors: {ssh: {sequence: [7000, 8000/udp, 9000], open: 22, command_limit: 1m}}
                                                              ^^^^^^^^^^^^^
    remove it

"#]];
    an_act_that_says_itself_when_it_ends: said_of_door("sequence: [7000, 8000/udp, 9000]\nstart_command: echo %IP% timeout %SECONDS%\nopen_for: 1m") => str![];
    a_classic_command_may_sleep: said_of_classic("[ssh]\nSequence = 7000,8000:udp,9000\nCommand = sleep 60\n") => str![];
    a_misspelt_key: said_of_door("sequnce: [7000, 8000]\nstart_command: 'true'") => str![[r#"
doors.yaml:3:5: error: 'sequnce' is not a key of a door: did you mean 'sequence'?
        sequnce: [7000, 8000]
        ^^^^^^^
"#]];
    a_misspelt_top_key: said("door:\n  ssh: {}\n") => str![[r#"
doors.yaml:1:1: error: 'door' is not a key of a configuration: did you mean 'doors'?
    door:
    ^^^^
"#]];
    a_misspelt_setting: said("knockd:\n  interface: [eth0]\n") => str![[r#"
doors.yaml:2:3: error: 'interface' is not a key of knockd: did you mean 'interfaces'?
      interface: [eth0]
      ^^^^^^^^^
"#]];
    a_name_that_no_interface_has: said("knockd:\n  interfaces: [eth0, \"s0, lo\"]\n") => str![[r#"
doors.yaml:2:22: error: 's0, lo' is not the name of an interface: it is several, and each has to be given by itself
      interfaces: [eth0, "s0, lo"]
                         ^^^^^^^^
"#]];
    an_unknown_key: said_of_door("sequence: [7000]\nstart_command: 'true'\nbanana: 1") => str![[r#"
doors.yaml:5:5: error: 'banana' is not a key of a door
        banana: 1
        ^^^^^^
    its keys are: sequence, one_time_sequences, totp, spa, fwknop, seq_timeout, tcpflags, target, trip_wires, lockout, open, forward, open_for, open_for_max, max_grants, hold, on_expiry, addresses, fleet, width, cooldown, via, guard, on_open, on_close, start_command, stop_command, start_command_6, stop_command_6, verify_command, verify_command_6, cmd_timeout, command_limit, no_new_privs
"#]];
    no_sequence: said_of_door("start_command: 'true'") => str![[r#"
doors.yaml:2:3: error: nothing opens door 'ssh': it has no sequence
      ssh:
      ^^^
    write for example sequence: [7000, 8000/udp, 9000]; or one_time_sequences, totp, spa or fwknop
"#]];
    an_empty_sequence: said_of_door("sequence: []\nstart_command: 'true'") => str![[r#"
doors.yaml:3:15: error: a sequence needs at least one knock: three or more are sensible
        sequence: []
                  ^
"#]];
    a_sequence_that_is_no_list: said_of_door("sequence: 7000, 8000\nstart_command: 'true'") => str![[r#"
doors.yaml:3:15: error: a sequence is a list
        sequence: 7000, 8000
                  ^^^^^^^^^^
    write sequence: [7000, 8000]
"#]];
    too_many_knocks: said_of_door(&format!("sequence: {:?}\nstart_command: 'true'", [1; 33])) => str![[r#"
doors.yaml:3:15: error: a sequence has at most 32 knocks, not 33
        sequence: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
                  ^
"#]];
    a_word_for_a_port: said_of_door("sequence: [abc, 8000, 9000]\nstart_command: 'true'") => str![[r#"
doors.yaml:3:16: error: 'abc' is not a port: write a number from 1 to 65535
        sequence: [abc, 8000, 9000]
                   ^^^
"#]];
    ports_out_of_range: said_of_door("sequence: [0, 70000, -1]\nstart_command: 'true'") => str![[r#"
doors.yaml:3:16: error: port 0 is out of range: ports go from 1 to 65535
        sequence: [0, 70000, -1]
                   ^
doors.yaml:3:19: error: port 70000 is out of range: ports go from 1 to 65535
        sequence: [0, 70000, -1]
                      ^^^^^
doors.yaml:3:26: error: '-1' is not a port: write a number from 1 to 65535
        sequence: [0, 70000, -1]
                             ^^
"#]];
    an_unknown_protocol: said_of_door("sequence: [7000:upd, 8000/icmp]\nstart_command: 'true'") => str![[r#"
doors.yaml:3:16: error: 'upd' is not a protocol: write tcp or udp
        sequence: [7000:upd, 8000/icmp]
                   ^^^^^^^^
doors.yaml:3:26: error: 'icmp' is not a protocol: write tcp or udp
        sequence: [7000:upd, 8000/icmp]
                             ^^^^^^^^^
"#]];
    a_port_with_a_blank: said_of_door("sequence: [7000: udp]\nstart_command: 'true'") => str![[r#"
doors.yaml:3:16: error: a port such as 7000 or 8000/udp belongs here, not a mapping
        sequence: [7000: udp]
                   ^
    write 7000:udp without a blank after the colon
"#]];
    nothing_to_do: said_of_door("sequence: [7000]") => str![[r#"
doors.yaml:2:3: error: door 'ssh' does nothing when it opens
      ssh:
      ^^^
    write the ports to open, open: [22/tcp], or a 'start_command'
"#]];
    a_bad_duration: said_of_door("sequence: [7000]\nstart_command: 'true'\nseq_timeout: 5 minutes") => str![[r#"
doors.yaml:5:18: error: '5 minutes' is not a duration: write 30s, 5m, 1h30m, or a number of seconds
        seq_timeout: 5 minutes
                     ^^^^^^^^^
"#]];
    a_zero_duration: said_of_door("sequence: [7000]\nstart_command: 'true'\nstop_command: 'true'\nseq_timeout: 0\nopen_for: 0s") => str![[r#"
doors.yaml:6:18: error: seq_timeout cannot be zero
        seq_timeout: 0
                     ^
doors.yaml:7:15: error: open_for cannot be zero
        open_for: 0s
                  ^^
"#]];
    two_names_for_one_time: said_of_door("sequence: [7000]\nstart_command: 'true'\nstop_command: 'true'\nopen_for: 5\ncmd_timeout: 6") => str![[r#"
doors.yaml:7:5: error: 'cmd_timeout' and 'open_for' are two names for one thing
        cmd_timeout: 6
        ^^^^^^^^^^^
    remove one; the other is at doors.yaml:6:5
"#]];
    a_time_without_a_close: said_of_door("sequence: [7000]\nstart_command: 'true'\nopen_for: 5") => str![[r#"
doors.yaml:5:5: warning: 'open_for' has no effect: nothing closes this door
        open_for: 5
        ^^^^^^^^
    write a 'stop_command', or remove it

"#]];
    a_close_without_an_open: said_of_door("sequence: [7000]\nstop_command: 'true'") => str![[r#"
doors.yaml:4:5: error: stop_command without start_command: there would be nothing to undo
        stop_command: 'true'
        ^^^^^^^^^^^^
    write start_command too, or remove stop_command
"#]];
    an_ipv6_close_without_an_open: said_of_door("sequence: [7000]\nstart_command: 'true'\nstart_command_6:\nstop_command_6: 'true'") => str![[r#"
doors.yaml:6:5: error: stop_command_6 without start_command_6: there would be nothing to undo
        stop_command_6: 'true'
        ^^^^^^^^^^^^^^
    write start_command_6 too, or remove stop_command_6
"#]];
    a_look_for_what_nothing_closes: said_of_door("sequence: [7000]\nstart_command: 'true'\nverify_command: 'true'") => str![[r#"
doors.yaml:5:5: error: verify_command without stop_command: nothing stays open, so there is nothing to look for
        verify_command: 'true'
        ^^^^^^^^^^^^^^
    write stop_command too, or remove verify_command
"#]];
    an_unknown_flag: said_of_door("sequence: [7000]\nstart_command: 'true'\ntcpflags: [syn, akc]") => str![[r#"
doors.yaml:5:21: error: 'akc' is not a TCP flag: write fin, syn, rst, psh, ack or urg, or one of them after !
        tcpflags: [syn, akc]
                        ^^^
"#]];
    a_flag_without_quotes: said_of_door("sequence: [7000]\nstart_command: 'true'\ntcpflags: [syn, !ack]") => str![[r#"
doors.yaml:5:21: error: '!ack' without quotes is a YAML tag, which means nothing here
        tcpflags: [syn, !ack]
                        ^^^^
    put text that begins with ! in quotes
"#]];
    flags_that_exclude_each_other: said_of_door("sequence: [7000]\nstart_command: 'true'\ntcpflags: syn,!syn") => str![[r#"
doors.yaml:5:15: error: no packet has the flag syn and lacks it: write syn or !syn
        tcpflags: syn,!syn
                  ^^^^^^^^
"#]];
    a_target_that_is_a_name: said_of_door("sequence: [7000]\nstart_command: 'true'\ntarget: gw.example.com") => str![[r#"
doors.yaml:5:13: error: 'gw.example.com' is not an IP address
        target: gw.example.com
                ^^^^^^^^^^^^^^
    write an address such as 192.0.2.10 or 2001:db8::10; names are not looked up
"#]];
    a_target_that_is_no_address: said_of_door("sequence: [7000]\nstart_command: 'true'\ntarget: 0.0.0.0") => str![[r#"
doors.yaml:5:13: error: no packet is sent to 0.0.0.0
        target: 0.0.0.0
                ^^^^^^^
    without 'target' a knock at any address of this host counts
"#]];
    too_many_trip_wires: said_of_door("sequence: [7000]\nstart_command: 'true'\ntrip_wires: many") => str![[r#"
doors.yaml:5:17: error: 'many' is not valid here: write a number from 0 to 1000
        trip_wires: many
                    ^^^^
"#]];
    an_unknown_hole: said_of_door("sequence: [7000]\nstart_command: iptables -s %IPP%") => str![[r#"
doors.yaml:4:20: error: unknown hole %IPP%: did you mean %IP%?
        start_command: iptables -s %IPP%
                       ^^^^^^^^^^^^^^^^^
"#]];
    a_lone_percent_sign: said_of_door("sequence: [7000]\nstart_command: date +%s") => str![[r#"
doors.yaml:4:20: error: a lone percent sign: write %% for a percent sign
        start_command: date +%s
                       ^^^^^^^^
"#]];
    a_hole_that_nothing_fills: said_of_door("sequence: [7000]\nstart_command: iptables --dport %PORT%") => str![[r#"
doors.yaml:4:20: error: nothing fills %PORT%: the door has no 'open'
        start_command: iptables --dport %PORT%
                       ^^^^^^^^^^^^^^^^^^^^^^^
    write 'open: [22/tcp]' with 'via: TEMPLATE', or put the port into the command
"#]];
    a_hole_without_quotes: said_of_door("sequence: [7000]\nstart_command: [iptables, %IP%]") => str![[r#"
doors.yaml:4:31: error: not valid YAML: unexpected character: `%'
        start_command: [iptables, %IP%]
                                  ^
    put text that begins with % in quotes
"#]];
    an_empty_list_of_words: said_of_door("sequence: [7000]\nstart_command: []") => str![[r#"
doors.yaml:4:20: error: the list names no program
        start_command: []
                       ^
"#]];
    a_program_that_is_missing: said_of_door("sequence: [7000]\nstart_command: [no-such-program, '%IP%']\nstop_command: /no/such/program %IP%") => str![[r#"
doors.yaml:4:21: warning: there is no program 'no-such-program' on this machine
        start_command: [no-such-program, '%IP%']
                        ^^^^^^^^^^^^^^^
    install it, or write its whole path; it was looked for in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
doors.yaml:5:19: warning: there is no program '/no/such/program' on this machine
        stop_command: /no/such/program %IP%
                      ^^^^^^^^^^^^^^^^^^^^^
    install it, or correct the path

"#]];
    both_open_and_a_command: said_of_door("sequence: [7000]\nopen: [22]\nvia: nft\nstart_command: 'true'") => str![[r#"
doors.yaml:6:5: error: 'start_command' and 'open' exclude each other
        start_command: 'true'
        ^^^^^^^^^^^^^
    write 'open', or commands of the door's own, not both
"#]];
    open_is_by_the_guard_unless_via_says_otherwise: said_of_door("sequence: [7000]\nopen: [22]") => str![];
    open_by_the_guard: said_of_door("sequence: [7000]\nopen: [22]\nvia: guard\non_open: echo %IP% %PORT%\non_close: [echo, '%DOOR%']") => str![];
    the_guard_without_a_port: said_of_door("sequence: [7000]\nvia: guard") => str![[r#"
doors.yaml:4:10: error: the guard has nothing to lock: the door has no 'open'
        via: guard
             ^^^^^
    write the ports that the door opens, such as open: [22/tcp]
"#]];
    a_guarded_port_that_is_knocked_on: said_of_door("sequence: [7000, 22, 8000]\nopen: [80, 22]") => str![[r#"
doors.yaml:4:16: error: 22/tcp is both knocked on and opened by this door
        open: [80, 22]
                   ^^
    knock on ports that nothing else uses
"#]];
    a_range_of_ports: said_of_door("sequence: [7000, 9000, 8000]\nopen: [60000-61000/udp, 22]") => str![];
    a_range_that_is_upside_down: said_of_door("sequence: [7000, 9000, 8000]\nopen: [61000-60000/udp]") => str![[r#"
doors.yaml:4:12: error: the range 61000-60000 holds no port: write the lower port first
        open: [61000-60000/udp]
               ^^^^^^^^^^^^^^^
"#]];
    a_range_as_iptables_has_it: said_of_door("sequence: [7000, 9000, 8000]\nopen: [60000:61000/udp]") => str![[r#"
doors.yaml:4:12: error: '60000:61000/udp' is not a range of ports: write the first and the last, as in 20000-29999
        open: [60000:61000/udp]
               ^^^^^^^^^^^^^^^
"#]];
    a_forward_to_an_address_with_its_port: said_of_door("sequence: [7000, 9000, 8000]\nforward: [{on: 2222, to: '192.168.1.10:22'}]") => str![[r#"
doors.yaml:4:30: error: '192.168.1.10:22' is not an IP address
        forward: [{on: 2222, to: '192.168.1.10:22'}]
                                 ^^^^^^^^^^^^^^^^^
    write to: "192.168.1.10", port: 22
"#]];
    a_forward_that_observes: said_of_door("sequence: [7000, 9000, 8000]\nguard: observe\nforward: [{on: 2222, to: 192.168.1.10}]") => str![[r#"
doors.yaml:4:5: warning: 'guard' has no effect: this door only forwards: it has no port to lock
        guard: observe
        ^^^^^
    remove it

"#]];
    a_forward_where_the_whole_guard_observes: said("knockd: {guard: observe}\ndoors: {in: {sequence: [7000, 9000, 8000], forward: [{on: 2222, to: 192.168.1.10}]}}") => str![];
    a_range_in_a_sequence: said_of_door("sequence: [7000-7002, 9000, 8000]\nopen: [22]") => str![[r#"
doors.yaml:3:16: error: '7000-7002' is not a port: write a number from 1 to 65535
        sequence: [7000-7002, 9000, 8000]
                   ^^^^^^^^^
"#]];
    a_range_that_is_knocked_on: said_of_door("sequence: [7000, 9000, 8000]\nopen: [7900-8100]") => str![[r#"
doors.yaml:4:12: error: 7900-8100/tcp is both knocked on and opened by this door
        open: [7900-8100]
               ^^^^^^^^^
    knock on ports that nothing else uses
"#]];
    a_forward: said_of_door("sequence: [7000, 9000, 8000]\nforward: [{on: 2222/tcp, to: 192.168.1.10, port: 22, masquerade: false}]") => str![];
    a_forward_that_is_no_list: said_of_door("sequence: [7000, 9000, 8000]\nforward: {on: 2222/tcp, to: 192.168.1.10}") => str![];
    a_forward_to_nowhere: said_of_door("sequence: [7000, 9000, 8000]\nforward: []") => str![[r#"
doors.yaml:4:14: error: 'forward' leads nowhere
        forward: []
                 ^
    write for example forward: [{on: 2222/tcp, to: 192.168.1.10, port: 22}]
"#]];
    a_forward_that_is_not_whole: said_of_door("sequence: [7000, 9000, 8000]\nforward: [{on: 2222}, {to: 192.168.1.10}, {in: 2222, to: 192.168.1.10}]") => str![[r#"
doors.yaml:4:15: error: a forward without 'to'
        forward: [{on: 2222}, {to: 192.168.1.10}, {in: 2222, to: 192.168.1.10}]
                  ^
    write for example {on: 2222/tcp, to: 192.168.1.10, port: 22}
doors.yaml:4:27: error: a forward without 'on'
        forward: [{on: 2222}, {to: 192.168.1.10}, {in: 2222, to: 192.168.1.10}]
                              ^
    write for example {on: 2222/tcp, to: 192.168.1.10, port: 22}
doors.yaml:4:48: error: 'in' is not a key of forward: did you mean 'on'?
        forward: [{on: 2222}, {to: 192.168.1.10}, {in: 2222, to: 192.168.1.10}]
                                                   ^^
"#]];
    a_forward_to_what_is_no_host: said_of_door("sequence: [7000, 9000, 8000]\nforward:\n  - {on: 2222, to: 127.0.0.1}\n  - {on: 2223, to: fe80::1}\n  - {on: 2224, to: 0.0.0.0}\n  - {on: 2225, to: inner}\n  - {on: 2226, to: 192.168.1.10, port: 0}") => str![[r#"
doors.yaml:5:24: error: nothing can be forwarded to 127.0.0.1: the kernel leads nothing from outside there
          - {on: 2222, to: 127.0.0.1}
                           ^^^^^^^^^
    write the address of the host in its network
doors.yaml:6:24: error: nothing can be forwarded to fe80::1: it is good on one link only
          - {on: 2223, to: fe80::1}
                           ^^^^^^^
    write the address of the host in its network
doors.yaml:7:24: error: nothing can be forwarded to 0.0.0.0: it is not the address of one host
          - {on: 2224, to: 0.0.0.0}
                           ^^^^^^^
    write the address of the host in its network
doors.yaml:8:24: error: 'inner' is not an IP address
          - {on: 2225, to: inner}
                           ^^^^^
    write an address such as 192.168.1.10; names are not looked up
doors.yaml:9:44: error: '0' is not valid here: write a number from 1 to 65535
          - {on: 2226, to: 192.168.1.10, port: 0}
                                               ^
"#]];
    a_range_that_is_forwarded: said_of_door("sequence: [7000, 9000, 8000]\nforward: [{on: 2222-2229/tcp, to: 192.168.1.10}]") => str![[r#"
doors.yaml:4:20: error: '2222-2229' is not a port: write a number from 1 to 65535
        forward: [{on: 2222-2229/tcp, to: 192.168.1.10}]
                       ^^^^^^^^^^^^^
    an entry is for one port, such as 2222/tcp
"#]];
    a_port_that_is_forwarded_twice: said_of_door("sequence: [7000, 9000, 8000]\nforward:\n  - {on: 2222, to: 192.168.1.10}\n  - {on: 2222, to: 2001:db8::10}\n  - {on: 2222, to: 192.168.1.11}") => str![[r#"
doors.yaml:7:9: error: a forward of 2222/tcp is given twice: first at doors.yaml:5:9
          - {on: 2222, to: 192.168.1.11}
            ^
"#]];
    a_forward_that_is_knocked_on: said_of_door("sequence: [7000, 9000, 8000]\nforward: [{on: 9000, to: 192.168.1.10}]") => str![[r#"
doors.yaml:4:15: error: 9000/tcp is both knocked on and opened by this door
        forward: [{on: 9000, to: 192.168.1.10}]
                  ^
    knock on ports that nothing else uses
"#]];
    a_forward_by_another_firewall: said_of_door("sequence: [7000, 9000, 8000]\nopen: [22]\nvia: iptables\nforward: [{on: 2222, to: 192.168.1.10}]") => str![[r#"
doors.yaml:6:5: error: only the guard forwards
        forward: [{on: 2222, to: 192.168.1.10}]
        ^^^^^^^
    write via: guard, or make this a door of its own
"#]];
    a_forward_beside_commands: said_of_door("sequence: [7000, 9000, 8000]\nstart_command: a\nforward: [{on: 2222, to: 192.168.1.10}]") => str![[r#"
doors.yaml:4:5: error: 'start_command' and 'forward' exclude each other
        start_command: a
        ^^^^^^^^^^^^^
    write 'forward', or commands of the door's own, not both
"#]];
    a_set_of_nftables: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inet filter, set4: ssh4, set6: ssh6}}") => str![];
    a_set_of_one_family: said_of_door("sequence: [7000]\nvia: {nft_set: {table: ip6 filter, set6: ssh6}}") => str![];
    a_set_without_a_table: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {set4: ssh4}}") => str![[r#"
doors.yaml:5:20: error: nft_set does not say in which table the sets are
        via: {nft_set: {set4: ssh4}}
                       ^
    write for example table: inet filter
"#]];
    a_table_without_a_set: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inet filter}}") => str![[r#"
doors.yaml:5:20: error: nft_set names no set: nothing would be opened
        via: {nft_set: {table: inet filter}}
                       ^
    write set4, for IPv4 addresses, or set6, or both
"#]];
    a_table_without_a_family: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: filter, set4: ssh4}}") => str![[r#"
doors.yaml:5:28: error: 'filter' does not name a table by its family and name
        via: {nft_set: {table: filter, set4: ssh4}}
                               ^^^^^^
    write for example inet filter; 'nft list tables' shows them
"#]];
    a_misspelt_family: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inte filter, set4: ssh4}}") => str![[r#"
doors.yaml:5:28: error: 'inte' is not a family of tables that see addresses: did you mean 'inet'?
        via: {nft_set: {table: inte filter, set4: ssh4}}
                               ^^^^^^^^^^^
"#]];
    a_family_without_addresses: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: netdev filter, set4: ssh4}}") => str![[r#"
doors.yaml:5:28: error: 'netdev' is not a family of tables that see addresses
        via: {nft_set: {table: netdev filter, set4: ssh4}}
                               ^^^^^^^^^^^^^
    write one of inet, ip, ip6
"#]];
    a_table_that_does_not_see_the_set: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: ip6 filter, set4: ssh4, set6: ssh6}}") => str![[r#"
doors.yaml:5:46: error: a table of the family ip6 never sees an IPv4 packet
        via: {nft_set: {table: ip6 filter, set4: ssh4, set6: ssh6}}
                                                 ^^^^
    write set6, or name a table of inet
"#]];
    the_table_of_the_guard: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inet knockd, set4: g_ssh_4}}") => str![[r#"
doors.yaml:5:28: error: the table 'inet knockd' is the guard's own
        via: {nft_set: {table: inet knockd, set4: g_ssh_4}}
                               ^^^^^^^^^^^
    make sets in a table of your own, or write via: guard
"#]];
    one_set_for_both_families: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inet filter, set4: ssh, set6: ssh}}") => str![[r#"
doors.yaml:5:58: error: one set cannot hold the addresses of both families
        via: {nft_set: {table: inet filter, set4: ssh, set6: ssh}}
                                                             ^^^
    make one of 'type ipv4_addr' and one of 'type ipv6_addr'
"#]];
    names_that_nft_does_not_take: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inet 1x, set4: '4;flush ruleset'}}") => str![[r#"
doors.yaml:5:28: error: '1x' is not a name that nft takes: it begins with a letter, and goes on with letters, digits and _ . - /
        via: {nft_set: {table: inet 1x, set4: '4;flush ruleset'}}
                               ^^^^^^^
doors.yaml:5:43: error: '4;flush ruleset' is not a name that nft takes: it begins with a letter, and goes on with letters, digits and _ . - /
        via: {nft_set: {table: inet 1x, set4: '4;flush ruleset'}}
                                              ^^^^^^^^^^^^^^^^^
"#]];
    a_misspelt_set: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: {table: inet filter, set_4: ssh4}}") => str![[r#"
doors.yaml:5:41: error: 'set_4' is not a key of nft_set: did you mean 'set4'?
        via: {nft_set: {table: inet filter, set_4: ssh4}}
                                            ^^^^^
"#]];
    a_misspelt_nft_set: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nftset: {table: inet filter, set4: ssh4}}") => str![[r#"
doors.yaml:5:11: error: 'nftset' is not a key of via: did you mean 'nft_set'?
        via: {nftset: {table: inet filter, set4: ssh4}}
              ^^^^^^
"#]];
    an_nft_set_of_words: said_of_door("sequence: [7000]\nopen: [22]\nvia: {nft_set: ssh4}") => str![[r#"
doors.yaml:5:20: error: a mapping such as {table: inet filter, set4: ssh4, set6: ssh6} belongs here, not a word
        via: {nft_set: ssh4}
                       ^^^^
"#]];
    an_nft_set_of_nothing: said_of_door("sequence: [7000]\nopen: [22]\nvia: nft_set") => str![[r#"
doors.yaml:5:10: error: nft_set wants a table and sets
        via: nft_set
             ^^^^^^^
    write via: {nft_set: {table: inet filter, set4: ssh4, set6: ssh6}}
"#]];
    a_misspelt_guard: said_of_door("sequence: [7000]\nopen: [22]\nvia: gaurd") => str![[r#"
doors.yaml:5:10: error: there is no template 'gaurd': did you mean 'guard'?
        via: gaurd
             ^^^^^
"#]];
    a_port_hole_for_several_ports: said_of_door("sequence: [7000]\nopen: [22, 80]\non_open: echo %PORT%\non_close: echo %PROTO%") => str![[r#"
doors.yaml:5:14: error: nothing fills %PORT%: 'on_open' runs once, and the door opens 2 ports
        on_open: echo %PORT%
                 ^^^^^^^^^^^
    leave it out, or write the port into the command
doors.yaml:6:15: error: nothing fills %PROTO%: 'on_close' runs once, and the door opens 2 ports
        on_close: echo %PROTO%
                  ^^^^^^^^^^^^
    leave it out, or write the port into the command
"#]];
    a_port_hole_for_no_port: said_of_door("sequence: [7000]\nstart_command: 'true'\non_open: echo %PORT%") => str![[r#"
doors.yaml:5:14: error: nothing fills %PORT%: the door has no 'open'
        on_open: echo %PORT%
                 ^^^^^^^^^^^
    leave it out, or write the port into the command
"#]];
    an_end_that_never_comes: said_of_door("sequence: [7000]\nstart_command: 'true'\non_close: echo") => str![[r#"
doors.yaml:5:5: warning: 'on_close' has no effect: nothing closes this door
        on_close: echo
        ^^^^^^^^
    write a 'stop_command', or remove it

"#]];
    commands_that_are_missing: said_of_door("sequence: [7000]\nopen: [22]\non_open: [no-such-program]") => str![[r#"
doors.yaml:5:15: warning: there is no program 'no-such-program' on this machine
        on_open: [no-such-program]
                  ^^^^^^^^^^^^^^^
    install it, or write its whole path; it was looked for in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

"#]];
    good_settings_of_the_guard: said("knockd: {trusted: [192.0.2.0/24, 2001:db8::1], on_exit: remove}\n") => str![[r#"
doors.yaml: warning: no door is configured: nothing can be opened
    write one under 'doors:'; knock.d(5) has examples

"#]];
    settings_of_a_guard_that_there_is_not: said(&format!("knockd:\n  trusted: [192.0.2.0/24]\n  on_exit: keep\n{A_DOOR}")) => str![[r#"
doors.yaml:2:3: warning: 'trusted' has no effect: the guard opens no door
      trusted: [192.0.2.0/24]
      ^^^^^^^
    open a door via: guard, or remove it
doors.yaml:3:3: warning: 'on_exit' has no effect: the guard opens no door
      on_exit: keep
      ^^^^^^^
    open a door via: guard, or remove it

"#]];
    doors_that_only_observe: said_of_door("sequence: [7000]\nopen: [22]\nguard: observe") => str![[r#"
doors.yaml:5:12: warning: door 'ssh' only observes: it keeps nobody out
        guard: observe
               ^^^^^^^
    'knockctl observe' says who comes, 'knockctl lock ssh' locks it

"#]];
    modes_of_a_guard_that_there_is_not: said_of_door("sequence: [7000]\nstart_command: 'true'\nguard: watch") => str![[r#"
doors.yaml:5:12: error: 'watch' is none of lock, observe
        guard: watch
               ^^^^^
"#]];
    a_mode_of_the_guard_at_a_door_that_it_does_not_open: said_of_door("sequence: [7000]\nstart_command: 'true'\nguard: observe") => str![[r#"
doors.yaml:5:5: warning: 'guard' has no effect: the guard does not open this door
        guard: observe
        ^^^^^
    remove it, or write via: guard

"#]];
    times_that_cannot_hold: said("doors:\n  ssh: {sequence: [7000, 9000, 8000], open: [22], hold: {idle: 0s, at_most: 10s}}\n  mosh: {sequence: [7001, 9001, 8001], open: [23], hold: {idle: 2h, at_most: 1h}, on_expiry: maybe}\n") => str![[r#"
doors.yaml:2:64: error: idle cannot be zero
      ssh: {sequence: [7000, 9000, 8000], open: [22], hold: {idle: 0s, at_most: 10s}}
                                                                   ^^
doors.yaml:3:78: error: at_most, 1h, is shorter than idle, 2h
      mosh: {sequence: [7001, 9001, 8001], open: [23], hold: {idle: 2h, at_most: 1h}, on_expiry: maybe}
                                                                                 ^^
    nothing is open for longer than at_most: write at least as much
doors.yaml:3:94: error: 'maybe' is none of keep, cut
      mosh: {sequence: [7001, 9001, 8001], open: [23], hold: {idle: 2h, at_most: 1h}, on_expiry: maybe}
                                                                                                 ^^^^^
"#]];
    sessions_of_doors_that_do_not_say_their_ports: said("doors:\n  ssh: {sequence: [7000, 9000, 8000], start_command: a, stop_command: b, hold: {}, on_expiry: cut}\n  act: {sequence: [7001, 9001, 8001], start_command: a, hold: {}}\n  web: {sequence: [7002, 9002, 8002], open: [80], via: timed, hold: {}}\n  ssh2: {sequence: [7003, 9003, 8003], start_command: a, stop_command: b, on_expiry: keep}\ntemplates:\n  timed: {open: a %IP% %SECONDS%, close: b %IP%}\n") => str![[r#"
doors.yaml:2:74: error: 'hold' needs the ports that this door opens
      ssh: {sequence: [7000, 9000, 8000], start_command: a, stop_command: b, hold: {}, on_expiry: cut}
                                                                             ^^^^
    write them as 'open', with the guard or a template
doors.yaml:2:84: error: 'on_expiry' needs the ports that this door opens
      ssh: {sequence: [7000, 9000, 8000], start_command: a, stop_command: b, hold: {}, on_expiry: cut}
                                                                                       ^^^^^^^^^
    write them as 'open', with the guard or a template
doors.yaml:4:63: error: what opens this door ends by itself, after %SECONDS%
      web: {sequence: [7002, 9002, 8002], open: [80], via: timed, hold: {}}
                                                                  ^^^^
    nothing can hold it: leave out 'hold', or use commands without %SECONDS%
doors.yaml:3:57: warning: 'hold' has no effect: nothing closes this door
      act: {sequence: [7001, 9001, 8001], start_command: a, hold: {}}
                                                            ^^^^
    write a 'stop_command', or remove it
"#]];
    networks_that_are_asked_for: said("doors:\n  ssh: {sequence: [7000, 9000, 8000], open: [22], width: {ipv4: 33, ipv6: 0}}\n  web: {sequence: [7001, 9001, 8001], open: [23], width: 24, addresses: 0}\n") => str![[r#"
doors.yaml:2:65: error: '33' is not valid here: write a number from 1 to 32
      ssh: {sequence: [7000, 9000, 8000], open: [22], width: {ipv4: 33, ipv6: 0}}
                                                                    ^^
    how many bits of an address count: 24 is as 192.0.2.0/24
doors.yaml:2:75: error: '0' is not valid here: write a number from 1 to 128
      ssh: {sequence: [7000, 9000, 8000], open: [22], width: {ipv4: 33, ipv6: 0}}
                                                                              ^
    how many bits of an address count: 24 is as 192.0.2.0/24
doors.yaml:3:58: error: a mapping such as {ipv4: 24, ipv6: 64}, belongs here, not a word
      web: {sequence: [7001, 9001, 8001], open: [23], width: 24, addresses: 0}
                                                             ^^
doors.yaml:3:73: error: '0' is not valid here: write a number from 1 to 1000000
      web: {sequence: [7001, 9001, 8001], open: [23], width: 24, addresses: 0}
                                                                            ^
doors.yaml:2:51: warning: 'width' has no effect: only requests by SPA ask for a network
      ssh: {sequence: [7000, 9000, 8000], open: [22], width: {ipv4: 33, ipv6: 0}}
                                                      ^^^^^
    remove it
doors.yaml:3:51: warning: 'width' has no effect: only requests by SPA ask for a network
      web: {sequence: [7001, 9001, 8001], open: [23], width: 24, addresses: 0}
                                                      ^^^^^
    remove it
doors.yaml:3:62: warning: 'addresses' has no effect: no sequence says whose it is
      web: {sequence: [7001, 9001, 8001], open: [23], width: 24, addresses: 0}
                                                                 ^^^^^^^^^
    remove it
"#]];
    networks_that_are_none: said("knockd: {trusted: [192.0.2.0/33, gw.example.com], on_exit: leave}\n") => str![[r#"
doors.yaml:1:20: error: '192.0.2.0/33' is not a network: write for example 192.0.2.0/24, 2001:db8::/32 or one address
    knockd: {trusted: [192.0.2.0/33, gw.example.com], on_exit: leave}
                       ^^^^^^^^^^^^
doors.yaml:1:34: error: 'gw.example.com' is not a network: write for example 192.0.2.0/24, 2001:db8::/32 or one address
    knockd: {trusted: [192.0.2.0/33, gw.example.com], on_exit: leave}
                                     ^^^^^^^^^^^^^^
doors.yaml:1:60: error: 'leave' is none of keep, remove
    knockd: {trusted: [192.0.2.0/33, gw.example.com], on_exit: leave}
                                                               ^^^^^
"#]];
    networks_that_are_wider_than_they_look: said("knockd:\n  trusted: [192.0.2.10/24, 0.0.0.0/0, '::/0', 2001:DB8::/32]\n") => str![[r#"
doors.yaml: warning: no door is configured: nothing can be opened
    write one under 'doors:'; knock.d(5) has examples
doors.yaml:2:13: warning: 192.0.2.10/24 is the whole network 192.0.2.0/24
      trusted: [192.0.2.10/24, 0.0.0.0/0, '::/0', 2001:DB8::/32]
                ^^^^^^^^^^^^^
    write 192.0.2.0/24, or 192.0.2.10 for that address alone
doors.yaml:2:28: warning: 0.0.0.0/0 is every address: the guard locks nothing for IPv4
      trusted: [192.0.2.10/24, 0.0.0.0/0, '::/0', 2001:DB8::/32]
                               ^^^^^^^^^
    write the networks that need not knock
doors.yaml:2:39: warning: ::/0 is every address: the guard locks nothing for IPv6
      trusted: [192.0.2.10/24, 0.0.0.0/0, '::/0', 2001:DB8::/32]
                                          ^^^^^^
    write the networks that need not knock

"#]];
    mail_to_nobody: said("knockd: {alert: {}}\n") => str![[r#"
doors.yaml:1:17: error: alert does not say to whom
    knockd: {alert: {}}
                    ^
    write alert: {email: ADDRESS}
"#]];
    mail_to_several: said("knockd: {alert: {email: 'a@example.com,b@example.com'}}\n") => str![[r#"
doors.yaml:1:25: error: 'a@example.com,b@example.com' is not a mail address: write for example admin@example.com, or root
    knockd: {alert: {email: 'a@example.com,b@example.com'}}
                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"#]];
    mail_without_a_mapping: said("knockd: {alert: root}\n") => str![[r#"
doors.yaml:1:17: error: a mapping such as {email: root} belongs here, not a word
    knockd: {alert: root}
                    ^^^^
"#]];
    a_misspelt_template: said_of_door("sequence: [7000]\nopen: [22]\nvia: iptable") => str![[r#"
doors.yaml:5:10: error: there is no template 'iptable': did you mean 'iptables'?
        via: iptable
             ^^^^^^^
"#]];
    an_unknown_template: said_of_door("sequence: [7000]\nopen: [22]\nvia: pf") => str![[r#"
doors.yaml:5:10: error: there is no template 'pf'
        via: pf
             ^^
    write guard, or a template: firewalld, ipset, iptables, nft, ufw
"#]];
    a_template_without_a_port: said_of_door("sequence: [7000]\nvia: iptables") => str![[r#"
doors.yaml:4:10: error: nothing fills %PORT%: the door has no 'open'
        via: iptables
             ^^^^^^^^
    write 'open: [22/tcp]' with 'via: TEMPLATE', or put the port into the command
"#]];
    a_port_that_is_opened_twice: said_of_door("sequence: [7000]\nopen: [22, 22/tcp]\nvia: iptables") => str![[r#"
doors.yaml:4:16: error: 22/tcp is given twice: first at doors.yaml:4:12
        open: [22, 22/tcp]
                   ^^^^^^
"#]];
    a_door_given_twice_in_one_file: said("doors:\n  ssh: {sequence: [1], start_command: 'true'}\n  ssh: {sequence: [2], start_command: 'true'}\n") => str![[r#"
doors.yaml:3:3: error: 'ssh' is given twice: first at doors.yaml:2:3
      ssh: {sequence: [2], start_command: 'true'}
      ^^^
"#]];
    a_bad_name: said("doors:\n  my door: {sequence: [1], start_command: 'true'}\n") => str![[r#"
doors.yaml:2:3: error: 'my door' is not a name: a name is 1 to 32 of the characters A-Z a-z 0-9 _ . -
      my door: {sequence: [1], start_command: 'true'}
      ^^^^^^^
"#]];
    bad_settings: said("knockd:\n  only_ipv4: yes\n  run_dir: run\n  interfaces: []\n  log: {syslog: deamon, level: loud, colour: red}\n  track: {sources: 1}\n") => str![[r#"
doors.yaml:2:14: error: 'yes' is neither true nor false
      only_ipv4: yes
                 ^^^
doors.yaml:3:12: error: 'run' depends on where knockd is started
      run_dir: run
               ^^^
    write the whole path, from / on
doors.yaml:4:15: error: no interface is named: write [any] for every interface
      interfaces: []
                  ^
doors.yaml:5:17: error: 'deamon' is none of kern, user, mail, daemon, auth, syslog, lpr, news, uucp, cron, authpriv, ftp, local0, local1, local2, local3, local4, local5, local6, local7: did you mean 'daemon'?
      log: {syslog: deamon, level: loud, colour: red}
                    ^^^^^^
doors.yaml:5:32: error: 'loud' is none of error, warning, info, debug
      log: {syslog: deamon, level: loud, colour: red}
                                   ^^^^
doors.yaml:5:38: error: 'colour' is not a key of log
      log: {syslog: deamon, level: loud, colour: red}
                                         ^^^^^^
    its keys are: syslog, file, level, format
doors.yaml:6:20: error: '1' is not valid here: write a number from 64 to 16777216
      track: {sources: 1}
                       ^
"#]];
    no_yaml_at_all: said("doors: [\n") => str![[r#"
doors.yaml:1:8: error: not valid YAML: unclosed bracket '['
    doors: [
           ^
    a bracket is not closed, probably in line 1
"#]];
    tabs: said("doors:\n\tssh:\n") => str![[r#"
doors.yaml:2:2: error: not valid YAML: tabs disallowed within this context (block indentation)
     ssh:
     ^
    indent with spaces, not with tabs
"#]];
    something_else_entirely: said("- 1\n- 2\n") => str![[r#"
doors.yaml:1:1: error: a mapping with 'knockd', 'templates', 'clients' or 'doors' belongs here, not a list
    - 1
    ^
"#]];
    no_doors: said("knockd: {only_ipv4: true}\n") => str![[r#"
doors.yaml: warning: no door is configured: nothing can be opened
    write one under 'doors:'; knock.d(5) has examples

"#]];
    an_empty_file: said("") => str![[r#"
doors.yaml: warning: no door is configured: nothing can be opened
    write one under 'doors:'; knock.d(5) has examples

"#]];
    everything_at_once: said("knockd: {usr: nobody}\ndoors:\n  a: {sequence: [abc], start_command: 'true'}\n  b: {sequence: [1], start_command: 'true', open_for: 3}\n  c: {sequence: [2], start_command: '%X%'}\n") => str![[r#"
doors.yaml:1:10: error: 'usr' is not a key of knockd: did you mean 'user'?
    knockd: {usr: nobody}
             ^^^
doors.yaml:3:18: error: 'abc' is not a port: write a number from 1 to 65535
      a: {sequence: [abc], start_command: 'true'}
                     ^^^
doors.yaml:5:37: error: unknown hole %X%: the holes are %IP% %NET% %FAMILY% %PORT% %PORT_LOW% %PORT_HIGH% %PORT_RANGE% %PROTO% %DOOR% %CLIENT% %SECONDS%, and %% is a percent sign
      c: {sequence: [2], start_command: '%X%'}
                                        ^^^^^
doors.yaml:4:45: warning: 'open_for' has no effect: nothing closes this door
      b: {sequence: [1], start_command: 'true', open_for: 3}
                                                ^^^^^^^^
    write a 'stop_command', or remove it
"#]];
}

says! {
    a_good_classic_file: said_of_classic("[options]\n\tUseSyslog\n\n[openSSH]\n\tsequence = 7000,8000,9000\n\tseq_timeout = 5\n\tcommand = echo %IP%\n\ttcpflags = syn\n") => str![];
    classic_ports: said_of_classic("[ssh]\nSequence = abc,70000,7000:upd,,0\nCommand = true\n") => str![[r#"
knockd.conf:2:12: error: 'abc' is not a port: write a number from 1 to 65535
    Sequence = abc,70000,7000:upd,,0
               ^^^
knockd.conf:2:16: error: port 70000 is out of range: ports go from 1 to 65535
    Sequence = abc,70000,7000:upd,,0
                   ^^^^^
knockd.conf:2:22: error: 'upd' is not a protocol: write tcp or udp
    Sequence = abc,70000,7000:upd,,0
                         ^^^^^^^^
knockd.conf:2:31: error: '' is not a port: write a number from 1 to 65535
    Sequence = abc,70000,7000:upd,,0
                                  ^
knockd.conf:2:32: error: port 0 is out of range: ports go from 1 to 65535
    Sequence = abc,70000,7000:upd,,0
                                   ^
"#]];
    a_classic_sequence_with_blanks: said_of_classic("[ssh]\nSequence = 7000 8000 9000\nCommand = true\n") => str![[r#"
knockd.conf:2:12: error: '7000 8000 9000' is not a port: write a number from 1 to 65535
    Sequence = 7000 8000 9000
               ^^^^^^^^^^^^^^
    put a comma between two ports
"#]];
    classic_times: said_of_classic("[ssh]\nSequence = 7000\nCommand = true\nSeq_Timeout = 5m\nStop_Command = true\nCmd_Timeout = 0\n") => str![[r#"
knockd.conf:4:15: error: '5m' is not a number of seconds: classic knockd takes it for 5
    Seq_Timeout = 5m
                  ^^
    write a whole number without a unit
knockd.conf:6:15: error: Cmd_Timeout cannot be zero
    Cmd_Timeout = 0
                  ^
"#]];
    classic_flags: said_of_classic("[ssh]\nSequence = 7000\nCommand = true\nTCPFlags = syn, !ack\n[b]\nSequence = 7001\nCommand = true\nTCPFlags = foo\n") => str![[r#"
knockd.conf:8:12: error: 'foo' is not a TCP flag: write fin, syn, rst, psh, ack or urg, or one of them after !
    TCPFlags = foo
               ^^^
knockd.conf:4:12: warning: classic knockd takes no blanks between flags; here they are passed over
    TCPFlags = syn, !ack
               ^^^^^^^^^
"#]];
    an_unknown_directive: said_of_classic("[ssh]\nSequnce = 7000\nCommand = true\nFrobnicate = 1\nLogFile = /var/log/x\n") => str![[r#"
knockd.conf:1:2: error: door 'ssh' has no Sequence
    [ssh]
     ^^^
    write for example: Sequence = 7000,8000:udp,9000
knockd.conf:2:1: error: unknown directive 'Sequnce': did you mean 'Sequence'?
    Sequnce = 7000
    ^^^^^^^
knockd.conf:4:1: error: unknown directive 'Frobnicate'
    Frobnicate = 1
    ^^^^^^^^^^
    the directives here are: Sequence, One_Time_Sequences, Seq_Timeout, Timeout, Seq_Cooldown, TCPFlags, Target, Start_Command, Command, Start_Command_6, Command_6, Cmd_Timeout, Stop_Command, Stop_Command_6
knockd.conf:5:1: error: unknown directive 'LogFile'
    LogFile = /var/log/x
    ^^^^^^^
    it belongs in the section [options]
"#]];
    a_directive_before_every_section: said_of_classic("Sequence = 7000\n[ssh]\nSequence = 7000\nCommand = true\n") => str![[r#"
knockd.conf:1:1: error: 'Sequence' stands before the first section
    Sequence = 7000
    ^^^^^^^^
    write [NAME] above it
"#]];
    a_classic_stop_without_a_start: said_of_classic("[ssh]\nSequence = 7000\nStop_Command = true\n") => str![[r#"
knockd.conf:3:1: error: Stop_Command without Start_Command: there would be nothing to undo
    Stop_Command = true
    ^^^^^^^^^^^^
    write Start_Command too, or remove Stop_Command
"#]];
    a_classic_door_without_a_command: said_of_classic("[ssh]\nSequence = 7000\n") => str![[r#"
knockd.conf:1:2: error: nothing would run: Start_Command is missing
    [ssh]
     ^^^
"#]];
    a_classic_door_without_a_sequence: said_of_classic("[ssh]\nCommand = true\n") => str![[r#"
knockd.conf:1:2: error: door 'ssh' has no Sequence
    [ssh]
     ^^^
    write for example: Sequence = 7000,8000:udp,9000
"#]];
    a_classic_door_given_twice: said_of_classic("[ssh]\nSequence = 7000\nCommand = true\n[ssh]\nSequence = 7001\nCommand = true\n") => str![[r#"
knockd.conf:4:2: error: door 'ssh' is given twice: first at knockd.conf:1:2
    [ssh]
     ^^^
"#]];
    a_classic_directive_given_twice: said_of_classic("[ssh]\nSequence = 7000\nCommand = true\nStart_Command = false\n") => str![[r#"
knockd.conf:4:1: error: Start_Command is given twice: first at knockd.conf:3:1
    Start_Command = false
    ^^^^^^^^^^^^^
"#]];
    a_classic_name: said_of_classic("[open SSH!]\nSequence = 7000\nCommand = true\n") => str![[r#"
knockd.conf:1:2: warning: this door is called 'open_SSH_' here: a name is 1 to 32 of the characters A-Z a-z 0-9 _ . -
    [open SSH!]
     ^^^^^^^^^

"#]];
    a_classic_comment_after_a_value: said_of_classic("[ssh]\nSequence = 7000,8000 # two\nCommand = true # three\n") => str![[r#"
knockd.conf:2:24: warning: a comment after a value: taken for a comment, but it belongs on a line alone
    Sequence = 7000,8000 # two
                           ^^^

"#]];
    a_classic_comment_after_a_value_of_any_kind: said_of_classic("[options]\nUseSyslog # yes\nLogFile = /var/log/a#b # here\nInterface = eth0 # lan\n[ssh]\nSequence = 7000,8000#x\nTarget = 192.0.2.1 # us\nTCPFlags = syn # only\nCommand = true\n") => str![[r#"
knockd.conf:4:13: error: 'eth0 # lan' is not the name of an interface: a comment belongs on a line of its own
    Interface = eth0 # lan
                ^^^^^^^^^^
knockd.conf:2:13: warning: a comment after a value: taken for a comment, but it belongs on a line alone
    UseSyslog # yes
                ^^^
knockd.conf:3:26: warning: a comment after a value: taken for a comment, but it belongs on a line alone
    LogFile = /var/log/a#b # here
                             ^^^^
knockd.conf:6:22: warning: a comment after a value: taken for a comment, but it belongs on a line alone
    Sequence = 7000,8000#x
                         ^
knockd.conf:7:22: warning: a comment after a value: taken for a comment, but it belongs on a line alone
    Target = 192.0.2.1 # us
                         ^^
knockd.conf:8:18: warning: a comment after a value: taken for a comment, but it belongs on a line alone
    TCPFlags = syn # only
                     ^^^^
"#]];
    classic_quotes: said_of_classic("[options]\nPidFile = \"/run/knockd.pid\"\nInterface = 'eth0'\n[ssh]\nSequence = '7000,8000'\nCmd_Timeout = \"5\"\nCommand = \"/bin/true %IP%\"\nStop_Command = \"/bin/true\" \"%IP%\"\n") => str![[r#"
knockd.conf:2:11: error: quotes around a value: classic knockd takes them for a part of it
    PidFile = "/run/knockd.pid"
              ^^^^^^^^^^^^^^^^^
    write it without quotes
knockd.conf:3:13: error: ''eth0'' is not the name of an interface: quotes are taken as they are here: write it without
    Interface = 'eth0'
                ^^^^^^
knockd.conf:5:12: error: quotes around a value: classic knockd takes them for a part of it
    Sequence = '7000,8000'
               ^^^^^^^^^^^
    write it without quotes
knockd.conf:6:15: error: quotes around a value: classic knockd takes them for a part of it
    Cmd_Timeout = "5"
                  ^^^
    write it without quotes
knockd.conf:7:11: warning: the shell takes what is in these quotes for the name of one program
    Command = "/bin/true %IP%"
              ^^^^^^^^^^^^^^^^
    write the command without them
"#]];
    a_broken_section: said_of_classic("[options]\n[ssh\nSequence = 7000\n") => str![[r#"
knockd.conf:2:1: error: this is not a section: a section is [NAME] on a line alone
    [ssh
    ^^^^
knockd.conf:3:1: error: unknown directive 'Sequence'
    Sequence = 7000
    ^^^^^^^^
    it belongs in the section of a door
"#]];
    a_classic_one_time_file_that_is_missing: said_of_classic("[ssh]\nOne_Time_Sequences = /nowhere/x\nCommand = true\n") => str![[r#"
knockd.conf:2:22: error: /nowhere/x: cannot be read: No such file or directory (os error 2)
    One_Time_Sequences = /nowhere/x
                         ^^^^^^^^^^
"#]];
    a_classic_door_with_both_kinds_of_sequence: said_of_classic("[ssh]\nSequence = 7000\nOne_Time_Sequences = x\nCommand = true\n") => str![[r#"
knockd.conf:3:22: error: One_Time_Sequences and Sequence exclude each other
    One_Time_Sequences = x
                         ^
    classic knockd passes over the Sequence; remove one
"#]];
    a_classic_one_time_file_without_its_whole_path: said_of_classic("[ssh]\nOne_Time_Sequences = x\nCommand = true\n") => str![[r#"
knockd.conf:2:22: error: 'x' depends on where knockd is started
    One_Time_Sequences = x
                         ^
    write the whole path, from / on
"#]];
    use_syslog_with_a_value: said_of_classic("[options]\nUseSyslog = yes\nFoo = 1\n") => str![[r#"
knockd.conf:2:1: error: UseSyslog takes no value
    UseSyslog = yes
    ^^^^^^^^^
    write UseSyslog alone, or remove the line where syslog is not wanted
knockd.conf:3:1: error: unknown directive 'Foo'
    Foo = 1
    ^^^
    the directives here are: UseSyslog, LogFile, PidFile, Interface
"#]];
    a_directive_with_an_empty_value: said_of_classic("[options]\nLogFile =\n[ssh]\nSequence = 1,3,2\nSeq_Timeout = \nCommand = true\n") => str![[r#"
knockd.conf:2:1: error: LogFile has no value
    LogFile =
    ^^^^^^^
    write LogFile = ...
knockd.conf:5:1: error: Seq_Timeout has no value
    Seq_Timeout =
    ^^^^^^^^^^^
    write Seq_Timeout = ...
"#]];
    a_directive_without_a_value: said_of_classic("[ssh]\nSequence\nCommand = true\n") => str![[r#"
knockd.conf:1:2: error: door 'ssh' has no Sequence
    [ssh]
     ^^^
    write for example: Sequence = 7000,8000:udp,9000
knockd.conf:2:1: error: Sequence has no value
    Sequence
    ^^^^^^^^
    write Sequence = ...
"#]];
}

/// A directory of files with these names and texts.
fn said_of_directory(files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let shorten = |text: &str| text.replace(&directory.path().display().to_string(), "DIR");
    match load_path(directory.path()) {
        Ok(loaded) => loaded.warnings.iter().map(|one| shorten(&one.to_string()) + "\n").collect(),
        Err(errors) => shorten(&errors),
    }
}

const A_DOOR: &str = "doors: {ssh: {sequence: [7000], start_command: 'true'}}\n";

says! {
    an_empty_directory: said_of_directory(&[]) => str![[r#"
DIR: error: there is no configuration here: no file ends in .yaml
    put doors into a file doors.yaml in it, or name another path with -c
"#]];
    a_door_given_twice_in_two_files: said_of_directory(&[("b.yaml", A_DOOR), ("a.yaml", A_DOOR)]) => str![[r#"
DIR/b.yaml:1:9: error: door 'ssh' is given twice: first at DIR/a.yaml:1:9
    doors: {ssh: {sequence: [7000], start_command: 'true'}}
            ^^^
"#]];
    a_setting_given_twice_in_two_files: said_of_directory(&[("a.yaml", A_DOOR), ("b.yaml", "knockd: {user: a}"), ("c.yaml", "knockd: {user: b}")]) => str![[r#"
DIR/c.yaml:1:10: error: setting 'user' is given twice: first at DIR/b.yaml:1:10
    knockd: {user: b}
             ^^^^
"#]];
    a_name_that_is_not_read: said_of_directory(&[("a.yaml", A_DOOR), ("b.yml", A_DOOR), ("README", "")]) => str![[r#"
DIR/b.yml: warning: not read: only names that end in .yaml are

"#]];
    errors_of_all_files: said_of_directory(&[("a.yaml", "doors: ["), ("b.yaml", "knockd: {usr: a}")]) => str![[r#"
DIR/a.yaml:1:8: error: not valid YAML: unclosed bracket '['
    doors: [
           ^
    a bracket is not closed, probably in line 1
DIR/b.yaml:1:10: error: 'usr' is not a key of knockd: did you mean 'user'?
    knockd: {usr: a}
             ^^^
"#]];
}

#[test]
fn a_file_that_others_can_write_is_refused_unless_told_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("doors.yaml");
    fs::write(&path, A_DOOR).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    let error = load_path(&path).unwrap_err();
    assert!(error.contains("others than its owner can write it (mode 0620)"), "{error}");
    assert!(error.contains("chmod go-w"), "{error}");
    assert!(load(&path, &Options { insecure_permissions: true }).is_ok());
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("doors.yaml"), A_DOOR).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = load_path(directory.path()).unwrap_err();
    assert!(error.contains("others than its owner can write it (mode 0777)"), "{error}");
}

/// What is doubtful about these doors, where something listens on these ports.
fn doubts(doors: &str, listening: &[&str]) -> String {
    let text = format!("doors:\n  {}\n", doors.replace('\n', "\n  "));
    let loaded = parse(&SourceText::new("doors.yaml", text)).unwrap();
    let listening = listening.iter().map(|port| port.parse().unwrap()).collect();
    let host = HostFacts { listening, ..HostFacts::default() };
    lint(&loaded, &host).iter().map(|warning| format!("{warning}\n")).collect()
}

#[test]
fn commands_that_would_fail_for_ipv6_or_open_too_much_there_are_doubtful() {
    let said = |settings: &str, door: &str| {
        let text = format!(
            "knockd: {{{settings}}}\ndoors: {{a: {{sequence: [7000, 9000, 8000], {door}}}}}"
        );
        let loaded = parse(&SourceText::new("doors.yaml", text)).unwrap();
        let warnings = lint(&loaded, &HostFacts::default());
        warnings.iter().map(|warning| warning.message.clone()).collect::<Vec<_>>()
    };
    let iptables = "iptables takes no IPv6 address, and a knock over IPv6 runs this";
    let wide = "%IP%/32 opens 2^96 addresses over IPv6";
    let both = "start_command: 'iptables -I INPUT -s %IP%/32 -j ACCEPT'";
    let set = "start_command: '/usr/sbin/nft add rule ip f i ip saddr %IP% accept'";
    assert_eq!(said("", both), [iptables, wide]);
    assert_eq!(said("", "start_command: [/usr/sbin/iptables, -I, INPUT, -s, '%IP%']"), [iptables]);
    assert_eq!(said("", set), [iptables.replace("iptables", "'ip saddr' of nft")]);
    assert_eq!(said("", "start_command: 'ufw allow from %IP%/32'"), [wide]);
    let none = [""; 0];
    assert_eq!(said("only_ipv4: true", both), none);
    assert_eq!(said("", &format!("target: 192.0.2.1, {both}")), none);
    for fine in [
        "start_command: 'iptables -s %IP%', start_command_6: 'ip6tables -s %IP%'",
        "start_command: 'iptables -s %IP%', start_command_6:",
        "start_command: 'if [ %FAMILY% = 4 ]; then iptables -s %IP%; fi'",
        "start_command: 'iptables -I INPUT -j ACCEPT'",
        "start_command: 'open %IP%/64 %IP%/x'",
        "open: 22, via: iptables",
    ] {
        assert_eq!(said("", fine), none, "{fine}");
    }
}

#[test]
fn what_is_said_of_a_clients_width_does_not_show_the_secrets_beside_it() {
    let client = "a: {doors: [ssh], width: {ipv4: 8}, fwknop: {key: SESAME, hmac_key: OPENSESAME}}";
    let config = |door: &str| {
        format!("clients:\n  {client}\ndoors:\n  ssh: {{spa: true, fwknop: true, {door}}}\n")
    };
    let wrong = said(&config("start_command: let-in %IP%"));
    assert!(wrong.contains("opens for single addresses alone"), "{wrong}");
    let loaded = parse(&SourceText::new("doors.yaml", config("open: [22]"))).unwrap();
    let doubts: String =
        lint(&loaded, &HostFacts::default()).iter().map(ToString::to_string).collect();
    assert!(doubts.contains("16777216 addresses of IPv4"), "{doubts}");
    assert!(!(wrong + &doubts).contains("SESAME"));
}

#[test]
fn networks_that_are_wider_than_a_carriers_few_addresses_are_doubtful() {
    let of =
        |width: &str| doubts(&format!("{{d: {{spa: true, open: [22], width: {width}}}}}"), &[]);
    for narrow in ["{ipv4: 28}", "{ipv6: 64}", "{ipv4: 32, ipv6: 128}"] {
        assert!(!of(narrow).contains("a request may open for"), "{narrow}: {}", of(narrow));
    }
    let said = of("{ipv4: 24, ipv6: 63}");
    assert!(
        said.contains("a request may open for 256 addresses of IPv4, most a stranger's"),
        "{said}"
    );
    assert!(
        said.contains("a request may open for 36893488147419103232 addresses of IPv6"),
        "{said}"
    );
}

#[test]
fn characters_that_a_web_page_has_put_into_a_command_are_doubtful() {
    for (character, shown) in [("\u{2013}", "'\u{2013}' (U+2013)"), ("\u{201d}", "(U+201D)")] {
        for key in ["start_command", "stop_command: 'true', on_close", "start_command_6"] {
            let first = if key == "start_command" { "" } else { "start_command: 'true', " };
            let said = doubts(
                &format!("a: {{sequence: [7000, 9000, 8000], {first}{key}: 'x {character}dport'}}"),
                &[],
            );
            assert!(said.contains("a command has ") && said.contains(shown), "{said}");
        }
    }
}

#[test]
fn a_name_that_looks_like_an_option_is_doubtful() {
    let said = doubts("-x: {sequence: [7000, 9000, 8000], start_command: 'true'}", &[]);
    assert!(said.contains("'-x' looks like an option: programs take it only after --"), "{said}");
}

#[test]
fn doors_that_see_no_packet_both_do_not_open_each_other() {
    let doors = |flags: &str, udp: &str| {
        let ports = format!("[7000{udp}, 9000{udp}, 8000{udp}]");
        doubts(
            &format!(
                "a: {{sequence: {ports}, tcpflags: [fin, '!syn'], start_command: 'true'}}\n\
                 b: {{sequence: {ports}, tcpflags: [{flags}], start_command: 'true'}}"
            ),
            &[],
        )
    };
    assert_eq!(doors("syn", ""), "");
    for (flags, udp) in [("fin", ""), ("ack", ""), ("syn", "/udp")] {
        assert!(doors(flags, udp).contains("the same sequence as door"), "{flags} {udp}");
    }
}

#[test]
fn a_file_with_sequences_that_everybody_can_read_is_doubtful() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("doors.yaml");
    let two = "doors: {a: {sequence: [7000, 9000, 8000], start_command: 'true'}, \
               b: {sequence: [7001, 9001, 8001], start_command: 'true'}}";
    fs::write(&path, two).unwrap();
    for (mode, doubts) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load(&path, &Options::default()).unwrap();
        let warnings = lint(&loaded, &HostFacts::default());
        assert_eq!(warnings.len(), doubts, "{mode:o}");
        let said = warnings.iter().map(ToString::to_string).collect::<String>();
        assert_eq!(said.contains("run: chmod o-r "), doubts > 0, "{said}");
    }
}

says! {
    good_doors_raise_no_doubt: doubts("a: {sequence: [7000, 8000, 9000], start_command: 'true'}\nb: {sequence: [5000, 6000/udp, 4000], open: [22], via: nft}", &["22/tcp", "7050/tcp", "7001/udp"]) => str![];
    one_knock: doubts("a: {sequence: [7000], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:2:3: warning: one knock opens this door: any port scan does
      a: {sequence: [7000], start_command: 'true'}
      ^
    three knocks or more are hard to hit by chance

"#]];
    two_knocks: doubts("a: {sequence: [7000, 6000], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:2:3: warning: fewer than three knocks open this door
      a: {sequence: [7000, 6000], start_command: 'true'}
      ^
    three knocks or more are hard to hit by chance

"#]];
    a_sequence_that_an_ascending_scan_completes: doubts("a: {sequence: [7000, 7001, 7002], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:2:18: warning: this sequence is monotone: a port scan in ascending order completes it
      a: {sequence: [7000, 7001, 7002], start_command: 'true'}
                     ^^^^
    mix the order of the ports, or leave room for trip-wires between them

"#]];
    a_sequence_that_a_descending_scan_completes: doubts("a: {sequence: [9000, 8000, 7000], start_command: 'true', trip_wires: 0}", &[]) => str![[r#"
doors.yaml:2:18: warning: this sequence is monotone: a port scan in descending order completes it
      a: {sequence: [9000, 8000, 7000], start_command: 'true', trip_wires: 0}
                     ^^^^
    mix the order of the ports, and do not turn 'trip_wires' off
doors.yaml:2:72: warning: without trip-wires a port scan in random order opens this door 1 time in 6
      a: {sequence: [9000, 8000, 7000], start_command: 'true', trip_wires: 0}
                                                                           ^
    remove this line, or write a number such as 16

"#]];
    a_mixed_order_without_trip_wires: doubts("a: {sequence: [8000, 7000, 9000], start_command: 'true', trip_wires: 0}", &[]) => str![[r#"
doors.yaml:2:72: warning: without trip-wires a port scan in random order opens this door 1 time in 6
      a: {sequence: [8000, 7000, 9000], start_command: 'true', trip_wires: 0}
                                                                           ^
    remove this line, or write a number such as 16

"#]];
    a_knock_on_a_port_that_a_door_opens: doubts("a: {sequence: [22, 8000, 7000], start_command: 'true'}\nb: {sequence: [5000, 6000, 4000], open: [22], via: nft}", &[]) => str![[r#"
doors.yaml:2:18: warning: 22/tcp is knocked on here, and opened by door 'b': using it knocks
      a: {sequence: [22, 8000, 7000], start_command: 'true'}
                     ^^
    knock on a port that nothing else uses

"#]];
    a_knock_on_a_port_where_something_listens: doubts("a: {sequence: [9000, 8080, 8500], start_command: 'true'}", &["8080/tcp"]) => str![[r#"
doors.yaml:2:24: warning: something listens on 8080/tcp: whoever uses it knocks
      a: {sequence: [9000, 8080, 8500], start_command: 'true'}
                           ^^^^
    knock on a port that nothing else uses

"#]];
    a_trip_wire_where_something_listens: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true'}", &["8001/tcp", "8016/tcp", "8017/tcp"]) => str![[r#"
doors.yaml:2:3: warning: something listens on 8001/tcp, 8016/tcp, a trip-wire of this door: whoever uses it breaks off their sequence
      a: {sequence: [9000, 8000, 8500], start_command: 'true'}
      ^
    knock further away from it, or lower 'trip_wires'

"#]];
    many_trip_wires_where_something_listens: doubts("a: {sequence: [9000, 8000, 8500], trip_wires: 8, start_command: 'true'}", &["8001", "8002", "8003", "8004", "8005", "8006"]) => str![[r#"
doors.yaml:2:49: warning: something listens on 8001/tcp, 8002/tcp, 8003/tcp, 8004/tcp, 8005/tcp and others, a trip-wire of this door: whoever uses it breaks off their sequence
      a: {sequence: [9000, 8000, 8500], trip_wires: 8, start_command: 'true'}
                                                    ^
    knock further away from it, or lower 'trip_wires'

"#]];
    two_doors_with_one_sequence: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true'}\nb: {sequence: [9000, 8000, 8500], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:3:3: warning: the same sequence as door 'a' has: both open
      b: {sequence: [9000, 8000, 8500], start_command: 'true'}
      ^
    the other is at doors.yaml:2:3

"#]];
    a_sequence_that_begins_with_another: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true'}\nb: {sequence: [9000, 8000, 8500, 7000], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:3:3: warning: this sequence holds that of door 'a': that one opens too
      b: {sequence: [9000, 8000, 8500, 7000], start_command: 'true'}
      ^
    the other is at doors.yaml:2:3

"#]];
    a_sequence_that_ends_with_another: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true'}\nb: {sequence: [7000, 9000, 8000, 8500], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:3:3: warning: this sequence holds that of door 'a': that one opens too
      b: {sequence: [7000, 9000, 8000, 8500], start_command: 'true'}
      ^
    the other is at doors.yaml:2:3

"#]];
    a_sequence_with_another_spread_over_it: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true'}\nb: {sequence: [9000, 8000, 7000, 8500], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:3:3: warning: this sequence holds that of door 'a': that one opens too
      b: {sequence: [9000, 8000, 7000, 8500], start_command: 'true'}
      ^
    the other is at doors.yaml:2:3
doors.yaml:2:3: warning: shares a prefix of 2 knocks with door 'b': who knows one has only the rest of the other to guess
      a: {sequence: [9000, 8000, 8500], start_command: 'true'}
      ^
    the other is at doors.yaml:3:3

"#]];
    doors_that_begin_alike: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true'}\nb: {sequence: [9000, 8000, 7000], start_command: 'true'}", &[]) => str![[r#"
doors.yaml:2:3: warning: shares a prefix of 2 knocks with door 'b': who knows one has only the rest of the other to guess
      a: {sequence: [9000, 8000, 8500], start_command: 'true'}
      ^
    the other is at doors.yaml:3:3

"#]];
    a_forward_for_nobody: doubts("a: {sequence: [9000, 7000, 8000], target: 192.0.2.1, forward: [{on: 2222, to: 192.168.1.10}, {on: 2222, to: '2001:db8:1::10'}]}", &[]) => str![[r#"
doors.yaml:2:96: warning: nobody who comes to 192.0.2.1 is led to an address of the other family
     target: 192.0.2.1, forward: [{on: 2222, to: 192.168.1.10}, {on: 2222, to: '2001:db8:1::10'}]}
                                                                ^
    remove this entry; or make it one of a door without 'target'

"#]];
    a_forward_that_another_one_masquerades: doubts("a: {sequence: [9000, 7000, 8000], forward: {on: 2222, to: 192.168.1.10, port: 22}}\nb: {sequence: [9100, 7100, 8100], forward: [{on: 2223, to: 192.168.1.10, port: 22, masquerade: true}, {on: 2224, to: 192.168.1.10, port: 23}]}", &[]) => str![[r#"
doors.yaml:2:46: warning: masqueraded all the same, since another forward there is: doors.yaml:3:47
      a: {sequence: [9000, 7000, 8000], forward: {on: 2222, to: 192.168.1.10, port: 22}}
                                                 ^
    write masquerade: true for both, or for none

"#]];
    doors_with_different_targets_do_not_meet: doubts("a: {sequence: [9000, 8000, 8500], start_command: 'true', target: 192.0.2.1}\nb: {sequence: [9000, 8000, 8500], start_command: 'true', target: 192.0.2.2}", &[]) => str![];
}

#[test]
fn what_the_host_does_not_have_is_named() {
    let text = "knockd: {interfaces: [any, eth0, eht0]}
doors:
  a: {sequence: [201, 403, 302], start_command: 'true', target: 192.0.2.1}
  b: {sequence: [601, 803, 702], start_command: 'true', target: 192.0.2.9}
";
    let loaded = parse(&SourceText::new("doors.yaml", text)).unwrap();
    let network = HostNetwork {
        interfaces: vec!["lo".to_owned(), "eth0".to_owned()],
        addresses: vec!["192.0.2.1".parse().unwrap()],
        forwards: vec![],
    };
    let messages = |network: HostNetwork| -> Vec<String> {
        let host = HostFacts { network: Some(network), ..HostFacts::default() };
        lint(&loaded, &host).iter().map(|warning| warning.message.clone()).collect()
    };
    let interface = "there is no interface 'eht0' now: knockd will wait for it";
    let target = "192.0.2.9 is not an address of this host, and it forwards nothing";
    assert_eq!(messages(network.clone()), [interface, target]);
    assert_eq!(messages(HostNetwork { forwards: vec![Family::V4], ..network }), [interface]);
}
