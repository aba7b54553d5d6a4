use std::num::NonZeroU16;

use proptest::prelude::*;
use serde::Deserialize as De;

use super::cipher::Derived;
use super::*;
use crate::proto::knock::Knock;

fn seal(
    request: &FwknopRequest,
    digest: Hash,
    key: &FwknopKey,
    mode: CipherMode,
    hmac: Option<(&HmacKey, Hash)>,
    salt: [u8; SALT],
) -> Result<String, SealError> {
    super::seal(request, digest, FwknopKeys { key, mode, hmac }, salt)
}

fn open(
    datagram: &[u8],
    key: &FwknopKey,
    mode: CipherMode,
    hmac: Option<(&HmacKey, Hash)>,
) -> Result<OpenedRequest, FwknopError> {
    FwknopDatagram::new(datagram)?.open(&FwknopKeys { key, mode, hmac }.into())
}

const SALT_1: [u8; SALT] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef";

fn key() -> FwknopKey {
    FwknopKey::new(b"testkey".to_vec()).unwrap()
}

fn hmac_key() -> HmacKey {
    HmacKey::new(b"hmackey".to_vec()).unwrap()
}

fn knocks(texts: &[&str]) -> Vec<Knock> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn request() -> FwknopRequest {
    FwknopRequest {
        random: "1922177240486264".parse().unwrap(),
        user: "root".parse().unwrap(),
        timestamp: 1_795_331_989,
        access: Access {
            address: Some([192, 0, 2, 7].into()),
            ports: knocks(&["22", "53/udp"]),
            nat: None,
            timeout: None,
        },
    }
}

fn nat_access(host: &str, port: u16, is_local: bool) -> NatAccess {
    NatAccess::new(host, port.try_into().unwrap(), is_local).unwrap()
}

/// A datagram of the real fwknop 2.6.10, and everything on the way to it.
#[derive(De)]
struct Vector {
    name: String,
    key: String,
    hmac_key: Option<String>,
    hmac_type: Option<String>,
    mode: String,
    digest: String,
    salt_hex: String,
    aes_key_hex: String,
    iv_hex: String,
    plaintext: String,
    r#type: u8,
    user: String,
    timestamp: u64,
    message: String,
    nat: Option<String>,
    timeout: Option<u32>,
    wire: String,
}

impl Vector {
    fn all() -> Vec<Self> {
        let text = include_str!("../../../tests/data/fwknop-vectors.json");
        let vectors: Vec<Self> = serde_json::from_str(text).unwrap();
        assert_eq!(vectors.len(), 24);
        vectors
    }

    fn key(&self) -> FwknopKey {
        match self.key.strip_prefix("b64:") {
            Some(text) => FwknopKey::from_base64(text).unwrap(),
            None => FwknopKey::new(self.key.clone().into_bytes()).unwrap(),
        }
    }

    fn hmac(&self) -> Option<(HmacKey, Hash)> {
        let key = self.hmac_key.as_ref()?;
        let key = match key.strip_prefix("b64:") {
            Some(text) => HmacKey::from_base64(text).unwrap(),
            None => HmacKey::new(key.clone().into_bytes()).unwrap(),
        };
        Some((key, self.hmac_type.as_ref().unwrap().parse().unwrap()))
    }

    fn mode(&self) -> CipherMode {
        self.mode.parse().unwrap()
    }

    fn salt(&self) -> [u8; SALT] {
        unhex(&self.salt_hex).try_into().unwrap()
    }

