//! The soundness contract of `docs/soundness.md`, point by point.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fibra_runtime::net::{TcpListener, TcpStream};
use fibra_runtime::{scope, sleep, spawn, yield_now};
use support::{child, everywhere, finish, is_child, one_worker, stderr, until};

/// Serves one connection by echoing it.
fn echo_once(listener: TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut buf = [0; 256];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..n]).is_err() {
            break;
        }
    }
}

fn echo_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            spawn(move || {
                let mut buf = [0; 256];
                while let Ok(n @ 1..) = stream.read(&mut buf) {
                    if stream.write_all(&buf[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

// 1: a started fiber stays on its worker.

#[test]
fn a_started_fiber_keeps_its_thread_and_an_rc_may_live_across_waits() {
    for builder in everywhere() {
        builder
            .run(|| {
                let address = echo_server();
                let fibers: Vec<_> = (0..50_u8)
                    .map(|number| {
                        spawn(move || {
                            let thread = std::thread::current().id();
                            let shared = Rc::new(Cell::new(0_u32));
                            let also = Rc::clone(&shared);
                            let mut stream = TcpStream::connect(address).unwrap();
                            for round in 0..20 {
                                stream.write_all(&[number; 32]).unwrap();
                                let mut back = [0; 32];
                                stream.read_exact(&mut back).unwrap();
                                assert_eq!(back, [number; 32]);
                                also.set(also.get() + 1);
                                yield_now();
                                assert_eq!(shared.get(), round + 1);
                                assert_eq!(std::thread::current().id(), thread);
                            }
                        })
                    })
                    .collect();
                fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
            })
            .unwrap();
    }
}

// 2 and 3: frames that are alive are never freed, and their thread never ends.

#[test]
fn a_leaked_fiber_that_lent_its_stack_to_a_thread_scope_stays_readable() {
    static CHECKED: AtomicUsize = AtomicUsize::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    let reader = Arc::new(AtomicBool::new(false));
    let running = Arc::clone(&reader);
    one_worker()
        .shutdown_grace(Duration::from_millis(50))
        .run(move || {
            spawn(move || {
                let data = [0x5a_u8; 512];
                std::thread::scope(|threads| {
                    threads.spawn(|| {
                        running.store(true, Ordering::Release);
                        while !STOP.load(Ordering::Acquire) {
                            assert!(data.iter().all(|byte| *byte == 0x5a));
                            CHECKED.fetch_add(1, Ordering::Release);
                        }
                    });
                    // Never ends: the fiber is leaked here, with its frame lent to the thread.
                    loop {
                        sleep(Duration::from_secs(3600));
                    }
                });
            });
            until(&reader);
        })
        .unwrap();
    // The runtime has ended, other runtimes use stacks, and the thread still reads the frame.
    let before = CHECKED.load(Ordering::Acquire);
    one_worker().run(|| scope(|s| (0..100).for_each(|_| drop(s.spawn(yield_now))))).unwrap();
    while CHECKED.load(Ordering::Acquire) < before + 1000 {
        std::thread::yield_now();
    }
    STOP.store(true, Ordering::Release);
}

// 4: no switch while the thread is unwinding.

/// Writes to and reads from a socket when it is dropped.
struct Farewell(TcpStream);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.write_all(b"farewell").unwrap();
        let mut back = [0; 8];
        self.0.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"farewell");
        yield_now();
        sleep(Duration::from_micros(1));
    }
}

#[test]
fn a_destructor_that_does_io_while_its_fiber_panics_disturbs_no_neighbour() {
    let lock = Arc::new(Mutex::new(0_u32));
    let stop = Arc::new(AtomicBool::new(false));
    // The peer is a thread outside: the worker blocks while the destructor talks to it.
    let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in peer.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut writer);
            });
        }
    });
    one_worker()
        .run(|| {
            let neighbours: Vec<_> = (0..100)
                .map(|_| {
                    let (lock, stop) = (Arc::clone(&lock), Arc::clone(&stop));
                    spawn(move || {
                        while !stop.load(Ordering::Acquire) {
                            assert!(
                                !std::thread::panicking(),
                                "somebody else's panic is seen here"
                            );
                            *lock.lock().expect("poisoned by a panic that never held it") += 1;
                            yield_now();
                        }
                    })
                })
                .collect();
            for _ in 0..20 {
                let victim = spawn(move || {
                    let _farewell = Farewell(TcpStream::connect(address).unwrap());
                    yield_now();
                    panic!("planned");
                });
                let payload = victim.join().unwrap_err();
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"planned"));
            }
            stop.store(true, Ordering::Release);
            neighbours.into_iter().for_each(|neighbour| neighbour.join().unwrap());
        })
        .unwrap();
    assert!(!lock.is_poisoned());
}

