//! What the other gateways are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tracing::warn;

use super::{BEAT_EVERY, Fleet};
use crate::config::Name;
use crate::control::Request;
use crate::fleet::{self, Beat, Entry, News};
use crate::grants::GrantKey;
use crate::ipc::courier::ToCourier;
use crate::keeper::control::ConnectionId;
use crate::keeper::doors::DoorNews;
use crate::keeper::state::Keeper;
use crate::ledger::Proof;
use crate::proto::fleet::{ItemId, Run, Sealer};
use crate::time::{Monotonic, Now, Wall};

/// How long whoever acts by hand waits for the others.
const TIME_TO_DO: Duration = Duration::from_secs(2);
/// How much longer than what it ends can last a closing is kept.
const LONGER: Duration = Duration::from_secs(60);
/// How long it is told to those who come that a line of a list has been used.
const STRUCK: Duration = Duration::from_secs(30 * 24 * 3600);
/// How much earlier than here a door may close elsewhere before that is mended.
const NEARLY: Duration = Duration::from_secs(1);
/// What the keys of gateways begin with in the ledger. No client's key does, but by a miracle.
pub(super) const OF_GATEWAYS: [u8; 16] = [0; 16];
/// How many entries that have to be told wait for the store.
const MOST_UNSENT: usize = 10_000;

/// An entry that has to reach the store, however long that is not to be had.
pub(super) struct Unsent {
    pub(super) number: u64,
    sealed: Vec<u8>,
    keep: Option<(ItemId, Wall)>,
}

/// Something that an administrator has asked of all gateways.
pub(super) struct ToldByHand {
    pub(super) asked_by: ConnectionId,
    pub(super) counter: u64,
    pub(super) missing: BTreeSet<Name>,
    pub(super) done: BTreeSet<Name>,
    pub(super) by: Monotonic,
    pub(super) said: String,
}

/// What the others have yet to be told, or to do.
#[derive(Default)]
pub(super) struct Telling {
    pub(super) unsent: VecDeque<Unsent>,
    pub(super) by_hand: Vec<ToldByHand>,
    /// Until when doors are open by what the store has kept. What is open here for longer is told
    /// once all that was kept has been heard.
    pub(super) missing_there: Option<BTreeMap<GrantKey, Wall>>,
    /// Whether the store has to be told what waits, and what was used lately.
    pub(super) has_to_catch_up: bool,
    /// The counter of what was told last of a door that opened here.
    last_open: u64,
    pub(super) next_beat: Monotonic,
    pub(super) beat_sent: Option<Monotonic>,
}

impl Fleet {
    /// Tells all gateways, and those that come later; the entry's counter.
    pub(in crate::keeper) fn tell(&mut self, now: Now, news: News, is_waiting: bool) -> u64 {
        let until = match &news {
            News::Open { until, .. } | News::LockOut { until, .. } => Some(*until),
            News::Struck { .. } => Some(now.wall + STRUCK),
            News::Done { .. } | News::Beat(_) => None,
            _ => Some(now.wall + self.longest + LONGER),
        };
        // What is open by then is told when the store is back, and what is done was waited for. There
        // is room for closings, however much opens.
        let waiting = self.telling.unsent.len();
        let has_to_arrive = match news {
            News::Done { .. } => false,
            News::Open { .. } => self.link.is_live && waiting < MOST_UNSENT / 2,
            _ => true,
        };
        let keep = news.item(&self.settings.key).zip(until);
        let is_open = matches!(news, News::Open { .. });
        let (number, sealed) = self.seal(now, news, is_waiting);
        if is_open {
            self.telling.last_open = number;
        }
        if has_to_arrive {
            if waiting >= MOST_UNSENT {
                self.telling.unsent.pop_front();
                if self.lines.pass(now.monotonic) {
                    warn!("fleet: too much waits for the store: the oldest of it is dropped");
                }
            }
            self.telling.unsent.push_back(Unsent { number, sealed: sealed.clone(), keep });
        }
        if self.link.is_live {
            self.send(now, ToCourier::Tell { number, sealed, keep });
        }
        number
    }

