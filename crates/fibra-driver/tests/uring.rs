//! The io_uring backend: what only it can get wrong. The behaviour that all backends share is in the
//! contract suite.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fibra_driver::{
    BackendKind, Choice, Completion, Config, Deadline, Descriptor, Driver, Instant, Interest,
    Message, OpId, RawOp, Readiness, Shutdown, Submitted, Target,
};

fn config(entries: u32, completion_entries: Option<u32>) -> Config {
    let mut config = Config::default();
    config.choice = Choice::Named(BackendKind::Uring);
    config.entries = entries;
    config.completion_entries = completion_entries;
    config
}

fn driver() -> Driver {
    Driver::new(&config(64, None)).unwrap()
}

/// Our end as a descriptor of the driver, the peer's as std's.
fn pair() -> (Descriptor, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    (Descriptor::new(here.into()), there)
}

/// # Safety
/// As for `Driver::submit`.
unsafe fn start(driver: &mut Driver, op: RawOp, data: u64) -> OpId {
    // SAFETY: forwarded.
    match unsafe { driver.submit(op, data) } {
        Submitted::Pending(id) => id,
        Submitted::Done(result) => panic!("done at once: {result}"),
    }
}

/// Waits for completions, at most ten seconds: a test that would hang fails.
fn take(driver: &mut Driver, count: usize) -> Vec<Completion> {
    let limit = Instant::now() + Duration::from_secs(10);
    let mut out = Vec::new();
    loop {
        out.extend(std::iter::from_fn(|| driver.reap()));
        if out.len() >= count {
            return out;
        }
        assert!(Instant::now() < limit, "{} of {count} completions came", out.len());
        driver.wait(Deadline::At(limit)).unwrap();
    }
}

fn recv(on: &Descriptor, buf: &mut [u8]) -> RawOp {
    RawOp::Recv { on: Target::new(on), buf: buf.as_mut_ptr(), len: buf.len(), peek: false }
}

fn send(on: &Descriptor, buf: &[u8]) -> RawOp {
    RawOp::Send { on: Target::new(on), buf: buf.as_ptr(), len: buf.len() }
}

/// Every test keeps its buffers and descriptors until the completion or the driver's end.
macro_rules! start {
    ($driver:expr, $op:expr, $data:expr) => {
        // SAFETY: the test keeps what the op names in place until it ended or the driver did.
        unsafe { start(&mut $driver, $op, $data) }
    };
}

#[test]
fn bytes_travel_both_ways_and_words_come_back() {
    let mut driver = driver();
    assert_eq!(driver.kind(), BackendKind::Uring);
    let (here, mut there) = pair();
    let mut buf = [0; 16];
    let reading = start!(driver, recv(&here, &mut buf), 7);
    let sending = start!(driver, send(&here, b"ping"), 8);
    assert_eq!(take(&mut driver, 1), [Completion { id: sending, data: 8, result: 4 }]);
    let mut heard = [0; 4];
    there.read_exact(&mut heard).unwrap();
    there.write_all(b"pong!").unwrap();
    assert_eq!(take(&mut driver, 1), [Completion { id: reading, data: 7, result: 5 }]);
    assert_eq!((&heard, &buf[..5]), (b"ping", &b"pong!"[..]));
    assert_eq!(driver.metrics().in_flight_count, 0);
    assert_eq!(driver.metrics().submitted_count, 2);
}

#[test]
fn one_call_submits_waits_and_reaps() {
    let mut driver = driver();
    driver.wait(Deadline::Now).unwrap();
    let before = driver.metrics().enter_count;
    let (here, _there) = pair();
    for data in 0..8 {
        start!(driver, send(&here, b"x"), data);
    }
    driver.wait(Deadline::Never).unwrap();
    driver.wait(Deadline::Never).unwrap();
    assert_eq!(driver.metrics().enter_count - before, 1, "what is not reaped is no reason to call");
    assert_eq!(std::iter::from_fn(|| driver.reap()).count(), 8);
    driver.wait(Deadline::Now).unwrap();
    assert_eq!(driver.metrics().enter_count - before, 1, "nothing to do is no call");
}

