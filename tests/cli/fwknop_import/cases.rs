//! Files of fwknopd's: every variable varied by value, place, way of writing and neighbours.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Files of one name each; `@` stands for the directory that they are in.
pub(super) type Tree = BTreeMap<String, String>;

#[derive(Clone)]
pub(super) struct Case {
    /// For people.
    pub(super) name: String,
    pub(super) files: Tree,
}

/// The variables, with values of every kind. The first two are right.
pub(super) const VALUES: &[(&str, &[&str])] = &[
    (
        "SOURCE",
        &[
            "ANY",
            "192.0.2.0/24",
            "any",
            "Any",
            "any, 192.0.2.1",
            "192.0.2.1, ANY",
            "192.0.2.1",
            "192.0.2.1/32",
            "192.0.2.5/24",
            "192.0.2.0/255.255.255.0",
            "192.0.2.0/255.0.255.0",
            "192.0.2.1,198.51.100.0/24",
            "192.0.2.0/33",
            "0.0.0.0/0",
            "192.0.2.0/1",
            "192.0.2",
            "300.1.1.1",
            "::1",
            "host",
            "192.0.2.1 192.0.2.2",
            "!192.0.2.1",
            "010.1.1.1",
            "192.0.2.1,,192.0.2.2",
            "192.0.2.1,",
            ",192.0.2.1",
            "192.0.2.0/",
            "192.0.2.0/24x",
            "192.0.2.0/ 24",
            "ANYONE",
            "192.0.2.0/024",
            "192.0.2.0/08",
            "192.0.2.1/0.0.0.0",
            "192.0.2.1/255.255.255.255",
            "192.0.2.1/255.255.0",
            "192.0.2.1 ,ANY",
            "192.0.2.1,\t192.0.2.2",
            "ANY , 192.0.2.1",
            "3221225985",
            "0.0.0.0",
        ],
    ),
    ("DESTINATION", &["ANY", "192.0.2.1", "any", "192.0.2.0/24", "host", "192.0.2.1, 192.0.2.2"]),
    (
        "OPEN_PORTS",
        &[
            "tcp/22",
            "tcp/22,udp/53",
            "TCP/22",
            "tcp/22, udp/53",
            "tcp/22 udp/53",
            "tcp/22\tudp/53",
            ",tcp/22",
            "tcp/22,",
            "tcp/22,,udp/53",
            "tcp/0",
            "tcp/0,tcp/22",
            "tcp/65536",
            "tcp/22-25",
            "22",
            "tcp",
            "icmp/8",
            "tcp/ 22",
            "tcp /22",
            "tcp/22x",
            "tcp//22",
            "none/0",
            "tcp/022",
            "tcp/+22",
            "tcp/-1",
            "tcp/22;udp/53",
            "tcp:22",
            "tcp/*",
            "any",
            "sctp/22",
            "tcp/22#x",
            "Udp/53",
            "tcp/65535",
            "tcp/22,icmp/8",
        ],
    ),
    ("RESTRICT_PORTS", &["tcp/23", "udp/22", "any", "tcp/0", "icmp/8", "tcp/23,", "tcp/23-25"]),
    (
        "KEY",
        &[
            "abc",
            "a b c",
            "def",
            "__CHANGEME__",
            "a#b",
            "\"abc\"",
            "12345678901234567890123456789012",
            "123456789012345678901234567890123",
            "abc=",
            "%IP%",
            "$HOME",
            "jos\u{e9}",
        ],
    ),
    (
        "KEY_BASE64",
        &[
            "YWJj",
            "YWI=",
            "YWI",
            "YW-j",
            "YWJjZ",
            "=",
            "YWJj=rest",
            "YWJj YWJj",
            "Y",
            "__CHANGEME__",
            "ZGVm",
            "YWJ=j",
            "YQ",
            "YWJj=-",
            "YWJj= YWJj",
            "YWJj-",
            "Y=",
            "YWJj====",
        ],
    ),
    ("HMAC_KEY", &["def", "d e f", "abc", "__CHANGEME__", "x"]),
    ("HMAC_KEY_BASE64", &["ZGVm", "ZGU=", "=", "YWJj", "ZG-m", "ZGVmZ", "__CHANGEME__"]),
    (
        "HMAC_DIGEST_TYPE",
        &[
            "sha512", "md5", "Sha1", "SHA256", "sha384", "SHA3_256", "sha3_512", "SHA3-256",
            "sha224", "sha256x", "1",
        ],
    ),
    (
        "ENCRYPTION_MODE",
        &["cbc", "legacy", "ECB", "CFB", "OFB", "CTR", "PCBC", "gcm", "cbcx", "2", "Asymmetric"],
    ),
    ("FW_ACCESS_TIMEOUT", NUMBERS),
    ("MAX_FW_TIMEOUT", NUMBERS),
    (
        "ACCESS_EXPIRE",
        &[
            "12/31/2030",
            "12/31/30",
            "1/1/2027",
            "31/12/2030",
            "2030-12-31",
            "never",
            "12/31",
            "0/1/2030",
            "13/1/2030",
            "2/30/2030",
            "12/31/2030 10:00",
            "12/31/99",
            "12/31/1999",
            "1/1/1970",
            "12 / 31 / 2030",
            "12/31/2030x",
            "12/31/100",
            "12/ 31/2030",
            "+12/31/2030",
            "12/0/2030",
            "0012/0031/2030",
            "-1/1/2030",
        ],
    ),
    (
        "ACCESS_EXPIRE_EPOCH",
        &[
            "1900000000",
            "99",
            "0",
            "-1",
            "never",
            "1900000000x",
            "2147483648",
            "4294967296",
            "99999999999",
            "1e9",
            "+5",
            " 5",
        ],
    ),
    (
        "REQUIRE_USERNAME",
        &["bob", "bob smith", "a:b", "\"bob\"", "jos\u{e9}", "b,c", "bob@example.com"],
    ),
    ("REQUIRE_SOURCE_ADDRESS", SWITCH),
    ("REQUIRE_SOURCE", SWITCH),
    (
        "CMD_CYCLE_OPEN",
        &[
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 5",
            "/bin/true\nCMD_CYCLE_CLOSE NONE",
            "/bin/true",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false",
            "/bin/true $IP\nCMD_CYCLE_CLOSE NONE\nCMD_CYCLE_TIMER 5",
            "/bin/true $PORT\nCMD_CYCLE_CLOSE /bin/false $PORT\nCMD_CYCLE_TIMER 5",
            "NONE\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 5",
            "/bin/true\nCMD_CYCLE_CLOSE none\nCMD_CYCLE_TIMER 5",
            "/bin/true\nCMD_CYCLE_CLOSE none",
            "/bin/true\nCMD_CYCLE_CLOSE NONEX",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 5s",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 0",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER -1",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER x",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 8388608",
            "/bin/true\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 8388609",
            "$IP\nCMD_CYCLE_CLOSE NONE",
            "true\nCMD_CYCLE_CLOSE NONE",
            "/bin/true $CLIENT_TIMEOUT\nCMD_CYCLE_CLOSE /bin/false\nCMD_CYCLE_TIMER 5",
            "/bin/true $DST\nCMD_CYCLE_CLOSE NONE",
            "/bin/true $FOO\nCMD_CYCLE_CLOSE NONE",
        ],
    ),
    ("CMD_CYCLE_TIMER", &["5", "50", "x", "5s", "0", "-1", "9999999"]),
    ("CMD_CYCLE_CLOSE", &["/bin/true", "NONE"]),
    ("ENABLE_CMD_EXEC", SWITCH),
    ("ENABLE_CMD_SUDO_EXEC", SWITCH),
    ("CMD_EXEC_USER", &["nobody", "root", "no-such-user"]),
    (
        "FORCE_NAT",
        &[
            "10.0.0.2 22",
            "10.0.0.3 2222",
            "10.0.0.2",
            "10.0.0.2 0",
            "10.0.0.2 65535",
            "10.0.0.2 65536",
            "10.0.0.2 -1",
            "10.0.0.2 +22",
            "10.0.0.2 022",
            "10.0.0.2 22x",
            "10.0.0.2 22 tcp",
            "10.0.0.2\t22",
            "10.0.0.2   22 ",
            "10.0.0.2:22",
            "10.0.0.2,22",
            "10.0.0.2 tcp/22",
            "10.0.0 22",
            "010.0.0.2 22",
            "10.0.0.300 22",
            "0.0.0.0 22",
            "127.0.0.1 22",
            "255.255.255.255 22",
            "host.example.com 22",
            "::1 22",
            "10.0.0.2 22\nFORCE_SNAT 10.0.0.1",
            "10.0.0.2 22\nFORCE_SNAT host",
            "10.0.0.2 22\nFORCE_MASQUERADE Y",
            "10.0.0.2 22\nFORCE_MASQUERADE N",
            "10.0.0.2 22\nFORWARD_ALL Y",
            "10.0.0.2 22\nDISABLE_DNAT Y",
            "10.0.0.2 22\nCMD_CYCLE_OPEN /bin/true\nCMD_CYCLE_CLOSE NONE",
        ],
    ),
    ("FORCE_SNAT", &["10.0.0.1", "10.0.0.9", "host"]),
    ("FORCE_MASQUERADE", SWITCH),
    ("FORWARD_ALL", SWITCH),
    ("DISABLE_DNAT", SWITCH),
    ("GPG_REQUIRE_SIG", SWITCH),
    ("GPG_REMOTE_ID", &["ABCD1234", "1234ABCD"]),
    ("TIME_OFFSET", &["1H", "5"]),
    ("NO_SUCH_VARIABLE", &["1", "x y"]),
];

