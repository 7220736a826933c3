//! Probing, in processes of their own: one trial a process, and a seccomp filter stays for good.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/seccomp.rs"]
mod seccomp;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Mutex;

use fibra_driver::{
    BackendKind, Choice, Config, Deadline, Descriptor, Driver, RawOp, Submitted, Target, probe,
};
use seccomp::{Lie, Rule};

const REGISTER_PROBE: u32 = 8;

/// What a child process reports, by name.
struct Report(String);

impl Report {
    fn all(&self, name: &str) -> Vec<&str> {
        // The test harness may have printed to the same line before.
        let lines = self.0.lines().filter_map(|line| Some(line.split_once('@')?.1));
        lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
    }

    #[track_caller]
    fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name}: {}", self.0);
        all[0]
    }
}

/// Runs [`child`] in another process.
fn run(environment: &str, driver: &str) -> Report {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env("FIBRA_TEST_ENVIRONMENT", environment)
        .env("FIBRA_DRIVER", driver)
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{environment}: {stdout}\n{stderr}");
    Report(stdout)
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    tracing::subscriber::set_global_default(Log).unwrap();
    let fds = fd_count();
    match std::env::var("FIBRA_TEST_ENVIRONMENT").unwrap().as_str() {
        "normal" => {}
        "eperm" => seccomp::install(&[Rule::refuse(libc::SYS_io_uring_setup, libc::EPERM)]),
        "enosys" => seccomp::install(&[Rule::refuse(libc::SYS_io_uring_setup, libc::ENOSYS)]),
        "old kernel" => seccomp::install(&[Rule::refuse(libc::SYS_io_uring_setup, libc::EINVAL)]),
        "no descriptors" => {
            seccomp::install(&[Rule::refuse(libc::SYS_io_uring_setup, libc::EMFILE)]);
        }
        "does nothing" => seccomp::install(&[Rule::refuse(libc::SYS_io_uring_enter, 0)]),
        "enter refused" => {
            seccomp::install(&[Rule::refuse(libc::SYS_io_uring_enter, libc::EINVAL)]);
        }
        "lists no opcodes" => {
            seccomp::install(&[Rule::refuse(libc::SYS_io_uring_register, libc::EINVAL)
                .with_second_argument(REGISTER_PROBE)])
        }
        "nothing at once" => return lied_to(Lie::NothingAtOnce),
        "nothing later" => return lied_to(Lie::NothingLater),
        "no bytes" => return lied_to(Lie::NoBytes),
        other => panic!("{other}"),
    }
    ask_everything();
    println!("@fds: {}", fd_count() as i64 - fds as i64);
}

fn lied_to(lie: Lie) {
    seccomp::lie(lie);
    // The descriptor of the liar's own is one of these.
    let fds = fd_count();
    ask_everything();
    println!("@fds: {}", fd_count() as i64 - fds as i64);
}

fn ask_everything() {
    match Choice::from_env() {
        Ok(choice) => println!("@environment: {choice:?}"),
        Err(text) => println!("@environment: error: {text}"),
    }
    for _ in 0..3 {
        println!("@auto: {}", probe::choose(Choice::Auto).unwrap());
    }
    println!("@ran: {}", run_something());
    let mut config = Config::default();
    config.choice = Choice::Named(BackendKind::Uring);
    match Driver::new(&config) {
        Ok(driver) => println!("@named: {}", driver.kind()),
        Err(error) => println!("@named: error {:?}: {error}", error.kind()),
    }
    for report in probe::report() {
        match report.usable {
            Ok(detail) => println!("@{}: yes {:?} {:?}", report.kind, detail.flags, detail.ops),
            Err(reason) => println!("@{}: no: {reason}", report.kind),
        }
    }
    for line in LOG.lock().unwrap().iter() {
        println!("@log: {line}");
    }
}

