//! The datagram, against the published vectors and against whoever changes or makes up one.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

const VECTORS: &str = include_str!("vectors.txt");
const CLOCK: u64 = 1_700_000_000_000_000;

fn server() -> PrivateKey {
    "uYMqxqI17aCacPp6idHMh0dtJZZSZ9PlaFvOcmwg7C4=".parse().unwrap()
}

fn client() -> PrivateKey {
    "tgPY74An3thtrObu/mblPRwjkjver9khsuXqhRzzmKY=".parse().unwrap()
}

fn ephemeral() -> [u8; KEY_LEN] {
    let key: PrivateKey = "iZpkMoVfrTu6msGyUmU5+BbXml4Ql/avgXdCuXzOWSs=".parse().unwrap();
    key.expose().try_into().unwrap()
}

/// The datagram that a published vector has.
fn vector(what: &str, why: &str) -> [u8; LEN] {
    let start = format!("{what}: {why}: ");
    let mut lines = VECTORS.lines().filter_map(|line| line.strip_prefix(&start));
    let digits = lines.next().unwrap_or_else(|| panic!("no vector {start}"));
    assert_eq!(lines.next(), None);
    HEXLOWER.decode(digits.as_bytes()).unwrap().try_into().unwrap()
}

fn open(datagram: &[u8; LEN]) -> Result<(PublicKey, SpaRequest), SpaError> {
    Receiver::new(&server(), []).open(datagram)
}

/// No two vectors have the same stamp.
fn micros_after(micros: u64) -> Stamp {
    Stamp::from_micros(CLOCK + micros)
}

fn malformed(why: MalformedPayload) -> Result<(PublicKey, SpaRequest), SpaError> {
    Err(SpaError::Malformed { client: client().public(), why })
}

fn given(v4: &str, v6: &str) -> Addresses {
    Addresses::Named(NamedAddresses::new(v4.parse().ok(), v6.parse().ok()).unwrap())
}

/// Asks for the door `ssh` and 192.0.2.2.
fn request() -> SpaRequest {
    SpaRequest {
        open: given("192.0.2.2", ""),
        widths: Widths::SINGLE,
        close: false,
        source_port: None,
        open_for: None,
        stamp: Stamp::from_micros(CLOCK),
        door: Some("ssh".parse().unwrap()),
    }
}

fn sealed(payload: &[u8; PAYLOAD_LEN]) -> [u8; LEN] {
    seal_payload(payload, &client(), &server().public(), ephemeral())
}

/// Sets some bytes of the request that asks for the door `ssh` and 192.0.2.2.
fn altered(at: usize, bytes: &[u8]) -> Result<(PublicKey, SpaRequest), SpaError> {
    let mut payload = request().encode();
    payload[at..at + bytes.len()].copy_from_slice(bytes);
    open(&sealed(&payload))
}

#[test]
fn the_vectors_that_open_are_read_and_made_to_the_byte() {
    let web = SpaRequest {
        open: given("198.51.100.7", "2001:db8::7"),
        source_port: NonZeroU16::new(40_000),
        open_for: NonZeroU32::new(20),
        stamp: micros_after(1),
        door: Some("web".parse().unwrap()),
        ..request()
    };
    let observed = SpaRequest { open: Addresses::Observed, stamp: micros_after(2), ..request() };
    let cases = [
        ("door ssh, 192.0.2.2", request()),
        ("door web, 198.51.100.7 and 2001:db8::7, source port 40000, 20 s", web),
        ("door ssh, observed address", observed),
    ];
    for (why, request) in cases {
        let datagram = vector("open", why);
        assert_eq!(open(&datagram), Ok((client().public(), request.clone())), "{why}");
        assert_eq!(seal(&request, &client(), &server().public(), ephemeral()), datagram, "{why}");
    }
}

#[test]
fn the_vector_of_version_2_is_read_and_asks_for_a_single_address() {
    let why = "version 2, door ssh, 192.0.2.2";
    let (_, asked) = open(&vector("open", why)).unwrap();
    assert_eq!(SpaRequest { stamp: request().stamp, ..asked }, request());
}

#[test]
fn the_vectors_of_another_time_say_it() {
    for (what, why, stamp) in [
        ("too old", "61 s old", CLOCK - 61_000_000),
        ("too far ahead", "11 s ahead", CLOCK + 11_000_000),
    ] {
        let stamp = Stamp::from_micros(stamp);
        assert_eq!(
            open(&vector(what, why)),
            Ok((client().public(), SpaRequest { stamp, ..request() }))
        );
    }
}

#[test]
fn the_malformed_vectors_name_what_is_wrong() {
    for (why, error) in [
        ("flag bit 2 set", MalformedPayload::Flags(4)),
        ("no address and not observed", MalformedPayload::Address(AddressError::None)),
    ] {
        assert_eq!(open(&vector("malformed", why)), malformed(error), "{why}");
    }
}

