//! The life of a runtime: where its API may be used, cancellation, shutdown, exit, signals.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fibra_runtime::net::{TcpListener, TcpStream};
use fibra_runtime::{
    Builder, Cancelled, Handle, deadline, fiber, is_cancelled, run, scope, shield, sleep, spawn,
    spawn_inherit, try_sleep, yield_now,
};
use support::{child, everywhere, finish, is_child, one_worker, stderr, until};

const LONG: Duration = Duration::from_secs(3600);

// Where the API may be used (D23).

#[test]
fn the_main_fiber_runs_on_a_thread_of_the_runtime_and_may_borrow() {
    let caller = std::thread::current().id();
    let text = String::from("borrowed");
    let len = run(|| {
        assert_ne!(std::thread::current().id(), caller);
        text.len()
    });
    assert_eq!(len, 8);
}

#[test]
fn a_panic_of_the_main_fiber_resumes_on_the_caller() {
    let payload = std::panic::catch_unwind(|| run(|| panic!("planned"))).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"planned"));
}

#[test]
fn spawn_without_a_runtime_panics_and_names_run() {
    const ME: &str = "spawn_without_a_runtime_panics_and_names_run";
    // In a process of its own: other tests have runtimes, which would be found.
    if is_child(ME) {
        spawn(|| ());
    }
    let output = finish(child(ME).spawn().unwrap(), Duration::from_secs(20));
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("fibra::run"), "{text}");
}

#[test]
fn run_inside_a_fiber_panics_and_names_scope() {
    run(|| {
        let payload = spawn(|| run(|| ())).join().unwrap_err();
        let text = payload.downcast_ref::<&str>().unwrap();
        assert!(text.contains("fibra::scope"), "{text}");
    });
}

#[test]
fn two_runtimes_at_once_are_independent_and_a_third_may_follow() {
    let both = std::sync::Barrier::new(2);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                run(|| {
                    // A std barrier is fine on two runtimes: they share no worker.
                    both.wait();
                    let handles: Vec<_> = (0..100).map(|n| spawn(move || n)).collect();
                    let sum: i32 = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
                    assert_eq!(sum, 4950);
                });
            });
        }
    });
    run(|| ());
}

#[test]
fn a_handle_spawns_from_outside_and_a_thread_joins() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let outside = std::thread::spawn(move || {
        let handle: Handle = receiver.recv().unwrap();
        let direct = handle.spawn(|| 1).join().unwrap();
        direct + handle.enter(|| spawn(|| 2).join().unwrap())
    });
    let total = run(move || {
        sender.send(Handle::current()).unwrap();
        fibra_runtime::blocking(|| outside.join().unwrap())
    });
    assert_eq!(total, 3);
}

#[test]
fn a_join_handle_outlives_its_runtime() {
    let (done, never) = run(|| {
        let done = spawn(|| 5);
        while !done.is_finished() {
            yield_now();
        }
        (done, spawn(|| 6))
    });
    assert_eq!(done.join().unwrap(), 5);
    match never.join() {
        Ok(value) => assert_eq!(value, 6),
        Err(payload) => assert!(payload.is::<Cancelled>()),
    }
}

#[test]
fn a_socket_outlives_its_runtime_and_works_in_the_next_one() {
    for builder in everywhere() {
        let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = peer.local_addr().unwrap();
        let again = builder.clone();
        let mut stream = builder
            .run(|| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(b"one").unwrap();
                stream
            })
            .unwrap();
        let (mut server, _) = peer.accept().unwrap();
        server.write_all(b"two").unwrap();
        again
            .run(move || {
                let mut buf = [0; 3];
                stream.read_exact(&mut buf).unwrap();
                assert_eq!(&buf, b"two");
            })
            .unwrap();
        let mut buf = [0; 3];
        server.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"one");
    }
}