pub(super) const NUMBERS: &[&str] = &[
    "60",
    "400",
    "30s",
    "5m",
    "0",
    "-1",
    "+5",
    "1e3",
    "0x10",
    "010",
    "abc",
    "8388608",
    "8388609",
    "2147483648",
    "4294967297",
    "99999999999999999999",
    "1 2",
    "60,",
    "5.5",
    "60 # a minute",
    "#",
    "-5",
    "-0",
    "+-5",
];
pub(super) const SWITCH: &[&str] =
    &["Y", "N", "y", "yes", "Yes", "no", "1", "true", "on", "nY", "\"Y\"", "Y # on", "y;n"];

/// What every case begins with.
pub(super) const PLAIN: [(&str, &str); 4] =
    [("SOURCE", "ANY"), ("KEY", "abc"), ("HMAC_KEY", "def"), ("OPEN_PORTS", "tcp/22")];

/// A stanza with these lines, each in place of the plain one of its name.
pub(super) fn stanza(lines: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in PLAIN {
        let mut given = lines.iter().filter(|(other, _)| *other == name).peekable();
        if given.peek().is_none() {
            let _ = writeln!(text, "{name} {value}");
        }
        for (name, value) in given {
            let _ = writeln!(text, "{name} {value}");
        }
    }
    for (name, value) in lines {
        if !PLAIN.iter().any(|(plain, _)| plain == name) {
            let _ = writeln!(text, "{name} {value}");
        }
    }
    text
}