    fn open(&self) -> Result<OpenedRequest, FwknopError> {
        let hmac = self.hmac();
        let hmac = hmac.as_ref().map(|(key, hash)| (key, *hash));
        open(self.wire.as_bytes(), &self.key(), self.mode(), hmac)
    }
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn what_fwknop_sends_is_read_as_it_was_meant() {
    for vector in Vector::all() {
        let opened = vector.open();
        let expected = match vector.r#type {
            0 => Err(FwknopError::Command),
            kind => {
                let (address, ports) = vector.message.split_once(',').unwrap();
                let address = Some(address).filter(|text| *text != "0.0.0.0");
                let turn = |text: &str| {
                    let (protocol, port) = text.split_once('/').unwrap();
                    format!("{port}/{protocol}").parse().unwrap()
                };
                Ok(Access {
                    address: address.map(|text| text.parse().unwrap()),
                    ports: ports.split(',').map(turn).collect(),
                    nat: vector.nat.as_ref().map(|nat| {
                        let (host, port) = nat.split_once(',').unwrap();
                        nat_access(host, port.parse().unwrap(), kind >= 5)
                    }),
                    timeout: vector.timeout,
                })
            }
        };
        assert_eq!(opened.map(|opened| opened.request.access), expected, "{}", vector.name);
    }
}

#[test]
fn user_and_time_are_read() {
    for vector in Vector::all() {
        if let Ok(OpenedRequest { request, .. }) = vector.open() {
            assert_eq!(request.user.as_str(), vector.user);
            assert_eq!(request.timestamp, vector.timestamp);
        }
    }
}

#[test]
fn what_is_sent_is_what_fwknop_would_send_byte_for_byte() {
    let mut sealed = 0;
    for vector in Vector::all() {
        let (hmac, mode) = (vector.hmac(), vector.mode());
        let hmac = hmac.as_ref().map(|(key, hash)| (key, *hash));
        let wrapped = wrap(
            vector.plaintext.as_bytes(),
            FwknopKeys { key: &vector.key(), mode, hmac },
            vector.salt(),
        );
        assert_eq!(wrapped, vector.wire, "{}", vector.name);
        if let Ok(OpenedRequest { request, .. }) = vector.open() {
            let digest = vector.digest.parse().unwrap();
            let datagram = seal(&request, digest, &vector.key(), mode, hmac, vector.salt());
            assert_eq!(datagram.as_ref(), Ok(&vector.wire), "{}", vector.name);
            sealed += 1;
        }
    }
    assert_eq!(sealed, 23);
}

#[test]
fn key_and_iv_are_derived_as_openssl_does() {
    for vector in Vector::all().into_iter().filter(|vector| vector.mode != "legacy") {
        let derived = Derived::new(vector.key().0.expose(), vector.salt());
        assert_eq!(*derived.key, *unhex(&vector.aes_key_hex), "{}", vector.name);
        assert_eq!(*derived.iv, *unhex(&vector.iv_hex), "{}", vector.name);
    }
}

/// What a client with these fields sends; their digest is added.
fn sent(fields: &str) -> String {
    let plain = format!("{fields}:{}", Hash::Sha256.digest(fields.as_bytes()));
    sent_plain(plain.as_bytes())
}

fn sent_plain(plain: &[u8]) -> String {
    let hmac = Some((&hmac_key(), Hash::Sha256));
    wrap(plain, FwknopKeys { key: &key(), mode: CipherMode::Cbc, hmac }, SALT_1)
}

fn heard(datagram: impl AsRef<[u8]>) -> Result<OpenedRequest, FwknopError> {
    open(datagram.as_ref(), &key(), CipherMode::Cbc, Some((&hmac_key(), Hash::Sha256)))
}

/// Heard by a client without an HMAC key.
fn heard_without(datagram: impl AsRef<[u8]>) -> Result<OpenedRequest, FwknopError> {
    open(datagram.as_ref(), &key(), CipherMode::Cbc, None)
}

fn b64(text: &str) -> String {
    BASE64_NOPAD.encode(text.as_bytes())
}

/// The fields of a request for access, one of them replaced.
fn with(field: usize, value: &str) -> String {
    let message = b64("192.0.2.7,tcp/22");
    let mut fields = ["1922177240486264", "cm9vdA", "1795331989", "3.0.0", "1", &message];
    fields[field] = value;
    fields.join(":")
}

const RANDOM: usize = 0;
const USER: usize = 1;
const TIME: usize = 2;
const VERSION: usize = 3;
const TYPE: usize = 4;
const MESSAGE: usize = 5;
/// Of a host, with `,22` behind it, in a field of 256 characters.
const MAX_HOST_THAT_FITS: usize = 189;

