//! What cannot be brought about from outside: older kernels, refusals, cancels that miss.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::reap::CANCEL;
use super::*;
use crate::clock::Instant;
use crate::descriptor::Descriptor;
use crate::op::Target;

fn uring(means: Means) -> Uring {
    Uring::with_ring(Ring::new(16, 64).unwrap(), means, 1024).unwrap()
}

fn pair() -> (Descriptor, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    (Descriptor::new(here.into()), there)
}

/// The tests keep their buffers and descriptors until the driver's end.
fn start(uring: &mut Uring, op: RawOp, data: u64) -> OpId {
    // SAFETY: see above.
    match unsafe { uring.submit(op, data) } {
        Submitted::Pending(id) => id,
        Submitted::Done(result) => panic!("done at once: {result}"),
    }
}

fn recv(on: &Descriptor, buf: &mut [u8]) -> RawOp {
    RawOp::Recv { on: Target::new(on), buf: buf.as_mut_ptr(), len: buf.len(), peek: false }
}

fn limit() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn take(uring: &mut Uring) -> Completion {
    let limit = limit();
    loop {
        if let Some(completion) = uring.reap() {
            return completion;
        }
        assert!(Instant::now() < limit, "no completion came");
        uring.wait(Deadline::At(limit)).unwrap();
    }
}

#[test]
fn a_notification_by_eventfd_ends_a_wait_and_none_is_lost() {
    const ROUNDS: u64 = 1_000;
    let mut uring = uring(Means::EventFd);
    let (word, notifier) = (Arc::new(AtomicU64::new(0)), uring.notifier());
    let (go, ask) = mpsc::channel();
    let sender = std::thread::spawn({
        let word = Arc::clone(&word);
        move || {
            for round in ask {
                word.store(round, Ordering::Release);
                notifier.notify();
            }
        }
    });
    for round in 1..=ROUNDS {
        go.send(round).unwrap();
        let limit = limit();
        while word.load(Ordering::Acquire) != round {
            uring.wait(Deadline::At(limit)).unwrap();
            assert_eq!(uring.reap(), None);
            assert!(Instant::now() < limit, "the notification of round {round} was lost");
        }
    }
    drop(go);
    sender.join().unwrap();
    assert_eq!(uring.metrics().unknown_completion_count, 0);
}

#[test]
fn a_driver_with_an_eventfd_ends_and_its_notifier_stays_harmless() {
    let mut uring = uring(Means::EventFd);
    let notifier = uring.notifier();
    uring.wait(Deadline::Now).unwrap();
    assert!(uring.kick.is_armed());
    notifier.notify();
    uring.wait(Deadline::Never).unwrap();
    drop(uring);
    notifier.notify();
}

#[test]
fn a_kernel_without_no_sqarray_will_do() {
    let ring = Ring::build(16, 64, true).unwrap();
    assert!(!ring.flag_names().contains(&"NO_SQARRAY"));
    let mut uring = Uring::with_ring(ring, Means::EventFd, 1024).unwrap();
    let (here, mut there) = pair();
    let mut buf = [0; 4];
    let id = start(&mut uring, recv(&here, &mut buf), 9);
    there.write_all(b"abc").unwrap();
    assert_eq!(take(&mut uring), Completion { id, data: 9, result: 3 });
    for data in 0..100 {
        start(&mut uring, RawOp::Nop, data);
    }
    assert_eq!((0..100).map(|_| take(&mut uring).data).sum::<u64>(), 99 * 50);
}

#[test]
fn a_closed_ring_gives_its_place_in_the_threads_table_back() {
    // The table has 16 places.
    for round in 0..40 {
        let mut ring = Ring::new(8, 32).unwrap();
        ring.enable().unwrap();
        assert!(ring.flag_names().contains(&"REGISTERED_RING"), "round {round}");
    }
}

#[test]
fn entries_that_were_refused_are_submitted_later_and_in_order() {
    let mut uring = uring(Means::MsgRing);
    let (here, mut there) = pair();
    let bytes = (0..=255).collect::<Vec<u8>>();
    for (data, byte) in bytes.iter().enumerate() {
        let op = RawOp::Send { on: Target::new(&here), buf: byte, len: 1 };
        if data < 100 {
            // As if the kernel had refused to take more.
            let in_flight = InFlight { verb: Verb::Send, cancel_retries: 0 };
            let id = uring.slots.insert(data as u64, in_flight).unwrap();
            // SAFETY: bytes and descriptor stay until the end of the test.
            let parts = unsafe { prepare::prepare(op) }.unwrap();
            uring.backlog.push_back(parts.entry(id.as_u64()));
        } else {
            start(&mut uring, op, data as u64);
        }
    }
    for _ in &bytes {
        assert_eq!(take(&mut uring).result, 1);
    }
    let mut heard = [0; 256];
    there.read_exact(&mut heard).unwrap();
    assert_eq!(heard.as_slice(), bytes);
}

#[test]
fn a_wait_does_not_sleep_on_a_backlog() {
    let mut uring = uring(Means::MsgRing);
    let (here, _there) = pair();
    let mut buf = [0; 4];
    // The queue is full of receives that nothing ends; behind them something that ends at once.
    for data in 0..16 {
        start(&mut uring, recv(&here, &mut buf), data);
    }
    let id = uring.slots.insert(16, InFlight::default()).unwrap();
    uring.backlog.push_back(opcode::Nop::new().build().user_data(id.as_u64()));
    assert_eq!(take(&mut uring), Completion { id, data: 16, result: 0 });
}

#[test]
fn a_cancel_that_missed_is_sent_again() {
    for error in [libc::ENOENT, libc::EALREADY] {
        let mut uring = uring(Means::MsgRing);
        let (here, _there) = pair();
        let mut buf = [0; 4];
        let id = start(&mut uring, recv(&here, &mut buf), 1);
        uring.wait(Deadline::Now).unwrap();
        assert!(uring.slots.cancel_sent(id));
        uring.inject(id.as_u64() | CANCEL, -error);
        assert_eq!(take(&mut uring), Completion { id, data: 1, result: -libc::ECANCELED });
        assert_eq!(uring.metrics().unknown_completion_count, 0);
    }
}

#[test]
fn a_cancel_that_always_misses_does_not_keep_the_driver_awake() {
    let mut uring = uring(Means::MsgRing);
    let (here, _there) = pair();
    let mut buf = [0; 4];
    let id = start(&mut uring, recv(&here, &mut buf), 1);
    uring.wait(Deadline::Now).unwrap();
    let mut repeated = 0;
    for _ in 0..1_000 {
        assert!(uring.slots.cancel_sent(id));
        uring.inject(id.as_u64() | CANCEL, -libc::EALREADY);
        repeated += uring.missed_cancels.len();
        uring.missed_cancels.clear();
    }
    assert_eq!(repeated, 64);
    assert!(uring.slots.cancel_sent(id), "the caller may still ask");
    assert!(uring.slots.cancel_answered(id));
}

#[test]
fn a_ring_is_made_smaller_than_its_completion_queue_and_than_asked() {
    let ring = Ring::new(1024, 64).unwrap();
    assert!(ring.params().sq_entries() <= 64);
    assert_eq!(ring.params().cq_entries(), 64);
    let ring = Ring::new(u32::MAX, u32::MAX).unwrap();
    assert!(ring.params().sq_entries() >= 1024, "clamped");
}
