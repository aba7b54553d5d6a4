//! The index against a naive reading of its specification, and what it promises besides.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::proto::totp::{Digits, Protocols, TotpMode};
use crate::proto::{Protocol, Secret};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);

fn code_scheme() -> Scheme {
    Scheme::new(TotpMode::Code { base: 7000, digits: Digits::Six }, 30, 1).unwrap()
}

fn ports_scheme(width: u16, length: u8, step: u32, skew: u8) -> Scheme {
    let low = 20_000.try_into().unwrap();
    let high = (20_000 + width - 1).try_into().unwrap();
    let mode = TotpMode::Ports { low, high, length, protocol: Protocols::Mixed };
    Scheme::new(mode, step, skew).unwrap()
}

fn key(number: u32) -> TotpKey {
    TotpKey::from(&Secret::new(number.to_be_bytes().repeat(5)))
}

fn holders(count: u32) -> Vec<SecretHolder> {
    let holder = |number| SecretHolder { client: ClientId(number), key: key(number), until: None };
    (0..count).map(holder).collect()
}

fn rotation(scheme: Scheme, clients: u32) -> DoorRotation {
    DoorRotation::new(scheme, "door", TIMEOUT, holders(clients))
}

fn at(span: Duration) -> Now {
    Now {
        monotonic: Monotonic::ZERO + Duration::from_secs(5000) + span,
        // The beginning of a step of 30 seconds, and of any that divides it.
        wall: Wall::ZERO + Duration::from_secs(1_700_000_010) + span,
    }
}

fn step_now(rotation: &DoorRotation) -> u64 {
    rotation.scheme.step_at(at(Duration::ZERO).wall)
}

/// One knock after the other from one source, a tenth of a second apart.
struct Source<'a> {
    rotation: &'a mut DoorRotation,
    recent: RecentKnocks,
    now: Now,
}

impl<'a> Source<'a> {
    fn new(rotation: &'a mut DoorRotation, from: Duration) -> Self {
        Self { rotation, recent: RecentKnocks::default(), now: at(from) }
    }

    fn knock(&mut self, knock: Knock) -> Matched {
        self.now.monotonic = self.now.monotonic + SECOND / 10;
        self.now.wall = self.now.wall + SECOND / 10;
        let length = self.rotation.scheme.length();
        self.recent.expire(self.now.monotonic, self.rotation.timeout);
        self.recent.push(knock, self.now.monotonic, length);
        self.rotation.make_ready(self.now.wall);
        let outcome = self.rotation.recognise(&self.recent, self.now);
        if let Matched::Complete(whole) = outcome {
            if whole.refused.is_none() {
                self.rotation.use_up(&whole);
            }
            self.recent.clear();
        }
        outcome
    }

    /// What the last of the knocks comes to.
    fn knocks(&mut self, knocks: &[Knock]) -> Matched {
        knocks.iter().fold(Matched::Partial(Stage::default()), |_, &knock| self.knock(knock))
    }

    fn sequence(&mut self, client: u32, step: u64) -> Matched {
        let knocks = self.rotation.scheme.knocks(&key(client), "door", step);
        self.knocks(&knocks)
    }
}

fn opened(outcome: Matched) -> Option<(u32, u64)> {
    match outcome {
        Matched::Complete(CompleteMatch { client, step, refused: None, .. }) => {
            Some((client.0, step))
        }
        _ => None,
    }
}

/// Whether all of a sequence was knocked, and why that opens nothing if it does not.
fn complete(outcome: Matched) -> Option<Option<Reason>> {
    match outcome {
        Matched::Complete(whole) => Some(whole.refused),
        Matched::Partial(_) => None,
    }
}

fn stage(outcome: Matched) -> Option<u8> {
    match outcome {
        Matched::Complete(_) => None,
        Matched::Partial(stage) => Some(stage.knocks),
    }
}

fn tcp(port: u16) -> Knock {
    Knock::new(Protocol::Tcp, port.try_into().unwrap())
}

#[test]
fn the_sequences_of_the_window_open_and_no_others() {
    for skew in [0, 1, 3] {
        let mut rotation = rotation(ports_scheme(10_000, 4, 30, skew), 3);
        let now = step_now(&rotation);
        let skew = u64::from(skew);
        for step in now - skew - 2..=now + skew + 2 {
            let outcome = Source::new(&mut rotation, Duration::ZERO).sequence(1, step);
            let expected = (step.abs_diff(now) <= skew).then_some((1, step));
            assert_eq!(opened(outcome), expected, "{step} at {now}, skew {skew}");
        }
    }
}

