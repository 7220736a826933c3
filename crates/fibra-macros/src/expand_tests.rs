//! What the attributes write and what they refuse, as tokens. How it runs is tested in `fibra`.

use super::*;

fn expanded(attribute: Attribute, options: &str, item: &str) -> String {
    let options = options.parse().expect("options are tokens");
    let item = item.parse().expect("the item is tokens");
    expand(attribute, options, item).to_string().split_whitespace().collect()
}

/// The message of the one `compile_error!` in the expansion.
fn refusal(attribute: Attribute, options: &str, item: &str) -> String {
    let options = options.parse().expect("options are tokens");
    let item: TokenStream = item.parse().expect("the item is tokens");
    let text = expand(attribute, options, item).to_string();
    let start = text.find("compile_error").expect("an error is written");
    let message = text[start..].split_once('"').expect("the message is quoted").1;
    let end = message.find("\" }").or_else(|| message.find("\")")).expect("the quote ends");
    message[..end].replace("\\\"", "\"")
}

#[test]
fn main_becomes_a_function_that_returns_an_exit_code() {
    let written = expanded(Attribute::Main, "", "fn main() -> io::Result<()> { serve() }");
    assert!(written.starts_with("fnmain()->::std::process::ExitCode{"), "{written}");
    assert!(written.contains("{fnmain()->io::Result<()>{serve()}"), "{written}");
    assert!(written.contains("::fibra::__private::main("), "{written}");
}

#[test]
fn options_are_handed_over_as_typed_values() {
    let options = r#"workers = 2, driver = "epoll", io = "dedicated", stack_size = 64 * 1024,"#;
    let written = expanded(Attribute::Main, options, "fn main() {}");
    for part in [
        "workers:::core::option::Option::Some(2)",
        "driver:::core::option::Option::Some(::fibra::driver::Choice::Named(::fibra::driver::BackendKind::Epoll))",
        "io:::core::option::Option::Some(::fibra::IoMode::Dedicated)",
        "stack_size:::core::option::Option::Some(64*1024)",
    ] {
        assert!(written.contains(part), "no {part} in {written}");
    }
}

#[test]
fn every_driver_and_mode_has_its_name() {
    for (options, part) in [
        (r#"driver = "auto""#, "Choice::Auto"),
        (r#"driver = "uring""#, "BackendKind::Uring"),
        (r#"driver = "poll""#, "BackendKind::Poll"),
        (r#"driver = "select""#, "BackendKind::Select"),
        (r#"io = "per-worker""#, "IoMode::PerWorker"),
    ] {
        let written = expanded(Attribute::Main, options, "fn main() {}");
        assert!(written.contains(part), "no {part} in {written}");
    }
}

#[test]
fn a_test_that_returns_nothing_stays_so_for_should_panic() {
    let written = expanded(Attribute::Test, "", "#[should_panic] fn it_fails() { panic!() }");
    assert!(
        written.starts_with("#[::core::prelude::v1::test]#[should_panic]fnit_fails(){"),
        "{written}"
    );
    assert!(written.contains("::fibra::__private::test("), "{written}");
}

#[test]
fn a_test_that_returns_a_result_returns_an_exit_code() {
    let written = expanded(Attribute::Test, "", "fn it_works() -> io::Result<()> { Ok(()) }");
    assert!(written.contains("fnit_works()->::std::process::ExitCode{"), "{written}");
    assert!(written.contains("::fibra::__private::test_result("), "{written}");
}

#[test]
fn what_cannot_work_is_refused_with_the_way_out() {
    for (attribute, item, words) in [
        (Attribute::Main, "async fn main() {}", "remove `async`"),
        (Attribute::Main, "const fn main() {}", "remove `const`"),
        (Attribute::Main, "unsafe fn main() {}", "put the `unsafe` inside"),
        (Attribute::Main, "extern \"C\" fn main() {}", "remove `extern`"),
        (Attribute::Main, "fn main<T>() {}", "without generic parameters"),
        (Attribute::Main, "fn main(x: u32) {}", "std::env::args()"),
        (Attribute::Main, "fn serve() {}", "fibra::run"),
        (Attribute::Test, "async fn it_works() {}", "remove `async`"),
        (Attribute::Test, "fn it_works(x: u32) {}", "takes no arguments"),
        (Attribute::Test, "#[test] fn it_works() {}", "remove `#[test]`"),
    ] {
        let message = refusal(attribute, "", item);
        assert!(message.contains(words), "{item}: {message}");
    }
}

#[test]
fn a_wrong_option_is_refused_by_name() {
    for (options, words) in [
        ("threads = 2", "unknown option `threads`"),
        ("workers = 1, workers = 2", "`workers` is given twice"),
        ("workers = 0", "at least 1"),
        ("stack_size = 0", "at least 1"),
        (r#"driver = "kqueue""#, "unknown driver `kqueue`"),
        (r#"io = "shared""#, "unknown io mode `shared`"),
    ] {
        let message = refusal(Attribute::Main, options, "fn main() {}");
        assert!(message.contains(words), "{options}: {message}");
    }
}

#[test]
fn a_refused_main_is_still_a_main() {
    let written = expanded(Attribute::Main, "", "async fn main() {}");
    assert!(written.ends_with("fnmain(){}"), "{written}");
}

#[test]
fn what_is_no_function_stays_and_gets_an_error() {
    let written = expanded(Attribute::Main, "", "struct Main;");
    assert!(written.contains("compile_error") && written.ends_with("structMain;"), "{written}");
}