#[test]
fn vectored_and_peeked_bytes_arrive_in_order() {
    let mut driver = driver();
    let (here, there) = pair();
    let there = Descriptor::new(there.into());
    let parts = [std::io::IoSlice::new(b"ab"), std::io::IoSlice::new(b"cde")];
    let mut message = Message::to_send(&parts);
    let op = RawOp::SendVectored { on: Target::new(&there), message: &mut message };
    start!(driver, op, 0);
    assert_eq!(take(&mut driver, 1)[0].result, 5);

    let mut peeked = [0; 8];
    let (buf, len) = (peeked.as_mut_ptr(), peeked.len());
    start!(driver, RawOp::Recv { on: Target::new(&here), buf, len, peek: true }, 0);
    assert_eq!(take(&mut driver, 1)[0].result, 5);
    assert_eq!(&peeked[..5], b"abcde");

    let (mut first, mut second) = ([0; 1], [0; 8]);
    let mut parts = [std::io::IoSliceMut::new(&mut first), std::io::IoSliceMut::new(&mut second)];
    let mut message = Message::to_receive(&mut parts);
    let op = RawOp::RecvVectored { on: Target::new(&here), message: &mut message };
    start!(driver, op, 0);
    assert_eq!(take(&mut driver, 1)[0].result, 5);
    assert_eq!((&first, &second[..4]), (b"a", &b"bcde"[..]));
}

#[test]
fn tcp_is_connected_accepted_and_shut_down() {
    let mut driver = driver();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = socket2::SockAddr::from(listener.local_addr().unwrap());
    let listener = Descriptor::new(listener.into());
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.set_nonblocking(true).unwrap();
    let client = Descriptor::new(client.into());

    start!(driver, RawOp::Accept { on: Target::new(&listener) }, 1);
    start!(driver, RawOp::Connect { on: Target::new(&client), address: &address }, 2);
    let mut done = take(&mut driver, 2);
    done.sort_by_key(|completion| completion.data);
    assert_eq!(done[1].result, 0);
    // SAFETY: the number is the connection's, and nobody else owns it.
    let accepted = unsafe { OwnedFd::from_raw_fd(done[0].result) };
    // SAFETY: takes no memory.
    let flags = unsafe {
        (
            libc::fcntl(accepted.as_raw_fd(), libc::F_GETFD),
            libc::fcntl(accepted.as_raw_fd(), libc::F_GETFL),
        )
    };
    assert_ne!(flags.0 & libc::FD_CLOEXEC, 0);
    assert_ne!(flags.1 & libc::O_NONBLOCK, 0);

    let mut accepted = TcpStream::from(accepted);
    let shutdown = RawOp::Shutdown { on: Target::new(&client), how: Shutdown::Write };
    // SAFETY: the descriptor stays in place.
    match unsafe { driver.submit(shutdown, 3) } {
        Submitted::Done(result) => assert_eq!(result, 0),
        Submitted::Pending(_) => assert_eq!(take(&mut driver, 1)[0].result, 0),
    }
    accepted.set_nonblocking(false).unwrap();
    assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0, "the shutdown arrived");
}