#[test]
fn fields_that_are_wrong_are_named() {
    let table = [
        (RANDOM, "192217724048626", FwknopError::Random),
        (RANDOM, "19221772404862645", FwknopError::Random),
        (RANDOM, "19221772404862x4", FwknopError::Random),
        (USER, "", FwknopError::User),
        (USER, "cm9vdA*", FwknopError::User),
        (USER, &b64("a:b"), FwknopError::User),
        (USER, &b64("a/b"), FwknopError::User),
        (USER, &b64("josé"), FwknopError::User),
        (USER, &b64(&"u".repeat(49)), FwknopError::User),
        (TIME, "", FwknopError::Timestamp),
        (TIME, "+1795331989", FwknopError::Timestamp),
        (TIME, "1795331989x", FwknopError::Timestamp),
        (TIME, "-1", FwknopError::Timestamp),
        (TIME, "1234567890123", FwknopError::Timestamp),
        (VERSION, "", FwknopError::Version),
        (VERSION, "whatever1", FwknopError::Version),
        (TYPE, "7", FwknopError::Type),
        (TYPE, "", FwknopError::Type),
        (TYPE, "001", FwknopError::Type),
        (TYPE, "x", FwknopError::Type),
        (TYPE, "0", FwknopError::Command),
        (TYPE, "2", FwknopError::NatAccess),
        (TYPE, "4", FwknopError::NatAccess),
        (TYPE, "5", FwknopError::NatAccess),
        (TYPE, "6", FwknopError::NatAccess),
        (TYPE, "3", FwknopError::Timeout),
        (MESSAGE, "MTkyLjAuMi43LHRjcC8yMg*", FwknopError::Ports),
        (MESSAGE, &b64("192.0.2.7"), FwknopError::Ports),
        (MESSAGE, &b64(&format!("192.0.2.7{}", ",tcp/22".repeat(27))), FwknopError::Ports),
    ];
    for (field, value, error) in table {
        assert_eq!(heard(sent(&with(field, value))), Err(error), "field {field}: {value:?}");
    }
}

#[test]
fn addresses_and_ports_that_are_wrong_are_named() {
    for address in
        ["300.1.1.1", "1.2.3", "1.2.3.4.5", "::1", "", "01.2.3.4", "0x1.2.3.4", "a.b.c.d"]
    {
        let message = b64(&format!("{address},tcp/22"));
        assert_eq!(heard(sent(&with(MESSAGE, &message))), Err(FwknopError::Address), "{address}");
    }
    for ports in [
        "none/0",
        "icmp/8",
        "TCP/22",
        "tcpx/22",
        "tcp/0",
        "tcp/65536",
        "tcp/000022",
        "tcp/22,",
        "tcp/22, udp/53",
        "tcp",
        "tcp/",
        "/22",
        "tcp/+22",
        "tcp/22/22",
        "",
    ] {
        let message = b64(&format!("192.0.2.7,{ports}"));
        assert_eq!(heard(sent(&with(MESSAGE, &message))), Err(FwknopError::Ports), "{ports}");
    }
}

#[test]
fn where_to_lead_is_a_host_and_a_port_and_nothing_else() {
    let read = |kind: &str, nat: &str| {
        let fields = format!("{}:{}", with(TYPE, kind), b64(nat));
        heard(sent(&fields)).map(|opened| opened.request.access.nat)
    };
    let longest = "h".repeat(MAX_HOST_THAT_FITS);
    for host in ["10.0.0.1", "host.example.com", "2001:db8::7", &longest] {
        let nat = |is_local| Ok(Some(nat_access(host, 22, is_local)));
        assert_eq!(read("2", &format!("{host},22")), nat(false), "{host}");
        assert_eq!(read("5", &format!("{host},22")), nat(true), "{host}");
    }
    assert_eq!(read("2", "10.0.0.1,00022"), Ok(Some(nat_access("10.0.0.1", 22, false))));
    for wrong in [
        "",
        ",22",
        "10.0.0.1",
        "10.0.0.1,",
        "10.0.0.1,0",
        "10.0.0.1,65536",
        "10.0.0.1,000022",
        "10.0.0.1,+22",
        "10.0.0.1,22,",
        "10.0.0.1,22,80",
        "10.0.0.1:22",
        "10.0.0.1, 22",
        "a b,22",
        "a/b,22",
        "a?b,22",
        "a\"b,22",
        "a'b,22",
        "a\\b,22",
        "hôte,22",
        "a\tb,22",
        &format!("{longest}h,22"),
    ] {
        for kind in ["2", "5"] {
            assert_eq!(read(kind, wrong), Err(FwknopError::NatAccess), "{wrong:?}");
        }
    }
    assert!(NatAccess::new(&"h".repeat(254), NonZeroU16::MIN, false).is_ok());
    assert!(NatAccess::new(&"h".repeat(255), NonZeroU16::MIN, false).is_err());
}