#[test]
fn a_name_and_a_stack_size_are_what_was_asked_for() {
    run(|| {
        let builder = fiber::Builder::new().name("deep").stack_size(4 << 20);
        let deep = builder.spawn(|| {
            fn recurse(depth: usize) -> usize {
                let frame = std::hint::black_box([1_u8; 16 << 10]);
                if depth == 0 {
                    usize::from(frame[0])
                } else {
                    recurse(depth - 1) + usize::from(frame[1])
                }
            }
            assert_eq!(fibra_runtime::current().unwrap().name(), Some("deep"));
            recurse(150)
        });
        assert_eq!(deep.unwrap().join().unwrap(), 151);
    });
}

// Cancellation is an error value (D9, D24, D49).

#[test]
fn a_cancelled_wait_fails_with_cancelled_and_a_success_wins() {
    for builder in everywhere() {
        builder
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                let reader = spawn(move || {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut buf = [0; 8];
                    let first = stream.read(&mut buf).unwrap();
                    let second = stream.read(&mut buf).unwrap_err();
                    assert!(is_cancelled(&second), "{second:?}");
                    assert_ne!(second.kind(), io::ErrorKind::Interrupted);
                    first
                });
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(b"hello").unwrap();
                sleep(Duration::from_millis(5));
                reader.cancel();
                assert_eq!(reader.join().unwrap(), 5);
            })
            .unwrap();
    }
}

#[test]
fn a_fiber_cancelled_before_it_starts_never_runs_and_drops_its_closure() {
    one_worker()
        .run(|| {
            let ran = Arc::new(AtomicBool::new(false));
            let inner = Arc::clone(&ran);
            let child = spawn(move || inner.store(true, Ordering::Relaxed));
            child.cancel();
            assert!(child.join().unwrap_err().is::<Cancelled>());
            assert!(!ran.load(Ordering::Relaxed));
            assert_eq!(Arc::strong_count(&ran), 1);
        })
        .unwrap();
}

#[test]
fn infallible_waits_ignore_a_cancel_and_sleep_returns_early() {
    one_worker()
        .run(|| {
            let slow = spawn(|| sleep(Duration::from_millis(20)));
            let joiner = spawn(move || {
                slow.join().unwrap();
                try_sleep(LONG).unwrap_err()
            });
            yield_now();
            joiner.cancel();
            assert!(is_cancelled(&joiner.join().unwrap()));
            let sleeper = spawn(|| sleep(LONG));
            yield_now();
            sleeper.cancel();
            sleeper.join().unwrap();
        })
        .unwrap();
}

#[test]
fn a_loop_that_ignores_its_cancel_does_not_burn_a_core() {
    one_worker()
        .run(|| {
            let rounds = Arc::new(AtomicUsize::new(0));
            let stop = Arc::new(AtomicBool::new(false));
            let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
            let stubborn = spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    sleep(LONG);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            yield_now();
            stubborn.cancel();
            sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            stubborn.join().unwrap();
            // 64 free ones, then one in 10 ms; a hot loop would make hundreds of thousands.
            let rounds = rounds.load(Ordering::Relaxed);
            assert!((64..5000).contains(&rounds), "{rounds}");
        })
        .unwrap();
}

#[test]
fn incoming_yields_cancelled_once_and_then_ends() {
    for builder in everywhere() {
        builder
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let started = Arc::new(AtomicBool::new(false));
                let flag = Arc::clone(&started);
                let server = spawn(move || {
                    flag.store(true, Ordering::Release);
                    let seen: Vec<_> = listener.incoming().collect();
                    assert_eq!(seen.len(), 1);
                    assert!(is_cancelled(seen[0].as_ref().unwrap_err()));
                });
                until(&started);
                server.cancel();
                server.join().unwrap();
            })
            .unwrap();
    }
}

#[test]
fn deadlines_nest_reach_scope_children_and_not_spawned_fibers() {
    for builder in everywhere() {
        builder
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                deadline(LONG, || {
                    deadline(Duration::from_millis(10), || {
                        let error = listener.accept().unwrap_err();
                        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                        scope(|s| {
                            s.spawn(|| assert!(try_sleep(LONG).is_err()));
                        });
                        assert!(spawn_inherit(|| try_sleep(LONG)).join().unwrap().is_err());
                        let free = spawn(|| try_sleep(Duration::from_millis(1)));
                        assert!(free.join().unwrap().is_ok());
                        shield(|| try_sleep(Duration::from_millis(1))).unwrap();
                    });
                    assert!(
                        try_sleep(Duration::from_millis(1)).is_ok(),
                        "the outer one is far off"
                    );
                });
            })
            .unwrap();
    }
}