#[test]
fn a_used_sequence_is_refused_and_that_of_another_client_is_not() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 2);
    let step = step_now(&rotation);
    let mut source = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(opened(source.sequence(0, step)), Some((0, step)));
    assert_eq!(complete(source.sequence(0, step)), Some(Some(Reason::Used)));
    assert_eq!(opened(source.sequence(1, step)), Some((1, step)));
    assert_eq!(opened(source.sequence(0, step + 1)), Some((0, step + 1)));
}

#[test]
fn a_used_sequence_stays_used_as_long_as_it_would_hold() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
    let step = step_now(&rotation);
    assert!(opened(Source::new(&mut rotation, Duration::ZERO).sequence(0, step)).is_some());
    let outcome = Source::new(&mut rotation, 59 * SECOND).sequence(0, step);
    assert_eq!(complete(outcome), Some(Some(Reason::Used)));
}

#[test]
fn a_sequence_that_two_clients_share_in_a_step_opens_once() {
    // Of five hundred clients with a thousand sequences some have the same.
    let mut rotation = rotation(ports_scheme(5, 3, 30, 0), 500);
    let step = step_now(&rotation);
    let sequence = |client| rotation.scheme.knocks(&key(client), "door", step);
    let (first, second) = (0..500)
        .flat_map(|one| (one + 1..500).map(move |other| (one, other)))
        .find(|&(one, other)| sequence(one) == sequence(other))
        .unwrap();
    let mut source = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(opened(source.sequence(second, step)), Some((first, step)));
    assert_eq!(complete(source.sequence(first, step)), Some(Some(Reason::Used)));
}

#[test]
fn a_secret_that_has_run_out_opens_nothing() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
    rotation.holders[0].until = Some(at(10 * SECOND).wall);
    let step = step_now(&rotation);
    let before = Source::new(&mut rotation, 9 * SECOND).sequence(0, step);
    assert_eq!(complete(before), Some(None));
    let after = Source::new(&mut rotation, 10 * SECOND).sequence(0, step + 1);
    assert_eq!(complete(after), Some(Some(Reason::Expired)));
}

#[test]
fn half_a_sequence_opens_nothing_and_its_other_half_alone_neither() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
    let step = step_now(&rotation);
    let knocks = rotation.scheme.knocks(&key(0), "door", step);
    let mut victim = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(stage(victim.knocks(&knocks[..2])), Some(2));
    let mut sniffer = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(stage(sniffer.knocks(&knocks[2..])), Some(0));
}

#[test]
fn a_sequence_that_began_before_the_turn_is_completed_after_it() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 0), 1);
    let step = step_now(&rotation);
    let knocks = rotation.scheme.knocks(&key(0), "door", step);
    // Half of it at 29.7 s and 29.8 s, the rest at 31.1 s and 31.2 s.
    let mut source = Source::new(&mut rotation, 29 * SECOND + 6 * SECOND / 10);
    assert_eq!(stage(source.knocks(&knocks[..2])), Some(2));
    source.now = at(31 * SECOND);
    assert_eq!(opened(source.knocks(&knocks[2..])), Some((0, step)));
}

#[test]
fn a_sequence_that_began_after_the_turn_is_too_late() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 0), 1);
    let step = step_now(&rotation);
    let mut source = Source::new(&mut rotation, 30 * SECOND);
    assert_eq!(opened(source.sequence(0, step)), None);
}

#[test]
fn a_sequence_that_holds_only_when_it_ends_opens() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 0), 1);
    let step = step_now(&rotation);
    let mut source = Source::new(&mut rotation, 29 * SECOND + 7 * SECOND / 10);
    assert_eq!(opened(source.sequence(0, step + 1)), Some((0, step + 1)));
}

/// A client whose code in some step is of a kind, and that step.
fn code_like(like: impl Fn(&[Knock]) -> bool) -> (u32, u64, Vec<Knock>) {
    let first = code_scheme().step_at(at(Duration::ZERO).wall);
    for client in 0..20_000 {
        let key = key(client);
        for step in first - 1..=first + 1 {
            let knocks = code_scheme().knocks(&key, "door", step);
            if like(&knocks) {
                return (client, step, knocks.to_vec());
            }
        }
    }
    panic!("no such code");
}