    fn seal(&mut self, now: Now, news: News, is_waiting: bool) -> (u64, Vec<u8>) {
        let name = &self.settings.name;
        fleet::seal(&mut self.sealer, now.wall, name, &self.hearing.heard, is_waiting, news)
    }

    /// Counts anew where the clock has been set by so much that what is counted from before would
    /// pass for old after the next start, or be old already. What waits is told by the new count; of
    /// openings what lasts is told again anyway, and a lockout was until who knows when.
    pub(super) fn begin_anew(&mut self, now: Now) {
        let due = self.began.wall + now.monotonic.since(self.began.monotonic);
        let mut run = Run::default();
        if due.since(now.wall).max(now.wall.since(due)) <= self.window
            || getrandom::fill(&mut run).is_err()
        {
            return;
        }
        (self.sealer, self.began) = (Sealer::new(&self.settings.key, run), now);
        self.telling.last_open = now.wall.as_nanos();
        for unsent in std::mem::take(&mut self.telling.unsent) {
            if let Ok(Entry { news, is_waiting, .. }) =
                Entry::open(&self.settings.key, &unsent.sealed)
                && !matches!(news, News::Open { .. } | News::LockOut { .. })
            {
                self.tell(now, news, is_waiting);
            }
        }
    }

    /// Whether it is time to say that this gateway is there.
    pub(super) fn is_beat_due(&self, now: Now) -> bool {
        self.link.is_live && self.telling.next_beat <= now.monotonic
    }

    /// What this gateway, where so many doors are open, says of itself.
    pub(super) fn own_beat(&self, open: u64) -> Beat {
        let lag = self.hearing.lag.unwrap_or_default();
        Beat { version: env!("CARGO_PKG_VERSION").to_owned(), lag, open }
    }

    /// Says that this gateway is there, and that so many doors of the fleet are open here.
    pub(super) fn beat(&mut self, now: Now, open: u64) {
        self.telling.next_beat = now.monotonic + BEAT_EVERY;
        let beat = self.own_beat(open);
        let (_, sealed) = self.seal(now, News::Beat(beat), false);
        let id = self.settings.key.id(format!("gateway {}", self.settings.name).as_bytes());
        self.telling.beat_sent.get_or_insert(now.monotonic);
        self.send(now, ToCourier::Beat { id, sealed });
    }

    /// What the store has to be told once it is back.
    pub(super) fn catch_up(&mut self, now: Now, used: Vec<Proof>) {
        for Unsent { number, sealed, keep } in &self.telling.unsent {
            let (number, sealed, keep) = (*number, sealed.clone(), *keep);
            self.link.queue.push_back(ToCourier::Tell { number, sealed, keep });
        }
        let used = used.iter().filter(|proof| match proof {
            Proof::Monotonic { key, .. } => !key.starts_with(&OF_GATEWAYS),
            Proof::Once { .. } => true,
        });
        let used = used.map(|proof| self.shared(proof));
        let takes: Vec<_> = used.map(|proof| ToCourier::Take { ask: None, proof }).collect();
        self.link.queue.extend(takes);
        self.flush(now);
    }

    /// Another gateway has done what was asked.
    pub(super) fn is_done(&mut self, gateway: &Name, counter: u64) {
        for told in self.telling.by_hand.iter_mut().filter(|told| told.counter == counter) {
            if told.missing.remove(gateway) {
                told.done.insert(gateway.clone());
            }
        }
    }

    /// What came of what administrators have asked of all gateways.
    pub(super) fn take_done(&mut self, now: Now) -> Vec<(ConnectionId, String)> {
        let over = |told: &mut ToldByHand| told.missing.is_empty() || told.by <= now.monotonic;
        let over = self.telling.by_hand.extract_if(.., over);
        over.map(|ToldByHand { asked_by, said, done, missing, .. }| {
            let done = (!done.is_empty()).then(|| format!("; done at {}", names(&done)));
            let missing =
                (!missing.is_empty()).then(|| format!("; {} did not answer", names(&missing)));
            let said = said + &done.unwrap_or_default() + &missing.unwrap_or_default();
            (asked_by, said)
        })
        .collect()
    }
}