#[test]
fn wrong_numbers_of_fields_and_what_stands_in_them_are_named() {
    let (with_timeout, nat) = (with(TYPE, "3"), b64("10.0.0.1,22"));
    let table = [
        (format!("{}:a:b:c", with(TYPE, "1")), FwknopError::FieldCount),
        (format!("{}:YQ:60:x", with_timeout), FwknopError::FieldCount),
        (format!("{}:{nat}:YQ:x", with(TYPE, "2")), FwknopError::FieldCount),
        (format!("{}:{nat}:YQ:60:x", with(TYPE, "4")), FwknopError::FieldCount),
        (format!("{}:{nat}:YQ:x", with(TYPE, "5")), FwknopError::FieldCount),
        (format!("{}:{nat}", with(TYPE, "6")), FwknopError::Timeout),
        (format!("{}:{nat}:65537", with(TYPE, "4")), FwknopError::Timeout),
        (format!("{}:{nat}:a*", with(TYPE, "2")), FwknopError::ServerAuth),
        (format!("{with_timeout}:-1"), FwknopError::Timeout),
        (format!("{with_timeout}:65537"), FwknopError::Timeout),
        (format!("{with_timeout}:4294967296"), FwknopError::Timeout),
        (format!("{with_timeout}:99999999999999999999999"), FwknopError::Timeout),
        (format!("{}:a*", with(TYPE, "1")), FwknopError::ServerAuth),
        (format!("{}:{}", with(TYPE, "1"), "A".repeat(260)), FwknopError::ServerAuth),
        ("1922177240486264:cm9vdA:1795331989:3.0.0:1".to_owned(), FwknopError::FieldCount),
        ("1922177240486264:cm9vdA:1795331989:3.0.0".to_owned(), FwknopError::FieldCount),
    ];
    for (fields, error) in table {
        // Long enough to be looked at.
        let datagram = sent(&fields);
        assert!(datagram.len() >= MIN_LEN, "{fields}");
        assert_eq!(heard(datagram), Err(error), "{fields}");
    }
}

#[test]
fn what_fwknopd_takes_beside_what_its_client_sends_is_taken() {
    let (with_timeout, nat) = (with(TYPE, "3"), BASE64.encode(b"10.0.0.1,22"));
    for fields in [
        with(USER, &b64(&"u".repeat(48))),
        with(USER, &b64("a b@c")),
        with(USER, "cm9vdA=="),
        with(VERSION, "whatever"),
        with(VERSION, "2.0"),
        with(TYPE, "01"),
        with(MESSAGE, &b64("192.0.2.7,tcp/00022")),
        with(MESSAGE, &BASE64.encode(b"192.0.2.7,tcp/22")),
        // A time after 2038, which fwknopd cannot read.
        with(TIME, "4102444800"),
        format!("{}:c2VjcmV0", with(TYPE, "1")),
        format!("{with_timeout}:0"),
        format!("{with_timeout}:65536"),
        format!("{with_timeout}:c2VjcmV0:60"),
        format!("{}:{nat}:c2VjcmV0", with(TYPE, "02")),
        format!("{}:{nat}:c2VjcmV0:60", with(TYPE, "6")),
    ] {
        assert!(heard(sent(&fields)).is_ok(), "{fields}: {:?}", heard(sent(&fields)));
    }
}