#[test]
fn a_cancelled_parent_cancels_the_children_of_its_scope() {
    one_worker()
        .run(|| {
            let parent = spawn(|| {
                scope(|s| {
                    let child = s.spawn(|| try_sleep(LONG).unwrap_err());
                    is_cancelled(&child.join().unwrap())
                })
            });
            let waits_in_scope = spawn(|| {
                let mut seen = None;
                scope(|s| {
                    s.spawn(|| seen = Some(try_sleep(LONG).unwrap_err()));
                });
                is_cancelled(&seen.unwrap())
            });
            yield_now();
            yield_now();
            waits_in_scope.cancel();
            assert!(waits_in_scope.join().unwrap());
            drop(parent);
        })
        .unwrap();
}

// Shutdown (D12).

#[test]
fn what_main_left_behind_is_cancelled_and_drained() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let inner = Arc::clone(&log);
    run(move || {
        let ready = Arc::new(AtomicUsize::new(0));
        for number in 0..10 {
            let (log, ready) = (Arc::clone(&inner), Arc::clone(&ready));
            spawn(move || {
                ready.fetch_add(1, Ordering::Release);
                let cancelled = is_cancelled(&try_sleep(LONG).unwrap_err());
                // Spawning now gives a handle that is cancelled already.
                let late = spawn(|| ());
                let refused = late.join().unwrap_err().is::<Cancelled>();
                log.lock().unwrap().push((number, cancelled, refused));
            });
        }
        while ready.load(Ordering::Acquire) < 10 {
            yield_now();
        }
    });
    let log = log.lock().unwrap();
    assert_eq!(log.len(), 10);
    assert!(log.iter().all(|(_, cancelled, refused)| *cancelled && *refused), "{log:?}");
}

#[test]
fn what_has_not_started_when_main_returns_never_runs_and_its_closure_is_dropped() {
    let ran = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&ran);
    one_worker()
        .run(move || {
            for _ in 0..100 {
                let ran = Arc::clone(&inner);
                spawn(move || ran.fetch_add(1, Ordering::Relaxed));
            }
        })
        .unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&ran), 1, "every closure was dropped");
}

#[test]
fn a_thousand_runtimes_end_without_waiting_for_the_grace() {
    // With a grace of an hour, a worker that misses the end of the last fiber hangs this test.
    for round in 0..1000 {
        let builder = Builder::new().workers(2).shutdown_grace(LONG);
        let sum = builder.run(|| spawn(move || round).join().unwrap_or(round)).unwrap();
        assert_eq!(sum, round);
    }
}

#[test]
fn seven_stubborn_fibers_are_named_and_left_and_the_process_ends() {
    const ME: &str = "seven_stubborn_fibers_are_named_and_left_and_the_process_ends";
    if is_child(ME) {
        stubborn();
        println!("run returned");
        return;
    }
    let start = Instant::now();
    let output = finish(child(ME).spawn().unwrap(), Duration::from_secs(60));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("run returned"), "{text}");
    for name in
        ["cpu-loop", "blocked-c-call", "swallows", "catches", "waits-in-drop", "stuck-child"]
    {
        assert!(text.contains(&format!("fiber '{name}'")), "{name} is not named: {text}");
    }
    assert!(
        text.contains("fiber 'lock-holder'") && text.contains("fiber 'stuck-parent'"),
        "{text}"
    );
    assert!(start.elapsed() < Duration::from_secs(30));
}