/// A second stanza, which stands for itself.
pub(super) const OTHER: &str =
    "SOURCE 198.51.100.7\nKEY other\nHMAC_KEY another\nOPEN_PORTS udp/99\n";

pub(super) fn case(name: impl Into<String>, files: &[(&str, &str)]) -> Case {
    let mut files: Tree =
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    // Without these fwknopd does not start with some of them.
    let translates = files.values().any(|text| text.contains("FORCE_"));
    let daemon = if translates { "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_SNAT Y;\n" } else { "" };
    files.entry("fwknopd.conf".to_owned()).or_insert_with(|| daemon.to_owned());
    files.entry("access.conf".to_owned()).or_default();
    Case { name: name.into(), files }
}

/// Every variable with every value.
pub(super) fn every_value() -> Vec<Case> {
    let pairs = VALUES.iter().flat_map(|(name, values)| values.iter().map(move |it| (*name, *it)));
    pairs
        .map(|(name, value)| {
            let text = stanza(&[(name, value)]);
            case(format!("{name} {value}"), &[("access.conf", &text)])
        })
        .collect()
}

/// One value in every place where it may stand, and in every way in which a line may be written.
pub(super) fn places(name: &str, value: &str, next: &str) -> Vec<Case> {
    let plain = stanza(&[]);
    let with = stanza(&[(name, value)]);
    let lower = name.to_ascii_lowercase();
    let written = [
        ("a colon", format!("{name}: {value}")),
        ("a colon apart", format!("{name} : {value}")),
        ("small letters", format!("{lower} {value}")),
        ("a tab", format!("{name}\t{value}")),
        ("many blanks", format!("  {name}   {value}")),
        ("a blank behind", format!("{name} {value} ")),
        ("a tab behind", format!("{name} {value}\t")),
        ("a carriage return", format!("{name} {value}\r")),
        ("a semicolon", format!("{name} {value};")),
        ("a semicolon and more", format!("{name} {value} ; {next}")),
        ("a hash and more", format!("{name} {value} # {next}")),
        ("quotes", format!("{name} \"{value}\"")),
        ("an equals sign", format!("{name}={value}")),
        ("an equals sign apart", format!("{name} = {value}")),
        ("no value", name.to_owned()),
        ("nothing but blanks", format!("{name}   ")),
        ("twice", format!("{name} {next}\n{name} {value}")),
        ("twice the other way", format!("{name} {value}\n{name} {next}")),
        ("commented", format!("#{name} {value}\n;{name} {value}")),
    ];
    let written = written.into_iter().map(|(way, line)| {
        let lines = plain.lines().filter(|it| !it.starts_with(&format!("{name} ")));
        let kept: Vec<&str> = lines.collect();
        let (line, rest) = (line.as_str(), kept.join("\n"));
        let text = if name == "SOURCE" {
            format!("{line}\n{rest}\n{OTHER}")
        } else {
            format!("{rest}\n{line}\n{OTHER}")
        };
        (way, vec![("access.conf", text)])
    });
    let line = format!("{name} {value}\n");
    let apart: Vec<(&str, Vec<(&str, String)>)> = vec![
        ("before SOURCE", vec![("access.conf", format!("{line}{plain}"))]),
        (
            "right behind SOURCE",
            vec![("access.conf", plain.replacen('\n', &format!("\n{line}"), 1))],
        ),
        ("in the first of two", vec![("access.conf", format!("{with}{OTHER}"))]),
        ("in the second of two", vec![("access.conf", format!("{OTHER}{with}"))]),
        (
            "in a file included",
            vec![("access.conf", format!("{OTHER}%include @/more\n")), ("more", with.clone())],
        ),
        (
            "in a file included without a SOURCE",
            vec![("access.conf", format!("{plain}%include @/more\n")), ("more", line.clone())],
        ),
        (
            "behind what is included",
            vec![
                ("access.conf", format!("{plain}%include @/more\n{line}")),
                ("more", OTHER.to_owned()),
            ],
        ),
        (
            "in a folder included",
            vec![
                ("access.conf", format!("%include_folder @/d\n{OTHER}")),
                ("d/a.conf", with.clone()),
                ("d/b.txt", plain.clone()),
            ],
        ),
        (
            "in a file of keys",
            vec![
                ("access.conf", format!("{plain}%include_keys @/keys\n{OTHER}")),
                ("keys", line.clone()),
            ],
        ),
        (
            "in a file of keys with another",
            vec![
                ("access.conf", format!("{plain}%include_keys @/keys\n{OTHER}")),
                ("keys", format!("KEY longer\n{line}HMAC_KEY longest\n")),
            ],
        ),
        (
            "in a file of keys before the KEY",
            vec![
                (
                    "access.conf",
                    format!(
                        "SOURCE ANY\n%include_keys @/keys\nKEY abc\nOPEN_PORTS tcp/22\n{OTHER}"
                    ),
                ),
                ("keys", line.clone()),
            ],
        ),
        (
            "before a file of keys",
            vec![
                (
                    "access.conf",
                    format!(
                        "SOURCE ANY\nKEY abc\n{line}%include_keys @/keys\nOPEN_PORTS tcp/22\n{OTHER}"
                    ),
                ),
                ("keys", "HMAC_KEY longest\n".to_owned()),
            ],
        ),
        (
            "behind a file of keys",
            vec![
                (
                    "access.conf",
                    format!("SOURCE ANY\nKEY abc\n%include_keys @/keys\n{line}{OTHER}"),
                ),
                ("keys", "HMAC_KEY longest\n".to_owned()),
            ],
        ),
        (
            "in a folder instead",
            vec![
                ("fwknopd.conf", "ACCESS_FOLDER @/d;\n".to_owned()),
                ("access.conf", "# nothing\n".to_owned()),
                ("d/a.conf", with.clone()),
            ],
        ),
        (
            "beside a folder that is read instead",
            vec![
                ("fwknopd.conf", "ACCESS_FOLDER @/d;\n".to_owned()),
                ("access.conf", with.clone()),
                ("d/a.conf", OTHER.to_owned()),
            ],
        ),
    ];
    written
        .chain(apart)
        .map(|(place, files)| {
            let files: Vec<(&str, &str)> =
                files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            case(format!("{name} {value}: {place}"), &files)
        })
        .collect()
}