#[test]
fn the_vector_with_a_flipped_bit_has_a_bad_tag() {
    assert_eq!(open(&vector("bad tag", "one bit of p flipped")), Err(SpaError::BadTag));
}

#[test]
fn the_vector_of_an_unknown_client_says_whose_it_is() {
    let (stranger, asked) =
        open(&vector("unknown client", "a key that is enrolled nowhere")).unwrap();
    assert_ne!(stranger, client().public());
    assert_eq!(asked, SpaRequest { stamp: micros_after(5), ..request() });
}

#[test]
fn every_single_flipped_bit_is_a_bad_tag() {
    let datagram = vector("open", "door ssh, 192.0.2.2");
    let receiver = Receiver::new(&server(), []);
    for bit in 0..LEN * 8 {
        let mut flipped = datagram;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!receiver.has_tag(&flipped), "bit {bit}");
        assert_eq!(receiver.open(&flipped), Err(SpaError::BadTag), "bit {bit}");
    }
}

#[test]
fn what_is_flipped_by_someone_who_can_make_tags_does_not_decrypt() {
    let datagram = vector("open", "door ssh, 192.0.2.2");
    let receiver = Receiver::new(&server(), []);
    for byte in TAG_LEN..LEN {
        let mut flipped = datagram;
        flipped[byte] ^= 1 << (byte % 8);
        let (tag, body) = flipped.split_at_mut(TAG_LEN);
        tag.copy_from_slice(&receiver.states.tag(body)[..TAG_LEN]);
        assert_eq!(receiver.open(&flipped), Err(SpaError::Undecryptable), "byte {byte}");
    }
}

#[test]
fn an_ephemeral_key_of_low_order_does_not_decrypt() {
    let receiver = Receiver::new(&server(), []);
    let mut datagram = [0; LEN];
    let (tag, body) = datagram.split_at_mut(TAG_LEN);
    receiver.states.mask(body);
    tag.copy_from_slice(&receiver.states.tag(body)[..TAG_LEN]);
    assert_eq!(receiver.open(&datagram), Err(SpaError::Undecryptable));
}

#[test]
fn what_was_made_for_another_server_has_a_bad_tag() {
    let other = Receiver::new(&PrivateKey::from([3; KEY_LEN]), []);
    let datagram = vector("open", "door ssh, 192.0.2.2");
    assert_eq!(other.open(&datagram), Err(SpaError::BadTag));
}

#[test]
fn what_has_another_length_has_no_tag() {
    let receiver = Receiver::new(&server(), []);
    let datagram = vector("open", "door ssh, 192.0.2.2");
    let longer = [&datagram[..], &[0]].concat();
    assert!(receiver.has_tag(&datagram));
    for other in [&[], &datagram[..15], &datagram[..LEN - 1], &longer] {
        assert!(!receiver.has_tag(other), "{}", other.len());
    }
}

#[test]
fn two_datagrams_of_one_request_have_no_byte_in_common_that_tells() {
    let seal = |ephemeral| seal(&request(), &client(), &server().public(), ephemeral);
    let (one, other) = (seal([1; KEY_LEN]), seal([2; KEY_LEN]));
    let same = one.iter().zip(other).filter(|&(&a, b)| a == b).count();
    // Random bytes agree once in 256.
    assert!(same < 8, "{same}");
}

#[test]
fn every_field_is_checked() {
    use MalformedPayload as M;
    for (at, bytes, why) in [
        (0, &[0][..], M::Version(0)),
        (1, &[0x80], M::Flags(0x80)),
        (1, &[1], M::ObservedAndGiven),
        (0, &[3], M::Version(3)),
        (20, &[1], M::Padding),
        (21, &[1], M::Padding),
        (22, &[1], M::Padding),
        (31, &[1], M::Padding),
        (16, &[0; 4], M::Address(AddressError::None)),
        (16, &[224, 0, 0, 1], M::Address(AddressError::OfNoHost("224.0.0.1".parse().unwrap()))),
        (16, &[255; 4], M::Address(AddressError::OfNoHost("255.255.255.255".parse().unwrap()))),
        (32, &[0xff; 16], M::Address(AddressError::OfNoHost([0xff; 16].into()))),
        (48, b"s h", M::Door),
        (48, &[0xff], M::Door),
        (48, b"ss\0h", M::Padding),
        (79, b"x", M::Padding),
    ] {
        assert_eq!(altered(at, bytes), malformed(why), "{at} {bytes:?}");
    }
}

