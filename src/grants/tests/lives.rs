//! Random lives of grants, with a crash at any step of any of them.
//!
//! A keeper in miniature does what the ledger and the effects ask for, in the order in which they
//! have to be done. The ledger is a map that survives it, and so may its commands.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use crate::grants::*;
use crate::proto::Method;
use crate::time::{BootId, Now, Wall};

/// The keeper has died.
struct Crash;

type Alive = Result<(), Crash>;

/// A command that runs: what it does, it does at its end.
#[derive(Clone, Copy)]
struct Running {
    id: GrantId,
    opens: bool,
    ends: u64,
}

/// What outlives a keeper.
#[derive(Default)]
struct World {
    /// Seconds since the beginning, and at which of them the machine was started.
    time: u64,
    booted: u64,
    boots: u32,
    ledger: BTreeMap<GrantId, GrantRecord>,
    running: Vec<Running>,
    /// How often each grant was opened and closed, and whether it is open.
    opens: HashMap<GrantId, u32>,
    closes: HashMap<GrantId, u32>,
    open: HashMap<GrantId, bool>,
    /// Those of which a close command failed, and those that nobody closes any more after that.
    failed: BTreeSet<GrantId>,
    given_up: BTreeSet<GrantId>,
    /// When each grant has to be closed, and when it was opened: after a close that took long that
    /// can be later.
    due: HashMap<GrantId, u64>,
    opened: HashMap<GrantId, u64>,
    crashes: u32,
    /// The last number of a grant: here no number is given twice, so that each life can be told.
    last: u64,
    /// How many more steps the keeper lives.
    fuse: u32,
}

impl World {
    fn now(&self) -> Now {
        let span = Duration::from_secs(self.time - self.booted);
        Now { monotonic: Monotonic::ZERO + span, wall: Wall::ZERO + Duration::from_secs(self.time) }
    }

    fn boot(&self) -> BootId {
        format!("{:032x}", self.boots).parse().unwrap()
    }

    fn step(&mut self) -> Alive {
        self.fuse = self.fuse.checked_sub(1).ok_or(Crash)?;
        Ok(())
    }

    fn act(&mut self, command: Running) {
        let count = if command.opens { &mut self.opens } else { &mut self.closes };
        *count.entry(command.id).or_default() += 1;
        self.open.insert(command.id, command.opens);
        if command.opens {
            self.opened.insert(command.id, self.time);
        }
    }

    fn due_at(&mut self, id: GrantId, deadline: Monotonic) {
        self.due.insert(id, self.booted + deadline.since(Monotonic::ZERO).as_secs());
    }
}

struct Keeper<'a> {
    world: &'a mut World,
    grants: Grants,
    /// Its own commands; it sees them end.
    mine: Vec<GrantId>,
}

fn door() -> Name {
    "ssh".parse().unwrap()
}

fn action() -> Action {
    let backend = GrantBackend::Commands(vec![deed_step()]);
    Action {
        hold: None,
        backend,
        open_for: Duration::from_secs(10),
        is_own: false,
        most: 9,
        addresses: None,
        cooldown: Duration::ZERO,
    }
}

fn deed_step() -> CommandPair {
    let command = |text: &str| Rendered { argv: vec![text.into()], environment: Vec::new() };
    CommandPair {
        open: command("open"),
        close: Some(command("close")),
        verify: None,
        is_timed: false,
    }
}

impl<'a> Keeper<'a> {
    fn start(world: &'a mut World) -> Result<Self, Crash> {
        let (now, boot) = (world.now(), world.boot());
        // Before anything else a keeper ends what an earlier one has left running.
        world.running.clear();
        let records = world.ledger.values().cloned().collect();
        let grants = Grants { last: world.last, ..Grants::default() };
        let mut keeper = Self { world, grants, mine: Vec::new() };
        for effect in keeper.grants.recover(now, boot, records, Vec::new()) {
            match effect {
                Recovered::Forget(id) => keeper.forget(id)?,
                Recovered::Keep { .. } => {}
                Recovered::Close(ToClose { id, .. }) => {
                    keeper.world.due.insert(id, keeper.world.time);
                    keeper.advance(id, GrantState::Closing)?;
                    keeper.run(id, false)?;
                }
                Recovered::Ended(..) | Recovered::Adopt(_) => unreachable!("no kernel here"),
            }
        }
        Ok(keeper)
    }

