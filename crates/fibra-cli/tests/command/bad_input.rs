//! Whatever is wrong is one line on stderr that names it, nothing on stdout, and an exit code that
//! says whose turn it is: 2 for the command line, 1 for the machine and the environment.

use std::net::TcpListener;
use std::process::Output;

use rustix::process::Signal;

use crate::load::Load;
use crate::sandbox::refusing;
use crate::server::{Server, fibra, run};

fn refused(what: &str, output: &Output, code: i32, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    assert!(stderr.starts_with("fibra: ") && stderr.contains(part), "{what}: {stderr}");
    assert!(output.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for (words, part) in [
        (&[][..], "no command given"),
        (&["serve"], "'serve'"),
        (&["echo", "--port", "1"], "'--port'"),
        (&["echo", "--driver", "kqueue"], "expected auto, uring, epoll, poll or select"),
        (&["echo", "--model", "actor"], "expected one of fiber, thread"),
        (&["echo", "--workers", "0"], "a number from 1 on"),
        (&["echo", "--workers", "many"], "a number from 1 on"),
        (&["echo", "--io", "shared"], "expected one of per-worker, dedicated"),
        (&["echo", "--listen", "8081"], "HOST:PORT"),
        (&["echo", "--model", "thread", "--driver", "poll"], "--driver does not go with"),
        (&["doctor", "--driver", "epoll"], "'--driver'"),
    ] {
        refused(&format!("{words:?}"), &run(fibra(words)), 2, part);
    }
}

#[test]
fn a_bad_environment_is_exit_code_1() {
    for (name, value, part) in [
        ("FIBRA_DRIVER", "bogus", "unknown driver 'bogus'"),
        ("FIBRA_WORKERS", "0", "FIBRA_WORKERS is 0"),
        ("FIBRA_WORKERS", "two", "FIBRA_WORKERS=two"),
        ("FIBRA_IO", "shared", "unknown I/O mode 'shared'"),
        ("FIBRA_STACK_SIZE", "99999M", "FIBRA_STACK_SIZE="),
        ("FIBRA_GUARDS", "none", "unknown stack guard mode"),
        ("FIBRA_LOG", "loud", "FIBRA_LOG is 'loud'"),
    ] {
        let mut command = fibra(&["echo", "--listen", "127.0.0.1:0"]);
        command.env(name, value);
        refused(&format!("{name}={value}"), &run(command), 1, part);
    }
}

#[test]
fn an_option_comes_before_the_environment() {
    let mut command = fibra(&["echo", "--listen", "127.0.0.1:0", "--driver", "poll", "-v"]);
    command.env("FIBRA_DRIVER", "select").env("FIBRA_WORKERS", "1").env("FIBRA_LOG", "off");
    let server = Server::launch(command).expect("it listens");
    Load { connections: 1, bytes: 1000, vanishing: 0 }.run(server.address);
    assert_eq!(server.stop(Signal::INT).summary().0, 1);
}

#[test]
fn an_address_in_use_is_said_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("a socket").to_string();
    for model in ["fiber", "thread"] {
        let output = run(fibra(&["echo", "--listen", &address, "--model", model]));
        refused(model, &output, 1, &format!("cannot listen on {address}"));
        refused(model, &output, 1, "choose another port");
    }
}

#[test]
fn an_address_that_is_not_ours_is_said() {
    for model in ["fiber", "thread"] {
        // Of the block for documentation: nobody has it.
        let output = run(fibra(&["echo", "--listen", "192.0.2.1:8081", "--model", model]));
        refused(model, &output, 1, "this machine has no such address");
    }
}

#[test]
fn a_port_without_permission_is_said_with_the_way_out() {
    for model in ["fiber", "thread"] {
        let command = fibra(&["echo", "--listen", "127.0.0.1:81", "--model", model]);
        // Whether a low port may be had depends on the machine; so the kernel is made to refuse.
        let output = refusing(libc::SYS_bind, libc::EACCES, command, run);
        refused(model, &output, 1, "ports below 1024 need a privilege");
    }
}

#[test]
fn a_named_backend_that_cannot_run_is_an_error_with_the_reason() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let words = ["echo", "--listen", "127.0.0.1:0", "--driver", "uring"];
        let command = fibra(&words);
        let output = refusing(libc::SYS_io_uring_setup, errno, command, run);
        refused("--driver", &output, 1, "the driver 'uring' cannot run here");

        let mut command = fibra(&words[..3]);
        command.env("FIBRA_DRIVER", "uring");
        let output = refusing(libc::SYS_io_uring_setup, errno, command, run);
        refused("FIBRA_DRIVER", &output, 1, "FIBRA_DRIVER=auto");
    }
}

#[test]
fn auto_serves_without_io_uring_and_says_so_once() {
    let command = fibra(&["echo", "--listen", "127.0.0.1:0"]);
    let server = refusing(libc::SYS_io_uring_setup, libc::EPERM, command, Server::launch);
    let server = server.expect("it listens");
    let echoed = Load { connections: 20, bytes: 100_000, vanishing: 2 }.run(server.address);
    assert!(echoed >= 100_000);
    let ended = server.stop(Signal::INT);
    assert_eq!(ended.summary().0, 22);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("using epoll"), "{}", ended.stderr);
}

#[test]
fn help_says_what_each_thing_is_for() {
    for (words, parts) in [
        (&["--help"][..], &["echo", "doctor", "FIBRA_DRIVER", "FIBRA_WORKERS", "FIBRA_LOG"][..]),
        (
            &["echo", "--help"],
            &["--listen", "--driver", "--model", "--workers", "--io", "--verbose", "SIGINT"],
        ),
        (&["doctor", "--help"], &["backends", "limits"]),
    ] {
        let output = run(fibra(words));
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        for part in parts {
            assert!(stdout.contains(part), "{words:?} without {part}: {stdout}");
        }
    }
}
