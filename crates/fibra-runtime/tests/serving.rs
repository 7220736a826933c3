//! Serving TCP: placement, idle cost, shortage of descriptors, slow clients, restarts.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fibra_driver::{BackendKind, Choice};
use fibra_runtime::net::{TcpListener, TcpStream};
use fibra_runtime::{Builder, Handle, IoMode, sleep, spawn, yield_now};
use support::{address_of, child, everywhere, is_child, one_worker, serve_until_killed, stderr};

#[test]
fn spawning_wakes_a_sleeping_worker_and_not_once_per_fiber() {
    Builder::new()
        .workers(2)
        .run(|| {
            let done = Arc::new(AtomicUsize::new(0));
            let before = Handle::current().metrics().kick_count;
            let handles: Vec<_> = (0..1000)
                .map(|_| {
                    let done = Arc::clone(&done);
                    spawn(move || {
                        done.fetch_add(1, Ordering::Relaxed);
                    })
                })
                .collect();
            handles.into_iter().for_each(|handle| handle.join().unwrap());
            let kicks = Handle::current().metrics().kick_count - before;
            assert_eq!(done.load(Ordering::Relaxed), 1000);
            assert!(kicks <= 250, "{kicks} wakes for 1,000 spawns");
        })
        .unwrap();
}

