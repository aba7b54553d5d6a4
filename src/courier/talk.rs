//! The talk with a store: what orders of the keeper are in its words, and what its replies mean.

use std::collections::VecDeque;
use std::time::Duration;

use data_encoding::HEXLOWER;
use redis::{Cmd, FromRedisValue, PushKind, Value, cmd, from_redis_value};

use super::connection::StoreError;
use crate::ipc::courier::{FromCourier, LONGEST, SharedProof, ToCourier};
use crate::proto::escape::escape;
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

/// Notes a beat, tidies away what ended a minute ago and stamps of a day ago, some thousand at the
/// most since others wait, and tells of all that is there. Of beats those that were there before: so
/// a gateway hears of another with its name.
const BEAT: &str = "\
local before = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local clock = redis.call('TIME')
local function old(key, upto)
  return redis.call('ZRANGEBYSCORE', key, '-inf', upto, 'LIMIT', 0, 4000)
end
local ended, marks = old(KEYS[3], (clock[1] - 60) * 1e3), old(KEYS[4], (clock[1] - 86400) * 1e6)
if #ended > 0 then
  redis.call('HDEL', KEYS[2], unpack(ended))
  redis.call('ZREM', KEYS[3], unpack(ended))
end
if #marks > 0 then redis.call('ZREM', KEYS[4], unpack(marks)) end
local kept, stamps = redis.call('HLEN', KEYS[2]), redis.call('ZCARD', KEYS[4])
return {before, kept, stamps, clock}";

/// The longest entry: with what a message says besides.
const LONGEST_ENTRY: usize = LONGEST - 16;

/// The most characters of what a store says for a refusal: a log line holds no more.
const LONGEST_REASON: usize = 200;

/// The reply that is owed.
enum Owed {
    /// Whether a proof was unused, where somebody asks.
    Taken { ask: Option<u64> },
    /// That it is done, where there is a number of something told.
    Told { number: Option<u64> },
    /// All that is kept.
    Live,
    /// What all say of themselves.
    Beat,
}

const DONE: Owed = Owed::Told { number: None };