#[test]
fn a_digest_of_any_hash_is_taken_and_a_wrong_one_is_not() {
    let fields = with(TYPE, "1");
    for hash in Hash::ALL {
        let digest = hash.digest(fields.as_bytes());
        assert!(heard(sent_plain(format!("{fields}:{digest}").as_bytes())).is_ok(), "{hash}");
        for wrong in [
            format!("{digest}="),
            digest[1..].to_owned(),
            hash.digest(b"something else"),
            String::new(),
        ] {
            let datagram = sent_plain(format!("{fields}:{wrong}").as_bytes());
            assert_eq!(heard(datagram), Err(FwknopError::Digest), "{hash}: {wrong}");
        }
    }
}

#[test]
fn the_bits_that_a_digest_leaves_over_are_a_part_of_it() {
    let fields = with(TYPE, "1");
    let digest = Hash::Md5.digest(fields.as_bytes());
    let last = digest.chars().last().unwrap();
    let other = char::from_u32(u32::from(last) + 1).unwrap();
    let altered = format!("{fields}:{}{other}", &digest[..digest.len() - 1]);
    assert_eq!(heard(sent_plain(altered.as_bytes())), Err(FwknopError::Digest));
}

#[test]
fn what_is_no_plain_text_is_undecryptable() {
    let fields = with(TYPE, "1");
    let plain = format!("{fields}:{}", Hash::Sha256.digest(fields.as_bytes()));
    for plain in [
        format!("{plain}\n"),
        format!("{plain}\0"),
        plain.replace("3.0.0", "3.é"),
        // Sixteen bytes of padding more than there should be.
        format!("{plain}{}", "\x10".repeat(16)),
    ] {
        assert_eq!(
            heard(sent_plain(plain.as_bytes())),
            Err(FwknopError::Undecryptable),
            "{plain:?}"
        );
    }
}

#[test]
fn a_padding_of_another_kind_is_undecryptable() {
    let fields = with(TYPE, "1");
    let plain = format!("{fields}:{}", Hash::Sha256.digest(fields.as_bytes()));
    let fill = 16 - plain.len() % 16;
    assert!(fill > 1);
    for (name, padding) in [
        ("zero", vec![0; fill]),
        ("X9.23", [vec![0; fill - 1], vec![u8::try_from(fill).unwrap()]].concat()),
    ] {
        // The padding that is added to it is cut off: its block is the last.
        let padded = [plain.as_bytes(), &padding].concat();
        let ciphertext = CipherMode::Ecb.encrypt(key().0.expose(), SALT_1, &padded);
        let blob = [&MAGIC[..], &SALT_1, &ciphertext[..padded.len()]].concat();
        let text = BASE64_NOPAD.encode(&blob);
        let opened = open(&text.as_bytes()[PREFIX.len()..], &key(), CipherMode::Ecb, None);
        assert_eq!(opened, Err(FwknopError::Undecryptable), "{name}");
    }
}

#[test]
fn a_datagram_that_is_no_request_is_refused_before_any_key_is_used() {
    let good = seal(&request(), Hash::Sha256, &key(), CipherMode::Cbc, None, SALT_1).unwrap();
    let rsa = "EMA0h1fXzdUjVXAQf".repeat(30);
    let table = [
        (good[..139].to_owned(), FwknopError::Length),
        (good.repeat(10), FwknopError::Length),
        (String::new(), FwknopError::Length),
        (format!("GET /{good} HTTP/1.0\r\nUser-Agent: Fwknop/3.0.0\r\n\r\n"), FwknopError::Http),
        (format!("{good}\n"), FwknopError::NotBase64),
        (format!("{good} "), FwknopError::NotBase64),
        (good.replacen(&good[50..51], "-", 1), FwknopError::NotBase64),
        (format!("{good}="), FwknopError::NotCanonical),
        (format!("{good}=AAAA"), FwknopError::NotCanonical),
        (format!("U2FsdGVkX1{good}"), FwknopError::Prefix),
        (rsa, FwknopError::Gnupg),
        (format!("A{good}"), FwknopError::NotSalted),
    ];
    for (datagram, error) in table {
        assert_eq!(FwknopDatagram::new(datagram.as_bytes()).map(|_| ()), Err(error), "{datagram}");
        assert_eq!(heard(&datagram), Err(error), "{datagram}");
        assert_eq!(heard_without(&datagram), Err(error), "{datagram}");
    }
}

