//! Memory that an op has given back is never written again: an allocator that remembers.
//!
//! AddressSanitizer does not see what the kernel writes. So freed blocks are filled with a pattern
//! here and kept in quarantine until every driver of the test is gone and the peers have sent what
//! would do harm; then the pattern must be whole. The first test shows that a driver that frees too
//! early is found out: it lends a block that is freed already.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use fibra_driver::{BackendKind, Choice, Config, Deadline, Driver, RawOp, Socket, Submitted};

const PATTERN: u8 = 0xdf;
/// How many blocks the quarantine holds; what comes after them is leaked unseen, and a check fails.
const BLOCKS_MAX: usize = 1 << 16;

struct Quarantine {
    active: AtomicBool,
    count: AtomicUsize,
    starts: [AtomicPtr<u8>; BLOCKS_MAX],
    lens: [AtomicUsize; BLOCKS_MAX],
    aligns: [AtomicUsize; BLOCKS_MAX],
}

#[global_allocator]
static QUARANTINE: Quarantine = Quarantine {
    active: AtomicBool::new(false),
    count: AtomicUsize::new(0),
    starts: [const { AtomicPtr::new(std::ptr::null_mut()) }; BLOCKS_MAX],
    lens: [const { AtomicUsize::new(0) }; BLOCKS_MAX],
    aligns: [const { AtomicUsize::new(0) }; BLOCKS_MAX],
};

// SAFETY: blocks come from the system's allocator and go back to it once, or never.
unsafe impl GlobalAlloc for Quarantine {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if !self.active.load(Ordering::Relaxed) {
            // SAFETY: forwarded; the block came from there.
            return unsafe { System.dealloc(start, layout) };
        }
        // SAFETY: the block is the caller's to give back, so nobody uses it any more.
        unsafe { start.write_bytes(PATTERN, layout.size()) };
        let place = self.count.fetch_add(1, Ordering::Relaxed);
        if place < BLOCKS_MAX {
            self.lens[place].store(layout.size(), Ordering::Relaxed);
            self.aligns[place].store(layout.align(), Ordering::Relaxed);
            self.starts[place].store(start, Ordering::Release);
        }
    }
}

impl Quarantine {
    /// Ends the quarantine: how many blocks were in it, and how many were written to.
    fn release(&self) -> (usize, usize) {
        self.active.store(false, Ordering::SeqCst);
        let count = self.count.swap(0, Ordering::SeqCst);
        assert!(count <= BLOCKS_MAX, "{count} blocks do not fit into the quarantine");
        let mut written = 0;
        for place in 0..count {
            let start = self.starts[place].swap(std::ptr::null_mut(), Ordering::Acquire);
            let len = self.lens[place].load(Ordering::Relaxed);
            let align = self.aligns[place].load(Ordering::Relaxed);
            if start.is_null() {
                // Another thread is about to fill it in; it stays leaked.
                continue;
            }
            // SAFETY: the block is ours as long as it is in quarantine.
            let block = unsafe { std::slice::from_raw_parts(start, len) };
            written += usize::from(block.iter().any(|byte| *byte != PATTERN));
            // SAFETY: size and alignment are those it was given back with.
            unsafe { System.dealloc(start, Layout::from_size_align_unchecked(len, align)) };
        }
        (count, written)
    }
}

/// Runs a test in quarantine, one at a time: how many freed blocks were written to.
fn in_quarantine(test: impl FnOnce()) -> usize {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    QUARANTINE.active.store(true, Ordering::SeqCst);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
    let (count, written) = QUARANTINE.release();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    assert!(count > 0, "nothing was freed, so nothing was tested");
    written
}

fn driver(backend: BackendKind) -> Driver {
    let mut config = Config::default();
    config.choice = Choice::Named(backend);
    config.entries = 64;
    Driver::new(&config).unwrap()
}

fn pair() -> (Socket, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    (Socket::from_owned(here.into()).unwrap(), there)
}

/// Keeps the kernel busy with a driver until it has done what the others may have asked for.
fn settle(driver: &mut Driver) {
    for _ in 0..4 {
        driver.wait(Deadline::Now).unwrap();
        while driver.reap_owned().is_some() {}
    }
}