/// The request for 192.0.2.2 as one of version 2, with these prefix lengths.
fn of_widths(ipv4: u8, ipv6: u8) -> Result<Widths, MalformedPayload> {
    let mut payload = request().encode();
    payload[0] = 2;
    payload[20..22].copy_from_slice(&[ipv4, ipv6]);
    SpaRequest::decode(&payload).map(|request| request.widths)
}

#[test]
fn version_2_says_how_many_bits_count_and_zero_is_all_of_them() {
    for (given, ipv4, ipv6) in
        [((0, 0), 32, 128), ((32, 128), 32, 128), ((24, 0), 24, 128), ((1, 64), 1, 64)]
    {
        assert_eq!(of_widths(given.0, given.1), Ok(Widths { ipv4, ipv6 }), "{given:?}");
    }
}

#[test]
fn more_bits_than_an_address_has_are_malformed() {
    assert_eq!(of_widths(33, 0), Err(MalformedPayload::Width));
    assert_eq!(of_widths(24, 129), Err(MalformedPayload::Width));
}

#[test]
fn version_2_has_zero_bytes_of_its_own() {
    for at in [22, 31] {
        let mut payload = request().encode();
        payload[0] = 2;
        payload[at] = 1;
        assert_eq!(SpaRequest::decode(&payload), Err(MalformedPayload::Padding), "{at}");
    }
}

#[test]
fn a_client_speaks_version_1_unless_it_asks_for_a_network() {
    let version =
        |ipv4, ipv6| SpaRequest { widths: Widths { ipv4, ipv6 }, ..request() }.encode()[0];
    assert_eq!([version(32, 128), version(24, 128), version(32, 64)], [1, 2, 2]);
}

#[test]
fn an_ipv4_address_that_is_written_as_an_ipv6_one_is_refused() {
    let mapped: Ipv6Addr = "::ffff:192.0.2.2".parse().unwrap();
    let why = MalformedPayload::Address(AddressError::OfNoHost(mapped.into()));
    assert_eq!(altered(32, &mapped.octets()), malformed(why));
}

#[test]
fn the_longest_name_fills_its_field() {
    let name = "x".repeat(32);
    let (_, request) = altered(48, name.as_bytes()).unwrap();
    assert_eq!(request.door, Some(name.parse().unwrap()));
}

#[test]
fn a_request_without_a_door_has_none() {
    let (_, request) = altered(48, &[0; 3]).unwrap();
    assert_eq!(request.door, None);
}

prop_compose! {
    fn requests()(
        v4 in proptest::option::of(1_u8..=223),
        v6 in proptest::option::of(any::<u16>()),
        close: bool,
        source_port: u16,
        open_for: u32,
        stamp: u64,
        ipv4 in 1_u8..=32,
        ipv6 in 1_u8..=128,
        door in "[A-Za-z0-9_.-]{0,32}",
    ) -> SpaRequest {
        let v4 = v4.map(|first| Ipv4Addr::new(first, 0, 2, 1));
        let v6 = v6.map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        SpaRequest {
            open: NamedAddresses::new(v4, v6).map_or(Addresses::Observed, Addresses::Named),
            widths: Widths { ipv4, ipv6 },
            close,
            source_port: NonZeroU16::new(source_port),
            open_for: NonZeroU32::new(open_for),
            stamp: Stamp::from_micros(stamp),
            door: door.parse().ok(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_request_is_read_as_it_was_made(
        request in requests(), ephemeral: [u8; 32], client: [u8; 32], server: [u8; 32],
    ) {
        let (client, server) = (PrivateKey::from(client), PrivateKey::from(server));
        let datagram = seal(&request, &client, &server.public(), ephemeral);
        let opened = Ok((client.public(), request));
        prop_assert_eq!(Receiver::new(&server, []).open(&datagram), opened.clone());
        let expected = Receiver::new(&server, [client.public()]);
        prop_assert_eq!(expected.open(&datagram), opened);
    }

    #[test]
    fn no_datagram_makes_it_panic(datagram: [u8; LEN]) {
        prop_assert_eq!(open(&datagram), Err(SpaError::BadTag));
    }

    #[test]
    fn no_request_of_a_client_makes_it_panic(payload: [u8; PAYLOAD_LEN]) {
        let _ = open(&sealed(&payload));
    }
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_the_same(
        mut payload: [u8; PAYLOAD_LEN], zero in any::<bool>(), widths in 1_u8..32,
    ) {
        // Most random bytes are malformed; these are so seldom.
        payload[0] = 1 + (payload[0] & 1);
        payload[1] &= 3;
        payload[20..32].fill(0);
        let widths = if payload[0] == 2 { widths } else { 0 };
        payload[20..22].fill(widths);
        payload[48..].fill(if zero { 0 } else { b'a' });
        if let Ok(request) = SpaRequest::decode(&payload) {
            prop_assert_eq!(request.encode(), payload);
        }
    }
}
