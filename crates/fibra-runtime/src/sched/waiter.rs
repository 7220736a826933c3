//! Waiters: whom to resume when something is ready.

use std::task::Waker;
use std::thread::Thread;

use super::block::FiberRef;

/// Whoever waits: matched, not called through a pointer (spike: 2 ns against 7 when mixed).
pub(crate) enum Waiter {
    /// A fiber, which is made ready.
    Fiber(FiberRef),
    /// A plain thread, which is unparked.
    Thread(Thread),
    /// Anything else.
    #[allow(dead_code, reason = "tasks wait with it")]
    Waker(Waker),
}

impl Waiter {
    /// Resumes it. May be called from any thread; may run foreign code (`Waker`), so never under a
    /// lock or a borrow of the scheduler.
    pub fn wake(self) {
        match self {
            Self::Fiber(fiber) => fiber.wake(),
            Self::Thread(thread) => thread.unpark(),
            Self::Waker(waker) => waker.wake(),
        }
    }
}