#[test]
fn a_write_to_a_freed_block_is_seen() {
    let written = in_quarantine(|| {
        let mut driver = driver(BackendKind::Uring);
        let (here, mut there) = pair();
        let mut buffer = vec![0_u8; 4096];
        let buf = buffer.as_mut_ptr();
        drop(buffer);
        let op = RawOp::Recv { on: here.target(), buf, len: 4096, peek: false };
        // SAFETY: it breaks the promise on purpose; the block is in quarantine, so it is ours still.
        assert!(matches!(unsafe { driver.submit(op, 0) }, Submitted::Pending(_)));
        driver.wait(Deadline::Now).unwrap();
        there.write_all(b"harm").unwrap();
        driver.wait(Deadline::Never).unwrap();
        assert_eq!(driver.reap().map(|completion| completion.result), Some(4));
    });
    assert_eq!(written, 1);
}

/// What becomes of the ops of a round.
#[derive(Clone, Copy, Debug)]
enum End {
    /// All are abandoned, and the driver goes on.
    Abandoned,
    /// All are abandoned, and the driver is dropped at once.
    AbandonedAndDropped,
    /// The driver is dropped.
    Dropped,
    /// The driver is dropped by another thread, which may not drain it.
    DroppedElsewhere,
    /// The sockets are dropped, and the driver goes on.
    Closed,
    /// The sockets are dropped, and the driver at once.
    ClosedAndDropped,
    /// All are cancelled, and their buffers come back and are freed.
    Cancelled,
}

fn round(backend: BackendKind, end: End, seen: bool) {
    let mut driver = driver(backend);
    let mut pairs: Vec<_> = (0..6).map(|_| pair()).collect();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Socket::listen(&any, 0).unwrap();
    let to = listener.local_addr().unwrap();
    let clients = [0, 1, 2].map(|_| Socket::tcp(&to).unwrap());
    let mut ids = Vec::new();
    for (index, (here, there)) in pairs.iter_mut().enumerate() {
        ids.push(driver.recv(here, vec![0; 4096], 0));
        ids.push(driver.recv_vectored(here, vec![vec![0; 100], vec![0; 3000]], 0));
        ids.push(driver.peek(here, vec![0; 200], 0));
        // More than the socket takes.
        ids.push(driver.send_all(here, vec![1; 1 << 18], 0));
        ids.push(driver.send_vectored(here, vec![vec![2; 1 << 17]; 2], 0));
        // Some have won already.
        if index % 2 == 0 {
            there.write_all(&[7; 50]).unwrap();
        }
    }
    // The backlog holds one; the others wait for an answer that does not come.
    ids.extend(clients.iter().map(|client| driver.connect(client, to, 0)));
    if seen {
        driver.wait(Deadline::Now).unwrap();
        driver.reap();
    }
    let mut peers = Vec::new();
    let mut rest = None;
    match end {
        End::Abandoned | End::AbandonedAndDropped => {
            ids.iter().for_each(|id| driver.abandon(*id));
            if matches!(end, End::Abandoned) {
                settle(&mut driver);
                rest = Some(driver);
            }
            peers.extend(pairs.iter().map(|(_, there)| there.try_clone().unwrap()));
        }
        End::Dropped | End::DroppedElsewhere => {
            if matches!(end, End::Dropped) {
                drop(driver);
            } else {
                std::thread::scope(|scope| scope.spawn(|| drop(driver)).join().unwrap());
            }
            peers.extend(pairs.iter().map(|(_, there)| there.try_clone().unwrap()));
        }
        End::Closed | End::ClosedAndDropped => {
            peers.extend(pairs.drain(..).map(|(_, there)| there));
            if matches!(end, End::Closed) {
                settle(&mut driver);
                rest = Some(driver);
            }
        }
        End::Cancelled => {
            ids.iter().for_each(|id| driver.cancel_owned(*id));
            settle(&mut driver);
            rest = Some(driver);
        }
    }
    // Whoever still reads for an op that is gone would write this into a freed block.
    for peer in &mut peers {
        // The other end may be closed.
        let _ = peer.write(&[0x55; 4000]);
    }
    if let Some(mut driver) = rest {
        settle(&mut driver);
    }
}

#[test]
fn nothing_is_written_to_the_memory_of_ops_that_are_gone() {
    let ends = [
        End::Abandoned,
        End::AbandonedAndDropped,
        End::Dropped,
        End::DroppedElsewhere,
        End::Closed,
        End::ClosedAndDropped,
        End::Cancelled,
    ];
    for backend in BackendKind::ALL {
        for end in ends {
            for seen in [false, true] {
                for _ in 0..5 {
                    let written = in_quarantine(|| round(backend, end, seen));
                    assert_eq!(written, 0, "{backend}, {end:?}, seen: {seen}");
                }
            }
        }
    }
}
