//! The engine on a poller that says what the test tells it to, also what no kernel should say.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::descriptor::Descriptor;
use crate::op::Target;

/// What the engine asked for and what it will be told.
#[derive(Default)]
struct Script {
    /// Descriptors watched now, with their tokens.
    watched: Vec<(RawFd, u64)>,
    events: VecDeque<(u64, Readiness)>,
    refuse: bool,
}

struct Scripted<const EDGE: bool> {
    script: Rc<RefCell<Script>>,
    removed_elsewhere: Arc<AtomicUsize>,
}

impl<const E: bool> Poller for Scripted<E> {
    const EDGE: bool = E;

    fn add(&mut self, fd: RawFd, token: u64, _interest: Interest) -> io::Result<()> {
        let mut script = self.script.borrow_mut();
        if script.refuse {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        assert!(script.watched.iter().all(|(other, _)| *other != fd), "{fd} is watched already");
        script.watched.push((fd, token));
        Ok(())
    }
    fn modify(&mut self, fd: RawFd, token: u64, _interest: Interest) -> io::Result<()> {
        assert!(self.script.borrow().watched.contains(&(fd, token)));
        Ok(())
    }
    fn remove(&mut self, fd: RawFd, token: u64) {
        self.script.borrow_mut().watched.retain(|entry| *entry != (fd, token));
    }
    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn next(&mut self) -> Option<(u64, Readiness)> {
        self.script.borrow_mut().events.pop_front()
    }
    fn notifier(&self) -> Notifier {
        Notifier::new(|| {})
    }
    fn remover(&self) -> io::Result<Remove> {
        let count = Arc::clone(&self.removed_elsewhere);
        Ok(Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }))
    }
}

struct Bed<const EDGE: bool> {
    script: Rc<RefCell<Script>>,
    removed_elsewhere: Arc<AtomicUsize>,
    ready: Ready<Scripted<EDGE>>,
}

impl<const EDGE: bool> Bed<EDGE> {
    fn new() -> Self {
        let script = Rc::new(RefCell::new(Script::default()));
        let removed_elsewhere = Arc::new(AtomicUsize::new(0));
        let poller = Scripted {
            script: Rc::clone(&script),
            removed_elsewhere: Arc::clone(&removed_elsewhere),
        };
        let ready = Ready::new(poller, &Config::default()).unwrap();
        Self { script, removed_elsewhere, ready }
    }

    fn submit(&mut self, on: &Descriptor, buf: &mut [u8]) -> Submitted {
        let (buf, len) = (buf.as_mut_ptr(), buf.len());
        let op = RawOp::Recv { on: Target::new(on), buf, len, peek: false };
        // SAFETY: the tests keep descriptors and buffers until the op is final.
        unsafe { self.ready.submit(op, 0) }
    }

    fn event(&mut self, token: u64, seen: Readiness) {
        self.script.borrow_mut().events.push_back((token, seen));
        self.ready.wait(Deadline::Now).unwrap();
    }

    fn token(&self) -> u64 {
        self.script.borrow().watched.last().unwrap().1
    }
}

fn pair() -> (Descriptor, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Descriptor::new(ours.into()), theirs)
}

#[test]
fn an_event_of_an_earlier_user_of_an_entry_reaches_nobody() {
    let mut bed = Bed::<true>::new();
    let mut buf = [0; 4];
    let (old, mut theirs) = pair();
    let Submitted::Pending(_) = bed.submit(&old, &mut buf) else { panic!("nothing to read yet") };
    let stale = bed.token();
    theirs.write_all(b"x").unwrap();
    bed.event(stale, Readiness::READABLE);
    assert_eq!(bed.ready.reap().map(|completion| completion.result), Some(1));
    drop(old);
    assert_eq!(bed.removed_elsewhere.load(Ordering::Relaxed), 1);
    bed.ready.wait(Deadline::Now).unwrap();

    bed.script.borrow_mut().watched.clear();
    let (new, mut theirs) = pair();
    let Submitted::Pending(_) = bed.submit(&new, &mut buf) else { panic!("nothing to read yet") };
    assert_eq!(bed.token() as u32, stale as u32, "the entry is used again");
    theirs.write_all(b"y").unwrap();
    for token in [stale, u64::MAX, stale + 1] {
        bed.event(token, Readiness::READABLE);
    }
    assert_eq!(bed.ready.reap(), None);
    assert_eq!(bed.ready.metrics().unknown_completion_count, 3);
    bed.event(bed.token(), Readiness::READABLE);
    assert_eq!(bed.ready.reap().map(|completion| completion.result), Some(1));
}

