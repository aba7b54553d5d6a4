//! The latest events, of whichever watcher, for whoever asks why a knock did not open.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::control::{EventLine, What};
use crate::proto::push_latest;

/// How much is remembered of each kind.
const REMEMBERED: usize = 1024;

/// The latest events. What anybody can cause without knowing anything is kept apart, so that a
/// flood of it pushes only itself out.
#[derive(Debug, Default)]
pub(super) struct RecentEvents {
    by_anybody: VecDeque<EventLine>,
    others: VecDeque<EventLine>,
}

impl RecentEvents {
    pub(super) fn keep(&mut self, line: EventLine) {
        let queue = match line.what {
            What::Stage { stage: 1, .. } | What::Reset { stage: 1, .. } | What::Ignored { .. } => {
                &mut self.by_anybody
            }
            _ => &mut self.others,
        };
        push_latest(queue, REMEMBERED, line);
    }

    /// What is remembered of an address, or of all, in the order in which it happened.
    pub(super) fn about(&self, address: Option<IpAddr>) -> Vec<EventLine> {
        let all = self.by_anybody.iter().chain(&self.others);
        let mut lines: Vec<_> = all.filter(|line| line.is_about(address)).cloned().collect();
        lines.sort_by(|one, other| one.time.total_cmp(&other.time));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Wall;

    fn line(seconds: u64, source: u8, what: What) -> EventLine {
        let at = Wall::from_nanos(seconds * 1_000_000_000);
        EventLine::new(at, Some(IpAddr::from([192, 0, 2, source]).into()), None, what, "")
    }

    fn times(lines: &[EventLine]) -> Vec<f64> {
        lines.iter().map(|line| line.time).collect()
    }

    #[test]
    fn what_is_told_later_of_earlier_things_stands_where_it_happened() {
        let mut memory = RecentEvents::default();
        memory.keep(line(3, 2, What::Open { knock: None }));
        memory.keep(line(1, 2, What::Stage { stage: 1, knock: None }));
        memory.keep(line(2, 3, What::Close));
        assert_eq!(times(&memory.about(None)), [1.0, 2.0, 3.0]);
        assert_eq!(times(&memory.about(Some([192, 0, 2, 2].into()))), [1.0, 3.0]);
        let other = line(4, 9, What::Open { knock: None }).asked_by(Some([192, 0, 2, 3].into()));
        memory.keep(other);
        assert_eq!(times(&memory.about(Some([192, 0, 2, 3].into()))), [2.0, 4.0]);
    }

    #[test]
    fn a_flood_of_first_knocks_pushes_nothing_else_out() {
        let mut memory = RecentEvents::default();
        memory.keep(line(1, 2, What::Stage { stage: 2, knock: None }));
        (0..5000).for_each(|_| memory.keep(line(2, 3, What::Stage { stage: 1, knock: None })));
        assert_eq!(memory.about(None).len(), REMEMBERED + 1);
    }
}
