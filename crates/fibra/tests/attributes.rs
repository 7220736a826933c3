//! `#[fibra::test]` at work, and `#[fibra::main]` in processes of its own: what a fiber sees, what
//! comes out of the process, and what is said when a runtime cannot start.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Output};
use std::rc::Rc;

use fibra::net::{TcpListener, TcpStream};

#[fibra::test]
fn a_test_runs_as_a_fiber_named_main() {
    let current = fibra::current().expect("a fiber runs this");
    assert_eq!(current.name(), Some("main"));
}

#[fibra::test]
#[should_panic(expected = "the reason is kept")]
fn a_panic_of_a_test_comes_out_of_it() {
    fibra::yield_now();
    panic!("the reason is kept");
}

#[fibra::test]
#[should_panic(expected = "assertion")]
fn a_panic_of_a_child_comes_out_where_it_is_joined() {
    let child = fibra::spawn(|| assert_eq!(1 + 1, 3));
    if let Err(payload) = child.join() {
        std::panic::resume_unwind(payload);
    }
}

#[fibra::test]
fn a_test_may_return_a_result() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"ping")?;
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"ping");
    Ok(())
}

#[fibra::test]
fn a_test_may_return_an_error_that_is_not_send() -> Result<(), Box<dyn Error>> {
    let number: i32 = "42".parse()?;
    assert_eq!(number, 42);
    Ok(())
}

#[fibra::test(workers = 1 + 2, driver = "poll", io = "dedicated", stack_size = 128 * 1024)]
fn the_options_of_an_attribute_reach_the_runtime() {
    let handle = fibra::Handle::current();
    assert_eq!(handle.backend(), fibra::driver::BackendKind::Poll);
    assert_eq!(handle.metrics().fiber_counts.len(), 3);
}

/// The mains that the tests below run in processes of their own.
mod mains {
    use super::*;

    pub mod quiet {
        #[fibra::main]
        pub fn main() {
            println!("ran as {:?}", fibra::current().expect("a fiber runs this").name());
        }
    }

    pub mod failed {
        use super::*;

        /// An error that holds an `Rc`, so that it cannot leave its thread.
        #[derive(Debug)]
        struct Local(#[expect(dead_code, reason = "shown by Debug")] Rc<Cell<i32>>);

        impl std::fmt::Display for Local {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("local")
            }
        }

        impl Error for Local {}

        #[fibra::main(workers = 1)]
        pub fn main() -> Result<(), Box<dyn Error>> {
            fibra::yield_now();
            Err(Box::new(Local(Rc::new(Cell::new(7)))))
        }
    }

    pub mod coded {
        use super::*;

        #[fibra::main]
        pub fn main() -> ExitCode {
            ExitCode::from(41)
        }
    }

    pub mod panics {
        #[fibra::main]
        pub fn main() {
            panic!("as ever");
        }
    }
}

/// Not a test of its own: what [`run_main`] starts.
#[test]
fn child() {
    let code = match std::env::var("FIBRA_TEST_MAIN").as_deref() {
        Ok("quiet") => mains::quiet::main(),
        Ok("failed") => mains::failed::main(),
        Ok("coded") => mains::coded::main(),
        Ok("panics") => mains::panics::main(),
        Ok(other) => panic!("no main is called {other}"),
        Err(_) => return,
    };
    // As std does with what `main` returns, without libtest in between.
    let number = (0..=255).find(|number| code == ExitCode::from(*number));
    std::process::exit(number.map_or(255, i32::from));
}

/// Runs a main in a process of its own.
fn run_main(name: &str, environment: &[(&str, &str)]) -> Output {
    let this = std::env::current_exe().expect("the test knows where it is");
    Command::new(this)
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env("FIBRA_TEST_MAIN", name)
        .env_remove("FIBRA_DRIVER")
        .env_remove("FIBRA_WORKERS")
        .envs(environment.iter().copied())
        .output()
        .expect("the test can be started")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn main_runs_as_the_main_fiber_and_the_process_ends_with_0() {
    let output = run_main("quiet", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("ran as Some(\"main\")"), "{stdout}");
}

#[test]
fn an_error_of_main_that_is_not_send_is_reported_as_std_does() {
    let output = run_main("failed", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("Error: Local(Cell { value: 7 })"), "{}", stderr(&output));
}

#[test]
fn the_exit_code_of_main_is_that_of_the_process() {
    assert_eq!(run_main("coded", &[]).status.code(), Some(41));
}

#[test]
fn a_panic_of_main_ends_the_process_with_its_message() {
    let output = run_main("panics", &[]);
    // 101 in a `main` of std; here it ends a test of libtest, which says 101 as well.
    assert_eq!(output.status.code(), Some(101));
    assert!(stderr(&output).contains("as ever"), "{}", stderr(&output));
}

#[test]
fn what_keeps_a_runtime_from_starting_is_one_line_and_exit_code_1() {
    for (name, value, part) in [
        ("FIBRA_DRIVER", "kqueue", "unknown driver 'kqueue'"),
        ("FIBRA_WORKERS", "0", "at least one worker"),
        ("FIBRA_WORKERS", "many", "FIBRA_WORKERS=many"),
        ("FIBRA_IO", "shared", "unknown I/O mode 'shared'"),
        ("FIBRA_STACK_SIZE", "big", "FIBRA_STACK_SIZE=big"),
    ] {
        let output = run_main("quiet", &[(name, value)]);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}={value}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{name}={value}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{name}={value}: {stderr}");
    }
}
