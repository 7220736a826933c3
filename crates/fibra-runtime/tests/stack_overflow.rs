//! What happens when a fiber runs over its stack, and when something else faults.
//!
//! Each case ends a process, so each test starts itself again as a child and looks at how it ended.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed set-up step is a failed test")]

use std::env;
use std::ffi::{CString, c_void};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::panic::Location;
use std::process::{Command, Output};

use corosensei::{Coroutine, CoroutineResult};
use fibra_runtime::stack::{self, GuardMode, OwnerInfo, SharedStacks, Stack, StackPool, StackSize};

/// Set in children; says which case the child is.
const CASE: &str = "FIBRA_TEST_CASE";

/// Runs the test named `test` alone in a child process, as case `case`.
fn child(test: &str, case: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .output()
        .unwrap()
}

/// The case this process is, if it is a child.
fn case() -> Option<String> {
    env::var(CASE).ok()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The name every fiber of these tests has.
const NAME: &str = "deep thought";

/// Runs `body` to its end on a stack of its own, as a worker would.
fn run_on_fiber(mode: GuardMode, size: StackSize, body: impl FnOnce() + 'static) {
    stack::install().unwrap();
    let _signal_stack = stack::install_for_thread().unwrap();
    let mut pool = StackPool::new(SharedStacks::new(mode));
    // Not the first, so that there is a neighbour to run into.
    let neighbours: Vec<Stack> = (0..3).map(|_| pool.take(size).unwrap()).collect();
    let stack = pool.take(size).unwrap();
    let owner = OwnerInfo {
        id: 4711,
        name: NAME.as_ptr(),
        name_len: NAME.len(),
        site: Some(Location::caller()),
    };
    // SAFETY: `owner` outlives the coroutine, and its name is a constant.
    unsafe { stack.set_owner(&owner) };
    let mut fiber = Coroutine::<(), (), (), Stack>::with_stack(stack, move |_, ()| body());
    assert!(matches!(fiber.resume(()), CoroutineResult::Return(())));
    pool.put(fiber.into_stack());
    drop(neighbours);
}

/// Keeps the compiler from leaving out what made `value`.
fn used<T>(value: T) {
    black_box(value);
}

/// Recursion with frames of at least `N` bytes, of which only the lowest and highest are touched.
#[inline(never)]
fn frames<const N: usize>(depth: usize) -> usize {
    let mut array = [0_u8; N];
    black_box(&mut array)[depth % N] = depth as u8;
    let below = if depth == 0 { 0 } else { frames::<N>(depth - 1) };
    below + usize::from(black_box(&array)[depth % N])
}

/// Recursion whose frames differ in size, as with `alloca`.
fn mixed(depth: usize) -> usize {
    if depth == 0 {
        return 0;
    }
    black_box(match depth % 4 {
        0 => frames::<16>(3),
        1 => frames::<5000>(1),
        2 => frames::<40_000>(0),
        _ => frames::<70_000>(0),
    }) + black_box(mixed(depth - 1))
}

/// Recursion through drop glue of a long list, the classic.
struct Link(#[expect(dead_code, reason = "dropped, which is the point")] Option<Box<Link>>);

impl Drop for Link {
    #[inline(never)]
    fn drop(&mut self) {
        black_box(self);
    }
}

fn long_list() {
    let mut list = None;
    for _ in 0..1_000_000 {
        list = Some(Box::new(Link(list)));
    }
    drop(list);
}

/// Recursion through a vtable.
fn through_dyn(call: &dyn Fn(usize) -> usize, depth: usize) -> usize {
    black_box(call(depth)) + 1
}

fn dynamic(depth: usize) -> usize {
    if depth == 0 { 0 } else { through_dyn(&dynamic, depth - 1) }
}

/// The shapes an overflow can have.
const SHAPES: [(&str, fn()); 9] = [
    ("small frames", || used(frames::<8>(10_000_000))),
    ("frames of a page", || used(frames::<4096>(100_000))),
    ("frames of 16 KiB", || used(frames::<16_384>(100_000))),
    ("frames of 100 KiB", || used(frames::<102_400>(10_000))),
    ("one frame of 16 MiB", || used(frames::<16_777_216>(0))),
    ("mixed frames", || used(mixed(10_000_000))),
    ("dropping a long list", long_list),
    ("calls through a vtable", || used(dynamic(10_000_000))),
    ("frames of just over a guard", || used(frames::<66_000>(10_000))),
];

/// One call of a generated recursion: a frame of `N` bytes, written or not, then a frame of another
/// size that depends on `state`. Never returns.
#[inline(never)]
fn generated<const N: usize, const WRITE: bool>(state: u64) -> u8 {
    let mut frame = MaybeUninit::<[u8; N]>::uninit();
    if WRITE {
        frame.write([state as u8; N]);
    }
    black_box(&mut frame);
    let state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let below = GENERATED[(state >> 60) as usize](state);
    black_box(&mut frame);
    below
}

/// The frames of generated recursions, more small ones than big ones.
const GENERATED: [fn(u64) -> u8; 16] = [
    generated::<8, true>,
    generated::<8, false>,
    generated::<100, true>,
    generated::<100, false>,
    generated::<1000, true>,
    generated::<1000, false>,
    generated::<4000, false>,
    generated::<4096, true>,
    generated::<4200, false>,
    generated::<8192, false>,
    generated::<12_345, true>,
    generated::<16_384, false>,
    generated::<40_000, true>,
    generated::<65_536, false>,
    generated::<70_000, false>,
    generated::<300_000, false>,
];

#[track_caller]
fn assert_reported(output: &Output, what: &str, size: StackSize) {
    let text = stderr(output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{what}: {:?} {text}", output.status);
    for part in [
        "stack overflow in fiber 'deep thought' (id 4711)",
        &format!("{} KiB", size.usable() / 1024),
        "spawned at crates/fibra-runtime/tests/stack_overflow.rs:",
        "fiber::Builder::stack_size",
        "FIBRA_STACK_SIZE",
    ] {
        assert!(text.contains(part), "{what}: no {part:?} in {text:?}");
    }
    assert!(!text.contains("wild pointer"), "{what}: {text:?}");
}

#[test]
fn every_shape_of_overflow_names_the_fiber_and_aborts() {
    if let Some(case) = case() {
        let (mode, shape) = case.split_once(' ').unwrap();
        let (_, body) = SHAPES.iter().find(|(name, _)| *name == shape).unwrap();
        run_on_fiber(mode.parse().unwrap(), StackSize::SPAWNED, body);
        return;
    }
    for mode in ["auto", "mprotect"] {
        for (shape, _) in SHAPES {
            let case = format!("{mode} {shape}");
            let output = child("every_shape_of_overflow_names_the_fiber_and_aborts", &case);
            assert_reported(&output, &case, StackSize::SPAWNED);
        }
    }
}

#[test]
fn generated_recursions_name_the_fiber_and_abort() {
    if let Some(case) = case() {
        let seed: u64 = case.parse().unwrap();
        let mode = if seed.is_multiple_of(2) { GuardMode::Auto } else { GuardMode::Mprotect };
        run_on_fiber(mode, StackSize::SPAWNED, move || used(generated::<8, true>(seed)));
        return;
    }
    // FIBRA_TEST_SHAPES=1000 for a long run.
    let shapes = env::var("FIBRA_TEST_SHAPES").map_or(200, |shapes| shapes.parse().unwrap());
    for seed in 0..shapes {
        let output = child("generated_recursions_name_the_fiber_and_abort", &seed.to_string());
        assert_reported(&output, &format!("seed {seed}"), StackSize::SPAWNED);
    }
}

#[test]
fn every_size_of_stack_is_guarded() {
    let sizes = [64, 192, 448, 960, 1984, 8000, 9000]
        .map(|kib: usize| (kib.to_string(), StackSize::with_usable(kib * 1024).unwrap()));
    if let Some(case) = case() {
        let (_, size) = sizes.into_iter().find(|(kib, _)| *kib == case).unwrap();
        run_on_fiber(GuardMode::Auto, size, || used(frames::<64>(10_000_000)));
        return;
    }
    for (case, size) in sizes {
        let output = child("every_size_of_stack_is_guarded", &case);
        assert_reported(&output, &case, size);
    }
}

/// C code that moves its stack pointer by 48 KiB and touches the far end only.
const C_SOURCE: &str = r#"
int deep(int depth) {
    volatile char frame[48 * 1024];
    frame[0] = (char)depth;
    return depth == 0 ? frame[0] : deep(depth - 1) + frame[0];
}
"#;

type Deep = unsafe extern "C" fn(i32) -> i32;

/// Compiles `C_SOURCE` without stack probes and loads it.
fn load_c() -> Deep {
    let dir = env::temp_dir().join(format!("fibra-stack-overflow-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (source, library) = (dir.join("deep.c"), dir.join("deep.so"));
    std::fs::write(&source, C_SOURCE).unwrap();
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(&compiler)
        .args(["-O0", "-shared", "-fPIC", "-fno-stack-protector"])
        .arg("-fno-stack-clash-protection")
        .arg("-o")
        .args([&library, &source])
        .output()
        .unwrap_or_else(|error| panic!("this test needs a C compiler, {compiler}: {error}"));
    assert!(output.status.success(), "{compiler}: {}", stderr(&output));
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library has no initialisers, and stays loaded; the names are C strings.
    let symbol = unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null(), "dlopen {path:?}");
        libc::dlsym(handle, c"deep".as_ptr())
    };
    assert!(!symbol.is_null(), "dlsym deep");
    std::fs::remove_dir_all(&dir).unwrap();
    // SAFETY: `deep` is declared with this type.
    unsafe { std::mem::transmute::<*mut c_void, Deep>(symbol) }
}

#[test]
fn c_frames_of_48_kib_cannot_jump_over_the_guard() {
    if let Some(case) = case() {
        let deep = load_c();
        // SAFETY: running out of stack is what this is about.
        let body = move || used(unsafe { deep(100_000) });
        run_on_fiber(case.parse().unwrap(), StackSize::SPAWNED, body);
        return;
    }
    for mode in ["auto", "mprotect"] {
        let output = child("c_frames_of_48_kib_cannot_jump_over_the_guard", mode);
        assert_reported(&output, mode, StackSize::SPAWNED);
    }
}

#[test]
fn an_overflow_is_reported_on_a_thread_of_std() {
    if case().is_some() {
        let thread = std::thread::spawn(|| {
            run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, || used(frames::<64>(10_000_000)));
        });
        thread.join().unwrap();
        return;
    }
    let output = child("an_overflow_is_reported_on_a_thread_of_std", "thread");
    assert_reported(&output, "thread", StackSize::SPAWNED);
}

/// Sets the calling thread's signal stack if one is given, and returns the one before.
fn signal_stack(new: Option<libc::stack_t>) -> libc::stack_t {
    // SAFETY: zeroes are a valid stack_t; both pointers are valid or null.
    unsafe {
        let mut old: libc::stack_t = std::mem::zeroed();
        let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        assert_eq!(libc::sigaltstack(new, &mut old), 0);
        old
    }
}

#[test]
fn an_overflow_is_reported_on_a_thread_that_had_no_signal_stack() {
    if case().is_some() {
        let disabled = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: libc::SIGSTKSZ,
        };
        signal_stack(Some(disabled));
        run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, || used(frames::<64>(10_000_000)));
        return;
    }
    let output = child("an_overflow_is_reported_on_a_thread_that_had_no_signal_stack", "foreign");
    assert_reported(&output, "foreign", StackSize::SPAWNED);
}

