//! The talk with a store: what orders of the keeper are in its words, and what its replies mean.

use std::collections::VecDeque;
use std::time::Duration;

use data_encoding::HEXLOWER;
use redis::{Cmd, PushKind, Value, cmd, pipe};

use super::connection::StoreError;
use crate::ipc::courier::{FromCourier, LONGEST, SharedProof, ToCourier};
use crate::proto::fleet::ItemId;
use crate::time::Wall;

/// Entries that are kept, by their names.
pub(super) const LIVE: &str = "knockd:live";
/// When each of them ends, in milliseconds.
const ENDS: &str = "knockd:ends";
/// The latest stamps of what is good once and with it all before, in microseconds: exact in a double.
const MARKS: &str = "knockd:marks";
/// What each gateway says of itself.
const GATEWAYS: &str = "knockd:gateways";
/// The channel on which all is told.
const NEWS: &str = "knockd:news";

/// How much is tidied away at once: others wait for it.
const TIDIED: i64 = 1000;
/// Tidies away what ended a minute ago, and stamps of a day ago; tells how much at the most.
const TIDY: &str = "\
local now, most = redis.call('TIME')[1], ARGV[1]
local function old(key, until_) \
return redis.call('ZRANGEBYSCORE', key, '-inf', until_, 'LIMIT', 0, most) end
local live, marks = old(KEYS[2], (now - 60) * 1e3), old(KEYS[3], (now - 86400) * 1e6)
if #live > 0 then redis.call('HDEL', KEYS[1], unpack(live)) redis.call('ZREM', KEYS[2], unpack(live)) end
if #marks > 0 then redis.call('ZREM', KEYS[3], unpack(marks)) end
return math.max(#live, #marks)";

/// The longest entry: with what a message says besides.
const LONGEST_ENTRY: usize = LONGEST - 16;

/// The reply that is owed.
#[derive(Debug, PartialEq, Eq)]
enum Owed {
    /// That it is done, or will be.
    Done,
    Taken {
        ask: Option<u64>,
    },
    Told {
        number: u64,
    },
    Live,
    Beat,
    Tidied,
}

/// A talk with one store: what has yet to be sent to it, and what to the keeper.
pub(super) struct Talk {
    pub to_store: Vec<u8>,
    pub to_keeper: VecDeque<FromCourier>,
    owed: VecDeque<Owed>,
    /// Whether what is pushed comes after what was kept.
    is_live: bool,
    has_complained: bool,
}

impl Talk {
    /// One that begins by asking for all that is kept, and for all that comes then.
    pub(super) fn new(first: impl IntoIterator<Item = FromCourier>) -> Self {
        let mut talk = Self {
            to_store: cmd("SUBSCRIBE").arg(NEWS).get_packed_command(),
            to_keeper: first.into_iter().collect(),
            owed: VecDeque::new(),
            is_live: false,
            has_complained: false,
        };
        talk.ask(cmd("HGETALL").arg(LIVE), Owed::Live);
        talk
    }

    pub(super) fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    fn ask(&mut self, command: &Cmd, owed: Owed) {
        command.write_packed_command(&mut self.to_store);
        self.owed.push_back(owed);
    }

    /// Does what the keeper says.
    pub(super) fn order(&mut self, now: Wall, order: ToCourier) {
        match order {
            ToCourier::Take { ask, proof: SharedProof::Highest { id, stamp } } => {
                let add = mark("GT", id, stamp);
                self.ask(&add, Owed::Taken { ask });
            }
            ToCourier::Take { ask, proof: SharedProof::Once { id, until } } => {
                let mut set = cmd("SET");
                set.arg(format!("knockd:once:{}", HEXLOWER.encode(&id))).arg(1).arg("NX");
                if let Some(until) = until {
                    // By this clock, which it was counted by.
                    let left = until.since(now).max(Duration::from_millis(1));
                    set.arg("PX").arg(millis(left));
                }
                self.ask(&set, Owed::Taken { ask });
            }
            ToCourier::Lower { id, stamp } => self.ask(&mark("LT", id, stamp), Owed::Done),
            ToCourier::Tell { number, sealed, keep } => {
                // At any moment between the three, what is kept has an end, and whoever joins hears
                // of it. Not at once: Redis 7.0 puts what we are told into the reply to that.
                if let Some((id, until)) = keep {
                    let end = millis(until.since(Wall::ZERO));
                    self.ask(cmd("ZADD").arg(ENDS).arg(end).arg(&id), Owed::Done);
                    self.ask(cmd("HSET").arg(LIVE).arg(&id).arg(&sealed), Owed::Done);
                }
                self.ask(cmd("PUBLISH").arg(NEWS).arg(sealed), Owed::Told { number });
            }
            ToCourier::Beat { id, sealed } => {
                // What was there before shows whether it is, and whether another has this name.
                let mut all = pipe();
                all.atomic().cmd("HGETALL").arg(GATEWAYS);
                all.cmd("HSET").arg(GATEWAYS).arg(&id).arg(sealed);
                all.cmd("HLEN").arg(LIVE).cmd("ZCARD").arg(MARKS).cmd("TIME");
                self.to_store.extend(all.get_packed_pipeline());
                // MULTI, and that each is queued.
                self.owed.extend((0..=all.len()).map(|_| Owed::Done));
                self.owed.push_back(Owed::Beat);
                self.tidy();
            }
        }
    }

    fn tidy(&mut self) {
        let mut tidy = cmd("EVAL");
        self.ask(tidy.arg(TIDY).arg(3).arg(&[LIVE, ENDS, MARKS]).arg(TIDIED), Owed::Tidied);
    }

    /// Takes what the store says, for the keeper.
    ///
    /// # Errors
    /// Where it refuses anything, or says what answers nothing.
    pub(super) fn reply(&mut self, reply: Value) -> Result<(), StoreError> {
        if let Value::Push { kind, data } = reply {
            // What comes before is kept, and told then.
            if kind == PushKind::Message && self.is_live {
                self.forward(data.into_iter().nth(1), |sealed| FromCourier::Entry { sealed });
            }
            return Ok(());
        }
        if let Some(error) = StoreError::of_reply(&reply) {
            return Err(error);
        }
        match (self.owed.pop_front(), reply) {
            (Some(Owed::Done), _) => {}
            (Some(Owed::Taken { ask }), reply) => {
                let is_new = match reply {
                    Value::Okay | Value::Int(1) => true,
                    Value::Nil | Value::Int(0) => false,
                    other => return Err(nonsense(&other)),
                };
                self.to_keeper.extend(ask.map(|ask| FromCourier::Taken { ask, is_new }));
            }
            (Some(Owed::Told { number }), Value::Int(_)) => {
                self.to_keeper.push_back(FromCourier::Told { number });
            }
            (Some(Owed::Live), Value::Map(all)) => {
                for (_, sealed) in all {
                    self.forward(Some(sealed), |sealed| FromCourier::Entry { sealed });
                }
                self.to_keeper.push_back(FromCourier::Live);
                self.is_live = true;
            }
            (Some(Owed::Beat), Value::Array(all)) => self.beat(all)?,
            (Some(Owed::Tidied), Value::Int(most)) => {
                if most == TIDIED {
                    self.tidy();
                }
            }
            (_, other) => return Err(nonsense(&other)),
        }
        Ok(())
    }

    fn beat(&mut self, all: Vec<Value>) -> Result<(), StoreError> {
        match <[Value; 5]>::try_from(all) {
            Ok([Value::Map(gateways), _, Value::Int(kept), Value::Int(stamps), time])
                if let Some(clock) = clock_of(&time) =>
            {
                for (_, sealed) in gateways {
                    self.forward(Some(sealed), |sealed| FromCourier::Beat { sealed });
                }
                let [kept, stamps] = [kept, stamps].map(i64::unsigned_abs);
                self.to_keeper.push_back(FromCourier::Store { clock, kept, stamps });
                Ok(())
            }
            Ok(all) => Err(nonsense(&Value::Array(all.into()))),
            Err(all) => Err(nonsense(&Value::Array(all))),
        }
    }

    /// Hands on what may be an entry. Whoever owns the store writes there what they like.
    fn forward(&mut self, entry: Option<Value>, message: impl Fn(Vec<u8>) -> FromCourier) {
        match entry {
            Some(Value::BulkString(sealed)) if sealed.len() <= LONGEST_ENTRY => {
                self.to_keeper.push_back(message(sealed));
            }
            _ if self.has_complained => {}
            _ => {
                eprintln!(
                    "in the store is what no gateway has put there: left out, and what is like it"
                );
                self.has_complained = true;
            }
        }
    }
}

/// What sets a stamp where it is above, or below, the one that is there. It says whether it has.
fn mark(so: &str, id: ItemId, stamp: Wall) -> Cmd {
    let mut add = cmd("ZADD");
    add.arg(MARKS);
    // One that is lowered is there.
    add.arg(if so == "LT" { &["XX", "LT"][..] } else { &["GT", "CH"] });
    add.arg(stamp.as_nanos() / 1000).arg(&id);
    add
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn nonsense(reply: &Value) -> StoreError {
    let shown: String = format!("{reply:?}").chars().take(100).collect();
    StoreError::Nonsense(crate::proto::escape::escape(&shown))
}

/// What a store's clock says, in its reply.
pub(super) fn clock_of(reply: &Value) -> Option<Wall> {
    let (seconds, micros): (u64, u64) = redis::from_redis_value_ref(reply).ok()?;
    Some(Wall::ZERO + Duration::from_secs(seconds) + Duration::from_micros(micros))
}