fn one_holder(client: u32) -> Vec<SecretHolder> {
    vec![SecretHolder { client: ClientId(client), key: key(client), until: None }]
}

#[test]
fn a_repetition_neither_breaks_nor_advances_a_sequence_of_ports() {
    let scheme = ports_scheme(1000, 3, 30, 1);
    let [a, b, c] = scheme.knocks(&key(1), "door", scheme.step_at(at(Duration::ZERO).wall))[..]
    else {
        unreachable!()
    };
    assert!(a != b && b != c);
    let mut rotation = DoorRotation::new(scheme, "door", TIMEOUT, one_holder(1));
    let mut source = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(stage(source.knocks(&[a, a, b, b])), Some(2));
    assert!(opened(source.knock(c)).is_some());
}

#[test]
fn repetitions_count_for_nothing_at_a_door_with_codes() {
    let (client, step, code) = code_like(|code| code[0] != code[1] && code[1] != code[2]);
    let mut rotation = DoorRotation::new(code_scheme(), "door", TIMEOUT, one_holder(client));
    let mut source = Source::new(&mut rotation, Duration::ZERO);
    let [a, b, c] = code[..] else { unreachable!() };
    assert_eq!(stage(source.knocks(&[a, a, a, b])), Some(2));
    assert_eq!(stage(source.knocks(&[b, b])), Some(2));
    assert_eq!(opened(source.knock(c)), Some((client, step)));
}

#[test]
fn a_code_of_three_equal_pairs_needs_three_knocks() {
    let (client, step, code) = code_like(|code| code[0] == code[1] && code[1] == code[2]);
    let mut rotation = DoorRotation::new(code_scheme(), "door", TIMEOUT, one_holder(client));
    let mut source = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(stage(source.knock(code[0])), Some(1));
    assert_eq!(stage(source.knock(code[0])), Some(2));
    assert_eq!(opened(source.knock(code[0])), Some((client, step)));
}

#[test]
fn an_equal_pair_in_a_code_needs_two_knocks_and_more_do_no_harm() {
    for place in [0, 1] {
        let (client, step, code) =
            code_like(|code| code[place] == code[place + 1] && code[0] != code[2]);
        let [a, b, c] = code[..] else { unreachable!() };
        for extra in 0..3 {
            let mut rotation =
                DoorRotation::new(code_scheme(), "door", TIMEOUT, one_holder(client));
            let mut source = Source::new(&mut rotation, Duration::ZERO);
            let mut knocks = vec![a, b];
            knocks.extend(vec![b; extra]);
            knocks.push(c);
            let opened = knocks.iter().find_map(|&knock| opened(source.knock(knock)));
            assert_eq!(opened, Some((client, step)), "{extra} more");
        }
        let mut rotation = DoorRotation::new(code_scheme(), "door", TIMEOUT, one_holder(client));
        let mut source = Source::new(&mut rotation, Duration::ZERO);
        assert_eq!(opened(source.knocks(&[a, c])), None);
    }
}

#[test]
fn leading_zeros_are_knocked_too() {
    let (client, step, code) = code_like(|code| code[0] == tcp(7000));
    let mut rotation = DoorRotation::new(code_scheme(), "door", TIMEOUT, one_holder(client));
    let mut source = Source::new(&mut rotation, Duration::ZERO);
    assert_eq!(opened(source.knocks(&code[1..])), None);
    assert_eq!(opened(source.knocks(&code)), Some((client, step)));
}

/// As many slices as it takes, each of `work`; how many, and the most work that one took.
fn slices(rotation: &mut DoorRotation, now: Now, work: usize) -> (usize, usize) {
    let (mut count, mut most) = (0, 0);
    while rotation.idle(now.wall).is_zero() {
        let mut left = work;
        rotation.prepare(now.wall, &mut left);
        most = most.max(work - left);
        count += 1;
        assert!(count < 10_000, "it never ends");
    }
    (count, most)
}