pub(super) fn every_place() -> Vec<Case> {
    VALUES.iter().flat_map(|(name, values)| places(name, values[0], values[1])).collect()
}

pub(super) fn every_value_in_every_place() -> Vec<Case> {
    let of = |(name, values): &(&str, &'static [&'static str])| {
        let nexts = values.iter().cycle().skip(1);
        let name = (*name).to_owned();
        values.iter().zip(nexts).flat_map(move |(value, next)| places(&name, value, next))
    };
    VALUES.iter().flat_map(of).collect()
}

/// Every two variables, in both orders, each with some of its values.
pub(super) fn every_pair() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, (one, values)) in VALUES.iter().enumerate() {
        for (other, others) in VALUES {
            for turn in 0..4 {
                let pair = [
                    (*one, values[(turn * 3 + number) % values.len()]),
                    (*other, others[(turn * 5 + number) % others.len()]),
                ];
                let text = stanza(&pair) + OTHER;
                cases.push(case(format!("{pair:?}"), &[("access.conf", &text)]));
            }
        }
    }
    cases
}

/// A variable in the one file and in the other.
pub(super) fn naming(name: &str) -> [Case; 2] {
    let plain = stanza(&[]);
    let access = format!("{plain}{name} 1\n");
    let daemon = format!("{name} 1;\n");
    [
        case(name, &[("access.conf", &access)]),
        case(name, &[("access.conf", &plain), ("fwknopd.conf", &daemon)]),
    ]
}