#[test]
fn a_signal_stack_is_big_and_gives_way_to_the_one_before() {
    std::thread::spawn(|| {
        let before = signal_stack(None);
        let ours = stack::install_for_thread().unwrap();
        let installed = signal_stack(None);
        assert!(installed.ss_size >= 64 * 1024 && installed.ss_flags == 0, "{installed:?}");
        drop(ours);
        let after = signal_stack(None);
        assert_eq!((after.ss_sp, after.ss_flags), (before.ss_sp, before.ss_flags));
    })
    .join()
    .unwrap();
}

#[test]
fn an_overflow_is_reported_with_sigabrt_blocked_and_handled() {
    extern "C" fn handler(_signal: i32) {
        // SAFETY: _exit may be called from a handler.
        unsafe { libc::_exit(9) };
    }
    if case().is_some() {
        // SAFETY: the handler fits; the set is initialised before use.
        unsafe {
            libc::signal(libc::SIGABRT, handler as *const () as usize);
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGABRT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, || used(frames::<64>(10_000_000)));
        return;
    }
    let output = child("an_overflow_is_reported_with_sigabrt_blocked_and_handled", "abrt");
    assert_reported(&output, "abrt", StackSize::SPAWNED);
}

#[test]
fn a_wild_pointer_into_a_guard_is_not_blamed_on_the_fiber() {
    if case().is_some() {
        run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, || {
            let local = 0_u8;
            // From near our top into the guard of the free stack three below.
            let distance = 3 * StackSize::SPAWNED.reserve() + StackSize::SPAWNED.usable();
            let wild = (&raw const local as usize - distance) as *const u8;
            // SAFETY: none; this must fault.
            black_box(unsafe { wild.read_volatile() });
        });
        return;
    }
    let output = child("a_wild_pointer_into_a_guard_is_not_blamed_on_the_fiber", "wild");
    let text = stderr(&output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("a stack that belongs to no fiber"), "{text}");
    assert!(text.contains("wild pointer"), "{text}");
}