#[test]
fn what_comes_next_is_prepared_in_slices_before_it_holds() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 100);
    assert!(!rotation.is_ready(at(Duration::ZERO).wall));
    // Those that hold, one before and one after, of a hundred sequences of four knocks each.
    assert_eq!(slices(&mut rotation, at(Duration::ZERO), 40), (50, 40));
    assert!(rotation.is_ready(at(Duration::ZERO).wall));
    // The next step is prepared already; the one after that is what is missing.
    assert_eq!(rotation.idle(at(10 * SECOND).wall), 20 * SECOND);
    assert!(rotation.is_ready(at(31 * SECOND).wall));
    assert_eq!(slices(&mut rotation, at(31 * SECOND), 40), (10, 40));
}

#[test]
fn steps_that_no_sequence_can_complete_any_more_are_dropped() {
    let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
    for second in 0..1000 {
        slices(&mut rotation, at(second * SECOND), 100);
        assert!(rotation.steps.len() <= 5);
    }
    let short = ports_scheme(10_000, 4, 1, 1);
    let mut rotation = DoorRotation::new(short, "door", Duration::from_secs(86_400), holders(1));
    for second in 0..200 {
        slices(&mut rotation, at(second * SECOND), 100);
    }
    assert_eq!(rotation.steps.len() as u64, RETIRED + 4);
}

#[test]
fn after_the_clock_was_set_the_window_is_built_anew() {
    for seconds in [30 * 1000u64, 30 * 3, 30 * 2, 30] {
        for forward in [true, false] {
            let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 10);
            slices(&mut rotation, at(Duration::ZERO), 100);
            let mut now = at(SECOND);
            let jump = Duration::from_secs(seconds);
            now.wall = if forward { now.wall + jump } else { now.wall - jump };
            slices(&mut rotation, now, 100);
            assert!(rotation.is_ready(now.wall));
            let step = rotation.scheme.step_at(now.wall);
            let mut source = Source::new(&mut rotation, Duration::ZERO);
            source.now = now;
            assert_eq!(opened(source.sequence(3, step)), Some((3, step)), "{seconds} {forward}");
        }
    }
}

mod searching {
    use super::*;
    use crate::engine::EventKind;
    use crate::engine::doors::TrackId;
    use crate::engine::totp::search::Searches;

    const SOURCE: &str = "192.0.2.2";

    /// What is found for a client that knocks so many steps off, a second later, and the work that
    /// it took.
    fn found(rotation: &mut DoorRotation, client: u32, off: i64) -> (EventKind, usize) {
        let step = step_now(rotation).checked_add_signed(off).unwrap();
        let mut source = Source::new(rotation, Duration::ZERO);
        assert!(opened(source.sequence(client, step)).is_none());
        let Source { recent, now, .. } = source;
        let mut searches = Searches::default();
        searches.suggest(TrackId(1), SOURCE.parse().unwrap(), rotation, &recent, now);
        assert!(searches.running(now.monotonic).is_none(), "the source may not be done yet");
        let due = searches.due().unwrap();
        assert_eq!(due, now.monotonic + SECOND);
        let search = searches.running(due).unwrap();
        let mut total = 0;
        loop {
            let mut work = 1000;
            let progress = rotation.search(search, &mut work);
            total += 1000 - work;
            if let Some(found) = progress {
                return (found, total);
            }
        }
    }