#[test]
fn fibers_that_have_not_started_are_rescued_from_a_blocked_worker() {
    Builder::new()
        .workers(2)
        .stall_limit(Duration::ZERO)
        .run(|| {
            // More children than the other worker takes at once, so that some are queued here.
            let done = Arc::new(AtomicUsize::new(0));
            for _ in 0..200 {
                let done = Arc::clone(&done);
                spawn(move || done.fetch_add(1, Ordering::Release));
            }
            // This fiber blocks its worker; only the other worker can run them all.
            let start = Instant::now();
            while done.load(Ordering::Acquire) < 200 {
                assert!(start.elapsed() < Duration::from_secs(20), "nobody rescued them");
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .unwrap();
}

/// CPU time a process has used, from its scheduler statistics.
fn cpu_time(pid: u32) -> Duration {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let stat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        nanos += stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    Duration::from_nanos(nanos)
}

#[test]
fn out_of_descriptors_the_server_neither_spins_nor_dies_and_serves_again() {
    const ME: &str = "out_of_descriptors_the_server_neither_spins_nor_dies_and_serves_again";
    if is_child(ME) {
        let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        // SAFETY: passes a limit by reference; affects this child only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        Builder::new().workers(1).run(serve_until_killed).unwrap();
    }
    for kind in BackendKind::ALL {
        let mut server = child(ME).env("FIBRA_DRIVER", kind.name()).spawn().unwrap();
        let address = address_of(&mut server);
        let mut clients: Vec<_> =
            (0..200).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for client in &mut clients {
            client.write_all(b"ping").unwrap();
        }
        let mut served = 0;
        for client in &mut clients[..20] {
            client.read_exact(&mut [0; 4]).unwrap();
            served += 1;
        }
        assert_eq!(served, 20, "{kind}");
        let before = cpu_time(server.id());
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu_time(server.id()) - before;
        assert!(
            used < Duration::from_millis(200),
            "{kind}: {used:?} of CPU in a second while full"
        );
        // Descriptors come free: everybody who is left gets an answer.
        drop(clients.drain(..60));
        drop(clients.drain(70..));
        for client in &mut clients {
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate().take(40) {
            client
                .read_exact(&mut [0; 4])
                .unwrap_or_else(|error| panic!("{kind} {number}: {error}"));
        }
        assert!(server.try_wait().unwrap().is_none(), "{kind}: the server died");
        server.kill().unwrap();
        let output = server.wait_with_output().unwrap();
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
}

#[test]
fn a_client_that_never_reads_stalls_nobody_and_is_held_in_bounded_memory() {
    for builder in everywhere() {
        builder
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                let echoed = Arc::new(AtomicU64::new(0));
                let counted = Arc::clone(&echoed);
                let server = spawn(move || {
                    for stream in listener.incoming() {
                        let Ok(mut stream) = stream else { break };
                        let counted = Arc::clone(&counted);
                        spawn(move || {
                            let mut buf = [0; 8192];
                            while let Ok(n @ 1..) = stream.read(&mut buf) {
                                if stream.write_all(&buf[..n]).is_err() {
                                    break;
                                }
                                counted.fetch_add(n as u64, Ordering::Relaxed);
                            }
                        });
                    }
                });
                // Sends until nothing more fits anywhere: the server holds one buffer, the kernel
                // the rest.
                let mut greedy = TcpStream::connect(address).unwrap();
                greedy.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                let chunk = vec![7; 64 << 10];
                let mut sent = 0_u64;
                while let Ok(n) = greedy.write(&chunk) {
                    sent += n as u64;
                    assert!(sent < 256 << 20, "the server takes everything");
                }
                assert!(sent > 0);
                // Others are served meanwhile.
                for _ in 0..20 {
                    let mut polite = TcpStream::connect(address).unwrap();
                    polite.write_all(b"hello").unwrap();
                    let mut back = [0; 5];
                    polite.read_exact(&mut back).unwrap();
                    assert_eq!(&back, b"hello");
                }
                drop(greedy);
                server.cancel();
                server.join().unwrap();
            })
            .unwrap();
    }
}

#[test]
fn a_restart_straight_after_a_stop_under_load_binds() {
    let address = Mutex::new("127.0.0.1:0".parse::<SocketAddr>().unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let now = *address.lock().unwrap();
                    if now.port() != 0
                        && let Ok(mut stream) = std::net::TcpStream::connect(now)
                    {
                        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                        let _ = stream.write_all(b"load");
                        let _ = stream.read(&mut [0; 4]);
                    }
                }
            });
        }
        for _ in 0..5 {
            one_worker()
                .run(|| {
                    let at = *address.lock().unwrap();
                    let listener = TcpListener::bind(at).unwrap();
                    *address.lock().unwrap() = listener.local_addr().unwrap();
                    for _ in 0..20 {
                        let (mut stream, _) = listener.accept().unwrap();
                        spawn(move || {
                            let mut buf = [0; 4];
                            while let Ok(n @ 1..) = stream.read(&mut buf) {
                                let _ = stream.write_all(&buf[..n]);
                            }
                        });
                    }
                })
                .unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn in_the_dedicated_topology_one_read_takes_its_five_steps() {
    Builder::new()
        .workers(1)
        .io(IoMode::Dedicated)
        .driver(Choice::Auto)
        .run(|| {
            let steps: Arc<Mutex<Vec<&str>>> = Arc::default();
            let step = |what| steps.lock().unwrap().push(what);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let worker = std::thread::current().id();
            let (log, before) = (Arc::clone(&steps), Handle::current().metrics().io_requests);
            let reader = spawn(move || {
                log.lock().unwrap().push("1 read is called");
                let mut buf = [0; 4];
                stream.read_exact(&mut buf).unwrap();
                assert_eq!(std::thread::current().id(), worker);
                log.lock().unwrap().push("5 resumed with the result");
                buf
            });
            while steps.lock().unwrap().is_empty() {
                yield_now();
            }
            assert_eq!(std::thread::current().id(), worker);
            step("2 parked, and another fiber runs on the same thread");
            while Handle::current().metrics().io_requests == before {
                yield_now();
            }
            step("3 the I/O thread took the request");
            let answered = Handle::current().metrics().io_answers;
            peer.write_all(b"data").unwrap();
            while Handle::current().metrics().io_answers == answered {
                // Not yielding: the reader cannot run before this fiber has seen the answer.
                std::hint::spin_loop();
            }
            step("4 the result is stored and the fiber made ready");
            assert_eq!(reader.join().unwrap(), *b"data");
            let steps = steps.lock().unwrap();
            let numbers: Vec<_> = steps.iter().map(|step| step.as_bytes()[0]).collect();
            assert_eq!(numbers, *b"12345", "{steps:?}");
        })
        .unwrap();
}

#[test]
fn sleeps_are_never_early_on_any_backend() {
    for builder in everywhere() {
        builder
            .run(|| {
                let handles: Vec<_> = (0..200_u64)
                    .map(|number| {
                        spawn(move || {
                            let wanted = Duration::from_micros(100 + number * 137);
                            let start = Instant::now();
                            sleep(wanted);
                            assert!(start.elapsed() >= wanted);
                        })
                    })
                    .collect();
                handles.into_iter().for_each(|handle| handle.join().unwrap());
            })
            .unwrap();
    }
}