/// Reads from an address where nothing can be.
fn fault() {
    // SAFETY: none; this must fault.
    black_box(unsafe { (black_box(64) as *const u8).read_volatile() });
}

extern "C" fn short_handler(signal: i32) {
    let text = format!("short handler {signal}\n");
    // SAFETY: the text is readable; _exit may be called from a handler.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(3);
    }
}

extern "C" fn long_handler(signal: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let address = unsafe { (*info).si_addr() } as usize;
    let text = format!("long handler {signal} {address}\n");
    // SAFETY: the text is readable; _exit may be called from a handler.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(4);
    }
}

/// Sets the disposition of SIGSEGV.
fn set_disposition(handler: usize, flags: i32) {
    // SAFETY: zeroes are a valid sigaction, and the handler fits the flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()), 0);
    }
}

#[test]
fn a_fault_elsewhere_goes_to_the_disposition_that_was_there() {
    let cases = ["std", "default", "ignore", "short", "long"];
    if let Some(case) = case() {
        match case.as_str() {
            "default" => set_disposition(libc::SIG_DFL, 0),
            "ignore" => set_disposition(libc::SIG_IGN, 0),
            "short" => set_disposition(short_handler as *const () as usize, 0),
            "long" => set_disposition(long_handler as *const () as usize, libc::SA_SIGINFO),
            _ => {}
        }
        run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, fault);
        return;
    }
    for case in cases {
        let output = child("a_fault_elsewhere_goes_to_the_disposition_that_was_there", case);
        let text = stderr(&output);
        assert!(!text.contains("stack overflow"), "{case}: {text}");
        match case {
            "short" => {
                assert_eq!(output.status.code(), Some(3), "{case}: {text}");
                assert!(text.contains("short handler 11"), "{text}");
            }
            "long" => {
                assert_eq!(output.status.code(), Some(4), "{case}: {text}");
                assert!(text.contains("long handler 11 64"), "{text}");
            }
            _ => assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{case}: {text}"),
        }
    }
}