/// How files name other files.
pub(super) fn includes() -> Vec<Case> {
    let plain = stanza(&[]);
    let plain = plain.as_str();
    let and = |text: &str| format!("{plain}{text}\n");
    let chain = |length: usize| {
        let mut files = vec![("access.conf".to_owned(), and("%include @/1"))];
        for number in 1..=length {
            let text = OTHER.replace("other", &format!("other{number}"));
            let next = if number < length {
                format!("%include @/{}\n", number + 1)
            } else {
                String::new()
            };
            files.push((number.to_string(), format!("{text}{next}")));
        }
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        case(format!("{length} files, each included by the one before"), &files)
    };
    let mut cases: Vec<Case> = (1..5).map(chain).collect();
    let with = [
        ("a file that is not there", "%include @/none", ""),
        ("a name that begins nowhere", "%include more", OTHER),
        ("a file of comments", "%include @/more", "# nothing\n"),
        ("an empty file", "%include @/more", ""),
        ("itself", "%include @/access.conf", ""),
        ("capital letters", "%INCLUDE @/more", OTHER),
        ("a colon", "%include: @/more", OTHER),
        ("a semicolon", "%include @/more; and more", OTHER),
        ("a blank behind", "%include @/more ", OTHER),
        ("a folder named as a file", "%include @/d", OTHER),
        ("a file named as a folder", "%include_folder @/more", OTHER),
        ("a folder that is not there", "%include_folder @/none", ""),
        ("a slash behind", "%include_folder @/d/", OTHER),
        ("keys that are not there", "%include_keys @/none", ""),
        ("a file that is wrong", "%include @/more", "SOURCE ANY\nKEY x\nOPEN_PORTS\n"),
        ("a file with a wrong stanza", "%include @/more", "SOURCE ANY\nOPEN_PORTS tcp/1\n"),
    ];
    for (name, line, more) in with {
        let files =
            [("access.conf", and(line)), ("more", more.to_owned()), ("d/a.conf", more.to_owned())];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        cases.push(case(name, &files));
    }
    let folder = ["a.conf", ".b.conf", "C.CONF", "d.conf.bak", ".conf", "e", "f.Conf"];
    let stanzas: Vec<String> = (1..)
        .zip(folder)
        .map(|(number, _)| {
            OTHER.replace("other", &"o".repeat(number + 3)).replace("99", &format!("9{number}"))
        })
        .collect();
    let names: Vec<String> = folder.iter().map(|name| format!("d/{name}")).collect();
    let main = and("%include_folder @/d");
    let mut files = vec![("access.conf", main.as_str())];
    files.extend(names.iter().map(String::as_str).zip(stanzas.iter().map(String::as_str)));
    cases.push(case("names of files in a folder", &files));
    let keys = [
        ("nothing", ""),
        ("no value", "KEY\n"),
        ("a wrong key, then a right one", "KEY_BASE64 a-b\nKEY right1\n"),
        ("a right key, then a wrong one", "KEY right1\nHMAC_KEY_BASE64 a-b\n"),
        ("a line without a value in the midst", "KEY right1\nHMAC_KEY\nHMAC_KEY right\n"),
        ("the same key twice", "KEY same\nHMAC_KEY same\n"),
        ("only the HMAC key", "HMAC_KEY another\n"),
        ("the HMAC key that is the KEY", "HMAC_KEY abc\n"),
        ("a placeholder", "KEY __CHANGEME__\nHMAC_KEY x\n"),
        ("another include", "%include @/more\nKEY right1\n"),
        ("a stanza", "SOURCE ANY\nKEY right1\nOPEN_PORTS tcp/1\n"),
        ("GnuPG", "GPG_DECRYPT_PW x\nGPG_REMOTE_ID ABCD1234\n"),
    ];
    for (name, keys) in keys {
        let [source, key, hmac, ports] = PLAIN.map(|(name, value)| format!("{name} {value}\n"));
        let line = "%include_keys @/keys\n";
        let places = [
            ("behind", format!("{source}{key}{hmac}{ports}{line}{OTHER}")),
            ("at once", format!("{source}{line}{key}{hmac}{ports}{OTHER}")),
            ("before the HMAC key", format!("{source}{key}{line}{hmac}{ports}{OTHER}")),
            ("before the KEY", format!("{source}{hmac}{line}{key}{ports}{OTHER}")),
            ("instead", format!("{OTHER}{source}{ports}{line}")),
            ("before any SOURCE", format!("{line}{source}{key}{hmac}{ports}")),
            ("twice", format!("{source}{key}{line}{line}{ports}{OTHER}")),
            (
                "before half a cycle",
                format!(
                    "{source}{key}CMD_CYCLE_OPEN /bin/true\n{line}CMD_CYCLE_CLOSE NONE\n{OTHER}"
                ),
            ),
        ];
        for (place, text) in places {
            let files = [("access.conf", text.as_str()), ("keys", keys), ("more", OTHER)];
            cases.push(case(format!("a file of keys {place}: {name}"), &files));
        }
    }
    cases
}