    fn advance(&mut self, id: GrantId, state: GrantState) -> Alive {
        self.world.step()?;
        self.world.ledger.get_mut(&id).unwrap().state = state;
        self.world.step()
    }

    fn forget(&mut self, id: GrantId) -> Alive {
        self.world.step()?;
        self.world.ledger.remove(&id);
        self.world.step()
    }

    fn run(&mut self, id: GrantId, opens: bool) -> Alive {
        let ends = self.world.time + 2;
        self.world.running.push(Running { id, opens, ends });
        self.mine.push(id);
        self.world.step()
    }

    fn knock(&mut self, who: u8) -> Alive {
        let address = IpAddr::from([192, 0, 2, who]);
        let now = self.world.now();
        let key = GrantKey::new(door(), address);
        let asked = self
            .grants
            .prepare(now.monotonic, key, Method::Sequence.into(), action(), true)
            .unwrap();
        let decision = self.grants.apply(asked);
        self.decided(decision, address)
    }

    fn decided(&mut self, decision: Decision, address: IpAddr) -> Alive {
        let now = self.world.now();
        match decision {
            Decision::Open(id, _) => {
                let deadline = self.grants.grants[&id].deadline;
                self.world.last = id.0;
                self.world.step()?;
                self.world.ledger.insert(
                    id,
                    GrantRecord {
                        ceiling: None,
                        id,
                        key: GrantKey::new(door(), address),
                        origin: Method::Sequence.into(),
                        state: GrantState::Starting,
                        boot: self.world.boot(),
                        deadline,
                        since: now.wall,
                        until: now.wall,
                        backend: action().backend,
                    },
                );
                self.world.due_at(id, deadline);
                self.advance(id, GrantState::Starting)?;
                self.run(id, true)
            }
            Decision::Extend(_, until, _) => {
                let id = self.grants.by_key[&GrantKey::new(door(), address)];
                self.world.step()?;
                self.world.ledger.get_mut(&id).unwrap().deadline = until;
                self.world.due_at(id, until);
                self.world.step()
            }
            Decision::Wait => Ok(()),
            Decision::Act(_) => unreachable!("the door has a close"),
        }
    }

    /// Sees to what has ended by now; `fails`: a command that ends now has failed. One that opens
    /// may have done its work all the same.
    fn poll(&mut self, fails: bool) -> Alive {
        let time = self.world.time;
        while let Some(at) = self.world.running.iter().position(|command| command.ends <= time) {
            let command = self.world.running.swap_remove(at);
            if !fails || (command.opens && command.id.0.is_multiple_of(2)) {
                self.world.act(command);
            }
            if !self.mine.contains(&command.id) {
                continue;
            }
            self.world.step()?;
            self.ended(command, fails)?;
        }
        for expired in self.grants.expire(self.world.now().monotonic) {
            self.advance(expired.id, GrantState::Closing)?;
            self.run(expired.id, false)?;
        }
        Ok(())
    }