#[test]
fn an_overflow_of_a_std_thread_still_gets_stds_message() {
    if case().is_some() {
        stack::install().unwrap();
        let named = std::thread::Builder::new().name("plain".into());
        let thread = named.spawn(|| {
            let _signal_stack = stack::install_for_thread().unwrap();
            used(frames::<64>(100_000_000));
        });
        thread.unwrap().join().unwrap();
        return;
    }
    let output = child("an_overflow_of_a_std_thread_still_gets_stds_message", "std");
    let text = stderr(&output);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("thread 'plain'"), "{text}");
    assert!(text.contains("has overflowed its stack"), "{text}");
    assert!(!text.contains("fibra:"), "{text}");
}

#[test]
fn a_signal_that_was_sent_does_not_disarm_the_report() {
    if case().is_some() {
        run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, || {
            // std's handler survives one of these, removing itself.
            // SAFETY: raise has no preconditions.
            unsafe { libc::raise(libc::SIGSEGV) };
            eprintln!("survived");
            used(frames::<64>(10_000_000));
        });
        return;
    }
    let output = child("a_signal_that_was_sent_does_not_disarm_the_report", "sent");
    assert!(stderr(&output).contains("survived"), "{}", stderr(&output));
    assert_reported(&output, "sent", StackSize::SPAWNED);
}

#[test]
fn a_signal_that_was_sent_ends_a_process_with_the_default_disposition() {
    if case().is_some() {
        set_disposition(libc::SIG_DFL, 0);
        stack::install().unwrap();
        // SAFETY: raise has no preconditions.
        unsafe { libc::raise(libc::SIGSEGV) };
        eprintln!("survived");
        return;
    }
    let test = "a_signal_that_was_sent_ends_a_process_with_the_default_disposition";
    let output = child(test, "sent");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{}", stderr(&output));
}

#[test]
fn a_fiber_that_fits_runs_to_its_end() {
    if case().is_some() {
        run_on_fiber(GuardMode::Auto, StackSize::SPAWNED, || {
            let half = StackSize::SPAWNED.usable() / 2 / 4096;
            used(frames::<1024>(half));
            eprintln!("fits");
        });
        return;
    }
    let output = child("a_fiber_that_fits_runs_to_its_end", "fits");
    assert!(output.status.success() && stderr(&output).contains("fits"), "{}", stderr(&output));
}