/// One receive under `auto`, whatever runs: the backend that did it.
fn run_something() -> BackendKind {
    let (here, mut there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let (here, mut buf) = (Descriptor::new(here.into()), [0; 4]);
    let mut driver = Driver::new(&Config::default()).unwrap();
    let op = RawOp::Recv { on: Target::new(&here), buf: buf.as_mut_ptr(), len: 4, peek: false };
    // SAFETY: buffer and descriptor stay until the driver's end.
    let submitted = unsafe { driver.submit(op, 5) };
    assert!(matches!(submitted, Submitted::Pending(_)), "{submitted:?}");
    driver.wait(Deadline::Now).unwrap();
    there.write_all(b"four").unwrap();
    let done = loop {
        match driver.reap() {
            Some(done) => break done,
            None => driver.wait(Deadline::Never).unwrap(),
        }
    };
    assert_eq!((done.data, done.result, &buf), (5, 4, b"four"));
    driver.kind()
}

fn fd_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// In a refused environment: falls back with one warning, and is an error when named.
#[track_caller]
fn assert_refused(environment: &str, reason: &str) -> Report {
    let report = run(environment, "");
    assert_eq!(report.all("auto"), ["epoll"; 3]);
    assert_eq!(report.one("ran"), "epoll");
    let log = report.one("log");
    assert!(log.starts_with("WARN ") && log.contains(reason), "{log}");
    assert!(log.contains("using epoll; set FIBRA_DRIVER=epoll to silence"), "{log}");
    let named = report.one("named");
    assert!(named.starts_with("error ") && named.contains(reason), "{named}");
    assert!(named.ends_with("use FIBRA_DRIVER=auto"), "{named}");
    assert!(report.one("uring").starts_with("no: ") && report.one("uring").contains(reason));
    for usable in ["epoll", "poll", "select"] {
        assert!(report.one(usable).starts_with("yes "), "{usable}");
    }
    assert_eq!(report.one("fds"), "0", "the probe left descriptors open");
    report
}

#[test]
fn here_io_uring_is_chosen_and_one_line_says_so() {
    let report = run("normal", "");
    assert_eq!(report.all("auto"), ["uring"; 3]);
    assert_eq!(report.one("ran"), "uring");
    assert!(report.one("log").starts_with("INFO driver: uring"), "{}", report.one("log"));
    assert_eq!(report.one("named"), "uring");
    for name in ["SINGLE_ISSUER", "DEFER_TASKRUN", "RECV", "ASYNC_CANCEL"] {
        assert!(report.one("uring").contains(name), "{name}: {}", report.one("uring"));
    }
    assert_eq!(report.one("fds"), "0", "the probe left descriptors open");
}

#[test]
fn a_seccomp_filter_that_says_eperm_is_named() {
    let report = assert_refused("eperm", "io_uring refused: Operation not permitted (seccomp");
    assert!(report.one("named").starts_with("error PermissionDenied"));
}

#[test]
fn a_sandbox_that_says_enosys_is_named() {
    let report = assert_refused("enosys", "io_uring refused: Function not implemented");
    assert!(report.one("named").starts_with("error Unsupported"));
}

#[test]
fn a_kernel_that_is_too_old_is_named() {
    assert_refused("old kernel", "the driver needs DEFER_TASKRUN, so 6.1 or newer");
}

#[test]
fn a_limit_is_named_with_what_raises_it() {
    assert_refused("no descriptors", "raise `ulimit -n` (nofile)");
}

#[test]
fn a_ring_that_accepts_the_set_up_and_does_nothing_is_not_used() {
    assert_refused("does nothing", "does not work: it accepts ops and does nothing");
}

#[test]
fn a_ring_that_cannot_be_entered_is_not_used() {
    assert_refused("enter refused", "Invalid argument");
}

#[test]
fn a_ring_that_does_not_list_its_opcodes_is_not_used() {
    assert_refused("lists no opcodes", "does not work: it does not list its opcodes");
}

#[test]
fn a_ring_that_answers_rubbish_at_once_is_not_used() {
    assert_refused("nothing at once", "it answers before there is anything to answer");
}

#[test]
fn a_ring_that_answers_rubbish_later_is_not_used() {
    assert_refused("nothing later", "a receive was answered wrongly (0x0, 0)");
}

#[test]
fn a_ring_that_answers_without_the_bytes_is_not_used() {
    assert_refused("no bytes", "a receive was answered wrongly");
}

#[test]
fn the_environment_names_a_driver_or_is_an_error() {
    assert_eq!(run("normal", "").one("environment"), "None");
    assert_eq!(run("normal", "epoll").one("environment"), "Some(Named(Epoll))");
    assert_eq!(run("normal", "auto").one("environment"), "Some(Auto)");
    let wrong = run("normal", "iouring");
    let text = "error: FIBRA_DRIVER: unknown driver 'iouring': expected auto, uring, epoll, poll";
    assert!(wrong.one("environment").starts_with(text), "{}", wrong.one("environment"));
}

/// D42: the probe was fine, and the rings come later, one per worker.
#[test]
#[ignore = "run by the next test, in a process of its own"]
fn child_without_descriptors() {
    probe::choose(Choice::Auto).unwrap();
    // The next descriptor would get this number.
    let nofile = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let limit = libc::rlimit { rlim_cur: nofile, rlim_max: nofile };
    // SAFETY: the limit lives on this frame for the whole call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut config = Config::default();
    config.choice = Choice::Named(BackendKind::Uring);
    let text = Driver::new(&config).err().map(|error| error.to_string());
    println!("@error: {}", text.unwrap_or_default());
}

#[test]
fn a_ring_beyond_the_limit_of_descriptors_is_an_error_that_names_it() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child_without_descriptors", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let report = Report(String::from_utf8(output.stdout).unwrap());
    assert!(report.one("error").contains("raise `ulimit -n` (nofile)"), "{}", report.0);
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps the lines that the driver logs at level info or above.
struct Log;

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    write!(self.0, "{value:?}").unwrap();
                }
            }
        }
        let mut message = Message(format!("{} ", event.metadata().level()));
        event.record(&mut message);
        LOG.lock().unwrap().push(message.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