    fn ended(&mut self, command: Running, fails: bool) -> Alive {
        let id = command.id;
        let address = self.grants.get(id).unwrap().key.network.address();
        if !command.opens {
            let step = deed_step();
            if fails {
                self.world.failed.insert(id);
                let now = self.world.now().monotonic;
                if let FailedClose::Again(_) =
                    self.grants.close_failed(now, id, vec![step], CloseFailure::OfCommand)
                {
                    return Ok(());
                }
                self.world.given_up.insert(id);
            }
            self.forget(id)?;
            return match self.grants.closed(id) {
                Some(asked) if asked.until <= self.world.now().monotonic => Ok(()),
                Some(asked) => {
                    let decision = self.grants.apply(asked);
                    self.decided(decision, address)
                }
                None => Ok(()),
            };
        }
        let failed = OpenResult::Failed(0);
        let outcome = if fails { failed } else { OpenResult::All };
        match self.grants.opened(id, outcome) {
            OpenOutcome::Open => self.advance(id, GrantState::Open),
            OpenOutcome::Close(_) => {
                self.world.due.insert(id, self.world.time);
                self.advance(id, GrantState::Closing)?;
                self.run(id, false)
            }
            other => unreachable!("the door has one step, of a template: {other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Move {
    Knock(u8),
    Pass { seconds: u64, fails: bool },
}

#[derive(Clone, Debug)]
struct Life {
    moves: Vec<Move>,
    fuse: u32,
    down: u64,
    reboot: bool,
    /// Whether commands whose processes are recorded outlive the keeper; others die with it.
    orphans: bool,
    /// Whether a command that dies has done its work.
    late: bool,
}

fn life() -> impl Strategy<Value = Life> {
    let one = prop_oneof![
        (0..3u8).prop_map(Move::Knock),
        (1..4u64, prop::bool::weighted(0.2))
            .prop_map(|(seconds, fails)| Move::Pass { seconds, fails }),
    ];
    let moves = prop::collection::vec(one, 0..40);
    (moves, 0..60u32, 0..20u64, prop::bool::weighted(0.2), any::<bool>(), any::<bool>()).prop_map(
        |(moves, fuse, down, reboot, orphans, late)| Life {
            moves,
            fuse,
            down,
            reboot,
            orphans,
            late,
        },
    )
}

fn live(world: &mut World, life: &Life) -> Alive {
    let mut keeper = Keeper::start(world)?;
    for step in &life.moves {
        match *step {
            Move::Knock(who) => keeper.knock(who)?,
            Move::Pass { seconds, fails } => {
                for _ in 0..seconds {
                    keeper.world.time += 1;
                    keeper.poll(fails)?;
                    keeper.nothing_is_overdue();
                }
            }
        }
    }
    Ok(())
}

impl Keeper<'_> {
    /// What is over is closed, but for the time that a close command takes.
    fn nothing_is_overdue(&self) {
        let World { open, due, opened, time, .. } = &self.world;
        let in_time = |id: &GrantId| !self.world.failed.contains(id);
        for (id, _) in open.iter().filter(|(id, open)| **open && in_time(id)) {
            let due = due[id].max(opened[id]);
            assert!(*time <= due + 2, "{id:?} is open at {time}, due {due}");
        }
    }
}

fn die(world: &mut World, life: &Life) {
    world.crashes += 1;
    for command in std::mem::take(&mut world.running) {
        if !life.reboot && life.orphans {
            // It goes on for long enough to do harm, if it is let.
            world.running.push(Running { ends: world.time + life.down + 3, ..command });
        } else if life.late {
            world.act(command);
        }
    }
    world.time += life.down;
    if life.reboot {
        world.boots += 1;
        world.booted = world.time;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn however_often_the_keeper_dies_every_grant_ends_as_it_should(
        lives in prop::collection::vec(life(), 1..6)
    ) {
        let mut world = World::default();
        for life in &lives {
            world.fuse = life.fuse;
            let _ = live(&mut world, life);
            die(&mut world, life);
        }
        world.fuse = u32::MAX;
        let rest = Move::Pass { seconds: 60, fails: false };
        let last = Life { moves: vec![rest], ..lives[0].clone() };
        prop_assert!(live(&mut world, &last).is_ok());

        prop_assert!(world.ledger.is_empty(), "forgotten: {:?}", world.ledger);
        prop_assert!(world.running.is_empty());
        for (id, open) in world.open.iter().filter(|(id, _)| !world.given_up.contains(id)) {
            prop_assert!(!open, "{id:?} stays open");
        }
        for (id, opens) in &world.opens {
            let closes = world.closes.get(id).copied().unwrap_or(0);
            prop_assert!(*opens <= 1, "{id:?} was opened {opens} times");
            let given_up = world.given_up.contains(id);
            prop_assert!(closes >= 1 || given_up, "{id:?} was never closed");
        }
        for (id, closes) in &world.closes {
            prop_assert!(*closes <= 1 + world.crashes, "{id:?} was closed {closes} times");
        }
    }

    /// With one crash: at most one close more than needed.
    #[test]
    fn one_crash_costs_at_most_one_close(life in life()) {
        let mut world = World { fuse: life.fuse, ..World::default() };
        let _ = live(&mut world, &life);
        die(&mut world, &life);
        world.fuse = u32::MAX;
        let rest = Move::Pass { seconds: 60, fails: false };
        let last = Life { moves: vec![rest], ..life };
        prop_assert!(live(&mut world, &last).is_ok());
        for (id, closes) in &world.closes {
            let opens = world.opens.get(id).copied().unwrap_or(0);
            prop_assert!(*closes <= opens.max(1) + 1, "{id:?}: {opens} opens, {closes} closes");
        }
    }
}