/// Seven fibers that do not end when asked: each on terms of its own.
fn stubborn() {
    let named = |name: &str| fiber::Builder::new().name(name);
    Builder::new()
        .workers(8)
        .shutdown_grace(Duration::from_millis(300))
        .stall_limit(Duration::ZERO)
        .run(|| {
            let up = Arc::new(AtomicUsize::new(0));
            let arrive = || {
                let up = Arc::clone(&up);
                move || {
                    up.fetch_add(1, Ordering::Release);
                }
            };
            let arrived = arrive();
            named("cpu-loop")
                .spawn(move || {
                    arrived();
                    loop {
                        std::hint::spin_loop()
                    }
                })
                .unwrap();
            let arrived = arrive();
            named("blocked-c-call")
                .spawn(move || {
                    arrived();
                    std::thread::sleep(LONG);
                })
                .unwrap();
            let arrived = arrive();
            named("swallows")
                .spawn(move || {
                    arrived();
                    loop {
                        let _ = try_sleep(LONG);
                    }
                })
                .unwrap();
            let arrived = arrive();
            named("catches")
                .spawn(move || {
                    arrived();
                    loop {
                        let _ = std::panic::catch_unwind(|| sleep(LONG));
                    }
                })
                .unwrap();
            struct WaitsInDrop;
            impl Drop for WaitsInDrop {
                fn drop(&mut self) {
                    loop {
                        sleep(LONG);
                    }
                }
            }
            let arrived = arrive();
            named("waits-in-drop")
                .spawn(move || {
                    arrived();
                    let _waits = WaitsInDrop;
                    sleep(LONG);
                })
                .unwrap();
            static LOCK: Mutex<()> = Mutex::new(());
            let arrived = arrive();
            named("lock-holder")
                .spawn(move || {
                    let _guard = LOCK.lock().unwrap();
                    arrived();
                    loop {
                        sleep(LONG);
                    }
                })
                .unwrap();
            let arrived = arrive();
            named("stuck-parent")
                .spawn(move || {
                    scope(|s| {
                        let child = fiber::Builder::new().name("stuck-child");
                        let spawned = child.spawn_scoped(s, || {
                            arrived();
                            loop {
                                sleep(LONG);
                            }
                        });
                        drop(spawned.unwrap());
                    });
                })
                .unwrap();
            while up.load(Ordering::Acquire) < 7 {
                yield_now();
            }
        })
        .unwrap();
}

#[test]
fn unwinding_at_shutdown_runs_destructors_where_nothing_is_lent() {
    struct Sets(Arc<AtomicBool>);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    for (unwind, expected) in [(true, true), (false, false)] {
        let dropped = Arc::new(AtomicBool::new(false));
        let inner = Arc::clone(&dropped);
        one_worker()
            .unwind_at_shutdown(unwind)
            .shutdown_grace(Duration::from_millis(50))
            .run(move || {
                let started = Arc::new(AtomicBool::new(false));
                let flag = Arc::clone(&started);
                spawn(move || {
                    let _sets = Sets(inner);
                    flag.store(true, Ordering::Release);
                    loop {
                        sleep(LONG);
                    }
                });
                until(&started);
            })
            .unwrap();
        assert_eq!(dropped.load(Ordering::Acquire), expected, "unwind_at_shutdown({unwind})");
    }
}

// Foreign code that panics (D13).

#[test]
fn panicking_drops_of_results_and_payloads_cost_nobody_else() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("planned");
            }
        }
    }
    one_worker()
        .run(|| {
            drop(spawn(|| Bomb));
            drop(spawn(|| std::panic::panic_any(Bomb)));
            let held = Bomb;
            let cancelled = spawn(move || drop(held));
            cancelled.cancel();
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(cancelled.join())));
            for _ in 0..10 {
                yield_now();
            }
            assert_eq!(spawn(|| 7).join().unwrap(), 7);
        })
        .unwrap();
}

// exit and signals (D43, D48).

#[test]
fn exit_shuts_down_first_and_ends_the_process_with_the_code() {
    const ME: &str = "exit_shuts_down_first_and_ends_the_process_with_the_code";
    if is_child(ME) {
        let patient = Builder::new().shutdown_grace(LONG);
        let _ = patient.run(|| {
            let started = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&started);
            spawn(move || {
                flag.store(true, Ordering::Release);
                assert!(try_sleep(LONG).is_err());
                println!("drained");
            });
            until(&started);
            spawn(|| fibra_runtime::exit(7));
            sleep(LONG);
            println!("main was cancelled");
        });
        unreachable!("exit ends the process");
    }
    // The grace is an hour: if it were waited for, this would hang.
    let output = finish(child(ME).spawn().unwrap(), Duration::from_secs(30));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{text} {}", stderr(&output));
    assert!(text.contains("drained") && text.contains("main was cancelled"), "{text}");
}