#[test]
fn spurious_events_end_nothing() {
    let mut bed = Bed::<true>::new();
    let mut buf = [0; 4];
    let (ours, mut theirs) = pair();
    let Submitted::Pending(id) = bed.submit(&ours, &mut buf) else { panic!("nothing to read yet") };
    for seen in [Readiness::NONE, Readiness::WRITABLE, Readiness::READABLE, Readiness::ERROR] {
        bed.event(bed.token(), seen);
        assert_eq!(bed.ready.reap(), None, "{seen:?}");
    }
    theirs.write_all(b"real").unwrap();
    bed.event(bed.token(), Readiness::READABLE);
    assert_eq!(bed.ready.reap(), Some(Completion { id, data: 0, result: 4 }));
}

#[test]
fn entries_last_as_long_as_their_descriptors() {
    let mut bed = Bed::<false>::new();
    let mut buf = [0; 4];
    for _ in 0..100 {
        let (ours, _theirs) = pair();
        let Submitted::Pending(id) = bed.submit(&ours, &mut buf) else { panic!("nothing to read") };
        bed.ready.cancel(id);
        assert_eq!(bed.ready.reap().map(|completion| completion.result), Some(sys::CANCELLED));
        assert!(bed.script.borrow().watched.is_empty(), "watched only while somebody waits");
    }
    // Without a single wait: the next newcomer drops the entry of the one before.
    assert_eq!(bed.ready.table.len(), 1);
    bed.ready.wait(Deadline::Now).unwrap();
    assert_eq!(bed.ready.table.len(), 0);
}

#[test]
fn a_descriptor_closed_under_its_waiters_ends_them_without_a_look_at_the_number() {
    let mut bed = Bed::<false>::new();
    let (mut one, mut two) = ([0; 4], [0; 4]);
    let (ours, mut theirs) = pair();
    let Submitted::Pending(first) = bed.submit(&ours, &mut one) else { panic!("nothing to read") };
    let Submitted::Pending(second) = bed.submit(&ours, &mut two) else { panic!("nothing to read") };
    let token = bed.token();
    theirs.write_all(b"late").unwrap();
    drop(ours);
    bed.event(token, Readiness::READABLE);
    for id in [first, second] {
        let result = sys::BAD_DESCRIPTOR;
        assert_eq!(bed.ready.reap(), Some(Completion { id, data: 0, result }));
    }
    assert!(bed.script.borrow().watched.is_empty());
    assert_eq!(bed.ready.metrics().unknown_completion_count, 1);
}

#[test]
fn a_poller_that_takes_no_more_descriptors_fails_the_op_with_its_error() {
    fn check<const EDGE: bool>() {
        let mut bed = Bed::<EDGE>::new();
        let mut buf = [0; 4];
        let (ours, _theirs) = pair();
        bed.script.borrow_mut().refuse = true;
        assert_eq!(bed.submit(&ours, &mut buf), Submitted::Done(-libc::ENOSPC));
        assert_eq!(bed.ready.metrics().in_flight_count, 0);
        bed.script.borrow_mut().refuse = false;
        assert!(matches!(bed.submit(&ours, &mut buf), Submitted::Pending(_)));
    }
    check::<true>();
    check::<false>();
}