#[test]
fn a_closed_descriptor_ends_the_peers_stream() {
    let mut driver = driver();
    let (here, mut there) = pair();
    there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    start!(driver, RawOp::Close { fd: here.into_fd().into_raw_fd() }, 4);
    assert_eq!(take(&mut driver, 1)[0].result, 0);
    // Not by the number, which another thread of the tests may have got by now.
    assert_eq!(there.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn readiness_comes_as_bits() {
    let mut driver = driver();
    let (here, mut there) = pair();
    let on = Target::new(&here);
    start!(driver, RawOp::Ready { on, interest: Interest::WRITABLE }, 0);
    let bits = Readiness::from_bits(take(&mut driver, 1)[0].result as u8);
    assert_eq!(bits, Readiness::WRITABLE);
    start!(driver, RawOp::Ready { on, interest: Interest::READABLE }, 0);
    driver.wait(Deadline::Now).unwrap();
    assert_eq!(driver.reap(), None, "nothing to read yet");
    there.write_all(b"x").unwrap();
    there.shutdown(Shutdown::Write).unwrap();
    let bits = Readiness::from_bits(take(&mut driver, 1)[0].result as u8);
    assert!(bits.contains(Readiness::READABLE), "{bits:?}");
}

#[test]
fn a_completion_queue_of_64_loses_none_of_10_000() {
    const OPS: u64 = 10_000;
    let mut driver = Driver::new(&config(1024, Some(64))).unwrap();
    let mut seen = HashSet::new();
    // At once: the queue overflows while they are submitted.
    for data in 0..OPS {
        start!(driver, RawOp::Nop, data);
    }
    assert_eq!(driver.metrics().in_flight_count as u64, OPS);
    for completion in take(&mut driver, OPS as usize) {
        assert!(seen.insert(completion.data), "{completion:?} came twice");
    }
    assert_eq!(seen.len() as u64, OPS);
    // All together later: one byte wakes 10,000 waiting ops.
    let (here, mut there) = pair();
    let on = Target::new(&here);
    for data in OPS..2 * OPS {
        start!(driver, RawOp::Ready { on, interest: Interest::READABLE }, data);
    }
    driver.wait(Deadline::Now).unwrap();
    assert_eq!(driver.reap(), None);
    there.write_all(b"x").unwrap();
    for completion in take(&mut driver, OPS as usize) {
        assert!(seen.insert(completion.data), "{completion:?} came twice");
    }
    assert_eq!(seen.len() as u64, 2 * OPS);
    let metrics = driver.metrics();
    assert_eq!((metrics.in_flight_count, metrics.unknown_completion_count), (0, 0));
    assert!(metrics.overflow_count > 0, "the queue never overflowed: the test tests nothing");
}

#[test]
fn no_wait_ends_before_its_deadline() {
    let mut driver = driver();
    for micros in [1, 10, 50, 999, 1_000, 1_001, 5_000] {
        let deadline = Instant::now() + Duration::from_micros(micros);
        driver.wait(Deadline::At(deadline)).unwrap();
        assert!(Instant::now() >= deadline, "{micros} us");
    }
    driver.wait(Deadline::At(Instant::now())).unwrap();
    driver.wait(Deadline::At(Instant::from_nanos(0))).unwrap();
    driver.wait(Deadline::Now).unwrap();
}

#[test]
fn looking_without_sleeping_finds_what_came_meanwhile() {
    let mut driver = driver();
    let (here, mut there) = pair();
    let mut buf = [0; 4];
    let id = start!(driver, recv(&here, &mut buf), 1);
    driver.wait(Deadline::Now).unwrap();
    there.write_all(b"x").unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    let done = loop {
        driver.wait(Deadline::Now).unwrap();
        match driver.reap() {
            Some(done) => break done,
            None => assert!(Instant::now() < limit, "it was never seen"),
        }
    };
    assert_eq!(done, Completion { id, data: 1, result: 1 });
}

#[test]
fn a_notification_ends_a_wait_and_none_is_lost() {
    const ROUNDS: u64 = 2_000;
    let mut driver = driver();
    let (word, notifier) = (Arc::new(AtomicU64::new(0)), driver.notifier());
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
        let limit = Instant::now() + Duration::from_secs(10);
        while word.load(Ordering::Acquire) != round {
            driver.wait(Deadline::At(limit)).unwrap();
            assert_eq!(driver.reap(), None);
            assert!(Instant::now() < limit, "the notification of round {round} was lost");
        }
    }
    drop(go);
    sender.join().unwrap();
}

#[test]
fn a_notification_that_reap_swallows_still_ends_the_next_wait() {
    let (here, _there) = pair();
    let on = Target::new(&here);
    let mut driver = Driver::new(&config(8, None)).unwrap();
    driver.wait(Deadline::Now).unwrap();
    driver.notifier().notify();
    // A full queue is flushed, and that brings the kick in too.
    let before = driver.metrics().enter_count;
    for data in 0..9 {
        start!(driver, RawOp::Ready { on, interest: Interest::READABLE }, data);
    }
    assert_eq!(driver.metrics().enter_count - before, 1, "it was not flushed: nothing is tested");
    assert_eq!(driver.reap(), None);
    let limit = Instant::now() + Duration::from_secs(10);
    driver.wait(Deadline::At(limit)).unwrap();
    assert!(Instant::now() < limit, "the notification was lost");
}

#[test]
fn a_driver_can_be_notified_before_it_first_runs_and_after_its_end() {
    let mut driver = driver();
    let notifier = driver.notifier();
    let other = notifier.clone();
    std::thread::spawn(move || other.notify()).join().unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    driver.wait(Deadline::At(limit)).unwrap();
    assert!(Instant::now() < limit, "the notification was lost");
    drop(driver);
    // Its number is now that of another ring, which must notice nothing.
    let mut others = std::array::from_fn::<_, 8, _>(|_| self::driver());
    for other in &mut others {
        other.wait(Deadline::Now).unwrap();
    }
    notifier.notify();
    for other in &mut others {
        let before = other.metrics().enter_count;
        other.wait(Deadline::Now).unwrap();
        assert_eq!(other.metrics().enter_count, before, "another driver was notified");
    }
}

#[test]
fn a_driver_is_made_on_one_thread_and_runs_on_another() {
    let mut driver = driver();
    let (here, mut there) = pair();
    there.write_all(b"x").unwrap();
    let mut buf = [0; 4];
    // SAFETY: buffer and descriptor outlive the driver's thread, which is joined here.
    let id = unsafe { start(&mut driver, recv(&here, &mut buf), 1) };
    let done = std::thread::spawn(move || take(&mut driver, 1)).join().unwrap();
    assert_eq!(done, [Completion { id, data: 1, result: 1 }]);
}

#[test]
fn a_running_driver_on_the_wrong_thread_is_an_error_and_not_a_crash() {
    let mut driver = driver();
    driver.wait(Deadline::Now).unwrap();
    let text = std::thread::spawn(move || {
        start!(driver, RawOp::Nop, 0);
        driver.wait(Deadline::Never).unwrap_err().to_string()
    });
    let text = text.join().unwrap();
    assert!(text.contains("another thread"), "{text}");
}

#[test]
fn a_full_submission_queue_is_flushed_and_keeps_its_order() {
    let mut driver = Driver::new(&config(8, None)).unwrap();
    let (here, mut there) = pair();
    let bytes = (0..=255).collect::<Vec<u8>>();
    for byte in bytes.chunks(1) {
        start!(driver, send(&here, byte), u64::from(byte[0]));
    }
    let done = take(&mut driver, 256);
    assert!(done.iter().all(|completion| completion.result == 1));
    let mut heard = [0; 256];
    there.read_exact(&mut heard).unwrap();
    assert_eq!(heard.as_slice(), bytes);
}

#[test]
fn the_limit_of_ops_in_flight_is_a_refusal_and_passes() {
    let mut config = config(8, None);
    config.in_flight_max = 3;
    let mut driver = Driver::new(&config).unwrap();
    for data in 0..3 {
        start!(driver, RawOp::Nop, data);
    }
    // SAFETY: names no memory.
    let refused = unsafe { driver.submit(RawOp::Nop, 3) };
    assert_eq!(refused, Submitted::Done(-libc::ENOBUFS));
    assert_eq!(take(&mut driver, 3).len(), 3);
    start!(driver, RawOp::Nop, 4);
    assert_eq!(take(&mut driver, 1)[0].data, 4);
}

#[test]
fn a_cancelled_receive_ends_once_and_leaves_the_bytes() {
    let mut driver = driver();
    let (here, mut there) = pair();
    let mut buf = [0; 4];
    let id = start!(driver, recv(&here, &mut buf), 1);
    driver.wait(Deadline::Now).unwrap();
    driver.cancel(id);
    driver.cancel(id);
    assert_eq!(take(&mut driver, 1), [Completion { id, data: 1, result: -libc::ECANCELED }]);
    driver.cancel(id);
    there.write_all(b"left").unwrap();
    start!(driver, recv(&here, &mut buf), 2);
    assert_eq!(take(&mut driver, 1)[0].result, 4);
    assert_eq!(&buf, b"left");
    driver.wait(Deadline::Now).unwrap();
    assert_eq!(driver.reap(), None);
    assert_eq!(driver.metrics().unknown_completion_count, 0);
}

#[test]
fn success_wins_over_a_cancel_that_comes_after_the_bytes() {
    let mut driver = driver();
    let (here, mut there) = pair();
    let mut buf = [0; 4];
    let id = start!(driver, recv(&here, &mut buf), 1);
    driver.wait(Deadline::Now).unwrap();
    there.write_all(b"won!").unwrap();
    driver.cancel(id);
    let done = take(&mut driver, 1);
    if done[0].result == -libc::ECANCELED {
        start!(driver, recv(&here, &mut buf), 2);
        assert_eq!(take(&mut driver, 1)[0].result, 4, "cancelled, so the bytes are still there");
    } else {
        assert_eq!(done[0].result, 4);
    }
    assert_eq!(&buf, b"won!");
}

#[test]
fn a_cancel_before_the_submission_is_seen_ends_the_op() {
    let mut driver = driver();
    let (here, _there) = pair();
    let mut buf = [0; 4];
    let id = start!(driver, recv(&here, &mut buf), 1);
    driver.cancel(id);
    assert_eq!(take(&mut driver, 1), [Completion { id, data: 1, result: -libc::ECANCELED }]);
}

#[test]
fn answers_that_name_no_op_are_counted_and_dropped() {
    let mut driver = driver();
    let (here, mut there) = pair();
    let mut buf = [0; 4];
    let old = start!(driver, RawOp::Nop, 0);
    take(&mut driver, 1);
    let id = start!(driver, recv(&here, &mut buf), 1);
    driver.wait(Deadline::Now).unwrap();
    let bogus = [
        0,
        1,
        77,
        old.as_u64(),
        old.as_u64() | 1 << 31,
        id.as_u64() | 1 << 31,
        id.as_u64() + 1,
        id.as_u64() + (1 << 32),
        u64::MAX,
        u64::MAX >> 1,
    ];
    for number in bogus {
        driver.inject_completion(number, 0);
        driver.wait(Deadline::Now).unwrap();
        assert_eq!(driver.reap(), None, "{number:#x}");
    }
    assert_eq!(driver.metrics().unknown_completion_count, bogus.len() as u64);
    assert_eq!(driver.metrics().in_flight_count, 1);
    there.write_all(b"real").unwrap();
    assert_eq!(take(&mut driver, 1), [Completion { id, data: 1, result: 4 }]);
    driver.inject_completion(id.as_u64(), 4);
    assert_eq!(driver.reap(), None, "a duplicate");
    assert_eq!(driver.metrics().unknown_completion_count, bogus.len() as u64 + 1);
}

#[test]
fn an_injected_completion_ends_a_wait() {
    let (here, _there) = pair();
    let mut driver = driver();
    let op = RawOp::Ready { on: Target::new(&here), interest: Interest::READABLE };
    let id = start!(driver, op, 1);
    driver.wait(Deadline::Now).unwrap();
    driver.inject_completion(id.as_u64(), 0);
    let limit = Instant::now() + Duration::from_secs(10);
    driver.wait(Deadline::At(limit)).unwrap();
    assert!(Instant::now() < limit);
    assert_eq!(driver.reap(), Some(Completion { id, data: 1, result: 0 }));
}