#[test]
fn a_scope_entered_while_unwinding_runs_its_children_in_place() {
    struct Opens(Arc<AtomicUsize>);
    impl Drop for Opens {
        fn drop(&mut self) {
            let thread = std::thread::current().id();
            scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        assert_eq!(std::thread::current().id(), thread);
                        self.0.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    }
    let count = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&count);
    one_worker()
        .run(move || {
            let fiber = spawn(move || {
                let _opens = Opens(inner);
                panic!("planned");
            });
            assert!(fiber.join().is_err());
        })
        .unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[test]
fn a_join_while_unwinding_for_a_fiber_of_the_same_worker_aborts_with_both_names() {
    const ME: &str = "a_join_while_unwinding_for_a_fiber_of_the_same_worker_aborts_with_both_names";
    if is_child(ME) {
        struct Joins(Option<fibra_runtime::JoinHandle<()>>);
        impl Drop for Joins {
            fn drop(&mut self) {
                let _ = self.0.take().unwrap().join();
            }
        }
        one_worker()
            .run(|| {
                let slow = fibra_runtime::fiber::Builder::new().name("slow").spawn(|| {
                    sleep(Duration::from_secs(3600));
                });
                let joins = Joins(Some(slow.unwrap()));
                let builder = fibra_runtime::fiber::Builder::new().name("unlucky");
                let _ = builder
                    .spawn(move || {
                        let _joins = joins;
                        yield_now();
                        panic!("planned");
                    })
                    .unwrap()
                    .join();
            })
            .unwrap();
        return;
    }
    let output = finish(child(ME).spawn().unwrap(), Duration::from_secs(20));
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("fiber 'unlucky'") && text.contains("fiber 'slow'"), "{text}");
}

// 5: a call that lent memory returns after the final completion; a resume carries no meaning.

#[test]
fn everything_works_while_every_parked_fiber_is_woken_for_no_reason() {
    for builder in everywhere() {
        builder
            .chaos(true)
            .run(|| {
                let address = echo_server();
                let clients: Vec<_> = (0..30_u8)
                    .map(|number| {
                        spawn(move || {
                            let mut stream = TcpStream::connect(address).unwrap();
                            for round in 0..30_u8 {
                                let sent = [number ^ round; 128];
                                stream.write_all(&sent).unwrap();
                                let mut back = [0; 128];
                                stream.read_exact(&mut back).unwrap();
                                assert_eq!(back, sent);
                                let child = spawn(move || number.wrapping_add(round));
                                assert_eq!(child.join().unwrap(), number.wrapping_add(round));
                            }
                            let before = std::time::Instant::now();
                            sleep(Duration::from_millis(2));
                            assert!(before.elapsed() >= Duration::from_millis(2));
                        })
                    })
                    .collect();
                clients.into_iter().for_each(|client| client.join().unwrap());
            })
            .unwrap();
    }
}

// 6: scopes.

#[test]
fn a_scope_waits_for_children_that_borrow_even_if_its_body_panics() {
    for builder in everywhere() {
        builder
            .run(|| {
                let mut numbers = vec![0_u32; 64];
                let ended = AtomicUsize::new(0);
                let result = catch_unwind(AssertUnwindSafe(|| {
                    scope(|s| {
                        for number in &mut numbers {
                            let ended = &ended;
                            s.spawn(move || {
                                yield_now();
                                *number += 1;
                                ended.fetch_add(1, Ordering::Relaxed);
                            });
                        }
                        panic!("planned");
                    })
                }));
                assert!(result.is_err());
                // Children that had not started were cancelled with the scope; the others ended.
                let touched = numbers.iter().filter(|number| **number == 1).count();
                assert_eq!(touched, ended.load(Ordering::Relaxed));
            })
            .unwrap();
    }
}

#[test]
fn a_panic_of_a_child_comes_out_of_the_scope_unless_it_was_joined() {
    one_worker()
        .run(|| {
            let unjoined = catch_unwind(|| scope(|s| drop(s.spawn(|| panic!("planned")))));
            assert!(unjoined.is_err());
            let joined = catch_unwind(|| {
                scope(|s| {
                    let child = s.spawn(|| panic!("planned"));
                    child.join().unwrap_err();
                    7
                })
            });
            assert_eq!(joined.unwrap(), 7);
        })
        .unwrap();
}

#[test]
fn a_forgotten_scope_handle_neither_hangs_nor_unsettles_the_scope() {
    one_worker()
        .run(|| {
            let mut value = 1;
            scope(|s| std::mem::forget(s.spawn(|| value += 1)));
            assert_eq!(value, 2);
        })
        .unwrap();
}

// 7: the two known holes. Both tests show the hole with a drop flag, without reading freed memory,
// and then that `no_suspend` closes it.

/// Says in a table whether the value with a number is alive.
struct Tracked(usize);

static ALIVE: [AtomicBool; 4] = [const { AtomicBool::new(false) }; 4];