fn names(names: &BTreeSet<Name>) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// What all gateways are told of a request, if it is for them too.
pub(in crate::keeper) fn news_of(request: &Request) -> Option<News> {
    Some(match request {
        Request::Close { door, address, cut } => {
            News::Close { key: GrantKey::new(door.clone(), *address), cut: *cut }
        }
        Request::CloseAll { cut } => News::CloseAll { cut: *cut },
        Request::Revoke { client, cut } => News::Revoke { client: client.clone(), cut: *cut },
        Request::Unlock { address } => News::Unlock { source: *address },
        _ => return None,
    })
}

impl Keeper {
    /// Has the other gateways do what an administrator has asked of this one, who is answered when
    /// they have. What was not to be done here may be there.
    pub(in crate::keeper) fn tell_others(
        &mut self,
        now: Now,
        id: ConnectionId,
        news: News,
        done: Result<String, String>,
    ) {
        let Some(fleet) = &mut self.fleet else { return self.done(id, done) };
        let counter = fleet.tell(now, news, true);
        if !fleet.link.is_live {
            let later = |said| {
                format!("{said}; the other gateways are told when the fleet's store is back")
            };
            return self.done(id, done.map(later).map_err(later));
        }
        let missing: BTreeSet<Name> = fleet.hearing.beats.keys().cloned().collect();
        if missing.is_empty() {
            return self.done(id, done);
        }
        let (done_by, by) = (BTreeSet::new(), now.monotonic + TIME_TO_DO);
        let said = done.unwrap_or_else(|why| format!("here: {why}"));
        fleet.telling.by_hand.push(ToldByHand {
            asked_by: id,
            counter,
            missing,
            done: done_by,
            by,
            said,
        });
    }

    /// Tells the others what has opened and closed here.
    pub(super) fn tell_news(&mut self, now: Now, fleet: &mut Fleet) {
        for news in std::mem::take(&mut self.doors.news) {
            fleet.tell(now, at(now, news), false);
        }
        let Some(kept) = fleet.telling.missing_there.take_if(|_| fleet.hearing.backlog.is_empty())
        else {
            return;
        };
        for (key, client, until) in self.own_grants(now) {
            if kept.get(&key).is_none_or(|kept| *kept + NEARLY < until) {
                fleet.tell(now, News::Open { key, client, until }, false);
            }
        }
    }

    /// Closings of what this gateway has opened and another's closing ends, where that gateway had not
    /// heard yet of all that was told here: it may have opened there, and elsewhere, after the closing.
    pub(super) fn unheard(&self, now: Now, fleet: &Fleet, closing: &Entry) -> Vec<News> {
        let heard = closing.heard.get(&fleet.settings.name).copied().unwrap_or(0);
        if !closing.news.is_closing() || heard >= fleet.telling.last_open {
            return Vec::new();
        }
        let ends = |it: &(GrantKey, Option<Name>, Wall)| {
            let (key, client, until) = it.clone();
            closing.news.ends(&News::Open { key, client, until })
        };
        let ended = self.own_grants(now).filter(ends);
        ended.map(|(key, ..)| at(now, DoorNews::Close { key })).collect()
    }

    /// What this gateway has opened for the fleet, for whom, and until when.
    fn own_grants(&self, now: Now) -> impl Iterator<Item = (GrantKey, Option<Name>, Wall)> {
        self.doors.fleet_grants().map(move |grant| {
            let until = now.wall + grant.deadline.since(now.monotonic);
            (grant.key.clone(), grant.origin.client.clone(), until)
        })
    }
}

/// News of this gateway's doors by the calendar, which all gateways share.
fn at(now: Now, news: DoorNews) -> News {
    match news {
        DoorNews::Open { key, client, until } => {
            News::Open { key, client, until: now.wall + until.since(now.monotonic) }
        }
        DoorNews::Close { key } => News::Close { key, cut: false },
    }
}
