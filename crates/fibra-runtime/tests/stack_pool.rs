//! Where stacks come from and where they go: order, bounds, mappings, memory, limits.
//!
//! What concerns the whole process (its mappings, its memory, its limits) is looked at in a child
//! process of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed set-up step is a failed test")]

use std::env;
use std::process::Command;
use std::sync::Arc;

use corosensei::stack::Stack as _;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use fibra_runtime::stack::{
    self, GuardMode, SharedStacks, Stack, StackArea, StackError, StackPool, StackSize, Trim,
};

/// Runs the calling test again in a process of its own; false in that process.
fn in_child(test: &str) -> bool {
    const CHILD: &str = "FIBRA_TEST_CHILD";
    if env::var_os(CHILD).is_some() {
        return false;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    let text = [stdout.as_slice(), stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{:?}\n{text}", output.status);
    true
}

fn pool(guards: GuardMode) -> StackPool {
    StackPool::new(SharedStacks::new(guards))
}

fn small() -> StackSize {
    StackSize::with_reserve(256 * 1024).unwrap()
}

fn take(pool: &mut StackPool, count: usize) -> Vec<Stack> {
    (0..count).map(|_| pool.take(small()).unwrap()).collect()
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn page() -> usize {
    // SAFETY: sysconf reads a constant.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

type Fiber = Coroutine<(), usize, (), Stack>;

/// A suspended fiber: where its stack lies and where in it it stopped.
struct Parked {
    fiber: Fiber,
    area: StackArea,
    sp: usize,
}

impl Parked {
    /// Starts a fiber that uses `bytes` of its stack and then suspends.
    fn new(stack: Stack, bytes: usize) -> Self {
        let area = stack.area();
        let body = move |yielder: &Yielder<(), usize>, ()| {
            deep(bytes);
            let local = [7_u8; 64];
            yielder.suspend(std::hint::black_box(&local).as_ptr() as usize);
            assert_eq!(std::hint::black_box(&local), &[7; 64], "live memory was given back");
            deep(bytes);
        };
        let mut fiber = Fiber::with_stack(stack, body);
        let CoroutineResult::Yield(sp) = fiber.resume(()) else { panic!("it suspends once") };
        Self { fiber, area, sp }
    }

    /// Runs the fiber to its end.
    fn finish(mut self) -> Stack {
        assert!(matches!(self.fiber.resume(()), CoroutineResult::Return(())));
        self.fiber.into_stack()
    }
}

/// Touches every page of the next `bytes` of the stack.
#[inline(never)]
fn deep(bytes: usize) {
    let mut page = [1_u8; 4096];
    std::hint::black_box(&mut page);
    if bytes > page.len() {
        deep(bytes - page.len());
    }
    std::hint::black_box(&page);
}

#[test]
fn the_stack_put_back_last_is_taken_first() {
    let mut pool = pool(GuardMode::Auto);
    let stacks = take(&mut pool, 10);
    let bases: Vec<_> = stacks.iter().map(|stack| stack.base()).collect();
    stacks.into_iter().for_each(|stack| pool.put(stack));
    let again: Vec<_> = take(&mut pool, 10).iter().map(|stack| stack.base()).collect();
    assert!(again.iter().eq(bases.iter().rev()), "{again:?} is not the reverse of {bases:?}");
}

#[test]
fn sizes_do_not_share_stacks() {
    let mut pool = pool(GuardMode::Auto);
    for kib in [1, 128, 256, 512, 1024, 2048, 8192, 20_000] {
        let size = StackSize::with_reserve(kib * 1024).unwrap();
        let stack = pool.take(size).unwrap();
        assert_eq!(stack.size(), size);
        let len = stack.base().get() - stack.limit().get();
        assert!((size.reserve() - 2048 + 64..=size.reserve()).contains(&len), "{len} of {size:?}");
        pool.put(stack);
        assert_eq!(pool.take(size).unwrap().size(), size);
    }
}

#[test]
fn tops_of_neighbours_differ_in_colour() {
    let mut pool = pool(GuardMode::Auto);
    let stacks = take(&mut pool, 64);
    let mut colours = [0; 32];
    for stack in &stacks {
        let below = stack.limit().get() + stack.size().reserve() - stack.base().get();
        assert_eq!(below % 64, 0);
        colours[below / 64] += 1;
    }
    assert_eq!(colours, [2; 32]);
}

#[test]
fn a_worker_keeps_256_stacks_and_the_rest_is_shared() {
    let mut pool = pool(GuardMode::Auto);
    let stacks = take(&mut pool, 1000);
    assert_eq!(pool.shared().metrics().live, 1000);
    stacks.into_iter().for_each(|stack| pool.put(stack));
    let metrics = pool.shared().metrics();
    assert!(metrics.cached <= StackPool::CACHED_MAX, "{metrics:?}");
    assert!(metrics.cached >= StackPool::CACHED_MAX - 32, "{metrics:?}");
    assert_eq!(metrics.live, 0, "{metrics:?}");
    assert!(metrics.cached + metrics.warm + metrics.cold >= 1000, "{metrics:?}");

    // Another worker gets them, instead of new ones.
    let slabs = metrics.slabs;
    let mut other = StackPool::new(Arc::clone(pool.shared()));
    let stacks = take(&mut other, 700);
    assert_eq!(pool.shared().metrics().slabs, slabs);
    stacks.into_iter().for_each(|stack| other.put(stack));
    drop(other);
    let metrics = pool.shared().metrics();
    assert_eq!(metrics.live, 0, "{metrics:?}");
}

#[test]
fn a_stack_that_was_dropped_finds_its_way_back() {
    let mut pool = pool(GuardMode::Auto);
    drop(take(&mut pool, 5));
    let metrics = pool.shared().metrics();
    assert_eq!((metrics.live, metrics.warm), (0, 5), "{metrics:?}");
}

#[test]
fn workers_exchange_stacks_without_losing_any() {
    let shared = SharedStacks::new(GuardMode::Auto);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Stack>(100);
    std::thread::scope(|scope| {
        let taker = Arc::clone(&shared);
        scope.spawn(move || {
            let mut pool = StackPool::new(taker);
            for _ in 0..20_000 {
                sender.send(pool.take(small()).unwrap()).unwrap();
            }
        });
        let putter = Arc::clone(&shared);
        scope.spawn(move || {
            let mut pool = StackPool::new(putter);
            receiver.into_iter().for_each(|stack| pool.put(stack));
        });
    });
    let metrics = shared.metrics();
    assert_eq!((metrics.live, metrics.cached), (0, 0), "{metrics:?}");
    // One side's shortage was the other's surplus: far fewer than 20,000 were made.
    assert!(metrics.warm + metrics.cold < 1000, "{metrics:?}");
}

#[test]
fn all_slabs_are_unmapped_when_the_last_stack_is_back() {
    if in_child("all_slabs_are_unmapped_when_the_last_stack_is_back") {
        return;
    }
    drop(take(&mut pool(GuardMode::Auto), 1)); // What is allocated once stays.
    let before = (status("VmSize:"), mappings());
    for mode in [GuardMode::Auto, GuardMode::Mprotect] {
        for _ in 0..20 {
            let mut pool = pool(mode);
            let stacks = take(&mut pool, 1000);
            assert!(status("VmSize:") > before.0 + (200 << 20));
            // Half come back before the pool is gone, half after.
            let mut stacks = stacks.into_iter();
            stacks.by_ref().take(500).for_each(|stack| pool.put(stack));
            drop(pool);
            assert!(status("VmSize:") > before.0 + (100 << 20), "unmapped under live stacks");
            drop(stacks);
        }
        // The heap may have grown by a little.
        let after = (status("VmSize:"), mappings());
        assert!(after.0 < before.0 + (8 << 20) && after.1 < before.1 + 8, "{before:?} {after:?}");
    }
}

#[test]
fn a_leaked_stack_keeps_its_slab_for_ever() {
    if in_child("a_leaked_stack_keeps_its_slab_for_ever") {
        return;
    }
    let shared = SharedStacks::new(GuardMode::Auto);
    let mut pool = StackPool::new(Arc::clone(&shared));
    let stack = pool.take(small()).unwrap();
    let top = (stack.base().get() - 64) as *mut u64;
    // SAFETY: the stack is ours and nobody runs on it.
    unsafe { top.write(0x5eed) };
    stack.leak();
    drop(pool);
    assert_eq!(shared.metrics().leaked, 1);
    assert_eq!(shared.metrics().live, 0);
    drop(shared);
    // SAFETY: a leaked stack stays mapped.
    assert_eq!(unsafe { top.read() }, 0x5eed);
}

#[test]
fn a_hundred_thousand_stacks_are_a_few_mappings() {
    if in_child("a_hundred_thousand_stacks_are_a_few_mappings") {
        return;
    }
    let mut pool = pool(GuardMode::Madvise);
    let before = mappings();
    let stacks = take(&mut pool, 100_000);
    let more = mappings() - before;
    assert!(more <= 100, "{more} mappings");
    assert!(pool.shared().metrics().slabs <= 100, "{:?}", pool.shared().metrics());
    assert_eq!(pool.shared().metrics().mprotect_guards, 0);
    drop(stacks);
}

#[test]
fn with_mprotect_the_limit_is_an_error_that_names_the_sysctl() {
    if in_child("with_mprotect_the_limit_is_an_error_that_names_the_sysctl") {
        return;
    }
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let max_map_count: usize = text.trim().parse().unwrap();
    let mut pool = pool(GuardMode::Mprotect);
    let mut stacks = Vec::new();
    let error = loop {
        match pool.take(small()) {
            Ok(stack) => stacks.push(stack),
            Err(error) => break error,
        }
    };
    let StackError::Limit { guards, guards_max, max_map_count: limit } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*limit, max_map_count);
    assert_eq!(*guards_max, max_map_count * 45 / 100);
    assert!(stacks.len() <= *guards_max && stacks.len() + 32 > *guards_max, "{}", stacks.len());
    assert_eq!(*guards, stacks.len());
    assert!(error.to_string().contains("vm.max_map_count"), "{error}");
    // Again, the same; and what comes back can be used again.
    assert!(matches!(pool.take(small()), Err(StackError::Limit { .. })));
    stacks.truncate(stacks.len() - 100);
    stacks.extend(take(&mut pool, 100));
    // There is room left for the rest of the process.
    assert!(mappings() < max_map_count);
    std::thread::spawn(|| ()).join().unwrap();
    drop((stacks, pool));
    drop(take(&mut self::pool(GuardMode::Mprotect), 1000));
}

#[test]
fn locked_memory_falls_back_to_mprotect() {
    if in_child("locked_memory_falls_back_to_mprotect") {
        return;
    }
    // ONFAULT, or each slab would be committed at once.
    // SAFETY: concerns this process only.
    let locked = unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    assert_eq!(locked, 0, "mlockall: {}", std::io::Error::last_os_error());
    let refused = stack::probe_guards().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL), "{refused}");
    let error = pool(GuardMode::Madvise).take(small()).unwrap_err();
    assert!(matches!(error, StackError::Guard { .. }), "{error:?}");
    assert!(error.to_string().contains("FIBRA_GUARDS=auto"), "{error}");
    let mut pool = pool(GuardMode::Auto);
    let stack = pool.take(small()).unwrap();
    assert!(pool.shared().metrics().mprotect_guards > 0);
    pool.put(Parked::new(stack, 64 * 1024).finish());
}

#[test]
fn a_limit_of_address_space_gives_smaller_slabs_and_then_an_error() {
    if in_child("a_limit_of_address_space_gives_smaller_slabs_and_then_an_error") {
        return;
    }
    let bytes = (status("VmSize:") + (20 << 20)) as u64;
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: concerns this process only.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    let mut pool = pool(GuardMode::Auto);
    let mut stacks = Vec::with_capacity(1000);
    let error = loop {
        match pool.take(small()) {
            Ok(stack) => stacks.push(stack),
            Err(error) => break error,
        }
    };
    assert!(stacks.len() >= 32, "{}", stacks.len());
    assert!(matches!(error, StackError::Reserve { .. }), "{error:?}");
    assert!(error.to_string().contains("ulimit -v"), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::OutOfMemory);
}

#[test]
fn a_parked_fiber_gives_back_what_is_below_its_stack_pointer() {
    let mut pool = pool(GuardMode::Auto);
    for keep_pages in [0, 2] {
        let mut trim = Trim::new(keep_pages);
        let fibers: Vec<_> =
            take(&mut pool, 100).into_iter().map(|stack| Parked::new(stack, 100 * 1024)).collect();
        for fiber in &fibers {
            let resident = fiber.area.resident().unwrap();
            assert!(resident >= 100 * 1024, "{resident}");
            assert!(fiber.area.high_water().unwrap() >= resident);
            // SAFETY: the fiber is suspended at `sp` and is not resumed before the flush.
            unsafe { trim.add(fiber.area, fiber.sp) };
        }
        trim.flush();
        for fiber in fibers {
            // The page of the first frames, and one more if they or the tolerance reach it.
            let resident = fiber.area.resident().unwrap();
            assert!((1..=2 + keep_pages).contains(&(resident / page())), "{resident}");
            // It goes on where it was, and deep again.
            pool.put(fiber.finish());
        }
    }
}

#[test]
fn surplus_stacks_give_their_memory_back() {
    if in_child("surplus_stacks_give_their_memory_back") {
        return;
    }
    let mut pool = pool(GuardMode::Auto);
    let before = status("VmRSS:");
    let fibers: Vec<_> =
        take(&mut pool, 5000).into_iter().map(|stack| Parked::new(stack, 32 * 1024)).collect();
    let used = status("VmRSS:") - before;
    assert!(used >= 5000 * 32 * 1024, "{used}");
    fibers.into_iter().for_each(|fiber| pool.put(fiber.finish()));
    let metrics = pool.shared().metrics();
    assert!(metrics.warm <= 1024 && metrics.cold > 3000, "{metrics:?}");
    // The worker's own are still warm, up to 36 KiB each; an idle worker gives those back too.
    let kept = status("VmRSS:").saturating_sub(before);
    assert!(kept < 1024 * 4096 + 256 * 40 * 1024 + (2 << 20), "{kept}");
    pool.release_cold();
    let kept = status("VmRSS:").saturating_sub(before);
    assert!(kept < (1024 + 256) * 4096 + (2 << 20), "{kept}");
    // Cold ones work again.
    let fibers: Vec<_> =
        take(&mut pool, 5000).into_iter().map(|stack| Parked::new(stack, 8 * 1024)).collect();
    assert!(pool.shared().metrics().cold < 32);
    fibers.into_iter().for_each(|fiber| pool.put(fiber.finish()));
}