#[test]
fn every_altered_character_is_noticed() {
    let good = sent(&with(TYPE, "1"));
    assert!(heard(&good).is_ok());
    for at in 0..good.len() {
        let mut altered = good.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let opened = heard(&altered);
        assert!(
            matches!(opened, Err(FwknopError::Hmac | FwknopError::NotSalted)),
            "{at}: {opened:?}"
        );
    }
}

#[test]
fn what_is_cut_off_or_added_is_noticed() {
    let good = sent(&with(TYPE, "1"));
    for end in MIN_LEN..good.len() {
        assert_eq!(heard(&good[..end]), Err(FwknopError::Hmac), "{end}");
    }
    assert_eq!(heard(format!("{good}A")), Err(FwknopError::Hmac));
}

#[test]
fn without_an_hmac_no_altered_copy_is_taken_for_another_request() {
    let mut request = request();
    request.access.ports = knocks(&["22"]);
    // The last of its characters has two bits that mean nothing.
    let good = seal(&request, Hash::Sha256, &key(), CipherMode::Cbc, None, SALT_1).unwrap();
    let opened = heard_without(&good);
    assert!(opened.is_ok());
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let copies = alphabet.map(|last| {
        let mut copy = good.clone().into_bytes();
        *copy.last_mut().unwrap() = last;
        heard_without(&copy)
    });
    assert_eq!(copies.iter().filter(|copy| **copy == opened).count(), 1);
    assert_eq!(copies.iter().filter(|copy| **copy == Err(FwknopError::NotCanonical)).count(), 3);
    assert_eq!(copies.iter().filter(|copy| **copy == Err(FwknopError::Undecryptable)).count(), 60);
}

#[test]
fn what_another_client_has_configured_does_not_open() {
    let request = request();
    let (key, hmac) = (key(), hmac_key());
    let sealed = |mode, hmac| seal(&request, Hash::Sha256, &key, mode, hmac, SALT_1).unwrap();
    let with = |hash| Some((&hmac, hash));
    let sent = sealed(CipherMode::Cbc, with(Hash::Sha256));
    let tries = [
        (
            "without HMAC",
            open(sent.as_bytes(), &key, CipherMode::Cbc, None),
            FwknopError::Undecryptable,
        ),
        (
            "another hash",
            open(sent.as_bytes(), &key, CipherMode::Cbc, with(Hash::Sha3_256)),
            FwknopError::Hmac,
        ),
        (
            "another mode",
            open(sent.as_bytes(), &key, CipherMode::Ctr, with(Hash::Sha256)),
            FwknopError::Undecryptable,
        ),
        (
            "another key",
            open(
                sent.as_bytes(),
                &FwknopKey::new(b"other".to_vec()).unwrap(),
                CipherMode::Cbc,
                with(Hash::Sha256),
            ),
            FwknopError::Undecryptable,
        ),
        (
            "no HMAC sent",
            open(sealed(CipherMode::Cbc, None).as_bytes(), &key, CipherMode::Cbc, with(Hash::Md5)),
            FwknopError::Hmac,
        ),
    ];
    for (name, opened, error) in tries {
        assert_eq!(opened, Err(error), "{name}");
    }
}

#[test]
fn the_same_request_has_the_same_replay_digest_and_no_other_has() {
    let (key, hmac) = (key(), hmac_key());
    let sealed = |salt, hmac| {
        let datagram = seal(&request(), Hash::Sha256, &key, CipherMode::Cbc, hmac, salt).unwrap();
        open(datagram.as_bytes(), &key, CipherMode::Cbc, hmac).unwrap().replay
    };
    assert_eq!(sealed(SALT_1, None), sealed(SALT_1, Some((&hmac, Hash::Md5))));
    assert_ne!(sealed(SALT_1, None), sealed([0; SALT], None));
}

