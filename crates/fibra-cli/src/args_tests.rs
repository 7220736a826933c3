//! What the command line takes and how it says no.

use super::*;

fn parsed(words: &[&str]) -> Result<Args, String> {
    parse(std::iter::once("fibra").chain(words.iter().copied()).map(OsString::from)).map_err(
        |failure| match failure {
            Failure::Usage(line) => line,
            other => panic!("a wrong command line is a usage failure, not {other:?}"),
        },
    )
}

fn echo(words: &[&str]) -> Echo {
    match parsed(&[&["echo"], words].concat()).expect("the words are right").command {
        Command::Echo(echo) => echo,
        Command::Doctor => panic!("asked for echo"),
    }
}

#[test]
fn echo_without_options_listens_on_8081_with_fibers() {
    let echo = echo(&[]);
    assert_eq!((echo.listen.as_str(), echo.model), ("127.0.0.1:8081", Model::Fiber));
    assert_eq!((echo.driver, echo.workers, echo.io), (None, None, None));
}

#[test]
fn every_option_arrives() {
    let echo = echo(&[
        "--listen",
        "[::1]:0",
        "--driver",
        "epoll",
        "--model",
        "fiber",
        "--workers",
        "3",
        "--io",
        "dedicated",
        "-v",
    ]);
    assert_eq!(echo.listen, "[::1]:0");
    assert_eq!(echo.driver.map(|driver| driver.to_string()).as_deref(), Some("epoll"));
    assert_eq!((echo.workers, echo.io, echo.verbose), (Some(3), Some(Io::Dedicated), true));
}

#[test]
fn what_is_wrong_is_said_in_one_line_that_names_it() {
    for (words, part) in [
        (&["echo", "--driver", "kqueue"][..], "expected auto, uring, epoll, poll or select"),
        (&["echo", "--workers", "0"], "a number from 1 on"),
        (&["echo", "--workers", "many"], "a number from 1 on"),
        (&["echo", "--model", "actor"], "expected one of fiber, thread"),
        (&["echo", "--io", "shared"], "expected one of per-worker, dedicated"),
        (&["echo", "--listen", "8081"], "HOST:PORT"),
        (&["echo", "--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (&["echo", "--listen", "127.0.0.1"], "HOST:PORT"),
        (&["echo", "--lisen", "127.0.0.1:0"], "did you mean '--listen'"),
        (&["echo", "--listen"], "--listen"),
        (&["echo", "extra"], "'extra'"),
        (&["ehco"], "did you mean 'echo'"),
        (&[], "no command given"),
        (&["echo", "--model", "thread", "--driver", "poll"], "--driver does not go with"),
        (&["echo", "--model", "thread", "--workers", "2"], "--workers does not go with"),
        (&["echo", "--model", "thread", "--io", "dedicated"], "--io does not go with"),
    ] {
        let line = parsed(words).expect_err("the words are wrong");
        assert!(line.contains(part), "{words:?}: {line}");
        assert!(!line.contains('\n'), "{words:?}: {line}");
    }
}

#[test]
fn the_definition_of_the_command_line_is_consistent() {
    use clap::CommandFactory;
    Args::command().debug_assert();
}
