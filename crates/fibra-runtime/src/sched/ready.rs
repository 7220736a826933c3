//! The ready queue: started fibers that can go on, first come first served.
//!
//! A ring of a worker's own, so it needs neither atomics nor a lock. It is bounded by the number of
//! started fibers, each of which is in it once at most.

use super::block::BlockPtr;

/// Started fibers that can go on.
pub(crate) struct ReadyQueue {
    /// Length a power of two; `head` and `tail` count up and are masked.
    ring: Box<[Option<BlockPtr>]>,
    head: usize,
    tail: usize,
}

impl ReadyQueue {
    pub fn new() -> Self {
        Self { ring: vec![None; 256].into_boxed_slice(), head: 0, tail: 0 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    #[inline]
    pub fn push(&mut self, block: BlockPtr) {
        if self.len() == self.ring.len() {
            self.grow();
        }
        let mask = self.ring.len() - 1;
        self.ring[self.tail & mask] = Some(block);
        self.tail = self.tail.wrapping_add(1);
    }

    #[inline]
    pub fn pop(&mut self) -> Option<BlockPtr> {
        if self.is_empty() {
            return None;
        }
        let mask = self.ring.len() - 1;
        let block = self.ring[self.head & mask];
        self.head = self.head.wrapping_add(1);
        block
    }

    /// The one that is `ahead` places behind the next.
    #[inline]
    pub fn peek(&self, ahead: usize) -> Option<BlockPtr> {
        let mask = self.ring.len() - 1;
        if ahead < self.len() { self.ring[self.head.wrapping_add(ahead) & mask] } else { None }
    }

    #[cold]
    fn grow(&mut self) {
        let (len, mask) = (self.len(), self.ring.len() - 1);
        let mut ring = vec![None; self.ring.len() * 2].into_boxed_slice();
        for (at, slot) in ring.iter_mut().take(len).enumerate() {
            *slot = self.ring[self.head.wrapping_add(at) & mask];
        }
        (self.ring, self.head, self.tail) = (ring, 0, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    #[test]
    fn the_order_survives_growing_and_wrapping() {
        let block = |at: usize| BlockPtr(NonNull::new((at * 64 + 64) as *mut _).unwrap());
        let mut queue = ReadyQueue::new();
        let (mut pushed, mut popped) = (0, 0);
        for round in 0..200 {
            for _ in 0..round {
                queue.push(block(pushed));
                pushed += 1;
            }
            for _ in 0..round / 2 {
                assert!(queue.pop() == Some(block(popped)));
                popped += 1;
            }
        }
        assert_eq!(queue.len(), pushed - popped);
        while let Some(next) = queue.pop() {
            assert!(next == block(popped));
            popped += 1;
        }
        assert_eq!(pushed, popped);
    }
}