impl Tracked {
    fn new(number: usize) -> Self {
        ALIVE[number].store(true, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        ALIVE[self.0].store(false, Ordering::Relaxed);
    }
}

#[test]
fn known_hole_a_wait_inside_a_thread_local_initialiser_drops_a_value_that_is_lent() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    static GUARDED: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static KEY: Tracked = {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let wait = || if number.is_multiple_of(2) { sleep(Duration::from_millis(5)) } else { yield_now() };
            if GUARDED.load(Ordering::Relaxed) { fibra_runtime::no_suspend(wait) } else { wait() }
            Tracked::new(number)
        };
    }
    let lent_and_dropped = one_worker()
        .run(|| {
            // The first initialiser waits longer than the second, and so replaces its value.
            let first = spawn(|| KEY.with(|value| value.0));
            let second = spawn(|| {
                KEY.with(|value| {
                    let number = value.0;
                    sleep(Duration::from_millis(50));
                    // Still inside `with`: `value` is borrowed. Only the table is looked at.
                    !ALIVE[number].load(Ordering::Relaxed)
                })
            });
            first.join().unwrap();
            second.join().unwrap()
        })
        .unwrap();
    assert!(
        lent_and_dropped,
        "std changed: the known hole may be closed, update docs/soundness.md"
    );
    GUARDED.store(true, Ordering::Relaxed);
    one_worker()
        .run(|| {
            let payload = spawn(|| KEY.with(|value| value.0)).join().unwrap_err();
            let text = payload.downcast_ref::<String>().unwrap();
            assert!(text.contains("no_suspend") && text.contains("soundness.rs"), "{text}");
        })
        .unwrap();
}

#[test]
fn known_hole_b_a_wait_inside_a_scoped_thread_local_outlives_what_it_lends() {
    scoped_tls::scoped_thread_local!(static SCOPED: Tracked);
    let lent_and_dropped = one_worker()
        .run(|| {
            let lender = spawn(|| {
                let value = Tracked::new(2);
                SCOPED.set(&value, yield_now);
            });
            let borrower = spawn(|| {
                SCOPED.is_set()
                    && SCOPED.with(|value| {
                        let number = value.0;
                        sleep(Duration::from_millis(20));
                        !ALIVE[number].load(Ordering::Relaxed)
                    })
            });
            lender.join().unwrap();
            borrower.join().unwrap()
        })
        .unwrap();
    assert!(lent_and_dropped, "the lender is gone while the borrower is inside `with`");
    let refused = one_worker()
        .run(|| {
            spawn(|| {
                let value = Tracked::new(3);
                fibra_runtime::no_suspend(|| SCOPED.set(&value, yield_now));
            })
            .join()
            .is_err()
        })
        .unwrap();
    assert!(refused);
}

// 8: sound but deadly, and therefore reported.

#[test]
fn a_std_lock_held_across_a_wait_and_contended_is_reported_with_both_fibers() {
    const ME: &str = "a_std_lock_held_across_a_wait_and_contended_is_reported_with_both_fibers";
    if is_child(ME) {
        let _ = one_worker().stall_limit(Duration::from_millis(300)).run(|| {
            let lock = Arc::new(Mutex::new(()));
            let (held, contended) = (Arc::clone(&lock), lock);
            let name = |name: &str| fibra_runtime::fiber::Builder::new().name(name);
            name("holder")
                .spawn(move || {
                    let _guard = held.lock().unwrap();
                    sleep(Duration::from_secs(3600));
                })
                .unwrap();
            name("contender")
                .spawn(move || drop(contended.lock().unwrap()))
                .unwrap()
                .join()
                .unwrap();
        });
        return;
    }
    let mut process = child(ME).spawn().unwrap();
    let mut seen = String::new();
    let mut pipe = std::io::BufReader::new(process.stderr.take().unwrap());
    // Ends with the report's last line; a missing report is a hang, which the runner shows.
    while !seen.contains("stops its worker") {
        if std::io::BufRead::read_line(&mut pipe, &mut seen).unwrap() == 0 {
            break;
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(seen.contains("blocked for") && seen.contains("by fiber 'contender'"), "{seen}");
    assert!(seen.contains("    fiber 'holder' spawned at"), "{seen}");
    assert!(seen.to_lowercase().contains("mutex"), "the stack trace names the lock: {seen}");
}

#[test]
fn a_refcell_in_a_thread_local_panics_instead_of_aliasing() {
    thread_local!(static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    one_worker()
        .run(|| {
            let holder = spawn(|| {
                SHARED.with(|shared| {
                    let mut shared = shared.borrow_mut();
                    sleep(Duration::from_millis(5));
                    shared.push(1);
                })
            });
            yield_now();
            let other = spawn(|| SHARED.with(|shared| shared.borrow_mut().push(2)));
            assert!(other.join().is_err(), "BorrowMutError");
            holder.join().unwrap();
        })
        .unwrap();
}

#[test]
fn a_plain_thread_and_a_fiber_share_a_listener() {
    for builder in everywhere() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"from a thread").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = String::new();
            stream.read_to_string(&mut back).unwrap();
            back
        });
        builder.run(move || spawn(move || echo_once(listener)).join().unwrap()).unwrap();
        assert_eq!(thread.join().unwrap(), "from a thread");
    }
}
