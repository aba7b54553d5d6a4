//! Queues that keep only what came last.

use std::collections::VecDeque;

/// Adds an item to a queue of so many at most: the oldest makes room.
pub(crate) fn push_latest<T>(queue: &mut VecDeque<T>, most: usize, item: T) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}