    #[test]
    fn a_clock_that_is_off_is_found_by_how_much() {
        let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 5);
        for steps in [2, -2, 17, -17, 120, -120] {
            let client = ClientId(3);
            let expected = EventKind::Missed { client, steps };
            assert_eq!(found(&mut rotation, 3, steps.into()).0, expected);
        }
    }

    #[test]
    fn a_clock_that_is_off_by_more_than_an_hour_is_not_found() {
        let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 5);
        // 119 steps on either side for five clients.
        assert_eq!(found(&mut rotation, 3, 121), (EventKind::Unmatched, 5 * 2 * 119));
        assert_eq!(found(&mut rotation, 3, -121), (EventKind::Unmatched, 5 * 2 * 119));
    }

    #[test]
    fn a_search_ends_where_it_would_find_something_by_chance() {
        let holders = holders(3000);
        let mut rotation = DoorRotation::new(code_scheme(), "door", TIMEOUT, holders);
        let step = step_now(&rotation);
        let code = rotation.scheme.knocks(&key(2999), "door", step + 90);
        let mut source = Source::new(&mut rotation, Duration::ZERO);
        if opened(source.knocks(&code)).is_none() {
            assert!(found(&mut rotation, 2999, 90).1 <= 10_000);
        }
    }

    #[test]
    fn searches_are_rationed() {
        let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
        let mut source = Source::new(&mut rotation, Duration::ZERO);
        let _ = source.knocks(&[tcp(20_001), tcp(20_002), tcp(20_003), tcp(20_004)]);
        let Source { recent, now, .. } = source;
        let mut searches = Searches::default();
        let mut begun = 0;
        // Five minutes of twenty sources that all try again each second or two.
        for second in 0..300u64 {
            let now = Now { monotonic: now.monotonic + second as u32 * SECOND, ..now };
            for host in 0..20u64 {
                if (second + host) % 3 == 0 {
                    let source = std::net::IpAddr::from([192, 0, 2, host as u8]);
                    searches.suggest(TrackId(1), source, &rotation, &recent, now);
                }
            }
            while searches.running(now.monotonic).is_some() {
                begun += 1;
                searches.end();
            }
        }
        assert!((41..=50).contains(&begun), "{begun}");
    }

    #[test]
    fn who_got_in_is_not_searched_for() {
        let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
        let mut source = Source::new(&mut rotation, Duration::ZERO);
        let _ = source.knocks(&[tcp(20_001), tcp(20_002), tcp(20_003), tcp(20_004)]);
        let Source { recent, now, .. } = source;
        let mut searches = Searches::default();
        let source = SOURCE.parse().unwrap();
        searches.suggest(TrackId(1), source, &rotation, &recent, now);
        searches.forget(TrackId(1), source);
        assert_eq!(searches.due(), None);
    }

    #[test]
    fn fewer_knocks_than_a_sequence_has_are_not_searched_for() {
        let mut rotation = rotation(ports_scheme(10_000, 4, 30, 1), 1);
        let mut source = Source::new(&mut rotation, Duration::ZERO);
        let _ = source.knocks(&[tcp(20_001), tcp(20_002), tcp(20_003)]);
        let Source { recent, now, .. } = source;
        let mut searches = Searches::default();
        searches.suggest(TrackId(1), SOURCE.parse().unwrap(), &rotation, &recent, now);
        assert_eq!(searches.due(), None);
    }
}

/// The specification, read naively: all knocks are kept, and held against every sequence.
#[derive(Default)]
struct Model {
    knocks: Vec<(Now, Knock)>,
    /// The sequence of each client in each step, once it was asked for.
    sequences: BTreeMap<(u64, u32), Vec<Knock>>,
    used: Vec<(Vec<Knock>, u64)>,
}

impl Model {
    /// The steps that hold at a moment.
    fn window(rotation: &DoorRotation, at: Now) -> RangeInclusive<u64> {
        let (step, skew) = (rotation.scheme.step_at(at.wall), u64::from(rotation.scheme.skew()));
        step.saturating_sub(skew)..=step + skew
    }

    /// Whether the latest of `given` are `wanted`; then when the first of them came.
    fn ends_with(given: &[(Now, Knock)], wanted: &[Knock]) -> Option<Now> {
        let (last, rest) = wanted.split_last()?;
        let (at, knock) = given.last()?;
        if knock != last {
            return None;
        }
        let earlier = &given[..given.len() - 1];
        if rest.is_empty() {
            return Some(*at);
        }
        if let Some(began) = Self::ends_with(earlier, rest) {
            return Some(began);
        }
        // The last one again: as if it were not there.
        let again = earlier.last().is_some_and(|(_, knock)| knock == last);
        if again { Self::ends_with(earlier, wanted) } else { None }
    }