#[test]
fn what_no_fwknop_server_takes_is_not_sent() {
    let key = key();
    let refused = |request: &FwknopRequest| {
        seal(request, Hash::Sha256, &key, CipherMode::Cbc, None, SALT_1).unwrap_err()
    };
    let mut bad = request();
    bad.access.ports.clear();
    assert_eq!(refused(&bad), SealError::NoPorts);
    let mut bad = request();
    bad.access.timeout = Some(65_537);
    assert_eq!(refused(&bad), SealError::Timeout(65_537));
    let mut bad = request();
    bad.timestamp = 1 << 31;
    assert_eq!(refused(&bad), SealError::Timestamp(1 << 31));
    let mut bad = request();
    (bad.user, bad.timestamp) = ("u".parse().unwrap(), 1);
    bad.access.ports = knocks(&["1"]);
    bad.access.address = None;
    let sealed = seal(&bad, Hash::Md5, &key, CipherMode::Cbc, None, SALT_1);
    assert_eq!(sealed, Err(SealError::TooShort));
    let same = HmacKey::new(b"testkey".to_vec()).unwrap();
    let sealed =
        seal(&request(), Hash::Sha256, &key, CipherMode::Cbc, Some((&same, Hash::Md5)), SALT_1);
    assert_eq!(sealed, Err(SealError::SameKeys));
}

#[test]
fn the_longest_request_is_the_longest_that_fwknop_servers_take() {
    let most = [None].into_iter().chain(Hash::ALL.map(Some)).map(max_plain);
    assert_eq!(most.collect::<Vec<_>>(), [271, 271, 255, 255, 239, 223, 255, 223]);
}

#[test]
fn fourteen_ports_fit_with_what_fwknop_does_by_default_and_fifteen_do_not() {
    let hmac = hmac_key();
    let asking = |ports: u16| {
        let mut request = request();
        request.access.address = Some([198, 51, 100, 7].into());
        let ports: Vec<String> = (0..ports).map(|port| (100 + port).to_string()).collect();
        request.access.ports = knocks(&ports.iter().map(String::as_str).collect::<Vec<_>>());
        seal(&request, Hash::Sha256, &key(), CipherMode::Cbc, Some((&hmac, Hash::Sha256)), SALT_1)
    };
    assert!(asking(14).unwrap().len() < GNUPG_LEN);
    let error = asking(15).unwrap_err();
    assert!(matches!(error, SealError::TooLong { most: 255, .. }), "{error}");
    assert!(error.to_string().contains("ask for fewer ports"));
}

#[test]
fn keys_have_the_lengths_that_fwknop_takes() {
    let bytes = |length| vec![b'k'; length];
    assert!(FwknopKey::new(bytes(32)).is_ok() && HmacKey::new(bytes(128)).is_ok());
    assert_eq!(FwknopKey::new(bytes(0)), Err(FwknopKeyError::Empty));
    assert_eq!(FwknopKey::new(bytes(33)), Err(FwknopKeyError::TooLong { length: 33, most: 32 }));
    assert_eq!(HmacKey::new(bytes(129)), Err(FwknopKeyError::TooLong { length: 129, most: 128 }));
    assert_eq!(FwknopKey::new(b"__CHANGEME__".to_vec()), Err(FwknopKeyError::Placeholder));
    assert_eq!(FwknopKey::from_base64("__CHANGEME__"), Err(FwknopKeyError::Placeholder));
    assert_eq!(FwknopKey::from_base64("no base64!"), Err(FwknopKeyError::NotBase64));
    assert_eq!(FwknopKey::from_base64("dGVzdGtleQ=="), Ok(key()));
    assert_eq!(FwknopKey::from_base64("dGVzdGtleQ"), Ok(key()));
}