/// A hash with names and sealed texts; a clock, in seconds and microseconds.
type Texts = Vec<(Vec<u8>, Vec<u8>)>;
pub(super) type StoreClock = (u64, u64);

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
    pub(super) fn new(first: impl Into<VecDeque<FromCourier>>) -> Self {
        let to_store = cmd("SUBSCRIBE").arg(NEWS).get_packed_command();
        let (to_keeper, owed) = (first.into(), VecDeque::new());
        let mut talk = Self { to_store, to_keeper, owed, is_live: false, has_complained: false };
        talk.ask(Owed::Live, cmd("HGETALL").arg(LIVE));
        talk
    }

    pub(super) fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    fn ask(&mut self, owed: Owed, command: &Cmd) {
        command.write_packed_command(&mut self.to_store);
        self.owed.push_back(owed);
    }

    /// Does what the keeper says.
    pub(super) fn order(&mut self, now: Wall, order: ToCourier) {
        let micros = |stamp: Wall| stamp.as_nanos() / 1000;
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        match order {
            ToCourier::Take { ask, proof: SharedProof::Highest { id, stamp } } => {
                let mark = ("GT", "CH", micros(stamp), &id);
                self.ask(Owed::Taken { ask }, cmd("ZADD").arg(MARKS).arg(mark));
            }
            ToCourier::Take { ask, proof: SharedProof::Once { id, until } } => {
                let mut set = cmd("SET");
                set.arg(format!("knockd:once:{}", HEXLOWER.encode(&id))).arg(1).arg("NX");
                if let Some(until) = until {
                    // By this clock, which it was counted by.
                    set.arg("PX").arg(millis(until.since(now)).max(1));
                }
                self.ask(Owed::Taken { ask }, &set);
            }
            ToCourier::Lower { id, stamp } => {
                self.ask(DONE, cmd("ZADD").arg(MARKS).arg(("XX", "LT", micros(stamp), &id)));
            }
            ToCourier::Tell { number, sealed, keep } => {
                // At any moment between the three, what is kept has an end, and whoever joins hears
                // of it. Not at once: Redis 7.0 puts what we are told into the reply to that.
                if let Some((id, until)) = keep {
                    let end = millis(until.since(Wall::ZERO));
                    self.ask(DONE, cmd("ZADD").arg(ENDS).arg(end).arg(&id));
                    self.ask(DONE, cmd("HSET").arg(LIVE).arg(&id).arg(&sealed));
                }
                self.ask(Owed::Told { number: Some(number) }, cmd("PUBLISH").arg(NEWS).arg(sealed));
            }
            ToCourier::Beat { id, sealed } => {
                let keys = [GATEWAYS, LIVE, ENDS, MARKS];
                let told = (keys.len(), &keys, &id, sealed);
                self.ask(Owed::Beat, cmd("EVAL").arg(BEAT).arg(told));
            }
        }
    }

    /// Takes what the store says, for the keeper.
    ///
    /// # Errors
    /// Where it refuses anything, or says what answers nothing.
    pub(super) fn reply(&mut self, reply: Value) -> Result<(), StoreError> {
        if let Value::Push { kind, data } = reply {
            // What comes before is kept, and told then.
            if kind == PushKind::Message && self.is_live {
                let (_, sealed): (Vec<u8>, _) = read(Value::Array(data))?;
                self.forward(sealed, |sealed| FromCourier::Entry { sealed });
            }
            return Ok(());
        }
        match self.owed.pop_front() {
            Some(Owed::Taken { ask }) => {
                let is_new = read(reply)?;
                self.to_keeper.extend(ask.map(|ask| FromCourier::Taken { ask, is_new }));
            }
            Some(Owed::Told { number }) => {
                read::<()>(reply)?;
                self.to_keeper.extend(number.map(|number| FromCourier::Told { number }));
            }
            Some(Owed::Live) => {
                for (_, sealed) in read::<Texts>(reply)? {
                    self.forward(sealed, |sealed| FromCourier::Entry { sealed });
                }
                self.to_keeper.push_back(FromCourier::Live);
                self.is_live = true;
            }
            Some(Owed::Beat) => {
                let (gateways, kept, stamps, clock): (Texts, _, _, _) = read(reply)?;
                for (_, sealed) in gateways {
                    self.forward(sealed, |sealed| FromCourier::Beat { sealed });
                }
                let clock = wall(clock);
                self.to_keeper.push_back(FromCourier::Store { clock, kept, stamps });
            }
            None => return Err(StoreError::Nonsense("a reply to nothing".into())),
        }
        Ok(())
    }

    /// Hands on what may be an entry. Whoever owns the store writes there what they like.
    fn forward(&mut self, sealed: Vec<u8>, message: impl Fn(Vec<u8>) -> FromCourier) {
        if sealed.len() <= LONGEST_ENTRY {
            self.to_keeper.push_back(message(sealed));
        } else if !std::mem::replace(&mut self.has_complained, true) {
            eprintln!(
                "the store holds what no gateway has put there: left out, and what is like it"
            );
        }
    }
}

/// What a reply means.
///
/// # Errors
/// Where it is an error, or means no such thing.
pub(super) fn read<T: FromRedisValue>(reply: Value) -> Result<T, StoreError> {
    if let Value::ServerError(error) = reply {
        // Its first sentence: others tell how to set up a store, or name a script.
        let text = error.details().unwrap_or_default().split(". ").next().unwrap_or_default();
        let text: String = text.trim_end_matches('.').chars().take(LONGEST_REASON).collect();
        return Err(StoreError::Refusal { code: escape(error.code()), text: escape(&text) });
    }
    from_redis_value(reply).map_err(|why| StoreError::Nonsense(escape(&why.to_string())))
}

pub(super) fn wall((seconds, micros): StoreClock) -> Wall {
    Wall::ZERO + Duration::from_secs(seconds) + Duration::from_micros(micros)
}
