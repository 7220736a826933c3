//! The hot path allocates nothing. Alone in its process, because the allocator is the process's.

mod sides;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::time::Duration;

use sides::{on_every_side, pair};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: forwarded.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn reads_and_writes_allocate_nothing() {
    on_every_side(|| {
        let (mut near, mut far) = pair();
        let mut buf = [0; 64];
        let mut rounds = |count: usize, timeout: Option<Duration>| {
            near.set_read_timeout(timeout).unwrap();
            far.set_read_timeout(timeout).unwrap();
            let before = COUNT.get();
            for _ in 0..count {
                near.write_all(b"ping").unwrap();
                assert_eq!(far.peek(&mut buf).unwrap(), 4);
                far.read_exact(&mut buf[..4]).unwrap();
                let bufs = [IoSlice::new(b"po"), IoSlice::new(b"ng")];
                assert_eq!(far.write_vectored(&bufs).unwrap(), 4);
                let (left, right) = buf.split_at_mut(32);
                let mut bufs = [IoSliceMut::new(left), IoSliceMut::new(right)];
                assert_eq!(near.read_vectored(&mut bufs).unwrap(), 4);
            }
            COUNT.get() - before
        };
        for timeout in [None, Some(Duration::from_secs(60))] {
            // Tables, of timers for one, grow once.
            rounds(10, timeout);
            assert_eq!(rounds(1000, timeout), 0, "{timeout:?}");
        }
    });
}