#[test]
fn no_output_shows_a_key() {
    let shown = format!("{:?} {:?} {:?}", key(), hmac_key(), FwknopKey::new(vec![b's'; 33]));
    assert_eq!(shown, "KeyOf(Secret(..)) KeyOf(Secret(..)) Err(TooLong { length: 33, most: 32 })");
}

prop_compose! {
    fn any_request()(
        random: [u8; 16],
        user in "[a-zA-Z0-9 @._-]{1,20}",
        timestamp in 1_000_000_000u64..END_OF_TIME,
        address in proptest::option::of(1u32..),
        ports in prop::collection::vec((any::<bool>(), 1u16..), 1..6),
        nat in proptest::option::of(("[a-z0-9.:-]{1,40}", 1u16.., any::<bool>())),
        timeout in proptest::option::of(0..=MAX_TIMEOUT),
    ) -> FwknopRequest {
        let turn = |(udp, port)| format!("{port}/{}", if udp { "udp" } else { "tcp" });
        let ports: Vec<String> = ports.into_iter().map(turn).collect();
        FwknopRequest {
            random: Random::new(random),
            user: user.parse().unwrap(),
            timestamp,
            access: Access {
                address: address.map(Into::into),
                ports: knocks(&ports.iter().map(String::as_str).collect::<Vec<_>>()),
                nat: nat.map(|(host, port, is_local)| nat_access(&host, port, is_local)),
                timeout,
            },
        }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_again(
        request in any_request(),
        digest in prop::sample::select(Hash::ALL.to_vec()),
        mode in prop::sample::select(CipherMode::ALL.to_vec()),
        hash in proptest::option::of(prop::sample::select(Hash::ALL.to_vec())),
        salt: [u8; SALT],
    ) {
        let hmac_key = hmac_key();
        let hmac = hash.map(|hash| (&hmac_key, hash));
        match seal(&request, digest, &key(), mode, hmac, salt) {
            Ok(datagram) => {
                let opened = open(datagram.as_bytes(), &key(), mode, hmac).unwrap();
                prop_assert_eq!(opened.request, request);
            }
            Err(error) => prop_assert!(matches!(error, SealError::TooLong { .. }), "{}", error),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(datagram in prop::collection::vec(any::<u8>(), 0..1_600)) {
        let _ = heard(&datagram);
        let _ = heard_without(&datagram);
    }

    #[test]
    fn nothing_that_looks_like_a_request_makes_it_panic(
        datagram in "[89+/][A-Za-z0-9+/]{139,600}",
        mode in prop::sample::select(CipherMode::ALL.to_vec()),
    ) {
        let _ = open(datagram.as_bytes(), &key(), mode, None);
        let _ = open(datagram.as_bytes(), &key(), mode, Some((&hmac_key(), Hash::Sha512)));
    }

    #[test]
    fn no_text_that_was_encrypted_makes_it_panic(plain in "[0-9]{16}:[ -~]{20,200}") {
        let _ = heard(sent_plain(plain.as_bytes()));
        let _ = heard(sent(&plain));
    }

    #[test]
    fn no_text_makes_a_key_panic(text in ".{0,50}") {
        let _ = FwknopKey::from_base64(&text);
        let _ = HmacKey::from_base64(&text);
    }
}

#[test]
fn every_request_has_a_length_that_its_receiver_takes() {
    let lengths = |mode, hash: Option<Hash>| {
        let key = HmacKey::new(b"hmackey".to_vec()).unwrap();
        let hmac = hash.map(|hash| (&key, hash));
        let receiver = FwknopReceiver::from(FwknopKeys { key: &self::key(), mode, hmac });
        receiver.lengths().collect::<std::collections::BTreeSet<_>>()
    };
    for vector in Vector::all() {
        let hmac = vector.hmac();
        let lengths = lengths(vector.mode(), hmac.as_ref().map(|(_, hash)| *hash));
        assert!(lengths.contains(&vector.wire.len()), "{}", vector.wire.len());
    }
    let of_sha256 = lengths(CipherMode::Cbc, Some(Hash::Sha256));
    assert_eq!(of_sha256.iter().take(4).collect::<Vec<_>>(), [&140, &161, &183, &204]);
}