    /// Whether it may be `told` of a knock who opens the door in which step; else the stage, or
    /// [`REFUSED`]. Where the knocks are several sequences at once, it may be any of them.
    fn knock(&mut self, rotation: &DoorRotation, now: Now, knock: Knock, told: Told) -> bool {
        self.knocks.push((now, knock));
        self.knocks.retain(|(at, _)| now.monotonic.since(at.monotonic) <= rotation.timeout);
        let first = *Self::window(rotation, self.knocks[0].0).start();
        let last = *Self::window(rotation, now).end();
        let length = rotation.scheme.length();
        for wanted in (1..=length).rev() {
            let mut whole = Vec::new();
            for (step, client) in
                (first..=last).flat_map(|step| (0..3).map(move |client| (step, client)))
            {
                let sequence = self
                    .sequences
                    .entry((step, client))
                    .or_insert_with(|| rotation.scheme.knocks(&key(client), "door", step).to_vec());
                let began = Self::ends_with(&self.knocks, &sequence[..wanted]);
                let holds = |at| Self::window(rotation, at).contains(&step);
                if !began.is_some_and(|began| holds(now) || holds(began)) {
                    continue;
                }
                if wanted < length {
                    return told == Err(wanted);
                }
                let is_used = self.used.iter().any(|(used, _)| used == sequence);
                let comes_to = if is_used { Err(REFUSED) } else { Ok((client, step)) };
                whole.push((comes_to, sequence.clone()));
            }
            if !whole.is_empty() {
                self.knocks.clear();
                let found = whole.into_iter().find(|(comes_to, _)| *comes_to == told);
                if let (Ok((_, step)), Some((_, sequence))) = (told, &found) {
                    self.used.push((sequence.clone(), step));
                }
                return found.is_some();
            }
        }
        told == Err(0)
    }
}

type Told = Result<(u32, u64), usize>;

const REFUSED: usize = 99;

#[derive(Clone, Debug)]
enum Act {
    Wait(u64),
    /// A knock on some port of the range.
    Any(u16, bool),
    /// As many knocks of a client's sequence, in a step that far from now, from that one on.
    Of {
        client: u32,
        off: i64,
        from: usize,
        count: usize,
    },
    /// The last knock once more.
    Again,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0u64..7000).prop_map(Act::Wait),
        1 => (0u16..4, any::<bool>()).prop_map(|(port, udp)| Act::Any(port, udp)),
        5 => (0u32..3, -3i64..=3, 0usize..2, 1usize..5)
            .prop_map(|(client, off, from, count)| Act::Of { client, off, from, count }),
        1 => Just(Act::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_recognised_is_what_the_specification_says(
        code: bool, width in 1u16..5, length in 3u8..5, step in 1u32..20, skew in 0u8..3,
        slice in 1usize..60,
        acts in prop::collection::vec(any_act(), 1..40),
    ) {
        let scheme = if code {
            Scheme::new(TotpMode::Code { base: 20_000, digits: Digits::Six }, step, skew).unwrap()
        } else {
            ports_scheme(width, length, step, skew)
        };
        let mut rotation = DoorRotation::new(scheme, "door", TIMEOUT, holders(3));
        let mut model = Model::default();
        let mut source = Source::new(&mut rotation, Duration::ZERO);
        let mut last = tcp(20_000);
        for act in acts {
            let current = source.rotation.scheme.step_at(source.now.wall);
            let knocks = match act {
                Act::Wait(millis) => {
                    let span = Duration::from_millis(millis);
                    source.now = Now {
                        monotonic: source.now.monotonic + span, wall: source.now.wall + span,
                    };
                    // Some of it is prepared meanwhile, some when it is needed.
                    source.rotation.prepare(source.now.wall, &mut { slice });
                    vec![]
                }
                Act::Any(port, udp) => vec![Knock::new(
                    if udp { Protocol::Udp } else { Protocol::Tcp },
                    (20_000 + port).try_into().unwrap(),
                )],
                Act::Of { client, off, from, count } => {
                    let step = current.checked_add_signed(off).unwrap();
                    let knocks = scheme.knocks(&key(client), "door", step);
                    knocks.iter().copied().skip(from).take(count).collect()
                }
                Act::Again => vec![last],
            };
            for knock in knocks {
                last = knock;
                let outcome = source.knock(knock);
                let now = source.now;
                // What was used in a step that is gone may come again.
                let kept = |step| source.rotation.steps.iter().any(|kept| kept.number == step);
                model.used.retain(|&(_, step)| kept(step));
                let told = match outcome {
                    Matched::Complete(CompleteMatch { refused: None, client, step, .. }) => {
                        Ok((client.0, step))
                    }
                    Matched::Complete(_) => Err(REFUSED),
                    Matched::Partial(stage) => Err(stage.knocks.into()),
                };
                prop_assert!(model.knock(source.rotation, now, knock, told), "{told:?}");
            }
        }
    }
}