/// Which files `fwknopd.conf` names.
pub(super) fn daemons() -> Vec<Case> {
    let plain = stanza(&[]);
    let lines = [
        "ACCESS_FOLDER @/d;",
        "ACCESS_FOLDER @/d",
        "ACCESS_FOLDER @/d/;",
        "ACCESS_FOLDER: @/d;",
        "ACCESS_FOLDER @/none;",
        "ACCESS_FOLDER @/empty;",
        "access_folder @/d;",
        "#ACCESS_FOLDER @/d;",
        "ACCESS_FOLDER  @/d ; more",
        "ACCESS_FOLDER d;",
        "FWKNOP_CONF_DIR @;\nACCESS_FOLDER $FWKNOP_CONF_DIR/d;",
        "ACCESS_FOLDER $FWKNOP_CONF_DIR/d;\nFWKNOP_CONF_DIR @;",
        "ACCESS_FOLDER $NOTHING/d;",
        "ACCESS_FOLDER @/none;\nACCESS_FOLDER @/d;",
        "ACCESS_FOLDER @/d;\nACCESS_FOLDER @/none;",
        "ACCESS_FOLDER @/d;\nACCESS_FILE @/access.conf;",
        "ACCESS_FOLDER",
        "NO_SUCH_VARIABLE x;",
        "FW_ACCESS_TIMEOUT 5;",
        "no value",
        "WORD",
        "PCAP_INTF lo",
        "MAX_SPA_PACKET_AGE 5;",
        "MAX_SPA_PACKET_AGE 0;",
        "MAX_SPA_PACKET_AGE 100001;",
        "MAX_SPA_PACKET_AGE x;",
        "MAX_SPA_PACKET_AGE 5x;",
        "MAX_SPA_PACKET_AGE -1;",
        "SYSLOG_FACILITY local3;",
        "SYSLOG_FACILITY log_local3;",
        "SYSLOG_FACILITY LOG_USER;",
        "SYSLOG_FACILITY LOG_DAEMON ;",
        "UDPSERV_PORT 70000;\nENABLE_UDP_SERVER Y;",
        "SYSLOG_FACILITY LOG_LOCAL3;",
        "SYSLOG_FACILITY nothing;",
        "ENABLE_UDP_SERVER maybe;",
    ];
    lines
        .into_iter()
        .map(|line| {
            let files = [
                ("fwknopd.conf", format!("{line}\n")),
                ("access.conf", plain.clone()),
                ("d/a.conf", OTHER.to_owned()),
                ("d/b.txt", plain.clone()),
                ("empty/x", String::new()),
            ];
            let files: Vec<(&str, &str)> =
                files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            case(format!("fwknopd.conf: {line}"), &files)
        })
        .collect()
}

