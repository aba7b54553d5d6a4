//! The ports that each door watches for its sequence: those of the sequence and the trip-wires
//! around them.

use std::num::NonZeroU16;

use super::door::Recognition;
use crate::proto::PortSet;

/// What each door watches for its fixed sequence, in the order of the doors: the ports of the
/// sequence, and as trip-wires the ports around them that no door knocks on or opens. Empty for a
/// door without one.
///
/// Rotating sequences are a track of their own, which watches [`Scheme::watched`]: their range is
/// known to be knocked on, so no port of it is a trip-wire of any door.
///
/// Trip-wires have the protocol of the knock that they surround. So two doors that share no port
/// in their sequences never see the same knock of a person, and a service that a door opens can be
/// used without breaking anyone's sequence.
///
/// Time and space grow with the ports that come out, not with the square of the doors.
///
/// [`Scheme::watched`]: crate::proto::totp::Scheme::watched
pub fn watch_sets<'a>(doors: impl IntoIterator<Item = &'a Recognition>) -> Vec<PortSet> {
    let doors: Vec<&Recognition> = doors.into_iter().collect();
    // The ports that are nobody's trip-wires.
    let mut taken = PortSet::default();
    for door in &doors {
        taken.extend(door.sequence.iter().copied());
        taken.extend(door.opens.iter().copied());
        taken.extend(door.forwards.iter().map(|forward| forward.on));
        door.totp.iter().for_each(|scheme| taken.extend_from(&scheme.watched()));
    }
    doors.iter().map(|door| watch_set(door, &taken)).collect()
}

fn watch_set(door: &Recognition, taken: &PortSet) -> PortSet {
    let mut around = PortSet::default();
    for knock in &door.sequence {
        let low = knock.port.get().saturating_sub(door.trip_wires);
        let low = NonZeroU16::new(low).unwrap_or(NonZeroU16::MIN);
        around.insert_range(knock.protocol, low..=knock.port.saturating_add(door.trip_wires));
    }
    let mut set = around.without(taken);
    set.extend(door.sequence.iter().copied());
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::knock::{Knock, Protocol};
    use crate::proto::open_ports::OpenPorts;
    use crate::proto::totp::{Protocols, Scheme, TotpMode};

    fn door(sequence: &[Knock], trip_wires: u16, opens: &[OpenPorts]) -> Recognition {
        Recognition {
            sequence: sequence.to_vec(),
            trip_wires,
            opens: opens.to_vec(),
            ..Recognition::new("door".parse().unwrap())
        }
    }

    fn knock(text: &str) -> Knock {
        text.parse().unwrap()
    }

    fn opens(text: &str) -> OpenPorts {
        text.parse().unwrap()
    }

    fn tcp(set: &PortSet) -> Vec<(u16, u16)> {
        set.ranges(Protocol::Tcp).collect()
    }

    #[test]
    fn trip_wires_surround_each_knock_in_its_own_protocol() {
        let sets = watch_sets(&[door(&[knock("7000"), knock("8000/udp")], 2, &[])]);
        assert_eq!(tcp(&sets[0]), [(6998, 7002)]);
        assert_eq!(sets[0].ranges(Protocol::Udp).collect::<Vec<_>>(), [(7998, 8002)]);
    }

    #[test]
    fn trip_wires_end_where_the_ports_end() {
        let sets = watch_sets(&[door(&[knock("1"), knock("65535")], 3, &[])]);
        assert_eq!(tcp(&sets[0]), [(1, 4), (65532, 65535)]);
        let sets = watch_sets(&[door(&[knock("1"), knock("65535")], u16::MAX, &[])]);
        assert_eq!(tcp(&sets[0]), [(1, 65535)]);
    }

    #[test]
    fn a_port_that_another_door_knocks_on_is_no_trip_wire() {
        let sets = watch_sets(&[door(&[knock("7000")], 2, &[]), door(&[knock("7001")], 2, &[])]);
        assert_eq!(tcp(&sets[0]), [(6998, 7000), (7002, 7002)]);
        assert_eq!(tcp(&sets[1]), [(6999, 6999), (7001, 7003)]);
    }

    #[test]
    fn a_port_that_any_door_opens_is_no_trip_wire() {
        let sets = watch_sets(&[
            door(&[knock("20")], 3, &[opens("22"), opens("18/udp")]),
            door(&[knock("25")], 3, &[]),
        ]);
        assert_eq!(tcp(&sets[0]), [(17, 21), (23, 23)]);
        assert_eq!(tcp(&sets[1]), [(23, 28)]);
    }

    #[test]
    fn a_door_watches_its_own_knocks_even_where_a_door_opens_them() {
        let sets = watch_sets(&[door(&[knock("22")], 0, &[opens("22")])]);
        assert_eq!(tcp(&sets[0]), [(22, 22)]);
    }

    #[test]
    fn no_port_of_a_rotating_sequence_is_a_trip_wire() {
        let port = |number| NonZeroU16::new(number).unwrap();
        let (low, high) = (port(7001), port(7100));
        let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Tcp };
        let scheme = Scheme::new(mode, 30, 1).unwrap();
        let rotates = Recognition { totp: Some(scheme), ..door(&[], 2, &[]) };
        let sets = watch_sets(&[rotates, door(&[knock("7000"), knock("7099")], 3, &[])]);
        assert_eq!(sets[0].len(), 0);
        assert_eq!(tcp(&sets[1]), [(6997, 7000), (7099, 7099), (7101, 7102)]);
    }

    fn any_knock() -> impl Strategy<Value = Knock> {
        (any::<bool>(), prop_oneof![1u16..30, 65520..=65535u16]).prop_map(|(tcp, port)| {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            Knock::new(protocol, NonZeroU16::new(port).unwrap())
        })
    }

    fn any_ports() -> impl Strategy<Value = OpenPorts> {
        (any_knock(), 0u16..4).prop_map(|(Knock { protocol, port }, more)| {
            let last = port.saturating_add(more);
            format!("{port}-{last}/{protocol}").parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn each_set_is_what_its_definition_says_port_by_port(
            doors in prop::collection::vec(
                (
                    prop::collection::vec(any_knock(), 1..5),
                    0u16..6,
                    prop::collection::vec(any_ports(), 0..3),
                ),
                1..5,
            ),
        ) {
            let doors: Vec<_> =
                doors.iter().map(|(knocks, wires, opens)| door(knocks, *wires, opens)).collect();
            let sets = watch_sets(&doors);
            prop_assert_eq!(sets.len(), doors.len());
            for (door, set) in doors.iter().zip(&sets) {
                let ports = (1..=40).chain(65500..=u16::MAX);
                for (protocol, port) in ports.flat_map(|port| Protocol::ALL.map(|protocol| (protocol, port)))
                {
                    let here = Knock::new(protocol, NonZeroU16::new(port).unwrap());
                    let near = door.sequence.iter().any(|knock| {
                        knock.protocol == protocol && knock.port.get().abs_diff(port) <= door.trip_wires
                    });
                    let taken = doors
                        .iter()
                        .any(|other| other.sequence.contains(&here) || other.opens.iter().any(|it| it.contains(here)));
                    let expected = door.sequence.contains(&here) || (near && !taken);
                    if set.contains(here) != expected {
                        prop_assert!(false, "{} of {:?}", here, door);
                    }
                }
            }
        }
    }
}