#[test]
fn the_first_signal_cancels_main_and_the_second_ends_the_process() {
    const ME: &str = "the_first_signal_cancels_main_and_the_second_ends_the_process";
    if is_child(ME) {
        run(|| {
            fibra_runtime::signal::shutdown().unwrap();
            println!("ready");
            assert!(is_cancelled(&try_sleep(LONG).unwrap_err()));
            println!("cancelled");
            loop {
                sleep(Duration::from_millis(10));
            }
        });
    }
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let mut process = child(ME).spawn().unwrap();
        let mut lines = io::BufReader::new(process.stdout.take().unwrap());
        let mut expect = |word: &str| {
            let mut line = String::new();
            while !line.contains(word) {
                line.clear();
                assert!(io::BufRead::read_line(&mut lines, &mut line).unwrap() > 0, "no '{word}'");
            }
        };
        expect("ready");
        // SAFETY: signals a child of this test, which is alive.
        unsafe { libc::kill(process.id() as i32, signal) };
        expect("cancelled");
        // SAFETY: as above.
        unsafe { libc::kill(process.id() as i32, signal) };
        let output = finish(process, Duration::from_secs(20));
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    }
}

// Stack overflow.

#[test]
fn a_stack_overflow_names_the_fiber_and_the_setting_and_aborts() {
    const ME: &str = "a_stack_overflow_names_the_fiber_and_the_setting_and_aborts";
    fn recurse(depth: usize) -> usize {
        let frame = std::hint::black_box([depth; 128]);
        if depth == usize::MAX { 0 } else { recurse(frame[7] + 1) + frame[9] }
    }
    if is_child(ME) {
        run(|| {
            // Somebody waits on the neighbouring stacks meanwhile.
            (0..10).for_each(|_| drop(spawn(|| sleep(LONG))));
            yield_now();
            let deep = fiber::Builder::new().name("bottomless");
            let _ = deep.spawn(|| recurse(0)).unwrap().join();
        });
    }
    for guards in ["madvise", "mprotect"] {
        let mut command = child(ME);
        let output = finish(command.env("FIBRA_GUARDS", guards).spawn().unwrap(), LONG / 60);
        let text = stderr(&output);
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(libc::SIGABRT), "{guards}: {text}");
        for word in ["bottomless", "lifecycle.rs:", "KiB", "stack_size"] {
            assert!(text.contains(word), "{guards}: no '{word}' in: {text}");
        }
    }
}

// Errors at the start (D42).

#[test]
fn bad_settings_are_errors_that_name_the_setting() {
    const ME: &str = "bad_settings_are_errors_that_name_the_setting";
    if is_child(ME) {
        let error = Builder::new().run(|| ()).unwrap_err();
        println!("error: {error}");
        return;
    }
    for (name, value) in [
        ("FIBRA_WORKERS", "many"),
        ("FIBRA_WORKERS", "0"),
        ("FIBRA_DRIVER", "kqueue"),
        ("FIBRA_IO", "both"),
        ("FIBRA_STACK_SIZE", "big"),
        ("FIBRA_GUARDS", "none"),
    ] {
        let output = finish(child(ME).env(name, value).spawn().unwrap(), Duration::from_secs(20));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text} {}", stderr(&output));
        assert!(text.contains(&format!("error: {name}")), "{name}={value}: {text}");
    }
    let error = Builder::new().workers(0).run(|| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn at_the_limit_of_fibers_a_spawn_is_an_error_and_nothing_is_lost() {
    one_worker()
        .fibers_max(10)
        .run(|| {
            let mut handles = Vec::new();
            let error = loop {
                match fiber::Builder::new().spawn(|| 1) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
            let count = handles.len();
            let sum: usize = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
            assert_eq!(sum, count);
        })
        .unwrap();
}