/// Stanzas beside each other.
pub(super) fn neighbours() -> Vec<Case> {
    let plain = stanza(&[]);
    let texts = [
        ("nothing", String::new()),
        ("a comment", "# SOURCE ANY\n".to_owned()),
        ("SOURCE alone", "SOURCE ANY\n".to_owned()),
        ("SOURCE twice", format!("SOURCE ANY\n{plain}")),
        ("SOURCE at the end", format!("{plain}SOURCE ANY\n")),
        ("no line end", plain.trim_end().to_owned()),
        ("a byte order mark", format!("\u{feff}{plain}")),
        ("small letters", plain.to_ascii_lowercase()),
        ("a blank line with blanks", format!("{plain}   \n{OTHER}")),
        ("a line of one word", format!("{plain}word\n")),
        ("an indented comment", format!("{plain}  # a comment\n{OTHER}")),
        ("an indented comment of one word", format!("{plain}  #comment\n{OTHER}")),
        ("an indented comment with a semicolon", format!("{plain}  ; a comment\n{OTHER}")),
        ("a carriage return for a blank", plain.replace("KEY abc", "KEY\rabc")),
        ("a carriage return among blanks", plain.replace("KEY abc", "KEY \r abc")),
        ("a semicolon behind a name", plain.replace("KEY abc", "KEY; abc")),
        ("a long comment", format!("{plain}# {}\n{OTHER}", "x".repeat(1500))),
        (
            "a long comment with words",
            format!("{plain}# {} RESTRICT_PORTS tcp/22\n{OTHER}", "x".repeat(1500)),
        ),
        ("a long comment of words", format!("{plain}#{} {OTHER}", " word".repeat(300))),
        ("a long value", format!("{plain}RESTRICT_PORTS {}tcp/9\n", "tcp/1,".repeat(200))),
        ("a line of 1023 bytes", format!("{plain}X {}\nMAX_FW_TIMEOUT 77\n", "x".repeat(1021))),
        ("a line of 1024 bytes", format!("{plain}X {}\nMAX_FW_TIMEOUT 77\n", "x".repeat(1022))),
        ("no KEY", "SOURCE ANY\nHMAC_KEY def\nOPEN_PORTS tcp/22\n".to_owned()),
        ("no HMAC_KEY", "SOURCE ANY\nKEY abc\nOPEN_PORTS tcp/22\n".to_owned()),
        ("no OPEN_PORTS", "SOURCE ANY\nKEY abc\nHMAC_KEY def\n".to_owned()),
        ("no SOURCE", "KEY abc\nHMAC_KEY def\nOPEN_PORTS tcp/22\n".to_owned()),
        ("no KEY in the second", format!("{plain}SOURCE ANY\nHMAC_KEY def\nOPEN_PORTS tcp/22\n")),
        ("a line of zero bytes", format!("{plain}\0\n{OTHER}")),
        (
            "a zero byte in a value",
            format!("{}{OTHER}", plain.replace("tcp/22", "tcp/22\0,udp/53")),
        ),
        ("a form feed", plain.replace(' ', "\u{c}")),
        ("a vertical tab", plain.replace(' ', "\u{b}")),
        ("a vertical tab first", format!("\u{b}{plain}")),
        ("a carriage return within", plain.replace("tcp/22", "tcp/22\rudp/53")),
        ("line ends of another system", plain.replace('\n', "\r\n")),
        ("KEY and KEY_BASE64", stanza(&[("KEY", "abc"), ("KEY_BASE64", "YWJjZA==")])),
        (
            "KEY_BASE64 and KEY",
            format!("SOURCE ANY\nKEY_BASE64 YWJjZA==\n{}", plain.replace("SOURCE ANY\n", "")),
        ),
        ("both dates", stanza(&[("ACCESS_EXPIRE", "1/1/2030"), ("ACCESS_EXPIRE_EPOCH", "99")])),
        (
            "both dates the other way",
            stanza(&[("ACCESS_EXPIRE_EPOCH", "99"), ("ACCESS_EXPIRE", "1/1/2030")]),
        ),
        ("less than the default", stanza(&[("MAX_FW_TIMEOUT", "5"), ("FW_ACCESS_TIMEOUT", "60")])),
        ("more than the most", stanza(&[("FW_ACCESS_TIMEOUT", "600")])),
    ];
    texts.iter().map(|(name, text)| case(*name, &[("access.conf", text)])).collect()
}
